"""One grid game as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from mbrl_wrappers.tasks.grids.games import ABSENT, PRESENT, Games

GRID_IDS = ("mbrl_wrappers/Breakout-v0", "mbrl_wrappers/MiniPacman-v0", "mbrl_wrappers/Sokoban-v0")


class GridEnv(gym.Env[np.ndarray, Any]):
    """The only game of a core as an environment.

    Args:
        games: the core, of one game.
        render_mode: None, ``"rgb_array"`` or ``"ansi"``.

    Raises:
        ValueError: for another render mode.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, games: Games, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.games = games
        self.render_mode = render_mode
        self.observation_space, self.action_space = games.observation_space, games.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of this episode's start and of all that follow.
            options: what the game may be told of its start.
        """
        super().reset(seed=seed)
        self.games.seed([seed])
        self._start(options or {})
        return self.games.observations()[0], self._info()

    def _start(self, options: dict[str, Any]) -> None:
        self.games.reset()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; see :class:`gymnasium.Env`.

        Raises:
            ValueError: if the action is none of the action space.
        """
        reward, terminated, truncated = self.games.step(np.asarray(action)[None])
        return self.games.observations()[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), self._info()

    def _info(self) -> dict[str, Any]:
        return {name: values[0].item() for name, values in self.games.info().items()}

    def render(self) -> Any:
        """Return a picture ``[16 H, 16 W, 3]`` or a text, by the render mode; None without one."""
        if self.render_mode == "rgb_array":
            return self.games.picture(0)
        return self.games.text(0) if self.render_mode == "ansi" else None


def show_frame(env: GridEnv, frame: np.ndarray) -> None:
    """Put a frame ``[C, H, W]`` on the board, to be rendered; the game has to be reset before it goes on.

    A model's frame may have cells between absent and present: they are shown as the nearer of both.
    """
    env.games.boards[0] = np.where(frame.reshape(len(frame), -1) > PRESENT / 2, PRESENT, ABSENT)
