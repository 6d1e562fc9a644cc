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
from typing import Any

import numpy as np

from mbrl_wrappers.envs.games import ConnectFour, State
from mbrl_wrappers.planners.tree import PUCT, Gumbel, Root, Step, TreeSearch, root_generators
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--simulations", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--plain", action="store_true", help="the kernels of NumPy instead of numba's")
    arguments = parser.parse_args()

    print("| games | simulations | method | simulations/s | us each | rules | network |")
    print("|--:|--:|---|--:|--:|--:|--:|")
    game = ConnectFour()
    for games in arguments.games:
        network = Network(game)
        root = GameExpansion(game, network).root(start(game, games))
        for simulations in arguments.simulations:
            for method in (Gumbel(), PUCT()):
                search = TreeSearch(simulations, method, compiled=not arguments.plain)
                each = time_of(search, root, GameExpansion(game, network), arguments.repeats)
                network.seconds, timed = 0.0, TimedExpansion(game, network.timed)
                time_of(search, root, timed, 1)
                seconds = (timed.seconds - network.seconds, network.seconds)  # rules, network
                parts = [1e6 * part / (games * simulations) for part in seconds]
                cells = [games, simulations, type(method).__name__, f"{1e6 / each:,.0f}"]
                print("|", " | ".join(map(str, cells)), "|", " | ".join(f"{part:.2f}" for part in (each, *parts)), "|")


if __name__ == "__main__":
    main()
