"""MACURA: rollouts end before the first step that is too uncertain, by what is usual at real states."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import pytest
import torch
from sb3_contrib import TQC
from stable_baselines3 import DQN, SAC, TD3
from torch import Tensor

from mbrl_wrappers.agents import MACURA
from mbrl_wrappers.imagination import AgentView, ModelBased
from mbrl_wrappers.models import DynamicsModel, KnownDynamics
from mbrl_wrappers.types import Prediction, Transitions
from testing.agents import make_agent
from testing.envs import Still
from testing.models import box, seeded, small_ensemble

OBS, ACTION = box(2), box(1, -1.0, 1.0)
BAD, SHAKY = -1.0, 0.75


class Doubtful(DynamicsModel):
    """Counts steps in the first column; doubt is the second plus the step, NaN or infinite for two values."""

    def __init__(self) -> None:
        super().__init__(OBS, ACTION)

    @property
    def particle_members(self) -> list[int]:
        return [0, 1]

    def predict(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
        raise AssertionError("only measured steps are wanted")

    def predict_measured(self, obs: Tensor, action: Tensor, measure: Any, **kwargs: Any) -> Prediction:
        next_obs = obs + torch.tensor([1.0, 0.0])
        doubt = obs[:, 1] + obs[:, 0]
        doubt = torch.where(obs[:, 1] == SHAKY, math.inf, torch.where(obs[:, 1] < 0, math.nan, doubt))
        return Prediction(next_obs, obs[:, 1], torch.zeros(len(obs), dtype=torch.bool), doubt)

    def fit(self, experience: Any, generator: torch.Generator | None = None) -> dict[str, float]:
        return {}


def bound(strategy: MACURA, dynamics: DynamicsModel | None = None) -> MACURA:
    agent = SAC("MlpPolicy", Still(OBS, ACTION), policy_kwargs={"net_arch": [8]}, buffer_size=64, seed=0, device="cpu")
    dynamics = dynamics or Doubtful()
    strategy.bind(AgentView(agent, dynamics), dynamics, seeded())
    return strategy


def start_rows(doubts: Tensor) -> Transitions:
    obs = torch.stack([torch.zeros_like(doubts), doubts], dim=1)
    zeros = torch.zeros(len(obs))
    return Transitions(obs, zeros[:, None], zeros, obs + 20, zeros.bool(), torch.arange(len(obs)))


@pytest.mark.parametrize(("xi", "steps"), [(1.5, 1), (2.0, 1), (3.0, 2), (5.5, 5), (50.0, 7)])
def test_rollouts_end_before_the_first_step_that_is_too_uncertain(xi: float, steps: int) -> None:
    # All start with a doubt of 1, so that kappa is 1; at step h it is 1 + h.
    strategy = bound(MACURA(rollout_length=7, rollouts_per_step=5, xi=xi))
    report = strategy.refresh(start_rows(torch.ones(30)), 0, 10)
    rows = strategy.imagined_state()
    assert rows["obs"][:, 0].long().bincount().tolist() == [50] * steps
    assert report["kappa"] == 1 and report["mean_length"] == steps and report["rollout_length"] == 7


def test_a_rollout_that_has_ended_does_not_begin_again() -> None:
    strategy = bound(MACURA(rollout_length=4, rollouts_per_step=40, xi=1.0, zeta=0.5))
    doubts = torch.tensor([0.5, 3.5])
    strategy.refresh(start_rows(doubts), 0, 10)
    rows = strategy.imagined_state()["obs"]
    kept = rows[rows[:, 0] > 0, 1]
    assert set(kept.tolist()) <= {0.5}


def test_kappa_is_the_mean_of_the_rounds_quantiles_and_is_saved() -> None:
    strategy = bound(MACURA(rollout_length=1, rollouts_per_step=100, xi=2.0, zeta=0.95))
    for doubt in (1.0, 4.0, 7.0):
        report = strategy.refresh(start_rows(torch.full((20,), doubt)), 0, 10)
    assert report["kappa"] == pytest.approx(4.0)
    state = strategy.imagined_state()
    again = bound(MACURA(rollout_length=1, rollouts_per_step=100, xi=2.0))
    again.load_imagined_state(state)
    assert torch.equal(again.imagined_state()["kappa"], state["kappa"]) and again.has_imagined()
    assert again.refresh(start_rows(torch.full((20,), 8.0)), 0, 10)["kappa"] == pytest.approx(5.0)


def test_what_has_no_finite_uncertainty_counts_for_nothing_and_ends() -> None:
    strategy = bound(MACURA(rollout_length=3, rollouts_per_step=40, xi=10.0))
    report = strategy.refresh(start_rows(torch.tensor([0.5, BAD, SHAKY])), 0, 10)
    assert report["kappa"] == pytest.approx(0.5)
    assert set(strategy.imagined_state()["obs"][:, 1].tolist()) == {0.5}


@pytest.mark.parametrize("kind", [SAC, TD3, TQC, DQN])
def test_every_agent_trains_and_goes_on(kind: Any, tmp_path: Any) -> None:
    env = "CartPole-v1" if kind is DQN else "Pendulum-v1"
    agent = make_agent(kind, gym.make(env), net=[8])
    agent.learn(60, callback=ModelBased(MACURA(rollouts_per_step=3), small_ensemble(env), fit_every=20))
    agent.save(tmp_path / "agent.zip")
    loaded = kind.load(tmp_path / "agent.zip", env=gym.make(env), device="cpu")
    assert loaded.model_based.strategy._kappa == agent.model_based.strategy._kappa > 0


def test_bad_arguments_and_models_are_refused() -> None:
    for arguments, message in (
        ({"xi": 0.0}, r"xi must be in \(0, .*, got 0.0"),
        ({"zeta": 1.5}, r"zeta must be in \(0, 1\], got 1.5"),
        ({"measure": "doubt"}, "measure must be a function or one of .*, got 'doubt'"),
    ):
        with pytest.raises(ValueError, match=message):
            MACURA(**arguments)
    known = KnownDynamics(OBS, ACTION, lambda o, a: o, lambda o, a, n: o[:, 0])
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got KnownDynamics with 1"):
        bound(MACURA(), known)
