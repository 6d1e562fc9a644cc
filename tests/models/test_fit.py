"""How an ensemble is trained: its loss, its hold-out, its snapshots, and that it finds what is there.

The parts are tested through :func:`fit_ensemble` where a test must choose the hold-out itself, and
through ``EnsembleDynamics.fit`` otherwise.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.fit import (
    FitData,
    FitSettings,
    ensemble_loss,
    fit_ensemble,
    holdout_mask,
    holdout_score,
    spread_rows,
)
from mbrl_wrappers.models.heads import Heads, Outputs
from mbrl_wrappers.models.network import EnsembleMLP
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.types import Transitions
from testing.models import box, seeded

OBS_DIM, ACTION_DIM = 3, 2
LOG_TWO_PI = math.log(2 * math.pi)


def _model(**kwargs: Any) -> EnsembleDynamics:
    kwargs = {"hidden": (16, 16), "num_members": 4, "num_elites": 2, "max_steps": 100} | kwargs
    return EnsembleDynamics(box(OBS_DIM), box(ACTION_DIM), **kwargs)


def _transitions(rows: int, seed: int = 0, **replaced: Tensor) -> Transitions:
    """Draw transitions of a smooth nonlinear system with a little noise; some of them terminate."""
    generator = seeded(seed)
    obs = torch.randn(rows, OBS_DIM, generator=generator)
    action = torch.rand(rows, ACTION_DIM, generator=generator) * 2 - 1
    noise = 0.1 * torch.randn(rows, OBS_DIM, generator=generator)
    next_obs = obs + torch.sin(obs) + action.sum(-1, keepdim=True) + noise
    fields = {
        "obs": obs,
        "action": action,
        "reward": obs[:, 0] - action[:, 1],
        "next_obs": next_obs,
        "terminated": next_obs[:, 1] > 2,
        "key": torch.arange(rows),
    }
    return Transitions(**{**fields, **replaced})


def _network(num_members: int = 3, num_logits: int = 1, seed: int = 0) -> EnsembleMLP:
    return EnsembleMLP(num_members, in_dim=5, heads=Heads(4, flags=num_logits), hidden=(16, 16), seed=seed)


def _fit_data(rows: int, num_logits: int = 1, seed: int = 0) -> FitData:
    generator = seeded(seed)
    x = torch.randn(rows, 5, generator=generator)
    y = torch.stack([x[:, 0] + x[:, 1], x[:, 2].sin(), x[:, 3] * x[:, 4], x[:, 1]], dim=-1)
    y = y + 0.1 * torch.randn(rows, 4, generator=generator)
    return _data(x, y, (y[:, :num_logits] > 0.5).float())


def _data(x: Tensor, y: Tensor, label: Tensor) -> FitData:
    return FitData(x, y, label, torch.ones(y.shape[-1]), torch.ones(label.shape[-1]))


@torch.no_grad()
def _known_by_heart(network: EnsembleMLP, member: int) -> FitData:
    """Return data whose targets are exactly what one member says (a network without logits)."""
    x = _fit_data(60).x
    return _data(x, network.member(member, x).mean, x[:, :0])


def _settings(**kwargs: Any) -> FitSettings:
    defaults: dict[str, Any] = {
        "learning_rate": 1e-3,
        "weight_decay": [1e-4] * 3,
        "batch_size": 32,
        "patience": 2,
        "min_epoch_steps": 20,
        "max_steps": 100,
        "beta_nll": 0.0,
        "holdout_metric": "mse",
        "averaging": 0.9,
    }
    return FitSettings(**(defaults | kwargs))


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_several_members_on_the_same_rows_are_each_member(rows):
    network, x = _network(), torch.randn(rows, 5, generator=seeded())
    with torch.no_grad():
        together = network.members([2, 0], x)
        for place, member in enumerate((2, 0)):
            for one, alone in zip(together, network.member(member, x), strict=True):
                torch.testing.assert_close(one[place], alone)


def _soft_clamped_std(network: EnsembleMLP, member: int, x: Tensor) -> Tensor:
    """Return the standard deviations of a member by the two soft clamps of the paper, from its last layer's values."""
    logvar = network.last_layer([member], [len(x)], x)[:, 4:8]
    logvar = network.max_logvar[member] - F.softplus(network.max_logvar[member] - logvar)
    logvar = network.min_logvar[member] + F.softplus(logvar - network.min_logvar[member])
    return (0.5 * logvar).exp()


