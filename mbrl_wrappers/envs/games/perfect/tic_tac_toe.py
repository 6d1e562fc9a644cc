"""TicTacToe by a table of all its 5,478 positions."""

from __future__ import annotations

import numpy as np

from mbrl_wrappers.envs.games.base import State, take_games
from mbrl_wrappers.envs.games.line_games import TicTacToe
from mbrl_wrappers.envs.games.perfect.solver import Solver

_UNKNOWN = -2


class TicTacToeSolver(Solver):
    """Knows every position that legal moves lead to.

    Attributes:
        table: ``[3^9]`` int8, what positions are worth to the player to move, by :func:`codes`; -2 for the positions
            that no game reaches.
    """

    def __init__(self) -> None:
        self.game = TicTacToe()
        self.table = np.full(3**9, _UNKNOWN, np.int8)
        levels = [self.game.initial(1)]
        while not levels[-1].ended.all():
            levels.append(self._next_positions(levels[-1]))
        for level in reversed(levels):
            self.table[codes(level)] = level.outcome
            going = take_games(level, ~level.ended)
            if len(going.player):
                self.table[codes(going)] = self.solve(going)[0]

    def _next_positions(self, state: State) -> State:
        rows, actions = self.game.legal_actions(state).nonzero()
        after = self.game.step(take_games(state, rows), actions)
        return take_games(after, np.unique(codes(after), return_index=True)[1])

    def _values(self, state: State) -> np.ndarray:
        return self.table[codes(state)]


def codes(state: State) -> np.ndarray:
    """``[B]`` int64: a number below ``3^9`` for each board; who is to move follows from the stones."""
    return (state.board.reshape(-1, 9) % 3) @ 3 ** np.arange(9)
