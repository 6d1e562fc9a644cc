"""VecNormalize's statistics as JSON and tensors, and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.inert_pickle import MAX_PICKLE_BYTES, Record, array_of, describe_pickle, number_of
from mbrl_wrappers.zoo.storage.limits import parse_json, read_bytes
from mbrl_wrappers.zoo.storage.literals import decode, encode
from mbrl_wrappers.zoo.storage.tensors import Tensors

_SETTINGS = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")
_DEFAULTS = {name: inspect.signature(VecNormalize.__init__).parameters[name].default for name in _SETTINGS}
_OWN_NAMES = {"obs": "obs_rms", "returns": "ret_rms"}
# The initial values of a RunningMeanStd.
_UNKNOWN = {"mean": 0.0, "var": 1.0, "count": 1e-4}


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
        if not (tensors[f"{name}.var"] >= 0).all() or not tensors[f"{name}.count"] > 0:
            raise ZooError(f"{source}: vec_normalize.{name} must have a variance of at least 0 and a count above 0")
        statistics.mean, statistics.var = tensors[f"{name}.mean"].numpy(), tensors[f"{name}.var"].numpy()
        statistics.count = float(tensors[f"{name}.count"])
    return normalizer


def _statistics(normalizer: VecNormalize) -> dict[str, RunningMeanStd]:
    """Return the running statistics by name; observations have none where they are not normalised."""
    observations = getattr(normalizer, "obs_rms", None) if normalizer.norm_obs else None
    if observations is None:
        named = {}
    elif isinstance(observations, dict):
        named = {f"obs.{key}": statistics for key, statistics in observations.items()}
    else:
        named = {"obs": observations}
    return {**named, "returns": normalizer.ret_rms}


def read_normalizer(file: str | Path) -> tuple[dict[str, Any], Tensors]:
    """Read settings and statistics for :func:`wrap_normalizer`, from SB3's file or from JSON.

    Args:
        file: ``vecnormalize.pkl`` from ``VecNormalize.save``, which is read without unpickling; or a JSON file with
            ``{"obs": {"mean": [...], "var": [...], "count": n}}``, for Dict observations by key
            (``{"obs": {"key": {"mean": ...}}}``), and optionally ``"returns"`` and VecNormalize's arguments.

    Raises:
        ZooError: naming the file, if it has neither form or is incomplete.
    """
    data = read_bytes(file, MAX_PICKLE_BYTES, links=True)
    try:
        state = _from_json(data, file) if data.lstrip()[:1] == b"{" else _from_pickle(data, file)
        settings = {**_DEFAULTS, **{name: state[name] for name in _SETTINGS if name in state}}
        settings = {name: _checked_setting(name, value) for name, value in settings.items()}
        statistics = {"returns": state.get("ret_rms", _UNKNOWN)}
        if settings["norm_obs"]:
            found = state["obs_rms"]
            is_named = isinstance(found, dict) and all(isinstance(part, dict | Record) for part in found.values())
            statistics |= {f"obs.{key}": part for key, part in found.items()} if is_named else {"obs": found}
        tensors: Tensors = {}
        for name, parts in statistics.items():
            tensors |= _tensors_of(name, parts.state if isinstance(parts, Record) else parts)
    except ZooError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ZooError(f"{file} must hold the statistics of a VecNormalize: {error!r}") from error
    return settings, tensors


def _from_pickle(data: bytes, source: object) -> dict[str, Any]:
    found = describe_pickle(data, source)
    if not isinstance(found, Record) or not found.is_a("VecNormalize") or not isinstance(found.state, dict):
        raise ValueError("it is the pickle of something else")
    return found.state


def _from_json(data: bytes, source: object) -> dict[str, Any]:
    content = parse_json(data, source)
    unknown = content.keys() - {"obs", "returns", *_SETTINGS}
    if unknown:
        raise ZooError(f"{source} must have the entries obs, returns and {_SETTINGS}, got {sorted(unknown)}")
    return {_OWN_NAMES.get(name, name): value for name, value in content.items()}


def _tensors_of(name: str, parts: Any) -> Tensors:
    """Check the statistics of an observation, of a part of it, or of the returns, and return them as tensors."""
    mean, var = (
        array_of(parts[part]) if isinstance(parts[part], Record) else np.array(parts[part], dtype=np.float64)
        for part in ("mean", "var")
    )
    count = number_of(parts.get("count", 1.0))
    if mean.shape != var.shape or not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
        raise ValueError(f"{name} must have a finite mean and a variance of the same shape, of at least 0")
    if count <= 0:
        raise ValueError(f"the count of {name} must be above 0")
    return {
        f"{name}.mean": torch.tensor(mean, dtype=torch.float64),
        f"{name}.var": torch.tensor(var, dtype=torch.float64),
        f"{name}.count": torch.tensor(float(count), dtype=torch.float64),
    }


def _checked_setting(name: str, value: Any) -> Any:
    if name in ("training", "norm_obs", "norm_reward"):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {type(value).__name__}")
        return value
    if name == "norm_obs_keys":
        if value is not None and not (isinstance(value, list) and all(isinstance(key, str) for key in value)):
            raise ValueError(f"{name} must be a list of texts, got {type(value).__name__}")
        return value
    return float(number_of(value))
