"""How a network's targets make the next observation, column by column, and how transitions make targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbrl_wrappers.spaces import FlatSpace, straight_through
from mbrl_wrappers.types import Transitions


def moves(transitions: Transitions) -> Tensor:
    """Return ``[D]`` bool, which columns change within any step by more than rounding.

    In a column with a wide range of values, changes by a few units in the last place come from a constant that is
    computed anew at each step.
    """
    obs, next_obs = transitions.obs.double(), transitions.next_obs.double()
    unit = torch.finfo(transitions.obs.dtype).eps * obs.abs().amax(0)
    takes_many = obs.amax(0) - obs.amin(0) > 1e3 * unit
    return (next_obs - obs).abs().amax(0) > torch.where(takes_many, 4 * unit, 0.0)


class ObservationColumns(nn.Module):
    """Continuous columns are predicted by their change or next value, one-hot blocks and flags by their next value.

    A column that did not change in any transition fitted on keeps its value exactly: goals, masks, parameters of an
    episode. Whole numbers are rounded. With a ``range_margin``, a prediction leaves the observed range of a continuous
    column by at most this share of the range, and never the space's bounds (widened where the env itself leaves them).

    Args:
        codec: of the observations, ``D`` columns: ``C`` continuous ones, ``L`` in blocks and flags.
        range_margin: at least 0; None to bound whole numbers only.
        residual: whether the targets of continuous columns are their changes; otherwise they are their next values.

    Attributes:
        changes: ``[D]`` bool, whether a column has changed within a step; all True before the first fit.
    """

    changes: Tensor
    _order: Tensor
    _places: Tensor
    _rounds: Tensor
    _low: Tensor
    _high: Tensor
    _slack: Tensor

    def __init__(self, codec: FlatSpace, range_margin: float | None, residual: bool = True) -> None:
        super().__init__()
        self._codec = codec
        self._residual = residual
        self._range_margin = range_margin
        in_block = ~(codec.is_continuous | codec.is_binary)
        # Blocks come first among the discrete columns, as in a network's heads.
        order = [mask.nonzero()[:, 0] for mask in (codec.is_continuous, in_block, codec.is_binary)]
        self.num_continuous = len(order[0])
        self.num_discrete = codec.dim - self.num_continuous
        self.categories = tuple(stop - start for start, stop in codec.blocks)
        self.num_flags = len(order[2])
        self._is_plain = self.num_discrete == 0
        self.register_buffer("_order", torch.cat(order), persistent=False)
        self.register_buffer("_places", torch.cat(order).argsort(), persistent=False)
        self.register_buffer("changes", torch.ones(codec.dim, dtype=torch.bool))
        self.register_buffer("_rounds", codec.is_whole[order[0]], persistent=False)
        self.register_buffer("_low", torch.zeros(self.num_continuous, dtype=torch.float64), persistent=False)
        self.register_buffer("_high", torch.zeros(self.num_continuous, dtype=torch.float64), persistent=False)
        # Rounding may push a state at its bound slightly beyond; up to this much, it doesn't count as outside.
        self.register_buffer("_slack", torch.zeros(self.num_continuous, dtype=torch.float64), persistent=False)
        self._any_rounds = bool(codec.is_whole.any())
        self._all_change, self._is_bounded = True, False
        self.set_range(None)

    # -- what a fit finds out about the columns --------------------------------------------------------

    def fit(self, transitions: Transitions) -> None:
        """Find out which columns change; a one-hot block changes as a whole."""
        changes = moves(transitions)
        for start, stop in self._codec.blocks:
            changes[start:stop] = changes[start:stop].any()
        self.changes.copy_(changes)
        self._all_change = bool(changes.all())

    def set_range(self, seen: Tensor | None) -> None:
        """Bound the continuous columns.

        Args:
            seen: ``[2, D]`` lowest and highest observed values; None before the first fit.
        """
        order = self._order[: self.num_continuous].cpu()
        low, high = (bound[order] for bound in self._codec.bounds)
        if self._range_margin is None:
            free, whole = torch.full_like(low, torch.inf), self._rounds.cpu()
            low, high = torch.where(whole, low, -free), torch.where(whole, high, free)
        elif seen is not None:
            least, most = seen.cpu()[:, order]
            margin = self._range_margin * (most - least)
            low, high = torch.maximum(low, least - margin), torch.minimum(high, most + margin)
            whole = self._rounds.cpu()
            low, high = torch.where(whole, low.ceil(), low), torch.where(whole, high.floor(), high)
        self._is_bounded = bool((torch.isfinite(low) | torch.isfinite(high)).any())
        self._low.copy_(low)
        self._high.copy_(high)
        size = torch.where(torch.isfinite(low), low.abs(), 0.0) + torch.where(torch.isfinite(high), high.abs(), 0.0)
        self._slack.copy_(1e-4 * (1e-2 + size))

    def counts(self) -> tuple[Tensor, Tensor]:
        """Return which targets are to be learned, 1 or 0: ``[C]`` continuous and ``[L]`` discrete ones."""
        continuous, discrete = self.changes[self._order].float().split([self.num_continuous, self.num_discrete])
        return continuous, discrete

    # -- from observations to targets and back ----------------------------------------------------------

    def targets_of(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """Return the targets ``[..., C]`` of the continuous columns, from ``[..., D]``."""
        after = self._continuous(next_obs)
        return after - self._continuous(obs) if self._residual else after

    def change_to(self, obs: Tensor, target: Tensor) -> Tensor:
        """Return the changes ``[B, C]`` that targets stand for, for steps from ``obs [B, D]``."""
        return target if self._residual else (target - self._continuous(obs)).to(target)

    def target_at(self, obs: Tensor, change: Tensor) -> Tensor:
        """Return the targets ``[B, C]`` that stand for changes: the inverse of :meth:`change_to`."""
        return change if self._residual else (self._continuous(obs) + change).to(change)

    def discrete_of(self, obs: Tensor) -> Tensor:
        """Return the blocks, then the flags, ``[..., L]``."""
        return obs[..., :0] if self._is_plain else obs.index_select(-1, self._order[self.num_continuous :])

    def bound(self, obs: Tensor, change: Tensor) -> Tensor:
        """Return predicted changes ``[B, C]`` of ``obs [B, D]``, rounded, bounded, and 0 in constant columns."""
        if self._is_bounded or self._any_rounds:
            before = self._continuous(obs)
            if self._any_rounds:
                rounded = ((before + change).round() - before).to(change)
                change = torch.where(self._rounds, straight_through(rounded, change), change)
            if self._is_bounded:
                low, high = (bound.to(before.dtype) - before for bound in (self._low, self._high))
                # Imagined states must not leave the bounds; a real state outside of a bound isn't pulled back.
                slack = self._slack.to(before.dtype)
                low = torch.where(low > slack, -torch.inf, low).to(change)
                high = torch.where(high < -slack, torch.inf, high).to(change)
                change = straight_through(torch.clamp(change, low, high), change)
        return self.keep_constants(change)

    def keep_constants(self, change: Tensor) -> Tensor:
        """Return changes ``[B, C]``, set to 0 without a gradient in columns that never change."""
        if self._all_change:
            return change
        changes = self.changes if self._is_plain else self.changes[self._order[: self.num_continuous]]
        return torch.where(changes, change, 0.0)

    def land(self, obs: Tensor, change: Tensor, discrete: Tensor) -> Tensor:
        """Return the next observations ``[B, D]`` from ``obs``, changes ``[B, C]`` and discrete columns ``[B, L]``."""
        if self._is_plain:
            return obs + change
        columns = torch.cat([self._continuous(obs) + change, discrete.to(obs.dtype)], dim=-1)
        next_obs = columns.index_select(-1, self._places)
        return next_obs if self._all_change else torch.where(self.changes, next_obs, obs)

    def _continuous(self, obs: Tensor) -> Tensor:
        return obs if self._is_plain else obs.index_select(-1, self._order[: self.num_continuous])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._all_change = bool(self.changes.all())
