"""Streams of random numbers: what the env draws tells nothing about what is drawn to act, fit, imagine and plan."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers.agents import MAAC, PETS, POPLIN, RS, SVG, Dyna
from mbrl_wrappers.envs import ImaginedVecEnv, collect_transitions
from mbrl_wrappers.imagination import ModelBased, load_checkpoint, save_checkpoint
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.seeding import is_apart, set_apart, stream_seed
from mbrl_wrappers.wrappers import MPCAction
from mbrl_wrappers.zoo.analysis.diagnosis import diagnose
from mbrl_wrappers.zoo.analysis.model_error import real_windows
from mbrl_wrappers.zoo.training.building import base_of, build_agent
from mbrl_wrappers.zoo.training.job_making import make_job

STEPS = 1000
BOUND = 0.1  # a bit more than three standard deviations of the correlation of so many pairs
LENGTH = 50


class Windy(gym.Env):
    """A point that is pushed by action and wind; each step takes one number of the env's, as each action takes one.

    ``actions`` and ``winds`` keep what happened.
    """

    def __init__(self, discrete: bool = False) -> None:
        self.observation_space = spaces.Box(-200, 200, (1,), np.float32)
        self.action_space: Any = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (1,), np.float32)
        self.actions: list[float] = []
        self.winds: list[float] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x, self.count = 0.0, 0
        return np.array([self.x], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if isinstance(self.action_space, spaces.Discrete):
            push, wind = float(action) - 1, float(self.np_random.integers(3)) - 1
        else:
            push, wind = float(action[0]), self.np_random.uniform(-1, 1)
        self.actions.append(push)
        self.winds.append(wind)
        self.x, self.count = self.x + push + wind, self.count + 1
        return np.array([self.x], np.float32), -abs(self.x), False, self.count >= LENGTH, {}


class DiscreteWindy(Windy):
    def __init__(self) -> None:
        super().__init__(discrete=True)


gym.register("mbrl_wrappers_tests/Windy-v0", entry_point=Windy)


def model_of(env: Any) -> EnsembleDynamics:
    return EnsembleDynamics(env.observation_space, env.action_space, hidden=(8,), max_steps=1)


def correlation(one: Any, other: Any) -> float:
    return abs(float(np.corrcoef(one, other)[0, 1]))


def assert_independent(*envs: Windy) -> None:
    """Of every env's wind: the actions there, and those of all envs in the order in which they were drawn."""
    drawn = np.stack([env.actions for env in envs], axis=1).ravel()
    assert np.std(drawn) > 0.5
    for env in envs:
        assert correlation(env.actions, env.winds) < BOUND
        assert correlation(drawn[: len(env.winds)], env.winds) < BOUND


def agent_on(kind: Any, *envs: Any, **kwargs: Any) -> Any:
    arguments = {"learning_starts": 10_000, "seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [4]}, **kwargs}
    if kind in (PETS, RS):
        del arguments["policy_kwargs"]
    return kind("MlpPolicy", DummyVecEnv([lambda env=env: env for env in envs]), **arguments)


def learn(agent: Any, steps: int = STEPS, **kwargs: Any) -> Any:
    """Go through the random steps, with a model if the agent does not bring one."""
    if kwargs.get("callback") is None and isinstance(agent, SAC | TD3 | DQN) and not hasattr(type(agent), "model_free"):
        kwargs["callback"] = ModelBased(Dyna(), model_of(agent.env))
    return agent.learn(steps, **kwargs)


# -- the mechanism -------------------------------------------------------------------------------------------


def test_the_seed_of_a_stream_is_the_same_everywhere():
    assert stream_seed(0, "fit") == 10392999063203805524  # in every process and on every machine
    assert stream_seed(np.int64(7), "fit") == stream_seed(7, "fit") < 2**64


def test_streams_have_seeds_of_their_own():
    found = {stream_seed(seed, name) for seed in range(100) for name in ("fit", "imagine", "tif", "")}
    assert len(found) == 400
    assert stream_seed(None, "fit") != stream_seed(None, "fit")


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1"])
def test_a_seed_must_be_a_whole_number(seed):
    with pytest.raises(ValueError, match=f"seed must be a whole number of at least 0, got {seed!r}"):
        stream_seed(seed, "fit")
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        set_apart(spaces.Discrete(2), seed)
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        ModelBased(Dyna(), seed=seed)


SPACES = {
    "Box": spaces.Box(-1, 1, (2,)),
    "Discrete": spaces.Discrete(1000),
    "MultiDiscrete": spaces.MultiDiscrete([1000, 1000]),
    "Tuple": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(1000))),
    "Dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(1000)}),
}


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_space_that_was_seeded_is_set_apart_in_the_same_way_each_time(space, seed):
    def samples(first: int) -> list[str]:
        space.seed(first)
        set_apart(space, seed)
        assert is_apart(space)
        return [str(space.sample()) for _ in range(5)]

    assert samples(4) == samples(4)
    assert (samples(4) == samples(5)) is (seed is not None)


