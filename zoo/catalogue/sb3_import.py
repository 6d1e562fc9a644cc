"""Import of Stable-Baselines3's zip files, without unpickling anything in them.

SB3's JSON holds pickles of all values that JSON has no form for. They are not unpickled: constructor arguments come
from the readable text that SB3 writes next to a pickle, spaces from the env, and weights through torch's
``weights_only`` reader, which builds nothing but tensors. An argument that can't be read safely gets its default and is
reported; weights must be complete.

Zips of older releases are translated: SB3 before 1.0 used other names and values for some arguments.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mbrl_wrappers.zoo.catalogue.saving import save
from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.evaluation import NUM_EPISODES
from mbrl_wrappers.zoo.registry import ALGORITHMS, OBJECTS, registered_classes
from mbrl_wrappers.zoo.storage.agent_file import COUNTERS, KEPT_AS, saved_arguments
from mbrl_wrappers.zoo.storage.effort import check_effort
from mbrl_wrappers.zoo.storage.folder import MISFITS
from mbrl_wrappers.zoo.storage.inert_pickle import Name, describe_pickle
from mbrl_wrappers.zoo.storage.normalization import read_normalizer, wrap_normalizer
from mbrl_wrappers.zoo.storage.sb3_archive import read_archive, records_of
from mbrl_wrappers.zoo.storage.tensors import AllocationLimit, Tensors
from mbrl_wrappers.zoo.training.recipe import check_name

# Usual names, in SB3's zoo and among its users, of the file that VecNormalize.save writes.
NORMALIZERS = ("vecnormalize.pkl", "vec_normalize.pkl")
MAX_NAMED = 5

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
    """A value that can only be read from its pickle."""


def import_sb3(
    file: str | Path,
    folder: str | Path,
    *,
    env: str,
    algo: str | None = None,
    normalize: str | Path | Literal[False] | None = None,
    episodes: int = NUM_EPISODES,
) -> list[str]:
    """Turn a zip written by ``agent.save`` into an agent's folder.

    Args:
        file: the zip.
        folder: a new folder.
        env: the env that the agent was trained on: a Gymnasium id or ``"package.module:Class"``. The agent gets its
            spaces.
        algo: such as ``"SAC"``; default: recognised by the zip's entries.
        normalize: the statistics that normalised the agent's observations: a file that ``VecNormalize.save`` wrote, or
            JSON, see :func:`~mbrl_wrappers.zoo.storage.normalization.read_normalizer`. Default, unless the zip says
            that the agent was trained without: ``vecnormalize.pkl`` or ``vec_normalize.pkl`` next to the zip, or in a
            folder there that has the zip's or the env's name, as in SB3's zoo. False for none.
        episodes: number of evaluation episodes to record; 0 for none.

    Returns:
        A sentence for each argument that could not be read without unpickling and has its default, and one about the
        statistics of VecNormalize.

    Raises:
        ZooError: naming a part that the agent can't be rebuilt without.
    """
    file = Path(file)
    data, weights, variables = read_archive(file)
    if "dynamics" in data:
        raise ZooError(f"{file}: the agent's model is in a pickle; load the zip by its own class and call zoo.save")
    algo = _algorithm_of(data, file) if algo is None else algo
    check_name(algo, ALGORITHMS, "algo")
    kind = ALGORITHMS[algo]
    arguments, notes = _read_arguments(data, kind)
    if "policy_kwargs" in {note.split(":")[0] for note in notes}:
        raise ZooError(f"{file}: policy_kwargs can't be read without unpickling, and the networks not be built without")
    check_effort(arguments, file)
    if "model_based" in data:
        notes.append(
            "model_based: the learned model is in a pickle; load the zip with SB3 and call zoo.save to keep it"
        )
    was_normalized = _was_normalized(data, kind)
    statistics = Path(normalize) if normalize else None
    if normalize is None and was_normalized is not False:
        statistics = _find_normalizer(file, env)
    with make_env(env) as real:
        venv = BaseAlgorithm._wrap_env(real, verbose=0)
        _check_spaces(data, venv, file)
        if statistics is not None:
            venv = wrap_normalizer(venv, *read_normalizer(statistics), statistics)
            notes.append(f"VecNormalize: its statistics are those of {statistics}")
        elif was_normalized and normalize is None:
            notes.append(
                "VecNormalize: the agent was trained under one, whose statistics are not next to the zip and are not "
                "taken: give them by normalize (--normalize FILE)"
            )
        try:
            with AllocationLimit(records_of(weights), file):
                agent: Any = kind(_policy_of(data, kind, real, notes), venv, device="cpu", **arguments)
            _fill_policy(agent, weights, file)
            notes += _fill_variables(agent, variables, file)
        except MISFITS as error:
            if isinstance(error, ZooError):
                raise
            raise ZooError(f"{file}: the agent can't be rebuilt as {algo} for {env}: {error}") from error
        for counter in COUNTERS:
            if isinstance(data.get(counter), int | float):
                setattr(agent, counter, data[counter])
        save(agent, folder, env=env, episodes=episodes)
    return notes


def _was_normalized(data: Mapping[str, Any], kind: type[BaseAlgorithm]) -> bool | None:
    """Tell whether an agent was trained under VecNormalize; None where its zip does not say.

    On-policy agents keep raw observations only with a VecNormalize; off-policy agents always do, so they tell nothing.
    """
    says = "_last_original_obs" in data and data.get("_last_obs") is not None
    return data["_last_original_obs"] is not None if says and not issubclass(kind, OffPolicyAlgorithm) else None


def _find_normalizer(file: Path, env: str) -> Path | None:
    """Return the file of VecNormalize's statistics near a zip, None if there is none."""
    places = [file.parent, file.parent / file.stem, file.parent / env]
    return next((place / name for place in places for name in NORMALIZERS if (place / name).exists()), None)


