"""How imagined data enters an agent's training: the one interface of Dyna, M2AC, MVE and STEVE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_wrappers.imagination.samples import Samples
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.members import check_predicts
from mbrl_wrappers.types import Transitions


class Strategy(ABC):
    """Decides which rows an agent's batches hold.

    :class:`~mbrl_wrappers.imagination.ModelBased` binds a strategy to an agent and a model when
    training starts, refreshes it after each fit of the model, and asks it for every batch.
    """

    needs_learned_reward = False  # even for goals, where the env's own reward function could be called
    needs_predictions = True  # from observations alone, which a model with a memory can't make
    rewards_are_targets = False  # whether a batch's rewards are sums over several steps, instead of the env's

    _view: AgentView
    _dynamics: DynamicsModel
    _generator: torch.Generator

    def bind(self, view: AgentView, dynamics: DynamicsModel, generator: torch.Generator) -> None:
        """Store the agent's view, the model, and the source of all randomness (on the agent's device).

        Raises:
            ValueError: for a model or an agent that the strategy can't serve.
        """
        if self.needs_predictions:
            check_predicts(dynamics)
        self._view, self._dynamics, self._generator = view, dynamics, generator

    @abstractmethod
    def refresh(self, transitions: Transitions, num_timesteps: int, new_steps: int) -> dict[str, float]:
        """Imagine anew, after the model was fitted.

        Args:
            transitions: all real data, ``[N, ...]`` on the agent's device.
            num_timesteps: env steps so far.
            new_steps: env steps since the last refresh.

        Returns:
            Numbers to log under ``imagination/``.
        """

    @abstractmethod
    def sample(self, real_buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None) -> Samples:
        """Draw a training batch of exactly ``batch_size`` rows.

        Args:
            real_buffer: the agent's own buffer.
            batch_size: rows to return.
            env: normalises observations and rewards, as in SB3's ``ReplayBuffer.sample``; None for raw ones.
        """

    def sample_block(
        self, real_buffer: ReplayBuffer, batch_size: int, count: int, env: VecNormalize | None
    ) -> Iterable[Samples]:
        """Draw ``count`` batches, each as :meth:`sample` draws it; override it if one draw can serve several batches.

        Agents that know how many batches they need call this, others call :meth:`sample`. The real rows must be the
        same as in batches drawn one by one, so that runs don't depend on which of the two is called.
        """
        return (self.sample(real_buffer, batch_size, env) for _ in range(count))

    def has_imagined(self) -> bool:
        """Tell whether there is imagined data to draw from; True for a strategy that keeps none."""
        return True

    def imagined_state(self) -> dict[str, Tensor]:
        """Return the imagined data as tensors, for a checkpoint that resumes exactly."""
        return {}

    def load_imagined_state(self, state: dict[str, Tensor]) -> None:
        """Restore the result of :meth:`imagined_state`; called at each start of training, often with ``{}``."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no imagined data, got {sorted(state)}")

    def __call__(self, *args: Any) -> NoReturn:
        """Say what to write where a strategy was given to ``learn``, which calls what is no callback at each step.

        Raises:
            TypeError: always.
        """
        name = type(self).__name__
        raise TypeError(f"callback must be ModelBased({name}()), which fits a model for the strategy, got {name}()")

    init_callback = __call__  # which SB3 calls of what stands in a list of callbacks

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the agent, the model (its callback keeps it) and the generator."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_view", "_dynamics", "_generator")}
