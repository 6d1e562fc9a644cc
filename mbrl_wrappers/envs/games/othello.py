"""Othello, also known as Reversi."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from mbrl_wrappers.acceleration.kernels import inlined, kernel
from mbrl_wrappers.envs.games.base import Game, Look, State, square_symmetries


class Othello(Game):
    """Stones between the new one and another of the same colour change sides; who has more of them in the end wins.

    A player moves where at least one stone changes sides. Who can't passes, and the game ends when neither can move.
    Action ``row * size + column`` places a stone there, action ``size * size`` passes; a pass is legal only where no
    other move is.

    Args:
        size: of the board, 6 or 8.

    Raises:
        ValueError: for another size.
    """

    look = Look("square", (46, 125, 80), (24, 75, 48), ((25, 25, 25), (245, 245, 245)))

    def __init__(self, size: int = 8) -> None:
        if size not in (6, 8):
            raise ValueError(f"size must be 6 or 8, got {size!r}")
        self.name = f"Othello{size}"
        self.height = self.width = size
        self.num_actions = size * size + 1
        # No two passes follow one another while the game goes on.
        self.max_length = 2 * (size * size - 4)
        # Those that leave the first position as it is: a quarter turn would exchange the colours.
        self.symmetries = square_symmetries(size, [(False, 0), (False, 2), (True, 0), (True, 2)], num_extra=1)
        self._rays = _rays(size)

    def initial(self, n: int) -> State:
        """Start ``n`` games, with two stones of each player in the middle."""
        state = super().initial(n)
        low = self.height // 2 - 1
        state.board[:, low : low + 2, low : low + 2] = [[-1, 1], [1, -1]]
        return state

    def legal_actions(self, state: State) -> np.ndarray:
        """``[B, A]`` bool: the cells where stones change sides, or the pass."""
        legal = np.zeros((len(state.player), self.num_actions), np.bool_)
        _mark_moves(state.board, state.player, state.ended, legal, *self._rays)
        return legal

    def _play(self, state: State, action: np.ndarray) -> None:
        _place(*state, action, *self._rays)


# A set of cells: bit `row * size + column` of a uint64, or of each uint64 in an array. Both paths use it.
_Cells: TypeAlias = Any


def _rays(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Describe the four lines through a cell: across, down, and both diagonals.

    Returns:
        Two arrays ``[4]`` of uint64: how many bits a step along the line is, and the cells that may lie between two
        others on it. Except down, no cell of the first or last column does, so no step runs over the edge into the
        next row.
    """
    columns = np.arange(size * size) % size
    anywhere = _packed(np.ones(size * size, np.bool_))
    inside = _packed((columns > 0) & (columns < size - 1))
    steps = np.array([1, size, size + 1, size - 1], np.uint64)
    return steps, np.array([inside, anywhere, inside, inside], np.uint64)


def _packed(cells: np.ndarray) -> _Cells:
    """``[..., cells]`` bool as ``[...]`` uint64."""
    bits = np.uint64(1) << np.arange(cells.shape[-1], dtype=np.uint64)
    return (cells * bits).sum(-1, dtype=np.uint64)


@inlined
def _shifted(cells: _Cells, step: np.uint64, upwards: bool) -> _Cells:
    return cells << step if upwards else cells >> step


@inlined
def _chain(start: _Cells, through: _Cells, step: np.uint64, upwards: bool) -> _Cells:
    """The cells of ``through`` that follow ``start`` without a gap; six fill a board of 8."""
    chain = through & _shifted(start, step, upwards)
    for _ in range(5):
        chain = chain | (through & _shifted(chain, step, upwards))
    return chain


@inlined
def _moves(mine: _Cells, theirs: _Cells, steps: np.ndarray, inside: np.ndarray) -> _Cells:
    """The empty cells from which a chain of their stones leads to one of mine."""
    found = mine ^ mine
    for line in range(4):
        for upwards in (False, True):
            chain = _chain(mine, theirs & inside[line], steps[line], upwards)
            found = found | _shifted(chain, steps[line], upwards)
    return found & inside[1] & ~(mine | theirs)


@inlined
def _flipped(move: _Cells, mine: _Cells, theirs: _Cells, steps: np.ndarray, inside: np.ndarray) -> _Cells:
    """Their stones that change sides when I move."""
    found = mine ^ mine
    for line in range(4):
        for upwards in (False, True):
            through = theirs & inside[line]
            after_move = _chain(move, through, steps[line], upwards)
            found = found | (after_move & _chain(mine, through, steps[line], not upwards))
    return found


