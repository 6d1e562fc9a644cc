"""Planning evidence: the planning agents over seeds, and what a plan costs against what it reaches.

    mbrl-zoo train pets --env Pendulum-v1 --seed 0 --eval-episodes 20 --eval-freq 1600         # and so on
    python benchmarks/planning.py collect runs/*
    python benchmarks/planning.py cost runs/pets_Pendulum-v1_0/pets
    python benchmarks/planning.py exact
    python benchmarks/planning.py table

`collect` copies the curves of finished runs to docs/results/planning; `cost` plans with several planners in the model
of one run, `exact` in the exact model of CartPole-v1; `table` writes docs/results/planning.md and its pictures from
what lies there.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from experiments import RESULTS, read_csv, write_page
from gymnasium.spaces import Box
from matplotlib.ticker import ScalarFormatter

from mbrl_wrappers.agents import PETS
from mbrl_wrappers.models import KnownDynamics
from mbrl_wrappers.zoo.catalogue.lookup import load_dynamics
from mbrl_wrappers.zoo.evaluation import play_episodes
from mbrl_wrappers.zoo.report.plots import new_figure, save_figure
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.progress import Evaluation

CURVES = RESULTS / "planning"

# Agent and env: what is aimed at, as a number at the end and in words.
AIMS: dict[tuple[str, str], tuple[float, str]] = {
    ("pets", "Pendulum-v1"): (-180, "-180 within 1,600 steps on 5 of 5 seeds"),
    ("pets", "CartPole-v1"): (475, "475 within 2,000 steps"),
    ("pets", "InvertedPendulum-v5"): (1000, "1000 within 2,500 steps on 5 of 5 seeds"),
    ("pets", "PETSCartpole-v0"): (150, "150 of 200 within 12 episodes (2,400 steps) on 5 of 5 seeds"),
    ("rs", "MBBLCartPole-v0"): (195, "solved: 200 is the maximum"),
    ("rs", "MBBLInvertedPendulum-v0"): (-0.5, "solved: 0 is the maximum"),
    ("poplin-A-replan", "Pendulum-v1"): (-180, "at least PETS's, with as many evaluations in a plan"),
    ("poplin-A-replan-white", "Pendulum-v1"): (-180, "likewise, with `noise_exponent=0`"),
    ("poplin-P-uni", "InvertedPendulum-v5"): (1000, "1000 within 2,500 steps on 5 of 5 seeds"),
    ("poplin-P-sep", "Pendulum-v1"): (
        -180,
        "likewise, with `distillation=bc`, `init_variance=0.3`, `noise_exponent=2`",
    ),
}

# Published, from the tables of Wang et al. (2019) and of Wang and Ba (2019): env steps, return and its deviation. Both
# are of older half-cheetahs, whose rewards and lengths are alike but not the same.
PUBLISHED = (
    ("PETS-CEM on MBBL's HalfCheetah", 200_000, 2795.3, 879.9),
    ("PETS on POPLIN's Cheetah", 50_000, 4204.5, 789.0),
)
CHEETAH = CURVES / "pets_HalfCheetah-v5_seed0.csv"


@dataclass(frozen=True)
class Setting:
    """One way to plan; the horizon is the task's unless said."""

    name: str
    planner: str
    kwargs: dict[str, Any]
    num_particles: int = 5
    is_slow: bool = False


@dataclass(frozen=True)
class CostTask:
    """Where plans are compared: how far an episode goes, how many are played, and how many of them the picture shows.

    The classic plan, where there is one, plays the latter alone.
    """

    steps: int
    episodes: int
    slow_episodes: int
    horizon: int
    classic: Setting | None = None
    note: str = ""


