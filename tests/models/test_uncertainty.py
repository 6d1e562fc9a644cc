"""Measures of uncertainty against closed forms and integrals, and the ensemble that they are taken of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.models.network import EnsembleMLP
from mbrl_wrappers.models.uncertainty import (
    MEASURES,
    MemberGaussians,
    geometric_jensen_shannon,
    jensen_renyi,
    keep_rate_at,
    max_aleatoric_std,
    max_disagreement,
    mean_variance,
    most_certain,
    one_versus_rest,
    resolve_measure,
)

OBS, ACTION = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32)


def gaussians(members: int, rows: int = 6, targets: int = 3, seed: int = 0) -> MemberGaussians:
    source = torch.Generator().manual_seed(seed)
    mean = torch.randn(members, rows, targets, generator=source, dtype=torch.float64)
    return MemberGaussians(mean, torch.rand(mean.shape, generator=source, dtype=torch.float64) + 0.2)


def drawn(members: int, rows: int = 6) -> Tensor:
    return torch.arange(rows) % members


def as_distribution(mean: Tensor, var: Tensor) -> Independent:
    return Independent(Normal(mean, var.sqrt()), 1)


@pytest.mark.parametrize("members", [2, 3, 7])
def test_one_versus_rest_is_the_divergence_from_the_moments_of_the_others(members: int):
    g, chosen = gaussians(members), drawn(members)
    for row, own in enumerate(chosen.tolist()):
        rest = [m for m in range(members) if m != own]
        mean = g.mean[rest, row].mean(0)
        second = (g.std[rest, row].square() + g.mean[rest, row].square()).mean(0)
        expected = kl_divergence(
            as_distribution(g.mean[own, row], g.std[own, row].square()), as_distribution(mean, second - mean.square())
        )
        assert torch.allclose(one_versus_rest(g, chosen)[row], expected)


def test_max_aleatoric_std_is_the_norm_of_the_noisiest_member():
    std = torch.tensor([[[3.0, 4.0]], [[1.0, 1.0]]])
    assert max_aleatoric_std(MemberGaussians(torch.zeros_like(std), std), drawn(2, 1)).tolist() == [5.0]


def test_disagreements_are_of_the_means_alone():
    mean = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 1.0]]])
    g = MemberGaussians(mean, torch.ones_like(mean))
    assert max_disagreement(g, drawn(3, 1)).tolist() == [5.0]
    # Columns 0, 3, 0 and 0, 4, 1: variances 3 and 13/3.
    assert mean_variance(g, drawn(3, 1)).item() == pytest.approx((3 + 13 / 3) / 2)
    noisier = MemberGaussians(mean, 9 * torch.ones_like(mean))
    assert torch.equal(max_disagreement(noisier, drawn(3, 1)), max_disagreement(g, drawn(3, 1)))


def test_jensen_renyi_is_the_integral():
    x = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    mean, std = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64), torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64)
    densities = Normal(mean[:, None], std[:, None]).log_prob(x).exp()

    def entropy(density: Tensor) -> Tensor:
        return -torch.trapezoid(density.square(), x).log()

    expected = entropy(densities.mean(0)) - torch.stack([entropy(d) for d in densities]).mean()
    value = jensen_renyi(MemberGaussians(mean[:, None, None], std[:, None, None]), drawn(3, 1))
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("members", [2, 4])
def test_geometric_jensen_shannon_is_the_mean_divergence_from_the_geometric_mean(members: int):
    g = gaussians(members)
    total = torch.zeros(g.mean.shape[1], dtype=torch.float64)
    pairs = [(a, b) for a in range(members) for b in range(a)]
    for a, b in pairs:
        precision = 0.5 * (g.std[a] ** -2 + g.std[b] ** -2)
        mean = 0.5 * (g.mean[a] * g.std[a] ** -2 + g.mean[b] * g.std[b] ** -2) / precision
        middle = as_distribution(mean, 1 / precision)
        for member in (a, b):
            total += 0.5 * kl_divergence(as_distribution(g.mean[member], g.std[member].square()), middle)
    assert torch.allclose(geometric_jensen_shannon(g, drawn(members)), total / len(pairs))


@pytest.mark.parametrize("name", [n for n in MEASURES if n != "max_aleatoric_std"])
@pytest.mark.parametrize("members", [2, 5])
def test_members_that_agree_leave_no_uncertainty(name: str, members: int):
    one = gaussians(1)
    same = MemberGaussians(one.mean.expand(members, -1, -1), one.std.expand(members, -1, -1))
    assert MEASURES[name](same, drawn(members)).abs().max() < 1e-12
    assert (MEASURES[name](gaussians(members), drawn(members)) > 0).all()


@pytest.mark.parametrize("name", MEASURES)
def test_the_order_of_the_members_does_not_matter(name: str):
    g, order = gaussians(4), torch.tensor([2, 0, 3, 1])
    shuffled = MemberGaussians(g.mean[order], g.std[order])
    assert torch.allclose(MEASURES[name](shuffled, order.argsort()[drawn(4)]), MEASURES[name](g, drawn(4)))


@pytest.mark.parametrize("name", MEASURES)
def test_each_row_is_measured_on_its_own(name: str):
    g = gaussians(3)
    alone = MemberGaussians(g.mean[:, 4:5], g.std[:, 4:5])
    assert torch.allclose(MEASURES[name](alone, drawn(3)[4:5]), MEASURES[name](g, drawn(3))[4:5])


def test_a_measure_is_known_by_its_name():
    assert resolve_measure("jensen_renyi") is jensen_renyi
    assert resolve_measure(max_disagreement) is max_disagreement
    with pytest.raises(ValueError, match=r"measure must be a function or one of .*, got 'entropy'"):
        resolve_measure("entropy")


# -- masks ------------------------------------------------------------------------------------------


def test_the_shares_of_the_paper():
    assert [keep_rate_at(h, 4) for h in range(4)] == [0.4, 0.3, 0.2, 0.1]
    assert keep_rate_at(0, 1) == 0.5


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_the_most_certain_rows_are_kept(rows: int, rate: float):
    uncertainty = torch.rand(rows, generator=torch.Generator().manual_seed(rows))
    kept = most_certain(uncertainty, rate)
    assert kept.sum() == math.ceil(round(rate * rows, 6))
    if 0 < kept.sum() < rows:
        assert uncertainty[kept].max() < uncertainty[~kept].min()


def test_ties_and_what_is_no_number():
    assert most_certain(torch.zeros(10), 0.5).sum() == 5
    assert most_certain(torch.tensor([math.nan, 3.0, math.inf, 1.0]), 0.5).tolist() == [False, True, False, True]


def test_rows_may_have_shares_of_their_own():
    kept = most_certain(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.1, 0.1, 0.9, 0.9]))
    assert kept.tolist() == [True, False, True, True]


# -- the ensemble -----------------------------------------------------------------------------------


def ensemble(**kwargs: Any) -> EnsembleDynamics:
    return EnsembleDynamics(OBS, ACTION, **{"num_members": 4, "num_elites": 3, "hidden": (8,), "seed": 1, **kwargs})


def inputs(rows: int = 60) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(5)
    return torch.randn(rows, 3, generator=source), torch.rand(rows, 2, generator=source)


def noiseless(dynamics: EnsembleDynamics) -> EnsembleDynamics:
    """Leave no noise to a model, and no end to chance."""
    networks = [child for child in dynamics.children() if isinstance(child, EnsembleMLP)]
    with torch.no_grad():
        for network in networks:
            network.min_logvar.fill_(-60.0)
            network.max_logvar.fill_(-50.0)
        for last in (networks[-1].weights[-1], networks[-1].biases[-1]):
            last[..., -1] *= 1e6  # the logit of the termination
    return dynamics


@pytest.mark.parametrize("joint", [True, False])
def test_a_measured_step_is_taken_by_a_random_elite_each_with_its_share(joint: bool):
    dynamics, (obs, action) = noiseless(ensemble(joint=joint)), inputs()
    seen: list[Tensor] = []

    def measure(g: MemberGaussians, chosen: Tensor) -> Tensor:
        seen.append(chosen)
        return torch.arange(len(chosen)).float()

    p = dynamics.predict_measured(obs, action, measure, generator=torch.Generator().manual_seed(0))
    assert torch.equal(p.uncertainty, torch.arange(60.0))
    assert seen[0].bincount().tolist() == [20, 20, 20]
    for place, member in enumerate(dynamics.particle_members):
        own = dynamics.particle_step([member], deterministic=True)(obs[None], action[None], None)
        rows = seen[0] == place
        assert torch.allclose(p.next_obs[rows], own.next_obs[0, rows], atol=1e-6)
        assert torch.allclose(p.reward[rows], own.reward[0, rows], atol=1e-6)
        assert torch.equal(p.terminated[rows], own.terminated[0, rows])


def test_the_reward_counts_among_the_targets():
    shapes = []

    def measure(g: MemberGaussians, chosen: Tensor) -> Tensor:
        shapes.append(tuple(g.mean.shape))
        return chosen.float()

    for kwargs in ({}, {"reward_fn": lambda obs, action, next_obs: obs[:, 0]}):
        ensemble(**kwargs).predict_measured(*inputs(4), measure)
    assert shapes == [(3, 4, 4), (3, 4, 3)]


def test_a_measured_step_has_the_shape_of_its_inputs_and_is_a_function_of_the_generator():
    dynamics, (obs, action) = ensemble(), inputs()
    obs, action = obs.reshape(5, 12, 3), action.reshape(5, 12, 2)
    one, same, other = (
        dynamics.predict_measured(obs, action, one_versus_rest, generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    )
    assert one.next_obs.shape == (5, 12, 3)
    assert one.reward.shape == one.terminated.shape == one.uncertainty.shape == (5, 12)
    assert torch.equal(one.next_obs, same.next_obs)
    assert torch.equal(one.uncertainty, same.uncertainty)
    assert not torch.equal(one.next_obs, other.next_obs)


def test_what_can_not_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got EnsembleDynamics with 1"):
        ensemble(num_elites=1).predict_measured(*inputs(), one_versus_rest)
    known = KnownDynamics.for_env("Pendulum-v1")
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got KnownDynamics with 1"):
        known.step(torch.zeros(1, 3), torch.zeros(1, 1), measure=one_versus_rest)


@pytest.mark.parametrize("joint", [True, False])
def test_a_crossed_step_moves_by_its_own_elite_and_is_rewarded_by_all(joint: bool):
    dynamics = noiseless(ensemble(joint=joint))
    source = torch.Generator().manual_seed(2)
    obs, action = torch.randn(3, 5, 3, generator=source), torch.rand(3, 5, 2, generator=source)
    crossed = dynamics.cross_step(obs, action)
    for place, member in enumerate(dynamics.particle_members):
        step = dynamics.particle_step([member], deterministic=True)
        own = step(obs[place][None], action[place][None], None)
        assert torch.allclose(crossed.next_obs[place], own.next_obs[0], atol=1e-6)
        assert torch.equal(crossed.terminated[place], own.terminated[0])
        for mover in range(3):
            if joint:
                rated = step(obs[mover][None], action[mover][None], None).reward[0]
            else:  # of where the mover gets to; the normalisers of a new model change nothing
                change = crossed.next_obs[mover] - obs[mover]
                seen = torch.cat([obs[mover], action[mover], change], dim=-1)
                rated = dynamics.reward_network.member(member, seen).mean[:, 0]
            assert torch.allclose(crossed.reward[place, mover], rated, atol=1e-5)


def test_a_crossed_step_refuses_what_it_can_not_cross():
    obs, action = torch.zeros(3, 1, 3), torch.zeros(3, 1, 2)
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got EnsembleDynamics with 1"):
        ensemble(num_elites=1).cross_step(obs[:1], action[:1])
    with pytest.raises(ValueError, match="learned reward, got reward_fn="):
        ensemble(reward_fn=lambda obs, action, next_obs: obs[:, 0]).cross_step(obs, action)
    with pytest.raises(ValueError, match=r"obs must have shape \[3, R, 3\], got \(2, 1, 3\)"):
        ensemble().cross_step(obs[:2], action[:2])
