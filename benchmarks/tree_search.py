"""What a search costs: simulations a second of Connect Four with an MLP of 2 x 128, on one core.

    OMP_NUM_THREADS=1 python benchmarks/tree_search.py
    OMP_NUM_THREADS=1 python benchmarks/tree_search.py --games 1 --simulations 400 --plain

Times are of the process, so that those of others do not count. `rules` and `network` are the parts of the two in a
simulation, measured in a search of its own; the rest is the tree's: selection, bookkeeping and backup.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from mbrl_wrappers.planners.tree import PUCT, Gumbel, Root, Step, TreeSearch, root_generators

FULL = np.uint64(sum(0b111111 << (7 * column) for column in range(7)))
HIDDEN = 128


class Board(NamedTuple):
    """Connect Four: 7 bits a column, the lowest one its bottom, the highest one always free."""

    own: np.ndarray  # [B] uint64 stones of the player to move
    other: np.ndarray
    ended: np.ndarray  # [B] bool
    outcome: np.ndarray  # [B] int8 for the player to move


@njit(cache=True)
def play(own: Any, other: Any, ended: Any, action: Any) -> Any:
    """Take a step, and describe the new states: Board's fields, observation [B, 84] and legal [B, 7]."""
    size = len(own)
    new_own, new_other, new_ended = other.copy(), own.copy(), ended.copy()
    outcome = np.zeros(size, np.int8)
    seen = np.zeros((size, 84), np.float32)
    legal = np.zeros((size, 7), np.bool_)
    for b in range(size):
        full = own[b] | other[b]
        if not ended[b]:
            bottom = np.uint64(1) << np.uint64(7 * action[b])
            stone = (full + bottom) & (np.uint64(0b111111) << np.uint64(7 * action[b]))
            mover = own[b] | stone
            full |= stone
            new_other[b] = mover
            for shift in (1, 6, 7, 8):
                pairs = mover & (mover >> np.uint64(shift))
                if pairs & (pairs >> np.uint64(2 * shift)):
                    outcome[b] = -1
            new_ended[b] = outcome[b] != 0 or full == FULL
        for cell in range(42):
            bit = np.uint64(7 * (cell // 6) + cell % 6)
            seen[b, cell] = (new_own[b] >> bit) & np.uint64(1)
            seen[b, 42 + cell] = (new_other[b] >> bit) & np.uint64(1)
        for column in range(7):
            legal[b, column] = not new_ended[b] and not (full >> np.uint64(7 * column + 5)) & np.uint64(1)
    return new_own, new_other, new_ended, outcome, seen, legal


class Network:
    """A random MLP with 7 logits and a value, by NumPy."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        widths = [84, HIDDEN, HIDDEN, 8]
        self.weights = [
            generator.normal(0, (2 / i) ** 0.5, (i, o)).astype(np.float32) for i, o in itertools.pairwise(widths)
        ]
        self.biases = [np.zeros(o, np.float32) for o in widths[1:]]

    def __call__(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = seen
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = x @ weight
            x += bias
            np.maximum(x, 0, out=x)
        x = x @ self.weights[-1]
        x += self.biases[-1]
        return x[:, :7], np.tanh(x[:, 7])


def start(size: int, moves: int = 6) -> tuple[Board, np.ndarray, np.ndarray]:
    """Boards after some random moves, with observations and legal actions."""
    generator = np.random.default_rng(1)
    zeros = np.zeros(size, np.uint64)
    *board, seen, legal = play(zeros, zeros, np.zeros(size, bool), generator.integers(0, 7, size))
    for _ in range(moves - 1):
        *board, seen, legal = play(board[0], board[1], board[2], generator.integers(0, 7, size))
    return Board(*board), seen, legal


class Expansion:
    """Connect Four with a network, as a search sees it; keeps the time that each of them takes."""

    def __init__(self) -> None:
        self.network = Network()
        self.times = {"rules": 0.0, "network": 0.0}

    def __call__(self, board: Board, action: np.ndarray) -> tuple[Board, Step]:
        *fields, seen, legal = play(board.own, board.other, board.ended, action)
        state = Board(*fields)
        logits, value = self.network(seen)
        return state, Step(-state.outcome, state.ended, logits, value, legal)

    def timed(self, board: Board, action: np.ndarray) -> tuple[Board, Step]:
        began = time.process_time()
        *fields, seen, legal = play(board.own, board.other, board.ended, action)
        state = Board(*fields)
        middle = time.process_time()
        logits, value = self.network(seen)
        self.times["rules"] += middle - began
        self.times["network"] += time.process_time() - middle
        return state, Step(-state.outcome, state.ended, logits, value, legal)


def time_of(search: TreeSearch, root: Root, expand: Callable, repeats: int) -> float:
    """The shortest time of a search, in microseconds for each simulation of a game."""
    generators, times = root_generators(0, len(root.legal)), []
    for _ in range(repeats):
        began = time.process_time()
        search.search(root, expand, generators, temperature=1.0)
        times.append(time.process_time() - began)
    return 1e6 * min(times) / (len(root.legal) * search.num_simulations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--simulations", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--plain", action="store_true", help="the kernels of NumPy instead of numba's")
    arguments = parser.parse_args()

    print("| games | simulations | method | simulations/s | us each | rules | network |")
    print("|--:|--:|---|--:|--:|--:|--:|")
    for games in arguments.games:
        board, seen, legal = start(games)
        root = Root(board, *Network()(seen), legal)
        for simulations in arguments.simulations:
            for method in (Gumbel(), PUCT()):
                search, expand = TreeSearch(simulations, method, compiled=not arguments.plain), Expansion()
                each = time_of(search, root, expand, arguments.repeats)
                time_of(search, root, expand.timed, 1)
                parts = [1e6 * part / (games * simulations) for part in expand.times.values()]
                cells = [games, simulations, type(method).__name__, f"{1e6 / each:,.0f}"]
                print("|", " | ".join(map(str, cells)), "|", " | ".join(f"{part:.2f}" for part in (each, *parts)), "|")


if __name__ == "__main__":
    main()
