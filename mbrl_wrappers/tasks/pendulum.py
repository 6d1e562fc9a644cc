"""Gymnasium's Pendulum-v1: swing a pole up and hold it, with a torque in [-2, 2] N m."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.tasks.task import Physics, Task, effort, never, uniform_rows

# In SI units, as in Gymnasium.
_GRAVITY, _MASS, _LENGTH = 10.0, 1.0, 1.0
_TIMESTEP, _MAX_SPEED, _MAX_TORQUE = 0.05, 8.0, 2.0


def _pendulum_step(obs: Tensor, action: Tensor) -> Tensor:
    """Turn a rod about its end by one semi-implicit Euler step; ``obs`` is (cos, sin, speed), 0 is upright."""
    angle, speed = torch.atan2(obs[:, 1], obs[:, 0]), obs[:, 2]
    torque = action[:, 0].clamp(-_MAX_TORQUE, _MAX_TORQUE)
    fall = 3 * _GRAVITY / (2 * _LENGTH) * angle.sin()
    push = 3 / (_MASS * _LENGTH**2) * torque
    speed = (speed + (fall + push) * _TIMESTEP).clamp(-_MAX_SPEED, _MAX_SPEED)
    angle = angle + speed * _TIMESTEP
    return torch.stack([angle.cos(), angle.sin(), speed], dim=-1)


def _pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    angle = torch.atan2(obs[..., 1], obs[..., 0])
    speed = obs[..., 2]
    return -(angle.square() + 0.1 * speed.square() + 0.001 * effort(obs, action.clamp(-2, 2)))


def _spaces() -> tuple[spaces.Space, spaces.Space]:
    env = gym.make("Pendulum-v1")
    return env.observation_space, env.action_space


def _starts() -> Tensor:
    angle, speed = uniform_rows(np.pi, 1.0).unbind(-1)
    return torch.stack([angle.cos(), angle.sin(), speed], dim=-1)


def _set_pendulum(env: Any, obs: np.ndarray) -> None:
    cos, sin, speed = obs
    env.state = np.array([np.arctan2(sin, cos), speed])
    env.last_u = None  # the observation holds no torque: draw no arrow


TASKS = {
    "Pendulum-v1": Task(never, _pendulum_reward, _set_pendulum, Physics(_spaces, _pendulum_step, _starts)),
}
