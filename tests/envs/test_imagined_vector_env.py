"""A model as a Gymnasium vector environment, beside Gymnasium's own."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from mbrl_wrappers.envs import ImaginedEnv, ImaginedVectorEnv
from mbrl_wrappers.models import DynamicsModel, EnsembleDynamics, KnownDynamics
from mbrl_wrappers.types import Transitions
from testing.envs import walker
from testing.models import global_generators, walker_model

HORIZON = 6
MODES = list(AutoresetMode)


def _house(**changes: Any) -> KnownDynamics:
    """A nested space: the action's category becomes the room, its number a wish; ends in room 2."""
    observation_space = spaces.Dict({"room": spaces.Discrete(3), "rest": spaces.Tuple([spaces.Box(-1, 1, (2,))])})
    action_space = spaces.Dict({"go": spaces.Discrete(3), "wish": spaces.Box(-1, 1, (1,))})
    return KnownDynamics(
        observation_space,
        action_space,
        lambda obs, action: torch.cat([action[:, :3], obs[:, 4:], action[:, 3:]], dim=-1),
        lambda obs, action, next_obs: next_obs[..., 4],
        lambda obs, action, next_obs: next_obs[..., 2] == 1,
        start_obs=torch.tensor([[1.0, 0.0, 0.0, 0.5, -0.5]]),
        **changes,
    )


