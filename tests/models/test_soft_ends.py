"""Terminations as probabilities: what they are, their gradient, and what they count for in a rollout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl_wrappers.agents import MAAC, Dyna
from mbrl_wrappers.agents.policy_rollouts import expanded_values, roll_out, step_in_turn
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.members import soft_ends_of
from mbrl_wrappers.returns import backup
from testing.envs import Line, squared_distance
from testing.models import box, line_model, seeded, small_ensemble

GAMMA = 0.9


def model_of(joint: bool = False, **kwargs: Any) -> EnsembleDynamics:
    """An ensemble in float64 with chances that are neither 0 nor 1."""
    settings: dict[str, Any] = {"num_members": 3, "num_elites": 2, "hidden": (8,), "joint": joint}
    return EnsembleDynamics(box(2), box(1), **(settings | kwargs)).double()


def inputs(rows: int = 1) -> tuple[Tensor, Tensor]:
    obs = torch.randn(2, rows, 2, generator=seeded(), dtype=torch.float64)
    return obs, torch.rand(2, rows, 1, generator=seeded(), dtype=torch.float64)


def line() -> Line:
    return Line(start=2.0, push=2.0, reward=squared_distance, ends=lambda x: abs(x[..., 0]) > 3, limit=20)


@torch.no_grad()
@pytest.mark.parametrize("joint", [True, False])
def test_they_are_how_often_steps_end(joint: bool) -> None:
    model = model_of(joint)
    obs, action = (part.expand(-1, 20_000, -1) for part in inputs())
    chances = model.soft_end_step([0, 1])(obs, action, seeded()).terminated
    ends = model.particle_step([0, 1])(obs, action, seeded()).terminated
    assert chances.dtype == torch.float64 and ends.dtype == torch.bool
    torch.testing.assert_close(chances.mean(1), ends.double().mean(1), atol=0.02, rtol=0)
    assert (chances.mean(1) > 0.1).all() and (chances.mean(1) < 0.9).all()


@pytest.mark.parametrize("joint", [True, False])
def test_their_gradient_is_that_of_the_probability(joint: bool) -> None:
    model = model_of(joint)
    obs, action = inputs(3)

    def chance(action: Tensor) -> Tensor:
        return model.soft_end_step([0, 1])(obs, action, seeded(5)).terminated

    assert torch.autograd.gradcheck(chance, action.requires_grad_())
    (gradient,) = torch.autograd.grad(chance(action).sum(), action)
    assert (gradient != 0).all()


def test_a_backup_weighs_what_comes_after_by_the_chance_to_get_there() -> None:
    reward, chance, value = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 0.25, 1.0]), torch.tensor([4.0, 8.0, 9.0])
    assert backup(reward, chance, value, 0.5).tolist() == [3.0, 5.0, 3.0]
    for certain in (torch.tensor([True, False, True]), torch.tensor([False, False, False])):
        assert torch.equal(backup(reward, certain, value, 0.5), backup(reward, certain.float(), value, 0.5))


def test_a_rollout_is_the_papers_product_of_chances() -> None:
    """Amos et al. 2021: rewards are weighted by ``gamma^t prod_{s<t} (1 - p_s)``, and rollouts go on."""
    model = model_of()
    step = step_in_turn(model, seeded(), soft_ends=True)
    gain = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)

    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return obs @ gain.T, obs.new_zeros(len(obs))

    obs = torch.randn(6, 2, generator=seeded(1), dtype=torch.float64)
    rollout = roll_out(step, act, obs, act(obs), 4)
    assert all(reached.all() for reached in rollout.is_reached)
    last = torch.full((6,), 7.0, dtype=torch.float64)
    values, _ = expanded_values(rollout, last, 0.0, GAMMA)
    alive, expected = torch.ones(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for t, (reward, chance) in enumerate(zip(rollout.reward, rollout.terminated, strict=True)):
        expected = expected + GAMMA**t * alive * reward
        alive = alive * (1 - chance)
    torch.testing.assert_close(values[0], expected + GAMMA**4 * alive * last)
    (through_chances,) = torch.autograd.grad(alive.sum(), gain)
    assert (through_chances != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_maac_learns_with_them(compile: bool) -> None:
    env = line()
    agent = MAAC(
        "MlpPolicy", env, horizon=2, expand_critic=True, soft_ends=True, compile=compile, learning_starts=20,
        batch_size=16, policy_kwargs={"net_arch": [8]}, device="cpu", seed=0,
    )  # fmt: skip
    agent.learn(40, callback=ModelBased(Dyna(), small_ensemble(env), fit_every=20))
    assert all(value.isfinite().all() for value in agent.policy.state_dict().values())


def test_models_that_can_t_tell_them_are_refused_when_training_begins() -> None:
    env = line()
    agent = MAAC("MlpPolicy", env, soft_ends=True, learning_starts=20, device="cpu")
    with pytest.raises(ValueError, match=r"dynamics must be a model that tells the probability .* got KnownDynamics"):
        agent.learn(10, callback=ModelBased(Dyna(), line_model(env)))
    given = small_ensemble(env, termination_fn=lambda obs, action, next_obs: next_obs[..., 0].abs() > 3)
    with pytest.raises(ValueError, match="dynamics must have a learned termination, got termination_fn=<function"):
        agent.learn(10, callback=ModelBased(Dyna(), given))
    with pytest.raises(ValueError, match="dynamics must be a model that tells"):
        soft_ends_of(line_model(env))
    with pytest.raises(ValueError, match="soft_ends must be True or False, got 'yes'"):
        MAAC("MlpPolicy", env, soft_ends="yes")
