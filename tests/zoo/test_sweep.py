"""Sweeps on one machine: what a file asks for, and that each job is run once, whatever is interrupted."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from mbrl_wrappers.imagination import checkpoint_extra
from mbrl_wrappers.zoo.storage.manifest import MANIFEST, check_files
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.sweeps.executors import FolderLock, LocalExecutor, Outcome
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed
from mbrl_wrappers.zoo.sweeps.sweep import SWEEP, Result, read_sweep, run_job, run_sweep
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.progress import Evaluation

pytestmark = pytest.mark.usefixtures("brief_diagnosis")

ENVS = """\
import os
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env):
    # Writes down its process, and waits in the middle of a run, as long as a file says so.

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)
    done = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.place, {}

    def step(self, action):
        if Walk.done == 0:
            with open("pids", "a") as file:
                print(os.getpid(), file=file)
        Walk.done += 1
        while Walk.done > 90 and Path("wait").exists():
            Path("waits").touch()
            time.sleep(0.01)
        self.steps += 1
        self.place = np.clip(self.place + 0.3 * (2 * int(action) - 1), -9, 9).astype(np.float32)
        return self.place, -float(abs(self.place[0])), False, self.steps >= 10, {}


class Buggy(Walk):
    def step(self, action):
        raise KeyError("a bug of my own")
"""

# The last two jobs, in reverse: a base agent, which is quick, then one with a model.
PROGRAM = """\
import sys
from mbrl_wrappers.zoo.sweeps.executors import LocalExecutor
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.sweeps.sweep import read_sweep, run_sweep
if __name__ == "__main__":
    for result in run_sweep(read_sweep("sweep.yml")[:1:-1], "root", LocalExecutor(max_workers=1)):
        print(result.digest, result.was_run)
"""

SWEEP_FILE = {
    "agents": ["mbpo"],
    "envs": ["sweep_envs:Walk"],
    "seeds": [0, 1],
    "steps": 120,
    "eval_episodes": 1,
    "eval_freq": 40,
    "save_freq": 40,
    "params": {
        "agent.learning_starts": 20,
        "agent.gradient_steps": 1,
        "agent.batch_size": 32,
        "agent.policy_kwargs": {"net_arch": [8]},
        "strategy.rollouts_per_step": 5,
        "model_based.fit_every": 50,
        "dynamics.hidden": [8, 8],
        "dynamics.max_steps": 20,
    },
}
SECONDS = 200


def fill(folder: Path) -> None:
    """Put a module of envs, a script and a sweep's file into a folder."""
    (folder / "sweep_envs.py").write_text(ENVS)
    (folder / "program.py").write_text(PROGRAM)
    (folder / "sweep.yml").write_text(yaml.safe_dump(SWEEP_FILE))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that this process works in, filled."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@dataclasses.dataclass
