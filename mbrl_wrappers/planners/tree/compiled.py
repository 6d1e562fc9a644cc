"""The inner loops of a search, compiled by numba. ``plain.py`` has the same in NumPy, with the same results."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from mbrl_wrappers.planners.tree.rules import GUMBEL_RULE, PUCT_RULE, TINY, Rule
from mbrl_wrappers.planners.tree.storage import NO_CHILD, Nodes

# Kernels allocate nothing, so they can do without numba's counting of references to arrays, which costs more than all
# the rest. Helpers are inlined, since to pass `nodes` on is to copy it.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(function, cache=True, **_OPTIONS)
    except RuntimeError:  # no folder can be written to: compiled anew in every process
        return njit(function, **_OPTIONS)


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    return njit(function, inline="always", **_OPTIONS)


@_compiled
def select(nodes: Nodes, rule: Rule, parent: Any, action: Any, scores: Any) -> None:
    """Walk from each root to an action without a node, or into an ended node; write where it starts and which it is.

    Args:
        nodes: are not changed.
        rule: for the choice.
        parent: ``[B]`` for the nodes from which the last actions start.
        action: ``[B]`` for the last actions.
        scores: ``[A]``, scratch space.
    """
    for b in range(len(parent)):
        node = 0
        while True:
            parent[b], action[b] = node, _choose(nodes, rule, b, node, scores)
            node = nodes.child[b, node, action[b]]
            if node == NO_CHILD or nodes.ended[b, node]:
                break


@_compiled
def grow(
    nodes: Nodes,
    rule: Rule,
    new: int,
    parent: Any,
    action: Any,
    reward: Any,
    ended: Any,
    logits: Any,
    value: Any,
    legal: Any,
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
    for b in range(len(parent)):
        child = nodes.child[b, parent[b], action[b]]
        if child == NO_CHILD:
            child = new
            nodes.child[b, parent[b], action[b]] = new
            nodes.parent[b, new] = parent[b]
            nodes.action[b, new] = action[b]
            nodes.node_visits[b, new] = 1
            nodes.reward[b, new] = reward[b]
            nodes.ended[b, new] = ended[b]
            is_good = math.isfinite(reward[b])
            if not ended[b]:  # otherwise value and prior stay 0
                nodes.value[b, new] = value[b]
                is_good &= math.isfinite(value[b]) and _put_prior(nodes.prior[b, new], logits[b], legal[b])
            if not is_good:
                return b
        _back_up(nodes, rule.factor, b, child)
    return -1


@_compiled
def grow_and_select(
    nodes: Nodes,
    rule: Rule,
    new: int,
    parent: Any,
    action: Any,
    reward: Any,
    ended: Any,
    logits: Any,
    value: Any,
    legal: Any,
    scores: Any,
) -> int:
    """End a simulation by :func:`grow` and begin the next one by :func:`select`, in one call."""
    bad = grow(nodes, rule, new, parent, action, reward, ended, logits, value, legal)
    if bad < 0:
        select(nodes, rule, parent, action, scores)
    return bad


@_inlined
def _put_prior(prior: Any, logits: Any, legal: Any) -> bool:
    """Write the softmax of the legal actions' logits; tell whether it was possible."""
    highest = -np.inf
    for a in range(len(prior)):
        if legal[a]:
            if not math.isfinite(logits[a]):
                return False
            highest = max(highest, logits[a])
    mass = 0.0
    for a in range(len(prior)):
        if legal[a]:
            prior[a] = math.exp(logits[a] - highest)
            mass += prior[a]
    for a in range(len(prior)):
        prior[a] = max(prior[a] / mass, TINY) if legal[a] else 0.0
    return highest > -np.inf


@_inlined
def _back_up(nodes: Nodes, factor: float, b: int, node: int) -> None:
    value = nodes.value[b, node]
    while node != 0:
        parent, a = nodes.parent[b, node], nodes.action[b, node]
        value = nodes.reward[b, node] + factor * value  # G(s, a) = r + factor V(s')
        nodes.node_visits[b, parent] += 1
        nodes.visits[b, parent, a] += 1
        nodes.total[b, parent, a] += value
        q = nodes.total[b, parent, a] / nodes.visits[b, parent, a]
        nodes.q[b, parent, a] = q
        nodes.low[b] = min(nodes.low[b], q)
        nodes.high[b] = max(nodes.high[b], q)
        node = parent


@_inlined
def _choose(nodes: Nodes, rule: Rule, b: int, node: int, scores: Any) -> int:
    if rule.kind == GUMBEL_RULE:
        if node == 0:
            return _choose_by_halving(nodes, rule, b)
        return _choose_by_improved_policy(nodes, rule, b, node, scores)
    _put_rescaled_q(nodes, rule, b, node, scores)
    if rule.kind == PUCT_RULE:
        _score_by_puct(nodes, rule, b, node, scores)
    else:
        _score_by_uct(nodes, rule, b, node, scores)
    best, chosen = -np.inf, 0
    for a in range(len(scores)):
        if scores[a] > best:
            best, chosen = scores[a], a
    return chosen


