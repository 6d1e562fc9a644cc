"""What a network's outputs stand for: rates, moments, likelihoods and gradients against torch's distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.nn import functional as F

from mbrl_wrappers.models.heads import LEAST_STD, Heads, Outputs, chance_std
from testing.models import seeded

LOG_TWO_PI = math.log(2 * math.pi)


def outputs(heads: Heads, *batch: int, seed: int = 0) -> Outputs:
    """Draw arbitrary outputs in float64."""
    mean, logvar, mixture, categories, flags = (
        torch.randn(*batch, width, generator=seeded(seed + i), dtype=torch.float64)
        for i, width in enumerate(heads.widths)
    )
    return Outputs(2 * mean, (0.5 * logvar).exp(), mixture, 2 * categories, 2 * flags)


def repeated(one: Outputs, rows: int) -> Outputs:
    return Outputs(*(part.expand(rows, -1) for part in one))


def mixture_of(heads: Heads, out: Outputs) -> MixtureSameFamily:
    shape = (heads.components, heads.targets)
    normals = Independent(Normal(out.mean.unflatten(-1, shape), out.std.unflatten(-1, shape)), 1)
    return MixtureSameFamily(Categorical(logits=out.mixture), normals)


# -- continuous targets ------------------------------------------------------------------------------


def test_the_loss_of_one_component_is_that_of_the_normal_distribution():
    heads = Heads(3)
    out, target = outputs(heads, 4, 6), torch.randn(4, 6, 3, generator=seeded(9), dtype=torch.float64)
    log_prob = Normal(out.mean, out.std).log_prob(target)
    expected = (-2 * log_prob - LOG_TWO_PI).mean(-1)
    torch.testing.assert_close(heads.gaussian_loss(out, target, torch.ones(3)), expected)


@pytest.mark.parametrize("components", [2, 5])
def test_the_loss_of_a_mixture_is_that_of_torchs_mixture(components: int):
    heads = Heads(3, components)
    out, target = outputs(heads, 40), torch.randn(40, 3, generator=seeded(9), dtype=torch.float64)
    expected = (-2 * mixture_of(heads, out).log_prob(target) - 3 * LOG_TWO_PI) / 3
    torch.testing.assert_close(heads.gaussian_loss(out, target, torch.ones(3)), expected)


def test_a_mixture_with_all_its_weight_on_one_component_has_the_loss_of_that_one():
    heads, one = Heads(3, 4), Heads(3)
    out, target = outputs(heads, 40), torch.randn(40, 3, generator=seeded(9), dtype=torch.float64)
    out.mixture.fill_(-1e3)
    out.mixture[:, 2] = 0.0
    alone = Outputs(out.mean[:, 6:9], out.std[:, 6:9], out.mixture[:, :0], out.categories, out.flags)
    counts = torch.ones(3)
    torch.testing.assert_close(heads.gaussian_loss(out, target, counts), one.gaussian_loss(alone, target, counts))


@pytest.mark.parametrize("components", [1, 3])
def test_moments_are_those_of_the_distribution(components: int):
    heads = Heads(2, components)
    out = outputs(heads, 7)
    mean, std = heads.moments(out)
    if components == 1:
        expected = out.mean, out.std
    else:
        mixture = mixture_of(heads, out)
        expected = mixture.mean, mixture.variance.sqrt()
    torch.testing.assert_close((mean, std), expected)


@pytest.mark.parametrize("components", [1, 3])
def test_samples_have_the_moments_of_the_distribution(components: int):
    heads, rows = Heads(2, components), 60_000
    one = outputs(heads, seed=3)
    mean, std = heads.moments(one)
    drawn = heads.sample(repeated(one, rows), seeded())
    assert ((drawn.mean(0) - mean).abs() / std).max() < 5 / rows**0.5
    assert (drawn.std(0) / std - 1).abs().max() < 0.02


def test_all_targets_of_a_row_come_from_one_component():
    heads, rows = Heads(2, 2), 2000
    one = Outputs(
        torch.tensor([-5.0, -5.0, 5.0, 5.0]),
        torch.full((4,), 0.1),
        torch.tensor([0.7, 0.3]).log(),
        torch.zeros(0),
        torch.zeros(0),
    )
    drawn = heads.sample(repeated(one, rows), seeded())
    assert torch.equal(drawn[:, 0] > 0, drawn[:, 1] > 0)
    assert abs((drawn[:, 0] > 0).double().mean() - 0.3) < 0.04


@pytest.mark.parametrize("components", [1, 3])
def test_a_sample_has_the_gradient_of_its_reparametrisation(components: int):
    heads = Heads(2, components)
    out = outputs(heads, 5)
    mean, std = out.mean.requires_grad_(), out.std.requires_grad_()

    def sample(mean: Tensor, std: Tensor) -> Tensor:
        return heads.sample(out._replace(mean=mean, std=std), seeded())

    assert torch.autograd.gradcheck(sample, (mean, std))


# -- what is discrete --------------------------------------------------------------------------------


@pytest.mark.parametrize(("categories", "flags"), [((2,), 0), ((3, 5), 0), ((), 3), ((2, 7, 4), 2)])
def test_sampled_rates_are_the_chances(categories: tuple[int, ...], flags: int):
    heads, rows = Heads(categories=categories, flags=flags), 40_000
    chances = heads.chances(outputs(heads, seed=4))
    for block in chances.split([*categories, flags])[:-1]:
        assert block.sum().item() == pytest.approx(1)
    spread = chances.expand(rows, -1)
    drawn = heads.decide(spread, torch.rand(spread.shape, generator=seeded(), dtype=torch.float64))
    assert ((drawn == 0) | (drawn == 1)).all()
    for block in drawn.split([*categories, flags], -1)[:-1]:
        assert (block.sum(-1) == 1).all()
    assert (drawn.mean(0) - chances).abs().max() < 5 * 0.5 / rows**0.5


def test_what_is_certain_or_impossible_is_so_in_every_sample():
    heads = Heads(categories=(3,), flags=2)
    certain = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]).expand(5000, -1)
    for uniform in (torch.rand(5000, 5, generator=seeded()), torch.zeros(5000, 5), torch.full((5000, 5), 1 - 1e-7)):
        assert torch.equal(heads.decide(certain, uniform), certain)


def test_without_random_numbers_the_likeliest_is_decided_on():
    heads = Heads(categories=(2, 3), flags=2)
    chances = torch.tensor([[0.4, 0.6, 0.2, 0.1, 0.7, 0.49, 0.51], [0.9, 0.1, 0.4, 0.35, 0.25, 0.99, 0.0]])
    expected = torch.tensor([[0.0, 1, 0, 0, 1, 0, 1], [1.0, 0, 1, 0, 0, 1, 0]])
    assert torch.equal(heads.decide(chances), expected)


@pytest.mark.parametrize("samples", [True, False])
def test_a_decision_has_the_gradient_of_the_chances(samples: bool):
    heads = Heads(categories=(2, 3), flags=2)
    chances = heads.chances(outputs(heads, 6)).requires_grad_()
    uniform = torch.rand(6, 7, generator=seeded(), dtype=torch.float64) if samples else None
    decided = heads.decide(chances, uniform)
    weight = torch.randn(6, 7, generator=seeded(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((decided * weight).sum(), chances)
    torch.testing.assert_close(gradient, weight)
    torch.testing.assert_close(decided.detach(), heads.decide(chances.detach(), uniform))


def test_the_loss_of_what_is_discrete_is_the_mean_cross_entropy_of_blocks_and_that_of_flags():
    heads = Heads(categories=(2, 4), flags=3)
    out = outputs(heads, 20)
    first, second = (torch.randint(size, (20,), generator=seeded(size)) for size in (2, 4))
    flags = torch.rand(20, 3, generator=seeded(1)).round().double()
    target = torch.cat([F.one_hot(first, 2).double(), F.one_hot(second, 4).double(), flags], -1)
    blocks = [
        F.cross_entropy(logits, index, reduction="none")
        for logits, index in zip(out.categories.split([2, 4], -1), (first, second), strict=True)
    ]
    of_flags = F.binary_cross_entropy_with_logits(out.flags, flags, reduction="none").mean(-1)
    loss = heads.discrete_loss(out, target, torch.ones(9))
    torch.testing.assert_close(loss, sum(blocks) / 2 + of_flags)


# -- targets that do not count ------------------------------------------------------------------------


@pytest.mark.parametrize("components", [1, 3])
def test_the_loss_is_blind_to_targets_that_do_not_count(components: int):
    heads, fewer = Heads(3, components), Heads(2, components)
    out, target = outputs(heads, 8), torch.randn(8, 3, generator=seeded(9), dtype=torch.float64)
    counts, kept = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 2])

    def without(part: Tensor) -> Tensor:
        return part.unflatten(-1, (components, 3))[..., kept].flatten(-2)

    alone = out._replace(mean=without(out.mean), std=without(out.std))
    expected = fewer.gaussian_loss(alone, target[:, kept], torch.ones(2))
    torch.testing.assert_close(heads.gaussian_loss(out, target, counts), expected)
    assert heads.gaussian_loss(out, target, torch.zeros(3)).abs().max() < 1e-12


def test_the_cross_entropy_is_blind_to_blocks_and_flags_that_do_not_count():
    heads, fewer = Heads(categories=(2, 3), flags=2), Heads(categories=(3,), flags=1)
    out = outputs(heads, 8)
    uniform = torch.rand(8, 7, generator=seeded(), dtype=torch.float64)
    target = heads.decide(heads.chances(out), uniform)
    counts = torch.tensor([0.0, 0, 1, 1, 1, 1, 0])
    alone = out._replace(categories=out.categories[:, 2:], flags=out.flags[:, :1])
    expected = fewer.discrete_loss(alone, target[:, 2:6], torch.ones(4))
    torch.testing.assert_close(heads.discrete_loss(out, target, counts), expected)
    assert torch.equal(heads.discrete_loss(out, target, torch.zeros(7)), torch.zeros(8, dtype=torch.float64))


def test_the_standard_deviation_of_a_chance_is_bernoullis_and_never_none():
    chances = torch.tensor([0.0, 0.1, 0.5, 1.0])
    assert chance_std(chances).tolist() == pytest.approx([LEAST_STD, 0.3, 0.5, LEAST_STD])
