"""A small model fitted on random steps, and what it makes of steps that it has not seen."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.env_specs import spaces_and_id
from mbrl_wrappers.models.given import GivenFunction, call_given, first_disagreement, known_functions, resolve
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.models.rollout import open_loop
from mbrl_wrappers.types import Transitions
from mbrl_wrappers.zoo.analysis.diagnosis import reward_error, termination_errors, trusted_steps
from mbrl_wrappers.zoo.analysis.findings import RewardError, TerminationErrors
from mbrl_wrappers.zoo.analysis.model_error import error_on_windows, windows_of
from mbrl_wrappers.zoo.doctor.findings import Findings
from mbrl_wrappers.zoo.errors import raised, short

AHEAD = (1, 5, 10, 30)
# Small, so that it takes seconds, and most of a minute where observations are wide.
_SETTINGS: dict[str, Any] = {"num_members": 3, "num_elites": 3, "hidden": (64, 64), "max_steps": 1500}
_TEST_SHARE = 0.25
# Of the spread of a column or of its changes, whichever is smaller: from this error on, a prediction is no better than
# the mean value or the mean change.
_UNFORESEEN = 0.95
_POOR_REWARD = 0.5


@dataclass(frozen=True)
class Column:
    """How well one column of the observation is predicted.

    Attributes:
        name: such as ``observation_space[3]``.
        spread: standard deviation of its values.
        errors: root mean square error after each of the trial's ``ahead`` steps, in the env's own units.
        is_foreseen: whether its next value is predicted better than by the mean value and by the mean change.
    """

    name: str
    spread: float
    errors: tuple[float, ...]
    is_foreseen: bool


@dataclass(frozen=True)
class Trial:
    """A small model's errors on fresh random steps.

    Attributes:
        rows: of steps that it was fitted on.
        test_rows: of steps that it is measured on.
        ahead: numbers of steps that errors are given for.
        columns: of the flat observation, those that vary.
        num_constant: columns that never changed.
        reward: one step ahead.
        reward_varies: whether the rewards were not all the same.
        ends: one step ahead.
        trusted: the steps that the median error stays below a quarter of the states' spread.
        horizon: the most steps that were looked at.
        fit_seconds: CPU time of the fit.
        seconds_per_gradient_step: CPU time.
    """

    rows: int
    test_rows: int
    ahead: tuple[int, ...]
    columns: list[Column]
    num_constant: int
    reward: RewardError
    reward_varies: bool
    ends: TerminationErrors
    trusted: int
    horizon: int
    fit_seconds: float
    seconds_per_gradient_step: float

    @property
    def reward_r2(self) -> float:
        """Share of the rewards' variance that is predicted."""
        return 1 - self.reward.rmse**2


class GivenFailed(Exception):
    """A function of the user's has raised an error, or returned what it must not; the message says all of it."""


