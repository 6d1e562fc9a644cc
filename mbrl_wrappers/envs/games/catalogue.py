"""Games by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mbrl_wrappers.envs.games.base import Game
from mbrl_wrappers.envs.games.hex import Hex
from mbrl_wrappers.envs.games.line_games import ConnectFour, Gomoku, TicTacToe
from mbrl_wrappers.envs.games.othello import Othello

# Every name is also the id of an env: mbrl_wrappers.tasks.registration has the same list.
GAMES: dict[str, Callable[[], Game]] = {
    "TicTacToe": TicTacToe,
    "ConnectFour": ConnectFour,
    "Othello6": partial(Othello, 6),
    "Othello8": partial(Othello, 8),
    "Hex5": partial(Hex, 5),
    "Hex7": partial(Hex, 7),
    "Hex11": partial(Hex, 11),
    "Gomoku9": partial(Gomoku, 9),
    "Gomoku15": partial(Gomoku, 15),
}


def make_game(name: str) -> Game:
    """Make a game of :data:`GAMES`.

    Raises:
        ValueError: if there is no game of that name.
    """
    if not isinstance(name, str) or name not in GAMES:
        raise ValueError(f"game must be one of {sorted(GAMES)}, got {name!r}")
    return GAMES[name]()
