"""What a run does in an env that never ends, on a device that is not there, and with what a killed one left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import SAC

from mbrl_wrappers import EnsembleDynamics, zoo
from mbrl_wrappers.agents import MAAC, PETS, POPLIN, RS, SACSVG, SVG, CompiledSAC
from mbrl_wrappers.files import remove_abandoned, temporary_beside
from mbrl_wrappers.imagination import checkpoint_extra
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.environment import (
    MAX_EPISODE_STEPS,
    EpisodeLimit,
    env_from_file,
    make_env,
    record_env,
    with_episode_limit,
)
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.evaluation import MAX_CUT_STEPS, Episode, episodes_from_json, episodes_to_json, play_episodes
from mbrl_wrappers.zoo.storage.folder import open_folder
from mbrl_wrappers.zoo.sweeps.lock import LOCK
from mbrl_wrappers.zoo.sweeps.sweep import run_job
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import load_recipe
from mbrl_wrappers.zoo.training.run import CHECKPOINT, run
from testing.agents import same
from testing.envs import Line

pytestmark = pytest.mark.usefixtures("brief_diagnosis")

CUT_OFF = "had not ended after 1000 steps, and no TimeLimit is around it: it was cut off"
PARAMS = {
    "agent.learning_starts": 20,
    "agent.gradient_steps": 1,
    "agent.batch_size": 32,
    "agent.policy_kwargs": {"net_arch": [8]},
    "strategy.rollouts_per_step": 5,
    "model_based.fit_every": 50,
    "dynamics.hidden": [8, 8],
    "dynamics.max_steps": 20,
}


class Drift(Line):
    """Goes on for so many steps, or for ever; its flags are numbers, as those of many an env are."""

    def __init__(self, steps: float = np.inf) -> None:
        super().__init__(speed=0.3, bound=9.0, limit=steps)

    def step(self, action: np.ndarray) -> tuple[Any, float, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, int(terminated), int(truncated), info


TINY = """\
import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv

class Class(PendulumEnv):
    pass

def make():
    return Class()

for name in ("Tiny", "tiny/Plain", "tiny/Versioned-v1", "tiny/Versioned-v3"):
    gym.register(name, Class, max_episode_steps=50)
