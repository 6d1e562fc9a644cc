"""The solver of a game."""

from __future__ import annotations

import functools

from mbrl_wrappers.envs.games.base import Game
from mbrl_wrappers.envs.games.hex import Hex
from mbrl_wrappers.envs.games.perfect.connect_four import ConnectFourSolver
from mbrl_wrappers.envs.games.perfect.hex import LARGEST, HexSolver
from mbrl_wrappers.envs.games.perfect.solver import Solver
from mbrl_wrappers.envs.games.perfect.tic_tac_toe import TicTacToeSolver


def perfect_solver(game: Game) -> Solver:
    """Return the solver of a game: the same one at every call, so that it remembers what it has solved.

    Raises:
        ValueError: if there is none.
    """
    if game.name not in ("TicTacToe", "ConnectFour") and not (isinstance(game, Hex) and game.height <= LARGEST):
        raise ValueError(f"game must be TicTacToe, ConnectFour or Hex up to {LARGEST} x {LARGEST}, got {game.name}")
    return _make(game.name, game.height)


@functools.cache
def _make(name: str, size: int) -> Solver:
    if name == "TicTacToe":
        return TicTacToeSolver()
    return ConnectFourSolver() if name == "ConnectFour" else HexSolver(size)
