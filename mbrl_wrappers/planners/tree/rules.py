"""The constants by which a search chooses actions inside its trees, in the form that both kinds of kernels take."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

PUCT_RULE, GUMBEL_RULE, UCT_RULE = range(3)

# The least probability of a legal action: 0 means illegal.
TINY = float(np.finfo(np.float64).tiny)


class Rule(NamedTuple):
    """How actions are chosen; a rule leaves the fields of others empty. Fields are as fixed as those of ``Nodes``.

    Attributes:
        kind: ``PUCT_RULE``, ``GUMBEL_RULE`` or ``UCT_RULE``.
        factor: G(s, a) = reward + factor V(s'): the discount, negative if s' is the other player's.
        rescaled: whether values have an unknown range, and are brought to [0, 1].
        exploration: ``[N]`` PUCT: c(N) sqrt(N); UCT: c sqrt(log N), for N = 1 + the visits of a state's actions.
        bonus: UCT: w_a of Expert Iteration.
        visit_offset: Gumbel: c_visit.
        value_scale: Gumbel: c_scale.
        preference: ``[B, A]`` Gumbel: g(a) + log P(a) at the root.
        before: ``[B, A]`` Gumbel: visits of the root's actions before this search.
        schedule: ``[M + 1, S]`` Gumbel: the visits that an action must have in simulation s, for m actions considered.
    """

    kind: int
    factor: float
    rescaled: bool
    exploration: np.ndarray
    bonus: float
    visit_offset: float
    value_scale: float
    preference: np.ndarray
    before: np.ndarray
    schedule: np.ndarray

    @classmethod
    def of(cls, factor: float, *, rescaled: bool) -> Rule:
        """Return the rule of no method yet."""
        floats, counts = np.zeros((0, 0)), np.zeros((0, 0), np.int32)
        return cls(-1, float(factor), rescaled, np.zeros(0), 0.0, 0.0, 0.0, floats, counts, counts)


def puct_exploration(num_visits: int, c_base: float, c_init: float) -> np.ndarray:
    """Return ``c(N) sqrt(N)`` for N below ``num_visits``, with ``c(N) = log((1 + N + c_base) / c_base) + c_init``."""
    visits = np.arange(num_visits)
    return (np.log((1 + visits + c_base) / c_base) + c_init) * np.sqrt(visits)


def uct_exploration(num_visits: int, exploration: float) -> np.ndarray:
    """Return ``c sqrt(log N)`` for ``N`` below ``num_visits``."""
    return exploration * np.sqrt(np.log(np.maximum(np.arange(num_visits), 1)))


def halving_schedule(most_considered: int, num_simulations: int) -> np.ndarray:
    """Return the table of sequential halving (Karnin et al. 2013), ``[M + 1, S]``.

    Of m considered actions, each phase visits the best ones equally often, and keeps half of them, but at least two,
    for the next. An action is in the running if it has as many visits as the best ones have, so the number of visits
    that the next action must have is all that a search has to know.
    """
    table = np.zeros((most_considered + 1, num_simulations), np.int32)
    for considered in range(1, most_considered + 1):
        table[considered] = _halving_visits(considered, num_simulations)
    return table


def _halving_visits(considered: int, num_simulations: int) -> list[int]:
    if considered == 1:
        return list(range(num_simulations))
    phases = math.ceil(math.log2(considered))
    remaining, visits, sequence = considered, 0, list[int]()
    while len(sequence) < num_simulations:
        for _ in range(max(1, num_simulations // (phases * remaining))):
            sequence += [visits] * remaining
            visits += 1
        remaining = max(2, remaining // 2)
    return sequence[:num_simulations]
