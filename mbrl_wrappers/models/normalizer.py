"""Scaling of a model's inputs and targets, kept in the model's state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Per-dimension shift and scale, fitted on data; the identity until then.

    A dimension that does not vary keeps standard deviation 1, so its constant value maps to 0 and a
    later change is not magnified.

    Args:
        dim: number of columns.
        exact: whether float64 data is shifted in float64, by a mean that is kept in float64: float32 can't resolve how
            a position in metres from the equator changes, or a clock in seconds since 1970.
    """

    mean: Tensor
    std: Tensor
    offset: Tensor | None

    def __init__(self, dim: int, exact: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("offset", torch.zeros(dim, dtype=torch.float64) if exact else None)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move to a device or cast; the offset stays in float64."""
        offset = self.offset
        result = super()._apply(fn, recurse)
        if offset is not None:
            self.offset = offset.to(self.mean.device)
        return result

    def fit(self, data: Tensor, resolution: Tensor | None = None) -> None:
        """Take mean and standard deviation from ``data [N, dim]``, accumulated in float64.

        Args:
            data: the values to be normalised.
            resolution: ``[dim]``, for data that are differences: the floating-point spacing of the numbers subtracted.
                A column that varies by less is rounding error, from which nothing can be learned, and is scaled down.
        """
        if not data.shape[1]:
            return
        std, mean = torch.std_mean(data.double(), dim=0, unbiased=False)
        rounding = 1e-14 if data.dtype == torch.float64 else 1e-7
        constant = std <= (rounding * mean.abs()).clamp(min=1e-12)
        if resolution is not None:  # rounding errors have a standard deviation of up to 1 / sqrt(12) = 0.29 of it
            std = torch.where(std <= 0.35 * resolution, 4 * resolution, std)
        self.mean.copy_(mean)
        if self.offset is not None:
            self.offset.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(std), std))

    def normalize(self, data: Tensor) -> Tensor:
        """Map raw ``[..., dim]`` to zero mean and unit spread, in the dtype of ``mean``."""
        if self.offset is not None and data.dtype == torch.float64 != self.mean.dtype:
            return (data - self.offset).to(self.mean.dtype) / self.std
        return (data - self.mean) / self.std

    def denormalize(self, data: Tensor) -> Tensor:
        """Inverse of :meth:`normalize`."""
        return data * self.std + self.mean