def reporting(name: str, function: GivenFunction | None) -> GivenFunction | None:
    """Return a function of the user's that tells its errors from ours; None for None.

    Args:
        name: ``"reward_fn"`` or ``"termination_fn"``.
        function: the user's.
    """
    if function is None:
        return None

    def given(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        got = f"with obs {list(obs.shape)}, action {list(action.shape)} and next_obs {list(next_obs.shape)}"
        try:
            output = function(obs, action, next_obs)
        except Exception as error:  # code of somebody else's may raise anything
            raise GivenFailed(f"{name} (yours) {raised(error)}; it was called {got}") from error
        try:
            return call_given(lambda *_: output, name, obs, action, next_obs)
        except ValueError as error:
            raise GivenFailed(f"{short(error)}; it was called {got}") from error

    return given


def small_model(
    env: gym.Env, reward_fn: GivenFunction | None, termination_fn: GivenFunction | None, seed: int
) -> EnsembleDynamics:
    """Make the trial's model, with the functions that are given or known by the env's id.

    Raises:
        ValueError: for spaces that it can't take.
    """
    given = {"reward_fn": reward_fn, "termination_fn": termination_fn}
    kept: dict[str, Any] = {name: function for name, function in given.items() if function is not None}
    return EnsembleDynamics.for_env(env, seed=seed, **_SETTINGS, **kept)


def note_given(env: gym.Env, model: EnsembleDynamics, steps: Transitions, findings: Findings) -> bool:
    """Compare the functions that are given, or known by the env's id, with real steps.

    Returns:
        Whether they can be called, so that a model can be fitted with them.
    """
    known = known_functions(spaces_and_id(env)[2], known_reward=True)
    known_reward = known.get("reward_fn")
    functions = {"reward_fn": model.reward_fn or resolve(known_reward, "reward_fn")[0]}
    functions["termination_fn"] = model.termination_fn
    work = True
    for name, function in functions.items():
        if function is None:
            continue
        is_own = {"reward_fn": model.reward_name, "termination_fn": model.termination_name}[name] == "custom"
        source = "yours" if is_own else "the one known by the env's id"
        try:
            row = first_disagreement(function, name, steps)
            if row is not None:
                _note_disagreement(name, function, steps, row, source, findings)
        except GivenFailed as error:
            findings.fault("given", str(error))
            work = False
    return work


def _note_disagreement(
    name: str, function: GivenFunction, steps: Transitions, row: int, source: str, findings: Findings
) -> None:
    at = steps[row : row + 1]
    says = function(at.obs, at.action, at.next_obs)[0].item()
    real = (steps.reward if name == "reward_fn" else steps.terminated)[row].item()
    findings.fault(
        "given",
        f"{name} ({source}) says {says:.6g} where the env says {real:.6g}, for the step from "
        f"{_rounded(at.obs[0])} with the action {_rounded(at.action[0])} to {_rounded(at.next_obs[0])}",
    )


def _rounded(row: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in row.tolist()]


def run_trial(model: EnsembleDynamics, steps: Transitions, findings: Findings, seed: int) -> Trial:
    """Fit the model on the first steps and measure it on the last.

    Args:
        model: to be fitted.
        steps: in the order in which they were taken.
        findings: where its weak points are noted.
        seed: of the fit.

    Raises:
        GivenFailed: by a function of the user's.
    """
    cut = round(len(steps) * (1 - _TEST_SHARE))
    train, test = steps[:cut], steps[cut:]
    began = time.process_time()
    with warnings.catch_warnings():  # the trial says the same in its own words
        warnings.simplefilter("ignore")
        report = model.fit(train, torch.Generator().manual_seed(seed))
    fit_seconds = time.process_time() - began
    with torch.no_grad():
        obs, action = windows_of(test, AHEAD[-1])
        horizon = action.shape[1]
        ahead = tuple(step for step in AHEAD if step < horizon) + ((horizon,) if horizon <= AHEAD[-1] else ())
        columns, constant = _columns(model, test, obs, action, ahead)
        said = model.predict(test.obs, test.action, deterministic=True)
        trial = Trial(
            rows=len(train),
            test_rows=len(test),
            ahead=ahead,
            columns=columns,
            num_constant=constant,
            reward=reward_error(model.reward_fn is not None, said, test),
            reward_varies=bool(steps.reward.std() > 0),
            ends=termination_errors(model.termination_fn is not None, said, test),
            trusted=trusted_steps(error_on_windows(model, obs, action)),
            horizon=horizon,
            fit_seconds=fit_seconds,
            seconds_per_gradient_step=fit_seconds / max(report["grad_steps"], 1),
        )
    _note_weak_points(trial, findings)
    return trial


def _columns(
    model: EnsembleDynamics, test: Transitions, obs: Tensor, action: Tensor, ahead: tuple[int, ...]
) -> tuple[list[Column], int]:
    """Return the columns that vary, and the number of the others."""
    path = open_loop(model, obs[:, 0], lambda step, _: action[:, step], ahead[-1], deterministic=True)
    errors = {step: (path[step] - obs[:, step]).double().square().mean(0).sqrt() for step in ahead}
    changes = Normalizer(model.obs_codec.dim)
    changes.fit((test.next_obs - test.obs).float())
    said = model.predict(test.obs, test.action, deterministic=True).next_obs
    spread = test.next_obs.double().std(0)
    missed = (said - test.next_obs).double().square().mean(0).sqrt() / torch.minimum(changes.std, spread)
    columns = [
        Column(
            name=model.obs_codec.column_name(column).removeprefix("observation_space"),
            spread=float(spread[column]),
            errors=tuple(float(errors[step][column]) for step in ahead),
            is_foreseen=bool(missed[column] < _UNFORESEEN),
        )
        for column in range(model.obs_codec.dim)
        if spread[column] > 0
    ]
    return columns, model.obs_codec.dim - len(columns)


def _note_weak_points(trial: Trial, findings: Findings) -> None:
    unforeseen = [column.name for column in trial.columns if not column.is_foreseen]
    if unforeseen:
        shown = ", ".join(f"obs{name}" for name in unforeseen[:8]) + (
            f" and {len(unforeseen) - 8} more" if len(unforeseen) > 8 else ""
        )
        findings.remark(
            "model",
            f"how {shown} will change can't be predicted from one observation and the action: noise, or something that "
            "the observation does not show (gymnasium.wrappers.FrameStackObservation shows the last ones)",
        )
    if trial.reward_varies and not trial.reward_r2 > _POOR_REWARD:
        findings.remark(
            "model",
            f"rewards are predicted badly (R² {trial.reward_r2:.2f}): they may depend on what the observation does not "
            "show, or be too rare among random steps; a function that you know can be given as reward_fn",
        )
    number = trial.ends.hits + trial.ends.misses
    if number >= 5 and trial.ends.hits < number / 2 and not trial.ends.given:
        findings.remark(
            "model",
            f"only {trial.ends.hits} of {number} ends were foreseen: what ends an episode may not be in the "
            "observation; a rule that you know can be given as termination_fn",
        )
    if not math.isfinite(trial.columns[0].errors[-1] if trial.columns else 0.0):
        findings.remark("model", "its predictions run off to infinity within the horizon")