@pytest.mark.parametrize("rows", [7, 300, 5000])  # the last takes several chunks
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_predictions_are_those_of_the_loss(rows, scale):
    network, x = _network(), scale * torch.randn(rows, 5, generator=seeded())
    with torch.no_grad():
        together = network(x.expand(3, *x.shape))
        for member in range(3):
            alone = network.member(member, x)
            torch.testing.assert_close(alone.mean, together.mean[member], rtol=1e-4, atol=1e-5 * scale)
            torch.testing.assert_close(alone.flags, together.flags[member], rtol=1e-4, atol=1e-5 * scale)
            torch.testing.assert_close(alone.std.log(), together.std[member].log(), rtol=1e-4, atol=1e-4)
            clamped = _soft_clamped_std(network, member, x)
            torch.testing.assert_close(alone.std.log(), clamped.log(), rtol=1e-4, atol=1e-4)
        assert scale == 1.0 or (alone.std.min() < 0.01 and alone.std.max() > 1.2)  # both bounds are met


def test_the_standard_deviation_has_the_gradient_of_the_soft_clamps():
    network = _network().double()
    x = torch.randn(300, 5, generator=seeded(), dtype=torch.float64).requires_grad_()
    (one,) = torch.autograd.grad(network.member(1, x).std.sum(), x)
    (other,) = torch.autograd.grad(_soft_clamped_std(network, 1, x).sum(), x)
    torch.testing.assert_close(one, other)


def test_gradients_of_predictions_are_finite_however_small_or_large_the_variance():
    network, x = _network(), (1e4 * torch.randn(300, 5, generator=seeded())).requires_grad_()
    mean, std, *_ = network.member(1, x)
    (gradient,) = torch.autograd.grad(mean.sum() + std.sum(), x)
    assert gradient.isfinite().all() and (gradient != 0).any(1).all()


# ------------------------------------------------------------------------------------------ loss


@pytest.mark.parametrize("num_logits", [0, 1])
def test_loss_is_the_sum_over_members_of_the_mean_over_rows_and_dimensions(num_logits):
    network = _network(num_logits=num_logits)
    batch = _fit_data(60, num_logits)[torch.randint(60, (3, 20), generator=seeded())]
    expected = torch.zeros(())
    for member in range(3):
        mean, std, _, _, logits = network.member(member, batch.x[member])
        normal = torch.distributions.Normal(mean, std)
        expected = expected + (-2 * normal.log_prob(batch.y[member]) - LOG_TWO_PI).mean()
        expected = expected + 0.01 * (network.max_logvar[member].sum() - network.min_logvar[member].sum()) / 3
        if num_logits:
            bernoulli = torch.distributions.Bernoulli(logits=logits)
            expected = expected - bernoulli.log_prob(batch.label[member]).mean()
    torch.testing.assert_close(ensemble_loss(network, batch), expected)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_beta_weights_gradients_by_the_predicted_variance(beta):
    class Recorded(EnsembleMLP):
        def forward(self, x: Tensor) -> Outputs:
            self.outputs = super().forward(x)
            for output in self.outputs:
                output.retain_grad()
            return self.outputs

    network = Recorded(3, 5, Heads(4), (16, 16), seed=0)
    batch = _fit_data(60, 0)[torch.randint(60, (3, 20), generator=seeded())]
    ensemble_loss(network, batch, beta).backward()
    mean, std = network.outputs[:2]
    error, variance, count = mean.detach() - batch.y, std.detach().square(), batch.y[0].numel()
    torch.testing.assert_close(mean.grad, 2 * error * variance ** (beta - 1) / count)
    of_logvar = (1 - error.square() / variance) * variance**beta / count
    torch.testing.assert_close(std.grad, of_logvar * 2 / std.detach())


