"""Agents that learn in latent models, compared with SAC.

python benchmarks/latent.py run Pendulum-v1
python benchmarks/latent.py run Pendulum-v1-short
python benchmarks/latent.py table
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from comparisons import EVAL_EPISODES, Column, Experiment, Page, main
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor

from mbrl_wrappers.envs import GamesVecEnv
from mbrl_wrappers.tasks.grids import BreakoutGames
from mbrl_wrappers.zoo.evaluation import mean_and_std, play_episodes
from mbrl_wrappers.zoo.training.progress import Evaluation

CROSSQ: dict[str, Any] = {
    "agent.gradient_steps": 1,
    "agent.learning_starts": 500,
    "agent.learning_rate": 0.001,
    "agent.gamma": 0.99,
    "agent.policy_kwargs": {},
}
# Settings that were chosen on seed 100.
VERSION_1: dict[str, Any] = {
    "agent.version": 1,
    "agent.batch_size": 8,
    "agent.sequence_length": 32,
    "agent.replay_ratio": 85.0,
    "agent.imagination_starts": 128,
    "agent.policy_kwargs": {"units": 96},
    "dynamics.version": 1,
    "dynamics.latent": 16,
    "dynamics.bins": 0,
    "dynamics.free_nats": 0.3,
}
CONTROLS = {
    "SAC, 1 update": Column("dhmbpo", "MAAC", model=False),
    "CrossQ": Column("mbpo", "CrossQ", model=False, params=CROSSQ),
}


def ppo(experiment: Experiment, seed: int) -> list[Evaluation]:
    """Train SB3's PPO in eight games of Breakout."""
    limit = gym.spec(experiment.env).max_episode_steps
    env = VecMonitor(GamesVecEnv(BreakoutGames(8, max_episode_steps=limit), seed=seed))
    agent = PPO("MlpPolicy", env, n_steps=128, batch_size=256, gamma=0.98, seed=seed, device="cpu")

    def evaluate() -> tuple[float, float]:
        return mean_and_std(play_episodes(agent, gym.make(experiment.env), EVAL_EPISODES))

    return curve(agent, experiment, evaluate)


def sac_of_frames(experiment: Experiment, seed: int) -> list[Evaluation]:
    """Train SB3's SAC with its CNN, which needs at least 36 pixels, on the last three frames, twice as large."""
    agent = SAC(
        "CnnPolicy",
        stacked_frames(experiment.env),
        buffer_size=experiment.steps,
        learning_starts=500,
        learning_rate=0.0003,
        batch_size=64,
        gamma=0.99,
        seed=seed,
        device="cpu",
    )

    def evaluate() -> tuple[float, float]:
        env = stacked_frames(experiment.env)
        env.seed(0)
        returns, _ = evaluate_policy(agent, env, EVAL_EPISODES, return_episode_rewards=True)
        return float(np.mean(returns)), float(np.std(returns))

    return curve(agent, experiment, evaluate)


def stacked_frames(env_id: str) -> VecFrameStack:
    def make() -> gym.Env:
        env = gym.make(env_id)
        height, width, channels = env.observation_space.shape or ()
        space = gym.spaces.Box(0, 255, (2 * height, 2 * width, channels), np.uint8)
        return Monitor(gym.wrappers.TransformObservation(env, lambda frame: frame.repeat(2, 0).repeat(2, 1), space))

    return VecFrameStack(DummyVecEnv([make]), 3)


def curve(
    agent: BaseAlgorithm, experiment: Experiment, evaluate: Callable[[], tuple[float, float]]
) -> list[Evaluation]:
    """Train an agent and evaluate it on the way."""
    rows: list[Evaluation] = []
    cpu_seconds, wall_seconds = 0.0, 0.0
    while agent.num_timesteps < experiment.steps:
        started = time.process_time(), time.perf_counter()
        agent.learn(experiment.eval_freq, reset_num_timesteps=False)
        cpu_seconds += time.process_time() - started[0]
        wall_seconds += time.perf_counter() - started[1]
        mean, std = evaluate()
        updates = getattr(agent, "_n_updates", 0)
        rows.append(Evaluation(agent.num_timesteps, mean, std, updates, wall_seconds, cpu_seconds))
    return rows


