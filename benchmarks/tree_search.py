"""What a search costs: simulations a second of Connect Four with an MLP of 2 x 128, on one core.

    OMP_NUM_THREADS=1 python benchmarks/tree_search.py

Writes docs/results/tree_search.md. Times are of the process, so that those of others do not count. `rules` and
`network` are the parts of the two in a simulation, measured in a search of its own; the rest is the tree's: selection,
bookkeeping and backup.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from experiments import RESULTS, versions
from report import machine

from mbrl_wrappers.envs.games import ConnectFour, State
from mbrl_wrappers.planners.tree import PUCT, Gumbel, Method, Root, Step, TreeSearch, root_generators
from mbrl_wrappers.planners.tree.games import GameExpansion

HIDDEN = 128


class Network:
    """A random MLP with 7 logits and a value, by NumPy; keeps the time that it takes."""

    def __init__(self, game: ConnectFour) -> None:
        generator = np.random.default_rng(0)
        widths = [int(np.prod(game.observation_shape)), HIDDEN, HIDDEN, game.num_actions + 1]
        self.game, self.seconds = game, 0.0
        self.weights = [
            generator.normal(0, (2 / i) ** 0.5, (i, o)).astype(np.float32) for i, o in itertools.pairwise(widths)
        ]
        self.biases = [np.zeros(o, np.float32) for o in widths[1:]]

    def __call__(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        x = self.game.observation(state).reshape(len(state.player), -1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = x @ weight
            x += bias
            np.maximum(x, 0, out=x)
        x = x @ self.weights[-1]
        x += self.biases[-1]
        return x[:, :-1], np.tanh(x[:, -1])

    def timed(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        began = time.process_time()
        result = self(state)
        self.seconds += time.process_time() - began
        return result


class TimedExpansion(GameExpansion):
    """A game as a search sees it; keeps the time that rules and network take together."""

    seconds = 0.0

    def __call__(self, state: Any, action: np.ndarray) -> tuple[Any, Step]:
        began = time.process_time()
        result = super().__call__(state, action)
        self.seconds += time.process_time() - began
        return result


def start(game: ConnectFour, size: int, moves: int = 6) -> State:
    """Return games after some random moves."""
    generator, state = np.random.default_rng(1), game.initial(size)
    for _ in range(moves):
        state = game.step(state, generator.integers(0, 7, size))
    return state


def time_of(search: TreeSearch, root: Root, expand: Callable, repeats: int) -> float:
    """The shortest time of a search, in microseconds for each simulation of a game."""
    generators, times = root_generators(0, len(root.legal)), []
    for _ in range(repeats):
        began = time.process_time()
        search.search(root, expand, generators, temperature=1.0)
        times.append(time.process_time() - began)
    return 1e6 * min(times) / (len(root.legal) * search.num_simulations)


def row(game: ConnectFour, games: int, simulations: int, method: Method, compiled: bool, repeats: int) -> str:
    """Measure a search; returns a row of the table."""
    network = Network(game)
    root = GameExpansion(game, network).root(start(game, games))
    search = TreeSearch(simulations, method, compiled=compiled)
    each = time_of(search, root, GameExpansion(game, network), repeats)
    network.seconds, timed = 0.0, TimedExpansion(game, network.timed)
    time_of(search, root, timed, 1)
    parts = [1e6 * part / (games * simulations) for part in (timed.seconds - network.seconds, network.seconds)]
    kernels = "numba" if compiled else "NumPy"
    cells = [str(games), str(simulations), type(method).__name__, kernels, f"{1e6 / each:,.0f}"]
    return "| " + " | ".join([*cells, *(f"{part:.2f}" for part in (each, *parts))]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    lines = [
        "# What a tree search costs",
        "",
        "Connect Four after six random moves, an MLP of 2 x 128 units by NumPy, one core; the best of",
        f"{arguments.repeats} searches, in CPU time. `rules`, and `network` with the observations that it takes, are",
        "parts of the microseconds of a simulation of one game; the rest is the tree's: selection, bookkeeping and",
        "backup.",
        "Written by `OMP_NUM_THREADS=1 python benchmarks/tree_search.py`.",
        "",
        f"{machine()['cpu']}, {versions()}.",
        "",
        "| games | simulations | method | kernels | simulations/s | us each | rules | network |",
        "|--:|--:|---|---|--:|--:|--:|--:|",
    ]
    game = ConnectFour()
    for games, simulations, compiled in itertools.product((1, 256), (100, 400), (True, False)):
        for method in (Gumbel(), PUCT()):
            repeats = arguments.repeats if compiled else 2
            lines.append(row(game, games, simulations, method, compiled, repeats))
            print(lines[-1], flush=True)
    (RESULTS / "tree_search.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
