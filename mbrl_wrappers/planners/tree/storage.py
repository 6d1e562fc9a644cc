"""The trees of many roots in flat arrays, without an object for a node."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

NO_CHILD = 0  # the root is nobody's child, and arrays of zeros cost nothing before they are used


class Nodes(NamedTuple):
    """Trees of ``B`` roots with ``N`` nodes of ``A`` actions each; node 0 is the root.

    Not every index is in use. Whoever reorders the fields has to touch
    ``compiled.py``, since numba keeps what it has compiled as long as that file is the same.

    Attributes:
        prior: ``[B, N, A]`` probabilities P(s, a), 0 exactly where an action is illegal.
        visits: ``[B, N, A]`` counts n(s, a).
        total: ``[B, N, A]`` sums W(s, a) of the returns after an action, for the player who takes it.
        q: ``[B, N, A]`` means Q(s, a) = W(s, a) / n(s, a); 0 without visits.
        child: ``[B, N, A]`` the index of the node that an action leads to, or 0.
        node_visits: ``[B, N]`` N(s): 1 for the node itself, and the visits of its actions.
        value: ``[B, N]`` v(s) as it was evaluated; 0 in ended states.
        reward: ``[B, N]`` of the step into the node.
        ended: ``[B, N]`` bool.
        parent: ``[B, N]`` the index of the node before.
        action: ``[B, N]`` the action that leads into the node.
        low: ``[B]`` the lowest Q(s, a) that the search has met; infinity at first.
        high: ``[B]`` the highest one; minus infinity at first.
    """

    prior: np.ndarray
    visits: np.ndarray
    total: np.ndarray
    q: np.ndarray
    child: np.ndarray
    node_visits: np.ndarray
    value: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    parent: np.ndarray
    action: np.ndarray
    low: np.ndarray
    high: np.ndarray


def new_records(num_roots: int, num_nodes: int, num_actions: int) -> np.ndarray:
    """Return nodes ``[B, N]`` without visits: what belongs to one lies side by side, in a few lines of the cache."""
    edges = [("prior", "f8"), ("q", "f8"), ("total", "f8"), ("visits", "i4"), ("child", "i4")]
    own = [("node_visits", "i4"), ("parent", "i4"), ("action", "i4"), ("ended", "?"), ("value", "f8"), ("reward", "f8")]
    fields = [*((name, kind, num_actions) for name, kind in edges), *own]
    return np.zeros((num_roots, num_nodes), np.dtype(fields, align=True))


def nodes_of(records: np.ndarray) -> Nodes:
    """Return views of records, and an empty range of Q."""
    low, high = np.full(len(records), np.inf), np.full(len(records), -np.inf)
    return Nodes(**{name: records[name] for name in Nodes._fields[:-2]}, low=low, high=high)


def find_range(nodes: Nodes, num_nodes: int) -> None:
    """Set ``low`` and ``high`` to the range of Q(s, a) in the first nodes."""
    visited, q = nodes.visits[:, :num_nodes] > 0, nodes.q[:, :num_nodes]
    nodes.low[:] = np.where(visited, q, np.inf).min((1, 2))
    nodes.high[:] = np.where(visited, q, -np.inf).max((1, 2))


def leaves_of(state: Any) -> list[Any]:
    """Return the arrays and tensors ``[B, ...]`` that a state consists of."""
    return pytree.tree_leaves(state)


class States:
    """The states of all nodes: each leaf of the user's state, NumPy or torch, is kept as ``[N, B, ...]``.

    Nodes come first, since a simulation adds the node of the same index to all roots.
    """

    def __init__(self, like: Any, num_nodes: int) -> None:
        self.__setstate__(pytree.tree_map(lambda leaf: _empty(leaf, num_nodes), like))

    def __getstate__(self) -> Any:
        """Return the user's state with leaves ``[N, B, ...]``: PyTorch's record of its form can't be pickled."""
        return pytree.tree_unflatten(self.leaves, self._spec)

    def __setstate__(self, states: Any) -> None:
        """Take what :meth:`__getstate__` returned."""
        # A tuple of arrays, as games have it, is spared the walk through containers of any kind at each simulation.
        self._is_flat = isinstance(states, tuple) and all(isinstance(leaf, np.ndarray | Tensor) for leaf in states)
        self._make = getattr(type(states), "_make", tuple)
        self.leaves, self._spec = pytree.tree_flatten(states)
        self._flat = [leaf.reshape(-1, *leaf.shape[2:]) for leaf in self.leaves]
        self._rows = np.arange(self.leaves[0].shape[1])

    def put(self, node: int, state: Any) -> None:
        """Write the states ``[B, ...]`` of a node."""
        for leaf, value in zip(self.leaves, state if self._is_flat else leaves_of(state), strict=True):
            leaf[node] = value

    def take(self, node: np.ndarray) -> Any:
        """Return the states ``[B, ...]`` of nodes ``[B]``, one for each root."""
        index = node * len(self._rows) + self._rows
        leaves = [_take(leaf, index) for leaf in self._flat]
        return self._make(leaves) if self._is_flat else pytree.tree_unflatten(leaves, self._spec)


