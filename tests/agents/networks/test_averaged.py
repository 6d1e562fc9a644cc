"""Averaged actors follow the formula, leave learning unchanged, and are saved and loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import MAAC, CompiledSAC
from mbrl_wrappers.agents.networks import AveragedSACPolicy, AveragedTD3Policy
from testing.envs import Walk

PENDULUM = "Pendulum-v1"
OBS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def make_agent(kind: Any = SAC, policy: Any = AveragedSACPolicy, env: Any = PENDULUM, **kwargs: Any) -> Any:
    policy_kwargs = {"net_arch": [8], **kwargs.pop("policy_kwargs", {})}
    return kind(policy, env, learning_starts=20, seed=0, device="cpu", policy_kwargs=policy_kwargs, **kwargs)


def of_part(policy: Any, name: str = "actor") -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in getattr(policy, name).parameters()])


@pytest.mark.parametrize("averaging", [0.0, 0.9, 0.999])
def test_the_average_follows_the_actor_by_the_formula(averaging: float) -> None:
    agent = make_agent(policy_kwargs={"averaging": averaging})
    expected = of_part(agent.policy)
    for n in range(40):
        agent.learn(21 if n == 0 else 1, reset_num_timesteps=n == 0)
        expected += max(1 - averaging, 9 / (n + 10)) * (of_part(agent.policy) - expected)
        assert torch.allclose(of_part(agent.policy, "average_actor"), expected, atol=1e-6)
    assert agent.policy.num_averaged == agent._n_updates == 40


@pytest.mark.parametrize(
    ("kind", "policy", "arguments"),
    [
        (SAC, AveragedSACPolicy, {}),
        (SAC, AveragedSACPolicy, {"use_sde": True}),
        (TD3, AveragedTD3Policy, {}),
        (MAAC, AveragedSACPolicy, {"horizon": 2, "expand_critic": True, "scaled_critic": True, "batch_size": 16}),
    ],
)
def test_learning_is_not_changed(kind: Any, policy: Any, arguments: dict[str, Any]) -> None:
    averaged = make_agent(kind, policy, **arguments).learn(60)
    plain = make_agent(kind, "MlpPolicy", **arguments).learn(60)
    for name in ("actor", "critic", "critic_target"):
        assert of_part(averaged.policy, name).equal(of_part(plain.policy, name))
    assert not of_part(averaged.policy, "average_actor").equal(of_part(averaged.policy))


@pytest.mark.parametrize(("kind", "policy"), [(SAC, AveragedSACPolicy), (TD3, AveragedTD3Policy)])
def test_deterministic_actions_are_the_averages_and_others_the_actors(kind: Any, policy: Any) -> None:
    agent = make_agent(kind, policy).learn(60)
    obs = torch.as_tensor(OBS)
    mean = agent.policy.average_actor._predict(obs, deterministic=True).detach().numpy()
    assert np.allclose(agent.predict(OBS, deterministic=True)[0], agent.policy.unscale_action(mean))
    torch.manual_seed(0)
    sample = agent.actor._predict(obs, deterministic=False).detach().numpy()
    torch.manual_seed(0)
    assert np.allclose(agent.predict(OBS, deterministic=False)[0], agent.policy.unscale_action(sample))


class Normalized(FlattenExtractor):
    """Features with statistics of their own."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.flatten: Any = nn.Sequential(self.flatten, nn.BatchNorm1d(self.features_dim))


def test_statistics_are_those_of_the_actor() -> None:
    agent = make_agent(policy_kwargs={"features_extractor_class": Normalized}).learn(40)
    pairs = list(zip(agent.policy.average_actor.buffers(), agent.actor.buffers(), strict=True))
    assert pairs and all(average.equal(value) for average, value in pairs)


def test_a_dict_of_observations_is_taken() -> None:
    agent = make_agent(env=Walk("dict")).learn(30)
    assert isinstance(agent.observation_space, spaces.Dict) and agent.policy.num_averaged == 10


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda agent: agent])
def test_a_copy_goes_on_averaging_its_own_actor(duplicate: Any) -> None:
    agent = make_agent().learn(30)
    policy, before = duplicate(agent.policy), of_part(agent.policy, "average_actor")
    for parameter in policy.actor.parameters():
        parameter.grad = torch.ones_like(parameter)
    policy.actor.optimizer.step()
    assert policy.num_averaged == 11
    assert not of_part(policy, "average_actor").equal(before)
    if policy is not agent.policy:
        assert of_part(agent.policy, "average_actor").equal(before)


def test_a_saved_agent_has_its_average_and_goes_on(tmp_path: Path) -> None:
    agent = make_agent(policy_kwargs={"averaging": 0.99}).learn(40)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")
    loaded = SAC.load(tmp_path / "agent", env=gym.make(PENDULUM), device="cpu")
    assert type(loaded.policy) is AveragedSACPolicy and loaded.policy.averaging == 0.99
    assert np.array_equal(loaded.predict(OBS, deterministic=True)[0], agent.predict(OBS, deterministic=True)[0])
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.policy.num_averaged == 25
    agent.policy.save(tmp_path / "policy")
    policy = AveragedSACPolicy.load(tmp_path / "policy", device="cpu")
    assert policy.averaging == 0.99 and policy.num_averaged == 20


def test_a_recipe_names_it_and_the_zoo_keeps_it(tmp_path: Path) -> None:
    params = {"agent.policy": "AveragedSACPolicy", "agent.policy_kwargs": {"net_arch": [8], "averaging": 0.9}}
    folder = tmp_path / "run"
    zoo.train("mbpo", PENDULUM, steps=300, params=params, folder=folder)
    agent = zoo.load(folder)
    assert type(agent.policy) is AveragedSACPolicy and agent.policy.num_averaged > 0


def test_updates_that_call_no_hooks_are_refused() -> None:
    with pytest.raises(ValueError, match="the optimizer has hooks"):
        make_agent(CompiledSAC, compile=True).learn(30)
    agent = make_agent(CompiledSAC).learn(30)  # not compiled
    assert agent.policy.num_averaged == 10


@pytest.mark.parametrize("averaging", [-0.1, 1.0, float("nan")])
def test_averaging_out_of_its_range(averaging: float) -> None:
    with pytest.raises(ValueError, match=f"averaging must be in \\[0, 1\\), got {averaging}"):
        make_agent(policy_kwargs={"averaging": averaging})
