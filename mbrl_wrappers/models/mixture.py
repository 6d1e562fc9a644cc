"""Mixtures of Gaussians, one for each dimension of a vector (Bishop 1994), and what a temperature does to them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_LOG_STD, LARGEST_LOG_STD = -7.0, 4.0


class Mixture(NamedTuple):
    """Independent mixtures of ``K`` Gaussians for ``Z`` dimensions; every dimension has mixture weights of its own.

    Attributes:
        logit: of the weights, which are its softmax, ``[..., Z, K]``.
        mean: of the components, ``[..., Z, K]``.
        log_std: logarithms of their standard deviations, ``[..., Z, K]``.
    """

    logit: Tensor
    mean: Tensor
    log_std: Tensor

    @classmethod
    def of(cls, outputs: Tensor, components: int) -> Mixture:
        """Turn a network's outputs ``[..., 3 Z K]`` into mixtures of ``components``, which is ``K``."""
        logit, mean, log_std = outputs.unflatten(-1, (3, -1, components)).unbind(-3)
        return cls(logit, mean, log_std.clamp(LEAST_LOG_STD, LARGEST_LOG_STD))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the logarithms of the densities of values ``[..., Z]``, for each dimension, ``[..., Z]``."""
        error = (value[..., None] - self.mean) * (-self.log_std).exp()
        of_component = -0.5 * error.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return (self.logit.log_softmax(-1) + of_component).logsumexp(-1)

    def sample(self, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Draw values ``[..., Z]``.

        Weights are taken to the power of ``1 / temperature``, and variances are multiplied by it. So below 1 the
        likely gets more likely; at 0 each value is the mean of its likeliest component.

        Args:
            temperature: 0 or more.
            generator: the source of all randomness; default: torch's global one.
        """
        if temperature == 0:
            return self._taken(self.mean, self.logit.argmax(-1, keepdim=True))
        shape, like = self.mean.shape[:-1], {"dtype": self.mean.dtype, "device": self.mean.device}
        place = torch.rand(*shape, 1, generator=generator, **like)  # type: ignore[call-overload]
        # Sums of weights up to a common factor, which is cheaper than a softmax over a few components.
        sums = ((self.logit - self.logit.amax(-1, keepdim=True)) / temperature).exp().cumsum(-1)
        component = torch.searchsorted(sums, place * sums[..., -1:]).clamp(max=sums.shape[-1] - 1)  # beyond it for NaN
        noise = torch.randn(shape, generator=generator, **like)  # type: ignore[call-overload]
        std = math.sqrt(temperature) * self._taken(self.log_std, component).exp()
        return torch.addcmul(self._taken(self.mean, component), std, noise)

    @staticmethod
    def _taken(of_components: Tensor, component: Tensor) -> Tensor:
        return of_components.gather(-1, component)[..., 0]
