"""Real transitions out of a Gymnasium environment, for fitting a model without an agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.finite import scalar_reward
from mbrl_wrappers.envs.imagined import add_batch_axis
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.seeding import set_apart
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.types import Transitions


def collect_transitions(
    env: gym.Env,
    dynamics: DynamicsModel,
    steps: int,
    *,
    policy: Callable[[Any], Any] | None = None,
    seed: int | None = None,
) -> Transitions:
    """Step an environment and return its transitions, flat, as ``dynamics.fit`` takes them.

    Args:
        env: with the spaces of the model.
        dynamics: knows the flat layout.
        steps: number of transitions ``N``; episodes are reset as they end.
        policy: ``obs -> action``; default: uniform random actions.
        seed: of the first reset and of the random actions, two streams that have nothing to do with each other;
            default: both go on as you seeded them, the actions with a stream that follows from the action space's.

    Returns:
        ``[N, ...]`` on the model's device.

    Raises:
        ValueError: if ``steps`` is below 1, the spaces differ, or the env gives a value that is not finite or a
            reward that is no number.
    """
    check_whole_number("steps", steps)
    for name in ("observation_space", "action_space"):
        if getattr(env, name) != getattr(dynamics, name):
            raise ValueError(f"env.{name} must be {getattr(dynamics, name)}, got {getattr(env, name)}")
    set_apart(env.action_space, seed)
    rows = []
    obs, _ = env.reset(seed=seed)
    for _ in range(steps):
        action = env.action_space.sample() if policy is None else policy(obs)
        # Flat copies at once: an env may go on to write into the arrays that it gave away.
        flat_obs = _flat(dynamics.obs_codec, obs)
        flat_action = _flat(dynamics.action_codec, action).float()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append(
            (flat_obs, flat_action, scalar_reward(reward), _flat(dynamics.obs_codec, next_obs), bool(terminated))
        )
        obs = env.reset()[0] if terminated or truncated else next_obs
    all_obs, actions, rewards, all_next_obs, terminations = zip(*rows, strict=True)
    return Transitions(
        obs=torch.cat(all_obs),
        action=torch.cat(actions),
        reward=torch.tensor(rewards, dtype=torch.float32),
        next_obs=torch.cat(all_next_obs),
        terminated=torch.tensor(terminations),
        key=torch.arange(steps),
    ).to(dynamics.device)


def _flat(codec: FlatSpace, value: Any) -> torch.Tensor:
    return codec.encode(add_batch_axis(value), dtype=codec.exact_dtype).clone()
