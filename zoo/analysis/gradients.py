"""The size of the gradient that an actor gets through a model, over the horizon."""

from __future__ import annotations

import math
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from mbrl_wrappers.agents.actor_gradients import least
from mbrl_wrappers.agents.maac import MAAC
from mbrl_wrappers.agents.policy_rollouts import expanded_values, roll_out, step_in_turn, step_of_agent
from mbrl_wrappers.agents.svg import SVG
from mbrl_wrappers.imagination import AgentView
from mbrl_wrappers.models import DynamicsModel
from mbrl_wrappers.zoo.analysis.model_error import BAND, HorizonError

LONGEST = 20


def gradient_norms(agent: BaseAlgorithm, dynamics: DynamicsModel, obs: Tensor) -> list[HorizonError] | None:
    """Measure how large the gradient of a first action's value is, by the steps that are imagined before the critic.

    With an exact model and an exact critic, the norm would be the same at all horizons except for the rollouts' noise.
    If it grows with the horizon, the gradient explodes in the model; if it falls, the gradient vanishes.

    Args:
        agent: MAAC or SVG.
        dynamics: the agent's model.
        obs: ``[B, D]`` raw flat observations to start from.

    Returns:
        Quantiles over ``obs`` at horizons 0 to 20 (from 1 if SVG's critic takes states alone). Observations whose
        rollout or gradient diverges are left out; if none is left, the quantiles are infinite. None for other agents.
    """
    if not isinstance(agent, MAAC | SVG):
        return None
    view, of_states = AgentView(agent, dynamics), isinstance(agent, SVG) and agent.policy.of_states
    norms = []
    for horizon in range(1 if of_states else 0, LONGEST + 1):
        with torch.enable_grad():
            norm = _first_gradient(agent, view, dynamics, obs, horizon).double().norm(dim=-1)
        norm = norm[norm.isfinite()]
        band = norm.quantile(norm.new_tensor(BAND)).tolist() if len(norm) else [math.inf] * len(BAND)
        norms.append(HorizonError(horizon, *band))
    return norms


def _first_gradient(agent: Any, view: AgentView, dynamics: DynamicsModel, obs: Tensor, horizon: int) -> Tensor:
    """Return the gradient ``[B, A]`` of an agent's looked-ahead return with respect to its first action in [-1, 1].

    It is NaN where a rollout diverged.
    """
    scales = view.scales()

    def act(at: Tensor) -> tuple[Tensor, Tensor]:
        return agent.actor.action_log_prob(view.policy_obs(at, scales))

    action, log_prob = (part.detach() for part in act(obs))
    action.requires_grad_()
    rollout = roll_out(step_of_agent(view, step_in_turn(dynamics), scales), act, obs, (action, log_prob), horizon)
    last_obs = view.policy_obs(rollout.obs[-1], scales)
    alpha = view.alpha() if isinstance(agent, MAAC) else torch.zeros(())
    if isinstance(agent, SVG) and agent.policy.of_states:
        value = agent.critic(last_obs)[:, 0]
    else:
        value = least(agent.critic(last_obs, rollout.action[-1]))
    values, _ = expanded_values(rollout, value - alpha * rollout.log_prob[-1], alpha, view.gamma)
    gradient = torch.autograd.grad(values[0].sum(), action)[0]
    return torch.where(rollout.is_finite[:, None], gradient, torch.nan)
