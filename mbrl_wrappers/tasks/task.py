"""What is known of an environment, as a record: its rules, its equations and how to show a state of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

# ``(obs [..., D], action [..., A], next_obs [..., D]) -> [...]``, flat and in the env's units.
GivenFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
# ``(obs [N, D], action [N, A]) -> next_obs [N, D]``
StepFunction = Callable[[Tensor, Tensor], Tensor]

_NUM_STARTS = 4096


@dataclass(frozen=True)
class Physics:
    """The equations of an environment.

    Attributes:
        make_spaces: returns its observation and its action space.
        step_fn: ``(obs [N, D], action [N, A]) -> next_obs [N, D]``, differentiable.
        make_starts: returns states ``[S, D]`` where episodes start, always the same ones.
    """

    make_spaces: Callable[[], tuple[spaces.Space, spaces.Space]]
    step_fn: StepFunction
    make_starts: Callable[[], Tensor]


@dataclass(frozen=True)
class Task:
    """What is known of an environment, as ``gymnasium.make`` constructs it without arguments or with ``free`` ones.

    ``termination_fn`` and ``reward_fn`` take ``(obs [..., D], action [..., A], next_obs [..., D])``, flat and in the
    environment's units (one-hot where the action is discrete), and return ``[...]``.

    Attributes:
        termination_fn: returns bool.
        reward_fn: returns rewards in the floating dtype of ``obs``, differentiable; None where ``(obs, action,
            next_obs)`` does not determine the reward.
        set_state: ``(unwrapped env, obs [D])`` puts the state that an observation shows into the simulator, for its
            renderer; None where that can't be done.
        physics: the equations, where they are simple enough to be written down.
        free: arguments of ``gymnasium.make`` that may have any value: the functions hold all the same.
    """

    termination_fn: GivenFunction
    reward_fn: GivenFunction | None = None
    set_state: Callable[[Any, np.ndarray], None] | None = None
    physics: Physics | None = None
    free: frozenset[str] = frozenset()


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return False for every step: none terminates the episode."""
    return torch.zeros_like(next_obs[..., 0], dtype=torch.bool)


def inside(value: Tensor, low: float, high: float) -> Tensor:
    """Return whether ``low < value < high``; a NaN is never inside."""
    return (low < value) & (value < high)


def effort(obs: Tensor, action: Tensor) -> Tensor:
    """Return the sum of squared actions ``[...]`` in the dtype of ``obs``."""
    return action.to(obs.dtype).square().sum(-1)


def uniform_rows(*bounds: float) -> Tensor:
    """Draw rows ``[S, len(bounds)]`` from ``[-bound, bound]`` in each column, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    rows = 2 * torch.rand(_NUM_STARTS, len(bounds), generator=generator) - 1
    return rows * torch.tensor(bounds)


def normal_rows(std: float, columns: int) -> Tensor:
    """Draw rows ``[S, columns]`` from a normal distribution, always the same ones."""
    return std * torch.randn(_NUM_STARTS, columns, generator=torch.Generator().manual_seed(0))
