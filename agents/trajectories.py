"""Stretches of real experience out of a replay buffer, in the order in which it was made."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from torch import Tensor

from mbrl_wrappers.spaces import FlatSpace


class FlatStretches(NamedTuple):
    """``B`` stretches of up to ``H`` steps as tensors, observations flat and nothing normalised.

    Attributes:
        obs: ``[H + 1, B, D]``; behind the end of a stretch its last observation again.
        action: ``[H, B, A]`` in [-1, 1].
        reward: ``[H, B]``.
        terminated: ``[H, B]`` bool.
        log_prob: ``[H, B]`` log-densities of the actions when they were taken.
        is_real: ``[H, B]`` bool, False behind the end of a stretch.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    log_prob: Tensor
    is_real: Tensor


class Stretches(NamedTuple):
    """The same as arrays: ``[H, B, ...]`` each, behind the end of a stretch its last step again."""

    obs: Any
    next_obs: Any
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    log_prob: np.ndarray
    is_real: np.ndarray

    def flat(self, codec: FlatSpace, device: torch.device) -> FlatStretches:
        """Turn them into tensors on a device."""

        def encoded(stored: Any, steps: int) -> Tensor:
            shape = self.reward[:steps].shape
            rows = (
                {k: _rows(v[:steps]) for k, v in stored.items()} if isinstance(stored, dict) else _rows(stored[:steps])
            )
            return codec.encode(rows, device).reshape(*shape, -1)

        obs = torch.cat([encoded(self.obs, 1), encoded(self.next_obs, len(self.reward))])
        return FlatStretches(obs, *(torch.as_tensor(part, device=device) for part in self[2:]))


def _rows(part: np.ndarray) -> np.ndarray:
    return part.reshape(-1, *part.shape[2:])


class _KeepsDensities(ReplayBuffer):
    """Keeps with each action the log-density that it was taken with, ``info["log_prob"]``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_probs = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)

    def add(
        self, obs: Any, next_obs: Any, action: np.ndarray, reward: np.ndarray, done: np.ndarray, infos: list[dict]
    ) -> None:
        """Store a step; see SB3's buffer."""
        self.log_probs[self.pos] = [info["log_prob"] for info in infos]
        super().add(obs, next_obs, action, reward, done, infos)

    def sample_stretches(self, count: int, length: int, window: int | None = None) -> Stretches:
        """Draw stretches of at most ``length`` steps, which begin anywhere and end with their episode or now.

        Args:
            count: number of stretches.
            length: most steps of one.
            window: newest time steps of the buffer that they begin in; default: all.
        """
        known = self.size() if window is None else min(window, self.size())
        ages = np.random.randint(0, known, size=count)  # noqa: NPY002 - the generator SB3 draws from
        envs = np.random.randint(0, self.n_envs, size=count)  # noqa: NPY002
        return self._stretches(ages, envs, length)

    def sample_episodes(self, count: int, window: int | None = None) -> Stretches:
        """Draw episodes, each from its first step on, at most ``count`` different ones.

        Args:
            count: most episodes.
            window: newest time steps of the buffer that they begin in; default, or where none does: each env's newest.
        """
        dones = self.dones[self._places(np.arange(self.size()))] > 0  # by age
        begins = np.concatenate(
            [dones[1:], np.ones_like(dones[:1])]
        )  # behind another one's end, or the oldest there is
        ages, envs = np.nonzero(begins[: window or 0])
        if len(ages) == 0:
            ages, envs = begins.argmax(0), np.arange(self.n_envs)
        if len(ages) > count:
            chosen = np.random.choice(len(ages), count, replace=False)  # noqa: NPY002 - as above
            ages, envs = ages[chosen], envs[chosen]
        return self._stretches(ages, envs, int(ages.max()) + 1)

    def _places(self, ages: np.ndarray) -> np.ndarray:
        """Return where the steps lie that were stored ``ages`` steps before the newest."""
        return (self.pos - 1 - ages) % self.buffer_size

    def _stretches(self, ages: np.ndarray, envs: np.ndarray, length: int) -> Stretches:
        """Return the stretches that begin so many steps ago, in these envs, ``[B]`` each."""
        of_step = ages - np.arange(length)[:, None]
        places = self._places(np.maximum(of_step, 0))
        ended_before = np.cumsum(self.dones[places, envs] > 0, axis=0) - (self.dones[places, envs] > 0)
        is_real = (of_step >= 0) & (ended_before == 0)
        is_real = is_real[: is_real.any(1).sum()]  # steps of the longest one
        last = is_real.sum(0) - 1
        places = places[np.minimum(np.arange(len(is_real))[:, None], last), np.arange(len(envs))]

        def take(stored: Any) -> Any:
            if isinstance(stored, dict):
                return {key: take(part) for key, part in stored.items()}
            return stored[places, envs]

        terminated = (self.dones[places, envs] * (1 - self.timeouts[places, envs])) > 0.5
        return Stretches(
            take(self.observations),
            take(self.next_observations),
            self.actions[places, envs],
            self.rewards[places, envs],
            terminated,
            self.log_probs[places, envs],
            is_real,
        )


class TrajectoryBuffer(_KeepsDensities):
    """A :class:`ReplayBuffer` that gives back stretches, with the log-densities of its actions."""


class DictTrajectoryBuffer(_KeepsDensities, DictReplayBuffer):
    """The same for Dict observations."""
