"""A model as a single Gymnasium environment."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from torch import Tensor

from mbrl_wrappers.envs import ImaginedEnv
from mbrl_wrappers.envs.imagined import add_batch_axis
from mbrl_wrappers.models import DynamicsModel, EnsembleDynamics, KnownDynamics
from mbrl_wrappers.types import Transitions
from testing.models import global_generators

OBSERVATION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-2, 2, (3,)),
    "half-bounded box": spaces.Box(np.array([-1, -np.inf, 0]), np.array([np.inf, 1, 5]), dtype=np.float64),
    "integer box": spaces.Box(-3, 3, (2,), np.int32),
    "discrete": spaces.Discrete(4),
    "multi-discrete": spaces.MultiDiscrete([3, 2]),
    "multi-binary": spaces.MultiBinary(3),
    "dict": spaces.Dict({"where": spaces.Box(-1, 1, (2,)), "room": spaces.Discrete(3), "on": spaces.MultiBinary(2)}),
}
TUPLE = spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 2])])])
ACTION_SPACES: dict[str, spaces.Space] = {
    "continuous": spaces.Box(-1, 1, (2,)),
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
}


def _random_transitions(dynamics: DynamicsModel, rows: int) -> Transitions:
    """Draw elements of the spaces; what follows what is arbitrary."""
    parts = {}
    for seed, (name, space) in enumerate(
        [
            ("obs", dynamics.observation_space),
            ("next_obs", dynamics.observation_space),
            ("action", dynamics.action_space),
        ]
    ):
        batched = batch_space(space, rows)
        batched.seed(seed)
        codec = dynamics.action_codec if name == "action" else dynamics.obs_codec
        parts[name] = codec.encode(batched.sample())
    generator = torch.Generator().manual_seed(0)
    return Transitions(
        **parts,
        reward=torch.randn(rows, generator=generator),
        terminated=torch.rand(rows, generator=generator) < 0.2,
        key=torch.arange(rows),
    )


def _fitted(observation_space: spaces.Space, action_space: spaces.Space, **kwargs: Any) -> EnsembleDynamics:
    settings = {"num_members": 3, "num_elites": 2, "hidden": (32, 32), "max_steps": 30, **kwargs}
    dynamics = EnsembleDynamics(observation_space, action_space, **settings)
    dynamics.fit(_random_transitions(dynamics, 64), torch.Generator().manual_seed(0))
    return dynamics


def _toy(**changes: Any) -> KnownDynamics:
    """A point on a line: ``x' = x + a``, reward ``x'``, which ends beyond 5."""
    arguments = {
        "observation_space": spaces.Box(-10, 10, (1,)),
        "action_space": spaces.Box(-1, 1, (1,)),
        "step_fn": lambda obs, action: obs + action,
        "reward_fn": lambda obs, action, next_obs: next_obs[..., 0],
        "termination_fn": lambda obs, action, next_obs: next_obs[..., 0].abs() > 5,
        "start_obs": torch.zeros(1, 1),
    }
    return KnownDynamics(**(arguments | changes))


def _record(env: gym.Env, num_steps: int, seed: int) -> list[Any]:
    """Reset and act at random, from a new start after each end; return everything that came back."""
    env.action_space.seed(seed)
    record: list[Any] = [env.reset(seed=seed)]
    for _ in range(num_steps):
        record.append(env.step(env.action_space.sample()))
        if record[-1][2] or record[-1][3]:
            record.append(env.reset())
    return record


# --- both checkers, over spaces


@pytest.mark.filterwarnings("ignore:.*environment not having a spec")
@pytest.mark.filterwarnings("ignore:.*Box observation space (minimum|maximum) value is -?infinity")
@pytest.mark.parametrize("action", ACTION_SPACES)
@pytest.mark.parametrize("observation", [*OBSERVATION_SPACES, "tuple"])
def test_both_checkers_pass(observation, action):
    dynamics = _fitted(OBSERVATION_SPACES.get(observation, TUPLE), ACTION_SPACES[action])
    check_env(ImaginedEnv(dynamics, horizon=5))
    if observation != "tuple":  # which SB3 does not support
        sb3_check_env(ImaginedEnv(dynamics, horizon=5))


@pytest.mark.filterwarnings("ignore:.*environment not having a spec")
@pytest.mark.filterwarnings("ignore:.*ecommend .*symmetric and normalized")
@pytest.mark.filterwarnings("ignore:.*Box observation space (minimum|maximum) value is -?infinity")
@pytest.mark.parametrize("model", ["Pendulum-v1", "CartPole-v1", "linear"])
def test_both_checkers_pass_on_known_dynamics(model):
    is_linear = model == "linear"
    env = ImaginedEnv(KnownDynamics.linear_quadratic(*[np.eye(2)] * 4) if is_linear else KnownDynamics.for_env(model))
    check_env(env)
    sb3_check_env(env)


@pytest.mark.filterwarnings("ignore:.*environment not having a spec")
def test_both_checkers_pass_on_a_model_that_was_never_fitted():
    dynamics = EnsembleDynamics(OBSERVATION_SPACES["dict"], ACTION_SPACES["discrete"], hidden=(32, 32))
    starts = batch_space(dynamics.observation_space, 6).sample()
    check_env(ImaginedEnv(dynamics, start_obs=starts))
    sb3_check_env(ImaginedEnv(dynamics, start_obs=starts))


@pytest.mark.parametrize("observation", [*OBSERVATION_SPACES, "tuple"])
def test_observations_are_in_the_space_and_seeded_runs_are_equal_bit_for_bit(observation):
    dynamics = _fitted(OBSERVATION_SPACES.get(observation, TUPLE), ACTION_SPACES["continuous"])
    env = ImaginedEnv(dynamics, horizon=7)
    record = _record(env, 40, seed=3)
    assert all(env.observation_space.contains(entry[0]) for entry in record)
    assert data_equivalence(_record(env, 40, seed=3), record, exact=True)
    assert data_equivalence(_record(ImaginedEnv(dynamics, horizon=7), 40, seed=3), record, exact=True)
    assert not data_equivalence(_record(env, 40, seed=4), record)


def test_what_is_imagined_leaves_other_generators_alone():
    dynamics = _fitted(OBSERVATION_SPACES["box"], ACTION_SPACES["continuous"])
    states = global_generators()
    _record(ImaginedEnv(dynamics, horizon=7), 20, seed=0)
    assert data_equivalence(global_generators(), states, exact=True)


def test_a_seed_once_given_goes_on_over_resets():
    env = ImaginedEnv(KnownDynamics.for_env("Pendulum-v1"))
    first, second = env.reset(seed=0)[0], env.reset()[0]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)
    np.testing.assert_array_equal(env.reset()[0], second)
    assert not np.array_equal(ImaginedEnv(KnownDynamics.for_env("Pendulum-v1")).reset()[0], env.reset()[0])


def test_deterministic_takes_the_mean():
    dynamics = _toy(noise_std=1.0)
    env = ImaginedEnv(dynamics, deterministic=True)
    env.reset(seed=0)
    assert env.step(np.array([0.5], np.float32))[0] == pytest.approx(0.5)
    env = ImaginedEnv(dynamics)
    env.reset(seed=0)
    assert abs(env.step(np.array([0.5], np.float32))[0][0] - 0.5) > 1e-3


# --- ends of episodes


def test_the_horizon_truncates_and_never_terminates():
    env = ImaginedEnv(_toy(), horizon=4)
    for _ in range(2):
        env.reset()
        ends = [env.step(np.array([0.1], np.float32))[2:4] for _ in range(4)]
        assert ends == [(False, False)] * 3 + [(False, True)]


def test_a_given_termination_terminates():
    env = ImaginedEnv(_toy(), horizon=7)
    env.reset()
    ends = [env.step(np.array([1.0], np.float32))[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(True, False)]


def test_a_termination_at_the_horizon_is_a_termination_too():
    env = ImaginedEnv(_toy(), horizon=6)
    env.reset()
    ends = [env.step(np.array([1.0], np.float32))[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(True, True)]


def test_a_learned_termination_terminates():
    dynamics = EnsembleDynamics(
        spaces.Box(-1, 1, (1,)), spaces.Discrete(2), num_members=2, num_elites=1, hidden=(32, 32), max_steps=300
    )
    obs = 2 * torch.rand(256, 1, generator=torch.Generator().manual_seed(0)) - 1
    action = torch.eye(2)[torch.arange(256) % 2]
    dynamics.fit(
        Transitions(obs, action, obs[:, 0], obs, terminated=action[:, 1] == 1, key=torch.arange(256)),
        torch.Generator().manual_seed(0),
    )
    env = ImaginedEnv(dynamics)
    for seed in range(20):
        env.reset(seed=seed)
        assert env.step(0)[2:4] == (False, False)
        assert env.step(1)[2:4] == (True, False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["next_obs", "reward"])
def test_a_model_that_diverges_truncates_and_shows_the_last_finite_observation(what, value):
    def broken(healthy: Tensor, next_x: Tensor) -> Tensor:
        return torch.where(next_x > 2.5, value, healthy)

    if what == "next_obs":
        dynamics = _toy(
            step_fn=lambda obs, action: broken(obs + action, obs + action),
            termination_fn=lambda obs, action, next_obs: ~torch.isfinite(next_obs[..., 0]),
        )
    else:
        dynamics = _toy(reward_fn=lambda obs, action, next_obs: broken(next_obs[..., 0], next_obs[..., 0]))
    env = ImaginedEnv(dynamics)
    env.reset()
    for step in (1, 2):
        obs, reward, terminated, truncated, info = env.step(np.array([1.0], np.float32))
        assert (obs[0], reward, terminated, truncated, info["diverged"]) == (step, step, False, False, False)
    obs, reward, terminated, truncated, info = env.step(np.array([1.0], np.float32))
    assert (obs[0], reward, terminated, truncated, info["diverged"]) == (2, 0, False, True, True)
    assert env.reset()[0] == 0
    assert not env.step(np.array([1.0], np.float32))[4]["diverged"]


def test_a_fitted_model_that_explodes_stays_in_the_space():
    dynamics = _fitted(spaces.Box(-np.inf, np.inf, (3,)), ACTION_SPACES["continuous"], range_margin=None)
    dynamics.target_normalizer.std *= 1e30
    env = ImaginedEnv(dynamics, horizon=50)
    record = _record(env, 60, seed=0)
    assert all(np.isfinite(entry[0]).all() for entry in record)
    steps = [entry for entry in record if len(entry) == 5]
    assert all(math.isfinite(entry[1]) for entry in steps)
    assert any(entry[4]["diverged"] for entry in steps)
    assert all(entry[3] and not entry[2] for entry in steps if entry[4]["diverged"])


# --- where episodes start


def test_options_choose_the_start():
    env = ImaginedEnv(_toy(), horizon=3)
    mine = np.array([2.0], np.float32)
    assert env.reset(options={"obs": mine})[0] == 2
    mine[:] = -4  # the caller's array is the caller's
    assert env.step(np.array([0.5], np.float32))[0] == 2.5
    assert env.reset()[0] == 0
    # the count of steps starts anew
    env.reset(options={"obs": np.array([1.0])})
    assert [env.step(np.array([0.0], np.float32))[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("observation", [*OBSERVATION_SPACES, "tuple"])
def test_options_take_any_observation_of_the_space(observation):
    space = OBSERVATION_SPACES.get(observation, TUPLE)
    env = ImaginedEnv(_fitted(space, ACTION_SPACES["discrete"]))
    space.seed(0)
    for _ in range(5):
        given = space.sample()
        shown, _ = env.reset(options={"obs": given})
        assert data_equivalence(add_batch_axis(shown), add_batch_axis(given))


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.array([np.nan]), r"options\['obs'\] must be finite, got \[nan\]"),
        (np.zeros(3), r"must have shape \[B, 1\], got \(1, 3\)"),
    ],
)
def test_options_that_are_no_observation_are_refused(obs, message):
    with pytest.raises(ValueError, match=message):
        ImaginedEnv(_toy()).reset(options={"obs": obs})


@pytest.mark.parametrize(
    "start_obs",
    [
        torch.tensor([[1.0], [2.0], [3.0]]),
        np.array([[1.0], [2.0], [3.0]]),
        lambda count, generator: 1.0 + torch.randint(3, (count, 1), generator=generator),
    ],
    ids=["tensor", "array", "function"],
)
def test_start_states_can_be_given(start_obs):
    env = ImaginedEnv(_toy(), start_obs=start_obs)
    assert {float(env.reset(seed=seed)[0][0]) for seed in range(40)} == {1.0, 2.0, 3.0}
    np.testing.assert_array_equal(env.reset(seed=5)[0], env.reset(seed=5)[0])


def test_given_start_states_are_copied():
    for starts in (torch.ones(2, 1), np.ones((2, 1), np.float32)):
        env = ImaginedEnv(_toy(), start_obs=starts)
        starts[:] = 7
        assert env.reset(seed=0)[0] == 1


def test_start_states_follow_the_last_fit():
    dynamics = _toy()
    env = ImaginedEnv(dynamics)
    assert env.reset(seed=0)[0] == 0
    ones = torch.ones(5, 1)
    no_end = torch.zeros(5, dtype=torch.bool)
    dynamics.fit(Transitions(4 * ones, ones, 5 * ones[:, 0], 5 * ones, no_end, torch.arange(5)))
    assert env.reset(seed=0)[0] == 4


def test_start_states_outside_the_space_are_brought_inside():
    env = ImaginedEnv(_toy(), start_obs=torch.tensor([[50.0]]))
    assert env.reset(seed=0)[0] == 10
    assert env.step(np.array([-1.0], np.float32))[0] == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"start_obs": torch.zeros(0, 1)}, "start_obs must hold at least one observation, got 0"),
        ({"start_obs": torch.tensor([[0.0], [torch.nan]])}, r"start_obs must be finite, got \[nan\] in row 1"),
        ({"start_obs": torch.zeros(2, 3)}, r"must have shape \[B, 1\], got \(2, 3\)"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
        ({"render_mode": "rgb_array"}, "render_env must be one of .*Pendulum-v1.*, got None"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ImaginedEnv(_toy(), **changes)


@pytest.mark.parametrize("output", [torch.zeros(3), torch.zeros(2, 1), torch.full((1, 1), torch.nan)])
def test_a_start_function_is_checked(output):
    env = ImaginedEnv(_toy(), start_obs=lambda count, generator: output)
    with pytest.raises(ValueError, match=r"start_obs must return finite observations of shape \(1, 1\), got shape"):
        env.reset()


def test_a_model_without_start_states_is_refused():
    dynamics = EnsembleDynamics(spaces.Box(-1, 1, (1,)), spaces.Discrete(2), hidden=(8,))
    with pytest.raises(ValueError, match="start_obs must be given for a model that was never fitted, got None"):
        ImaginedEnv(dynamics)


# --- the real environments, imagined


@pytest.mark.parametrize(("seed", "num_steps"), [(0, 150), (1, 150), (2, 150)])
def test_the_known_pendulum_runs_as_the_real_one(seed, num_steps):
    real, imagined = gym.make("Pendulum-v1"), ImaginedEnv(KnownDynamics.for_env("Pendulum-v1"), horizon=num_steps)
    obs, _ = real.reset(seed=seed)
    np.testing.assert_allclose(imagined.reset(options={"obs": obs})[0], obs, atol=1e-6)
    real.action_space.seed(seed)
    for step in range(1, num_steps + 1):
        action = real.action_space.sample()
        obs, reward, _, _, _ = real.step(action)
        said, said_reward, terminated, truncated, info = imagined.step(action)
        np.testing.assert_allclose(said, obs, atol=1e-3)
        assert said_reward == pytest.approx(reward, abs=1e-3)
        assert (terminated, truncated, info["diverged"]) == (False, step == num_steps, False)
        assert info["uncertainty"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_known_cartpole_falls_when_the_real_one_does(seed):
    real, imagined = gym.make("CartPole-v1"), ImaginedEnv(KnownDynamics.for_env("CartPole-v1"), horizon=500)
    obs, _ = real.reset(seed=seed)
    imagined.reset(options={"obs": obs})
    real.action_space.seed(seed)
    terminated = False
    while not terminated:
        action = real.action_space.sample()
        obs, reward, terminated, _, _ = real.step(action)
        said, said_reward, said_terminated, truncated, _ = imagined.step(action)
        np.testing.assert_allclose(said, obs, atol=1e-4)
        assert (said_reward, said_terminated, truncated) == (reward, terminated, False)


@pytest.fixture
def headless(monkeypatch):
    """Let pygame draw without a screen."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_the_frame_is_that_of_the_imagined_state(env_id, headless):
    real = gym.make(env_id, render_mode="rgb_array")
    dynamics = KnownDynamics.for_env("Pendulum-v1") if env_id == "Pendulum-v1" else KnownDynamics.for_env("CartPole-v1")
    env = ImaginedEnv(dynamics, render_mode="rgb_array", render_env=gym.make(env_id, render_mode="rgb_array"))
    obs, _ = real.reset(seed=3)
    env.reset(options={"obs": obs})
    frames = [env.render()]
    np.testing.assert_array_equal(frames[0], real.render())
    for _ in range(4):
        action = 1 if env_id == "CartPole-v1" else np.array([2.0], np.float32)
        obs = env.step(action)[0].astype(np.float64)
    known: Any = real.unwrapped
    known.state = obs if env_id == "CartPole-v1" else np.array([np.arctan2(obs[1], obs[0]), obs[2]])
    frames.append(env.render())
    np.testing.assert_array_equal(frames[1], real.render())
    assert frames[1].shape[2] == 3 and frames[1].dtype == np.uint8
    assert (frames[0] != frames[1]).any()
    env.close()
    real.close()


@pytest.mark.filterwarnings("ignore:.*environment not having a spec")
def test_the_checker_passes_with_rendering(headless):
    shown = gym.make("CartPole-v1", render_mode="rgb_array")
    env = ImaginedEnv(KnownDynamics.for_env("CartPole-v1"), render_mode="rgb_array", render_env=shown)
    sb3_check_env(env, skip_render_check=False)


def test_nothing_is_rendered_without_a_mode():
    env = ImaginedEnv(KnownDynamics.for_env("Pendulum-v1"))
    env.reset(seed=0)
    assert env.render() is None
    env.close()


def test_an_env_that_does_not_render_to_arrays_is_refused():
    with pytest.raises(ValueError, match="render_env must be made with render_mode='rgb_array', got None"):
        ImaginedEnv(KnownDynamics.for_env("Pendulum-v1"), render_mode="rgb_array", render_env=gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="render_env must be one of"):
        ImaginedEnv(KnownDynamics.for_env("Pendulum-v1"), render_mode="rgb_array", render_env=gym.make("FrozenLake-v1"))
