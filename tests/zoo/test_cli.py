"""The command `mbrl-zoo`: what it trains, writes and prints, and how it ends."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from matplotlib.image import imread

import mbrl_wrappers
from mbrl_wrappers import zoo
from mbrl_wrappers.imagination import checkpoint_extra
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.cli.commands import COMMANDS, Train
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.cli.settings import settings_text
from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import AGENTS, agent_table
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.sweeps.lock import FolderLock
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed, TrainingProcess
from mbrl_wrappers.zoo.training.building import algorithm_of, check_arguments, constructors_of, settable_names
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.recipe import OPTIONS, SECTIONS, Recipe, available_agents, load_recipe
from mbrl_wrappers.zoo.training.run import run

HEAVY = {"torch", "stable_baselines3", "sb3_contrib", "gymnasium", "numpy", "matplotlib"}

# What a console script is: a file that lies elsewhere, so that Python does not look where one works.
SCRIPT = """\
import sys
from mbrl_wrappers.zoo.__main__ import main
if __name__ == "__main__":
    sys.exit(main())
"""

ENVS = """\
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Point(gym.Env):
    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.place, {}

    def move(self, action):
        return action

    def step(self, action):
        self.steps += 1
        self.place = np.clip(self.place + 0.3 * self.move(action), -9, 9).astype(np.float32)
        return self.place, -float(abs(self.place[0])), False, self.steps >= 10, {}


class Patient(Point):
    # Leaves time for Ctrl-C in the middle of a run, as long as a file says so.

    done = 0

    def step(self, action):
        Patient.done += 1
        if Patient.done > 200 and Path("wait").exists():
            time.sleep(0.05)
        return super().step(action)


class Switch(Point):
    action_space = spaces.Discrete(2)

    def move(self, action):
        return 2 * int(action) - 1


class Broken(Point):
    def move(self, action):
        return action * np.nan


class Buggy(Point):
    def move(self, action):
        raise KeyError("a bug of my own")


class Wordy(Point):
    def move(self, action):
        raise KeyError("a long word: " + 300_000 * "o")


class Counted(Point):
    made, still_open = 0, set()

    def __init__(self):
        Counted.made += 1
        self.still_open.add(self)

    def close(self):
        self.still_open.discard(self)


class CountedBuggy(Counted, Buggy):
    pass


class Sized(Point):
    def __init__(self, size):
        self.size = size


class Pixels(Point):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Choices(Point):
    action_space = spaces.MultiDiscrete([2, 2])


class FromOne(Point):
    action_space = spaces.Discrete(2, start=1)


class NoEnv:
    pass


def make_point():
    return Point()
"""

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
STEPS = 400
TRAIN: tuple[str, ...] = ("train", "mbpo", "--env", "my_envs.toys:Point", "-n", str(STEPS), "--eval-episodes", "2")
TRAIN += ("--params", *(f"{name}={value!s}" for name, value in PARAMS.items()))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with a package of envs and, elsewhere, the console script."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "my_envs").mkdir()
    (folder / "my_envs" / "toys.py").write_text(ENVS)
    (folder / "bin").mkdir()
    (folder / "bin" / "script.py").write_text(SCRIPT)
    return folder


@pytest.fixture
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder as the one that this process works in."""
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))
    return workplace


def start(workplace: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, str(workplace / "bin" / "script.py"), *arguments],
        cwd=workplace,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
        # A suite that was started in the background has Ctrl-C switched off, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def small_spec(env: str) -> JobSpec:
    """A run of 60 steps with a small model."""
    return make_job(
        "mbpo",
        env,
        steps=60,
        seed=0,
        algo=None,
        params=PARAMS,
        eval_episodes=1,
        save_freq=0,
        device="cpu",
    )


def without_times(rows: list[Evaluation]) -> list[tuple]:
    return [(row.steps, row.return_mean, row.return_std, row.updates) for row in rows]


@pytest.fixture(scope="module")
def trained(workplace: Path) -> tuple[Path, str]:
    """A folder in which the command went to its end, and what it printed."""
    code, out, err = finish(start(workplace, *TRAIN, "--folder", "uninterrupted"))
    assert (code, err) == (0, "")
    return workplace / "uninterrupted", out


