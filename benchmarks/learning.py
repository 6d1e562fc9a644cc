"""Learning evidence: MBPO beside the same agent without a model, and PPO inside a model, over seeds.

    python benchmarks/learning.py run Pendulum-v1 --seeds 0 1 2 3 4 --variants mbpo base
    python benchmarks/learning.py ppo --seeds 0 1 2 3 4
    python benchmarks/learning.py table

A run writes its curve to docs/results/<env>/<variant>_seed<n>.csv and, while it goes, resumes from
runs/<env>/<variant>_seed<n>. `table` makes docs/results/learning.md and one plot per env from the curves.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import EnsembleDynamics, ImaginedVecEnv
from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.zoo.plots import learning_curves, new_figure, save_figure
from mbrl_wrappers.zoo.recipe import Recipe, load_recipe
from mbrl_wrappers.zoo.rows import read_rows
from mbrl_wrappers.zoo.training import Evaluation, RunSpec, make_env, run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PPO_FILE = "ppo_in_model.csv"

# The recipe of the paper costs 12 h a seed on one core; these are its terms on a CPU's budget.
HOPPER_ON_CPU = {
    "agent": {"learning_starts": 1000, "gradient_steps": 10, "policy_kwargs": {"net_arch": [128, 128]}},
    "strategy": {"rollout_length": [20_000, 150_000, 1, 15], "rollouts_per_step": 400},
    "dynamics": {"max_steps": 500},
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is run on an env: MBPO for `steps`, the base agent on to `base_steps` for equal time."""

    steps: int
    base_steps: int
    eval_every: int
    target: float
    overrides: dict[str, dict] = dataclasses.field(default_factory=dict)


EXPERIMENTS = {
    "Pendulum-v1": Experiment(2_500, 3_500, 250, -180.0),
    "InvertedPendulum-v5": Experiment(3_000, 4_000, 250, 1000.0),
    "CartPole-v1": Experiment(6_000, 6_000, 500, 475.0),
    "Hopper-v5": Experiment(20_000, 20_000, 1_000, float("nan"), HOPPER_ON_CPU),
}


def recipe_of(env: str) -> Recipe:
    recipe = load_recipe("mbpo", env)
    changes = {name: {**getattr(recipe, name), **own} for name, own in EXPERIMENTS[env].overrides.items()}
    return dataclasses.replace(recipe, **changes)


def train(env: str, variant: str, seed: int, steps: int | None) -> None:
    experiment = EXPERIMENTS[env]
    length = steps or (experiment.steps if variant == "mbpo" else experiment.base_steps)
    spec = RunSpec(
        env=env,
        recipe=recipe_of(env),
        model=variant == "mbpo",
        seed=seed,
        steps=length,
        eval_every=experiment.eval_every,
        eval_episodes=20,
        checkpoint_every=2_000,
    )
    folder = ROOT / "runs" / env / f"{variant}_seed{seed}"
    _, rows = run(spec, folder, on_evaluation=lambda row: print(env, variant, seed, row, flush=True))
    results = RESULTS / env
    results.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "progress.csv", results / f"{variant}_seed{seed}.csv")
    print("finished", env, variant, seed, rows[-1], flush=True)


