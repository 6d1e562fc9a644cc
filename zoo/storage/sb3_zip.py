"""Import of Stable-Baselines3's zip files, without unpickling anything in them.

SB3 stores what JSON can't hold as pickles, inside the JSON. They are skipped: constructor arguments come from what
is readable beside them, spaces from the env, and weights through torch's ``weights_only`` reader, which builds
tensors and nothing else. What can't be read safely keeps its default, and is named.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.evaluation import NUM_EPISODES
from mbrl_wrappers.zoo.recipe import check_name
from mbrl_wrappers.zoo.registry import ALGORITHMS, OBJECTS
from mbrl_wrappers.zoo.storage.agent_file import COUNTERS, KEPT_AS, saved_arguments
from mbrl_wrappers.zoo.storage.folder import MISFITS
from mbrl_wrappers.zoo.storage.limits import parse_json
from mbrl_wrappers.zoo.storage.saving import save
from mbrl_wrappers.zoo.storage.tensors import AllocationLimit, TensorRecord

# Optimisers are left out. A zip can claim any size.
MEMBERS = ("data", "policy.pth", "pytorch_variables.pth")
MAX_MEMBER_BYTES = 1_000_000_000

_CLASS = re.compile(r"<class '[A-Za-z0-9_.]*?([A-Za-z0-9_]+)'>")
_METHOD = re.compile(r"<function ([A-Za-z0-9_]+)\.")
_NUMBER = r"([-+0-9.e]+)"
_CONSTANT = re.compile(rf"ConstantSchedule\(val={_NUMBER}\)")
_LINEAR = re.compile(rf"LinearSchedule\(start={_NUMBER}, end={_NUMBER}, end_fraction={_NUMBER}\)")

# Modules of policies that belong to one algorithm. TD3 and DDPG share theirs, and so do PPO, A2C and TRPO.
_ALGORITHM_OF_POLICY = {
    "mbrl_wrappers.agents.svg": "SVG",
    "stable_baselines3.sac.policies": "SAC",
    "stable_baselines3.dqn.policies": "DQN",
    "sb3_contrib.ars.policies": "ARS",
    "sb3_contrib.crossq.policies": "CrossQ",
    "sb3_contrib.qrdqn.policies": "QRDQN",
    "sb3_contrib.tqc.policies": "TQC",
    "sb3_contrib.common.maskable.policies": "MaskablePPO",
    "sb3_contrib.common.recurrent.policies": "RecurrentPPO",
}


class _Unreadable(Exception):
    """A value that only its pickle tells."""


def import_sb3(
    file: str | Path, folder: str | Path, *, env: str, algo: str | None = None, episodes: int = NUM_EPISODES
) -> list[str]:
    """Turn a zip written by ``agent.save`` into an agent's folder.

    Args:
        file: the zip.
        folder: a new one.
        env: what the agent was trained on: a Gymnasium id or ``"package.module:Class"``. Its spaces are taken.
        algo: such as ``"SAC"``; default: the one that the zip's entries belong to.
        episodes: of the evaluation that is recorded; 0 for none.

    Returns:
        What could not be read without unpickling and has its default instead, a sentence each.

    Raises:
        ZooError: naming what the agent can't be rebuilt without.
    """
    file = Path(file)
    data, weights = _read_zip(file)
    if "dynamics" in data:
        raise ZooError(f"{file}: the agent's model is in a pickle; load the zip by its own class and call zoo.save")
    algo = _algorithm_of(data, file) if algo is None else algo
    check_name(algo, ALGORITHMS, "algo")
    kind = ALGORITHMS[algo]
    arguments, notes = _read_arguments(data, kind)
    if "policy_kwargs" in {note.split(":")[0] for note in notes}:
        raise ZooError(f"{file}: policy_kwargs can't be read without unpickling, and the networks not be built without")
    if data.get("_last_original_obs") is not None:
        notes.append("VecNormalize: its statistics are in a pickle beside the zip, without which the agent is blind")
    if "model_based" in data:
        notes.append(
            "model_based: the learned model is in a pickle; load the zip with SB3 and call zoo.save to keep it"
        )
    with make_env(env) as real:
        _check_shapes(data, BaseAlgorithm._wrap_env(real, verbose=0), file)
        try:
            with AllocationLimit(_records(weights["policy"]), file):
                agent: Any = kind(_policy_of(algo, real), real, device="cpu", **arguments)
            _fill(agent, data, weights)
        except MISFITS as error:
            if isinstance(error, ZooError):
                raise
            raise ZooError(f"{file}: the agent can't be rebuilt as {algo} for {env}: {error}") from error
        save(agent, folder, env=env, episodes=episodes)
    return notes


def _read_zip(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON of a zip, and its weights by name without the suffix ``.pth``."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in MEMBERS if name in archive.namelist()]
            members = {name: _read_member(archive, name, file) for name in names}
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ZooError(f"file must be a zip of Stable-Baselines3, got {file}: {error}") from error
    for name in ("data", "policy.pth"):
        if name not in members:
            raise ZooError(f"file must be a zip of Stable-Baselines3, got {file}, which has no {name}")
    weights = {}
    for name, content in members.items():
        if name.endswith(".pth"):
            try:
                weights[name[:-4]] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
                raise ZooError(f"{file}: {name} holds more than tensors: {error}") from error
    return parse_json(members["data"], f"{file}: data"), weights


def _read_member(archive: zipfile.ZipFile, name: str, file: Path) -> bytes:
    with archive.open(name) as member:
        content = member.read(MAX_MEMBER_BYTES + 1)
    if len(content) > MAX_MEMBER_BYTES:
        raise ZooError(f"{file}: {name} must have at most {MAX_MEMBER_BYTES} bytes")
    return content


def _algorithm_of(data: Mapping[str, Any], file: Path) -> str:
    """Find the algorithm that a zip's entries belong to; its name is not among them."""
    policy = data.get("policy_class")
    module = policy.get("__module__") if isinstance(policy, dict) else None
    if module == "stable_baselines3.sac.policies" and "expand_critic" in data:
        return "MAAC"  # or its heir, which differs in the data that it learns from
    if module in _ALGORITHM_OF_POLICY:
        return _ALGORITHM_OF_POLICY[module]
    if module == "stable_baselines3.td3.policies":
        return "DDPG" if data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0.0 else "TD3"
    if module == "stable_baselines3.common.policies":
        return "TRPO" if "cg_max_steps" in data else "PPO" if "clip_range" in data else "A2C"
    raise ZooError(f"{file}: the policy is of the module {module!r}, which can't be rebuilt safely")


