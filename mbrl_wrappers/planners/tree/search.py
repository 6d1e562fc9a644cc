"""Tree search from many roots at once, with one call of the model for each simulation."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.planners.tree.methods import Gumbel, Method
from mbrl_wrappers.planners.tree.plain import completed_q, prior_of
from mbrl_wrappers.planners.tree.records import Expand, Root, SearchResult, Step
from mbrl_wrappers.planners.tree.rules import Rule
from mbrl_wrappers.planners.tree.storage import Trees, find_range, grown, leaves_of
from mbrl_wrappers.seeding import stream_seed


def root_generators(seed: int | None, num_roots: int) -> list[np.random.Generator]:
    """Return a generator for each root, for :meth:`TreeSearch.search`; None: random seeds."""
    return [np.random.default_rng(stream_seed(seed, f"root {index}")) for index in range(num_roots)]


class TreeSearch:
    """Searches from ``B`` roots at once; the result for one does not depend on the others.

    A simulation walks down from each root to an action that it has not tried, adds the state that follows to the tree,
    and returns its value to all states on the way. All randomness comes from the roots' generators.

    Args:
        num_simulations: the number of calls of the model in a search.
        method: :class:`~mbrl_wrappers.planners.tree.methods.Gumbel` by default, or
            :class:`~mbrl_wrappers.planners.tree.methods.PUCT` or :class:`~mbrl_wrappers.planners.tree.methods.UCT`.
        zero_sum: whether two players alternate, and what one wins the other loses; otherwise there is one player.
        discount: factor per step, in (0, 1].
        compiled: whether to run numba's kernels or NumPy's, which do the same; default: numba's if it is installed.

    Raises:
        ValueError: for an argument out of its range.
        ImportError: for ``compiled=True`` without numba.
    """

    def __init__(
        self,
        num_simulations: int = 32,
        method: Method | None = None,
        *,
        zero_sum: bool = True,
        discount: float = 1.0,
        compiled: bool | None = None,
    ) -> None:
        check_whole_number("num_simulations", num_simulations)
        check_number("discount", discount, 0, 1, low_is_valid=False)
        self.num_simulations = num_simulations
        self.method = Gumbel() if method is None else method
        self.zero_sum = zero_sum
        self.discount = discount
        self._kernels = _load_kernels(compiled)

    def search(
        self,
        root: Root,
        expand: Expand,
        generators: Sequence[np.random.Generator],
        *,
        temperature: float | np.ndarray,
        trees: Trees | None = None,
    ) -> SearchResult:
        """Search, and choose an action.

        Args:
            root: the states to search from, none of them ended.
            expand: the model and its evaluation, called once for each simulation.
            generators: one for each root, see :func:`root_generators`; they advance.
            temperature: a number or ``[B]`` of at least 0; the method says of what. 0: no randomness in the choice.
            trees: what :func:`~mbrl_wrappers.planners.tree.storage.follow` has kept of the last search; their roots
                take states and evaluations from ``root``.

        Raises:
            ValueError: for arguments of a wrong shape or out of their range, a root without a legal action, or a step
                of a wrong shape, with a number that is not finite or without a legal action.
        """
        logits, value, legal = _check_root(root)
        num_roots, num_actions = legal.shape
        heat = _check_temperature(temperature, num_roots)
        _check_rows(generators, trees, num_roots, num_actions)

        trees, first = grown(trees, root.state, num_roots, num_actions, self.num_simulations)
        nodes = trees.nodes
        if not self.zero_sum:
            find_range(nodes, first)
        trees.states.put(0, root.state)
        nodes.value[:, 0] = value
        nodes.node_visits[:, 0] = 1 + nodes.visits[:, 0].sum(1)
        nodes.ended[:, 0] = False  # where a move has ended a game, the root is the start of another
        nodes.prior[:, 0] = self.method.root_prior(prior_of(logits, legal), generators)
        common = Rule.of(-self.discount if self.zero_sum else self.discount, rescaled=not self.zero_sum)
        rule = self.method.rule(common, nodes, self.num_simulations, generators, heat)
        self._simulate(trees, first, rule, expand)
        policy, action = self.method.conclude(nodes, rule, generators, heat)
        visits, rows = nodes.visits[:, 0].copy(), np.arange(num_roots)
        return SearchResult(
            action=action,
            visits=visits,
            value=(value + nodes.total[:, 0].sum(1)) / (1 + visits.sum(1)),
            policy=policy,
            q_values=np.where(legal, completed_q(nodes, rows, 0 * rows), -np.inf),
            trees=trees,
        )

    def _simulate(self, trees: Trees, first: int, rule: Rule, expand: Expand) -> None:
        """Add the nodes ``first, first + 1, ...`` to the trees."""
        nodes, states = trees.nodes, trees.states
        parent, action = np.zeros((2, len(nodes.prior)), np.int64)
        scores = np.empty(nodes.prior.shape[2])
        last = first + self.num_simulations - 1
        self._kernels.select(nodes, rule, parent, action, scores)
        for new in range(first, last + 1):
            state, step = expand(states.take(parent), action.copy())
            states.put(new, state)
            arrays = _arrays_of(step, action, nodes.prior[:, 0])
            if new < last:
                bad = self._kernels.grow_and_select(nodes, rule, new, parent, action, *arrays, scores)
            else:
                bad = self._kernels.grow(nodes, rule, new, parent, action, *arrays)
            if bad >= 0:
                row = Step(*(field[bad] for field in step))
                raise ValueError(f"expand must return finite numbers and a legal action, got {row} for root {bad}")


def _load_kernels(compiled: bool | None) -> Any:
    from mbrl_wrappers.acceleration import kernels  # imports numba, so only when a search is made

    if compiled and kernels.numba is None:
        raise ImportError("compiled=True needs numba: pip install 'mbrl-wrappers[games]'")
    name = "compiled" if (kernels.use_numba if compiled is None else compiled) else "plain"
    return importlib.import_module(f"mbrl_wrappers.planners.tree.{name}")


def _to_numpy(name: str, values: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return the array that kernels take, with the same type and strides at each call."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.ascontiguousarray(values, dtype)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {np.shape(values)}")
    return array


def _arrays_of(step: Step, rows: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the fields of a step; ``rows [B]`` and ``edges [B, A]`` have the shapes that they must have."""
    return (
        _to_numpy("expand's reward", step.reward, rows.shape, np.float64),
        _to_numpy("expand's ended", step.ended, rows.shape, np.bool_),
        _to_numpy("expand's logits", step.logits, edges.shape, np.float64),
        _to_numpy("expand's value", step.value, rows.shape, np.float64),
        _to_numpy("expand's legal", step.legal, edges.shape, np.bool_),
    )


