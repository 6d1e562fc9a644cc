"""How actors take gradients that went through a model: watched, checked and clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from mbrl_wrappers.agents.compiled.adam import AdamState, AdamStep, FusedAdamStep

_ALL_STEPS = 20


class Stepper:
    """Takes the steps of an optimizer.

    Args:
        optimizer: any.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def descend(self, loss: Tensor) -> None:
        """Take a step down a loss."""
        self._optimizer.zero_grad()
        loss.backward()
        self.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad()

    def step(self, norm: Tensor | None = None) -> None:
        """Take a step by the gradients, none if their norm is given and not finite."""
        if norm is None or norm.isfinite():
            self._optimizer.step()


class FusedStepper(Stepper):
    """Takes the same steps without ever waiting for the GPU, as a recording must.

    Between :meth:`begin` and :meth:`end` the optimizer itself does not know of them.

    Args:
        optimizer: see :meth:`AdamStep.objection <mbrl_wrappers.agents.compiled.adam.AdamStep.objection>`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self._clock = FusedAdamStep.schedule(optimizer, 1)[0].clone()
        self._known: Any = None  # what the optimizer said when the clock was right
        self._take = FusedAdamStep(optimizer)
        self.begin()

    def begin(self) -> None:
        """Take over from the optimizer."""
        self._state = AdamStep.state(self._optimizer)
        if self._says() != self._known:
            self._clock.copy_(FusedAdamStep.schedule(self._optimizer, 1)[0])
            self._known = self._says()

    def _says(self) -> tuple[float, float]:
        """Return the optimizer's learning rate and the steps that it has taken."""
        group = self._optimizer.param_groups[0]
        return group["lr"], float(self._optimizer.state[group["params"][0]]["step"])

    @property
    def works_on(self) -> list[Tensor]:
        """What steps change."""
        return [*self._state.params, *self._state.exp_avg, *self._state.exp_avg_sq, self._clock]

    def step(self, norm: Tensor | None = None) -> None:
        """Take a step by the gradients, none if their norm is given and not finite."""
        grads = [p.grad for p in self._optimizer.param_groups[0]["params"]]
        with_grad = [index for index, grad in enumerate(grads) if grad is not None]
        state = AdamState(*([part[index] for index in with_grad] for part in self._state))
        is_skipped = None if norm is None else (~norm.isfinite()).float()
        self._take(state, self._clock, [grads[index] for index in with_grad], is_skipped)
        self._clock[1] += 1.0 if is_skipped is None else 1.0 - is_skipped

    def end(self) -> None:
        """Tell the optimizer how many steps were taken; this waits for the GPU."""
        AdamStep.count(self._optimizer, int(self._clock[1].item()) - 1 - int(self._says()[1]))
        self._known = self._says()


class GradientWatch:
    """Sees the gradients of the actions of a rollout go by, and takes out the rows that are not finite.

    Such rows may have diverged, and count for nothing, but 0 times infinity is not 0; or the gradient exploded on its
    way back from where the row led. Both are counted.
    """

    def __init__(self) -> None:
        self.probes: list[Tensor] = []

    def probe(self, rows: Tensor) -> Tensor:
        """Return what :func:`watched` takes for the next step, for as many rows as ``rows [B, ...]`` has."""
        self.probes.append(torch.zeros(len(rows), device=rows.device, requires_grad=True))
        return self.probes[-1]

    def report(self) -> dict[str, Tensor]:
        """Return what is to be logged.

        ``grad_norm_h{t}``: the mean norm of a row's gradient at step ``t``, of 20 steps, and at powers of 2 behind;
        ``rows_without_gradient``: how many rows had to be taken out at some step.
        """
        seen = torch.stack([torch.zeros_like(probe) if probe.grad is None else probe.grad for probe in self.probes])
        steps = [step for step in range(len(seen)) if step <= _ALL_STEPS or step & (step - 1) == 0]
        norms = torch.stack([seen[step] for step in steps]).nansum(1)  # the objective has taken the mean over rows
        named = {f"grad_norm_h{step}": norm for step, norm in zip(steps, norms, strict=True)}
        return {**named, "rows_without_gradient": seen.isnan().any(0).sum()}


def watched(action: Tensor, probe: Tensor) -> Tensor:
    """Return an action ``[B, A]`` the norms of whose gradient a probe ``[B]`` gets for its own, nan where not finite.

    The gradient is that without the way through the action's own log-density. Rows where it is not finite lose it.
    """
    return _Watched.apply(action, probe) if action.requires_grad else action


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, action: Tensor, probe: Tensor) -> Tensor:
        return action.view_as(action)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        is_finite = gradient.isfinite().all(-1)
        norm = torch.where(is_finite, gradient.norm(dim=-1), torch.nan)
        return torch.where(is_finite[:, None], gradient, 0.0), norm


def climb(
    objective: Tensor,
    network: Any,
    max_grad_norm: float | None,
    probes: Sequence[Tensor],
    stepper: Stepper,
) -> Tensor:
    """Take a step of a network's optimizer up an objective, none where the gradient is not finite.

    Args:
        objective: has no dimensions.
        network: the gradients of other networks stay as they are.
        max_grad_norm: to which the gradient's norm is clipped.
        probes: what else is to have a gradient; see :func:`watched`.
        stepper: takes the step.

    Returns:
        The norm before that.
    """
    parameters = list(network.parameters())
    stepper.zero_grad()
    (-objective).backward(inputs=[*parameters, *probes])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_grad_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    stepper.step(norm)
    return norm


def least(values: Sequence[Tensor], members: Tensor | None = None) -> Tensor:
    """Return the least of critics' values ``[B, 1]`` as ``[B]``: of all, or of those with the numbers ``[M]``."""
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
