"""How the gradient that an actor learns from a model fares over the horizon."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from mbrl_wrappers.agents.expansion import expanded_values, roll_out, step_in_turn
from mbrl_wrappers.agents.maac import MAAC
from mbrl_wrappers.agents.svg import SVG
from mbrl_wrappers.imagination import AgentView
from mbrl_wrappers.models import DynamicsModel
from mbrl_wrappers.types import Outcome
from mbrl_wrappers.zoo.model_error import HorizonError

LONGEST = 20
BAND = (0.1, 0.5, 0.9)


def gradient_norms(agent: BaseAlgorithm, dynamics: DynamicsModel, obs: Tensor) -> list[HorizonError] | None:
    """Measure how large the gradient of a first action's value is, by the steps that are imagined before the critic.

    With an exact model and an exact critic all horizons would say the same. A norm that grows with the horizon is a
    gradient that explodes in the model, one that falls is lost on the way.

    Args:
        agent: MAAC or SVG.
        dynamics: its model.
        obs: ``[B, D]`` raw flat observations to begin with.

    Returns:
        Quantiles over ``obs`` at horizons 0 (from 1 for SVG, whose critic knows no actions) to 20; None for other
        agents.
    """
    if not isinstance(agent, MAAC | SVG):
        return None
    norms = []
    for horizon in range(1 if _judges_states(agent) else 0, LONGEST + 1):
        with torch.enable_grad():
            norm = _first_gradient(agent, AgentView(agent, dynamics), dynamics, obs, horizon).norm(dim=-1)
        low, median, high = norm.double().quantile(norm.new_tensor(BAND).double()).tolist()
        norms.append(HorizonError(horizon, low, median, high))
    return norms


def _judges_states(agent: Any) -> bool:
    return isinstance(agent, SVG) and agent.horizon != 0


def _first_gradient(agent: Any, view: AgentView, dynamics: DynamicsModel, obs: Tensor, horizon: int) -> Tensor:
    """Return the gradient ``[B, A]`` of what an agent looks ahead to with respect to its first action in [-1, 1]."""
    step_in_env, normalizer = step_in_turn(dynamics), view.normalizer

    def step(at: Tensor, action: Tensor) -> Outcome:
        outcome = step_in_env(at, view.unscale(action))
        return outcome._replace(reward=view.normalize_reward(outcome.reward, normalizer))

    def act(at: Tensor) -> tuple[Tensor, Tensor]:
        return agent.actor.action_log_prob(view.policy_obs(at, normalizer))

    action, log_prob = (part.detach() for part in act(obs))
    action.requires_grad_()
    rollout = roll_out(step, act, obs, (action, log_prob), horizon)
    last_obs = view.policy_obs(rollout.obs[-1], normalizer)
    if _judges_states(agent):
        alpha, value = 0.0, agent.critic(last_obs)[:, 0]
    else:
        alpha = view.alpha() if isinstance(agent, MAAC) else 0.0
        value = torch.cat(agent.critic(last_obs, rollout.action[-1]), dim=1).min(dim=1).values
    values, _ = expanded_values(rollout, value - alpha * rollout.log_prob[-1], alpha, view.gamma)
    return torch.autograd.grad(values[0][rollout.is_finite].sum(), action)[0]
