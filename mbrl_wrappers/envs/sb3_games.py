"""Grid games as a Stable-Baselines3 VecEnv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from mbrl_wrappers.envs.autoreset import CoreStep
from mbrl_wrappers.envs.grid_games import GamesVectorEnv
from mbrl_wrappers.envs.sb3_core import CoreVecEnv
from mbrl_wrappers.tasks.grids import Games


class GamesVecEnv(CoreVecEnv):
    """The games of a core for SB3's and sb3-contrib's agents.

    The ends of episodes are reported as by :class:`~mbrl_wrappers.envs.sb3_core.CoreVecEnv`; each info, and each of
    ``reset_infos``, also holds what the single env's does.

    Args:
        games: the core, with its time limit.
        seed: game ``i`` is the single env with seed ``seed + i``.

    Example:
        >>> games = SokobanGames(64, size=7, num_boxes=1, max_episode_steps=120)
        >>> agent = stable_baselines3.A2C("MlpPolicy", GamesVecEnv(games, seed=0))
    """

    render_mode = "rgb_array"

    def __init__(self, games: Games, *, seed: int | None = None) -> None:
        self.games = games
        super().__init__(games.num_games, games.observation_space, games.action_space)
        if seed is not None:
            self.seed(seed)

    def _seed(self, seeds: list[int | None]) -> None:
        self.games.seed(seeds)

    def _reset_rows(self, mask: np.ndarray) -> None:
        self.games.reset(mask)
        for row, options in enumerate(self._options):
            if mask[row] and options:  # of SB3's set_options, for the next reset of all games
                self.games.begin_as(row, options)

    def _starts(self) -> dict[str, np.ndarray]:
        return self.games.info()

    def _advance(self, actions: np.ndarray) -> CoreStep:
        return CoreStep(*self.games.step(actions), self.games.info())

    def _observations(self, rows: np.ndarray | None = None) -> Any:
        return self.games.observations() if rows is None else self.games.observations()[rows]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a picture ``[16 H, 16 W, 3]`` of each game."""
        return [self.games.picture(row) for row in range(self.num_envs)]


def games_vec_env(env_id: str, num_envs: int, **arguments: Any) -> GamesVecEnv | None:
    """Make games of a registered env.

    Args:
        env_id: as for ``gymnasium.make``, with its version.
        num_envs: ``B``.
        **arguments: of the env, ``max_episode_steps`` among them.

    Returns:
        None for an env that is none of this library's grid games, or is given what only the single env takes, such as
        ``render_mode``.
    """
    registered = gym.registry.get(env_id.rpartition(":")[2])
    if registered is None or not str(registered.vector_entry_point).startswith("mbrl_wrappers."):
        return None
    try:
        made = gym.make_vec(registered, num_envs, vectorization_mode="vector_entry_point", **arguments)
    except TypeError:
        return None
    return GamesVecEnv(made.games) if isinstance(made, GamesVectorEnv) else None
