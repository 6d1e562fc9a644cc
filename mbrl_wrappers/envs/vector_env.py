"""A dynamics model as a Gymnasium vector environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mbrl_wrappers.envs.imagined import ImaginedEpisodes, ImaginedStep, Observe, StartStates, row_of
from mbrl_wrappers.models.trust import Trust
from mbrl_wrappers.models.world_model import WorldModel


class ImaginedVectorEnv(VectorEnv[Any, Any, np.ndarray]):
    """``num_envs`` imagined episodes with Gymnasium's vector interface and each of its autoreset modes.

    ``info`` holds ``"uncertainty"`` and ``"diverged"`` of each step that was taken, ``[num_envs]``; with a ``trust``,
    ``"masked"`` and ``"penalty"`` too.

    Args:
        dynamics: the model.
        num_envs: episodes side by side.
        start_obs, horizon, deterministic, observe: see :class:`~mbrl_wrappers.envs.imagined.ImaginedEpisodes`.
        trust: which steps are masked, and how; default: none. See :class:`~mbrl_wrappers.models.trust.Trust`.
        autoreset_mode: ``NEXT_STEP`` (the step after an episode's end resets it and ignores its
            action), ``SAME_STEP`` (reset at once, the last observation in ``info["final_obs"]``) or
            ``DISABLED`` (the user resets with ``options={"reset_mask": bool [num_envs]}``).

    Raises:
        ValueError: for an unknown mode, and as :class:`~mbrl_wrappers.envs.imagined.ImaginedEpisodes`.
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
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.num_envs = num_envs
        self.dynamics = dynamics
        if autoreset_mode not in [*AutoresetMode, *(mode.value for mode in AutoresetMode)]:
            modes = [mode.value for mode in AutoresetMode]
            raise ValueError(f"autoreset_mode must be an AutoresetMode or one of {modes}, got {autoreset_mode!r}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.episodes = ImaginedEpisodes(
            dynamics, num_envs, start_obs=start_obs, horizon=horizon, deterministic=deterministic, observe=observe
        )
        self.episodes.set_trust(trust)
        self.single_observation_space: gym.Space = self.episodes.observation_space
        self.single_action_space: gym.Space = dynamics.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(dynamics.action_space, num_envs)
        self._done = np.zeros(num_envs, dtype=bool)
        self._seeded = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes anew.

        Args:
            seed: one seed for all randomness; from a list of ``num_envs`` seeds, the first one is used.
            options: ``{"reset_mask": bool [num_envs]}`` resets only the marked episodes.

        Raises:
            ValueError: if a list has not one seed for each episode, or the mask is not bool ``[num_envs]``.
        """
        if isinstance(seed, list) and len(seed) != self.num_envs:
            raise ValueError(f"seed must be one or a list of {self.num_envs}, got {seed}")
        first_seed = seed[0] if isinstance(seed, list) else seed
        super().reset(seed=first_seed)
        if first_seed is not None or not self._seeded:
            self.episodes.seed(int(self.np_random.integers(2**62)))
            self._seeded = True
        mask = np.ones(self.num_envs, dtype=bool)
        if options and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            if mask.shape != (self.num_envs,) or mask.dtype != bool:
                raise ValueError(f"options['reset_mask'] must be bool [{self.num_envs}], got {mask.dtype} {mask.shape}")
        self._reset_rows(mask)
        self._done &= ~mask
        return self._observations(), {}

    def _reset_rows(self, mask: np.ndarray) -> None:
        self.episodes.reset(torch.as_tensor(mask, device=self.dynamics.device))

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one step in every episode; see :class:`gymnasium.vector.VectorEnv`.

        Raises:
            ValueError: in ``DISABLED`` mode, if a finished episode was not reset.
        """
        finished_before = self._done.copy()
        if self.autoreset_mode == AutoresetMode.DISABLED and finished_before.any():
            raise ValueError(
                f"episodes {np.flatnonzero(finished_before).tolist()} are over: call reset with options['reset_mask']"
            )
        action = self.dynamics.action_codec.encode(actions, self.dynamics.device)
        result = self.episodes.step(action, torch.as_tensor(~finished_before, device=self.dynamics.device))
        reward = result.reward.double().cpu().numpy()
        terminated, truncated = result.terminated.cpu().numpy().copy(), result.truncated.cpu().numpy().copy()
        stepped = np.ones(self.num_envs, dtype=bool)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and finished_before.any():
            self._reset_rows(finished_before)
            reward[finished_before] = 0.0
            terminated[finished_before] = truncated[finished_before] = False
            stepped = ~finished_before
        self._done = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._done.any():
            done, self._done = self._done, np.zeros(self.num_envs, dtype=bool)
            info = self._step_info(result, ~done) | self._final_info(result, done)
            self._reset_rows(done)
        else:
            info = self._step_info(result, stepped)
        return self._observations(), reward, terminated, truncated, info

    def _final_info(self, result: ImaginedStep, done: np.ndarray) -> dict[str, Any]:
        """Return the last observations, as an object array with None where an episode goes on, and their info."""
        batch = self._observations()
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(done):
            final[row] = row_of(batch, int(row))
        return {
            "final_obs": final,
            "_final_obs": done.copy(),
            "final_info": self._step_info(result, done),
            "_final_info": done.copy(),
        }

    def _observations(self) -> Any:
        return self.episodes.decode_numpy(self.episodes.shown)

    def _step_info(self, result: ImaginedStep, present: np.ndarray) -> dict[str, Any]:
        """Return the info of the rows in ``present``, in Gymnasium's layout: for each ``key`` a mask ``_key``."""
        info = {}
        for name in ("uncertainty", "diverged", *([] if self.episodes.trust is None else ["masked", "penalty"])):
            value = getattr(result, name).cpu().numpy()
            info[name] = np.where(present, value, np.zeros_like(value))
            info[f"_{name}"] = present.copy()
        return info
