"""Learning evidence: MBPO compared with the same agent without a model, and PPO inside a model, over seeds.

    python benchmarks/learning.py run Pendulum-v1 --seeds 0 1 2 3 4 --variants mbpo base
    python benchmarks/learning.py ppo --seeds 0 1 2 3 4
    python benchmarks/learning.py table

A run writes its curve to docs/results/<env>/<variant>_seed<n>.csv and, while it goes, resumes from
runs/<env>/<variant>_seed<n>. `table` makes docs/results/learning.md and one plot per env from the curves.
"""

from __future__ import annotations

import argparse
import shutil
import time

import numpy as np
import torch
from experiments import EXPERIMENTS, PPO_FILE, RESULTS, ROOT, VARIANTS, recipe_of
from learning_report import write_tables
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import EnsembleDynamics, ImaginedVecEnv
from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.run import run


def train(env: str, variant: str, seed: int, steps: int | None) -> None:
    experiment = EXPERIMENTS[env]
    length = steps or experiment.length(variant)
    spec = JobSpec(
        env=env,
        recipe=recipe_of(env, variant),
        model=variant in ("mbpo", "uniform"),
        seed=seed,
        steps=length,
        eval_freq=experiment.eval_freq,
        eval_episodes=20,
        save_freq=2_000,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("env", choices=sorted(EXPERIMENTS))
    runs.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    runs.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:2])
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
