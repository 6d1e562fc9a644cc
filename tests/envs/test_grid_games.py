"""Grid games by themselves, as Gymnasium vectors and as SB3's: the same games, whoever plays beside them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from mbrl_wrappers.envs import GamesVecEnv, GamesVectorEnv
from mbrl_wrappers.tasks.grids import BreakoutGames, Games, MiniPacmanGames, SokobanGames

SOKOBAN, MINI_PACMAN, BREAKOUT = (f"mbrl_wrappers/{name}-v0" for name in ("Sokoban", "MiniPacman", "Breakout"))
CORES: dict[str, Any] = {SOKOBAN: SokobanGames, MINI_PACMAN: MiniPacmanGames, BREAKOUT: BreakoutGames}
LIMITS = {SOKOBAN: 120, MINI_PACMAN: 3000, BREAKOUT: 1000}
# Short limits, and levels that random play solves now and then.
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "Sokoban": (SOKOBAN, {"size": 5, "num_boxes": 1, "levels": (0, 40)}, 15),
    "avoid": (MINI_PACMAN, {"mode": "avoid"}, 200),
    "hunt": (MINI_PACMAN, {"mode": "hunt"}, 90),
    "rush": (MINI_PACMAN, {"mode": "rush"}, 60),
    "Breakout": (BREAKOUT, {}, 12),
}
NUM_GAMES = 5
KINDS = pytest.mark.parametrize("kind", CASES)


def core(kind: str, num_games: int = NUM_GAMES) -> Games:
    env_id, arguments, limit = CASES[kind]
    return CORES[env_id](num_games, max_episode_steps=limit, **arguments)


def single(kind: str, **changes: Any) -> gym.Env:
    env_id, arguments, limit = CASES[kind]
    return gym.make(env_id, max_episode_steps=limit, **arguments, **changes)


def actions_for(games: Games | gym.Env, num_steps: int = 300, num_games: int = NUM_GAMES) -> np.ndarray:
    return np.random.default_rng(1).integers(games.action_space.n, size=(num_steps, num_games))


@pytest.mark.parametrize("render_mode", ["rgb_array", "ansi"])
@pytest.mark.parametrize("env_id", CORES)
def test_envs_pass_the_checkers(env_id: str, render_mode: str) -> None:
    env = gym.make(env_id, render_mode=render_mode)
    check_env(env.unwrapped)
    with pytest.warns(UserWarning, match="minimal resolution for an image is 36x36"):
        check_env_for_sb3(env.unwrapped)
    assert gym.spec(env_id).max_episode_steps == LIMITS[env_id]


# -- the faces show the same games -------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_vector_is_single_envs_side_by_side(kind: str, mode: AutoresetMode) -> None:
    env_id, arguments, limit = CASES[kind]
    ours = gym.make_vec(env_id, NUM_GAMES, max_episode_steps=limit, autoreset_mode=mode, **arguments)
    theirs = gym.vector.SyncVectorEnv([lambda: single(kind)] * NUM_GAMES, autoreset_mode=mode)
    assert isinstance(ours, GamesVectorEnv) and ours.observation_space == theirs.observation_space
    (our_obs, our_info), (their_obs, their_info) = ours.reset(seed=3), theirs.reset(seed=3)
    assert data_equivalence(our_obs, their_obs)
    assert our_info.keys() == their_info.keys() and all(
        np.array_equal(our_info[key], their_info[key]) for key in our_info
    )
    ends = 0
    for actions in actions_for(single(kind)):
        (*our_step, our_info), (*their_step, their_info) = ours.step(actions), theirs.step(actions)
        for mine, other in zip(our_step, their_step, strict=True):
            np.testing.assert_array_equal(mine, other)
        assert our_info["_level"].all()
        np.testing.assert_array_equal(our_info["level"], their_info["level"])
        ends += int((our_step[2] | our_step[3]).sum())
        if mode == AutoresetMode.SAME_STEP and "final_obs" in their_info:
            done = our_info["_final_obs"]
            np.testing.assert_array_equal(done, their_info["_final_obs"])
            for row in np.flatnonzero(done):
                np.testing.assert_array_equal(our_info["final_obs"][row], their_info["final_obs"][row])
            np.testing.assert_array_equal(our_info["final_info"]["level"], their_info["final_info"]["level"])
    assert ends > 5


@KINDS
def test_finished_games_wait_for_their_reset(kind: str) -> None:
    env = GamesVectorEnv(core(kind), "Disabled")
    alone = core(kind, 1)
    alone.seed([4])
    alone.reset()
    env.reset(seed=3)
    for actions in actions_for(env.games):
        obs, _, terminated, truncated, _ = env.step(actions)
        step = alone.step(actions[1:2])
        np.testing.assert_array_equal(obs[1], alone.observations()[0])
        done = terminated | truncated
        if done.any():
            with pytest.raises(ValueError, match=r"episodes \[.*\] are over: call reset with options"):
                env.step(actions)
            env.reset(options={"reset_mask": done})
            alone.reset(step.terminated | step.truncated)


@KINDS
def test_sb3s_vector_is_single_envs_side_by_side(kind: str) -> None:
    ours = GamesVecEnv(core(kind), seed=3)
    theirs = DummyVecEnv([lambda: Monitor(single(kind))] * NUM_GAMES)
    theirs.seed(3)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    ends = {True: 0, False: 0}
    for actions in actions_for(single(kind)):
        obs, rewards, dones, infos = ours.step(actions)
        their_obs, their_rewards, their_dones, their_infos = theirs.step(actions)
        np.testing.assert_array_equal(obs, their_obs)
        np.testing.assert_array_equal(dones, their_dones)
        np.testing.assert_array_equal(rewards, their_rewards)
        assert ours.reset_infos == theirs.reset_infos
        for done, info, other in zip(dones, infos, their_infos, strict=True):
            assert info.keys() == other.keys()
            if done:
                np.testing.assert_array_equal(info.pop("terminal_observation"), other.pop("terminal_observation"))
                mine, monitored = info.pop("episode"), other.pop("episode")
                assert mine["l"] == monitored["l"] and mine["r"] == pytest.approx(monitored["r"], abs=1e-5)
                ends[info["TimeLimit.truncated"]] += 1
            assert data_equivalence(info, {name: other[name] for name in info})
    assert sum(ends.values()) > 5
    np.testing.assert_array_equal(ours.get_images()[2], ours.games.picture(2))


@KINDS
def test_a_game_does_not_know_its_neighbours(kind: str) -> None:
    together, alone = core(kind), core(kind, 1)
    together.seed([7, 8, 9, 10, 11])
    alone.seed([9])
    together.reset()
    alone.reset()
    for actions in actions_for(together):
        step, single_step = together.step(actions), alone.step(actions[2:3])
        for values, value in zip(step, single_step, strict=True):
            assert values[2] == value[0]
        np.testing.assert_array_equal(together.observations()[2], alone.observations()[0])
        together.reset(step.terminated | step.truncated)
        alone.reset(single_step.terminated | single_step.truncated)


@KINDS
def test_seeds_make_the_games(kind: str) -> None:
    def starts(seed: int | None) -> np.ndarray:
        games = core(kind, 30)
        games.seed([seed] * 30 if seed is None else list(range(seed, seed + 30)))
        games.reset()
        return games.observations()

    np.testing.assert_array_equal(starts(0), starts(0))
    assert (starts(0) != starts(100)).any((1, 2, 3)).sum() > 15
    assert (starts(None) != starts(None)).any((1, 2, 3)).sum() > 15
    np.testing.assert_array_equal(starts(0)[1:], starts(1)[:-1])


@KINDS
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_of_an_env_plays_on_alike(kind: str, copied: Any) -> None:
    env = single(kind).unwrapped
    env.reset(seed=0)
    actions = actions_for(env)[:, 0]
    env.step(actions[0])
    other = copied(env)
    for action in actions[1:]:
        step = env.step(action)
        assert data_equivalence(step, other.step(action))
        if step[2]:
            assert data_equivalence(env.reset(), other.reset())


# -- agents ------------------------------------------------------------------------------------------------------------


@KINDS
def test_agents_of_sb3_train_in_many_games(kind: str) -> None:
    env = GamesVecEnv(core(kind, 4), seed=0)
    agent = A2C("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0).learn(200)
    assert agent.num_timesteps == 200 and agent.policy.observation_space.shape == env.observation_space.shape
    assert len(agent.ep_info_buffer) > 0
    DQN("MlpPolicy", env, buffer_size=50, learning_starts=20, policy_kwargs={"net_arch": [8]}, seed=0).learn(60)
    mean, _ = evaluate_policy(agent, VecMonitor(env), n_eval_episodes=4)
    assert np.isfinite(mean)


def test_solved_levels_count_as_successes() -> None:
    games = SokobanGames(2, size=5, num_boxes=1)
    env = GamesVecEnv(games, seed=0)
    env.reset()
    games.put(0, "#####\n#@$.#\n#   #\n#   #\n#####")
    games.put(1, "#####\n#   #\n#@$ #\n#  .#\n#####")
    _, rewards, dones, infos = env.step(np.array([3, 3]))
    assert rewards.tolist() == pytest.approx([10.9, -0.1]) and dones.tolist() == [True, False]
    assert [info["is_success"] for info in infos] == [True, False]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 1], r"actions must be whole numbers of shape \(3,\), got \[0, 1\]"),
        (np.zeros((3, 1), int), r"actions must be whole numbers of shape \(3,\)"),
        ([0.0, 1.0, 1.0], "actions must be whole numbers"),
        ([True, True, False], "actions must be whole numbers"),
        ([0, 1, 4], r"actions must be from 0 to 3, got \[0, 1, 4\]"),
        ([0, 1, -1], "actions must be from 0 to 3"),
    ],
)
def test_bad_actions_are_refused(actions: Any, message: str) -> None:
    games = SokobanGames(3, size=5, num_boxes=1)
    games.reset()
    before = games.observations()
    with pytest.raises(ValueError, match=message):
        games.step(actions)
    np.testing.assert_array_equal(games.observations(), before)


def test_games_that_never_started_are_refused() -> None:
    with pytest.raises(gym.error.ResetNeeded, match="call reset before step"):
        MiniPacmanGames(1).step([0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_games": 0}, "num_games must be a whole number of at least 1, got 0"),
        ({"num_games": 2, "max_episode_steps": 0}, "max_episode_steps must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiniPacmanGames(**arguments)


def test_bad_seeds_and_modes_are_refused() -> None:
    games = MiniPacmanGames(2)
    with pytest.raises(ValueError, match=r"seeds must hold one for each of 2 games, got \[1\]"):
        games.seed([1])
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0, got -1"):
        games.seed([0, -1])
    with pytest.raises(ValueError, match="autoreset_mode must be an AutoresetMode"):
        GamesVectorEnv(games, "later")
    with pytest.raises(AttributeError, match="episodes of GamesVecEnv have no method 'jump'"):
        GamesVecEnv(games).env_method("jump")


def test_levels_that_are_asked_for_are_played_in_every_form() -> None:
    arguments: dict[str, Any] = {"size": 5, "num_boxes": 1, "max_episode_steps": 3}
    expected, info = gym.make(SOKOBAN, **arguments).reset(seed=0, options={"level": 7})
    assert info["level"] == 7
    vector = gym.make_vec(SOKOBAN, num_envs=2, **arguments)
    obs, infos = vector.reset(seed=0, options={"level": 7})
    assert infos["level"].tolist() == [7, 7] and all(np.array_equal(frame, expected) for frame in obs)
    assert vector.reset(seed=0)[1]["level"].tolist() != [7, 7]
    for_sb3 = GamesVecEnv(SokobanGames(2, **arguments), seed=0)
    for_sb3.set_options([{"level": 7}, {}])
    assert np.array_equal(for_sb3.reset()[0], expected)
    assert for_sb3.reset_infos[0]["level"] == 7 != for_sb3.reset_infos[1]["level"]
    for_sb3.reset()  # SB3's options are for one reset
    assert for_sb3.reset_infos[0]["level"] != 7
    with pytest.raises(ValueError, match=r"options\['level'\] must be a whole number of at least 0, got -1"):
        vector.reset(options={"level": -1})
    with pytest.raises(ValueError, match="level must be at most"):
        vector.reset(options={"level": 10**30})
