"""Updates through a model as one launch of a GPU each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mbrl_wrappers.agents.climbing import FusedStepper
from mbrl_wrappers.agents.compiled.adam import AdamStep
from mbrl_wrappers.agents.expansion import step_in_turn
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.recording import Recorder

Optimizers = Mapping[str, torch.optim.Optimizer]


def check_recordable(optimizers: Optimizers, use_sde: bool) -> None:
    """Refuse what no recording can hold.

    Raises:
        ValueError: for gSDE, whose noise lies elsewhere for each update, and optimizers that
            :class:`~mbrl_wrappers.agents.compiled.adam.AdamStep` does not know.
    """
    objections = [AdamStep.objection(optimizer) for optimizer in optimizers.values()]
    if use_sde:
        objections.append("use_sde draws its noise anew for each update")
    if found := next(filter(None, objections), None):
        raise ValueError(f"compile must be False for this agent on a GPU, got True: {found}")


class RecordedUpdates:
    """Records an agent's update, again whenever the model or something else that it is made of has changed.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recorder = Recorder(device)
        self._steppers: dict[str, FusedStepper] = {}
        self._made_of: list[Any] = []
        self._networks: list[Tensor] = []
        self._tensors_of_model: list[Tensor] = []
        self._model: list[Any] = []
        self._step: Any = None

    @contextmanager
    def updating(
        self,
        update: Callable[..., Any],
        policy: nn.Module,
        optimizers: Optimizers,
        dynamics: DynamicsModel,
        made_of: Sequence[Any],
    ) -> Iterator[Callable[..., Any]]:
        """Give what makes an update, and tell the optimizers behind it.

        Args:
            update: takes the optimizers' steppers by name, a step of the model, and what the update is of.
            policy: all networks that it changes.
            optimizers: of the networks, by name.
            dynamics: the model.
            made_of: what else counts for the update and is not given with each; anything that can be compared.
        """
        made_of = [*made_of, policy, dynamics, *optimizers.values()]
        if made_of != self._made_of:
            self._recorder, self._made_of = Recorder(self._device), made_of
            self._steppers = {name: FusedStepper(optimizer) for name, optimizer in optimizers.items()}
            self._networks = [*policy.parameters(), *policy.buffers()]
            self._tensors_of_model = [*dynamics.parameters(), *dynamics.buffers()]
        model = [*dynamics.particle_members, *((t.data_ptr(), t._version) for t in self._tensors_of_model)]
        if model != self._model:
            self._recorder.forget()
            self._step, self._model = step_in_turn(dynamics), model
        works_on = list(self._networks)
        for stepper in self._steppers.values():
            stepper.begin()
            works_on += stepper.works_on
        try:
            yield self._recorder.recorded(partial(update, self._steppers, self._step), works_on)
        finally:
            for stepper in self._steppers.values():
                stepper.end()
