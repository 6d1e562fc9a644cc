"""Connect Four by alpha-beta search over bitboards.

A set of cells is an integer: bit ``7 * column + row``, with row 0 at the bottom. The seventh bit of a column stays
empty, so that no line runs over a column's end. The search is alpha-beta (Knuth and Moore, 1975, Artificial
Intelligence 6(4)) with a window that holds no value: it asks whether a position is won, and if not, whether it is lost.
How soon does not matter. A table remembers positions that are reached on several ways.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mbrl_wrappers.acceleration.kernels import compiled, inlined
from mbrl_wrappers.envs.games.base import State
from mbrl_wrappers.envs.games.line_games import ConnectFour
from mbrl_wrappers.envs.games.perfect.solver import Solver

_BOTTOM = sum(1 << (7 * column) for column in range(7))
_BOARD = 63 * _BOTTOM
_COLUMNS = tuple(63 << (7 * column) for column in (3, 2, 4, 1, 5, 0, 6))  # the middle first
_BITS = np.array([[1 << (7 * column + 5 - row) for column in range(7)] for row in range(6)])
_TABLE_SIZE = 4_194_301  # a prime


class Table(NamedTuple):
    """What the search has found out about positions, and where it takes notes."""

    keys: np.ndarray  # [N] int64: the position in each slot
    lower: np.ndarray  # [N] int8: it is worth at least this
    upper: np.ndarray  # [N] int8: it is worth at most this
    orders: np.ndarray  # [43, 7] int64: for each number of empty cells, how promising each move is; -1: not to be made
    num_nodes: np.ndarray  # [1] int64: positions searched


class ConnectFourSolver(Solver):
    """Solves positions with ten stones or more; without numba, wait for the last moves."""

    least_stones = 10

    def __init__(self) -> None:
        self.game = ConnectFour()
        keys, bounds = np.zeros(_TABLE_SIZE, np.int64), np.zeros((2, _TABLE_SIZE), np.int8)
        self._table = Table(keys, bounds[0], bounds[1], np.zeros((43, 7), np.int64), np.zeros(1, np.int64))

    @property
    def num_nodes(self) -> int:
        """Positions searched so far."""
        return int(self._table.num_nodes[0])

    def _values(self, state: State) -> np.ndarray:
        mine = (_BITS * (state.board == (1 - 2 * state.player)[:, None, None])).sum((1, 2))
        taken = (_BITS * (state.board != 0)).sum((1, 2))
        empty = (state.board == 0).sum((1, 2))
        positions = zip(mine.tolist(), taken.tolist(), empty.tolist(), state.ended, strict=True)
        return np.array([0 if ended else _value(m, t, e, self._table) for m, t, e, ended in positions], np.int8)


@inlined
def _completing(stones: int, taken: int) -> int:
    """The empty cells that would complete a line of four."""
    found = 0
    for step in (1, 6, 7, 8):
        up, down = stones << step, stones >> step
        up2, down2 = up & (stones << (2 * step)), down & (stones >> (2 * step))
        found |= up2 & (down | stones << (3 * step))
        found |= down2 & (up | stones >> (3 * step))
    return found & _BOARD & ~taken


@inlined
def _count(cells: int) -> int:
    number = 0
    while cells:
        cells &= cells - 1
        number += 1
    return number


@inlined
def _safe_moves(mine: int, taken: int) -> int:
    """The moves after which the other player can't win at once."""
    possible = (taken + _BOTTOM) & _BOARD
    threats = _completing(taken ^ mine, taken)
    forced = possible & threats
    if forced:
        possible = 0 if forced & (forced - 1) else forced
    return possible & ~(threats >> 1)


@inlined
def _slot(key: int, table: Table) -> int:
    """Where the table has a position; one that it does not have takes the place of another."""
    slot = key % _TABLE_SIZE
    if table.keys[slot] != key:
        table.keys[slot], table.lower[slot], table.upper[slot] = key, -1, 1
    return slot


@inlined
def _rate_moves(moves: int, mine: int, taken: int, order: np.ndarray) -> None:
    """Rate moves by how many cells would then complete a line."""
    for index, column in enumerate(_COLUMNS):
        move = moves & column
        order[index] = _count(_completing(mine | move, taken)) if move else -1


@compiled
def _exceeds(mine: int, taken: int, empty: int, bound: int, table: Table) -> bool:
    """Whether a position is worth more than the bound, -1 or 0, to the player to move, who can't win at once."""
    table.num_nodes[0] += 1
    moves = _safe_moves(mine, taken)
    if moves == 0 and empty > 0:
        return False
    if empty <= 2:
        return bound < 0
    key = mine + taken
    slot = _slot(key, table)
    if table.lower[slot] > bound:
        return True
    if table.upper[slot] <= bound:
        return False
    order = table.orders[empty]
    _rate_moves(moves, mine, taken, order)
    for _ in range(7):
        index = order.argmax()
        if order[index] < 0:
            break
        order[index] = -1
        child = taken | (moves & _COLUMNS[index])
        if not _exceeds(taken ^ mine, child, empty - 1, -1 - bound, table):
            table.lower[_slot(key, table)] = bound + 1
            return True
    table.upper[_slot(key, table)] = bound
    return False


@compiled
def _value(mine: int, taken: int, empty: int, table: Table) -> int:
    """What a position is worth to the player to move."""
    if _completing(mine, taken) & (taken + _BOTTOM):
        return 1
    # By a loop: numba would compile calls with constants apart, and can't load those from its cache.
    for bound in (0, -1):
        if _exceeds(mine, taken, empty, bound, table):
            return bound + 1
    return -1
