"""How actors take gradients that went through a model: watched, checked and clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from mbrl_wrappers.acceleration.steppers import Stepper
from mbrl_wrappers.models.divergence import all_finite

_ALL_STEPS = 20


class GradientWatch:
    """Records the norms of the gradients of a rollout's actions, and zeroes gradients that are not finite.

    A gradient may not be finite because the row diverged (the objective leaves such a row out, but 0 times infinity is
    NaN), or because it exploded on its way back through the rollout. Both are counted.
    """

    def __init__(self) -> None:
        self.probes: list[Tensor] = []

    def probe(self, rows: Tensor) -> Tensor:
        """Return a new probe ``[B]`` for :func:`watched`, for the next step of a rollout with ``rows [B, ...]``."""
        self.probes.append(torch.zeros(len(rows), device=rows.device, requires_grad=True))
        return self.probes[-1]

    def report(self) -> dict[str, Tensor]:
        """Return the numbers to log.

        ``grad_norm_h{t}``: the mean norm of a row's gradient at step ``t``, for ``t`` up to 20 and powers of 2 above;
        ``rows_without_gradient``: the number of rows whose gradient was zeroed at some step.
        """
        seen = torch.stack([torch.zeros_like(probe) if probe.grad is None else probe.grad for probe in self.probes])
        steps = [step for step in range(len(seen)) if step <= _ALL_STEPS or step & (step - 1) == 0]
        norms = torch.stack([seen[step] for step in steps]).nansum(1)  # a sum, since the objective is a mean over rows
        named = {f"grad_norm_h{step}": norm for step, norm in zip(steps, norms, strict=True)}
        return {**named, "rows_without_gradient": seen.isnan().any(0).sum()}


def watched(action: Tensor, probe: Tensor) -> Tensor:
    """Return an action ``[B, A]`` whose backward pass stores the norms of its gradient in ``probe.grad``, ``[B]``.

    The norm is NaN where the gradient is not finite; there the gradient is set to 0. The path through the action's
    log-density is not part of this gradient.
    """
    return _Watched.apply(action, probe) if action.requires_grad else action


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, action: Tensor, probe: Tensor) -> Tensor:
        return action.view_as(action)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        is_finite = all_finite(gradient)
        norm = torch.where(is_finite, gradient.norm(dim=-1), torch.nan)
        return torch.where(is_finite[:, None], gradient, 0.0), norm


def ascend(
    objective: Tensor,
    network: Any,
    max_grad_norm: float | None,
    probes: Sequence[Tensor],
    stepper: Stepper,
    *,
    retain_graph: bool = False,
) -> Tensor:
    """Take an optimizer step that ascends an objective, unless the gradient is not finite.

    Args:
        objective: a tensor without dimensions.
        network: the network to improve; the gradients of other networks stay as they are.
        max_grad_norm: limit to which the gradient's norm is clipped; None for no clipping.
        probes: further tensors to compute gradients of; see :func:`watched`.
        stepper: takes the step.
        retain_graph: whether another gradient will be taken through the same graph.

    Returns:
        The gradient's norm before clipping.
    """
    parameters = list(network.parameters())
    stepper.zero_grad()
    (-objective).backward(inputs=[*parameters, *probes], retain_graph=retain_graph)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_grad_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    stepper.step(norm)
    return norm


def least(values: Sequence[Tensor], members: Tensor | None = None) -> Tensor:
    """Return the least of the critics' values ``[B, 1]``, as ``[B]``: of all critics, or of the indices ``[M]``."""
    together = torch.cat(list(values), dim=1)
    return (together if members is None else together[:, members]).min(dim=1).values


def masked_mean(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of the values that count, 0 if none does."""
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)


class Logged(NamedTuple):
    """Numbers of an update, side by side."""

    names: tuple[str, ...]
    values: Tensor


def logged(entries: Mapping[str, Tensor]) -> Logged:
    """Put the means of tensors side by side, without their gradients."""
    means = [value.detach().float().reshape(-1) for value in entries.values()]
    return Logged(tuple(entries), torch.cat([mean if len(mean) == 1 else mean.mean()[None] for mean in means]))


def record_means(logger: Logger, updates: list[Logged]) -> None:
    """Log the mean of each number over those updates that have it, under ``train/``."""
    found: dict[str, list[Tensor]] = {}
    if updates:
        numbers = torch.cat([update.values for update in updates]).cpu()
        for name, number in zip([name for update in updates for name in update.names], numbers, strict=True):
            found.setdefault(name, []).append(number)
    for name, own in found.items():
        logger.record(f"train/{name}", torch.stack(own).mean().item())
