"""What workers bring to AlphaZero's self-play: games a second of Connect Four by 1, 2 and 4 of them on this machine.

    OMP_NUM_THREADS=1 python benchmarks/self_play_workers.py

Writes docs/results/self_play_workers.md. Clock times need a quiet machine; CPU times do not, and say what a core for
each process would bring.
"""

from __future__ import annotations

import argparse
import os
import pickle
import textwrap
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from experiments import RESULTS, versions
from report import machine
from self_play import new_agent
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.agents.self_play import SelfPlay
from mbrl_wrappers.agents.self_play_workers import Weights

WORKERS = (0, 1, 2, 4)
# Moves of each worker before the first measurement: games end at any time by then.
WARM_UP = 60
MANY = 100


@dataclass(frozen=True)
class Times:
    """Readings, or what they have grown by.

    Attributes:
        clock: of the wall.
        waited: of it, from before a move is asked for until it is there.
        learner: CPU time of the process that learns.
        taken: of it, for taking over moves.
        workers: CPU time of playing.
    """

    clock: float = 0.0
    waited: float = 0.0
    learner: float = 0.0
    taken: float = 0.0
    workers: float = 0.0

    def per(self, other: Times, rounds: int) -> Times:
        """Return milliseconds for each of ``rounds`` between another reading and this one."""
        return Times(**{name: 1e3 * (value - vars(other)[name]) / rounds for name, value in vars(self).items()})


class Stopwatch(BaseCallback):
    """Measures periods of as many moves of all games, one after the other."""

    def __init__(self, warm_up: int, rounds: int) -> None:
        super().__init__()
        self.periods: list[Times] = []
        self._warm_up, self._rounds, self._done = warm_up, rounds, 0
        self._waited = self._taken = 0.0
        self._before = Times()

    def _on_rollout_start(self) -> None:
        self._began = time.perf_counter(), time.process_time()
        if self._done >= self._warm_up and (self._done - self._warm_up) % self._rounds == 0:
            games: Any = self.model.self_play  # type: ignore[attr-defined]
            clock, learner = self._began
            workers = self._taken if isinstance(games, SelfPlay) else games.seconds
            taken = 0.0 if isinstance(games, SelfPlay) else self._taken
            now = Times(clock, self._waited, learner, taken, workers)
            if self._done > self._warm_up:
                self.periods.append(now.per(self._before, self._rounds))
            self._before = now

    def _on_step(self) -> bool:
        self._done += 1
        self._waited += time.perf_counter() - self._began[0]
        self._taken += time.process_time() - self._began[1]
        return True


@dataclass(frozen=True)
class Measured:
    """A run's best periods, in milliseconds for a move of all games of a worker.

    Attributes:
        best: by the clock.
        least: CPU times, each of the period where it was the least.
        length: mean number of moves of a game.
        agent: after the run.
    """

    best: Times
    least: Times
    length: float
    agent: AlphaZero


def measure(workers: int, rounds: int, repeats: int) -> Measured:
    agent = new_agent(0, workers=workers)
    watch = Stopwatch(WARM_UP * max(workers, 1), rounds)
    agent.learn((watch._warm_up + rounds * repeats + 1) * agent.num_games, callback=watch, log_interval=0)
    least = Times(**{name: min(vars(period)[name] for period in watch.periods) for name in vars(Times())})
    best = min(watch.periods, key=lambda period: period.clock)
    return Measured(best, least, float(np.mean([info["l"] for info in agent.ep_info_buffer or ()])), agent)


def row(workers: int, found: Measured) -> str:
    """Return a row of the table."""
    games = found.agent.num_games / found.length * 1e3
    best, least = found.best, found.least
    learning = least.learner - (least.workers if workers == 0 else 0)
    slowest = max(least.workers / workers, learning) if workers else least.learner
    rates = [f"{games * found.length / best.clock:,.0f}", *(f"{games / each:.0f}" for each in (best.clock, slowest))]
    parts = [f"{part:.1f}" for part in (least.workers, learning, least.taken)]
    busy = 1 - best.waited / best.clock
    return "| " + " | ".join([str(workers), *rates, f"{100 * busy:.0f}%", *parts]) + " |"


