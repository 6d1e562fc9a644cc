"""Board games of two players, hundreds at once in flat arrays; each also as a Gymnasium env against an opponent.

They are fast with numba (``pip install 'mbrl-wrappers[games]'``), and work without.
"""

from mbrl_wrappers.envs.games.base import Game, State, Symmetry
from mbrl_wrappers.envs.games.catalogue import GAMES, make_game
from mbrl_wrappers.envs.games.hex import Hex
from mbrl_wrappers.envs.games.line_games import ConnectFour, Gomoku, TicTacToe
from mbrl_wrappers.envs.games.othello import Othello

__all__ = [
    "GAMES",
    "ConnectFour",
    "Game",
    "Gomoku",
    "Hex",
    "Othello",
    "State",
    "Symmetry",
    "TicTacToe",
    "make_game",
]
