"""The actor's objective of STEVE's TD3: all critics' mean, and a penalty that keeps actions off their bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import TD3
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import CompiledTD3, STEVETD3Policy
from mbrl_wrappers.zoo.catalogue.sb3_import import import_sb3
from mbrl_wrappers.zoo.training.building import build_agent
from mbrl_wrappers.zoo.training.job_making import make_job

PENDULUM = "Pendulum-v1"


def make_agent(kind: Any = TD3, policy: Any = STEVETD3Policy, env: Any = PENDULUM, **policy_kwargs: Any) -> Any:
    kwargs = {"net_arch": [8], "n_critics": 3, **policy_kwargs}
    rest = {"learning_starts": 20, "batch_size": 16, "device": "cpu", "seed": 0}
    return kind(policy, env, policy_kwargs=kwargs, **rest)


def inputs(agent: Any) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(7, 3, generator=source), torch.randn(7, 1, generator=source)


@pytest.mark.parametrize("penalty", [0.0, 0.001, 2.0])
def test_the_objective_is_the_mean_of_the_critics_less_the_penalty(penalty: float) -> None:
    agent = make_agent(action_penalty=penalty)
    obs, before_tanh = inputs(agent)
    values = torch.stack(agent.critic(obs, before_tanh.tanh())).mean(0)
    expected = values - penalty * before_tanh.square()
    assert torch.allclose(agent.critic.q1_forward(obs, before_tanh.tanh()), expected, atol=1e-5)


def test_the_penalty_has_the_gradient_of_the_square_before_the_tanh() -> None:
    agent = make_agent(action_penalty=1.0)
    for network in agent.critic.q_networks:
        for weight in network.parameters():
            torch.nn.init.zeros_(weight)
    obs, before_tanh = inputs(agent)
    before_tanh = (3 * before_tanh).requires_grad_()
    agent.critic.q1_forward(obs, before_tanh.tanh()).sum().backward()
    assert torch.allclose(before_tanh.grad, -2 * before_tanh, rtol=1e-2, atol=1e-3)


def test_a_saturated_actor_has_a_finite_objective() -> None:
    agent = make_agent()
    obs, _ = inputs(agent)
    action = torch.ones(7, 1, requires_grad=True)
    agent.critic.q1_forward(obs, action).sum().backward()
    assert action.grad is not None and action.grad.isfinite().all()


@pytest.mark.slow
def test_the_compiled_agent_has_the_same_objective() -> None:
    weights = []
    for kind in (TD3, CompiledTD3):
        agent = make_agent(kind)  # seeds torch
        agent.compile = True
        agent.learn(40)
        weights.append(torch.nn.utils.parameters_to_vector(agent.policy.parameters()))
    assert agent._has_updated
    assert torch.allclose(*weights, atol=1e-5)


def test_it_is_kept_in_both_kinds_of_files(tmp_path: Path) -> None:
    agent = make_agent(action_penalty=0.5)
    agent.learn(30)
    agent.save(tmp_path / "agent.zip")
    zoo.save(agent, tmp_path / "agent", env=PENDULUM)
    for loaded in (TD3.load(tmp_path / "agent.zip", device="cpu"), zoo.load(tmp_path / "agent", device="cpu")):
        assert type(loaded.policy) is STEVETD3Policy and loaded.policy.action_penalty == 0.5
        assert loaded.policy.critic.action_penalty == loaded.policy.critic_target.action_penalty == 0.5


def test_the_recipe_of_steve_takes_it_for_td3() -> None:
    agent, _ = build_agent(make_job("steve", PENDULUM, algo="TD3", seed=0), gym.make(PENDULUM))
    assert isinstance(agent, TD3) and type(agent.policy) is STEVETD3Policy
    with pytest.raises(ValueError, match=r"policy must be one of .*, got 'STEVEPolicy'; did you mean 'STEVETD3Policy'"):
        make_job("steve", PENDULUM, algo="TD3", seed=0, params={"agent.policy": "STEVEPolicy"})


def test_sb3_s_zip_is_imported(tmp_path: Path) -> None:
    agent = make_agent(action_penalty=0.5)
    agent.save(tmp_path / "agent.zip")
    for algo in (None, "TD3"):
        import_sb3(tmp_path / "agent.zip", tmp_path / f"{algo}", env=PENDULUM, algo=algo, episodes=0)
        loaded = zoo.load(tmp_path / f"{algo}", device="cpu")
        assert type(loaded) is TD3 and loaded.policy.action_penalty == 0.5


def test_a_recipe_can_put_sb3_s_policy_back() -> None:
    agent, _ = build_agent(
        make_job("steve", PENDULUM, algo="TD3", params={"agent.policy": "MlpPolicy"}), gym.make(PENDULUM)
    )
    assert type(agent.policy) is TD3Policy
    with pytest.raises(ValueError, match=r"agent.policy must be one of .*, got 'Adam'"):
        make_job("steve", PENDULUM, algo="TD3", params={"agent.policy": "Adam"})
    for name, value in (("activation_fn", "SGD"), ("optimizer_class", "ReLU")):
        with pytest.raises(ValueError, match=f"policy_kwargs.{name} must be one of .*, got '{value}'"):
            make_job("steve", PENDULUM, algo="TD3", params={"agent.policy_kwargs": {name: value}})
    with pytest.raises(ValueError, match=r"agent.policy_kwargs must be .*, got 'foo'"):
        make_job("steve", PENDULUM, params={"agent.policy_kwargs": "foo"})


def test_dict_observations() -> None:
    env = gym.wrappers.TransformObservation(
        gym.make(PENDULUM), lambda obs: {"all": obs}, gym.spaces.Dict(all=gym.make(PENDULUM).observation_space)
    )
    make_agent(env=env).learn(25)


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match=r"action_penalty must be .*, got -1"):
        make_agent(action_penalty=-1)
