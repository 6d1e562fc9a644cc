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
    """Say why updates can't be captured, None if they can.

    It may be the GPU, if it is not the current one, or an optimizer that
    :class:`~mbrl_wrappers.acceleration.adam.AdamStep` does not serve.
    """
    objections = [objection_to_capture(device), *map(AdamStep.objection, optimizers.values())]
    return next(filter(None, objections), None)


class CapturedUpdates:
    """Records an agent's update, again whenever the model or something else that it is made of has changed.

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
        """Give a function that makes an update, and tell the optimizers when it is done.

        Args:
            update: takes the optimizers' steppers by name, what takes steps of the model, and what the update is of.
            policy: all networks that it changes.
            optimizers: of the networks, by name.
            dynamics: the model.
            steps_through: makes of the model what takes its steps.
            made_of: what else counts for the update and is not given with each; anything that can be compared.

        Raises:
            ValueError: if it can't be captured, as :func:`objection_to_captured_updates` says.
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
