"""Sweeps on Ray. Every Ray lives in a process of its own, listens to this machine only, and needs no network."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.manifest import MANIFEST, check_files
from mbrl_wrappers.zoo.sweeps.ray_executor import RayExecutor, _store
from mbrl_wrappers.zoo.sweeps.sweep import run_job
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job

ENVS = """\
import os
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env):
    # Writes down each process that steps it, and waits in the middle of a run, as long as a file says so.

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)
    done = 0

    def __init__(self, job, folder):
        self.job, self.folder = job, Path(folder)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.place, {}

    def step(self, action):
        if self.job == "buggy":
            raise KeyError("a bug of my own")
        self.done += 1
        if self.done == 30:
            with open(self.folder / "starts", "a") as file:
                print(self.job, os.getpid(), file=file)
        while self.done > 30 and (self.folder / f"wait for {self.job}").exists():
            time.sleep(0.01)
        self.steps += 1
        self.place = np.clip(self.place + 0.3 * (2 * int(action) - 1), -9, 9).astype(np.float32)
        return self.place, -float(abs(self.place[0])), False, self.steps >= 10, {}
"""

CLUSTER = """\
from ray.cluster_utils import Cluster
node = dict(num_cpus=1, node_ip_address="127.0.0.1", include_dashboard=False)
cluster = Cluster(initialize_head=True, head_node_args=node)
"""

SWEEP = """\
import json
from pathlib import Path
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed
from mbrl_wrappers.zoo.sweeps.ray_executor import RayExecutor
from mbrl_wrappers.zoo.sweeps.sweep import run_sweep

def record(outcome):
    with open("outcomes", "a") as file:  # Ray itself writes to stdout, of the worker that died
        print(outcome.spec.digest(), outcome.was_run, file=file)

def sweep(executor):
    specs = [JobSpec.from_json(job) for job in json.loads(Path("jobs.json").read_text())]
    try:
        run_sweep(specs, "root", executor, on_update=record)
    except TrainingFailed as error:
        Path("error").write_text(str(error))
