"""Three methods of search: how they choose inside a tree, what they conclude from it, and where they draw noise."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.planners.tree import rules
from mbrl_wrappers.planners.tree.plain import prior_of, transformed_q
from mbrl_wrappers.planners.tree.rules import TINY, Rule
from mbrl_wrappers.planners.tree.storage import Nodes

_LARGEST = sys.float_info.max

Generators = Sequence[np.random.Generator]


class Method(ABC):
    """A method of search; all of its randomness comes from the generators, one for each root."""

    def root_prior(self, prior: np.ndarray, generators: Generators) -> np.ndarray:
        """Return the prior ``[B, A]`` that a search uses at its roots; 0 where an action is illegal."""
        return prior

    @abstractmethod
    def rule(self, common: Rule, nodes: Nodes, num_simulations: int, generators: Generators, heat: np.ndarray) -> Rule:
        """Return the rule of a search.

        Args:
            common: the rule's fields that do not depend on the method.
            nodes: at the start of the search.
            num_simulations: of the search.
            generators: one for each root.
            heat: ``[B]`` temperatures.
        """

    def conclude(
        self, nodes: Nodes, rule: Rule, generators: Generators, heat: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the improved policy ``[B, A]`` and the actions ``[B]``: the share of visits, and a sample."""
        visits = nodes.visits[:, 0].astype(np.float64)
        return visits / visits.sum(1, keepdims=True), _sample(visits, generators, heat)


@dataclass(frozen=True)
class PUCT(Method):
    """AlphaZero's search (Silver et al. 2018), for one player MuZero's (Schrittwieser et al. 2020, appendix B).

    An action maximises ``Q(s, a) + c(N) P(s, a) sqrt(N) / (1 + n(s, a))`` with ``c(N) = log((1 + N + c_base) / c_base)
    + c_init``. The prior of a root is mixed with Dirichlet noise, drawn once per search. For one player, Q is brought
    to [0, 1] by the lowest and the highest Q in the tree; while these are equal it is 0, where MuZero takes Q itself.
    An action that was not tried counts as a draw, or for one player as the worst one.

    The improved policy is the share of visits. The chosen action is a sample of ``visits^(1 / temperature)``.

    Args:
        c_base: see above.
        c_init: see above.
        dirichlet_alpha: of the noise; about 10 divided by the number of legal actions.
        dirichlet_fraction: the share of noise in a root's prior; 0 for play without exploration.

    Raises:
        ValueError: for an argument out of its range.
    """

    c_base: float = 19652.0
    c_init: float = 1.25
    dirichlet_alpha: float = 0.3
    dirichlet_fraction: float = 0.25

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_number("c_base", self.c_base, 0, _LARGEST, low_is_valid=False)
        check_number("c_init", self.c_init, 0, _LARGEST)
        check_number("dirichlet_alpha", self.dirichlet_alpha, 0, _LARGEST, low_is_valid=False)
        check_number("dirichlet_fraction", self.dirichlet_fraction, 0, 1)

    def root_prior(self, prior: np.ndarray, generators: Generators) -> np.ndarray:
        """Mix noise into the prior of the legal actions: gamma variables, divided by their sum, are Dirichlet's."""
        if self.dirichlet_fraction == 0:
            return prior
        is_legal = prior > 0
        draws = [generator.standard_gamma(self.dirichlet_alpha, prior.shape[1]) for generator in generators]
        noise = np.where(is_legal, np.maximum(draws, TINY), 0.0)
        noise /= noise.sum(1, keepdims=True)
        return np.where(is_legal, (1 - self.dirichlet_fraction) * prior + self.dirichlet_fraction * noise, 0.0)

    def rule(self, common: Rule, nodes: Nodes, num_simulations: int, generators: Generators, heat: np.ndarray) -> Rule:
        """Return the rule of a search, see :class:`Method`."""
        exploration = rules.puct_exploration(_visits_bound(nodes, num_simulations), self.c_base, self.c_init)
        return common._replace(kind=rules.PUCT_RULE, exploration=exploration)