def test_it_trains_an_env_of_ones_own_and_the_base_agent(trained):
    folder, _ = trained
    for variant in ("mbpo", "base"):
        rows = read_rows(folder / variant / "progress.csv", Evaluation)
        assert [row.steps for row in rows] == [STEPS * (i + 1) // 10 for i in range(10)]
        assert rows[-1].updates == STEPS - 20
        assert all(np.isfinite([row.return_mean, row.return_std]).all() for row in rows)
        assert zoo.load(folder / variant).num_timesteps == STEPS
    assert read_rows(folder / "mbpo" / "progress.csv", Evaluation) != read_rows(
        folder / "base" / "progress.csv", Evaluation
    )


def test_it_measures_the_model_and_draws(trained):
    folder, _ = trained
    error = read_rows(folder / "mbpo" / "model_error.csv", HorizonError)
    assert [row.steps_ahead for row in error] == list(range(1, 11))  # as long as an episode
    assert all(0 <= row.low <= row.median <= row.high for row in error)
    assert imread(folder / "curves.png").std() > 0.01


def test_it_prints_progress_and_a_table(trained):
    folder, out = trained
    assert f"MBPO(SAC)  step {STEPS}  return " in out and f"SAC  step {STEPS}  return " in out
    assert "MBPO(SAC) vs SAC (same agent, no model, equal updates)" in out.replace("\n", " ")
    assert "return (2 episodes)" in out and "uninterrupted/curves.png" in out
    last = {name: read_rows(folder / name / "progress.csv", Evaluation)[-1] for name in ("mbpo", "base")}
    for label, row in (("MBPO(SAC)", last["mbpo"]), ("SAC", last["base"])):
        (line,) = (line for line in out.splitlines() if line.startswith(f"│ {label} "))
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[1:4] == [str(STEPS), str(STEPS - 20), f"{row.return_mean:.1f} ± {row.return_std:.1f}"]


def test_a_finished_run_is_read_and_not_repeated(trained, here):
    folder, _ = trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.csv")}
    training: Any = zoo.train("mbpo", "my_envs.toys:Point", steps=STEPS, params=PARAMS, eval_episodes=2, folder=folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.csv")} == before
    assert list(training.curves) == ["MBPO(SAC)", "SAC"]
    assert training.agent.num_timesteps == STEPS
    assert training.agent.model_based.dynamics.obs_codec.dim == 1
    with pytest.raises(ValueError, match=r"folder must be new or hold a run of the same spec, got .*: \['seed'\]"):
        zoo.train("mbpo", "my_envs.toys:Point", steps=STEPS, params=PARAMS, eval_episodes=2, folder=folder, seed=1)


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(trained, workplace, sent):
    folder, _ = trained
    place = f"by_{sent.name}"
    command = (*(word.replace("Point", "Patient") for word in TRAIN), "--folder", place, "--no-baseline")
    (workplace / "wait").touch()
    run = workplace / place / "mbpo"
    process = start(workplace, *command)
    deadline = time.monotonic() + 200
    while not (run / "checkpoint" / "state.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    before = checkpoint_extra(run / "checkpoint")["steps"]
    os.killpg(process.pid, sent)  # Ctrl-C, or a cluster that signals all of a job's processes
    code, _, err = finish(process)
    assert code == 128 + sent
    (line,) = err.splitlines()
    found = re.fullmatch(rf"mbrl-zoo: interrupted: the same command goes on from step (\d+) of {place}/mbpo", line)
    assert int(found[1]) > before
    assert not (run / "manifest.json").exists()
    (workplace / "wait").unlink()
    code, out, err = finish(start(workplace, *command))
    assert (code, err) == (0, "")
    assert "│ MBPO(SAC) │" in out and "no model" not in out
    resumed, whole = (read_rows(path / "progress.csv", Evaluation) for path in (run, folder / "mbpo"))
    assert without_times(resumed) == without_times(whole)
    assert (run / "model_error.csv").read_bytes() == (folder / "mbpo" / "model_error.csv").read_bytes()
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint"]  # for a longer run
    assert "checkpoint" not in (run / "manifest.json").read_text()  # it holds pickles, and is never shared


@pytest.mark.slow
def test_a_finished_run_goes_on_for_longer(here, capsys):
    folder = Path("longer")
    spec = dataclasses.replace(small_spec("my_envs.toys:Point"), save_freq=30)
    _, begun = run(spec, folder / "mbpo", keep_checkpoint=True)
    with pytest.raises(ValueError, match="steps must be at least the 60 that the run was started with, got 50"):
        zoo.resume(folder, steps=50)
    assert main(["train", "--resume", str(folder), "-n", "90"]) == 0
    out, err = capsys.readouterr()
    assert err == "mbrl-zoo: the run in longer/mbpo goes on to 90 steps\n"
    assert "mbrl-zoo train --resume longer -n 180" in out
    rows = read_rows(folder / "mbpo" / "progress.csv", Evaluation)
    assert without_times(rows[: len(begun)]) == without_times(begun)
    assert rows[-1].steps == 90 and rows[-1].updates == 70
    agent = zoo.load(folder / "mbpo")
    assert agent.num_timesteps == 90
    again = {"params": PARAMS, "eval_episodes": 1, "baseline": False, "folder": folder}
    training = zoo.train("mbpo", "my_envs.toys:Point", steps=90, save_freq=30, **again)
    assert training.spec.steps == 90  # it is read, not repeated
    with closing(FolderLock.take(folder / "mbpo")), pytest.raises(ZooError, match="folder must not be in use"):
        zoo.resume(folder, steps=120)
    with pytest.raises(ValueError, match="track must be"):
        zoo.resume(folder, steps=120, track="nothing")
    assert zoo.load(folder / "mbpo").num_timesteps == 90  # what could not go on is still there


def test_the_command_for_a_longer_run_keeps_its_options():
    """Those that no run keeps for itself, and folders with a space."""
    given = Train("mbpo", track="tensorboard", with_optimizer=True, executor="ray", address="head:6379", seed=3)
    words = shlex.split(given._longer(Path("my runs"), 60))
    parsed = tyro.cli(Train, args=words[2:])
    assert words[:2] == ["mbrl-zoo", "train"]
    assert parsed == dataclasses.replace(given, agent="", seed=0, resume=Path("my runs"), steps=60)


def test_a_finished_run_without_a_checkpoint_can_not_go_on(here):
    spec = small_spec("my_envs.toys:Point")
    run(spec, Path("short") / "mbpo")
    before = (Path("short") / "mbpo" / "job.json").read_bytes()
    with pytest.raises(ValueError, match=r"steps must be 60 for the run in .* has no checkpoint to go on from, got 90"):
        zoo.resume("short", steps=90)
    assert (Path("short") / "mbpo" / "job.json").read_bytes() == before


def test_the_settings_of_an_agent_are_listed(capsys):
    assert main(["train", "--help", "mbpo"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"strategy\.real_ratio +0\.05\n", out) and re.search(r"model_based\.fit_every +\* 250\n", out)
    for name in re.findall(r"^  (\w+\.\w+) ", out, re.MULTILINE):
        section, _, argument = name.partition(".")
        assert section in SECTIONS and argument not in ("self", "env", "seed", "device")
    assert main(["train", "--help", "mpbo"]) == 2


def test_every_listed_setting_is_a_param():
    for agent in AGENTS:
        recipe = load_recipe(agent, "")
        for section, kind in constructors_of(agent, recipe).items():
            parameters = inspect.signature(kind).parameters
            names = set(settable_names(section, kind))
            values = {name: one.default for name, one in parameters.items() if name in names}
            values = {name: value for name, value in values.items() if value is not inspect.Parameter.empty}
            own = {"kind": recipe.dynamics["kind"]} if section == "dynamics" and "kind" in recipe.dynamics else {}
            check_arguments(agent, dataclasses.replace(recipe, **{section: {**values, **own}}))
            with pytest.raises(ValueError, match="no_such_name"):
                check_arguments(agent, dataclasses.replace(recipe, **{section: {"no_such_name": None, **own}}))


@pytest.mark.parametrize(
    ("words", "unbuffered", "code"),
    [("--help", "", 0), ("train --help mbpo", "", 0), ("train --help mbpo", "1", 1), ("list", "", 1)],
)
def test_a_reader_that_leaves_early_is_no_error(words, unbuffered, code):
    """The table of `list` is by rich, which ends at once."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mbrl_wrappers.zoo", *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert (process.wait(60), process.stderr.read()) == (code, b"")


def test_a_broken_pipe_of_something_else_is_told(monkeypatch, capsys):
    def fail(self):
        raise BrokenPipeError("the simulator has gone")

    monkeypatch.setattr("mbrl_wrappers.zoo.cli.commands.List.run", fail)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "mbrl-zoo: error: the simulator has gone\n"


def test_every_key_of_a_recipe_is_listed(capsys):
    """As a section of --params, or with an option of the command that there is."""
    assert {field.name for field in dataclasses.fields(Recipe)} == {*SECTIONS, *OPTIONS}
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    options = capsys.readouterr().out
    for agent in AGENTS:
        listed, recipe = settings_text(agent), load_recipe(agent, "")
        for name, option in OPTIONS.items():
            assert re.search(rf"^  {option} {name.upper()} +{getattr(recipe, name)}$", listed, re.MULTILINE), listed
            assert re.search(rf"[ \u2502]{option}[ ,]", options), option
        for section in SECTIONS:
            names = [f"{section}.{argument}" for argument in getattr(recipe, section)]
            assert all(re.search(rf"^  {name} +\* ", listed, re.MULTILINE) for name in names), agent


def test_the_list_is_the_source_of_tables(capsys):
    assert main(["list", "--agents", "--markdown"]) == 0
    assert capsys.readouterr().out == agent_table() + "\n"
    assert main(["list", "--markdown"]) == 0
    heading, line, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) >= 5 and {row.count("|") for row in (heading, line, *rows)} == {8}
    assert any(row.startswith("| mbpo/CartPole-v1 | ") for row in rows)
    assert main(["list", "--agents"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", shown, re.MULTILINE) for name in AGENTS)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mbrl-wrappers {mbrl_wrappers.__version__}\n"


def test_without_a_screen_an_agent_is_filmed(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["enjoy", "maac/Pendulum-v1", "--episodes", "1"]) == 0
    out, err = capsys.readouterr()
    assert "there is no screen" in err and "Video: enjoy.mp4" in out
    assert (tmp_path / "enjoy.mp4").stat().st_size > 10_000


@pytest.mark.slow
def test_discrete_actions_and_no_baseline(here):
    params = {**PARAMS, "agent.exploration_fraction": 0.5}
    training = zoo.train(
        "mbpo",
        "my_envs.toys:Switch",
        steps=60,
        params=params,
        eval_episodes=1,
        save_freq=0,
        baseline=False,
    )
    assert training.folder == Path("runs/mbpo_my_envs.toys.Switch_seed0")
    assert list(training.curves) == ["MBPO(DQN)"]
    assert sorted(path.name for path in training.folder.iterdir()) == ["curves.png", "mbpo"]
    assert not (training.folder / "mbpo" / "checkpoint").exists()


def test_rewards_may_be_normalised_in_an_env_of_ones_own(here):
    params = {**PARAMS, "normalize.norm_obs": False}
    options = {"steps": 60, "eval_episodes": 1, "save_freq": 0, "baseline": False}
    training = zoo.train("mbpo", "my_envs.toys:Point", params=params, folder="normalised", **options)
    normalizer = training.agent.get_vec_normalize_env()
    assert normalizer.ret_rms.count > 50 and not normalizer.norm_obs
    row = training.curves["MBPO(SAC)"][-1]
    plain = zoo.evaluate(training.folder / "mbpo", env="my_envs.toys:Point", episodes=1)
    assert plain[0].total_reward == pytest.approx(row.return_mean)  # evaluations are in the env's own units


def test_an_env_that_gives_nan_ends_in_one_line(here, capsys):
    code = main(["train", "mbpo", "--env", "my_envs.toys:Broken", "-n", "30", "--no-baseline", *TRAIN[8:]])
    assert code == 2
    assert capsys.readouterr().err == ("mbrl-zoo: error: observation from the environment must be finite, got [nan]\n")


def test_a_bug_in_an_env_shows_where_it_is(here):
    with pytest.raises(TrainingFailed, match=r"(?s)toys\.py.*a bug of my own"):
        zoo.train("mbpo", "my_envs.toys:Buggy", steps=30, params=PARAMS, baseline=False)


def test_an_error_longer_than_a_pipe_arrives_whole(here, tmp_path):
    process = TrainingProcess("SAC", small_spec("my_envs.toys:Wordy"), tmp_path)
    deadline = time.monotonic() + 200
    try:
        with pytest.raises(TrainingFailed, match=r"(?s)in move.*a long word: o{300000}'"):
            while process.is_running():
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        process.stop()


def test_a_process_that_dies_without_a_word_is_told(here, tmp_path):
    process = TrainingProcess("SAC", small_spec("my_envs.toys:Point"), tmp_path)
    process.request_stop()
    process.stop()
    with pytest.raises(TrainingFailed, match=f"the run in {tmp_path} died with exit code "):
        process.is_running()


def test_every_env_of_a_run_is_closed(here, tmp_path):
    spec = small_spec("my_envs.toys:Counted")
    toys = importlib.import_module("my_envs.toys")
    made = toys.Counted.made
    run(spec, tmp_path / "whole")
    assert toys.Counted.made == made + 3  # to train in, to evaluate in, and to look at
    assert toys.Counted.still_open == set()
    run(spec, tmp_path / "whole")  # finished: it is read
    assert toys.Counted.still_open == set()
    with pytest.raises(KeyError, match="a bug of my own"):
        run(dataclasses.replace(spec, env="my_envs.toys:CountedBuggy"), tmp_path / "broken")
    assert toys.Counted.still_open == set()


def test_a_function_can_make_the_env(here):
    assert type(make_env("my_envs.toys:make_point")).__name__ == "Point"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mpbo", r"agent must be one of .*, got 'mpbo'; did you mean 'mbpo'\?"),
        ("", "agent must be one of .*, or --resume given, got neither"),
        ("ppo", r"got 'ppo': ppo learns inside a model. .*PPO\('MlpPolicy', ImaginedVecEnv"),
        ("td3", "got 'td3': mbpo makes it model-based. Write `mbrl-zoo train mbpo --algo TD3`"),
        ("mbpo --algo PPO", "algo must be one of .*, got 'PPO': PPO learns inside a model"),
        ("--resume nowhere", r"resume goes on with the arguments of the run in nowhere, leave out \['folder'\]"),
        ("mbpo --env Pendulun-v1", "env must be a Gymnasium id or .*, got 'Pendulun-v1': .*Did you mean: `Pendulum`"),
        ("mbpo --env nowhere:Env", "got 'nowhere:Env': No module named 'nowhere'"),
        ("mbpo --env nowhere:Env-v0", "got 'nowhere:Env-v0': No module named 'nowhere'"),
        ("mbpo --env my_envs.toys:Pint", "got 'my_envs.toys:Pint': .* has no attribute 'Pint'"),
        ("mbpo --env my_envs.toys:NoEnv", "env must be a gymnasium.Env .*, got <class .*NoEnv'> from "),
        ("mbpo --env os:path", "env must be a gymnasium.Env .*, got <module .*> from 'os:path'"),
        ("mbpo --env os:getcwd", "env must be a gymnasium.Env .*, got <built-in function getcwd> from 'os:getcwd'"),
        ("mbpo --env os:getenv", "env 'os:getenv' can't be made: .*required .*'key'"),
        ("mbpo --env my_envs.toys:Sized", "env 'my_envs.toys:Sized' can't be made: .* required .* 'size'"),
        ("mbpo --env .toys:Point", "env must be a Gymnasium id or .*, got '.toys:Point': .*relative import"),
        ("mbpo --env a:b:c-v0", "env must be a Gymnasium id or .*, got 'a:b:c-v0': "),
        ("mbpo --env my_envs.toys:Pixels", "observation_space is an image"),
        ("mbpo --env my_envs.toys:Choices", "SAC can't be built for .*:Choices: .*MultiDiscrete"),
        ("mbpo --env my_envs.toys:FromOne", r"action_space must start at 0, .* got Discrete\(2, start=1\)"),
        ("mbpo --algo SACK", "algo must be one of .*, got 'SACK'; did you mean 'SAC'?"),
        ("mbpo --algo DQN", "DQN can't be built for Pendulum-v1: .*Discrete"),
        ("mbpo -n 0", "steps must be a whole number of at least 1, got 0"),
        (
            "mbpo -n 250 --params agent.learning_starts=250",
            "steps must be more than agent.learning_starts, which is 250, got 250",
        ),
        ("mbpo --seed -1", "seed must be a whole number of at least 0, got -1"),
        ("mbpo --eval-episodes 0", "eval_episodes must be a whole number of at least 1, got 0"),
        ("mbpo --save-freq -5", "save_freq must be a whole number of at least 0, got -5"),
        ("mbpo --device gpu", "device must be 'cpu', 'cuda' or 'auto', got 'gpu'"),
        ("mbpo --params strategy.real_rato=1", "argument of strategy .*'real_rato'; did you mean 'real_ratio'?"),
        (
            "mbpo --params agent.gamma=0.9 --params agent.tau=0.1",
            "--params must be given once, with all its values after it, got it 2 times",
        ),
        ("mbpo --params strategy.real_ratio=2", r"real_ratio must be in \[0, 1\], got 2"),
        ("mbpo --params agent.learning_rate=fast", "SAC can't be built for Pendulum-v1: .*learning rate"),
        ("mbpo --params agent.learning_starts=late", "agent.learning_starts must be a whole number .*'late'"),
        ("mbpo --params agent.learning_starts=00143", "must not begin with 0, got '00143'"),
        ("mbpo --params real_ratio=1", "params must have names like 'strategy.real_ratio', got 'real_ratio'"),
    ],
)
def test_a_mistake_ends_in_one_line_and_writes_nothing(here, capsys, arguments, message):
    assert main(["train", *arguments.split(), "--folder", "never"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("mbrl-zoo: error: ")
    assert re.search(message, err), err
    assert not Path("never").exists()


FAILING_MODULES = {
    "1 / 0": r"raises ZeroDivisionError in line 2 of \S+/failing.py: division by zero$",
    "import nowhere_at_all": r"raises ModuleNotFoundError in line 2 of \S+: No module named 'nowhere_at_all'$",
    "raise ValueError('two\\nlines')": r"raises ValueError in line 2 of \S+: two lines$",
    "raise TypeError('no relative import')": r"raises TypeError in line 2 of \S+: no relative import$",
    "raise SystemExit(3)": r"raises SystemExit in line 2 of \S+: 3$",
    "def f(:": r"raises SyntaxError: invalid syntax \(failing.py, line 2\)$",
    "def __getattr__(name): raise ImportError(name)": r"raises ImportError in line 2 of \S+: \w+(-v0)?$",
}
NAMING_MODULES = {
    "train mbpo --env failing:Env": "env",
    "train mbpo --env failing:Env-v0": "env",
    "tune mbpo --env failing:Env": "env",
    "doctor failing:Env": "env",
    "doctor Pendulum-v1 --reward-fn failing:f": "reward_fn",
    "doctor Pendulum-v1 --termination-fn failing:f": "termination_fn",
    "enjoy mbpo/CartPole-v1 --no-render --env failing:Env": "env",
    "evaluate mbpo/CartPole-v1 --env failing:Env": "env",
    "verify mbpo/CartPole-v1 --env failing:Env": "env",
}


@pytest.mark.parametrize("command", NAMING_MODULES)
def test_a_module_that_fails_while_it_is_imported_is_told_in_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for source, message in FAILING_MODULES.items():
        Path("failing.py").write_text(f"# a module of the user's\n{source}\n")
        sys.modules.pop("failing", None)
        importlib.invalidate_caches()
        assert main(command.split()) == 2
        out, err = capsys.readouterr()
        name = next(word for word in command.split() if word.startswith("failing:"))
        told = f"mbrl-zoo: error: {NAMING_MODULES[command]} {name!r} can't be imported: module 'failing' "
        assert out == "" and err.count("\n") == 1 and err.startswith(told), err
        assert re.search(message, err), err
    sys.modules.pop("failing", None)


@pytest.mark.parametrize("arguments", [["train", "mbpo", "-n", "many"], [], ["trian", "mbpo"]])
def test_a_command_that_does_not_parse_ends_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "--help" in capsys.readouterr().err


def test_every_agent_and_algorithm_is_named_where_people_look(capsys):
    """In the command's help and in an error; the site makes a page for each agent."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    assert set(available_agents()) == set(AGENTS)
    for agent in AGENTS:
        assert re.search(rf"\b{agent}\b", shown), agent
    with pytest.raises(ValueError, match="algo must be") as error:
        algorithm_of("mbpo", "nope")
    for algo in ast.literal_eval(re.search(r"\[.*\]", str(error.value))[0]):
        assert re.search(rf"\b{algo}\b", shown), algo


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_fits_a_screen_and_imports_nothing_heavy(arguments, columns):
    program = (
        "import sys\nfrom mbrl_wrappers.zoo.__main__ import main\nsys.argv[1:] = " + repr(arguments) + "\n"
        "try:\n    main()\nfinally:\n    print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    environment = {**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 50 and max(map(len, lines[1:])) <= columns  # the first one names all commands
    assert "mbrl-zoo" in lines[0] and arguments[0].strip("-") in done.stdout
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "mbrl_wrappers" in loaded and not loaded & HEAVY


def test_the_module_is_the_same_command(workplace):
    done = subprocess.run(
        [sys.executable, "-m", "mbrl_wrappers.zoo", "train", "mbpo", "--params", "nothing"],
        cwd=workplace,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "mbrl-zoo: error: params must be like 'strategy.real_ratio=0.1', got 'nothing'\n"
