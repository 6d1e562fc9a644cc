"""Scaling of a model's inputs and targets, kept in the model's state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Per-dimension shift and scale, fitted on data; the identity until then.

    A dimension that does not vary keeps standard deviation 1, so its constant value maps to 0 and a
    later change of it is not blown up.

    Args:
        dim: number of columns.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, data: Tensor) -> None:
        """Take mean and standard deviation from ``data [N, dim]``, accumulated in float64."""
        std, mean = torch.std_mean(data.double(), dim=0, unbiased=False)
        constant = std <= 1e-7 * mean.abs().clamp(min=1e-5)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(std), std))

    def normalize(self, data: Tensor) -> Tensor:
        """Map raw ``[..., dim]`` to zero mean and unit spread."""
        return (data - self.mean) / self.std

    def denormalize(self, data: Tensor) -> Tensor:
        """Inverse of :meth:`normalize`."""
        return data * self.std + self.mean