def test_a_space_that_is_apart_goes_on():
    one, other = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (2,))
    for space in (one, other):
        space.seed(0)
        set_apart(space)
    for _ in range(5):
        set_apart(one)
        assert np.array_equal(one.sample(), other.sample())


# -- collection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Windy, DiscreteWindy])
@pytest.mark.parametrize("seed", [0, 123])
def test_a_seeded_collection(kind, seed):
    env = kind()
    collect_transitions(env, model_of(env), STEPS, seed=seed)
    assert_independent(env)


@pytest.mark.parametrize("kind", [Windy, DiscreteWindy])
@pytest.mark.parametrize("seed", [0, 7, 2**127 + 5])
def test_a_collection_from_an_env_that_the_user_seeded(kind, seed):
    env = gym.wrappers.TimeLimit(kind(), 2 * LENGTH)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    collect_transitions(env, model_of(env), STEPS)
    assert_independent(env.unwrapped)


def test_a_collection_with_a_policy_that_samples_the_envs_actions():
    env = Windy()
    env.action_space.seed(2)
    collect_transitions(env, model_of(env), STEPS, seed=2, policy=lambda obs: env.action_space.sample())
    assert_independent(env)


def test_the_users_seeds_decide_a_collection_without_a_seed():
    def actions(seed: int, *collections: int) -> list[float]:
        env = Windy()
        env.action_space.seed(seed)
        for steps in collections:
            collect_transitions(env, model_of(env), steps)
        return env.actions

    assert actions(1, 20) == actions(1, 20) == actions(1, 12, 8) != actions(2, 20)


@pytest.mark.parametrize("seed", [0, 1, None])
def test_the_ice_of_a_frozen_lake_slips_to_each_side_alike(seed):
    env = gym.make("FrozenLake-v1", desc=["FFFF", "FHFH", "FFFH", "HFSG"])  # the start is beside the goal
    if seed is None:
        env.reset(seed=5)
        env.action_space.seed(5)
    rows = collect_transitions(env, model_of(env), 1500, seed=seed)
    at_start = rows.obs.argmax(1) == 14
    for action, chance in enumerate([0, 1 / 3, 1 / 3, 1 / 3]):
        chosen = at_start & (rows.action.argmax(1) == action)
        assert chosen.sum() > 100
        assert abs(float((rows.next_obs[chosen].argmax(1) == 15).float().mean()) - chance) < 0.1


# -- agents --------------------------------------------------------------------------------------------------

