"""Players to measure an agent by, found by name: functions of a game, its state and a random generator."""

from __future__ import annotations

import re

import numpy as np

from mbrl_wrappers.envs.games.base import Game, Opponent, State, take_games
from mbrl_wrappers.envs.games.perfect import perfect_solver
from mbrl_wrappers.envs.games.searching import uct_player


def random_player(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
    """Draw one of the legal moves."""
    return _draw(game.legal_actions(state), generator)


def one_ply_player(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
    """Win at once if possible, else move where the other would win at once, else draw a legal move."""
    legal = game.legal_actions(state)
    threats = winning_moves(game, state._replace(player=1 - state.player)) & legal
    return _draw(_first_that_offers(winning_moves(game, state), threats, legal), generator)


def perfect_player(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
    """Choose at random among the moves that keep the value of the position.

    Raises:
        ValueError: if the game has no solver that knows all its positions.
    """
    solver = perfect_solver(game)
    if solver.least_stones > 0:
        raise ValueError(f"opponent='perfect' needs a game solved from its start, got {game.name}: take 'endgame'")
    return _draw(solver.solve(state)[1], generator)


def endgame_player(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
    """Play perfectly from the solver's ``least_stones`` on, and before that like :func:`one_ply_player`.

    Raises:
        ValueError: if the game has no solver.
    """
    solver = perfect_solver(game)
    action = one_ply_player(game, state, generator)
    late = np.flatnonzero(solver.is_in_reach(state))
    if len(late):
        action[late] = _draw(solver.solve(take_games(state, late))[1], generator)
    return action


_OPPONENTS: dict[str, Opponent] = {
    "random": random_player,
    "one_ply": one_ply_player,
    "perfect": perfect_player,
    "endgame": endgame_player,
}


def register_opponent(name: str, player: Opponent) -> None:
    """Make a player known by a name.

    Raises:
        ValueError: if another player has the name.
    """
    if _OPPONENTS.setdefault(name, player) is not player:
        raise ValueError(f"name must be free, got {name!r}")


def find_opponent(opponent: str | Opponent) -> Opponent:
    """Look up a player by name; a function is its own.

    Raises:
        ValueError: if it is neither a name that is known nor a function.
    """
    if callable(opponent):
        return opponent
    if isinstance(opponent, str) and (uct := re.fullmatch(r"uct_([1-9][0-9]*)", opponent)):
        return uct_player(int(uct[1]))
    if not isinstance(opponent, str) or opponent not in _OPPONENTS:
        raise ValueError(
            f"opponent must be one of {sorted(_OPPONENTS)}, uct_N for N simulations, or a function "
            f"(game, state, generator) -> action, got {opponent!r}"
        )
    return _OPPONENTS[opponent]


def winning_moves(game: Game, state: State) -> np.ndarray:
    """``[B, A]`` bool: the legal moves that win at once."""
    wins = game.legal_actions(state)
    rows, actions = wins.nonzero()
    after = game.step(take_games(state, rows), actions)
    wins[rows, actions] = after.outcome == np.where(after.player == state.player[rows], 1, -1)
    return wins


def _first_that_offers(*masks: np.ndarray) -> np.ndarray:
    """For each game the first of the masks ``[B, A]`` that has a move."""
    chosen = masks[-1]
    for mask in masks[-2::-1]:
        chosen = np.where(mask.any(1, keepdims=True), mask, chosen)
    return chosen


def _draw(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """``[B]``: one of the moves in each row of a mask ``[B, A]``, each with the same chance."""
    return np.where(mask, generator.random(mask.shape), -1).argmax(1)
