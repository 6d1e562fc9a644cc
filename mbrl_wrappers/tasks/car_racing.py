"""Gymnasium's CarRacing as World Models sees it: frames of 64 x 64, and a brake that is off unless it is pressed."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.tasks.frames import SIZE, scaled_down

VIEW = 7 / 8  # of a frame's height; the status bar is below


class CarRacing(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """``CarRacing-v3`` whose observation is a frame ``[64, 64, 3]`` of uint8 (Ha and Schmidhuber 2018).

    Actions are steering, gas and brake, each of them in [-1, 1]. As in the authors' code, the gas goes from none at -1
    to full at 1, and the brake is off up to 0: a controller that knows nothing drives straight ahead. The status bar is
    cut off and the rest is scaled down, each pixel the mean of its area. Rewards and ends are Gymnasium's.

    A step is one of Gymnasium's in ``mbrl_wrappers/CarRacing-v0``, and four in
    ``mbrl_wrappers/CarRacingFrameSkip4-v0``, where only the last one's frame is drawn, which is what takes most time.

    Args:
        render_mode: as for Gymnasium's own env, which shows the whole screen.
        frame_skip: steps of Gymnasium's for which an action is held.
        **kwargs: of Gymnasium's own env, such as ``domain_randomize``.

    Raises:
        ValueError: if Box2D or pygame is not installed, or ``frame_skip`` is no positive whole number.
    """

    def __init__(self, render_mode: str | None = None, frame_skip: int = 1, **kwargs: Any) -> None:
        check_whole_number("frame_skip", frame_skip)
        try:
            import Box2D  # noqa: F401
            import pygame  # noqa: F401
        except ImportError as error:
            raise ValueError("CarRacing needs Box2D and pygame: pip install 'gymnasium[box2d]'") from error
        self._track: Any = _car_racing(render_mode, kwargs)
        super().__init__(self._track)
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._frame_skip = frame_skip

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Make a new track; see ``gymnasium.Env.reset``."""
        self._track.is_drawn = True
        obs, info = self._track.reset(seed=seed, options=options)
        return scaled_down(obs, VIEW), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Hold an action ``[3]`` for the steps of Gymnasium's env; see ``gymnasium.Env.step``."""
        steering, gas, brake = np.clip(np.asarray(action, np.float64), -1, 1)
        held = np.array([steering, (gas + 1) / 2, max(brake, 0.0)])
        total, terminated, place = 0.0, False, 0
        while place < self._frame_skip and not terminated:
            place += 1
            self._track.is_drawn = place == self._frame_skip
            obs, reward, terminated, truncated, info = self._track.step(held)
            total += float(reward)
        if not self._track.is_drawn:  # an end before the last step
            self._track.is_drawn = True
            obs = self._track._render("state_pixels")
        return scaled_down(obs, VIEW), total, terminated, truncated, info


def _car_racing(render_mode: str | None, kwargs: dict[str, Any]) -> gym.Env:
    """Return Gymnasium's env; while ``is_drawn`` is False, its steps return the last frame and draw none."""
    from gymnasium.envs.box2d import car_racing  # needs Box2D

    class DrawnAtWill(car_racing.CarRacing):
        is_drawn = True

        def _render(self, mode: str) -> Any:
            return self.state if mode == "state_pixels" and not self.is_drawn else super()._render(mode)

    return DrawnAtWill(render_mode=render_mode, **kwargs)