class Finished:
    """Two sweeps that ran the same jobs in one root at the same time."""

    root: Path
    specs: list[JobSpec]
    results: list[list[Result]]
    updates: list[Outcome]
    pids: set[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("finished")
    fill(folder)
    updates: list[Outcome] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        specs = read_sweep("sweep.yml")
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(run_sweep, specs, folder / "root", LocalExecutor(1), on_update=updates.append)
            second = threads.submit(run_sweep, specs, folder / "root", LocalExecutor(1))
        results = [first.result(), second.result()]
    yield Finished(folder / "root", specs, results, updates, set((folder / "pids").read_text().split()))


def write_sweep(**changes: object) -> None:
    Path("sweep.yml").write_text(yaml.safe_dump({**SWEEP_FILE, **changes}))


def without_times(rows: list[Evaluation]) -> list[tuple]:
    return [(row.steps, row.return_mean, row.return_std, row.updates) for row in rows]


def states(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return when each file was last written, and what it holds."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tell whether a process still runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_jobs_of_a_file(here):
    specs = read_sweep("sweep.yml")
    assert [(spec.seed, spec.model) for spec in specs] == [(0, True), (0, False), (1, True), (1, False)]
    assert {(spec.agent, spec.env, spec.steps, spec.eval_freq) for spec in specs} == {
        ("mbpo", "sweep_envs:Walk", 120, 40)
    }
    assert all(spec.recipe.dynamics["hidden"] == [8, 8] for spec in specs)
    assert len({spec.digest() for spec in specs}) == 4
    write_sweep(seeds=2)
    assert read_sweep("sweep.yml") == specs
    write_sweep(seeds=[0, 1, 0])
    assert read_sweep("sweep.yml") == specs
    write_sweep(baseline=False)
    assert read_sweep("sweep.yml") == [spec for spec in specs if spec.model]


def test_a_recipe_is_looked_for_beside_the_file(here):
    (here / "sub").mkdir()
    (here / "sub" / "mine.yml").write_text("default: {algo: QRDQN, steps: 50, agent: {learning_starts: 20}}\n")
    write_sweep(seeds=1, steps=None, params=None, recipe="mine.yml")
    (here / "sweep.yml").rename(here / "sub" / "sweep.yml")
    assert {(spec.recipe.algo, spec.steps) for spec in read_sweep("sub/sweep.yml")} == {("QRDQN", 50)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": 3}, r"sweep\.yml: key must be one of .*, got 'sedes'; did you mean 'seeds'\?"),
        ({1: 3}, r"sweep\.yml: key must be one of .*, got '1'"),
        ({"agents": "mbpo"}, "agents must be a list of names, got 'mbpo'"),
        ({"envs": []}, r"envs must be a list of names, got \[\]"),
        ({"agents": ["mpbo"]}, r"agent must be one of .*, got 'mpbo'"),
        ({"envs": ["sweep_envs:Wolk"]}, "env must be .*, got 'sweep_envs:Wolk'"),
        ({"seeds": 0}, "seeds, unless a list, must be a whole number of at least 1, got 0"),
        ({"seeds": []}, r"seeds must name at least one, got \[\]"),
        ({"seeds": [0, -1]}, "each of seeds must be a whole number of at least 0, got -1"),
        ({"steps": 20}, "steps must be more than agent.learning_starts, which is 20, got 20"),
        ({"params": ["agent.gamma"]}, "params must be a mapping of section.argument to value, got "),
        ({"params": {"agent.gama": 1}}, "'gama'; did you mean 'gamma'"),
        ({"baseline": "no"}, "baseline must be true or false, got 'no'"),
        ({"agents": 3}, r"sweep\.yml: agents must be a list of names, got 3"),
        ({"agents": [["mbpo"]]}, r"sweep\.yml: agents must be a list of names, got \[\['mbpo'\]\]"),
        ({"seeds": "x"}, r"sweep\.yml: seeds, unless a list, must be a whole number of at least 1, got 'x'"),
        ({"seeds": [[0]]}, r"sweep\.yml: each of seeds must be a whole number of at least 0, got \[0\]"),
        ({"steps": [500]}, r"sweep\.yml: steps must be a whole number of at least 1, got \[500\]"),
        ({"algo": ["SAC"]}, r"sweep\.yml: .*algo must be a name, got \['SAC'\]"),
        ({"recipe": [1]}, r"sweep\.yml: recipe must be a string, got \[1\]"),
        ({"device": [1]}, r"sweep\.yml: device must be 'cpu', 'cuda' or 'auto', got \[1\]"),
        ({"params": {3: 4}}, r"sweep\.yml: each name of params must be a string, got 3"),
        ({"params": {"agent.gamma": [1]}}, r"sweep\.yml: agent.gamma must be a value of the type float, got \[1\]"),
        ({"recipe": "nowhere.yml"}, "recipe must be a file of YAML literals, got .*nowhere.yml"),
    ],
)
def test_a_mistake_in_a_file_is_named(here, changes, message):
    Path("sweep.yml").write_text(yaml.safe_dump({**SWEEP_FILE, **changes}, sort_keys=False))
    with pytest.raises(ValueError, match=message):
        read_sweep("sweep.yml")


@pytest.mark.parametrize("key", ["agents", "envs", "seeds"])
def test_a_key_that_is_missing_is_named(here, key):
    Path("sweep.yml").write_text(yaml.safe_dump({k: v for k, v in SWEEP_FILE.items() if k != key}))
    with pytest.raises(ValueError, match=rf"sweep\.yml must have the key '{key}', got "):
        read_sweep("sweep.yml")


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "a: !!python/name:os.system"])
def test_a_file_that_is_no_mapping_of_literals_is_refused(here, text):
    Path("sweep.yml").write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.yml"):
        read_sweep("sweep.yml")


def test_a_digest_changes_with_every_field(here):
    spec = read_sweep("sweep.yml")[0]
    others = {
        "env": "sweep_envs:Buggy",
        "recipe": dataclasses.replace(spec.recipe, steps=7),
        "device": "cuda",
        "agent": "other",
        "env_kwargs": {"a": 1},
    }
    digests = {spec.digest()}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        other = others[field.name] if field.name in others else (not value if isinstance(value, bool) else value + 1)
        digests.add(dataclasses.replace(spec, **{field.name: other}).digest())
    assert len(digests) == 1 + len(dataclasses.fields(spec))
    assert JobSpec.from_json(spec.to_json()).digest() == spec.digest()


def test_a_job_is_a_function_of_its_spec(here):
    spec = read_sweep("sweep.yml")[1]
    one, other = run_job(spec, "one"), run_job(spec, "other")
    assert one.was_run and other.was_run and one.digest == spec.digest() == one.folder.name
    assert without_times(one.rows) == without_times(other.rows)
    assert [row.steps for row in one.rows] == [40, 80, 120]
    before = states(here / "one")
    assert run_job(spec, "one") == dataclasses.replace(one, was_run=False)
    assert states(here / "one") == before


def test_a_folder_is_one_holders_at_a_time(here):
    lock = FolderLock.take(here / "new" / "folder")
    assert FolderLock.take_if_free(here / "new" / "folder") is None
    lock.close()
    again = FolderLock.take_if_free(here / "new" / "folder")
    assert again is not None
    again.close()


