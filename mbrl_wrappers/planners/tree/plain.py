"""The inner loops of a search in NumPy, all roots at a time, for machines without numba.

``compiled.py`` does the same for one root after the other. Sums run in the same order, so that both choose the same
actions.
"""

from __future__ import annotations

import numpy as np

from mbrl_wrappers.planners.tree.rules import GUMBEL_RULE, PUCT_RULE, TINY, Rule
from mbrl_wrappers.planners.tree.storage import NO_CHILD, Nodes


def select(nodes: Nodes, rule: Rule, parent: np.ndarray, action: np.ndarray, scores: np.ndarray) -> None:
    """Walk from each root to an action without a node, or into an ended node; write where it starts and which it is.

    Args:
        nodes: are not changed.
        rule: for the choice.
        parent: ``[B]`` for the nodes from which the last actions start.
        action: ``[B]`` for the last actions.
        scores: scratch space of the compiled kernel.
    """
    rows = np.arange(len(parent))  # [K] the roots that are still under way, and their nodes
    node = np.zeros(len(parent), np.int64)
    chosen = _choose_by_halving(nodes, rule) if rule.kind == GUMBEL_RULE else _choose(nodes, rule, rows, node)
    while len(rows):
        parent[rows], action[rows] = node, chosen
        child = nodes.child[rows, node, chosen]
        goes_on = (child != NO_CHILD) & ~nodes.ended[rows, child]
        rows, node = rows[goes_on], child[goes_on]
        chosen = _choose(nodes, rule, rows, node)


def grow(
    nodes: Nodes,
    rule: Rule,
    new: int,
    parent: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    ended: np.ndarray,
    logits: np.ndarray,
    value: np.ndarray,
    legal: np.ndarray,
) -> int:
    """Add a node to each tree and return its value to the root; an ended node returns its own once more.

    Args:
        nodes: are changed.
        rule: for the factor between a node's value and its parent's.
        new: the index of the new nodes.
        parent: ``[B]`` from :func:`select`.
        action: ``[B]`` from :func:`select`.
        reward: ``[B]`` of the step.
        ended: ``[B]`` bool.
        logits: ``[B, A]``.
        value: ``[B]``.
        legal: ``[B, A]`` bool.

    Returns:
        The first root with numbers that are not finite or without a legal action, or -1.
    """
    rows = np.arange(len(parent))
    child = nodes.child[rows, parent, action]
    added = rows[child == NO_CHILD]
    live = added[~ended[added]]
    numbers = np.isfinite(np.where(legal, logits, 0.0)).all(1) & legal.any(1) & np.isfinite(value)
    is_bad = ~np.isfinite(reward[added]) | ~(ended[added] | numbers[added])
    if is_bad.any():
        return int(added[is_bad][0])
    nodes.child[added, parent[added], action[added]] = new
    for field, values in ((nodes.parent, parent), (nodes.action, action), (nodes.reward, reward), (nodes.ended, ended)):
        field[added, new] = values[added]
    nodes.node_visits[added, new] = 1
    nodes.value[live, new] = value[live]  # in ended nodes, value and prior stay 0
    nodes.prior[live, new] = prior_of(logits[live], legal[live])
    _back_up(nodes, rule.factor, np.where(child == NO_CHILD, new, child))
    return -1


def grow_and_select(
    nodes: Nodes,
    rule: Rule,
    new: int,
    parent: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    ended: np.ndarray,
    logits: np.ndarray,
    value: np.ndarray,
    legal: np.ndarray,
    scores: np.ndarray,
) -> int:
    """End a simulation by :func:`grow` and begin the next one by :func:`select`."""
    bad = grow(nodes, rule, new, parent, action, reward, ended, logits, value, legal)
    if bad < 0:
        select(nodes, rule, parent, action, scores)
    return bad


