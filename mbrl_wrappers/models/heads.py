"""The meaning of a network's outputs: Gaussians, mixtures of them, categories and flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.spaces import straight_through

MOST_SPREADS = 10.0
"""The networks of rewards and terminations see changes clamped to this many standard deviations from the mean."""
LEAST_STD = 1e-2
"""Least standard deviation of a category or flag when it is compared as a Gaussian."""


class Outputs(NamedTuple):
    """A network's distribution over its targets; ``...`` are any leading dimensions.

    Attributes:
        mean: ``[..., K * T]``, all targets of the first component, then of the next.
        std: ``[..., K * T]``.
        mixture: ``[..., K]`` unnormalised log-weights of the components; ``[..., 0]`` if there is only one.
        categories: ``[..., S]`` logits, the categories of each block side by side.
        flags: ``[..., F]`` logits.
    """

    mean: Tensor
    std: Tensor
    mixture: Tensor
    categories: Tensor
    flags: Tensor


@dataclass(frozen=True)
class Heads:
    """The layout of a network's last layer, and operations on its outputs.

    Attributes:
        targets: ``T`` continuous targets with a diagonal Gaussian each.
        components: ``K`` Gaussians in a mixture; all targets of a row come from the same one.
        categories: the number of categories of each one-hot block; ``S`` is their sum.
        flags: ``F`` targets that are 0 or 1.
    """

    targets: int = 0
    components: int = 1
    categories: tuple[int, ...] = ()
    flags: int = 0

    @property
    def gaussians(self) -> int:
        """How many means the last layer has, ``K * T``."""
        return self.components * self.targets

    @property
    def widths(self) -> list[int]:
        """Columns of the last layer: means, log-variances, log-weights, logits of categories and of flags."""
        weights = self.components if self.components > 1 else 0
        return [self.gaussians, self.gaussians, weights, sum(self.categories), self.flags]

    # -- the continuous targets --------------------------------------------------------------------

    def moments(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the continuous targets, ``[..., T]`` each."""
        if not outputs.mixture.shape[-1]:  # of one component, or of several that have been merged
            return outputs.mean, outputs.std
        means, stds = self._of_components(outputs)
        weight = outputs.mixture.softmax(-1)[..., None]
        mean = (weight * means).sum(-2)
        variance = (weight * (stds.square() + (means - mean[..., None, :]).square())).sum(-2)  # law of total variance
        return mean, variance.sqrt()

    def sample(self, outputs: Outputs, generator: torch.Generator | None) -> Tensor:
        """Draw the continuous targets ``[..., T]``, differentiable except for the choice of the component."""
        mean, std = outputs.mean, outputs.std
        if outputs.mixture.shape[-1]:
            component = _gumbel_max(outputs.mixture, _uniform_like(outputs.mixture, generator))
            index = component[..., None, None].expand(*component.shape, 1, self.targets)
            mean, std = (part.gather(-2, index).squeeze(-2) for part in self._of_components(outputs))
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return torch.addcmul(mean, std, noise)

    def gaussian_loss(self, outputs: Outputs, target: Tensor, counts: Tensor, beta_nll: float = 0.0) -> Tensor:
        """Return twice the negative log-likelihood per target, up to a constant, ``[...]``.

        For one component this is the mean over the targets of ``(mean - target)^2 / var + log var`` (Chua et al.
        2018, section 4), for several ``-2 log sum_k w_k N_k(target)`` divided by the number of targets.

        Args:
            outputs: of the network.
            target: ``[..., T]``.
            counts: ``[T]``, 1 for the targets that count and 0 for the others.
            beta_nll: weights each term by the variance to this power (Seitzer et al. 2022); for one component only.
        """
        num = counts.sum().clamp(min=1)
        if self.components == 1:
            variance = outputs.std.square()
            terms = (outputs.mean - target).square() / variance + variance.log()
            if beta_nll:
                terms = terms * variance.detach() ** beta_nll
            return (terms * counts).sum(-1) / num
        means, stds = self._of_components(outputs)
        variance = stds.square()
        terms = (means - target[..., None, :]).square() / variance + variance.log()
        per_component = outputs.mixture.log_softmax(-1) - 0.5 * (terms * counts).sum(-1)
        return -2 * per_component.logsumexp(-1) / num

    def _of_components(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations, ``[..., K, T]`` each."""
        shape = (self.components, self.targets)
        return outputs.mean.unflatten(-1, shape), outputs.std.unflatten(-1, shape)

    # -- categories and flags ------------------------------------------------------------------------

    def chances(self, outputs: Outputs) -> Tensor:
        """Return the probabilities of all categories, then of all flags, ``[..., S + F]``."""
        blocks = [block.softmax(-1) for block in outputs.categories.split(self.categories, -1)]
        return torch.cat([*blocks, outputs.flags.sigmoid()], dim=-1)

    def decide(self, chances: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Turn probabilities into one-hot blocks and flags, which have the gradients of the probabilities.

        Args:
            chances: ``[..., S + F]``, see :meth:`chances`.
            uniform: ``[..., S + F]`` random numbers in [0, 1) to sample with; default: the likeliest values.
        """
        *blocks, flags = chances.split([*self.categories, self.flags], -1)
        if uniform is None:
            chosen = [block.argmax(-1) for block in blocks]
            set_flags = flags > 0.5
        else:
            *draws, of_flags = uniform.split([*self.categories, self.flags], -1)
            chosen = [_gumbel_max(block.log(), draw) for block, draw in zip(blocks, draws, strict=True)]
            set_flags = of_flags < flags
        hard = [F.one_hot(index, size) for index, size in zip(chosen, self.categories, strict=True)]
        decided = torch.cat([*hard, set_flags.long()], dim=-1).to(chances.dtype)
        return straight_through(decided, chances)

    def discrete_terms(self, outputs: Outputs, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropies of the blocks, ``[..., B]``, and of the flags, ``[..., F]``.

        Args:
            outputs: of the network.
            target: ``[..., S + F]`` zeros and ones.
        """
        *labels, flag_labels = target.split([*self.categories, self.flags], -1)
        logits = outputs.categories.split(self.categories, -1)
        terms = [-(label * logit.log_softmax(-1)).sum(-1) for label, logit in zip(labels, logits, strict=True)]
        of_blocks = torch.stack(terms, -1) if terms else flag_labels[..., :0]
        return of_blocks, F.binary_cross_entropy_with_logits(outputs.flags, flag_labels, reduction="none")

    def discrete_loss(self, outputs: Outputs, target: Tensor, counts: Tensor) -> Tensor:
        """Return the mean cross-entropy of the blocks plus that of the flags, ``[...]``.

        Args:
            outputs: of the network.
            target: ``[..., S + F]`` zeros and ones.
            counts: ``[S + F]``, 1 for the columns that count and 0 for the others.
        """
        parts = zip(self.discrete_terms(outputs, target), self.counts_of_groups(counts), strict=True)
        return sum(
            ((terms * counted).sum(-1) / counted.sum().clamp(min=1) for terms, counted in parts),
            target.new_zeros(target.shape[:-1]),
        )

    def counts_of_groups(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return which blocks ``[B]`` and which flags ``[F]`` count, by their columns' ``counts [S + F]``."""
        *blocks, flags = counts.split([*self.categories, self.flags], -1)
        return torch.stack([block.amax() for block in blocks]) if blocks else flags[:0], flags


def chance_std(chances: Tensor) -> Tensor:
    """Return the standard deviation of Bernoulli variables, at least ``LEAST_STD``."""
    return (chances * (1 - chances)).clamp(min=LEAST_STD**2).sqrt()


def _uniform_like(value: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(value.shape, generator=generator, dtype=value.dtype, device=value.device)


def _gumbel_max(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw indices ``[...]`` with the chances ``softmax(log_weights [..., N])``, from uniform numbers ``[..., N]``."""
    tiny = torch.finfo(uniform.dtype).tiny
    return (log_weights - (-uniform.clamp(min=tiny).log()).log()).argmax(-1)
