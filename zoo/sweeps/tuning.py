"""Search for better settings of a recipe on one env, with Optuna."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import argument_defaults
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.sweeps.executors import POLL_SECONDS
from mbrl_wrappers.zoo.sweeps.lock import FolderLock
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed, TrainingProcess, stop_all
from mbrl_wrappers.zoo.training.building import constructors_of, settable_names
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.recipe import Recipe, override, recipe_yaml

if TYPE_CHECKING:
    import optuna

STUDY = "study.log"
BEST = "best.yml"
# Trials before the first one may be stopped early, and the share of a run that each of them gets in any case. If so
# many runs fail and none has come to an end, their settings are hardly the cause.
_LEAST_TRIALS = 4
_ENDED = ("COMPLETE", "PRUNED")  # Optuna's names
_FAILED = "failed"  # marks a trial whose run has raised an error, unlike one that was interrupted
_LEAST_SHARE = 0.3


@dataclass(frozen=True)
class Range:
    """A number between two bounds, drawn by its logarithm."""

    low: float
    high: float


Choices = tuple[Any, ...]
# What is looked for: settings that matter in every agent that has them, and few, since each run is long.
SPACE: dict[str, Range | Choices] = {
    "agent.learning_rate": Range(1e-4, 3e-3),  # of actor and critic
    "agent.gradient_steps": (1, 5, 10, 20),  # updates per env step
    "agent.horizon": (1, 3, 5),  # imagined steps of MAAC, SVG and the like
    "strategy.real_ratio": (0.05, 0.25, 0.5, 0.95),  # share of real rows in a batch
    "strategy.rollout_length": (1, 3, 5, 10),  # imagined steps from a real state
    "strategy.horizon": (1, 3, 5),  # imagined steps of MVE's and STEVE's targets
}


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        number: from 0.
        params: the settings.
        value: mean return of the last evaluation; None where there was none.
        state: ``"complete"``, ``"pruned"`` or ``"failed"``.
    """

    number: int
    params: dict[str, Any]
    value: float | None
    state: str


@dataclass(frozen=True)
class Tuning:
    """The result of :func:`tune`.

    Attributes:
        trials: all of them, those of earlier calls included. Trials that were given equal settings share a run.
        best: the best one that was complete.
        plain: the first one with the recipe as it is; None where it was not complete.
        changes: the settings in which it differs from the recipe, with the recipe's value and its own.
        job: the best trial's, with its recipe.
        file: with this recipe, for ``--recipe FILE``.
    """

    trials: list[Trial]
    best: Trial
    plain: Trial | None
    changes: dict[str, tuple[Any, Any]]
    job: JobSpec
    file: Path


def search_space(agent: str, recipe: Recipe, fixed: Mapping[str, Any] | None = None) -> dict[str, Range | Choices]:
    """Return the settings to look for: those of :data:`SPACE` that the agent has and the user has not fixed.

    The recipe's own value is always among the choices, or in the range. A value of 0 or 1 for ``real_ratio`` is part of
    what the agent is and stays, as do schedules and values that have no logarithm.

    Raises:
        ZooError: if there are none.
    """
    constructors, found = constructors_of(agent, recipe), dict[str, Range | Choices]()
    for name, values in SPACE.items():
        section, _, argument = name.partition(".")
        if section not in constructors or argument not in settable_names(section, constructors[section]):
            continue
        own = own_value(agent, recipe, name)
        is_part = not isinstance(own, int | float) or (argument == "real_ratio" and own in (0, 1))
        if name in (fixed or {}) or is_part or (isinstance(values, Range) and own <= 0):
            continue
        if isinstance(values, Range):
            found[name] = Range(min(values.low, own), max(values.high, own))
        else:
            found[name] = values if own in values else tuple(sorted((*values, own)))
    if not found:
        raise ZooError(f"agent must have settings to look for, one of {sorted(SPACE)}, got {agent!r}")
    return found


