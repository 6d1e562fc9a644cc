"""AlphaZero and Expert Iteration against a ladder of opponents, by the core-seconds that they have learned for.

    python benchmarks/self_play.py run ConnectFour --seeds 20 21 22
    python benchmarks/self_play.py compare --seeds 20 21 22
    python benchmarks/self_play.py table

A run writes rows to docs/results/self_play/<game>_seed<n>.csv and, while it goes, resumes from runs/self_play.
`compare` gives Gumbel's search and PUCT equal time to learn, and writes methods_seed<n>.csv. `table` makes
docs/results/search.md of them.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from experiments import RESULTS, ROOT, spread, versions, write_csv
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.agents import AlphaZero, ExIt
from mbrl_wrappers.envs.games import ConnectFour
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.envs.games.ladder import agreement, solvable_positions
from mbrl_wrappers.envs.games.matches import play_match
from mbrl_wrappers.envs.games.opponents import find_opponent
from mbrl_wrappers.imagination import checkpoint_extra, has_checkpoint, load_checkpoint, save_checkpoint
from mbrl_wrappers.zoo.training.building import build_agent
from mbrl_wrappers.zoo.training.job_making import make_job

FOLDER, SEEDS = RESULTS / "self_play", (20, 21, 22)
METHODS = tuple((search, simulations) for simulations in (16, 32, 64) for search in ("gumbel", "puct"))
COMPARED_SECONDS = 60


@dataclass(frozen=True)
class Experiment:
    """A game that is learned.

    Attributes:
        moves: of self-play between two evaluations.
        rounds: how many there are.
        ladder: matches: an opponent's name, or "itself without search" or "itself before", and the agent's simulations.
        games: of each match.
        kept: the agent's simulations where its moves are compared with a perfect player's.
        kind: the agent.
    """

    moves: int
    rounds: int
    ladder: tuple[tuple[str, int], ...]
    games: int = 100
    kept: int = 32
    kind: type[AlphaZero] = AlphaZero


ALONE, BEFORE = "itself without search", "itself before, both without search"
EXPERIMENTS = {
    "TicTacToe": Experiment(30_000, 8, (("one_ply", 32), ("perfect", 32)), games=1000),
    "ConnectFour": Experiment(
        1_000_000, 4, (("one_ply", 400), ("uct_1000", 400), ("uct_5000", 400), (ALONE, 32)), kept=400
    ),
    "Hex5": Experiment(20_000, 8, (("uct_100", 100), ("uct_100", 0), (ALONE, 100), (BEFORE, 0)), kept=100, kind=ExIt),
}


def train(name: str, seed: int) -> None:
    experiment, checkpoint = EXPERIMENTS[name], ROOT / "runs" / "self_play" / f"{name}_seed{seed}"
    env, before = GameEnv(name), checkpoint.with_name(f"{checkpoint.name}_before.zip")
    if has_checkpoint(checkpoint):
        agent: AlphaZero = load_checkpoint(experiment.kind, checkpoint, env, device="cpu")
        rows = checkpoint_extra(checkpoint)["rows"]
    else:
        agent, rows = new_agent(experiment.kind, name, seed), []
        save_for_matches(agent, before)
    # One call, since the learning rate may fall over all of it.
    remaining = experiment.moves * experiment.rounds - agent.num_timesteps
    if remaining > 0:
        rounds = Rounds(experiment, seed, rows, checkpoint, before)
        agent.learn(remaining, callback=rounds, reset_num_timesteps=False, log_interval=0)
    write_csv(FOLDER / f"{name}_seed{seed}.csv", rows)


class Rounds(BaseCallback):
    """Evaluates and checkpoints after every so many moves."""

    def __init__(self, experiment: Experiment, seed: int, rows: list[Any], checkpoint: Path, before: Path) -> None:
        super().__init__()
        self.experiment, self.seed, self.rows = experiment, seed, rows
        self.checkpoint, self.before = checkpoint, before
        self.spent = float(rows[-1]["cpu_seconds"]) if rows else 0.0

    def _on_training_start(self) -> None:
        self.began = time.process_time()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= (len(self.rows) + 1) * self.experiment.moves:
            self.evaluate()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if len(self.rows) < self.experiment.rounds:
            self.evaluate()

    def evaluate(self) -> None:
        agent = self.model
        assert isinstance(agent, AlphaZero)
        self.spent += time.process_time() - self.began
        self.rows.append(evaluated(agent, self.experiment, self.seed, self.spent, self.before))
        print(agent.rules.name, self.seed, self.rows[-1], flush=True)
        save_checkpoint(agent, self.checkpoint, {"rows": self.rows})
        save_for_matches(agent, self.before)
        self.began = time.process_time()


def new_agent(kind: type[AlphaZero], name: str, seed: int, **changes: Any) -> AlphaZero:
    params = {f"agent.{argument}": value for argument, value in changes.items()}
    agent = "exit" if kind is ExIt else "alphazero"
    spec = make_job(agent, f"mbrl_wrappers/{name}-v0", seed=seed, device="cpu", params=params)
    made: Any = build_agent(spec, GameEnv(name))[0]
    return made


def save_for_matches(agent: AlphaZero, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    agent.save(file)


def evaluated(agent: AlphaZero, experiment: Experiment, seed: int, spent: float, before: Path) -> dict[str, Any]:
    """Return a row: what was learned for how long, and the score in each match."""
    row: dict[str, Any] = {"moves": agent.num_timesteps, "updates": agent._n_updates, "cpu_seconds": round(spent, 1)}
    row["games"] = agent._episode_num
    for opponent, simulations in experiment.ladder:
        if opponent == ALONE:
            other = agent.player(0)
        elif opponent == BEFORE:
            other = experiment.kind.load(before, GameEnv(agent.rules.name), device="cpu").player(0)
        else:
            other = find_opponent(opponent)
        result = play_match(agent.rules, agent.player(simulations), other, experiment.games, 1000 + seed)
        label = heading(opponent, simulations)
        row |= {f"{label} won": result.wins, f"{label} drawn": result.draws, f"{label} lost": result.losses}
    if (where := solvable_positions(agent.rules)) is not None:
        row["kept, searched"] = agreement(agent.rules, agent.player(experiment.kept), where)
        row["kept, network"] = agreement(agent.rules, agent.player(0), where)
    return row


def heading(opponent: str, simulations: int) -> str:
    return f"{simulations or 'no'} simulations, {opponent}"


def compare(seed: int) -> None:
    """Give both searches equal time to learn Connect Four, each with several numbers of simulations."""
    rows: list[dict[str, Any]] = []
    agents: dict[tuple[str, int], AlphaZero] = {}
    where = solvable_positions(ConnectFour())
    assert where is not None
    for search, simulations in METHODS:
        agent, spent = new_agent(AlphaZero, "ConnectFour", seed, search=search, num_simulations=simulations), 0.0
        while spent < COMPARED_SECONDS:
            started = time.process_time()
            agent.learn(10_000, reset_num_timesteps=False, log_interval=0)
            spent += time.process_time() - started
        result = play_match(agent.rules, agent.player(), find_opponent("uct_100"), 200, 1000 + seed)
        row = {"search": search, "simulations": simulations, "moves": agent.num_timesteps, "seconds": round(spent, 1)}
        row |= {"won": result.wins, "drawn": result.draws, "lost": result.losses}
        row |= {"kept, searched": agreement(agent.rules, agent.player(), where)}
        row |= {"kept, network": agreement(agent.rules, agent.player(0), where)}
        agents[search, simulations] = agent
        if search == "puct":
            duel = play_match(agent.rules, agents["gumbel", simulations].player(), agent.player(), 200, 1000 + seed)
            row |= dict(zip(("gumbel won", "gumbel drawn", "gumbel lost"), duel, strict=True))
        else:
            row |= {"gumbel won": "", "gumbel drawn": "", "gumbel lost": ""}
        rows.append(row)
        print(seed, row, flush=True)
    write_csv(FOLDER / f"methods_seed{seed}.csv", rows)


def table() -> None:
    """Write the page."""
    lines = [
        "# Tree search that learns",
        "",
        "Learned from the rules alone, on one core, with the recipes `alphazero` and `exit`. Each player begins in",
        "half of the games of a match. `kept`: in what share of 200 positions after random moves the agent's move",
        "keeps what the position is worth to a perfect player. Core-seconds are those of self-play and learning; ± is",
        "over seeds (n - 1).",
        "",
        f"{versions()}.",
        "",
    ]
    for name, experiment in EXPERIMENTS.items():
        runs = read_runs(name)
        if runs:
            title = f"{'ExIt' if experiment.kind is ExIt else 'AlphaZero'}: {name}"
            lines += [f"## {title}", "", f"Matches of {experiment.games} games.", *of_game(experiment, runs), ""]
            lines += [f"Runs: `python benchmarks/self_play.py run {name}`", ""]
    if compared := read_runs("methods"):
        lines += of_methods(compared)
    (RESULTS / "search.md").write_text("\n".join(lines))


def read_runs(name: str) -> dict[int, list[dict[str, str]]]:
    files = sorted(FOLDER.glob(f"{name}_seed*.csv"), key=lambda file: int(file.stem.split("seed")[1]))
    return {int(file.stem.split("seed")[1]): list(csv.DictReader(file.open(newline=""))) for file in files}


def of_game(experiment: Experiment, runs: dict[int, list[dict[str, str]]]) -> list[str]:
    kept = [column for column in next(iter(runs.values()))[0] if column.startswith("kept")]
    matches = [heading(*rung) for rung in experiment.ladder]
    header = ["moves", "games", "core-s", *(f"{match}: won-drawn-lost" for match in matches), *kept]
    lines = [f"Seeds {', '.join(map(str, runs))}.", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for index in range(max(map(len, runs.values()))):
        rows = [run[index] for run in runs.values() if index < len(run)]
        cells = [f"{numbers(rows, name)[0]:,.0f}" for name in ("moves", "games")]
        cells.append(spread(numbers(rows, "cpu_seconds")))
        for match in matches:
            cells.append(", ".join("-".join(row[f"{match} {end}"] for end in ("won", "drawn", "lost")) for row in rows))
        cells += [spread([100 * value for value in numbers(rows, name)], 1) + "%" for name in kept]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def of_methods(runs: dict[int, list[dict[str, str]]]) -> list[str]:
    lines = [
        "## Gumbel's search against PUCT, equal time",
        "",
        f"Each learned Connect Four for {COMPARED_SECONDS} core-seconds, with the recipe but for search and",
        "simulations, and plays with as many simulations as it has learned with. Matches of 200 games against UCT-100",
        f"and between the two. Seeds {', '.join(map(str, runs))}.",
        "",
        "| simulations | search | moves | points against UCT-100 | kept, searched | kept, network | Gumbel-PUCT |",
        "|---|---|---|---|---|---|---|",
    ]
    for index, (search, simulations) in enumerate(METHODS):
        rows = [run[index] for run in runs.values()]
        points = [
            100 * (won + drawn / 2) / (won + drawn + lost)
            for won, drawn, lost in zip(*(numbers(rows, end) for end in ("won", "drawn", "lost")), strict=True)
        ]
        ends = ("gumbel won", "gumbel drawn", "gumbel lost")
        duels = ", ".join("-".join(row[end] for end in ends) for row in rows) if search == "puct" else ""
        kept = [spread([100 * v for v in numbers(rows, f"kept, {name}")], 1) for name in ("searched", "network")]
        cells = [str(simulations), search, spread(numbers(rows, "moves")), spread(points, 1) + "%"]
        lines.append("| " + " | ".join([*cells, *(f"{share}%" for share in kept), duels]) + " |")
    return [*lines, "", "Runs: `python benchmarks/self_play.py compare`", ""]


def numbers(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("game", choices=sorted(EXPERIMENTS))
    comparison = commands.add_parser("compare")
    for command in (runs, comparison):
        command.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    commands.add_parser("table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "table":
        table()
        return
    for seed in arguments.seeds:
        if arguments.command == "run":
            train(arguments.game, seed)
        else:
            compare(seed)


if __name__ == "__main__":
    main()
