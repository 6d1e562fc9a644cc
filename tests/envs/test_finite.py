"""What an environment returns: numbers anywhere in it must be finite, rewards are one number, ends may be 0 and 1."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from stable_baselines3 import DQN

from mbrl_wrappers import EnsembleDynamics, ModelBased, MPCAction
from mbrl_wrappers.agents import PETS, Dyna
from mbrl_wrappers.envs import SimulatorReturns, Snapshots, collect_transitions
from mbrl_wrappers.envs.finite import FiniteEnv, check_finite, scalar_reward
from mbrl_wrappers.planners import RandomShooting

BOX = spaces.Box(-9.0, 9.0, (2,), np.float64)
# Spaces with a part of numbers, and how an error tells where the first number is.
SPACES = {
    "Box": (BOX, ""),
    "Box of floats in two axes": (spaces.Box(-1.0, 1.0, (2, 3), np.float32), ""),
    "Dict": (spaces.Dict(a=spaces.Discrete(3), b=BOX), r" in \['b'\]"),
    "Dict with Text": (spaces.Dict(mission=spaces.Text(9), x=BOX), r" in \['x'\]"),
    "Tuple of unequal parts": (spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (3,)), BOX]), r" in \[1\]"),
    "deep": (spaces.Tuple([spaces.Dict(a=spaces.Tuple([spaces.Text(3), BOX]))]), r" in \[0\]\['a'\]\[1\]"),
    "Graph": (spaces.Graph(BOX, spaces.Discrete(2)), r" in \[0\]"),
    "Sequence": (spaces.Sequence(BOX), r" in \[0\]"),
    "stacked Sequence": (spaces.Sequence(BOX, stack=True), ""),
    "OneOf": (spaces.OneOf([BOX, BOX]), r" in \[1\]"),
}
NO_NUMBERS = {
    "Text": "go there",
    "bytes": b"\x00",
    "None": None,
    "an object": object(),
    "objects": np.array([None, "a", object()], dtype=object),
    "an object array of no axes": np.array(None, dtype=object),
    "strings": np.array(["a", "b"]),
    "flags": np.array([True, False]),
    "times": np.array(["2020-01-01"], "datetime64[D]"),
    "nothing": (),
}


def sample(space: spaces.Space) -> Any:
    space.seed(1)
    return next(value for value in (space.sample() for _ in range(100)) if not isinstance(value, tuple) or len(value))


def poisoned(value: Any, bad: float) -> Any:
    """Put what is not finite into the first float of a value."""
    changed = False

    def walk(part: Any) -> Any:
        nonlocal changed
        if isinstance(part, dict):
            return {key: walk(inner) for key, inner in part.items()}
        if isinstance(part, spaces.GraphInstance):
            return type(part)(*map(walk, part))
        if isinstance(part, tuple):
            return tuple(map(walk, part))
        if not changed and isinstance(part, np.ndarray) and np.issubdtype(part.dtype, np.floating):
            part, changed = part.copy(), True
            part.flat[0] = bad
        return part

    value = walk(value)
    assert changed
    return value


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_of_any_space_are_checked_and_nothing_else(name, bad):
    space, path = SPACES[name]
    value = sample(space)
    check_finite("observation", value)
    with pytest.raises(
        ValueError, match=rf"^observation from the environment must be finite, got .*(nan|inf).*{path} at step 7$"
    ):
        check_finite("observation", poisoned(value, bad), 7)


@pytest.mark.parametrize("name", ["Box", "Dict with Text", "Tuple of unequal parts", "Graph"])
def test_batches_of_vector_envs_are_checked(name):
    space, _ = SPACES[name]
    values = [sample(space), sample(space)]
    batch = concatenate(space, values, create_empty_array(space, 2))
    assert batch_space(space, 2) is not None
    check_finite("observation", batch)
    bad = concatenate(space, [values[0], poisoned(values[1], np.nan)], create_empty_array(space, 2))
    with pytest.raises(ValueError, match=r"from the environment must be finite, got .*nan"):
        check_finite("observation", bad)


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_not_made_of_numbers_is_let_through(value):
    check_finite("observation", value)
    check_finite("observation", {"a": value, "b": [value]})


@pytest.mark.parametrize(
    "value",
    [np.array([1, None, np.nan], dtype=object), [0.0, [1.0, np.nan]], np.float32(np.nan), float("nan")],
    ids=repr,
)
def test_loose_numbers_are_checked(value):
    with pytest.raises(ValueError, match=r"^observation from the environment must be finite, got nan"):
        check_finite("observation", value)


class Line(gym.Env):
    """A point that moves; rewards and ends in the form that a test asks for."""

    def __init__(self, observation: str = "box", reward: Any = float, flag: Any = bool) -> None:
        self.action_space = spaces.Discrete(2)
        vector = spaces.Box(-99.0, 99.0, (1,), np.float32)
        self.observation_space = {
            "box": vector,
            "tuple": spaces.Tuple([vector, spaces.Box(-99.0, 99.0, (2,), np.float32)]),
            "text": spaces.Dict(x=vector, mission=spaces.Text(20)),
        }[observation]
        self.observation, self.reward, self.flag = observation, reward, flag

    def _observation(self) -> Any:
        x = np.array([self.x], np.float32)
        return {"box": x, "tuple": (x, np.repeat(x, 2)), "text": {"x": x, "mission": "goThere"}}[self.observation]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.x, self.steps = 0, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        self.x += 2 * int(action) - 1
        self.steps += 1
        return self._observation(), self.reward(self.x), self.flag(self.x == 3), self.flag(self.steps >= 6), {}


def model(env: gym.Env) -> EnsembleDynamics:
    return EnsembleDynamics.for_env(env, num_members=2, num_elites=1, hidden=(8,), max_steps=10)


def plans(env: gym.Env, dynamics: Any) -> MPCAction:
    planner = RandomShooting(env.action_space, horizon=2, population=64)
    return MPCAction(env, dynamics, planner, mode="replace", seed=0)


@pytest.mark.parametrize("observation", ["box", "tuple", "text"])
def test_plans_in_the_simulator_take_any_observation(observation):
    env = Line(observation)
    planned = plans(env, SimulatorReturns(env))
    planned.reset(seed=0)
    for _ in range(3):
        obs, *_ = planned.step(1)
    assert env.x == 3 and env.observation_space.contains(obs)


def test_plans_in_a_model_of_a_tuple():
    env = Line("tuple")
    dynamics = model(env)
    dynamics.fit(collect_transitions(env, dynamics, 40, seed=0))
    planned = plans(env, dynamics)
    planned.reset(seed=0)
    assert env.observation_space.contains(planned.step(0)[0])


def test_a_simulator_of_another_instance_is_made_one_of_the_env():
    env, other = Line(), Line()
    planned = plans(env, SimulatorReturns(other, discount=0.5))
    planned.reset(seed=0)
    for x in (1, 2, 3):
        *_, info = planned.step(1)
        assert env.x == x and info["mpc"]["predicted_return"] == x + 0.5 * (x + 1) * (x < 3)
    with pytest.raises(
        ValueError, match=r"dynamics must simulate the env <Line instance> .*, got one of <FiniteEnv<Line"
    ):
        MPCAction(env, SimulatorReturns(FiniteEnv(other)))


# -- rewards ---------------------------------------------------------------------------------------------------

NUMBERS = [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), np.array([2.0]), np.array([[2]]), torch.tensor(2.0)]


@pytest.mark.parametrize("reward", NUMBERS, ids=repr)
def test_a_number_is_a_reward(reward):
    assert scalar_reward(reward) == 2.0 and type(scalar_reward(reward)) is float


@pytest.mark.parametrize("reward", [True, np.True_])
def test_a_flag_is_a_reward(reward):
    assert scalar_reward(reward) == 1.0


def test_a_reward_need_not_be_finite_to_be_a_number():
    assert np.isnan(scalar_reward(np.nan)) and scalar_reward(-np.inf) == -np.inf


NO_REWARDS = ["won", None, np.array([1.0, 2.0]), [1.0], (1.0, 2.0), np.array([]), np.array("1"), 1j, {"a": 1.0}]


@pytest.mark.parametrize("reward", NO_REWARDS, ids=repr)
def test_what_is_no_number_is_named_wherever_it_is_met(reward):
    env = Line(reward=lambda x: reward)
    message = r"^reward from the environment must be one number, got .*: wrap the env .*LinearReward"
    with pytest.raises(ValueError, match=message):
        collect_transitions(env, model(env), 3)
    guarded = FiniteEnv(env)
    guarded.reset()
    with pytest.raises(ValueError, match=message):
        guarded.step(0)
    env.reset()
    simulate = SimulatorReturns(env)
    with pytest.raises(ValueError, match=message):
        simulate(torch.eye(2)[None, None])
    assert env.x == 0 == env.steps  # the env is as it was


# -- ends ------------------------------------------------------------------------------------------------------

FLAGS = {"int": int, "NumPy's": np.bool_, "float": float, "array": lambda flag: np.array(flag), "int8": np.int8}


@pytest.mark.parametrize("flag", FLAGS.values(), ids=FLAGS)
def test_ends_in_another_type_are_ends(flag):
    env, plain = Line(flag=flag), Line()
    rows, expected = (collect_transitions(one, model(one), 60, seed=0) for one in (env, plain))
    assert rows.terminated.dtype == torch.bool and rows.terminated.any()
    assert torch.equal(rows.terminated, expected.terminated) and torch.equal(rows.obs, expected.obs)
    for one in (env, plain):
        one.reset()
    ahead = torch.eye(2)[[1, 1, 1, 1]][None, None]
    assert SimulatorReturns(env)(ahead).item() == SimulatorReturns(plain)(ahead).item() == 6.0
    Snapshots(env)
    planned = plans(env, SimulatorReturns(env))
    planned.reset()
    assert [bool(planned.step(1)[2]) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("flag", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("name", ["PETS", "DQN"])
def test_agents_learn_where_ends_are_of_another_type(name, flag):
    env = Line(flag=flag)
    settings: dict[str, Any] = {"learning_starts": 20, "seed": 0, "device": "cpu"}
    if name == "PETS":
        settings |= {"planner": "RS", "planner_kwargs": {"horizon": 2, "population": 4}}
        agent: Any = PETS("MlpPolicy", env, dynamics=model(env), **settings).learn(30)
    else:
        agent = DQN("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **settings)
        agent.learn(30, callback=ModelBased(Dyna(), model(env)))
    buffer = agent.replay_buffer
    ended, timeouts = buffer.dones[:30, 0] > 0, buffer.timeouts[:30, 0] > 0
    reached = buffer.next_observations[:30, 0, 0] == 3
    assert ended.any() and (ended & ~timeouts).tolist() == reached.tolist()