@_inlined
def _put_rescaled_q(nodes: Nodes, rule: Rule, b: int, node: int, scores: Any) -> None:
    """Write Q(s, a), brought to [0, 1] by the range in the tree if the rule says so; 0 where n(s, a) is."""
    q, visits = nodes.q[b, node], nodes.visits[b, node]
    low, width = nodes.low[b], nodes.high[b] - nodes.low[b]
    for a in range(len(scores)):
        if rule.rescaled:
            scores[a] = (q[a] - low) / width if visits[a] > 0 and width > 0 else 0.0
        else:
            scores[a] = q[a]


@_inlined
def _score_by_puct(nodes: Nodes, rule: Rule, b: int, node: int, scores: Any) -> None:
    """AlphaZero: Q(s, a) + c(N) P(s, a) sqrt(N) / (1 + n(s, a)), Q being 0 where n is."""
    prior, visits = nodes.prior[b, node], nodes.visits[b, node]
    exploration = rule.exploration[nodes.node_visits[b, node]]
    for a in range(len(scores)):
        bonus = exploration * prior[a] / (1 + visits[a])
        scores[a] = scores[a] + bonus if prior[a] > 0 else -np.inf


@_inlined
def _score_by_uct(nodes: Nodes, rule: Rule, b: int, node: int, scores: Any) -> None:
    """UCT: Q(s, a) + c sqrt(log N / n(s, a)) + w_a P(s, a) / (n(s, a) + 1).

    Actions without a visit come first, the likeliest before the others.
    """
    prior, visits = nodes.prior[b, node], nodes.visits[b, node]
    exploration = rule.exploration[nodes.node_visits[b, node]]
    any_untried = False
    for a in range(len(scores)):
        any_untried |= prior[a] > 0 and visits[a] == 0
    for a in range(len(scores)):
        if prior[a] == 0 or (any_untried and visits[a] > 0):
            scores[a] = -np.inf
        elif any_untried:
            scores[a] = prior[a]
        else:
            scores[a] += exploration / math.sqrt(visits[a]) + rule.bonus * prior[a] / (visits[a] + 1)


@_inlined
def _choose_by_halving(nodes: Nodes, rule: Rule, b: int) -> int:
    """Gumbel at the root: argmax g(a) + log P(a) + sigma(Q(a)) of the actions whose turn it is."""
    q, prior, visits, before = nodes.q[b, 0], nodes.prior[b, 0], nodes.visits[b, 0], rule.before[b]
    untried, highest, scale = _completion(nodes, rule, b, 0)
    simulation, considered = 0, 0
    for a in range(len(prior)):
        simulation += visits[a] - before[a]
        considered += prior[a] > 0
    turn = rule.schedule[min(considered, len(rule.schedule) - 1), simulation]
    best, chosen = -np.inf, 0
    for a in range(len(prior)):
        if prior[a] > 0 and visits[a] - before[a] == turn:
            score = rule.preference[b, a] + scale * ((q[a] if visits[a] > 0 else untried) - highest)
            if score > best:
                best, chosen = score, a
    return chosen


@_inlined
def _choose_by_improved_policy(nodes: Nodes, rule: Rule, b: int, node: int, scores: Any) -> int:
    """Gumbel below the root: argmax pi'(a) N - n(a), for pi' = softmax(log P + sigma(Q)) and N = 1 + sum of n.

    All actions without a visit have the same completed Q, and share an exponential; that of the highest Q is 1.
    """
    q, prior, visits, count = nodes.q[b, node], nodes.prior[b, node], nodes.visits[b, node], nodes.node_visits[b, node]
    untried, highest, scale = _completion(nodes, rule, b, node)
    weight_untried = math.exp(scale * (untried - highest)) if untried < highest else 1.0
    mass = 0.0
    for a in range(len(scores)):
        weight = weight_untried
        if visits[a] > 0:
            weight = math.exp(scale * (q[a] - highest)) if q[a] < highest else 1.0
        scores[a] = prior[a] * weight
        mass += scores[a]
    factor = count / mass
    best, chosen = -np.inf, 0
    for a in range(len(scores)):
        score = factor * scores[a] - visits[a] if prior[a] > 0 else -np.inf
        chosen = a if score > best else chosen
        best = max(score, best)
    return chosen


@_inlined
def _completion(nodes: Nodes, rule: Rule, b: int, node: int) -> tuple[float, float, float]:
    """Return the completed Q of actions without a visit, the highest of all legal ones, and the scale of sigma.

    Conditional values in place of branches: which actions were visited can't be predicted.
    """
    q, prior, visits = nodes.q[b, node], nodes.prior[b, node], nodes.visits[b, node]
    most, mass, weighted, any_untried = 0, 0.0, 0.0, False
    low, high = np.inf, -np.inf
    for a in range(len(q)):
        is_visited = visits[a] > 0
        likely = prior[a] if is_visited else 0.0
        mass += likely
        weighted += likely * q[a]
        most = max(most, visits[a])
        low, high = min(low, q[a] if is_visited else np.inf), max(high, q[a] if is_visited else -np.inf)
        any_untried |= prior[a] > likely
    value = nodes.value[b, node]
    if most > 0:
        count = nodes.node_visits[b, node]
        value = (value + (count - 1) * (weighted / mass)) / count  # the mixed value, appendix D
    if any_untried:
        low, high = min(low, value), max(high, value)
    scale = (rule.visit_offset + most) * rule.value_scale  # equation 8
    return value, high, scale / (high - low) if rule.rescaled and high > low else scale
