"""Steps of optimizers, as torch takes them or without ever waiting for a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl_wrappers.acceleration.adam import AdamState, AdamStep, FusedAdamStep


class Stepper:
    """Takes the steps of an optimizer.

    Args:
        optimizer: any torch optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def descend(self, loss: Tensor) -> None:
        """Take a gradient step on a loss (a scalar)."""
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
    """Takes the same steps without ever waiting for the GPU, as a capture must.

    Between :meth:`begin` and :meth:`end` the optimizer's own step count lags behind.

    Args:
        optimizer: an Adam; see :meth:`objection`.
    """

    @staticmethod
    def objection(optimizer: torch.optim.Optimizer) -> str | None:
        """Return the reason why an optimizer is not supported, or None.

        See :meth:`AdamStep.objection <mbrl_wrappers.acceleration.adam.AdamStep.objection>`. Hooks after steps must have
        an attribute ``is_capturable`` that is true: they change tensors in place and decide nothing by their values.
        """
        if not all(getattr(hook, "is_capturable", False) for hook in optimizer._optimizer_step_post_hooks.values()):
            return "the optimizer has hooks"
        return AdamStep.objection(optimizer, calls_hooks=True)

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self._clock = FusedAdamStep.schedule(optimizer, 1)[0].clone()
        self._known: Any = None  # learning rate and step count of the optimizer when the clock was last set from it
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
        """The tensors that a step changes."""
        return [*self._state.params, *self._state.exp_avg, *self._state.exp_avg_sq, self._clock]

    def step(self, norm: Tensor | None = None) -> None:
        """Take a step by the gradients, none if their norm is given and not finite."""
        grads = [p.grad for p in self._optimizer.param_groups[0]["params"]]
        with_grad = [index for index, grad in enumerate(grads) if grad is not None]
        state = AdamState(*([part[index] for index in with_grad] for part in self._state))
        is_skipped = None if norm is None else (~norm.isfinite()).float()
        self._take(state, self._clock, [grads[index] for index in with_grad], is_skipped)
        self._clock[1] += 1.0 if is_skipped is None else 1.0 - is_skipped
        for hook in self._optimizer._optimizer_step_post_hooks.values():
            hook(self._optimizer, (), {})

    def end(self) -> None:
        """Tell the optimizer how many steps were taken; this waits for the GPU."""
        AdamStep.count(self._optimizer, int(self._clock[1].item()) - 1 - int(self._says()[1]))
        self._known = self._says()
