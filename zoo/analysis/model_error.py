"""How far a trained agent's model drifts from the real environment, over the horizon."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import gymnasium as gym
import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from mbrl_wrappers.envs.collect import collect_transitions
from mbrl_wrappers.models import DynamicsModel
from mbrl_wrappers.models.rollout_error import open_loop_error
from mbrl_wrappers.types import Transitions
from mbrl_wrappers.zoo.choices import choices_seed

BAND = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class HorizonError:
    """One row of a run's ``model_error.csv``: the error's distribution over real start states.

    Attributes:
        steps_ahead: number of model steps from the real start state.
        low, median, high: 10%, 50% and 90% quantile, in units of the observations' spread.
    """

    steps_ahead: int
    low: float
    median: float
    high: float


def measure_model_error(
    agent: OffPolicyAlgorithm,
    dynamics: DynamicsModel,
    env: gym.Env,
    *,
    horizon: int = 30,
    steps: int = 2000,
    seed: int = 0,
) -> list[HorizonError]:
    """Compare a model with episodes that it was not fitted on, played by the exploring agent.

    Args:
        agent: chooses the actions as in training; its random generators are seeded.
        dynamics: the model.
        env: the real environment.
        horizon: steps to look ahead; fewer if no episode is as long.
        steps: env steps to play.
        seed: of the episodes and of the agent's choices.

    Returns:
        One row per step ahead; see :func:`~mbrl_wrappers.models.rollout_error.open_loop_error`.
    """
    return error_on_windows(dynamics, *real_windows(agent, dynamics, env, horizon, steps, seed))


def error_on_windows(dynamics: DynamicsModel, obs: Tensor, action: Tensor) -> list[HorizonError]:
    """Return the error's quantiles over windows ``obs [E, T + 1, D]`` and ``action [E, T, A]``, a row per step."""
    error = open_loop_error(dynamics, obs, action, action.shape[1])
    quantiles = torch.quantile(error, torch.tensor(BAND).to(error), dim=0)
    return [HorizonError(step, *column) for step, column in enumerate(quantiles.T.tolist(), start=1)]


def real_windows(
    agent: OffPolicyAlgorithm, dynamics: DynamicsModel, env: gym.Env, length: int, steps: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Play episodes and cut out every window of ``length`` steps.

    Returns:
        ``obs [E, T + 1, D]`` and ``action [E, T, A]``, where ``T`` is ``length``, or the longest
        episode's if that is shorter.
    """
    agent.set_random_seed(choices_seed(seed))
    real = collect_transitions(
        env, dynamics, steps, policy=lambda obs: agent.predict(obs, deterministic=False)[0], seed=seed
    )
    return windows_of(real, length)


def windows_of(real: Transitions, length: int) -> tuple[Tensor, Tensor]:
    """Cut every window of ``length`` steps out of episodes that follow each other; see :func:`real_windows`."""
    real = real.to("cpu")
    over = (real.next_obs[:-1] != real.obs[1:]).any(-1) | real.terminated[:-1]  # a time limit ends episodes too
    ends = [int(row) + 1 for row in over.nonzero()] + [len(real)]
    sizes = [end - start for start, end in itertools.pairwise([0, *ends])]
    length = min(length, max(sizes))
    obs, action = [], []
    for rows in torch.arange(len(real)).split(sizes):
        if len(rows) >= length:
            path = torch.cat([real.obs[rows], real.next_obs[rows[-1:]]])
            obs.append(path.unfold(0, length + 1, 1).transpose(1, 2))
            action.append(real.action[rows].unfold(0, length, 1).transpose(1, 2))
    return torch.cat(obs), torch.cat(action)
