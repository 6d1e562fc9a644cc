"""Gymnasium's MuJoCo robots, version 5.

Rewards that are left out, because ``(obs, action, next_obs)`` does not determine them:

- Ant, HalfCheetah, Hopper, Humanoid, Swimmer, Walker2d: the reward is for the distance moved along x, and the
  observation holds no x (its velocity is the one at the end of the step, not the mean over the step).
- InvertedDoublePendulum: the env takes the tip's position before the integrator's last update, which changes the reward
  by up to 1e-4, and the velocities in the reward are clipped to [-10, 10] in the observation.

Some environments end an episode by values that the observation does not show exactly. The terminations here use the
observation: Hopper's velocities are clipped to [-10, 10] there, while the environment ends an episode at 100; Ant's x
and y, which must be finite, are missing; the height of InvertedDoublePendulum's tip is, as in its reward, slightly
older than the angles (4e-5). Only transitions at the limit differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_wrappers.tasks.task import Task, effort, inside, never

_HUMANOID_TIMESTEP = 0.003
_ANT_STATE = 13 + 14  # the positions and velocities; contact forces follow
_CONTACT_FORCES = 13 * 6  # the last columns of a humanoid's observation
_LOOKS = frozenset(
    {"width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom", "visual_options"}
)
_STARTS_AND_LOOKS = _LOOKS | {"reset_noise_scale"}
# Columns behind the positions and velocities, which the rules of these robots don't read.
_NO_CONTACTS = _STARTS_AND_LOOKS | {"include_cfrc_ext_in_observation"}
_STATE_ALONE = _NO_CONTACTS | {f"include_{part}_in_observation" for part in ("cinert", "cvel", "qfrc_actuator")}

# -- terminations --------------------------------------------------------------------------------------------


def _ant_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    height = next_obs[..., 0]
    finite = torch.isfinite(next_obs[..., :_ANT_STATE]).all(-1)
    return ~(finite & (height >= 0.2) & (height <= 1.0))


def _hopper_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    height, angle = next_obs[..., 0], next_obs[..., 1]
    bounded = inside(next_obs[..., 1:], -100, 100).all(-1)
    return ~(bounded & inside(height, 0.7, torch.inf) & inside(angle, -0.2, 0.2))


def _humanoid_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~inside(next_obs[..., 0], 1.0, 2.0)


def _inverted_pendulum_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~torch.isfinite(next_obs).all(-1) | (next_obs[..., 1].abs() > 0.2)


def _inverted_double_pendulum_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    sin1, sin2, cos1, cos2 = next_obs[..., 1:5].unbind(-1)
    tip_height = 0.6 * (cos1 + cos1 * cos2 - sin1 * sin2)
    return tip_height <= 1


def _walker_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~(inside(next_obs[..., 0], 0.8, 2.0) & inside(next_obs[..., 1], -1.0, 1.0))


# -- rewards -------------------------------------------------------------------------------------------------


def _humanoid_standup_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    impact = 0.5e-6 * next_obs[..., -_CONTACT_FORCES:].square().sum(-1)
    height_per_timestep = next_obs[..., 0] / _HUMANOID_TIMESTEP
    return height_per_timestep - 0.1 * effort(obs, action) - impact.clamp(max=10) + 1


def _inverted_pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return 1 - _inverted_pendulum_ends(obs, action, next_obs).to(obs.dtype)


def _pusher_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    tip, cylinder, goal = next_obs[..., 14:17], next_obs[..., 17:20], next_obs[..., 20:23]
    near = torch.linalg.vector_norm(cylinder - tip, dim=-1)
    distance = torch.linalg.vector_norm(cylinder - goal, dim=-1)
    return -distance - 0.1 * effort(obs, action) - 0.5 * near


def _reacher_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    # The effort's weight is 1 in Gymnasium's code, although its documentation says 0.1.
    return -torch.linalg.vector_norm(next_obs[..., 8:10], dim=-1) - effort(obs, action)


# -- states, for renderers --------------------------------------------------------------------------------------


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
    # qpos holds the offsets of cylinder and goal from their places in the model file, y before x.
    cylinder = (obs[17:19] - env.model.body("object").pos[:2])[::-1]
    goal = (obs[20:22] - env.model.body("goal").pos[:2])[::-1]
    env.set_state(np.concatenate([obs[:7], cylinder, goal]), np.concatenate([obs[7:14], np.zeros(4)]))


TASKS = {
    "Ant-v5": Task(_ant_ends, None, _set_mujoco, free=_NO_CONTACTS),
    "HalfCheetah-v5": Task(never, None, _set_mujoco, free=_STARTS_AND_LOOKS),
    "Hopper-v5": Task(_hopper_ends, None, _set_mujoco, free=_STARTS_AND_LOOKS),
    "Humanoid-v5": Task(_humanoid_ends, None, _set_mujoco, free=_STATE_ALONE),
    "HumanoidStandup-v5": Task(never, _humanoid_standup_reward, _set_mujoco, free=_STARTS_AND_LOOKS),
    "InvertedDoublePendulum-v5": Task(
        _inverted_double_pendulum_ends, None, _set_inverted_double_pendulum, free=_STARTS_AND_LOOKS
    ),
    "InvertedPendulum-v5": Task(
        _inverted_pendulum_ends, _inverted_pendulum_reward, _set_mujoco, free=_STARTS_AND_LOOKS
    ),
    "Pusher-v5": Task(never, _pusher_reward, _set_pusher, free=_LOOKS),
    "Reacher-v5": Task(never, _reacher_reward, _set_reacher, free=_LOOKS),
    "Swimmer-v5": Task(never, None, _set_mujoco, free=_STARTS_AND_LOOKS),
    "Walker2d-v5": Task(_walker_ends, None, _set_mujoco, free=_STARTS_AND_LOOKS),
}
