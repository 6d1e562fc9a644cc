"""The state that resumed training needs besides the agent: optimisers, replay buffer, imagined rows, generators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import recursive_getattr

from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.literals import decode, encode
from mbrl_wrappers.zoo.storage.tensors import Tensors, prefixed, without_prefix


def describe_training(agent: BaseAlgorithm) -> tuple[dict[str, Any], Tensors]:
    """Describe the state of an agent's training.

    Raises:
        ZooError: for a replay buffer that holds Python objects.
    """
    config: dict[str, Any] = {"optimizers": {}}
    tensors: Tensors = {}
    for name in _optimizer_names(agent):
        state = recursive_getattr(agent, name).state_dict()
        config["optimizers"][name] = encode(state["param_groups"], f"{name}'s settings")
        for index, values in state["state"].items():
            for key, value in values.items():
                tensors[f"optimizer.{name}.{index}.{key}"] = torch.as_tensor(value)
    buffer = getattr(agent, "replay_buffer", None)
    if buffer is not None:
        config["replay_buffer"] = {"position": buffer.pos, "full": buffer.full}
        for key, array in _arrays(buffer).items():
            rows = _used_rows(buffer, buffer.pos, buffer.full)
            tensors[f"replay_buffer.{key}"] = torch.from_numpy(array[:rows].copy())
    callback = getattr(agent, "model_based", None)
    if callback is not None:
        tensors.update(prefixed("model_based", callback.full_state()))
    tensors.update(prefixed("generator", {name: getattr(agent, name).get_state() for name in _generator_names(agent)}))
    return config, tensors


def fill_training(agent: BaseAlgorithm, config: Mapping[str, Any], tensors: Tensors, source: object) -> None:
    """Restore a described state.

    Raises:
        ZooError: naming the part that does not fit the agent.
    """
    for name in _optimizer_names(agent):
        if name not in config["optimizers"]:
            raise ZooError(f"{source} lacks the settings of the optimizer {name}")
        optimizer = recursive_getattr(agent, name)
        groups = decode(config["optimizers"][name], f"{source}: {name}")
        state = _optimizer_state(without_prefix(f"optimizer.{name}", tensors), optimizer, f"{source}: {name}")
        try:
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        except (KeyError, TypeError, ValueError) as error:
            raise ZooError(f"{source}: the settings of the optimizer {name} don't fit: {error!r}") from error
    buffer = getattr(agent, "replay_buffer", None)
    if "replay_buffer" in config and buffer is not None:
        _fill_buffer(buffer, config["replay_buffer"], without_prefix("replay_buffer", tensors), source)
    callback = getattr(agent, "model_based", None)
    if callback is not None:
        callback.load_full_state(without_prefix("model_based", tensors))
    states = without_prefix("generator", tensors)
    for name in _generator_names(agent):
        if name not in states:
            raise ZooError(f"{source} lacks the state of the generator {name}")
        try:
            getattr(agent, name).set_state(states[name])
        except (RuntimeError, TypeError) as error:
            raise ZooError(f"{source}: the state of the generator {name} doesn't fit: {error}") from error


def _generator_names(agent: BaseAlgorithm) -> list[str]:
    """Return the attributes that are the agent's own generators; SB3's agents draw from the global ones."""
    return [name for name, value in vars(agent).items() if isinstance(value, torch.Generator)]


def _optimizer_names(agent: BaseAlgorithm) -> list[str]:
    return [name for name in agent._get_torch_save_params()[0] if name.rpartition(".")[2].endswith("optimizer")]


def _optimizer_state(tensors: Tensors, optimizer: torch.optim.Optimizer, what: str) -> dict[int, Tensors]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdigit() or int(index) >= len(parameters):
            raise ZooError(f"{what}: the optimizer has {len(parameters)} parameters, got {name!r}")
        if value.dim() and value.shape != parameters[int(index)].shape:
            wanted = tuple(parameters[int(index)].shape)
            raise ZooError(f"{what}: {name} must have shape {wanted}, got {tuple(value.shape)}")
        state.setdefault(int(index), {})[key] = value
    return state


def _used_rows(buffer: ReplayBuffer, position: int, full: bool) -> int:
    """Return how many rows are used; with ``optimize_memory_usage``, the newest next_obs is in one row more."""
    return buffer.buffer_size if full else position + int(buffer.optimize_memory_usage)


def _arrays(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    """Return a buffer's arrays of rows by name; Dict observations have one for each key."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in vars(buffer).items():
        for key, array in ({name: value} if not isinstance(value, dict) else _named(name, value)).items():
            if isinstance(array, np.ndarray) and array.shape[:1] == (buffer.buffer_size,):
                if array.dtype == object:
                    raise ZooError(
                        f"the replay buffer's {key} can't be saved without pickle: save without the optimizer"
                    )
                arrays[key] = array
    return arrays


def _named(name: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in values.items()}


def _fill_buffer(buffer: ReplayBuffer, config: Mapping[str, Any], tensors: Tensors, source: object) -> None:
    rows = buffer.buffer_size if config["full"] else config["position"]
    if type(rows) is not int or not 0 <= rows <= buffer.buffer_size or not 0 <= config["position"] <= rows:
        raise ZooError(f"{source}: the replay buffer must hold at most {buffer.buffer_size} rows, got {rows!r}")
    arrays = _arrays(buffer)
    for name, array in arrays.items():
        value = tensors.get(name)
        wanted = (_used_rows(buffer, config["position"], bool(config["full"])), *array.shape[1:])
        if value is None or tuple(value.shape) != wanted:
            found = None if value is None else tuple(value.shape)
            raise ZooError(f"{source}: the tensor training.replay_buffer.{name} must have shape {wanted}, got {found}")
    for name, array in arrays.items():
        array[: len(tensors[name])] = tensors[name].numpy()
    buffer.pos, buffer.full = config["position"], bool(config["full"])
