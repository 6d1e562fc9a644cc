"""Runs that train in several envs at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from mbrl_wrappers import zoo
from mbrl_wrappers.envs import GamesVecEnv
from mbrl_wrappers.imagination import checkpoint_extra
from mbrl_wrappers.imagination.buffer import plain_buffer
from mbrl_wrappers.zoo.storage.folder import open_folder
from mbrl_wrappers.zoo.sweeps.sweep import read_sweep
from mbrl_wrappers.zoo.training.building import base_of
from mbrl_wrappers.zoo.training.command import command_of
from mbrl_wrappers.zoo.training.envs import SeededStarts, vec_env
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import load_recipe, recipe_from, recipe_yaml
from mbrl_wrappers.zoo.training.run import Stopped, run
from testing.commands import parser_of_commands

pytestmark = pytest.mark.usefixtures("brief_diagnosis")

SOKOBAN = "mbrl_wrappers/Sokoban-v0"
LINE = "testing.envs:Line"
SMALL_LEVELS = {"size": 5, "num_boxes": 1, "levels": [0, 20], "max_episode_steps": 12}
NUMBERS: dict[str, Any] = {"eval_freq": 100, "eval_episodes": 1}
EXTRACTOR = {"channels": 4, "features_dim": 8, "rollout_channels": 4, "frame_features": 8, "rollout_features": 8}
I2A_PARAMS = {
    "agent.length": 2, "agent.n_steps": 4, "agent.first_fit": 100, "agent.fit_rows": 100, "agent.fit_every": 100,
    "agent.policy_kwargs": {"features_extractor_kwargs": EXTRACTOR, "rollout_policy_channels": 4},
    "dynamics.channels": 4, "dynamics.max_steps": 10,
}  # fmt: skip
DREAMER_PARAMS = {
    "agent.learning_starts": 40, "agent.batch_size": 4, "agent.sequence_length": 8, "agent.replay_ratio": 8,
    "agent.horizon": 4, "agent.policy_kwargs": {"units": 16, "layers": 1},
    "dynamics.deter": 16, "dynamics.units": 16, "dynamics.layers": 1, "dynamics.latent": [4, 4],
}  # fmt: skip
MBPO_PARAMS = {
    "agent.learning_starts": 20, "agent.gradient_steps": 1, "agent.batch_size": 16, "agent.train_freq": 1,
    "agent.policy_kwargs": {"net_arch": [8]}, "strategy.rollouts_per_step": 5, "model_based.fit_every": 50,
    "dynamics.hidden": [8, 8], "dynamics.max_steps": 20, "normalize.norm_obs": True,
}  # fmt: skip


def job(agent: str, **changes: Any) -> JobSpec:
    """A small one: of a VecEnv of games, of a latent model's memory, and of a strategy under VecNormalize."""
    arguments: dict[str, Any] = {
        "i2a": {"env": SOKOBAN, "env_kwargs": SMALL_LEVELS, "num_envs": 4, "params": I2A_PARAMS, "steps": 240},
        "dreamer": {"env": "Pendulum-v1", "num_envs": 2, "params": DREAMER_PARAMS, "steps": 240},
        "mbpo": {"env": LINE, "num_envs": 3, "params": MBPO_PARAMS, "steps": 240},
    }[agent]
    return make_job(agent, **{**arguments, **NUMBERS, "save_freq": 70, **changes})


AGENTS = ("i2a", "dreamer", "mbpo")


def content(agent: Any) -> dict[str, Any]:
    """All that a run has brought about."""
    found = {f"policy.{name}": value for name, value in agent.policy.state_dict().items()}
    dynamics = getattr(getattr(agent, "model_based", agent), "dynamics", None)
    found |= {} if dynamics is None else {f"model.{name}": value for name, value in dynamics.state_dict().items()}
    if getattr(agent, "replay_buffer", None) is not None:
        buffer = plain_buffer(agent)
        found |= {name: getattr(buffer, name) for name in ("observations", "actions", "rewards", "dones", "timeouts")}
    normalizer: Any = agent.get_vec_normalize_env()
    if normalizer is not None:
        found |= {"mean": normalizer.obs_rms.mean, "returns": normalizer.ret_rms.var}
    return {name: np.asarray(value) for name, value in found.items()}


