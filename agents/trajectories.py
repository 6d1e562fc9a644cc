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
        obs: ``[H + 1, B, D]``; after the end of a stretch, its last observation is repeated.
        action: ``[H, B, A]`` in [-1, 1].
        reward: ``[H, B]``.
        terminated: ``[H, B]`` bool.
        log_prob: ``[H, B]`` log-densities of the actions when they were taken.
        is_real: ``[H, B]`` bool, False after the end of a stretch.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    log_prob: Tensor
    is_real: Tensor


class Stretches(NamedTuple):
    """Stretches as arrays ``[H, B, ...]``; after the end of a stretch, its last step is repeated."""

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


class _WithDensities(ReplayBuffer):
    """Stores for each action its log-density when it was taken, ``info["log_prob"]``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_probs = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)

    def add(
        self, obs: Any, next_obs: Any, action: np.ndarray, reward: np.ndarray, done: np.ndarray, infos: list[dict]
    ) -> None:
        """Store a step; see SB3's buffer."""
        missing = [info for info in infos if "log_prob" not in info]
        if missing:
            raise ValueError(f"infos must hold the log_prob of their actions, as SVG's own steps do, got {missing[0]}")
        self.log_probs[self.pos] = [info["log_prob"] for info in infos]
        super().add(obs, next_obs, action, reward, done, infos)

    def sample_stretches(self, count: int, length: int, window: int | None = None) -> Stretches:
        """Draw stretches of at most ``length`` steps, which begin anywhere and end with their episode or the buffer.

        Args:
            count: number of stretches.
            length: most steps of a stretch.
            window: stretches begin within this many newest time steps of the buffer; default: all.
        """
        known = self.size() if window is None else min(window, self.size())
        ages = np.random.randint(0, known, size=count)  # noqa: NPY002 - the generator SB3 draws from
        envs = np.random.randint(0, self.n_envs, size=count)  # noqa: NPY002
        return self._stretches(ages, envs, length)

    def sample_episodes(self, count: int, window: int | None = None) -> Stretches:
        """Draw episodes that have ended, each from its first step on, at most ``count`` different ones.

        Args:
            count: most episodes.
            window: episodes begin within this many newest time steps of the buffer. By default, or if no ended episode
                does: each env's newest ended episode, or if no episode has ended yet, the steps so far.
        """
        dones = self.dones[self._places(np.arange(self.size()))] > 0  # by age
        ended = [_ended_episodes(dones[:, env], env) for env in range(self.n_envs)]
        episodes = [(age, length, env) for of_env in ended for age, length, env in of_env if age < (window or 0)]
        if not episodes:
            episodes = [of_env[0] for of_env in ended if of_env]
        if not episodes:
            episodes = [(len(dones) - 1, len(dones), env) for env in range(self.n_envs)]
        if len(episodes) > count:
            chosen = np.random.choice(len(episodes), count, replace=False)  # noqa: NPY002 - as above
            episodes = [episodes[index] for index in chosen]
        ages, lengths, envs = np.array(episodes).T
        return self._stretches(ages, envs, int(lengths.max()))

    def cut_off_unless_at(self, obs: Any) -> None:
        """End an env's newest stretch, as by a time limit, if the env is not at ``obs``: it was reset in between."""
        if self.size() == 0:
            return
        newest = (self.pos - 1) % self.buffer_size
        stored: Any = self.next_observations
        pairs = [(stored[key], obs[key]) for key in obs] if isinstance(obs, dict) else [(stored, obs)]
        for env in range(self.n_envs):
            is_there = all(np.array_equal(np.ravel(old[newest, env]), np.ravel(now[env])) for old, now in pairs)
            if not is_there and not self.dones[newest, env]:
                self.dones[newest, env] = self.timeouts[newest, env] = 1.0

    def _places(self, ages: np.ndarray) -> np.ndarray:
        """Return the positions of the steps that were stored ``ages`` steps before the newest."""
        return (self.pos - 1 - ages) % self.buffer_size

    def _stretches(self, ages: np.ndarray, envs: np.ndarray, length: int) -> Stretches:
        """Return the stretches that begin ``ages [B]`` steps before the newest step, in ``envs [B]``."""
        of_step = ages - np.arange(length)[:, None]
        places = self._places(np.maximum(of_step, 0))
        ended_before = np.cumsum(self.dones[places, envs] > 0, axis=0) - (self.dones[places, envs] > 0)
        is_real = (of_step >= 0) & (ended_before == 0)
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


def _ended_episodes(dones: np.ndarray, env: int) -> list[tuple[int, int, int]]:
    """Return the episodes of an env that have ended, the newest first: age of the first step, length, env.

    Args:
        dones: ``[N]``, the newest first.
        env: index of the env, returned with each episode.
    """
    ends = np.flatnonzero(dones)
    begins = np.append(ends[1:] - 1, len(dones) - 1)  # right after the end of the episode before, or the oldest step
    return [(int(begin), int(begin - end + 1), env) for begin, end in zip(begins[: len(ends)], ends, strict=True)]


class TrajectoryBuffer(_WithDensities):
    """A :class:`ReplayBuffer` that gives back stretches, with the log-densities of its actions."""


class DictTrajectoryBuffer(_WithDensities, DictReplayBuffer):
    """The same for Dict observations."""
