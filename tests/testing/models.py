"""Small models and what they are asked with."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.models.world_model import StepPrediction, WorldModel, select
from testing.envs import Cart, Line, walker


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


class Moving(NamedTuple):
    position: Tensor
    velocity: Tensor


class CartModel(WorldModel):
    """The cart's equations; it remembers the last position, from which it knows the velocity."""

    def __init__(self, push: float = Cart.push) -> None:
        super().__init__(Cart.observation_space, Cart.action_space)
        self.push = push
        self.start_obs = torch.linspace(2, 3, 64)[:, None]

    def begin(self, obs: Tensor, generator: torch.Generator | None = None) -> Moving:
        return Moving(obs, torch.zeros_like(obs))

    def observe(
        self, state: Moving, action: Tensor, obs: Tensor, is_first: Tensor, generator: torch.Generator | None = None
    ) -> Moving:
        return select(is_first, self.begin(obs), Moving(obs, obs - state.position))

    def step(
        self, state: Moving, action: Tensor, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> tuple[Moving, StepPrediction]:
        velocity = state.velocity + self.push * action.clamp(-1, 1)
        position = (state.position + velocity).clamp(-10, 10)
        reward = -position[:, 0].square()
        nothing = torch.zeros_like(reward)
        diverged = ~torch.isfinite(position[:, 0])
        return Moving(position, velocity), StepPrediction(reward, torch.zeros_like(diverged), nothing, diverged)

    def features(self, state: Moving) -> Tensor:
        return torch.cat([state.position, state.velocity], dim=-1)

    @property
    def num_features(self) -> int:
        return 2

    def decode(self, state: Moving) -> Tensor:
        return state.position

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Learn by how much an action changes the velocity, by least squares."""
        drawn = experience.sequences(64, 3, generator)
        goes_on = ~drawn.is_first[:, 1:].any(1) & (drawn.obs.abs() < 10).all(1)[:, 0]  # not stopped by the wall
        position, action = drawn.obs[goes_on, :, 0], drawn.action[goes_on, 2, 0]
        change = position[:, 2] - 2 * position[:, 1] + position[:, 0]
        self.push = float(action @ change / (action @ action))
        self.start_obs = drawn.obs[drawn.is_first]
        return {"push": self.push}