def _algorithm_of(data: Mapping[str, Any], file: Path) -> str:
    """Recognise the algorithm by a zip's entries, which don't hold its name."""
    policy = data.get("policy_class")
    module = policy.get("__module__") if isinstance(policy, dict) else None
    found = _pickled_policy(data)
    places = [module]
    if found is not None and found.name in (registered := registered_classes(BasePolicy)):
        places += [base.__module__ for base in registered[found.name].__mro__]
    for place in places:
        if place == "stable_baselines3.sac.policies" and "expand_critic" in data:
            return "MAAC"  # or its subclass, which only learns from other data
        if place == "mbrl_wrappers.agents.networks.alphazero":
            return "ExIt" if "prior_bonus" in data else "AlphaZero"
        if place in _ALGORITHM_OF_POLICY:
            return _ALGORITHM_OF_POLICY[place]
        if place == "stable_baselines3.td3.policies":
            return "DDPG" if data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0.0 else "TD3"
        if place == "stable_baselines3.common.policies" and place == module:
            return "TRPO" if "cg_max_steps" in data else "PPO" if "clip_range" in data else "A2C"
    raise ZooError(f"{file}: the policy is of the module {module!r}, which can't be rebuilt safely")


def _pickled_policy(data: Mapping[str, Any]) -> Name | None:
    """Return the class name of a zip's policy, None where the pickle does not name it."""
    stored = data.get("policy_class")
    try:
        pickled = base64.b64decode(stored[":serialized:"]) if isinstance(stored, dict) else b""
        found = describe_pickle(pickled, "policy_class")
    except (KeyError, TypeError, binascii.Error, ZooError):
        return None
    return found if isinstance(found, Name) else None


def _policy_of(data: Mapping[str, Any], kind: type[BaseAlgorithm], env: gym.Env, notes: list[str]) -> Any:
    """Return a zip's policy, its alias or registered class, by the class name in its pickle.

    Where the pickle does not name the class, the env's observation space decides.
    """
    found = _pickled_policy(data)
    if found is not None:
        known: dict[str, Any] = {policy.__name__: alias for alias, policy in kind.policy_aliases.items()}
        known |= registered_classes(BasePolicy)
        if found.name not in known:
            raise ValueError(f"policy_class must be one of {sorted(known)}, got {found}")
        return known[found.name]
    name = "MultiInput" if isinstance(env.observation_space, spaces.Dict) else "Mlp"
    if is_image_space(env.observation_space):
        name = "Cnn"
    name = f"{name}LstmPolicy" if kind.__name__ == "RecurrentPPO" else f"{name}Policy"
    notes.append(f"policy_class: pickled in the zip, so it is taken for {kind.__name__}'s {name}")
    return name


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
    _modernize(arguments, data)
    return arguments, notes


def _modernize(arguments: dict[str, Any], data: Mapping[str, Any]) -> None:
    """Translate the arguments of older SB3 releases."""
    policy = arguments.get("policy_kwargs")
    if isinstance(policy, dict):
        policy.pop("device", None)  # an argument of policies before 0.10
        layers = policy.get("net_arch")
        if isinstance(layers, list) and layers and isinstance(layers[0], dict):  # the form before 1.8
            policy["net_arch"] = layers[0]
    episodes = data.get("n_episodes_rollout", -1)
    if arguments.get("train_freq") == -1 and isinstance(episodes, int) and episodes > 0:  # before 1.0
        arguments["train_freq"] = (episodes, "episode")


