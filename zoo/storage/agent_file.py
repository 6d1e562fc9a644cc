"""An SB3 agent and its model as JSON and tensors, and back, without pickle.

The description holds the constructor's arguments and the counters of training, from which the agent is rebuilt before
its tensors are loaded. Classes and functions have their names in :mod:`mbrl_wrappers.zoo.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her import HerReplayBuffer

from mbrl_wrappers.imagination import ModelBased, Strategy
from mbrl_wrappers.models import WorldModel
from mbrl_wrappers.models.model_file import is_added, upgraded
from mbrl_wrappers.models.world_model import NUM_START_STATES
from mbrl_wrappers.spaces import space_from_json, space_to_json
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import ALGORITHMS, DYNAMICS, OBJECTS, STRATEGIES, argument_names, name_of
from mbrl_wrappers.zoo.storage.effort import check_effort
from mbrl_wrappers.zoo.storage.literals import decode, encode
from mbrl_wrappers.zoo.storage.normalization import describe_normalizer
from mbrl_wrappers.zoo.storage.tensors import (
    AllocationLimit,
    TensorRecord,
    Tensors,
    aliases,
    check_shapes,
    prefixed,
    without_prefix,
)
from mbrl_wrappers.zoo.storage.training_state import describe_training, fill_training

# Arguments that are given anew at loading or described elsewhere in the file. The path of the logs belongs to the
# machine, not to the agent.
_NOT_SAVED = {"policy", "env", "device", "dynamics", "monitor_wrapper", "seed", "tensorboard_log", "_init_setup_model"}
# Arguments that SB3 keeps under another name, and arguments that it does not keep (A2C moves them to policy_kwargs).
KEPT_AS = {"stats_window_size": "_stats_window_size", "delta_std": "delta_std_schedule"}
_NOT_KEPT = {"use_rms_prop", "rms_prop_eps"}

# Buffers that SB3 chooses itself. They are saved as None, since SB3 would ignore n_steps if it were given one of them.
_CHOSEN_BY_SB3 = (DictReplayBuffer, NStepReplayBuffer, ReplayBuffer)

COUNTERS = (
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_episode_num",
    "_n_updates",
    "_n_calls",
    "_current_progress_remaining",
    "exploration_rate",
    "_num_fits",
    "_owed_updates",
    "_stage",
    "_generation",
    "_steps_at_fit",
)


@dataclass
class Description:
    """The content of an agent's files.

    Attributes:
        config: the description, as JSON values.
        tensors: the tensors by name.
    """

    config: dict[str, Any]
    tensors: Tensors = field(default_factory=dict)


def describe_agent(agent: BaseAlgorithm, *, with_optimizer: bool = False) -> Description:
    """Describe an agent, its model and its VecNormalize.

    Args:
        agent: an agent of a registered class.
        with_optimizer: add the optimisers' state, the replay buffer and the imagined rows, so that training
            can go on where it stopped.

    Raises:
        ZooError: for an argument that can't be described, saying what to register.
    """
    name = name_of(type(agent), ALGORITHMS)
    if name is None:
        raise ZooError(
            f"agent must be of a registered class, got {type(agent).__name__}: call "
            f"mbrl_wrappers.zoo.register_agent('a_name', {type(agent).__name__}) first"
        )
    described = Description(
        {
            "algorithm": name,
            "policy": _policy_name(agent),
            "observation_space": space_to_json(agent.observation_space),
            "action_space": space_to_json(agent.action_space),
            "num_envs": agent.n_envs,
            "seed": agent.seed,
            "arguments": _arguments_of(agent, name),
            "counters": {
                counter: encode(getattr(agent, counter), f"{counter} of {name}")
                for counter in COUNTERS
                if hasattr(agent, counter)
            },
        }
    )
    weights = agent.policy.state_dict()
    if shared := aliases(weights):
        described.config["shared_weights"] = shared
    described.tensors.update(prefixed("policy", {name: weights[name] for name in weights if name not in shared}))
    described.tensors.update(prefixed("variable", _variables_of(agent)))
    callback = getattr(agent, "model_based", None)
    if callback is not None:
        _describe_model_based(callback, described)
    elif (dynamics := model_of(agent)) is not None:
        described.config["dynamics"] = _add_dynamics(dynamics, described)
    normalizer = agent.get_vec_normalize_env()
    if normalizer is not None:
        described.config["vec_normalize"], statistics = describe_normalizer(normalizer)
        described.tensors.update(prefixed("vec_normalize", statistics))
    if with_optimizer:
        described.config["training"], state = describe_training(agent)
        described.tensors.update(prefixed("training", state))
    return described


def model_of(agent: BaseAlgorithm) -> WorldModel | None:
    """Return an agent's model, from its callback or from ``agent.dynamics``; None if it has none."""
    return getattr(getattr(agent, "model_based", agent), "dynamics", None)


