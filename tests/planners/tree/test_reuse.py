"""After a move, the subtree that it leads to is the start of the next search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mbrl_wrappers.planners.tree import PUCT, UCT, Gumbel, Method, Root, Trees, TreeSearch, follow, root_generators
from mbrl_wrappers.planners.tree.plain import prior_of
from testing.trees import Node, RandomTree, Reference

METHODS = [Gumbel(), PUCT(), PUCT(dirichlet_fraction=0.0), UCT(prior_bonus=2.0)]
NAMES = list(range(12))
GAME = RandomTree(depth=8)
FIELDS = ("prior", "visits", "total", "q", "value", "ended", "node_visits")

by_method = pytest.mark.parametrize("method", METHODS, ids=str)
by_players = pytest.mark.parametrize("zero_sum", [True, False], ids=["zero-sum", "one player"])


def search(method: Method, root: Root, generators: Any, trees: Trees | None = None, **settings: Any) -> Any:
    return TreeSearch(40, method, **settings).search(root, GAME, generators, temperature=0.0, trees=trees)


def next_root(root: Root, action: np.ndarray) -> Root:
    state, step = GAME(root.state, action)
    return Root(state, step.logits, step.value, step.legal)


def lively(root: Root, visits: np.ndarray) -> np.ndarray:
    """The most visited actions that don't end the game."""
    goes_on = np.zeros(visits.shape, bool)
    for row, a in zip(*np.nonzero(visits), strict=True):
        goes_on[row, a] = not GAME((root.state[0][[row]], root.state[1][[row]]), np.array([a]))[1].ended[0]
    assert goes_on.any(1).all()
    return np.where(goes_on, visits, -1).argmax(1)


def walk(trees: Trees, row: int, node: int = 0, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], int]]:
    """All nodes below one, with the actions that lead there."""
    yield path, node
    for a, child in enumerate(trees.nodes.child[row, node]):
        if child > 0:
            yield from walk(trees, row, child, (*path, a))


@by_method
def test_a_subtree_keeps_everything_but_the_rest(method: Method) -> None:
    root = GAME.root(NAMES)
    before = search(method, root, root_generators(0, len(NAMES)))
    action = lively(root, before.visits)
    after = follow(before.trees, action)
    assert after.nodes.value.shape[1] < before.trees.nodes.value.shape[1]
    for row, a in enumerate(action):
        start = before.trees.nodes.child[row, 0, a]
        old, new = dict(walk(before.trees, row, start)), dict(walk(after, row))
        assert old.keys() == new.keys()
        assert sorted(new.values()) == list(range(len(new)))
        for path, node in new.items():
            for name in FIELDS:
                np.testing.assert_array_equal(
                    getattr(after.nodes, name)[row, node], getattr(before.trees.nodes, name)[row, old[path]]
                )
            for leaf, source in zip(after.states.leaves, before.trees.states.leaves, strict=True):
                assert leaf[node, row] == source[old[path], row]
            for child in after.nodes.child[row, node][after.nodes.child[row, node] > 0]:
                assert after.nodes.parent[row, child] == node


def reference_of(method: Method, row: int, generator: np.random.Generator, **settings: Any) -> tuple[Reference, Node]:
    alone = GAME.root([NAMES[row]])
    node = Node(alone.state, alone.value[0], alone.logits[0], alone.legal[0], 0.0, False)
    return Reference(method, GAME, **settings), node


def draws(method: Method, generator: np.random.Generator) -> np.ndarray:
    if isinstance(method, Gumbel):
        return 0.0 * generator.gumbel(size=GAME.num_actions)
    if isinstance(method, PUCT) and method.dirichlet_fraction:
        return generator.standard_gamma(0.3, GAME.num_actions)
    return np.zeros(GAME.num_actions)


def edges(node: Node) -> Iterator[float]:
    for a in node.prior:
        if node.visits(a):
            yield node.q(a)
            yield from edges(node.children[a])


