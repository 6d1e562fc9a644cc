"""A model as one safetensors file: tensors, and a JSON description in the file's own metadata.

The file is written completely or not at all, so a crash can't separate weights and description. Nothing in it is
executable, and names found in it are looked up in registries, never imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from mbrl_wrappers.bounded_json import parse_json
from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.spaces import space_from_json

# 2: networks of rewards and terminations, categorical heads, bounds of what was observed.
FORMAT_VERSION = 2


def save(path: str | Path, kind: str, model: WorldModel, description: dict[str, Any]) -> None:
    """Write a model's state and a JSON-safe description of how to rebuild it, which includes its spaces."""
    header = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        **description,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, serialize(tensors, metadata={"mbrl_wrappers": json.dumps(header)}))


def load(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file of :func:`save`.

    Raises:
        ValueError: naming the file, if it is not a safetensors file with a description of ``kind``.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(file.metadata() or {}, kind, path)
            return header, {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _header(metadata: dict[str, str], kind: str, path: str | Path) -> dict[str, Any]:
    """Return the checked description of a file."""
    header = parse_json(metadata.get("mbrl_wrappers", "{}"), f"the description in {path}", finite=False)
    if header.get("kind") != kind:
        raise ValueError(f"{path} must hold a model of kind {kind!r}, got {header.get('kind')!r}")
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(f"{path} must have a format_version of up to {FORMAT_VERSION}, got {version!r}")
    for part in ("observation_space", "action_space", "settings", "functions"):
        if not isinstance(header.get(part), dict):
            raise ValueError(f"{path}: {part} of the description must be an object, got {header.get(part)!r}")
    return header


def upgraded(tensors: dict[str, Tensor], model: WorldModel) -> dict[str, Tensor]:
    """Return the state of a file of any format, completed by the values that older formats implied.

    Args:
        tensors: of the file.
        model: built from the file's description.
    """
    added = {name: value for name, value in model.state_dict().items() if is_added(name)}
    if "input_normalizer.mean" in tensors:
        added["input_normalizer.offset"] = tensors["input_normalizer.mean"].double()
    return {**added, **tensors}


def is_added(name: str) -> bool:
    """Tell whether a tensor was added to the state of models by format 2."""
    return name in ("seen_range", "columns.changes", "input_normalizer.offset")


def spaces_of(header: dict[str, Any]) -> tuple[gym.Space, gym.Space]:
    """Return the observation and the action space of a description."""
    return space_from_json(header["observation_space"]), space_from_json(header["action_space"])


def restore(model: WorldModel, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Load the tensors into a freshly built model.

    Raises:
        ValueError: naming the file, if names or shapes differ from the description's, or a value is not finite.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{path}: tensor {name} must be finite")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors do not fit the description: {error}") from error
