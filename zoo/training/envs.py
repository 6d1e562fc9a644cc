"""The envs of a job: the one that is evaluated in, and the one or several to train in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from mbrl_wrappers.envs.finite import FiniteEnv
from mbrl_wrappers.envs.sb3_games import games_vec_env
from mbrl_wrappers.zoo.environment import make_env, with_episode_limit
from mbrl_wrappers.zoo.training.job import JobSpec


def guarded_env(spec: JobSpec) -> gym.Env:
    """Make the job's env, guarded against values that are not finite and against episodes that never end."""
    return with_episode_limit(FiniteEnv(make_env(spec.env, **spec.env_kwargs)))


def vec_env(spec: JobSpec) -> VecEnv:
    """Make the recipe's number of envs to train in: grid games of this library as one core, others side by side.

    Infos hold the returns and lengths of episodes.
    """
    num_envs = spec.recipe.num_envs
    games = games_vec_env(spec.env, num_envs, **spec.env_kwargs)
    return DummyVecEnv([lambda: Monitor(guarded_env(spec))] * num_envs) if games is None else games


def env_of(spec: JobSpec) -> gym.Env | VecEnv:
    """Make an env for the job's agent to learn further in."""
    return vec_env(spec) if spec.recipe.num_envs > 1 else make_env(spec.env, **spec.env_kwargs)


class SeededStarts(VecEnvWrapper):
    """Makes what follows each reset of all envs a function of a seed and the number of the reset.

    Each env has a random stream of its own until the next reset.

    Args:
        venv: any VecEnv.
        seed: of the run.

    Attributes:
        episode: number of the next reset, from 0.
    """

    def __init__(self, venv: VecEnv, seed: int) -> None:
        super().__init__(venv)
        self._seed = seed
        self.episode = 0

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Do nothing, since the run has a seed; SB3's agents call this."""
        return [None] * self.num_envs

    def reset(self) -> Any:
        """Start new episodes in all envs."""
        number = np.random.SeedSequence([self._seed, self.episode]).generate_state(1)[0] >> 1  # one more for each env
        self.venv.seed(int(number))
        self.episode += 1
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Take the step."""
        return self.venv.step_wait()