def _empty(leaf: Any, num_nodes: int) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.new_zeros((num_nodes, *leaf.shape))
    return np.zeros((num_nodes, *leaf.shape), leaf.dtype)


def _take(leaf: Any, index: np.ndarray) -> Any:
    if isinstance(leaf, Tensor):
        return leaf[torch.as_tensor(index, device=leaf.device)]
    return leaf[index]


class Trees(NamedTuple):
    """The trees of a search.

    Attributes:
        records: ``[B, N]`` the nodes.
        nodes: views of the records.
        states: of the nodes.
    """

    records: np.ndarray
    nodes: Nodes
    states: States


def follow(trees: Trees, action: np.ndarray) -> Trees:
    """Return the subtrees that moves lead to, each moved to the front of its arrays.

    Noise that was mixed into a root's prior goes with the root.

    Args:
        trees: of a finished search; they are not changed.
        action: ``[B]`` the moves; -1 forgets a root's tree, for a game that starts anew.

    Returns:
        The subtrees, to be passed to the next search; empty where a move was not visited.

    Raises:
        ValueError: for an action outside ``[-1, A)``, or another number of them.
    """
    old = trees.nodes
    num_roots, _, num_actions = old.prior.shape
    action = np.asarray(action)
    is_whole = action.shape == (num_roots,) and action.dtype.kind in "iu"
    if not is_whole or not ((action >= -1) & (action < num_actions)).all():
        raise ValueError(f"action must be {num_roots} whole numbers from -1 to {num_actions - 1}, got {action}")
    start = np.where(action < 0, NO_CHILD, old.child[np.arange(num_roots), 0, action])
    root, node, place = _subtrees(old.child, start)
    index = np.full(old.parent.shape, NO_CHILD, np.int32)
    index[root, node] = place
    records = new_records(num_roots, int(place.max(initial=0)) + 1, num_actions)
    # [K], whole records, which NumPy would copy field by field. The children of a kept node are kept.
    kept = _as_bytes(trees.records)[root, node].view(records.dtype)
    kept["child"] = index[root[:, None], kept["child"]]
    kept["parent"] = index[root, kept["parent"]]
    _as_bytes(records)[root, place] = _as_bytes(kept)
    states = States(trees.states.take(np.zeros(num_roots, np.int64)), records.shape[1])
    for leaf, source in zip(states.leaves, trees.states.leaves, strict=True):
        leaf[place, root] = source[node, root]
    return Trees(records, nodes_of(records), states)


def _as_bytes(records: np.ndarray) -> np.ndarray:
    return records.view(f"V{records.dtype.itemsize}")


def _subtrees(child: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the nodes of the subtrees below ``start [B]``: their roots, old indices and new indices, each ``[K]``."""
    root = np.flatnonzero(start != NO_CHILD)
    node = start[root]
    levels = [(root, node)]
    while len(root):
        below = child[root, node]  # [k, A]
        row, action = np.nonzero(below != NO_CHILD)
        root, node = root[row], below[row, action]
        levels.append((root, node))
    root, node = (np.concatenate(part) for part in zip(*levels, strict=True))
    by_root = np.argsort(root, kind="stable")  # parents stay before their children
    root, node = root[by_root], node[by_root]
    return root, node, np.arange(len(root)) - np.searchsorted(root, root)


def grown(trees: Trees | None, state: Any, num_roots: int, num_actions: int, num_simulations: int) -> tuple[Trees, int]:
    """Return a copy of trees, None for empty ones, with room for new nodes, and the index of the first new one."""
    first = 1 if trees is None else trees.records.shape[1]
    records = new_records(num_roots, first + num_simulations, num_actions)
    states = States(state, first + num_simulations)
    if trees is not None:
        _as_bytes(records)[:, :first] = _as_bytes(trees.records)
        for leaf, source in zip(states.leaves, trees.states.leaves, strict=True):
            leaf[:first] = source
    return Trees(records, nodes_of(records), states), first
