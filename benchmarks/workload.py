"""What is measured, shared by all sides (no import beyond torch): sizes, cases, data and the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

OBS_DIM, ACTION_DIM = 17, 6
NUM_MEMBERS, NUM_ELITES = 7, 5
NUM_LAYERS, HIDDEN = 4, 200
BATCH_SIZE = 256
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-5
STEPS_PER_FIT = 20
NUM_PARTICLES, PLAN_ITERATIONS = 20, 5
SEQUENCES, LENGTH, GROUPS, BINS, STARTS, HORIZON, LAYERS = 16, 64, 16, 41, 256, 15, 2  # of Dreamer
ARITHMETIC = "arithmetic"

_IN_DIM, _OUT_DIM = OBS_DIM + ACTION_DIM, 2 * (OBS_DIM + 1)
_FIRST_LAYER = _IN_DIM * HIDDEN
_WEIGHTS = _FIRST_LAYER + (NUM_LAYERS - 1) * HIDDEN**2 + HIDDEN * _OUT_DIM


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: how the table and the sides call it.
        flops: multiplications and additions of the matrix products that one call cannot do without; NaN where those
            that our side computes are counted.
        calls: calls between two looks at the clock.
        targets: largest allowed share of a side's time, None where none was set; the first is the main peer. The side
            ``ARITHMETIC`` is the time that the products take at the peak.
    """

    name: str
    flops: float
    calls: int
    targets: Mapping[str, float | None]


@dataclass(frozen=True)
class Fit(Case):
    """A gradient step of the ensemble."""


@dataclass(frozen=True)
class Step(Case):
    """An imagined step of ``rows`` rows."""

    rows: int = 1


@dataclass(frozen=True)
class Plan(Case):
    """The evaluations of one plan by CEM: five times ``population`` sequences of ``horizon`` actions."""

    population: int = 1
    horizon: int = 1


@dataclass(frozen=True)
class Update(Case):
    """A gradient update of SAC with two hidden layers of ``units``."""

    units: int = 1


@dataclass(frozen=True)
class Latent(Case):
    """Work of a latent model or its agent: ``what`` is done, by networks of ``units``.

    Dreamer imagines from ``starts`` states of a batch; None: from all.
    """

    what: str = ""
    units: int = 1
    starts: int | None = STARTS


def _fit_flops() -> float:
    # Forward, gradient of the weights, gradient of the activations; none is needed for the input.
    return 2.0 * NUM_MEMBERS * BATCH_SIZE * (3 * _WEIGHTS - _FIRST_LAYER)


def _step(rows: int, calls: int, target: float | None) -> Step:
    name = f"imagined step, {rows:,} row{'s' if rows > 1 else ''}"
    return Step(name, 2.0 * rows * _WEIGHTS, calls, {"mbrl-lib": target}, rows=rows)


def _plan(population: int, horizon: int) -> Plan:
    rows = population * horizon * NUM_PARTICLES * PLAN_ITERATIONS
    name = f"plan, {population} x {horizon} x {NUM_PARTICLES} particles x {PLAN_ITERATIONS}"
    return Plan(name, 2.0 * rows * _WEIGHTS, 1, {"mbrl-lib": 0.65}, population=population, horizon=horizon)


def _update(units: int) -> Update:
    first_critic, first_actor = _IN_DIM * units, OBS_DIM * units
    critic, actor = first_critic + units**2 + units, first_actor + units**2 + 2 * ACTION_DIM * units
    # Next action, two target critics, two critics forward and backward, the actor, and through two critics to it.
    products = actor + 2 * critic + 2 * (3 * critic - first_critic) + (3 * actor - first_actor) + 2 * 2 * critic
    targets = {"SB3": 1 / 1.7, "SBX": 1.0}
    return Update(f"SAC update, 2 x {units}", 2.0 * BATCH_SIZE * products, 20, targets, units=units)


def _latent(what: str, name: str, units: int, target: float) -> Latent:
    return Latent(name, math.nan, 3, {ARITHMETIC: target}, what=what, units=units)


def _dreamer(units: int, target: float, starts: int | None = STARTS) -> Latent:
    name = f"Dreamer update, {units} units, {SEQUENCES} x {LENGTH}{'' if starts else ', all starts'}"
    targets = {ARITHMETIC: target} if starts else {"sheeprl": 1 / 3, ARITHMETIC: target}
    return Latent(name, math.nan, 3, targets, what="dreamer", units=units, starts=starts)


CASES: tuple[Case, ...] = (
    Fit("gradient step, 7 x batch 256", _fit_flops(), STEPS_PER_FIT, {"mbrl-lib": 0.77}),
    _step(1, 300, 0.25),
    _step(400, 40, 0.65),
    _step(10_000, 3, None),
    _step(100_000, 1, 0.45),
    _plan(350, 15),
    _plan(400, 30),
    _update(256),
    _update(512),
    _dreamer(128, 1.3),
    _dreamer(64, 2.0),
    _dreamer(128, 1.3, starts=None),
    _dreamer(64, 2.0, starts=None),
    _latent("tdmpc2", "TD-MPC2 update, 128 units, batch 256 x 3", 128, 1.3),
    _latent("plan", "TD-MPC2 plan, 128 units, 512 x 3 x 6", 128, 1.3),
    _latent("vision", "World Models' V, step on 100 frames of 64 x 64", 256, 1.5),
    _latent("memory", "World Models' M, step on 16 x 256, 256 units", 256, 1.5),
    _latent("dream", "World Models' dream, 256 x 10 steps, 256 units", 256, 1.5),
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


def make_sequences(case: Plan) -> Tensor:
    """Draw the action sequences ``[P, H, 6]`` of one iteration."""
    shape = (case.population, case.horizon, ACTION_DIM)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def seconds_per_call(call: Callable[[], object], calls: int) -> float:
    """Return seconds of CPU time with one thread (the clock's on an idle machine), of the clock with several."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls
