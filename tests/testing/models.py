"""Small models and what they are asked with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from testing.envs import Line, walker


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def global_generators() -> tuple[Any, Any]:
    """Return the states of the generators that are everybody's."""
    return torch.get_rng_state().numpy(), np.random.get_state()  # noqa: NPY002 - what is guarded is the legacy one


def box(dim: int, low: float = -math.inf, high: float = math.inf, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(low, high, (dim,), dtype)


def line_model(line: Line, **changes: Any) -> KnownDynamics:
    """Write a line's equations as a model; ``changes`` are arguments of `KnownDynamics`."""
    speed: Any = line.speed if isinstance(line.speed, float) else torch.tensor(line.speed)

    def step(obs: Tensor, action: Tensor) -> Tensor:
        moved = line.slope * obs + speed * action + line.drift
        return moved if math.isinf(line.bound) else moved.clamp(-line.bound, line.bound)

    arguments: dict[str, Any] = {
        "observation_space": line.observation_space,
        "action_space": line.action_space,
        "step_fn": step,
        "reward_fn": lambda obs, action, next_obs: line.reward(next_obs),
        "termination_fn": lambda obs, action, next_obs: line.ends(next_obs),
        "noise_std": line.noise,
    }
    return KnownDynamics(**(arguments | changes))


def walker_model(**changes: Any) -> KnownDynamics:
    return line_model(walker(), **({"start_obs": torch.zeros(1, 1)} | changes))


def small_ensemble(env: Any, **kwargs: Any) -> EnsembleDynamics:
    """Build an untrained ensemble for an env, which fits in no time."""
    settings: dict[str, Any] = {"num_members": 3, "num_elites": 2, "hidden": (16,), "max_steps": 30}
    return EnsembleDynamics.for_env(env, **(settings | kwargs))
