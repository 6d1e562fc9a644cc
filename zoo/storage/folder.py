"""An agent's folder: policy, model, settings, evaluation and provenance in plain files, without pickle.

| file | holds |
|---|---|
| ``model.safetensors`` | policy, model, normalisers; with the optimizer also the state of training |
| ``config.json`` | classes by registered names, constructor arguments, spaces, counters, seeds |
| ``env.json`` | the environment and the versions of the packages that it ran on |
| ``eval.json`` | every evaluation episode, and the training seeds that the agent was chosen from |
| ``README.md`` | the model card |
| ``job.json``, ``progress.csv`` | of a training run: all its settings, and its learning curve |
| ``diagnosis.json``, ``model_error.csv`` | the measured errors of the model |
| ``ladder.json`` | matches of an agent that plays a board game |
| ``replay.mp4`` | an episode, if the env can be rendered |
| ``manifest.json`` | SHA-256 and size of every file; written last |
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from safetensors.torch import save as serialize
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.models import WorldModel
from mbrl_wrappers.spaces import space_from_json
from mbrl_wrappers.zoo.environment import EnvRecord, env_from_file
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.evaluation import Episode, episodes_from_json, episodes_to_json
from mbrl_wrappers.zoo.storage import versions
from mbrl_wrappers.zoo.storage.agent_file import (
    describe_agent,
    fill_agent,
    fill_dynamics,
    model_config,
    rebuild_agent,
    rebuild_dynamics,
)
from mbrl_wrappers.zoo.storage.limits import parse_json
from mbrl_wrappers.zoo.storage.literals import MAX_ENVS
from mbrl_wrappers.zoo.storage.manifest import MANIFEST, FileRecord, check_files, read_file, write_manifest
from mbrl_wrappers.zoo.storage.normalization import wrap_normalizer
from mbrl_wrappers.zoo.storage.tensors import (
    TensorRecord,
    check_finite_tensors,
    read_header,
    read_tensors,
    without_prefix,
)

MODEL, CONFIG, ENV, EVAL = "model.safetensors", "config.json", "env.json", "eval.json"
CARD, JOB, PROGRESS, MODEL_ERROR, VIDEO = "README.md", "job.json", "progress.csv", "model_error.csv", "replay.mp4"

# Errors from a description that was altered by hand, or written by a version with other arguments.
MISFITS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class TrainedSeed:
    """One of the training runs that a published agent was chosen from.

    Attributes:
        seed: of the run.
        steps: env steps.
        updates: gradient updates.
        return_mean, return_std: of the last evaluation.
        wall_seconds, cpu_seconds: of training.
    """

    seed: int
    steps: int
    updates: int
    return_mean: float
    return_std: float
    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class EvalRecord:
    """The content of ``eval.json``.

    Attributes:
        episodes: of the saved agent.
        versions: of the packages and engines that the episodes were played with.
        trained_seeds: the training runs that the agent was chosen from; empty for an agent from ``zoo.save``.
        deterministic: whether the policy's modes were played, not samples.
    """

    episodes: list[Episode]
    versions: dict[str, str]
    trained_seeds: list[TrainedSeed] = field(default_factory=list)
    deterministic: bool = True


@dataclass(frozen=True)
class AgentFolder:
    """An agent's folder with exactly the files of its manifest.

    Attributes:
        path: the folder's path.
        records: the records of its files, all of which have been checked.
        config: the content of ``config.json``.
        env: the environment.
        evaluation: the recorded episodes; None for an agent that was not evaluated.
    """

    path: Path
    records: dict[str, FileRecord]
    config: dict[str, Any]
    env: EnvRecord
    evaluation: EvalRecord | None

    @property
    def name(self) -> str:
        """The agent's registered name, such as ``"mbpo"``; its algorithm's for an agent without one."""
        return str(self.config["agent"] or self.config["algorithm"])

    @property
    def is_deterministic(self) -> bool:
        """Whether the agent is meant to play its policy's modes, as in its recorded evaluation, and not samples."""
        return self.evaluation is None or self.evaluation.deterministic

    @property
    def has_model(self) -> bool:
        """Whether the agent has a model of its environment."""
        return any(self.config.get(key) is not None for key in ("model_based", "dynamics"))

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(record.size for record in self.records.values())

    def file(self, name: str) -> bytes | None:
        """Return a file's bytes, None if the agent has no such file."""
        return read_file(self.path, name, self.records) if name in self.records else None


