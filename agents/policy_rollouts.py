"""Differentiable rollouts of a policy through a model, and their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_wrappers.imagination import AgentView
from mbrl_wrappers.imagination.scales import Scales, reward_normalizer
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.divergence import has_diverged
from mbrl_wrappers.models.members import members_of, noise_inferring, soft_ends_of
from mbrl_wrappers.returns import returns_to_go
from mbrl_wrappers.types import Outcome

# ``obs [B, D] -> action [B, A], log-density [B]``.
Act = Callable[[Tensor], tuple[Tensor, Tensor]]
# ``(obs [B, D], action [B, A]) -> Outcome`` with fields ``[B, ...]``.
Step = Callable[[Tensor, Tensor], Outcome]
# ``(obs [B, D], action [B, A], real next_obs [B, D], real reward [B]) -> next_obs, reward``, with a gradient.
Infer = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Rollout(NamedTuple):
    """``H`` imagined steps of ``B`` rows, and the action after the last one.

    A row that terminates or diverges stays at the observation before that step, without a gradient. Where terminations
    are probabilities, rows go on whatever these are.

    Attributes:
        obs: ``H + 1`` of ``[B, D]``.
        action: ``H + 1`` of ``[B, A]``.
        log_prob: ``H + 1`` of ``[B]``, of the actions.
        reward: ``H`` of ``[B]``, 0 where it is not finite.
        terminated: ``H`` of ``[B]``, bool or probabilities.
        is_reached: ``H + 1`` of ``[B]`` bool, whether the row has neither terminated nor diverged before.
        is_finite: ``[B]`` bool, whether the row never diverged.
    """

    obs: list[Tensor]
    action: list[Tensor]
    log_prob: list[Tensor]
    reward: list[Tensor]
    terminated: list[Tensor]
    is_reached: list[Tensor]
    is_finite: Tensor


def roll_out(
    step: Step, act: Act, obs: Tensor, first: tuple[Tensor, Tensor], horizon: int, backprop_steps: int | None = None
) -> Rollout:
    """Follow a policy for ``horizon`` steps of a model, so that the result can be differentiated.

    Args:
        step: the model.
        act: the policy, sampled by reparameterisation.
        obs: ``[B, D]``.
        first: action ``[B, A]`` and log-density ``[B]`` at ``obs``.
        horizon: ``H``, at least 0.
        backprop_steps: the states are detached after every so many steps, which truncates backpropagation through
            time; default: never.

    Raises:
        ValueError: if the actions have a gradient and the model passes none back to them.
    """
    action, log_prob = first
    everywhere = torch.ones(len(obs), dtype=torch.bool, device=obs.device)
    rollout = Rollout([obs], [action], [log_prob], [], [], [everywhere], everywhere.clone())
    for index in range(horizon):
        next_obs, reward, terminated = step(obs, action)
        check_differentiable(first[0], next_obs)
        is_finite = ~has_diverged(next_obs, reward)
        rollout.is_finite.logical_and_(is_finite | ~rollout.is_reached[-1])
        rollout.reward.append(torch.where(is_finite, reward, 0.0))
        if terminated.is_floating_point():
            rollout.terminated.append(torch.where(is_finite, terminated, 0.0))
            goes_on = is_finite
        else:
            rollout.terminated.append(terminated & is_finite)
            goes_on = is_finite & ~terminated
        obs = torch.where(goes_on[:, None], next_obs, obs.detach())
        if backprop_steps is not None and (index + 1) % backprop_steps == 0:
            obs = obs.detach()
        action, log_prob = act(obs)
        rollout.obs.append(obs)
        rollout.action.append(action)
        rollout.log_prob.append(log_prob)
        rollout.is_reached.append(rollout.is_reached[-1] & goes_on)
    return rollout


def check_differentiable(action: Tensor, next_obs: Tensor) -> None:
    """Refuse a model that passes no gradient back to actions that have one."""
    if action.requires_grad and not next_obs.requires_grad:
        raise ValueError("dynamics must be differentiable with respect to the action, got next_obs without a gradient")


def expanded_values(
    rollout: Rollout, last: Tensor, alpha: Tensor | float, gamma: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the values of the states and actions of a rollout, from its rewards and the value of its last state.

    With ``V_H`` given, ``Q_t = r_t + gamma V_{t+1}`` and ``V_t = Q_t - alpha log pi(a_t | s_t)``; after a termination,
    ``Q_t = r_t``, or where terminations are probabilities, ``Q_t = r_t + gamma (1 - p_t) V_{t+1}``.

    Args:
        rollout: of ``H`` steps.
        last: ``V_H``, ``[B]``.
        alpha: weight of the entropy.
        gamma: discount.

    Returns:
        ``V_0`` to ``V_H``, and ``Q_0`` to ``Q_{H-1}``, ``[B]`` each.
    """
    entropies = [-alpha * log_prob for log_prob in rollout.log_prob[: len(rollout.reward)]]
    action_values, values = returns_to_go(rollout.reward, rollout.terminated, last, gamma, entropies)
    return values, action_values


