"""Motion far below the values, envs that leave their space, and counters of bytes, all the way to agents."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC

from mbrl_wrappers import Dyna, ModelBased
from mbrl_wrappers.envs import ImaginedEnv, collect_transitions
from mbrl_wrappers.models import EnsembleDynamics
from testing.models import seeded

SETTINGS: dict[str, Any] = {"hidden": (16, 16), "num_members": 3, "num_elites": 2, "max_steps": 300}


class Far(gym.Env):
    """A walker that is seen from a distance: metres from the equator, or seconds since 1970."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, offset: float, dtype: Any = np.float64) -> None:
        self.offset = offset
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), dtype)

    def _obs(self) -> np.ndarray:
        return np.array([self.offset + self.x, self.x], self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = 0.0, 0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.x += 0.1 * float(action[0])
        self.t += 1
        return self._obs(), -abs(self.x), False, self.t >= 50, {}


def far_model(offset: float) -> EnsembleDynamics:
    return EnsembleDynamics(Far(offset).observation_space, Far.action_space, termination_fn="Pendulum-v1", **SETTINGS)


@pytest.fixture(scope="module", params=[5e5, 4.5e6, 1.7e9])
def far(request) -> EnsembleDynamics:
    model = far_model(request.param)
    data = collect_transitions(Far(request.param), model, 600, seed=0)
    with pytest.warns(UserWarning, match=r"float32 can't resolve how observation_space\[0\] changes") as caught:
        model.fit(data, seeded())
        model.fit(data, seeded())
    assert len(caught) == 1
    model.offset = request.param
    return model


def test_the_motion_of_far_observations_is_learned(far):
    data = collect_transitions(Far(far.offset), far, 300, seed=1)
    with torch.no_grad():
        p = far.predict(data.obs, data.action, deterministic=True)
    assert p.next_obs.dtype == far.obs_dtype == torch.float64
    true = 0.1 * data.action.double()
    for column in (0, 1):
        error = (p.next_obs - data.obs)[:, column] - true[:, 0]
        assert error.square().mean().sqrt() < 0.05 * true.std()


def test_a_saved_model_keeps_the_motion(far, tmp_path):
    far.save(tmp_path / "far.safetensors")
    loaded = EnsembleDynamics.load(tmp_path / "far.safetensors")
    assert loaded.obs_dtype == torch.float64 and torch.equal(loaded.start_obs, far.start_obs)
    action = torch.linspace(-1, 1, 40)[:, None]
    with torch.no_grad():
        one, other = (m.predict(far.start_obs[:40], action, generator=seeded()) for m in (far, loaded))
    assert torch.equal(one.next_obs, other.next_obs)


def test_an_imagined_env_keeps_the_motion(far):
    env = ImaginedEnv(far, deterministic=True)
    obs, _ = env.reset(seed=0)
    assert obs.dtype == np.float64
    for step in range(10):
        action = np.float32([(-1) ** step * 0.8])
        next_obs, *_ = env.step(action)
        assert next_obs - obs == pytest.approx([0.08 * (-1) ** step] * 2, abs=0.02)
        obs = next_obs


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_near_observations_stay_in_float32_without_a_word(offset):
    model = far_model(offset)
    data = collect_transitions(Far(offset), model, 300, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(data, seeded())
    assert model.obs_dtype == torch.float32


def test_dynas_rows_keep_the_motion():
    env = Far(1.7e9)
    agent = SAC("MlpPolicy", env, learning_starts=150, buffer_size=500, policy_kwargs={"net_arch": [8]}, seed=0)
    strategy = Dyna(real_ratio=0.1, rollouts_per_step=20)
    with pytest.warns(UserWarning, match="float32 can't resolve"):
        agent.learn(170, callback=ModelBased(strategy, far_model(1.7e9), fit_every=150))
    rows = strategy._buffer.ordered()
    moved = rows.next_obs.double() - rows.obs.double()
    assert rows.obs.dtype == torch.float64
    error = moved[:, 0] - 0.1 * rows.action[:, 0].double()
    assert error.square().mean().sqrt() < 0.02  # of up to 0.1; float32 is spaced by 128 there


# -- integers ---------------------------------------------------------------------------------------------


class Edge(gym.Env):
    """Two counters of bytes, one near each end of their range."""

    observation_space = spaces.Box(0, 255, (2,), np.uint8)
    action_space = spaces.Discrete(2)

    def _obs(self) -> np.ndarray:
        return np.array([self.a, 255 - self.a], np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.a, self.t = 3, 0
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.a = int(np.clip(self.a + (1 if self.np_random.random() < 0.5 else -1), 0, 6))
        self.t += 1
        return self._obs(), 0.0, False, self.t >= 50, {}


def test_counters_of_bytes_never_wrap_around_in_a_batch():
    env = Edge()
    agent = DQN("MlpPolicy", env, learning_starts=150, buffer_size=500, policy_kwargs={"net_arch": [8]}, seed=0)
    model = EnsembleDynamics.for_env(env, **SETTINGS)
    strategy = Dyna(real_ratio=0.05, rollouts_per_step=50, rollout_length=3)
    callback = ModelBased(strategy, model, fit_every=150)
    agent.learn(200, callback=callback)
    batch = strategy.sample(agent.replay_buffer, 1000, None)
    for obs in (batch.observations, batch.next_observations):
        assert obs[:, 0].max() < 64 and obs[:, 1].min() > 192
        assert torch.equal(obs.float(), obs.float().round())


# -- envs that leave their space ----------------------------------------------------------------------------


class Outside(gym.Env):
    """It declares [0, 1] and gives 2 to 5."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(2, 5), 0
        return np.array([self.x], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.x = float(np.clip(self.x + 0.1 * action[0], 2, 5))
        self.t += 1
        return np.array([self.x], np.float32), -abs(self.x - 3), False, self.t >= 10, {}


def test_imagined_values_are_those_of_the_real_env_where_it_leaves_its_space():
    model = EnsembleDynamics.for_env(Outside(), **SETTINGS)
    data = collect_transitions(Outside(), model, 500, seed=0)
    with pytest.warns(UserWarning, match=r"observation_space\[0\] must be in \[0, 1\], got 2.* to [45]") as caught:
        model.fit(data, seeded())
    assert len(caught) == 1
    env = ImaginedEnv(model, deterministic=True)
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        assert obs in model.start_obs.numpy()
        for action in (1.0, 1.0, -1.0):
            next_obs, *_ = env.step(np.float32([action]))
            assert next_obs == pytest.approx(np.clip(obs + 0.1 * action, 2, 5), abs=0.03)
            obs = next_obs
