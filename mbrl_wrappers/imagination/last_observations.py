"""The last observations of episodes as the env showed them; VecNormalize passes on scaled and clipped ones alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

_KEY = "raw_terminal_observation"


class KeepsLastObservations(VecEnvWrapper):
    """Keeps the last observation of each episode in its info a second time, for VecNormalize changes the first."""

    def reset(self) -> VecEnvObs:
        """Start all episodes."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step, and keep the observations that end an episode."""
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info[_KEY] = info["terminal_observation"]
        return obs, rewards, dones, infos


def keep_last_observations(normalizer: VecNormalize | None) -> None:
    """Have the envs of a VecNormalize keep raw last observations, if it scales observations.

    SB3 stores what it gets when it undoes the scaling, but what lies beyond ``clip_obs`` standard deviations is lost
    by then. A fallen robot often lies there, and a model that never sees one predicts that robots don't fall.
    """
    if normalizer is not None and normalizer.norm_obs and not isinstance(normalizer.venv, KeepsLastObservations):
        normalizer.venv = KeepsLastObservations(normalizer.venv)


def restore_last_observations(next_obs: Any, infos: list[dict[str, Any]]) -> None:
    """Replace the clipped last observations of episodes by the raw ones, in place.

    Args:
        next_obs: ``[num_envs, ...]``, an array or a dict of arrays.
        infos: of the envs.
    """
    for row, info in enumerate(infos):
        if _KEY in info:
            parts = next_obs if isinstance(next_obs, dict) else {"": next_obs}
            kept = info[_KEY] if isinstance(next_obs, dict) else {"": info[_KEY]}
            for key, part in parts.items():
                part[row] = np.asarray(kept[key]).reshape(part[row].shape)


class StoresLastObservations:
    """A replay buffer that is given the raw last observations of episodes.

    Args:
        buffer: the agent's.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self._buffer = buffer

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a transition of all envs."""
        restore_last_observations(next_obs, infos)
        self._buffer.add(obs, next_obs, action, reward, done, infos)
