"""The DeepMind Control Suite's tasks as Gymnasium envs."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mbrl_wrappers.tasks import control_suite
from mbrl_wrappers.tasks.control_suite import CONTROL_TASKS, make_control_task
from mbrl_wrappers.tasks.registration import register_tasks

register_tasks()
needs_suite = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("dm_control", "shimmy")), reason="needs the extra dm-control"
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SWINGUP, PIXELS = "mbrl_wrappers/control-cartpole-swingup-v0", "mbrl_wrappers/control-cartpole-swingup-pixels-v0"


def test_ids_are_registered_without_the_suite() -> None:
    assert SWINGUP in gym.registry and len([i for i in gym.registry if "/control-" in i]) == 2 * len(CONTROL_TASKS)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"pip install mbrl-wrappers\[dm-control\]"):
        gym.make(SWINGUP)


@needs_suite
def test_the_list_is_of_the_suite_s_tasks() -> None:
    from dm_control import suite

    assert {tuple(name.split("-")) for name in CONTROL_TASKS} <= set(suite.ALL_TASKS)


@needs_suite
@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_an_episode_is_a_thousand_control_steps_and_ends_with_a_truncation(repeat: int) -> None:
    env: Any = gym.make(SWINGUP, action_repeat=repeat)
    limit = -(-1000 // repeat)
    assert env.spec.max_episode_steps == limit
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    assert np.array_equal(first, again) and first.dtype == np.float32 and env.observation_space.contains(first)
    steps, ended = 0, (False, False)
    while not any(ended):
        obs, reward, *ended, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs) and 0 <= reward <= repeat
        steps += 1
    assert steps == limit and list(ended) == [False, True]


@needs_suite
def test_a_repeated_action_is_the_action_taken_again_and_rewards_add_up() -> None:
    once, thrice = (make_control_task("cartpole", "swingup", action_repeat=repeat) for repeat in (1, 3))
    once.reset(seed=1)
    thrice.reset(seed=1)
    for action in (0.5, -1.0, 0.2):
        rows = [once.step(np.array([action])) for _ in range(3)]
        obs, reward, *_ = thrice.step(np.array([action]))
        assert np.array_equal(obs, rows[-1][0]) and reward == pytest.approx(sum(float(row[1]) for row in rows))


@needs_suite
@pytest.mark.filterwarnings("ignore:.*A Box observation space:UserWarning")
def test_gymnasium_s_checker_passes() -> None:
    check_env(gym.make(SWINGUP).unwrapped, skip_render_check=True)


@needs_suite
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="domain and task must be of the Control Suite, got 'cart' and 'swingup'"):
        make_control_task("cart", "swingup")
    with pytest.raises(ValueError, match="action_repeat must be a whole number of at least 1, got 0"):
        gym.make(SWINGUP, action_repeat=0)


# -- frames --------------------------------------------------------------------------------------------------


def shades(physics: Any, height: int, width: int, camera_id: int) -> np.ndarray:
    """A frame whose shade tells the cart's place, drawn without OpenGL."""
    return np.full((height, width, 3), 128 + 40 * physics.data.qpos[0], np.uint8)


@needs_suite
def test_frames_show_the_state_after_all_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dm_control.mujoco.engine.Physics.render", shades)
    vectors, frames = gym.make(SWINGUP), gym.make(PIXELS)
    assert frames.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    vector, frame = vectors.reset(seed=4)[0], frames.reset(seed=4)[0]
    for _ in range(20):
        assert frames.observation_space.contains(frame) and frame[0, 0, 0] == int(128 + 40 * vector[0])
        (vector, reward, *_), (frame, other, *_) = (env.step(np.ones(1)) for env in (vectors, frames))
        assert reward == other
    assert make_control_task("walker", "walk", pixels=20).observation_space.shape == (20, 20, 3)


@needs_suite
def test_what_keeps_frames_from_being_drawn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def broken(*_: Any, **__: Any) -> None:
        attempts.append(1)
        raise RuntimeError("no display")

    monkeypatch.setattr(control_suite._Drawing, "works", False)
    monkeypatch.setattr(control_suite._Drawing, "failure", None)

    with pytest.raises(ValueError, match="pixels must be a whole number of at least 1, got 0"):
        make_control_task("walker", "walk", pixels=0)
    monkeypatch.setattr("dm_control.mujoco.engine.Physics.render", broken)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"can't be drawn: no display. .* MUJOCO_GL to egl"):
        gym.make(PIXELS)
    env = gym.make(SWINGUP, render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"can't be drawn: no display. .* MUJOCO_GL to egl"):
        env.render()
    assert len(attempts) == 1  # a second one may end the process
