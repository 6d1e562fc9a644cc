"""Hex, the game of connection."""

from __future__ import annotations

import numpy as np

from mbrl_wrappers.acceleration.kernels import inlined, kernel
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.games.base import Game, Look, State, square_symmetries

# The six neighbours of a cell: row `r` is drawn half a cell to the right of row `r - 1`.
NEIGHBOURS = ((-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0))


class Hex(Game):
    """Player 0 wins by a chain of stones from the top to the bottom, player 1 by one from left to right.

    A draw is impossible. Action ``row * size + column`` places a stone there. There is no swap: a stone stays where it
    lies, also the first. Observations have a third plane that tells which sides the player to move connects: 0 top
    and bottom, 1 left and right.

    Args:
        size: of the board.

    Raises:
        ValueError: if ``size`` is not a whole number of at least 2.
    """

    num_planes = 3
    look = Look("hexagon", (238, 232, 220), (150, 140, 125), ((205, 60, 50), (50, 95, 180)))

    def __init__(self, size: int = 11) -> None:
        check_whole_number("size", size, 2)
        self.name = f"Hex{size}"
        self.height = self.width = size
        self.num_actions = self.max_length = size * size
        self.symmetries = square_symmetries(size, [(False, 0), (False, 2)])

    def legal_actions(self, state: State) -> np.ndarray:
        """``[B, A]`` bool: the empty cells."""
        return (state.board == 0).reshape(-1, self.num_actions) & ~state.ended[:, None]

    def observation(self, state: State) -> np.ndarray:
        """``[B, 3, H, W]`` float32: see :class:`Hex`."""
        planes = super().observation(state)
        planes[:, 2] = state.player[:, None, None]
        return planes

    def state_of(self, planes: np.ndarray) -> State:
        """Read states off their observations, see :meth:`Game.state_of`; the third plane tells who is to move."""
        state, player = super().state_of(planes), planes[:, 2, 0, 0].astype(np.int8)
        return state._replace(board=state.board * (1 - 2 * player)[:, None, None], player=player)

    def _play(self, state: State, action: np.ndarray) -> None:
        _place(*state, action)


def _place_vectorised(
    board: np.ndarray, player: np.ndarray, ended: np.ndarray, outcome: np.ndarray, action: np.ndarray
) -> None:
    going = np.flatnonzero(~ended)
    row, column = np.divmod(action[going], board.shape[2])
    stone = 1 - 2 * player[going]
    board[going, row, column] = stone
    mine = board[going] == stone[:, None, None]
    is_sideways = player[going, None, None] == 1
    won = _crosses(np.where(is_sideways, mine.transpose(0, 2, 1), mine))
    player[going] = 1 - player[going]
    ended[going] = won
    outcome[going] = -won.astype(np.int8)


def _crosses(stones: np.ndarray) -> np.ndarray:
    """``[B]``: whether stones ``[B, H, W]`` connect the top with the bottom; neighbours stay so when transposed."""
    size = stones.shape[1]
    reached = np.zeros_like(stones)
    reached[:, 0] = stones[:, 0]
    while True:
        framed = np.pad(reached, ((0, 0), (1, 1), (1, 1)))
        grown = reached.copy()
        for down, right in NEIGHBOURS:
            grown |= framed[:, 1 + down : 1 + down + size, 1 + right : 1 + right + size]
        grown &= stones
        if (grown == reached).all():
            return reached[:, -1].max(1)
        reached = grown


@kernel(_place_vectorised)
def _place(board: np.ndarray, player: np.ndarray, ended: np.ndarray, outcome: np.ndarray, action: np.ndarray) -> None:
    for game in range(len(player)):
        if ended[game]:
            continue
        row, column = divmod(action[game], board.shape[2])
        board[game, row, column] = 1 - 2 * player[game]
        ended[game] = _connects(board[game], row, column, player[game] == 1)
        player[game] = 1 - player[game]
        outcome[game] = -1 if ended[game] else 0


@inlined
def _connects(board: np.ndarray, row: int, column: int, is_sideways: bool) -> bool:
    """Whether the chain of stones that the one at ``(row, column)`` belongs to touches both of its player's sides."""
    size = board.shape[0]
    touches_first = touches_last = False
    seen = np.zeros((size, size), np.bool_)
    seen[row, column] = True
    waiting = [(row, column)]
    while len(waiting) > 0:
        r, c = waiting.pop()
        along = c if is_sideways else r
        touches_first |= along == 0
        touches_last |= along == size - 1
        for down, right in NEIGHBOURS:
            i, j = r + down, c + right
            if 0 <= i < size and 0 <= j < size and not seen[i, j] and board[i, j] == board[row, column]:
                seen[i, j] = True
                waiting.append((i, j))
    return touches_first and touches_last