def model_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the model's part of an agent's description, None if the agent has no model."""
    callback = config.get("model_based")
    return config.get("dynamics") if callback is None else callback["dynamics"]


def describe_dynamics(dynamics: WorldModel) -> Description:
    """Describe a model.

    Raises:
        ZooError: if the model's class or one of its functions is not registered.
    """
    name = name_of(type(dynamics), DYNAMICS)
    if name is None:
        raise ZooError(
            f"dynamics must be of a registered class, got {type(dynamics).__name__}: one with for_env, description and "
            "from_description can be registered by mbrl_wrappers.zoo.register_dynamics"
        )
    description = dynamics.description()
    given = {
        key: encode(getattr(dynamics, key), f"{key} of {name}")
        for key, stored in description["functions"].items()
        if stored == "custom"
    }
    config = {"kind": name, "description": description, "given": given}
    return Description(config, dict(dynamics.state_dict()))


def rebuild_agent(
    config: Mapping[str, Any],
    records: Mapping[str, TensorRecord],
    source: object,
    *,
    env: VecEnv | None,
    device: str,
) -> BaseAlgorithm:
    """Build the agent of a description, with fresh weights; of the file's tensors, only the shapes are used.

    Args:
        config: the description, from a file.
        records: the header of the file's tensors.
        source: the file, for errors.
        env: to train further in; its spaces must be the agent's.
        device: of the agent.

    Raises:
        ZooError: if anything in the description is unknown, or does not fit the tensors.
    """
    name = config["algorithm"]
    if name not in ALGORITHMS:
        raise ZooError(f"{source}: the algorithm {name!r} is not registered here, known are {sorted(ALGORITHMS)}")
    kind = ALGORITHMS[name]
    arguments = {key: decode(value, f"{source}: {key}") for key, value in config["arguments"].items()}
    unknown = arguments.keys() - set(saved_arguments(kind))
    if unknown:
        raise ZooError(f"{source}: {name} has no arguments {sorted(unknown)}")
    check_effort(arguments, source)
    if config.get("dynamics") is not None:
        dynamics = rebuild_dynamics(config["dynamics"], without_prefix("dynamics", records), source)
        arguments["dynamics"] = dynamics
    policy = _policy_from(kind, config["policy"], source)
    agent = kind(policy, env, device=device, _init_setup_model=False, **arguments)  # type: ignore[call-arg]
    agent.observation_space = space_from_json(config["observation_space"])
    agent.action_space = space_from_json(config["action_space"])
    if env is None:
        agent.n_envs = config["num_envs"]
    with AllocationLimit(records.values(), source), torch.random.fork_rng(devices=[]):
        _set_up(agent)
    agent.seed = config["seed"]
    for counter in config["counters"].keys() & set(COUNTERS):
        setattr(agent, counter, decode(config["counters"][counter], f"{source}: {counter}"))
    if config.get("model_based") is not None:
        agent.model_based = _rebuild_model_based(config["model_based"], records, source)  # type: ignore[attr-defined]
    of_agent = {name: record for name, record in records.items() if name.split(".")[0] in ("policy", "variable")}
    check_shapes({**of_agent, **prefixed_aliases(config, of_agent, source)}, expected_tensors(agent), source)
    return agent


def _set_up(agent: Any) -> None:
    """Build policy and buffer. No seed is set here: SB3 would seed every generator of the process with it."""
    wanted = getattr(agent, "replay_buffer_class", None)
    if agent.env is not None or wanted is None or not issubclass(wanted, HerReplayBuffer):
        agent._setup_model()
        return
    # A HerReplayBuffer needs an env. Without one, the agent gets no buffer: it can predict, but not learn.
    kwargs, agent.replay_buffer_kwargs, agent.replay_buffer_class = agent.replay_buffer_kwargs, {}, None
    agent._setup_model()
    agent.replay_buffer_kwargs, agent.replay_buffer_class, agent.replay_buffer = kwargs, wanted, None


def rebuild_dynamics(config: Mapping[str, Any], records: Mapping[str, TensorRecord], source: object) -> WorldModel:
    """Build the model of a description, with fresh weights, as :func:`rebuild_agent` builds an agent."""
    if config["kind"] not in DYNAMICS:
        raise ZooError(
            f"{source}: the kind of model {config['kind']!r} is not registered, known are {sorted(DYNAMICS)}"
        )
    given = {key: decode(value, f"{source}: {key}") for key, value in config["given"].items()}
    with AllocationLimit(records.values(), source):
        kind: Any = DYNAMICS[config["kind"]]
        dynamics: WorldModel = kind.from_description(config["description"], **given)
    expected = dynamics.state_dict()
    if config["description"].get("format_version", 1) < 2:
        expected = {name: value for name, value in expected.items() if not is_added(name)}
    seen = records.get("seen_range")
    if seen is not None and seen.shape[:1] in ((0,), (2,)):
        expected["seen_range"] = torch.empty(seen.shape[0], dynamics.obs_codec.dim, dtype=torch.float64, device="meta")
    starts = records.get("start_obs")
    if starts is not None and len(starts.shape) == 2 and starts.shape[0] <= NUM_START_STATES:
        own = dynamics.start_obs.dtype  # uint8 for images; else float32, or float64 if the observations needed it
        dtype = starts.dtype if starts.dtype == torch.float64 and own.is_floating_point else own
        expected["start_obs"] = torch.empty(starts.shape[0], dynamics.obs_codec.dim, dtype=dtype, device="meta")
    check_shapes(records, expected, source)
    return dynamics


def fill_dynamics(dynamics: WorldModel, tensors: Tensors) -> None:
    """Put a file's tensors, whose shapes have been checked, into the model of its description."""
    dynamics.load_state_dict(upgraded(tensors, dynamics))


