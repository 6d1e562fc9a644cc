"""Agents built from recipes."""

from __future__ import annotations

import dataclasses
import json
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.common.utils import LinearSchedule, get_device
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.agents.agent_with_model import AgentWithModel
from mbrl_wrappers.agents.model_based_agent import ModelBasedAgent
from mbrl_wrappers.agents.planning import PlanningAgent
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import WorldModel
from mbrl_wrappers.models.members import check_predicts
from mbrl_wrappers.seeding import set_apart
from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.registry import (
    AGENTS,
    ALGORITHMS,
    COMPILED,
    DYNAMICS,
    argument_names,
    argument_types,
    registered_classes,
)
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import DEFAULT_DYNAMICS, SECTIONS, Recipe, check_name, hint_about

# Arguments that a run sets itself, so a recipe must not.
_NOT_IN_RECIPES = {
    "env",
    "seed",
    "device",
    "strategy",
    "dynamics",
    "observation_space",
    "action_space",
    "monitor_wrapper",
    "venv",
    "training",
    "_init_setup_model",
}
# Types whose values a recipe can hold.
_LITERALS = {bool, float, int, str, NoneType}
# YAML can't hold an ActionNoise, so recipes describe it by these two, as SB3's zoo does.
# Arguments of policies that are classes, and of what kind.
_CLASSES_IN_POLICIES: dict[str, type] = {
    "activation_fn": torch.nn.Module,
    "features_extractor_class": BaseFeaturesExtractor,
    "optimizer_class": torch.optim.Optimizer,
}
_NOISE_ARGUMENTS = {"noise_type", "noise_std"}
_NOISES = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}


def algorithm_of(agent: str, algo: str, *, model: bool = True) -> type[BaseAlgorithm]:
    """Return the class that a recipe's ``algo`` stands for.

    Args:
        agent: the registered agent. A strategy works with any off-policy algorithm; other agents only with their own.
        algo: such as ``"SAC"``, whose compiled form is returned.
        model: False for the algorithm that the agent is compared with.

    Raises:
        ValueError: for an unknown agent, or an algorithm that the agent can't be made of.
    """
    check_name(agent, AGENTS, "agent")
    record = AGENTS[agent]
    valid: dict[str, type[BaseAlgorithm]]
    if record.serves_others:
        have_own = (ModelBasedAgent, AgentWithModel)  # a model
        valid = {
            name: algorithm
            for name, algorithm in ALGORITHMS.items()
            if issubclass(algorithm, OffPolicyAlgorithm)
            and not issubclass(algorithm, have_own)
            and algorithm not in COMPILED.values()
        }
    else:
        valid = {record.kind.__name__: ALGORITHMS[record.kind.__name__]}
    if algo not in valid and isinstance(algo, str) and (hint := hint_about(algo)).startswith(":"):
        raise ValueError(f"algo must be one of {sorted(valid)}, got {algo!r}{hint}")
    check_name(algo, valid, "algo")
    if not model and record.control is not None:
        return COMPILED.get(record.control, ALGORITHMS[record.control])
    return COMPILED.get(algo, valid[algo])


def base_of(spec: JobSpec) -> JobSpec:
    """Return a job's control: the same agent without its model, at equal updates per env step."""
    record, recipe = AGENTS[spec.agent], spec.recipe
    if record.control is not None:
        shared = set(argument_names(ALGORITHMS[record.control])) - record.not_shared | _NOISE_ARGUMENTS
        arguments = {name: value for name, value in recipe.agent.items() if name in shared}
        recipe = dataclasses.replace(recipe, agent=arguments)
    return dataclasses.replace(spec, recipe=recipe, model=False)


def constructors_of(agent: str, recipe: Recipe) -> dict[str, type]:
    """Return the constructors that take the arguments of a recipe's sections; sections without one must be empty."""
    algorithm, strategy = algorithm_of(agent, recipe.algo), AGENTS[agent].strategy
    constructors: dict[str, type] = {"agent": algorithm, "dynamics": dynamics_kind(recipe)}
    if strategy is not None:
        constructors.update(model_based=ModelBased, normalize=VecNormalize)
        if argument_names(strategy):
            constructors.update(strategy=strategy)
    return constructors


def settable_names(section: str, constructor: type) -> set[str]:
    """Return the names of the arguments that a section of a recipe may set."""
    names = set(argument_types(constructor)) - _NOT_IN_RECIPES
    if section == "dynamics":
        names |= {"kind"}
    return names | _NOISE_ARGUMENTS if "action_noise" in names else names


