"""Trust in an imagined env: what is masked, truncated and penalised, in each of its forms."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check
from torch import Tensor

from mbrl_wrappers import EnsembleDynamics, ImaginedEnv, ImaginedVecEnv, ImaginedVectorEnv, KnownDynamics
from mbrl_wrappers.envs import Trust, calibrated_threshold, collect_transitions
from mbrl_wrappers.models import DynamicsModel
from mbrl_wrappers.types import Prediction, Transitions
from mbrl_wrappers.wrappers import MaskedUncertainty, VectorMaskedUncertainty

OBS, ACTION = spaces.Box(-100.0, 100.0, (1,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)


class Doubtful(DynamicsModel):
    """Goes one further each step, for a reward of 10; as uncertain as it has come far, and done beyond 90."""

    def __init__(self) -> None:
        super().__init__(OBS, ACTION)
        self.start_obs = torch.zeros(1, 1)

    @property
    def particle_members(self) -> list[int]:
        return [0, 1]

    def predict(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
        return Prediction(obs + 1, torch.full_like(obs[:, 0], 10.0), obs[:, 0] > 90, torch.zeros_like(obs[:, 0]))

    def predict_measured(self, obs: Tensor, action: Tensor, measure: Any, **kwargs: Any) -> Prediction:
        p = self.predict(obs, action)
        return Prediction(*p.outcome, torch.where(obs[:, 0] < 0, torch.nan, obs[:, 0]))

    def fit(self, transitions: Transitions, generator: torch.Generator | None = None) -> dict[str, float]:
        return {}


def vector_env(starts: list[float], **kwargs: Any) -> ImaginedVectorEnv:
    env = ImaginedVectorEnv(Doubtful(), len(starts), start_obs=torch.zeros(1, 1), horizon=10, **kwargs)
    env.reset(seed=0)
    env.episodes.obs = torch.tensor(starts)[:, None]
    return env


def step(env: Any, count: int) -> Any:
    return env.step(np.zeros((count, 1), np.float32))


def test_masked_steps_are_only_told_of():
    env = vector_env([0.0, 1.0, 2.0, 3.0], trust=Trust(threshold=1.5, penalty=0.1))
    _, reward, terminated, truncated, info = step(env, 4)
    assert info["masked"].tolist() == [False, False, True, True]
    assert info["uncertainty"].tolist() == [0, 1, 2, 3]
    assert info["penalty"] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert reward == pytest.approx([10, 9.9, 9.8, 9.7])
    assert not terminated.any()
    assert not truncated.any()


def test_masked_steps_end_episodes_as_truncations_even_where_they_were_terminations():
    env = vector_env([0.0, 2.0, 95.0], trust=Trust(threshold=1.5, on_mask="truncate"))
    _, _, terminated, truncated, info = step(env, 3)
    assert info["masked"].tolist() == truncated.tolist() == [False, True, True]
    assert not terminated.any()
    trusting = vector_env([0.0, 2.0, 95.0], trust=Trust(threshold=99.0, on_mask="truncate"))
    _, _, terminated, truncated, _ = step(trusting, 3)
    assert terminated.tolist() == [False, False, True]
    assert not truncated.any()


def test_only_masked_steps_are_penalised():
    env = vector_env([0.0, 1.0, 2.0], trust=Trust(threshold=1.0, on_mask="penalize", penalty=2.0))
    _, reward, _, truncated, info = step(env, 3)
    assert reward.tolist() == [10, 10, 6]
    assert info["penalty"].tolist() == [0, 0, 4]
    assert not truncated.any()


def test_the_most_certain_share_is_trusted():
    env = vector_env([3.0, 0.0, 2.0, 1.0], trust=Trust(keep_rate=0.5))
    assert step(env, 4)[4]["masked"].tolist() == [True, False, True, False]


def test_the_shares_of_the_paper_fall_with_the_step_of_each_episode():
    env = vector_env([float(i) for i in range(100)], trust=Trust())
    env.episodes.steps[:] = 4
    kept = ~step(env, 100)[4]["masked"]
    assert kept.sum() == math.ceil(100 * (10 - 4) / 22)
    assert kept[: kept.sum()].all()


def test_what_can_not_be_measured_is_masked_and_truncated():
    env = vector_env([-1.0, 0.0], trust=Trust(keep_rate=1.0))
    _, reward, _, truncated, info = step(env, 2)
    assert info["diverged"].tolist() == info["masked"].tolist() == truncated.tolist() == [True, False]
    assert reward[0] == 0


def test_without_trust_nothing_is_said_of_it():
    assert set(step(vector_env([0.0]), 1)[4]) == {"uncertainty", "_uncertainty", "diverged", "_diverged"}


def test_an_sb3_env_tells_masks_and_truncates():
    env = ImaginedVecEnv(Doubtful(), 3, trust=Trust(threshold=1.5, on_mask="truncate", penalty=1.0), seed=0)
    env.reset()
    env.episodes.obs = torch.tensor([[0.0], [1.0], [5.0]])
    obs, reward, done, infos = env.step(np.zeros((3, 1), np.float32))
    assert [info["masked"] for info in infos] == done.tolist() == [False, False, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, False, True]
    assert infos[2]["terminal_observation"].tolist() == [6.0]
    assert obs[2].tolist() == [0.0]
    assert [info["penalty"] for info in infos] == [0, 1, 5]
    assert reward.tolist() == [10, 9, 5]


def test_the_wrappers_do_as_the_envs_do():
    env = MaskedUncertainty(ImaginedEnv(Doubtful(), horizon=10), threshold=0.5, on_mask="truncate", penalty=1.0)
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert (reward, terminated, truncated) == (9.0, False, True)
    assert info == {"uncertainty": 1.0, "diverged": False, "masked": True, "penalty": 1.0}
    wrapped = VectorMaskedUncertainty(vector_env([3.0, 0.0, 2.0, 1.0]), keep_rate=0.5)
    assert step(wrapped, 4)[4]["masked"].tolist() == [True, False, True, False]


def learned() -> tuple[EnsembleDynamics, Transitions]:
    env = gym.make("Pendulum-v1")
    dynamics = EnsembleDynamics.for_env(env, hidden=(16,), max_steps=100, seed=0)
    transitions = collect_transitions(env, dynamics, 400, seed=0)
    dynamics.fit(transitions, torch.Generator().manual_seed(0))
    return dynamics, transitions


@pytest.fixture(scope="module")
def model() -> tuple[EnsembleDynamics, Transitions]:
    return learned()


def test_a_masked_env_passes_both_checks(model: tuple[EnsembleDynamics, Transitions]):
    dynamics, _ = model
    env = MaskedUncertainty(ImaginedEnv(dynamics, horizon=20), threshold=1.0, on_mask="truncate")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized")
        gymnasium_check(env, skip_render_check=True)
        sb3_check(env)


def test_a_threshold_is_a_quantile_of_what_was_held_out(model: tuple[EnsembleDynamics, Transitions]):
    dynamics, transitions = model
    source = torch.Generator()
    low, middle, high = (
        calibrated_threshold(dynamics, transitions, q, generator=source.manual_seed(0)) for q in (0.0, 0.5, 1.0)
    )
    assert 0 < low < middle < high
    env = ImaginedVectorEnv(dynamics, 200, trust=Trust(threshold=middle))
    env.reset(seed=0)
    masked = env.step(np.random.default_rng(0).uniform(-2, 2, (200, 1)).astype(np.float32))[4]["masked"]
    assert 0.25 < masked.mean() < 0.75  # at real states, half of the steps are surer
    with pytest.raises(ValueError, match="transitions must have rows that the fit held out, got none among 0"):
        calibrated_threshold(dynamics, transitions[:0], 0.5)
    with pytest.raises(ValueError, match=r"quantile must be in \[0, 1\], got 2"):
        calibrated_threshold(dynamics, transitions, 2)


def test_the_same_seed_is_the_same_masked_episode(model: tuple[EnsembleDynamics, Transitions]):
    def episode() -> list[Any]:
        env = MaskedUncertainty(ImaginedEnv(model[0], horizon=20), threshold=1.0)
        env.reset(seed=3)
        return [env.step(np.array([0.5], np.float32))[4] for _ in range(5)]

    assert episode() == episode()


def test_ppo_trains_in_a_masked_env(model: tuple[EnsembleDynamics, Transitions]):
    env = ImaginedVecEnv(model[0], 8, horizon=20, trust=Trust(keep_rate=0.9, on_mask="truncate"), seed=0)
    agent = PPO("MlpPolicy", env, n_steps=16, batch_size=64, seed=0, device="cpu").learn(256)
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


def test_bad_arguments_are_refused():
    for kwargs, message in (
        ({"keep_rate": 0.0}, r"keep_rate must be in \(0, 1\], got 0.0"),
        ({"keep_rate": 1.1}, r"keep_rate must be in \(0, 1\], got 1.1"),
        ({"threshold": -1.0}, "threshold must be in .*, got -1.0"),
        ({"threshold": 1.0, "keep_rate": 0.5}, "threshold must be None where there is a keep_rate, got 1.0"),
        ({"penalty": -1.0}, "penalty must be in .*, got -1.0"),
        ({"on_mask": "drop"}, "on_mask must be one of .*, got 'drop'"),
        ({"measure": "doubt"}, "measure must be a function or one of .*, got 'doubt'"),
    ):
        with pytest.raises(ValueError, match=message):
            Trust(**kwargs)
    with pytest.raises(ValueError, match="threshold must be given for a single episode"):
        ImaginedEnv(Doubtful(), trust=Trust(keep_rate=0.5))
    with pytest.raises(ValueError, match="deterministic must be False where steps are masked, got True"):
        ImaginedEnv(Doubtful(), deterministic=True, trust=Trust(threshold=1.0))
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got KnownDynamics with 1"):
        MaskedUncertainty(ImaginedEnv(KnownDynamics.for_env("Pendulum-v1")), threshold=1.0)
    with pytest.raises(ValueError, match=r"env must be an ImaginedEnv, got .*PendulumEnv"):
        MaskedUncertainty(gym.make("Pendulum-v1"), threshold=1.0)
    with pytest.raises(ValueError, match="env must be an ImaginedVectorEnv, got"):
        VectorMaskedUncertainty(gym.make_vec("Pendulum-v1", num_envs=2), threshold=1.0)


def test_the_wrapped_env_stays_as_it_was():
    single = ImaginedEnv(Doubtful(), start_obs=torch.zeros(1, 1))
    masked: Any = MaskedUncertainty(single, threshold=0.5)
    action = np.zeros(1, np.float32)
    masked.reset(seed=0)
    assert "masked" in masked.step(action)[4] and "masked" not in single.step(action)[4]
    several = vector_env([0.0, 5.0])
    both: Any = VectorMaskedUncertainty(several, threshold=0.5)
    assert "masked" in step(both, 2)[4] and "masked" not in step(several, 2)[4]
    assert single.episodes.trust is None and several.episodes.trust is None


def test_an_error_in_a_step_leaves_the_wrapped_env_as_it_was():
    several = vector_env([0.0, 5.0])
    with pytest.raises(ValueError, match="action"):
        VectorMaskedUncertainty(several, threshold=0.5).step(np.zeros((3, 1), np.float32))
    assert several.episodes.trust is None


def test_episodes_that_wait_for_their_reset_take_no_share_of_the_trust():
    env = vector_env([0.0, 0.1, 1.0, 2.0], trust=Trust(keep_rate=0.5))
    env._done[0] = True
    *_, info = step(env, 4)
    assert info["masked"].tolist() == [False, False, False, True] and info["_masked"].tolist() == [False] + 3 * [True]