def assert_same(one: Any, two: Any) -> None:
    assert one._n_updates == two._n_updates > 0 and one.num_timesteps == two.num_timesteps
    found, wanted = content(one), content(two)
    assert found.keys() == wanted.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


# -- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(brief_diagnosis: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Path]]:
    """A whole run of each agent."""
    runs = {}
    for name in AGENTS:
        folder = tmp_path_factory.mktemp(name) / "run"
        runs[name] = (*run(job(name), folder, with_optimizer=True), folder)
    return runs


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(name: str, whole: Any, tmp_path: Path) -> None:
    def stop(row: Any) -> None:
        if row.steps >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job(name), tmp_path, on_evaluation=stop)
    state = checkpoint_extra(tmp_path / "checkpoint")
    assert 140 <= state["steps"] < 200 and state["episode"] == 2
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    agent, rows = run(job(name), tmp_path)
    expected, expected_rows, _ = whole[name]
    assert_same(agent, expected)
    for one, two in zip(rows, expected_rows, strict=True):
        assert (one.steps, one.return_mean) == (two.steps, two.return_mean)


@pytest.mark.slow
def test_i2a_in_one_env_ends_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    spec = job("i2a", num_envs=1, steps=160, save_freq=40)

    def stop(row: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "broken", on_evaluation=stop)
    torch.manual_seed(99)
    assert_same(run(spec, tmp_path / "broken")[0], run(spec, tmp_path / "whole")[0])


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_counts_the_steps_of_all_its_envs(name: str, whole: Any) -> None:
    agent, rows, folder = whole[name]
    spec = job(name)
    assert agent.n_envs == spec.recipe.num_envs == open_folder(folder).config["num_envs"]
    at_once = agent.n_envs * (4 if name == "i2a" else 1)
    assert agent.num_timesteps == rows[-1].steps == -(-240 // at_once) * at_once
    assert JobSpec.from_json((folder / "job.json").read_text()) == spec


def test_another_seed_is_another_run(whole: Any, tmp_path: Path) -> None:
    agent: Any
    agent, _ = run(job("mbpo", seed=1, steps=60), tmp_path)
    assert (plain_buffer(agent).rewards[:20] != plain_buffer(whole["mbpo"][0]).rewards[:20]).all()


@pytest.mark.parametrize("name", AGENTS)
def test_a_kept_agent_goes_on(name: str, whole: Any) -> None:
    expected, _, folder = whole[name]
    read: Any
    read, _ = run(job(name), folder)  # finished: it is read
    loaded: Any = zoo.load(folder, env=vec_env(job(name)))
    for one in (read, loaded):
        assert_same(one, expected)
        assert isinstance(one.env, VecEnv) and one.n_envs == expected.n_envs
    callback = getattr(loaded, "model_based", None)
    loaded.learn(60, callback=callback, reset_num_timesteps=False)
    assert loaded.num_timesteps >= expected.num_timesteps + 60
    assert len(loaded.predict(loaded.env.reset(), deterministic=True)[0]) == loaded.n_envs


def test_episodes_that_a_checkpoint_breaks_off_are_stored_as_cut(whole: Any, tmp_path: Path) -> None:
    buffer = plain_buffer(whole["mbpo"][0])
    rows = np.arange(buffer.size() - 1)
    goes_on = (buffer.next_observations[rows] == buffer.observations[rows + 1]).all(-1)
    cut = buffer.timeouts[rows] == 1
    np.testing.assert_array_equal(~goes_on, buffer.dones[rows] == 1)
    np.testing.assert_array_equal(~goes_on, cut)  # nothing terminates here
    lengths = np.diff(np.flatnonzero(cut[:, 0]))
    assert lengths.max() == 10 and (lengths < 10).sum() >= 3  # the env's own limit, and the checkpoints


def test_a_run_that_is_told_to_stop_does_so_at_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > 5

    spec = job("mbpo", steps=30)
    with pytest.raises(Stopped, match="stopped at step 15"):
        run(spec, tmp_path, should_stop=should_stop)
    assert checkpoint_extra(tmp_path / "checkpoint")["steps"] == 15
    assert run(spec, tmp_path)[0].num_timesteps == 30


# -- envs ----------------------------------------------------------------------------------------------------------


def played(venv: VecEnv, steps: int = 30) -> list[Any]:
    generator = np.random.default_rng(0)
    seen: list[Any] = [venv.reset()]
    for _ in range(steps):
        obs, rewards, dones, infos = venv.step(generator.integers(4, size=venv.num_envs))
        ends = [(info["episode"]["r"], info["episode"]["l"]) for info in infos if "episode" in info]
        seen += [obs, rewards, dones, np.round(ends, 4)]
    venv.close()
    return seen


def test_games_are_played_in_one_core_as_side_by_side() -> None:
    spec = job("i2a")
    games = vec_env(spec)
    assert isinstance(games, GamesVecEnv) and games.num_envs == 4

    def single() -> Monitor:
        return Monitor(gym.make(SOKOBAN, **SMALL_LEVELS))

    one, other = played(SeededStarts(games, 3)), played(SeededStarts(DummyVecEnv([single] * 4), 3))
    for found, wanted in zip(one, other, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_what_only_the_single_env_takes_makes_envs_side_by_side() -> None:
    spec = dataclasses.replace(job("i2a"), env_kwargs={**SMALL_LEVELS, "render_mode": "rgb_array"})
    assert isinstance(vec_env(spec), DummyVecEnv)
    assert isinstance(vec_env(dataclasses.replace(spec, env="CartPole-v1", env_kwargs={})), DummyVecEnv)


def test_each_reset_of_each_env_has_a_random_stream_of_its_own() -> None:
    def starts(seed: int, episode: int) -> np.ndarray:
        venv = SeededStarts(vec_env(job("mbpo")), seed)
        venv.episode = episode
        venv.seed(7)  # as SB3's agents do
        return np.stack([venv.reset(), venv.reset()])

    first = starts(0, 0)
    np.testing.assert_array_equal(first, starts(0, 0))
    np.testing.assert_array_equal(first[1], starts(0, 1)[0])
    assert len(np.unique([first, starts(1, 0)])) == 12


# -- recipes and commands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "env", "more", "digest"),
    [
        ("mbpo", "Pendulum-v1", {"steps": 7001}, "3877a8be9c20135f"),
        ("dreamer", "Pendulum-v1", {}, "9fc1b94059ac7d2c"),
    ],
)
def test_jobs_of_one_env_keep_their_digests(agent: str, env: str, more: dict[str, Any], digest: str) -> None:
    """The first is from before there was a number of envs; the other changes with the recipe, and only then."""
    assert make_job(agent, env, **more).digest() == make_job(agent, env, num_envs=1, **more).digest() == digest
    assert make_job(agent, env, num_envs=2, **more).digest() != digest


def test_i2a_trains_in_64_games_unless_it_is_told_otherwise() -> None:
    usual = make_job("i2a", SOKOBAN)
    assert not usual.recipe.deterministic and make_job("mbpo", "Pendulum-v1").recipe.deterministic
    assert usual.recipe.num_envs == base_of(usual).recipe.num_envs == 64
    assert make_job("i2a", SOKOBAN, num_envs=8).recipe == dataclasses.replace(usual.recipe, num_envs=8)


def test_an_entry_of_a_recipe_overrides_the_default(tmp_path: Path) -> None:
    entries = {"default": {"algo": "SAC", "steps": 9, "num_envs": 4}, "A-v0": {"num_envs": 2}, "B-v0": {"steps": 8}}
    assert [recipe_from(entries, env).num_envs for env in ("A-v0", "B-v0", "C-v0")] == [2, 4, 4]
    recipe = recipe_from(entries, "A-v0")
    (tmp_path / "recipe.yml").write_text(recipe_yaml(recipe, 9))
    assert load_recipe("mbpo", "D-v0", file=tmp_path / "recipe.yml") == recipe
    entries = {"default": {"algo": "SAC", "steps": 9, "deterministic": False}, "A-v0": {"deterministic": True}}
    assert [recipe_from(entries, env).deterministic for env in ("A-v0", "C-v0")] == [True, False]
    (tmp_path / "recipe.yml").write_text(recipe_yaml(recipe_from(entries, "C-v0"), 9))
    assert not load_recipe("mbpo", "D-v0", file=tmp_path / "recipe.yml").deterministic
    with pytest.raises(ValueError, match="deterministic of default must be true or false, got 'no'"):
        recipe_from({"default": {**entries["default"], "deterministic": "no"}}, "A-v0")
    with pytest.raises(ValueError, match="deterministic must be true or false, got 'no'"):
        make_job("mbpo", "Pendulum-v1", deterministic="no")


@pytest.mark.parametrize(
    ("agent", "env", "more"),
    [
        ("mbpo", "Pendulum-v1", {"num_envs": 4}),
        ("mbpo", "Pendulum-v1", {"num_envs": 4, "deterministic": False}),
        ("i2a", SOKOBAN, {"num_envs": 1, "deterministic": True}),
        ("i2a", SOKOBAN, {}),
    ],
)
def test_a_command_makes_the_same_job(
    agent: str, env: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make_job(agent, env, **more)
    command = command_of(spec) or ""
    assert ("--num-envs" in command) == bool(more) and ("--deterministic" in command) == ("deterministic" in more)
    assert parser_of_commands(monkeypatch)(command) == spec
    assert command_of(spec, "recipe.yml") and "--num-envs" not in str(command_of(spec, "recipe.yml"))


def test_a_sweep_names_it(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yml"
    file.write_text("{agents: [mbpo], envs: [Pendulum-v1], seeds: 2, num_envs: 3}")
    assert [(spec.recipe.num_envs, spec.model) for spec in read_sweep(file)] == [(3, True), (3, False)] * 2


def test_the_command_line_takes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    job_of = parser_of_commands(monkeypatch)
    assert job_of("mbrl-zoo train i2a --env mbrl_wrappers/Sokoban-v0 --num-envs 8 -n 101").recipe.num_envs == 8
    told = capsys.readouterr().err
    assert "steps are taken 40 at a time (agent.n_steps, in each of 8 envs): the run ends after 120, not 101" in told
    job_of("mbrl-zoo train mbpo --env Pendulum-v1 --num-envs 2 -n 500 --params agent.gradient_steps=3")
    told = capsys.readouterr().err
    assert "agent.gradient_steps counts updates for each 2 steps in 2 envs: 6, not 3, are as many for each" in told


@pytest.mark.slow
def test_agent_and_control_are_trained_in_several_envs(tmp_path: Path) -> None:
    training = zoo.train(
        "mbpo",
        "Pendulum-v1",
        num_envs=2,
        steps=101,
        params=MBPO_PARAMS,
        folder=tmp_path,
        with_optimizer=True,
        **NUMBERS,
    )
    assert [rows[-1].steps for rows in training.curves.values()] == [102, 102]
    assert [open_folder(tmp_path / name).config["num_envs"] for name in ("mbpo", "base")] == [2, 2]
    assert training.agent.n_envs == 2 and training.agent.num_timesteps == 102


@pytest.mark.parametrize(
    ("agent", "env", "changes", "message"),
    [
        ("pets", "Pendulum-v1", {}, r"num_envs must be 1 for pets, whose agent.train_freq is in episodes.* got 2"),
        ("svg", "Pendulum-v1", {"params": {"agent.horizon": "inf"}}, "num_envs must be 1 for svg, whose agent.train_f"),
        ("alphazero", "mbrl_wrappers/TicTacToe-v0", {}, "num_envs must be 1 for alphazero, which plays against itself"),
        ("exit", "mbrl_wrappers/Hex5-v0", {}, "num_envs must be 1 for exit, which plays against itself"),
        ("mbpo", "Pendulum-v1", {"num_envs": 0}, "num_envs must be a whole number of at least 1, got 0"),
        ("mbpo", "Pendulum-v1", {"num_envs": 2.0}, r"num_envs must be a whole number of at least 1, got 2\.0"),
        ("mbpo", "Pendulum-v1", {"num_envs": True}, "num_envs must be a whole number of at least 1, got True"),
        ("mbpo", "Pendulum-v1", {"num_envs": 1025}, "num_envs must be at most 1024, got 1025"),
    ],
)
def test_what_can_not_be_trained_is_refused(agent: str, env: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_job(agent, env, **{"num_envs": 2, **changes})


def test_agents_that_plan_learn_in_several_envs_with_a_number_of_steps() -> None:
    assert make_job("pets", "Pendulum-v1", num_envs=2, params={"agent.train_freq": 100}).recipe.num_envs == 2


@pytest.mark.parametrize("value", [0, "two", 1.5, None])
def test_a_recipe_with_another_value_is_refused(value: Any) -> None:
    entries = {"default": {"algo": "SAC", "steps": 9}, "A-v0": {"num_envs": value}}
    with pytest.raises(ValueError, match="num_envs of A-v0 must be a whole number of at least 1, got "):
        recipe_from(entries, "A-v0")
