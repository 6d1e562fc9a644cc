"""What benchmarks/ computes from runs, and the tasks that it makes."""

from __future__ import annotations

import importlib
import itertools
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mbrl_wrappers.zoo.training.progress import Evaluation

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Pages of docs/results that are made of committed CSV files, and the modules that make them.
PAGES = {
    **{name: name for name in ("gradients", "latent", "locomotion", "reward_scale", "trust")},
    **{name: name for name in ("averaging", "index", "planning", "reward_transfer", "world_models")},
    "i2a": "i2a_page",
    "learning": "learning_report",
    "search": "self_play",
}


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import comparisons

    return comparisons


@pytest.fixture
def noisy_tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import noisy_tasks

    return noisy_tasks


def curve(*returns: float) -> list[Evaluation]:
    return [Evaluation(100 * i, value, 0.0, 0, 0.0, 0.0) for i, value in enumerate(returns, 1)]


def test_a_table_counts_the_steps_to_the_target_and_what_share_of_each_base_s_they_are(comparisons: Any):
    own = {0: curve(-5, 0, -5, 0), 1: curve(-5, -5, 0, 0)}
    bases = {"slow": {0: curve(-5, -5, -5, 0), 1: curve(0, 0, 0, 0)}, "fast": {0: curve(0, 0), 1: curve(0, 0)}}
    assert comparisons.reaches(0.0, own, {}) == ["200, 300", "250", "-"]
    assert comparisons.reaches(0.0, own, {"slow": bases["slow"]}) == ["200, 300", "250", "1.00"]
    assert comparisons.reaches(0.0, own, bases)[2] == "1.00 (slow); 2.50 (fast)"


def test_a_seed_that_does_not_reach_the_target_bounds_the_mean(comparisons: Any):
    reached, missed = {0: curve(-5, 0)}, {0: curve(-5, -5, -5, -5)}
    assert comparisons.reaches(0.0, missed, {"base": reached}) == [">400", ">400", ">2.00"]
    assert comparisons.reaches(0.0, reached, {"base": missed}) == ["200", "200", "<0.50"]
    assert comparisons.reaches(0.0, missed, {"base": missed})[2] == "unknown"


def test_only_seeds_that_both_have_are_compared(comparisons: Any):
    own, base = {0: curve(0), 1: curve(-5, -5, 0)}, {1: curve(-5, -5, -5, -5, -5, 0), 2: curve(0)}
    assert comparisons.reaches(0.0, own, {"base": base})[2] == "0.50"
    assert comparisons.reaches(0.0, {0: curve(0)}, {"base": base})[2] == "-"


@pytest.mark.parametrize("module", ["gradients", "trust"])
def test_every_experiment_names_runs_that_can_be_made(comparisons: Any, module: str):
    page = importlib.import_module(module).PAGE
    for name, experiment in page.experiments.items():
        files = [comparisons.file_of(page, name, label, 0) for label in experiment.columns]
        assert len(set(files)) == len(files)
        for label in experiment.columns:
            assert comparisons.spec_of(page, name, label, 3).seed == 3
        named = itertools.chain(experiment.pairs, *experiment.pairs.values(), *experiment.panels.values())
        assert set(named) <= experiment.columns.keys()
        for label, other in experiment.borrowed.items():
            assert comparisons.spec_of(page, name, label, 0) == comparisons.spec_of(page, other, label, 0)


def test_every_module_that_makes_a_page_of_committed_rows_is_known():
    sources = {file.stem: file.read_text(encoding="utf-8") for file in BENCHMARKS.glob("*.py")}
    makers = {name for name, text in sources.items() if re.search(r"^(PAGE = Page\(|def document\(\))", text, re.M)}
    assert makers == set(PAGES.values())


@pytest.mark.parametrize("name", PAGES)
def test_a_committed_page_is_what_its_rows_make(comparisons: Any, name: str):
    """Except for the line with the versions of packages, which differ between machines."""
    module = importlib.import_module(PAGES[name])
    made = comparisons.document(module.PAGE) if hasattr(module, "PAGE") else module.document()
    kept = (comparisons.RESULTS / f"{name}.md").read_text(encoding="utf-8")
    made, kept = (re.sub(r"^Python 3\.\S+, torch .*$", "", text, flags=re.M) for text in (made, kept))
    assert made.splitlines() == kept.splitlines(), "make the page anew, as it says, and commit it"


@pytest.mark.parametrize("agent", ["SAC", "MAAC", "DHMBPO", "SVG"])
def test_an_update_through_a_model_computes_what_it_must_and_no_more(comparisons: Any, agent: str):
    updates = importlib.import_module("updates")
    made = updates.make("Pendulum-v1", agent)
    assert 1.0 <= updates.counted_flops(made) / updates.floors("Pendulum-v1")[agent] < 1.02


def test_noise_on_actions_has_its_spread_and_stays_inside_the_bounds(noisy_tasks: Any):
    env = noisy_tasks.noisy("Pendulum-v1", 0.1)  # actions from -2 to 2
    env.reset(seed=0)
    taken = np.array([env.action(np.array([0.5], np.float32)) for _ in range(5000)])
    assert np.isclose(taken.mean(), 0.5, atol=0.02)
    assert np.isclose(taken.std(), 0.2, atol=0.01)
    assert max(env.action(np.array([2.0], np.float32)) for _ in range(100)) == 2.0
    env.reset(seed=0)
    assert env.action(np.array([0.5], np.float32)) == taken[0]  # the noise is the env's own
    still = noisy_tasks.noisy("Pendulum-v1", 0.0)
    still.reset(seed=0)
    assert still.action(np.array([0.5], np.float32)) == 0.5


def test_noise_that_can_t_be_added_is_refused(noisy_tasks: Any):
    with pytest.raises(ValueError, match="std must be at least 0, got -1"):
        noisy_tasks.noisy("Pendulum-v1", -1)
    with pytest.raises(ValueError, match="env must have bounded Box actions, got Discrete"):
        noisy_tasks.NoisyActions(gym.make("CartPole-v1"), 0.1)
