"""Many episodes of one core as a Gymnasium vector environment, with each of Gymnasium's autoreset modes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mbrl_wrappers.envs.imagined import row_of


class CoreStep(NamedTuple):
    """A step of all episodes, none of which is reset yet; arrays are the receiver's own.

    Attributes:
        reward: ``[B]`` float64.
        terminated: ``[B]`` bool.
        truncated: ``[B]`` bool.
        info: arrays ``[B]``.
    """

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, np.ndarray]


class AutoresetVectorEnv(VectorEnv[Any, Any, np.ndarray]):
    """``num_envs`` episodes that one core plays; a subclass says how they step, start and look.

    Args:
        num_envs: episodes side by side, ``B``.
        observation_space: of one episode.
        action_space: of one episode.
        autoreset_mode: ``NEXT_STEP`` (the step after an episode's end resets it and ignores its
            action), ``SAME_STEP`` (reset at once, the last observation in ``info["final_obs"]``) or
            ``DISABLED`` (the user resets with ``options={"reset_mask": bool [num_envs]}``).

    Raises:
        ValueError: for an unknown mode.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: gym.Space,
        action_space: gym.Space,
        autoreset_mode: AutoresetMode | str,
    ) -> None:
        if autoreset_mode not in [*AutoresetMode, *(mode.value for mode in AutoresetMode)]:
            modes = [mode.value for mode in AutoresetMode]
            raise ValueError(f"autoreset_mode must be an AutoresetMode or one of {modes}, got {autoreset_mode!r}")
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._done = np.zeros(num_envs, dtype=bool)

    @abstractmethod
    def _seed(self, seed: int | list[int | None] | None) -> None:
        """Seed the core; a list has a seed for each episode."""

    @abstractmethod
    def _reset_rows(self, mask: np.ndarray) -> None:
        """Start anew the episodes that the mask ``[B]`` marks."""

    @abstractmethod
    def _advance(self, actions: Any, running: np.ndarray) -> CoreStep:
        """Step all episodes; those that are not ``running``, ``[B]`` bool, are over, and their step does not count."""

    @abstractmethod
    def _observations(self) -> Any:
        """Return the observations of all episodes, a batch of the observation space."""

    def _starts(self) -> dict[str, np.ndarray]:
        """Return the info of all episodes as if each had just started, arrays ``[B]``."""
        return {}

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes anew.

        Args:
            seed: one seed, or a list of ``num_envs`` seeds.
            options: ``{"reset_mask": bool [num_envs]}`` resets only the marked episodes.

        Raises:
            ValueError: if a list has not one seed for each episode, or the mask is not bool ``[num_envs]``.
        """
        if isinstance(seed, list) and len(seed) != self.num_envs:
            raise ValueError(f"seed must be one or a list of {self.num_envs}, got {seed}")
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        self._seed(seed)
        mask = np.ones(self.num_envs, dtype=bool)
        if options and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            if mask.shape != (self.num_envs,) or mask.dtype != bool:
                raise ValueError(f"options['reset_mask'] must be bool [{self.num_envs}], got {mask.dtype} {mask.shape}")
        self._reset_rows(mask)
        self._done &= ~mask
        return self._observations(), self._with_starts({}, mask)

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
        reward, terminated, truncated, values = self._advance(actions, ~finished_before)
        stepped = np.ones(self.num_envs, dtype=bool)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and finished_before.any():
            self._reset_rows(finished_before)
            reward[finished_before] = 0.0
            terminated[finished_before] = truncated[finished_before] = False
            stepped = ~finished_before
        self._done = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._done.any():
            done, self._done = self._done, np.zeros(self.num_envs, dtype=bool)
            info = _present(values, ~done) | self._final_info(values, done)
            self._reset_rows(done)
            info = self._with_starts(info, done)
        else:
            info = self._with_starts(_present(values, stepped), ~stepped)
        return self._observations(), reward, terminated, truncated, info

    def _with_starts(self, info: dict[str, Any], started: np.ndarray) -> dict[str, Any]:
        """Add the info of the episodes that have just started, ``[B]`` bool."""
        if not started.any():
            return info
        for name, value in self._starts().items():
            others = info.get(name, np.zeros_like(value))
            info[name] = np.where(started, value, others)
            info[f"_{name}"] = started | info.get(f"_{name}", False)
        return info

    def _final_info(self, values: dict[str, np.ndarray], done: np.ndarray) -> dict[str, Any]:
        """Return the last observations, as an object array with None where an episode goes on, and their info."""
        batch = self._observations()
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(done):
            final[row] = row_of(batch, int(row))
        return {
            "final_obs": final,
            "_final_obs": done.copy(),
            "final_info": _present(values, done),
            "_final_info": done.copy(),
        }


def _present(values: dict[str, np.ndarray], present: np.ndarray) -> dict[str, Any]:
    """Return the info of the rows in ``present``, in Gymnasium's layout: for each ``key`` a mask ``_key``."""
    info = {}
    for name, value in values.items():
        info[name] = np.where(present, value, np.zeros_like(value))
        info[f"_{name}"] = present.copy()
    return info
