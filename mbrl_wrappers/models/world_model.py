"""The contract of a world model: a state goes in and comes out, and nothing is hidden.

Two ways lead through a model. What really happened is taken in by :meth:`WorldModel.observe`, what might happen is
imagined by :meth:`WorldModel.step`; both return the state that they lead to::

    state = model.begin(obs, generator)
    state = model.observe(state, action, next_obs, is_first, generator)        # real steps: what to remember of them
    state, prediction = model.step(state, action, generator, deterministic)    # imagined steps
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
    """The prediction of a step of ``B`` rows, besides the state that it leads to.

    Attributes:
        reward: ``[B]``.
        terminated: ``[B]`` bool.
        uncertainty: ``[B]``, see :class:`~mbrl_wrappers.types.Prediction`; 0 where a model has none to say.
        diverged: ``[B]`` bool, whether the state or the reward is not finite; the step is of no use then.
    """

    reward: Tensor
    terminated: Tensor
    uncertainty: Tensor
    diverged: Tensor


class WorldModel(nn.Module, ABC):
    """A model of an environment that agents can be trained in.

    Observations and actions are flat tensors in the environment's units, as the codecs make them. A class that says
    ``takes_images`` finds the images in its observations by ``obs_codec.image``, and makes observations of images by
    ``obs_codec.assemble``; where there is nothing but images, observations come as uint8.

    Args:
        observation_space: the environment's; see :class:`~mbrl_wrappers.spaces.FlatSpace`.
        action_space: the environment's.

    Attributes:
        obs_codec, action_codec: between the spaces and flat tensors of widths ``D`` and ``A``.
        reward_fn, termination_fn: functions that were given instead of learned, or None.
        start_obs: ``[S, D]`` real first or later observations that imagined episodes may begin from; a fit leaves
            some here, so that a saved model can be imagined in on its own.
        verbose: 1 to print how a long fit is getting on; 0 by default.
        takes_images: whether the class's models have an encoder of images; others refuse such spaces.
    """

    takes_images: ClassVar[bool] = False

    verbose = 0
    reward_fn: GivenFunction | None
    termination_fn: GivenFunction | None
    start_obs: Tensor
    _like: Tensor
    _like_obs: Tensor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        super().__init__()
        self.reward_fn, self.termination_fn = None, None  # not in the class: it would hide a function that is a module
        self.observation_space = observation_space
        self.action_space = action_space
        self.obs_codec = FlatSpace(observation_space, "observation_space", images=self.takes_images)
        self.action_codec = FlatSpace(action_space, "action_space")
        obs_dtype = torch.uint8 if self.obs_codec.exact_dtype == torch.uint8 else None
        self.register_buffer("start_obs", torch.zeros(0, self.obs_codec.dim, dtype=obs_dtype))
        # They carry the model's device and dtype, and the dtype of imagined observations. Not start_obs, since a
        # compiler takes another number of starts for another function.
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

        It is float64 where float32 can't resolve the changes, uint8 where there is nothing but images.
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
            obs: ``[B, D]`` to which it led.
            is_first: ``[B]`` bool, rows in which ``obs`` begins a new episode: neither ``state`` nor ``action`` has
                to do with it, as in :meth:`begin`.
            generator: as for :meth:`begin`.
        """

    @abstractmethod
    def step(
        self, state: Any, action: Tensor, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> tuple[Any, StepPrediction]:
        """Imagine a step; returns the state ``[B, ...]`` to which it leads, and its prediction.

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
            experience: all real experience there is, not only what is new; :class:`~mbrl_wrappers.types.Transitions`
                are rows of it.
            generator: the source of all randomness, on the CPU; default: torch's global one.

        Raises:
            ValueError: if there is no experience, or its widths are not the model's.
        """

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

        Among them are ``"functions"``: for each argument that is a function the name under which it is known, or
        ``"custom"`` for one of the user's own.

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
            reward_fn: the user's own function, if the described model had one.
            termination_fn: likewise.

        Raises:
            ValueError: if the description is not that of such a model, or a function is missing.
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
                raise ValueError(f"dynamics.{name} must equal the env's {of_env}, got {of_model}")


def select(mask: Tensor, state: State, other: State) -> State:
    """Take rows from ``state`` where ``mask [B]`` is True, from ``other`` elsewhere."""
    return tree_map(lambda a, b: torch.where(mask.reshape(-1, *[1] * (a.dim() - 1)), a, b), state, other)


def put(state: State, mask: Tensor, rows: State) -> State:
    """Return a copy of a state whose rows where ``mask [B]`` is True are ``rows``, in their order.

    A fit may have raised the precision of the model since the state was made: the higher one is kept.
    """

    def replaced(tensor: Tensor, values: Tensor) -> Tensor:
        tensor = tensor.to(torch.promote_types(tensor.dtype, values.dtype), copy=True)
        values = values.to(tensor.dtype)
        tensor[mask] = values
        return tensor

    return tree_map(replaced, state, rows)