def open_folder(path: str | Path) -> AgentFolder:
    """Open an agent's folder, every file of it compared with the manifest.

    Raises:
        ZooError: naming the first file that is missing, altered or invalid.
    """
    path = Path(path)
    records = check_files(path)
    config = parse_json(read_file(path, CONFIG, records), path / CONFIG)
    versions.AGENT.check(config, path / CONFIG)
    for key, kind in (("agent", (str, type(None))), ("algorithm", str), ("arguments", dict), ("counters", dict)):
        if not isinstance(config.get(key), kind):
            raise ZooError(f"{path / CONFIG}: {key} must be given, got {config.get(key)!r}")
    env = _read_env(parse_json(read_file(path, ENV, records), path / ENV), path / ENV)
    evaluation = None
    if EVAL in records:
        evaluation = _read_evaluation(parse_json(read_file(path, EVAL, records), path / EVAL), path / EVAL)
    return AgentFolder(path, records, config, env, evaluation)


def save_agent(
    agent: BaseAlgorithm,
    path: str | Path,
    *,
    env: EnvRecord,
    name: str | None = None,
    evaluation: EvalRecord | None = None,
    other_files: Iterable[str] = (),
    with_optimizer: bool = False,
) -> None:
    """Write an agent's folder; its manifest comes last.

    Args:
        agent: an agent whose class and arguments are registered.
        path: the folder; it must not hold a finished agent already.
        env: the record of the env that the agent was trained on.
        name: the agent's registered name, such as ``"mbpo"``.
        evaluation: evaluation episodes of the agent.
        other_files: names of files that are in the folder already and belong to the agent.
        with_optimizer: add the state of training.

    Raises:
        ZooError: for an object that can't be saved, or a folder that holds an agent; nothing is written then.
    """
    path = Path(path)
    if (path / MANIFEST).exists():
        raise ZooError(f"path must not hold an agent already, got {path}")
    described = describe_agent(agent, with_optimizer=with_optimizer)
    check_finite_tensors(described.tensors, path / MODEL)
    config = {"format_version": versions.AGENT.version, "agent": name, **described.config}
    # Copied, since safetensors refuses tensors that share memory.
    tensors = {key: value.cpu().contiguous().clone() for key, value in described.tensors.items()}
    files = {
        MODEL: serialize(tensors),
        CONFIG: _json(config),
        ENV: _json(asdict(env)),
    }
    if evaluation is not None:
        files[EVAL] = evaluation_to_json(evaluation)
    for file, data in files.items():
        write_atomically(path / file, data)
    write_manifest(path, {*files, *other_files})


def evaluation_to_json(evaluation: EvalRecord) -> bytes:
    """Return the bytes of an ``eval.json``."""
    content = {**asdict(evaluation), "episodes": episodes_to_json(evaluation.episodes)}
    return _json({"format_version": versions.EVALUATION.version, **content})


def load_agent(folder: AgentFolder, env: gym.Env | VecEnv | None = None, device: str = "auto") -> BaseAlgorithm:
    """Load the agent of a folder, which can predict and learn further.

    Args:
        folder: from :func:`open_folder`.
        env: the env to train further in; default: the recorded env, if it is registered with Gymnasium here.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Returns:
        The agent; if a strategy gave it a model, the callback is at ``agent.model_based``.

    Raises:
        ZooError: naming the file, if its parts do not fit each other, this version or ``env``.
    """
    _check_device(device)
    source, data, records = _model_file(folder)
    tensors = read_tensors(data, source)
    try:
        venv = _vec_env(folder, env)
        if "vec_normalize" in folder.config:
            if venv is None:
                raise ZooError(f"env must be given: the agent in {folder.path} was trained under VecNormalize")
            statistics = without_prefix("vec_normalize", tensors)
            venv = wrap_normalizer(venv, folder.config["vec_normalize"], statistics, source)
        agent = rebuild_agent(folder.config, records, source, env=venv, device=device)
        fill_agent(agent, folder.config, tensors, source)
    except ZooError:
        raise
    except MISFITS as error:
        raise ZooError(f"{folder.path / CONFIG} does not describe an agent of this version: {error!r}") from error
    return agent


