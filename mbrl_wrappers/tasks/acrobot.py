"""Gymnasium's Acrobot-v1: swing up two links by a torque between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from mbrl_wrappers.tasks.task import Task


def _acrobot_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    cos1, sin1, cos2, sin2 = next_obs[..., :4].unbind(-1)
    return -cos1 - (cos1 * cos2 - sin1 * sin2) > 1


def _acrobot_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return _acrobot_ends(obs, action, next_obs).to(obs.dtype) - 1


def _set_acrobot(env: Any, obs: np.ndarray) -> None:
    cos1, sin1, cos2, sin2, speed1, speed2 = obs
    env.state = np.array([np.arctan2(sin1, cos1), np.arctan2(sin2, cos2), speed1, speed2])


TASKS = {"Acrobot-v1": Task(_acrobot_ends, _acrobot_reward, _set_acrobot)}
