"""An agent's experience as a model is fitted on it: single rows, or sequences in the order in which they happened."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer

from mbrl_wrappers.experience import drawn_starts
from mbrl_wrappers.imagination.real_data import real_transitions
from mbrl_wrappers.imagination.terminations import terminations
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.types import Sequences, Transitions

# Observations are compared in pieces of this many bytes, which stay in the processor's cache.
_PIECE = 1 << 20


class ReplayExperience:
    """A replay buffer's content, handed out on demand; nothing is copied before it is drawn.

    It reads plain, n-step, Dict and HER buffers of any number of envs. One that is kept looks only at what was added,
    so it has to draw sequences at least once before all rows of the buffer are overwritten.

    Args:
        buffer: the agent's own buffer, not the decorated one.
        view: converts the buffer's actions to the env's.
        dynamics: has the codecs for flat observations.
    """

    def __init__(self, buffer: ReplayBuffer, view: AgentView, dynamics: WorldModel) -> None:
        self._buffer, self._view, self._dynamics = buffer, view, dynamics
        self._rows: Transitions | None = None
        self._filled: tuple[int, bool] | None = None  # position and fullness of the buffer when it was last looked at
        self._begins = np.zeros((buffer.buffer_size, buffer.n_envs), dtype=bool)
        self._found: tuple[list[np.ndarray], list[np.ndarray]] = [], []

    def rows(self) -> Transitions:
        """Return all transitions, ``[N, ...]``, as they are at the first call; see :func:`real_transitions`."""
        if self._rows is None:
            self._rows = real_transitions(self._buffer, self._view, self._dynamics)
        return self._rows

    def sequences(self, count: int, length: int, generator: torch.Generator | None = None) -> Sequences:
        """Draw sequences, each of one env; see :meth:`Experience.sequences`.

        An episode that was broken off by a reset, between two calls of ``learn``, ends at its last stored step.

        Args:
            count: ``B``.
            length: ``T``.
            generator: draws the starts, on the CPU; default: torch's global one.

        Returns:
            ``[B, T, ...]`` on the agent's device, observations in ``obs_codec.exact_dtype`` (uint8 for images alone).

        Raises:
            ValueError: if no env has so many entries, or the buffer keeps no last observations
                (``optimize_memory_usage``).
        """
        buffer = self._buffer
        if buffer.optimize_memory_usage:
            raise ValueError("optimize_memory_usage must be False to draw sequences: last observations are not kept")
        ages, begins = self._kept_entries()
        own, starts = drawn_starts([len(of_env) for of_env in ages], count, length, generator)
        places = starts[:, None] + np.arange(length)
        env = np.broadcast_to(own[:, None], places.shape)
        age, is_first = (
            np.stack([part[stream][place] for stream, place in zip(own, places, strict=True)])
            for part in (ages, begins)
        )
        row = (age + self._oldest) % buffer.buffer_size
        return self._taken(row, env, is_first)

    def _kept_entries(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the result of :meth:`_entries`, which is worked out anew where the buffer has filled further."""
        filled = (self._buffer.pos, self._buffer.full)
        if self._filled != filled:
            self._look_at(self._new_rows())
            self._filled = filled
            self._found = self._entries()
        return self._found

    @property
    def _oldest(self) -> int:
        return self._buffer.pos if self._buffer.full else 0

    def _new_rows(self) -> np.ndarray:
        """Return the rows that have been stored since the buffer was last looked at, the oldest one first."""
        buffer = self._buffer
        first, count = self._oldest, buffer.size()
        if self._filled is not None and self._filled[0] != buffer.pos:
            first = self._filled[0]
            count = (buffer.pos - first) % buffer.buffer_size
        return (np.arange(count) + first) % buffer.buffer_size

    def _look_at(self, rows: np.ndarray) -> None:
        """Note which rows begin an episode; the row before the oldest one is another one's, see :meth:`_entries`."""
        buffer, before = self._buffer, (rows - 1) % self._buffer.buffer_size
        goes_on = _same(buffer.next_observations, buffer.observations, before, rows) & (buffer.dones[before] == 0)
        self._begins[rows] = ~goes_on

    def _entries(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return for each env the row of each entry, counted from the oldest, and whether it begins an episode.

        The first entry of an episode holds the ``obs`` of its first step, each further entry the ``next_obs`` of a
        step. So the row of a first step has two entries.
        """
        buffer = self._buffer
        order = (np.arange(buffer.size()) + self._oldest) % buffer.buffer_size
        begins = self._begins[order]
        begins[:1] = True
        ages = [np.repeat(np.arange(len(order)), 1 + own) for own in begins.T]
        # A row that begins an episode has two entries, of which the first is marked.
        firsts = [np.insert(np.zeros(len(order), dtype=bool), np.flatnonzero(own), True) for own in begins.T]
        return ages, firsts

    def _taken(self, row: np.ndarray, env: np.ndarray, is_first: np.ndarray) -> Sequences:
        """Return the entries ``[B, T]``: first ones hold the observation before the step, others the step."""
        buffer, device, codec = self._buffer, self._view.device, self._dynamics.obs_codec
        shape = row.shape
        flat_row, flat_env, first = row.reshape(-1), env.reshape(-1), is_first.reshape(-1)

        def shown(before: Any, after: Any) -> Any:
            if isinstance(before, dict):
                return {key: shown(before[key], after[key]) for key in before}
            values = after[flat_row, flat_env]
            values[first] = before[flat_row[first], flat_env[first]]
            return values

        obs = codec.encode(shown(buffer.observations, buffer.next_observations), device, codec.exact_dtype)
        goes_on = torch.as_tensor(~first, device=device)
        action = self._view.env_action(buffer.actions[flat_row, flat_env]) * goes_on[:, None]
        reward = torch.as_tensor(buffer.rewards[flat_row, flat_env], dtype=torch.float32, device=device) * goes_on
        terminated = torch.as_tensor(terminations(buffer)[flat_row, flat_env], device=device) & goes_on
        return Sequences(
            obs.reshape(*shape, -1),
            action.reshape(*shape, -1),
            reward.reshape(shape),
            terminated.reshape(shape),
            ~goes_on.reshape(shape),
        )


def _same(before: Any, after: Any, row: np.ndarray, next_row: np.ndarray) -> np.ndarray:
    """Tell where a row's next observation equals the following row's observation, bool ``[len(row), n_envs]``."""
    if isinstance(before, dict):
        return np.all([_same(before[key], after[key], row, next_row) for key in before], axis=0)
    equal = np.empty((len(row), before.shape[1]), dtype=bool)
    count = max(1, _PIECE // max(1, before[0].nbytes))
    for piece in (slice(start, start + count) for start in range(0, len(row), count)):
        entries = before[row[piece]] == after[next_row[piece]]
        equal[piece] = entries.reshape(*entries.shape[:2], -1).all(-1)
    return equal
