"""Tree search over many roots at once, in a game, in a simulator or in a model.

A search needs numba (``pip install 'mbrl-wrappers[games]'``) to be fast, and works without it.
"""

from mbrl_wrappers.planners.tree.games import GameExpansion, Rollouts
from mbrl_wrappers.planners.tree.methods import PUCT, UCT, Gumbel, Method
from mbrl_wrappers.planners.tree.records import Expand, Root, SearchResult, Step
from mbrl_wrappers.planners.tree.search import TreeSearch, root_generators
from mbrl_wrappers.planners.tree.storage import Trees, follow

__all__ = [
    "PUCT",
    "UCT",
    "Expand",
    "GameExpansion",
    "Gumbel",
    "Method",
    "Rollouts",
    "Root",
    "SearchResult",
    "Step",
    "TreeSearch",
    "Trees",
    "follow",
    "root_generators",
]
