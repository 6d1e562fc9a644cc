"""Batches as SB3's agents take them, put together and taken apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from torch import Tensor

Samples = ReplayBufferSamples | DictReplayBufferSamples


def join_samples(first: Samples, second: Samples, batches: int = 1) -> Samples:
    """Append the rows of ``second`` to those of ``first``, batch by batch, in the dtypes of ``first``."""
    return type(first)(*(_join(a, b, batches) for a, b in zip(first, second, strict=True)))


def split_samples(samples: Samples, batches: int) -> Iterator[Samples]:
    """Yield a number of equal batches of the rows, in order."""
    size = len(samples.rewards) // batches
    for start in range(0, size * batches, size):
        yield samples if batches == 1 else pick_samples(samples, slice(start, start + size))


def pick_samples(samples: Samples, rows: Tensor | slice) -> Samples:
    """Return the rows of a batch with the given indices."""
    return type(samples)(*(_pick(part, rows) for part in samples))


def _pick(part: Any, rows: Tensor | slice) -> Any:
    if isinstance(part, dict):
        return {key: value[rows] for key, value in part.items()}
    return None if part is None else part[rows]


def _join(real: Any, imagined: Any, batches: int) -> Any:
    """Append imagined rows to the real ones in each batch, in the dtype of the real ones."""
    if real is None:
        return imagined
    if isinstance(real, dict):
        return {key: _join(real[key], imagined[key], batches) for key in real}
    parts = [part.unflatten(0, (batches, -1)) for part in (real, imagined.to(real.dtype))]
    return torch.cat(parts, dim=1).flatten(0, 1)
