"""Gymnasium's MountainCar, with discrete and with continuous actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_wrappers.tasks.task import Task, effort

_CONTINUOUS_GOAL = 0.449999988079071  # 0.45 in float32, the precision the env compares in


def _mountain_car_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return (next_obs[..., 0] >= 0.5) & (next_obs[..., 1] >= 0)


def _mountain_car_continuous_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return (next_obs[..., 0] >= _CONTINUOUS_GOAL) & (next_obs[..., 1] >= 0)


def _mountain_car_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return -torch.ones_like(obs[..., 0])


def _mountain_car_continuous_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    arrived = _mountain_car_continuous_ends(obs, action, next_obs)
    return 100 * arrived.to(obs.dtype) - 0.1 * effort(obs, action)


def _set_mountain_car(env: Any, obs: np.ndarray) -> None:
    env.state = (obs[0], obs[1])


TASKS = {
    "MountainCar-v0": Task(_mountain_car_ends, _mountain_car_reward, _set_mountain_car),
    "MountainCarContinuous-v0": Task(_mountain_car_continuous_ends, _mountain_car_continuous_reward, _set_mountain_car),
}
