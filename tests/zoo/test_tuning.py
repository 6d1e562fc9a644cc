"""Tuning: what is looked for, that a study goes on, and that its best recipe can be trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed, TrainingProcess
from mbrl_wrappers.zoo.sweeps.tuning import SPACE, Range, search_space, tune
from mbrl_wrappers.zoo.training.building import check_arguments
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import load_recipe, override, recipe_yaml

PARAMS = {
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
ARGUMENTS = {"steps": 60, "params": PARAMS, "eval_episodes": 1, "eval_freq": 20, "save_freq": 0}


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
    assert load_recipe("mbpo", "Pendulum-v1", file=found.file) == dataclasses.replace(found.recipe, steps=60)
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
