"""What an ensemble predicts: shapes, members, moments, gradients, given functions, and bad arguments."""

from __future__ import annotations

import itertools
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.network import CHUNK_ROWS
from mbrl_wrappers.models.world_model import NUM_START_STATES
from mbrl_wrappers.tasks.registry import REWARDS, TERMINATIONS
from mbrl_wrappers.types import Prediction, Transitions
from testing.models import box, seeded

OBS_DIM, ACTION_DIM = 3, 2
FIELDS = ("next_obs", "reward", "terminated", "uncertainty")
MIXED = spaces.Dict(
    speed=spaces.Box(-1.0, 1.0, (2,), np.float32), gear=spaces.Discrete(3), lamps=spaces.MultiDiscrete([2, 2])
)


def _model(**kwargs: Any) -> EnsembleDynamics:
    """Build a model whose members, normalisers and elites are all unlike their initial values."""
    kwargs = {"hidden": (16, 16)} | kwargs
    model = EnsembleDynamics(box(OBS_DIM), box(ACTION_DIM), **kwargs)
    generator = seeded(1)
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith(("_normalizer.mean", "weights.2", "biases.2")):
            state[name] = value + 0.3 * torch.randn(value.shape, generator=generator)
        elif name.endswith("_normalizer.std"):
            state[name] = 0.5 + torch.rand(value.shape, generator=generator)
    state["elites"] = torch.randperm(model.network.num_members, generator=generator)[: len(model.elites)]
    model.load_state_dict(state)
    return model


