"""Games won by a line of stones across, down or along a diagonal: TicTacToe, Connect Four, Gomoku."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mbrl_wrappers.acceleration.kernels import inlined, kernel
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.games.base import ALL_TURNS, Game, Look, State, Symmetry, square_symmetries

# One step across, down, and along each diagonal.
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


class Gomoku(Game):
    """Who first has ``length`` stones in a line wins; a full board is a draw. Longer lines win too ("freestyle").

    Action ``row * size + column`` places a stone there; row 0 is the upper one.

    Args:
        size: of the board.
        length: of a line that wins.

    Raises:
        ValueError: if ``size`` is not a whole number of at least 3, or ``length`` not one from 3 to ``size``.
    """

    look = Look("square", (222, 184, 135), (139, 101, 60), ((25, 25, 25), (245, 245, 245)))

    def __init__(self, size: int = 15, length: int = 5) -> None:
        check_whole_number("size", size, 3)
        check_whole_number("length", length, 3)
        if length > size:
            raise ValueError(f"length must be at most size={size}, got {length}")
        self.name = f"Gomoku{size}" if length == 5 else f"Gomoku{size}_{length}"
        self.height = self.width = size
        self.length = length
        self.num_actions = self.max_length = size * size
        self.symmetries = square_symmetries(size, ALL_TURNS)

    def legal_actions(self, state: State) -> np.ndarray:
        """``[B, A]`` bool: the empty cells."""
        return (state.board == 0).reshape(-1, self.num_actions) & ~state.ended[:, None]

    def _play(self, state: State, action: np.ndarray) -> None:
        _place(*state, action, self.length, False)


class TicTacToe(Gomoku):
    """Three in a line on a board of 3 x 3."""

    look = Look("square", (250, 248, 240), (120, 110, 100), ((200, 60, 50), (50, 90, 170)))

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.name = "TicTacToe"


class ConnectFour(Game):
    """Four in a line on a board of 6 rows and 7 columns; action ``c`` drops a stone into column ``c``.

    Row 0 is the upper one.
    """

    name = "ConnectFour"
    height, width = 6, 7
    num_actions, max_length = 7, 42
    look = Look("disc", (235, 240, 250), (40, 80, 170), ((215, 50, 45), (250, 205, 50)))

    def __init__(self) -> None:
        cells = np.arange(42).reshape(6, 7)
        columns = np.arange(7)
        self.symmetries = [Symmetry(columns, cells.ravel()), Symmetry(columns[::-1], cells[:, ::-1].ravel())]

    def legal_actions(self, state: State) -> np.ndarray:
        """``[B, 7]`` bool: the columns that have room."""
        return (state.board[:, 0] == 0) & ~state.ended[:, None]

    def _play(self, state: State, action: np.ndarray) -> None:
        _place(*state, action, 4, True)


def _place_vectorised(
    board: np.ndarray,
    player: np.ndarray,
    ended: np.ndarray,
    outcome: np.ndarray,
    action: np.ndarray,
    length: int,
    falls: bool,
) -> None:
    going = np.flatnonzero(~ended)
    if falls:
        column = action[going]
        row = (board[going, :, column] == 0).sum(1) - 1
    else:
        row, column = np.divmod(action[going], board.shape[2])
    board[going, row, column] = 1 - 2 * player[going]
    won = _is_in_line_vectorised(board[going], row, column, length)
    player[going] = 1 - player[going]
    ended[going] = won | board[going].all((1, 2))
    outcome[going] = -won.astype(np.int8)


def _is_in_line_vectorised(board: np.ndarray, row: np.ndarray, column: np.ndarray, length: int) -> np.ndarray:
    margin = length - 1
    framed = np.pad(board, ((0, 0), (margin, margin), (margin, margin)))
    game = np.arange(len(board))[:, None]
    along = np.arange(-margin, length)
    won = np.zeros(len(board), np.bool_)
    for down, right in _DIRECTIONS:
        cells = framed[game, row[:, None] + margin + down * along, column[:, None] + margin + right * along]
        same = cells == cells[:, margin : margin + 1]
        won |= sliding_window_view(same, length, axis=1).all(-1).any(-1)
    return won


@kernel(_place_vectorised)
def _place(
    board: np.ndarray,
    player: np.ndarray,
    ended: np.ndarray,
    outcome: np.ndarray,
    action: np.ndarray,
    length: int,
    falls: bool,
) -> None:
    """Place a stone in each game: into a column if it falls, else on a cell."""
    for game in range(len(player)):
        if ended[game]:
            continue
        row, column = divmod(action[game], board.shape[2])
        if falls:
            while row + 1 < board.shape[1] and board[game, row + 1, column] == 0:
                row += 1
        board[game, row, column] = 1 - 2 * player[game]
        won = _is_in_line(board[game], row, column, length)
        player[game] = 1 - player[game]
        ended[game] = won or _is_full(board[game])
        outcome[game] = -1 if won else 0


@inlined
def _is_in_line(board: np.ndarray, row: int, column: int, length: int) -> bool:
    for down, right in _DIRECTIONS:
        count = 1
        for step in (1, -1):
            r, c = row + step * down, column + step * right
            while 0 <= r < board.shape[0] and 0 <= c < board.shape[1] and board[r, c] == board[row, column]:
                count += 1
                r, c = r + step * down, c + step * right
        if count >= length:
            return True
    return False


@inlined
def _is_full(board: np.ndarray) -> bool:
    for cell in board.flat:
        if cell == 0:
            return False
    return True
