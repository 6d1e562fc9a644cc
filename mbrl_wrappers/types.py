"""The records that pass between the rooms of the library. Tensors are batch first and flat.

``D`` is the width of a flattened observation and ``A`` the width of a flattened action (see
:mod:`mbrl_wrappers.spaces`); both are in the environment's units, never normalised.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_SHAPES = {"obs": "[N, D]", "action": "[N, A]", "next_obs": "[N, D]"}  # and [N] for the others


@dataclass(frozen=True)
class Transitions:
    """Real experience, as a model is fitted on it.

    Attributes:
        obs: ``[N, D]`` observation before the action.
        action: ``[N, A]`` action as the environment received it (one-hot where discrete).
        reward: ``[N]`` reward.
        next_obs: ``[N, D]`` observation after the action, never the first one of the next episode.
        terminated: ``[N]`` bool, true terminal states only; a time limit is not one.
        key: ``[N]`` int64, a lasting identity of each row. The hold-out split is a function of the key, so a row that
            was used for training never validates the model, however often it is refitted.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    key: Tensor

    def __post_init__(self) -> None:
        """Check every field's shape and dtype, that all have the same number of rows, and that values are finite."""
        for field in dataclasses.fields(self):
            value, expected = getattr(self, field.name), _SHAPES.get(field.name, "[N]")
            if value.dim() != len(expected.split(",")):
                raise ValueError(f"Transitions.{field.name} must have shape {expected}, got {tuple(value.shape)}")
        for name, dtype in (("terminated", torch.bool), ("key", torch.int64)):
            if getattr(self, name).dtype != dtype:
                raise ValueError(f"Transitions.{name} must have dtype {dtype}, got {getattr(self, name).dtype}")
        rows = len(self.obs)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if len(value) != rows:
                raise ValueError(f"Transitions.{field.name} must have {rows} rows like obs, got {len(value)}")
        for name in ("obs", "action", "reward", "next_obs"):
            value = getattr(self, name)
            if not torch.isfinite(value).all():
                bad = int((~torch.isfinite(value)).reshape(rows, -1).any(1).nonzero()[0])
                raise ValueError(f"Transitions.{name} must be finite, got {value[bad]} in row {bad}")

    def __len__(self) -> int:
        """Return the number of transitions ``N``."""
        return len(self.obs)

    def __getitem__(self, rows: Tensor | slice) -> Transitions:
        """Return the given rows (mask, indices or slice)."""
        return Transitions(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def rows(self) -> Transitions:
        """Return the rows themselves: they are an :class:`~mbrl_wrappers.experience.Experience` without an order."""
        return self

    def sequences(self, count: int, length: int, generator: torch.Generator | None = None) -> Sequences:
        """Refuse: nothing says which row followed which.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "experience must have an order to draw sequences, got Transitions; Episodes.from_steps gives them one"
        )

    def to(self, device: torch.device | str) -> Transitions:
        """Return the same transitions on another device."""
        return Transitions(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})


class Sequences(NamedTuple):
    """Real experience in the order in which it happened, as a model with a memory is fitted on it.

    An entry is an observation and the step that led to it, as :meth:`WorldModel.observe
    <mbrl_wrappers.models.world_model.WorldModel.observe>` takes them in.

    Attributes:
        obs: ``[B, T, D]``.
        action: ``[B, T, A]`` the action that led to the observation; 0 where ``is_first``.
        reward: ``[B, T]`` the reward of that action; 0 where ``is_first``.
        terminated: ``[B, T]`` bool, whether the episode terminates there; a time limit is no termination.
        is_first: ``[B, T]`` bool, whether an episode begins there.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    is_first: Tensor

    def to(self, device: torch.device | str) -> Sequences:
        """Return the same sequences on another device."""
        return Sequences(*(part.to(device) for part in self))

    def check(self, obs_dim: int, action_dim: int, least_length: int = 1) -> None:
        """Refuse sequences of other widths than a model's, or too short ones.

        Raises:
            ValueError: naming the part and its shape.
        """
        for name, dim in (("obs", obs_dim), ("action", action_dim)):
            shape = tuple(getattr(self, name).shape)
            if len(shape) != 3 or shape[1] < least_length or shape[-1] != dim:
                more = f" with T from {least_length} on" if least_length > 1 else ""
                raise ValueError(f"sequences.{name} must have shape [B, T, {dim}]{more}, got {shape}")


class Outcome(NamedTuple):
    """Where a step leads, as in :class:`Prediction`: ``[..., D]``, ``[...]`` and ``[...]`` bool."""

    next_obs: Tensor
    reward: Tensor
    terminated: Tensor


@dataclass(frozen=True)
class Prediction:
    """The prediction of one step; ``...`` are the batch dimensions of the inputs.

    Attributes:
        next_obs: ``[..., D]`` predicted observation.
        reward: ``[...]`` predicted reward.
        terminated: ``[...]`` bool, whether the step ends the episode.
        uncertainty: ``[...]`` standard deviation of the predicted distribution, in units of the targets' spread (root
            mean square over dimensions). For a sampled prediction it is the noise of the sampled ensemble member; for a
            deterministic one, the deviation of the moment-matched mixture over the elite members, so disagreement
            counts too. 0 for exact models.
    """

    next_obs: Tensor
    reward: Tensor
    terminated: Tensor
    uncertainty: Tensor

    @property
    def outcome(self) -> Outcome:
        """The prediction without its uncertainty."""
        return Outcome(self.next_obs, self.reward, self.terminated)