SMALL_CEM = {"population": 100, "num_elites": 10, "iterations": 3}
SETTINGS = (
    Setting("CEM 100 x 3", "CEM", SMALL_CEM),
    Setting("iCEM 100 x 3", "iCEM", {}),
    Setting("iCEM 200 x 5", "iCEM", {"population": 200, "num_elites": 20, "iterations": 5}),
    Setting("iCEM 50 x 3", "iCEM", {"population": 50, "num_elites": 5}),
    Setting("iCEM 50 x 2", "iCEM", {"population": 50, "num_elites": 5, "iterations": 2}),
    Setting("iCEM 100 x 1", "iCEM", {"iterations": 1}),
    Setting("iCEM 20 x 2", "iCEM", {"population": 20, "num_elites": 4, "iterations": 2}),
    Setting("MPPI 200", "MPPI", {"population": 200}),
    Setting("MPPI 50", "MPPI", {"population": 50}),
    Setting("RS 1000", "RS", {"population": 1000}),
    Setting("RS 100", "RS", {"population": 100}),
)
MARKERS = "osDv^<>PX*dphH8"
COST_TASKS = {
    "Pendulum-v1": CostTask(
        200, 10, 3, 15, Setting("PETS's own: CEM 400 x 25 x 5, 20 particles", "CEM", {"horizon": 25}, 20, True)
    ),
    "CartPole-v1": CostTask(500, 5, 2, 60),
    "HalfCheetah-v5": CostTask(
        100,
        5,
        5,
        20,
        Setting("PETS's own: CEM 400 x 30 x 5, 20 particles", "CEM", {"horizon": 30}, 20, True),
        "The starts are few: settings that hardly differ lie 30 apart, so the two are even.",
    ),
}

# Planners of categories in the exact model of CartPole-v1: what is left are the planner's own errors.
EXACT = (
    Setting("CEM 100 x 2, horizon 40", "CEM", {"horizon": 40, "population": 100, "num_elites": 10, "iterations": 2}),
    Setting("CEM 100 x 2, horizon 60", "CEM", {"horizon": 60, "population": 100, "num_elites": 10, "iterations": 2}),
    *[
        Setting(
            f"iCEM 50 x 2, horizon {horizon}{words}",
            "iCEM",
            {"horizon": horizon, "population": 50, "num_elites": 5, "iterations": 2, **kwargs},
        )
        for horizon, words, kwargs in (
            (40, "", {}),
            (60, "", {}),
            (60, ", no elites kept", {"kept_elites": 0.0}),
            (60, ", `noise_exponent=2`", {"noise_exponent": 2.0}),
        )
    ],
    Setting("iCEM 100 x 1, horizon 60", "iCEM", {"horizon": 60, "iterations": 1}),
)
EXACT_FILE = CURVES / "exact_CartPole-v1.csv"
NUM_STARTS = 20


def collect(folders: list[Path]) -> None:
    CURVES.mkdir(parents=True, exist_ok=True)
    for job in sorted(file for folder in folders for file in folder.rglob("job.json")):
        spec = JobSpec.from_json(job.read_bytes())
        if (job.parent / "manifest.json").exists():
            variant = spec.recipe.agent.get("variant")
            agent = f"{spec.agent}-{variant}" if variant else spec.agent
            name = f"{agent}_{spec.env.rpartition('/')[2]}_seed{spec.seed}.csv"
            shutil.copy(job.parent / "progress.csv", CURVES / name)


def measure_cost(folder: Path) -> None:
    """Plan with each setting in the model of a finished run."""
    torch.set_num_threads(1)
    env_id = JobSpec.from_json((folder / "job.json").read_bytes()).env
    dynamics, task = load_dynamics(folder), COST_TASKS[env_id]

    def planner(setting: Setting) -> PETS:
        return PETS(
            "MlpPolicy",
            env,
            dynamics=dynamics,
            planner=setting.planner,
            planner_kwargs={"horizon": task.horizon, **setting.kwargs},
            num_particles=setting.num_particles,
            seed=0,
            device="cpu",
        )

    rows = []
    env = gym.make(env_id, max_episode_steps=task.steps)
    settings = [setting for setting in SETTINGS if isinstance(env.action_space, Box) or setting.planner != "MPPI"]
    for setting in settings if task.classic is None else [*settings, task.classic]:
        agent = planner(setting)
        started = time.process_time()
        episodes = play_episodes(agent, env, task.slow_episodes if setting.is_slow else task.episodes)
        seconds = time.process_time() - started
        returns = [episode.total_reward for episode in episodes]
        # The mean over the starts of the slow settings too, so that all can be compared.
        rows.append(
            [
                setting.name,
                f"{1e3 * seconds / sum(episode.length for episode in episodes):.1f}",
                f"{np.mean(returns[: task.slow_episodes]):.1f}",
                "" if setting.is_slow else f"{np.mean(returns):.1f}",
            ]
        )
        print(*rows[-1], flush=True)
    obs = np.stack([env.reset(seed=seed)[0] for seed in range(8)])
    agent = planner(Setting("iCEM 100 x 3", "iCEM", {}))
    for number in (1, 8):
        rows.append([f"predict for {number}, iCEM 100 x 3", f"{1e3 * _seconds(agent, obs[:number]):.1f}", "", ""])
        print(*rows[-1], flush=True)
    with _cost_file(env_id).open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["setting", "ms", "return_of_few", "return"], *rows])


