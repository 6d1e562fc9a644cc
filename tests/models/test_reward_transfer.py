"""A fitted model with another reward: the same world, and what is paid is what was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import PPO
from torch import Tensor

from mbrl_wrappers import MPCAction
from mbrl_wrappers.envs import ImaginedVecEnv, collect_transitions
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.uncertainty import max_disagreement
from testing.models import seeded, small_ensemble

PENDULUM = "Pendulum-v1"


def spinning(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[..., 2].abs()


def fitted(**kwargs: Any) -> tuple[EnsembleDynamics, tuple[Tensor, Tensor]]:
    env = gym.make(PENDULUM)
    model = small_ensemble(env, **kwargs)
    rows = collect_transitions(env, model, 120, seed=0)
    model.fit(rows, seeded())
    return model, (rows.obs, rows.action)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("kwargs", [{}, {"num_components": 3}, {"termination_fn": lambda o, a, n: n[..., 0] > 0.9}])
@pytest.mark.filterwarnings("ignore:termination_fn contradicts")
@pytest.mark.filterwarnings("ignore:the model foresees none")
def test_the_world_stays_and_the_reward_is_the_given_one(joint: bool, kwargs: dict[str, Any]) -> None:
    model, rows = fitted(joint=joint, **kwargs)
    other = model.with_reward(spinning)
    before, after = (one.predict(*rows, deterministic=True) for one in (model, other))
    assert torch.allclose(after.next_obs, before.next_obs, atol=1e-6)
    assert torch.equal(after.terminated, before.terminated)
    assert torch.equal(after.reward, spinning(*rows, after.next_obs))
    assert not torch.allclose(after.reward, before.reward)
    for member in model.particle_members:
        steps = [one.particle_step([member], deterministic=True) for one in (model, other)]
        one, two = (step(rows[0][None], rows[1][None], None).next_obs for step in steps)
        assert torch.allclose(one, two, atol=1e-6)
    assert torch.equal(other.start_obs, model.start_obs) and other.particle_members == model.particle_members


@pytest.mark.parametrize("joint", [False, True])
def test_members_disagree_on_the_world_as_before(joint: bool) -> None:
    model, rows = fitted(joint=joint)
    other = model.with_reward(spinning)
    again = model.with_reward(spinning)
    doubts = [one.predict_measured(*rows, max_disagreement, generator=seeded()).uncertainty for one in (other, again)]
    assert torch.equal(*doubts) and (doubts[0] > 0).all()


def test_the_model_that_it_was_made_of_is_left_alone() -> None:
    model, _ = fitted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = model.with_reward(spinning)
    for weight in other.parameters():
        torch.nn.init.zeros_(weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.reward_fn is None


@pytest.mark.parametrize("joint", [False, True])
def test_it_is_saved_and_fitted_like_any_other(tmp_path: Path, joint: bool) -> None:
    model, rows = fitted(joint=joint)
    known, own = model.with_reward(PENDULUM), model.with_reward(spinning)
    known.save(tmp_path / "known.safetensors")
    own.save(tmp_path / "own.safetensors")
    assert EnsembleDynamics.load(tmp_path / "known.safetensors").reward_name == PENDULUM
    loaded = EnsembleDynamics.load(tmp_path / "own.safetensors", reward_fn=spinning)
    expected, found = (one.predict(*rows, deterministic=True) for one in (own, loaded))
    assert torch.equal(expected.next_obs, found.next_obs) and torch.equal(expected.reward, found.reward)
    known.fit(collect_transitions(gym.make(PENDULUM), known, 60, seed=1), seeded())


def test_agents_and_planners_work_for_the_new_reward() -> None:
    model = fitted()[0].with_reward(spinning)
    PPO("MlpPolicy", ImaginedVecEnv(model, 4), n_steps=8, batch_size=16, device="cpu").learn(32)
    env = MPCAction(gym.make(PENDULUM), model, seed=0)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[4]["mpc"]["predicted_return"] >= 0  # of speeds


@pytest.mark.parametrize(("reward", "message"), [(None, "got None"), ("learned", "got 'learned'"), ("No-v0", "No-v0")])
def test_what_is_no_reward_is_refused(reward: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"reward_fn must be .*{message}"):
        small_ensemble(PENDULUM).with_reward(reward)


class Speed(torch.nn.Module):
    """A reward that is a module, with a weight of its own."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return self.factor * next_obs[..., 2].abs()


def test_a_reward_may_be_a_module_before_and_after() -> None:
    model, rows = fitted()
    one = model.with_reward(Speed(2.0))
    two = one.with_reward(Speed(3.0))
    p, q = (each.predict(*rows, deterministic=True) for each in (one, two))
    assert torch.allclose(p.reward, 2 * p.next_obs[:, 2].abs()) and torch.allclose(q.reward, 1.5 * p.reward)
    back = two.with_reward(spinning).predict(*rows, deterministic=True)
    assert torch.allclose(back.reward, p.reward / 2)


def test_dtype_and_verbosity_are_kept() -> None:
    model = small_ensemble(PENDULUM).double()
    model.verbose = 1
    other = model.with_reward(spinning)
    assert other.dtype == torch.float64 and other.verbose == 1