def prior_of(logits: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Return the softmax of the legal actions' logits, ``[K, A]``; 0 for illegal actions and for no others."""
    logits = np.where(legal, logits, -np.inf)
    prior = np.exp(logits - logits.max(1, keepdims=True))
    return np.where(legal, np.maximum(prior / _sum(prior)[:, None], TINY), 0.0)


def _sum(terms: np.ndarray) -> np.ndarray:
    """Sum ``[K, A]`` over actions from first to last; NumPy's own sum pairs them up where there are many."""
    return terms.cumsum(1)[:, -1]


def _back_up(nodes: Nodes, factor: float, node: np.ndarray) -> None:
    rows = np.arange(len(node))
    value = nodes.value[rows, node]
    while len(rows):
        parent, a = nodes.parent[rows, node], nodes.action[rows, node]
        value = nodes.reward[rows, node] + factor * value  # G(s, a) = r + factor V(s')
        nodes.node_visits[rows, parent] += 1
        nodes.visits[rows, parent, a] += 1
        nodes.total[rows, parent, a] += value
        q = nodes.total[rows, parent, a] / nodes.visits[rows, parent, a]
        nodes.q[rows, parent, a] = q
        nodes.low[rows] = np.minimum(nodes.low[rows], q)
        nodes.high[rows] = np.maximum(nodes.high[rows], q)
        below = parent != 0
        rows, node, value = rows[below], parent[below], value[below]


def _choose(nodes: Nodes, rule: Rule, rows: np.ndarray, node: np.ndarray) -> np.ndarray:
    if rule.kind == PUCT_RULE:
        return _choose_by_puct(nodes, rule, rows, node)
    if rule.kind == GUMBEL_RULE:
        return _choose_by_improved_policy(nodes, rule, rows, node)
    return _choose_by_uct(nodes, rule, rows, node)


def _choose_by_puct(nodes: Nodes, rule: Rule, rows: np.ndarray, node: np.ndarray) -> np.ndarray:
    """AlphaZero: argmax Q(s, a) + c(N) P(s, a) sqrt(N) / (1 + n(s, a)), Q being 0 where n is."""
    prior, visits = nodes.prior[rows, node], nodes.visits[rows, node]  # [K, A]
    exploration = rule.exploration[nodes.node_visits[rows, node]]
    score = _rescaled_q(nodes, rule, rows, node) + exploration[:, None] * prior / (1 + visits)
    return np.where(prior > 0, score, -np.inf).argmax(1)


def _choose_by_uct(nodes: Nodes, rule: Rule, rows: np.ndarray, node: np.ndarray) -> np.ndarray:
    """UCT: argmax Q(s, a) + c sqrt(log N / n(s, a)) + w_a P(s, a) / (n(s, a) + 1).

    Actions without a visit come first, the likeliest before the others.
    """
    prior, visits = nodes.prior[rows, node], nodes.visits[rows, node]  # [K, A]
    exploration = rule.exploration[nodes.node_visits[rows, node]]
    bonus = exploration[:, None] / np.sqrt(np.maximum(visits, 1)) + rule.bonus * prior / (visits + 1)
    score = np.where(prior > 0, _rescaled_q(nodes, rule, rows, node) + bonus, -np.inf)
    untried = np.where(visits == 0, prior, 0.0)
    return np.where(untried.any(1), untried.argmax(1), score.argmax(1))


def _rescaled_q(nodes: Nodes, rule: Rule, rows: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Return Q(s, a) ``[K, A]``, brought to [0, 1] by the range in the tree if the rule says so; 0 where n(s, a) is."""
    q, visits = nodes.q[rows, node], nodes.visits[rows, node]
    if not rule.rescaled:
        return q
    low, high = nodes.low[rows, None], nodes.high[rows, None]
    is_wide = high > low
    low, width = np.where(is_wide, low, 0.0), np.where(is_wide, high, 1.0) - np.where(is_wide, low, 0.0)
    return np.where((visits > 0) & is_wide, (q - low) / width, 0.0)


def _choose_by_halving(nodes: Nodes, rule: Rule) -> np.ndarray:
    """Gumbel at the root: argmax g(a) + log P(a) + sigma(Q(a)) of the actions whose turn it is."""
    rows = np.arange(len(nodes.prior))
    prior, visits = nodes.prior[:, 0], nodes.visits[:, 0] - rule.before  # [B, A]
    considered = np.minimum((prior > 0).sum(1), len(rule.schedule) - 1)
    turn = rule.schedule[considered, visits.sum(1)]
    score = rule.preference + transformed_q(nodes, rule, rows, 0 * rows)
    return np.where((prior > 0) & (visits == turn[:, None]), score, -np.inf).argmax(1)


def _choose_by_improved_policy(nodes: Nodes, rule: Rule, rows: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Gumbel below the root: argmax pi'(a) N - n(a), for pi' = softmax(log P + sigma(Q)) and N = 1 + sum of n."""
    prior, visits, count = nodes.prior[rows, node], nodes.visits[rows, node], nodes.node_visits[rows, node]
    policy = prior * np.exp(transformed_q(nodes, rule, rows, node))
    score = policy * (count / _sum(policy))[:, None] - visits
    return np.where(prior > 0, score, -np.inf).argmax(1)


def completed_q(nodes: Nodes, rows: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Return Q(s, a) ``[K, A]``, the mixed value for actions without a visit.

    Danihelka et al. (2022), equation 10 and appendix D: the mixed value is
    ``(v + sum n * (sum of P q over visited actions) / (sum of their P)) / (1 + sum n)``.
    """
    q, count, value = nodes.q[rows, node], nodes.node_visits[rows, node], nodes.value[rows, node]
    visited = nodes.visits[rows, node] > 0  # [K, A]
    likely = np.where(visited, nodes.prior[rows, node], 0.0)
    mass, weighted = _sum(likely), _sum(likely * q)
    mixed = (value + (count - 1) * (weighted / np.where(mass > 0, mass, 1.0))) / count
    return np.where(visited, q, np.where(mass > 0, mixed, value)[:, None])


def transformed_q(nodes: Nodes, rule: Rule, rows: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Return sigma(Q(s, a)) ``[K, A]`` of the completed values less the highest, minus infinity for illegal actions.

    Danihelka et al. (2022), equation 8: ``sigma(q) = (c_visit + max n) c_scale q``. For one player, the range of q is
    brought to 1 first. To subtract a state's highest value changes neither a softmax nor an argmax.
    """
    q, is_legal = completed_q(nodes, rows, node), nodes.prior[rows, node] > 0
    scale = (rule.visit_offset + nodes.visits[rows, node].max(1, keepdims=True)) * rule.value_scale
    high = np.where(is_legal, q, -np.inf).max(1, keepdims=True)
    if rule.rescaled:
        low = np.where(is_legal, q, np.inf).min(1, keepdims=True)
        scale = scale / np.where(high > low, high - low, 1.0)
    return np.where(is_legal, scale * (q - high), -np.inf)
