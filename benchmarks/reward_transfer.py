"""One fitted model, another reward: what policies and plans reach for it without a new real step.

    python benchmarks/reward_transfer.py run Pendulum-v1 --seeds 0 1 2 3 4
    python benchmarks/reward_transfer.py table

A run writes its row to docs/results/reward_transfer.csv, `table` makes docs/results/reward_transfer.md of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from experiments import RESULTS, read_csv, spread, versions, write_csv, write_page
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from torch import Tensor

from mbrl_wrappers import EnsembleDynamics, ImaginedVecEnv, ModelBased, MPCAction
from mbrl_wrappers.agents import RealData
from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.planners import ICEM
from mbrl_wrappers.zoo.environment import make_env

FILE = RESULTS / "reward_transfer.csv"
SEEDS = (0, 1, 2, 3, 4)

Reward = Callable[[Tensor, Tensor, Tensor], Tensor]


def leaning(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Hang 20 degrees off the vertical, where it takes 1.7 of the 2 Nm that there are to stay."""
    angle = torch.atan2(next_obs[..., 1], next_obs[..., 0]) - 160 / 180 * torch.pi
    error = torch.atan2(angle.sin(), angle.cos())
    return -(error.square() + 0.1 * next_obs[..., 2].square() + 0.001 * action[..., 0].square())


