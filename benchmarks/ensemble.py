"""Our side: the cases run on ``EnsembleDynamics``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from workload import (
    ACTION_DIM,
    BATCH_SIZE,
    CASES,
    HIDDEN,
    LEARNING_RATE,
    NUM_ELITES,
    NUM_LAYERS,
    NUM_MEMBERS,
    OBS_DIM,
    STEPS_PER_FIT,
    WEIGHT_DECAY,
    Case,
    make_rows,
    seconds_per_call,
)

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.fit import FitData, FitSettings, fit_ensemble


def build_model() -> EnsembleDynamics:
    """Build the ensemble of the benchmark: learned reward, known termination (HalfCheetah never ends)."""
    return EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (OBS_DIM,)),
        spaces.Box(-1, 1, (ACTION_DIM,)),
        num_members=NUM_MEMBERS,
        num_elites=NUM_ELITES,
        hidden=[HIDDEN] * NUM_LAYERS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        termination_fn="HalfCheetah-v5",
    )


def fit_call() -> Callable[[], object]:
    """Return a call of ``fit_ensemble`` that takes ``STEPS_PER_FIT`` gradient steps, drawing its batches too."""
    network = build_model().network
    rows = make_rows(STEPS_PER_FIT * BATCH_SIZE)
    data = FitData(
        torch.cat([rows.obs, rows.action], dim=1),
        torch.cat([rows.next_obs - rows.obs, rows.reward[:, None]], dim=1),
        torch.zeros(len(rows.obs), 0),
    )
    holdout = data[torch.arange(1)]
    settings = FitSettings(
        learning_rate=LEARNING_RATE,
        weight_decay=[WEIGHT_DECAY] * (NUM_LAYERS + 1),
        batch_size=BATCH_SIZE,
        patience=5,
        min_epoch_steps=STEPS_PER_FIT,
        max_steps=STEPS_PER_FIT,
    )
    generator = torch.Generator().manual_seed(0)
    return lambda: fit_ensemble(network, data, holdout, settings, generator)


def predict_call(model: EnsembleDynamics, case: Case) -> Callable[[], object]:
    """Return a call of ``predict`` that samples one step."""
    rows = make_rows(case.rows)
    generator = torch.Generator().manual_seed(0)
    return lambda: model.predict(rows.obs, rows.action, generator=generator)


class Ours:
    """The cases by name, ready to be timed."""

    def __init__(self) -> None:
        self.fit = fit_call()
        model = build_model()
        self.steps = {case.name: predict_call(model, case) for case in CASES if case.rows}

    def measure(self, case: Case) -> float:
        """Return seconds per call of a case."""
        if not case.rows:
            return seconds_per_call(self.fit, 1) / STEPS_PER_FIT
        with torch.no_grad():
            return seconds_per_call(self.steps[case.name], case.calls)