@by_method
@by_players
@pytest.mark.parametrize("compiled", [False, True])
def test_a_search_goes_on_as_a_recursive_one_does(method: Method, zero_sum: bool, compiled: bool) -> None:
    if compiled:
        pytest.importorskip("numba")
    settings: dict[str, Any] = {"zero_sum": zero_sum, "compiled": compiled}
    root, generators = GAME.root(NAMES), root_generators(0, len(NAMES))
    first = search(method, root, generators, **settings)
    action = lively(root, first.visits)
    root = next_root(root, action)
    second = search(method, root, generators, follow(first.trees, action), **settings)
    for row, generator in enumerate(root_generators(0, len(NAMES))):
        reference, node = reference_of(method, row, generator, zero_sum=zero_sum)
        reference.search(node, draws(method, generator), 40)
        if not isinstance(method, Gumbel):
            generator.random()  # the choice of the action
        node = node.children[action[row]]
        reference.met = [min(edges(node), default=math.inf), max(edges(node), default=-math.inf)]
        reference.search(node, draws(method, generator), 40)
        assert second.visits[row].tolist() == [
            node.visits(a) if a in node.prior else 0 for a in range(GAME.num_actions)
        ]


def test_noise_of_a_root_does_not_survive_and_the_new_root_gets_its_own() -> None:
    root, generators = GAME.root(NAMES), root_generators(3, len(NAMES))
    method = PUCT(dirichlet_fraction=0.5)
    first = search(method, root, generators)
    action = lively(root, first.visits)
    kept, root = follow(first.trees, action), next_root(root, action)
    clean = prior_of(root.logits, root.legal)
    np.testing.assert_allclose(kept.nodes.prior[:, 0], clean, atol=1e-15)
    second = search(method, root, generators, kept)
    mixed = second.trees.nodes.prior[:, 0]
    several = root.legal.sum(1) > 1
    assert several.any() and (np.abs(mixed - clean).max(1)[several] > 1e-6).all()
    noise = (mixed - 0.5 * clean) / 0.5
    np.testing.assert_allclose(noise.sum(1), 1.0)
    assert (noise > -1e-12).all()
    np.testing.assert_allclose(second.trees.nodes.prior[:, 1], kept.nodes.prior[:, 1])  # no noise below the root


@by_method
def test_a_forgotten_tree_and_a_move_without_visits_start_afresh(method: Method) -> None:
    root = GAME.root(NAMES)
    first = search(method, root, root_generators(0, len(NAMES)))
    unvisited = np.where(first.visits == 0, 1, 0).argmax(1)
    action = np.where(first.visits.min(1) == 0, unvisited, -1)
    assert (action >= 0).any() and (action < 0).any()
    kept = follow(first.trees, action)
    assert not kept.nodes.visits.any()
    again = search(method, root, root_generators(1, len(NAMES)), kept)
    fresh = search(method, root, root_generators(1, len(NAMES)))
    np.testing.assert_array_equal(again.visits, fresh.visits)
    np.testing.assert_array_equal(again.value, fresh.value)


def test_after_an_end_another_game_may_start() -> None:
    root = GAME.root(NAMES)
    first = search(UCT(), root, root_generators(0, len(NAMES)))
    nodes, rows = first.trees.nodes, np.arange(len(NAMES))[:, None]
    ends = nodes.ended[rows, nodes.child[:, 0]] & (nodes.child[:, 0] > 0)
    assert ends.any()
    kept = follow(first.trees, np.where(ends.any(1), ends.argmax(1), -1))
    again = search(UCT(), root, root_generators(0, len(NAMES)), kept)
    np.testing.assert_array_equal(again.visits, first.visits)


def test_a_search_leaves_the_trees_that_it_is_given() -> None:
    root = GAME.root(NAMES)
    first = search(Gumbel(), root, root_generators(0, len(NAMES)))
    action = lively(root, first.visits)
    kept = follow(first.trees, action)
    copies = [array.copy() for array in kept.nodes]
    search(Gumbel(), next_root(root, action), root_generators(1, len(NAMES)), kept)
    for array, copy in zip(kept.nodes, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_wrong_moves_and_trees_are_refused() -> None:
    root = GAME.root(NAMES)
    first = search(Gumbel(), root, root_generators(0, len(NAMES)))
    for action in (np.zeros(3, int), np.full(len(NAMES), 5), np.full(len(NAMES), -2), np.full(len(NAMES), 0.5)):
        with pytest.raises(ValueError, match="action must be 12 whole numbers from -1 to 4, got"):
            follow(first.trees, action)
    with pytest.raises(ValueError, match=r"trees must be of 3 roots and 5 actions, got \(12, 5\)"):
        search(Gumbel(), GAME.root([0, 1, 2]), root_generators(0, 3), first.trees)
