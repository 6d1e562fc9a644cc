"""Agents that learn in latent models, compared with SAC.

python benchmarks/latent.py run Pendulum-v1
python benchmarks/latent.py run Pendulum-v1-short
python benchmarks/latent.py table
"""

from __future__ import annotations

import time

import gymnasium as gym
from comparisons import EVAL_EPISODES, Column, Experiment, Page, main
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from mbrl_wrappers.envs import GamesVecEnv
from mbrl_wrappers.tasks.grids import BreakoutGames
from mbrl_wrappers.zoo.evaluation import mean_and_std, play_episodes
from mbrl_wrappers.zoo.training.progress import Evaluation


def ppo(experiment: Experiment, seed: int) -> list[Evaluation]:
    """Train SB3's PPO in eight games of Breakout."""
    limit = gym.spec(experiment.env).max_episode_steps
    env = VecMonitor(GamesVecEnv(BreakoutGames(8, max_episode_steps=limit), seed=seed))
    agent = PPO("MlpPolicy", env, n_steps=128, batch_size=256, gamma=0.98, seed=seed, device="cpu")
    rows: list[Evaluation] = []
    cpu_seconds, wall_seconds = 0.0, 0.0
    while agent.num_timesteps < experiment.steps:
        started = time.process_time(), time.perf_counter()
        agent.learn(experiment.eval_freq, reset_num_timesteps=False)
        cpu_seconds += time.process_time() - started[0]
        wall_seconds += time.perf_counter() - started[1]
        mean, std = mean_and_std(play_episodes(agent, gym.make(experiment.env), EVAL_EPISODES))
        rows.append(Evaluation(agent.num_timesteps, mean, std, agent._n_updates, wall_seconds, cpu_seconds))
    return rows


PAGE = Page(
    name="latent",
    title="Latent models",
    text=[
        "Dreamer, version 3, with the recipe of `dreamer`: its model has 96 units. Settings were chosen on seed 0.",
        "TD-MPC2 with the recipe of `tdmpc2`: networks of 128 units, plans of 3 steps by 3 iterations of 128",
        "sequences. Its settings were chosen on seeds 0 and 100.",
        "",
    ],
    seeds=(1, 2, 3, 4, 5),
    experiments={
        "Pendulum-v1": Experiment(
            title="Pendulum-v1, vectors",
            env="Pendulum-v1",
            steps=4_000,
            eval_freq=500,
            target=-180.0,
            columns={
                "Dreamer": Column("dreamer", "Dreamer"),
                "PlaNet": Column("planet", "PlaNet"),
                "SAC, 1 update": Column("dhmbpo", "MAAC", model=False),
            },
            pairs={"Dreamer": ("SAC, 1 update",)},
            panels={"": ["Dreamer", "PlaNet", "SAC, 1 update"]},
        ),
        "Pendulum-v1-short": Experiment(
            title="Pendulum-v1, vectors, ten episodes",
            env="Pendulum-v1",
            steps=2_000,
            eval_freq=1_000,
            target=-200.0,
            columns={"TD-MPC2": Column("tdmpc2", "TDMPC2")},
            pairs={},
            panels={"": ["TD-MPC2"]},
        ),
        "PixelPendulum-v0": Experiment(
            title="PixelPendulum-v0, frames of 32 x 32",
            env="mbrl_wrappers/PixelPendulum-v0",
            steps=5_000,
            eval_freq=500,
            target=-300.0,
            columns={"Dreamer": Column("dreamer", "Dreamer")},
            pairs={},
            panels={"": ["Dreamer"]},
        ),
        "Breakout-v0": Experiment(
            title="Breakout-v0, planes of 10 x 10",
            env="mbrl_wrappers/Breakout-v0",
            steps=30_000,
            eval_freq=5_000,
            target=2.7,
            columns={"Dreamer": Column("dreamer", "Dreamer"), "PPO": Column("", trainer=ppo)},
            pairs={"Dreamer": ("PPO",)},
            panels={"": ["Dreamer", "PPO"]},
            text=["Random play returns 0.27; the target is ten times that.", ""],
        ),
    },
)

if __name__ == "__main__":
    main(PAGE, __doc__)
