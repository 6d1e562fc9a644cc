"""Show imagined observations with the renderer of the real environment.

A renderer draws the state of its simulator. For Gymnasium's classic control and MuJoCo environments the
state, as far as a picture shows it, can be computed from the observation; :func:`set_state_from_obs`
does so. Quantities that the observation leaves out are set to zero: the position of a robot's root along x and y,
and the velocities of the objects that it pushes or reaches for. This library's grid games draw the observation itself.

Setting the state is for rendering only. Velocities that the observation clips stay clipped, and the rest of the
simulator's state (clock, warm starts, contact forces) is not restored, so a step taken from such a state is not the
step that the environment would have taken.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from torch import Tensor

from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.tasks.grids.env import GRID_IDS, show_frame
from mbrl_wrappers.tasks.grids.games import PRESENT
from mbrl_wrappers.tasks.registry import TASKS

LEAST_PHOTO = 24
"""Rows and columns from which on an image is taken for a picture, not for the planes of a grid."""

_SET_STATE = {env_id: task.set_state for env_id, task in TASKS.items() if task.set_state is not None}
_SET_STATE |= dict.fromkeys(GRID_IDS, show_frame)


def _env_id(env: gym.Env) -> str | None:
    """Return the id that the environment was made by, None if it was constructed by hand."""
    spec = env.unwrapped.spec
    return None if spec is None else spec.id


def can_render(env: gym.Env) -> bool:
    """Return whether :func:`set_state_from_obs` knows the environment, wrapped or not."""
    return _env_id(env) in _SET_STATE


def check_renderable(env: gym.Env | None) -> None:
    """Refuse an env that can't show imagined states.

    Raises:
        ValueError: if the env is None or not supported, or does not render to arrays.
    """
    if env is None or not can_render(env):
        raise ValueError(f"render_env must be one of {sorted(_SET_STATE)}, got {env}")
    if env.render_mode != "rgb_array":
        raise ValueError(f"render_env must be made with render_mode='rgb_array', got {env.render_mode!r}")
    env.reset()


def frames_of(codec: FlatSpace, obs: Tensor) -> np.ndarray:
    """Return the images in observations as frames to look at: of several images or frames, the first image's last one.

    Three channels are colours, and of a multiple of three the last three are. Of other numbers, large images show their
    last channel in grey, the newest of grey frames that were stacked as channels, or three of four colours if the
    fourth is opaque; small ones, such as the planes of a grid game, show their first three channels as colours.

    Args:
        codec: of the observations, with an image.
        obs: ``[B, D]``.

    Returns:
        ``[B, H, W, 3]`` uint8.
    """
    image = codec.images[0]
    newest = codec.image(obs)[:, -(image.channels // image.frames) :]  # [B, C, H, W]
    return _colours(newest).movedim(1, -1).round().byte().cpu().numpy()


def _colours(image: Tensor) -> Tensor:
    """Return three channels ``[B, 3, H, W]`` to look at, of an image ``[B, C, H, W]``."""
    channels, is_large = image.shape[1], min(image.shape[2:]) >= LEAST_PHOTO
    if channels % 3 == 0:
        return image[:, -3:]
    is_opaque = channels == 4 and bool((image[:, 3] == PRESENT).all())
    if channels < 3 or (is_large and not is_opaque):
        return image[:, -1:].expand(-1, 3, -1, -1)
    return image[:, :3]


def set_state_from_obs(env: gym.Env, obs: np.ndarray) -> None:
    """Put an observation into a real environment, so that ``env.render()`` shows it.

    Args:
        env: One of Gymnasium's classic control or MuJoCo v5 environments, or this library's grid games, wrapped or
            not, made by ``gymnasium.make`` with any keyword arguments.
        obs: an observation of the unwrapped environment, in its units and its shape.

    Raises:
        ValueError: If the environment is not supported, or ``obs`` is not a finite observation of it.
    """
    set_state = _SET_STATE.get(_env_id(env) or "")
    if set_state is None:
        raise ValueError(
            f"env must be one of {sorted(_SET_STATE)} for imagined observations to be rendered, "
            f"got {env.unwrapped} of id {_env_id(env)!r}"
        )
    obs = np.asarray(obs, dtype=np.float64)
    shape = env.unwrapped.observation_space.shape
    if obs.shape != shape or not np.isfinite(obs).all():
        raise ValueError(f"obs must be finite numbers of shape {shape}, got shape {obs.shape}: {obs}")
    set_state(env.unwrapped, obs)
