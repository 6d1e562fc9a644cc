"""What users do with an env and a model of it, tried one after the other."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.env_checker import check_env as check_sb3
from third_party_envs import Task
from third_party_rows import UNFINISHED

from mbrl_wrappers.agents import Dyna
from mbrl_wrappers.envs import ImaginedEnv, Snapshots
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.wrappers import MPCAction

DYNA_STEPS = 150


def imagined(task: Task, model: EnsembleDynamics) -> str:
    check_gymnasium(ImaginedEnv(model, horizon=20), skip_render_check=True)
    check_sb3(ImaginedEnv(model, horizon=20))
    return "yes"


def plan(task: Task, model: EnsembleDynamics) -> str:
    env = MPCAction(task.make(), model, seed=0)
    env.reset(seed=0)
    start = time.process_time()
    env.step(env.action_space.sample())
    return f"yes ({time.process_time() - start:.1f} s)"


def dyna(task: Task, model: EnsembleDynamics) -> str:
    """Train an SB3 agent on imagination for a few steps, under a small model of its own."""
    env, note = task.make(), ""
    if isinstance(env.observation_space, spaces.Tuple):
        env, note = FlattenObservation(env), " (observations flattened, SB3 has no Tuple)"
    own = EnsembleDynamics.for_env(env, num_members=2, num_elites=2, hidden=(32, 32), max_steps=50)
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    common: dict[str, Any] = {
        "learning_starts": 100,
        "buffer_size": 1000,
        "batch_size": 32,
        "policy_kwargs": {"net_arch": [32, 32]},
    }
    if isinstance(env.action_space, spaces.Box):
        agent: Any = SAC(policy, env, seed=0, device="cpu", **common)
    elif isinstance(env.action_space, spaces.Discrete):
        agent = DQN(policy, env, train_freq=1, seed=0, device="cpu", **common)
    else:
        return f"no off-policy agent of SB3 has {type(env.action_space).__name__} actions"
    agent.learn(DYNA_STEPS, callback=ModelBased(Dyna(rollouts_per_step=10), dynamics=own))
    return "yes" + note


def snapshots(task: Task, model: EnsembleDynamics) -> str:
    env = task.make()
    try:
        Snapshots(env)
    except ValueError as error:
        return f"refused: {str(error).split(f'got {env}: ')[-1]}"
    return "exact"


USES: dict[str, Callable[[Task, EnsembleDynamics], str]] = {
    "imagined": imagined,
    "mpc": plan,
    "dyna": dyna,
    "snapshots": snapshots,
}


def try_uses(task: Task, model: EnsembleDynamics, say: Callable[[dict[str, str]], None]) -> None:
    """Try each; ``say`` gets what is known after each, so that a crash of the process costs one answer."""
    answers: dict[str, str] = {}
    for name, use in USES.items():
        say({**answers, name: UNFINISHED})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers[name] = use(task, model)
        except Exception as error:
            answers[name] = f"{type(error).__name__}: {error}"
        say(answers)
