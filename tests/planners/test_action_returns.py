"""Returns of action sequences under a model, against sums that can be written down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.models.action_returns import TrajectoryReturns
from mbrl_wrappers.models.members import members_of
from mbrl_wrappers.models.network import CHUNK_ROWS, EnsembleMLP
from mbrl_wrappers.types import Outcome, Prediction
from testing.models import seeded

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


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.zeros(len(obs), dtype=torch.bool)


PROPAGATIONS = ["TS1", "TSinf", "DS", "MM", "expectation"]


class Watched(KnownDynamics):
    """Remembers what it was asked, call by call."""

    asked: list[Tensor]

    def predict(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
        self.asked = [*getattr(self, "asked", []), obs.reshape(-1, obs.shape[-1])]
        return super().predict(obs, action, **kwargs)


def first_column(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, 0]


@pytest.mark.parametrize("propagation", PROPAGATIONS)
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
    returns = evaluate(torch.zeros(1, 2).double(), rows(1, 4, horizon, 1).double(), seeded())
    # Two particles of each of the five elites; each goes on by its own step and is paid for where it is.
    expected = sum(10.0**m for m in range(5)) / 5 * sum(range(1, horizon + 1))
    np.testing.assert_allclose(returns.numpy(), expected, rtol=1e-9)


def test_the_particles_of_ts1_are_dealt_out_anew_at_every_step():
    start, actions = torch.zeros(1, 2).double(), rows(1, 300, 3, 1).double()
    # At every step each elite moves two particles of each candidate, whichever they are.
    model = drifting_ensemble(termination_fn=never)
    returns = TrajectoryReturns(model, num_particles=10, propagation="TS1")(start, actions, seeded())
    np.testing.assert_allclose(returns.numpy(), sum(10.0**m for m in range(5)) / 5 * (1 + 2 + 3), rtol=1e-9)
    # Squares are greatest where the particle that is far ahead is moved far again, as TSinf does.
    model = drifting_ensemble(termination_fn=never, reward_fn=lambda obs, action, next_obs: next_obs[:, 0].square())
    dealt, kept = (
        TrajectoryReturns(model, num_particles=10, propagation=name)(start, actions, seeded())
        for name in ("TS1", "TSinf")
    )
    np.testing.assert_allclose(kept.numpy(), sum(100.0**m for m in range(5)) / 5 * (1 + 4 + 9), rtol=1e-9)
    assert (dealt <= kept * (1 + 1e-9)).all() and dealt.mean() < 0.8 * kept.mean() and dealt.std() > 0


@pytest.mark.parametrize("propagation", ["TS1", "TSinf"])
@pytest.mark.parametrize("num_particles", [1, 3, 5, 7, 20])
def test_members_are_balanced_within_each_candidate_for_any_number(propagation, num_particles):
    model = drifting_ensemble(termination_fn=never)
    evaluate = TrajectoryReturns(model, num_particles=num_particles, propagation=propagation)
    returns = evaluate(torch.zeros(2, 2).double(), rows(2, 3000, 1, 1).double(), seeded()) * num_particles
    for total in returns.flatten().round().long().unique().tolist():
        counts = [int(digit) for digit in str(total).zfill(5)]  # how many particles each member moved
        assert sum(counts) == num_particles and max(counts) - min(counts) <= 1 and len(counts) == 5


def test_all_members_get_the_odd_particle_in_the_long_run():
    model = drifting_ensemble(termination_fn=never)
    evaluate, g = TrajectoryReturns(model, num_particles=1), seeded()
    seen = {int(evaluate(torch.zeros(1, 2).double(), rows(1, 1, 1, 1).double(), g).round()) for _ in range(60)}
    assert seen == {10**m for m in range(5)}


def test_expectation_follows_the_mean_of_the_elites():
    model = drifting_ensemble(termination_fn=never)
    returns = TrajectoryReturns(model, propagation="expectation")(torch.zeros(1, 2).double(), torch.zeros(1, 2, 2, 1))
    np.testing.assert_allclose(returns.numpy(), 3 * 11111 / 5, rtol=1e-6)


def test_noise_is_averaged_over_particles():
    model = known(noise_std=1.0)
    few, many = (
        TrajectoryReturns(model, num_particles=n)(torch.zeros(1, 2), torch.zeros(1, 2000, 1, 1), seeded())
        for n in (1, 16)
    )
    assert few.std() == pytest.approx(1.0, rel=0.1) and many.std() == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("propagation", ["TS1", "TSinf", "DS", "MM"])
def test_the_generator_alone_decides(propagation):
    model = EnsembleDynamics(OBS, ACTION, hidden=[8], seed=0)
    evaluate = TrajectoryReturns(model, propagation=propagation)
    arguments = rows(2, 2), rows(2, 600, 3, 1)
    first = evaluate(*arguments, seeded())
    torch.rand(7)
    assert torch.equal(first, evaluate(*arguments, seeded()))
    assert not torch.equal(first, evaluate(*arguments, seeded(1)))


def test_the_mean_over_particles_is_that_of_the_model_step_by_step():
    model = EnsembleDynamics(OBS, ACTION, hidden=[8], seed=0)
    obs, actions = rows(1, 2), rows(1, 1, 4, 1)
    returns = TrajectoryReturns(model, num_particles=40_000, propagation="TS1")(obs, actions, seeded())
    particles, total, g = obs.expand(40_000, 2), torch.zeros(40_000), seeded(1)
    alive = torch.ones(40_000, dtype=torch.bool)
    with torch.no_grad():
        for step in range(4):
            p = model.predict(particles, actions[0, 0, step].expand(40_000, 1), generator=g)
            total += torch.where(alive, p.reward, 0.0)
            particles, alive = p.next_obs, alive & ~p.terminated
    assert returns.item() == pytest.approx(total.mean().item(), abs=5 * total.std().item() / 200)


# -- DS and MM -----------------------------------------------------------------------------------------------

STEPS = 10.0 ** np.arange(5)  # of the elites of the drifting ensemble
MIXTURE_MEAN, MIXTURE_STD = STEPS.mean(), STEPS.std()


@pytest.mark.parametrize("propagation", ["DS", "MM"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_particles_of_ds_and_mm_move_by_the_mean_and_variance_of_the_mixture(propagation, horizon):
    model = drifting_ensemble(termination_fn=never)
    evaluate = TrajectoryReturns(model, num_particles=1, propagation=propagation)
    returns = evaluate(torch.zeros(1, 2).double(), torch.zeros(1, 8000, horizon, 1).double(), seeded())
    # The first move counts at both steps. One particle has no spread to be drawn anew from.
    spread = MIXTURE_STD * (1.0 if horizon == 1 else 5**0.5)
    total = MIXTURE_MEAN * sum(range(1, horizon + 1))
    assert returns.mean().item() == pytest.approx(total, abs=5 * spread / 8000**0.5)
    assert returns.std().item() == pytest.approx(spread, rel=0.05)
    # A Gaussian, where each member alone would move to a power of ten.
    below = 0.5 * (1 + math.erf(-total / spread / 2**0.5))
    assert (returns < 0).double().mean().item() == pytest.approx(below, abs=0.03)


@pytest.mark.parametrize("propagation", ["DS", "MM"])
def test_the_particles_of_a_candidate_keep_the_mixtures_mean_over_several_steps(propagation):
    model = drifting_ensemble(termination_fn=never)
    evaluate = TrajectoryReturns(model, num_particles=4000, propagation=propagation)
    returns = evaluate(torch.zeros(1, 2).double(), torch.zeros(1, 3, 4, 1).double(), seeded())
    error = 6 * MIXTURE_STD * (1 + 4 + 9 + 16) ** 0.5 / 4000**0.5
    np.testing.assert_allclose(returns.numpy(), MIXTURE_MEAN * 10, atol=error)


def bimodal(propagation: str, termination_fn: Any = None) -> tuple[Watched, Tensor]:
    """Go to 10 or -10, whichever side one is on, with noise of 1; particles start at 0. Returns the returns too."""
    model = Watched(
        OBS, ACTION, lambda obs, action: 10 * obs.sign(), first_column, termination_fn=termination_fn, noise_std=1.0
    )
    evaluate = TrajectoryReturns(model, num_particles=4000, propagation=propagation)
    return model, evaluate(torch.zeros(1, 2), torch.zeros(1, 1, 3, 1), seeded())


def test_mm_draws_particles_anew_from_the_gaussian_with_their_mean_and_variance():
    mixed, kept = (bimodal(name)[0].asked for name in ("MM", "DS"))
    for particles, (mean, std) in zip(mixed[1:], [(0.0, 1.0), (0.0, 101**0.5)], strict=True):
        assert particles[:, 0].mean().item() == pytest.approx(mean, abs=0.1 * std)
        assert particles[:, 0].std().item() == pytest.approx(std, rel=0.05)
    inner = [(asked[2][:, 0].abs() < 5).double().mean().item() for asked in (mixed, kept)]
    assert inner == pytest.approx([math.erf(5 / 101**0.5 / 2**0.5), 0.0], abs=0.03)


def test_mm_draws_the_columns_of_an_observation_independently():
    particles = bimodal("MM")[0].asked[2]
    # Both columns are at 10 or -10; their correlation is not kept, as in the original.
    assert abs(torch.corrcoef(particles.T)[0, 1].item()) < 0.06


def test_mm_leaves_out_particles_that_terminated():
    model, _ = bimodal("MM", termination_fn=lambda obs, action, next_obs: next_obs[:, 0] > 0)
    # Half of a standard normal is left after the first step.
    mean, variance = -((2 / math.pi) ** 0.5), 1 - 2 / math.pi
    drawn = model.asked[1][:, 0]
    assert drawn.mean().item() == pytest.approx(mean, abs=0.05)
    assert drawn.std().item() == pytest.approx(variance**0.5, rel=0.05)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_once_all_particles_have_terminated_nothing_is_paid(propagation):
    model, returns = bimodal(propagation, termination_fn=lambda obs, action, next_obs: next_obs[:, 0] < 100)
    assert all(asked.isfinite().all() for asked in model.asked)
    assert returns.item() == pytest.approx(0.0, abs=0.1)  # the first step's noise


def test_particles_that_are_all_the_same_stay_where_they_are_under_mm():
    obs, actions = rows(2, 2), rows(2, 5, 4, 1, seed=1)
    results = [
        TrajectoryReturns(known(), num_particles=7, propagation=name)(obs, actions, seeded())
        for name in ("MM", "expectation")
    ]
    torch.testing.assert_close(*results)


def test_particles_drawn_anew_are_of_the_space():
    space = spaces.Dict(kind=spaces.Discrete(3), place=spaces.Box(-np.inf, np.inf, (1,), np.float32))
    model = Watched(space, ACTION, lambda obs, action: obs, lambda obs, action, next_obs: next_obs[:, 3], noise_std=0.7)
    evaluate = TrajectoryReturns(model, num_particles=500, propagation="MM")
    evaluate(torch.tensor([[1.0, 0, 0, 5.0]]), torch.zeros(1, 1, 3, 1), seeded())
    for asked in model.asked[1:]:
        kinds = asked[:, :3]
        torch.testing.assert_close(kinds, torch.nn.functional.one_hot(kinds.argmax(1), 3).float(), atol=1e-6, rtol=0)
        assert len(kinds.argmax(1).unique()) == 3 and asked[:, 3].std() > 0.5


@pytest.mark.parametrize("propagation", ["DS", "MM"])
def test_ds_and_mm_of_a_model_with_one_member_are_its_own_noise(propagation):
    returns = TrajectoryReturns(known(noise_std=1.0), num_particles=1, propagation=propagation)(
        torch.zeros(1, 2), torch.zeros(1, 4000, 1, 1), seeded()
    )
    assert returns.std().item() == pytest.approx(1.0, rel=0.05) and abs(returns.mean().item()) < 0.08


# -- policies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize("shape", [(3, 7, 4, 1), (2, 1500, 2, 1)])  # the second takes several chunks
def test_a_policy_that_returns_its_control_is_no_policy(propagation, shape):
    model = EnsembleDynamics(OBS, ACTION, hidden=[8], seed=0, termination_fn=never)
    evaluate = TrajectoryReturns(model, num_particles=3, propagation=propagation)
    obs, actions = rows(shape[0], 2), rows(*shape, seed=1)
    given = evaluate(obs, actions, seeded())
    shapes = []

    def repeat(seen: Tensor, control: Tensor) -> Tensor:
        shapes.append((seen.shape[0], seen.shape[1] == control.shape[0], seen.shape[2], control.shape[1]))
        return control.expand(seen.shape[0], *control.shape)

    assert torch.equal(given, evaluate(obs, actions, seeded(), policy=repeat))
    assert set(shapes) == {(evaluate.num_particles, True, 2, 1)}


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 4), (2, 1500, 3)])
def test_feedback_on_a_linear_system_is_the_closed_loop(shape):
    A, B, Q, R = np.array([[1.0, 0.1], [-0.2, 0.9]]), np.array([[0.0], [0.3]]), np.diag([1.0, 2.0]), 0.5 * np.eye(1)
    model = KnownDynamics.linear_quadratic(A, B, Q, R)
    # A control is a gain for each state and an offset: wider than an action.
    controls, obs = rows(*shape, 3, seed=1), rows(shape[0], 2)
    returns = TrajectoryReturns(model, num_particles=2)(
        obs, controls, policy=lambda seen, control: (control[:, :2] * seen).sum(-1, keepdim=True) + control[:, 2:]
    )
    x = np.broadcast_to(obs.double().numpy()[:, None], (*shape[:2], 2))
    expected = np.zeros(shape[:2])
    for gains in np.moveaxis(controls.double().numpy(), 2, 0):
        u = (gains[..., :2] * x).sum(-1, keepdims=True) + gains[..., 2:]
        expected -= np.einsum("bpi,ij,bpj->bp", x, Q, x) + np.einsum("bpi,ij,bpj->bp", u, R, u)
        x = x @ A.T + u @ B.T
    np.testing.assert_allclose(returns.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_policy_answers_what_each_particle_sees():
    # Noise of the first step is undone at the second, particle by particle: nothing is left of it.
    model = KnownDynamics(
        OBS,
        ACTION,
        lambda obs, action: torch.cat([obs[:, :1] + action, obs[:, :1]], 1),
        lambda obs, action, next_obs: (obs[:, 0] + action[:, 0]).square(),
        noise_std=1.0,
    )
    evaluate = TrajectoryReturns(model, num_particles=50)
    returns = evaluate(
        torch.zeros(1, 2), torch.zeros(1, 4, 5, 1), seeded(), policy=lambda seen, control: control - seen[..., :1]
    )
    assert returns.abs().max() < 1e-9


# -- members and memory --------------------------------------------------------------------------------------


def certain(**functions: Any) -> EnsembleDynamics:
    """An ensemble whose members differ and hardly vary, nor leave an end to chance."""
    model = EnsembleDynamics(OBS, ACTION, num_members=6, num_elites=5, hidden=[8, 8], seed=1, **functions)
    networks = [child for child in model.children() if isinstance(child, EnsembleMLP)]
    with torch.no_grad():
        for network in networks:
            network.max_logvar.fill_(-60.0)
            network.min_logvar.fill_(-80.0)
            for bias in network.biases:
                bias.normal_(generator=seeded())
        for last in (networks[-1].weights[-1], networks[-1].biases[-1]):
            last[..., -1] *= 1e6  # the logit of the termination
    return model


@pytest.mark.parametrize("members", [[0], [4], [0, 1, 2, 3, 4], [3, 1], [2, 2, 5]])
@pytest.mark.parametrize("count", [1, 5, 300])  # the last takes the path of a product for each member
@pytest.mark.parametrize("joint", [True, False])
def test_a_particle_step_is_the_prediction_of_its_members(members, count, joint):
    model = certain(joint=joint)
    obs, action = rows(len(members), count, 2), rows(len(members), count, 1, seed=1)
    with torch.no_grad():
        p = model.particle_step(members)(obs, action, seeded())
        given = torch.tensor(members)[:, None].expand(len(members), count)
        expected = model.predict(obs, action, members=given)
    assert p.next_obs.shape == obs.shape and p.reward.shape == p.terminated.shape == obs.shape[:2]
    torch.testing.assert_close(p.next_obs, expected.next_obs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(p.reward, expected.reward, rtol=1e-5, atol=1e-5)
    assert torch.equal(p.terminated, expected.terminated)
    assert len(members) * count < 1000 or 0 < p.terminated.double().mean() < 1


def test_few_rows_and_many_rows_are_worked_out_alike():
    model = certain()
    step = model.particle_step([4, 0, 2])
    obs, action = rows(3, 400, 2), rows(3, 400, 1, seed=1)
    with torch.no_grad():
        many = step(obs, action, seeded())
        for first in range(0, 400, 100):
            part = slice(first, first + 100)
            few = step(obs[:, part], action[:, part], seeded())
            torch.testing.assert_close(few.next_obs, many.next_obs[:, part], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(few.reward, many.reward[:, part], rtol=1e-5, atol=1e-5)


def test_a_particle_step_has_the_noise_of_its_member():
    model = EnsembleDynamics(OBS, ACTION, num_members=2, num_elites=2, hidden=[4], joint=True, termination_fn=never)
    with torch.no_grad():
        for p in model.network.parameters():
            p.zero_()
        model.network.max_logvar.fill_(30.0)
        model.network.min_logvar.fill_(-30.0)
        model.network.biases[-1][:, 0, 3:6] = torch.tensor([2.0, -4.0])[:, None]  # beside the mean of 3 targets
        step = model.particle_step([0, 1])(torch.zeros(2, 5000, 2), torch.zeros(2, 5000, 1), seeded())
    assert step.next_obs.std((1, 2)).tolist() == pytest.approx([math.e, math.e**-2], rel=0.05)


def test_what_a_particle_step_returned_outlives_the_next_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # torch's own products, in memory that is kept
    model = EnsembleDynamics(OBS, ACTION, hidden=[32, 32], termination_fn=never)
    step = model.particle_step([4, 1])
    obs, action = rows(2, CHUNK_ROWS + 300, 2), rows(2, CHUNK_ROWS + 300, 1, seed=1)
    with torch.no_grad():
        first = step(obs, action, seeded())
        kept = first.next_obs.clone()
        step(obs.flip(1), action.flip(1), seeded())
        assert torch.equal(first.next_obs, kept)
        assert torch.equal(step(obs, action, seeded()).next_obs, kept)
    with torch.inference_mode():
        torch.testing.assert_close(step(obs, action, seeded()).next_obs, kept)
    with torch.no_grad():
        torch.testing.assert_close(step(obs, action, seeded()).next_obs, kept)


@pytest.mark.parametrize("count", [5, 300])
def test_a_particle_step_without_noise_is_the_mean_of_its_member(count):
    model = EnsembleDynamics(OBS, ACTION, hidden=[4], joint=True, termination_fn=never)
    obs, action = rows(2, count, 2), rows(2, count, 1, seed=1)
    step = model.particle_step([4, 1], deterministic=True)
    sample = model.particle_step([4, 1])
    with torch.no_grad():
        p = step(obs, action, None)
        for place, member in enumerate((4, 1)):
            target, *_ = model.network.member(member, torch.cat([obs[place], action[place]], -1))
            torch.testing.assert_close(p.next_obs[place], obs[place] + target[:, :2], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(p.reward[place], target[:, 2], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(sample(obs, action, seeded()).next_obs, p.next_obs, atol=0.01)


@pytest.mark.parametrize("propagation", ["TS1", "TSinf"])
def test_without_noise_the_members_alone_part_the_particles(propagation):
    model = drifting_ensemble()
    evaluate = TrajectoryReturns(model, num_particles=5, propagation=propagation, sample_noise=False)
    obs, actions = rows(2, 2), rows(2, 3, 4, 1, seed=1)
    returns = evaluate(obs, actions, seeded(0))
    noisy = TrajectoryReturns(model, num_particles=5, propagation=propagation)
    with torch.no_grad():
        model.network.max_logvar.fill_(3.0)
        model.network.min_logvar.fill_(2.9)  # a great noise, and the same means
    torch.testing.assert_close(evaluate(obs, actions, seeded(0)), returns)
    assert not torch.allclose(noisy(obs, actions, seeded(0)), returns, atol=0.1)
    if propagation == "TSinf":  # one particle of each member, whatever is drawn
        torch.testing.assert_close(evaluate(obs, actions, seeded(1)), returns)


@pytest.mark.parametrize("propagation", ["DS", "MM"])
def test_propagations_that_are_noise_are_not_without_it(propagation):
    with pytest.raises(ValueError, match=f"sample_noise must be True for propagation '{propagation}', got False"):
        TrajectoryReturns(known(), propagation=propagation, sample_noise=False)


def test_a_particle_step_stays_what_it_was_when_the_model_changes():
    model = certain()
    step = model.particle_step([1, 3])
    obs, action = rows(2, 5, 2), rows(2, 5, 1, seed=1)
    with torch.no_grad():
        before = step(obs, action, seeded()).next_obs
        for p in model.network.parameters():
            p.zero_()
        assert torch.equal(step(obs, action, seeded()).next_obs, before)


def test_a_model_of_one_member_has_no_other():
    single = members_of(known())
    assert members_of(certain()).particle_members == [0, 1, 2, 3, 4] and single.particle_members == [0]
    with pytest.raises(ValueError, match=r"members must be among \[0\], got \[1\]"):
        single.particle_step([1])


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize("num_particles", [1, 3, 20, 1000, 1500])
def test_the_rows_that_a_model_is_asked_for_at_once_are_bounded(propagation, num_particles):
    model = Watched(OBS, ACTION, lambda obs, action: obs, first_column)
    population = max(3, 2600 // num_particles)
    evaluate = TrajectoryReturns(model, num_particles=num_particles, propagation=propagation)
    evaluate(torch.zeros(2, 2), torch.zeros(2, population, 2, 1), seeded())
    sizes = [len(asked) for asked in model.asked]
    assert max(sizes) <= max(CHUNK_ROWS, evaluate.num_particles)  # a candidate is never cut in two
    assert sum(sizes) == 2 * 2 * population * evaluate.num_particles


@pytest.mark.parametrize("num_particles", [1, 3, 5, 7, 20])
@pytest.mark.parametrize("propagation", ["TSinf", "DS"])
def test_each_member_of_an_ensemble_gets_a_bounded_number_of_rows(propagation, num_particles):
    sizes = []

    class Counted(EnsembleDynamics):
        def particle_step(self, members: Any, **kwargs: Any) -> Any:
            step = super().particle_step(members, **kwargs)

            def counted(obs: Tensor, action: Tensor, generator: Any) -> Outcome:
                sizes.append(obs.shape[1])
                return step(obs, action, generator)

            return counted

        def predict_mixture(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
            sizes.append(obs.shape[0] * obs.shape[1])
            return super().predict_mixture(obs, action, **kwargs)

    model = Counted(OBS, ACTION, hidden=[4], termination_fn=never)
    TrajectoryReturns(model, num_particles=num_particles, propagation=propagation)(
        torch.zeros(1, 2), torch.zeros(1, 3000, 1, 1), seeded()
    )
    # Where particles do not divide by members, some have one particle more of each candidate.
    assert CHUNK_ROWS / 2 < max(sizes) <= CHUNK_ROWS * (1 if propagation == "DS" else 5 / 3)


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


def test_an_error_inside_a_model_s_members_comes_out():
    class Broken(EnsembleDynamics):
        @property
        def particle_members(self) -> list[int]:
            return self.elite_lisst  # type: ignore[return-value]  # a typo

    with pytest.raises(AttributeError, match="Broken"):
        members_of(Broken(OBS, ACTION, hidden=[4])).particle_members  # noqa: B018
