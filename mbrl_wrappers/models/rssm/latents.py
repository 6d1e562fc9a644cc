"""The random part of a latent state: Gaussian (Dreamer V1) or categorical (V2 and V3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.spaces import straight_through

MIN_STD = 0.1
UNIMIX = 0.01


class GaussianLatent:
    """``Z`` independent Gaussians (Hafner et al. 2020).

    Args:
        dim: ``Z``.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.num_outputs = 2 * dim

    def distribution(self, outputs: Tensor) -> Tensor:
        """Turn a network's outputs ``[..., 2 Z]`` into means and standard deviations, ``[..., 2, Z]``."""
        mean, std = outputs.unflatten(-1, (2, self.dim)).unbind(-2)
        return torch.stack([mean, F.softplus(std) + MIN_STD], dim=-2)

    def noise(self, *shape: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise of samples, ``[*shape, Z]``, standard normal."""
        return torch.randn(*shape, self.dim, dtype=like.dtype, device=like.device, generator=generator)

    def sample(self, of: Tensor, noise: Tensor) -> Tensor:
        """Return samples ``[..., Z]`` of distributions ``[..., 2, Z]``, reparameterised."""
        mean, std = of.unbind(-2)
        return torch.addcmul(mean, std, noise)

    def mode(self, of: Tensor) -> Tensor:
        """Return the means ``[..., Z]``."""
        return of[..., 0, :]

    def divergence(self, of: Tensor, other: Tensor) -> Tensor:
        """Return ``KL(of || other)``, ``[...]``."""
        (mean, std), (other_mean, other_std) = of.unbind(-2), other.unbind(-2)
        # KL(N(m, s) || N(n, t)) = log t / s + (s^2 + (m - n)^2) / 2 t^2 - 1 / 2
        squares = (std.square() + (mean - other_mean).square()) / other_std.square()
        return ((other_std / std).log() + 0.5 * (squares - 1)).sum(-1)


class CategoricalLatent:
    """``G`` groups of ``C`` classes, as one-hot vectors side by side (Hafner et al. 2021).

    The probabilities are mixed with 1% of a uniform distribution (Hafner et al. 2023), so that no divergence is
    infinite. Samples have the gradient of the probabilities (straight through).

    Args:
        groups: ``G``.
        classes: ``C``.
    """

    def __init__(self, groups: int, classes: int) -> None:
        self.groups, self.classes = groups, classes
        self.dim = self.num_outputs = groups * classes

    def distribution(self, outputs: Tensor) -> Tensor:
        """Turn a network's outputs ``[..., G C]`` into probabilities ``[..., G, C]``."""
        chances = outputs.unflatten(-1, (self.groups, self.classes)).softmax(-1)
        return (1 - UNIMIX) * chances + UNIMIX / self.classes

    def noise(self, *shape: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise of samples, ``[*shape, G, C]``, exponential."""
        size = (*shape, self.groups, self.classes)
        # Of uniform numbers, which is four times as fast as torch's exponential_ on a CPU.
        return torch.rand(size, dtype=like.dtype, device=like.device, generator=generator).log_().neg_()

    def sample(self, of: Tensor, noise: Tensor) -> Tensor:
        """Return samples ``[..., G C]`` of probabilities ``[..., G, C]``."""
        # The smallest of exponential variables with rates p is the i-th one with the chance p_i.
        return self._one_hot((of / noise).argmax(-1, keepdim=True), of)

    def mode(self, of: Tensor) -> Tensor:
        """Return the likeliest classes ``[..., G C]``."""
        return self._one_hot(of.argmax(-1, keepdim=True), of)

    def divergence(self, of: Tensor, other: Tensor) -> Tensor:
        """Return ``KL(of || other)``, ``[...]``."""
        return (of * (of.log() - other.log())).sum((-2, -1))

    @staticmethod
    def _one_hot(index: Tensor, chances: Tensor) -> Tensor:
        hard = torch.zeros_like(chances).scatter_(-1, index, 1.0)
        return straight_through(hard, chances).flatten(-2)


Latent = GaussianLatent | CategoricalLatent


def make_latent(shape: int | Sequence[int]) -> Latent:
    """Return a Gaussian latent of a width, or a categorical one of groups and classes."""
    return GaussianLatent(shape) if isinstance(shape, int) else CategoricalLatent(*shape)