def check_arguments(agent: str, recipe: Recipe) -> None:
    """Refuse arguments that the constructors do not have, and sections whose constructor is not called.

    Raises:
        ValueError: naming the argument and the most similar valid one, or the section.
    """
    algorithm, constructors = algorithm_of(agent, recipe.algo), constructors_of(agent, recipe)
    for section, constructor in constructors.items():
        types, valid = argument_types(constructor), settable_names(section, constructor)
        for name, value in getattr(recipe, section).items():
            check_name(name, valid, f"argument of {section} ({constructor.__name__})")
            _check_type(f"{section}.{name}", value, types.get(name, Any))
    for section in SECTIONS:
        if section not in constructors and getattr(recipe, section):
            given = getattr(recipe, section)
            raise ValueError(f"{section} must be empty for {algorithm.__name__}, which has none, got {given}")


def _check_type(name: str, value: Any, kind: Any) -> None:
    """Refuse a literal of another type than the constructor's argument; SB3 would accept it and fail later."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if not all(one in _LITERALS for one in kinds):
        return  # an object, such as a schedule, may be described by a literal of any type
    allowed = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
        wanted = "a value of the type " + " or ".join(one.__name__ for one in kinds)
        raise ValueError(f"{name} must be {'a whole number (int)' if kinds == (int,) else wanted}, got {value!r}")


def training_env(recipe: Recipe, env: gym.Env | VecEnv) -> gym.Env | VecEnv:
    """Put the recipe's VecNormalize around an env or several, with the agent's discount unless the recipe names one."""
    if not recipe.normalize:
        return env
    gamma = {name: value for name, value in recipe.agent.items() if name == "gamma"}
    venv = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    return VecNormalize(venv, **{**gamma, **_copy(recipe.normalize)})


def build_agent(spec: JobSpec, env: gym.Env | VecEnv) -> tuple[BaseAlgorithm, BaseCallback | None]:
    """Make the SB3 agent of a job and, if a strategy gives it a model, the callback that does so.

    Args:
        spec: the job.
        env: to train in, from :func:`training_env`. The model is made for a new env of the job, without the wrappers
            of this one.

    Raises:
        ValueError: for an algorithm or a value that can't be used.
    """
    strategy = AGENTS[spec.agent].strategy
    algorithm: Any = algorithm_of(spec.agent, spec.recipe.algo, model=spec.model)
    arguments = _agent_arguments(spec.recipe, env)
    policy = _policy(arguments.pop("policy", None), algorithm, env.observation_space)
    if strategy is None and "dynamics" in argument_names(algorithm):
        arguments["dynamics"] = _build_dynamics(spec, get_device(spec.device), algorithm)
    agent = algorithm(policy, env, seed=spec.seed, device=spec.device, **arguments)
    _check_num_envs(spec, agent)
    set_apart(agent.action_space)  # for agents without a model too, so that both start with the same random actions
    if strategy is None or not spec.model:
        return agent, None
    dynamics = _build_dynamics(spec, agent.device)
    if strategy.needs_predictions:
        check_predicts(dynamics)
    bound = strategy(**{name: _tuple(value) for name, value in _copy(spec.recipe.strategy).items()})
    return agent, ModelBased(bound, dynamics, seed=spec.seed, **spec.recipe.model_based)


def _check_num_envs(spec: JobSpec, agent: Any) -> None:
    """Refuse several envs for an agent that can't learn in them."""
    why = None
    if isinstance(agent, AlphaZero):
        why = "which plays against itself, agent.num_games at a time, and takes no steps in an env"
    elif isinstance(agent, OffPolicyAlgorithm) and agent.train_freq.unit == TrainFrequencyUnit.EPISODE:  # type: ignore[union-attr]
        why = "whose agent.train_freq is in episodes: give a number of steps, such as agent.train_freq=200"
    if why is not None and spec.recipe.num_envs > 1:
        raise ValueError(f"num_envs must be 1 for {spec.agent}, {why}, got {spec.recipe.num_envs}")


def _build_dynamics(spec: JobSpec, device: torch.device, algorithm: type[BaseAlgorithm] | None = None) -> Any:
    """Build the recipe's model; for planning, with the agent's default settings and, if known, the env's reward."""
    kind: Any = dynamics_kind(spec.recipe)
    arguments = _copy({name: value for name, value in spec.recipe.dynamics.items() if name != "kind"})
    with make_env(spec.env, **spec.env_kwargs) as env:
        if kind is DYNAMICS[DEFAULT_DYNAMICS] and algorithm is not None and issubclass(algorithm, PlanningAgent):
            arguments = {"known_reward": True, **algorithm.default_dynamics_kwargs, **arguments}
        # SB3 shows its agents images with the channels first.
        shown = BaseAlgorithm._wrap_env(env, verbose=0) if kind.takes_images else env
        return kind.for_env(shown, seed=spec.seed, device=device, **arguments)


