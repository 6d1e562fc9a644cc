"""Show imagined observations with the renderer of the real environment.

A renderer draws the state of its simulator. For Gymnasium's classic control and MuJoCo environments the
state, as far as a picture shows it, can be computed from the observation; :func:`set_state_from_obs`
does so. What an observation leaves out is set to zero: the position of a robot's root along x and y, the
velocities of what is pushed or reached for.

Setting the state is for rendering only. Velocities that the observation clips stay clipped, and what the
simulator keeps beside positions and velocities (its clock, warm starts, contact forces) is not restored,
so a step taken from such a state is not the step the environment would have taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

_SetState = Callable[[Any, np.ndarray], None]


def _set_cart_pole(env: Any, obs: np.ndarray) -> None:
    env.state = obs.copy()


def _set_mountain_car(env: Any, obs: np.ndarray) -> None:
    env.state = (obs[0], obs[1])


def _set_pendulum(env: Any, obs: np.ndarray) -> None:
    cos, sin, speed = obs
    env.state = np.array([np.arctan2(sin, cos), speed])
    env.last_u = None  # the observation holds no torque: draw no arrow


def _set_acrobot(env: Any, obs: np.ndarray) -> None:
    cos1, sin1, cos2, sin2, speed1, speed2 = obs
    env.state = np.array([np.arctan2(sin1, cos1), np.arctan2(sin2, cos2), speed1, speed2])


def _set_mujoco(env: Any, obs: np.ndarray) -> None:
    """Set a robot whose observation begins with its positions (without the skipped ones) and velocities."""
    structure = env.observation_structure
    num_positions = structure["qpos"]
    positions = np.concatenate([np.zeros(structure.get("skipped_qpos", 0)), obs[:num_positions]])
    env.set_state(positions, obs[num_positions : num_positions + structure["qvel"]])


def _set_inverted_double_pendulum(env: Any, obs: np.ndarray) -> None:
    angles = np.arctan2(obs[1:3], obs[3:5])
    env.set_state(np.concatenate([obs[:1], angles]), obs[5:8])


def _set_reacher(env: Any, obs: np.ndarray) -> None:
    angles, target = np.arctan2(obs[2:4], obs[:2]), obs[4:6]
    env.set_state(np.concatenate([angles, target]), np.concatenate([obs[6:8], np.zeros(2)]))


def _set_pusher(env: Any, obs: np.ndarray) -> None:
    # cylinder and goal slide along y first, then x, from where the model file puts them
    cylinder = (obs[17:19] - env.model.body("object").pos[:2])[::-1]
    goal = (obs[20:22] - env.model.body("goal").pos[:2])[::-1]
    env.set_state(np.concatenate([obs[:7], cylinder, goal]), np.concatenate([obs[7:14], np.zeros(4)]))


_SET_STATE: dict[str, _SetState] = {
    "Acrobot-v1": _set_acrobot,
    "CartPole-v0": _set_cart_pole,
    "CartPole-v1": _set_cart_pole,
    "MountainCar-v0": _set_mountain_car,
    "MountainCarContinuous-v0": _set_mountain_car,
    "Pendulum-v1": _set_pendulum,
    "Ant-v5": _set_mujoco,
    "HalfCheetah-v5": _set_mujoco,
    "Hopper-v5": _set_mujoco,
    "Humanoid-v5": _set_mujoco,
    "HumanoidStandup-v5": _set_mujoco,
    "InvertedDoublePendulum-v5": _set_inverted_double_pendulum,
    "InvertedPendulum-v5": _set_mujoco,
    "Pusher-v5": _set_pusher,
    "Reacher-v5": _set_reacher,
    "Swimmer-v5": _set_mujoco,
    "Walker2d-v5": _set_mujoco,
}


def _env_id(env: gym.Env) -> str | None:
    """Return the id that the environment was made by, None if it was constructed by hand."""
    spec = env.unwrapped.spec
    return None if spec is None else spec.id


def can_render(env: gym.Env) -> bool:
    """Return whether :func:`set_state_from_obs` knows the environment, wrapped or not."""
    return _env_id(env) in _SET_STATE


def check_renderable(env: gym.Env | None) -> None:
    """Refuse an env that imagined states can't be shown in.

    Raises:
        ValueError: if there is none, it is not a supported one, or it does not render to arrays.
    """
    if env is None or not can_render(env):
        raise ValueError(f"render_env must be one of {sorted(_SET_STATE)}, got {env}")
    if env.render_mode != "rgb_array":
        raise ValueError(f"render_env must be made with render_mode='rgb_array', got {env.render_mode!r}")
    env.reset()


def set_state_from_obs(env: gym.Env, obs: np.ndarray) -> None:
    """Put an observation into a real environment, so that ``env.render()`` shows it.

    Args:
        env: One of Gymnasium's classic control or MuJoCo v5 environments, wrapped or not, made by
            ``gymnasium.make`` with any keyword arguments.
        obs: ``[D]`` an observation of the unwrapped environment, in its units.

    Raises:
        ValueError: If the environment is not one of these, or ``obs`` is not a finite observation of it.
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
