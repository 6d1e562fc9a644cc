"""Tasks of the DeepMind Control Suite (Tassa et al. 2018) with vectors or frames as observations, by Shimmy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from mbrl_wrappers.arguments import check_whole_number

EPISODE_STEPS = 1000
"""Control steps of an episode, the same in all tasks."""
CONTROL_TASKS = (
    "acrobot-swingup",
    "ball_in_cup-catch",
    "cartpole-balance",
    "cartpole-balance_sparse",
    "cartpole-swingup",
    "cartpole-swingup_sparse",
    "cheetah-run",
    "finger-spin",
    "finger-turn_easy",
    "finger-turn_hard",
    "hopper-hop",
    "hopper-stand",
    "humanoid-run",
    "humanoid-stand",
    "humanoid-walk",
    "pendulum-swingup",
    "point_mass-easy",
    "reacher-easy",
    "reacher-hard",
    "walker-run",
    "walker-stand",
    "walker-walk",
)
"""Domain and task of each, as in its ids ``mbrl_wrappers/control-<domain>-<task>-v0`` and ``...-pixels-v0``."""
FRAME_SIZE = 64
CAMERA = 0


class ControlTask(gym.Env[np.ndarray, np.ndarray]):
    """A task whose observation is one float32 vector of all its parts, or a frame, and whose actions are repeated.

    Args:
        env: Shimmy's, with a Dict of observations.
        action_repeat: control steps for each step; their rewards are added up.
        draw: returns a frame ``[H, W, 3]`` of uint8, which is the observation; default: vectors.
    """

    def __init__(self, env: gym.Env, action_repeat: int, draw: Callable[[], np.ndarray] | None = None) -> None:
        check_whole_number("action_repeat", action_repeat)
        self._env, self.action_repeat, self._draw = env, action_repeat, draw
        self.render_mode, self.metadata = env.render_mode, env.metadata
        self.action_space = env.action_space
        parts = env.observation_space
        assert isinstance(parts, spaces.Dict)
        width = sum(int(np.prod(part.shape or ())) for part in parts.values())
        self.observation_space: spaces.Box = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        if draw is not None:
            self.observation_space = spaces.Box(0, 255, draw().shape, np.uint8)

    def _shown(self, obs: dict[str, Any]) -> np.ndarray:
        if self._draw is not None:
            return self._draw()
        return np.concatenate([np.ravel(part) for part in obs.values()]).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        obs, _ = self._env.reset(seed=seed, options=options)
        return self._shown(obs), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action some times, until the episode ends at most."""
        total = 0.0
        for _ in range(self.action_repeat):
            obs, reward, terminated, truncated, _ = self._env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return self._shown(obs), total, terminated, truncated, {}

    def render(self) -> Any:
        """Draw the robot, if there is a renderer; see :func:`make_control_task`."""
        return _drawn(self._env.render)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


def make_control_task(
    domain: str, task: str, *, action_repeat: int = 2, pixels: int | None = None, render_mode: str | None = None
) -> gym.Env:
    """Make a task; its ids are registered in :mod:`mbrl_wrappers.tasks.registration`.

    An episode has 1,000 control steps, and ends with a truncation; a reward lies in [0, ``action_repeat``].

    Args:
        domain: such as ``"cartpole"``.
        task: such as ``"swingup"``.
        action_repeat: control steps for each step.
        pixels: height and width of the frames that are the observations; default: vectors.
        render_mode: ``"rgb_array"``, ``"human"`` or None. To draw without a screen, the variable ``MUJOCO_GL`` has to
            be ``egl`` or ``osmesa``, with the library that it names.

    Raises:
        DependencyNotInstalled: without the extra ``dm-control``, or if frames can't be drawn.
        ValueError: for a task that the suite does not have, or an argument out of its range.
    """
    try:
        from dm_control import suite
        from shimmy.dm_control_compatibility import DmControlCompatibilityV0
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            f"{error}: the tasks of the Control Suite need `pip install mbrl-wrappers[dm-control]`"
        ) from error
    if (domain, task) not in suite.ALL_TASKS:
        raise ValueError(f"domain and task must be of the Control Suite, got {domain!r} and {task!r}")
    own = suite.load(domain, task)
    draw = None if pixels is None else _frames_of(own, pixels)
    env = ControlTask(DmControlCompatibilityV0(own, render_mode=render_mode), action_repeat, draw)
    return TimeLimit(env, -(-EPISODE_STEPS // action_repeat))


def _frames_of(own: Any, pixels: int) -> Callable[[], np.ndarray]:
    """Return a function that draws a task of the suite as it stands, ``[pixels, pixels, 3]`` of uint8."""
    check_whole_number("pixels", pixels)

    def draw() -> np.ndarray:
        return np.ascontiguousarray(own.physics.render(height=pixels, width=pixels, camera_id=CAMERA))

    _drawn(draw)
    return draw


class _Drawing:
    """Whether MuJoCo can draw in this process, once that is known.

    Attributes:
        works: whether a frame was drawn.
        failure: why the first attempt failed; a second one of MuJoCo's would end the process.
    """

    works = False
    failure: str | None = None


def _drawn(draw: Callable[[], Any]) -> Any:
    """Return what a function draws, or raise an error that names what drawing needs."""
    error: Exception | None = None
    if _Drawing.failure is None:
        try:
            frame = draw()
        except Exception as first:  # each backend of MuJoCo raises another kind
            if _Drawing.works:
                raise
            error, _Drawing.failure = first, str(first)
        else:
            _Drawing.works = True
            return frame
    raise gym.error.DependencyNotInstalled(
        f"frames can't be drawn: {_Drawing.failure}. Without a screen, set the variable MUJOCO_GL to egl or osmesa "
        "before MuJoCo is imported, and install that library, such as libegl1 or libosmesa6"
    ) from error
