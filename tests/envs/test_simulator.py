"""Returns in the true simulator against episodes that were really played, and that planning leaves no trace."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces, wrappers
from gymnasium.utils.env_checker import data_equivalence
from torch import Tensor

from mbrl_wrappers.envs.simulator import SimulatorReturns
from mbrl_wrappers.spaces import FlatSpace


class Corridor(gym.Env):
    """The reward is the place reached, plus noise; beyond 5 the episode is over, left of 0 nothing is finite."""

    observation_space = spaces.Box(-np.inf, np.inf, (), np.float64)

    def __init__(self, noise: float = 0.0) -> None:
        self.action_space = spaces.Discrete(3, start=-1)
        self.noise = noise
        self.actions: list[Any] = []  # of the env that plays for real, to look at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return np.array(0.0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        self.place += action
        reward = self.place + self.noise * self.np_random.normal()
        return np.array(float(self.place)), -np.inf if self.place == -1 else reward, self.place > 5, False, {}


def one_hot(*sequences: list[int]) -> Tensor:
    """Of the corridor's actions."""
    return torch.nn.functional.one_hot(torch.tensor(sequences) + 1, 3)[None].float()


def candidates(env: gym.Env, population: int, horizon: int, seed: int = 0) -> Tensor:
    """Random sequences ``[1, P, H, A]``."""
    codec = FlatSpace(env.action_space)
    rows = torch.rand(population * horizon, codec.dim, generator=torch.Generator().manual_seed(seed))
    flat = codec.encode(codec.decode_numpy(rows * 2 - 1))
    return flat.reshape(1, population, horizon, codec.dim)


@pytest.mark.parametrize("discount", [1.0, 0.5, 0.0])
def test_returns_of_known_sequences(discount):
    env = Corridor()
    returns = SimulatorReturns(env, discount=discount)
    env.reset()
    env.step(1)
    result = returns(one_hot([1, 1, -1], [0, 0, 0], [-1, 1, 1]))
    expected = [[2 + 3 * discount + 2 * discount**2, 1 + discount + discount**2, discount + 2 * discount**2]]
    torch.testing.assert_close(result, torch.tensor(expected))


def test_actions_of_a_discrete_space_are_ints_of_that_space():
    env = Corridor()
    env.reset()
    returns = SimulatorReturns(env)
    seen = []
    own_step = env.step

    def step(action: Any) -> Any:
        seen.append(action)
        return own_step(action)

    env.step = step  # type: ignore[method-assign]
    returns(one_hot([1, -1, 0]))
    assert seen == [1, -1, 0] and all(type(action) is int for action in seen)


def test_the_reward_ends_with_a_termination():
    env = Corridor()
    env.reset()
    assert SimulatorReturns(env)(one_hot([1] * 9)).tolist() == [[1 + 2 + 3 + 4 + 5 + 6]]


@pytest.mark.parametrize("played", [0, 1, 3])
def test_the_reward_ends_at_the_time_limit(played):
    env = wrappers.TimeLimit(Corridor(), 4)
    env.reset()
    returns = SimulatorReturns(env)
    for _ in range(played):
        env.step(0)
    assert returns(one_hot([1] * 5)).item() == sum(range(1, 4 - played + 1))
    assert [env.step(0)[3] for _ in range(4 - played)] == [False] * (3 - played) + [True]


@pytest.mark.parametrize("last", [[0, 1], [1, 0]])
def test_a_return_that_is_not_finite_is_worst(last):
    env = Corridor()
    env.reset()
    result = SimulatorReturns(env)(one_hot([-1, *last], [0, 0, 1]))
    assert result.tolist() == [[-torch.inf, 1.0]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinite_rewards_are_worst(value):
    env = wrappers.TransformReward(Corridor(), lambda reward: value if reward == 2 else reward)
    env.reset()
    assert SimulatorReturns(env)(one_hot([1, 1, 0], [1, 0, 0])).tolist() == [[-torch.inf, 3.0]]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Hopper-v5"])
def test_the_return_is_what_the_sequence_then_earns(name):
    if name == "Hopper-v5":
        pytest.importorskip("mujoco")
    env = gym.make(name)
    env.reset(seed=1)
    returns = SimulatorReturns(env, discount=0.9)
    actions = candidates(env, 4, 12)
    predicted = returns(actions)[0, 2].item()
    earned = 0.0
    for step, action in enumerate(FlatSpace(env.action_space).decode_numpy(actions[0, 2])):
        _, reward, terminated, truncated, _ = env.step(action)
        earned += 0.9**step * float(reward)
        if terminated or truncated:
            break
    assert predicted == pytest.approx(earned, rel=1e-6)


def make_noisy() -> gym.Env:
    return wrappers.TimeLimit(Corridor(noise=1.0), 7)


@pytest.mark.parametrize("make", ["CartPole-v1", "FrozenLake-v1", "Blackjack-v1", "Ant-v5", make_noisy])
def test_planning_leaves_no_trace_in_an_episode(make):
    if make == "Ant-v5":
        pytest.importorskip("mujoco")
    env, other = (make() if callable(make) else gym.make(make) for _ in range(2))
    returns = SimulatorReturns(env)
    assert data_equivalence(env.reset(seed=2), other.reset(seed=2), exact=True)
    env.action_space.seed(0)
    for step in range(25):
        result = returns(candidates(env, 3, 6, seed=step))
        assert result.shape == (1, 3)
        action = env.action_space.sample()
        expected = other.step(action)
        assert data_equivalence(env.step(action), expected, exact=True)
        if expected[2] or expected[3]:
            assert data_equivalence(env.reset(), other.reset(), exact=True)


def test_an_error_in_a_step_leaves_no_trace():
    env = Corridor(noise=1.0)
    env.reset(seed=0)
    returns = SimulatorReturns(env)
    state = env.np_random.bit_generator.state
    step = env.step

    def fail(action: Any) -> Any:
        if action == -1:
            raise RuntimeError("no such move")
        return step(action)

    env.step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no such move"):
        returns(one_hot([1, 1, -1]))
    assert (env.place, env.np_random.bit_generator.state) == (0, state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_and_empty_population(dtype):
    env = Corridor()
    env.reset()
    returns = SimulatorReturns(env)
    assert returns(one_hot([1, 1]).to(dtype)).dtype == dtype
    assert returns(torch.zeros(1, 0, 4, 3, dtype=dtype)).shape == (1, 0)
    assert returns(torch.zeros(1, 2, 0, 3, dtype=dtype)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (1, 4, 5, 2), (4, 5, 3), (1, 4, 3)])
def test_wrong_shapes_are_refused(shape):
    env = Corridor()
    env.reset()
    with pytest.raises(ValueError, match=r"actions must have shape \(1, 'P', 'H', 3\).*got \(" + str(shape[0])):
        SimulatorReturns(env)(torch.zeros(shape))


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan"), "1"])
def test_a_wrong_discount_is_refused(discount):
    with pytest.raises(ValueError, match="discount"):
        SimulatorReturns(Corridor(), discount=discount)


def test_an_env_that_cannot_be_put_back_is_refused():
    pytest.importorskip("Box2D")
    with pytest.raises(ValueError, match="Box2D"):
        SimulatorReturns(gym.make("LunarLander-v3"))