def control(task: str, target: float, published: str, eval_freq: int = 10_000) -> Experiment:
    """Return a task of dm_control, whose frames are two for each step."""
    columns = {
        "Dreamer": Column("dreamer", "Dreamer"),
        "TD-MPC2": Column("tdmpc2", "TDMPC2"),
        "SAC of SB3, 1 update": Column("mbpo", "SAC", model=False, params={"agent.gradient_steps": 1}),
        "CrossQ": CONTROLS["CrossQ"],
    }
    return Experiment(
        title=f"dm_control's {task.replace('-', '_')}, 100,000 frames, vectors",
        env=f"mbrl_wrappers/control-{task}-v0",
        steps=50_000,
        eval_freq=eval_freq,
        target=target,
        columns=columns,
        pairs={},
        panels={"": list(columns)},
        text=[f"Published at 100,000 frames: {published}, of full size.", ""],
    )


PAGE = Page(
    name="latent",
    title="Latent models",
    text=[
        "Dreamer, version 3, with the recipe of `dreamer`: models of 96 units for the pendulums, chosen on seed 0,",
        "with a penalty on saturated actions, chosen on seeds 20 and 21 of the vectors; 96 units for Breakout, chosen",
        "on seed 100, and 128 for cartpole_swingup, for which nothing was tuned. Version 1, as far as it was run, has",
        "batches of 8 x 32 and a Gaussian latent of 16, chosen on seed 100. TD-MPC2 with the recipe of `tdmpc2`:",
        "networks of 128 units; on Pendulum-v1 plans of 3 steps by 3 iterations of 128 sequences, chosen on seeds 0",
        "and 100, on dm_control's tasks by 4 of 256, where nothing was tuned. SAC",
        "without further words is the agent of `dhmbpo` without its model, with that recipe's networks and settings;",
        "CrossQ is sb3-contrib's, with its own networks.",
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
                "Dreamer, version 1": Column("dreamer", "Dreamer", params=VERSION_1),
                "PlaNet": Column("planet", "PlaNet"),
                **CONTROLS,
            },
            pairs=dict.fromkeys(("Dreamer", "Dreamer, version 1", "PlaNet"), ("SAC, 1 update", "CrossQ")),
            panels={"": ["Dreamer", "Dreamer, version 1", "PlaNet", *CONTROLS]},
        ),
        "Pendulum-v1-short": Experiment(
            title="Pendulum-v1, vectors, ten episodes",
            env="Pendulum-v1",
            steps=2_000,
            eval_freq=1_000,
            target=-200.0,
            columns={"TD-MPC2": Column("tdmpc2", "TDMPC2"), **CONTROLS},
            pairs={"TD-MPC2": ("SAC, 1 update", "CrossQ")},
            panels={"": ["TD-MPC2", *CONTROLS]},
            borrowed={label: "Pendulum-v1" for label in CONTROLS},
        ),
        "PixelPendulum-v0": Experiment(
            title="PixelPendulum-v0, frames of 32 x 32",
            env="mbrl_wrappers/PixelPendulum-v0",
            steps=5_000,
            eval_freq=500,
            target=-300.0,
            columns={
                "Dreamer": Column("dreamer", "Dreamer"),
                "SAC, CNN": Column("", trainer=sac_of_frames),
            },
            pairs={"Dreamer": ("SAC, CNN",)},
            panels={"": ["Dreamer", "SAC, CNN"]},
            text=["SB3's SAC sees the last three frames, twice as large, in batches of 64.", ""],
        ),
        "cartpole-swingup": control("cartpole-swingup", 600.0, "DreamerV3 472, TD-MPC2 839", eval_freq=5_000),
        "walker-walk": control("walker-walk", 914.0, "TD-MPC2 962"),
        "cheetah-run": control("cheetah-run", 493.0, "TD-MPC2 519"),
        "finger-spin": control("finger-spin", 901.0, "TD-MPC2 948"),
        "reacher-easy": control("reacher-easy", 890.0, "TD-MPC2 937"),
        "Breakout-v0": Experiment(
            title="Breakout-v0, planes of 10 x 10",
            env="mbrl_wrappers/Breakout-v0",
            steps=30_000,
            eval_freq=5_000,
            target=2.7,
            columns={"Dreamer": Column("dreamer", "Dreamer"), "PPO": Column("", trainer=ppo)},
            pairs={"Dreamer": ("PPO",)},
            panels={"": ["Dreamer", "PPO"]},
            text=[
                "Random play returns 0.27; the target is ten times that. PPO is SB3's, in eight games, with rollouts",
                "of 128 steps; it was evaluated after every 5,120, so the return at 30,000 is that at 25,600.",
                "",
            ],
        ),
    },
)

if __name__ == "__main__":
    main(PAGE, __doc__)
