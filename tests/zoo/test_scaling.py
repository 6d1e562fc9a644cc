"""Recipes fitted to fewer steps, and what the command says of it."""

from __future__ import annotations

import dataclasses

import pytest

from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import Recipe, load_recipe
from mbrl_wrappers.zoo.training.scaling import continued, shorten

SCHEDULE = [25_000, 155_000, 1, 15]


def recipe(steps: int, learning_starts: int) -> Recipe:
    return Recipe("SAC", steps, {"learning_starts": learning_starts}, {"rollout_length": SCHEDULE}, {}, {})


@pytest.mark.parametrize("steps", [1, 7, 60, 399, 400, 1000, 4000, 20_000, 125_000])
def test_a_short_run_is_never_random_for_more_than_a_quarter(steps: int) -> None:
    short, told = shorten(recipe(125_000, 5000), steps)
    assert short.agent["learning_starts"] <= max(steps / 4, 0)
    low, high, first, last = short.strategy["rollout_length"]
    assert 0 <= low < high and [first, last] == [1, 15]
    assert len(told) == (short.agent["learning_starts"] != 5000) + (low != SCHEDULE[0])


def test_a_run_that_has_the_time_keeps_its_random_steps() -> None:
    short, _ = shorten(recipe(50_000, 1500), 20_000)
    assert short.agent["learning_starts"] == 1500
    assert short.strategy["rollout_length"] == [10_000, 62_000, 1, 15]
    assert shorten(recipe(50_000, 1500), 50_000) == (recipe(50_000, 1500), [])
    assert shorten(recipe(50_000, 1500), 80_000) == (recipe(50_000, 1500), [])


def test_what_the_user_has_chosen_stays() -> None:
    short, told = shorten(recipe(125_000, 5000), 1000, fixed={"agent.learning_starts", "strategy.rollout_length"})
    assert short == recipe(125_000, 5000) and told == []


def test_a_job_is_fitted_only_where_somebody_is_told() -> None:
    told: list[str] = []
    job = make_job("mbpo", "Pendulum-v1", steps=400, tell=told.append)
    assert job.recipe.agent["learning_starts"] == 100
    assert told == [
        "agent.learning_starts is 100, not 250, since 400 steps are fewer than the recipe's 2,500",
    ]
    quiet = make_job("mbpo", "Pendulum-v1", steps=400)
    assert quiet.recipe == load_recipe("mbpo", "Pendulum-v1")
    assert make_job("mbpo", "Pendulum-v1", tell=told.append) == make_job("mbpo", "Pendulum-v1")
    assert len(told) == 1


def test_steps_that_are_rounded_up_are_told() -> None:
    told: list[str] = []
    make_job("mbpo", "MountainCarContinuous-v0", steps=15_010, tell=told.append)
    assert told == ["steps are taken 32 at a time (agent.train_freq): the run ends after 15,040, not 15,010"]
    make_job("mbpo", "MountainCarContinuous-v0", steps=15_040, tell=told.append)
    assert len(told) == 1


@pytest.mark.filterwarnings("ignore:.*latest versioned environment")
def test_an_id_without_a_version_and_a_missing_device_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told: list[str] = []
    make_job("mbpo", "Pendulum", device="auto", tell=told.append)
    assert told == [
        "Pendulum is Pendulum-v1 here; write its version, since the next one may be another env",
        "device auto is the CPU: torch finds no CUDA here",
    ]


def test_a_longer_job_goes_on_as_it_was_begun() -> None:
    begun = make_job("mbpo", "Pendulum-v1", steps=400, tell=lambda sentence: None)
    longer = make_job("mbpo", "Pendulum-v1", steps=1000, tell=lambda sentence: None)
    gone_on = continued(begun, longer)
    assert gone_on == dataclasses.replace(begun, steps=1000) != longer
    assert continued(gone_on, longer) == gone_on  # the same command again
    assert continued(begun, longer, fixed={"eval_freq"}) is longer  # which the user wants otherwise
    assert continued(longer, begun) is begun  # there is no way back
    other = dataclasses.replace(longer, seed=1)
    assert continued(begun, other) is other
