"""Gymnasium's MountainCarContinuous, seen as pixels that NumPy draws."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv

SIZE = 32
LEFT, RIGHT = -1.2, 0.6  # the ends of the track
MARGIN = 3.0  # in pixels, between the frame's sides and the track's ends
CAR_RADIUS = 2.5
HILL_BRIGHTNESS = 80


class PixelMountainCarContinuous(Continuous_MountainCarEnv):
    """``MountainCarContinuous-v0`` whose observation is a frame ``[32, 32, 1]`` of uint8: a bright disc on gray hills.

    Actions, rewards and physics are Gymnasium's. A frame does not show how fast the car goes: an agent has to
    remember, or to be given several frames.

    Args:
        render_mode: as for ``MountainCarContinuous-v0``; the window shows Gymnasium's picture.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space: Any = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; see :class:`gymnasium.Env`."""
        _, info = super().reset(seed=seed, options=options)
        return car(float(self.state[0])), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; see :class:`gymnasium.Env`."""
        _, reward, terminated, truncated, info = super().step(action)
        return car(float(self.state[0])), float(reward), terminated, truncated, info


def place_of(position: float | np.ndarray) -> tuple[Any, Any]:
    """Return row and column of a position on the track, the frame's upper left pixel being (0, 0)."""
    column = MARGIN + (position - LEFT) / (RIGHT - LEFT) * (SIZE - 1 - 2 * MARGIN)
    height = np.sin(3 * position)  # from -1 to 1, as Gymnasium draws it
    return SIZE / 2 - 0.5 - 0.3 * SIZE * height, column


@functools.cache
def _hills() -> np.ndarray:
    """Return the brightness of the ground, ``[32, 32]``: gray below the track."""
    columns = np.arange(SIZE)
    position = LEFT + (columns - MARGIN) / (SIZE - 1 - 2 * MARGIN) * (RIGHT - LEFT)
    row, _ = place_of(position)
    return HILL_BRIGHTNESS * np.clip(np.arange(SIZE)[:, None] - row + 0.5, 0, 1)


def car(position: float) -> np.ndarray:
    """Draw the car with smooth edges, so that small steps can be seen.

    Args:
        position: on the track, from -1.2 to 0.6.

    Returns:
        ``[32, 32, 1]`` uint8.
    """
    row, column = place_of(position)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    disc = np.clip(CAR_RADIUS + 0.5 - np.hypot(rows - row, columns - column), 0, 1)
    return (_hills() + (255 - _hills()) * disc).astype(np.uint8)[..., None]
