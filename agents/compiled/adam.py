"""Adam on the state of a torch optimizer, written so that a compiler can see through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class AdamState(NamedTuple):
    """What one step of Adam reads and writes, sharing memory with the optimizer and its parameters.

    Attributes:
        params: the parameters, without gradient.
        exp_avg: first moments, shaped as the parameters.
        exp_avg_sq: second moments, likewise.
        scales: ``[2]``, the step size ``lr / (1 - beta1^t)`` and the root of ``1 - beta2^t``. Numbers made before
            the step: a compiler would work the powers out again for each entry of each parameter.
    """

    params: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]
    scales: Tensor


class AdamStep:
    """One step of a torch Adam optimizer with one parameter group, on the optimizer's own state.

    Args:
        optimizer: decides betas, epsilon and weight decay; see :meth:`objection` for which are served.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        group = optimizer.param_groups[0]
        self._betas: tuple[float, float] = group["betas"]
        self._eps: float = group["eps"]
        self._weight_decay: float = group["weight_decay"]

    @staticmethod
    def objection(optimizer: torch.optim.Optimizer) -> str | None:
        """Say why an optimizer cannot be served, None if it can."""
        if type(optimizer) is not torch.optim.Adam:
            return f"the optimizer is {type(optimizer).__name__}, not Adam"
        if len(optimizer.param_groups) != 1:
            return f"the optimizer has {len(optimizer.param_groups)} parameter groups, not one"
        group = optimizer.param_groups[0]
        named = [name for name in ("amsgrad", "maximize", "decoupled_weight_decay") if group.get(name)]
        return f"the optimizer has {named[0]}=True" if named else None

    @staticmethod
    def states(optimizer: torch.optim.Optimizer, count: int) -> list[AdamState]:
        """Return what each of the next ``count`` steps works on; followed by :meth:`count` when they are done."""
        group = optimizer.param_groups[0]
        for p in group["params"]:
            if not optimizer.state[p]:  # as torch makes it at the first step
                optimizer.state[p] = {
                    "step": torch.zeros((), dtype=torch.get_default_dtype()),
                    "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }
        states = [optimizer.state[p] for p in group["params"]]
        params = [p.detach() for p in group["params"]]
        beta1, beta2 = group["betas"]
        step = float(states[0]["step"]) + torch.arange(1, count + 1, dtype=torch.float64)
        scales = torch.stack([group["lr"] / (1 - beta1**step), (1 - beta2**step).sqrt()], dim=1)
        means, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        return [AdamState(params, means, squares, row) for row in scales.to(params[0])]

    @staticmethod
    def count(optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Tell an optimizer how many steps were taken on its state."""
        for state in optimizer.state.values():
            state["step"] += steps

    def __call__(self, state: AdamState, grads: Sequence[Tensor]) -> None:
        """Take one step in place (Kingma & Ba 2015, algorithm 1; weight decay as an L2 penalty)."""
        beta1, beta2 = self._betas
        step_size, root = state.scales
        for p, grad, m, v in zip(state.params, grads, state.exp_avg, state.exp_avg_sq, strict=True):
            g = grad + self._weight_decay * p if self._weight_decay else grad
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            p.sub_(step_size * m / (v.sqrt() / root + self._eps))
