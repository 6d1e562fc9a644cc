"""An environment before any step is taken: its spaces, and the id that it is registered under."""

from __future__ import annotations

import inspect
import sys
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from mbrl_wrappers.tasks.registry import TASKS

# Wrappers that leave observations, actions, rewards and terminations as they are.
TRANSPARENT_WRAPPERS = frozenset(
    {"Monitor", "TimeLimit", "OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics", "RecordVideo"}
)
# Stable-Baselines3's wrappers that leave the steps in a replay buffer as the env made them.
_TRANSPARENT_VEC_WRAPPERS = frozenset({"VecCheckNan", "VecMonitor", "VecNormalize", "VecVideoRecorder"})


def spaces_and_id(env: Any) -> tuple[spaces.Space, spaces.Space, str | None]:
    """Return spaces and id of an environment.

    Args:
        env: an env id, a Gymnasium env, its class or a function that makes one, a Stable-Baselines3 VecEnv, or an agent
            of Stable-Baselines3 that has one.

    Returns:
        The observation space and the action space, of a single env, and its id if its rules are the registered ones.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(env, str):
        try:
            with gym.make(env) as made:
                return spaces_and_id(made)
        except (gym.error.Error, ImportError) as error:
            raise ValueError(f"env must be a Gymnasium id that can be made here, got {env!r}: {error}") from error
    if _is_agent(env):
        if env.get_env() is None:
            raise ValueError(
                f"env must be given, and {type(env).__name__} has none to take it from: call set_env first"
            )
        return spaces_and_id(env.get_env())
    if inspect.isfunction(env) or (isinstance(env, type) and issubclass(env, gym.Env)):
        with _made(env) as made:
            return spaces_and_id(made)
    if isinstance(env, VectorEnv):
        raise ValueError(
            "env must be a single env, whose spaces a VectorEnv has as env.single_observation_space and "
            f"env.single_action_space for EnsembleDynamics(...), got {env!r}"
        )
    if not isinstance(env, gym.Env) and not _is_vec_env(env):
        raise ValueError(
            "env must be a Gymnasium id, a Gymnasium env, its class, or a Stable-Baselines3 VecEnv or agent, "
            f"got {env!r}"
        )
    known = registered_id(spec_of(env)) if _has_transparent_vec_wrappers(env) else None
    return env.observation_space, env.action_space, known


def registered_id(spec: EnvSpec | None) -> str | None:
    """Return the id of an env that has the rules of the registered one, None if arguments or wrappers may differ."""
    if spec is None or spec.id is None:
        return None
    names = {wrapper.name for wrapper in spec.additional_wrappers or ()}
    task = TASKS.get(spec.id)
    changed = set(spec.kwargs) - {"render_mode"} - (task.free if task is not None else set())
    return None if changed or names - TRANSPARENT_WRAPPERS else spec.id


def spec_of(env: Any) -> EnvSpec | None:
    """Return the spec of a Gymnasium env, or of the first env of a Stable-Baselines3 VecEnv.

    None if there is none, or if the env runs in a worker process that can't send it: a lambda in a wrapper's arguments
    can't be pickled, and SB3's workers die when they try.
    """
    if _is_vec_env(env):
        here = getattr(env.unwrapped, "envs", None)  # a list in a DummyVecEnv
        spec = getattr(here[0], "spec", None) if isinstance(here, list) and here else _sent_spec(env)
    else:
        spec = env.spec
    return spec if isinstance(spec, EnvSpec) else None


class _CanSendItsSpec:
    """Tells in a worker whether the env's spec can be pickled.

    It is passed to ``VecEnv.env_is_wrapped`` in the place of a wrapper's class: SB3's workers call ``isinstance`` with
    it, and a bool can be sent back for any env.
    """

    def __init__(self) -> None:
        self._answer: bool | None = None

    def __instancecheck__(self, env: Any) -> bool:
        if self._answer is None:  # asked of the outermost env first, then of those inside it
            try:
                self._answer = bool(ForkingPickler.dumps(env.spec))
            except Exception:  # pickling an object may raise anything
                self._answer = False
        return self._answer


def _sent_spec(env: Any) -> Any:
    try:
        if env.env_is_wrapped(_CanSendItsSpec(), indices=0)[0]:
            return env.get_attr("spec", indices=0)[0]
    except Exception:  # unpickling may fail here, and VecEnvs of other libraries may raise anything
        pass
    return None


def _made(maker: Any) -> gym.Env:
    """Call a class or a function that makes an env."""
    try:
        made = maker()
    except TypeError as error:
        raise ValueError(f"env must be made without arguments, or be given made, got {maker!r}: {error}") from error
    if not isinstance(made, gym.Env) or not hasattr(made, "observation_space"):
        raise ValueError(f"env must be a Gymnasium env or make one, got {maker!r}")
    return made


def _is_agent(env: Any) -> bool:
    sb3 = sys.modules.get("stable_baselines3.common.base_class")  # imported already if an agent exists
    return sb3 is not None and isinstance(env, sb3.BaseAlgorithm)


def _is_vec_env(env: Any) -> bool:
    sb3 = sys.modules.get("stable_baselines3.common.vec_env")  # imported already if a VecEnv exists
    return sb3 is not None and isinstance(env, sb3.VecEnv)


def _has_transparent_vec_wrappers(env: Any) -> bool:
    while _is_vec_env(env) and hasattr(env, "venv"):
        if type(env).__name__ not in _TRANSPARENT_VEC_WRAPPERS:
            return False
        env = env.venv
    return True
