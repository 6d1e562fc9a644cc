"""Returns of action sequences under a model, against sums that can be written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.models.trajectories import TrajectoryReturns

OBS, ACTION = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)


def drifting_ensemble(num_elites: int = 5, **functions: Any) -> EnsembleDynamics:
    """Member ``m`` of six moves the first column by ``10^m`` and hardly varies; the reward is where it gets to."""
    functions = {"reward_fn": lambda obs, action, next_obs: next_obs[:, 0], **functions}
    model = EnsembleDynamics(OBS, ACTION, num_members=6, num_elites=num_elites, hidden=[4], **functions)
    with torch.no_grad():
        for p in model.network.parameters():
            p.zero_()
        model.network.biases[-1][:, 0, 0] = 10.0 ** torch.arange(6)
        model.network.max_logvar.fill_(-60.0)
        model.network.min_logvar.fill_(-80.0)
    return model.double()


def known(step: Any = None, **options: Any) -> KnownDynamics:
    """Adds the action to the first column; the reward is where it gets to."""
    step = step or (lambda obs, action: obs + torch.nn.functional.pad(action, (0, 1)))
    return KnownDynamics(OBS, ACTION, step, lambda obs, action, next_obs: next_obs[:, 0], **options)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.zeros(len(obs), dtype=torch.bool)


@pytest.mark.parametrize("propagation", ["TS1", "TSinf", "expectation"])
@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 4), (2, 1500, 3)])  # the last takes several chunks
def test_known_dynamics_have_the_return_of_their_steps(propagation, discount, shape):
    obs, actions = rows(shape[0], 2), rows(*shape, 1, seed=1)
    returns = TrajectoryReturns(known(), num_particles=3, propagation=propagation, discount=discount)(obs, actions)
    places = obs[:, None, None, 0] + actions[..., 0].cumsum(2)
    expected = (places * discount ** torch.arange(shape[2])).sum(2)
    torch.testing.assert_close(returns, expected)


def test_a_termination_ends_the_reward_after_its_step():
    model = known(termination_fn=lambda obs, action, next_obs: next_obs[:, 0] > 1.5)
    actions = torch.ones(1, 1, 5, 1)
    assert TrajectoryReturns(model)(torch.zeros(1, 2), actions).item() == pytest.approx(1 + 2)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_prediction_that_is_not_finite_is_worst(bad):
    model = known(lambda obs, action: torch.where(action > 0, torch.tensor(bad), obs.sum(1, keepdim=True) + obs))
    actions = torch.tensor([[-1.0, -1.0], [-1.0, 1.0]])[None, :, :, None]
    returns = TrajectoryReturns(model)(torch.ones(1, 2), actions)
    assert returns[0, 0].isfinite() and returns[0, 1] == -torch.inf


def test_divergence_is_worst_even_where_it_ends_the_episode_or_is_the_last_step():
    def healthy(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return ~(next_obs[:, 0].abs() < 100)  # true for NaN, as in many environments

    def diverge(obs: Tensor, action: Tensor) -> Tensor:
        return torch.where(action > 0, torch.nan, obs)

    model = KnownDynamics(OBS, ACTION, diverge, lambda obs, action, next_obs: torch.ones(len(obs)), healthy)
    actions = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])[None, :, :, None]
    assert TrajectoryReturns(model)(torch.zeros(1, 2), actions).tolist() == [[2.0, -torch.inf, -torch.inf]]


def test_a_return_too_large_for_its_dtype_is_worst():
    model = KnownDynamics(OBS, ACTION, lambda obs, action: obs, lambda obs, action, next_obs: 3e38 + 0 * obs[:, 0])
    assert TrajectoryReturns(model)(torch.zeros(1, 2), torch.zeros(1, 2, 2, 1)).tolist() == [[-torch.inf] * 2]


@pytest.mark.parametrize("member", [-1, 6])
def test_a_member_that_there_is_not_is_named(member):
    with pytest.raises(ValueError, match=rf"members must be in \[0, 6\), got \[0, {member}\]"):
        drifting_ensemble().particle_step([0, member])


def test_what_comes_after_a_termination_may_diverge():
    model = known(
        lambda obs, action: torch.where(obs.isnan() | (obs > 1), torch.nan, obs + 1),
        termination_fn=lambda obs, action, next_obs: next_obs[:, 0] > 1.5,
    )
    assert TrajectoryReturns(model)(torch.zeros(1, 2), torch.zeros(1, 1, 5, 1)).tolist() == [[1.0 + 2.0]]


@pytest.mark.parametrize("horizon", [1, 3])
def test_a_particle_of_tsinf_keeps_its_member(horizon):
    model = drifting_ensemble(termination_fn=never)
    evaluate = TrajectoryReturns(model, num_particles=10)
    returns = evaluate(torch.zeros(1, 2).double(), rows(1, 4, horizon, 1).double(), generator())
    # Two particles of each of the five elites; each goes on by its own step and is paid for where it is.
    expected = sum(10.0**m for m in range(5)) / 5 * sum(range(1, horizon + 1))
    np.testing.assert_allclose(returns.numpy(), expected, rtol=1e-9)


def test_the_particles_of_ts1_are_dealt_out_anew_at_every_step():
    start, actions = torch.zeros(1, 2).double(), rows(1, 300, 3, 1).double()
    # At every step each elite moves two particles of each candidate, whichever they are.
    model = drifting_ensemble(termination_fn=never)
    returns = TrajectoryReturns(model, num_particles=10, propagation="TS1")(start, actions, generator())
    np.testing.assert_allclose(returns.numpy(), sum(10.0**m for m in range(5)) / 5 * (1 + 2 + 3), rtol=1e-9)
    # Squares are greatest where the particle that is far ahead is moved far again, as TSinf does.
    model = drifting_ensemble(termination_fn=never, reward_fn=lambda obs, action, next_obs: next_obs[:, 0].square())
    dealt, kept = (
        TrajectoryReturns(model, num_particles=10, propagation=name)(start, actions, generator())
        for name in ("TS1", "TSinf")
    )
    np.testing.assert_allclose(kept.numpy(), sum(100.0**m for m in range(5)) / 5 * (1 + 4 + 9), rtol=1e-9)
    assert (dealt <= kept * (1 + 1e-9)).all() and dealt.mean() < 0.8 * kept.mean() and dealt.std() > 0


@pytest.mark.parametrize("propagation", ["TS1", "TSinf"])
@pytest.mark.parametrize("num_particles", [1, 3, 5, 7, 20])
def test_members_are_balanced_within_each_candidate_for_any_number(propagation, num_particles):
    model = drifting_ensemble(termination_fn=never)
    evaluate = TrajectoryReturns(model, num_particles=num_particles, propagation=propagation)
    returns = evaluate(torch.zeros(2, 2).double(), rows(2, 3000, 1, 1).double(), generator()) * num_particles
    for total in returns.flatten().round().long().unique().tolist():
        counts = [int(digit) for digit in str(total).zfill(5)]  # how many particles each member moved
        assert sum(counts) == num_particles and max(counts) - min(counts) <= 1 and len(counts) == 5


def test_all_members_get_the_odd_particle_in_the_long_run():
    model = drifting_ensemble(termination_fn=never)
    evaluate, g = TrajectoryReturns(model, num_particles=1), generator()
    seen = {int(evaluate(torch.zeros(1, 2).double(), rows(1, 1, 1, 1).double(), g).round()) for _ in range(60)}
    assert seen == {10**m for m in range(5)}


def test_expectation_follows_the_mean_of_the_elites():
    model = drifting_ensemble(termination_fn=never)
    returns = TrajectoryReturns(model, propagation="expectation")(torch.zeros(1, 2).double(), torch.zeros(1, 2, 2, 1))
    np.testing.assert_allclose(returns.numpy(), 3 * 11111 / 5, rtol=1e-6)


def test_noise_is_averaged_over_particles():
    model = known(noise_std=1.0)
    few, many = (
        TrajectoryReturns(model, num_particles=n)(torch.zeros(1, 2), torch.zeros(1, 2000, 1, 1), generator())
        for n in (1, 16)
    )
    assert few.std() == pytest.approx(1.0, rel=0.1) and many.std() == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("propagation", ["TS1", "TSinf"])
def test_the_generator_alone_decides(propagation):
    model = EnsembleDynamics(OBS, ACTION, hidden=[8], seed=0)
    evaluate = TrajectoryReturns(model, propagation=propagation)
    arguments = rows(2, 2), rows(2, 600, 3, 1)
    first = evaluate(*arguments, generator())
    torch.rand(7)
    assert torch.equal(first, evaluate(*arguments, generator()))
    assert not torch.equal(first, evaluate(*arguments, generator(1)))


def test_the_mean_over_particles_is_that_of_the_model_step_by_step():
    model = EnsembleDynamics(OBS, ACTION, hidden=[8], seed=0)
    obs, actions = rows(1, 2), rows(1, 1, 4, 1)
    returns = TrajectoryReturns(model, num_particles=40_000, propagation="TS1")(obs, actions, generator())
    particles, total, g = obs.expand(40_000, 2), torch.zeros(40_000), generator(1)
    alive = torch.ones(40_000, dtype=torch.bool)
    with torch.no_grad():
        for step in range(4):
            p = model.predict(particles, actions[0, 0, step].expand(40_000, 1), generator=g)
            total += torch.where(alive, p.reward, 0.0)
            particles, alive = p.next_obs, alive & ~p.terminated
    assert returns.item() == pytest.approx(total.mean().item(), abs=5 * total.std().item() / 200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_particles": 0}, "num_particles must be a whole number of at least 1, got 0"),
        ({"propagation": "TS2"}, "propagation must be one of .*'TSinf'.*, got 'TS2'"),
        ({"discount": 1.1}, r"discount must be in \[0, 1\], got 1.1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryReturns(known(), **arguments)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 2), (1, 3, 4, 1)])
def test_actions_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 'P', 'H', 1\), got \("):
        TrajectoryReturns(known())(torch.zeros(2, 2), torch.zeros(shape))