def dynamics_kind(recipe: Recipe) -> type[WorldModel]:
    """Return the class of a recipe's model, which ``dynamics: {kind: NAME}`` names.

    Raises:
        ValueError: for a name that is not registered.
    """
    name = recipe.dynamics.get("kind", DEFAULT_DYNAMICS)
    check_name(name, DYNAMICS, "dynamics.kind")
    return DYNAMICS[name]


def _agent_arguments(recipe: Recipe, env: gym.Env | VecEnv) -> dict[str, Any]:
    arguments = {name: _schedule(value) for name, value in _copy(recipe.agent).items()}
    if "train_freq" in arguments:
        arguments["train_freq"] = _train_freq(arguments["train_freq"])
    if arguments.get("policy_kwargs"):
        arguments["policy_kwargs"] = _policy_kwargs(arguments["policy_kwargs"])
    noise = {name: arguments.pop(name) for name in _NOISE_ARGUMENTS & arguments.keys()}
    if noise:
        arguments["action_noise"] = _action_noise(noise.get("noise_type"), noise.get("noise_std"), env)
    return arguments


def _policy_kwargs(given: dict[str, Any]) -> dict[str, Any]:
    """Replace the names of classes, such as ``activation_fn: LayerNormSiLU``, by the registered classes."""
    if not isinstance(given, dict):
        raise ValueError(f"agent.policy_kwargs must be a mapping, got {given!r}")
    found = dict(given)
    for name, base in _CLASSES_IN_POLICIES.items():
        if isinstance(found.get(name), str):
            known = registered_classes(base)
            check_name(found[name], known, f"agent.policy_kwargs.{name}")
            found[name] = known[found[name]]
    return found


def _policy(name: Any, algorithm: type[BaseAlgorithm], space: spaces.Space) -> Any:
    """Return the policy of a name: an alias of the algorithm's, or a registered class; by default SB3's for the space.

    Raises:
        ValueError: for an unknown name.
    """
    if name is None:
        if isinstance(space, spaces.Dict):
            return "MultiInputPolicy"
        return "CnnPolicy" if is_image_space(space) else "MlpPolicy"
    known = {alias: alias for alias in algorithm.policy_aliases} | registered_classes(BasePolicy)
    check_name(name, known, "agent.policy")
    return known[name]


def _action_noise(kind: Any, std: Any, env: gym.Env | VecEnv) -> ActionNoise:
    """Make the noise of a recipe, with the same standard deviation in each of SB3's scaled actions."""
    check_name(kind, _NOISES, "agent.noise_type")
    if not isinstance(std, int | float) or isinstance(std, bool) or not std > 0:
        raise ValueError(f"agent.noise_std must be a positive number, got {std!r}")
    if not isinstance(env.action_space, spaces.Box):
        raise ValueError(f"agent.noise_type needs a Box action space, got {env.action_space!r}")
    return _NOISES[kind](np.zeros(env.action_space.shape), np.full(env.action_space.shape, float(std)))


def _copy(arguments: dict[str, Any]) -> dict[str, Any]:
    """Copy nested literals, since SB3 changes the dict ``policy_kwargs`` in place."""
    return json.loads(json.dumps(arguments))


def _tuple(value: Any) -> Any:
    """Turn a list into a tuple, as a schedule or ``[1, episode]`` has to be; YAML has lists only."""
    return tuple(value) if isinstance(value, list) else value


def _train_freq(value: Any) -> Any:
    """Return a number of steps, or SB3's tuple of a number and its unit."""
    number, unit = value if isinstance(value, list) and len(value) == 2 else (value, "step")
    if unit not in ("step", "episode"):
        raise ValueError(f"agent.train_freq must be a number, or one with 'step' or 'episode', got {value!r}")
    check_whole_number("agent.train_freq", number)
    return _tuple(value)


def _schedule(value: Any) -> Any:
    """Turn ``"lin_0.001"`` into a schedule that falls linearly to 0 over the run; other values stay as they are."""
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    try:
        start = float(value.removeprefix("lin_"))
    except ValueError:
        raise ValueError(f"a linear schedule must be written lin_NUMBER, got {value!r}") from None
    return LinearSchedule(start, 0.0, 1.0)
