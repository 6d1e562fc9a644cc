"""A guard in front of an environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class FiniteEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses observations and rewards that are not finite, before an agent meets them.

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
        check_finite("reward", reward)
        return obs, reward, terminated, truncated, info


def check_finite(what: str, value: Any, step: int | None = None) -> None:
    """Refuse what an environment returned if it is not finite.

    Args:
        what: how the error calls it, ``"observation"`` or ``"reward"``.
        value: an array, or a dict of arrays.
        step: env step, for the error.

    Raises:
        ValueError: naming the value and the step.
    """
    when = "" if step is None else f" at step {step}"
    for part in value.values() if isinstance(value, dict) else [value]:
        if not np.all(np.isfinite(part)):
            raise ValueError(f"{what} from the environment must be finite, got {np.asarray(part).tolist()}{when}")
