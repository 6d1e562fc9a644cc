"""Evaluation episodes, each with its own seed, so that they can be played again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers.agents.planning import PlansActions
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.finite import scalar_reward
from mbrl_wrappers.zoo.choices import choices_seed, seed_choices, undisturbed
from mbrl_wrappers.zoo.environment import EpisodeLimit, with_episode_limit
from mbrl_wrappers.zoo.errors import ZooError

FIRST_SEED = 12345
NUM_EPISODES = 20
MAX_CUT_STEPS = 1_000_000  # limit on the steps that `verify` plays because a file says so
NUM_PLANNED_EPISODES = 5  # fewer, because each step is a search


@dataclass(frozen=True)
class Episode:
    """One evaluation episode, from ``env.reset(seed=seed)`` to its end.

    Attributes:
        seed: of the start state, of the env's noise and of the actions where they are sampled.
        total_reward: undiscounted return.
        length: env steps.
        cut_off: whether :class:`~mbrl_wrappers.zoo.environment.EpisodeLimit` cut it off.
    """

    seed: int
    total_reward: float
    length: int
    cut_off: bool = False


def num_episodes(kind: type[BaseAlgorithm]) -> int:
    """Return the default number of episodes of an evaluation."""
    return NUM_PLANNED_EPISODES if issubclass(kind, PlansActions) else NUM_EPISODES


def play_episodes(
    agent: BaseAlgorithm,
    env: gym.Env,
    episodes: int = NUM_EPISODES,
    *,
    first_seed: int = FIRST_SEED,
    deterministic: bool = True,
) -> list[Episode]:
    """Play episodes, with a seed each: ``first_seed``, ``first_seed + 1``, ...

    Args:
        agent: the agent; if it has a VecNormalize, that normalises its observations.
        env: a Gymnasium env, not wrapped by SB3; without a time limit, its episodes are cut off after
            :data:`~mbrl_wrappers.zoo.environment.MAX_EPISODE_STEPS`.
        episodes: number of episodes.
        first_seed: seed of the first episode.
        deterministic: take the policy's mode instead of a sample. Samples follow from the episode's seed, on the same
            kind of device, and leave the random generators as they were.

    Returns:
        The episodes, in the order of their seeds.

    Raises:
        ValueError: if there is no episode to play, or the first seed is below 0.
    """
    check_whole_number("episodes", episodes)
    check_whole_number("first_seed", first_seed, 0)
    env = with_episode_limit(env)
    with undisturbed(agent, deterministic):
        return [_play(agent, env, first_seed + number, deterministic) for number in range(episodes)]


def _play(agent: BaseAlgorithm, env: gym.Env, seed: int, deterministic: bool) -> Episode:
    rewards = [step.reward for step in play_steps(agent, env, seed, deterministic) if step.action is not None]
    cut_off = isinstance(env, EpisodeLimit) and env.was_cut
    return Episode(seed, math.fsum(rewards), len(rewards), cut_off)


@dataclass(frozen=True)
class PlayedStep:
    """The start of an episode, or a step of it.

    Attributes:
        obs: the env's observation.
        action: of ``agent.predict``, which led to it; None at the start.
        reward: of the step.
    """

    obs: Any
    action: Any
    reward: float


def play_steps(agent: BaseAlgorithm, env: gym.Env, seed: int, deterministic: bool = True) -> Iterator[PlayedStep]:
    """Play an episode; yield its start and each step.

    Samples are drawn from the global random generators, which are seeded at the start; see
    :func:`~mbrl_wrappers.zoo.choices.undisturbed`.
    """
    if not deterministic:
        seed_choices(agent, choices_seed(seed))
    obs, _ = env.reset(seed=seed)
    yield PlayedStep(obs, None, 0.0)
    normalizer = agent.get_vec_normalize_env()
    masked = isinstance(agent, MaskablePPO) and is_masking_supported(env)
    state: tuple[np.ndarray, ...] | None = None
    start, over = np.array([True]), False
    while not over:
        seen = obs if normalizer is None else normalizer.normalize_obs(obs)
        masks: dict[str, Any] = {"action_masks": env.get_wrapper_attr("action_masks")()} if masked else {}
        action, state = agent.predict(seen, state, start, deterministic, **masks)
        obs, reward, terminated, truncated, _ = env.step(env_action(env, action))
        yield PlayedStep(obs, action, scalar_reward(reward))
        start, over = np.array([False]), terminated or truncated


def env_action(env: gym.Env, action: Any) -> Any:
    """Convert an action of ``agent.predict`` for the env: SB3 returns an array for a Discrete action."""
    return int(action) if isinstance(env.action_space, spaces.Discrete) else action


def mean_and_std(episodes: Sequence[Episode]) -> tuple[float, float]:
    """Return mean and standard deviation of the returns."""
    returns = [episode.total_reward for episode in episodes]
    return float(np.mean(returns)), float(np.std(returns))


def episodes_to_json(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """Describe episodes as plain values; only one that was cut off says so."""
    values = [dataclasses.asdict(episode) for episode in episodes]
    return [{name: value for name, value in episode.items() if value is not False} for episode in values]


def episodes_from_json(value: Any, source: object) -> list[Episode]:
    """Read the result of :func:`episodes_to_json`.

    Raises:
        ZooError: naming ``source``, if ``value`` is not a valid list of episodes.
    """
    try:
        episodes = [
            Episode(int(e["seed"]), float(e["total_reward"]), int(e["length"]), bool(e.get("cut_off"))) for e in value
        ]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ZooError(f"{source} must list episodes with seed, total_reward and length: {error!r}") from error
    if any(episode.seed < 0 for episode in episodes):
        raise ZooError(f"{source}: seeds must be at least 0, got {min(episode.seed for episode in episodes)}")
    if any(episode.length < 1 for episode in episodes):
        raise ZooError(f"{source}: lengths must be at least 1, got {min(episode.length for episode in episodes)}")
    too_long = [episode.length for episode in episodes if episode.cut_off and episode.length > MAX_CUT_STEPS]
    if too_long:
        raise ZooError(f"{source}: an episode must be cut off after at most {MAX_CUT_STEPS} steps, got {too_long[0]}")
    if not episodes:
        raise ZooError(f"{source} must list at least one episode, got none")
    return episodes
