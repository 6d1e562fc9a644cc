"""Gymnasium's CartPole: balance a pole on a cart that is pushed left or right by 10 N."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.tasks.task import Physics, Task, uniform_rows

# In SI units, as in Gymnasium.
_GRAVITY, _FORCE, _TIMESTEP = 9.8, 10.0, 0.02
_CART_MASS, _POLE_MASS, _POLE_HALF_LENGTH = 1.0, 0.1, 0.5
_MAX_ANGLE = 12 * 2 * torch.pi / 360


def _cart_pole_step(obs: Tensor, action: Tensor) -> Tensor:
    """Push the cart left or right, an action one-hot."""
    return pushed(obs, action[:, 1] - action[:, 0])


def pushed(obs: Tensor, direction: Tensor) -> Tensor:
    """Push the cart by one explicit Euler step (Barto, Sutton and Anderson 1983); direction -1 or 1 ``[N]``."""
    _, velocity, angle, angle_speed = obs.unbind(-1)
    total_mass = _CART_MASS + _POLE_MASS
    force = _FORCE * direction
    sin, cos = angle.sin(), angle.cos()
    swing = _POLE_MASS * _POLE_HALF_LENGTH
    thrust = (force + swing * angle_speed.square() * sin) / total_mass
    angle_acceleration = (_GRAVITY * sin - cos * thrust) / (
        _POLE_HALF_LENGTH * (4 / 3 - _POLE_MASS * cos.square() / total_mass)
    )
    acceleration = thrust - swing * angle_acceleration * cos / total_mass
    rates = torch.stack([velocity, acceleration, angle_speed, angle_acceleration], dim=-1)
    return obs + _TIMESTEP * rates


def _cart_pole_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return (next_obs[..., 0].abs() > 2.4) | (next_obs[..., 2].abs() > _MAX_ANGLE)


def _cart_pole_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.ones_like(obs[..., 0])


def _spaces() -> tuple[spaces.Space, spaces.Space]:
    env = gym.make("CartPole-v1")
    return env.observation_space, env.action_space


def starts() -> Tensor:
    """Return states ``[S, 4]`` near the upright pole at rest."""
    return uniform_rows(0.05, 0.05, 0.05, 0.05)


def _set_cart_pole(env: Any, obs: np.ndarray) -> None:
    env.state = obs.copy()


_CART_POLE = Task(_cart_pole_ends, _cart_pole_reward, _set_cart_pole, Physics(_spaces, _cart_pole_step, starts))

TASKS = {"CartPole-v0": _CART_POLE, "CartPole-v1": _CART_POLE}
