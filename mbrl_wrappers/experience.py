"""Experience that models are fitted on: single steps as rows, or sequences in the order in which they happened."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.types import Sequences, Transitions


class Experience(Protocol):
    """Real steps of an environment, handed out as a model asks for them.

    :class:`Episodes` holds experience in memory, ``ReplayExperience`` reads an agent's replay buffer, and
    :class:`~mbrl_wrappers.types.Transitions` offer rows only.
    """

    def rows(self) -> Transitions:
        """Return all steps, ``[N, ...]``."""

    def sequences(self, count: int, length: int, generator: torch.Generator | None = None) -> Sequences:
        """Draw sequences that start anywhere, each place as likely as any other.

        An episode of ``n`` steps has ``n + 1`` entries: its first observation, and one for each step. A sequence may
        run into the next episode; ``is_first`` marks where that one begins.

        Args:
            count: ``B``, the number of sequences.
            length: ``T``, the entries of each sequence.
            generator: draws the starts, on the CPU; default: torch's global one.

        Raises:
            ValueError: if the experience is shorter than ``length``.
        """


class Episodes:
    """Episodes in memory: a dataset, or steps that were collected without an agent.

    An entry is an observation and the step that led to it, as in :class:`~mbrl_wrappers.types.Sequences`.

    Args:
        obs: ``[N, D]`` observations in the order in which they were made; images in uint8 stay in uint8.
        action: ``[N, A]`` the action that led to each observation; ignored where ``is_first``.
        reward: ``[N]`` the reward of that action; ignored where ``is_first``.
        terminated: ``[N]`` bool, whether the episode terminates there; a time limit is no termination.
        is_first: ``[N]`` bool, whether an episode begins there.

    Raises:
        ValueError: for tensors of different lengths, a first entry that does not begin an episode, an episode that goes
            on after a termination, or a value that is not finite.
    """

    def __init__(self, obs: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, is_first: Tensor) -> None:
        for name, value, dims in (
            ("obs", obs, 2),
            ("action", action, 2),
            ("reward", reward, 1),
            ("terminated", terminated, 1),
            ("is_first", is_first, 1),
        ):
            if value.dim() != dims or len(value) != len(obs):
                wanted = f"[{len(obs)}{', width' * (dims - 1)}]"
                raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}")
            if name in ("terminated", "is_first") and value.dtype != torch.bool:
                raise ValueError(f"{name} must have dtype torch.bool, got {value.dtype}")
        if len(obs) == 0 or not is_first[0]:
            raise ValueError(f"is_first must begin with True, got {is_first[:1].tolist()}")
        if not torch.isfinite(obs).all():
            place = int((~torch.isfinite(obs)).any(-1).nonzero()[0])
            raise ValueError(f"obs must be finite, got {obs[place].tolist()} in entry {place}")
        steps = ~is_first
        action, reward = torch.where(steps[:, None], action, 0), torch.where(steps, reward, 0)
        terminated = terminated & steps
        goes_on = terminated[:-1] & steps[1:]
        if goes_on.any():
            place = int(goes_on.nonzero()[0])
            raise ValueError(f"is_first must be True behind a termination, got False behind entry {place}")
        self._entries = Sequences(obs, action, reward, terminated, is_first)
        # Transitions check that all values are finite.
        (places,) = torch.where(steps)
        self._rows = Transitions(
            obs[places - 1], action[places], reward[places], obs[places], terminated[places],
            torch.arange(len(places), device=obs.device),
        )  # fmt: skip

    @classmethod
    def from_steps(cls, steps: Transitions, ended: Tensor) -> Episodes:
        """Make episodes of rows that happened one after the other.

        Args:
            steps: ``[N, ...]``.
            ended: ``[N]`` bool, whether the episode ended with the row, by a termination or a time limit.

        Raises:
            ValueError: if ``ended`` has another number of rows, is False at a termination, or if ``obs`` of a row
                differs from ``next_obs`` of the row before within an episode.
        """
        if ended.shape != steps.reward.shape or ended.dtype != torch.bool:
            wanted, found = tuple(steps.reward.shape), tuple(ended.shape)
            raise ValueError(f"ended must have shape {wanted} and dtype torch.bool, got {found} and {ended.dtype}")
        if len(steps) == 0:
            raise ValueError("steps must hold at least one row, got 0")
        if (steps.terminated & ~ended).any():
            row = int((steps.terminated & ~ended).nonzero()[0])
            raise ValueError(f"ended must be True where steps.terminated is, got False in row {row}")
        apart = (steps.obs[1:] != steps.next_obs[:-1]).any(-1) & ~ended[:-1]
        if apart.any():
            row = int(apart.nonzero()[0]) + 1
            raise ValueError(f"steps.obs must be the next_obs before it within an episode, got another in row {row}")
        begins = torch.cat([ended.new_ones(1), ended[:-1]])
        step = torch.arange(len(ended), device=ended.device) + begins.cumsum(0)  # the entry of each row
        count = len(ended) + int(begins.sum())
        first = step[begins] - 1

        def laid_out(values: Tensor) -> Tensor:
            entries = values.new_zeros(count, *values.shape[1:])
            entries[step] = values
            return entries

        obs, is_first = laid_out(steps.next_obs), torch.ones(count, dtype=torch.bool, device=ended.device)
        obs[first] = steps.obs[begins]
        is_first[step] = False
        return cls(obs, laid_out(steps.action), laid_out(steps.reward), laid_out(steps.terminated), is_first)

    def __len__(self) -> int:
        """Return the number of entries ``N``."""
        return len(self._entries.obs)

    def rows(self) -> Transitions:
        """Return all steps; see :meth:`Experience.rows`. A row's key is its index among the steps."""
        return self._rows

    def sequences(self, count: int, length: int, generator: torch.Generator | None = None) -> Sequences:
        """Draw sequences; see :meth:`Experience.sequences`."""
        _, starts = drawn_starts([len(self)], count, length, generator)
        places = torch.as_tensor(starts[:, None] + np.arange(length), device=self._entries.obs.device)
        return Sequences(*(part[places] for part in self._entries))


def drawn_starts(
    entries: list[int], count: int, length: int, generator: torch.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw where sequences start, each place as likely as any other.

    Args:
        entries: the number of entries of each stream of experience; several environments are several streams.
        count: ``B``, the number of sequences.
        length: ``T``, the entries of a sequence, all in one stream.
        generator: on the CPU; default: torch's global one.

    Returns:
        The index of each sequence's stream and the index of its first entry there, ``[B]`` each.

    Raises:
        ValueError: if all streams are shorter than ``length``.
    """
    check_whole_number("count", count)
    check_whole_number("length", length)
    if not any(entries):
        raise ValueError("experience must hold at least one step, got none")
    places = np.maximum(np.array(entries) - length + 1, 0)
    behind = places.cumsum()
    if not behind[-1]:
        raise ValueError(f"length must be at most {max(entries)}, the entries of the longest stream, got {length}")
    drawn = torch.randint(int(behind[-1]), (count,), generator=generator).numpy()
    stream = np.searchsorted(behind, drawn, side="right")
    return stream, drawn - (behind - places)[stream]
