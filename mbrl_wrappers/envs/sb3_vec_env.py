"""A dynamics model as a Stable-Baselines3 VecEnv: hundreds of imagined episodes in one batched call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.envs.autoreset import CoreStep
from mbrl_wrappers.envs.imagined import ImaginedEpisodes, Observe, StartStates
from mbrl_wrappers.envs.rendering import frames_of
from mbrl_wrappers.envs.sb3_core import CoreVecEnv
from mbrl_wrappers.models.trust import Trust
from mbrl_wrappers.models.world_model import WorldModel

ActionMasks = Callable[[Tensor], Tensor]


class ImaginedVecEnv(CoreVecEnv):
    """``num_envs`` imagined episodes for SB3's and sb3-contrib's agents; their ends are those of ``CoreVecEnv``.

    Each info holds ``"uncertainty"`` and ``"diverged"``; see :class:`~mbrl_wrappers.envs.sb3_core.CoreVecEnv`.

    Args:
        dynamics: the model.
        num_envs: episodes side by side.
        start_obs, horizon, deterministic, observe, temperature: see
            :class:`~mbrl_wrappers.envs.imagined.ImaginedEpisodes`.
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
        temperature: float | None = None,
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
            dynamics, num_envs, start_obs=start_obs, horizon=horizon, deterministic=deterministic, observe=observe,
            temperature=temperature,
        )  # fmt: skip
        self.episodes.set_trust(trust)
        self._action_mask_fn = action_mask_fn
        super().__init__(num_envs, self.episodes.observation_space, dynamics.action_space)
        if seed is not None:
            self.seed(seed)
        self._reseed()

    def _seed(self, seeds: list[int | None]) -> None:
        self.episodes.seed(seeds[0])

    def _reset_rows(self, mask: np.ndarray) -> None:
        self.episodes.reset(torch.as_tensor(mask, device=self.dynamics.device))

    def _advance(self, actions: np.ndarray) -> CoreStep:
        result = self.episodes.step(self.dynamics.action_codec.encode(actions, self.dynamics.device))
        names = ("uncertainty", "diverged", *([] if self.episodes.trust is None else ["masked", "penalty"]))
        return CoreStep(
            result.reward.cpu().numpy(),
            result.terminated.cpu().numpy(),
            result.truncated.cpu().numpy(),
            {name: getattr(result, name).cpu().numpy() for name in names},
        )

    def _observations(self, rows: np.ndarray | None = None) -> Any:
        shown = self.episodes.shown
        return self.episodes.decode_numpy(shown if rows is None else shown[torch.as_tensor(rows, device=shown.device)])

    def action_masks(self) -> np.ndarray:
        """Return the valid actions of the current observations, bool ``[num_envs, n]``."""
        if self._action_mask_fn is not None:
            return self._action_mask_fn(self.episodes.obs).cpu().numpy().astype(bool)
        return np.ones((self.num_envs, self.dynamics.action_codec.dim), dtype=bool)

    def has_attr(self, attr_name: str) -> bool:
        """Tell whether the episodes have an attribute; they have ``action_masks`` only if actions are discrete."""
        if attr_name == "action_masks":
            return isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete)
        return super().has_attr(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call ``action_masks``, the only method of an imagined episode.

        Raises:
            AttributeError: for any other method.
        """
        if method_name != "action_masks" or not self.has_attr("action_masks"):
            raise AttributeError(f"imagined episodes have no method {method_name!r}")
        masks = self.action_masks()
        return [masks[index] for index in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the frames ``[H, W, 3]`` of a model of images in a render mode, else None for each episode."""
        if self.render_mode is None:
            return [None] * self.num_envs
        return list(frames_of(self.dynamics.obs_codec, self.episodes.obs))
