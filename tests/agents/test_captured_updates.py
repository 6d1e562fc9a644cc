"""The parts of a captured update are followed: here a CPU runs the steps of a captured graph one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_wrappers.acceleration.cuda_graphs import GraphCapture, objection_to_capture
from mbrl_wrappers.agents import MAAC, SVG, Dyna, RealData, captured_updates
from mbrl_wrappers.agents.networks import AveragedSACPolicy
from mbrl_wrappers.agents.value_gradient_agent import ValueGradientAgent
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics
from testing.agents import weights


class Direct:
    """Stands in for GraphCapture: calls the functions that it would capture, and counts."""

    made = forgot = 0

    def __init__(self, device: torch.device) -> None:
        Direct.made += 1

    def captured(self, function: Callable[..., Any], works_on: Sequence[torch.Tensor]) -> Callable[..., Any]:
        return function

    def forget(self) -> None:
        Direct.forgot += 1


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> type[Direct]:
    """Have agents take a CPU for a GPU."""
    monkeypatch.setattr(captured_updates, "GraphCapture", Direct)
    monkeypatch.setattr(captured_updates, "objection_to_capture", lambda device: None)
    monkeypatch.setattr(ValueGradientAgent, "_is_captured", property(lambda agent: agent.compile))
    monkeypatch.setattr(ValueGradientAgent, "_is_compiled", False)
    Direct.made = Direct.forgot = 0
    return Direct


def make(compile: bool, policy: Any = "MlpPolicy", **kwargs: Any) -> Any:
    env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    policy_kwargs = {"net_arch": [16]}
    return MAAC(
        policy, env, compile=compile, policy_kwargs=policy_kwargs, learning_starts=30, batch_size=32, seed=0,
        buffer_size=500, device="cpu", **{"horizon": 2, **kwargs},
    )  # fmt: skip


def model_based(strategy: Any = None) -> ModelBased:
    env = gym.make("Pendulum-v1")
    model = EnsembleDynamics.for_env(env, hidden=(8,), max_steps=10, num_members=3, num_elites=2, seed=0)
    return ModelBased(strategy or Dyna(0.5, rollouts_per_step=5), model, fit_every=20, seed=0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"expand_critic": True, "target_critics": 1, "actor_value": "mean", "max_grad_norm": 0.1},
        {"gradient_steps": 3, "target_update_interval": 2, "ent_coef": 0.1},
        {"learning_rate": lambda remaining: 1e-2 * remaining},
        {"scaled_critic": True, "expand_critic": True},
        {"policy": AveragedSACPolicy},
    ],
)
def test_the_steps_of_a_recording_are_those_of_a_plain_update(on_gpu: type[Direct], kwargs: dict[str, Any]) -> None:
    found = []
    for compile in (False, True):
        agent = make(compile, **kwargs).learn(60, callback=model_based())
        found.append((weights(agent), float(agent.critic.optimizer.state_dict()["state"][0]["step"])))
    assert on_gpu.made == 1
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-4)
    assert found[0][1] == found[1][1] > 0


@pytest.mark.parametrize("horizon", [0, 3])
def test_svgs_are_too(on_gpu: type[Direct], horizon: int) -> None:
    found = []
    for compile in (False, True):
        agent = SVG(
            "MlpPolicy", VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0)), horizon=horizon, ent_coef=0.1,
            compile=compile, policy_kwargs={"net_arch": [16]}, learning_starts=30, batch_size=32, seed=0,
            max_grad_norm=0.1, buffer_size=500, device="cpu",
        )  # fmt: skip
        agent.learn(60, callback=model_based(RealData()))
        found.append((weights(agent), float(agent.actor.optimizer.state_dict()["state"][0]["step"])))
    assert on_gpu.made == 1
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-4)
    assert found[0][1] == found[1][1] > 0


def learned() -> Any:
    return make(True).learn(40, callback=model_based())


def test_a_hook_that_cannot_be_captured_is_refused(on_gpu: type[Direct]) -> None:
    agent = make(True)
    agent.actor.optimizer.register_step_post_hook(lambda *args: None)
    with pytest.raises(ValueError, match="the optimizer has hooks"):
        agent.learn(40, callback=model_based())


def test_a_model_that_is_fitted_anew_is_recorded_anew(on_gpu: type[Direct]) -> None:
    agent = learned()
    agent.train(2, 32)
    assert (on_gpu.made, on_gpu.forgot) == (1, 1)  # a fit at the first update
    with torch.no_grad():
        next(iter(agent.model_based.dynamics.network.parameters())).mul_(1.1)
    agent.train(2, 32)
    agent.train(2, 32)
    assert (on_gpu.made, on_gpu.forgot) == (1, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 0.5),
        ("tau", 0.5),
        ("horizon", 1),
        ("max_grad_norm", 0.1),
        ("backprop_steps", 1),
        ("target_entropy", 0.5),
    ],
)
def test_a_setting_that_is_changed_is_recorded_anew(on_gpu: type[Direct], name: str, value: float) -> None:
    agent = learned()
    setattr(agent, name, value)
    agent.train(1, 32)
    assert on_gpu.made == 2


def test_constants_of_an_optimizer_and_the_models_functions_count_too(on_gpu: type[Direct]) -> None:
    agent = learned()
    agent.critic.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    agent.train(1, 32)
    assert on_gpu.made == 2
    agent.model_based.dynamics.termination_fn = lambda obs, action, next_obs: next_obs[..., 0] > 2
    agent.train(1, 32)
    assert on_gpu.made == 3


def test_an_interrupt_leaves_the_optimizers_in_step(on_gpu: type[Direct], monkeypatch: pytest.MonkeyPatch) -> None:
    agent = learned()
    taken = float(agent.critic.optimizer.state_dict()["state"][0]["step"])
    target_members = agent._target_members
    drawn: list[Any] = []

    def interrupted() -> Any:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(True)
        return target_members()

    monkeypatch.setattr(agent, "_target_members", interrupted)
    with pytest.raises(KeyboardInterrupt):
        agent.train(10, 32)
    assert float(agent.critic.optimizer.state_dict()["state"][0]["step"]) == taken + 3


def test_only_the_current_gpu_records() -> None:
    assert objection_to_capture(torch.device("cpu")) == "the device is cpu, not a GPU"
    with pytest.raises(ValueError, match="device must be the current GPU, got cpu"):
        GraphCapture(torch.device("cpu"))


def test_with_scaled_critics_another_learning_rate_is_captured_anew(on_gpu: type[Direct]) -> None:
    """The bounds follow at that rate, which a graph would keep."""
    agent = make(True, scaled_critic=True).learn(40, callback=model_based())
    made = on_gpu.made
    agent.train(1, 32)
    assert on_gpu.made == made
    agent.lr_schedule = lambda remaining: 1e-5
    agent.train(1, 32)
    assert on_gpu.made == made + 1