@pytest.mark.parametrize("metric, power", [("mse", 2), ("mae", 1)])
def test_score_is_the_error_and_the_cross_entropy_over_all_rows(metric, power):
    network, data = _network(), _fit_data(2000)
    with torch.no_grad():
        for member, score in enumerate(holdout_score(network, data, metric)):
            mean, _, _, _, logits = network.member(member, data.x)
            log_likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(data.label)
            error = torch.mean((mean - data.y).abs() ** power)
            torch.testing.assert_close(score, error - log_likelihood.mean())


def test_gradient_of_one_member_does_not_depend_on_the_others():
    batch = _fit_data(40)[torch.randint(40, (3, 20), generator=seeded())]
    other = replace(batch, x=batch.x.clone(), y=batch.y.clone())
    other.x[1:], other.y[1:] = 7.0, -3.0
    gradients = []
    for data in (batch, other):
        network = _network()
        ensemble_loss(network, data).backward()
        gradients.append([p.grad[0] for p in network.parameters()])
    for one, another in zip(*gradients, strict=True):
        torch.testing.assert_close(one, another)


def test_log_variance_stays_between_its_bounds():
    network = _network()
    x = 1e4 * torch.randn(500, 5, generator=seeded())
    with torch.no_grad():
        network.min_logvar.copy_(torch.tensor([-10.0, -6.0, -3.0]).view(3, 1, 1).expand_as(network.min_logvar))
    for member in range(3):
        logvar = 2 * network.member(member, x)[1].log()
        low, high = network.min_logvar[member].min().item(), network.max_logvar[member].max().item()
        # The second of the two soft clamps may lift the first one's limit by log(1 + exp(low - high)).
        assert low <= logvar.min().item() < low + 1e-3
        assert high - 1e-3 < logvar.max().item() <= high + math.log1p(math.exp(low - high)) + 1e-6


def test_log_variance_bounds_are_learned():
    network = _network()
    ensemble_loss(network, _fit_data(60)[torch.randint(60, (3, 20), generator=seeded())]).backward()
    # The penalty alone would give every bound the same gradient.
    for bound, penalty in ((network.max_logvar, 0.01 / 3), (network.min_logvar, -0.01 / 3)):
        assert (bound.grad != 0).all()
        assert not torch.allclose(bound.grad, torch.full_like(bound.grad, penalty), rtol=1e-6, atol=0)
    model = _model(max_steps=40)
    model.fit(_transitions(200), seeded())
    assert (model.network.max_logvar != 0.5).all()
    assert (model.network.min_logvar != -10).all()


# ------------------------------------------------------------------------------------ normaliser


def test_normalizer_gives_unit_spread_and_back():
    data = torch.randn(1000, 3, generator=seeded()) * torch.tensor([1e-3, 1.0, 50.0]) + torch.tensor([0.0, -2.0, 1e3])
    normalizer = Normalizer(3)
    assert torch.equal(normalizer.normalize(data), data)
    normalizer.fit(data)
    normal = normalizer.normalize(data)
    torch.testing.assert_close(normal.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(normal.std(0, unbiased=False), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(normalizer.denormalize(normal), data)
    torch.testing.assert_close(normalizer.std.double(), data.double().std(0, unbiased=False), rtol=1e-6, atol=0)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -1234.567, 1e-8, 1e6])
def test_a_constant_dimension_keeps_unit_spread(constant):
    data = torch.randn(1000, 2, generator=seeded())
    data[:, 1] = constant
    normalizer = Normalizer(2)
    normalizer.fit(data)
    assert normalizer.std[1] == 1
    assert normalizer.std[0] != 1
    assert torch.equal(normalizer.normalize(data)[:, 1], torch.zeros(1000))
    changed = normalizer.normalize(torch.tensor([[0.0, constant + 1]]))
    torch.testing.assert_close(changed[0, 1], torch.tensor(1.0), rtol=0, atol=0.1)