def _sides_vectorised(board: np.ndarray, player: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = board.reshape(len(board), -1) * (1 - 2 * player)[:, None]
    return _packed(flat == 1), _packed(flat == -1)


@inlined
def _sides(board: np.ndarray, player: int) -> tuple[_Cells, _Cells]:
    """The stones of the player to move, and those of the other, in one game."""
    mine, theirs = np.uint64(0), np.uint64(0)
    for cell, stone in enumerate(board.flat):
        if stone == 1 - 2 * player:
            mine |= np.uint64(1) << np.uint64(cell)
        elif stone != 0:
            theirs |= np.uint64(1) << np.uint64(cell)
    return mine, theirs


def _mark_moves_vectorised(
    board: np.ndarray,
    player: np.ndarray,
    ended: np.ndarray,
    legal: np.ndarray,
    steps: np.ndarray,
    inside: np.ndarray,
) -> None:
    moves = _moves(*_sides_vectorised(board, player), steps, inside)
    legal[:, :-1] = (moves[:, None] >> np.arange(legal.shape[1] - 1, dtype=np.uint64)) & np.uint64(1)
    legal[:, -1] = moves == 0
    legal[ended] = False


@kernel(_mark_moves_vectorised)
def _mark_moves(
    board: np.ndarray,
    player: np.ndarray,
    ended: np.ndarray,
    legal: np.ndarray,
    steps: np.ndarray,
    inside: np.ndarray,
) -> None:
    for game in range(len(player)):
        if ended[game]:
            continue
        mine, theirs = _sides(board[game], player[game])
        moves = _moves(mine, theirs, steps, inside)
        for cell in range(legal.shape[1] - 1):
            legal[game, cell] = (moves >> np.uint64(cell)) & np.uint64(1)
        legal[game, -1] = moves == 0


def _place_vectorised(
    board: np.ndarray,
    player: np.ndarray,
    ended: np.ndarray,
    outcome: np.ndarray,
    action: np.ndarray,
    steps: np.ndarray,
    inside: np.ndarray,
) -> None:
    going = np.flatnonzero(~ended)
    mine, theirs = _sides_vectorised(board[going], player[going])
    num_cells = board[0].size
    cell = action[going].astype(np.uint64)
    move = np.where(cell < num_cells, np.uint64(1) << (cell % np.uint64(num_cells)), np.uint64(0))
    flipped = _flipped(move, mine, theirs, steps, inside)
    changed = ((move | flipped)[:, None] >> np.arange(num_cells, dtype=np.uint64)) & np.uint64(1) != 0
    stone = 1 - 2 * player[going]
    board[going] = np.where(changed.reshape(-1, *board.shape[1:]), stone[:, None, None], board[going])
    mine, theirs = theirs & ~flipped, mine | move | flipped
    is_over = (_moves(mine, theirs, steps, inside) | _moves(theirs, mine, steps, inside)) == 0
    player[going] = 1 - player[going]
    ended[going] = is_over
    outcome[going] = np.where(is_over, -stone * np.sign(board[going].sum((1, 2), dtype=np.int64)), 0)


@kernel(_place_vectorised)
def _place(
    board: np.ndarray,
    player: np.ndarray,
    ended: np.ndarray,
    outcome: np.ndarray,
    action: np.ndarray,
    steps: np.ndarray,
    inside: np.ndarray,
) -> None:
    for game in range(len(player)):
        if ended[game]:
            continue
        mine, theirs = _sides(board[game], player[game])
        stone = 1 - 2 * player[game]
        if action[game] < board[game].size:
            move = np.uint64(1) << np.uint64(action[game])
            flipped = _flipped(move, mine, theirs, steps, inside)
            _recolour(board[game], move | flipped, stone)
            mine, theirs = mine | move | flipped, theirs & ~flipped
        player[game] = 1 - player[game]
        if (_moves(mine, theirs, steps, inside) | _moves(theirs, mine, steps, inside)) == 0:
            ended[game] = True
            outcome[game] = -stone * np.sign(board[game].sum())


@inlined
def _recolour(board: np.ndarray, cells: _Cells, stone: int) -> None:
    for row in range(board.shape[0]):
        for column in range(board.shape[1]):
            if (cells >> np.uint64(row * board.shape[1] + column)) & np.uint64(1):
                board[row, column] = stone
