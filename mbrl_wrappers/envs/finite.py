"""A guard in front of an environment."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np


class FiniteEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses observations and rewards that are not finite, and rewards that are no number, before an agent meets them.

    Args:
        env: any env.

    Raises:
        ValueError: on ``reset`` and ``step``, naming the value.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        check_finite("observation", obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        check_finite("observation", obs)
        check_finite("reward", scalar_reward(reward))
        return obs, reward, terminated, truncated, info


def check_finite(what: str, value: Any, step: int | None = None) -> None:
    """Refuse a value of an environment if a number in it is not finite.

    Args:
        what: ``"observation"`` or ``"reward"``, for the error.
        value: an element of any space, or a batch; parts without numbers, such as text, are skipped.
        step: env step, for the error.

    Raises:
        ValueError: naming the part, its value and the step.
    """
    when = "" if step is None else f" at step {step}"
    for path, part in _numeric_parts(value):
        if not np.isfinite(part).all():
            where = f" in {path}" if path else ""
            raise ValueError(f"{what} from the environment must be finite, got {part.tolist()}{where}{when}")


def _numeric_parts(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of numbers in an element of any space, and where in it they are."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numeric_parts(part, f"{path}[{key!r}]")
    elif isinstance(value, tuple | list):
        for index, part in enumerate(value):
            yield from _numeric_parts(part, f"{path}[{index}]")
    elif isinstance(value, numbers.Number) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if np.issubdtype(array.dtype, np.number):
            yield path, array
        elif array.dtype == object and array.ndim:
            yield from _numeric_parts(array.tolist(), path)


def scalar_reward(reward: Any) -> float:
    """Return a reward as a number, finite or not.

    Args:
        reward: the reward that an environment's ``step`` returned: a number, or an array of one entry.

    Raises:
        ValueError: for anything else, naming it.
    """
    try:
        number = reward.item()  # NumPy and PyTorch numbers and arrays
    except (AttributeError, ValueError, RuntimeError):
        number = reward
    if not isinstance(number, numbers.Real):
        raise ValueError(
            f"reward from the environment must be one number, got {reward!r}: wrap the env so that its reward is one "
            "(several objectives: gymnasium.wrappers.TransformReward, or mo_gymnasium.wrappers.LinearReward)"
        )
    return float(number)