def measure_exact() -> None:
    """Balance CartPole-v1 from many starts with plans in its exact model."""
    torch.set_num_threads(1)
    envs = gym.make_vec("CartPole-v1", num_envs=NUM_STARTS, vectorization_mode="sync")
    rows = []
    for setting in EXACT:
        agent = PETS(
            "MlpPolicy",
            "CartPole-v1",
            dynamics=KnownDynamics.for_env("CartPole-v1"),
            planner=setting.planner,
            planner_kwargs=setting.kwargs,
            num_particles=1,
            propagation="expectation",
            seed=0,
            device="cpu",
        )
        obs, _ = envs.reset(seed=12345)
        stands, steps, state = np.ones(NUM_STARTS, dtype=bool), np.zeros(NUM_STARTS), None
        while stands.any() and steps.max() < 500:
            action, state = agent.predict(obs, state)
            obs, _, fell, _, _ = envs.step(action)
            steps += stands
            stands &= ~fell
        rows.append([setting.name, int(stands.sum()), f"{steps.mean():.1f}"])
        print(*rows[-1], flush=True)
    with EXACT_FILE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["setting", "stood", "steps"], *rows])


def _cost_file(env_id: str) -> Path:
    return CURVES / f"cost_{env_id}.csv"


def _seconds(agent: PETS, obs: np.ndarray) -> float:
    """Median CPU time of a prediction."""
    times = []
    for _ in range(20):
        started = time.process_time()
        agent.predict(obs)
        times.append(time.process_time() - started)
    return float(np.median(times))


def write_table() -> None:
    """Write the page and its pictures."""
    write_page("planning", document())
    if CHEETAH.exists():
        draw_cheetah()
    for env_id in COST_TASKS:
        if _cost_file(env_id).exists():
            draw_cost(env_id)


