"""What a model's first fit costs and how well it foresees: 1,000 random steps of six envs.

    python benchmarks/fit_cost.py [--settings '{"hidden": [64, 64]}'] [--envs Hopper-v5 ...]

Fitted by the default model on one CPU thread; tested on 3,000 random steps of other episodes, one step ahead by the
mean, in units of the training targets' spread; columns that never change are left out. The script uses nothing but
``EnsembleDynamics``'s public methods, so that it runs on earlier versions of the library too.
"""

from __future__ import annotations

import argparse
import json
import time

import gymnasium as gym
import numpy as np
import torch

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.types import Transitions

ENVS = ["Pendulum-v1", "Hopper-v5", "HalfCheetah-v5", "InvertedPendulum-v5", "CartPole-v1", "Reacher-v5"]
NUM_TRAIN, NUM_TEST = 1_000, 3_000


def random_rows(env_id: str, model: EnsembleDynamics, count: int, seed: int) -> Transitions:
    """Return transitions under random actions, whose seed has nothing to do with the env's."""
    env = gym.make(env_id)
    env.action_space.seed(seed + 991)
    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    obs, _ = env.reset(seed=seed)
    for _ in range(count):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        for column, value in zip(columns, (obs, action, reward, next_obs, terminated), strict=True):
            column.append(np.array(value))
        obs = env.reset()[0] if terminated or truncated else next_obs
    obs_rows, actions, rewards, next_rows, ends = (np.stack(column) for column in columns)
    return Transitions(
        obs=torch.as_tensor(obs_rows).float(),
        action=model.action_codec.encode(actions),
        reward=torch.as_tensor(rewards).float(),
        next_obs=torch.as_tensor(next_rows).float(),
        terminated=torch.as_tensor(ends),
        key=torch.arange(count),
    )


@torch.no_grad()
def errors(model: EnsembleDynamics, train: Transitions, test: Transitions) -> tuple[float, float]:
    """Return the mean and the median over the rows of the squared error of a step, mean over the columns."""
    spread = (train.next_obs - train.obs).std(0)
    said = model.predict(test.obs, test.action, deterministic=True).next_obs
    of_rows = ((said - test.next_obs) / spread)[:, spread > 0].square().mean(-1)
    return float(of_rows.mean()), float(of_rows.median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=ENVS)
    parser.add_argument("--settings", type=json.loads, default={}, help="arguments of EnsembleDynamics as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| env | fit, CPU s | gradient steps | hold-out error | test error, mean | median |\n|---|---|---|---|---|---|"
    )
    for env_id in arguments.envs:
        model = EnsembleDynamics.for_env(gym.make(env_id), **arguments.settings)
        train, test = random_rows(env_id, model, NUM_TRAIN, seed=0), random_rows(env_id, model, NUM_TEST, seed=1)
        started = time.process_time()
        report = model.fit(train, torch.Generator().manual_seed(0))
        seconds = time.process_time() - started
        mean, median = errors(model, train, test)
        numbers = (
            f"{seconds:.1f} | {report['grad_steps']:,.0f} | {report['holdout_error']:.2g} | {mean:.2g} | {median:.2g}"
        )
        print(f"| {env_id} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
