"""Normalising layers for SB3's networks: exact, for any agent, compiled too, and kept by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC, TD3
from torch import nn

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import MAAC, CompiledSAC
from mbrl_wrappers.agents.networks.layers import (
    DropoutLayerNormSiLU,
    DroQReLU,
    LayerNormActivation,
    LayerNormReLU,
    LayerNormSiLU,
)
from mbrl_wrappers.zoo.training.building import build_agent
from mbrl_wrappers.zoo.training.job_making import make_job

KINDS = [DropoutLayerNormSiLU, DroQReLU, LayerNormReLU, LayerNormSiLU]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 16), (9,)])
def test_without_dropout_it_is_torch_s_layer_norm_and_the_activation(
    kind: type[LayerNormActivation], shape: tuple[int, ...]
) -> None:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1
    expected = kind.activation()(nn.LayerNorm(shape[-1], elementwise_affine=False)(x))
    assert torch.equal(kind().eval()(x), expected)
    if not kind.dropout:
        assert torch.equal(kind().train()(x), expected)


@pytest.mark.parametrize("kind", [DropoutLayerNormSiLU, DroQReLU])
def test_dropout_comes_before_the_normalisation(kind: type[LayerNormActivation]) -> None:
    x = torch.randn(50, 400, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    dropped = nn.Dropout(kind.dropout)(x)
    torch.manual_seed(0)
    expected = kind.activation()(nn.functional.layer_norm(dropped, (400,)))
    assert torch.equal(kind().train()(x), expected)
    assert float((dropped == 0).float().mean()) == pytest.approx(kind.dropout, rel=0.5)


@pytest.mark.parametrize("kind", [SAC, TD3, PPO, DQN, CompiledSAC, MAAC])
def test_any_agent_takes_it(kind: Any) -> None:
    env = "CartPole-v1" if kind is DQN else "Pendulum-v1"
    policy_kwargs = {"net_arch": [16], "activation_fn": LayerNormSiLU}
    rest = {"n_steps": 32, "batch_size": 16} if kind is PPO else {"learning_starts": 20}
    agent = kind("MlpPolicy", env, policy_kwargs=policy_kwargs, device="cpu", seed=0, **rest)
    agent.learn(40)
    assert any(isinstance(module, LayerNormSiLU) for module in agent.policy.modules())


@pytest.mark.slow
def test_compiled_it_learns_what_sb3_s_agent_learns() -> None:
    weights = []
    for kind, rest in ((SAC, {}), (CompiledSAC, {"compile": True})):
        agent: Any = kind(
            "MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16], "activation_fn": LayerNormReLU},
            learning_starts=20, device="cpu", seed=0, **rest,
        )  # fmt: skip
        agent.learn(30)
        weights.append(nn.utils.parameters_to_vector(agent.policy.parameters()))
    assert torch.allclose(*weights, atol=1e-5)


def test_a_recipe_and_a_saved_agent_name_it(tmp_path: Path) -> None:
    params = {"agent.policy_kwargs": {"net_arch": [8], "activation_fn": "LayerNormSiLU"}, "dynamics.hidden": [8]}
    job = make_job("mbpo", "Pendulum-v1", seed=0, steps=300, params=params)
    agent, _ = build_agent(job, gym.make("Pendulum-v1"))
    zoo.save(agent, tmp_path / "agent", env="Pendulum-v1")
    loaded = zoo.load(tmp_path / "agent", device="cpu")
    assert loaded.policy_kwargs["activation_fn"] is LayerNormSiLU
    wrong = {"agent.policy_kwargs": {"activation_fn": "LayerNormSilu"}}
    with pytest.raises(ValueError, match=r"policy_kwargs.activation_fn must be one of .* did you mean 'LayerNormSiLU'"):
        build_agent(make_job("mbpo", "Pendulum-v1", seed=0, steps=300, params=wrong), gym.make("Pendulum-v1"))
