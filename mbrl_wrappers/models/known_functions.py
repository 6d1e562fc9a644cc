"""Rewards and terminations of Gymnasium's environments and of this library's, as batched torch functions.

A model need not learn what is already known. Model-based policy optimisation (Janner et al., 2019,
arXiv:1906.08253) gives its model the termination rule, PETS (Chua et al., 2018, arXiv:1805.12114) gives
it the reward. The rules here are those of the default construction of each environment, read off
Gymnasium's sources; an environment made with other keyword arguments needs its own functions.

Every function takes ``(obs [..., D], action [..., A], next_obs [..., D])``, flat and in the
environment's units (one-hot where the action is discrete), and returns ``[...]``: bool for a
termination, the floating dtype of ``obs`` for a reward. Rewards can be differentiated.

Rewards that are left out, because ``(obs, action, next_obs)`` does not determine them:

- Ant, HalfCheetah, Hopper, Humanoid, Swimmer, Walker2d: they pay for the distance moved along x, and
  the observation holds no x (the velocity it holds is that at the end of the step, not the mean).
- InvertedDoublePendulum: the tip's position is taken before the integrator's last update, up to 1e-4
  away in reward, and the velocities it pays for are clipped to [-10, 10] in the observation.

Where an observation hides what the environment looks at, a termination decides on what is left:
Hopper's velocities are clipped to [-10, 10] in the observation, while the environment ends an episode
at 100; Ant's x and y, which must be finite, are left out of it; the height of InvertedDoublePendulum's
tip is, as in its reward, slightly older than the angles (4e-5). CartPole, MountainCar and Acrobot
round a float64 state to a float32 observation. In all of these, only transitions at the limit differ.

The rewards of MBBLCartPole and MBBLInvertedPendulum (:mod:`mbrl_wrappers.envs.benchmark_tasks`) are paid
for ``obs``, the state before the step, that of PETSCartpole for ``next_obs``; none of the three terminates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrl_wrappers.models.cart_poles import swing_up_reward

GivenFunction = Callable[[Tensor, Tensor, Tensor], Tensor]

_CART_POLE_ANGLE = 12 * 2 * torch.pi / 360
_MOUNTAIN_CAR_CONTINUOUS_GOAL = 0.449999988079071  # 0.45 in float32, the precision the env compares in
_HUMANOID_TIMESTEP = 0.003
_ANT_STATE = 13 + 14  # the positions and velocities; contact forces follow
_CONTACT_FORCES = 13 * 6  # the last columns of a humanoid's observation


def _inside(value: Tensor, low: float, high: float) -> Tensor:
    """Return whether ``low < value < high``; a NaN is never inside."""
    return (low < value) & (value < high)


def _effort(obs: Tensor, action: Tensor) -> Tensor:
    """Return the sum of squared actions ``[...]`` in the dtype of ``obs``."""
    return action.to(obs.dtype).square().sum(-1)


# ---------------------------------------------------------------------------------- terminations


def _never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.zeros_like(next_obs[..., 0], dtype=torch.bool)


def _cart_pole_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return (next_obs[..., 0].abs() > 2.4) | (next_obs[..., 2].abs() > _CART_POLE_ANGLE)


def _mountain_car_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return (next_obs[..., 0] >= 0.5) & (next_obs[..., 1] >= 0)


def _mountain_car_continuous_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return (next_obs[..., 0] >= _MOUNTAIN_CAR_CONTINUOUS_GOAL) & (next_obs[..., 1] >= 0)


def _acrobot_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    cos1, sin1, cos2, sin2 = next_obs[..., :4].unbind(-1)
    return -cos1 - (cos1 * cos2 - sin1 * sin2) > 1


def _ant_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    height = next_obs[..., 0]
    finite = torch.isfinite(next_obs[..., :_ANT_STATE]).all(-1)
    return ~(finite & (height >= 0.2) & (height <= 1.0))


def _hopper_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    height, angle = next_obs[..., 0], next_obs[..., 1]
    bounded = _inside(next_obs[..., 1:], -100, 100).all(-1)
    return ~(bounded & _inside(height, 0.7, torch.inf) & _inside(angle, -0.2, 0.2))


def _humanoid_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~_inside(next_obs[..., 0], 1.0, 2.0)


def _inverted_pendulum_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~torch.isfinite(next_obs).all(-1) | (next_obs[..., 1].abs() > 0.2)


def _inverted_double_pendulum_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    sin1, sin2, cos1, cos2 = next_obs[..., 1:5].unbind(-1)
    tip_height = 0.6 * (cos1 + cos1 * cos2 - sin1 * sin2)
    return tip_height <= 1


def _walker_ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~(_inside(next_obs[..., 0], 0.8, 2.0) & _inside(next_obs[..., 1], -1.0, 1.0))


TERMINATIONS: dict[str, GivenFunction] = {
    "Acrobot-v1": _acrobot_ends,
    "CartPole-v0": _cart_pole_ends,
    "CartPole-v1": _cart_pole_ends,
    "MountainCar-v0": _mountain_car_ends,
    "MountainCarContinuous-v0": _mountain_car_continuous_ends,
    "Pendulum-v1": _never,
    "Ant-v5": _ant_ends,
    "HalfCheetah-v5": _never,
    "Hopper-v5": _hopper_ends,
    "Humanoid-v5": _humanoid_ends,
    "HumanoidStandup-v5": _never,
    "InvertedDoublePendulum-v5": _inverted_double_pendulum_ends,
    "InvertedPendulum-v5": _inverted_pendulum_ends,
    "Pusher-v5": _never,
    "Reacher-v5": _never,
    "Swimmer-v5": _never,
    "Walker2d-v5": _walker_ends,
    "mbrl_wrappers/MBBLCartPole-v0": _never,
    "mbrl_wrappers/MBBLInvertedPendulum-v0": _never,
    "mbrl_wrappers/PETSCartpole-v0": _never,
}

# --------------------------------------------------------------------------------------- rewards


def _cart_pole_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.ones_like(obs[..., 0])


def _mountain_car_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return -torch.ones_like(obs[..., 0])


def _mountain_car_continuous_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    arrived = _mountain_car_continuous_ends(obs, action, next_obs)
    return 100 * arrived.to(obs.dtype) - 0.1 * _effort(obs, action)


def _acrobot_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return _acrobot_ends(obs, action, next_obs).to(obs.dtype) - 1


def _pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    angle = torch.atan2(obs[..., 1], obs[..., 0])
    speed = obs[..., 2]
    return -(angle.square() + 0.1 * speed.square() + 0.001 * _effort(obs, action.clamp(-2, 2)))


def _humanoid_standup_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    impact = 0.5e-6 * next_obs[..., -_CONTACT_FORCES:].square().sum(-1)
    height_per_timestep = next_obs[..., 0] / _HUMANOID_TIMESTEP
    return height_per_timestep - 0.1 * _effort(obs, action) - impact.clamp(max=10) + 1


def _inverted_pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return 1 - _inverted_pendulum_ends(obs, action, next_obs).to(obs.dtype)


def _pusher_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    tip, cylinder, goal = next_obs[..., 14:17], next_obs[..., 17:20], next_obs[..., 20:23]
    near = torch.linalg.vector_norm(cylinder - tip, dim=-1)
    distance = torch.linalg.vector_norm(cylinder - goal, dim=-1)
    return -distance - 0.1 * _effort(obs, action) - 0.5 * near


def _reacher_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    # the weight of the effort is 1 in Gymnasium's code, 0.1 in its documentation
    return -torch.linalg.vector_norm(next_obs[..., 8:10], dim=-1) - _effort(obs, action)


def _mbbl_cart_pole_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return obs[..., 2].cos() - 0.01 * obs[..., 0].square()


def _mbbl_inverted_pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return -obs[..., 1].square()


def _pets_cartpole_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    position, cos, sin = next_obs[..., :3].unbind(-1)
    return swing_up_reward(position, cos, sin, action[..., 0].to(obs.dtype), torch)


REWARDS: dict[str, GivenFunction] = {
    "Acrobot-v1": _acrobot_reward,
    "CartPole-v0": _cart_pole_reward,
    "CartPole-v1": _cart_pole_reward,
    "MountainCar-v0": _mountain_car_reward,
    "MountainCarContinuous-v0": _mountain_car_continuous_reward,
    "Pendulum-v1": _pendulum_reward,
    "HumanoidStandup-v5": _humanoid_standup_reward,
    "InvertedPendulum-v5": _inverted_pendulum_reward,
    "Pusher-v5": _pusher_reward,
    "Reacher-v5": _reacher_reward,
    "mbrl_wrappers/MBBLCartPole-v0": _mbbl_cart_pole_reward,
    "mbrl_wrappers/MBBLInvertedPendulum-v0": _mbbl_inverted_pendulum_reward,
    "mbrl_wrappers/PETSCartpole-v0": _pets_cartpole_reward,
}
