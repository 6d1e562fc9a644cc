"""AlphaZero against a ladder of opponents, by the core-seconds that it has learned for.

    python benchmarks/self_play.py run ConnectFour --seeds 10 11 12
    python benchmarks/self_play.py table

A run writes rows to docs/results/self_play/<game>_seed<n>.csv and, while it goes, resumes from runs/self_play. `table`
makes docs/results/self_play.md of them.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from experiments import RESULTS, ROOT, spread, versions, write_csv

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.envs.games import Game, State
from mbrl_wrappers.envs.games.base import Opponent
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.envs.games.matches import play_match
from mbrl_wrappers.envs.games.opponents import find_opponent
from mbrl_wrappers.envs.games.perfect import perfect_solver
from mbrl_wrappers.imagination import checkpoint_extra, has_checkpoint, load_checkpoint, save_checkpoint
from mbrl_wrappers.zoo.training.recipe import load_recipe

FOLDER, SEEDS = RESULTS / "self_play", (10, 11, 12)


@dataclass(frozen=True)
class Experiment:
    """A game that is learned.

    Attributes:
        moves: of self-play between two evaluations.
        rounds: how many there are.
        ladder: opponents by name, and the agent's simulations against each.
        games: of each match.
        stones: of the positions that are compared with the perfect player, at least; None: not compared.
    """

    moves: int
    rounds: int
    ladder: dict[str, int]
    games: int = 100
    stones: int | None = None


EXPERIMENTS = {
    "TicTacToe": Experiment(30_000, 8, {"one_ply": 32, "perfect": 32}, games=1000),
    "ConnectFour": Experiment(1_000_000, 12, {"one_ply": 32, "uct_100": 32, "uct_1000": 400}, stones=14),
}


def train(name: str, seed: int) -> None:
    experiment, checkpoint = EXPERIMENTS[name], ROOT / "runs" / "self_play" / f"{name}_seed{seed}"
    env = GameEnv(name)
    if has_checkpoint(checkpoint):
        agent, rows = load_checkpoint(AlphaZero, checkpoint, env, device="cpu"), checkpoint_extra(checkpoint)["rows"]
    else:
        recipe = load_recipe("alphazero", f"mbrl_wrappers/{name}-v0")
        agent, rows = AlphaZero("MlpPolicy", env, seed=seed, device="cpu", **recipe.agent), []
    spent = float(rows[-1]["cpu_seconds"]) if rows else 0.0
    while len(rows) < experiment.rounds:
        started = time.process_time()
        agent.learn(experiment.moves, reset_num_timesteps=False, log_interval=0)
        spent += time.process_time() - started
        rows.append(evaluated(agent, experiment, seed, spent))
        print(name, seed, rows[-1], flush=True)
        save_checkpoint(agent, checkpoint, {"rows": rows})
    write_csv(FOLDER / f"{name}_seed{seed}.csv", rows)


def evaluated(agent: AlphaZero, experiment: Experiment, seed: int, spent: float) -> dict[str, Any]:
    """Return a row: what was learned for how long, and the score against each opponent."""
    row: dict[str, Any] = {"moves": agent.num_timesteps, "updates": agent._n_updates, "cpu_seconds": round(spent, 1)}
    for opponent, simulations in experiment.ladder.items():
        player = agent.player(simulations)
        result = play_match(agent.rules, player, find_opponent(opponent), experiment.games, 1000 + seed)
        row |= {f"{opponent} won": result.wins, f"{opponent} drawn": result.draws, f"{opponent} lost": result.losses}
    if experiment.stones is not None:
        row["kept, searched"] = agreement(agent.rules, agent.player(400), experiment.stones)
        row["kept, network"] = agreement(agent.rules, agent.player(0), experiment.stones)
    return row


def agreement(game: Game, player: Opponent, stones: int, count: int = 200) -> float:
    """Return in what share of random positions a player's move keeps their worth to a perfect player."""
    state, generator = positions(game, stones, count), np.random.default_rng(0)
    action, (_, best) = player(game, state, generator), perfect_solver(game).solve(state)
    return float(best[np.arange(count), action].mean())


def positions(game: Game, stones: int, count: int) -> State:
    """Return positions of ``stones`` to ``stones + 7`` stones in games of random moves, none of them ended."""
    generator = np.random.default_rng(0)
    found: list[State] = []
    while len(found) < count:
        state, wanted = game.initial(1), stones + int(generator.integers(8))
        for _ in range(wanted):
            legal = np.flatnonzero(game.legal_actions(state)[0])
            state = game.step(state, generator.choice(legal, 1)) if len(legal) else state
        if not state.ended[0]:
            found.append(state)
    return State(*map(np.concatenate, zip(*found, strict=True)))


def table() -> None:
    """Write the page."""
    lines = [
        "# AlphaZero against a ladder",
        "",
        "Learned from the rules alone, with the recipe of `alphazero` (32 simulations a move in self-play, a dense",
        "network of 2 x 128 units), on one core. Each player begins in half of the games of a match. The number of the",
        "agent's simulations stands with the opponent. `kept`: in what share of 200 positions of 14",
        "to 21 stones after random moves the agent's move keeps what the position is worth to a perfect player, with",
        "400 simulations and by the network alone. Core-seconds are those of self-play and learning; ± is over seeds",
        "(n - 1). Settings were chosen on seeds 0 to 2: without random openings (`random_opening`) the three lost 0, 6",
        "and 22 of 100 games of TicTacToe to the perfect player after 240,000 moves.",
        "",
        f"{versions()}.",
        "",
    ]
    for name, experiment in EXPERIMENTS.items():
        files = {seed: FOLDER / f"{name}_seed{seed}.csv" for seed in SEEDS}
        runs = {seed: list(csv.DictReader(file.open(newline=""))) for seed, file in files.items() if file.exists()}
        if runs:
            lines += [f"## {name}", "", f"Matches of {experiment.games} games.", *of_game(experiment, runs), ""]
            lines += [f"Runs: `python benchmarks/self_play.py run {name}`", ""]
    (RESULTS / "self_play.md").write_text("\n".join(lines))


def of_game(experiment: Experiment, runs: dict[int, list[dict[str, str]]]) -> list[str]:
    kept = [column for column in next(iter(runs.values()))[0] if column.startswith("kept")]
    header = ["moves", "core-s", *(f"{name} ({n}): won-drawn-lost" for name, n in experiment.ladder.items()), *kept]
    lines = [f"Seeds {', '.join(map(str, runs))}.", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for index in range(max(map(len, runs.values()))):
        rows = [run[index] for run in runs.values() if index < len(run)]
        cells = [f"{numbers(rows, 'moves')[0]:,.0f}", spread(numbers(rows, "cpu_seconds"))]
        for opponent in experiment.ladder:
            results = ["-".join(row[f"{opponent} {end}"] for end in ("won", "drawn", "lost")) for row in rows]
            cells.append(", ".join(results))
        cells += [spread([100 * value for value in numbers(rows, name)], 1) + "%" for name in kept]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def numbers(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("game", choices=sorted(EXPERIMENTS))
    runs.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    commands.add_parser("table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "table":
        table()
        return
    for seed in arguments.seeds:
        train(arguments.game, seed)


if __name__ == "__main__":
    main()