def load_folder_dynamics(folder: AgentFolder, device: str = "cpu") -> WorldModel:
    """Load only the model of a folder's agent.

    Raises:
        ZooError: as :func:`load_agent`, or if the agent has no model.
    """
    _check_device(device)
    source, data, records = _model_file(folder)
    try:
        config = model_config(folder.config)
        if config is None:
            raise ZooError(f"the agent in {folder.path} has no model of its environment")
        dynamics = rebuild_dynamics(config, without_prefix("dynamics", records), source)
        fill_dynamics(dynamics, without_prefix("dynamics", read_tensors(data, source)))
    except ZooError:
        raise
    except MISFITS as error:
        raise ZooError(f"{folder.path / CONFIG} does not describe a model of this version: {error!r}") from error
    return dynamics.to(device)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=None if device == "auto" else device)
    except (AssertionError, RuntimeError) as error:
        raise ZooError(f"device must be one of this machine's, or 'auto', got {device!r}: {error}") from error


def _model_file(folder: AgentFolder) -> tuple[Path, bytes, dict[str, TensorRecord]]:
    source = folder.path / MODEL
    data = read_file(folder.path, MODEL, folder.records)
    return source, data, read_header(data, source)


def _vec_env(folder: AgentFolder, env: gym.Env | VecEnv | None) -> VecEnv | None:
    """Return the env to train in as a VecEnv, None if none is given and the recorded one can't be made here."""
    if env is None:
        num_envs = folder.config["num_envs"]
        if type(num_envs) is not int or not 1 <= num_envs <= MAX_ENVS:
            raise ZooError(f"{folder.path / CONFIG}: num_envs must be in [1, {MAX_ENVS}], got {num_envs!r}")
        try:
            env = VecMonitor(DummyVecEnv(num_envs * [lambda: env_from_file(folder.env.name, folder.env.kwargs)]))
        except ZooError:
            return None
    venv = BaseAlgorithm._wrap_env(env, verbose=0)
    observation_space, action_space = (
        space_from_json(folder.config[key]) for key in ("observation_space", "action_space")
    )
    try:
        check_for_correct_spaces(venv, observation_space, action_space)
    except ValueError as error:
        raise ZooError(f"env must have the spaces of the agent in {folder.path}: {error}") from error
    return venv


def _read_env(content: dict[str, Any], source: Path) -> EnvRecord:
    fields = [f.name for f in dataclasses.fields(EnvRecord)]
    if not set(fields) <= content.keys() or not isinstance(content["name"], str):
        raise ZooError(f"{source} must have the entries {fields}, got {sorted(content)}")
    if not isinstance(content["kwargs"], dict) or not isinstance(content["versions"], dict):
        raise ZooError(f"{source}: kwargs and versions must be objects, got {content['kwargs']!r}")
    if not isinstance(content["wrappers"], list):
        raise ZooError(f"{source}: wrappers must be a list, got {content['wrappers']!r}")
    return EnvRecord(
        **{name: content[name] for name in fields if name != "wrappers"}, wrappers=tuple(content["wrappers"])
    )


def _read_evaluation(content: dict[str, Any], source: Path) -> EvalRecord:
    versions.EVALUATION.check(content, source)
    try:
        trained = [_read_trained(seed) for seed in content["trained_seeds"]]
        packages = {str(name): str(version) for name, version in content["versions"].items()}
        deterministic = content.get("deterministic", True)  # version 1 does not have it
        if not isinstance(deterministic, bool):
            raise TypeError(f"deterministic must be true or false, got {deterministic!r}")
        return EvalRecord(episodes_from_json(content["episodes"], source), packages, trained, deterministic)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        if isinstance(error, ZooError):
            raise
        raise ZooError(f"{source} does not record an evaluation: {error!r}") from error


def _read_trained(content: dict[str, Any]) -> TrainedSeed:
    seed, steps, updates = (int(content[name]) for name in ("seed", "steps", "updates"))
    real = ("return_mean", "return_std", "wall_seconds", "cpu_seconds")
    return TrainedSeed(seed, steps, updates, *(float(content[name]) for name in real))


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode()