@pytest.mark.filterwarnings("ignore:the model foresees none:UserWarning")  # after a single step
@pytest.mark.parametrize("joint", [True, False])
def test_normalizers_are_in_the_state_and_fitted_on_the_training_rows_alone(joint):
    transitions = _transitions(300)
    model = _model(max_steps=1, joint=joint)
    model.fit(transitions, seeded())
    kinds = ("input", "target") if joint else ("input", "target", "reward")
    assert {f"{kind}_normalizer.{part}" for kind in kinds for part in ("mean", "std")} <= set(model.state_dict())
    train = transitions[~holdout_mask(transitions.key, 0.2)]
    change, reward = train.next_obs - train.obs, train.reward[:, None]
    expected = {model.input_normalizer: torch.cat([train.obs, train.action], -1)}
    if joint:
        expected[model.target_normalizer] = torch.cat([change, reward], -1)
    else:
        expected |= {model.target_normalizer: change, model.reward_normalizer: reward}
    for normalizer, data in expected.items():
        torch.testing.assert_close(normalizer.mean.double(), data.double().mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(normalizer.std.double(), data.double().std(0, False), rtol=1e-5, atol=1e-6)


def test_normalizers_follow_the_data_at_every_fit():
    model = _model(max_steps=1)
    model.fit(_transitions(100), seeded())
    before = model.input_normalizer.mean.clone()
    shifted = _transitions(100)
    model.fit(Transitions(**{**vars(shifted), "obs": shifted.obs + 5, "next_obs": shifted.next_obs + 5}), seeded())
    torch.testing.assert_close(model.input_normalizer.mean[:OBS_DIM], before[:OBS_DIM] + 5)


def test_raw_targets_on_demand():
    model = _model(max_steps=1, normalize_targets=False)
    model.fit(_transitions(100), seeded())
    for normalizer, width in ((model.target_normalizer, OBS_DIM), (model.reward_normalizer, 1)):
        assert torch.equal(normalizer.std, torch.ones(width)) and torch.equal(normalizer.mean, torch.zeros(width))


# -------------------------------------------------------------------------------------- hold-out


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 32, 64, 100, 200, 1000, 1024])
def test_holdout_has_its_share_of_any_run_of_keys(ratio, stride):
    """Three standard deviations of a split by chance are allowed."""
    for first in (0, 1, 17, 12345, 10_000_000):
        for rows in (200, 1000, 5000):
            share = holdout_mask(first + stride * torch.arange(rows), ratio).double().mean().item()
            assert abs(share - ratio) < 3 * math.sqrt(ratio * (1 - ratio) / rows)


def test_holdout_is_a_function_of_each_key_alone():
    key = torch.randint(10**9, (5000,), generator=seeded())
    mask = holdout_mask(key, 0.2)
    assert mask.dtype == torch.bool and mask.shape == key.shape
    order = torch.randperm(5000, generator=seeded(1))
    assert torch.equal(holdout_mask(key[order], 0.2), mask[order])
    assert torch.equal(holdout_mask(key[:100], 0.2), mask[:100])
    assert torch.equal(torch.cat([holdout_mask(one, 0.2) for one in key.split(1)]), mask)
    assert (holdout_mask(key, 0.3) | ~mask).all()


def _made_wild(transitions: Transitions, rows: Tensor) -> Transitions:
    """Return the same transitions with what came out of some rows changed: next_obs, reward, terminated."""
    wild = 0.7 * torch.randn(len(transitions), OBS_DIM, generator=seeded(9)) * rows[:, None]
    return _transitions(
        len(transitions),
        next_obs=transitions.next_obs + wild,
        reward=transitions.reward + wild[:, 0],
        terminated=transitions.terminated ^ (rows & (wild[:, 1] > 0.7)),
    )


