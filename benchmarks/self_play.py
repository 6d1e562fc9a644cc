"""AlphaZero and Expert Iteration: how they climb a ladder of opponents, and matches of what they have come to.

    python benchmarks/self_play.py run ConnectFour --seeds 20 21 22
    python benchmarks/self_play.py compare --seeds 20 21 22
    python benchmarks/self_play.py table

A run trains as `mbrl-zoo train` does, in runs/self_play/<game>_seed<n>, from where it resumes and can be exported; it
writes the ladder to docs/results/self_play/<game>_seed<n>.csv and the matches at the end to <game>_end_seed<n>.csv.
`compare` gives Gumbel's search and PUCT equal time to learn, and writes methods_seed<n>.csv. `table` makes
docs/results/search.md of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from experiments import RESULTS, ROOT, read_csv, spread, versions, write_csv, write_page

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.envs.games import ConnectFour
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.envs.games.ladder import agreement, solvable_positions
from mbrl_wrappers.envs.games.matches import play_match
from mbrl_wrappers.envs.games.opponents import find_opponent
from mbrl_wrappers.zoo.analysis.ladder import LADDER, ladder_from_json
from mbrl_wrappers.zoo.training.building import build_agent
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import load_recipe
from mbrl_wrappers.zoo.training.run import run

FOLDER, SEEDS = RESULTS / "self_play", (20, 21, 22)
METHODS = tuple((search, simulations) for simulations in (16, 32, 64) for search in ("gumbel", "puct"))
COMPARED_SECONDS = 60
ALONE = "itself without search"
AS_IN_SELF_PLAY = "400 simulations against uct_1000, with the search arguments of self-play"
RANDOM_OPENING = 4  # moves of games between agents: AlphaZero's have no randomness of their own
KEPT = ("kept, searched", "kept, network")


@dataclass(frozen=True)
class Experiment:
    """A game that is learned.

    Attributes:
        agent: its name in the zoo.
        evaluations: over the recipe's steps.
        end: matches at the end: the opponent's name, or `ALONE`; the agent's simulations; and the random moves that
            games begin with, the same in two games.
        kept: simulations of the agent's moves that are compared with a perfect player's at the end; 0: the network's.
        games: of each of these matches.
    """

    agent: str
    evaluations: int
    end: tuple[tuple[str, int, int], ...]
    kept: tuple[int, ...]
    games: int = 100


EXPERIMENTS = {
    "TicTacToe": Experiment("alphazero", 8, (("one_ply", 32, 0), ("perfect", 32, 0)), (32, 0), games=1000),
    "ConnectFour": Experiment(
        "alphazero",
        4,
        (("one_ply", 400, 0), ("uct_1000", 400, 0), ("uct_5000", 400, 0), (ALONE, 32, RANDOM_OPENING)),
        (1600, 400, 0),
    ),
    "Hex5": Experiment(
        "exit",
        8,
        (("uct_100", 100, 0), ("uct_100", 0, 0), (ALONE, 100, 0), (ALONE, 100, RANDOM_OPENING)),
        (100, 0),
    ),
}


def train(name: str, seed: int) -> None:
    experiment, folder = EXPERIMENTS[name], ROOT / "runs" / "self_play" / f"{name}_seed{seed}"
    env_id = f"mbrl_wrappers/{name}-v0"
    steps = load_recipe(experiment.agent, env_id).steps
    eval_freq, save_freq = steps // experiment.evaluations, steps // 20
    spec = make_job(experiment.agent, env_id, seed=seed, device="cpu", eval_freq=eval_freq, save_freq=save_freq)
    run(spec, folder, on_evaluation=lambda row: print(name, seed, row, flush=True))
    rows = []
    for rung in ladder_from_json((folder / LADDER).read_bytes(), LADDER):
        row: dict[str, Any] = {"moves": rung.steps, "cpu_seconds": round(rung.cpu_seconds, 1)}
        row |= {opponent: "-".join(map(str, result)) for opponent, result in rung.results.items()}
        rows.append({**row, "kept, searched": rung.kept, "kept, network": rung.kept_by_network})
    write_csv(FOLDER / f"{name}_seed{seed}.csv", rows)
    agent: Any = zoo.load(str(folder), env=GameEnv(name), device="cpu")
    ends: dict[str, Any] = {heading(*match): score(agent, *match, experiment.games, seed) for match in experiment.end}
    if agent.deterministic_search_kwargs:
        agent.deterministic_search_kwargs = None
        ends[AS_IN_SELF_PLAY] = score(agent, "uct_1000", 400, 0, experiment.games, seed)
        agent = zoo.load(str(folder), env=GameEnv(name), device="cpu")
    where = solvable_positions(agent.rules)
    if where is not None:
        ends |= {kept(count): agreement(agent.rules, agent.player(count), where) for count in experiment.kept}
    write_csv(FOLDER / f"{name}_end_seed{seed}.csv", [ends])
    print(name, seed, ends, flush=True)


def score(agent: AlphaZero, opponent: str, simulations: int, opening: int, games: int, seed: int) -> str:
    """Return the games won, drawn and lost against an opponent."""
    other = agent.player(0) if opponent == ALONE else find_opponent(opponent)
    result = play_match(agent.rules, agent.player(simulations), other, games, 1000 + seed, opening)
    return "-".join(map(str, result))


def heading(opponent: str, simulations: int, opening: int) -> str:
    text = f"{simulations or 'no'} simulations against {opponent}"
    return f"{text}, {opening} random moves" if opening else text


def kept(simulations: int) -> str:
    return f"kept, {f'{simulations} simulations' if simulations else 'network alone'}"


def new_agent(seed: int, **changes: Any) -> AlphaZero:
    params = {f"agent.{argument}": value for argument, value in changes.items()}
    spec = make_job("alphazero", "mbrl_wrappers/ConnectFour-v0", seed=seed, device="cpu", params=params)
    made: Any = build_agent(spec, GameEnv("ConnectFour"))[0]
    return made


def compare(seed: int) -> None:
    """Give both searches equal time to learn Connect Four, each with several numbers of simulations."""
    rows: list[dict[str, Any]] = []
    agents: dict[tuple[str, int], AlphaZero] = {}
    where = solvable_positions(ConnectFour())
    assert where is not None
    for search, simulations in METHODS:
        changes: dict[str, Any] = {"learning_rate": 1e-3}  # a schedule would end with each call of `learn`
        if search == "puct":
            changes |= {"search_kwargs": None, "deterministic_search_kwargs": None}
        agent, spent = new_agent(seed, search=search, num_simulations=simulations, **changes), 0.0
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
            duel = play_match(
                agent.rules, agents["gumbel", simulations].player(), agent.player(), 200, 1000 + seed, RANDOM_OPENING
            )
            row |= dict(zip(("gumbel won", "gumbel drawn", "gumbel lost"), duel, strict=True))
        else:
            row |= {"gumbel won": "", "gumbel drawn": "", "gumbel lost": ""}
        rows.append(row)
        print(seed, row, flush=True)
    write_csv(FOLDER / f"methods_seed{seed}.csv", rows)


def document() -> str:
    """Return the page, from the committed rows."""
    lines = [
        "# Tree search that learns",
        "",
        "Learned from the rules alone, on one core, with the recipes `alphazero` and `exit`. Each player begins in",
        "half of the games of a match. `kept`: in what share of 200 positions after random moves the agent's move",
        "keeps what the position is worth to a perfect player. Core-seconds are those of self-play and learning; ± is",
        "over seeds (n - 1). Settings were chosen on other seeds, but for the length of Connect Four's runs: it was",
        "doubled after seeds 20 and 21 had been seen at half of it.",
        "",
        f"{versions()}.",
        "",
    ]
    for name, experiment in EXPERIMENTS.items():
        runs, ends = read_runs(name), read_runs(f"{name}_end")
        if runs:
            title = f"{'ExIt' if experiment.agent == 'exit' else 'AlphaZero'}: {name}"
            lines += [f"## {title}", "", *of_training(runs), "", *of_ends(experiment, ends), ""]
            lines += [f"Runs: `python benchmarks/self_play.py run {name}`", ""]
    if compared := read_runs("methods"):
        lines += of_methods(compared)
    return "\n".join(lines)


def read_runs(name: str) -> dict[int, list[dict[str, str]]]:
    files = sorted(FOLDER.glob(f"{name}_seed*.csv"), key=lambda file: int(file.stem.split("seed")[1]))
    return {int(file.stem.split("seed")[1]): read_csv(file) for file in files}


def of_training(runs: dict[int, list[dict[str, str]]]) -> list[str]:
    opponents = [name for name in next(iter(runs.values()))[0] if name not in ("moves", "cpu_seconds", *KEPT)]
    lines = [
        f"While it learned, seeds {', '.join(map(str, runs))}: won-drawn-lost of 100 games, with as many simulations",
        "as in self-play.",
        "",
        "| moves | core-s | " + " | ".join([*opponents, *KEPT]) + " |",
        "|" + "---|" * (2 + len(opponents) + len(KEPT)),
    ]
    for index in range(max(map(len, runs.values()))):
        rows = [run[index] for run in runs.values() if index < len(run)]
        cells = [f"{numbers(rows, 'moves')[0]:,.0f}", spread(numbers(rows, "cpu_seconds"))]
        cells += [", ".join(row[opponent] for row in rows) for opponent in opponents]
        lines.append("| " + " | ".join([*cells, *shares(rows)]) + " |")
    return lines


def of_ends(experiment: Experiment, ends: dict[int, list[dict[str, str]]]) -> list[str]:
    rows = [run[0] for run in ends.values()]
    names = [heading(*match) for match in experiment.end]
    names += [AS_IN_SELF_PLAY] if AS_IN_SELF_PLAY in rows[0] else []
    lines = [
        f"At the end, matches of {experiment.games:,} games:",
        "",
        "| match | won-drawn-lost, by seed |",
        "|---|---|",
    ]
    lines += [f"| {name} | {', '.join(row[name] for row in rows)} |" for name in names]
    moves = [kept(count) for count in experiment.kept]
    return [*lines, *(f"| {name} | {share} |" for name, share in zip(moves, shares(rows, moves), strict=True))]


def shares(rows: list[dict[str, str]], names: Iterable[str] = KEPT) -> list[str]:
    return [spread([100 * value for value in numbers(rows, name)], 1) + "%" for name in names]


def of_methods(runs: dict[int, list[dict[str, str]]]) -> list[str]:
    lines = [
        "## Gumbel's search against PUCT, equal time",
        "",
        f"Each learned Connect Four for {COMPARED_SECONDS} core-seconds, with the recipe but for search, simulations",
        "and a constant learning rate; PUCT has the paper's constants. Each plays with as many simulations as it",
        f"learned with. Matches of 200 games against UCT-100 and, from {RANDOM_OPENING} random moves, between the two.",
        f"Seeds {', '.join(map(str, runs))}.",
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
        write_page("search", document())
        return
    for seed in arguments.seeds:
        if arguments.command == "run":
            train(arguments.game, seed)
        else:
            compare(seed)


if __name__ == "__main__":
    main()
