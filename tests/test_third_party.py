"""What benchmarks/third_party.py measures, on envs that ship with Gymnasium."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mbrl_wrappers.spaces import FlatSpace

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = {"hidden": [16], "num_members": 2, "num_elites": 2, "max_steps": 20}


class Counter(gym.Env[Any, Any]):
    """Counts the steps of an episode of five; the other column is a number that stays for the episode."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.obs = np.array([0.0, self.np_random.normal()])
        return self.obs.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.obs[0] += 1
        return self.obs.copy(), 1.0, False, bool(self.obs[0] == 5), {}


def module(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture
def envs(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module(monkeypatch, "third_party_envs")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module(monkeypatch, "third_party_rows")


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module(monkeypatch, "third_party_stages")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module(monkeypatch, "third_party_table")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module(monkeypatch, "third_party")


def counted(envs: Any, rows: Any) -> Any:
    made = envs.collect(Counter(), 40)
    return rows.Data(made[:20], made[20:], {})


def test_skill_is_one_for_the_truth_and_zero_for_no_change(envs: Any, rows: Any):
    data = counted(envs, rows)
    assert rows.changing_columns(data.train).tolist() == [True, False]
    exact = rows.skills(lambda obs, action: obs + np.array([1, 7]), data)  # what never changes is not asked for
    still = rows.skills(lambda obs, action: obs, data)
    assert (exact["skill_1"], still["skill_1"]) == (1, 0)
    assert exact["skill_10"] is None  # no episode is that long
    half = rows.skills(lambda obs, action: obs + np.array([0.5, 0]), data)
    assert half["skill_1"] == pytest.approx(0.75)
    lost = rows.skills(lambda obs, action: obs * np.nan, data)
    assert lost["skill_1"] == -np.inf


def test_several_steps_are_of_one_episode(envs: Any, rows: Any):
    data = counted(envs, rows)
    assert rows.starts_of(data.test, 4).tolist() == [0, 1, 5, 6, 10, 11, 15, 16]
    assert rows.column_errors(lambda obs, action: obs + np.array([1, 0]), data, 4).tolist() == [0]
    assert rows.starts_of(data.test[:3], 4).tolist() == []


def test_rows_are_laid_flat_as_the_library_does_it_and_kept_as_they_are(envs: Any, rows: Any, tmp_path: Path):
    space = spaces.Dict(
        b=spaces.Box(-1, 1, (2, 2)),
        a=spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2))),
    )
    value = space.sample()
    batch = {"b": value["b"][None], "a": tuple(np.asarray(part)[None] for part in value["a"])}
    assert np.array_equal(envs._flat(space, value), FlatSpace(space).encode(batch)[0].double().numpy())

    made = envs.collect(Counter(), 12)
    assert made.episode.tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert made.next_obs[4, 0] == 5 and made.obs[5, 0] == 0
    rows.save_rows(tmp_path / "rows.npz", made, 8, {"observation": 1})
    data = rows.load_rows(tmp_path / "rows.npz")
    assert (len(data.train), len(data.test), data.spaces) == (8, 4, {"observation": 1})
    assert np.array_equal(np.concatenate([data.train.obs, data.test.obs]), made.obs)


def test_actions_are_not_the_env_s_own_noise(envs: Any):
    class Noisy(Counter):
        action_space: Any = spaces.Box(0, 1, (1,), np.float64)

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.obs[0] += self.np_random.uniform()
            return self.obs.copy(), 1.0, False, False, {}

    made = envs.collect(Noisy(), 200)
    noise = (made.next_obs - made.obs)[:, 0]
    assert abs(np.corrcoef(noise, made.action[:, 0])[0, 1]) < 0.3


def test_an_env_goes_through_all_stages_to_the_table(envs: Any, rows: Any, stages: Any, table: Any, tmp_path: Path):
    task = envs.Task("gymnasium", "CartPole-v1", lambda: gym.make("CartPole-v1"))
    record = tmp_path / f"{task.file}.json"
    rows.update_record(record, "task", {"package": task.package, "env": task.env, "kind": task.kind})
    for stage in ("collect", "ours", "use"):
        stages.run_stage(stage, task, tmp_path, 150, 60, TINY)
    found = rows.read_record(record)
    assert found["ours"]["rows"] == 150 and found["ours"]["skill_1"] < 1
    assert found["ours"]["ends"] == rows.load_rows(tmp_path / f"{task.file}.npz").test.terminated.sum() > 0
    assert found["use"]["imagined"] == found["use"]["dyna"] == "yes"
    assert found["use"]["snapshots"] == "exact" and found["use"]["mpc"].startswith("yes (")

    missing = envs.Task("no-such-package", "Env-v0", envs.registered("no_such_package", "Env-v0"))
    stages.run_stage("collect", missing, tmp_path, 1, 1, {})
    lost = rows.read_record(tmp_path / f"{missing.file}.json")
    lost["task"] = {"package": "no-such-package", "env": "Env-v0", "kind": "vector"}
    table.write_table([found, lost], tmp_path)
    text = (tmp_path / "third_party.md").read_text()
    assert "| gymnasium: CartPole-v1 |" in text
    assert "no-such-package: Env-v0 | can't be collected: ModuleNotFoundError" in text


