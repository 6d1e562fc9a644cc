"""The contract of a dynamics model: it predicts and is fitted, nothing else."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models.columns import moves
from mbrl_wrappers.models.divergence import has_diverged
from mbrl_wrappers.models.given import GivenFunction, first_disagreement
from mbrl_wrappers.models.members import ensemble_of
from mbrl_wrappers.models.uncertainty import Measure
from mbrl_wrappers.models.world_model import StepPrediction, WorldModel
from mbrl_wrappers.types import Prediction, Transitions


class DynamicsModel(WorldModel):
    """One step of an environment, learned or known: a world model whose state is the observation.

    Observations go in and come out raw: a model that normalises keeps its normaliser to itself, in its
    ``state_dict``. ``predict`` is differentiable, keeps no hidden state and draws all randomness from its
    ``generator``.

    Args:
        observation_space: the environment's; see :class:`~mbrl_wrappers.spaces.FlatSpace`.
        action_space: the environment's.

    Attributes:
        reward_fn, termination_fn: as for :class:`WorldModel`. Each fit checks them against all real transitions, and
            warns once of the first contradiction.
        start_obs: ``[S, D]``, up to 4096 observations of the last fit's data; see :class:`WorldModel`.
        seen_range: ``[2, D]`` lowest and highest value of each column in all data that the model was fitted on;
            ``[0, D]`` before the first fit.
    """

    seen_range: Tensor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        super().__init__(observation_space, action_space)
        self._warned: set[str] = set()
        self.register_buffer("seen_range", torch.zeros(0, self.obs_codec.dim, dtype=torch.float64))

    # -- the state is the observation -----------------------------------------------------------------

    def begin(self, obs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the observation."""
        return obs

    def observe(
        self, state: Tensor, action: Tensor, obs: Tensor, is_first: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the observation: nothing that happened before it matters."""
        return obs

    def step(
        self,
        state: Tensor,
        action: Tensor,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        measure: Measure | None = None,
    ) -> tuple[Tensor, StepPrediction]:
        """Predict a step, and project the next observation into the observation space; see :meth:`WorldModel.step`.

        Args:
            state: ``[B, D]``.
            action: ``[B, A]``.
            generator: the source of all randomness.
            deterministic: predict the mean instead of a sample; not used with a ``measure``.
            measure: computes the uncertainty, for an :class:`~mbrl_wrappers.models.members.Ensemble`; default: the
                uncertainty is :meth:`predict`'s.
        """
        if measure is None:
            p = self.predict(state, action, generator=generator, deterministic=deterministic)
        else:
            p = ensemble_of(self).predict_measured(state, action, measure, generator=generator)
        diverged = has_diverged(p.next_obs, p.reward) | ~torch.isfinite(p.uncertainty)
        return self.obs_codec.project(p.next_obs), StepPrediction(p.reward, p.terminated, p.uncertainty, diverged)

    def features(self, state: Tensor) -> Tensor:
        """Return the observation in float32."""
        return state.float()

    @property
    def num_features(self) -> int:
        """``D``."""
        return self.obs_codec.dim

    def decode(self, state: Tensor) -> Tensor:
        """Return the observation."""
        return state

    # -- one step ---------------------------------------------------------------------------------------

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

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Restore the state; the number of start states may differ from this model's."""
        seen = state_dict.get("seen_range")
        if seen is not None:
            if seen.shape[1:] != (self.obs_codec.dim,) or len(seen) not in (0, 2):
                raise RuntimeError(
                    f"seen_range must have shape [0 or 2, {self.obs_codec.dim}], got {tuple(seen.shape)}"
                )
            self.seen_range = torch.empty_like(seen, device=self.device)
        report = super().load_state_dict(state_dict, strict, assign)
        self.obs_codec.reach(self.seen_range.cpu())
        return report

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move to a device or cast; the range that was seen stays in float64."""
        seen = self.seen_range
        result = super()._apply(fn, recurse)
        self.seen_range = seen.to(self.seen_range.device)
        return result

    def _observe(self, transitions: Transitions) -> None:
        """Take note of where the observations lie: their range, and whether float32 resolves how they change."""
        t = transitions
        low, high = torch.minimum(t.obs, t.next_obs).amin(0), torch.maximum(t.obs, t.next_obs).amax(0)
        seen = torch.stack([low, high]).double()
        self._warn_of_values_outside(seen.cpu())
        if len(self.seen_range):
            low, high = self.seen_range
            seen = torch.stack([torch.minimum(seen[0], low), torch.maximum(seen[1], high)])
        self.seen_range = seen
        self.obs_codec.reach(seen.cpu())
        if self.obs_dtype != torch.float64 and self._is_too_coarse(transitions):
            self.start_obs, self._like_obs = self.start_obs.to(t.obs.dtype), self._like_obs.to(t.obs.dtype)

    def _warn_of_values_outside(self, seen: Tensor) -> None:
        low, high = self.obs_codec.bounds
        slack = 1e-5 * (1 + torch.where(torch.isfinite(high - low), high - low, 0.0))
        outside = ((seen[0] < low - slack) | (seen[1] > high + slack)).nonzero()[:, 0].tolist()
        if outside:
            column = outside[0]
            others = f" and {len(outside) - 1} other columns" if len(outside) > 1 else ""
            self.warn_once(
                "outside",
                f"the environment leaves its observation_space: {self.obs_codec.column_name(column)}{others} must be "
                f"in [{low[column]:g}, {high[column]:g}], got {seen[0, column]:g} to {seen[1, column]:g}; the model "
                "takes the values as they are, and imagined observations may lie outside of the space too",
            )

    def _is_too_coarse(self, transitions: Transitions) -> bool:
        """Tell whether the spacing of float32 numbers exceeds a hundredth of the changes of any column; warn once."""
        t = transitions
        size = t.obs.abs().amax(0).double()
        size_of_change = (t.next_obs.double() - t.obs.double()).square().mean(0).sqrt()
        spacing = torch.finfo(torch.float32).eps * size
        coarse = moves(t) & (spacing > 0.01 * size_of_change) & self.obs_codec.is_continuous.to(t.obs.device)
        if not coarse.any():
            return False
        column = int(coarse.nonzero()[0])
        is_kept = t.obs.dtype == torch.float64
        self.warn_once(
            "coarse",
            f"float32 can't resolve how {self.obs_codec.column_name(column)} changes, by "
            f"{size_of_change[column]:.2g} at values of {size[column]:.2g}"
            f"{'; the model keeps float64, but the networks of agents do not' if is_kept else ''}: subtract an offset "
            "from it, for example by gymnasium.wrappers.TransformObservation",
        )
        return True

    def warn_once(self, key: str, message: str) -> None:
        """Warn whoever called ``fit``, once in the model's life for each key."""
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=5)

    def _flatten(self, value: Tensor, name: str) -> Tensor:
        """Return ``obs`` or ``action``, ``[..., width]``, as rows ``[N, width]`` after checking width and device."""
        width = self.obs_codec.dim if name == "obs" else self.action_codec.dim
        if value.shape[-1:] != (width,):
            raise ValueError(f"{name} must have shape [..., {width}], got {tuple(value.shape)}")
        if value.device != self.device:
            raise ValueError(f"{name} must be on the model's device {self.device}, got {value.device}")
        return value.reshape(-1, width)

    def _check_transitions(self, transitions: Transitions) -> None:
        """Check the transitions of a fit, and compare the given functions with them."""
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
        for name in ("obs", "next_obs"):
            self._check_flags(getattr(transitions, name), name)
        for name, function in (("termination_fn", self.termination_fn), ("reward_fn", self.reward_fn)):
            if function is not None and name not in self._warned:
                self._warn_of_contradiction(name, function, transitions)

    def _check_flags(self, obs: Tensor, name: str) -> None:
        """Refuse other values than 0 and 1 in columns that the space says are flags."""
        binary = self.obs_codec.is_binary.to(obs.device)
        wrong = (obs != 0) & (obs != 1) & binary
        if wrong.any():
            row, column = (int(index) for index in wrong.nonzero()[0])
            raise ValueError(
                f"transitions.{name} must hold 0 or 1 in {self.obs_codec.column_name(column)}, as observation_space "
                f"says, got {obs[row, column]:g} in row {row}"
            )

    def _warn_of_contradiction(self, name: str, function: GivenFunction, transitions: Transitions) -> None:
        row = first_disagreement(function, name, transitions)
        if row is None:
            return
        t = transitions[row : row + 1]
        real = t.terminated[0].item() if name == "termination_fn" else t.reward[0].item()
        said = function(t.obs, t.action, t.next_obs)[0].item()
        self.warn_once(
            name,
            f"{name} contradicts the real environment: it says {said}, the environment said {real}, for "
            f"obs {t.obs[0].tolist()}, action {t.action[0].tolist()}, next_obs {t.next_obs[0].tolist()}",
        )
