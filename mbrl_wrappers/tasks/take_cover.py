"""VizDoom's TakeCover as World Models sees it: frames of 64 x 64, and survival as the reward."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_wrappers.tasks.frames import SIZE, scaled_down

VIEW = 5 / 6  # of a screen's height; the status bar is below


class TakeCover(gym.ObservationWrapper[np.ndarray, Any, Any]):
    """``VizdoomTakeCover-v1`` whose observation is a frame ``[64, 64, 3]`` of uint8 (Ha and Schmidhuber 2018).

    Monsters throw fireballs; the actions are to stand, and to step to the left and to the right. Each of the game's
    tics that the player survives pays 1, for at most 2,100 tics, a minute of play. As in the paper, the status bar is
    cut off and the rest is scaled down, each pixel the mean of its area; the screen is rendered with 160 x 120 pixels.

    A step is a tic in ``mbrl_wrappers/TakeCover-v0``, as in the paper, and four in
    ``mbrl_wrappers/TakeCoverFrameSkip4-v0``.

    Args:
        render_mode: as for VizDoom's own env, which shows the whole screen.
        **kwargs: of VizDoom's own env, such as ``frame_skip``, the tics for which an action is held.

    Raises:
        ValueError: if vizdoom is not installed.
    """

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        try:
            import vizdoom.gymnasium_wrapper  # noqa: F401 - registers its envs
        except ImportError as error:
            raise ValueError("TakeCover needs vizdoom: pip install 'mbrl-wrappers[vizdoom]'") from error
        options = {"screen_resolution": "RES_160X120", **kwargs}
        super().__init__(gym.make("VizdoomTakeCover-v1", render_mode=render_mode, **options))
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """Return the frame of VizDoom's observation."""
        return scaled_down(observation["screen"], VIEW)