def test_held_out_rows_never_train():
    """The hold-out is scored once, after the last step, and every member is better there than at its start.

    So the weights of the last step are kept: they may depend on no held-out row, and on every other.
    """
    transitions = _transitions(400)
    held = holdout_mask(transitions.key, 0.2)
    one_training_row = torch.arange(400) == int((~held).nonzero()[5])
    states, errors = [], []
    for data in (transitions, _made_wild(transitions, held), _made_wild(transitions, one_training_row)):
        model = _model(max_steps=150, min_epoch_steps=150, joint=True)
        start = _state(model.network)
        errors.append(model.fit(data, seeded())["holdout_error"])
        of_all_rows = ("elites", "start_obs", "seen_range")
        states.append({name: value for name, value in _state(model).items() if name not in of_all_rows})
        kept = states[-1]["network.weights.0"]
        assert not any(torch.equal(kept[member], start["weights.0"][member]) for member in range(4))
    original, other_holdout, other_training = states
    assert errors[0] != errors[1]
    assert _equal(original, other_holdout)
    assert not _equal(original, other_training)


def test_rows_keep_their_side_as_data_grows():
    """The start states that a fit leaves are its training rows: no later fit has an earlier one's held-out row."""
    transitions = _transitions(600)
    held = {tuple(row) for row in transitions.obs[holdout_mask(transitions.key, 0.2)].tolist()}
    model = _model(max_steps=1)
    for rows in (50, 51, 200, 600):
        model.fit(transitions[torch.randperm(rows, generator=seeded(rows))], seeded())
        trained_on = {tuple(row) for row in model.start_obs.tolist()}
        assert held.isdisjoint(trained_on)
        assert abs(len(trained_on) - 0.8 * rows) < 2


# ------------------------------------------------------------------------------------- bootstrap


def _share_of_rows_seen(num_members: int, epochs: int) -> float:
    rows = 2000
    data = _fit_data(rows)
    data.y.requires_grad_()  # a row that is in nobody's resample gets no gradient
    settings = _settings(batch_size=100, min_epoch_steps=20, max_steps=20 * epochs)
    fit_ensemble(_network(num_members), data, _fit_data(50, seed=1), settings, seeded())
    return (data.y.grad != 0).any(-1).double().mean().item()


@pytest.mark.parametrize("num_members", [1, 2, 3])
def test_members_resample_the_rows_with_replacement_each_in_its_own_way(num_members):
    """A resample with replacement leaves out a share 1/e of the rows, independent ones e^-E together."""
    assert abs(_share_of_rows_seen(num_members, epochs=1) - (1 - math.exp(-num_members))) < 0.03


def test_a_member_keeps_its_resample_through_all_epochs():
    assert _share_of_rows_seen(1, epochs=4) == _share_of_rows_seen(1, epochs=1)


# ------------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize("metric", ["mse", "mae"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("learning_rate", [1e-3, 1e-2, 0.3])
def test_scores_are_those_of_the_kept_weights_and_never_worse_than_at_the_start(learning_rate, seed, metric):
    network = _network(seed=seed)
    holdout = _fit_data(60, seed=100 + seed)
    before = holdout_score(network, holdout, metric)
    settings = _settings(learning_rate=learning_rate, holdout_metric=metric)
    report = fit_ensemble(network, _fit_data(150, seed=seed), holdout, settings, seeded(seed))
    assert torch.equal(report.score, holdout_score(network, holdout, metric))
    assert (report.score <= before).all()
    assert all(torch.isfinite(p).all() for p in network.parameters())


def test_the_absolute_error_sees_the_smooth_rows_beside_a_few_wild_ones():
    """In a hold-out with a few impacts nobody can foresee, the squared error keeps whatever happens to lean to them."""
    holdout = _fit_data(200, num_logits=0, seed=1)
    wild = torch.arange(200) % 50 == 0
    smooth = holdout[(~wild).nonzero()[:, 0]]
    holdout.y[wild] += 100.0
    errors = {}
    for metric in ("mse", "mae"):
        network = _network(num_logits=0)
        settings = _settings(max_steps=600, patience=100, holdout_metric=metric)
        fit_ensemble(network, _fit_data(1000, num_logits=0), holdout, settings, seeded())
        errors[metric] = holdout_score(network, smooth, "mae")
    assert (errors["mae"] < 0.5 * errors["mse"]).all()


