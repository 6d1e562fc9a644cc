"""How much work a description of an agent may ask for: a few bytes must not keep a machine busy for ever."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mbrl_wrappers.zoo.errors import ZooError

# Limit on the model steps of one search: fifty times the heaviest published planner.
MAX_PREDICTED_STEPS = 50_000_000
_FACTORS = ("horizon", "population", "iterations", "num_particles")
_MAX = {
    "horizon": 1000,
    "iterations": 1000,
    "length": 100,
    "num_elites": 1_000_000,
    "num_particles": 10_000,
    "population": 1_000_000,
    "rollouts_per_step": 100_000,
    "workers": 10_000,
}
# Arguments that hold arguments.
_NESTED = ("planner_kwargs",)


def check_effort(arguments: Mapping[str, Any], source: object) -> None:
    """Refuse arguments of an agent, a planner or a strategy that ask for more than any sound one does.

    Args:
        arguments: by name, as read from a file.
        source: the file, for errors.

    Raises:
        ZooError: naming the argument.
    """
    inner = [arguments[name] for name in _NESTED if isinstance(arguments.get(name), dict)]
    numbers: dict[str, Any] = {}
    for values in (arguments, *inner):
        numbers |= {name: value for name, value in values.items() if name in _MAX and _is_number(value)}
    for name, value in numbers.items():
        if not value <= _MAX[name]:
            raise ZooError(f"{source}: {name} must be at most {_MAX[name]}, got {value!r}")
    if not _is_small(arguments.get("rollout_length")):
        raise ZooError(
            f"{source}: rollout_length must be at most {_MAX['horizon']}, got {arguments['rollout_length']!r}"
        )
    asked = {name: numbers[name] for name in _FACTORS if name in numbers}
    steps = math.prod(asked.values())
    if steps > MAX_PREDICTED_STEPS:
        raise ZooError(
            f"{source}: a search must predict at most {MAX_PREDICTED_STEPS} steps, got {steps}, the product of {asked}"
        )


def _is_small(rollout_length: Any) -> bool:
    """Tell whether a rollout length, or both lengths of a schedule, are at most the largest horizon."""
    lengths = rollout_length[2:] if isinstance(rollout_length, list | tuple) else [rollout_length]
    return all(length <= _MAX["horizon"] for length in lengths if _is_number(length))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