def _actions(num_steps: int, num_envs: int, seed: int = 0) -> np.ndarray:
    """Random actions that drift, so that some walkers fall and some run out of time."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(-0.8, 0.8, num_envs)[:, None]
    return np.clip(rng.uniform(-1, 1, (num_steps, num_envs, 1)) + drift, -1, 1).astype(np.float32)


def _reset_finished(env: VectorEnv, mode: AutoresetMode, done: np.ndarray) -> Any:
    """Do what a user does in DISABLED mode, and return the observations, None where nothing is to do."""
    if mode != AutoresetMode.DISABLED or not done.any():
        return None
    return env.reset(options={"reset_mask": done.copy()})[0]


def _ensemble() -> EnsembleDynamics:
    """Fit a small ensemble on arbitrary transitions."""
    dynamics = EnsembleDynamics(
        spaces.Box(-3, 3, (3,)), spaces.Box(-1, 1, (2,)), num_members=3, num_elites=2, hidden=(32, 32), max_steps=30
    )
    generator = torch.Generator().manual_seed(0)
    obs, action = torch.randn(64, 3, generator=generator).clamp(-3, 3), torch.rand(64, 2, generator=generator)
    transitions = Transitions(
        obs, action, obs[:, 0], obs.roll(1, 0), torch.rand(64, generator=generator) < 0.1, torch.arange(64)
    )
    dynamics.fit(transitions, generator)
    return dynamics


# --- beside Gymnasium's own vector env


@pytest.mark.parametrize("mode", MODES)
def test_every_return_value_is_that_of_a_sync_vector_env(mode):
    num_envs = 5
    real = SyncVectorEnv([lambda: gym.wrappers.TimeLimit(walker(), HORIZON)] * num_envs, autoreset_mode=mode)
    imagined = ImaginedVectorEnv(walker_model(), num_envs, horizon=HORIZON, autoreset_mode=mode)
    np.testing.assert_array_equal(imagined.reset(seed=0)[0], real.reset(seed=0)[0])
    num_terminated = num_truncated = 0
    for actions in _actions(60, num_envs):
        expected, said = real.step(actions), imagined.step(actions)
        for value, other in zip(said[:4], expected[:4], strict=True):
            assert value.dtype == other.dtype and value.shape == other.shape
            np.testing.assert_allclose(value, other, atol=1e-6)
        assert ("final_obs" in said[4]) == ("final_obs" in expected[4])
        if "final_obs" in said[4]:
            np.testing.assert_array_equal(said[4]["_final_obs"], expected[4]["_final_obs"])
            for value, other in zip(said[4]["final_obs"], expected[4]["final_obs"], strict=True):
                assert (value is None) == (other is None)
                assert value is None or np.allclose(value, other, atol=1e-6)
        num_terminated += int(said[2].sum())
        num_truncated += int(said[3].sum())
        done = said[2] | said[3]
        shown = _reset_finished(imagined, mode, done)
        if shown is not None:
            np.testing.assert_allclose(shown, _reset_finished(real, mode, done), atol=1e-6)
    assert num_terminated > 5 and num_truncated > 5
    real.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", [walker_model, _house])
def test_every_info_is_that_of_single_imagined_envs(mode, model):
    num_envs = 4
    many = SyncVectorEnv([lambda: ImaginedEnv(model(), horizon=HORIZON)] * num_envs, autoreset_mode=mode)
    real = DictInfoToList(many)
    imagined = DictInfoToList(ImaginedVectorEnv(model(), num_envs, horizon=HORIZON, autoreset_mode=mode))
    assert imagined.observation_space == real.observation_space and imagined.action_space == real.action_space
    assert imagined.single_observation_space == real.single_observation_space
    assert imagined.single_action_space == real.single_action_space
    assert data_equivalence(imagined.reset(seed=0), real.reset(seed=0))
    real.action_space.seed(0)
    for _ in range(30):
        actions = real.action_space.sample()
        said, expected = imagined.step(actions), real.step(actions)
        assert imagined.observation_space.contains(said[0])
        assert data_equivalence(said[:4], expected[:4])
        for info, other in zip(said[4], expected[4], strict=True):
            assert info.keys() == other.keys()
            for name in ("uncertainty", "diverged"):
                assert info.get(name) == other.get(name)
                assert info.get("final_info", {}).get(name) == other.get("final_info", {}).get(name)
            assert data_equivalence(info.get("final_obs"), other.get("final_obs"))
        done = said[2] | said[3]
        assert data_equivalence(_reset_finished(imagined, mode, done), _reset_finished(real, mode, done))
    real.close()


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics_can_be_recorded(mode):
    env = RecordEpisodeStatistics(ImaginedVectorEnv(walker_model(), 4, horizon=HORIZON, autoreset_mode=mode))
    env.reset(seed=0)
    rewards: list[list[float]] = [[] for _ in range(4)]
    episodes = []
    over = np.zeros(4, dtype=bool)
    for actions in _actions(40, 4):
        _, reward, terminated, truncated, _ = env.step(actions)
        stepped = ~over if mode == AutoresetMode.NEXT_STEP else np.ones(4, dtype=bool)
        over = terminated | truncated
        for row in np.flatnonzero(stepped):
            rewards[row].append(reward[row])
        for row in np.flatnonzero(over):
            episodes.append((sum(rewards[row]), len(rewards[row])))
            rewards[row].clear()
        _reset_finished(env, mode, over)
    returns, lengths = zip(*episodes, strict=True)
    assert len(episodes) > 15 and list(env.length_queue) == list(lengths)
    np.testing.assert_allclose(env.return_queue, returns, atol=1e-6)


# --- each mode by hand


def test_next_step_resets_in_a_step_of_its_own_whose_action_is_ignored():
    env = ImaginedVectorEnv(walker_model(), 2, horizon=10, autoreset_mode="NextStep")
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    env.reset()
    push = np.array([[1.0], [0.25]], np.float32)
    for _ in range(4):
        obs, reward, terminated, truncated, info = env.step(push)
    assert obs[:, 0].tolist() == [4, 1] and terminated.tolist() == [True, False]
    obs, reward, terminated, truncated, info = env.step(push)
    assert obs[:, 0].tolist() == [0, 1.25] and reward.tolist() == [0, 1.25]
    assert not terminated.any() and not truncated.any()
    assert info["_uncertainty"].tolist() == info["_diverged"].tolist() == [False, True]
    assert env.step(push)[0][:, 0].tolist() == [1, 1.5]
    # the step of the reset is not one of the new episode's
    ends = [env.step(0 * push)[3].tolist() for _ in range(9)]
    assert ends == [[False, False]] * 3 + [[False, True]] + [[False, False]] * 4 + [[True, False]]


def test_same_step_resets_at_once_and_keeps_the_last_observation():
    env = ImaginedVectorEnv(walker_model(), 2, horizon=10, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset()
    push = np.array([[1.0], [0.25]], np.float32)
    for _ in range(3):
        assert "final_obs" not in env.step(push)[4]
    obs, reward, terminated, _, info = env.step(push)
    assert obs[:, 0].tolist() == [0, 1] and reward.tolist() == [4, 1] and terminated.tolist() == [True, False]
    assert info["_final_obs"].tolist() == [True, False]
    assert info["final_obs"][0].tolist() == [4] and info["final_obs"][1] is None
    assert info["final_info"]["_uncertainty"].tolist() == [True, False]
    assert info["_uncertainty"].tolist() == [False, True]
    assert env.step(push)[0][:, 0].tolist() == [1, 1.25]


def test_disabled_waits_for_a_reset_of_the_finished_ones():
    env = ImaginedVectorEnv(walker_model(), 3, horizon=10, autoreset_mode=AutoresetMode.DISABLED)
    env.reset()
    push = np.array([[1.0], [0.25], [-1.0]], np.float32)
    for _ in range(4):
        obs, _, terminated, _, _ = env.step(push)
    assert obs[:, 0].tolist() == [4, 1, -4] and terminated.tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"episodes \[0, 2\] are over: call reset with options\['reset_mask'\]"):
        env.step(push)
    options = {"reset_mask": np.array([True, False, False])}
    assert env.reset(options=options)[0][:, 0].tolist() == [0, 1, -4]
    assert list(options) == ["reset_mask"]
    with pytest.raises(ValueError, match=r"episodes \[2\] are over"):
        env.step(push)
    env.reset(options={"reset_mask": np.array([False, False, True])})
    assert env.step(push)[0][:, 0].tolist() == [1, 1.25, -1]
    assert env.reset()[0][:, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_mask_resets_running_episodes_too(mode):
    env = ImaginedVectorEnv(walker_model(), 3, horizon=4, autoreset_mode=mode)
    env.reset()
    rest = np.full((3, 1), 0.25, np.float32)
    env.step(rest)
    assert env.reset(options={"reset_mask": np.array([False, True, False])})[0][:, 0].tolist() == [0.25, 0, 0.25]
    for _ in range(2):
        env.step(rest)
    truncated = env.step(rest)[3]
    assert truncated.tolist() == [True, False, True]


@pytest.mark.parametrize("mode", MODES)
def test_a_full_reset_forgets_what_was_over(mode):
    env = ImaginedVectorEnv(walker_model(), 1, horizon=1, autoreset_mode=mode)
    push = np.ones((1, 1), np.float32)
    for _ in range(3):
        env.reset()
        obs, reward, terminated, truncated, _ = env.step(push)
        assert (reward[0], terminated[0], truncated[0]) == (1, False, True)
        assert obs[0, 0] == (0 if mode == AutoresetMode.SAME_STEP else 1)


def test_a_diverged_episode_is_truncated():
    dynamics = walker_model(step_fn=lambda obs, action: torch.where(action > 0.5, torch.inf, obs + action))
    env = ImaginedVectorEnv(dynamics, 2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset()
    env.step(np.full((2, 1), 0.25, np.float32))
    obs, reward, terminated, truncated, info = env.step(np.array([[0.25], [1.0]], np.float32))
    assert obs[:, 0].tolist() == [0.5, 0.25] and reward.tolist() == [0.5, 0]
    assert not terminated.any() and truncated.tolist() == info["diverged"].tolist() == [False, True]


# --- randomness


@pytest.mark.parametrize("seed", [3, [3, None, 8, 1]])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_seeded_runs_are_equal_bit_for_bit(seed, mode):
    dynamics = _ensemble()

    def record(env: ImaginedVectorEnv, seed: Any) -> list[Any]:
        env.action_space.seed(0)
        return [env.reset(seed=seed), *(env.step(env.action_space.sample()) for _ in range(15))]

    env = ImaginedVectorEnv(dynamics, 4, horizon=5, autoreset_mode=mode)
    states = global_generators()
    first = record(env, seed)
    assert data_equivalence(record(env, seed), first, exact=True)
    assert data_equivalence(record(ImaginedVectorEnv(dynamics, 4, horizon=5, autoreset_mode=mode), seed), first, True)
    assert not data_equivalence(record(env, None), first)  # goes on
    assert not data_equivalence(record(env, 4), first)
    assert data_equivalence(global_generators(), states, exact=True)


def test_rows_differ_though_the_seed_is_one():
    env = ImaginedVectorEnv(KnownDynamics.for_env("Pendulum-v1"), 64)
    assert len(np.unique(env.reset(seed=0)[0], axis=0)) > 55
    assert not np.array_equal(env.reset()[0], env.reset()[0])


@pytest.mark.parametrize("model", ["Pendulum-v1", "CartPole-v1", "ensemble"])
def test_an_episode_does_not_depend_on_its_neighbours(model):
    dynamics: DynamicsModel = _ensemble() if model == "ensemble" else KnownDynamics.for_env(model)
    starts = dynamics.start_obs[:8].clone()
    actions = batch_space(dynamics.action_space, 8)
    actions.seed(0)

    def env_of(rows: torch.Tensor) -> ImaginedVectorEnv:
        return ImaginedVectorEnv(
            dynamics,
            len(rows),
            start_obs=lambda count, generator: rows[:count],
            deterministic=True,
            autoreset_mode=AutoresetMode.DISABLED,
        )

    together, alone = env_of(starts), env_of(starts[3:4])
    np.testing.assert_array_equal(together.reset(seed=0)[0][3:4], alone.reset(seed=1)[0])
    for _ in range(40):
        action = actions.sample()
        said, expected = together.step(action), alone.step(action[3:4])
        for value, other in zip(said[:4], expected[:4], strict=True):
            np.testing.assert_allclose(value[3:4], other, atol=1e-4)
        done = said[2] | said[3]
        if done[3]:
            break
        together.reset(options={"reset_mask": done})


# --- spaces and errors


def test_nested_spaces_are_batched_as_gymnasium_batches_them():
    env = ImaginedVectorEnv(_house(), 3, horizon=4)
    assert env.observation_space == batch_space(env.single_observation_space, 3)
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs) and info == {}
    env.action_space.seed(0)
    for _ in range(10):
        obs = env.step(env.action_space.sample())[0]
        assert env.observation_space.contains(obs)
        assert all(env.single_observation_space.contains(one) for one in iterate(env.observation_space, obs))
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number of at least 1, got 0"),
        ({"num_envs": 2, "horizon": -1}, "horizon must be a whole number of at least 1, got -1"),
        ({"num_envs": 2, "start_obs": torch.zeros(0, 1)}, "start_obs must hold at least one observation, got 0"),
        ({"num_envs": 2, "autoreset_mode": "Sometimes"}, "autoreset_mode must be .*, got 'Sometimes'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImaginedVectorEnv(walker_model(), **arguments)


def test_a_model_without_start_states_is_refused():
    dynamics = EnsembleDynamics(spaces.Box(-1, 1, (1,)), spaces.Discrete(2), hidden=(8,))
    with pytest.raises(ValueError, match="start_obs must be given for a model that was never fitted, got None"):
        ImaginedVectorEnv(dynamics, 4)


@pytest.mark.parametrize("mask", [np.ones(2, bool), np.ones(3), [True, False], np.ones((3, 1), bool)])
def test_a_bad_reset_mask_is_named(mask):
    env = ImaginedVectorEnv(walker_model(), 3)
    env.reset()
    with pytest.raises(ValueError, match=r"options\['reset_mask'\] must be bool \[3\], got"):
        env.reset(options={"reset_mask": mask})


def test_one_seed_for_each_episode_or_one_for_all():
    with pytest.raises(ValueError, match=r"seed must be one or a list of 3, got \[1, 2\]"):
        ImaginedVectorEnv(walker_model(), 3).reset(seed=[1, 2])