def _check_root(root: Root) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the logits, values and legal actions of a root as arrays."""
    shape = tuple(np.shape(root.legal))
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"root.legal must have shape [B, A], got {shape}")
    legal = _to_numpy("root.legal", root.legal, shape, np.bool_)
    logits = _to_numpy("root.logits", root.logits, shape, np.float64)
    value = _to_numpy("root.value", root.value, shape[:1], np.float64)
    for leaf in leaves_of(root.state):
        if tuple(leaf.shape[:1]) != shape[:1]:
            raise ValueError(f"root.state must have {shape[0]} rows, as root.legal has, got {tuple(leaf.shape)}")
    if not legal.any(1).all():
        raise ValueError(f"root.legal must have a legal action, got none for roots {np.nonzero(~legal.any(1))[0]}")
    is_finite = np.isfinite(np.where(legal, logits, 0.0)).all(1) & np.isfinite(value)
    if not is_finite.all():
        row = is_finite.argmin()
        raise ValueError(f"root must be finite, got logits {logits[row]} and value {value[row]} for root {row}")
    return logits, value, legal


def _check_temperature(temperature: float | np.ndarray, num_roots: int) -> np.ndarray:
    heat = np.asarray(temperature, np.float64)
    if heat.shape not in ((), (num_roots,)) or not (np.isfinite(heat) & (heat >= 0)).all():
        raise ValueError(f"temperature must be at least 0, a number or {num_roots} of them, got {temperature!r}")
    return np.broadcast_to(heat, num_roots)


def _check_rows(generators: Sequence[Any], trees: Trees | None, num_roots: int, num_actions: int) -> None:
    if len(generators) != num_roots:
        raise ValueError(f"generators must be {num_roots}, one for each root, got {len(generators)}")
    kept = (num_roots, num_actions) if trees is None else trees.nodes.prior.shape[::2]
    if kept != (num_roots, num_actions):
        raise ValueError(f"trees must be of {num_roots} roots and {num_actions} actions, got {kept}")
