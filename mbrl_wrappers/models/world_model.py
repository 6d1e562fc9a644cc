"""The contract of a world model: a state goes in and comes out, and nothing is hidden.

A model takes two kinds of steps: :meth:`WorldModel.observe` follows a real one, :meth:`WorldModel.step` imagines one.
Both return the state after the step::

    state = model.begin(obs, generator)
    state = model.observe(state, action, next_obs, is_first, generator)        # a real step
    state, prediction = model.step(state, action, generator, deterministic)    # an imagined step
    policy(model.features(state))

A state is a tensor ``[B, ...]``, or a (named) tuple or a dict of such tensors. For a model without a memory it is the
observation itself, see :class:`~mbrl_wrappers.models.base.DynamicsModel`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.given import GivenFunction
from mbrl_wrappers.spaces import FlatSpace

State = TypeVar("State")

NUM_START_STATES = 4096


class StepPrediction(NamedTuple):
    """The prediction of a step of ``B`` rows, except the state after it.

    Attributes:
        reward: ``[B]``.
        terminated: ``[B]`` bool.
        uncertainty: ``[B]``, see :class:`~mbrl_wrappers.types.Prediction`; 0 for a model that can't tell.
        diverged: ``[B]`` bool, whether anything predicted is not finite; such a step must not be used.
    """

    reward: Tensor
    terminated: Tensor
    uncertainty: Tensor
    diverged: Tensor


class WorldModel(nn.Module, ABC):
    """A model of an environment that agents can be trained in.

    Observations and actions are flat tensors in the environment's units, as the codecs make them. A class with
    ``takes_images`` gets the images out of an observation by ``obs_codec.image``, and puts images into one by
    ``obs_codec.assemble``; observations that consist of images alone are uint8.

    Args:
        observation_space: the environment's; see :class:`~mbrl_wrappers.spaces.FlatSpace`.
        action_space: the environment's.

    Attributes:
        obs_codec, action_codec: convert between the spaces and flat tensors of widths ``D`` and ``A``.
        reward_fn, termination_fn: functions that were given instead of learned, or None.
        start_obs: ``[S, D]`` real observations, not only first ones, for imagined episodes to begin from; a fit keeps
            some here, so that a saved model can be used without any data.
        verbose: 1 to print how a long fit is getting on; 0 by default.
        takes_images: whether the class's models have an encoder of images; others refuse such spaces.
        decodes: whether :meth:`decode` is learned; a model without shows features alone.
        takes_temperature: whether ``step`` has an argument ``temperature``, which makes dreams less or more certain.
    """

    takes_images: ClassVar[bool] = False
    decodes: ClassVar[bool] = True
    takes_temperature: ClassVar[bool] = False

    verbose = 0
    reward_fn: GivenFunction | None
    termination_fn: GivenFunction | None
    start_obs: Tensor
    _like: Tensor
    _like_obs: Tensor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        super().__init__()
        # Not class attributes, since these would hide a function that is an nn.Module.
        self.reward_fn, self.termination_fn = None, None
        self.observation_space = observation_space
        self.action_space = action_space
        self.obs_codec = FlatSpace(observation_space, "observation_space", images=self.takes_images)
        self.action_codec = FlatSpace(action_space, "action_space")
        obs_dtype = torch.uint8 if self.obs_codec.exact_dtype == torch.uint8 else None
        self.register_buffer("start_obs", torch.zeros(0, self.obs_codec.dim, dtype=obs_dtype))
        # These carry the model's device and dtype, and the dtype of imagined observations. start_obs can't do so, since
        # torch.compile would compile again for another number of start states.
        self.register_buffer("_like", torch.zeros(()), persistent=False)
        self.register_buffer("_like_obs", torch.zeros((), dtype=obs_dtype), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model's tensors lie."""
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's parameters."""
        return self._like.dtype

    @property
    def obs_dtype(self) -> torch.dtype:
        """The dtype of observations for :meth:`begin` and :meth:`observe`: float32, or float64 or uint8 if need be.

        It is float64 where float32 can't resolve the changes, uint8 where observations are images alone.
        """
        return self._like_obs.dtype

    @abstractmethod
    def begin(self, obs: Tensor, generator: torch.Generator | None = None) -> Any:
        """Return the state ``[B, ...]`` in which an episode begins, by its first observation ``[B, D]``.

        Args:
            obs: ``[B, D]``.
            generator: the source of all randomness, on the model's device; default: torch's global one.
        """

    @abstractmethod
    def observe(
        self, state: Any, action: Tensor, obs: Tensor, is_first: Tensor, generator: torch.Generator | None = None
    ) -> Any:
        """Return the state ``[B, ...]`` after a real step.

        Args:
            state: before the step.
            action: ``[B, A]`` that was taken.
            obs: ``[B, D]`` after the step.
            is_first: ``[B]`` bool, rows whose ``obs`` begins a new episode; as in :meth:`begin`, their new state does
                not depend on ``state`` and ``action``.
            generator: as for :meth:`begin`.
        """

    @abstractmethod
    def step(
        self, state: Any, action: Tensor, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> tuple[Any, StepPrediction]:
        """Imagine a step; returns the state ``[B, ...]`` after it, and the rest of its prediction.

        Args:
            state: before the step.
            action: ``[B, A]``.
            generator: as for :meth:`begin`.
            deterministic: predict the mean instead of a sample.
        """

    @abstractmethod
    def features(self, state: Any) -> Tensor:
        """Return the inputs of a policy, ``[B, F]`` in float32."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """``F``, the width of :meth:`features`."""

    @abstractmethod
    def decode(self, state: Any) -> Tensor:
        """Return the observation ``[B, D]`` of a state, an element of the observation space.

        Pixels are from 0 to 255, as uint8 or, to the nearest one, as floats.
        """

    @abstractmethod
    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Improve the model on real experience; return numbers to log, keys without prefix.

        Args:
            experience: all real experience so far, not only the newest; :class:`~mbrl_wrappers.types.Transitions` will
                do for a model that is fitted on rows.
            generator: the source of all randomness, on the CPU; default: torch's global one.

        Raises:
            ValueError: if there is no experience, or its widths are not the model's.
        """

    @property
    def num_starts(self) -> int:
        """The number of states that :meth:`draw_starts` draws from."""
        return len(self.start_obs)

    def draw_starts(self, count: int, generator: torch.Generator | None = None) -> Any:
        """Draw states for imagined episodes to begin from, of those that the latest fit kept.

        They begin at ``start_obs``, without a memory, unless a class keeps states.

        Args:
            count: ``B``.
            generator: as for :meth:`begin`.

        Returns:
            ``[B, ...]``.
        """
        rows = torch.randint(len(self.start_obs), (count,), generator=generator, device=self.device)
        return self.begin(self.obs_codec.project(self.start_obs[rows]).to(self.obs_dtype), generator)

    def _keep_start_states(self, obs: Tensor, generator: torch.Generator | None) -> None:
        """Keep some of the observations ``[N, D]`` for imagined episodes to begin from."""
        rows = torch.randperm(len(obs), generator=generator)[:NUM_START_STATES]
        self.start_obs = obs[rows.to(obs.device)].detach().clone().to(self.start_obs)

    # -- files: weights, and a description ------------------------------------------------------------

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Restore the state; the number of start states may differ from this model's."""
        starts = state_dict.get("start_obs")
        if starts is not None:
            if starts.shape[1:] != (self.obs_codec.dim,):
                raise RuntimeError(f"start_obs must have shape [S, {self.obs_codec.dim}], got {tuple(starts.shape)}")
            self.start_obs = torch.empty_like(starts, device=self.device)
        report = super().load_state_dict(state_dict, strict, assign)
        self._like = self._like.new_zeros((), device=self.start_obs.device)
        self._like_obs = self.start_obs.new_zeros(())
        return report

    def description(self) -> dict[str, Any]:
        """Return the JSON-safe values that :meth:`from_description` builds an equal model from, weights excepted.

        They include ``"functions"``: for each argument that is a function, the name under which it is known, or
        ``"custom"`` for a function of the user's.

        Raises:
            NotImplementedError: for a class that can't be saved.
        """
        raise NotImplementedError(f"{type(self).__name__} can't be saved: it has no description")

    @classmethod
    def from_description(
        cls,
        description: dict[str, Any],
        *,
        reward_fn: GivenFunction | None = None,
        termination_fn: GivenFunction | None = None,
    ) -> Any:
        """Build a model with fresh weights from a :meth:`description`.

        Args:
            description: names in it are looked up, never imported.
            reward_fn: the user's reward function, if the described model had one.
            termination_fn: the user's termination function, if the described model had one.

        Raises:
            ValueError: if the description is of another kind of model, or a function is missing.
            NotImplementedError: for a class that can't be saved.
        """
        raise NotImplementedError(f"{cls.__name__} can't be loaded: it has no from_description")

    def check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Refuse to serve an environment of other spaces.

        Raises:
            ValueError: naming the space, the environment's and the model's.
        """
        for name, of_env in (("observation_space", observation_space), ("action_space", action_space)):
            of_model = getattr(self, name)
            if of_model != of_env:
                hint = ""
                if self.takes_images and name == "observation_space":
                    hint = "; SB3 shows its agents images with the channels first, as agent.observation_space has them"
                raise ValueError(f"dynamics.{name} must equal the env's {of_env}, got {of_model}{hint}")


def select(mask: Tensor, state: State, other: State) -> State:
    """Take rows from ``state`` where ``mask [B]`` is True, from ``other`` elsewhere."""
    return tree_map(lambda a, b: torch.where(mask.reshape(-1, *[1] * (a.dim() - 1)), a, b), state, other)


def put(state: State, mask: Tensor, rows: State) -> State:
    """Return a copy of a state with ``rows``, in their order, in the places where ``mask [B]`` is True.

    If a fit has raised the model's precision since the state was made, the copy has the higher precision.
    """

    def replaced(tensor: Tensor, values: Tensor) -> Tensor:
        tensor = tensor.to(torch.promote_types(tensor.dtype, values.dtype), copy=True)
        values = values.to(tensor.dtype)
        tensor[mask] = values
        return tensor

    return tree_map(replaced, state, rows)