def _policy_of(algo: str, env: gym.Env) -> str:
    kind = "MultiInput" if isinstance(env.observation_space, spaces.Dict) else "Mlp"
    if is_image_space(env.observation_space):
        kind = "Cnn"
    return f"{kind}LstmPolicy" if algo == "RecurrentPPO" else f"{kind}Policy"


def _read_arguments(data: Mapping[str, Any], kind: type[BaseAlgorithm]) -> tuple[dict[str, Any], list[str]]:
    """Return the constructor's arguments that can be read, and a note for each that can't."""
    arguments, notes = {}, []
    for name in saved_arguments(kind):
        stored = KEPT_AS.get(name, name)
        if stored not in data:
            continue
        try:
            arguments[name] = _read(data[stored])
        except (_Unreadable, KeyError, ValueError):
            notes.append(f"{name}: pickled in the zip, so it has the default of {kind.__name__}")
    return arguments, notes


def _read(value: Any) -> Any:
    """Return a value that SB3 stored in JSON, or what stands in plain text beside its pickle."""
    if not isinstance(value, dict) or ":serialized:" not in value:
        return value
    name = _class_name(value.get(":type:"))
    beside = {key: part for key, part in value.items() if not key.startswith(":")}
    if name == "dict":
        return {key: _read_text(part) for key, part in beside.items()}
    if name == "LinearSchedule":
        return LinearSchedule(*(float(beside[key]) for key in ("start", "end", "end_fraction")))
    if name == "ConstantSchedule":
        return ConstantSchedule(float(beside["val"]))
    if name == "FloatSchedule":
        return _read_schedule(str(beside.get("value_schedule")))
    methods = [match[1] for part in beside.values() if isinstance(part, str) and (match := _METHOD.match(part))]
    if methods and methods[0] in OBJECTS:  # a class: SB3 lists its methods in words
        return OBJECTS[methods[0]]
    raise _Unreadable


def _read_text(value: Any) -> Any:
    """Return a value of a dict: JSON, or a class that SB3 wrote as its name; other objects are lost in their text."""
    if not isinstance(value, str):
        return value
    if _class_name(value) in OBJECTS:
        return OBJECTS[str(_class_name(value))]
    if any(mark in value for mark in "<[("):
        raise _Unreadable
    return value


def _read_schedule(text: str) -> ConstantSchedule | LinearSchedule:
    if match := _CONSTANT.fullmatch(text):
        return ConstantSchedule(float(match[1]))
    if match := _LINEAR.fullmatch(text):
        return LinearSchedule(*(float(part) for part in match.groups()))
    raise _Unreadable


def _class_name(text: Any) -> str | None:
    match = _CLASS.fullmatch(text) if isinstance(text, str) else None
    return None if match is None else match[1]


def _records(tensors: Mapping[str, torch.Tensor]) -> list[TensorRecord]:
    return [TensorRecord(tensor.dtype, tuple(tensor.shape)) for tensor in tensors.values()]


def _check_shapes(data: Mapping[str, Any], env: VecEnv, file: Path) -> None:
    """Compare the env's spaces, as SB3 wraps them, with what can be read of the agent's."""
    for name in ("observation_space", "action_space"):
        stored, real = data.get(name), getattr(env, name)
        if not isinstance(stored, dict):
            continue
        kind = _class_name(stored.get(":type:"))
        readable = {"_shape": list(real.shape or ())} | (
            {"n": int(real.n)} if isinstance(real, spaces.Discrete) else {}
        )
        differs = any(stored.get(key) is not None and str(stored[key]) != str(value) for key, value in readable.items())
        if kind != type(real).__name__ or differs:
            raise ZooError(f"env must have the {name} of {file}, a {kind} of shape {stored.get('_shape')}, got {real}")


def _fill(agent: Any, data: Mapping[str, Any], weights: dict[str, Any]) -> None:
    variables = weights.pop("pytorch_variables", None) or {}
    agent.set_parameters({"policy": weights["policy"]}, exact_match=False, device="cpu")
    for name in agent._get_torch_save_params()[1]:
        recursive_getattr(agent, name).data = variables[name].data
    for counter in COUNTERS:
        if isinstance(data.get(counter), int | float):
            setattr(agent, counter, data[counter])
