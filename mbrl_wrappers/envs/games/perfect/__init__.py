"""Players that make no mistake, for tests and for evidence."""

from mbrl_wrappers.envs.games.perfect.connect_four import ConnectFourSolver
from mbrl_wrappers.envs.games.perfect.hex import HexSolver
from mbrl_wrappers.envs.games.perfect.lookup import perfect_solver
from mbrl_wrappers.envs.games.perfect.solver import Solver
from mbrl_wrappers.envs.games.perfect.tic_tac_toe import TicTacToeSolver

__all__ = ["ConnectFourSolver", "HexSolver", "Solver", "TicTacToeSolver", "perfect_solver"]
