"""VecNormalize's statistics as JSON and tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.literals import decode, encode
from mbrl_wrappers.zoo.storage.tensors import Tensors

_SETTINGS = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")


def describe_normalizer(normalizer: VecNormalize) -> tuple[dict[str, Any], Tensors]:
    """Return the settings of a VecNormalize as JSON, and its statistics as tensors."""
    tensors = {}
    for name, statistics in _statistics(normalizer).items():
        tensors[f"{name}.mean"] = torch.as_tensor(statistics.mean)
        tensors[f"{name}.var"] = torch.as_tensor(statistics.var)
        tensors[f"{name}.count"] = torch.tensor(float(statistics.count), dtype=torch.float64)
    return {name: encode(getattr(normalizer, name), f"{name} of VecNormalize") for name in _SETTINGS}, tensors


def wrap_normalizer(venv: VecEnv, settings: Mapping[str, Any], tensors: Tensors, source: object) -> VecNormalize:
    """Put a VecNormalize with saved statistics around an env.

    Raises:
        ZooError: if settings or statistics do not fit the env.
    """
    try:
        normalizer = VecNormalize(venv, **{name: decode(settings[name], f"{source}: {name}") for name in _SETTINGS})
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ZooError(f"{source}: VecNormalize can't be made: {error!r}") from error
    for name, statistics in _statistics(normalizer).items():
        for part in ("mean", "var", "count"):
            value = tensors.get(f"{name}.{part}")
            wanted = () if part == "count" else statistics.mean.shape
            if value is None or tuple(value.shape) != wanted:
                found = None if value is None else tuple(value.shape)
                raise ZooError(
                    f"{source}: the tensor vec_normalize.{name}.{part} must have shape {wanted}, got {found}"
                )
        statistics.mean, statistics.var = tensors[f"{name}.mean"].numpy(), tensors[f"{name}.var"].numpy()
        statistics.count = float(tensors[f"{name}.count"])
    return normalizer


def _statistics(normalizer: VecNormalize) -> dict[str, RunningMeanStd]:
    """Return the running statistics by name; there are none of observations that are not normalised."""
    observations = getattr(normalizer, "obs_rms", None) if normalizer.norm_obs else None
    if observations is None:
        named = {}
    elif isinstance(observations, dict):
        named = {f"obs.{key}": statistics for key, statistics in observations.items()}
    else:
        named = {"obs": observations}
    return {**named, "returns": normalizer.ret_rms}
