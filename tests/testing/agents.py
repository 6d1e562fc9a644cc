"""Small agents, and what tests look at in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, SAC
from torch import Tensor

from mbrl_wrappers.agents import I2A
from mbrl_wrappers.agents.agent_with_model import AgentWithModel
from mbrl_wrappers.zoo.registry import ALGORITHMS
from testing.envs import Walk

DISCRETE = (DQN, QRDQN)
# Those that bring a model of their own, which a zip of SB3 holds as a pickle.
WITH_MODELS = {name for name, kind in ALGORITHMS.items() if issubclass(kind, AgentWithModel | I2A)}


def make_agent(kind: Any = SAC, env: Any = None, *, net: Sequence[int] = (16,), **kwargs: Any) -> Any:
    """Build a small off-policy agent that learns from its twentieth step on.

    Args:
        kind: its class, of Stable-Baselines3 or of this library.
        env: an env, its id, or what makes one; default: a `Walk` with actions that the class takes.
        net: units of the hidden layers, unless ``policy_kwargs`` are given.
        kwargs: other arguments of the class.
    """
    if env is None:
        env = Walk(discrete=kind in DISCRETE)
    if isinstance(env, str):
        env = gym.make(env)
    env = env() if callable(env) else env
    own = {"train_freq": 1, "target_update_interval": 20} if kind in DISCRETE else {}
    arguments: dict[str, Any] = {
        "policy": "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy",
        "policy_kwargs": {"net_arch": list(net)}, "learning_starts": 20, "batch_size": 16, "buffer_size": 500,
        "seed": 0, "device": "cpu", **own, **kwargs,
    }  # fmt: skip
    return kind(env=env, **arguments)


def weights(agent: Any) -> list[Tensor]:
    """Return copies of all parameters of a policy, on the CPU."""
    return [value.detach().clone().cpu() for value in agent.policy.parameters()]


def same(first: Iterable[Tensor], second: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
