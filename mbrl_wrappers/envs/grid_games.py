"""Grid games as a Gymnasium vector environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from mbrl_wrappers.envs.autoreset import AutoresetVectorEnv, CoreStep
from mbrl_wrappers.tasks.grids import BreakoutGames, Games, MiniPacmanGames, SokobanGames


class GamesVectorEnv(AutoresetVectorEnv):
    """The games of a core with Gymnasium's vector interface; game ``i`` is the single env with seed ``seed + i``.

    ``gymnasium.make_vec("mbrl_wrappers/Sokoban-v0", num_envs=64)`` makes one, with the env's arguments and
    ``autoreset_mode``.

    Args:
        games: the core, with its time limit.
        autoreset_mode: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED``; see
            :class:`~mbrl_wrappers.envs.autoreset.AutoresetVectorEnv`.

    Raises:
        ValueError: for an unknown mode.
    """

    def __init__(self, games: Games, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP) -> None:
        self.games = games
        self._options: dict[str, Any] = {}  # of a reset that is under way
        super().__init__(games.num_games, games.observation_space, games.action_space, autoreset_mode)

    def _seed(self, seed: int | list[int | None] | None) -> None:
        if isinstance(seed, list):
            self.games.seed(seed)
        elif seed is not None:
            self.games.seed([seed + row for row in range(self.num_envs)])

    def _reset_rows(self, mask: np.ndarray) -> None:
        self.games.reset(mask)
        for row in np.flatnonzero(mask).tolist() if self._options else ():
            self.games.begin_as(row, self._options)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start games anew; see :class:`~mbrl_wrappers.envs.autoreset.AutoresetVectorEnv`.

        Args:
            seed: one seed, or a list of ``num_envs`` seeds.
            options: ``reset_mask``, and what the single env takes, such as Sokoban's ``level``, for all that start.
        """
        self._options = options or {}
        try:
            return super().reset(seed=seed, options=options)
        finally:
            self._options = {}

    def _advance(self, actions: Any, running: np.ndarray) -> CoreStep:
        return CoreStep(*self.games.step(actions), self.games.info())

    def _starts(self) -> dict[str, np.ndarray]:
        return self.games.info()

    def _observations(self) -> np.ndarray:
        return self.games.observations()


def sokoban_vector_env(
    num_envs: int, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, **arguments: Any
) -> GamesVectorEnv:
    """Make a vector env of Sokoban; for ``arguments`` see :class:`~mbrl_wrappers.tasks.grids.SokobanGames`."""
    return GamesVectorEnv(SokobanGames(num_envs, **arguments), autoreset_mode)


def mini_pacman_vector_env(
    num_envs: int, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, **arguments: Any
) -> GamesVectorEnv:
    """Make a vector env of MiniPacman; for ``arguments`` see :class:`~mbrl_wrappers.tasks.grids.MiniPacmanGames`."""
    return GamesVectorEnv(MiniPacmanGames(num_envs, **arguments), autoreset_mode)


def breakout_vector_env(
    num_envs: int, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, **arguments: Any
) -> GamesVectorEnv:
    """Make a vector env of Breakout; for ``arguments`` see :class:`~mbrl_wrappers.tasks.grids.BreakoutGames`."""
    return GamesVectorEnv(BreakoutGames(num_envs, **arguments), autoreset_mode)
