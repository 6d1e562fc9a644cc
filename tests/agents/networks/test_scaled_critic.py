"""Critics scaled by the rewards of an agent's batches."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.sac.policies import SACPolicy

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import MAAC, MVE, STEVE, Dyna
from mbrl_wrappers.agents.networks.scaled_critic import ScaledCritic, ValueBounds
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics

SMALL = {"policy_kwargs": {"net_arch": [16]}, "learning_starts": 40, "batch_size": 32, "seed": 0}


def trained(steps: int = 80, real_ratio: float = 0.5, **options) -> MAAC:
    agent = MAAC("MlpPolicy", "Pendulum-v1", horizon=2, scaled_critic=True, **SMALL, **options)
    model = EnsembleDynamics.for_env(agent.env, hidden=(8,), max_steps=20, num_members=2, num_elites=2)
    strategy = Dyna(real_ratio=real_ratio, rollouts_per_step=2)
    return agent.learn(steps, callback=ModelBased(strategy, dynamics=model, fit_every=40))


def test_bounds_are_the_values_of_endless_rewards():
    bounds = ValueBounds()
    rewards = torch.linspace(-2.0, 4.0, 601)
    bounds.update(rewards, gamma=0.9, rate=0.1)
    low, high = np.quantile(rewards.numpy(), [0.01, 0.99]) / (1 - 0.9)
    assert bounds.bounds.tolist() == pytest.approx([low, high], rel=1e-5)
    bounds.update(2 * rewards, gamma=0.9, rate=0.1)
    assert bounds.bounds.tolist() == pytest.approx([1.1 * low, 1.1 * high], rel=1e-5)
    assert bounds.value(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx(
        [1.1 * low, 0.55 * (low + high), 1.1 * high], rel=1e-5
    )
    assert bounds.clamp(torch.tensor([-1e9, 1e9])).tolist() == bounds.bounds.tolist()


def test_rows_that_do_not_count_move_nothing():
    bounds, same = ValueBounds(), ValueBounds()
    bounds.update(torch.full((3, 4), torch.nan), gamma=0.9, rate=0.1)
    assert bounds.bounds.tolist() == [-1.0, 1.0]
    bounds.update(torch.tensor([1.0, torch.nan, 2.0, 3.0]), gamma=0.9, rate=0.1)
    same.update(torch.tensor([1.0, 2.0, 3.0]), gamma=0.9, rate=0.1)
    assert torch.equal(bounds.bounds, same.bounds)


def test_the_bounds_are_those_of_real_rewards_where_the_batch_is_real():
    agent = trained(real_ratio=1.0, ent_coef=0.0)
    low, high = (agent.critic.scale.bounds * (1 - agent.gamma)).tolist()
    assert -16.3 <= low < high <= 0.0  # what Pendulum-v1 pays
    assert high - low > 1.0
    assert agent.critic.scale is agent.critic_target.scale


def test_without_it_critics_are_those_of_sb3():
    agent = MAAC("MlpPolicy", "Pendulum-v1", **SMALL)
    assert not isinstance(agent.critic, ScaledCritic)


@pytest.mark.slow
def test_compiled_updates_are_the_same():
    plain, compiled = (trained(expand_critic=True, compile=compile) for compile in (False, True))
    assert torch.allclose(plain.critic.scale.bounds, compiled.critic.scale.bounds, rtol=1e-3)
    for one, other in zip(plain.critic.parameters(), compiled.critic.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("store", ["sb3", "zoo"])
def test_bounds_are_saved_and_loaded(store, tmp_path):
    agent = trained(expand_critic=True)
    if store == "sb3":
        agent.save(tmp_path / "agent.zip")
        again: Any = MAAC.load(tmp_path / "agent.zip", env=agent.env)
    else:
        zoo.save(agent, tmp_path / "agent", episodes=1)
        again = zoo.load(tmp_path / "agent")
    env = agent.env
    assert isinstance(env, DummyVecEnv)
    obs = obs_as_tensor(env.reset(), agent.device)
    action = torch.zeros(1, 1)
    assert again.scaled_critic
    assert again.critic.scale is again.critic_target.scale
    assert torch.equal(torch.cat(again.critic(obs, action)), torch.cat(agent.critic(obs, action)))


@pytest.mark.parametrize("options", [{"gamma": 1.0}, {"n_steps": 3}])
def test_what_has_no_bounds_is_refused(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=rf"{name} must be .* with scaled_critic.*, got {value}"):
        MAAC("MlpPolicy", "Pendulum-v1", scaled_critic=True, **SMALL, **options)


@pytest.mark.parametrize("strategy", [MVE(2), STEVE(2)])
def test_strategies_that_write_returns_into_rewards_are_refused(strategy):
    agent = MAAC("MlpPolicy", "Pendulum-v1", scaled_critic=True, **SMALL)
    with pytest.raises(ValueError, match=f"scaled_critic must be False .*, got {type(strategy).__name__}"):
        agent.learn(10, callback=ModelBased(strategy))


def test_a_policy_is_pickled_and_loaded_alone(tmp_path):
    agent = trained()
    before = agent.critic.scale.bounds.clone()
    agent.policy.save(tmp_path / "policy.pth")
    for copy in (pickle.loads(pickle.dumps(agent.policy)), type(agent.policy).load(tmp_path / "policy.pth")):
        assert copy.critic.scale is copy.critic_target.scale is not agent.critic.scale
        assert torch.equal(copy.critic.scale.bounds, before)
        copy.critic.scale.bounds.mul_(3)
        assert torch.equal(agent.critic.scale.bounds, before)


def test_a_policy_of_ones_own_is_refused():
    class Own(SACPolicy):
        pass

    with pytest.raises(
        ValueError,
        match="policy must be one of SAC's own, SimBaSACPolicy or AveragedSACPolicy with scaled_critic, got Own",
    ):
        MAAC(Own, "Pendulum-v1", scaled_critic=True, **SMALL)
