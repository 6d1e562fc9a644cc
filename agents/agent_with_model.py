"""The base of agents that hold a model of their own, as an argument: Stable-Baselines3's API around it."""

from __future__ import annotations

import io
import pathlib
import warnings
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_wrappers.envs.finite import check_finite
from mbrl_wrappers.imagination.last_observations import StoresLastObservations, keep_last_observations
from mbrl_wrappers.imagination.replay_experience import ReplayExperience
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.seeding import set_apart


def check_state(state: tuple[np.ndarray, ...], shapes: list[tuple[int, ...]]) -> None:
    """Refuse a recurrent state of ``predict`` whose parts have other shapes; the last one is that of the batch.

    Raises:
        ValueError: naming the shapes.
    """
    found = [np.shape(part) for part in state]
    if found != shapes:
        raise ValueError(f"state must be of {shapes[-1][0]} environments with shapes {shapes}, got {found}")


def started_episodes(episode_start: np.ndarray | None, batch: int) -> np.ndarray:
    """Return ``predict``'s argument ``episode_start`` as ``[B]`` bool: False everywhere for None.

    Raises:
        ValueError: naming its shape, if it is for another number of environments.
    """
    started = np.zeros(batch, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
    if started.shape != (batch,):
        raise ValueError(f"episode_start must have shape ({batch},), got {started.shape}")
    return started


class SavesModel(BaseAlgorithm):
    """An SB3 agent that is saved with its model.

    Attributes:
        dynamics: the model, from the set-up of the agent on.
    """

    dynamics: Any  # None until the default model is built

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save as SB3 does, including the model."""
        self.dynamics.to("cpu")
        try:
            super().save(path, exclude, include)
        finally:
            self.dynamics.to(self.device)


class AgentWithModel(SavesModel, OffPolicyAlgorithm):
    """An off-policy SB3 agent whose model is an argument ``dynamics``; see also ``ModelBasedAgent``."""

    _view: AgentView
    _real: tuple[ReplayBuffer, ReplayExperience] | None = None
    _prediction_seed: int | None = None  # in place of the agent's own seed
    _learned_normalized = False  # whether a VecNormalize scaled the observations
    _num_unseen = 0  # steps that were stored since the buffer's sequences were last asked for

    def _adopt(self, dynamics: Any) -> None:
        """Take a model of the env's spaces for the agent's own."""
        dynamics.check_spaces(self.observation_space, self.action_space)
        self.dynamics = dynamics.to(self.device)
        self._view = AgentView(self, self.dynamics)
        self._real = None  # it has the former view

    # -- learning -------------------------------------------------------------------------------

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._setup_learn(*args, **kwargs)
        set_apart(self.action_space)
        normalizer = self.get_vec_normalize_env()
        keep_last_observations(normalizer)
        self._learned_normalized = normalizer is not None and normalizer.norm_obs
        return result

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a step, and remember which environments begin an episode next, as SB3's on-policy agents do."""
        check_finite("observation", new_obs, self.num_timesteps)
        check_finite("reward", reward, self.num_timesteps)
        stores = cast(ReplayBuffer, StoresLastObservations(replay_buffer))
        super()._store_transition(stores, buffer_action, new_obs, reward, dones, infos)
        self._last_episode_starts = dones
        self._num_unseen += 1

    def _experience(self) -> ReplayExperience:
        """Return the buffer's sequences; it is kept, since only what was added has to be looked at then."""
        buffer = self.replay_buffer
        assert buffer is not None
        is_known = self._real is not None and self._real[0] is buffer and self._num_unseen < buffer.buffer_size
        if self._real is None or not is_known:
            self._real = buffer, ReplayExperience(buffer, self._view, self.dynamics)
        self._num_unseen = 0
        return self._real[1]

    # -- acting ---------------------------------------------------------------------------------

    def _last_flat_obs(self) -> Tensor:
        """Return the newest observations of all envs, ``[B, D]``."""
        # The raw observations, since VecNormalize may have clipped the others.
        raw = self._last_obs if self._vec_normalize_env is None else self._last_original_obs
        return self.dynamics.obs_codec.encode(raw, self.device, self.dynamics.obs_dtype)

    def flat_observation(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[Tensor, bool]:
        """Return an observation as the model takes it.

        Args:
            observation: one or a batch, as ``predict`` takes it.

        Returns:
            Flat raw rows ``[B, D]``, and whether it was a batch.

        Raises:
            ValueError: if it is not finite.
        """
        check_finite("observation", observation)
        obs, is_batch = self.policy.obs_to_tensor(observation)
        arrays = {k: v.cpu().numpy() for k, v in obs.items()} if isinstance(obs, dict) else obs.cpu().numpy()
        normalizer: VecNormalize | None = self._vec_normalize_env
        if normalizer is None and self._learned_normalized:
            self._learned_normalized = False  # said once
            warnings.warn(
                "the agent learned under a VecNormalize and has none now: observations are taken for raw ones. For "
                "scaled ones, load it with env=VecNormalize.load(path, venv)",
                stacklevel=3,
            )
        raw = arrays if normalizer is None else normalizer.unnormalize_obs(arrays)
        return self.dynamics.obs_codec.encode(raw, self.device, self.dynamics.obs_dtype), is_batch

    def _predict_seed(self, calls: int) -> int:
        """Return the seed of a call of ``predict``, so that an episode can be repeated, by its number."""
        seed = (self.seed or 0) if self._prediction_seed is None else self._prediction_seed
        return int(np.random.SeedSequence([seed, calls]).generate_state(1, np.uint64)[0] >> 2)

    def seed_predictions(self, seed: int | None) -> None:
        """Draw the noise of the next predictions from a seed; None: from the agent's own, as after ``__init__``."""
        self._prediction_seed = seed

    # -- saving ---------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_num_unseen", "_prediction_seed", "_real", "_view"]
