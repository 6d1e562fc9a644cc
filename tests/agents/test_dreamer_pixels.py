"""Latent models of pixels as users have them: rendered frames, made smaller, grey and stacked, without a screen."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    AddRenderObservation,
    FrameStackObservation,
    GrayscaleObservation,
    ResizeObservation,
    TimeLimit,
    TransformObservation,
)
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from mbrl_wrappers.agents import Dreamer, PlaNet
from mbrl_wrappers.envs import ImaginedVecEnv
from mbrl_wrappers.models import RSSM
from mbrl_wrappers.zoo.environment import make_env

MODEL: dict[str, Any] = {"deter": 16, "units": 16, "layers": 1, "depth": 2, "latent": [4, 4], "bins": 9}


def rendered(env_id: str, *, grey: bool = False, stack: int = 1, **kwargs: Any) -> gym.Env:
    env: gym.Env = AddRenderObservation(gym.make(env_id, render_mode="rgb_array", max_episode_steps=12), **kwargs)
    env = ResizeObservation(env, (24, 24))
    env = GrayscaleObservation(env, keep_dim=True) if grey else env
    return env if stack == 1 else FrameStackObservation(env, stack)


def trained(env: Any, kind: Any = Dreamer) -> Any:
    shown = BaseAlgorithm._wrap_env(env, verbose=0).observation_space  # the channels first
    model = RSSM(shown, env.action_space, **MODEL, sequence_length=8, batch_size=2, train_steps=1)
    arguments: dict[str, Any] = {"batch_size": 2, "sequence_length": 8, "replay_ratio": 4, "horizon": 3}
    if kind is PlaNet:
        arguments = {"planner_kwargs": {"horizon": 2, "population": 4, "num_elites": 2, "iterations": 1}}
    agent = kind(
        "CnnPolicy", env, dynamics=model, learning_starts=20, buffer_size=100, seed=0, device="cpu", **arguments
    )
    return agent.learn(40)


@pytest.mark.parametrize(
    "options",
    [{}, {"grey": True}, {"grey": True, "stack": 3}, {"stack": 2}],
    ids=["colours", "grey", "grey frames", "colour frames"],
)
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_rendered_frames_are_learned(env_id: str, options: dict[str, Any]) -> None:
    env = rendered(env_id, **options)
    agent = trained(env)
    assert agent._n_updates > 0
    obs, _ = env.reset(seed=0)
    action, state = agent.predict(obs, deterministic=True)
    assert env.action_space.contains(action) and state[0].shape == (1, agent.dynamics.num_features)
    dream = ImaginedVecEnv(agent.dynamics, 2, horizon=3, render_mode="rgb_array", seed=0)
    assert dream.reset().shape == (2, *agent.observation_space.shape)
    frame = dream.get_images()[0]
    assert frame is not None and frame.shape[2] == 3 and frame.dtype == np.uint8


def test_frames_are_stacked_by_sb3_too_and_planet_sees_them() -> None:
    env = VecFrameStack(make_vec_env(lambda: rendered("Pendulum-v1", grey=True), 2), 3)
    agent = trained(env)
    assert agent._n_updates > 0 and agent.observation_space.shape == (3, 24, 24)
    assert trained(rendered("CartPole-v1", grey=True), PlaNet)._num_fits > 0


def test_pixels_and_numbers_are_seen_together() -> None:
    env = AddRenderObservation(gym.make("Pendulum-v1", render_mode="rgb_array"), render_only=False)
    space = spaces.Dict(state=env.observation_space["state"], pixels=spaces.Box(0, 255, (25, 25, 3), np.uint8))
    small = TimeLimit(TransformObservation(env, lambda obs: {**obs, "pixels": obs["pixels"][::20, ::20]}, space), 12)
    shown = BaseAlgorithm._wrap_env(small, verbose=0).observation_space
    model = RSSM(shown, small.action_space, **MODEL)
    agent = Dreamer(
        "MultiInputPolicy", small, dynamics=model, batch_size=2, sequence_length=8, replay_ratio=4, horizon=3,
        learning_starts=20, buffer_size=100, device="cpu",
    ).learn(40)  # fmt: skip
    assert agent._n_updates > 0


def test_mujoco_renders_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo chooses MuJoCo's backend before the env is made, unless the user did."""
    pytest.importorskip("mujoco")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    make_env("CartPole-v1").close()
    assert os.environ["MUJOCO_GL"] == "egl"


@pytest.mark.parametrize(
    ("space", "is_image"),
    [(spaces.Box(0, 255, (2, 2, 3), np.uint8), True), (spaces.Box(0.0, 1.0, (16, 16, 3), np.float32), False)],
    ids=["too small to be halved", "floats"],
)
def test_unusual_images_are_encoded_too(space: spaces.Space, is_image: bool) -> None:
    """Floats are numbers like others; an image too small for a convolution is encoded as it is."""
    model = RSSM(space, spaces.Discrete(2), **MODEL)
    obs = model.obs_codec.encode(np.stack([space.sample()] * 2))
    assert bool(model.obs_codec.images) == is_image and model.decode(model.begin(obs)).shape == obs.shape


def test_a_wrong_shape_is_named_and_so_is_an_env_that_does_not_render() -> None:
    agent = trained(rendered("Pendulum-v1", grey=True))
    with pytest.raises(ValueError, match=r"Unexpected observation shape \(24, 20, 1\)"):
        agent.predict(np.zeros((24, 20, 1), np.uint8))
    with pytest.raises(Exception, match="render_mode"):
        AddRenderObservation(gym.make("Pendulum-v1"))