def test_weights_stay_where_nothing_improves():
    network = _network(num_members=1, num_logits=0)
    before = _state(network)
    report = fit_ensemble(network, _fit_data(150, 0), _known_by_heart(network, 0), _settings(), seeded())
    assert _equal(_state(network), before)
    assert report.score.tolist() == [0.0]
    assert report.steps > 0


def test_each_member_keeps_its_own_best():
    """Member 0 cannot become better on this hold-out; the others can, by learning what member 0 says."""
    network = _network(num_logits=0)
    data = _known_by_heart(network, 0)
    before, start = _state(network), holdout_score(network, data)
    report = fit_ensemble(network, data, data, _settings(max_steps=200), seeded())
    after = _state(network)
    assert all(torch.equal(after[name][0], before[name][0]) for name in after)
    assert (report.score[1:] < 0.5 * start[1:]).all()
    assert torch.equal(report.score, holdout_score(network, data))
    for member in (1, 2):
        assert not torch.equal(after["weights.0"][member], before["weights.0"][member])


@pytest.mark.filterwarnings("ignore:.*contradicts the real environment:UserWarning")
def test_elites_are_the_best_on_the_holdout_and_not_in_training():
    """Weights that cannot move, held-out rows that member 3 knows by heart, training rows that member 1 does."""
    model = _model(
        num_members=6,
        num_elites=4,
        learning_rate=1e-12,
        max_steps=1,
        normalize_targets=False,
        reward_fn="Pendulum-v1",
        termination_fn="Pendulum-v1",
    )
    transitions = _transitions(300)
    held = holdout_mask(transitions.key, 0.2)
    model.fit(transitions, seeded())  # fits the normaliser of the inputs, which do not change below
    x = model.input_normalizer.normalize(torch.cat([transitions.obs, transitions.action], -1))
    with torch.no_grad():
        deltas = torch.stack([model.network.member(member, x).mean for member in range(6)])
    delta = torch.where(held[:, None], deltas[3], deltas[1])
    model.fit(_transitions(300, next_obs=transitions.obs + delta), seeded())
    errors = (deltas - delta).square().mean(-1)
    on_holdout, in_training = errors[:, held].mean(1), errors[:, ~held].mean(1)
    assert model.elites.tolist() == on_holdout.argsort()[:4].tolist()
    assert model.elites.tolist() != in_training.argsort()[:4].tolist()
    assert model.elites[0] == 3


# -------------------------------------------------------------------------------- length of a fit


