"""Reward and termination functions that a user gives, by hand or by an environment's id."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl_wrappers.tasks.registry import REWARDS, TERMINATIONS
from mbrl_wrappers.tasks.task import GivenFunction
from mbrl_wrappers.types import Transitions


def known_functions(env_id: str | None, *, known_reward: bool) -> dict[str, str]:
    """Return the arguments that give a model the known functions of an env.

    Args:
        env_id: of an env that has the rules of the registered one; None for any other.
        known_reward: whether to include the reward function, if it is known.
    """
    wanted = {"termination_fn": TERMINATIONS, **({"reward_fn": REWARDS} if known_reward else {})}
    return {name: env_id for name, known in wanted.items() if env_id is not None and env_id in known}


def resolve(function: GivenFunction | str | None, name: str) -> tuple[GivenFunction | None, str]:
    """Look up a given function.

    Args:
        function: None, a callable, or the id of an env with a known function.
        name: ``"reward_fn"`` or ``"termination_fn"``, which also chooses the registry.

    Returns:
        The callable or None, and what a saved model calls it: ``"learned"``, ``"custom"`` or the id.

    Raises:
        ValueError: for an id that is not in the registry.
    """
    registry: dict[str, Any] = REWARDS if name == "reward_fn" else TERMINATIONS
    if function is None or function == "learned":
        return None, "learned"
    if callable(function):
        return function, "custom"
    if function not in registry:
        raise ValueError(f"{name} must be a callable or one of {sorted(registry)}, got {function!r}")
    return registry[function], function


def call_given(function: GivenFunction, name: str, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Call a given function and check its result.

    Args:
        function: ``(obs [..., D], action [..., A], next_obs [..., D]) -> [...]``.
        name: ``"reward_fn"`` (must return a floating dtype) or ``"termination_fn"`` (must return bool).
        obs: ``[..., D]``.
        action: ``[..., A]``.
        next_obs: ``[..., D]``.

    Returns:
        The function's result, ``[...]``.

    Raises:
        ValueError: for a wrong shape or dtype, naming the function, what it must return and what it returned.
    """
    output = function(obs, action, next_obs)
    shape = tuple(obs.shape[:-1])
    dtype = "bool" if name == "termination_fn" else "floating"
    expected = f"{name} must return a tensor of shape {shape} and {dtype} dtype"
    if not isinstance(output, Tensor):
        raise ValueError(f"{expected}, got {type(output).__name__}: {output!r}")
    right_dtype = output.dtype == torch.bool if name == "termination_fn" else output.is_floating_point()
    if tuple(output.shape) != shape or not right_dtype:
        raise ValueError(f"{expected}, got shape {tuple(output.shape)} and dtype {output.dtype}")
    return output


def first_disagreement(
    function: GivenFunction, name: str, transitions: Transitions, *, rtol: float = 1e-3, atol: float = 1e-3
) -> int | None:
    """Compare a given function with real transitions.

    Args:
        function: ``(obs [N, D], action [N, A], next_obs [N, D]) -> [N]``.
        name: ``"reward_fn"`` (compared within the tolerances) or ``"termination_fn"`` (exactly).
        transitions: real transitions.
        rtol: relative tolerance of a reward, with respect to the real one.
        atol: absolute tolerance of a reward.

    Returns:
        The index of the first transition on which they disagree, None if there is none.

    Raises:
        ValueError: as :func:`call_given`.
    """
    with torch.no_grad():
        given = call_given(function, name, transitions.obs, transitions.action, transitions.next_obs)
    if name == "termination_fn":
        disagrees = given != transitions.terminated
    else:
        disagrees = ~torch.isclose(given.double(), transitions.reward.double(), rtol=rtol, atol=atol)
    rows = disagrees.nonzero()
    return int(rows[0]) if len(rows) else None
