"""A player that searches without a network."""

from __future__ import annotations

import numpy as np

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.games.base import Game, Opponent, State, take_games
from mbrl_wrappers.planners.tree import UCT, TreeSearch, root_generators
from mbrl_wrappers.planners.tree.games import GameExpansion, Rollouts


def uct_player(num_simulations: int) -> Opponent:
    """Return a player that searches by UCT, each simulation valued by one random game (Kocsis and Szepesvári 2006).

    Args:
        num_simulations: of each search.

    Raises:
        ValueError: if it is not a whole number of at least 1.
    """
    check_whole_number("num_simulations", num_simulations)
    search = TreeSearch(num_simulations, UCT())

    def play(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
        going = np.flatnonzero(~state.ended)
        action = np.zeros(len(state.ended), np.int64)
        if len(going):
            seeds = generator.integers(2**63, size=2)
            searching, rolling = (root_generators(int(seed), len(going)) for seed in seeds)
            expansion = GameExpansion(game, Rollouts(game, rolling))
            root = expansion.root(take_games(state, going))
            action[going] = search.search(root, expansion, searching, temperature=0.0).action
        return action

    return play