def ppo_in_model(seed: int) -> None:
    """PPO inside a model of Pendulum-v1 learned from 3,000 random steps; evaluated in the real env."""
    started = time.process_time()
    env = make_env("Pendulum-v1")
    dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64), seed=seed)
    dynamics.fit(collect_transitions(env, dynamics, 3_000, seed=seed), torch.Generator().manual_seed(seed))
    imagined = ImaginedVecEnv(dynamics, num_envs=64, horizon=200, seed=seed)
    agent = PPO("MlpPolicy", imagined, n_steps=64, batch_size=256, gamma=0.95, learning_rate=1e-3, seed=seed)
    agent.learn(250_000)
    seconds = time.process_time() - started
    real = Monitor(make_env("Pendulum-v1"))
    real.reset(seed=12345)
    returns, _ = evaluate_policy(agent, real, 20, return_episode_rewards=True)
    row = [seed, 3_000, agent.num_timesteps, round(np.mean(returns), 2), round(np.std(returns), 2), round(seconds, 1)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / PPO_FILE
    header = "seed,real_steps,imagined_steps,return_mean,return_std,cpu_seconds"
    old = file.read_text().splitlines()[1:] if file.exists() else []
    rows = sorted([line for line in old if not line.startswith(f"{seed},")] + [",".join(map(str, row))])
    file.write_text("\n".join([header, *rows]) + "\n")
    print("ppo in a model", row, flush=True)


def curves(env: str, variant: str) -> dict[int, list[Evaluation]]:
    """The committed curves of an env, by seed."""
    files = sorted((RESULTS / env).glob(f"{variant}_seed*.csv"))
    return {int(file.stem.rsplit("seed", 1)[1]): read_rows(file, Evaluation) for file in files}


def summary(env: str) -> list[str]:
    """The table of one env: every seed, failed ones too, and the two controls."""
    experiment = EXPERIMENTS[env]
    mbpo, base = curves(env, "mbpo"), curves(env, "base")
    algo = recipe_of(env).algo
    lines = [
        f"## {env}",
        "",
        f"| seed | MBPO({algo}): steps to {experiment.target:g} | return at {experiment.steps:,} steps | CPU s "
        f"| {algo} alone: steps to {experiment.target:g} | return at {experiment.steps:,} steps "
        "| return at MBPO's CPU time |",
        "|---|---|---|---|---|---|---|",
    ]
    columns: list[list[float]] = [[], [], [], []]
    for seed in sorted(mbpo):
        of_mbpo = _at(mbpo[seed], steps=experiment.steps)
        cells = [_steps_to(mbpo[seed], experiment.target), f"{of_mbpo.return_mean:.1f}", f"{of_mbpo.cpu_seconds:.0f}"]
        columns[0].append(of_mbpo.return_mean)
        columns[1].append(of_mbpo.cpu_seconds)
        if seed in base:
            equal_steps = _at(base[seed], steps=experiment.steps)
            equal_time = _at(base[seed], cpu_seconds=of_mbpo.cpu_seconds)
            cells += [
                _steps_to(base[seed], experiment.target),
                f"{equal_steps.return_mean:.1f}",
                f"{equal_time.return_mean:.1f} ({equal_time.steps:,} steps)",
            ]
            columns[2].append(equal_steps.return_mean)
            columns[3].append(equal_time.return_mean)
        else:
            cells += ["-", "-", "-"]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    means = [f"{np.mean(column):.1f} ± {np.std(column):.1f}" if column else "-" for column in columns]
    lines.append(f"| mean ± std | | {means[0]} | {means[1]} | | {means[2]} | {means[3]} |")
    return [*lines, "", f"Runs: `python benchmarks/learning.py run {env}`", ""]


def _at(rows: list[Evaluation], steps: int | None = None, cpu_seconds: float | None = None) -> Evaluation:
    """The last evaluation within a budget."""
    within = [
        row
        for row in rows
        if (steps is None or row.steps <= steps) and (cpu_seconds is None or row.cpu_seconds <= cpu_seconds)
    ]
    return within[-1] if within else rows[0]


def _steps_to(rows: list[Evaluation], target: float) -> str:
    return next((f"{row.steps:,}" for row in rows if row.return_mean >= target), "not reached")


def write_tables() -> None:
    lines = [
        "# Learning results",
        "",
        "Each agent beside the same agent without a model, at equal gradient updates per env step (columns at equal",
        "steps) and at equal time (last column). Returns are means over 20 evaluation episodes with the deterministic",
        "policy and the same start states at each evaluation; every seed that was run is shown. CPU seconds are",
        "those of training alone, one thread; the clock ran longer, since runs shared two cores. Written by",
        "`python benchmarks/learning.py table` from the curves in the folders beside this page.",
        "",
    ]
    figures = [env for env in EXPERIMENTS if curves(env, "mbpo")]
    figure, axes = new_figure(len(figures), "MBPO beside the same agent without a model, equal updates per step")
    for ax, env in zip(axes, figures, strict=True):
        lines += summary(env)
        algo = recipe_of(env).algo
        steps = EXPERIMENTS[env].steps
        drawn = {f"MBPO({algo})": curves(env, "mbpo"), f"{algo} alone": curves(env, "base")}
        learning_curves(
            ax,
            {
                label: [[row for row in rows if row.steps <= steps] for rows in seeds.values()]
                for label, seeds in drawn.items()
                if seeds
            },
        )
        ax.set_title(env)
    save_figure(figure, RESULTS / "curves.svg")
    if (RESULTS / PPO_FILE).exists():
        lines += ["## PPO trained only inside a model of Pendulum-v1 learned from 3,000 random steps", ""]
        header, *rows = (RESULTS / PPO_FILE).read_text().splitlines()
        lines += [
            f"| {header.replace(',', ' | ')} |",
            "|" + "---|" * 6,
            *(f"| {r.replace(',', ' | ')} |" for r in rows),
        ]
        lines += ["", "Runs: `python benchmarks/learning.py ppo`", ""]
    (RESULTS / "learning.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("env", choices=sorted(EXPERIMENTS))
    runs.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    runs.add_argument("--variants", nargs="+", choices=["mbpo", "base"], default=["mbpo", "base"])
    runs.add_argument("--steps", type=int, help="default: the experiment's")
    ppo = commands.add_parser("ppo")
    ppo.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    commands.add_parser("table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "table":
        write_tables()
        return
    for seed in arguments.seeds:
        if arguments.command == "ppo":
            ppo_in_model(seed)
            continue
        for variant in arguments.variants:
            train(arguments.env, variant, seed, arguments.steps)


if __name__ == "__main__":
    main()