"""

SECONDS = 200


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that this process works in, with a module of envs."""
    (tmp_path / "ray_envs.py").write_text(ENVS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def make_jobs(folder: Path, *names: str) -> list[JobSpec]:
    """Make one small job for each name, without a model, and write them into a file."""
    params = {"agent.learning_starts": 20, "agent.gradient_steps": 1, "agent.policy_kwargs": {"net_arch": [8]}}
    settings = {"steps": 60, "params": params, "eval_episodes": 1, "save_freq": 20}
    specs = []
    for name in names:
        spec = make_job("mbpo", "ray_envs:Walk", env_kwargs={"job": name, "folder": str(folder)}, **settings)
        specs.append(dataclasses.replace(spec, model=False))
    (folder / "jobs.json").write_text(json.dumps([spec.to_json() for spec in specs]))
    return specs


@contextmanager
def ray_process(program: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program that starts Ray."""
    with tempfile.TemporaryDirectory(prefix="ray") as temporary:  # a short path: there are sockets in it
        settings = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then calls this machine 127.0.0.1, and listens there
            "RAY_TMPDIR": temporary,
            "RAY_USAGE_STATS_ENABLED": "0",
            "HOME": temporary,
            "TMPDIR": temporary,
            "PYTHONPATH": os.getcwd(),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**inherited, **settings, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def pids(folder: Path, job: str) -> set[int]:
    """Return the processes in which a job has been started."""
    lines = (line.split() for line in lines_of(folder / "starts"))
    return {int(pid) for name, pid in lines if name == job}


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_is_finished_once_like_all_others(here):
    specs = make_jobs(here, "killed", "plain", "buggy")
    killed, plain, buggy = specs
    (here / "wait for killed").touch()
    program = CLUSTER + "cluster.add_node(**node)\n" + SWEEP + "sweep(RayExecutor(cluster.address))\n"
    with ray_process(program, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex()) as process:
        wait_for((here / "root" / plain.digest() / MANIFEST).exists, process)  # on the other node
        wait_for(lambda: pids(here, "killed"), process)
        (pid,) = pids(here, "killed")
        os.kill(pid, signal.SIGKILL)
        (here / "wait for killed").unlink()
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    assert sorted(lines_of(here / "outcomes")) == sorted(f"{spec.digest()} True" for spec in specs)
    failed, job, *traceback = lines_of(here / "error")
    assert (failed, job) == ("1 of 3 jobs failed", f"{buggy.digest()}: DQN on ray_envs:Walk, seed 0")
    assert "a bug of my own" in traceback[-1]
    assert [len(pids(here, job)) for job in ("killed", "plain", "buggy")] == [2, 1, 0]
    for spec in (killed, plain):
        files = {path.name for path in (here / "root" / spec.digest()).iterdir()}
        assert files == {*check_files(here / "root" / spec.digest()), MANIFEST, ".lock"}
    assert not (here / "root" / buggy.digest()).exists()


@pytest.mark.slow
def test_a_ray_of_ones_own_needs_no_settings(here):
    (spec,) = make_jobs(here, "plain")
    on_gpu = dataclasses.replace(spec, device="cuda")  # for which Ray would wait as long as no node has one
    (here / "jobs.json").write_text(json.dumps([on_gpu.to_json(), spec.to_json()]))
    program = "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = ''\n" + SWEEP
    program += "sweep(RayExecutor(max_workers=1))\nsweep(RayExecutor())\n"
    with ray_process(program) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (0, "", "")
    outcomes = [
        f"{on_gpu.digest()} False",
        f"{spec.digest()} True",
        f"{spec.digest()} False",
        f"{on_gpu.digest()} False",
    ]
    assert lines_of(here / "outcomes") == outcomes
    assert "device must be one that the Ray cluster has, got 'cuda': it has no GPU" in (here / "error").read_text()
    check_files(here / "root" / spec.digest())


def test_a_cluster_without_a_token_is_refused(here):
    make_jobs(here, "plain")
    program = SWEEP + "import sys\nsweep(RayExecutor(sys.stdin.readline().strip()))"
    cluster = CLUSTER + (
        "import os, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {program!r}], input=cluster.address, text=True,\n"
        "    env={**os.environ, 'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': 32 * 'a'})\n"
    )
    with ray_process(cluster, RAY_AUTH_MODE="disabled") as process:
        _, err = process.communicate(timeout=SECONDS)
    assert "ZooError: RAY_AUTH_MODE must be 'token' on its nodes for the Ray cluster at 127.0.0.1:" in err
    assert not pids(here, "plain")


def test_a_token_is_asked_for_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ZooError, match=r"^RAY_AUTH_MODE must be 'token' here for the Ray cluster at auto, got None: "):
        RayExecutor("auto")


def test_ray_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ZooError, match=r"pip install 'mbrl-wrappers\[ray\]'"):
        RayExecutor()


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="max_workers must be at least 1, got 0"):
        RayExecutor(max_workers=0)


def test_what_a_task_returns_is_checked_and_stored_once(here):
    spec, other = make_jobs(here, "plain", "other")
    folder = run_job(spec, "worker").folder
    files = {name: (folder / name).read_bytes() for name in (*check_files(folder), MANIFEST)}
    place = here / "root" / spec.digest()
    for name in sorted(set(files) - {MANIFEST}):
        with pytest.raises(ZooError, match=rf"{name} of job {spec.digest()} must have the sha256 "):
            _store({**files, name: files[name][:-1] + b"?"}, spec, place)
        with pytest.raises(ZooError, match=rf"{name} of job {spec.digest()} must have the sha256 "):
            _store({n: data for n, data in files.items() if n != name}, spec, place)
    with pytest.raises(ZooError, match=rf"job\.json must be that of job {other.digest()}, got "):
        _store(files, other, place)
    assert not place.exists()
    assert _store(files, spec, place) is True
    written = (place / MANIFEST).stat().st_mtime_ns
    assert _store(files, spec, place) is False
    assert (place / MANIFEST).stat().st_mtime_ns == written
    assert {name: (place / name).read_bytes() for name in files} == files


SELF_PLAY = """\
import warnings
import torch
from stable_baselines3.common.callbacks import BaseCallback
from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.agents.self_play_workers import Weights
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.workers import WorkerFailed
from mbrl_wrappers.zoo.sweeps.ray_cluster import RayWorkers

class Disturb(BaseCallback):
    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.num_timesteps == 25 * 8:
            import ray
            ray.kill(self.model.self_play._seats[0].worker._actor)
        elif self.num_timesteps == 50 * 8:
            Weights.of = classmethod(lambda cls, agent: cls({}, 0))

def make(workers):
    agent = AlphaZero(
        "MlpPolicy", GameEnv("TicTacToe"), num_games=8, num_simulations=4, learning_starts=10_000, seed=0,
        workers=workers, policy_kwargs={"features_extractor_kwargs": {"widths": [8]}},
    )
    agent.executor = RayWorkers(num_cpus=1)
    return agent

torch.set_num_threads(1)
warnings.simplefilter("always")
agent = make(1)
try:
    agent.learn(80 * 8, callback=Disturb())
except WorkerFailed as error:
    print(error)
assert agent.num_timesteps >= 50 * 8
rows = list(zip(agent.examples._rows.policy[:len(agent.examples)].tolist(), agent.examples._rows.value.tolist()))
streams = []
for stream in ("0, 0", "0, 1"):  # what the same games are here
    games = agent._new_games(f"games of worker {stream}")
    moves = [games.move(agent._expansion(games.rollout_generators))[0] for _ in range(52)]
    streams += [row for found in moves for row in zip(found.policy.tolist(), found.value.tolist())]
    assert len(set(map(str, rows)) & set(map(str, streams))) > 50
assert set(map(str, rows)) <= set(map(str, streams))
try:
    make(2).learn(8)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_self_play_on_ray_is_the_one_here_also_after_a_kill(here):
    with ray_process(SELF_PLAY) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert "worker 0 of self-play died, and its unfinished games are played anew by another: The actor" in err
    assert "worker 0 of self-play failed" in out and "KeyError: '" in out
    assert "workers must be at most 1, the CPUs of the Ray cluster, got 2" in out
