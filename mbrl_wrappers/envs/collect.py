"""Real transitions out of a Gymnasium environment, for fitting a model without an agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.finite import scalar_reward
from mbrl_wrappers.envs.imagined import add_batch_axis
from mbrl_wrappers.experience import Episodes
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.seeding import set_apart
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.types import Transitions


def collect_transitions(
    env: gym.Env,
    dynamics: WorldModel,
    steps: int,
    *,
    policy: Callable[[Any], Any] | None = None,
    seed: int | None = None,
) -> Transitions:
    """Step an environment and return its transitions, flat, as ``dynamics.fit`` takes them.

    Args:
        env: an env with the spaces of the model.
        dynamics: the model, whose codecs lay observations and actions flat.
        steps: number of transitions ``N``; episodes are reset as they end.
        policy: ``obs -> action``; default: uniform random actions.
        seed: of the first reset and of the random actions, as two independent streams. Default: env and action space
            keep the seeds that you gave them, except that the action space gets an independent stream derived from
            its own.

    Returns:
        ``[N, ...]`` on the model's device.

    Raises:
        ValueError: if ``steps`` is below 1, the spaces differ, or the env gives a value that is not finite or a
            reward that is no number.
    """
    return _collect(env, dynamics, steps, policy, seed)[0]


def collect_episodes(
    env: gym.Env,
    model: WorldModel,
    steps: int,
    *,
    policy: Callable[[Any], Any] | None = None,
    seed: int | None = None,
) -> Episodes:
    """Step an environment and return its episodes, from which a model with a memory draws sequences.

    Args:
        env: an env with the spaces of the model.
        model: the model, whose codecs lay observations and actions flat.
        steps: number of steps; episodes are reset as they end.
        policy: ``obs -> action``; default: uniform random actions.
        seed: as for :func:`collect_transitions`.

    Returns:
        Experience of ``steps`` steps on the model's device; the last episode may be unfinished.

    Raises:
        ValueError: as :func:`collect_transitions`.
    """
    return Episodes.from_steps(*_collect(env, model, steps, policy, seed))


def _collect(
    env: gym.Env, model: WorldModel, steps: int, policy: Callable[[Any], Any] | None, seed: int | None
) -> tuple[Transitions, torch.Tensor]:
    """Return the steps in order, and for each whether it ended an episode, ``[N]`` bool."""
    check_whole_number("steps", steps)
    for name in ("observation_space", "action_space"):
        if getattr(env, name) != getattr(model, name):
            raise ValueError(f"env.{name} must be {getattr(model, name)}, got {getattr(env, name)}")
    set_apart(env.action_space, seed)
    rows, ended = [], []
    obs, _ = env.reset(seed=seed)
    for _ in range(steps):
        action = env.action_space.sample() if policy is None else policy(obs)
        # Copied at once: an env may reuse the arrays that it returned.
        flat_obs = _flat(model.obs_codec, obs)
        flat_action = _flat(model.action_codec, action).float()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((flat_obs, flat_action, scalar_reward(reward), _flat(model.obs_codec, next_obs), bool(terminated)))
        ended.append(bool(terminated or truncated))
        obs = env.reset()[0] if ended[-1] else next_obs
    all_obs, actions, rewards, all_next_obs, terminations = zip(*rows, strict=True)
    transitions = Transitions(
        obs=torch.cat(all_obs),
        action=torch.cat(actions),
        reward=torch.tensor(rewards, dtype=torch.float32),
        next_obs=torch.cat(all_next_obs),
        terminated=torch.tensor(terminations),
        key=torch.arange(steps),
    )
    return transitions.to(model.device), torch.tensor(ended, device=model.device)


def _flat(codec: FlatSpace, value: Any) -> torch.Tensor:
    return codec.encode(add_batch_axis(value), dtype=codec.exact_dtype).clone()
