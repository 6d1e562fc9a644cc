"""`residual=False`: networks whose targets are the next observations themselves (FTFL)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.types import Transitions
from testing.models import box, seeded

MIXED = spaces.Dict({"speed": box(2), "gear": spaces.Discrete(3), "goal": box(1)})


def _model(space: spaces.Space | None = None, **kwargs: Any) -> EnsembleDynamics:
    settings = {"hidden": (16,), "num_members": 3, "num_elites": 2, "max_steps": 300, "residual": False, **kwargs}
    return EnsembleDynamics(box(2) if space is None else space, box(1), **settings)


def _transitions(rows: int = 600) -> Transitions:
    """Steps that land at a place that the action alone decides, whatever the place before."""
    generator = seeded()
    obs = 20 * torch.rand(rows, 2, generator=generator) - 10
    action = 2 * torch.rand(rows, 1, generator=generator) - 1
    next_obs = torch.cat([action, action.square()], dim=1)
    ends = next_obs[:, 0] > 0.5
    return Transitions(obs, action, next_obs[:, 0], next_obs, ends, torch.arange(rows))


@torch.no_grad()
@pytest.mark.parametrize("joint", [True, False])
def test_the_mean_is_the_networks_output(joint):
    model = _model(joint=joint, range_margin=None)
    obs, action = torch.randn(7, 2, generator=seeded()), torch.zeros(7, 1)
    x = model.input_normalizer.normalize(torch.cat([obs, action], dim=-1))
    means = model.network.members(model.elites.tolist(), x).mean.mean(0)
    predicted = model.predict(obs, action, deterministic=True).next_obs
    torch.testing.assert_close(predicted, means[:, :2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("joint", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*terminations:UserWarning")
def test_a_fit_finds_steps_rewards_and_ends(joint):
    model, transitions = _model(joint=joint, max_steps=None), _transitions()
    report = model.fit(transitions, seeded())
    predicted = model.predict(transitions.obs, transitions.action, deterministic=True)
    assert (predicted.next_obs - transitions.next_obs).abs().mean() < 0.1  # of places that are 10 apart before
    assert report["reward_r2"] > 0.9
    assert (predicted.terminated == transitions.terminated).double().mean() > 0.9


def test_targets_are_normalised_by_the_next_observations():
    model, transitions = _model(max_steps=1), _transitions()
    model.fit(transitions, seeded())
    # Rows that are held out count there, and not in the model.
    assert (model.target_normalizer.mean - transitions.next_obs.mean(0)).abs().max() < 0.1
    assert (model.target_normalizer.std - transitions.next_obs.std(0)).abs().max() < 0.1


def test_constant_columns_and_categories_stay_what_they_are():
    model = _model(MIXED, max_steps=50)
    MIXED.seed(0)
    elements = [MIXED.sample() for _ in range(160)]
    obs = model.obs_codec.encode({key: np.stack([element[key] for element in elements]) for key in MIXED})
    before, after = obs.chunk(2)
    gear, goal = slice(0, 3), slice(3, 4)  # a Dict's keys are sorted
    after[:, goal] = before[:, goal]
    action, never = torch.rand(80, 1, generator=seeded()), torch.zeros(80, dtype=torch.bool)
    model.fit(Transitions(before, action, torch.zeros(80), after, never, torch.arange(80)), seeded())
    predicted = model.predict(before, action, generator=seeded()).next_obs
    assert torch.equal(predicted[:, goal], before[:, goal])
    assert torch.equal(predicted[:, gear].sum(1), torch.ones(80))
    assert predicted[:, gear].unique().tolist() == [0, 1]


@pytest.mark.parametrize("joint", [True, False])
def test_real_steps_are_repeated(joint):
    model, transitions = _model(joint=joint, max_steps=20).double(), _transitions(60)
    model.fit(transitions, seeded())
    rows = [part.double().reshape(2, 30, -1) for part in (transitions.obs, transitions.action, transitions.next_obs)]
    action = rows[1].requires_grad_()
    next_obs, reward = model.inferred_step([0, 1])(rows[0], action, rows[2], transitions.reward.double().reshape(2, 30))
    torch.testing.assert_close(next_obs, rows[2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(reward, transitions.reward.double().reshape(2, 30), rtol=1e-6, atol=1e-6)
    next_obs.sum().backward()
    assert (action.grad != 0).all()


def test_saved_and_loaded(tmp_path):
    model = _model(max_steps=20)
    model.fit(_transitions(60), seeded())
    model.save(tmp_path / "model.safetensors")
    again = EnsembleDynamics.load(tmp_path / "model.safetensors")
    assert again.settings["residual"] is False
    obs, action = torch.randn(5, 2, generator=seeded()), torch.zeros(5, 1)
    one, other = (m.predict(obs, action, deterministic=True) for m in (model, again))
    assert torch.equal(one.next_obs, other.next_obs) and torch.equal(one.reward, other.reward)


@pytest.mark.parametrize("name", ["residual", "normalize_targets", "joint"])
@pytest.mark.parametrize("value", [1, None, "yes"])
def test_only_true_and_false(name, value):
    with pytest.raises(ValueError, match=f"{name} must be True or False, got {value!r}"):
        _model(**{name: value})
