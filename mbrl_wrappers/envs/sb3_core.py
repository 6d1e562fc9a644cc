"""Many episodes of one core as a Stable-Baselines3 VecEnv."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from mbrl_wrappers.envs.autoreset import CoreStep
from mbrl_wrappers.envs.imagined import row_of


class CoreVecEnv(VecEnv):
    """``num_envs`` episodes that one core plays, with SB3's autoreset; a subclass says how they step, start and look.

    Finished episodes restart at once; their last observation is in ``info["terminal_observation"]``,
    ``info["TimeLimit.truncated"]`` tells a time limit from a termination, and ``info["episode"]`` holds
    return and length as SB3's Monitor writes them.

    Args:
        num_envs: episodes side by side, ``B``.
        observation_space: of one episode.
        action_space: of one episode.
    """

    render_mode: str | None = None

    def __init__(self, num_envs: int, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self._actions = np.zeros(num_envs)
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        self._start_time = time.time()
        super().__init__(num_envs, observation_space, action_space)

    @abstractmethod
    def _seed(self, seeds: list[int | None]) -> None:
        """Seed the core, by a seed for each episode."""

    @abstractmethod
    def _reset_rows(self, mask: np.ndarray) -> None:
        """Start anew the episodes that the mask ``[B]`` marks."""

    def _starts(self) -> dict[str, np.ndarray]:
        """Return the info of all episodes as if each had just started, arrays ``[B]``."""
        return {}

    @abstractmethod
    def _advance(self, actions: np.ndarray) -> CoreStep:
        """Step all episodes."""

    @abstractmethod
    def _observations(self, rows: np.ndarray | None = None) -> Any:
        """Return the observations of these episodes, or of all."""

    def _reseed(self) -> None:
        self._seed(self._seeds)
        self._reset_seeds()

    def reset(self) -> Any:
        """Start all episodes and return their first observations, ``[num_envs, ...]``."""
        if self._seeds[0] is not None:
            self._reseed()
        self._returns[:], self._lengths[:] = 0, 0
        self._restart(np.ones(self.num_envs, bool))
        self._reset_options()
        return self._observations()

    def _restart(self, mask: np.ndarray) -> None:
        self._reset_rows(mask)
        starts = {name: values.tolist() for name, values in self._starts().items()}
        for row in np.flatnonzero(mask):
            self.reset_infos[row] = {name: values[row] for name, values in starts.items()}

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions ``[num_envs, ...]`` for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the step; finished episodes come back reset."""
        step = self._advance(self._actions)
        self._returns += step.reward
        self._lengths += 1
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        for name, values in step.info.items():
            for info, value in zip(infos, values.tolist(), strict=True):
                info[name] = value
        done = step.terminated | step.truncated
        if done.any():
            self._finish(done, step.truncated & ~step.terminated, infos)
        return self._observations(), step.reward.astype(np.float32), done, infos

    def _finish(self, done: np.ndarray, timeout: np.ndarray, infos: list[dict[str, Any]]) -> None:
        rows = np.flatnonzero(done)
        last_obs = self._observations(rows)
        elapsed = round(time.time() - self._start_time, 6)
        for index, row in enumerate(rows):
            infos[row]["terminal_observation"] = row_of(last_obs, index)
            infos[row]["TimeLimit.truncated"] = bool(timeout[row])
            infos[row]["episode"] = {"r": float(self._returns[row]), "l": int(self._lengths[row]), "t": elapsed}
        self._returns[rows], self._lengths[rows] = 0, 0
        self._restart(done)

    def close(self) -> None:
        """Nothing is held open."""

    def has_attr(self, attr_name: str) -> bool:
        """Tell whether the episodes have an attribute."""
        return hasattr(self, attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, once per chosen episode."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute for all episodes at once; they share one core."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Refuse: an episode of a core has no methods.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"episodes of {type(self).__name__} have no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each: the episodes have no wrappers, and report returns without a Monitor."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return no images; imagined states are rendered by :class:`~mbrl_wrappers.envs.ImaginedEnv`."""
        return [None] * self.num_envs
