"""Imagined futures in addition to each observation of a Stable-Baselines3 VecEnv."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from mbrl_wrappers.wrappers.imagined_futures import ImaginationCore


class VecImaginedFutures(VecEnvWrapper):
    """Shows imagined futures in addition to each observation, computed once while acting.

    Its observations are those of :attr:`ImaginationCore.space`, and so are ``info["terminal_observation"]``; so the
    rollout buffer of SB3's A2C or PPO keeps what was imagined, and the agent needs no more than a features extractor
    for it, :class:`~mbrl_wrappers.agents.networks.imagination.ImaginationExtractor`.

    Args:
        venv: an env with the model's spaces; monitors may stand inside or outside.
        core: imagines.
        seed: of the rollouts' actions; default: they are drawn from torch's global generator.

    Raises:
        ValueError: if the spaces of env and model differ.

    Example:
        >>> venv = VecImaginedFutures(GamesVecEnv(games), ImaginationCore(model))                 # doctest: +SKIP
        >>> extractor = {"features_extractor_class": ImaginationExtractor}
        >>> A2C("MultiInputPolicy", venv, policy_kwargs=extractor).learn(100_000)                 # doctest: +SKIP
    """

    def __init__(self, venv: VecEnv, core: ImaginationCore, seed: int | None = None) -> None:
        core.dynamics.check_spaces(venv.observation_space, venv.action_space)
        super().__init__(venv, observation_space=core.space)
        self.core = core
        self._generator = None if seed is None else torch.Generator(core.dynamics.device).manual_seed(seed)
        self._start_seed: int | None = None

    def imagined(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the env's own observations with what follows them."""
        return self.core.imagine(obs, self._generator)

    def begin(self, obs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Return observations at the start of a rollout with what follows them, which depends on the seed alone.

        If all episodes start anew before the first step, the same seed serves for what follows then.

        Args:
            obs: of all envs.
            seed: of the rollouts' actions.
        """
        self._start_seed = seed
        return self.core.imagine(obs, torch.Generator(self.core.dynamics.device).manual_seed(seed))

    def reset(self) -> dict[str, np.ndarray]:
        """Start all episodes."""
        obs: Any = self.venv.reset()
        return self.imagined(obs) if self._start_seed is None else self.begin(obs, self._start_seed)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the step, and imagine what follows it; last observations of episodes get their futures too."""
        obs, rewards, dones, infos = self.venv.step_wait()
        self._start_seed = None
        ended = [info for info, done in zip(infos, dones, strict=True) if done and "terminal_observation" in info]
        if ended:
            last = self.imagined(np.stack([info["terminal_observation"] for info in ended]))
            for row, info in enumerate(ended):
                info["terminal_observation"] = {key: values[row] for key, values in last.items()}
        return self.imagined(obs), rewards, dones, infos  # type: ignore[arg-type]
