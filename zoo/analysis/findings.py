"""The results of a diagnosis, and the file that holds them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage import versions
from mbrl_wrappers.zoo.storage.limits import parse_json

DIAGNOSIS = "diagnosis.json"
MAX_ROWS = 10_000


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed spread of one step, over all real-valued columns of the observation.

    Attributes:
        spread: ``(predicted, observed)`` for each of several bins of equal size: root mean square of the predicted
            standard deviations, and of the prediction errors, in units of the spread of each column's change.
        coverage: ``(nominal, observed)`` share of real outcomes in central intervals of the predicted distribution.
    """

    spread: list[tuple[float, float]]
    coverage: list[tuple[float, float]]


@dataclass(frozen=True)
class RewardError:
    """How wrong predicted rewards are, one step ahead.

    Attributes:
        given: whether the model was given the reward function; its only error then comes from the predicted states.
        rmse: root mean square error, in units of ``unit``.
        unit: standard deviation of the real rewards; 1 where they do not vary.
    """

    given: bool
    rmse: float
    unit: float


@dataclass(frozen=True)
class TerminationErrors:
    """Counts of real steps by what happened and what was predicted, one step ahead. A time limit is no end.

    Attributes:
        given: whether the model was given the termination function; its only errors then come from predicted states.
        hits: steps that terminated the episode, as predicted.
        misses: steps that terminated it, not predicted.
        false_alarms: steps that did not terminate it, although predicted.
        passes: steps that did not terminate it, as predicted.
    """

    given: bool
    hits: int
    misses: int
    false_alarms: int
    passes: int


@dataclass(frozen=True)
class ExploitationGap:
    """Undiscounted returns of the deterministic policy from the same start states.

    Attributes:
        steps: maximal length of an episode.
        real: in the environment, one per start.
        imagined: in the model, which samples as in training.
    """

    steps: int
    real: list[float]
    imagined: list[float]

    @property
    def gaps(self) -> list[float]:
        """Imagined minus real return of each start: above 0, the policy exploits errors of the model."""
        return [imagined - real for imagined, real in zip(self.imagined, self.real, strict=True)]

    @property
    def mean(self) -> float:
        """Mean of the gaps."""
        return float(np.mean(self.gaps))


@dataclass(frozen=True)
class Diagnosis:
    """The content of ``diagnosis.json``.

    Attributes:
        seed: of the episodes and all random numbers.
        steps: env steps that were played for each measurement; for an agent that plans, in all.
        error: open-loop error by steps ahead; infinite where predictions were not finite.
        calibration: None for a model that is exact, whose samples are not finite, or whose observations have no
            real-valued column.
        reward, termination, exploitation: see their classes.
        uncertainty: divergence of the sampled ensemble member from the others (one-versus-rest, in nats), for each
            step of rollouts of the exploring policy from real states; None for a model with fewer than two members, or
            an agent that plans.
        horizon_weights: mean weight of each horizon in STEVE's targets at real steps; None for other agents.
        reward_error: error of rewards by imagined steps ahead, in units of the rewards' spread; None for a model
            without a memory.
        divergence: of the state that has seen the real observation from the imagined one, in nats, by imagined steps
            ahead; None for a model that is not latent.
        gradient_norms: norm of the gradient of the value with respect to the first action, by the number of imagined
            steps before the critic; None for agents other than MAAC and SVG.
        threshold: the median error, in units of the states' spread, up to which the model is trusted.
        trusted_steps: the recommended rollout length, see :func:`trusted_steps`.
    """

    seed: int
    steps: int
    error: list[HorizonError]
    calibration: Calibration | None
    reward: RewardError
    termination: TerminationErrors
    exploitation: ExploitationGap
    threshold: float
    trusted_steps: int
    uncertainty: list[HorizonError] | None = None
    horizon_weights: list[float] | None = None
    gradient_norms: list[HorizonError] | None = None
    reward_error: list[HorizonError] | None = None
    divergence: list[HorizonError] | None = None

    @property
    def is_trusted_throughout(self) -> bool:
        """Whether the model is trusted over the whole measured horizon."""
        return self.trusted_steps == len(self.error)

    def to_json(self) -> bytes:
        """Return the bytes of a ``diagnosis.json``; numbers that are not finite become null."""
        content = _plain(dataclasses.asdict(self))
        return json.dumps({"format_version": versions.DIAGNOSIS.version, **content}, indent=1, allow_nan=False).encode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Diagnosis:
        """Read the result of :meth:`to_json`.

        Raises:
            ZooError: if it is not a diagnosis of this version.
        """
        try:
            content = parse_json(text, DIAGNOSIS)
            versions.DIAGNOSIS.check(content, "a diagnosis")
            return cls(
                seed=int(content["seed"]),
                steps=int(content["steps"]),
                error=_by_steps(content["error"]),
                calibration=_calibration_from(content["calibration"]),
                reward=RewardError(bool(content["reward"]["given"]), *_numbers(content["reward"], "rmse", "unit")),
                termination=TerminationErrors(
                    bool(content["termination"]["given"]),
                    *(int(content["termination"][name]) for name in ("hits", "misses", "false_alarms", "passes")),
                ),
                exploitation=_exploitation_from(content["exploitation"]),
                threshold=_number(content["threshold"]),
                trusted_steps=int(content["trusted_steps"]),
                horizon_weights=(
                    None
                    if content.get("horizon_weights") is None
                    else [_number(weight) for weight in _rows(content["horizon_weights"])]
                ),
                **{
                    name: None if content.get(name) is None else _by_steps(content[name])
                    for name in ("uncertainty", "gradient_norms", "reward_error", "divergence")
                },
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            if isinstance(error, ZooError):
                raise
            raise ZooError(f"text must be a diagnosis as JSON: {error!r}") from error


def _by_steps(rows: Any) -> list[HorizonError]:
    return [
        HorizonError(int(row["steps_ahead"]), *(_number(row[name]) for name in ("low", "median", "high")))
        for row in _rows(rows)
    ]


def _rows(value: Any) -> list[Any]:
    """Return a list of the file, refusing lengths that no figure could show."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ROWS:
        raise ValueError(f"a diagnosis must have lists of 1 to {MAX_ROWS} entries")
    return value


def _plain(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> float:
    """Read a number of a file; null stands for one that was not finite."""
    return math.inf if value is None else float(value)


def _numbers(content: dict[str, Any], *names: str) -> list[float]:
    return [_number(content[name]) for name in names]


def _exploitation_from(content: Any) -> ExploitationGap:
    real, imagined = ([_number(value) for value in _rows(content[name])] for name in ("real", "imagined"))
    if len(real) != len(imagined):
        raise ValueError(f"real and imagined must be of as many starts, got {len(real)} and {len(imagined)}")
    return ExploitationGap(int(content["steps"]), real, imagined)


def _calibration_from(content: Any) -> Calibration | None:
    if content is None:
        return None
    pairs = {name: [(_number(x), _number(y)) for x, y in _rows(content[name])] for name in ("spread", "coverage")}
    return Calibration(**pairs)
