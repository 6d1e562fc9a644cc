"""Adam on the state of a torch optimizer, for updates that are compiled or captured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class AdamState(NamedTuple):
    """The tensors that steps of Adam read and write; they share memory with the optimizer and its parameters.

    Attributes:
        params: the parameters, without gradient.
        exp_avg: first moments, shaped as the parameters.
        exp_avg_sq: second moments, likewise.
    """

    params: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]


class AdamStep:
    """One step of a torch Adam optimizer with one parameter group, on the optimizer's own state.

    Unlike torch's, it can be compiled together with the loss as a single graph.

    Args:
        optimizer: gives betas, epsilon and weight decay; see :meth:`objection` for the optimizers that are supported.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._betas, self._eps, self._weight_decay = self.constants(optimizer)

    @staticmethod
    def constants(optimizer: torch.optim.Optimizer) -> tuple[tuple[float, float], float, float]:
        """Return the constants of a step: betas, epsilon and weight decay."""
        group = optimizer.param_groups[0]
        return tuple(group["betas"]), group["eps"], group["weight_decay"]

    @staticmethod
    def objection(optimizer: torch.optim.Optimizer, calls_hooks: bool = False) -> str | None:
        """Return the reason why an optimizer is not supported, or None.

        Args:
            optimizer: any.
            calls_hooks: whether the steps are followed by the optimizer's hooks.
        """
        if type(optimizer) is not torch.optim.Adam:
            return f"the optimizer is {type(optimizer).__name__}, not Adam"
        if len(optimizer.param_groups) != 1:
            return f"the optimizer has {len(optimizer.param_groups)} parameter groups, not one"
        group = optimizer.param_groups[0]
        others = ("amsgrad", "maximize", "decoupled_weight_decay", "fused", "capturable", "differentiable")
        if named := [name for name in others if group.get(name)]:
            return f"the optimizer has {named[0]}=True"
        if any(not p.requires_grad for p in group["params"]):
            return "the optimizer has parameters that are frozen"
        if len({float(optimizer.state.get(p, {}).get("step", 0)) for p in group["params"]}) > 1:
            return "the optimizer's parameters have taken different numbers of steps"
        if optimizer._optimizer_step_pre_hooks or (optimizer._optimizer_step_post_hooks and not calls_hooks):
            return "the optimizer has hooks"
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in group["params"]):
            return "parameters have hooks on their gradients"
        return None

    @staticmethod
    def state(optimizer: torch.optim.Optimizer) -> AdamState:
        """Return the state for the next steps; call :meth:`count` when they are done."""
        group = optimizer.param_groups[0]
        for p in group["params"]:
            if not optimizer.state[p]:  # the state that torch makes at the first step
                optimizer.state[p] = {
                    "step": torch.zeros((), dtype=torch.get_default_dtype()),
                    "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }
        states = [optimizer.state[p] for p in group["params"]]
        params = [p.detach() for p in group["params"]]
        return AdamState(params, [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states])

    @staticmethod
    def schedule(optimizer: torch.optim.Optimizer, count: int) -> Tensor:
        """Return the step size ``lr / (1 - beta1^t)`` and the root of ``1 - beta2^t``, ``[count, 2]``.

        Computed before the steps: compiled code would compute the powers again for each entry of each parameter.
        """
        group: dict[str, Any] = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        done = optimizer.state[group["params"][0]].get("step", 0.0)
        step = float(done) + torch.arange(1, count + 1, dtype=torch.float64)
        return torch.stack([group["lr"] / (1 - beta1**step), (1 - beta2**step).sqrt()], dim=1).to(group["params"][0])

    @staticmethod
    def count(optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Tell an optimizer how many steps were taken on its state."""
        for state in optimizer.state.values():
            state["step"] += steps

    def __call__(self, state: AdamState, schedule: Tensor, grads: Sequence[Tensor]) -> None:
        """Take one step in place (Kingma & Ba 2015, algorithm 1; weight decay as an L2 penalty).

        Args:
            state: from :meth:`state`.
            schedule: ``[2]``, the step's row of :meth:`schedule`.
            grads: shaped as the parameters.
        """
        beta1, beta2 = self._betas
        step_size, root = schedule
        for p, grad, m, v in zip(state.params, grads, state.exp_avg, state.exp_avg_sq, strict=True):
            g = grad + self._weight_decay * p if self._weight_decay else grad
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            p.sub_(step_size * m / (v.sqrt() / root + self._eps))


class FusedAdamStep(AdamStep):
    """The same step in one kernel launch; learning rate and step count are tensors, as a CUDA graph needs them."""

    @staticmethod
    def schedule(optimizer: torch.optim.Optimizer, count: int) -> Tensor:
        """Return the learning rate and the number of each of the next steps, counted from 1, ``[count, 2]``."""
        group: dict[str, Any] = optimizer.param_groups[0]
        done = float(optimizer.state[group["params"][0]].get("step", 0.0))
        steps = done + torch.arange(1, count + 1, dtype=torch.float32)
        return torch.stack([torch.full_like(steps, group["lr"]), steps], dim=1).to(
            group["params"][0].device, non_blocking=True
        )

    def __call__(
        self, state: AdamState, schedule: Tensor, grads: Sequence[Tensor], is_skipped: Tensor | None = None
    ) -> None:
        """Take one step in place.

        Args:
            state: from :meth:`state`.
            schedule: ``[2]``, the step's row of :meth:`schedule`.
            grads: shaped as the parameters.
            is_skipped: 1 to leave everything as it is, else 0; a float32 scalar tensor.
        """
        learning_rate, step = schedule
        grads = [grad.contiguous() for grad in grads]  # gradients of linear layers come transposed
        torch._fused_adam_(
            state.params,
            grads,
            state.exp_avg,
            state.exp_avg_sq,
            [],
            [step] * len(state.params),
            lr=learning_rate,
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=self._weight_decay,
            eps=self._eps,
            amsgrad=False,
            maximize=False,
            found_inf=is_skipped,
        )