NOISE = {"action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))}
AGENTS: dict[str, tuple[Any, type[Windy], dict[str, Any]]] = {
    "SAC": (SAC, Windy, {}),
    "TD3": (TD3, Windy, NOISE),
    "DQN": (DQN, DiscreteWindy, {}),
    "MAAC": (MAAC, Windy, {}),
    "SVG": (SVG, Windy, {"horizon": 1}),
    "PETS": (PETS, Windy, {}),
    "RS": (RS, Windy, {}),
    "POPLIN": (POPLIN, Windy, {}),
}


def test_sb3_alone_draws_actions_and_wind_alike():
    env = Windy()
    agent_on(SAC, env).learn(200)
    assert correlation(env.actions, env.winds) > 0.99  # what all other tests here are about


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("name", AGENTS)
def test_the_random_steps_of_an_agent(name, num_envs):
    kind, env, kwargs = AGENTS[name]
    envs = [env() for _ in range(num_envs)]
    learn(agent_on(kind, *envs, **kwargs), num_envs * STEPS)
    assert_independent(*envs)


def test_the_steps_of_a_dqn_that_explores():
    env = DiscreteWindy()
    always = {"exploration_initial_eps": 1.0, "exploration_final_eps": 1.0, "train_freq": STEPS}
    agent = agent_on(DQN, env, learning_starts=0, **always)
    learn(agent, callback=ModelBased(Dyna(rollouts_per_step=1), model_of(env), fit_every=10 * STEPS))
    assert_independent(env)


@pytest.mark.parametrize("name", ["SAC", "PETS"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_envs_that_the_user_seeded_for_an_agent_without_a_seed(name, num_envs):
    kind, env, kwargs = AGENTS[name]
    venv: Any = make_vec_env(env, num_envs, seed=4)
    agent = kind("MlpPolicy", VecNormalize(venv), learning_starts=10_000, device="cpu", **kwargs)
    learn(agent, num_envs * STEPS)
    assert_independent(*(wrapped.unwrapped for wrapped in venv.envs))


@pytest.mark.parametrize("name", AGENTS)
def test_one_seed_means_one_run_in_one_or_two_calls(name):
    kind, env_kind, kwargs = AGENTS[name]

    def actions(seed: int, *calls: int) -> list[float]:
        env = env_kind()
        agent = agent_on(kind, env, seed=seed, train_freq=5, **kwargs)
        for steps in calls:
            learn(agent, steps, reset_num_timesteps=False)
        return env.actions

    assert actions(1, 60) == actions(1, 60) == actions(1, 25, 35) != actions(2, 60)


@pytest.mark.parametrize("name", ["SAC", "PETS"])
def test_learning_that_counts_anew_does_not_repeat_its_actions(name):
    env = Windy()
    agent = agent_on(AGENTS[name][0], env)
    for _ in range(2):
        learn(agent, 40)
    assert env.actions[:40] != env.actions[40:]


def test_an_agent_that_is_loaded_in_its_random_steps(tmp_path):
    first = Windy()
    learn(agent_on(SAC, first), 100).save(tmp_path / "agent")
    env = Windy()
    agent: Any = SAC.load(tmp_path / "agent", env=env)  # SB3 seeds all again
    learn(agent, callback=agent.model_based)
    assert_independent(env)


@pytest.mark.parametrize("name", ["SAC", "DQN", "PETS"])
def test_a_checkpoint_goes_on_with_the_same_stream(name, tmp_path):
    kind, env_kind, kwargs = AGENTS[name]
    env = env_kind()
    agent = agent_on(kind, env, train_freq=5, **kwargs)
    learn(agent, 2 * LENGTH)
    save_checkpoint(agent, tmp_path / "checkpoint")
    again = env_kind()
    loaded = load_checkpoint(kind, tmp_path / "checkpoint", again, "cpu")
    for one in (agent, loaded):
        one.learn(STEPS, callback=getattr(one, "model_based", None), reset_num_timesteps=False)
    assert again.actions == env.actions[2 * LENGTH :]
    assert_independent(again)


def test_a_checkpoint_from_before_training_is_set_apart_when_training_starts(tmp_path):
    agent = agent_on(SAC, Windy())
    agent._last_obs = agent.env.reset()
    save_checkpoint(agent, tmp_path / "checkpoint")
    env = Windy()
    learn(load_checkpoint(SAC, tmp_path / "checkpoint", env, "cpu"))
    assert_independent(env)


# -- generators of torch -------------------------------------------------------------------------------------


def test_no_generator_is_seeded_as_an_env_or_another_one_is():
    """Env ``i`` of an agent gets ``seed + i``, and may draw from torch; SB3 gives torch's global generator the seed."""
    callback = learn(agent_on(SAC, *(Windy() for _ in range(3)), seed=5), 3).model_based
    planner, pendulum = agent_on(PETS, Windy(), seed=5), KnownDynamics.for_env("Pendulum-v1")
    imagined = ImaginedVecEnv(pendulum, 2, start_obs=torch.ones(1, 3), seed=5)
    control = MPCAction(gym.make("Pendulum-v1"), pendulum, seed=5)
    generators = [
        callback._fit_generator, callback._imagine_generator, planner._fit_generator, planner._plan_generator,
        imagined.episodes.generator, control._control._generator,
    ]  # fmt: skip
    seeds = [generator.initial_seed() for generator in generators]
    assert not set(seeds) & set(range(100))
    control.reset(seed=5)
    assert control._control._generator.initial_seed() == seeds[-1]
    # Both fit: a stream has one name everywhere, and no two of an agent are one.
    assert len(set(seeds)) == 5 and seeds[0] == seeds[2]


def test_the_noise_of_imagined_steps_is_not_the_agents():
    """An agent inside a model draws its exploration from torch's global generator, which SB3 seeds."""
    dynamics = KnownDynamics(
        spaces.Box(-200, 200, (1,), np.float32),
        spaces.Box(-10, 10, (1,), np.float32),
        lambda obs, action: obs,
        lambda obs, action, next_obs: next_obs[:, 0],
        noise_std=1.0,
    )
    imagined = ImaginedVecEnv(dynamics, 1, start_obs=torch.zeros(1, 1), horizon=10_000)
    imagined.seed(0)
    torch.manual_seed(0)
    places, actions = [imagined.reset()[0, 0]], []
    for _ in range(STEPS):
        actions.append(float(torch.randn(1)))
        places.append(imagined.step(np.array([[actions[-1]]], np.float32))[0][0, 0])
    assert correlation(actions, np.diff(places)) < BOUND


# -- the zoo -------------------------------------------------------------------------------------------------


def jobs() -> tuple[Any, Any]:
    params = {"agent.learning_starts": STEPS, "agent.policy_kwargs": {"net_arch": [4]}, "dynamics.hidden": [8]}
    spec = make_job("mbpo", "mbrl_wrappers_tests/Windy-v0", seed=3, steps=STEPS + 1, params=params)
    return spec, base_of(spec)


def test_an_agent_of_the_zoo_and_its_control_start_with_the_same_actions():
    taken = []
    for spec in jobs():
        env = Windy()
        agent, callback = build_agent(spec, env)
        assert (callback is not None) == spec.model
        agent.learn(STEPS - 1, callback=callback)
        assert_independent(env)
        taken.append(env.actions)
    assert taken[0] == taken[1]


def explorer() -> DQN:
    agent = agent_on(DQN, DiscreteWindy())
    agent.exploration_rate = 1.0
    return agent


def test_the_random_steps_that_measure_a_model():
    env = DiscreteWindy()
    agent = explorer()
    real_windows(agent, model_of(env), env, 1, STEPS, seed=0)
    assert_independent(env)


def test_the_random_steps_of_a_diagnosis():
    env = DiscreteWindy()
    agent = explorer()
    dynamics = model_of(env)
    dynamics.fit(collect_transitions(DiscreteWindy(), dynamics, 100, seed=0), torch.Generator().manual_seed(0))
    diagnose(agent, dynamics, env, steps=STEPS, horizon=2)
    for rows in (slice(0, STEPS), slice(STEPS, 2 * STEPS)):
        assert correlation(env.actions[rows], env.winds[rows]) < BOUND