@pytest.mark.parametrize("first", [0, 1, 3])  # one row held out, none of two, one of five at another place
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_tiny_data(rows, first):
    model = _model(patience=1, min_epoch_steps=30, max_steps=None, learning_rate=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    report = model.fit(_transitions(rows, key=torch.arange(rows) + first), seeded())
    assert report["rows"] == rows
    assert all(math.isfinite(value) for value in report.values())
    # Of a single row the mean is the row itself: there only the termination is left to be learned.
    assert not all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    # Patience is counted in epochs of at least `min_epoch_steps`, however little data there is.
    assert report["grad_steps"] >= 2 * 30
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    prediction = model.predict(torch.zeros(4, OBS_DIM), torch.zeros(4, ACTION_DIM), generator=seeded())
    assert torch.isfinite(prediction.next_obs).all()


@pytest.mark.filterwarnings("ignore:.*contradicts the real environment:UserWarning")
def test_little_data_is_learned():
    transitions = _transitions(60)
    model = _model(max_steps=None, reward_fn="Pendulum-v1", learning_rate=1e-2)
    model.fit(transitions, seeded())
    train = transitions[~holdout_mask(transitions.key, 0.2)]
    with torch.no_grad():
        predicted = model.predict(train.obs, train.action, deterministic=True).next_obs
    assert (predicted - train.next_obs).square().mean() < 0.3 * (train.next_obs - train.obs).var()


@pytest.mark.parametrize("patience", [0, 1, 4])
def test_patience_counts_epochs_without_a_gain(patience):
    """An epoch is a pass over the rows, or ``min_epoch_steps`` where that is longer."""
    network = _network(num_members=1, num_logits=0)
    never_better = _known_by_heart(network, 0)
    settings = _settings(patience=patience, min_epoch_steps=7, batch_size=50, max_steps=None)
    for rows, epoch_steps in ((1, 7), (100, 7), (1000, 20), (1001, 21)):
        report = fit_ensemble(network, _fit_data(rows, 0), never_better, settings, seeded())
        assert report.steps == (patience + 1) * epoch_steps


@pytest.mark.parametrize("max_steps", [1, 7, 20, 33])
@pytest.mark.parametrize(("joint", "networks"), [(True, 1), (False, 3)])
def test_max_steps_bounds_the_fit_of_each_network(max_steps, joint, networks):
    model = _model(max_steps=max_steps, min_epoch_steps=20, joint=joint)
    before = _state(model.network)
    report = model.fit(_transitions(200), seeded())
    assert report["grad_steps"] == networks * max_steps
    if max_steps == 33:
        assert not _equal(_state(model.network), before)


# ------------------------------------------------------------------------------------- randomness


def test_seeded_fits_are_equal_bit_for_bit():
    transitions = _transitions(300)
    models = [_model(max_steps=60) for _ in range(3)]
    reports = [model.fit(transitions, seeded(seed)) for model, seed in zip(models, (0, 0, 1), strict=True)]
    assert reports[0] == reports[1]
    assert _equal(models[0].state_dict(), models[1].state_dict())
    assert not _equal(models[0].state_dict(), models[2].state_dict())


def test_seed_of_the_initial_weights():
    one, same, other = (_state(_model(seed=seed).network) for seed in (0, 0, 1))
    assert _equal(one, same)
    assert not torch.equal(one["weights.0"], other["weights.0"])
    assert not torch.equal(one["weights.0"][0], one["weights.0"][1])


def test_global_generators_are_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    model = _model(max_steps=30)
    model.fit(_transitions(100), seeded())
    model.predict(torch.zeros(9, OBS_DIM), torch.zeros(9, ACTION_DIM), generator=seeded())
    model.predict(torch.zeros(OBS_DIM), torch.zeros(ACTION_DIM), generator=seeded())
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert all(np.array_equal(one, other) for one, other in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]


def test_without_a_generator_the_global_one_decides():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = _model(max_steps=30)
        model.fit(_transitions(100))
        states.append(_state(model))
    assert _equal(states[0], states[1])
    assert not _equal(states[0], states[2])


# -------------------------------------------------------------------------------------- bad input


def test_no_rows():
    with pytest.raises(ValueError, match="transitions must hold at least one row to fit a model, got 0"):
        _model().fit(_transitions(5)[:0], seeded())


@pytest.mark.parametrize(("name", "dim"), [("obs", OBS_DIM), ("action", ACTION_DIM), ("next_obs", OBS_DIM)])
def test_a_wrong_width_is_named_and_changes_nothing(name, dim):
    model = _model()
    before = _state(model)
    wide = _transitions(5, **{name: torch.zeros(5, dim + 1)})
    with pytest.raises(ValueError, match=rf"transitions\.{name} must have shape \[N, {dim}\], got \(5, {dim + 1}\)"):
        model.fit(wide, seeded())
    assert _equal(_state(model), before)


# ------------------------------------------------------------------------------ what is recovered


A = torch.tensor([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, -0.1, 0.8]])
B = torch.tensor([[0.5, 0.0], [0.0, 0.5], [0.3, -0.3]])
NOISE = torch.tensor([0.05, 0.1, 0.07])


def _linear_gaussian(rows: int, seed: int) -> tuple[Transitions, Tensor]:
    """Draw transitions of ``x' = A x + B u + noise``; returns them and the mean of ``x'``."""
    generator = seeded(seed)
    obs = torch.randn(rows, 3, generator=generator)
    action = torch.rand(rows, 2, generator=generator) * 2 - 1
    mean = obs @ A.T + action @ B.T
    next_obs = mean + NOISE * torch.randn(rows, 3, generator=generator)
    reward = obs[:, 0] - action[:, 1] + 0.05 * torch.randn(rows, generator=generator)
    never = torch.zeros(rows, dtype=torch.bool)
    return Transitions(obs, action, reward, next_obs, never, torch.arange(rows)), mean


