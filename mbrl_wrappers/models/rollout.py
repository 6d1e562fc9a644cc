"""Rollouts in a model's own predictions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrl_wrappers.models.base import DynamicsModel


def open_loop(
    dynamics: DynamicsModel,
    obs: Tensor,
    actions: Callable[[int, Tensor], Tensor],
    horizon: int,
    generator: torch.Generator | None = None,
    deterministic: bool = True,
) -> list[Tensor]:
    """Feed a model its own predictions; terminations and divergence are ignored.

    Args:
        dynamics: the model.
        obs: ``[..., D]`` where rollouts start.
        actions: ``(step, obs [..., D]) -> action [..., A]``: a policy, or a sequence indexed by the step.
        horizon: ``H`` steps.
        generator: the source of all randomness of a model that samples.
        deterministic: predict means; otherwise samples.

    Returns:
        ``H + 1`` observations ``[..., D]``, the first one included.
    """
    path = [obs]
    for step in range(horizon):
        action = actions(step, path[-1])
        path.append(dynamics.predict(path[-1], action, generator=generator, deterministic=deterministic).next_obs)
    return path
