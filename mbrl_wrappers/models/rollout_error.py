"""How wrong a model is about real trajectories, step by step into the future."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.models.rollout import open_loop


@torch.no_grad()
def open_loop_error(
    dynamics: DynamicsModel,
    obs: Tensor,
    action: Tensor,
    horizon: int,
    generator: torch.Generator | None = None,
    deterministic: bool = True,
) -> Tensor:
    """Measure how far a model drifts from real trajectories when it is fed its own predictions.

    From every real state with ``horizon`` steps after it, the model is rolled out under the real actions.
    The error of a step is ``sqrt(mean_d ((predicted_d - real_d) / spread_d)^2)``, where ``spread`` is the
    standard deviation of each dimension over all given observations (1 where it does not vary). So 0 is exact,
    and a model that always predicts the mean state has an error of about 1.

    Args:
        dynamics: the model; its terminations are ignored.
        obs: ``[E, T + 1, D]`` flat observations of ``E`` trajectories.
        action: ``[E, T, A]`` flat actions, ``action[:, t]`` taken in ``obs[:, t]``.
        horizon: steps into the future, 1 to ``T``.
        generator: the source of all randomness of a model that samples.
        deterministic: predict means; otherwise samples.

    Returns:
        ``[E * (T + 1 - horizon), horizon]``: rows for the starts of the first trajectory in their order, then
        for the starts of the second, and so on.

    Raises:
        ValueError: if the shapes do not fit each other or the model, or ``horizon`` is out of its range.
    """
    _check(dynamics, obs, action, horizon)
    obs, action = obs.to(dynamics.device), action.to(dynamics.device)
    real = obs if obs.is_floating_point() else obs.float()  # differences of bytes would wrap around
    normalizer = Normalizer(obs.shape[-1]).to(real)
    normalizer.fit(real.flatten(0, 1))
    starts = obs.shape[1] - horizon
    path = open_loop(
        dynamics,
        obs[:, :starts],
        lambda step, _: action[:, step : step + starts],
        horizon,
        generator,
        deterministic,
    )
    errors = [
        ((imagined.to(real) - real[:, step : step + starts]) / normalizer.std).square().mean(-1).sqrt()
        for step, imagined in enumerate(path)
    ]
    return torch.stack(errors[1:], dim=-1).flatten(0, 1)


def _check(dynamics: DynamicsModel, obs: Tensor, action: Tensor, horizon: int) -> None:
    if obs.dim() != 3 or len(obs) == 0 or obs.shape[-1] != dynamics.obs_codec.dim:
        raise ValueError(
            f"obs must have shape [E, T + 1, {dynamics.obs_codec.dim}] with at least one trajectory, "
            f"got {tuple(obs.shape)}"
        )
    steps = obs.shape[1] - 1
    expected = (len(obs), steps, dynamics.action_codec.dim)
    if tuple(action.shape) != expected:
        raise ValueError(f"action must have shape {expected} for obs {tuple(obs.shape)}, got {tuple(action.shape)}")
    if not 1 <= horizon <= steps:
        raise ValueError(f"horizon must be from 1 to the trajectories' {steps} steps, got {horizon}")
