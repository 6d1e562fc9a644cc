"""Environments by name, and their records in files."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import registry as gym_registry
from gymnasium.wrappers import TimeLimit, TransformObservation
from stable_baselines3.common.preprocessing import maybe_transpose

from mbrl_wrappers.zoo.errors import ZooError, is_frozen, raised

# The time limit of most of Gymnasium's MuJoCo robots.
MAX_EPISODE_STEPS = 1000
_ENV_FORMS = "a Gymnasium id or 'package.module:Class', or 'package:id' where a package registers the id"
_NOTHING = object()
# Errors that envs' constructors raise for arguments that they can't use.
_UNMAKEABLE = (AssertionError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


class SeededEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Makes the start of every episode a function of a seed and the episode's number.

    A run that is resumed at an episode's end then plays the same episodes as one that was never interrupted.

    Args:
        env: any env.
        seed: of the run.
        episode: number of the first episode, from 0.
    """

    def __init__(self, env: gym.Env, seed: int, episode: int = 0) -> None:
        super().__init__(env)
        self._seed = seed
        self.episode = episode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode; ``seed`` is ignored."""
        number = np.random.SeedSequence([self._seed, self.episode]).generate_state(1)[0]
        self.episode += 1
        return self.env.reset(seed=int(number), options=options)


class EpisodeLimit(gym.Wrapper[Any, Any, Any, Any]):
    """Cuts off episodes that do not end, and warns at the first one.

    Args:
        env: any env.
        steps: after which an episode is truncated.

    Attributes:
        was_cut: whether this wrapper cut off the last episode.
    """

    def __init__(self, env: gym.Env, steps: int = MAX_EPISODE_STEPS) -> None:
        super().__init__(env)
        self._limit = steps
        self._steps = 0
        self._has_warned = False
        self.was_cut = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self._steps, self.was_cut = 0, False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; the last one that is allowed truncates the episode."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        self.was_cut = self._steps >= self._limit and not (terminated or truncated)
        if self.was_cut and not self._has_warned:
            self._has_warned = True
            name = type(self.unwrapped).__name__ if self.spec is None else self.spec.id
            warnings.warn(
                f"an episode of {name} had not ended after {self._limit} steps, and no TimeLimit is around it: it was "
                "cut off there, as all such episodes are. Give the env the limit that you mean: wrap it in "
                "gymnasium.wrappers.TimeLimit, or give max_episode_steps where it is registered or made by its id",
                stacklevel=2,
            )
        return obs, reward, terminated, truncated or self.was_cut, info


def with_episode_limit(env: gym.Env) -> gym.Env:
    """Put an :class:`EpisodeLimit` around an env, unless it has one or a TimeLimit already."""
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, TimeLimit | EpisodeLimit):
            return env
        layer = layer.env
    return EpisodeLimit(env)


def as_shown_to_agents(env: gym.Env, observation_space: spaces.Space) -> gym.Env:
    """Wrap an env so that its images have the channels first, as Stable-Baselines3 shows them to its agents.

    Args:
        env: any env; one that has the space already is returned as it is.
        observation_space: the agent's.
    """
    if env.observation_space == observation_space:
        return env

    def shown(obs: Any) -> Any:
        if isinstance(observation_space, spaces.Dict):
            return {name: maybe_transpose(obs[name], space) for name, space in observation_space.items()}
        return maybe_transpose(obs, observation_space)

    return TransformObservation(env, shown, observation_space)


def render_without_display() -> None:
    """Let MuJoCo render without a screen, unless the user chose a backend; best called before MuJoCo is imported."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def make_env(name: str, /, **kwargs: Any) -> gym.Env:
    """Make an env from a Gymnasium id or ``"package.module:Class"``, so that it can render without a screen.

    Args:
        name: the id, the class, or a function of the module that returns an env. As in :func:`gymnasium.make`, an id
            may be written ``"package:id"`` with the package that registers it, and without its version.
        **kwargs: arguments of the env.

    Raises:
        ValueError: if the name is none of these, does not make a Gymnasium env, or does not take these arguments.
    """
    render_without_display()
    maker = _from_module("env", name, _ENV_FORMS)
    if maker is _NOTHING or _looks_like_id(name):
        try:
            return gym.make(name, **kwargs)
        except (gym.error.Error, ImportError, *_UNMAKEABLE) as error:
            module, colon, attribute = name.partition(":")
            no_class = f" Module {module!r} has no attribute {attribute!r}" if colon and "-v" not in attribute else ""
            raise ValueError(f"env must be {_ENV_FORMS}, got {name!r}: {error}{no_class}") from error
    module = name.partition(":")[0]
    is_env = isinstance(maker, type) and issubclass(maker, gym.Env)
    if not is_env and not (inspect.isfunction(maker) and maker.__module__ == module):
        raise ValueError(f"env must be a gymnasium.Env or a function that makes one, got {maker!r} from {name!r}")
    try:
        env = maker(**kwargs)
    except _UNMAKEABLE as error:
        raise ValueError(f"env {name!r} can't be made: {error}") from error
    if not isinstance(env, gym.Env):
        raise ValueError(f"env must be a gymnasium.Env, got {type(env).__name__} from {name!r}")
    return env


