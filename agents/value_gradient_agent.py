"""SB3 agents whose actors climb a gradient that went through a model, and how their updates run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import torch
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.acceleration.steppers import Stepper
from mbrl_wrappers.agents.actor_gradients import Logged, record_means
from mbrl_wrappers.agents.captured_updates import CapturedUpdates, objection_to_captured_updates
from mbrl_wrappers.agents.model_based_agent import ModelBasedAgent, model_callbacks
from mbrl_wrappers.agents.update_mode import AcceleratedUpdates, check_compile
from mbrl_wrappers.arguments import check_device
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.members import check_predicts
from mbrl_wrappers.spaces import FlatSpace


class ValueGradientAgent(AcceleratedUpdates, ModelBasedAgent):
    """A mixin before an SB3 agent's class: updates run in eager mode, in compiled parts or, on a GPU, captured.

    Args:
        *args: the agent's arguments.
        compile: see :class:`~mbrl_wrappers.agents.MAAC`.
        **kwargs: the agent's arguments.
    """

    needs_learned_reward = True  # with hindsight too, since the env's own reward function has no gradient
    compiles_on_gpu = False  # a compiled rollout draws its noise in another order there; see docs/results/gpu.md

    def __init__(self, *args: Any, compile: bool | Literal["auto"] = False, **kwargs: Any) -> None:
        check_compile(compile)
        check_device("device", kwargs.get("device", "auto"))
        self.compile = compile
        self._captured: CapturedUpdates | None = None
        with self._naming_what_is_refused():
            super().__init__(*args, **kwargs)

    # -- what a subclass defines ------------------------------------------------------------------

    @abstractmethod
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers by name."""

    @abstractmethod
    def _steps_through(self, dynamics: DynamicsModel) -> Any:
        """Return the function whose steps gradients go through."""

    @abstractmethod
    def _drawn(self, gradient_steps: int, batch_size: int) -> Iterator[tuple[Any, ...]]:
        """Yield the inputs of each update: tensors, and other values that a captured graph depends on."""

    @abstractmethod
    def _update(self, steppers: dict[str, Stepper], step: Any, *inputs: Any) -> Logged:
        """Update all networks once; returns the numbers to log.

        Args:
            steppers: of the optimizers, by name.
            step: from :meth:`_steps_through`.
            *inputs: from :meth:`_drawn`.
        """

    # -- how updates run --------------------------------------------------------------------------

    def _setup_model(self) -> None:
        super()._setup_model()
        self._check_compile()

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> BaseCallback:
        callback = super()._init_callback(callback, progress_bar)
        (model_based,) = model_callbacks(callback)
        if model_based.dynamics is not None:
            check_predicts(model_based.dynamics)
            # Raises an error for an unsuitable model now, not after the first fit.
            self._steps_through(cast(DynamicsModel, model_based.dynamics))
        return callback

    def _objection(self) -> str | None:
        if any(leaf.categories for leaf in FlatSpace(self.observation_space, "observation_space").leaves):
            return (
                "SB3 turns discrete parts of observations into one-hot vectors in a way that can't be compiled, and "
                f"observation_space is {self.observation_space}"
            )
        if not self._on_gpu:
            return None
        if self.use_sde:
            return "use_sde draws its noise anew for each update"
        return objection_to_captured_updates(self.device, self._optimizers())

    def _pays_from(self) -> float:
        return 10_000  # compiling takes a minute or two and saves 3 to 45 ms an update

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update the networks; SB3 calls this after each rollout."""
        if self.model_based.collects_anew:
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(list(self._optimizers().values()))
        log: list[Logged] = []
        while len(log) < gradient_steps:
            try:
                with self._updating() as update:
                    for inputs in self._drawn(gradient_steps, batch_size):
                        log.append(update(*inputs))
                        self._has_updated = True
            except Exception as error:
                self._fall_back(error)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        record_means(self.logger, log)

    @contextmanager
    def _updating(self) -> Iterator[Callable[..., Logged]]:
        """Yield a function that makes an update with the current model."""
        dynamics = self.dynamics
        if not self._is_captured:
            steppers = {name: Stepper(optimizer) for name, optimizer in self._optimizers().items()}
            yield partial(self._update, steppers, self._steps_through(dynamics))
            return
        if self._captured is None:
            self._captured = CapturedUpdates(self.device)
        made_of = [self.model_based.view, *self._constants()]
        given = (self._update, self.policy, self._optimizers(), dynamics, self._steps_through, made_of)
        with self._captured.updating(*given) as update:
            yield update

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_captured"]
