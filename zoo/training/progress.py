"""The learning curve of a run: one row per evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """One row of a run's ``progress.csv``.

    Attributes:
        steps: env steps so far.
        return_mean, return_std: over the evaluation's episodes.
        updates: gradient updates of the agent so far.
        wall_seconds, cpu_seconds: of training so far, without evaluations and checkpoints.
    """

    steps: int
    return_mean: float
    return_std: float
    updates: int
    wall_seconds: float
    cpu_seconds: float
