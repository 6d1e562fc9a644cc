"""The contract of a dynamics model: it predicts and is fitted, nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.types import Prediction, Transitions

NUM_START_STATES = 4096


class DynamicsModel(nn.Module, ABC):
    """One step of an environment, learned or known.

    Raw observations go in and raw observations come out: a model that normalises keeps its normaliser
    to itself, in its ``state_dict``. ``predict`` is differentiable, keeps no hidden state and takes
    all its randomness from the generator it is given.

    Args:
        observation_space: the environment's; see :class:`~mbrl_wrappers.spaces.FlatSpace`.
        action_space: the environment's.

    Attributes:
        obs_codec, action_codec: between the spaces and flat tensors of widths ``D`` and ``A``.
        start_obs: ``[S, D]`` real observations that imagined episodes may start from; the last fit
            leaves up to 4096 of them here, so a saved model can be imagined in on its own.
    """

    start_obs: Tensor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        super().__init__()
        self.observation_space = observation_space
        self.action_space = action_space
        self.obs_codec = FlatSpace(observation_space, "observation_space")
        self.action_codec = FlatSpace(action_space, "action_space")
        self.register_buffer("start_obs", torch.zeros(0, self.obs_codec.dim))

    @property
    def device(self) -> torch.device:
        """Where the model's tensors lie."""
        return self.start_obs.device

    @abstractmethod
    def predict(
        self,
        obs: Tensor,
        action: Tensor,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Prediction:
        """Predict one step for a batch.

        Args:
            obs: ``[..., D]`` flat observations in the env's units.
            action: ``[..., A]`` flat actions in the env's units (one-hot where discrete).
            generator: the source of all randomness, on the model's device; default: torch's global one.
            deterministic: predict the mean instead of a sample.

        Returns:
            A :class:`~mbrl_wrappers.types.Prediction` with the same leading dimensions.
        """

    @abstractmethod
    def fit(self, transitions: Transitions, generator: torch.Generator | None = None) -> dict[str, float]:
        """Improve the model on real transitions; return numbers to log, keys without prefix.

        Args:
            transitions: all real data there is, not only what is new; ``[N, ...]``.
            generator: the source of all randomness, on the CPU; default: torch's global one.

        Raises:
            ValueError: if there are no transitions, or their widths are not the model's.
        """

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Restore the state; the number of start states may differ from this model's."""
        starts = state_dict.get("start_obs")
        if starts is not None:
            if starts.shape[1:] != (self.obs_codec.dim,):
                raise RuntimeError(f"start_obs must have shape [S, {self.obs_codec.dim}], got {tuple(starts.shape)}")
            self.start_obs = self.start_obs.new_empty(starts.shape)
        return super().load_state_dict(state_dict, strict, assign)

    def _keep_start_states(self, obs: Tensor, generator: torch.Generator | None) -> None:
        rows = torch.randperm(len(obs), generator=generator)[:NUM_START_STATES]
        self.start_obs = obs[rows.to(obs.device)].detach().clone().to(self.start_obs)

    def _check_fit_input(self, transitions: Transitions) -> None:
        if len(transitions) == 0:
            raise ValueError("transitions must hold at least one row to fit a model, got 0")
        for name, codec in (
            ("obs", self.obs_codec),
            ("action", self.action_codec),
            ("next_obs", self.obs_codec),
        ):
            shape = tuple(getattr(transitions, name).shape)
            if shape != (len(transitions), codec.dim):
                raise ValueError(f"transitions.{name} must have shape [N, {codec.dim}], got {shape}")
