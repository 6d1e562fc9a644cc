"""Returns of trajectories: the recursions by which rewards and a bootstrap value become targets.

With reward ``r_t``, ``d_t`` = 1 where step ``t`` terminated the episode (or the probability that it did), and the value
``V_H`` after the last step::

    one step      G_t = r_t + gamma (1 - d_t) V_{t+1}                                     :func:`backup`
    n steps       G_t = r_t + gamma (1 - d_t) G_{t+1},  G_H = V_H                         :func:`returns_to_go`
    lambda        G_t = r_t + gamma (1 - d_t) ((1 - lambda) V_{t+1} + lambda G_{t+1})     :func:`lambda_returns`
    from the end  n-step returns of every step, the bootstrap left to a critic (TD-k)     :class:`PendingReturn`
    from the start  n-step returns of one step for every n                                :class:`RunningReturn`

Steps are the leading dimension, or a sequence with an entry per step; ``B`` stands for whatever shape a step has. A
time limit is no termination: ``d_t`` is 0 there, and the value of the state after it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def backup(reward: Tensor, terminated: Tensor, value: Tensor, gamma: float | Tensor) -> Tensor:
    """Return ``r + gamma (1 - d) V``, ``[B]``.

    Where an episode terminated, the value is ignored and may be NaN.

    Args:
        reward: ``[B]``.
        terminated: ``[B]``, bool, or probabilities, which pass a gradient.
        value: of the state after the step, ``[B]``.
        gamma: discount.
    """
    if terminated.is_floating_point():
        return reward + gamma * (1 - terminated) * value
    return reward + gamma * torch.where(terminated, 0.0, value)


def returns_to_go(
    rewards: Sequence[Tensor],
    terminated: Sequence[Tensor],
    last: Tensor,
    gamma: float,
    bonuses: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the return from each step on, and the value of each state.

    ``Q_t = r_t + gamma (1 - d_t) V_{t+1}`` and ``V_t = Q_t + b_t``, from the last step to the first. The bonus
    ``b_t`` belongs to the state, such as the entropy bonus of soft actor-critic (Haarnoja et al. 2018, eq. 3).

    Args:
        rewards: ``T`` tensors ``[B]``.
        terminated: ``T`` tensors ``[B]``, bool or probabilities.
        last: ``V_T``, ``[B]``.
        gamma: discount.
        bonuses: ``T`` tensors ``[B]``; default: none.

    Returns:
        ``Q_0 .. Q_{T-1}`` and ``V_0 .. V_T``, ``[B]`` each.
    """
    values, action_values = [last], []
    for t in reversed(range(len(rewards))):
        action_values.append(backup(rewards[t], terminated[t], values[-1], gamma))
        values.append(action_values[-1] if bonuses is None else action_values[-1] + bonuses[t])
    return action_values[::-1], values[::-1]


def lambda_returns(rewards: Tensor, terminated: Tensor, values: Tensor, gamma: float | Tensor, lam: float) -> Tensor:
    """Return the exponentially weighted means of all n-step returns (Sutton and Barto 2018, eq. 12.3), ``[T, B]``.

    Args:
        rewards: ``[T, B]``.
        terminated: ``[T, B]`` bool.
        values: ``[T + 1, B]``, of the states before each step and after the last one; the first is not used.
        gamma: discount; or one of each step, ``[T, B]``, such as the discount times the chance to go on.
        lam: 0 for one-step returns, 1 for returns over all steps.
    """
    ahead, result = values[-1], []
    for t in reversed(range(len(rewards))):
        discount = gamma[t] if isinstance(gamma, Tensor) else gamma
        ahead = backup(rewards[t], terminated[t], (1 - lam) * values[t + 1] + lam * ahead, discount)
        result.append(ahead)
    return torch.stack(result[::-1])


class PendingReturn(NamedTuple):
    """The return of ``B`` trajectories from a state on, but for the value at their end, which a critic has to give.

    It is ``reward + discount (1 - terminated) V(obs)``.

    Attributes:
        reward: discounted sum of the rewards, ``[B]``.
        obs: where the trajectories end, ``[B, D]``.
        terminated: whether the trajectories terminated on the way, so that the value at ``obs`` does not count,
            ``[B]`` bool.
        discount: factor of the value at ``obs``, ``[B]``.
    """

    reward: Tensor
    obs: Tensor
    terminated: Tensor
    discount: Tensor

    @classmethod
    def at(cls, obs: Tensor) -> PendingReturn:
        """Begin at the end of trajectories, ``[B, D]``, where no reward is collected yet."""
        nothing = torch.zeros_like(obs[:, 0])
        return cls(nothing, obs, torch.zeros_like(nothing, dtype=torch.bool), torch.ones_like(nothing))

    def after(self, reward: Tensor, terminated: Tensor, gamma: float | Tensor) -> PendingReturn:
        """Put one step, ``[B]`` each, in front of the trajectories."""
        return PendingReturn(
            backup(reward, terminated, self.reward, gamma),
            self.obs,
            terminated | self.terminated,
            gamma * self.discount,
        )


class RunningReturn(NamedTuple):
    """The discounted rewards of ``B`` trajectories so far, ``sum_{t<n} gamma^t r_t`` up to a termination.

    Attributes:
        reward: the discounted sum, ``[B]``.
        goes_on: whether the trajectories have not terminated yet, ``[B]`` bool.
        discount: ``gamma^n``.
    """

    reward: Tensor
    goes_on: Tensor
    discount: float

    def then(self, reward: Tensor, terminated: Tensor, discount: float) -> RunningReturn:
        """Add a step, ``[B]`` each; ``discount`` is the factor of the rewards and values after it."""
        gained = torch.where(self.goes_on, self.discount * reward, 0.0)
        return RunningReturn(self.reward + gained, self.goes_on & ~terminated, discount)

    def bootstrap(self, value: Tensor) -> Tensor:
        """Return the part of the return, ``[B]``, that the value ``[B]`` of the current state adds."""
        return torch.where(self.goes_on, self.discount * value, 0.0)