def test_a_sweep_finishes_and_says_what_is_where(finished):
    digests = [spec.digest() for spec in finished.specs]
    for results in finished.results:
        assert [result.digest for result in results] == digests
        assert all([row.steps for row in result.rows] == [40, 80, 120] for result in results)
        assert all(check_files(result.folder) for result in results)
    assert sorted(update.spec.digest() for update in finished.updates) == sorted(digests)
    assert list(json.loads((finished.root / SWEEP).read_text()).items()) == [
        (spec.digest(), {"agent": "mbpo", "env": "sweep_envs:Walk", "seed": spec.seed, "model": spec.model})
        for spec in finished.specs
    ]


def test_two_sweeps_on_one_root_run_each_job_once(finished):
    assert [one.was_run + other.was_run for one, other in zip(*finished.results, strict=True)] == [1, 1, 1, 1]
    assert len(finished.pids) == 4


def test_a_finished_sweep_is_read_and_not_repeated(finished):
    before = states(finished.root)
    again = run_sweep(finished.specs, finished.root, LocalExecutor(2))
    assert again == [dataclasses.replace(result, was_run=False) for result in finished.results[0]]
    assert states(finished.root) == before


def test_a_killed_sweep_goes_on_and_loses_nothing(finished, here):
    quick, slow = specs = finished.specs[:1:-1]
    command = [sys.executable, "program.py"]
    done, interrupted = (here / "root" / spec.digest() for spec in (quick, slow))
    with subprocess.Popen(command) as process:
        wait_for((done / MANIFEST).exists, process)
        (here / "wait").touch()
        wait_for((interrupted / "checkpoint" / "state.json").exists, process)
        process.send_signal(signal.SIGKILL)
    before = states(done)
    orphan = int((here / "pids").read_text().split()[-1])
    deadline = time.monotonic() + SECONDS
    while is_alive(orphan):  # which its env keeps waiting
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (here / "wait").unlink()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ran = dict(line.split() for line in output.splitlines())
    assert ran == {quick.digest(): "False", slow.digest(): "True"}  # the same digests in another process
    assert states(done) == before
    assert len(set((here / "pids").read_text().split())) == 3
    for spec in specs:
        whole, killed = (root / spec.digest() for root in (finished.root, here / "root"))
        assert check_files(killed).keys() == check_files(whole).keys()
        assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        one, other = (without_times(read_rows(folder / "progress.csv", Evaluation)) for folder in (whole, killed))
        assert one == other


@pytest.mark.parametrize(
    "call",
    [pytest.param("run_sweep([spec], 'root', LocalExecutor(1))", marks=pytest.mark.slow), "[run_job(spec, 'root')]"],
)
def test_sigterm_writes_a_checkpoint(finished, here, call):
    spec = finished.specs[2]
    run = here / "root" / spec.digest()
    program = PROGRAM.replace("import read_sweep", "import read_sweep, run_job")
    program = program.replace('run_sweep(read_sweep("sweep.yml")[:1:-1], "root", LocalExecutor(max_workers=1))', call)
    (here / "program.py").write_text(program.replace("    for", "    spec = read_sweep('sweep.yml')[2]\n    for"))
    command = [sys.executable, "program.py"]
    (here / "wait").touch()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for((run / "checkpoint" / "state.json").exists, process)
        wait_for((here / "waits").exists, process)
        before = checkpoint_extra(run / "checkpoint")["steps"]
        process.send_signal(signal.SIGTERM)  # to this process alone, which hands it on
        time.sleep(2)
        (here / "wait").unlink()
        _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert not (run / MANIFEST).exists() and checkpoint_extra(run / "checkpoint")["steps"] > before
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.split() == [spec.digest(), "True"]
    whole, resumed = (
        without_times(read_rows(root / spec.digest() / "progress.csv", Evaluation))
        for root in (finished.root, here / "root")
    )
    assert resumed == whole


def test_a_job_that_fails_stops_no_other(here):
    write_sweep(envs=["sweep_envs:Buggy", "sweep_envs:Walk"], seeds=[3])
    buggy, _, _, walk = read_sweep("sweep.yml")
    updates: list[Outcome] = []
    job = rf"{buggy.digest()}: MBPO\(DQN\) on sweep_envs:Buggy, seed 3"
    expected = rf"(?s)^1 of 2 jobs failed\n{job}\n.*in step.*a bug of my own"
    with pytest.raises(TrainingFailed, match=expected) as failure:
        run_sweep([buggy, walk], "root", LocalExecutor(2), on_update=updates.append)
    assert walk.digest() not in str(failure.value) and len(str(failure.value).splitlines()) == 6
    assert {update.spec.env: update.error is None for update in updates} == {buggy.env: False, walk.env: True}
    assert run_sweep([walk], "root", LocalExecutor(2))[0].was_run is False


@pytest.mark.parametrize("max_workers", [0, -1])
def test_too_few_workers_are_refused(max_workers):
    with pytest.raises(ValueError, match=re.escape(f"max_workers must be at least 1, got {max_workers}")):
        LocalExecutor(max_workers)
