"""Tuning: what is looked for, that a study goes on, and that its best recipe can be trained."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.storage.tables import write_rows
from mbrl_wrappers.zoo.sweeps import tuning
from mbrl_wrappers.zoo.sweeps.lock import FolderLock
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed, TrainingProcess
from mbrl_wrappers.zoo.sweeps.tuning import SPACE, Range, search_space, tune
from mbrl_wrappers.zoo.training.building import check_arguments
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.recipe import load_recipe, override, recipe_yaml
from testing.commands import parser_of_commands

PARAMS: dict[str, Any] = {
    "agent.learning_starts": 20,
    "agent.gradient_steps": 1,
    "agent.batch_size": 16,
    "agent.policy_kwargs": {"net_arch": [8]},
    "strategy.rollouts_per_step": 2,
    "strategy.rollout_length": 1,
    "model_based.fit_every": 50,
    "dynamics.hidden": [8],
    "dynamics.num_members": 2,
    "dynamics.num_elites": 2,
    "dynamics.max_steps": 5,
}
ARGUMENTS: dict[str, Any] = {"steps": 60, "params": PARAMS, "eval_episodes": 1, "eval_freq": 20, "save_freq": 0}


@pytest.mark.parametrize("agent", [name for name, record in AGENTS.items() if record.strategy is not None])
def test_every_setting_that_is_looked_for_is_one_of_the_agents(agent: str) -> None:
    recipe = load_recipe(agent, "Pendulum-v1")
    space = search_space(agent, recipe)
    assert 2 <= len(space) <= 5
    for name, values in space.items():
        section, _, argument = name.partition(".")
        own = getattr(recipe, section).get(argument)
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            check_arguments(agent, override(recipe, {name: value}))
        assert own is None or isinstance(values, Range) or own in values


def test_what_the_user_or_the_agent_fixes_is_not_looked_for() -> None:
    recipe = load_recipe("mbpo", "Hopper-v5")
    assert "strategy.rollout_length" not in search_space("mbpo", recipe)  # a schedule
    assert "strategy.real_ratio" not in search_space("dhmbpo", load_recipe("dhmbpo", "Hopper-v5"))  # imagined rows only
    assert "agent.learning_rate" not in search_space("mbpo", recipe, {"agent.learning_rate": 1e-3})
    with pytest.raises(ZooError, match="agent must have settings to look for"):
        search_space("mbpo", recipe, SPACE)


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    for agent in ("mbpo", "dhmbpo", "steve"):
        recipe = override(load_recipe(agent, "Pendulum-v1"), {"agent.learning_rate": 0.00012345})
        (tmp_path / "best.yml").write_text(recipe_yaml(recipe, 77))
        assert load_recipe(agent, "Any-v0", file=tmp_path / "best.yml") == dataclasses.replace(recipe, steps=77)


class QuickRun:
    """Stands for a training: it holds the folder's lock, and ends at the third look with a return by its settings."""

    made: ClassVar[list[QuickRun]] = []

    def __init__(self, label: str, spec: JobSpec, folder: Path, *, lock: FolderLock) -> None:
        self.spec, self._lock, self._looks = spec, FolderLock(os.dup(lock._descriptor)), 0
        self.value = -10.0 * spec.recipe.agent["gradient_steps"]
        self.last_evaluation = (10, self.value - 1)  # too early to be stopped as one below the median
        write_rows(folder / "progress.csv", [Evaluation(60, self.value, 0.0, 1, 1.0, 1.0)])
        self.made.append(self)

    def is_running(self) -> bool:
        self._looks += 1
        return self._looks < 3

    def request_stop(self) -> None:
        self._looks = 3

    def stop(self, seconds: float = 0.0) -> None:
        self._lock.close()


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> list[QuickRun]:
    """Runs that take no time, of which a single setting with two values is looked for."""
    monkeypatch.setattr(QuickRun, "made", [])
    monkeypatch.setattr(tuning, "TrainingProcess", QuickRun)
    monkeypatch.setattr(tuning, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "SPACE", {"agent.gradient_steps": (1, 5)})
    return QuickRun.made


FEW = {**ARGUMENTS, "params": {name: value for name, value in PARAMS.items() if name != "agent.gradient_steps"}}
FEW["params"]["agent.learning_rate"] = 1e-3


@pytest.mark.parametrize("workers", [1, 3])
def test_equal_settings_are_trained_once(workers: int, quick_runs: list[QuickRun], tmp_path: Path) -> None:
    """One after the other, and at the same time; and when the study goes on."""
    told: list[str] = []
    for trials in (5, 8):
        found = tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=trials, workers=workers, tell=told.append, **FEW)
    assert len(found.trials) == len(told) == 8 and len(quick_runs) == 3  # the recipe's own value is 10
    assert len({run.spec.digest() for run in quick_runs}) == 3
    for trial in found.trials:
        assert (trial.state, trial.value) == ("complete", -10.0 * trial.params["agent.gradient_steps"])
    assert sum("of the same settings" in sentence for sentence in told) == 5 or workers > 1
    assert found.best.value == -10.0 and found.plain is not None and found.plain.value == -100.0
    assert found.changes == {"agent.gradient_steps": (10, 1)}