def import_function(what: str, name: str | None) -> Any:
    """Import a function of the user's by ``"package.module:function"``; None for None.

    Args:
        what: the argument, for the error.
        name: the function.

    Raises:
        ValueError: if there is no such function.
    """
    if name is None:
        return None
    form = "'package.module:function'"
    found = _from_module(what, name, form)
    if found is _NOTHING:
        module, colon, attribute = name.partition(":")
        no_function = f": module {module!r} has no attribute {attribute!r}" if colon else ""
        raise ValueError(f"{what} must be {form}, got {name!r}{no_function}")
    if not callable(found):
        raise ValueError(f"{what} must be a function, got {found!r} from {name!r}")
    return found


def is_id(name: str) -> bool:
    """Tell whether a name is one of Gymnasium's ids, not a class or a function; the module before a colon is imported.

    Raises:
        ValueError: if there is no such module.
    """
    return _looks_like_id(name) or _from_module("env", name, _ENV_FORMS) is _NOTHING


def _looks_like_id(name: str) -> bool:
    attribute = name.partition(":")[2]
    return not attribute or "-v" in attribute


def _from_module(what: str, name: str, forms: str) -> Any:
    """Import the module of ``"package.module:attribute"``, which a user gives, and return the attribute.

    Args:
        what: the argument, for the error.
        name: ``"package.module:attribute"``.
        forms: what may be given, for the error.

    Returns:
        ``_NOTHING`` where there is no colon or no such attribute.

    Raises:
        ValueError: if there is no such module, or an error is raised in it; the message has the error.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return _NOTHING
    try:
        return getattr(importlib.import_module(module), attribute, _NOTHING)
    except (Exception, SystemExit) as error:  # a module of the user's may raise anything
        if isinstance(error, SyntaxError) or _was_raised_elsewhere(error):
            raise ValueError(f"{what} {name!r} can't be imported: module {module!r} {raised(error)}") from error
        raise ValueError(f"{what} must be {forms}, got {name!r}: {error}") from error


def _was_raised_elsewhere(error: BaseException) -> bool:
    """Tell whether an error comes from a module that began to run, not from looking for it."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(f.filename not in (__file__, importlib.__file__) and not is_frozen(f) for f in frames)


def without_module(name: str) -> str:
    """Return an id without the package that registers it."""
    return name.rpartition(":")[2]


def in_file_names(name: str) -> str:
    """Return an env's name with the characters replaced that file names can't have."""
    return name.replace("/", "-").replace(":", ".")


def full_name(name: str, env: gym.Env) -> str:
    """Return an env's name with its version, since an id without one means another env after the next release."""
    if env.spec is None or not is_id(name):
        return name
    return name.removesuffix(without_module(name)) + env.spec.id


