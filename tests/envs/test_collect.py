"""Real transitions out of an environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.models import EnsembleDynamics


class Counter(gym.Env):
    """Counts its steps in one array that it writes into, and gives that same array away each time."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length: int, terminates: bool) -> None:
        self.state = np.zeros(1, np.float32)
        self.length, self.terminates = length, terminates

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state[:] = 0
        return self.state, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.state += 1
        over = bool(self.state[0] == self.length)
        return self.state, float(action[0]), over and self.terminates, over and not self.terminates, {}


def model_for(env: gym.Env) -> EnsembleDynamics:
    return EnsembleDynamics(env.observation_space, env.action_space, hidden=(8,))


@pytest.mark.parametrize("terminates", [True, False])
def test_an_env_that_writes_into_its_arrays_is_recorded_as_it_was(terminates):
    env = Counter(3, terminates)
    buffer = np.zeros(1, np.float32)

    def policy(obs: np.ndarray) -> np.ndarray:
        buffer[:] = 0.1 * (obs + 1)
        return buffer

    real = collect_transitions(env, model_for(env), 7, policy=policy)
    assert real.obs[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert real.next_obs[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]  # the last one, never the next episode's first
    assert torch.allclose(real.action[:, 0], 0.1 * real.next_obs[:, 0]) and torch.equal(real.action[:, 0], real.reward)
    assert real.terminated.tolist() == [terminates and step == 3 for step in (1, 2, 3, 1, 2, 3, 1)]
    assert real.key.tolist() == list(range(7))


def test_seeded_collections_are_equal():
    env = gym.make("Pendulum-v1")
    once, again = (collect_transitions(env, model_for(env), 50, seed=4) for _ in range(2))
    assert torch.equal(once.obs, again.obs) and torch.equal(once.action, again.action)


def test_wrong_arguments_are_named():
    env = Counter(3, True)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        collect_transitions(env, model_for(env), 0)
    with pytest.raises(ValueError, match=r"env\.observation_space must be Box"):
        collect_transitions(gym.make("CartPole-v1"), model_for(env), 5)
