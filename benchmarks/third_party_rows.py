"""The rows that every model of the comparison gets, and how well it foresees them (no import beyond NumPy)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

HORIZONS = (1, 10)
UNFINISHED = "the process ended"  # what a stage says of a try before it begins

Array = np.ndarray
Predict = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Rows:
    """Real transitions in the order in which they were made, flat and in float64.

    Attributes:
        obs: ``[N, D]``.
        action: ``[N, A]``, one-hot where discrete.
        reward: ``[N]``.
        next_obs: ``[N, D]``, never the first observation of the next episode.
        terminated: ``[N]`` bool, without time limits.
        episode: ``[N]`` int, the episode's number.
    """

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    terminated: Array
    episode: Array

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Data:
    """What was collected in an env: rows to fit on, rows to test on, and the spaces as JSON."""

    train: Rows
    test: Rows
    spaces: dict[str, Any]


def save_rows(path: Path, rows: Rows, num_train: int, spaces: dict[str, Any]) -> None:
    columns = {field.name: getattr(rows, field.name) for field in fields(rows)}
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, num_train=num_train, spaces=json.dumps(spaces), **columns)
    os.replace(temporary, path)


def load_rows(path: Path) -> Data:
    with np.load(path, allow_pickle=False) as file:
        rows = Rows(*(file[field.name] for field in fields(Rows)))
        num_train, spaces = int(file["num_train"]), json.loads(str(file["spaces"]))
    return Data(rows[:num_train], rows[num_train:], spaces)


def changing_columns(train: Rows) -> Array:
    """Return which columns ``[D]`` ever change within a step; the others have nothing to foresee."""
    return (train.next_obs != train.obs).any(0)


def starts_of(rows: Rows, horizon: int) -> Array:
    """Return the rows that ``horizon - 1`` others of the same episode follow."""
    last = len(rows) - horizon + 1
    return np.flatnonzero(rows.episode[: max(last, 0)] == rows.episode[horizon - 1 :])


def column_errors(predict: Predict | None, data: Data, horizon: int) -> Array | None:
    """Measure a model after ``horizon`` steps with the real actions, fed its own predictions.

    Args:
        predict: ``(obs [N, D], action [N, A]) -> next_obs [N, D]``, the mean; None for "no change".
        data: its test rows are foreseen.
        horizon: steps, all of one episode.

    Returns:
        Mean squared errors of the columns that change, in units of their spread in training; None where
        no episode is long enough or no column changes.
    """
    columns, starts = changing_columns(data.train), starts_of(data.test, horizon)
    if not columns.any() or not len(starts):
        return None
    spread = np.concatenate([data.train.obs, data.train.next_obs])[:, columns].std(0)
    obs = data.test.obs[starts]
    with np.errstate(over="ignore", invalid="ignore"):  # a model may diverge
        for step in range(horizon):
            obs = obs if predict is None else predict(obs, data.test.action[starts + step])
        error = (obs - data.test.next_obs[starts + horizon - 1])[:, columns] / spread
        return np.square(error).mean(0)


def skill(errors: Array | None, unchanged: Array | None) -> float | None:
    """Return ``1 - MSE / MSE of "no change"``: 1 is exact, 0 no better; None where nothing changed."""
    if errors is None or unchanged is None or not unchanged.mean() > 0:
        return None
    return float(1 - errors.mean() / unchanged.mean()) if np.isfinite(errors).all() else -np.inf


def skills(predict: Predict, data: Data) -> dict[str, Any]:
    """Return the skill at every horizon by its name, and the errors that it is made of, column by column."""
    result: dict[str, Any] = {}
    for horizon in HORIZONS:
        errors, unchanged = column_errors(predict, data, horizon), column_errors(None, data, horizon)
        result[f"skill_{horizon}"] = skill(errors, unchanged)
        result[f"errors_{horizon}"] = None if errors is None else errors.tolist()
        result[f"unchanged_{horizon}"] = None if unchanged is None else unchanged.tolist()
    return result


def read_record(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def update_record(path: Path, stage: str, values: dict[str, Any]) -> None:
    """Put what a stage found into the record of its env, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**read_record(path), stage: values}, indent=1))
    os.replace(temporary, path)