def test_settings_that_were_stopped_are_not_tried_again(
    quick_runs: list[QuickRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    class Stops(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.params["agent.gradient_steps"] == 5

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda *_, **__: Stops())
    found = tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=8, tell=lambda _: None, **FEW)
    assert len(quick_runs) == 3 and len(found.trials) == 8
    for trial in found.trials:
        stopped = trial.params["agent.gradient_steps"] == 5
        assert (trial.state, trial.value) == (("pruned", -51.0) if stopped else ("complete", trial.value))


def test_a_run_waits_for_its_folder(quick_runs: list[QuickRun], tmp_path: Path) -> None:
    """Which the run of a study that was killed may have for a moment."""
    spec = make_job("mbpo", "Pendulum-v1", **{**ARGUMENTS, "params": PARAMS})
    left: Any = FolderLock.take_if_free(tmp_path / "trials" / spec.digest())
    study: Any = None
    waiting = tuning._Running(study, spec, tmp_path)
    assert waiting.look(study) is None and quick_runs == []
    left.close()
    assert waiting.look(study) is None and len(quick_runs) == 1
    assert FolderLock.take_if_free(tmp_path / "trials" / spec.digest()) is None  # the run has it now
    quick_runs[0].stop()


def test_what_is_printed_trains_the_best_settings(
    quick_runs: list[QuickRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "tune mbpo --env Pendulum-v1 --env-kwargs g=9.5 -t 6 -n 1500 --seed 4 --algo TD3 --folder".split()
    assert main([*words, "my study", "--params", "agent.gamma=0.5"]) == 0
    *lines, command = capsys.readouterr().out.strip().splitlines()
    best = next(run.spec for run in quick_runs if run.value == max(one.value for one in quick_runs))
    assert "What it changes in the recipe:" in lines and "  agent.gradient_steps: 1 in place of 10" in lines
    made = parser_of_commands(monkeypatch)(command)
    recipe = dataclasses.replace(best.recipe, steps=1500)
    assert made.to_json() == dataclasses.replace(best, seed=5, recipe=recipe).to_json()
    assert made.env_kwargs == {"g": 9.5} and made.recipe.algo == "TD3" and made.recipe.agent["gamma"] == 0.5


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def stop_after_one(sentence: str) -> None:
        told.append(sentence)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=2, workers=2, tell=stop_after_one, **ARGUMENTS)
    found = tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=2, tell=told.append, **ARGUMENTS)
    complete = [trial for trial in found.trials if trial.state == "complete"]
    assert len(complete) == len(told) == 2
    assert found.best.value == max(trial.value for trial in complete if trial.value is not None)
    plain = make_job("mbpo", "Pendulum-v1", **ARGUMENTS)
    assert found.plain is not None
    assert found.plain.params["agent.learning_rate"] == plain.recipe.agent["learning_rate"]
    assert load_recipe("mbpo", "Pendulum-v1", file=found.file) == found.job.recipe
    with pytest.raises(ZooError, match="folder must be new or hold a study of the same job"):
        tune("mbpo", "Pendulum-v1", folder=tmp_path, **{**ARGUMENTS, "steps": 80})


@pytest.mark.slow
def test_a_trial_that_falls_behind_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    class Stops(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.number > 0

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda *_, **__: Stops())
    told: list[str] = []
    found = tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=2, tell=told.append, **{**ARGUMENTS, "steps": 300})
    assert [trial.state for trial in found.trials] == ["complete", "pruned"]
    assert "stopped after" in told[1] and found.best.number == 0


@pytest.mark.slow
def test_a_study_goes_on_after_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run of the recipe's own settings ends in an error; the next one ends well."""
    looks = TrainingProcess.is_running
    failed: list[TrainingProcess] = []

    def is_running(self: TrainingProcess) -> bool:
        if not failed:
            failed.append(self)
        if self is failed[0]:
            self.stop(0)
            raise TrainingFailed("out of memory")
        return looks(self)

    monkeypatch.setattr(TrainingProcess, "is_running", is_running)
    said: list[str] = []
    found = tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=2, tell=said.append, **ARGUMENTS)
    assert [trial.state for trial in found.trials] == ["failed", "complete"]
    assert "failed: out of memory" in said[0]


def test_a_mistake_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("tune mbpo --env Pendulum-v1 --trials 0".split()) == 2
    assert capsys.readouterr().err == "mbrl-zoo: error: trials must be a whole number of at least 1, got 0\n"
