"""Tree search in true simulators and in models."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_wrappers.models import KnownDynamics
from mbrl_wrappers.planners.tree import PUCT, UCT, Gumbel, TreeSearch, root_generators
from mbrl_wrappers.wrappers.expansions import ModelExpansion, SimulatorExpansion

METHODS = [Gumbel(), PUCT(dirichlet_fraction=0.0), UCT()]


class Corridor(gym.Env):
    """Walk to the right end of a line; at 2 the step to the left is forbidden. Actions are named 5, 6 and 7."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 9, (1,))
        self.action_space = gym.spaces.Discrete(3, start=5)
        self.place = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = 1
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_masks()[action - 5], "a forbidden action"
        self.place += int(action) - 6
        return self._obs(), float(self.place == 4), self.place in (0, 4), False, {}

    def action_masks(self) -> np.ndarray:
        return np.array([self.place != 2, True, True])

    def _obs(self) -> np.ndarray:
        return np.array([self.place], np.float32)


def by_angle(obs: Any) -> tuple[np.ndarray, np.ndarray]:
    """A value for CartPole."""
    rows = np.stack([np.asarray(row, np.float64) for row in obs])
    return np.zeros((len(rows), 2)), 10.0 - 20.0 * np.abs(rows[:, 2]) - np.abs(rows[:, 0])


def play(env: gym.Env, expansion: SimulatorExpansion, search: TreeSearch, steps: int) -> int:
    generators = root_generators(7, 1)
    obs, _ = env.reset(seed=0)
    for step in range(steps):
        action = search.search(expansion.root(obs), expansion, generators, temperature=0.0).action
        obs, _, terminated, truncated, _ = env.step(action[0])
        if terminated or truncated:
            return step + 1
    return steps


@pytest.mark.parametrize("method", METHODS, ids=["Gumbel", "PUCT", "UCT"])
def test_cart_pole_is_balanced_by_search_in_the_simulator(method: Any) -> None:
    env = gym.make("CartPole-v1")
    expansion = SimulatorExpansion(env, generators=root_generators(0, 1), rollout_steps=30)
    search = TreeSearch(8, method, zero_sum=False, discount=0.99)
    assert play(env, expansion, search, 100) == 100  # a random player falls after some 22


def test_a_search_in_a_known_model_is_that_in_the_simulator() -> None:
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    simulator = SimulatorExpansion(env, by_angle)
    model = ModelExpansion(KnownDynamics.for_env("CartPole-v1"), lambda features: by_angle(features.numpy()))
    search = TreeSearch(60, zero_sum=False, discount=0.99)
    one = search.search(simulator.root(obs), simulator, root_generators(0, 1), temperature=0.0)
    other = search.search(model.root(torch.as_tensor(obs)[None]), model, root_generators(0, 1), temperature=0.0)
    np.testing.assert_array_equal(one.visits, other.visits)
    np.testing.assert_allclose(one.q_values, other.q_values, rtol=1e-4)


def test_random_play_in_a_model_tells_good_states_from_bad_ones() -> None:
    model = ModelExpansion(KnownDynamics.for_env("CartPole-v1"), generators=root_generators(0, 2), discount=1.0)
    root = model.root(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.2, 2.0]]))
    assert root.value[0] > 8 and root.value[1] == 1.0
    search = TreeSearch(10, UCT(), zero_sum=False)
    result = search.search(root, model, root_generators(0, 2), temperature=0.0)
    assert result.value[0] > result.value[1]


def test_a_search_leaves_the_env_as_it_is() -> None:
    def run(searches: bool) -> list[Any]:
        env = gym.make("CartPole-v1", max_episode_steps=12)
        seen = [env.reset(seed=3)[0].tolist()]
        expansion = SimulatorExpansion(env, generators=root_generators(0, 1))
        for step in range(12):
            if searches:
                search = TreeSearch(6, UCT(), zero_sum=False)
                search.search(expansion.root(), expansion, root_generators(0, 1), temperature=0.0)
            obs, *rest = env.step(step % 2)
            seen.append((obs.tolist(), rest))
        assert seen[-1][1][2]  # truncated, at the right step
        return seen

    assert run(True) == run(False)


@pytest.mark.parametrize("method", METHODS, ids=["Gumbel", "PUCT", "UCT"])
def test_masks_and_names_of_actions_are_respected(method: Any) -> None:
    env = Corridor()
    obs, _ = env.reset()
    by_play = SimulatorExpansion(env, generators=root_generators(0, 1))
    expansion = SimulatorExpansion(env, lambda obs: (np.zeros((len(obs), 3)), 0.9 ** (3 - np.concatenate(obs))))
    search = TreeSearch(40, method, zero_sum=False, discount=0.9)
    for _ in range(3):
        search.search(by_play.root(), by_play, root_generators(1, 1), temperature=0.0)
        result = search.search(expansion.root(obs), expansion, root_generators(1, 1), temperature=0.0)
        assert result.action[0] == 2
        obs, reward, terminated, _, _ = env.step(5 + int(result.action[0]))
    assert terminated and reward == 1.0


def test_a_truncation_is_an_end() -> None:
    env = gym.make("CartPole-v1", max_episode_steps=1)
    obs, _ = env.reset(seed=0)
    expansion = SimulatorExpansion(env, by_angle)
    result = TreeSearch(4, zero_sum=False).search(
        expansion.root(obs), expansion, root_generators(0, 1), temperature=0.0
    )
    np.testing.assert_allclose(result.q_values, 1.0)  # the reward of the one step that is left
    assert result.trees.nodes.ended[0, 1]


def test_bad_arguments_are_refused() -> None:
    for make in (
        functools.partial(SimulatorExpansion, gym.make("CartPole-v1")),
        functools.partial(ModelExpansion, KnownDynamics.for_env("CartPole-v1")),
    ):
        with pytest.raises(ValueError, match="either evaluate or generators must be given"):
            make()
        with pytest.raises(ValueError, match="rollout_steps must be a whole number"):
            make(evaluate=by_angle, rollout_steps=0)
        with pytest.raises(ValueError, match="discount must be in"):
            make(evaluate=by_angle, discount=1.5)
    with pytest.raises(ValueError, match="action_space must be Discrete for a tree search, got Box"):
        SimulatorExpansion(gym.make("Pendulum-v1"), by_angle)
    with pytest.raises(ValueError, match="action_space must be Discrete for a tree search, got Box"):
        ModelExpansion(KnownDynamics.for_env("Pendulum-v1"), by_angle)