"""
PRETRAINED = Path(zoo.__file__).parent / "pretrained" / "mbpo" / "Pendulum-v1"
DRIFT = f"{__name__}:Drift"


@pytest.fixture(scope="module")
def agent() -> SAC:
    return SAC("MlpPolicy", Drift(), policy_kwargs={"net_arch": [8]}, seed=0, buffer_size=10)


# -- folders that nobody may write to -----------------------------------------------------------------------------

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.utime")


@pytest.fixture
def untouched(tmp_path):
    """A finished run; whoever opens anything in it for writing is told on, also where root may write anyway."""
    folder = tmp_path / "run"
    shutil.copytree(PRETRAINED, folder / "mbpo")
    touched: list[tuple] = []

    def watch(event, arguments):
        writes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
        if writes and watching and any(str(folder) in str(argument) for argument in arguments):
            touched.append((event, *arguments))

    watching = [True]
    sys.addaudithook(watch)  # for ever: none can be taken away
    try:
        yield folder
        assert touched == []
        (folder / "mbpo" / "job.json").open("a").close()
        assert touched  # so that it would have told
    finally:
        watching.clear()


@pytest.mark.parametrize(
    "command",
    [
        "verify RUN/mbpo",
        "evaluate RUN --episodes 1",
        "enjoy RUN --episodes 1 --no-render",
        "report RUN -o OUT --no-videos",
    ],
)
def test_a_finished_run_is_read_without_a_write(untouched, command, capsys):
    command = command.replace("RUN", str(untouched)).replace("OUT", str(untouched.parent / "report.html"))
    assert main(command.split()) == 0, capsys.readouterr().err


def test_a_finished_run_is_trained_again_without_a_write(untouched):
    own = untouched / "mbpo"
    spec = JobSpec.from_json((own / "job.json").read_bytes())
    run(spec, own)
    root = untouched.parent / "root"
    root.mkdir()
    shutil.copytree(own, root / spec.digest())
    assert run_job(spec, root).was_run is False
    assert [path.name for path in root.iterdir()] == [spec.digest()]
    assert not (root / spec.digest() / LOCK).exists()


# -- what killed runs leave ---------------------------------------------------------------------------------------


def test_temporary_files_of_the_dead_are_removed_and_no_others(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    own = temporary_beside(tmp_path / "job.json")  # this process lives, and perhaps another thread is at it
    left = own.with_name(own.name.replace(f".{os.getpid()}-", f".{dead.pid}-"))
    host = own.name.rpartition("-")[0].rpartition("-")[2]
    elsewhere = own.with_name(left.name.replace(host, "0123abcd"))
    others = [own, elsewhere, tmp_path / "job.json", tmp_path / ".lock", tmp_path / ".job.json.bak"]
    for file in (left, *others):
        file.write_text("{")
    folder = left.with_name(left.name.replace("job.json", "mbrl-zoo"))
    (folder / "inside").mkdir(parents=True)
    remove_abandoned(tmp_path)
    assert set(tmp_path.iterdir()) == set(others)


def test_a_write_that_is_killed_is_cleaned_up_by_the_next_start(tmp_path):
    spec = make_job("mbpo", DRIFT, steps=30, params=PARAMS, eval_episodes=1, env_kwargs={"steps": 5}, save_freq=0)
    folder = tmp_path / "run"
    program = (
        "import os, signal, sys; from mbrl_wrappers.files import write_atomically\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(sys.argv[1], b'{')"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder / "job.json")])
    assert killed.returncode == -signal.SIGKILL
    assert [path.name[:10] for path in folder.iterdir()] == [".job.json."]
    temporary = next(folder.iterdir())
    temporary.with_name(temporary.name.replace("job.json", "checkpoint")).mkdir()
    run(spec, folder)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("seconds", "train_freq", "kept"), [(10.0, 1, 0), (50.0, 4, 20), (100.0, 1, 27)])
def test_a_killed_run_has_a_checkpoint_of_a_while_ago(seconds, train_freq, kept, tmp_path, monkeypatch):
    """Episodes have 10 steps. It is at the end of one that takes less than ten minutes, and within a longer one."""
    clock = [0.0]
    fake = SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter, process_time=time.process_time)
    monkeypatch.setattr("mbrl_wrappers.zoo.training.run.time", fake)
    params = {**PARAMS, "agent.train_freq": train_freq}
    spec = make_job("mbpo", DRIFT, steps=60, params=params, eval_episodes=1, env_kwargs={"steps": 10}, save_freq=60)

    def step(agent, dies=False):
        clock[0] += seconds
        if dies and agent.num_timesteps == 36:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "killed", on_step=partial(step, dies=True))
    found = checkpoint_extra(tmp_path / "killed" / CHECKPOINT)["steps"] if kept else 0
    assert found == kept and (tmp_path / "killed" / CHECKPOINT).exists() == (kept > 0)
    resumed, _ = run(spec, tmp_path / "killed", on_step=step)
    whole, _ = run(spec, tmp_path / "whole", on_step=step)
    assert same(resumed.policy.parameters(), whole.policy.parameters()) == (kept % 10 == 0)


# -- devices ------------------------------------------------------------------------------------------------------

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that is to be missing")


@needs_no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:3", torch.device("cuda")])
def test_a_device_that_is_not_there_is_named(device):
    env = gym.make("Pendulum-v1")
    kinds = [partial(kind, "MlpPolicy", env) for kind in (PETS, RS, POPLIN, MAAC, SACSVG, SVG, CompiledSAC)]
    for make in (partial(EnsembleDynamics.for_env, env, hidden=(8,)), *kinds):
        with pytest.raises(ValueError, match=rf"^device must be one that this machine has, or 'auto', got .*{device}"):
            make(device=device)


@needs_no_gpu
def test_a_run_is_not_started_on_a_device_that_is_not_there(tmp_path, capsys):
    spec = make_job("mbpo", DRIFT, steps=30, params=PARAMS, env_kwargs={"steps": 5}, device="cuda")  # may run elsewhere
    missing = "device must be one that this machine has, or 'auto', got 'cuda'"
    with pytest.raises(ValueError, match=missing):
        run(spec, tmp_path / "run")
    folder = tmp_path / "command"
    code = main(["train", "mbpo", "-n", "300", "--device", "cuda", "--folder", str(folder)])
    assert code == 2 and missing in capsys.readouterr().err
    for read in (zoo.load, zoo.load_dynamics, zoo.evaluate):
        with pytest.raises(ZooError, match="device must be one of this machine's, or 'auto', got 'cuda'"):
            read("mbpo/Pendulum-v1", device="cuda")
    assert list(tmp_path.iterdir()) == []


# -- ids ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_package(tmp_path, monkeypatch):
    """A package that registers envs when it is imported, which nothing has done yet."""
    (tmp_path / "tiny_envs.py").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("tiny_envs", None)
    for name in [name for name in gym.registry if name.startswith("tiny/") or name == "Tiny"]:
        del gym.registry[name]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("tiny_envs:tiny/Plain", "tiny_envs:tiny/Plain"),
        ("tiny_envs:Tiny", "tiny_envs:Tiny"),
        ("tiny_envs:tiny/Versioned-v3", "tiny_envs:tiny/Versioned-v3"),
        ("tiny_envs:tiny/Versioned", "tiny_envs:tiny/Versioned-v3"),
        ("tiny_envs:Class", "tiny_envs:Class"),
        ("tiny_envs:make", "tiny_envs:make"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Using the latest versioned environment")
def test_an_env_has_the_names_that_gymnasium_knows_and_those_of_classes(tiny_package, name, full):
    spec = make_job("mbpo", name, steps=60, params=PARAMS)
    assert spec.env == full
    with make_env(name) as env:
        assert type(env.unwrapped).__name__ == "Class"
        assert record_env(env, name, {}).name == full
    is_class = name in ("tiny_envs:Class", "tiny_envs:make")
    if is_class:
        with pytest.raises(ZooError, match="a name found in a file is not imported"):
            env_from_file(full, {})
    else:
        env_from_file(full, {}).close()  # the package has been imported


def test_a_file_may_name_a_package_that_is_never_imported_for_it(tiny_package):
    for name in ("tiny_envs:tiny/Plain", "tiny_envs:GymV26Environment-v0"):
        with pytest.raises(ZooError, match="a name found in a file is not imported"):
            env_from_file(name, {})
    assert "tiny_envs" not in sys.modules


def test_an_id_that_is_not_registered_is_told_the_form_that_works(tiny_package):
    with pytest.raises(ValueError, match="or 'package:id' where a package registers the id, got 'tiny/Plain': "):
        make_env("tiny/Plain")


@pytest.mark.parametrize("name", ["Pendulum-v1", "gymnasium:Pendulum-v1", "gymnasium:Pendulum", "Pendulum"])
@pytest.mark.filterwarnings("ignore:.*Using the latest versioned environment")
def test_an_id_has_its_recipe_however_it_is_written(name):
    assert make_job("mbpo", name).recipe == load_recipe("mbpo", "Pendulum-v1")


# -- envs that never end ------------------------------------------------------------------------------------------


def test_an_episode_that_does_not_end_is_cut_off_with_one_warning(agent):
    with pytest.warns(UserWarning, match=CUT_OFF) as said:
        played = play_episodes(agent, Drift(), 2)
    assert len(said) == 1 and "TimeLimit" in str(said[0].message)
    assert [(episode.length, episode.cut_off) for episode in played] == 2 * [(MAX_EPISODE_STEPS, True)]


@pytest.mark.parametrize(
    ("env", "length"),
    [
        (lambda: Drift(5), 5),
        (lambda: Drift(MAX_EPISODE_STEPS), MAX_EPISODE_STEPS),  # by its own decision
        (lambda: TimeLimit(Drift(), 7), 7),
        (lambda: TimeLimit(Drift(), MAX_EPISODE_STEPS + 3), MAX_EPISODE_STEPS + 3),
        (lambda: gym.wrappers.OrderEnforcing(TimeLimit(Drift(), 7)), 7),
    ],
)
def test_an_episode_that_ends_is_left_alone(agent, env, length):
    (episode,) = play_episodes(agent, env(), 1)
    assert (episode.length, episode.cut_off) == (length, False)


def test_a_limit_is_put_around_an_env_once():
    env = with_episode_limit(Drift())
    assert with_episode_limit(env) is env and isinstance(env, EpisodeLimit)


def test_a_saved_agent_is_verified_on_the_episodes_that_were_cut_off(agent, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match=CUT_OFF):
        zoo.save(agent, tmp_path / "agent", env=DRIFT, episodes=2)
    recorded = open_folder(tmp_path / "agent").evaluation.episodes
    assert [(episode.length, episode.cut_off) for episode in recorded] == 2 * [(MAX_EPISODE_STEPS, True)]
    assert zoo.verify(tmp_path / "agent", env=DRIFT).status == "match"  # without a warning
    monkeypatch.setattr(EpisodeLimit.__init__, "__defaults__", (20,))  # of another version of this library
    assert zoo.verify(tmp_path / "agent", env=DRIFT).status == "match"
    with pytest.warns(UserWarning, match="after 20 steps"):
        assert [episode.length for episode in zoo.evaluate(tmp_path / "agent", env=DRIFT, episodes=1)] == [20]


def test_only_an_episode_that_was_cut_off_says_so_in_its_record():
    episodes = [Episode(0, -1.5, 20), Episode(1, 0.0, 1000, cut_off=True)]
    values = json.loads(json.dumps(episodes_to_json(episodes)))
    assert values == [{"seed": 0, "total_reward": -1.5, "length": 20}, {**values[1], "cut_off": True}]
    assert episodes_from_json(values, "eval.json") == episodes
    values[1]["length"] = MAX_CUT_STEPS + 1
    with pytest.raises(
        ZooError, match=r"^eval.json: an episode must be cut off after at most 1000000 steps, got 10000"
    ):
        episodes_from_json(values, "eval.json")


@pytest.mark.slow
def test_a_run_in_an_env_that_never_ends_is_evaluated(tmp_path):
    spec = make_job("mbpo", DRIFT, steps=60, params=PARAMS, eval_episodes=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _, rows = run(spec, tmp_path / "run")
    assert [row.steps for row in rows] == list(range(6, 61, 6))
    assert [str(warning.message)[:22] for warning in said] == ["an episode of Drift ha"]  # ten evaluations, one warning
    assert zoo.verify(tmp_path / "run", env=DRIFT).status == "match"
