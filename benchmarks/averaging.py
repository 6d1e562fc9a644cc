"""One training of DHMBPO or SAC, evaluated by its newest actor and by running averages of the actor's weights.

    python benchmarks/averaging.py run HalfCheetah-v5 --seeds 101
    python benchmarks/averaging.py run HalfCheetah-v5 --seeds 101 --sac
    python benchmarks/averaging.py table

The averages change nothing about the training. A run writes docs/results/averaging/<env>_<agent>_seed<n>.csv, `table`
makes docs/results/averaging.md of all.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from experiments import RESULTS, ROOT, read_csv, versions, write_csv, write_page
from torch import Tensor

from mbrl_wrappers.zoo.evaluation import play_episodes
from mbrl_wrappers.zoo.training.building import base_of
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.run import run

FOLDER = RESULTS / "averaging"
ENVS = ("HalfCheetah-v5", "Hopper-v5")
STEPS, EVAL_FREQ, EPISODES = 20_000, 1_000, 5
AVERAGINGS = (0.99, 0.997, 0.999, 0.9997)
NEWEST = "newest"
PARAMS: dict[str, Any] = {
    "agent.policy": "MlpPolicy",
    "agent.policy_kwargs": {"net_arch": [256, 256], "activation_fn": "LayerNormSiLU"},
}
COUNTED_FROM, FALL = 5_000, 0.6


class Averages:
    """Running averages of an actor's weights by several rates, and their evaluations."""

    def __init__(self, env: str) -> None:
        self.env = gym.make(env)
        self.rows: list[dict[str, Any]] = []
        self._averages: list[list[Tensor]] = []
        self._updates = 0

    @torch.no_grad()
    def follow(self, agent: Any) -> None:
        """Move the averages towards the actor, and evaluate them from time to time; called after each env step."""
        weights = [parameter.data for parameter in agent.actor.parameters()]
        updates, self._updates = agent._n_updates - self._updates, agent._n_updates
        if updates and not self._averages:
            self._averages = [[weight.clone() for weight in weights] for _ in AVERAGINGS]
        for average, averaging in zip(self._averages, AVERAGINGS, strict=False):
            torch._foreach_lerp_(average, weights, 1 - averaging**updates)
        if agent.num_timesteps % EVAL_FREQ or not self._averages:
            return
        newest = [weight.clone() for weight in weights]
        row: dict[str, Any] = {"steps": agent.num_timesteps}
        for name, values in zip((NEWEST, *AVERAGINGS), (newest, *self._averages), strict=True):
            torch._foreach_copy_(weights, values)
            played = play_episodes(agent, self.env, EPISODES)
            row[str(name)] = round(float(np.mean([episode.total_reward for episode in played])), 1)
        torch._foreach_copy_(weights, newest)
        self.rows.append(row)


def train(env: str, agent: str, seed: int) -> None:
    spec = make_job("dhmbpo", env, seed=seed, steps=STEPS, params=PARAMS, eval_freq=STEPS, eval_episodes=1)
    averages, name = Averages(env), f"{env}_{agent}_seed{seed}"
    folder = ROOT / "runs" / "averaging" / name
    shutil.rmtree(folder, ignore_errors=True)  # a run that resumes would have lost its averages
    run(base_of(spec) if agent == "sac" else spec, folder, on_step=averages.follow)
    write_csv(FOLDER / f"{name}.csv", averages.rows)


def document() -> str:
    lines = [
        "# Averaged actors",
        "",
        "One training of DHMBPO, or of SAC with its networks, raw rewards and one update per step, by the recipe of",
        "`dhmbpo` with layer normalisation and SiLU (2 x 256 units). After every",
        f"{EVAL_FREQ:,} of {STEPS:,} steps its newest actor and running averages of its weights were evaluated on",
        f"{EPISODES} episodes each; an average keeps the given share of itself at each update. The seed is one that",
        f"settings were chosen on. `mean` is that of the evaluations after {COUNTED_FROM:,} steps, `falls` the number",
        f"of those below {FALL:.0%} of the best before. On Hopper-v5 averages did not help in the one run that was",
        "made ([gradients.md](gradients.md)).",
        "",
        versions() + ".",
        f"Written by `python benchmarks/averaging.py table` from the files in the folder `{FOLDER.name}`.",
    ]
    for env in ENVS:
        rows = [row for file in sorted(FOLDER.glob(f"{env}_*.csv")) for row in table_rows(file)]
        if rows:
            lines += [
                "",
                f"## {env}",
                "",
                "| agent | seed | actor | mean | falls | last |",
                "|---|---|---|---|---|---|",
            ]
            lines += rows
    return "\n".join(lines) + "\n"


def table_rows(file: Path) -> list[str]:
    """Return the lines of a training's table."""
    agent, seed = file.stem.split("_")[1:]
    rows, found = read_csv(file), []
    for actor in (NEWEST, *map(str, AVERAGINGS)):
        values = [float(row[actor]) for row in rows]
        counted = [(values[i], max(values[:i])) for i, row in enumerate(rows) if int(row["steps"]) > COUNTED_FROM]
        mean = np.mean([value for value, _ in counted])
        falls = sum(value < FALL * best for value, best in counted)
        found.append(
            f"| {dict(dhmbpo='DHMBPO', sac='SAC')[agent]} | {seed.removeprefix('seed')} | {actor} | {mean:.0f} | "
            f"{falls} of {len(counted)} | {values[-1]:.0f} |"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("env", choices=ENVS)
    runs.add_argument("--seeds", type=int, nargs="+", default=[101])
    runs.add_argument("--sac", action="store_true", help="SAC in the place of DHMBPO")
    commands.add_parser("table")
    given = parser.parse_args()
    if given.command == "table":
        write_page("averaging", document())
        return
    torch.set_num_threads(1)
    for seed in given.seeds:
        train(given.env, "sac" if given.sac else "dhmbpo", seed)


if __name__ == "__main__":
    main()
