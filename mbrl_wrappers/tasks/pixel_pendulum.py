"""Gymnasium's pendulum, seen as pixels that NumPy draws: a visual task that costs little more than its physics."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.pendulum import PendulumEnv

SIZE = 32
ROD_LENGTH, ROD_WIDTH = 13.0, 4.0  # in pixels


class PixelPendulum(PendulumEnv):
    """``Pendulum-v1`` whose observation is a frame ``[32, 32, 1]`` of uint8: a bright rod on black.

    Actions, rewards and physics are Gymnasium's. A frame does not show how fast the rod turns: an agent has to
    remember, or to be given several frames.

    Args:
        render_mode: as for ``Pendulum-v1``; the window shows Gymnasium's picture.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space: Any = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)

    def _get_obs(self) -> np.ndarray:
        return rod(float(self.state[0]))


@functools.cache
def _pixels() -> tuple[np.ndarray, np.ndarray]:
    """Return how far the centre of each pixel is to the right of the image's centre and above it, ``[32, 32]``."""
    place = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    right, below = np.meshgrid(place, place)
    return right, -below


def rod(angle: float) -> np.ndarray:
    """Draw a rod from the image's centre outwards, with smooth edges, so that small turns can be seen.

    Args:
        angle: counter-clockwise from upright.

    Returns:
        ``[32, 32, 1]`` uint8.
    """
    right, above = _pixels()
    tip = np.float32(-np.sin(angle)), np.float32(np.cos(angle))
    along = np.clip(right * tip[0] + above * tip[1], 0, ROD_LENGTH)  # the nearest point of the rod
    distance = np.hypot(right - along * tip[0], above - along * tip[1])
    brightness = np.clip(ROD_WIDTH / 2 + 0.5 - distance, 0, 1)
    return (255 * brightness).astype(np.uint8)[..., None]
