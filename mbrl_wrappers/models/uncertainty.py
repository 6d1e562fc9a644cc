"""How unsure an ensemble is of a step: measures on the Gaussians that its members predict.

All take the members' predictions of the same rows, and for each row the member that it was sampled from. Predictions of
:class:`~mbrl_wrappers.models.EnsembleDynamics` are its normalised targets, including a learned reward. The higher a
measure, the less the step should be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MemberGaussians:
    """The predictions of ``M`` members for the same ``B`` rows: diagonal Gaussians over ``T`` targets.

    Attributes:
        mean: ``[M, B, T]``.
        std: ``[M, B, T]``, above 0.
    """

    mean: Tensor
    std: Tensor


# ``(gaussians, drawn [B]) -> [B]``; ``drawn`` is the index, among the ``M`` members, of the one that a row is from.
Measure = Callable[[MemberGaussians, Tensor], Tensor]


def one_versus_rest(gaussians: MemberGaussians, drawn: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the drawn member from the moment-matched mixture of the others.

    The one-versus-rest uncertainty of M2AC (Pan et al. 2020).
    """
    mean, var = gaussians.mean, gaussians.std.square()
    others = torch.ones(mean.shape[:2], dtype=mean.dtype, device=mean.device)
    others.scatter_(0, drawn[None], 0.0)
    share = (others / (len(mean) - 1))[..., None]
    rest_mean = (share * mean).sum(0)
    rest_var = (share * (var + (mean - rest_mean).square())).sum(0)
    index = drawn[None, :, None].expand(1, *mean.shape[1:])
    own_mean, own_var = mean.gather(0, index)[0], var.gather(0, index)[0]
    ratio = (own_var + (own_mean - rest_mean).square()) / rest_var
    return 0.5 * (rest_var.log() - own_var.log() + ratio - 1).sum(-1)


def max_aleatoric_std(gaussians: MemberGaussians, drawn: Tensor) -> Tensor:
    """Norm of the standard deviations of the member that predicts the most noise; MOPO's (Yu et al. 2020, 4.3)."""
    return gaussians.std.norm(dim=-1).amax(0)


def max_disagreement(gaussians: MemberGaussians, drawn: Tensor) -> Tensor:
    """Distance between the means of the two members that disagree the most; MOReL's (Kidambi et al. 2020, 4)."""
    most = gaussians.mean.new_zeros(gaussians.mean.shape[1])
    for first in range(len(gaussians.mean) - 1):
        apart = (gaussians.mean[first + 1 :] - gaussians.mean[first]).norm(dim=-1)
        most = torch.maximum(most, apart.amax(0))
    return most


def mean_variance(gaussians: MemberGaussians, drawn: Tensor) -> Tensor:
    """Variance of the means over the members, averaged over the targets; Plan2Explore's (Sekar et al. 2020, eq. 3)."""
    return gaussians.mean.var(0).mean(-1)


def jensen_renyi(gaussians: MemberGaussians, drawn: Tensor) -> Tensor:
    """Jensen-Renyi divergence of the members, with quadratic entropies; MAX's (Shyam et al. 2019)."""
    members = len(gaussians.mean)
    var = gaussians.std.square()
    overlaps = []
    for mean, own in zip(gaussians.mean, var, strict=True):
        both = own + var
        exponent = (gaussians.mean - mean).square() / both + both.log() + math.log(2 * math.pi)
        overlaps.append(-0.5 * exponent.sum(-1))
    of_mixture = 2 * math.log(members) - torch.cat(overlaps).logsumexp(0)
    of_members = 0.5 * (var.log() + math.log(4 * math.pi)).sum(-1).mean(0)
    return of_mixture - of_members


def geometric_jensen_shannon(gaussians: MemberGaussians, drawn: Tensor) -> Tensor:
    """Geometric Jensen-Shannon divergence (Nielsen 2019), mean over the pairs of members.

    MACURA's (Frauenknecht et al. 2024): the mean of the divergences of two members from their normalised geometric
    mean, whose precision is the mean of their precisions.
    """
    members = len(gaussians.mean)
    precision = gaussians.std.square().reciprocal()
    log_var = 2 * gaussians.std.log()
    total = gaussians.mean.new_zeros(gaussians.mean.shape[1])
    for first in range(members - 1):
        own, other = precision[first], precision[first + 1 :]
        middle = 0.5 * (own + other)
        apart = (gaussians.mean[first + 1 :] - gaussians.mean[first]).square()
        # With p the precisions and g their mean, the middle lies p2 d / (2 g) from the first mean.
        distance = 0.125 * apart * (own.square() + other.square()) / middle
        trace = 0.5 * middle * (own.reciprocal() + other.reciprocal()) - 1
        volume = -middle.log() - 0.5 * (log_var[first] + log_var[first + 1 :])
        total = total + 0.5 * (trace + volume + distance).sum(-1).sum(0)
    return total / (members * (members - 1) / 2)


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        one_versus_rest,
        max_aleatoric_std,
        max_disagreement,
        mean_variance,
        jensen_renyi,
        geometric_jensen_shannon,
    )
}


def resolve_measure(measure: str | Measure) -> Measure:
    """Return the measure with a name; a function is returned as it is.

    Raises:
        ValueError: for an unknown name.
    """
    if callable(measure):
        return measure
    if measure not in MEASURES:
        raise ValueError(f"measure must be a function or one of {sorted(MEASURES)}, got {measure!r}")
    return MEASURES[measure]


def keep_rate_at(step: int, horizon: int) -> float:
    """Return the share of rows that M2AC keeps of a step (Pan et al. 2020).

    Args:
        step: of a rollout, counted from 0, below ``horizon``.
        horizon: steps of the rollout, ``H``.

    Returns:
        ``(H - h) / (2 (H + 1))``; 0.5 for a rollout of one step.
    """
    return 0.5 if horizon == 1 else (horizon - step) / (2 * (horizon + 1))


def most_certain(uncertainty: Tensor, rate: float | Tensor) -> Tensor:
    """Return a mask of the most certain rows of a batch.

    Args:
        uncertainty: ``[B]``; NaN is the least certain.
        rate: share of the batch that is kept, one for all rows or ``[B]``; rounded up.

    Returns:
        ``[B]`` bool.
    """
    place = torch.empty(len(uncertainty), dtype=torch.long, device=uncertainty.device)
    place[uncertainty.argsort(stable=True)] = torch.arange(len(uncertainty), device=uncertainty.device)
    return place < rate * len(uncertainty)