def step_in_turn(
    dynamics: DynamicsModel,
    generator: torch.Generator | None = None,
    *,
    deterministic: bool = False,
    sample_discrete: bool | None = None,
    soft_ends: bool = False,
) -> Step:
    """Return a step function that deals rows out to the members in turn: row ``i`` has the same member in each call.

    In turn and not in blocks, since the rows of a batch may be sorted by kind.

    Args:
        dynamics: the model; without members, it steps all rows.
        generator: the source of all randomness; default: torch's global one.
        deterministic: whether each member predicts its mean.
        sample_discrete: whether categories, flags and terminations are sampled; default: the opposite of
            ``deterministic``.
        soft_ends: whether terminations are probabilities, of sampled steps; see
            :class:`~mbrl_wrappers.models.members.SoftEnds`.

    Returns:
        ``(obs [B, D], action [B, A]) -> Outcome`` with fields ``[B, ...]``.
    """
    model = members_of(dynamics)
    members = model.particle_members
    if soft_ends:
        step_all = soft_ends_of(dynamics).soft_end_step(members)
    else:
        step_all = model.particle_step(members, deterministic=deterministic, sample_discrete=sample_discrete)

    def step(obs: Tensor, action: Tensor) -> Outcome:
        columns = _in_turn(lambda *dealt: step_all(dealt[0], dealt[1], generator), len(members), obs, action)
        return Outcome(*columns)

    return step


def step_of_agent(view: AgentView, step_in_env: Step, scales: Scales | None) -> Step:
    """Return a step function in an agent's units: actions in [-1, 1], rewards normalised as for its critic.

    Args:
        view: the agent's.
        step_in_env: a step function in the env's units, such as that of :func:`step_in_turn`.
        scales: the statistics of the agent's VecNormalize.
    """
    normalized = reward_normalizer(scales, view.device)

    def step(obs: Tensor, action: Tensor) -> Outcome:
        outcome = step_in_env(obs, view.unscale(action))
        return outcome._replace(reward=normalized(outcome.reward))

    return step


def infer_in_turn(dynamics: DynamicsModel) -> Infer:
    """Return a function that repeats real steps, with rows dealt out as in :func:`step_in_turn`.

    Returns:
        ``(obs [B, D], action [B, A], next_obs [B, D], reward [B]) -> next_obs, reward``; see
        :meth:`InfersNoise.inferred_step <mbrl_wrappers.models.members.InfersNoise.inferred_step>`.
    """
    members = members_of(dynamics).particle_members
    step_all = noise_inferring(dynamics).inferred_step(members)

    def step(obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
        next_obs, reward = _in_turn(step_all, len(members), obs, action, next_obs, reward)
        return next_obs, reward

    return step


def _in_turn(function: Callable[..., Sequence[Tensor]], members: int, *columns: Tensor) -> list[Tensor]:
    """Call a function of ``[M, R, ...]`` with rows ``[B, ...]`` dealt out in turn; returns results ``[B, ...]``."""
    rows = len(columns[0])
    spare = -rows % members

    def deal(column: Tensor) -> Tensor:
        filled = torch.cat([column, column[-1:].expand(spare, *column.shape[1:])]) if spare else column
        return filled.unflatten(0, (-1, members)).transpose(0, 1)

    return [part.transpose(0, 1).flatten(0, 1)[:rows] for part in function(*map(deal, columns))]