@dataclass(frozen=True)
class Gumbel(Method):
    """Gumbel AlphaZero and MuZero (Danihelka et al. 2022), which improve the policy even with few simulations.

    At the root, the actions with the highest ``g(a) + log P(a)``, for Gumbel noise g, are compared by sequential
    halving; the winner is the chosen action. Below it, actions are chosen so that visits follow the improved policy
    ``softmax(log P + sigma(Q))``, with ``sigma(q) = (visit_offset + max n) value_scale q`` and the mixed value estimate
    in the place of the Q of actions without visits. There is no Dirichlet noise.

    The temperature scales g: 1 is the paper's, for self-play; 0 takes the best action.

    After a reuse of subtrees, which the paper has not, halving counts the visits of the new search alone, and values
    come from all of them.

    Args:
        max_considered: the number of actions that halving begins with; fewer if there are fewer legal ones.
        visit_offset: c_visit.
        value_scale: c_scale; default: 1 for two players, the paper's for board games, whose values are in [-1, 1]. For
            one player 0.1, as in DeepMind's mctx, where the completed Q of a state are brought to [0, 1].

    Raises:
        ValueError: for an argument out of its range.
    """

    max_considered: int = 16
    visit_offset: float = 50.0
    value_scale: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_whole_number("max_considered", self.max_considered)
        check_number("visit_offset", self.visit_offset, 0, _LARGEST)
        if self.value_scale is not None:
            check_number("value_scale", self.value_scale, 0, _LARGEST, low_is_valid=False)

    def rule(self, common: Rule, nodes: Nodes, num_simulations: int, generators: Generators, heat: np.ndarray) -> Rule:
        """Return the rule of a search, see :class:`Method`."""
        default_scale = 0.1 if common.rescaled else 1.0
        prior = nodes.prior[:, 0]
        noise = np.array([generator.gumbel(size=prior.shape[1]) for generator in generators])
        return common._replace(
            kind=rules.GUMBEL_RULE,
            visit_offset=float(self.visit_offset),
            value_scale=default_scale if self.value_scale is None else float(self.value_scale),
            preference=heat[:, None] * noise + np.log(np.maximum(prior, TINY)),
            before=nodes.visits[:, 0].copy(),
            schedule=rules.halving_schedule(min(self.max_considered, prior.shape[1]), num_simulations),
        )

    def conclude(
        self, nodes: Nodes, rule: Rule, generators: Generators, heat: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the improved policy ``[B, A]``, and the best ``[B]`` of the actions that halving visited most."""
        rows = np.arange(len(nodes.prior))
        prior, visits = nodes.prior[:, 0], nodes.visits[:, 0] - rule.before
        sigma = transformed_q(nodes, rule, rows, 0 * rows)
        is_finalist = visits == visits.max(1, keepdims=True)
        action = np.where(is_finalist, rule.preference + sigma, -np.inf).argmax(1)
        return prior_of(np.log(np.maximum(prior, TINY)) + sigma, prior > 0), action


@dataclass(frozen=True)
class UCT(Method):
    """UCT (Kocsis and Szepesvári 2006), and Expert Iteration's search (Anthony et al. 2017).

    An action maximises ``Q(s, a) + exploration sqrt(log N / n(s, a)) + prior_bonus P(s, a) / (n(s, a) + 1)``; actions
    that were not tried come first, the likeliest before the others. Without a network, logits may be 0, and values
    the outcomes of :class:`~mbrl_wrappers.planners.tree.games.Rollouts`. For one player, Q is brought to [0, 1]
    by the lowest and the highest Q in the tree.

    The improved policy is the share of visits. The chosen action is a sample of ``visits^(1 / temperature)``.

    Args:
        exploration: c_b of Expert Iteration.
        prior_bonus: w_a of Expert Iteration, 100 in its experiments.

    Raises:
        ValueError: for an argument out of its range.
    """

    exploration: float = 2**0.5
    prior_bonus: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_number("exploration", self.exploration, 0, _LARGEST)
        check_number("prior_bonus", self.prior_bonus, 0, _LARGEST)

    def rule(self, common: Rule, nodes: Nodes, num_simulations: int, generators: Generators, heat: np.ndarray) -> Rule:
        """Return the rule of a search, see :class:`Method`."""
        exploration = rules.uct_exploration(_visits_bound(nodes, num_simulations), self.exploration)
        return common._replace(kind=rules.UCT_RULE, exploration=exploration, bonus=float(self.prior_bonus))


def _visits_bound(nodes: Nodes, num_simulations: int) -> int:
    """Return a number above any N(s) = 1 + sum of n(s, a) that the search can come to."""
    return int(nodes.visits[:, 0].sum(1).max()) + num_simulations + 2


def _sample(visits: np.ndarray, generators: Generators, heat: np.ndarray) -> np.ndarray:
    """Draw actions ``[B]`` in proportion to ``visits^(1 / T)``; the first of the most visited ones for T = 0."""
    share = visits / visits.max(1, keepdims=True)  # its power can't overflow
    cumulative = (share ** (1 / np.where(heat > 0, heat, 1.0))[:, None]).cumsum(1)
    draws = np.array([generator.random() for generator in generators])
    sampled = (cumulative > draws[:, None] * cumulative[:, -1:]).argmax(1)
    return np.where(heat > 0, sampled, visits.argmax(1))
