"""Tuning: what is looked for, that a study goes on, and that its best recipe can be trained."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.storage.tables import write_rows
from mbrl_wrappers.zoo.sweeps import tuning
from mbrl_wrappers.zoo.sweeps.lock import FolderLock
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed, TrainingProcess
from mbrl_wrappers.zoo.sweeps.tuning import SPACE, Range, Trial, change, own_value, search_space, tune
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


RATE, UPDATES, HORIZON = "agent.learning_rate", "agent.gradient_steps", "agent.horizon"
RATIO, LENGTH, AHEAD = "strategy.real_ratio", "strategy.rollout_length", "strategy.horizon"
# By the arguments that each agent has. Imagined or real rows alone are what dhmbpo and sac_svg are.
LOOKED_FOR = {
    (RATE, UPDATES, RATIO, LENGTH): ("mbpo", "mad_td", "m2ac", "macura"),
    (RATE, UPDATES, HORIZON, RATIO, LENGTH): ("maac",),
    (RATE, UPDATES, HORIZON, LENGTH): ("dhmbpo",),
    (RATE, UPDATES, HORIZON): ("sac_svg", "svg"),
    (RATE, UPDATES, AHEAD): ("mve", "steve"),
    (RATE, UPDATES): ("alphazero", "exit"),
    (RATE, HORIZON): ("dreamer", "tdmpc2"),
    (RATE,): ("i2a",),
    (HORIZON,): ("poplin", "rs"),
    (): ("pets", "planet", "world_models"),
}


def test_every_agent_is_tuned_or_known_not_to_be() -> None:
    assert sorted(agent for agents in LOOKED_FOR.values() for agent in agents) == sorted(AGENTS)


@pytest.mark.parametrize(
    ("names", "agent"), [(names, agent) for names, agents in LOOKED_FOR.items() for agent in agents]
)
def test_settings_that_an_agent_has_are_looked_for_around_its_own(names: tuple[str, ...], agent: str) -> None:
    recipe = load_recipe(agent, "Pendulum-v1")
    if not names:
        with pytest.raises(ZooError, match="agent must have settings to look for"):
            search_space(agent, recipe)
        return
    space = search_space(agent, recipe)
    assert tuple(space) == names
    for name, values in space.items():
        own, usual = own_value(agent, recipe, name), SPACE[name]
        if isinstance(values, Range):
            assert isinstance(usual, Range)
            assert values == Range(min(usual.low, own), max(usual.high, own))
            tried: tuple[Any, ...] = (values.low, values.high)
        else:
            assert isinstance(usual, tuple)
            assert list(values) == sorted({*usual, own})
            tried = values
        for value in tried:
            check_arguments(agent, override(recipe, {name: value}))


@pytest.mark.parametrize("rate", [0, 0.0, -1e-3, "lin_0.001"])
def test_a_learning_rate_without_a_logarithm_is_not_looked_for(rate: Any) -> None:
    recipe = override(load_recipe("mbpo", "Pendulum-v1"), {RATE: rate})
    assert list(search_space("mbpo", recipe)) == [UPDATES, RATIO, LENGTH]


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
    fails_with: ClassVar[dict[int, Exception]] = {}  # by gradient_steps

    def __init__(self, label: str, spec: JobSpec, folder: Path, *, lock: FolderLock) -> None:
        self.spec, self._lock, self._looks = spec, FolderLock(os.dup(lock._descriptor)), 0
        self.value = -10.0 * spec.recipe.agent["gradient_steps"]
        self.last_evaluation = (10, self.value - 1)  # too early to be stopped as one below the median
        write_rows(folder / "progress.csv", [Evaluation(60, self.value, 0.0, 1, 1.0, 1.0)])
        self.made.append(self)

    def is_running(self) -> bool:
        self._looks += 1
        error = self.fails_with.get(self.spec.recipe.agent["gradient_steps"])
        if error is not None and self._looks == 3:
            self._lock.close()
            raise error
        return self._looks < 3

    def request_stop(self) -> None:
        self._looks = 3

    def stop(self, seconds: float = 0.0) -> None:
        self._lock.close()


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> list[QuickRun]:
    """Runs that take no time, of which a single setting with two values is looked for."""
    monkeypatch.setattr(QuickRun, "made", [])
    monkeypatch.setattr(QuickRun, "fails_with", {})
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
    repeated = 0
    for trial in found.trials:
        (updates,) = trial.params.values()
        assert trial == Trial(trial.number, {UPDATES: updates}, -10.0 * updates, "complete")
        (sentence,) = (one for one in told if one.startswith(f"trial {trial.number}: "))
        before = re.fullmatch(
            rf"trial \d+: return {trial.value:.1f}(?:, as trial (\d+) of the same settings)?  {UPDATES}={updates}",
            sentence,
        )
        assert before is not None, sentence
        if before[1] is not None:
            repeated += 1
            assert int(before[1]) < trial.number and found.trials[int(before[1])].params == trial.params
    assert repeated == 5 if workers == 1 else 0 < repeated <= 5  # others ended with the run of their settings
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
        updates = trial.params["agent.gradient_steps"]
        ended = ("pruned", -51.0) if updates == 5 else ("complete", -10.0 * updates)
        assert (trial.state, trial.value) == ended
    assert {trial.params["agent.gradient_steps"] for trial in found.trials} == {1, 5, 10}


@pytest.mark.parametrize("error", [ValueError("a value of mine"), TrainingFailed("died\nKeyError: 7")])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_ends_its_trial_alone(
    error: Exception, workers: int, quick_runs: list[QuickRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuickRun, "fails_with", {10: error})  # the recipe's own
    told: list[str] = []
    found = tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=8, workers=workers, tell=told.append, **FEW)
    states = [(trial.state, trial.params[UPDATES] == 10) for trial in found.trials]
    assert states[0] == ("failed", True) and set(states) == {("failed", True), ("complete", False)}
    assert told[0] == f"trial 0: failed: {error}  {UPDATES}=10" and len(told) == len(found.trials) == 8
    assert found.plain is None
    assert found.best.value == max(trial.value for trial in found.trials if trial.value is not None)


@pytest.mark.parametrize(("error", "said"), [(ValueError("mine"), "mine"), (TrainingFailed("died\nE: 7"), "E: 7")])
def test_a_study_ends_if_the_first_runs_all_fail(
    error: Exception, said: str, quick_runs: list[QuickRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuickRun, "fails_with", dict.fromkeys((1, 5, 10), error))
    told: list[str] = []
    with pytest.raises(ZooError) as raised:
        tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=8, tell=told.append, **FEW)
    assert str(raised.value) == (
        "4 runs have failed and none has ended, so their settings are hardly the cause; "
        f"the last one failed with: {said}"
    )
    assert len(quick_runs) == len(told) == 4
    assert all(sentence.startswith(f"trial {number}: failed: ") for number, sentence in enumerate(told))
    QuickRun.fails_with.clear()  # whatever it was has been mended
    found = tune("mbpo", "Pendulum-v1", folder=tmp_path, trials=8, tell=told.append, **FEW)
    assert [trial.state for trial in found.trials] == ["failed"] * 4 + ["complete"] * 4


def test_a_run_waits_for_its_folder(quick_runs: list[QuickRun], tmp_path: Path) -> None:
    """Which the run of a study that was killed may have for a moment."""
    spec = make_job("mbpo", "Pendulum-v1", **{**ARGUMENTS, "params": PARAMS})
    folder, told = tmp_path / "trials" / spec.digest(), list[str]()
    left: Any = FolderLock.take_if_free(folder)
    study: Any = None
    trial: Any = SimpleNamespace(number=3)
    waiting = tuning._Running(trial, spec, tmp_path)
    for _ in range(3):
        assert waiting.look(study, told.append) is None and quick_runs == []
    assert told == [f"trial 3: waits for another process, which trains in {folder}"]  # said once
    left.close()
    assert waiting.look(study, told.append) is None and len(quick_runs) == 1
    assert FolderLock.take_if_free(folder) is None  # the run has it now
    quick_runs[0].stop()
    assert len(told) == 1


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


@pytest.mark.parametrize(
    "more", ["", " --num-envs 2", " -n 400", " -n 400 --num-envs 3 --params agent.learning_starts=70"]
)
def test_the_first_job_is_that_of_train(
    more: str, quick_runs: list[QuickRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """With as many envs, and with the recipe fitted to as few steps, which is told."""
    monkeypatch.chdir(tmp_path)
    spec = parser_of_commands(monkeypatch)(f"mbrl-zoo train mbpo --env Pendulum-v1{more}")
    told = [line.removeprefix("mbrl-zoo: ") for line in capsys.readouterr().err.splitlines()]
    assert main(f"tune mbpo --env Pendulum-v1 -t 1{more}".split()) == 0
    assert [run.spec for run in quick_runs] == [spec]
    assert (spec.recipe.num_envs > 1) == ("--num-envs" in more)
    out = capsys.readouterr().out.splitlines()
    assert out[: len(told)] == told and out[len(told)].startswith("trial 0: ")
    assert any("agent.learning_starts is 100, not 250" in line for line in told) == (more == " -n 400")
    best = parser_of_commands(monkeypatch)(out[-1])
    recipe = dataclasses.replace(spec.recipe, steps=spec.steps)
    assert best == dataclasses.replace(spec, seed=1, recipe=recipe)


def test_a_change_is_shown_with_digits_that_tell_the_values_apart() -> None:
    values = [1e-3, 3e-4, 0.1, 1 / 3, 12345.678, 1e-300]
    pairs = [(own, own * (1 + 10.0**-digits)) for own in values for digits in range(16)]
    for own, best in [*pairs, *((own, math.nextafter(own, 1e9)) for own in values)]:
        assert own != best
        shown = change(own, best).split(" in place of ")
        assert len(set(shown)) == 2, (own, best)
        assert [float(text) for text in shown] == pytest.approx([best, own], rel=5e-3)
        short = [f"{best:.3g}", f"{own:.3g}"]
        assert shown == short or len(set(short)) == 1  # more digits only where three are not enough
    assert change(1e-3, 1.0004e-3) == "0.0010004 in place of 0.001"
    assert change(1e-3, 2.3456e-3) == "0.00235 in place of 0.001"
    assert change(10, 1) == "1 in place of 10"


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
    assert found.plain.params == {
        name: own_value("mbpo", plain.recipe, name) for name in search_space("mbpo", plain.recipe, PARAMS)
    }
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
    stopped = r"stopped after (0 steps with a return of nan|\d+ steps with a return of -\d+\.\d)"
    assert re.match(rf"trial 1: {stopped}  agent.learning_rate=", told[1]), told[1]
    assert found.best.number == 0


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
    assert said[0].startswith("trial 0: failed: out of memory  agent.learning_rate=")


def test_a_mistake_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("tune mbpo --env Pendulum-v1 --trials 0".split()) == 2
    assert capsys.readouterr().err == "mbrl-zoo: error: trials must be a whole number of at least 1, got 0\n"
