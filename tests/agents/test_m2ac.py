"""M2AC: what is kept of a rollout, what it loses in reward, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from torch import Tensor

from mbrl_wrappers.agents import M2AC, Dyna
from mbrl_wrappers.imagination import AgentView, ModelBased
from mbrl_wrappers.models import DynamicsModel, EnsembleDynamics, KnownDynamics
from mbrl_wrappers.types import Prediction, Transitions
from testing.agents import make_agent
from testing.envs import Still

OBS, ACTION = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)
BAD, SHAKY = -1.0, 0.75


class Doubtful(DynamicsModel):
    """Counts steps in the first column, and is as uncertain as the second one says, which stays."""

    def __init__(self) -> None:
        super().__init__(OBS, ACTION)

    @property
    def particle_members(self) -> list[int]:
        return [0, 1]

    def predict(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
        raise AssertionError("only measured steps are wanted")

    def predict_measured(self, obs: Tensor, action: Tensor, measure: Any, **kwargs: Any) -> Prediction:
        next_obs = obs + torch.tensor([1.0, 0.0])
        next_obs = torch.where(obs[:, 1:] == BAD, torch.nan, next_obs)
        doubt = torch.where(obs[:, 1] == SHAKY, math.inf, obs[:, 1])
        return Prediction(next_obs, 10.0 * obs[:, 1], obs[:, 1] > 0.9, doubt)

    def fit(self, transitions: Transitions, generator: torch.Generator | None = None) -> dict[str, float]:
        return {}


def bound(strategy: M2AC, dynamics: DynamicsModel | None = None) -> M2AC:
    agent = make_agent(env=Still(OBS, ACTION))
    dynamics = dynamics or Doubtful()
    strategy.bind(AgentView(agent, dynamics), dynamics, torch.Generator().manual_seed(0))
    return strategy


def start_rows(doubts: Tensor) -> Transitions:
    obs = torch.stack([torch.zeros_like(doubts), doubts], dim=1)
    zeros = torch.zeros(len(obs))
    return Transitions(obs, zeros[:, None], zeros, obs, zeros.bool(), torch.arange(len(obs)))


def kept_after(strategy: M2AC, doubts: Tensor, new_steps: int = 10) -> tuple[dict[str, Tensor], dict[str, float]]:
    report = strategy.refresh(start_rows(doubts), 0, new_steps)
    return strategy.imagined_state(), report


@pytest.mark.parametrize("length", [1, 2, 4, 10])
def test_each_step_keeps_the_share_of_the_paper_and_rollouts_go_on(length: int):
    strategy = bound(M2AC(rollout_length=length, rollouts_per_step=40))
    rows, report = kept_after(strategy, torch.linspace(0, 0.9, 64))
    steps = rows["obs"][:, 0].long().bincount(minlength=length).tolist()
    shares = [0.5] if length == 1 else [(length - h) / (2 * (length + 1)) for h in range(length)]
    assert steps == [math.ceil(400 * share) for share in shares]
    assert report["rows"] == sum(steps)


def test_the_most_certain_rows_are_kept_and_lose_their_uncertainty():
    strategy = bound(M2AC(rollout_length=2, rollouts_per_step=40, penalty=0.5))
    doubts = torch.linspace(0, 0.9, 64)
    rows, report = kept_after(strategy, doubts)
    assert rows["obs"][:, 1].max() < doubts.quantile(0.45)
    assert torch.allclose(rows["reward"], (10 - 0.5) * rows["obs"][:, 1])
    assert report["uncertainty_first"] == report["uncertainty_last"] == pytest.approx(doubts.median().item(), abs=0.1)


def test_a_share_of_all_keeps_all_but_what_diverged_or_ended():
    strategy = bound(M2AC(rollout_length=3, rollouts_per_step=40, keep_rate=1.0, penalty=0.0))
    rows, report = kept_after(strategy, torch.tensor([0.5, BAD, 0.95]))
    ended, diverged = int(report["terminated"]), int(report["diverged"])
    assert ended > 0
    assert diverged > 0
    assert rows["obs"][:, 0].long().bincount().tolist() == [400 - diverged] + 2 * [400 - diverged - ended]
    assert torch.isfinite(rows["next_obs"]).all()


def test_what_has_no_finite_uncertainty_never_enters():
    strategy = bound(M2AC(rollout_length=1, rollouts_per_step=40, keep_rate=1.0))
    rows, _ = kept_after(strategy, torch.tensor([0.5, SHAKY]))
    assert set(rows["obs"][:, 1].tolist()) == {0.5}


def test_the_buffer_is_sized_by_what_is_kept():
    strategy = M2AC(rollout_length=4, rollouts_per_step=10, epoch_length=100, retained_epochs=2)
    assert strategy._buffer.capacity == 10 * 100 * 2 * 1.0
    assert Dyna(rollout_length=4, rollouts_per_step=10, epoch_length=100, retained_epochs=2)._buffer.capacity == 8000


@pytest.mark.parametrize("kind", [SAC, TD3, DDPG, TQC, CrossQ, DQN, QRDQN])
def test_every_agent_trains(kind: type):
    env = gym.make("CartPole-v1" if kind in (DQN, QRDQN) else "Pendulum-v1")
    agent = kind(
        "MlpPolicy", env, learning_starts=20, batch_size=20, train_freq=1, gradient_steps=1, seed=0, device="cpu",
        policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    dynamics = EnsembleDynamics.for_env(env, hidden=(8,), max_steps=20, seed=0)
    callback = ModelBased(M2AC(rollout_length=3, rollouts_per_step=5, measure="max_disagreement"), dynamics)
    agent.learn(60, callback=callback)
    assert callback.strategy.has_imagined()
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


def test_bad_arguments_and_models_are_refused():
    with pytest.raises(ValueError, match=r"keep_rate must be in \(0, 1\], got 0"):
        M2AC(keep_rate=0)
    with pytest.raises(ValueError, match=r"keep_rate must be in .*, got 1.5"):
        M2AC(keep_rate=1.5)
    with pytest.raises(ValueError, match=r"penalty must be in .*, got -0.1"):
        M2AC(penalty=-0.1)
    with pytest.raises(ValueError, match=r"measure must be a function or one of .*, got 'doubt'"):
        M2AC(measure="doubt")
    single = EnsembleDynamics(OBS, ACTION, num_elites=1)
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got EnsembleDynamics with 1"):
        bound(M2AC(), single)
    known = KnownDynamics(OBS, ACTION, lambda o, a: o, lambda o, a, n: o[:, 0])
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got KnownDynamics with 1"):
        bound(M2AC(), known)
