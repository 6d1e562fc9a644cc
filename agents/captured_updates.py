"""Updates through a model as one launch of a GPU each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mbrl_wrappers.acceleration.adam import AdamStep
from mbrl_wrappers.acceleration.cuda_graphs import GraphCapture, objection_to_capture
from mbrl_wrappers.acceleration.steppers import FusedStepper
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.members import members_of

Optimizers = Mapping[str, torch.optim.Optimizer]


def objection_to_captured_updates(device: torch.device, optimizers: Optimizers) -> str | None:
    """Return the reason why updates can't be captured, or None.

    The device may not be the current GPU, or :class:`~mbrl_wrappers.acceleration.steppers.FusedStepper` may not support
    an optimizer.
    """
    objections = [objection_to_capture(device), *map(FusedStepper.objection, optimizers.values())]
    return next(filter(None, objections), None)


class CapturedUpdates:
    """Records an agent's update as a CUDA graph, anew whenever the model or anything else built into it has changed.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._capture: Any = None
        self._steppers: dict[str, FusedStepper] = {}
        self._made_of: list[Any] = []
        self._networks: list[Tensor] = []
        self._model: list[Any] = []
        self._step: Any = None

    def __reduce__(self) -> Any:
        """Copies and unpickled objects capture anew."""
        return type(self), (self._device,)

    @contextmanager
    def updating(
        self,
        update: Callable[..., Any],
        policy: nn.Module,
        optimizers: Optimizers,
        dynamics: DynamicsModel,
        steps_through: Callable[[DynamicsModel], Any],
        made_of: Sequence[Any],
    ) -> Iterator[Callable[..., Any]]:
        """Yield a function that makes an update, and bring the optimizers' states up to date at the end.

        Args:
            update: called with the optimizers' steppers by name, the result of ``steps_through``, and the inputs of
                the update.
            policy: holds all networks that the update changes.
            optimizers: of the networks, by name.
            dynamics: the model.
            steps_through: makes a function that takes the model's steps.
            made_of: further values that are constants in the graph, which is recorded anew if one of them changes.

        Raises:
            ValueError: if updates can't be captured; see :func:`objection_to_captured_updates`.
        """
        functions = [getattr(dynamics, name, None) for name in ("reward_fn", "termination_fn")]
        constants = [AdamStep.constants(optimizer) for optimizer in optimizers.values()]
        made_of = [*made_of, policy, dynamics, *functions, *optimizers.values(), *constants]
        if made_of != self._made_of:
            if objection := objection_to_captured_updates(self._device, optimizers):
                raise ValueError(f"compile must be False for this agent from now on: {objection}")
            self._made_of, self._model = [], []
            self._capture = GraphCapture(self._device)
            self._steppers = {name: FusedStepper(optimizer) for name, optimizer in optimizers.items()}
            self._networks = [*policy.parameters(), *policy.buffers()]
            self._made_of = made_of
        tensors = [*dynamics.parameters(), *dynamics.buffers()]
        model = [*members_of(dynamics).particle_members, *((t.data_ptr(), t._version) for t in tensors)]
        if model != self._model:
            self._capture.forget()
            self._step = steps_through(dynamics)
            self._model = model
        works_on = list(self._networks)
        for stepper in self._steppers.values():
            stepper.begin()
            works_on += stepper.works_on
        try:
            yield self._capture.captured(partial(update, self._steppers, self._step), works_on)
        finally:
            for stepper in self._steppers.values():
                stepper.end()
