"""Putting observations into the environments that draw them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mbrl_wrappers.envs.rendering import can_render, set_state_from_obs

pytestmark = pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date")

CLASSIC = (
    "Acrobot-v1",
    "CartPole-v0",
    "CartPole-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
)
ROBOTS = (
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedPendulum-v5",
    "Swimmer-v5",
    "Walker2d-v5",
)
MUJOCO = (*ROBOTS, "InvertedDoublePendulum-v5", "Pusher-v5", "Reacher-v5")


def _observe(env: Any) -> np.ndarray:
    """Return an unwrapped environment's observation of the state it is in."""
    for name in ("_get_obs", "_get_ob"):
        if hasattr(env, name):
            return getattr(env, name)()
    return np.array(env.state, dtype=np.float32)


def _play(env: Any, num_steps: int, seed: int = 0) -> None:
    """Act at random from a reset, and after an episode's end from a new one."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    for _ in range(num_steps):
        if env.step(env.action_space.sample())[2]:
            env.reset()


@pytest.fixture
def headless(monkeypatch):
    """Let pygame draw without a screen."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.mark.parametrize("env_id", [*CLASSIC, *MUJOCO])
def test_an_observation_comes_back_from_the_state(env_id):
    source: Any = gym.make(env_id).unwrapped
    target: Any = gym.make(env_id).unwrapped
    target.reset(seed=1)
    # contact forces and actuator forces are of the step taken, not of the state
    width = {"Ant-v5": 27, "Humanoid-v5": 45, "HumanoidStandup-v5": 45}.get(env_id)
    for num_steps in (0, 4, 8):
        _play(source, num_steps)
        if env_id in MUJOCO:  # a simulator's bodies lag behind its joints by one update
            source.set_state(source.data.qpos.copy(), source.data.qvel.copy())
        obs = _observe(source)[:width]
        assert not np.allclose(_observe(target)[:width], obs, atol=1e-4)
        set_state_from_obs(target, _observe(source))
        np.testing.assert_allclose(_observe(target)[:width], obs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("env_id", MUJOCO)
def test_the_simulator_is_in_the_state_observed(env_id):
    source: Any = gym.make(env_id).unwrapped
    target: Any = gym.make(env_id).unwrapped
    num_skipped = {"Ant-v5": 2, "Humanoid-v5": 2, "HumanoidStandup-v5": 2, "Swimmer-v5": 2}.get(env_id, 1)
    if env_id not in ROBOTS or env_id == "InvertedPendulum-v5":
        num_skipped = 0
    num_velocities = {"Pusher-v5": 7, "Reacher-v5": 2}.get(env_id, source.model.nv)
    _play(source, 5)
    target.reset(seed=1)
    obs = _observe(source)
    set_state_from_obs(target, obs)
    positions, velocities = source.data.qpos, np.clip(source.data.qvel, *_velocity_limits(env_id))
    np.testing.assert_array_equal(target.data.qpos[:num_skipped], 0)
    # the bodies that Pusher observes lag behind its joints by one update
    tolerance = 1e-3 if env_id == "Pusher-v5" else 1e-6
    np.testing.assert_allclose(target.data.qpos[num_skipped:], positions[num_skipped:], atol=tolerance)
    np.testing.assert_allclose(target.data.qvel[:num_velocities], velocities[:num_velocities], atol=1e-6)
    np.testing.assert_array_equal(target.data.qvel[num_velocities:], 0)


def _velocity_limits(env_id: str) -> tuple[float, float]:
    """Return the limits that an environment clips its observed velocities to."""
    clips = env_id in ("Hopper-v5", "InvertedDoublePendulum-v5", "Walker2d-v5")
    return (-10, 10) if clips else (-np.inf, np.inf)


@pytest.mark.parametrize("env_id", ["Ant-v5", "Hopper-v5", "Swimmer-v5"])
def test_root_positions_that_are_observed_are_kept(env_id):
    kwargs = {"exclude_current_positions_from_observation": False}
    source: Any = gym.make(env_id, **kwargs).unwrapped
    target: Any = gym.make(env_id, **kwargs).unwrapped
    _play(source, 5)
    target.reset(seed=1)
    set_state_from_obs(target, _observe(source))
    np.testing.assert_allclose(target.data.qpos, source.data.qpos, atol=1e-12)


@pytest.mark.parametrize("env_id", CLASSIC)
def test_the_frame_is_that_of_the_real_state(env_id, headless):
    source, target = gym.make(env_id, render_mode="rgb_array"), gym.make(env_id, render_mode="rgb_array")
    target.reset(seed=1)
    target.step(target.action_space.sample())  # a pendulum's torque arrow must not stay
    frames = []
    for seed, num_steps in ((0, 0), (1, 10), (2, 20)):
        _play(source, num_steps, seed)
        if env_id == "Pendulum-v1":
            pendulum: Any = source.unwrapped
            pendulum.last_u = None
        set_state_from_obs(target, _observe(source.unwrapped))
        frames.append(target.render())
        np.testing.assert_array_equal(frames[-1], source.render())
    assert (frames[0] != frames[1]).any() and (frames[1] != frames[2]).any()
    source.close()
    target.close()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_callers_observation_is_neither_kept_nor_changed(dtype):
    env: Any = gym.make("CartPole-v1")
    env.reset(seed=0)
    obs = np.array([0.1, 0.2, 0.03, 0.4], dtype=dtype)
    set_state_from_obs(env, obs)
    env.step(0)
    np.testing.assert_array_equal(obs, np.array([0.1, 0.2, 0.03, 0.4], dtype=dtype))
    set_state_from_obs(env, obs)
    obs[0] = 2.0
    assert env.unwrapped.state[0] == pytest.approx(0.1)


def test_environments_that_cannot_be_shown_are_refused_by_id():
    env = gym.make("FrozenLake-v1")
    assert not can_render(env)
    with pytest.raises(ValueError, match=r"^env must be one of .*'Hopper-v5'.* of id 'FrozenLake-v1'"):
        set_state_from_obs(env, np.zeros(16))
    by_hand = type(gym.make("Pendulum-v1").unwrapped)()
    assert not can_render(by_hand)
    with pytest.raises(ValueError, match=r"^env must be one of .* of id None"):
        set_state_from_obs(by_hand, np.zeros(3))


def test_wrapped_or_not_makes_no_difference():
    env: Any = gym.wrappers.RescaleObservation(gym.make("Pendulum-v1"), -1, 1)
    for shown in (env, env.unwrapped):
        assert can_render(shown)
        set_state_from_obs(shown, np.array([0.0, 1.0, 5.0]))
        np.testing.assert_allclose(env.unwrapped.state, [np.pi / 2, 5.0])
        env.reset(seed=0)


@pytest.mark.parametrize("obs", [np.zeros(2), np.zeros((1, 3)), np.array([1.0, 0.0, np.nan])])
def test_what_is_not_an_observation_is_refused(obs):
    with pytest.raises(ValueError, match=r"^obs must be finite numbers of shape \(3,\), got shape"):
        set_state_from_obs(gym.make("Pendulum-v1"), obs)
