"""Rare ends and rewards that are hard to learn: they are learned, and a fit says how well."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.fit import holdout_mask
from mbrl_wrappers.types import Transitions
from testing.models import seeded

ACTION = spaces.Box(-1.0, 1.0, (1,), np.float32)


def model_of(dim: int, **kwargs: Any) -> EnsembleDynamics:
    kwargs = {"hidden": (32, 32), "num_members": 3, "num_elites": 2, "max_steps": 400} | kwargs
    return EnsembleDynamics(spaces.Box(-np.inf, np.inf, (dim,), np.float32), ACTION, **kwargs)


def falling(rows: int, seed: int) -> Transitions:
    """Draw steps of a body that flies on; a few of them, that end on the floor, are ends."""
    source = seeded(seed)
    height, speed, gap = (scale * (2 * torch.rand(rows, generator=source) - 1) for scale in (1.0, 0.4, 1.0))
    action = torch.rand(rows, 1, generator=source) * 2 - 1
    next_speed = speed + 0.03
    there = height + 0.3 * next_speed
    next_obs = torch.stack([there, next_speed, gap - 0.04], -1)
    reward = pays(next_obs, action, next_obs)
    obs = torch.stack([height, speed, gap], -1)
    return Transitions(obs, action, reward, next_obs, ends(obs, action, next_obs), torch.arange(rows))


def pays(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.where(ends(obs, action, next_obs), -1.0, 0.1)


def ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, 0] < -0.9


def test_rare_ends_of_a_threshold_are_foreseen_with_few_false_alarms():
    data, fresh = falling(2000, seed=0), falling(4000, seed=1)
    assert 0.02 < fresh.terminated.double().mean() < 0.1
    model = model_of(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they are foreseen
        report = model.fit(data, seeded())
    for deterministic in (True, False):
        with torch.no_grad():
            said = model.predict(fresh.obs, fresh.action, generator=seeded(), deterministic=deterministic).terminated
        found = (said & fresh.terminated).sum()
        assert found > 0.55 * fresh.terminated.sum()
        assert found > 0.55 * said.sum()
    assert report["ends_recall"] > 0.4 and report["ends_precision"] > 0.6 and 0.4 < report["reward_r2"] <= 1


def test_ends_that_nothing_foretells_are_told_of_once():
    data = falling(1500, seed=0)
    chance = torch.rand(1500, generator=seeded(7)) < 0.1
    by_chance = Transitions(data.obs, data.action, data.reward, data.next_obs, chance, data.key)
    model = model_of(3)
    with pytest.warns(UserWarning, match="the model foresees none of the .* terminations among .* Either") as caught:
        model.fit(by_chance, seeded())
        model.fit(by_chance, seeded())
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("ends", [0, 3])
def test_no_end_and_few_ends_are_nothing_to_warn_of(ends: int):
    data = falling(300, seed=0)
    terminated = torch.zeros(300, dtype=torch.bool)
    terminated[holdout_mask(data.key, 0.2).nonzero()[:ends, 0]] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = model_of(3).fit(
            Transitions(data.obs, data.action, data.reward, data.next_obs, terminated, data.key), seeded()
        )
    assert report.get("ends_recall", 0.0) == 0 and ("ends_recall" in report) == bool(ends)


# -- what a fit reports ----------------------------------------------------------------------------------


def said_by_hand(model: EnsembleDynamics, logit: float) -> None:
    """Make a model say: nothing changes, the reward is 2, and a step ends where the action is above 0.5."""
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        first, last = model.network.weights
        first[:, 1, 0] = 1.0  # the action, whose normaliser changes nothing
        model.network.biases[0][:, 0, 0] = -0.5
        last[:, 0, -1] = logit
        model.network.biases[-1][:, 0, 1] = 2.0


@pytest.mark.filterwarnings("ignore:the model foresees none:UserWarning")
def test_the_report_is_right_on_a_case_that_can_be_worked_out(monkeypatch):
    """Every fitted weight is put back, so that what a fit reports is what a model made by hand says."""
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (1,), np.float32),
        ACTION,
        joint=True,
        hidden=(1,),
        num_members=2,
        num_elites=1,
        max_steps=1,
        learning_rate=1e-12,
        normalize_targets=False,
    )
    said_by_hand(model, logit=100.0)
    rows = 200
    action = torch.rand(rows, 1, generator=seeded()) * 2 - 1
    obs = torch.randn(rows, 1, generator=seeded(1))
    ends = torch.rand(rows, generator=seeded(2)) < 0.4
    reward = torch.randn(rows, generator=seeded(3))
    data = Transitions(obs, action, reward, obs + 1, ends, torch.arange(rows))
    monkeypatch.setattr(model.input_normalizer, "fit", lambda rows: None)
    report = model.fit(data, seeded())
    held = data[holdout_mask(data.key, 0.2)]
    hidden = torch.nn.functional.silu(held.action[:, 0] - 0.5)
    chance = (100 * hidden).sigmoid()
    said, real = chance > 0.5, held.terminated
    assert 0 < said.sum() < len(said)
    assert report["ends_recall"] == pytest.approx((said & real).sum().item() / real.sum().item())
    assert report["ends_precision"] == pytest.approx((said & real).sum().item() / said.sum().item())
    of_real = torch.where(real, chance, 1 - chance).clamp(1e-6)
    assert report["ends_log_loss"] == pytest.approx(-of_real.log().mean().item(), rel=1e-3)
    r2 = 1 - (held.reward - 2).square().mean() / held.reward.var(unbiased=False)
    assert report["reward_r2"] == pytest.approx(r2.item(), rel=1e-3)


def test_what_is_given_or_never_varies_is_not_reported():
    data = falling(1000, seed=0)
    still = Transitions(
        data.obs, data.action, torch.ones(1000), data.next_obs, torch.zeros(1000, dtype=torch.bool), data.key
    )
    report = model_of(3, max_steps=5).fit(still, seeded())
    assert {"ends_recall", "reward_r2"}.isdisjoint(report) and report["ends_log_loss"] >= 0
    given = model_of(3, max_steps=5, reward_fn=pays, termination_fn=ends)
    report = given.fit(data, seeded())
    assert {"ends_log_loss", "reward_r2"}.isdisjoint(report)
    assert 0 <= report["ends_recall"] <= 1


# -- each network for as long as it improves ---------------------------------------------------------------


def hard_reward(rows: int, seed: int) -> Transitions:
    """Draw steps of which the next observation is noise, and the reward is learned only after a while."""
    obs, noise = torch.randn(2, rows, 8, generator=seeded(seed))
    action = torch.rand(rows, 1, generator=seeded(seed + 1)) * 2 - 1
    reward = obs[:, 0].abs() + action[:, 0] * obs[:, 1]
    never = torch.zeros(rows, dtype=torch.bool)
    return Transitions(obs, action, reward, obs + noise, never, torch.arange(rows))


def test_a_reward_goes_on_being_learned_where_the_state_has_long_been():
    data, fresh = hard_reward(2000, seed=0), hard_reward(2000, seed=10)
    steps, r2 = {}, {}
    for joint in (True, False):
        model = model_of(8, joint=joint, max_steps=2000, termination_fn="Pendulum-v1")
        steps[joint] = model.fit(data, seeded())["grad_steps"]
        with torch.no_grad():
            said = model.predict(fresh.obs, fresh.action, deterministic=True).reward
        r2[joint] = 1 - ((said - fresh.reward).square().mean() / fresh.reward.var()).item()
    assert steps[False] > 2 * steps[True]
    assert 1 - r2[False] < 0.4 * (1 - r2[True])