@dataclass(frozen=True)
class EnvRecord:
    """The environment of a saved agent, as ``env.json`` holds it.

    Attributes:
        name: a Gymnasium id or ``"package.module:Class"``.
        kwargs: arguments of the env.
        max_episode_steps: the registered time limit in steps; None without one.
        wrappers: names of the wrappers that Gymnasium puts around the env.
        versions: of the packages that returns may depend on, the physics engine included.
    """

    name: str
    kwargs: dict[str, Any]
    max_episode_steps: int | None
    wrappers: tuple[str, ...]
    versions: dict[str, str]


# Modules of simulators and their packages; the version is recorded of those that making the env has imported.
_ENGINES = {"mujoco": "mujoco", "Box2D": "box2d-py", "ale_py": "ale-py", "pygame": "pygame-ce", "pybullet": "pybullet"}
# Gymnasium's adapters for older gym envs: they import a module by a name in their arguments.
_IMPORTERS = ("GymV21Environment-v0", "GymV26Environment-v0")
_PACKAGES = ("mbrl-wrappers", "gymnasium", "numpy", "sb3-contrib", "stable-baselines3", "torch")


def record_env(env: gym.Env, name: str, kwargs: Mapping[str, Any]) -> EnvRecord:
    """Describe an env that has been made.

    Args:
        env: the env.
        name: the name that it was made by; see :func:`make_env`.
        kwargs: the arguments that it was made with.
    """
    spec = env.spec
    return EnvRecord(
        name=full_name(name, env),
        kwargs=dict(kwargs),
        max_episode_steps=None if spec is None else spec.max_episode_steps,
        wrappers=() if spec is None else tuple(wrapper.name for wrapper in spec.additional_wrappers or ()),
        versions=installed_versions(),
    )


def installed_versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, of the packages that agents are made of, and of the engines in use.

    Args:
        more: packages to look up too.
    """
    engines = [package for module, package in _ENGINES.items() if module in sys.modules]
    names = dict.fromkeys(name for name in [*_PACKAGES, *engines, *more] if name != "python")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def playground(record: EnvRecord, env: str | gym.Env | None, **more: Any) -> Iterator[gym.Env]:
    """Give an env to play a saved agent in, and close it at the end unless it was the user's.

    Args:
        record: the recorded env of the agent.
        env: the user's env to play in instead: an env, or a name, which may be imported. With the recorded name, the
            recorded arguments are used too.
        **more: arguments that the caller adds, such as ``render_mode``.

    Raises:
        ZooError: if the recorded env can't be made here.
        ValueError: if the user's env can't be made.
    """
    if isinstance(env, gym.Env):
        yield env
        return
    with named_env(record, env, **more) as made:
        yield made


def named_env(record: EnvRecord, name: str | None, **more: Any) -> gym.Env:
    """Make the user's env by its name, which may be imported, or else the recorded one; see :func:`playground`."""
    if name is None:
        return env_from_file(record.name, record.kwargs, **more)
    return make_env(name, **(record.kwargs if name == record.name else {}), **more)


def env_from_file(name: str, kwargs: Mapping[str, Any], **more: Any) -> gym.Env:
    """Make the env that a file names, without importing anything that the file names.

    Args:
        name: from the file.
        kwargs: from the file.
        **more: arguments that the caller adds, such as ``render_mode``.

    Raises:
        ZooError: if no env of this name is registered here, or an argument looks like a path.
    """
    registered = without_module(name)
    if registered not in gym_registry or registered in _IMPORTERS:
        raise ZooError(
            f"env {name!r} is not registered with Gymnasium here, and a name found in a file is not imported: "
            "import the package that registers it, or give the env as an argument (--env on the command line, "
            "package:id or package.module:Class)"
        )
    paths = [value for value in kwargs.values() if isinstance(value, str) and ("/" in value or "\\" in value)]
    if paths:
        raise ZooError(
            f"env {name!r} would be made with the path {paths[0]!r} of a file's: give the env as an argument (--env)"
        )
    try:
        return make_env(registered, **{**kwargs, **more})
    except ValueError as error:
        raise ZooError(str(error)) from error
