"""A pytest plugin: every ``learn`` of an off-policy agent is model-based, without the tests knowing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from mbrl_wrappers.agents import Dyna
from mbrl_wrappers.agents.model_based_agent import in_front_of
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics

TINY: dict[str, Any] = {"num_members": 2, "num_elites": 1, "hidden": (8,), "max_steps": 20}
GOOD_ENOUGH: dict[str, Any] = {"hidden": (64, 64)}
TESTS_OF_LEARNING = ("test_identity.py", "test_performance_her")

_model: dict[str, Any] = TINY
_learns: Counter[str] = Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    global _model
    _model = GOOD_ENOUGH if any(name in item.nodeid for name in TESTS_OF_LEARNING) else TINY


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)


def model_based(agent: OffPolicyAlgorithm) -> ModelBased | None:
    """Return the agent's own callback, or a new one; None where there can be no model, as for images."""
    own = getattr(agent, "model_based", None)
    if own is not None:
        return own
    # As is advised where the buffer loses the ends of episodes; and some tests count warnings.
    given: dict[str, Any] = {"termination_fn": never} if agent.optimize_memory_usage else {}
    try:
        dynamics = EnsembleDynamics.for_env(agent.env, seed=agent.seed or 0, device=agent.device, **_model, **given)
    except ValueError as error:
        _learns[f"model-free: {str(error).split(', got')[0]}"] += 1
        return None
    return ModelBased(Dyna(real_ratio=0.5, rollouts_per_step=20), dynamics)


def _init_callback(self: OffPolicyAlgorithm, callback: Any, progress_bar: bool = False) -> BaseCallback:
    own = model_based(self)
    if own is not None:
        _learns["model-based"] += 1
        callback = in_front_of(callback, own)
    return BaseAlgorithm._init_callback(self, callback, progress_bar)


OffPolicyAlgorithm._init_callback = _init_callback  # type: ignore[assignment, method-assign]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("calls of learn of off-policy agents")
    for kind, count in _learns.most_common():
        terminalreporter.write_line(f"{count:5} {kind}")