def fill_agent(agent: BaseAlgorithm, config: Mapping[str, Any], tensors: Tensors, source: object) -> None:
    """Load a file's tensors, whose shapes have been checked, into the agent of its description.

    Raises:
        ZooError: if the state of training does not fit the agent.
    """
    for name, value in without_prefix("variable", tensors).items():
        recursive_getattr(agent, name).data = value.to(agent.device)
    dynamics = model_of(agent)
    if dynamics is not None:
        fill_dynamics(dynamics, without_prefix("dynamics", tensors))
        dynamics.to(agent.device)
    weights: dict[str, Any] = {
        "policy": without_prefix("policy", {**tensors, **prefixed_aliases(config, tensors, source)})
    }
    agent.set_parameters(weights, exact_match=False, device=agent.device)
    if getattr(agent, "use_sde", False):
        agent.policy.reset_noise()  # type: ignore[operator]
    if "training" in config:
        fill_training(agent, config["training"], without_prefix("training", tensors), source)


def expected_tensors(agent: BaseAlgorithm) -> Tensors:
    """Return the tensors that an agent's file must hold besides its model."""
    return {**prefixed("policy", agent.policy.state_dict()), **prefixed("variable", _variables_of(agent))}


def prefixed_aliases(config: Mapping[str, Any], of_file: Mapping[str, Any], source: object) -> dict[str, Any]:
    """Return the values that a file holds once for several names of a policy's tensors, under their other names.

    Raises:
        ZooError: if a name stands for one that the file does not hold.
    """
    found = {}
    for alias, name in config.get("shared_weights", {}).items():
        if f"policy.{name}" not in of_file:
            raise ZooError(f"{source} lacks the tensor policy.{name}, which is policy.{alias} too")
        found[f"policy.{alias}"] = of_file[f"policy.{name}"]
    return found


