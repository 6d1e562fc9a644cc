"""A dynamics model as a Stable-Baselines3 VecEnv: hundreds of imagined episodes in one batched call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mbrl_wrappers.envs.imagined import ImaginedEpisodes, Observe, StartStates, row_of
from mbrl_wrappers.envs.rendering import frames_of
from mbrl_wrappers.models.trust import Trust
from mbrl_wrappers.models.world_model import WorldModel

ActionMasks = Callable[[Tensor], Tensor]


class ImaginedVecEnv(VecEnv):
    """``num_envs`` imagined episodes for SB3's and sb3-contrib's agents, with SB3's autoreset.

    Finished episodes restart at once; their last observation is in ``info["terminal_observation"]``,
    ``info["TimeLimit.truncated"]`` tells a horizon from a termination, and ``info["episode"]`` holds
    return and length as SB3's Monitor writes them.

    Args:
        dynamics: the model.
        num_envs: episodes side by side.
        start_obs, horizon, deterministic, observe: see :class:`~mbrl_wrappers.envs.imagined.ImaginedEpisodes`.
        trust: which steps are masked, and how; default: none. Each info then holds ``"masked"`` and ``"penalty"`` too.
            See :class:`~mbrl_wrappers.models.trust.Trust`.
        action_mask_fn: ``obs [B, D] -> bool [B, n]`` of the valid actions, for MaskablePPO; default:
            every action is valid.
        render_mode: None or, for a model of images, ``"rgb_array"`` to show the dreams.
        seed: of start states and predictions.

    Raises:
        ValueError: for an ``action_mask_fn`` with an action space that is not discrete, or a render mode that the
            model can't show.
    """

    def __init__(
        self,
        dynamics: WorldModel,
        num_envs: int,
        *,
        start_obs: StartStates | None = None,
        horizon: int = 100,
        deterministic: bool = False,
        observe: Observe = "observation",
        trust: Trust | None = None,
        action_mask_fn: ActionMasks | None = None,
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        if action_mask_fn is not None and not isinstance(dynamics.action_space, spaces.Discrete | spaces.MultiDiscrete):
            raise ValueError(f"action_mask_fn needs a discrete action space, got {dynamics.action_space}")
        if render_mode is not None and (render_mode != "rgb_array" or not dynamics.obs_codec.images):
            raise ValueError(
                f"render_mode must be None, or 'rgb_array' for a model of images, got {render_mode!r}; ImaginedEnv "
                "shows others by a real env"
            )
        self.dynamics = dynamics
        self.render_mode = render_mode
        self.episodes = ImaginedEpisodes(
            dynamics, num_envs, start_obs=start_obs, horizon=horizon, deterministic=deterministic, observe=observe
        )
        self.episodes.set_trust(trust)
        self._action_mask_fn = action_mask_fn
        self._actions: np.ndarray | None = None
        self._returns = np.zeros(num_envs)
        self._start_time = time.time()
        super().__init__(num_envs, self.episodes.observation_space, dynamics.action_space)
        if seed is not None:
            self.seed(seed)
        self._reseed()

    def _reseed(self) -> None:
        self.episodes.seed(self._seeds[0])
        self._reset_seeds()

    def reset(self) -> Any:
        """Start all episodes and return their first observations, ``[num_envs, ...]``."""
        if self._seeds[0] is not None:
            self._reseed()
        self._reset_options()
        self._returns[:] = 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self.episodes.decode_numpy(self.episodes.reset())

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions ``[num_envs, ...]`` for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the step; finished episodes come back reset."""
        action = self.dynamics.action_codec.encode(self._actions, self.dynamics.device)
        result = self.episodes.step(action)
        reward = result.reward.cpu().numpy().astype(np.float32)
        terminated, truncated = result.terminated.cpu().numpy(), result.truncated.cpu().numpy()
        done = terminated | truncated
        self._returns += reward
        infos: list[dict[str, Any]] = [
            {"uncertainty": uncertainty, "diverged": diverged, "TimeLimit.truncated": False}
            for uncertainty, diverged in zip(result.uncertainty.tolist(), result.diverged.tolist(), strict=True)
        ]
        if self.episodes.trust is not None:
            for info, masked, penalty in zip(infos, result.masked.tolist(), result.penalty.tolist(), strict=True):
                info |= {"masked": masked, "penalty": penalty}
        if done.any():
            self._finish(result.shown, done, truncated & ~terminated, infos)
        return self.episodes.decode_numpy(self.episodes.shown), reward, done, infos

    def _finish(self, shown: Tensor, done: np.ndarray, timeout: np.ndarray, infos: list[dict[str, Any]]) -> None:
        rows = np.flatnonzero(done)
        last_obs = self.episodes.decode_numpy(shown[torch.as_tensor(rows, device=shown.device)])
        lengths = self.episodes.steps.cpu().numpy()
        elapsed = round(time.time() - self._start_time, 6)
        for index, row in enumerate(rows):
            infos[row]["terminal_observation"] = row_of(last_obs, index)
            infos[row]["TimeLimit.truncated"] = bool(timeout[row])
            infos[row]["episode"] = {"r": float(self._returns[row]), "l": int(lengths[row]), "t": elapsed}
        self._returns[rows] = 0
        self.episodes.reset(torch.as_tensor(done, device=shown.device))

    def action_masks(self) -> np.ndarray:
        """Return the valid actions of the current observations, bool ``[num_envs, n]``."""
        if self._action_mask_fn is not None:
            return self._action_mask_fn(self.episodes.obs).cpu().numpy().astype(bool)
        return np.ones((self.num_envs, self.dynamics.action_codec.dim), dtype=bool)

    def close(self) -> None:
        """Nothing is held open."""

    def has_attr(self, attr_name: str) -> bool:
        """Tell whether the episodes have an attribute; they have ``action_masks`` only if actions are discrete."""
        if attr_name == "action_masks":
            return isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete)
        return hasattr(self, attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, once per chosen episode."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute for all episodes at once; they share one model."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call ``action_masks``, the only method of an imagined episode.

        Raises:
            AttributeError: for any other method.
        """
        if method_name != "action_masks" or not self.has_attr("action_masks"):
            raise AttributeError(f"imagined episodes have no method {method_name!r}")
        masks = self.action_masks()
        return [masks[index] for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each: imagined episodes have no wrappers, and report returns without a Monitor."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the frames ``[H, W, 3]`` of a model of images in a render mode, else None for each episode."""
        if self.render_mode is None:
            return [None] * self.num_envs
        return list(frames_of(self.dynamics.obs_codec, self.episodes.obs))