@torch.no_grad()
def test_a_linear_gaussian_system_is_recovered():
    """Errors of the mean are in units of the true mean's spread; the noise is 4 to 9% of it."""
    model = _model(
        hidden=(32,),
        num_members=5,
        num_elites=3,
        weight_decay=0.0,
        batch_size=256,
        patience=8,
        max_steps=2000,
        termination_fn="Pendulum-v1",
    )
    with torch.enable_grad():
        model.fit(_linear_gaussian(16_000, seed=0)[0], seeded())
    fresh, mean = _linear_gaussian(4000, seed=1)
    predicted = model.predict(fresh.obs, fresh.action, deterministic=True)
    assert ((predicted.next_obs - mean).square().mean(0).sqrt() / mean.std(0)).max() < 0.01
    true_reward = fresh.obs[:, 0] - fresh.action[:, 1]
    assert (predicted.reward - true_reward).square().mean().sqrt() / true_reward.std() < 0.03

    generator = seeded(2)
    samples = torch.stack([model.predict(fresh.obs, fresh.action, generator=generator).next_obs for _ in range(200)])
    spread = samples.var(0).mean(0).sqrt() / NOISE
    assert (spread - 1).abs().max() < 0.1, spread
    low, high = samples.quantile(0.05, dim=0), samples.quantile(0.95, dim=0)
    covered = ((fresh.next_obs > low) & (fresh.next_obs < high)).double().mean()
    assert 0.87 < covered < 0.93, covered


@torch.no_grad()
def test_a_termination_is_learned():
    """Toy: a point on a line is moved by the action, and the episode ends right of 1."""

    def toy(rows: int, seed: int) -> Transitions:
        generator = seeded(seed)
        obs = 3 * torch.rand(rows, 1, generator=generator) - 1
        action = torch.rand(rows, 1, generator=generator) - 0.5
        next_obs = obs + action
        return Transitions(obs, action, obs[:, 0], next_obs, next_obs[:, 0] > 1, torch.arange(rows))

    model = EnsembleDynamics(
        box(1), box(1), hidden=(32, 32), num_members=3, num_elites=2, learning_rate=3e-3, max_steps=600
    )
    with torch.enable_grad():
        model.fit(toy(2000, seed=0), seeded())
    fresh = toy(4000, seed=1)
    assert 0.2 < fresh.terminated.double().mean() < 0.8
    for deterministic in (True, False):
        predicted = model.predict(fresh.obs, fresh.action, generator=seeded(), deterministic=deterministic)
        assert predicted.terminated.dtype == torch.bool
        assert (predicted.terminated == fresh.terminated).double().mean() > 0.97


def test_a_capped_hold_out_is_spread_over_all_ages():
    mask = holdout_mask(torch.arange(60_000), 0.2)
    rows = spread_rows(mask, 5000)
    assert len(rows) == 5000 == len(rows.unique()) and mask[rows].all()
    assert rows[0] < 100 and rows[-1] > 59_900
    assert torch.equal(spread_rows(mask[:100], 5000), mask[:100].nonzero()[:, 0])


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_a_fit_of_noiseless_data_comes_to_an_end(metric):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    data = _data(x, x @ torch.tensor([[1.0, 0.5], [-0.5, 1.0]]), torch.zeros(200, 0))
    network = EnsembleMLP(2, 2, Heads(2), (16,), seed=0)
    endless = {"weight_decay": [0.0] * 2, "batch_size": 256, "patience": 0, "min_epoch_steps": 50, "max_steps": None}
    settings = _settings(**endless, holdout_metric=metric)
    before = fit_ensemble(network, data, data, settings, generator)
    assert before.steps < 50_000
    # From here on every gain is too small to count: one epoch.
    settings = _settings(**endless, learning_rate=1e-9, holdout_metric=metric)
    again = fit_ensemble(network, data, data, settings, generator)
    assert again.steps == 50
    assert (again.score <= before.score).all()
