"""A world model's features in the place of observations, around the real environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

from mbrl_wrappers.envs.imagined import add_batch_axis, encode_one, feature_space
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.seeding import stream_seed


class LatentObservation(gym.ObservationWrapper[np.ndarray, Any, Any], gym.utils.RecordConstructorArgs):
    """Shows a world model's features of all observations and actions so far.

    An agent that was trained in an imagined env with ``observe="features"`` can act in the real env inside this
    wrapper, and the other way round.

    Args:
        env: the real env, with the model's spaces.
        dynamics: the model; a later fit changes the features of later steps.

    Raises:
        ValueError: if the spaces of env and model differ.

    Example:
        >>> agent = PPO("MlpPolicy", ImaginedVecEnv(dynamics, 64, observe="features")).learn(50_000)  # doctest: +SKIP
        >>> evaluate_policy(agent, LatentObservation(env, dynamics))                                 # doctest: +SKIP
    """

    def __init__(self, env: gym.Env, dynamics: WorldModel) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, dynamics=dynamics)
        gym.ObservationWrapper.__init__(self, env)
        dynamics.check_spaces(env.observation_space, env.action_space)
        self.dynamics = dynamics
        self.observation_space = feature_space(dynamics)
        self._generator = torch.Generator(dynamics.device)
        self._generator.seed()
        self._state: Any = None
        self._action: Any = None
        self._is_over = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; a seed also seeds the model's samples."""
        if seed is not None:
            self._generator.manual_seed(stream_seed(seed, "latent observation"))
        self._state, self._is_over = None, False
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Take a real step; in an env that resets itself, the step after an episode's end begins the next episode."""
        self._action = action
        step = super().step(action)
        self._is_over = step[2] or step[3]
        return step

    @torch.no_grad()
    def observation(self, observation: Any) -> np.ndarray:
        """Return the model's features ``[F]`` after an observation."""
        model, obs = self.dynamics, encode_one(self.dynamics, observation)
        if self._state is None:
            self._state = model.begin(obs, self._generator)
        else:
            action = model.action_codec.encode(add_batch_axis(self._action), model.device)
            is_first = torch.full((1,), self._is_over, device=model.device)
            self._state = model.observe(self._state, action, obs, is_first, self._generator)
        return model.features(self._state)[0].cpu().numpy()
