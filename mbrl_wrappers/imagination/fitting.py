"""A fit of a model while an agent learns, timed and logged."""

from __future__ import annotations

import time

import torch
from stable_baselines3.common.logger import Logger

from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.world_model import WorldModel


def fit_and_log(
    dynamics: WorldModel, experience: Experience, generator: torch.Generator, logger: Logger
) -> dict[str, float]:
    """Fit a model; logs its report and ``fit_seconds`` under ``dynamics/``.

    Args:
        dynamics: the model.
        experience: all real data so far.
        generator: the source of the fit's randomness, on the CPU.
        logger: the agent's.

    Returns:
        The report; see :meth:`WorldModel.fit`.
    """
    started = time.perf_counter()
    report = dynamics.fit(experience, generator)
    report["fit_seconds"] = time.perf_counter() - started
    for name, value in report.items():
        logger.record(f"dynamics/{name}", value)
    return report
