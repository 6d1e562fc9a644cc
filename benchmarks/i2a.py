"""I2A and A2C on Sokoban and MiniPacman, by frames and by the core-seconds of learning.

    python benchmarks/i2a.py run sokoban7 --columns i2a a2c --seeds 10 11
    python benchmarks/i2a.py plan sokoban7 --columns i2a exact poor --seeds 10 11
    python benchmarks/i2a.py model sokoban7 --seeds 10 11 12
    python benchmarks/i2a.py table

A run writes rows to docs/results/i2a/<task>_<column>_seed<n>.csv and, while it goes, resumes from runs/i2a. `plan`
searches in the models of these runs, `model` fits models of several kinds to random play and measures what they
foresee, and `table` makes docs/results/i2a.md of all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from experiments import ROOT, write_csv, write_page
from i2a_page import document, draw
from i2a_tasks import (
    AHEAD,
    COLUMNS,
    FITTED,
    FOLDER,
    KINDS,
    MINI_PACMAN,
    MODELS,
    NUM_LEVELS,
    PLANNED,
    PLANNED_STEPS,
    SEEDS,
    SHARED,
    SIMULATIONS,
    SOKOBAN,
    TASKS,
    TESTED,
    Task,
    numbers,
)
from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from mbrl_wrappers.agents import I2A
from mbrl_wrappers.agents.networks import FrameExtractor
from mbrl_wrappers.envs import GamesVecEnv, collect_transitions
from mbrl_wrappers.imagination import checkpoint_extra, has_checkpoint, load_checkpoint, save_checkpoint
from mbrl_wrappers.models import CopyDynamics, FrameDynamics
from mbrl_wrappers.planners.tree import UCT, TreeSearch, root_generators
from mbrl_wrappers.tasks.grids import Games, MiniPacmanGames, SokobanGames
from mbrl_wrappers.tasks.grids.sokoban_levels import generate_level, part_of
from mbrl_wrappers.types import Transitions
from mbrl_wrappers.wrappers import ModelExpansion
from mbrl_wrappers.zoo.storage.folder import load_agent, open_folder
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.recipe import load_recipe
from mbrl_wrappers.zoo.training.run import run


def train(name: str, column: str, seed: int) -> None:
    rows = train_a2c(name, seed) if column == "a2c" else train_i2a(name, column, seed)
    write_csv(FOLDER / f"{name}_{column}_seed{seed}.csv", rows)


def train_i2a(name: str, column: str, seed: int) -> list[dict[str, Any]]:
    """Train as `mbrl-zoo train` does, so that the agent can be exported."""
    task, folder, spec = TASKS[name], folder_of(name, column, seed), spec_of(TASKS[name], column, seed)
    file = folder / "unseen.csv"
    measured = {row["frames"]: row for row in numbers(file)} if file.exists() else {}
    agent: Any = None

    def keep(of_run: Any) -> None:
        nonlocal agent
        agent = of_run

    def measure(row: Evaluation) -> None:
        if agent is None:  # a run that was stopped at its end
            return
        own = {"frames": row.steps, "cpu_seconds": round(row.cpu_seconds, 1), **evaluated(agent, task)}
        measured[row.steps] = own
        write_csv(file, list(measured.values()))
        print(name, column, seed, own, flush=True)

    agent, evaluations = run(spec, folder, on_evaluation=measure, on_step=keep)
    if evaluations[-1].steps not in measured:
        measure(evaluations[-1])
    return [measured[row.steps] for row in evaluations]


def train_a2c(name: str, seed: int) -> list[dict[str, Any]]:
    task, checkpoint = TASKS[name], folder_of(name, "a2c", seed)
    env = GamesVecEnv(games_of(task), seed=seed)
    if has_checkpoint(checkpoint):
        agent: Any = load_checkpoint(A2C, checkpoint, env, device="cpu")
        rows = checkpoint_extra(checkpoint)["rows"]
        env.seed(seed + 1000 * len(rows))
    else:
        agent, rows = make_a2c(task, env, seed), []
    spent = float(rows[-1]["cpu_seconds"]) if rows else 0.0
    while len(rows) < task.rounds * task.longer:
        started = time.process_time()
        goal = task.frames * (len(rows) + 1) // task.rounds
        agent.learn(goal - agent.num_timesteps, reset_num_timesteps=False, log_interval=None)
        spent += time.process_time() - started
        rows.append({"frames": agent.num_timesteps, "cpu_seconds": round(spent, 1), **evaluated(agent, task)})
        print(name, "a2c", seed, rows[-1], flush=True)
        save_checkpoint(agent, checkpoint, {"rows": rows})
    return rows


def folder_of(name: str, column: str, seed: int) -> Path:
    return ROOT / "runs" / "i2a" / f"{name}_{column}_seed{seed}"


def spec_of(task: Task, column: str, seed: int) -> JobSpec:
    every = task.frames // task.rounds
    return make_job(
        "i2a",
        task.env,
        steps=task.frames,
        seed=seed,
        params=MODELS[column],
        env_kwargs=task.arguments,
        eval_freq=every,
        eval_episodes=task.played,  # for the run's own curve: the page has `evaluated`
        save_freq=every,
    )


def games_of(task: Task) -> Games:
    kind = MiniPacmanGames if task.env == MINI_PACMAN else SokobanGames
    return kind(load_recipe("i2a", task.env).num_envs, **task.arguments)


def make_a2c(task: Task, env: GamesVecEnv, seed: int) -> A2C:
    """Return an A2C with I2A's settings and as many parameters."""
    recipe = spec_of(task, "copy", seed).recipe
    dynamics = CopyDynamics.for_env(env, seed=seed)
    with_copies = I2A("CnnPolicy", env, dynamics=dynamics, seed=seed, device="cpu", **recipe.agent)
    shared = {name: recipe.agent[name] for name in SHARED & recipe.agent.keys()}
    return matched(env, num_parameters(with_copies), seed, shared)


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
    """Return the share of unseen levels that are solved, or the means of the newest episodes of learning."""
    if task.env == MINI_PACMAN:
        episodes: Sequence[Any] = agent.ep_info_buffer or []
        return {
            name: round(float(np.mean([info[key] for info in episodes])), 2)
            for name, key in (("return", "r"), ("episode_steps", "l"))
        }
    games = unseen(task, TESTED)
    solved = np.zeros(games.num_games, bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(task.limit):
            action, _ = agent.predict(games.observations(), deterministic=False)
            solved |= games.step(action).terminated
    return {"solved": round(float(solved.mean()), 4)}


def unseen(task: Task, count: int) -> SokobanGames:
    """Return games that begin with one level each, none of which is in the part for training, nor there twice."""
    levels: dict[str, int] = {}
    for level in range(NUM_LEVELS):
        text = generate_level(task.games["size"], task.games["num_boxes"], level)
        if part_of(text) == "test":
            levels.setdefault(text, level)
        if len(levels) == count:
            break
    games = SokobanGames(len(levels), max_episode_steps=task.limit, **task.games)
    for row, level in enumerate(levels.values()):
        games.play(row, level)
    return games


def plan(name: str, column: str, seed: int) -> None:
    """Solve unseen levels by tree search in the model that a run has ended with, without its agent."""
    task = TASKS[name]
    agent: Any = load_agent(open_folder(folder_of(name, column, seed)), device="cpu")
    games = unseen(task, PLANNED)
    count, solved = games.num_games, np.zeros(games.num_games, bool)
    expansion = ModelExpansion(agent.dynamics, generators=root_generators(1, count), rollout_steps=15, discount=0.99)
    search, generators = TreeSearch(SIMULATIONS, UCT(), zero_sum=False, discount=0.99), root_generators(0, count)
    for _ in range(PLANNED_STEPS):
        obs = agent.dynamics.obs_codec.encode(games.observations(), dtype=torch.uint8)
        solved |= games.step(
            search.search(expansion.root(obs), expansion, generators, temperature=0.0).action
        ).terminated
    row = {"levels": count, "simulations": SIMULATIONS, "steps": PLANNED_STEPS, "solved": float(solved.mean())}
    print(name, column, seed, row, flush=True)
    write_csv(FOLDER / f"plans_{name}_{column}_seed{seed}.csv", [row])


def model(name: str, seed: int) -> None:
    """Fit models to random play, and measure how well they predict other levels or games."""
    task, rows = TASKS[name], []
    for kind, own in KINDS.items():
        spec = spec_of(task, "i2a", seed)
        settings = {key: value for key, value in spec.recipe.dynamics.items() if key != "kind"}
        env = gym.make(task.env, **task.arguments)
        dynamics = FrameDynamics.for_env(env, seed=seed, **{**settings, **own})
        started = time.process_time()
        dynamics.fit(collect_transitions(env, dynamics, FITTED, seed=seed), torch.Generator().manual_seed(seed))
        spent = round(time.process_time() - started, 1)
        others = {"part": "test"} if task.measure == "solved" else {}
        unseen_env = gym.make(task.env, **{**task.arguments, **others})
        tested = collect_transitions(unseen_env, dynamics, task.foreseen, seed=1000 + seed)
        for steps in AHEAD:
            found = foresight(dynamics, tested, steps)
            rows.append({"model": list(KINDS).index(kind), "steps": steps, **found, "cpu_seconds": spent})
            print(name, seed, rows[-1], flush=True)
    write_csv(FOLDER / f"model_{name}_seed{seed}.csv", rows)


def foresight(dynamics: FrameDynamics, tested: Transitions, steps: int) -> dict[str, float]:
    """Return the shares of a last step's frames, pixels, rewards, rare rewards and ends that a model gets right.

    The model is rolled out under the real actions for ``steps`` steps, from each state whose episode goes on until the
    last of them. Rare rewards are all but the commonest.
    """
    goes_on = torch.ones(len(tested.key) - steps + 1, dtype=torch.bool)
    for step in range(steps - 1):
        here = slice(step, step + len(goes_on))
        after = slice(step + 1, step + 1 + len(goes_on))
        goes_on &= ~tested.terminated[here] & (tested.next_obs[here] == tested.obs[after]).all(-1)
    (starts,) = goes_on.nonzero(as_tuple=True)
    frames, rewards, ends = [], [], []
    for piece in starts.split(4096):
        obs = tested.obs[piece]
        for step in range(steps):
            found = dynamics.predict(obs, tested.action[piece + step], deterministic=True)
            obs = found.next_obs
        frames.append(obs)
        rewards.append(found.reward)
        ends.append(found.terminated)
    real = tested[starts + steps - 1]
    of_pixels = dynamics.obs_codec.image(torch.cat(frames)) == dynamics.obs_codec.image(real.next_obs)
    is_right = of_pixels.all(-3)  # [N, H, W]
    paid = (torch.cat(rewards) - real.reward).abs() < 1e-3
    is_rare = (real.reward - real.reward.mode().values).abs() > 1e-3
    shares = {
        "frames": is_right.all((-2, -1)),
        "pixels": is_right,
        "rewards": paid,
        "rare_rewards": paid[is_rare],
        "ends": torch.cat(ends)[real.terminated].bool(),
    }
    return {name: round(float(share.double().mean()), 5) for name, share in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("task", choices=sorted(TASKS))
    runs.add_argument("--columns", nargs="+", choices=sorted(COLUMNS), default=["i2a", "exact", "copy", "a2c"])
    runs.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    plans = commands.add_parser("plan")
    plans.add_argument("task", choices=sorted(name for name, task in TASKS.items() if task.env == SOKOBAN))
    plans.add_argument("--columns", nargs="+", choices=sorted(MODELS), default=["i2a", "exact", "poor"])
    plans.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    models = commands.add_parser("model")
    models.add_argument("task", choices=sorted(TASKS))
    models.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    commands.add_parser("table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "table":
        draw()
        write_page("i2a", document())
        return
    if arguments.command == "model":
        for seed in arguments.seeds:
            model(arguments.task, seed)
        return
    for seed in arguments.seeds:
        for column in arguments.columns:
            (train if arguments.command == "run" else plan)(arguments.task, column, seed)


if __name__ == "__main__":
    main()