def tune(
    agent: str,
    env: str,
    *,
    folder: str | Path,
    trials: int = 20,
    workers: int = 1,
    seed: int = 0,
    tell: Callable[[str], None] = print,
    **arguments: Any,
) -> Tuning:
    """Try settings and keep the best ones; a study that was interrupted goes on in its folder.

    The first trial is the recipe, fitted to fewer ``steps`` as :func:`~mbrl_wrappers.zoo.comparison.train` fits it.
    Optuna's TPE chooses the others, and stops those that fall below the median of the earlier ones (after at least 30%
    of their steps). Settings that it chooses again are not trained again: the trial gets the result of the one that was
    or is being trained. A run that fails ends its trial, and the study only if the first four all fail. All trials
    train with one seed, so the best return is too good: train the best recipe with other seeds.

    Args:
        agent: registered name.
        env: a Gymnasium id or ``"package.module:Class"``.
        folder: of the study.
        trials: in all, those of earlier calls included.
        workers: trials at a time, on a core each.
        seed: of the runs, and of the choices.
        tell: gets a sentence about each trial, and about what is other than the arguments and the recipe say.
        **arguments: of :func:`~mbrl_wrappers.zoo.training.job_making.make_job`; ``params`` are not looked for.

    Raises:
        ValueError: for an argument that can't be used, where Optuna is missing, or if the first runs all fail.
    """
    check_whole_number("trials", trials)
    check_whole_number("workers", workers)
    folder = Path(folder)
    fixed = arguments.pop("params", None) or {}
    plain = make_job(agent, env, seed=seed, params=fixed, tell=tell, **arguments)
    space = search_space(agent, plain.recipe, fixed)
    lock = FolderLock.take_if_free(folder)
    if lock is None:
        raise ZooError(f"folder must not be in use, but another process is tuning in {folder}")
    with closing(lock):
        study = _open_study(folder, plain, space, seed)
        _run_trials(study, plain, space, folder, trials, workers, tell)
        return _result(study, plain, space, folder)


