"""Toy envs. One that a single test is about stands in that test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


def distance(x: Any) -> Any:
    """The reward of a point that should be at 0."""
    return -abs(x[..., 0])


def squared_distance(x: Any) -> Any:
    """The reward of a point that should be at 0."""
    return -(x[..., 0] ** 2)


def place(x: Any) -> Any:
    """The reward of a point that should get far."""
    return x[..., 0]


def never(x: Any) -> Any:
    """The end of a point that can't fall."""
    return x[..., 0] != x[..., 0]


class Line(gym.Env[np.ndarray, np.ndarray]):
    """A point on a line, ``x' = slope x + speed action + drift + noise``, kept within ``bound``.

    `testing.models.line_model` has its equations.

    Args:
        start: an episode starts within ``[-start, start]``.
        push: the action space is ``[-push, push]``.
        speed: a number for each dimension makes the line a plane or a space, which one action moves through.
        slope: what is left of the place after a step.
        drift: how far the point moves of its own.
        noise: standard deviation of what each step adds.
        bound: the observation space is ``[-bound, bound]``.
        reward: of the next place ``[..., D]``, an array or a tensor.
        ends: whether the next place ends the episode, likewise.
        limit: the number of steps after which an episode is truncated.
        render_mode: ``"rgb_array"`` for pictures, whose brightness is the number of the step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self,
        *,
        start: float = 1.0,
        push: float = 1.0,
        speed: float | Sequence[float] = 1.0,
        slope: float = 1.0,
        drift: float = 0.0,
        noise: float = 0.0,
        bound: float = math.inf,
        reward: Callable[[Any], Any] = distance,
        ends: Callable[[Any], Any] = never,
        limit: float = 10,
        render_mode: str | None = None,
    ) -> None:
        self.start, self.push, self.speed, self.slope, self.drift = start, push, speed, slope, drift
        self.noise, self.bound, self.reward, self.ends, self.limit = noise, bound, reward, ends, limit
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-bound, bound, (np.size(speed),), np.float32)
        self.action_space = spaces.Box(-push, push, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.count = self.np_random.uniform(-self.start, self.start, np.size(self.speed)), 0
        return self.x.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        pushed = np.clip(np.asarray(action, np.float64), -self.push, self.push) * self.speed
        noise = self.noise * self.np_random.normal(size=np.size(self.speed)) if self.noise else 0.0
        self.x = np.clip(self.slope * self.x + pushed + self.drift + noise, -self.bound, self.bound)
        self.count += 1
        truncated = self.count >= self.limit
        return self.x.astype(np.float32), float(self.reward(self.x)), bool(self.ends(self.x)), truncated, {}

    def render(self) -> Any:
        return np.full((20, 40, 3), self.count, np.uint8)


def walker() -> Line:
    """A line whose walker starts at 0, is paid for the place reached, and falls off beyond 3."""
    return Line(start=0.0, bound=10.0, reward=place, ends=lambda x: abs(x[..., 0]) > 3, limit=math.inf)


class Walk(gym.Env[Any, Any]):
    """A point on a line that should be at 0, observed with the time; an episode ends beyond 1.

    Args:
        form: of the observations: ``"box"``, ``"double"`` (float64), ``"cell"`` (one of ten), ``"dict"`` or ``"goal"``,
            where each episode has a goal of its own.
        discrete: whether the action is one of three.
        num_pushes: the number of actions, of which the mean counts.
        noise: standard deviation of what each step adds.
        limit: the number of steps after which an episode is truncated.
        poison: the step from which on something is not finite, what (``"reward"``, ``"observation"`` or
            ``"last observation"``), and its value.
    """

    def __init__(
        self,
        form: str = "box",
        discrete: bool = False,
        *,
        num_pushes: int = 1,
        noise: float = 0.0,
        limit: int = 9,
        poison: tuple[int, str, float] | None = None,
    ) -> None:
        box = spaces.Box(-10.0, 10.0, (2,), np.float64 if form == "double" else np.float32)
        point = spaces.Box(-10.0, 10.0, (1,), np.float32)
        forms: dict[str, spaces.Space[Any]] = {
            "box": box,
            "double": box,
            "cell": spaces.Discrete(10),
            "dict": spaces.Dict({"cell": spaces.Discrete(10), "place": box}),
            "goal": spaces.Dict({"observation": box, "achieved_goal": point, "desired_goal": point}),
        }
        self.observation_space = forms[form]
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-2.0, 5.0, (num_pushes,), np.float32)
        self.form, self.discrete, self.noise, self.limit, self.poison = form, discrete, noise, limit, poison
        self.total = 0

    def _observation(self) -> Any:
        place = np.array([self.x, self.count / 10], np.float64 if self.form == "double" else np.float32)
        cell = int(np.clip(5 * self.x + 5, 0, 9))
        if self.form == "cell":
            return cell
        if self.form == "dict":
            return {"cell": cell, "place": place}
        if self.form == "goal":
            return {"observation": place, "achieved_goal": place[:1], "desired_goal": self.goal}
        return place

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
        return -np.abs(achieved - desired).sum(-1).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.count = self.np_random.uniform(-0.5, 0.5), 0
        self.goal = np.zeros(1, np.float32)
        if self.form == "goal":
            self.goal = self.np_random.uniform(-0.5, 0.5, 1).astype(np.float32)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        push = 0.3 * (int(action) - 1) if self.discrete else 0.2 * float(np.mean(action)) - 0.3
        self.x += push + (self.noise * self.np_random.normal() if self.noise else 0.0)
        self.count += 1
        self.total += 1
        obs, reward = self._observation(), float(self.compute_reward(np.array([self.x]), self.goal, {}))
        terminated, truncated = abs(self.x) > 1, self.count >= self.limit
        if self.poison is not None and self.total >= self.poison[0]:
            _, what, value = self.poison
            if what == "reward":
                reward = value
            elif what == "observation" or terminated or truncated:
                obs[1] = value
        return obs, reward, terminated, truncated, {}


class Still(gym.Env[Any, Any]):
    """Spaces and nothing else: whatever is done, the next observation is drawn from its space, and the reward is 1."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
        return -np.abs(achieved - desired).sum(-1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, False, False, {}


class Cart(gym.Env[np.ndarray, np.ndarray]):
    """Bring a cart to rest at 0. Its observation is where it is; how fast it moves can't be seen.

    `testing.models.CartModel` has its equations.
    """

    observation_space, action_space = spaces.Box(-10, 10, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
    push, limit = 0.2, 40

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position, self.velocity, self.steps = self.np_random.uniform(2, 3), 0.0, 0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.velocity += self.push * float(np.clip(action, -1, 1)[0])
        self.position = float(np.clip(self.position + self.velocity, -10, 10))
        self.steps += 1
        return self._obs(), -(self.position**2), False, self.steps >= self.limit, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.position], np.float32)
