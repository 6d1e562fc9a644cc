"""The rule by which an imagined step is of no use to an agent: it is not finite, or far from all that is real."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# In widths of the real states' range. Values this far off ruin an agent that is trained on them, long before they
# overflow.
FAR = 100.0


class RealRange(NamedTuple):
    """The range in which observations are believed: its lower and upper ends, ``[D]`` each."""

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, obs: Tensor) -> RealRange:
        """Return the range of real observations ``[N, D]``, widened by ``FAR (width + 1)``.

        It is unbounded if ``N = 0``, and for images in bytes, which can't run away.
        """
        if not len(obs) or not obs.is_floating_point():
            infinity = torch.full_like(obs.sum(0), torch.inf, dtype=torch.promote_types(obs.dtype, torch.float32))
            return cls(-infinity, infinity)
        low, high = obs.aminmax(dim=0)
        margin = FAR * (high - low + 1)
        return cls(low - margin, high + margin)

    def holds(self, obs: Tensor) -> Tensor:
        """Tell which observations ``[..., D]`` are finite and in the range, ``[...]``."""
        return (torch.isfinite(obs) & (obs >= self.low) & (obs <= self.high)).all(-1)


def all_finite(rows: Tensor) -> Tensor:
    """Tell which rows ``[..., D]`` hold finite numbers only, ``[...]``.

    Their sum is finite only then, and is cheaper than testing each number of wide rows. A sum that overflows counts as
    not finite.
    """
    return torch.isfinite(rows.sum(-1))


def has_diverged(next_obs: Tensor, reward: Tensor, believed: RealRange | None = None) -> Tensor:
    """Tell which steps are of no use, ``[...]`` bool: the one rule of imagined envs, strategies and gradients.

    Callers react differently: an imagined episode is truncated at the state before the step, a strategy drops the row,
    and a differentiable rollout stays where it was.

    Args:
        next_obs: ``[..., D]``.
        reward: ``[...]``.
        believed: the range in which observations are believed; default: all finite values.
    """
    finite = all_finite(next_obs) if believed is None else believed.holds(next_obs)
    return ~(finite & torch.isfinite(reward))
