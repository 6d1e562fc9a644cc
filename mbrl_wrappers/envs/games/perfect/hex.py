"""Hex on small boards by depth-first search that knows which moves matter.

A set of cells is an integer: bit ``row * size + column``. Whoever wins a position needs only some of the empty cells
for it. When a move loses, the other player's answer needs certain cells, and every move outside them loses to the same
answer: only the cells that all such answers need are tried ("must-play region": Hayward, Björnsson, Johanson, Kan, Po
and van Rijswijck, 2005, Theoretical Computer Science 349(2)).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mbrl_wrappers.acceleration.kernels import compiled, inlined
from mbrl_wrappers.envs.games.base import State
from mbrl_wrappers.envs.games.hex import NEIGHBOURS, Hex
from mbrl_wrappers.envs.games.perfect.solver import Solver

LARGEST = 5
_TABLE_SIZE = 1_048_573  # a prime
# An answer, as bits: 0 to 24 are the empty cells that the winner needs, 25 tells that the player to move wins, and what
# is above them is the cell of a move that wins.
_CELLS = (1 << 25) - 1
_WON = 1 << 25


class Board(NamedTuple):
    """A board's constants, and what the search has found out about positions."""

    around: np.ndarray  # [cells] int64: the neighbours of each cell
    sides: np.ndarray  # [2, 2] int64: for each player, the cells of the two sides to connect
    order: np.ndarray  # [cells] int64: the middle first
    keys: np.ndarray  # [N] int64: the position in each slot, and one bit above it
    answers: np.ndarray  # [N] int64
    num_nodes: np.ndarray  # [1] int64: positions searched


class HexSolver(Solver):
    """Solves positions on boards up to 5 x 5; on 5 x 5 with six stones or more.

    Args:
        size: of the board.

    Raises:
        ValueError: for a larger board.
    """

    def __init__(self, size: int) -> None:
        if size > LARGEST:
            raise ValueError(f"size must be at most {LARGEST}, got {size}")
        self.game = Hex(size)
        self.least_stones = 6 if size == 5 else 0
        self._bits = 1 << np.arange(size * size).reshape(size, size)
        self._board = _board(size, self._bits)

    @property
    def num_nodes(self) -> int:
        """Positions searched so far."""
        return int(self._board.num_nodes[0])

    def _values(self, state: State) -> np.ndarray:
        own, other = [(self._bits * (state.board == stone)).sum((1, 2)).tolist() for stone in (1, -1)]
        positions = zip(own, other, state.player.tolist(), state.ended, strict=True)
        return np.array([0 if ended else _value(x, o, p, self._board) for x, o, p, ended in positions], np.int8)


def _board(size: int, bits: np.ndarray) -> Board:
    framed = np.pad(bits, 1)
    shifted = [framed[1 + down : 1 + down + size, 1 + right : 1 + right + size] for down, right in NEIGHBOURS]
    around = np.sum(shifted, axis=0)
    sides = np.array([[bits[0].sum(), bits[-1].sum()], [bits[:, 0].sum(), bits[:, -1].sum()]])
    row, column = np.indices((size, size)) - (size - 1) / 2
    order = np.argsort((row**2 + column**2 + row * column).ravel(), kind="stable")
    table = np.zeros((2, _TABLE_SIZE), np.int64)
    return Board(around.ravel(), sides, order, table[0], table[1], np.zeros(1, np.int64))


@inlined
def _connects(stones: int, cell: int, sides: np.ndarray, around: np.ndarray) -> bool:
    """Whether the chain that the stone on a cell belongs to touches both sides."""
    chain, new = 0, 1 << cell
    while new:
        chain |= new
        near = 0
        for place in range(len(around)):
            if new >> place & 1:
                near |= around[place]
        new = near & stones & ~chain
    return chain & sides[0] != 0 and chain & sides[1] != 0


@inlined
def _first(cells: int, order: np.ndarray) -> int:
    for cell in order:
        if cells >> cell & 1:
            return cell
    return 0


@compiled
def _answer(mine: int, theirs: int, player: int, board: Board) -> int:
    """Who wins a position that is not decided, and how."""
    board.num_nodes[0] += 1
    key = (mine | 1 << 25) << 25 | theirs
    slot = key % _TABLE_SIZE
    if board.keys[slot] == key:
        return board.answers[slot]
    worth_trying = ~(mine | theirs) & ((1 << len(board.order)) - 1)
    answer = 0
    cell = _first(worth_trying, board.order)
    while worth_trying:
        move = 1 << cell
        if _connects(mine | move, cell, board.sides[player], board.around):
            answer = _WON | move | cell << 26
            break
        reply = _answer(theirs, mine | move, 1 - player, board)
        if not reply & _WON:
            answer = _WON | move | reply | cell << 26
            break
        needed = reply & _CELLS
        answer |= needed
        worth_trying &= needed
        cell = reply >> 26  # where the other player would have won is often the place to be
        if not worth_trying >> cell & 1:
            cell = _first(worth_trying, board.order)
    board.keys[slot], board.answers[slot] = key, answer
    return answer


@compiled
def _value(first: int, second: int, player: int, board: Board) -> int:
    mine, theirs = (first, second) if player == 0 else (second, first)
    return 1 if _answer(mine, theirs, player, board) & _WON else -1
