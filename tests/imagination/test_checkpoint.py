"""A run that stopped goes on as if it never had, and a checkpoint is there whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import Dyna
from mbrl_wrappers.files import temporary_beside
from mbrl_wrappers.imagination import (
    ModelBased,
    checkpoint,
    checkpoint_extra,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.zoo.environment import SeededEpisodes, make_env
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import Recipe
from mbrl_wrappers.zoo.training.run import run
from testing.agents import make_agent
from testing.envs import Walk

pytestmark = [
    pytest.mark.usefixtures("brief_diagnosis"),
    pytest.mark.filterwarnings("ignore:the model foresees none of the"),  # TINY has hardly learned anything
]

TINY: dict[str, Any] = {"num_members": 3, "num_elites": 2, "hidden": [16, 16], "max_steps": 8}


def walk(discrete: bool = False) -> Walk:
    return Walk("double", discrete, noise=0.05)


def discrete_walk() -> Walk:
    return walk(discrete=True)


AGENT: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16, 16]}, "learning_starts": 20, "batch_size": 16, "buffer_size": 100,
}  # fmt: skip
DISCRETE: dict[str, Any] = {"train_freq": 1, "target_update_interval": 20, "exploration_fraction": 0.6}
ALGORITHMS: dict[str, tuple[Any, Callable[[], Walk], dict[str, Any]]] = {
    "SAC": (SAC, walk, {}),
    "TD3": (TD3, walk, {}),
    "TQC": (TQC, walk, {}),
    "CrossQ": (CrossQ, walk, {}),
    "DQN": (DQN, discrete_walk, DISCRETE),
    "QRDQN": (QRDQN, discrete_walk, DISCRETE),
}
NOISES = {
    "Gaussian": (TD3, NormalActionNoise(np.zeros(1), 0.3 * np.ones(1))),
    "correlated": (DDPG, OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))),
}


def model_based(env: Any) -> ModelBased:
    dynamics = EnsembleDynamics(env.observation_space, env.action_space, **TINY)
    return ModelBased(Dyna(rollouts_per_step=2, epoch_length=40), dynamics, fit_every=15)


def trained(steps: int = 40) -> Any:
    env = walk()
    return make_agent(env=env).learn(steps, callback=model_based(env))


def content(agent: Any) -> dict[str, np.ndarray]:
    """All that a run has brought about, as arrays of their own."""
    state = {f"policy.{name}": value.numpy() for name, value in agent.policy.state_dict().items()}
    for name, optimizer in agent.get_parameters().items():
        if isinstance(optimizer, dict) and "state" in optimizer:
            for index, moments in optimizer["state"].items():
                state |= {f"{name}.{index}.{key}": np.asarray(value) for key, value in moments.items()}
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "pos", "full"):
        state[f"buffer.{name}"] = np.asarray(getattr(agent.replay_buffer, name))
    callback = getattr(agent, "model_based", None)
    if callback is not None:
        state |= {f"model.{name}": value.numpy() for name, value in callback.dynamics.state_dict().items()}
        state |= {name: value.numpy() for name, value in callback.full_state().items()}
    state["steps"] = np.array([agent.num_timesteps, agent._n_updates])
    return {name: value.copy() for name, value in state.items()}


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


# -- the same run --------------------------------------------------------------------------------------------


def spec_of(name: str, **kwargs: Any) -> JobSpec:
    _, env, own = ALGORITHMS[name]
    recipe = Recipe(
        algo=name,
        steps=150,
        agent={**AGENT, **own},
        strategy={"real_ratio": 0.3, "rollouts_per_step": 3, "rollout_length": [0, 150, 1, 3], "epoch_length": 20},
        model_based={"fit_every": 15},
        dynamics=TINY,
    )
    arguments = {
        "env": f"{__name__}:{env.__name__}", "recipe": recipe, "model": True, "seed": 3, "steps": 150,
        "eval_freq": 40, "eval_episodes": 2, "save_freq": 25, **kwargs,
    }  # fmt: skip
    return JobSpec(**arguments)


def interrupt(spec: JobSpec, folder: Path) -> None:
    """Break a run off at its evaluation of step 120."""

    def stop(row: Any) -> None:
        if row.steps >= 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, folder, on_evaluation=stop)


@pytest.mark.parametrize(
    "name", [name if name in ("SAC", "DQN") else pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS]
)
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(name, tmp_path):
    spec = spec_of(name)
    agent: Any
    agent, evaluations = run(spec, tmp_path / "whole")
    expected = content(agent)
    assert len(expected["imagined.obs"]) == agent.model_based.strategy._buffer.capacity  # the ring is full

    interrupt(spec, tmp_path / "broken")
    state = checkpoint_extra(tmp_path / "broken" / "checkpoint")
    assert [row["steps"] for row in state["rows"]] == [40, 80]  # it stopped well after the first fits
    torch.manual_seed(99)  # another process would have other generators
    np.random.seed(99)  # noqa: NPY002
    resumed: list[Any] = []
    agent, again = run(spec, tmp_path / "broken", on_evaluation=resumed.append)
    assert_same(content(agent), expected)
    assert [row.steps for row in resumed] == [120, 150]
    for one, two in zip(evaluations, again, strict=True):
        for field in ("steps", "return_mean", "return_std", "updates"):
            assert getattr(one, field) == getattr(two, field), field
    assert again[-1].wall_seconds >= again[-2].wall_seconds >= state["wall_seconds"] > 0


@pytest.mark.parametrize(("norm_obs", "with_model"), [(True, True), (False, False)])
def test_a_run_under_vec_normalize_ends_as_if_it_had_not_been_interrupted(norm_obs, with_model, tmp_path):
    spec = spec_of("SAC", model=with_model)
    recipe = dataclasses.replace(spec.recipe, normalize={"norm_obs": norm_obs, "clip_reward": 5.0})
    spec = dataclasses.replace(spec, recipe=recipe)
    whole, evaluations = run(spec, tmp_path / "whole")

    interrupt(spec, tmp_path / "broken")
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    again, resumed = run(spec, tmp_path / "broken")
    assert_same(normalized_content(again), normalized_content(whole))
    assert [row.return_mean for row in resumed] == [row.return_mean for row in evaluations]
    normalizer = again.get_vec_normalize_env()
    assert (normalizer.gamma, normalizer.clip_reward, normalizer.norm_obs) == (again.gamma, 5.0, norm_obs)
    assert normalizer.ret_rms.count > 100
    kept = zoo.load(tmp_path / "broken", env=make_env(spec.env)).get_vec_normalize_env()
    assert kept.ret_rms.var == normalizer.ret_rms.var and kept.clip_reward == 5.0


def normalized_content(agent: Any) -> dict[str, np.ndarray]:
    normalizer = agent.get_vec_normalize_env()
    statistics = [normalizer.ret_rms] + ([normalizer.obs_rms] if normalizer.norm_obs else [])
    state = {f"statistics.{n}.{k}": np.array(v) for n, rms in enumerate(statistics) for k, v in vars(rms).items()}
    return {**state, **content(agent)}


STRATEGIES: dict[str, dict[str, Any]] = {
    "m2ac": {"rollout_length": 2, "rollouts_per_step": 3, "epoch_length": 20},
    "mve": {"horizon": 2},
    "steve": {"horizon": 2},
}


@pytest.mark.parametrize("agent", [pytest.param("m2ac", marks=pytest.mark.slow), "mve", "steve"])
def test_a_run_of_every_strategy_ends_as_if_it_had_not_been_interrupted(agent, tmp_path):
    spec = spec_of("SAC", agent=agent)
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, strategy=STRATEGIES[agent]))
    expected = content(run(spec, tmp_path / "whole")[0])

    interrupt(spec, tmp_path / "broken")
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert_same(content(run(spec, tmp_path / "broken")[0]), expected)
    loaded: Any = zoo.load(tmp_path / "broken")
    saved, strategy = loaded.model_based.strategy, STRATEGIES[agent]
    assert {name: getattr(saved, name) for name in strategy} == strategy


class SaveAtTheFirstEnd(BaseCallback):
    """Writes one checkpoint, at the first end of an episode after a number of steps."""

    def __init__(self, folder: Path, episodes: SeededEpisodes, after: int) -> None:
        super().__init__()
        self.folder, self.episodes, self.after = folder, episodes, after
        self.over = False

    def _on_step(self) -> bool:
        self.over = bool(self.locals["dones"].all())
        return True

    def _on_rollout_start(self) -> None:
        if self.over and self.num_timesteps >= self.after and not has_checkpoint(self.folder):
            save_checkpoint(self.model, self.folder, {"episode": self.episodes.episode - 1})


@pytest.mark.parametrize(("kind", "noise"), NOISES.values(), ids=NOISES)
def test_a_run_with_action_noise_goes_on_as_if_it_never_stopped(kind, noise, tmp_path):
    folder, episodes = tmp_path / "checkpoint", SeededEpisodes(walk(), seed=3)
    agent = make_agent(kind, episodes, buffer_size=100, action_noise=noise)
    agent.learn(120, callback=[model_based(episodes), SaveAtTheFirstEnd(folder, episodes, after=60)])
    expected = content(agent)

    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    again = SeededEpisodes(walk(), seed=3, episode=checkpoint_extra(folder)["episode"])
    loaded: Any = load_checkpoint(kind, folder, again, "cpu")
    assert 60 <= loaded.num_timesteps < 70
    loaded.learn(120 - loaded.num_timesteps, callback=loaded.model_based, reset_num_timesteps=False)
    assert_same(content(loaded), expected)


def test_a_run_without_a_model_goes_on_too(tmp_path):
    spec = spec_of("SAC", model=False)
    whole, _ = run(spec, tmp_path / "whole")

    interrupt(spec, tmp_path / "broken")
    resumed, _ = run(spec, tmp_path / "broken")
    assert not hasattr(resumed, "model_based")
    expected = whole.policy.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.policy.state_dict().items())


def test_a_finished_run_is_not_run_again(tmp_path):
    spec = spec_of("SAC", steps=60)
    agent, rows = run(spec, tmp_path)
    files = (tmp_path / "progress.csv").read_text().splitlines()
    assert files[0] == ",".join(field.name for field in dataclasses.fields(rows[0]))
    assert [int(line.split(",")[0]) for line in files[1:]] == [40, 60]
    assert json.loads((tmp_path / "job.json").read_text())["seed"] == 3
    assert zoo.load(tmp_path, device="cpu").num_timesteps == agent.num_timesteps == 60


def test_a_folder_belongs_to_one_spec(tmp_path):
    run(spec_of("SAC", steps=25), tmp_path)
    with pytest.raises(ValueError, match="folder must be new or hold a run of the same spec"):
        run(spec_of("SAC", steps=25, seed=4), tmp_path)


def test_evaluating_and_checkpointing_change_nothing(tmp_path):
    agents = [
        run(spec_of("SAC", eval_freq=every, save_freq=save_freq, steps=80), tmp_path / str(every))[0]
        for every, save_freq in ((7, 3), (80, 0))
    ]
    assert_same(content(agents[0]), content(agents[1]))


def test_episodes_are_numbered():
    def starts(first: int, count: int) -> list[float]:
        env = SeededEpisodes(walk(), seed=5, episode=first)
        return [env.reset(seed=7)[0][0] for _ in range(count)]

    all_of_them = starts(0, 6)
    assert starts(2, 4) == all_of_them[2:] and len(set(all_of_them)) == 6


# -- what a checkpoint holds ---------------------------------------------------------------------------------


def test_everything_comes_back(tmp_path):
    agent = trained()
    save_checkpoint(agent, tmp_path / "checkpoint", {"episode": 7, "rows": [1.5, None]})
    expected = content(agent)
    draws = torch.rand(3), np.random.rand(3), agent.action_space.sample()  # noqa: NPY002
    torch.manual_seed(99)
    loaded: Any = load_checkpoint(SAC, tmp_path / "checkpoint", walk(), "cpu")
    assert torch.equal(torch.rand(3), draws[0])
    np.testing.assert_array_equal(np.random.rand(3), draws[1])  # noqa: NPY002
    np.testing.assert_array_equal(loaded.action_space.sample(), draws[2])
    assert_same(content(loaded), expected)
    assert checkpoint_extra(tmp_path / "checkpoint") == {"episode": 7, "rows": [1.5, None]}


def test_a_checkpoint_of_a_checkpoint_is_the_same(tmp_path):
    agent = trained()
    expected = content(agent)
    save_checkpoint(agent, tmp_path / "one")
    save_checkpoint(load_checkpoint(SAC, tmp_path / "one", walk(), "cpu"), tmp_path / "two")
    assert_same(content(load_checkpoint(SAC, tmp_path / "two", walk(), "cpu")), expected)


def test_agent_save_keeps_the_generators_of_an_agent_that_did_not_train_since(tmp_path):
    agent = trained()
    agent.save(tmp_path / "one")
    SAC.load(tmp_path / "one", env=walk(), device="cpu").save(tmp_path / "two")
    loaded: Any = SAC.load(tmp_path / "two", env=walk(), device="cpu")
    generators = {k: v for k, v in agent.model_based.full_state().items() if k.startswith("generator.")}
    state = loaded.model_based.full_state()
    assert state.keys() == generators.keys() and len(state) == 2  # no imagined rows
    assert all(torch.equal(state[name], generators[name]) for name in state)


def test_a_checkpoint_before_the_first_fit(tmp_path):
    save_checkpoint(trained(10), tmp_path / "checkpoint")
    loaded: Any = load_checkpoint(SAC, tmp_path / "checkpoint", walk(), "cpu")
    loaded.learn(30, callback=loaded.model_based, reset_num_timesteps=False)
    assert loaded.num_timesteps == 40 and len(loaded.model_based.strategy._buffer) > 0


def test_an_agent_without_a_model(tmp_path):
    agent = make_agent(env=walk).learn(30)
    save_checkpoint(agent, tmp_path / "checkpoint")
    loaded: Any = load_checkpoint(SAC, tmp_path / "checkpoint", walk(), "cpu")
    assert not hasattr(loaded, "model_based") and loaded.replay_buffer.size() == 30
    loaded.learn(5, reset_num_timesteps=False)


def test_statistics_of_vec_normalize_come_back(tmp_path):
    env: Any = VecNormalize(DummyVecEnv([walk]), gamma=0.9)
    agent = make_agent(env=env).learn(40, callback=model_based(env))
    save_checkpoint(agent, tmp_path / "checkpoint")
    fresh: Any = VecNormalize(DummyVecEnv([walk]))
    loaded: Any = load_checkpoint(SAC, tmp_path / "checkpoint", fresh, "cpu")
    assert loaded.get_vec_normalize_env() is fresh
    obs, reward = np.array([[0.3, 0.4]]), np.array([1.5])
    np.testing.assert_array_equal(fresh.normalize_obs(obs), env.normalize_obs(obs))
    np.testing.assert_array_equal(fresh.normalize_reward(reward), env.normalize_reward(reward))
    assert not np.allclose(fresh.normalize_obs(obs), obs) and fresh.gamma == 0.9
    loaded.learn(20, callback=loaded.model_based, reset_num_timesteps=False)
    assert fresh.obs_rms.count > env.obs_rms.count  # it goes on counting


# -- whole or not at all -------------------------------------------------------------------------------------


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("failing", ["save_file", "_random_state", "_swap"])
def test_a_failure_midway_leaves_the_checkpoint_from_before(failing, tmp_path, monkeypatch):
    agent = trained()
    save_checkpoint(agent, tmp_path / "checkpoint", {"which": "first"})
    expected = content(agent)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left")

    agent.learn(10, callback=agent.model_based, reset_num_timesteps=False)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, failing, fail)
        with pytest.raises(OSError, match="no space left"):
            save_checkpoint(agent, tmp_path / "checkpoint", {"which": "second"})
    assert entries(tmp_path) == ["checkpoint"]
    assert checkpoint_extra(tmp_path / "checkpoint") == {"which": "first"}
    assert_same(content(load_checkpoint(SAC, tmp_path / "checkpoint", walk(), "cpu")), expected)
    save_checkpoint(agent, tmp_path / "checkpoint", {"which": "third"})
    assert checkpoint_extra(tmp_path / "checkpoint") == {"which": "third"} and entries(tmp_path) == ["checkpoint"]


def test_what_a_killed_process_left_is_removed_and_nothing_of_a_living_one(tmp_path):
    agent = trained(5)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    living = temporary_beside(tmp_path / "checkpoint")
    left = living.with_name(living.name.replace(f".{os.getpid()}-", f".{dead.pid}-"))
    for folder in (living, left):
        folder.mkdir()
    save_checkpoint(agent, tmp_path / "checkpoint")
    assert entries(tmp_path) == sorted([living.name, "checkpoint"])


def test_extra_values_of_any_size_come_back(tmp_path):
    extra = {"log": [0.1234567890123] * 300_000, "id": 10**45}
    save_checkpoint(trained(5), tmp_path / "checkpoint", extra)
    assert checkpoint_extra(tmp_path / "checkpoint") == extra


def test_a_checkpoint_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_checkpoint(trained(5), ".", {"which": 1})
    assert checkpoint_extra(tmp_path / "here") == {"which": 1}


def test_extra_values_that_json_cannot_hold_spoil_nothing(tmp_path):
    agent = trained(5)
    with pytest.raises(TypeError):
        save_checkpoint(agent, tmp_path / "checkpoint", {"when": object()})
    assert entries(tmp_path) == [] and not has_checkpoint(tmp_path / "checkpoint")


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    agent = trained()
    save_checkpoint(agent, tmp_path / "checkpoint", {"which": "first"})
    expected = content(agent)
    rename = Path.rename

    def crash_at_the_second(self: Path, target: Path) -> Path:
        if Path(target).name == "checkpoint":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", crash_at_the_second)
        save_checkpoint(agent, tmp_path / "checkpoint", {"which": "second"})
    assert entries(tmp_path) == [".checkpoint.previous"]
    assert has_checkpoint(tmp_path / "checkpoint")
    assert checkpoint_extra(tmp_path / "checkpoint") == {"which": "first"}
    assert_same(content(load_checkpoint(SAC, tmp_path / "checkpoint", walk(), "cpu")), expected)
    save_checkpoint(agent, tmp_path / "checkpoint", {"which": "third"})
    assert entries(tmp_path) == ["checkpoint"]
    assert checkpoint_extra(tmp_path / "checkpoint") == {"which": "third"}


def test_a_folder_without_a_checkpoint(tmp_path):
    assert not has_checkpoint(tmp_path / "nothing")
    for use in (lambda: load_checkpoint(SAC, tmp_path / "nothing", walk()), lambda: checkpoint_extra(tmp_path)):
        with pytest.raises(ValueError, match=r"folder must hold a checkpoint, got .*"):
            use()


def test_an_exception_in_training_leaves_the_last_checkpoint(tmp_path):
    class SaveThenBreak(BaseCallback):
        over = False

        def _on_step(self) -> bool:
            self.over = bool(self.locals["dones"].all())
            if self.num_timesteps == 60:
                raise RuntimeError("broken")
            return True

        def _on_rollout_start(self) -> None:
            if self.over and self.num_timesteps > 30:
                save_checkpoint(self.model, tmp_path / "checkpoint", {"steps": self.num_timesteps})

    env = walk()
    agent = make_agent(env=env)
    with pytest.raises(RuntimeError, match="broken"):
        agent.learn(100, callback=[model_based(env), SaveThenBreak()])
    steps = checkpoint_extra(tmp_path / "checkpoint")["steps"]
    loaded: Any = load_checkpoint(SAC, tmp_path / "checkpoint", walk(), "cpu")
    assert 30 < steps == loaded.num_timesteps == loaded.replay_buffer.size() < 60
    assert type(loaded.replay_buffer) is ReplayBuffer
    loaded.learn(20, callback=loaded.model_based, reset_num_timesteps=False)
    # And what the broken agent holds can still be saved, as plain as ever.
    agent.save_replay_buffer(tmp_path / "buffer")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert type(loaded.replay_buffer) is ReplayBuffer and loaded.replay_buffer.size() == 59
