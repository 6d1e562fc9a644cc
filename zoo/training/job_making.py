"""Jobs made of a recipe and the user's arguments, tried out before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.zoo.environment import full_name, make_env
from mbrl_wrappers.zoo.evaluation import num_episodes
from mbrl_wrappers.zoo.registry import argument_defaults
from mbrl_wrappers.zoo.storage.literals import MAX_ENVS
from mbrl_wrappers.zoo.training.building import algorithm_of, build_agent, check_arguments, dynamics_kind, training_env
from mbrl_wrappers.zoo.training.envs import vec_env
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import SECTIONS, Recipe, load_recipe, override
from mbrl_wrappers.zoo.training.scaling import shorten

_UNBUILDABLE = (AssertionError, NotImplementedError, TypeError, ValueError)  # SB3 refuses spaces and arguments by all
NUM_CURVE_POINTS = 10
NUM_CHECKPOINTS = 10


def make_job(
    agent: str,
    env: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    algo: str | None = None,
    params: Mapping[str, Any] | None = None,
    recipe: str | Path | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    num_envs: int | None = None,
    eval_freq: int | None = None,
    eval_episodes: int | None = None,
    deterministic: bool | None = None,
    save_freq: int | None = None,
    device: str = "cpu",
    tell: Callable[[str], None] | None = None,
) -> JobSpec:
    """Merge a recipe with the user's arguments, and test that agent and model can be built.

    Args:
        agent: registered name, such as ``"mbpo"``.
        env: a Gymnasium id or ``"package.module:Class"``.
        steps: env steps; default: the recipe's.
        seed: of agent, model and episodes.
        algo: SB3's name of the model-free agent; default: the recipe's, which depends on the action space.
        params: changes to the recipe by ``"section.argument"``.
        recipe: a file of recipes to use in place of the library's.
        env_kwargs: arguments of the env.
        num_envs: envs to train in at once; default: the recipe's. Evaluations have one env in any case.
        eval_freq: env steps between evaluations; default: a tenth of ``steps``.
        eval_episodes: episodes per evaluation; default: 20, or 5 for an agent that plans.
        deterministic: whether they take the policy's mode instead of a sample; default: the recipe's.
        save_freq: env steps between checkpoints, 0 for none; default: a tenth of ``steps``.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        tell: gets a sentence about each thing that is other than the arguments and the recipe say. If it is given, a
            recipe for more steps is fitted to ``steps``, see :func:`~mbrl_wrappers.zoo.training.scaling.shorten`.

    Raises:
        ValueError: for an argument that can't be used.
    """
    load_recipe(agent, env, file=recipe)  # refuses an unknown agent before the env is made
    asked_for = env
    with make_env(env, **(env_kwargs or {})) as real, _naming(recipe):
        env = full_name(env, real)
        discrete = isinstance(real.action_space, spaces.Discrete)
        fitted_to = steps if tell is not None and isinstance(steps, int) else None
        settings, changes = merged_recipe(
            agent,
            env,
            params or {},
            fitted_to,
            num_envs,
            deterministic,
            file=recipe,
            algo=algo,
            discrete_actions=discrete,
        )
        if tell is not None:
            for change in changes:
                tell(change)
        check_arguments(agent, settings)
        _check_spaces(real, images=dynamics_kind(settings).takes_images)
        steps = settings.steps if steps is None else steps
        check_whole_number("steps", steps, 1)
        given = {"eval_freq": eval_freq, "eval_episodes": eval_episodes, "save_freq": save_freq}
        spec = JobSpec(
            env=env,
            recipe=settings,
            model=True,
            seed=seed,
            steps=steps,
            **{
                name: default if (own := given[name]) is None else own
                for name, default in usual_numbers(agent, settings.algo, steps).items()
            },
            device=device,
            agent=agent,
            env_kwargs=dict(env_kwargs or {}),
        )
        _check_numbers(spec)
        _check_device(device)
        _try_out(spec, real, params or {})
    if tell is not None:
        _tell_more(spec, asked_for, tell)
    return spec


def _try_out(spec: JobSpec, real: gym.Env, params: Mapping[str, Any]) -> None:
    """Build the agent and the model of a job.

    Raises:
        ValueError: if they can't be built; it names what to set to null where the recipe's own values are the cause.
    """
    try:
        _build(spec, real)
    except _UNBUILDABLE as error:
        about = "" if isinstance(error, ValueError) else f"{spec.recipe.algo} can't be built for {spec.env}: "
        hint = "" if not params else _what_to_leave_out(spec, real, params)
        raise ValueError(f"{about}{error}{hint}") from error


def _build(spec: JobSpec, real: gym.Env) -> None:
    with nullcontext(real) if spec.recipe.num_envs == 1 else closing(vec_env(spec)) as trained_in:
        # On the CPU, because the job may run on another machine than this one.
        build_agent(dataclasses.replace(spec, device="cpu"), training_env(spec.recipe, trained_in))


def _what_to_leave_out(spec: JobSpec, real: gym.Env, params: Mapping[str, Any]) -> str:
    """Advise which settings of the recipe to set to null, since they belong to a choice that the user has replaced."""

    def can_do_without(names: Iterable[str]) -> bool:
        try:
            _build(dataclasses.replace(spec, recipe=override(spec.recipe, dict.fromkeys(names))), real)
        except _UNBUILDABLE:
            return False
        return True

    values = {
        f"{section}.{name}": value for section in SECTIONS for name, value in getattr(spec.recipe, section).items()
    }
    names = [name for name, value in values.items() if isinstance(value, dict) and name not in params]
    if not names or not can_do_without(names):
        return ""
    for name in list(names):
        if can_do_without(fewer := [other for other in names if other != name]):
            names = fewer
    nulls = " ".join(f"{name}=null" for name in names)
    return f"; add {nulls} to params, since the recipe has values there for another choice"


def merged_recipe(
    agent: str,
    env: str,
    params: Mapping[str, Any],
    fitted_to: int | None,
    num_envs: int | None = None,
    deterministic: bool | None = None,
    **which: Any,
) -> tuple[Recipe, list[str]]:
    """Merge a recipe with changes, and fit it to fewer steps.

    Args:
        agent: as for :func:`make_job`.
        env: with its version.
        params: as for :func:`make_job`.
        fitted_to: env steps, see :func:`~mbrl_wrappers.zoo.training.scaling.shorten`; None for the recipe as it is.
        num_envs: None for the recipe's.
        deterministic: None for the recipe's.
        **which: recipe, see :func:`~mbrl_wrappers.zoo.training.recipe.load_recipe`.

    Returns:
        The recipe, and a sentence for each setting that was fitted.
    """
    settings = override(load_recipe(agent, env, **which), params)
    given: dict[str, Any] = {"num_envs": num_envs, "deterministic": deterministic}
    settings = dataclasses.replace(settings, **{name: value for name, value in given.items() if value is not None})
    return (settings, []) if fitted_to is None else shorten(settings, fitted_to, fixed=params)


def usual_numbers(agent: str, algo: str, steps: int) -> dict[str, int]:
    """Return a job's frequencies and number of episodes where the user gives none."""
    return {
        "eval_freq": max(1, steps // NUM_CURVE_POINTS),
        "eval_episodes": num_episodes(algorithm_of(agent, algo)),
        "save_freq": max(1, steps // NUM_CHECKPOINTS),
    }


def _tell_more(spec: JobSpec, asked_for: str, tell: Callable[[str], None]) -> None:
    """Say what an id without a version stands for, when a run ends, and which device ``"auto"`` is."""
    if spec.env != asked_for:
        tell(f"{asked_for} is {spec.env} here; write its version, since the next one may be another env")
    for sentence in _about_steps(spec):
        tell(sentence)
    if spec.device == "auto" and not torch.cuda.is_available():
        tell("device auto is the CPU: torch finds no CUDA here")


def _about_steps(spec: JobSpec) -> Iterator[str]:
    """Say when a run ends, and how many updates it makes in several envs."""
    algorithm, num_envs = algorithm_of(spec.agent, spec.recipe.algo), spec.recipe.num_envs
    settings = {**(argument_defaults(algorithm) if num_envs > 1 else {}), **spec.recipe.agent}
    name = "n_steps" if issubclass(algorithm, OnPolicyAlgorithm) else "train_freq"
    of_each = settings.get(name) or 1
    if isinstance(of_each, list) and of_each[-1] == "episode":
        yield f"steps are taken by whole episodes (agent.train_freq): the run may end after more than {spec.steps:,}"
    if not isinstance(of_each, int):
        return
    at_once, updates = of_each * num_envs, settings.get("gradient_steps")
    if spec.steps % at_once:
        end = -(-spec.steps // at_once) * at_once
        envs = f", in each of {num_envs} envs" if num_envs > 1 else ""
        yield (
            f"steps are taken {at_once} at a time (agent.{name}{envs}): the run ends after {end:,}, not {spec.steps:,}"
        )
    if num_envs > 1 and isinstance(updates, int) and updates > 0:
        yield (
            f"agent.gradient_steps counts updates for each {at_once} steps in {num_envs} envs: {updates * num_envs}, "
            f"not {updates}, are as many for each step as in one env"
        )


@contextmanager
def _naming(recipe: str | Path | None) -> Iterator[None]:
    """Add the user's file of recipes to errors that do not name it yet."""
    try:
        yield
    except ValueError as error:
        if recipe is None or str(recipe) in str(error):
            raise
        raise ValueError(f"with the recipe {recipe}: {error}") from error


def _check_numbers(spec: JobSpec) -> None:
    for name, least in (("seed", 0), ("eval_freq", 1), ("eval_episodes", 1), ("save_freq", 0)):
        check_whole_number(name, getattr(spec, name), least)
    num_envs = spec.recipe.num_envs
    check_whole_number("num_envs", num_envs)
    if not isinstance(spec.recipe.deterministic, bool):
        raise ValueError(f"deterministic must be true or false, got {spec.recipe.deterministic!r}")
    if num_envs > MAX_ENVS:
        raise ValueError(f"num_envs must be at most {MAX_ENVS}, got {num_envs}")
    learning_starts = spec.recipe.agent.get("learning_starts", 0)
    check_whole_number("agent.learning_starts", learning_starts, 0)
    if spec.steps <= learning_starts:
        raise ValueError(f"steps must be more than agent.learning_starts, which is {learning_starts}, got {spec.steps}")


def _check_spaces(env: gym.Env, images: bool) -> None:
    FlatSpace(env.observation_space, "observation_space", images=images)
    FlatSpace(env.action_space, "action_space")
    if isinstance(env.action_space, spaces.Discrete) and env.action_space.start != 0:
        raise ValueError(f"action_space must start at 0, as SB3's agents count, got {env.action_space!r}")


def _check_device(device: str) -> None:
    """Refuse an invalid device; the run checks whether its machine has the device."""
    if device == "auto":
        return
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'auto', got {device!r}") from error