def test_trees_foresee_what_they_were_fitted_on(envs: Any, rows: Any, stages: Any):
    pytest.importorskip("sklearn")
    made = envs.collect(Counter(), 200)
    data = rows.Data(made[:150], made[150:], {})
    assert rows.skills(stages.fit_trees(data.train), data)["skill_1"] > 0.99


def test_the_best_and_the_clearly_worse_are_told(table: Any):
    def record(kind: str, ours: float, peer: float, trees: float) -> dict[str, Any]:
        sides = {"ours": ours, "mbrl-lib": peer, "hgb": trees}
        skills = {side: {"skill_1": value, "skill_10": None} for side, value in sides.items()}
        return {"task": {"package": "p", "env": kind, "kind": kind}, **skills}

    assert table.best_of(record("vector", 0.5, 0.501, 0.4), 1) == ["ours", "mbrl-lib"]
    lines = table.summary([record("vector", 0.5, 0.2, 0.1), record("vector", -0.2, 0.0, 0.3), record("grid", 0, 0, 1)])
    assert lines[0] == "At 1 step ours is the best of the three on 1 of 2 vector envs."
    assert lines[1:] == [
        "p: vector, 1 step: mbrl-lib is better, 0.00 where ours has -0.20.",
        "p: vector, 1 step: trees is better, 0.30 where ours has -0.20, ours has none.",
        "p: grid, 1 step: trees is better, 1.00 where ours has 0.00, ours has none.",
    ]


def test_a_stage_that_crashes_or_goes_on_for_ever_is_told(script: Any):
    def run(code: str, seconds: float = 20) -> str | None:
        return script.run_process([sys.executable, "-c", code], seconds)[0]

    assert run("pass") is None
    assert run("import os; os.abort()") == "ended with code -6: no word"
    assert run("raise ValueError('what')") == "ended with code 1: ValueError: what"
    assert run("while True: pass", 1) == "more than 1 CPU seconds"


def test_what_was_begun_or_never_done_is_done(
    envs: Any, rows: Any, script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ran: list[str] = []

    def run(command: str, seconds: float) -> tuple[None, float]:
        ran.append(command)
        rows.update_record(record, command, {"seconds": 1.0})
        return None, 1.0

    task = envs.Task("gymnasium", "CartPole-v1", lambda: gym.make("CartPole-v1"))
    record = tmp_path / f"{task.file}.json"
    monkeypatch.setattr(script, "command_of", lambda stage, *rest: stage)
    monkeypatch.setattr(script, "run_process", run)
    rows.update_record(record, "collect", {"seconds": 1.0})
    rows.update_record(record, "ours", {})
    rows.update_record(record, "use", {"mpc": "yes", "dyna": rows.UNFINISHED})
    args = argparse.Namespace(models=["ours", "hgb"], seconds=9, quick=True, settings={}, again=False)
    script.try_env(task, tmp_path, args)
    assert ran == ["ours", "use", "hgb"]
    script.try_env(task, tmp_path, args)
    assert len(ran) == 3
    args.again = True
    script.try_env(task, tmp_path, args)
    assert ran[3:] == ["ours", "use", "hgb"]

    rows.update_record(record, "collect", {"error": "no such env"})
    args.again, args.models = False, ["ours", "mbrl-lib", "hgb"]
    script.try_env(task, tmp_path, args)
    assert len(ran) == 6  # nothing can start


def test_what_is_asked_for_is_checked(script: Any):
    assert [task.package for task in script.chosen("minigrid")] == ["minigrid"] * 2
    with pytest.raises(ValueError, match=r"--only must be a package or PACKAGE/ENV of .*, got 'nothing'"):
        script.chosen("nothing")
    assert script.stages_of(["hgb", "ours"]) == ["collect", "ours", "use", "hgb"]
