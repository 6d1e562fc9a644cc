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
        _check_finite("observation", obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        _check_finite("observation", obs)
        _check_finite("reward", reward)
        return obs, reward, terminated, truncated, info


def _check_finite(what: str, value: Any) -> None:
    for part in value.values() if isinstance(value, dict) else [value]:
        if not np.all(np.isfinite(part)):
            raise ValueError(f"{what} from the environment must be finite, got {np.asarray(part).tolist()}")
