"""Board games, and random play in them."""

from __future__ import annotations

import numpy as np

from mbrl_wrappers.envs.games import ConnectFour, Game, Gomoku, Hex, Othello, State, TicTacToe
from mbrl_wrappers.envs.games.opponents import random_player

SMALL_GAMES = [TicTacToe(), ConnectFour(), Othello(6), Othello(8), Hex(4), Hex(7), Gomoku(5, 4), Gomoku(9)]


def name_of(game: Game) -> str:
    return game.name


def random_game(game: Game, n: int, seed: int = 0) -> tuple[list[State], list[np.ndarray]]:
    """All states of `n` random games, until each has ended, and the action between each and the next."""
    rng = np.random.default_rng(seed)
    states, actions = [game.initial(n)], []
    while not states[-1].ended.all():
        actions.append(random_player(game, states[-1], rng))
        states.append(game.step(states[-1], actions[-1]))
    return states, actions


def random_positions(game: Game, n: int, num_moves: int, seed: int = 0) -> State:
    """`n` games after some random moves; a few may have ended."""
    rng = np.random.default_rng(seed)
    state = game.initial(n)
    for _ in range(num_moves):
        state = game.step(state, random_player(game, state, rng))
    return state


def assert_equal(state: State, other: State) -> None:
    for name, field, expected in zip(State._fields, state, other, strict=True):
        np.testing.assert_array_equal(field, expected, err_msg=name)
        assert field.dtype == expected.dtype, name