def _read(value: Any) -> Any:
    """Return a value that SB3 stored as JSON, or that can be read from the text next to its pickle."""
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
    """Return a value of a dict: JSON, or a class that SB3 wrote as its name; other objects can't be read."""
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


def _check_spaces(data: Mapping[str, Any], env: VecEnv, file: Path) -> None:
    """Compare the env's spaces, as SB3 wraps them, with the readable parts of the agent's."""
    for name in ("observation_space", "action_space"):
        stored, real = data.get(name), getattr(env, name)
        if not isinstance(stored, dict):
            continue
        kind = _class_name(stored.get(":type:"))
        shape = stored.get("_shape", stored.get("shape"))  # gym before 0.20 had the second
        readable: list[tuple[Any, Any]] = [(shape, list(real.shape or ()))]
        if isinstance(real, spaces.Discrete):
            readable.append((stored.get("n"), int(real.n)))
        differs = any(found is not None and str(found) != str(wanted) for found, wanted in readable)
        if kind != type(real).__name__ or differs:
            raise ZooError(f"env must have the {name} of {file}, a {kind} of shape {shape}, got {real}")


def _fill_policy(agent: Any, weights: Tensors, file: Path) -> None:
    """Load the weights, refusing missing and unexpected ones."""
    expected = agent.policy.state_dict()
    weights = _renamed(weights, expected)
    missing, unexpected = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    shapes = [
        f"{name} of shape {tuple(weights[name].shape)} in place of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    wrong = [
        f"{what} {', '.join(names[:MAX_NAMED])}{f' and {len(names) - MAX_NAMED} more' * (len(names) > MAX_NAMED)}"
        for what, names in (("lacks", sorted(missing)), ("has besides", sorted(unexpected)), ("has", shapes))
        if names
    ]
    if wrong:
        kind = type(agent.policy).__name__
        raise ZooError(f"{file}: policy.pth must hold the tensors of {kind}, but it {'; it '.join(wrong)}")
    agent.policy.load_state_dict(weights)


# SB3 before 0.8 named each critic's networks, sb3-contrib before 1.4 had no sequence around ARS's only layer.
_OLD_CRITIC = re.compile(r"^(critic(?:_target)?)\.q([12])_net\.")
_OLD_LINEAR = re.compile(r"^action_net\.(weight|bias)$")


def _renamed(weights: Tensors, expected: Mapping[str, Any]) -> Tensors:
    """Return weights under the names of today's SB3."""
    named = {_OLD_CRITIC.sub(lambda m: f"{m[1]}.qf{int(m[2]) - 1}.", name): value for name, value in weights.items()}
    if "action_net.0.weight" in expected:
        named = {_OLD_LINEAR.sub(r"action_net.0.\1", name): value for name, value in named.items()}
    for name in expected.keys() - named.keys():
        # Before 1.7, PPO's and A2C's extractor had only one name; it is shared by actor and critic.
        old = re.sub(r"^(pi|vf)_features_extractor\.", "features_extractor.", name)
        if old in named:
            named[name] = named[old]
    # Before 1.0, off-policy agents stored their only extractor once more outside actor and critic.
    twice = [name for name in named.keys() - expected.keys() if name.startswith("features_extractor.")]
    for name in twice:
        copies = [named[f"{part}.{name}"] for part in ("actor", "critic") if f"{part}.{name}" in expected]
        if copies and all(torch.equal(copy, named[name]) for copy in copies):
            del named[name]
    return named


def _fill_variables(agent: Any, variables: Mapping[str, Tensor | None], file: Path) -> list[str]:
    """Restore the trained tensors outside the policy; return a note for each that is not in the zip."""
    notes = []
    for name in agent._get_torch_save_params()[1]:
        own, value = recursive_getattr(agent, name), variables.get(name)
        if value is None:
            # A fixed entropy coefficient is a constructor argument; SB3 before 1.1 did not store its tensor.
            if name != "ent_coef_tensor":
                notes.append(f"{name}: not in the zip, so it begins anew when training goes on")
            continue
        if value.numel() != own.numel():
            raise ZooError(f"{file}: {name} must have shape {tuple(own.shape)}, got {tuple(value.shape)}")
        own.data = value.reshape(own.shape).to(own.dtype)
    return notes
