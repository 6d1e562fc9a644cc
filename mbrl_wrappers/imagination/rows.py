"""Imagined transitions, and the ring buffer that keeps them on the agent's device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImaginedRows:
    """A batch of imagined transitions, flat and in the env's units.

    Attributes:
        obs: ``[B, D]``.
        action: ``[B, A]``.
        reward: ``[B]``.
        next_obs: ``[B, D]``.
        terminated: ``[B]`` bool; the end of a rollout is not a termination.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: Tensor | slice) -> ImaginedRows:
        return ImaginedRows(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class TargetRows:
    """A batch of imagined steps with the targets of their values, flat and in the env's units.

    Attributes:
        obs: ``[B, D]``.
        action: ``[B, A]``.
        reward: ``[B]`` discounted sum up to the bootstrap, normalised as the agent's, with its entropy bonuses.
        next_obs: ``[B, D]`` where the value is bootstrapped.
        terminated: ``[B]`` bool, whether the episode ends before the bootstrap.
        discount: ``[B]`` factor of the bootstrapped value.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    discount: Tensor

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: Tensor) -> TargetRows:
        return TargetRows(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    @staticmethod
    def join(batches: Sequence[TargetRows]) -> TargetRows:
        """Put batches behind one another."""
        names = [f.name for f in dataclasses.fields(TargetRows)]
        return TargetRows(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})


class ImaginedBuffer:
    """Ring buffer of imagined rows; the oldest make room for the newest.

    Args:
        capacity: most rows kept; may be raised or lowered later.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._rows: ImaginedRows | None = None
        self._position = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, rows: ImaginedRows) -> None:
        """Append rows, in order; of more rows than fit, the last ones stay."""
        rows = rows[-self.capacity :]
        if self._rows is None:
            self._rows = _empty_like(rows, self.capacity)
        elif self._rows.obs.dtype != rows.obs.dtype:  # the model has switched to float64
            self._rows = ImaginedRows(
                **{
                    f.name: getattr(self._rows, f.name).to(getattr(rows, f.name).dtype)
                    for f in dataclasses.fields(rows)
                }
            )
        first = min(len(rows), self.capacity - self._position)
        for field in dataclasses.fields(rows):
            kept, new = getattr(self._rows, field.name), getattr(rows, field.name)
            kept[self._position : self._position + first] = new[:first]
            kept[: len(rows) - first] = new[first:]
        self._position = (self._position + len(rows)) % self.capacity
        self._size = min(self._size + len(rows), self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> ImaginedRows:
        """Draw ``count`` rows uniformly with replacement.

        Rows are drawn by age, not by place: a buffer refilled from :meth:`ordered` draws the same ones.
        """
        assert self._rows is not None
        age = torch.randint(self._size, (count,), generator=generator, device=self._rows.obs.device)
        return self._rows[self._places(age)]

    def ordered(self) -> ImaginedRows | None:
        """Return all rows from the oldest to the newest, None when there are none."""
        if self._rows is None:
            return None
        return self._rows[self._places(torch.arange(self._size, device=self._rows.obs.device))]

    def _places(self, age: Tensor) -> Tensor:
        """Return where the rows lie that are ``age`` steps younger than the oldest."""
        oldest = self._position if self._size == self.capacity else 0
        return (age + oldest) % self.capacity

    def resize(self, capacity: int) -> None:
        """Change the capacity; the newest rows stay."""
        if capacity == self.capacity:
            return
        rows = self.ordered()
        self.capacity, self._rows, self._position, self._size = capacity, None, 0, 0
        if rows is not None:
            self.add(rows)


def _empty_like(rows: ImaginedRows, capacity: int) -> ImaginedRows:
    return ImaginedRows(
        **{
            f.name: getattr(rows, f.name).new_empty((capacity, *getattr(rows, f.name).shape[1:]))
            for f in dataclasses.fields(rows)
        }
    )
