"""How far the dreams of a model with a memory drift from real episodes, and what both look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_wrappers.envs.imagined import add_batch_axis, encode_one
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.models.world_model import StepPrediction, WorldModel
from mbrl_wrappers.zoo.analysis.model_error import BAND, HorizonError
from mbrl_wrappers.zoo.choices import undisturbed
from mbrl_wrappers.zoo.environment import as_shown_to_agents
from mbrl_wrappers.zoo.evaluation import FIRST_SEED, play_steps

# Real steps that a model has seen of an episode, if that is long enough, before it imagines on.
WARM_UP = 5
SHOWN_STEPS = 50
TEMPERATURES = (0.5, 1.0, 1.5)  # of the dreams that are shown of a model that takes one


@dataclass(frozen=True)
class Remembered:
    """A real episode of ``T`` steps, and what a model remembers along it.

    Attributes:
        states: of the model after each observation, ``[T + 1, ...]``.
        obs: ``[T + 1, D]``.
        action: ``[T, A]``.
        reward: ``[T]``.
    """

    states: Any
    obs: Tensor
    action: Tensor
    reward: Tensor


@dataclass(frozen=True)
class DreamErrors:
    """Errors by steps ahead, without a real observation in between.

    Attributes:
        observation: root mean square over an observation's entries, in units of the real ones' spread, which all
            pixels share.
        reward: absolute, in units of the real rewards' spread.
        divergence: of the state that has seen the real observation from the imagined one, in nats; None for a model
            that has no ``divergence``.
    """

    observation: list[HorizonError]
    reward: list[HorizonError]
    divergence: list[HorizonError] | None


@torch.no_grad()
def remembered(
    dynamics: WorldModel, obs: Tensor, action: Tensor, rewards: Sequence[float], generator: torch.Generator
) -> Remembered:
    """Let a model follow a real episode.

    Args:
        dynamics: the model.
        obs: ``[T + 1, D]``.
        action: ``[T, A]``.
        rewards: ``T`` numbers.
        generator: of the model's samples.
    """
    states = [dynamics.begin(obs[:1], generator)]
    going_on = torch.zeros(1, dtype=torch.bool, device=obs.device)
    for step in range(len(action)):
        following = dynamics.observe(states[-1], action[step : step + 1], obs[step + 1 : step + 2], going_on, generator)
        states.append(following)
    joined = tree_map(lambda *parts: torch.cat(parts), *states)
    return Remembered(joined, obs, action, torch.as_tensor(rewards, dtype=torch.float32, device=obs.device))


@torch.no_grad()
def one_step_ahead(dynamics: WorldModel, paths: Sequence[Remembered]) -> StepPrediction:
    """Return a model's predictions of all real steps, one episode after the other, from what it remembers."""
    before = tree_map(lambda *parts: torch.cat([part[:-1] for part in parts]), *(path.states for path in paths))
    return dynamics.step(before, torch.cat([path.action for path in paths]), deterministic=True)[1]


@torch.no_grad()
def errors_of_dreams(dynamics: WorldModel, paths: Sequence[Remembered], horizon: int, num_starts: int) -> DreamErrors:
    """Imagine on from places of real episodes, with the real actions, and compare.

    Args:
        dynamics: the model.
        paths: real episodes.
        horizon: steps to look ahead; fewer if no episode is as long.
        num_starts: at most, evenly spread over all places that have as many steps after them.
    """
    horizon = min(horizon, max(len(path.action) for path in paths))
    states = tree_map(lambda *parts: torch.cat(parts), *(path.states for path in paths))
    obs = torch.cat([path.obs for path in paths])
    # A step stands where it begins; at an episode's last observation stands one that is not used.
    action = torch.cat([torch.cat([path.action, path.action[-1:]]) for path in paths])
    reward = torch.cat([torch.cat([path.reward, path.reward[-1:]]) for path in paths])
    scale, reward_scale = Normalizer(obs.shape[-1]).to(obs.device), Normalizer(1).to(obs.device)
    scale.fit(obs.float())
    spread, is_pixel = scale.std, dynamics.obs_codec.is_pixel.to(obs.device)
    if is_pixel.any():  # one for all pixels: many hardly vary, and would count more than those that show something
        common = obs[:, is_pixel].float().var(0, correction=0).mean().sqrt()
        spread = torch.where(is_pixel, common if common > 0 else torch.ones_like(common), spread)
    reward_scale.fit(torch.cat([path.reward for path in paths])[:, None])
    at = _starts(paths, horizon, num_starts).to(obs.device)
    state = tree_map(lambda part: part[at], states)
    divergence: Any = getattr(dynamics, "divergence", None)
    errors: dict[str, list[Tensor]] = {"observation": [], "reward": [], "divergence": []}
    for _ in range(horizon):
        state, said = dynamics.step(state, action[at], deterministic=True)
        errors["reward"].append((said.reward - reward[at]).abs() / reward_scale.std)
        at = at + 1
        missed = (dynamics.decode(state).float() - obs[at].float()) / spread
        errors["observation"].append(missed.square().mean(-1).sqrt())
        if divergence is not None:
            seen = tree_map(lambda part: part[at], states)  # noqa: B023
            errors["divergence"].append(divergence(state, seen, obs[at]))
    rows = {name: _quantiles(found) for name, found in errors.items()}
    return DreamErrors(rows["observation"], rows["reward"], rows["divergence"] or None)


def _starts(paths: Sequence[Remembered], horizon: int, num_starts: int) -> Tensor:
    """Return the places ``[S]``, among the observations of all episodes, that dreams start from."""
    places, first = [], 0
    for path in paths:
        last = len(path.action) - horizon  # so that the dream ends with the episode
        places += [first + place for place in range(min(WARM_UP, last), last + 1) if place >= 0]
        first += len(path.obs)
    return torch.tensor(places)[torch.linspace(0, len(places) - 1, min(num_starts, len(places))).long()]


def _quantiles(errors: list[Tensor]) -> list[HorizonError]:
    levels = [torch.quantile(error.double(), torch.tensor(BAND).to(error.device).double()).tolist() for error in errors]
    return [HorizonError(step, *level) for step, level in enumerate(levels, start=1)]


@dataclass(frozen=True)
class Dream:
    """A real episode and the model's dream of it.

    Attributes:
        real: ``[T + 1, D]`` observations.
        dreamed: ``[T + 1, D]``, by the model's mean.
        warm_up: the first observations that the model has seen; there ``dreamed`` is what it makes of what it sees.
        samples: dreams like ``dreamed`` that are drawn at a temperature, by this; empty for a model that takes none.
    """

    real: Tensor
    dreamed: Tensor
    warm_up: int
    samples: dict[float, Tensor] = field(default_factory=dict)


@torch.no_grad()
def dream_of(dynamics: WorldModel, path: Remembered, warm_up: int = WARM_UP, seed: int = FIRST_SEED) -> Dream:
    """Let a model see the first observations of an episode, and imagine the rest from the real actions.

    Args:
        dynamics: the model.
        path: the episode.
        warm_up: observations that it sees; fewer if the episode is shorter.
        seed: of samples.
    """
    seen = min(warm_up, len(path.obs) - 1)

    def dreamed(**how: Any) -> Tensor:
        state = tree_map(lambda part: part[seen - 1 : seen], path.states)
        shown = [dynamics.decode(tree_map(lambda part: part[:seen], path.states))]
        for action in path.action[seen - 1 :]:
            state, _ = dynamics.step(state, action[None], **how)
            shown.append(dynamics.decode(state))
        return torch.cat(shown)

    samples = {}
    for temperature in TEMPERATURES if dynamics.takes_temperature else ():
        generator = torch.Generator(dynamics.device).manual_seed(seed)
        samples[temperature] = dreamed(generator=generator, temperature=temperature)
    return Dream(path.obs, dreamed(deterministic=True), seen, samples)


def dream_in(
    agent: BaseAlgorithm,
    dynamics: WorldModel,
    env: gym.Env,
    *,
    seed: int = FIRST_SEED,
    deterministic: bool = True,
) -> Dream:
    """Play the first steps of an episode, and let the model dream them.

    Args:
        agent: the agent; if it has a VecNormalize, that normalises its observations.
        dynamics: the model.
        env: the real environment, not wrapped by SB3.
        seed: of the episode and of the model's samples.
        deterministic: take the policy's mode instead of a sample.
    """
    env = as_shown_to_agents(env, dynamics.observation_space)
    seen: list[Tensor] = []
    done: list[Tensor] = []
    rewards: list[float] = []
    with undisturbed(agent, deterministic):
        for step in islice(play_steps(agent, env, seed, deterministic), SHOWN_STEPS + 1):
            seen.append(encode_one(dynamics, step.obs).clone())
            if step.action is not None:
                done.append(dynamics.action_codec.encode(add_batch_axis(step.action), dynamics.device).clone())
                rewards.append(step.reward)
    generator = torch.Generator(dynamics.device).manual_seed(seed)
    return dream_of(dynamics, remembered(dynamics, torch.cat(seen), torch.cat(done), rewards, generator), seed=seed)
