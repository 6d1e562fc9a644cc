"""Which member of an ensemble evaluates which rows."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_wrappers.models.heads import Outputs
from mbrl_wrappers.models.network import EnsembleMLP

Groups = list[tuple[int, Tensor]]
"""Members, and the indices of the rows of each."""


def dealt(rows: int, members: list[int], generator: torch.Generator | None, device: torch.device) -> Groups:
    """Deal rows out to members at random, each getting its share up to one row.

    Args:
        rows: number of rows.
        members: who gets a share, at least one.
        generator: on ``device``.
        device: of the indices.
    """
    if rows == 1:
        pick = int(torch.randint(len(members), (1,), generator=generator, device=device))
        return [(members[pick], torch.zeros(1, dtype=torch.long, device=device))]
    order = torch.randperm(rows, generator=generator, device=device)
    hands = torch.randperm(len(members), generator=generator, device=device).tolist()
    shares = order.tensor_split(len(hands))
    return [(members[hand], share) for hand, share in zip(hands, shares, strict=True) if len(share)]


def grouped(members: Tensor, num_members: int) -> Groups:
    """Group rows whose members are ``members [B]``.

    Raises:
        ValueError: for a member that there is not.
    """
    present = members.unique().tolist()
    if present and not 0 <= present[0] <= present[-1] < num_members:
        raise ValueError(f"members must be in [0, {num_members}), got {present}")
    return [(int(member), (members == member).nonzero()[:, 0]) for member in present]


def member_of_row(groups: Groups, rows: int, device: torch.device) -> Tensor:
    """Return ``[rows]`` int64, whose each row is."""
    members = torch.empty(rows, dtype=torch.long, device=device)
    for member, share in groups:
        members[share] = member
    return members


def evaluate(network: EnsembleMLP, x: Tensor, groups: Groups) -> Outputs:
    """Evaluate each row of ``x`` by its own member; returns fields in the order of ``x``."""
    if len(groups) <= 1:  # no rows have no groups
        return network.member(groups[0][0] if groups else 0, x)
    # index_select copies whole rows; x[rows] looks up entry by entry and takes three times as long.
    parts = [network.member(member, x.index_select(0, rows)) for member, rows in groups]
    inverse = torch.empty(len(x), dtype=torch.long, device=x.device)
    inverse[torch.cat([rows for _, rows in groups])] = torch.arange(len(x), device=x.device)
    return Outputs(*(torch.cat(column).index_select(0, inverse) for column in zip(*parts, strict=True)))
