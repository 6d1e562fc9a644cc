"""Files of models that spaces and settings describe, and that learn all of their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from mbrl_wrappers.models import model_file
from mbrl_wrappers.models.env_specs import spaces_and_id
from mbrl_wrappers.models.given import GivenFunction
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.spaces import space_to_json


class DescribedBySettings(WorldModel):
    """A world model that its spaces and its ``settings`` describe, whose rewards and ends are learned.

    Attributes:
        settings: the constructor's other arguments, JSON-safe.
    """

    settings: dict[str, Any]

    @classmethod
    def for_env(cls, env: str | gym.Env | Any, **kwargs: Any) -> Any:
        """Build a model for an environment.

        Args:
            env: an env id, a Gymnasium env, or a Stable-Baselines3 VecEnv such as ``agent.get_env()``. Under a
                VecNormalize, the model works with raw observations and rewards.
            **kwargs: the constructor's arguments.

        Raises:
            ValueError: for anything else, or an env with unsupported spaces.
        """
        observation_space, action_space, _ = spaces_and_id(env)
        return cls(observation_space, action_space, **kwargs)

    def description(self) -> dict[str, Any]:
        """Return the JSON-safe values that :meth:`from_description` builds an equal model from, weights excepted."""
        return {
            "format_version": model_file.FORMAT_VERSION,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "settings": self.settings,
            "functions": {"reward_fn": "learned", "termination_fn": "learned"},
        }

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
            reward_fn: None: the model learns rewards.
            termination_fn: None: the model learns ends.

        Raises:
            ValueError: if the description is of another kind of model, or a function is given.
        """
        for name, given in (("reward_fn", reward_fn), ("termination_fn", termination_fn)):
            if given is not None:
                raise ValueError(f"{name} must be None for {cls.__name__}, which learns it, got {given}")
        try:
            return cls(*model_file.spaces_of(description), **description["settings"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"the description is not that of {cls.__name__}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write weights and description into one safetensors file, atomically."""
        model_file.save(path, type(self).__name__, self, self.description())

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> Any:
        """Read a model written by :meth:`save`.

        Raises:
            ValueError: if the file holds another kind of model.
        """
        header, tensors = model_file.load(path, cls.__name__)
        try:
            model = cls.from_description(header)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        model_file.restore(model, tensors, path)
        return model.to(device)
