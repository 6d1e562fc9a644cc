"""What is measured, shared by both sides (no import beyond torch): sizes, cases, data and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

OBS_DIM, ACTION_DIM = 17, 6
NUM_MEMBERS, NUM_ELITES = 7, 5
NUM_LAYERS, HIDDEN = 4, 200
BATCH_SIZE = 256
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-5
STEPS_PER_FIT = 20

_IN_DIM, _OUT_DIM = OBS_DIM + ACTION_DIM, 2 * (OBS_DIM + 1)
_FIRST_LAYER = _IN_DIM * HIDDEN
_WEIGHTS = _FIRST_LAYER + (NUM_LAYERS - 1) * HIDDEN**2 + HIDDEN * _OUT_DIM


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: how the table and the two sides call it.
        rows: rows of an imagined step; 0 for the gradient step.
        calls: calls between two looks at the clock.
        target: largest allowed share of the peer's time, None where none was set.
    """

    name: str
    rows: int
    calls: int
    target: float | None

    @property
    def flops(self) -> float:
        """Multiplications and additions of the matrix products that one call cannot do without."""
        if self.rows:
            return 2.0 * self.rows * _WEIGHTS
        # Forward, gradient of the weights, gradient of the activations; none is needed for the input.
        return 2.0 * NUM_MEMBERS * BATCH_SIZE * (3 * _WEIGHTS - _FIRST_LAYER)


CASES = (
    Case("gradient step, 7 x batch 256", 0, STEPS_PER_FIT, 0.8),
    Case("imagined step, 1 row", 1, 300, 0.3),
    Case("imagined step, 400 rows", 400, 40, None),
    Case("imagined step, 10,000 rows", 10_000, 3, None),
    Case("imagined step, 100,000 rows", 100_000, 1, 0.5),
)


@dataclass(frozen=True)
class Rows:
    """Made-up transitions: ``obs [N, 17]``, ``action [N, 6]``, ``next_obs [N, 17]``, ``reward [N]``."""

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor


def make_rows(count: int) -> Rows:
    """Draw the same rows in every process that has the same torch."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(count, OBS_DIM, generator=generator)
    action = torch.rand(count, ACTION_DIM, generator=generator) * 2 - 1
    next_obs = obs + 0.1 * torch.tanh(obs.roll(1, dims=1)) + 0.1 * action.mean(1, keepdim=True)
    return Rows(obs, action, next_obs, obs[:, 0] - action.square().sum(1))


def seconds_per_call(call: Callable[[], object], calls: int) -> float:
    """Return CPU seconds: with one thread, what the clock shows on a machine that has nothing else to do."""
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls
