"""VecNormalize's statistics as tensors: raw observations and rewards in an agent's units, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

_WHOLE = ""  # the key of an observation that has no keys


class Scales(NamedTuple):
    """VecNormalize's statistics at one moment, as tensors on the agent's device; only of the parts that it scales.

    Attributes:
        obs: mean and standard deviation of each part of an observation that is standardised, by its key.
        reward: divisor of rewards, without dimensions; None if rewards are not scaled.
        clip_obs, clip_reward: the largest absolute value after scaling.
    """

    obs: dict[str, tuple[Tensor, Tensor]]
    reward: Tensor | None
    clip_obs: float
    clip_reward: float


# How to normalise: by an env's current statistics, by those of one moment, not at all.
Normalizer = VecNormalize | Scales | None


def reward_normalizer(env: Normalizer, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that applies VecNormalize's scale, as it is now, to raw rewards of any shape."""
    scales = scales_of(env, device)
    if scales is None or scales.reward is None:
        return lambda reward: reward
    scale, limit = scales.reward, scales.clip_reward
    return lambda reward: (reward / scale).clamp(-limit, limit)


def scales_of(env: Normalizer, device: torch.device) -> Scales | None:
    """Return the statistics as they are now; None where nothing is normalised."""
    if env is None or isinstance(env, Scales):
        return env
    obs, reward = {}, None
    if env.norm_obs:
        found = env.obs_rms if isinstance(env.obs_rms, dict) else {_WHOLE: env.obs_rms}
        for key, rms in found.items():
            spread = np.sqrt(rms.var + env.epsilon)
            obs[key] = (torch.as_tensor(rms.mean, device=device), torch.as_tensor(spread, device=device))
    if env.norm_reward:
        reward = torch.tensor(np.sqrt(env.ret_rms.var + env.epsilon), dtype=torch.float32, device=device)
    return Scales(obs, reward, env.clip_obs, env.clip_reward)


def standardized(obs: Any, env: Normalizer, device: torch.device) -> Any:
    """Apply VecNormalize's current statistics to tensors; the same numbers as its ``normalize_obs``."""
    return _each_changed(obs, env, device, _standardize)


def unstandardized(obs: Any, env: Normalizer, device: torch.device) -> Any:
    """Undo :func:`standardized`; values that VecNormalize has clipped stay clipped."""
    return _each_changed(obs, env, device, _unstandardize)


@contextmanager
def without_clipping(env: VecNormalize | None) -> Iterator[None]:
    """Let a VecNormalize scale observations in this context, but not clip them."""
    if env is None:
        yield
        return
    limit, env.clip_obs = env.clip_obs, math.inf
    try:
        yield
    finally:
        env.clip_obs = limit


def clipped(obs: Any, env: Normalizer, device: torch.device) -> Any:
    """Clip observations that were scaled :func:`without_clipping`."""
    return _each_changed(obs, env, device, lambda part, mean, spread, limit: part.clamp(-limit, limit))


def _each_changed(obs: Any, env: Normalizer, device: torch.device, change: Callable[..., Tensor]) -> Any:
    """Change the parts that VecNormalize standardises, by its current statistics; leave the rest as it is."""
    scales = scales_of(env, device)
    if scales is None or not scales.obs:
        return obs
    parts = obs if isinstance(obs, dict) else {_WHOLE: obs}
    changed = {
        key: change(part, *scales.obs[key], scales.clip_obs) if key in scales.obs else part
        for key, part in parts.items()
    }
    return changed if isinstance(obs, dict) else changed[_WHOLE]


def _standardize(obs: Tensor, mean: Tensor, spread: Tensor, limit: float) -> Tensor:
    return ((obs - mean) / spread).clamp(-limit, limit).float()


def _unstandardize(obs: Tensor, mean: Tensor, spread: Tensor, limit: float) -> Tensor:
    return (obs * spread + mean).float()
