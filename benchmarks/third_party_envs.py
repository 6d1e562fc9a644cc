"""Environments that nobody here wrote: what makes them, and how their rows are collected."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from third_party_rows import Rows


@dataclass(frozen=True)
class Task:
    """An env of a package.

    Attributes:
        package: as the package index has it.
        env: how the table calls it.
        make: makes it; fails where the package is missing.
        kind: ``"vector"``, or ``"grid"`` for pictures of a few cells that are laid flat.
    """

    package: str
    env: str
    make: Callable[[], gym.Env]
    kind: str = "vector"

    @property
    def name(self) -> str:
        return f"{self.package}/{self.env}"

    @property
    def file(self) -> str:
        return self.name.replace("/", "_")


def registered(module: str, env_id: str, **kwargs: Any) -> Callable[[], gym.Env]:
    """Make an env whose module registers it when it is imported, or has to be registered."""

    def make() -> gym.Env:
        with warnings.catch_warnings():  # what comes with PyFlyt makes errors of all warnings
            gym.register_envs(importlib.import_module(module))
            return gym.make(env_id, **kwargs)

    return make


def _minigrid(env_id: str) -> Callable[[], gym.Env]:
    def make() -> gym.Env:
        from minigrid.wrappers import ImgObsWrapper

        return FlattenObservation(ImgObsWrapper(gym.make(env_id)))

    return make


def _minatar() -> gym.Env:
    register = importlib.import_module("minatar.gym").register_envs
    if "MinAtar/Breakout-v1" not in gym.registry:
        register()
    return FlattenObservation(gym.make("MinAtar/Breakout-v1"))


def _trading() -> gym.Env:
    """Trade on a random walk: the package's own prices come from the network."""
    importlib.import_module("gym_trading_env")
    import pandas

    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 6000)))
    frame = pandas.DataFrame(
        {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": rng.random(6000)},
        index=pandas.date_range("2020", periods=6000, freq="h"),
    )
    frame["feature_return"] = frame["close"].pct_change().fillna(0)
    frame["feature_volume"] = frame["volume"]
    return gym.make("TradingEnv", df=frame, positions=[-1, 0, 1], max_episode_duration=200, verbose=0)


def _electric_motor(env_id: str) -> Callable[[], gym.Env]:
    return lambda: importlib.import_module("gym_electric_motor").make(env_id)


def _reactor() -> gym.Env:
    make_env = importlib.import_module("pcgym").make_env
    return make_env(
        {
            "model": "cstr",
            "N": 60,
            "tsim": 25,
            "SP": {"Ca": [0.85] * 30 + [0.9] * 30},
            "x0": np.array([0.8, 330, 0.8]),
            "o_space": {"low": np.array([0.7, 300, 0.8]), "high": np.array([1, 350, 0.9])},
            "a_space": {"low": np.array([295.0]), "high": np.array([302.0])},
            "integration_method": "casadi",
            "noise": False,
        }
    )


def _minecart() -> gym.Env:
    package = importlib.import_module("mo_gymnasium")
    return package.wrappers.LinearReward(package.make("minecart-v0"))


TASKS: tuple[Task, ...] = (
    Task("highway-env", "highway-fast-v0", registered("highway_env", "highway-fast-v0")),
    Task("highway-env", "parking-v0", registered("highway_env", "parking-v0")),
    Task("panda-gym", "PandaReach-v3", registered("panda_gym", "PandaReach-v3")),
    Task("panda-gym", "PandaPush-v3", registered("panda_gym", "PandaPush-v3")),
    Task("gymnasium-robotics", "PointMaze_UMaze-v3", registered("gymnasium_robotics", "PointMaze_UMaze-v3")),
    Task("gymnasium-robotics", "AdroitHandDoor-v1", registered("gymnasium_robotics", "AdroitHandDoor-v1")),
    Task("gymnasium-robotics", "FetchReach-v4", registered("gymnasium_robotics", "FetchReach-v4")),
    Task("gym-pusht", "PushT-v0", registered("gym_pusht", "gym_pusht/PushT-v0", obs_type="state")),
    Task(
        "flappy-bird-gymnasium",
        "FlappyBird-v0",
        registered("flappy_bird_gymnasium", "FlappyBird-v0", use_lidar=False),
    ),
    Task("shimmy", "cartpole-swingup-v0", registered("shimmy", "dm_control/cartpole-swingup-v0")),
    Task("shimmy", "reacher-easy-v0", registered("shimmy", "dm_control/reacher-easy-v0")),
    Task("shimmy", "walker-walk-v0", registered("shimmy", "dm_control/walker-walk-v0")),
    Task("minigrid", "Empty-8x8-v0", _minigrid("MiniGrid-Empty-8x8-v0"), "grid"),
    Task("minigrid", "DoorKey-5x5-v0", _minigrid("MiniGrid-DoorKey-5x5-v0"), "grid"),
    Task("ale-py", "Pong-v5-ram", registered("ale_py", "ALE/Pong-v5", obs_type="ram")),
    Task("ale-py", "Breakout-v5-ram", registered("ale_py", "ALE/Breakout-v5", obs_type="ram")),
    Task("gym-trading-env", "TradingEnv", _trading),
    Task("gym-anytrading", "stocks-v0", registered("gym_anytrading", "stocks-v0")),
    Task("gym-electric-motor", "Cont-CC-PMSM-v0", _electric_motor("Cont-CC-PMSM-v0")),
    Task("gym-electric-motor", "Finite-SC-PermExDc-v0", _electric_motor("Finite-SC-PermExDc-v0")),
    Task("pcgym", "cstr", _reactor),
    Task("PyFlyt", "QuadX-Hover-v4", registered("PyFlyt.gym_envs", "PyFlyt/QuadX-Hover-v4")),
    Task("mo-gymnasium", "minecart-v0", _minecart),
    Task("minatar", "Breakout-v1", _minatar, "grid"),
    Task("gym-anm", "ANM6Easy-v0", registered("gym_anm", "ANM6Easy-v0")),
    Task("tetris-gymnasium", "Tetris", registered("tetris_gymnasium.envs", "tetris_gymnasium/Tetris"), "grid"),
    Task("mobile-env", "small-central-v0", registered("mobile_env", "mobile-small-central-v0")),
)


def collect(env: gym.Env, count: int, seed: int = 0) -> Rows:
    """Step an env with uniform random actions, whose stream is not the env's.

    Args:
        env: of any space that can be laid flat.
        count: rows.
        seed: of the env; the actions have one of their own.
    """
    env_seed, action_seed = (int(part.generate_state(1)[0]) for part in np.random.SeedSequence(seed).spawn(2))
    env.action_space.seed(action_seed)
    obs, _ = env.reset(seed=env_seed)
    rows: list[tuple[Any, ...]] = []
    episode = 0
    for _ in range(count):
        action = env.action_space.sample()
        before, taken = _flat(env.observation_space, obs), _flat(env.action_space, action)
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((before, taken, float(reward), _flat(env.observation_space, obs), bool(terminated), episode))
        if terminated or truncated:
            obs, _ = env.reset()
            episode += 1
    return Rows(*map(np.array, zip(*rows, strict=True)))


def _flat(space: spaces.Space, value: Any) -> np.ndarray:
    # A copy at once, since an env may go on to write into the arrays that it gave away.
    return np.array(spaces.flatten(space, value), dtype=np.float64)