def arguments_of(value: Any, what: str) -> dict[str, Any]:
    """Describe the arguments that an object was constructed with, which it keeps as attributes."""
    return {name: encode(getattr(value, name), f"{name} of {what}") for name in saved_arguments(type(value))}


def saved_arguments(kind: type) -> list[str]:
    """Return the names of the constructor's arguments that a description holds."""
    return [name for name in argument_names(kind) if name not in _NOT_SAVED]


def _arguments_of(agent: BaseAlgorithm, name: str) -> dict[str, Any]:
    arguments = {}
    for argument in saved_arguments(type(agent)):
        attribute = KEPT_AS.get(argument, argument)
        if not hasattr(agent, attribute):
            if argument in _NOT_KEPT:
                continue
            raise ZooError(f"{name} must keep its argument {argument} as an attribute of that name to be saved")
        value = getattr(agent, attribute)
        if argument == "replay_buffer_class" and value in _CHOSEN_BY_SB3:
            value = None
        arguments[argument] = encode(value, f"{argument} of {name}")
    return arguments


def _policy_name(agent: BaseAlgorithm) -> str:
    known = name_of(agent.policy_class, {**agent.policy_aliases, **OBJECTS})
    if known is None:
        raise ZooError(
            f"policy must be one of {sorted(agent.policy_aliases)} or registered, got {agent.policy_class!r}: call "
            "mbrl_wrappers.zoo.register('a_name', it) on both sides"
        )
    return known


def _policy_from(kind: type[BaseAlgorithm], name: str, source: object) -> Any:
    policies = {**kind.policy_aliases, **OBJECTS}
    if name not in policies:
        raise ZooError(f"{source}: the policy {name!r} is not registered here, known are {sorted(kind.policy_aliases)}")
    return policies[name]


def _variables_of(agent: BaseAlgorithm) -> Tensors:
    """Return the tensors that an agent trains outside its policy, such as the entropy coefficient's logarithm."""
    return {name: recursive_getattr(agent, name) for name in agent._get_torch_save_params()[1]}


def _describe_model_based(callback: ModelBased, described: Description) -> None:
    if callback.dynamics is None:
        return
    name = name_of(type(callback.strategy), STRATEGIES)
    if name is None:
        kind = type(callback.strategy).__name__
        raise ZooError(
            f"strategy must be of a registered class, got {kind}: call "
            f"mbrl_wrappers.zoo.register_agent('a_name', {kind}) first"
        )
    dynamics = _add_dynamics(callback.dynamics, described)
    state = callback.__getstate__()
    described.config["model_based"] = {
        "strategy": name,
        "arguments": arguments_of(callback.strategy, name),
        "fit_every": callback.fit_every,
        "seed": callback.seed,
        "last_fit": state["_last_fit"],
        "dynamics": dynamics,
    }


def _add_dynamics(dynamics: WorldModel, described: Description) -> dict[str, Any]:
    """Add a model's tensors to ``described``; return the model's description."""
    model = describe_dynamics(dynamics)
    described.tensors.update(prefixed("dynamics", model.tensors))
    return model.config


def _rebuild_model_based(config: Mapping[str, Any], records: Mapping[str, TensorRecord], source: object) -> ModelBased:
    if config["strategy"] not in STRATEGIES:
        raise ZooError(
            f"{source}: the strategy {config['strategy']!r} is not registered, known are {sorted(STRATEGIES)}"
        )
    arguments = {key: decode(value, f"{source}: {key}") for key, value in config["arguments"].items()}
    check_effort(arguments, source)
    strategy: Strategy = STRATEGIES[config["strategy"]](**arguments)
    dynamics = rebuild_dynamics(config["dynamics"], without_prefix("dynamics", records), source)
    callback = ModelBased(strategy, dynamics, fit_every=config["fit_every"], seed=config["seed"])
    callback.__setstate__({**callback.__getstate__(), "_last_fit": int(config["last_fit"])})
    return callback