def _open_study(folder: Path, plain: JobSpec, space: Mapping[str, Range | Choices], seed: int) -> optuna.Study:
    """Open the folder's study; what was being tried when it was interrupted is tried again."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ZooError("tune needs optuna: pip install 'mbrl-wrappers[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY)))
    done = len(storage.get_all_trials(storage.get_all_studies()[0]._study_id)) if storage.get_all_studies() else 0
    study = optuna.create_study(
        storage=storage,
        study_name="tune",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed + done, n_startup_trials=_LEAST_TRIALS),
        pruner=optuna.pruners.MedianPruner(_LEAST_TRIALS, n_warmup_steps=int(_LEAST_SHARE * plain.steps)),
    )
    described = {"job": plain.to_json(), "space": sorted(space)}
    before = study.user_attrs.get("described", described)
    if before != described:
        raise ZooError(f"folder must be new or hold a study of the same job, got {folder}")
    study.set_user_attr("described", described)
    if not study.trials:
        study.enqueue_trial(_own_values(plain, space))
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def own_value(agent: str, recipe: Recipe, name: str) -> Any:
    """Return the value of a setting in a recipe, or else the default of its constructor."""
    section, _, argument = name.partition(".")
    default = argument_defaults(constructors_of(agent, recipe)[section]).get(argument)
    return getattr(recipe, section).get(argument, default)


def _own_values(job: JobSpec, space: Iterable[str]) -> dict[str, Any]:
    """Return the settings of the recipe itself."""
    return {name: own_value(job.agent, job.recipe, name) for name in space}


def _run_trials(
    study: optuna.Study,
    plain: JobSpec,
    space: Mapping[str, Range | Choices],
    folder: Path,
    trials: int,
    workers: int,
    tell: Callable[[str], None],
) -> None:
    running: list[_Running] = []
    failed = 0
    try:
        while True:
            while len(running) < workers and _num_tried(study) + sum(len(one.trials) for one in running) < trials:
                trial = study.ask()
                spec = _spec_of(plain, {name: _suggest(trial, name, values) for name, values in space.items()})
                if (same := next((one for one in running if one.spec.digest() == spec.digest()), None)) is not None:
                    same.trials.append(trial)
                elif (before := _tried_before(study, plain, spec)) is not None:
                    tell(f"trial {trial.number}: {_repeat(study, trial, before)}  {_shown(trial.params)}")
                else:
                    running.append(_Running(trial, spec, folder))
            if not running:
                return
            time.sleep(POLL_SECONDS)
            for one in list(running):
                if (ended := one.look(study, tell)) is None:
                    continue
                running.remove(one)
                for trial in one.trials:
                    tell(f"trial {trial.number}: {ended}  {_shown(trial.params)}")
                failed += one.error is not None
                if failed >= _LEAST_TRIALS and not _has_results(study):
                    raise ZooError(
                        f"{failed} runs have failed and none has ended, so their settings are hardly the cause; "
                        f"the last one failed with: {one.error}"
                    )
    finally:
        stop_all([one.process for one in running if one.process is not None])


def _spec_of(plain: JobSpec, params: Mapping[str, Any]) -> JobSpec:
    return dataclasses.replace(plain, recipe=override(plain.recipe, params))


def _tried_before(study: optuna.Study, plain: JobSpec, spec: JobSpec) -> optuna.trial.FrozenTrial | None:
    """Return a trial of the same job that came to its end or was stopped early; what failed may be tried again."""
    import optuna

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    digest = spec.digest()
    trials = study.get_trials(deepcopy=False, states=ended)
    return next((trial for trial in trials if _spec_of(plain, trial.params).digest() == digest), None)


def _repeat(study: optuna.Study, trial: optuna.Trial, before: optuna.trial.FrozenTrial) -> str:
    """End a trial as another one ended; return how."""
    for step, value in before.intermediate_values.items():
        trial.report(value, step)
    study.tell(trial, before.value if before.state.name == "COMPLETE" else None, state=before.state)
    how = f"return {before.value:.1f}" if before.state.name == "COMPLETE" else "stopped"
    return f"{how}, as trial {before.number} of the same settings"


def _num_tried(study: optuna.Study) -> int:
    return len([trial for trial in study.trials if trial.state.name in _ENDED or _FAILED in trial.user_attrs])


def _has_results(study: optuna.Study) -> bool:
    return any(trial.state.name in _ENDED for trial in study.trials)


class _Running:
    """A run that goes on in a process, and the trials of its settings."""

    def __init__(self, trial: optuna.Trial, spec: JobSpec, folder: Path) -> None:
        self.trials = [trial]
        self.spec = spec
        self._folder = folder / "trials" / spec.digest()
        self._reported = 0
        self._has_told = False
        self.error: str | None = None
        self.process = self._start()

    def _start(self) -> TrainingProcess | None:
        """Start the run; None while a process has the folder that an interrupted study has left behind."""
        lock = FolderLock.take_if_free(self._folder)
        if lock is None:
            return None
        with closing(lock):  # which the process inherits
            return TrainingProcess(self.spec.label(), self.spec, self._folder, lock=lock)

    def look(self, study: optuna.Study, tell: Callable[[str], None]) -> str | None:
        """Report what is new; return how the trials ended, None while they go on."""
        import optuna

        if self.process is None:
            self.process = self._start()
            if self.process is None and not self._has_told:
                self._has_told = True
                tell(f"trial {self.trials[0].number}: waits for another process, which trains in {self._folder}")
            return None
        try:
            is_running = self.process.is_running()
        except (TrainingFailed, ValueError) as error:  # the settings may be to blame, and others may work
            self.error = str(error).strip().splitlines()[-1]  # of a traceback the last line
            for trial in self.trials:
                trial.set_user_attr(_FAILED, True)
            self._tell(study, state=optuna.trial.TrialState.FAIL)
            return f"failed: {error}"
        steps, mean = self.process.last_evaluation
        for trial in self.trials if steps > self._reported else []:
            trial.report(mean, steps)
        self._reported = steps
        if not is_running:
            self.process.stop()
            value = read_rows(self._folder / "progress.csv", Evaluation)[-1].return_mean
            self._tell(study, value)
            return f"return {value:.1f}"
        if self.trials[0].should_prune():
            stop_all([self.process])
            self._tell(study, state=optuna.trial.TrialState.PRUNED)
            return f"stopped after {steps:,} steps with a return of {mean:.1f}"
        return None

    def _tell(
        self, study: optuna.Study, value: float | None = None, state: optuna.trial.TrialState | None = None
    ) -> None:
        for trial in self.trials:
            study.tell(trial, value, state)


def _suggest(trial: optuna.Trial, name: str, values: Range | Choices) -> Any:
    if isinstance(values, Range):
        return trial.suggest_float(name, values.low, values.high, log=True)
    return trial.suggest_categorical(name, values)


def _result(study: optuna.Study, plain: JobSpec, space: Mapping[str, Range | Choices], folder: Path) -> Tuning:
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    all_trials = [
        Trial(one.number, one.params, one.value, states[one.state.name])
        for one in study.trials
        if one.state.name in states
    ]
    complete = [trial for trial in all_trials if trial.state == "complete" and trial.value is not None]
    if not complete:
        raise ZooError(f"trials must come to an end to compare them, got none of {len(all_trials)} in {folder}")
    best = max(complete, key=lambda trial: trial.value or 0.0)
    recipe = dataclasses.replace(override(plain.recipe, best.params), steps=plain.steps)
    write_atomically(folder / BEST, recipe_yaml(recipe, plain.steps).encode())
    own = _own_values(plain, space)
    itself = next((trial for trial in complete if trial.params == own), None)
    changes = {name: (own[name], value) for name, value in best.params.items() if value != own[name]}
    return Tuning(all_trials, best, itself, changes, dataclasses.replace(plain, recipe=recipe), folder / BEST)


def _shown(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={brief(value)}" for name, value in params.items())


def brief(value: Any, digits: int = 3) -> str:
    """Return the value of a setting, with three digits if it is a float."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def change(own: Any, best: Any) -> str:
    """Say which value of a setting has replaced another one, with as many digits as tell them apart."""
    texts = ((brief(best, digits), brief(own, digits)) for digits in range(3, 18))
    return " in place of ".join(next((two for two in texts if two[0] != two[1]), (str(best), str(own))))