def on_paper(found: Measured) -> list[str]:
    """Return what many workers would need, by the times and sizes of one."""
    agent, least = found.agent, found.least
    rows = agent.examples.sample(1000)
    row_bytes = sum(field.nbytes for field in rows) / 1000
    weights = len(pickle.dumps(Weights.of(agent)))
    learnt = found.length - agent.random_opening / 2
    playing, learning = least.workers / 1e3, least.learner / 1e3  # seconds for a move of all games of a worker
    games = agent.num_games / found.length / playing  # a second, of a worker
    enough = playing / learning
    return [
        f"## On paper: {MANY} workers",
        "",
        "From the CPU times and sizes of one worker above, with a core for each process:",
        "",
        "| what | one worker | the learner keeps up with | " + f"{MANY} workers |",
        "|---|--:|--:|--:|",
        f"| workers | 1 | {enough:.1f} | {MANY} |",
        f"| games/s | {games:.0f} | {games * enough:.0f} | {games * MANY:,.0f} |",
        f"| rows to the learner ({row_bytes:.0f} bytes each, {learnt:.0f} of a game) | "
        + " | ".join(_rate(games * n * learnt * row_bytes) for n in (1, enough, MANY))
        + " |",
        f"| weights to the store ({weights / 1e3:.0f} kB a round of turns) | "
        + " | ".join([_rate(weights / playing)] * 3)
        + " |",
        "| weights to the workers, each on a machine of its own | "
        + " | ".join(_rate(weights / playing * n) for n in (1, enough, MANY))
        + " |",
        f"| updates/s at {agent.gradient_steps} for {agent.num_games} moves | "
        + " | ".join(f"{agent.gradient_steps * n / playing:,.0f}" for n in (1, enough, MANY))
        + " |",
        "",
        *_conclusions(agent, enough, weights / playing),
    ]


def _conclusions(agent: AlphaZero, enough: float, weights: float) -> list[str]:
    """Return what saturates.

    Args:
        agent: that was measured.
        enough: workers that the learner keeps up with.
        weights: bytes a second to each machine.
    """
    slower = MANY / enough
    learner = f"""The learner saturates first: with the recipe's {agent.gradient_steps} updates of
    {agent.batch_size} positions for {agent.num_games} moves, a core of learning uses up what {enough:.1f} cores
    play, and more workers wait for their turns. To use {MANY}, one of these has to grow by {slower:.0f}: the
    learner's speed, such as on a GPU; the simulations of a move; or the moves for an update (`num_games`,
    `gradient_steps`). The last is the paper's way: its 5,000 TPUs played 44 million games of chess for 700,000
    updates of 4,096 positions."""
    network = f"""With such a learner, weights come next if each worker has a machine of its own: {
        1.25e9
        / weights:,.0f} of them fill 10 Gbit/s. Ray's store sends them once to a machine, however many workers it has.
    Workers take turns, so the slowest one sets the pace of all: they need machines of one kind."""
    return [*_wrapped(learner), "", *_wrapped(network)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 110)


def _rate(number: float) -> str:
    return f"{number / 1e6:.1f} MB/s" if number >= 1e5 else f"{number / 1e3:.1f} kB/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="moves of all games in a period")
    parser.add_argument("--repeats", type=int, default=5, help="periods, of which the best counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    about = f"""AlphaZero on Connect Four with its recipe: 256 games a worker, 32 simulations a move, a dense
    network, which has just begun to learn, so that games are short. Best of {arguments.repeats} periods of
    {arguments.rounds} rounds; a round is a move of all games of a worker. 0 workers: one process plays and learns
    by turns. The last columns are CPU milliseconds for a round: of the process that plays; of the one that learns,
    all in all; and of this, what it costs to take the round over. `with a core each`: the rate that these come to
    where each process has a core of its own. `learns`: the share of the clock's time in which the learner does not
    wait for a round."""
    lines = [
        "# Self-play by workers",
        "",
        *_wrapped(about),
        "Written by `OMP_NUM_THREADS=1 python benchmarks/self_play_workers.py`.",
        "",
        f"{machine()['cpu']}, {os.cpu_count()} cores, {versions()}.",
        "",
        "| workers | moves/s | games/s | games/s with a core each | learns | playing | learner | taking over |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    one = None
    for workers in WORKERS:
        found = measure(workers, arguments.rounds, arguments.repeats)
        one = found if workers == 1 else one
        lines.append(row(workers, found))
        print(lines[-1], flush=True)
    assert one is not None
    (RESULTS / "self_play_workers.md").write_text("\n".join([*lines, "", *on_paper(one), ""]))


if __name__ == "__main__":
    main()
