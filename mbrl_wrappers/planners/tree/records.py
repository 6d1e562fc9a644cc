"""What goes into a tree search and what comes out. Arrays are batch first: ``B`` roots, ``A`` actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from mbrl_wrappers.planners.tree.storage import Trees

State = TypeVar("State")

Array = np.ndarray | Tensor


class Root(NamedTuple):
    """The states to search from, as a network sees them.

    Attributes:
        state: a NumPy array or tensor ``[B, ...]``, or a (named) tuple or dict of such.
        logits: ``[B, A]`` of the prior policy; those of illegal actions are ignored.
        value: ``[B]``, for the player to move.
        legal: ``[B, A]`` bool.
    """

    state: Any
    logits: Array
    value: Array
    legal: Array


class Step(NamedTuple):
    """What a step of ``B`` states leads to.

    Attributes:
        reward: ``[B]``, for the player who moved.
        ended: ``[B]`` bool, whether no reward can follow.
        logits: ``[B, A]`` of the prior policy in the new states; those of illegal actions are ignored.
        value: ``[B]`` of the new states, for the player to move there; ignored in ended ones, where it is 0.
        legal: ``[B, A]`` bool, in the new states; ignored in ended ones.
    """

    reward: Array
    ended: Array
    logits: Array
    value: Array
    legal: Array


# ``(state, action [B]) -> (new state, step)``. Rows must not depend on one another. Where a search has met an ended
# state again, its row repeats the step that led there, and the result is thrown away.
Expand = Callable[[Any, np.ndarray], tuple[Any, Step]]


@dataclass(frozen=True)
class SearchResult:
    """What a search has found about ``B`` roots.

    Attributes:
        action: ``[B]`` the chosen actions.
        visits: ``[B, A]`` visit counts, those of a reused subtree included.
        value: ``[B]`` mean of all evaluations in a root's tree, the root's own included, for the player to move.
        policy: ``[B, A]`` the improved policy, the target for learning; 0 where illegal.
        q_values: ``[B, A]`` returns of the actions; the mixed value estimate where an action was not visited, minus
            infinity where it is illegal.
        trees: for :func:`~mbrl_wrappers.planners.tree.storage.follow`.
    """

    action: np.ndarray
    visits: np.ndarray
    value: np.ndarray
    policy: np.ndarray
    q_values: np.ndarray
    trees: Trees
