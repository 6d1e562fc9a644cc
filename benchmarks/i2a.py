"""I2A and A2C on Sokoban and MiniPacman, by frames and by the core-seconds of learning.

    python benchmarks/i2a.py run sokoban7 --columns i2a a2c --seeds 10 11
    python benchmarks/i2a.py table

A run writes rows to docs/results/i2a/<task>_<column>_seed<n>.csv and, while it goes, resumes from runs/i2a. `table`
makes docs/results/i2a.md of them.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from experiments import RESULTS, ROOT, spread, versions, write_csv
from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from mbrl_wrappers.agents import I2A
from mbrl_wrappers.agents.networks import FrameExtractor
from mbrl_wrappers.envs import GamesVecEnv
from mbrl_wrappers.imagination import checkpoint_extra, has_checkpoint, load_checkpoint, save_checkpoint
from mbrl_wrappers.tasks.grids import Games, MiniPacmanGames, SokobanGames
from mbrl_wrappers.zoo.registry import DYNAMICS
from mbrl_wrappers.zoo.training.recipe import Recipe, load_recipe

FOLDER, SEEDS, NUM_ENVS = RESULTS / "i2a", (10, 11), 64
UNSEEN = 1_000_000  # the first of the levels that no agent learns on
TESTED = 200

# Changes to the recipe's model; A2C has none.
MODELS: dict[str, dict[str, Any]] = {
    "i2a": {},
    "exact": {"kind": "SokobanDynamics"},
    "copy": {"kind": "CopyDynamics"},
    "poor": {"channels": 2, "max_steps": 100},
}
COLUMNS = {
    "i2a": "I2A",
    "exact": "I2A, exact model",
    "copy": "I2A, copy model",
    "poor": "I2A, poor model",
    "a2c": "A2C",
    "a2c_timed": "A2C, equal time",
}


@dataclasses.dataclass(frozen=True)
class Task:
    """Games that are learned.

    Attributes:
        env: the id.
        games: their arguments.
        frames: of a run.
        rounds: evaluations, evenly spread.
        limit: steps of an episode.
        longer: how many times as many frames `a2c_timed` gets.
    """

    env: str
    games: dict[str, Any]
    frames: int
    rounds: int
    limit: int
    longer: int = 5


SOKOBAN, MINI_PACMAN = "mbrl_wrappers/Sokoban-v0", "mbrl_wrappers/MiniPacman-v0"
TASKS = {
    "sokoban5": Task(SOKOBAN, {"size": 5, "num_boxes": 1}, 500_000, 10, 120),
    "sokoban6": Task(SOKOBAN, {"size": 6, "num_boxes": 1}, 1_000_000, 10, 120),
    "sokoban7": Task(SOKOBAN, {"size": 7, "num_boxes": 1}, 8_000_000, 16, 120),
    "sokoban7x2": Task(SOKOBAN, {"size": 7, "num_boxes": 2}, 8_000_000, 16, 120),
    "hunt": Task(MINI_PACMAN, {"mode": "hunt"}, 2_000_000, 10, 3_000),
    "avoid": Task(MINI_PACMAN, {"mode": "avoid"}, 2_000_000, 10, 3_000),
}


def train(name: str, column: str, seed: int, changes: Mapping[str, Any]) -> None:
    task, checkpoint = TASKS[name], ROOT / "runs" / "i2a" / f"{name}_{column}_seed{seed}"
    kind: Any = A2C if column.startswith("a2c") else I2A
    env = GamesVecEnv(games_of(task, NUM_ENVS, test=False), seed=seed)
    if has_checkpoint(checkpoint):
        agent, rows = load_checkpoint(kind, checkpoint, env, device="cpu"), checkpoint_extra(checkpoint)["rows"]
        env.seed(seed + 1000 * len(rows))
    else:
        agent, rows = build(task, column, env, seed, changes), []
    spent = float(rows[-1]["cpu_seconds"]) if rows else 0.0
    frames = task.frames * (task.longer if column == "a2c_timed" else 1)
    while len(rows) < task.rounds:
        started = time.process_time()
        goal = frames * (len(rows) + 1) // task.rounds
        agent.learn(goal - agent.num_timesteps, reset_num_timesteps=False, log_interval=None)
        spent += time.process_time() - started
        rows.append({"frames": agent.num_timesteps, "cpu_seconds": round(spent, 1), **evaluated(agent, task)})
        print(name, column, seed, rows[-1], flush=True)
        save_checkpoint(agent, checkpoint, {"rows": rows})
    write_csv(FOLDER / f"{name}_{column}_seed{seed}.csv", rows)


def games_of(task: Task, count: int, test: bool) -> Games:
    if task.env == MINI_PACMAN:
        return MiniPacmanGames(count, max_episode_steps=task.limit, **task.games)
    levels = (UNSEEN, UNSEEN + TESTED) if test else (0, UNSEEN)
    return SokobanGames(count, levels=levels, max_episode_steps=task.limit, **task.games)


def build(task: Task, column: str, env: GamesVecEnv, seed: int, changes: Mapping[str, Any]) -> OnPolicyAlgorithm:
    recipe = load_recipe("i2a", task.env)
    recipe = dataclasses.replace(recipe, agent={**recipe.agent, **changes})
    if not column.startswith("a2c"):
        return imagining(recipe, env, seed, MODELS[column])
    with_copies = imagining(recipe, env, seed, MODELS["copy"])
    shared = {
        name: recipe.agent[name] for name in ("learning_rate", "ent_coef", "gamma", "n_steps") & recipe.agent.keys()
    }
    return matched(env, num_parameters(with_copies), seed, shared)


def imagining(recipe: Recipe, env: GamesVecEnv, seed: int, model: Mapping[str, Any]) -> I2A:
    """Return an I2A of the recipe with changes to its model."""
    arguments: dict[str, Any] = {**recipe.dynamics, **model}
    kind: Any = DYNAMICS[arguments.pop("kind")]
    if "kind" in model:
        arguments = {}
    dynamics = kind.for_env(env, seed=seed, **arguments)
    return I2A("CnnPolicy", env, dynamics=dynamics, seed=seed, device="cpu", **recipe.agent)


def matched(env: GamesVecEnv, parameters: int, seed: int, shared: Mapping[str, Any]) -> A2C:
    """Return an A2C whose number of parameters is the nearest to the given one: a wider model-free path."""

    def of_width(width: int) -> A2C:
        policy = {
            "net_arch": [],
            "features_extractor_class": FrameExtractor,
            "features_extractor_kwargs": {"channels": 64, "features_dim": width},
        }
        return A2C("CnnPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, **shared)

    one, two = num_parameters(of_width(1)), num_parameters(of_width(2))
    return of_width(max(1, round(1 + (parameters - one) / (two - one))))


def num_parameters(agent: OnPolicyAlgorithm) -> int:
    return sum(parameter.numel() for parameter in agent.policy.parameters())


def evaluated(agent: OnPolicyAlgorithm, task: Task) -> dict[str, Any]:
    """Return the share of unseen levels that are solved, or the mean return of the newest episodes of learning."""
    if task.env == MINI_PACMAN:
        return {"return": round(float(np.mean([info["r"] for info in agent.ep_info_buffer or []])), 2)}
    games = games_of(task, TESTED, test=True)
    assert isinstance(games, SokobanGames)
    for row in range(TESTED):
        games.play(row, UNSEEN + row)
    solved = np.zeros(TESTED, bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(task.limit):
            action, _ = agent.predict(games.observations(), deterministic=False)
            solved |= games.step(action).terminated
    return {"solved": round(float(solved.mean()), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("task", choices=sorted(TASKS))
    runs.add_argument("--columns", nargs="+", choices=sorted(COLUMNS), default=["i2a", "exact", "copy", "a2c"])
    runs.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    commands.add_parser("table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        for column in arguments.columns:
            train(arguments.task, column, seed, {})


if __name__ == "__main__":
    main()
