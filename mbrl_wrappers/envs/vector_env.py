"""A dynamics model as a Gymnasium vector environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from mbrl_wrappers.envs.autoreset import AutoresetVectorEnv, CoreStep
from mbrl_wrappers.envs.imagined import ImaginedEpisodes, Observe, StartStates
from mbrl_wrappers.models.trust import Trust
from mbrl_wrappers.models.world_model import WorldModel


class ImaginedVectorEnv(AutoresetVectorEnv):
    """``num_envs`` imagined episodes with Gymnasium's vector interface and each of its autoreset modes.

    ``info`` holds ``"uncertainty"`` and ``"diverged"`` of each step that was taken, ``[num_envs]``; with a ``trust``,
    ``"masked"`` and ``"penalty"`` too.

    Args:
        dynamics: the model.
        num_envs: episodes side by side.
        start_obs, horizon, deterministic, observe, temperature: see
            :class:`~mbrl_wrappers.envs.imagined.ImaginedEpisodes`.
        trust: which steps are masked, and how; default: none. See :class:`~mbrl_wrappers.models.trust.Trust`.
        autoreset_mode: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED``; see
            :class:`~mbrl_wrappers.envs.autoreset.AutoresetVectorEnv`. Of a list of seeds, ``reset`` uses the first one
            for all randomness.

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
        temperature: float | None = None,
        trust: Trust | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.dynamics = dynamics
        self.episodes = ImaginedEpisodes(
            dynamics, num_envs, start_obs=start_obs, horizon=horizon, deterministic=deterministic, observe=observe,
            temperature=temperature,
        )  # fmt: skip
        self.episodes.set_trust(trust)
        super().__init__(num_envs, self.episodes.observation_space, dynamics.action_space, autoreset_mode)
        self._seeded = False

    def _seed(self, seed: int | list[int | None] | None) -> None:
        first_seed = seed[0] if isinstance(seed, list) else seed
        if first_seed is not None or not self._seeded:
            self.episodes.seed(int(self.np_random.integers(2**62)))
            self._seeded = True

    def _reset_rows(self, mask: np.ndarray) -> None:
        self.episodes.reset(torch.as_tensor(mask, device=self.dynamics.device))

    def _advance(self, actions: Any, running: np.ndarray) -> CoreStep:
        action = self.dynamics.action_codec.encode(actions, self.dynamics.device)
        result = self.episodes.step(action, torch.as_tensor(running, device=self.dynamics.device))
        names = ("uncertainty", "diverged", *([] if self.episodes.trust is None else ["masked", "penalty"]))
        return CoreStep(
            result.reward.double().cpu().numpy(),
            result.terminated.cpu().numpy().copy(),
            result.truncated.cpu().numpy().copy(),
            {name: getattr(result, name).cpu().numpy() for name in names},
        )

    def _observations(self) -> Any:
        return self.episodes.decode_numpy(self.episodes.shown)
