"""The paths of a plan's candidates through the model, for a figure of the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_wrappers.agents.planning import PlanningAgent
from mbrl_wrappers.models import DynamicsModel, WorldModel
from mbrl_wrappers.models.rollout import open_loop
from mbrl_wrappers.planners import Plan
from mbrl_wrappers.zoo.environment import as_shown_to_agents
from mbrl_wrappers.zoo.evaluation import FIRST_SEED, env_action

PLANNED_STEPS = 20


@dataclass(frozen=True)
class Candidates:
    """The candidates of a search's last iteration, ``P`` of ``H`` steps, without those whose return is not finite.

    Attributes:
        values: ``[P, H + 1]`` one column of the flat observation along each candidate, now and after each step, as
            predicted by the model's mean. For a search that is not over action sequences: ``[P, 1]``, one column of
            the first actions.
        plan: ``[H + 1]`` or ``[1]``, the same values for the plan that the search returned.
        returns: ``[P]`` predicted returns.
        chosen: ``[P]`` bool, the elites: candidates with more than an equal weight in the plan.
        column: index of that column in the observation, or in the action.
    """

    values: np.ndarray
    plan: np.ndarray
    returns: np.ndarray
    chosen: np.ndarray
    column: int

    @property
    def are_paths(self) -> bool:
        """Whether ``values`` holds paths of observations, not only first actions."""
        return self.values.shape[1] > 1


def candidates_in(agent: PlanningAgent, env: gym.Env, *, seed: int = FIRST_SEED) -> Candidates:
    """Plan at step 20 of an episode in the real environment, or at its last observation if it ends before.

    Args:
        agent: the agent, which plans the steps up to there too.
        env: the real environment, not wrapped by SB3.
        seed: of the episode.
    """
    normalizer = agent.get_vec_normalize_env()
    env = as_shown_to_agents(env, agent.observation_space)
    obs, _ = env.reset(seed=seed)
    state: tuple[np.ndarray, ...] | None = None
    for _ in range(PLANNED_STEPS):
        action, state = agent.predict(obs if normalizer is None else normalizer.normalize_obs(obs), state)
        obs, _, terminated, truncated, _ = env.step(env_action(env, action))
        if terminated or truncated:
            break
    return candidates_of(agent, obs if normalizer is None else normalizer.normalize_obs(obs))


@torch.no_grad()
def candidates_of(agent: PlanningAgent, observation: Any) -> Candidates:
    """Plan for one observation, and follow all candidates in the model.

    The column of the result is the one in which the candidates differ most, in units of the spread of the states that
    the model was fitted on.

    Args:
        agent: an agent that plans.
        observation: a single observation, as ``agent.predict`` takes it.
    """
    found: Plan = agent.plan(observation)
    finite = torch.isfinite(found.returns[0])
    actions = torch.cat([found.actions[:1], found.candidates[0][finite]]) if _are_sequences(found) else None
    if actions is None:
        values = torch.cat([found.actions[0, :1], found.candidates[0, finite, 0]])[:, None]  # [1 + P, 1, A]
        scale = torch.ones(values.shape[-1])
    else:
        obs, _ = agent.flat_observation(observation)
        values = _paths(agent.dynamics, obs, actions)
        scale = _spread(agent.dynamics)
    values = values.cpu()
    column = int(torch.nan_to_num(values[1:].std(0, correction=0) / scale).mean(0).argmax())
    weights = found.weights[0]
    return Candidates(
        values=values[1:, :, column].numpy(),
        plan=values[0, :, column].numpy(),
        returns=found.returns[0][finite].cpu().numpy(),
        chosen=(weights > (1 + 1e-6) / len(weights))[finite].cpu().numpy(),
        column=column,
    )


def _are_sequences(found: Plan) -> bool:
    """Tell whether the candidates are whole plans."""
    return found.candidates.shape[2] == found.actions.shape[1] > 1


def _paths(dynamics: WorldModel, obs: Tensor, actions: Tensor) -> Tensor:
    """Return the observations ``[P, H + 1, D]`` along the action sequences ``[P, H, A]`` from ``obs [1, D]``."""
    start = obs.expand(len(actions), -1)
    if not isinstance(dynamics, DynamicsModel):
        begun = dynamics.begin(obs, torch.Generator(dynamics.device).manual_seed(0))
        state, path = tree_map(lambda part: part.expand(len(actions), *part.shape[1:]), begun), [start.float()]
        for action in actions.unbind(1):
            state, _ = dynamics.step(state, action, deterministic=True)
            path.append(dynamics.decode(state).float())
        return torch.stack(path, dim=1)
    return torch.stack(open_loop(dynamics, start, lambda step, _: actions[:, step], actions.shape[1]), dim=1)


def _spread(dynamics: WorldModel) -> Tensor:
    """Return the standard deviation ``[D]`` of the real states that the model keeps, 1 where they do not vary."""
    starts = dynamics.start_obs.cpu()
    spread = starts.std(0, correction=0) if len(starts) else torch.ones(dynamics.obs_codec.dim)
    return torch.where(spread > 0, spread, 1.0)
