"""Environments that add noise to every action: where M2AC (Pan et al. 2020) compares itself with MBPO."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class NoisyActions(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """Takes each action with white noise on it, cut off at the bounds.

    Args:
        env: of bounded Box actions.
        std: of the noise, in units of half the range of each action; 0 leaves actions as they are.

    Raises:
        ValueError: for a std below 0, or unbounded actions.
    """

    def __init__(self, env: gym.Env, std: float) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, std=std)
        gym.ActionWrapper.__init__(self, env)
        if not std >= 0:
            raise ValueError(f"std must be at least 0, got {std}")
        if not isinstance(env.action_space, spaces.Box) or not env.action_space.is_bounded():
            raise ValueError(f"env must have bounded Box actions, got {env.action_space}")
        self._std = std

    def action(self, action: np.ndarray) -> np.ndarray:
        """Add the noise, drawn from the env's own generator."""
        space: Any = self.env.action_space
        noise = self.env.unwrapped.np_random.normal(size=space.shape) * self._std * (space.high - space.low) / 2
        return np.clip(action + noise, space.low, space.high).astype(space.dtype)


def noisy(env_id: str, std: float) -> gym.Env:
    """Make an env by its id, with noise on its actions."""
    return NoisyActions(gym.make(env_id), std)
