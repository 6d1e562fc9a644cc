"""A fit of a model while an agent learns, timed and logged."""

from __future__ import annotations

import time

import torch
from stable_baselines3.common.logger import Logger

from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.types import Transitions


def fit_and_log(
    dynamics: DynamicsModel, transitions: Transitions, generator: torch.Generator, logger: Logger
) -> dict[str, float]:
    """Fit a model; logs its report and ``fit_seconds`` under ``dynamics/``.

    Args:
        dynamics: the model.
        transitions: all real data there is.
        generator: of the fit, on the CPU.
        logger: the agent's.

    Returns:
        The report; see :meth:`DynamicsModel.fit`.
    """
    started = time.perf_counter()
    report = dynamics.fit(transitions, generator)
    report["fit_seconds"] = time.perf_counter() - started
    for name, value in report.items():
        logger.record(f"dynamics/{name}", value)
    return report
