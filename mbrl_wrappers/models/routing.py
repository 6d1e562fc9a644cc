"""Which member of an ensemble evaluates which rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_wrappers.models.heads import Outputs
from mbrl_wrappers.models.network import EnsembleMLP


class Deal(NamedTuple):
    """Rows dealt out to members.

    Attributes:
        members: the members that have rows.
        shares: how many rows each of them has.
        order: ``[B]`` int64, the rows of the first member, then those of the next.
    """

    members: list[int]
    shares: list[int]
    order: Tensor


def dealt(rows: int, members: list[int], generator: torch.Generator | None, device: torch.device) -> Deal:
    """Deal rows out to members at random, in shares that differ by at most one row.

    Args:
        rows: number of rows.
        members: the members to deal to, at least one.
        generator: on ``device``.
        device: of the indices.
    """
    if rows == 1:
        pick = torch.randint(len(members), (1,), generator=generator, device=device)
        return Deal([members[int(pick)]], [1], pick.zero_())
    order = torch.randperm(rows, generator=generator, device=device)
    hands = torch.randperm(len(members), generator=generator, device=device).tolist()[:rows]
    share, odd = divmod(rows, len(hands)) if hands else (0, 0)
    shares = [share + 1] * odd + [share] * (len(hands) - odd)
    return Deal([members[hand] for hand in hands], shares, order)


def grouped(members: Tensor, num_members: int) -> Deal:
    """Group rows whose members are ``members [B]``.

    Raises:
        ValueError: for a member that does not exist.
    """
    values, counts = members.unique(return_counts=True)
    present = [int(member) for member in values.tolist()]
    if present and not 0 <= present[0] <= present[-1] < num_members:
        raise ValueError(f"members must be in [0, {num_members}), got {present}")
    return Deal(present, counts.tolist(), members.argsort(stable=True))


def member_of_row(deal: Deal) -> Tensor:
    """Return the member that each row was dealt to, ``[B]`` int64."""
    members = torch.empty_like(deal.order)
    for member, rows in zip(deal.members, deal.order.split(deal.shares), strict=True):
        members.index_fill_(0, rows, member)
    return members


def evaluate(network: EnsembleMLP, x: Tensor, deal: Deal) -> Outputs:
    """Evaluate each row of ``x`` by its own member; returns fields in the order of ``x``."""
    if len(deal.members) <= 1:  # without rows, there are no members
        return network.member(deal.members[0] if deal.members else 0, x)
    # index_select copies whole rows; x[order] looks up entry by entry and takes three times as long.
    out = network.last_layer(deal.members, deal.shares, x.index_select(0, deal.order))
    return network.of_outputs(torch.empty_like(out).index_copy(0, deal.order, out), member_of_row(deal))
