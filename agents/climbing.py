"""How actors take gradients that went through a model: watched, checked and clipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

_ALL_STEPS = 20


class GradientWatch:
    """Sees the gradients of the actions of a rollout go by, and takes out the rows that are not finite.

    Such rows may have diverged, and count for nothing, but 0 times infinity is not 0; or the gradient exploded on its
    way back from where the row led. Both are counted.
    """

    def __init__(self) -> None:
        self._norms: list[Tensor] = []
        self._lost: list[Tensor] = []

    def __call__(self, action: Tensor) -> Tensor:
        """Return the action of the next step ``[B, A]``, watched: without the way through its own log-density."""
        index, seen = len(self._norms), action.view_as(action)
        self._norms.append(torch.zeros((), device=action.device))
        if seen.requires_grad:
            seen.register_hook(lambda gradient: self._see(index, gradient))
        return seen

    def _see(self, index: int, gradient: Tensor) -> Tensor:
        is_finite = gradient.isfinite().all(-1)
        gradient = torch.where(is_finite[:, None], gradient, 0.0)
        self._norms[index] = gradient.norm(dim=-1).sum()  # the objective has taken the mean over rows
        self._lost.append(~is_finite)
        return gradient

    def report(self) -> dict[str, Tensor]:
        """Return what is to be logged.

        ``grad_norm_h{t}``: the mean norm of a row's gradient at step ``t``, of 20 steps, and at powers of 2 behind;
        ``rows_without_gradient``: how many rows had to be taken out at some step.
        """
        steps = [step for step in range(len(self._norms)) if step <= _ALL_STEPS or step & (step - 1) == 0]
        norms = {f"grad_norm_h{step}": self._norms[step] for step in steps}
        if not self._lost:
            return norms
        return {**norms, "rows_without_gradient": torch.stack(self._lost).any(0).sum()}


def climb(objective: Tensor, network: Any, max_grad_norm: float | None) -> Tensor:
    """Take a step of a network's optimizer up an objective, none where the gradient is not finite.

    Args:
        objective: has no dimensions.
        network: has an optimizer; the gradients of other networks stay as they are.
        max_grad_norm: to which the gradient's norm is clipped.

    Returns:
        The norm before that.
    """
    parameters = list(network.parameters())
    network.optimizer.zero_grad()
    (-objective).backward(inputs=parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm.isfinite():
        if max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
        network.optimizer.step()
    return norm


def least(values: Sequence[Tensor]) -> Tensor:
    """Return the least of some critics' values ``[B, 1]``, as ``[B]``."""
    return torch.cat(list(values), dim=1).min(dim=1).values


def masked_mean(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of the values that count, 0 if none does."""
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)


def record_means(logger: Logger, entries: list[dict[str, Tensor]]) -> None:
    """Log the mean of each number over those updates that have it, under ``train/``."""
    values: dict[str, list[Tensor]] = {}
    for entry in entries:
        for name, value in entry.items():
            values.setdefault(name, []).append(value.detach().float().mean())
    means = torch.stack([torch.stack(found).mean() for found in values.values()]).tolist() if values else []
    for name, mean in zip(values, means, strict=True):
        logger.record(f"train/{name}", mean)