def _inputs(*batch: int, seed: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    obs = torch.randn(*batch, OBS_DIM, generator=generator, dtype=dtype)
    return obs, torch.randn(*batch, ACTION_DIM, generator=generator, dtype=dtype)


def _all_to(member: int, rows: int) -> Tensor:
    return torch.full((rows,), member)


@torch.no_grad()
def _moments(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each elite's normalised targets, and its chance of an end: ``[elites, N, ...]``."""
    x = (torch.cat([obs, action], -1) - model.input_normalizer.mean) / model.input_normalizer.std
    outputs = [model.network.member(member, x) for member in model.elites.tolist()]
    means, stds, _, _, logits = (torch.stack(parts) for parts in zip(*outputs, strict=True))
    return means, stds.square(), logits.sigmoid()


def _members_of(model: EnsembleDynamics, uncertainty: Tensor, obs: Tensor, action: Tensor) -> Tensor:
    """Tell from the uncertainty of predictions for one and the same input which member made each."""
    members = range(model.network.num_members)
    known = torch.stack([model.predict(obs, action, members=torch.tensor(m)).uncertainty for m in members])
    distance = (uncertainty[:, None] - known).abs()
    assert distance.min(1).values.max() < 1e-5 and known.sort().values.diff().min() > 1e-4
    return distance.argmin(1)


# ---------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("batch", [(), (0,), (1,), (7,), (3, 4), (2, 3, 4)])
def test_shapes(batch, deterministic):
    obs, action = _inputs(*batch)
    prediction = _model().predict(obs, action, generator=seeded(), deterministic=deterministic)
    assert isinstance(prediction, Prediction)
    assert prediction.next_obs.shape == (*batch, OBS_DIM)
    for name in ("reward", "terminated", "uncertainty"):
        assert getattr(prediction, name).shape == batch
    assert prediction.terminated.dtype == torch.bool
    assert all(torch.isfinite(getattr(prediction, name)).all() for name in FIELDS)
    assert (prediction.uncertainty > 0).all()


@torch.no_grad()
def test_leading_dimensions_are_only_a_form():
    model = _model()
    obs, action = _inputs(6, 5)
    for deterministic in (True, False):
        folded = model.predict(obs, action, generator=seeded(), deterministic=deterministic)
        flat = model.predict(obs.flatten(0, 1), action.flatten(0, 1), generator=seeded(), deterministic=deterministic)
        for name in FIELDS:
            assert torch.equal(getattr(folded, name).flatten(0, 1), getattr(flat, name))
    members = torch.arange(30) % 7
    folded = model.predict(obs, action, generator=seeded(), members=members.reshape(6, 5))
    flat = model.predict(obs.flatten(0, 1), action.flatten(0, 1), generator=seeded(), members=members)
    assert torch.equal(folded.next_obs.flatten(0, 1), flat.next_obs)


def test_parts_that_are_one_hot_stay_one_hot():
    model = EnsembleDynamics(MIXED, spaces.Discrete(2), hidden=(16,))
    MIXED.seed(0)
    elements = [MIXED.sample() for _ in range(50)]
    obs = model.obs_codec.encode({key: np.stack([element[key] for element in elements]) for key in MIXED})
    action = torch.eye(2)[torch.randint(2, (50,), generator=seeded())]
    for deterministic in (True, False):
        next_obs = model.predict(obs, action, generator=seeded(), deterministic=deterministic).next_obs
        speed, *blocks = next_obs.split([2, 3, 2, 2], dim=-1)
        for block in blocks:
            hot = block.round()
            torch.testing.assert_close(block, hot, rtol=0, atol=1e-6)
            assert ((hot == 0) | (hot == 1)).all() and (hot.sum(-1) == 1).all()
        assert not torch.allclose(speed, obs[:, :2])


# --------------------------------------------------------------------------------------- moments


@torch.no_grad()
def test_deterministic_prediction_is_the_moment_matched_mixture_of_the_elites():
    model = _model(joint=True)
    obs, action = _inputs(40)
    means, variances, chances = _moments(model, obs, action)
    second_moment = (variances + means.square()).mean(0)  # E[y^2] = Var[y] + E[y]^2, of each elite and of all
    mean = means.mean(0)
    variance = second_moment - mean.square()
    target = mean * model.target_normalizer.std + model.target_normalizer.mean
    prediction = model.predict(obs, action, deterministic=True)
    torch.testing.assert_close(prediction.next_obs, obs + target[:, :OBS_DIM], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.reward, target[:, OBS_DIM], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.uncertainty, variance.mean(-1).sqrt(), rtol=1e-4, atol=1e-5)
    assert torch.equal(prediction.terminated, chances.mean(0)[:, 0] > 0.5)
    assert 0 < prediction.terminated.sum() < 40


@torch.no_grad()
def test_disagreement_counts_in_the_uncertainty_of_a_deterministic_prediction():
    model = _model(joint=True)
    obs, action = _inputs(40)
    _, variances, _ = _moments(model, obs, action)
    noise_alone = variances.mean(0).mean(-1).sqrt()
    assert (model.predict(obs, action, deterministic=True).uncertainty > noise_alone).all()
    single = _model(num_members=1, num_elites=1, joint=True)
    _, variances, _ = _moments(single, obs, action)
    for deterministic in (True, False):
        uncertainty = single.predict(obs, action, generator=seeded(), deterministic=deterministic).uncertainty
        torch.testing.assert_close(uncertainty, variances[0].mean(-1).sqrt(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_samples_are_the_members_gaussian():
    rows = 40_000
    model = _model(joint=True)
    obs, action = _inputs()
    member = int(model.elites[1])
    sample = model.predict(
        obs.expand(rows, -1), action.expand(rows, -1), generator=seeded(), members=_all_to(member, rows)
    )
    means, variances, chances = _moments(model, obs[None], action[None])
    scale, shift = model.target_normalizer.std, model.target_normalizer.mean
    mean, std = means[1, 0] * scale + shift, variances[1, 0].sqrt() * scale
    drawn = torch.cat([sample.next_obs - obs, sample.reward[:, None]], -1)
    standard = (drawn - mean) / std
    # Standard errors: 1 / sqrt(rows) = 0.005 of the mean, 0.0035 of the deviation, 0.005 of a correlation.
    assert standard.mean(0).abs().max() < 0.025
    assert (standard.std(0) - 1).abs().max() < 0.02
    assert (torch.corrcoef(standard.T) - torch.eye(OBS_DIM + 1)).abs().max() < 0.025
    within = (standard.abs() < 1.6449).double().mean()
    assert 0.89 < within < 0.91
    chance = chances[1, 0].item()
    assert 0.1 < chance < 0.9 and abs(sample.terminated.double().mean() - chance) < 0.015


# ---------------------------------------------------------------------------- members of a batch


@torch.no_grad()
def test_rows_are_predicted_by_the_members_asked_for():
    model = _model()
    obs, action = _inputs(60)
    members = torch.randint(7, (60,), generator=seeded())
    routed = model.predict(obs, action, generator=seeded(5), members=members)
    for member in range(7):
        alone = model.predict(obs, action, generator=seeded(5), members=_all_to(member, 60))
        mine = members == member
        assert mine.any()
        for name in FIELDS:
            torch.testing.assert_close(getattr(routed, name)[mine], getattr(alone, name)[mine], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rows", [10, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 3])
def test_a_row_does_not_depend_on_its_batch(rows):
    model = _model(joint=True)
    with torch.no_grad():  # nothing of an end is left to chance
        for last in (model.network.weights[-1], model.network.biases[-1]):
            last[..., -1] *= 1e6
    obs, action = _inputs(rows)
    batch = model.predict(obs, action, deterministic=True)
    # The noise is drawn for the batch as a whole; the same noise is had by the same members alone.
    sampled = model.predict(obs, action, generator=seeded(), members=torch.arange(rows) % 7)
    probes = {0, 1, rows // 2, rows - 2, rows - 1} | {row for row in (CHUNK_ROWS - 1, CHUNK_ROWS) if row < rows}
    for row in sorted(probes):
        alone = model.predict(obs[row], action[row], deterministic=True)
        for name in FIELDS:
            torch.testing.assert_close(getattr(batch, name)[row], getattr(alone, name), rtol=1e-4, atol=1e-5)
        same_member = model.predict(obs[row], action[row], members=torch.tensor(row % 7))
        torch.testing.assert_close(sampled.uncertainty[row], same_member.uncertainty, rtol=1e-4, atol=1e-5)
        assert sampled.terminated[row] == same_member.terminated


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, 3, 5, 203, CHUNK_ROWS + 1])
def test_every_elite_gets_its_share_of_the_rows(rows):
    model = _model(num_members=7, num_elites=5, joint=True)
    obs, action = _inputs()
    counts = torch.zeros(40, 7)
    for draw in range(40):
        generator = seeded(draw)
        prediction = model.predict(obs.expand(rows, -1), action.expand(rows, -1), generator=generator)
        counts[draw] = torch.bincount(_members_of(model, prediction.uncertainty, obs, action), minlength=7)
    elite = torch.zeros(7, dtype=torch.bool)
    elite[model.elites] = True
    assert (counts[:, ~elite] == 0).all()
    assert (counts[:, elite] >= rows // 5).all()
    assert (counts[:, elite] <= -(-rows // 5)).all()
    assert (counts[:, elite].sum(0) > 0).all()
    if rows % 5:  # who gets the rows that are left over is drawn, too
        assert (counts[:, elite].max(0).values > counts[:, elite].min(0).values).all()


@torch.no_grad()
def test_members_are_spread_over_the_rows_at_random():
    model = _model(joint=True)
    obs, action = _inputs()
    elites = set(model.elites.tolist())
    generator = seeded()
    drawn = []
    for _ in range(60):
        prediction = model.predict(obs.expand(10, -1), action.expand(10, -1), generator=generator)
        drawn.append(_members_of(model, prediction.uncertainty, obs, action))
    by_row = torch.stack(drawn, dim=1)
    for row in by_row:
        assert set(row.tolist()) == elites
    # Two rows each for five elites: one row shares its member with another in one draw of nine.
    for one, other in itertools.combinations(by_row, 2):
        assert 0 < (one == other).sum() < 25


@torch.no_grad()
def test_a_single_row_meets_every_elite():
    model = _model(num_members=7, num_elites=5, joint=True)
    obs, action = _inputs()
    generator = seeded()
    for batch in ((), (1,)):
        drawn = [
            model.predict(obs.expand(*batch, -1), action.expand(*batch, -1), generator=generator).uncertainty.reshape(1)
            for _ in range(200)
        ]
        counts = torch.bincount(_members_of(model, torch.cat(drawn), obs, action), minlength=7)
        assert counts.nonzero()[:, 0].tolist() == sorted(model.elites.tolist())
        assert counts[model.elites].min() > 20


@torch.no_grad()
def test_the_generator_decides_and_nothing_else():
    model = _model()
    for batch in ((), (1,), (50,)):
        obs, action = _inputs(*batch)
        torch.manual_seed(0)
        one = model.predict(obs, action, generator=seeded(3))
        torch.manual_seed(1)
        same = model.predict(obs, action, generator=seeded(3))
        other = model.predict(obs, action, generator=seeded(4))
        assert all(torch.equal(getattr(one, name), getattr(same, name)) for name in FIELDS)
        assert not torch.equal(one.next_obs, other.next_obs)
        means = [model.predict(obs, action, generator=seeded(seed), deterministic=True) for seed in (0, 1)]
        assert torch.equal(means[0].next_obs, means[1].next_obs)


# ------------------------------------------------------------------------------------- gradients


def test_gradient_of_the_mean():
    model = _model(hidden=(8,)).double()
    obs, action = _inputs(4, dtype=torch.float64)

    def predict(obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        prediction = model.predict(obs, action, deterministic=True)
        return prediction.next_obs, prediction.reward, prediction.uncertainty

    assert torch.autograd.gradcheck(predict, (obs.requires_grad_(), action.requires_grad_()))


@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
def test_gradient_of_a_sample_is_that_of_its_reparametrisation(batch):
    model = _model(hidden=(8,)).double()
    obs, action = _inputs(*batch, dtype=torch.float64)
    members = torch.randint(7, batch, generator=seeded())

    def predict(obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        prediction = model.predict(obs, action, generator=seeded(7), members=members)
        return prediction.next_obs, prediction.reward, prediction.uncertainty

    assert torch.autograd.gradcheck(predict, (obs.requires_grad_(), action.requires_grad_()))


@pytest.mark.parametrize("rows", [1, 12, CHUNK_ROWS + 1])
@pytest.mark.parametrize("deterministic", [True, False])
def test_gradients_reach_inputs_and_weights(deterministic, rows):
    model = _model()
    obs, action = (value.requires_grad_() for value in _inputs(rows))
    prediction = model.predict(obs, action, generator=seeded(), deterministic=deterministic)
    (prediction.next_obs.sum() + prediction.reward.sum()).backward()
    assert (action.grad != 0).any(-1).all()
    assert all(parameter.grad is not None for parameter in model.network.weights)
    with torch.no_grad():
        again = model.predict(obs, action, generator=seeded(), deterministic=deterministic)
    torch.testing.assert_close(again.next_obs, prediction.next_obs.detach())
    assert not again.next_obs.requires_grad


def test_gradients_through_a_rollout_and_a_given_reward():
    """A plan is improved through the model: d(sum of rewards)/d(actions) exists at every step."""
    model = _model(reward_fn=lambda obs, action, next_obs: next_obs.sum(-1) - action.square().sum(-1))
    obs, _ = _inputs(5)
    actions = torch.zeros(4, 5, ACTION_DIM, requires_grad=True)
    generator, total = seeded(), torch.zeros(())
    for action in actions:
        prediction = model.predict(obs, action, generator=generator)
        obs, total = prediction.next_obs, total + prediction.reward.sum()
    total.backward()
    assert (actions.grad != 0).any(-1).all()


# ------------------------------------------------------------------------------- given functions


def test_given_functions_replace_the_learned_heads():
    calls = []

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        calls.append((obs, action, next_obs))
        return 2 * obs[..., 0] - action[..., 1] + next_obs[..., 2]

    def termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return next_obs[..., 0] > obs[..., 0]

    model = _model(reward_fn=reward, termination_fn=termination)
    for batch in ((), (7,), (3, 4)):
        obs, action = _inputs(*batch)
        for deterministic in (True, False):
            prediction = model.predict(obs, action, generator=seeded(), deterministic=deterministic)
            torch.testing.assert_close(prediction.reward, reward(obs, action, prediction.next_obs))
            assert torch.equal(prediction.terminated, termination(obs, action, prediction.next_obs))
    seen_obs, seen_action, _ = calls[0]
    assert seen_obs.shape == (1, OBS_DIM) and seen_action.shape == (1, ACTION_DIM)


def test_functions_of_a_known_environment():
    env = gym.make("Pendulum-v1")
    model = EnsembleDynamics(
        env.observation_space, env.action_space, hidden=(8,), reward_fn="Pendulum-v1", termination_fn="Pendulum-v1"
    )
    assert model.reward_fn is REWARDS["Pendulum-v1"]
    assert model.termination_fn is TERMINATIONS["Pendulum-v1"]
    obs, action = torch.randn(5, 3, generator=seeded()), torch.randn(5, 1, generator=seeded(1))
    prediction = model.predict(obs, action, generator=seeded())
    expected = REWARDS["Pendulum-v1"](obs, action, prediction.next_obs)
    torch.testing.assert_close(prediction.reward, expected)


@pytest.mark.parametrize(
    ("name", "function", "got"),
    [
        ("reward_fn", lambda obs, *_: obs[..., :1], r"shape \(4, 1\)"),
        ("reward_fn", lambda obs, *_: obs.sum(), r"shape \(\)"),
        ("reward_fn", lambda obs, *_: obs[..., 0] > 0, r"dtype torch\.bool"),
        ("reward_fn", lambda obs, *_: obs[..., 0].long(), r"dtype torch\.int64"),
        ("reward_fn", lambda obs, *_: 1.0, "float: 1.0"),
        ("termination_fn", lambda obs, *_: obs[..., :1] > 0, r"shape \(4, 1\)"),
        ("termination_fn", lambda obs, *_: obs[..., 0], r"dtype torch\.float32"),
        ("termination_fn", lambda obs, *_: (obs[..., 0] > 0).float(), r"dtype torch\.float32"),
        ("termination_fn", lambda obs, *_: np.zeros(4, dtype=bool), "ndarray"),
        ("termination_fn", lambda obs, *_: None, "NoneType"),
    ],
)
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_function_that_returns_something_else_is_named(name, function, got, deterministic):
    model = _model(**{name: function})
    dtype = "floating" if name == "reward_fn" else "bool"
    expected = rf"^{name} must return a tensor of shape \(4,\) and {dtype} dtype, got .*{got}"
    with pytest.raises(ValueError, match=expected):
        model.predict(*_inputs(4), generator=seeded(), deterministic=deterministic)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (lambda: gym.make("CartPole-v1"), "CartPole-v1"),
        (lambda: gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1")), "CartPole-v1"),
        (lambda: gym.make("CartPole-v1", sutton_barto_reward=True), "learned"),
        (lambda: gym.wrappers.DelayObservation(gym.make("CartPole-v1"), 1), "learned"),
        (lambda: gym.make("FrozenLake-v1"), "learned"),
    ],
    ids=["registered", "recorded", "other arguments", "other observations", "unknown"],
)
def test_for_env_takes_the_known_termination_of_an_env_as_registered(env, expected):
    env = env()
    model = EnsembleDynamics.for_env(env, hidden=(8,))
    assert (model.termination_name, model.reward_name) == (expected, "learned")
    assert (model.observation_space, model.action_space) == (env.observation_space, env.action_space)
    own = EnsembleDynamics.for_env(env, hidden=(8,), termination_fn=lambda obs, *_: obs[..., 0] > 0)
    assert own.termination_name == "custom"


# ---------------------------------------------------------------------------------- start states


@pytest.mark.parametrize("rows", [1, 10, NUM_START_STATES + 2000])
def test_a_fit_leaves_start_states_that_were_observed(rows):
    obs, action = _inputs(rows)
    fields = {"reward": obs[:, 0], "next_obs": obs + 1, "terminated": obs[:, 0] > 2, "key": torch.arange(rows)}
    model = EnsembleDynamics(box(OBS_DIM), box(ACTION_DIM), hidden=(8,), max_steps=1)
    assert model.start_obs.shape == (0, OBS_DIM)
    model.fit(Transitions(obs=obs, action=action, **fields), seeded())
    assert 0.7 * min(rows, NUM_START_STATES) <= len(model.start_obs) <= NUM_START_STATES
    observed = {tuple(row) for row in obs.tolist()}
    starts = [tuple(row) for row in model.start_obs.tolist()]
    assert set(starts) <= observed and len(set(starts)) == len(starts)
    assert model.start_obs.untyped_storage().data_ptr() != obs.untyped_storage().data_ptr()


# ------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_members": 0, "num_elites": 0}, "num_members must be a whole number of at least 1, got 0"),
        ({"num_elites": 0}, "num_elites must be a whole number of at least 1, got 0"),
        ({"num_elites": 8}, "num_elites must be at most num_members=7, got 8"),
        ({"num_members": 3}, "num_elites must be at most num_members=3, got 5"),
        ({"hidden": ()}, "hidden must name the units of at least one layer, got ()"),
        ({"hidden": (8, 0)}, "hidden must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be in (0, 1], got 0.0"),
        ({"learning_rate": 99}, "learning_rate must be in (0, 1], got 99"),
        ({"learning_rate": float("nan")}, "learning_rate must be in (0, 1], got nan"),
        ({"weight_decay": -1e-4}, "weight_decay must be in [0, 1], got -0.0001"),
        ({"weight_decay": [0.0, 2.0]}, "weight_decay must be in [0, 1], got 2.0"),
        ({"weight_decay": [1e-4] * 3}, "weight_decay must have one number per layer, 2, got [0.0001, 0.0001, 0.0001]"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"num_members": 2.0}, "num_members must be a whole number of at least 1, got 2.0"),
        ({"batch_size": True}, "batch_size must be a whole number of at least 1, got True"),
        ({"learning_rate": "1e-3"}, "learning_rate must be in (0, 1], got '1e-3'"),
        ({"hidden": 64}, "hidden must name the units of at least one layer, got 64"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, got 2.5"),
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1, got 0"),
        ({"min_epoch_steps": -1}, "min_epoch_steps must be a whole number of at least 1, got -1"),
        ({"beta_nll": 1.5}, "beta_nll must be in [0, 1], got 1.5"),
        ({"num_components": 0}, "num_components must be a whole number of at least 1, got 0"),
        ({"num_components": 1.5}, "num_components must be a whole number of at least 1, got 1.5"),
        ({"joint": "yes"}, "joint must be True or False, got 'yes'"),
        ({"range_margin": -0.1}, "range_margin must be in [0, "),
        ({"range_margin": float("nan")}, "got nan"),
        ({"averaging": 1.0}, "averaging must be in [0, 1), got 1.0"),
        ({"averaging": -0.1}, "averaging must be in [0, 1), got -0.1"),
        ({"holdout_metric": "rmse"}, "holdout_metric must be one of ['mae', 'mse'], got 'rmse'"),
        ({"weight_decay": float("nan")}, "weight_decay must be in [0, 1], got nan"),
        ({"hidden": (2.5,)}, "hidden must be a whole number of at least 1, got 2.5"),
        ({"holdout_ratio": 0.0}, "holdout_ratio must be in (0, 1), got 0.0"),
        ({"holdout_ratio": 1.0}, "holdout_ratio must be in (0, 1), got 1.0"),
        ({"patience": -1}, "patience must be a whole number of at least 0, got -1"),
        ({"reward_fn": "Hopper-v5"}, "reward_fn must be a callable or one of ['Acrobot-v1'"),
        ({"termination_fn": "Hopper-v99"}, "termination_fn must be a callable or one of ['Acrobot-v1'"),
        ({"termination_fn": 3}, "termination_fn must be a callable or one of ['Acrobot-v1'"),
    ],
    ids=lambda value: ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_is_named_with_its_value(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        EnsembleDynamics(box(OBS_DIM), box(ACTION_DIM), **({"hidden": (8,)} | kwargs))
    if "_fn" in message:
        (value,) = kwargs.values()
        assert str(caught.value).endswith(f"got {value!r}")


def test_predicting_with_wrong_shapes_is_refused_by_name():
    model = _model()
    obs, action = _inputs(4)
    for arguments, message in (
        ((obs[:, :1], action), r"^obs must have shape \[..., 3\], got \(4, 1\)"),
        ((obs, obs), r"^action must have shape \[..., 2\], got \(4, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(*arguments)
    with pytest.raises(ValueError, match=r"^members must have shape \(4,\), got \(1,\)"):
        model.predict(obs, action, members=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"^members must be in \[0, 7\), got \[-1, 0\]"):
        model.predict(obs, action, members=torch.tensor([0, 0, -1, 0]))


def test_observations_of_another_precision_are_taken():
    model = _model()
    obs, action = _inputs(4)
    once, again = (model.predict(o, action, deterministic=True).next_obs for o in (obs, obs.double()))
    assert torch.equal(once, again)


def test_an_unsupported_space_is_named():
    with pytest.raises(ValueError, match=r"^observation_space\['said'\] is of the unsupported space Text"):
        EnsembleDynamics(spaces.Dict(said=spaces.Text(5)), box(ACTION_DIM))
    with pytest.raises(ValueError, match=r"^action_space is of the unsupported space Sequence"):
        EnsembleDynamics(box(OBS_DIM), spaces.Sequence(spaces.Discrete(2)))


def test_weight_decay_of_each_layer():
    assert EnsembleDynamics(box(1), box(1)).settings["weight_decay"] == [2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4]
    assert _model(hidden=(8, 8)).settings["weight_decay"] == [1e-4] * 3
    assert _model(hidden=(8,), weight_decay=0.0).settings["weight_decay"] == [0.0, 0.0]
    assert _model(hidden=(8,), weight_decay=(0.1, 0.2)).settings["weight_decay"] == [0.1, 0.2]


# ------------------------------------------------------------------------------- given functions


def test_a_fit_checks_given_functions_and_warns_once():
    def never(obs, action, next_obs):
        return torch.zeros(len(obs), dtype=torch.bool)

    obs, action = _inputs(20)
    ends = torch.zeros(20, dtype=torch.bool)
    ends[7] = True
    real = Transitions(obs, action, torch.zeros(20), obs, ends, torch.arange(20))
    model = _model(hidden=(8,), termination_fn=never, max_steps=5)
    with pytest.warns(
        UserWarning, match=r"termination_fn contradicts .* says False, the environment said True"
    ) as caught:
        model.fit(real, seeded())
        model.fit(real, seeded())
    assert len(caught) == 1
    assert str(obs[7].tolist()) in str(caught[0].message)


def test_tensors_on_another_device_are_refused_by_name():
    obs, action = _inputs(4)
    with pytest.raises(ValueError, match="obs must be on the model's device cpu, got meta"):
        _model().predict(obs.to("meta"), action)