def mirrored(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Bring the fingertip to where the target would be on the other side of the arm's joint."""
    target, from_target = next_obs[..., 4:6], next_obs[..., 8:10]
    return -(2 * target + from_target).norm(dim=-1) - 0.1 * action.square().sum(-1)


def at_a_speed(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Move at 2 m/s, where the env pays for going as fast as can be."""
    return -(next_obs[..., 8] - 2).abs() - 0.1 * action.square().sum(-1)


@dataclass(frozen=True)
class Task:
    """Another reward for an env, and what its model, policies and plans are made with.

    Attributes:
        text: what the new reward asks for.
        reward: of steps, as `with_reward` takes it.
        steps: real steps that the model is fitted on, at random or, if ``learns``, those of SAC while it learns the
            env's own reward.
        horizon: length of imagined episodes.
        plan_horizon: steps that plans look ahead.
        updates: of each policy.
        learns: see ``steps``.
        net_arch: of policies.
        episodes, planned_episodes: that results are means of.
    """

    text: str
    reward: Reward
    steps: int
    horizon: int
    plan_horizon: int
    updates: int = 10_000
    learns: bool = False
    net_arch: tuple[int, ...] = (64, 64)
    episodes: int = 20
    planned_episodes: int = 5


TASKS = {
    "Pendulum-v1": Task("held 20 degrees off hanging", leaning, 3_000, 200, 20),
    "Reacher-v5": Task("the target mirrored at the joint", mirrored, 5_000, 50, 8),
    "HalfCheetah-v5": Task(
        "at 2 m/s", at_a_speed, 20_000, 20, 20, updates=20_000, learns=True, net_arch=(256, 256), episodes=5,
        planned_episodes=1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Mean returns for the new reward in the real env."""

    env: str
    seed: int
    random: float
    old_reward: float
    policy: float
    plan: float
    reference: float
    policy_cpu_seconds: float
    reference_cpu_seconds: float


class Rewarded(gym.Wrapper[Any, Any, Any, Any]):
    """Pays another reward for the steps of an env."""

    def __init__(self, env: gym.Env, reward: Reward) -> None:
        super().__init__(env)
        self._reward = reward

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._obs, info = self.env.reset(**kwargs)
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        next_obs, _, terminated, truncated, info = self.env.step(action)
        parts = (torch.as_tensor(np.asarray(part), dtype=torch.float32) for part in (self._obs, action, next_obs))
        self._obs = next_obs
        return next_obs, float(self._reward(*parts)), terminated, truncated, info


def agent_in(env: Any, seed: int, task: Task) -> SAC:
    rate = 1e-3 if max(task.net_arch) < 256 else 3e-4
    return SAC(
        "MlpPolicy", env, learning_rate=rate, gamma=0.98, learning_starts=500,
        policy_kwargs={"net_arch": list(task.net_arch)}, train_freq=1, gradient_steps=1, device="cpu", seed=seed,
    )  # fmt: skip


def fitted_model(name: str, seed: int, task: Task) -> EnsembleDynamics:
    """Return a model of the env that knows nothing of the new reward."""
    env = make_env(name)
    model = EnsembleDynamics.for_env(env, hidden=(128, 128), seed=seed)
    if task.learns:
        agent = agent_in(Monitor(env), seed, task)
        agent.learn(task.steps, callback=ModelBased(RealData(), model, fit_every=task.steps // 4, seed=seed))
    else:
        model.fit(collect_transitions(env, model, task.steps, seed=seed), torch.Generator().manual_seed(seed))
    return model


def measure(name: str, seed: int) -> Row:
    task = TASKS[name]

    def real() -> Monitor:
        env = Monitor(Rewarded(make_env(name), task.reward))
        env.reset(seed=12345)  # the same start states for all
        return env

    def result(agent: Any, env: gym.Env, episodes: int = task.episodes) -> float:
        mean, _ = evaluate_policy(agent, env, episodes)
        return float(np.mean(mean))

    started = time.process_time()
    model = fitted_model(name, seed, task)
    policies = {}
    for kind, dynamics in (("old", model), ("new", model.with_reward(task.reward))):
        # four imagined steps for each update
        policies[kind] = agent_in(ImaginedVecEnv(dynamics, 4, horizon=task.horizon, seed=seed), seed, task)
        policies[kind].learn(4 * task.updates)
    policy_seconds = time.process_time() - started
    started = time.process_time()
    reference = agent_in(real(), seed, task)
    untrained = result(agent_in(real(), seed, task), real())
    reference.learn(task.updates)
    reference_seconds = time.process_time() - started
    planner = ICEM(model.action_space, horizon=task.plan_horizon, population=64)
    planned = Monitor(MPCAction(Rewarded(make_env(name), task.reward), model.with_reward(task.reward), planner,
                                mode="replace", seed=seed))  # fmt: skip
    planned.reset(seed=12345)
    return Row(
        name, seed, untrained, result(policies["old"], real()), result(policies["new"], real()),
        result(policies["new"], planned, task.planned_episodes), result(reference, real()), policy_seconds,
        reference_seconds,
    )  # fmt: skip


def kept_rows() -> list[Row]:
    """Return the rows of earlier runs."""
    if not FILE.exists():
        return []
    kinds = {field.name: {"str": str, "int": int}.get(str(field.type), float) for field in dataclasses.fields(Row)}
    return [Row(**{name: kinds[name](value) for name, value in line.items()}) for line in read_csv(FILE)]


def keep(row: Row) -> None:
    """Put a row into the file, in the place of an earlier one of the same env and seed."""
    rows = [old for old in kept_rows() if (old.env, old.seed) != (row.env, row.seed)]
    ordered = sorted([*rows, row], key=lambda one: (one.env, one.seed))
    write_csv(FILE, [dataclasses.asdict(one) for one in ordered])


def document() -> str:
    """Return the page, from the committed rows."""
    rows = kept_rows()
    lines = [
        "# Another reward for a fitted model",
        "",
        "A model is fitted on real steps, with the env's own reward. Then `model.with_reward(fn)` gets another one,",
        "and SAC learns inside of it, with no further real step, or iCEM plans in it. Compared in the real env, by the",
        "new reward, with SAC that learned it there in as many updates, one per real step; with SAC that learned the",
        "env's own reward inside the same model; and with an untrained policy. The score is 0 for the untrained policy",
        "and 1 for the one that learned in the real env. ± is over seeds (n - 1). CPU seconds include collecting and",
        "fitting, and learning both rewards.",
        "",
        f"{versions()}.",
        "",
    ]
    for name, task in TASKS.items():
        found = [row for row in rows if row.env == name]
        if not found:
            continue
        collected = "steps of SAC while it learned" if task.learns else "random steps"
        lines += [
            f"## {name}: {task.text}",
            "",
            f"The model is fitted on {task.steps:,} {collected}; policies take {task.updates:,} updates. Means of",
            f"{task.episodes} episodes, {task.planned_episodes} of plans.",
            f"Runs: `python benchmarks/reward_transfer.py run {name}`",
            "",
            "| | by seed " + ", ".join(str(row.seed) for row in found) + " | mean ± std | score | CPU s |",
            "|---|---|---|---|---|",
        ]
        low, high = (np.array([getattr(row, key) for row in found]) for key in ("random", "reference"))
        for label, key, seconds in (
            ("untrained policy", "random", None),
            ("policy for the env's own reward, learned in the model", "old_reward", None),
            ("policy for the new reward, learned in the model", "policy", "policy_cpu_seconds"),
            ("plans for the new reward in the model", "plan", None),
            ("policy for the new reward, learned in the real env", "reference", "reference_cpu_seconds"),
        ):
            values = [getattr(row, key) for row in found]
            scores = list((np.array(values) - low) / (high - low))
            cost = spread([getattr(row, seconds) for row in found]) if seconds else ""
            by_seed = ", ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {label} | {by_seed} | {spread(values, 1)} | {spread(scores, 2)} | {cost} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("env", choices=sorted(TASKS))
    runs.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    runs.add_argument("--dry", action="store_true", help="print and keep nothing: for choosing settings")
    commands.add_parser("table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "table":
        write_page("reward_transfer", document())
        return
    for seed in arguments.seeds:
        row = measure(arguments.env, seed)
        print(row, flush=True)
        if not arguments.dry:
            keep(row)


if __name__ == "__main__":
    main()