def document() -> str:
    """The page from the committed rows."""
    lines = [
        "# Planning results",
        "",
        "Agents that plan, with the zoo's recipes; each number is the mean return of the evaluation episodes (the same",
        "start states for every seed) after the last env step, one per seed. There is no such agent without a model;",
        "SAC on the same tasks, at 10 updates a step, is in [learning.md](learning.md). CPU seconds are those of",
        "training, on one thread, evaluations left out. A run: `mbrl-zoo train pets --env Pendulum-v1 --seed 0",
        "--eval-episodes 20 --eval-freq 1600`; then `python benchmarks/planning.py collect runs/*` and `... table`.",
        "",
        "| agent | env | aim | reached | last returns by seed | mean ± std | env steps | CPU s a seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (agent, env), (aim, words) in AIMS.items():
        files = sorted(CURVES.glob(f"{agent}_{env}_seed*.csv"))
        last = [read_rows(file, Evaluation)[-1] for file in files]
        if not last:
            continue
        returns = [row.return_mean for row in last]
        spread = f" ± {np.std(returns, ddof=1):.1f}" if len(last) > 1 else ""
        lines.append(
            f"| {_display_name(agent)} | {env} | {words} | {sum(r >= aim for r in returns)} of {len(last)} | "
            f"{', '.join(f'{r:.1f}' for r in returns)} | {np.mean(returns):.1f}{spread} | {last[0].steps:,} | "
            f"{np.mean([row.cpu_seconds for row in last]):.0f} |"
        )
    lines += [
        "",
        "Agents on Pendulum-v1 were evaluated over 20 episodes, PETS on InvertedPendulum-v5 over 5, POPLIN there over",
        "3 (seed 0: 5), others over 10.",
        "Some runs shared the cores with others, which adds to their CPU seconds.",
        "An action of CartPole-v1's recipe takes 56 ms (median of 200, while two other runs shared the cores).",
        "",
        "On InvertedPendulum-v5 an error of the angle grows 136-fold in 30 steps, if nothing is done about it: a",
        "feedback corrects it, a sequence of actions does not. POPLIN's P-uni plans the parameters of a linear policy,",
        "60 steps ahead, and holds the pole on all seeds; its policy without plans holds it on two of them (1000 steps",
        "from each of 8 starts, on the others 199, 348 and 183 in the mean). PETS plans sequences and misses its aim.",
        "While the pole stands its plans all tie, the cart wanders, and at the end of the rail impacts throw the pole",
        "over. With the mean absolute error on the",
        "hold-out (`holdout_metric`) the members foresee the pole's speed to 0.001 rad/s near the middle and to",
        "0.01 close to the rail's end (medians). Squared errors are nearly all of impacts: in a fit to 2,000 steps",
        "they kept members that were 2 times (`beta_nll=0.5`) and 10 times (0) worse in the middle. Plans in the",
        "better models notice the end of the rail some 20 steps ahead, but none of their samples turns the cart in",
        "time. Mean steps that plans held the pole from 8 starts, of 1,000 unless said, in the models of two runs,",
        "trained without the model's noise and with:",
        "",
        "| plan: iCEM 100 x 3, horizon 30, white noise, 5 particles, unless said | one run | another |",
        "|---|---|---|",
        "| particles follow their members' means, the recipe's plan | 613 | 209 of 400 |",
        "| with the model's noise | 937 | 320 |",
        "| with the model's noise, horizon 20 | 796 | 208 of 400 |",
        "| with the model's noise, `init_std=0.1` | | 106 |",
        "| members' means, `init_std=0.1` | | 166 of 600 |",
        "| members' means, the elites' mean is executed | 171 | |",
        "| the mean of all members, 1 particle | 180 | |",
        "| the mean of all members, 300 x 5 | 135 | |",
        "| the mean of all members, 200 x 4, `init_std=0.25` | | 134 of 600 |",
        "| the mean of all members, 200 x 4, `init_std=0.25`, horizon 45 | | 117 of 600 |",
        "",
        "A smaller standard deviation raises the predicted returns (from 27 to 30 of 30 in the middle) and holds",
        "the pole for fewer steps; in the exact simulator, from one start, for 163, where the recipe's plan held it",
        "for the 400 that were played, though it met the rail's end. Whole runs over 5 episodes: `beta_nll=0.5` and",
        "`weight_decay=0` 628 and 578 (seeds 0 and 1); `holdout_metric=mae`, `beta_nll=0` and `weight_decay=0` 373",
        "and 548; `holdout_metric=mae`, `beta_nll=0` and the model's noise 198 (seed 1).",
    ]
    if CHEETAH.exists():
        lines += ["", *_cheetah_lines()]
    for env_id, task in COST_TASKS.items():
        if _cost_file(env_id).exists():
            lines += ["", *_cost_lines(env_id, task)]
    if EXACT_FILE.exists():
        lines += ["", *_exact_lines()]
    return "\n".join(lines) + "\n"


def _display_name(agent: str) -> str:
    name, _, variant = agent.partition("-")
    return f"{name.upper()} {variant}".strip()


def draw_cheetah() -> None:
    rows = read_rows(CHEETAH, Evaluation)
    figure, (ax,) = new_figure(1, "HalfCheetah-v5")
    ax.plot(
        [row.steps for row in rows], [row.return_mean for row in rows], "o-", label="PETS, the zoo's recipe, 1 seed"
    )
    for (name, steps, mean, std), marker in zip(PUBLISHED, "sD", strict=True):
        ax.errorbar(steps, mean, std, fmt=marker, capsize=4, label=name)
    ax.set(xscale="log", xlabel="env steps", ylabel="return")
    ax.legend(loc="upper left", frameon=False)
    save_figure(figure, RESULTS / "planning_halfcheetah.svg")


def _cheetah_lines() -> list[str]:
    last = read_rows(CHEETAH, Evaluation)[-1]
    return [
        "## HalfCheetah-v5",
        "",
        f"One seed of PETS's recipe for {last.steps:,} steps ({last.cpu_seconds / 60:.0f} minutes of CPU time, one",
        "evaluation episode at each point), compared with what is published of older half-cheetahs (mean and",
        "deviation). It learns, and is far below both.",
        "",
        "![Returns of PETS on HalfCheetah-v5](planning_halfcheetah.svg)",
    ]


def _exact_lines() -> list[str]:
    rows = read_csv(EXACT_FILE)
    return [
        "## Plans in the exact model of CartPole-v1",
        "",
        f"{NUM_STARTS} starts, at most 500 steps; errors of the model are none, so what is left are the planner's.",
        "",
        f"| plan | starts from which the pole stood for 500 steps, of {NUM_STARTS} | steps, mean |",
        "|---|---|---|",
        *(f"| {row['setting']} | {row['stood']} | {row['steps']} |" for row in rows),
    ]


def _cost_rows(env_id: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows of plans that were played, and those of single calls."""
    rows = read_csv(_cost_file(env_id))
    return [row for row in rows if row["return_of_few"]], [row for row in rows if not row["return_of_few"]]


def _cost_picture(env_id: str) -> str:
    return f"planning_cost_{env_id}.svg"


def draw_cost(env_id: str) -> None:
    played, _ = _cost_rows(env_id)
    figure, (ax,) = new_figure(1, f"{env_id}, one learned model")
    figure.set_size_inches(8.0, 3.6)
    for row, marker in zip(played, MARKERS, strict=False):
        ax.plot(float(row["ms"]), float(row["return_of_few"]), marker, label=row["setting"])
    ax.set(xscale="log", xlabel="CPU time of an action (ms, one thread)", ylabel="mean return")
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    save_figure(figure, RESULTS / _cost_picture(env_id))


def _cost_lines(env_id: str, task: CostTask) -> list[str]:
    played, calls = _cost_rows(env_id)
    one, many = (float(row["ms"]) for row in calls)
    default = next(row for row in played if row["setting"] == "iCEM 100 x 3")
    beside_classic = [
        f"PETS's own plan costs {float(row['ms']) / float(default['ms']):.0f}x of iCEM's 100 x 3 and reaches "
        f"{row['return_of_few']} against its {default['return_of_few']} from the same {task.slow_episodes} starts. "
        f"{task.note}".strip()
        for row in played
        if task.classic is not None and row["setting"] == task.classic.name
    ]
    few, many_starts = task.slow_episodes, task.episodes
    starts = f"{few} start states, which the picture shows, and from {many_starts} where time allowed"
    columns = {f"return, {few} starts": "return_of_few", f"return, {many_starts} starts": "return"}
    if few == many_starts:
        starts, columns = f"{few} start states", {"return": "return_of_few"}
    return [
        f"## What a plan costs on {env_id}",
        "",
        f"Planners in the model of one run of the recipe; horizon {task.horizon} unless said, 5 particles; mean return",
        f"of the first {task.steps} steps from {starts}.",
        "",
        f"![Return against the cost of an action]({_cost_picture(env_id)})",
        "",
        f"| plan | ms an action | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
        *(
            f"| {row['setting']} | {row['ms']} | {' | '.join(row[column] for column in columns.values())} |"
            for row in played
        ),
        "",
        *beside_classic,
        f"One call of `predict` (iCEM 100 x 3) takes {one} ms for one env and {many} ms for eight: {many / one:.1f}x.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("collect").add_argument("folders", nargs="+", type=Path)
    commands.add_parser("cost").add_argument("folder", type=Path, help="of one agent of a finished run")
    commands.add_parser("exact")
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "collect":
        collect(arguments.folders)
    elif arguments.command == "cost":
        measure_cost(arguments.folder)
    elif arguments.command == "exact":
        measure_exact()
    else:
        write_table()


if __name__ == "__main__":
    main()
