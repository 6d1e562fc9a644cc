"""SimBa's residual networks in SB3's policies: their form, exact, for any agent, compiled too, and kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import DQN, SAC, TD3
from torch import nn
from torch.nn import functional as F

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import MAAC, STEVE, CompiledSAC, CompiledTD3, CompiledTQC, Dyna
from mbrl_wrappers.agents.networks import SimBaDQNPolicy, SimBaSACPolicy, SimBaTD3Policy, SimBaTQCPolicy
from mbrl_wrappers.agents.networks.simba import ResidualBlock
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.zoo.catalogue.sb3_import import import_sb3
from mbrl_wrappers.zoo.training.building import build_agent
from mbrl_wrappers.zoo.training.job_making import make_job
from testing.envs import Walk
from testing.models import seeded, small_ensemble

PENDULUM = "Pendulum-v1"
KINDS: list[tuple[Any, Any]] = [
    (SAC, SimBaSACPolicy), (TD3, SimBaTD3Policy), (TQC, SimBaTQCPolicy), (DQN, SimBaDQNPolicy),
]  # fmt: skip
COMPILED: list[Any] = [
    (SAC, CompiledSAC, SimBaSACPolicy),
    pytest.param(TD3, CompiledTD3, SimBaTD3Policy, marks=pytest.mark.slow),
    pytest.param(TQC, CompiledTQC, SimBaTQCPolicy, marks=pytest.mark.slow),
]
ARCH = {"pi": [8, 8], "qf": [16, 16, 16]}


def make_agent(kind: Any, policy: Any, env: Any = None, net_arch: Any = None, **rest: Any) -> Any:
    discrete = issubclass(kind, DQN)
    env = ("CartPole-v1" if discrete else PENDULUM) if env is None else env
    arch = ([8, 8] if discrete else ARCH) if net_arch is None else net_arch
    return kind(policy, env, policy_kwargs={"net_arch": arch}, learning_starts=20, seed=0, device="cpu", **rest)


def by_hand(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """What the paper writes: an embedding, residual blocks, a normalisation."""
    weights = dict(layers.named_parameters())
    x = F.linear(x, weights["0.weight"], weights["0.bias"])
    blocks = [index for index, layer in enumerate(layers) if isinstance(layer, ResidualBlock)]
    for index in blocks:
        norm, _, wide_weight, wide_bias, narrow_weight, narrow_bias = (
            weights[name] for name in weights if name.startswith(f"{index}.")
        )
        inner = F.relu(F.linear(F.layer_norm(x, norm.shape), wide_weight, wide_bias))
        x = x + F.linear(inner, narrow_weight, narrow_bias)
    assert wide_weight.shape == (4 * x.shape[-1], x.shape[-1])
    return F.layer_norm(x, x.shape[-1:])


def test_the_networks_are_the_papers() -> None:
    agent = make_agent(SAC, SimBaSACPolicy)
    obs, action = torch.randn(5, 3, generator=seeded()), torch.rand(5, 1, generator=seeded())
    latent = by_hand(agent.actor.latent_pi, obs)
    torch.testing.assert_close(agent.actor.get_action_dist_params(obs)[0], agent.actor.mu(latent))
    for values, layers in zip(agent.critic(obs, action), agent.critic.q_networks, strict=True):
        torch.testing.assert_close(values, layers[-1](by_hand(layers, torch.cat([obs, action], dim=1))))
        assert sum(isinstance(layer, ResidualBlock) for layer in layers) == 2
    assert sum(isinstance(layer, ResidualBlock) for layer in agent.actor.latent_pi) == 1


@pytest.mark.parametrize(("kind", "policy"), KINDS)
def test_every_weight_is_trained_and_targets_follow(kind: Any, policy: Any) -> None:
    agent = make_agent(kind, policy, gradient_steps=2, train_freq=1)
    for name, target in agent.policy.named_parameters():
        if "_target" in name:
            online = dict(agent.policy.named_parameters())[name.replace("_target", "")]
            assert torch.equal(target, online)
    before = {name: value.clone() for name, value in agent.policy.named_parameters()}
    agent.learn(40)
    unchanged = [name for name, value in agent.policy.named_parameters() if torch.equal(value, before[name])]
    assert not [name for name in unchanged if "_target" not in name]


@pytest.mark.parametrize("use_sde", [False, True])
@pytest.mark.parametrize("form", ["box", "dict"])
def test_other_observations_and_exploration(form: str, use_sde: bool) -> None:
    agent = make_agent(SAC, SimBaSACPolicy, Walk(form), use_sde=use_sde)
    agent.learn(40)
    assert isinstance(agent.observation_space, spaces.Dict) == (form == "dict")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "compiled_kind", "policy"), COMPILED)
def test_compiled_it_learns_what_sb3_s_agent_learns(kind: Any, compiled_kind: Any, policy: Any) -> None:
    weights = []
    for one, rest in ((kind, {}), (compiled_kind, {"compile": True})):
        agent = make_agent(one, policy, net_arch=[8, 8], **rest)
        agent.learn(30)
        weights.append(nn.utils.parameters_to_vector(agent.policy.parameters()))
    assert torch.allclose(*weights, atol=1e-4)


@pytest.mark.parametrize("scaled_critic", [False, True])
def test_agents_with_a_model_take_it(scaled_critic: bool) -> None:
    agent = make_agent(MAAC, SimBaSACPolicy, horizon=2, expand_critic=True, scaled_critic=scaled_critic, batch_size=16)
    agent.learn(30, callback=ModelBased(Dyna(), small_ensemble(gym.make(PENDULUM)), fit_every=20))
    assert isinstance(agent.critic.q_networks[0][1], ResidualBlock)
    steve = make_agent(SAC, SimBaSACPolicy, batch_size=16)
    steve.learn(30, callback=ModelBased(STEVE(), small_ensemble(gym.make(PENDULUM)), fit_every=20))


@pytest.mark.parametrize(("kind", "policy"), KINDS)
def test_it_is_kept_in_files(tmp_path: Path, kind: Any, policy: Any) -> None:
    agent = make_agent(kind, policy)
    env = agent.get_env().envs[0].spec.id
    agent.learn(30)
    agent.save(tmp_path / "agent.zip")
    zoo.save(agent, tmp_path / "saved", env=env)
    import_sb3(tmp_path / "agent.zip", tmp_path / "imported", env=env, episodes=0)
    loaded = [kind.load(tmp_path / "agent.zip", device="cpu")]
    loaded += [zoo.load(tmp_path / name, device="cpu") for name in ("saved", "imported")]
    for other in loaded:
        assert type(other) is kind and type(other.policy) is policy
        for name, value in other.policy.state_dict().items():
            assert torch.equal(value, agent.policy.state_dict()[name])


def test_a_recipe_names_it() -> None:
    params = {"agent.policy": "SimBaSACPolicy", "agent.policy_kwargs": {"net_arch": [8, 8]}}
    agent, _ = build_agent(make_job("mbpo", PENDULUM, seed=0, params=params), gym.make(PENDULUM))
    assert type(agent.policy) is SimBaSACPolicy


@pytest.mark.parametrize("net_arch", [[], [8, 16], {"pi": [8, 8], "qf": [16, 8]}, {"pi": [], "qf": [8, 8]}])
def test_widths_must_be_one(net_arch: Any) -> None:
    with pytest.raises(ValueError, match="net_arch must be one width, repeated for each residual block, got "):
        make_agent(SAC, SimBaSACPolicy, net_arch=net_arch)
