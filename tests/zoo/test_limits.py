"""Files that claim much: each is read at once, or refused at once by a sentence that names it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import stable_baselines3 as sb3
import torch
from safetensors.torch import load_file, save_file

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased, zoo
from mbrl_wrappers.agents import PETS
from mbrl_wrappers.zoo import ZooError
from mbrl_wrappers.zoo.analysis.findings import Diagnosis
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.catalogue.index import read_index
from mbrl_wrappers.zoo.report import build_report
from mbrl_wrappers.zoo.report.runs import find_runs
from mbrl_wrappers.zoo.storage import versions
from mbrl_wrappers.zoo.storage.effort import check_effort
from mbrl_wrappers.zoo.storage.folder import JOB, PROGRESS, open_folder
from mbrl_wrappers.zoo.storage.limits import parse_json, read_bytes, sha256_of_file
from mbrl_wrappers.zoo.storage.literals import decode
from mbrl_wrappers.zoo.storage.manifest import check_files, parse_manifest, read_manifest, write_manifest
from mbrl_wrappers.zoo.storage.tables import read_rows, write_rows
from mbrl_wrappers.zoo.storage.versions import FileFormat
from mbrl_wrappers.zoo.sweeps.sweep import read_sweep
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.recipe import load_recipe

PENDULUM = "Pendulum-v1"
SMALL = {"hidden": (8,), "num_members": 2, "num_elites": 1}
DEEP = 100_000 * b"["


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of an agent with a model and of one that plans."""
    root = tmp_path_factory.mktemp("saved")
    with gym.make(PENDULUM) as env:
        dynamics = EnsembleDynamics.for_env(env, **SMALL)
        plans = PETS("MlpPolicy", env, dynamics=EnsembleDynamics.for_env(env, **SMALL), device="cpu")
    agent: Any = sb3.SAC("MlpPolicy", PENDULUM, policy_kwargs={"net_arch": [8]}, device="cpu", buffer_size=10)
    agent.model_based = ModelBased(Dyna(), dynamics)
    zoo.save(agent, root / "sac", episodes=1)
    zoo.save(plans, root / "pets", episodes=0)
    return root


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def forge(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "config.json") -> None:
    """Change a JSON file and fit the manifest to it."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    write_manifest(folder, read_manifest(folder))


# -- bytes and JSON -----------------------------------------------------------------------------------


def odd_files(folder: Path) -> list[tuple[Path, str]]:
    """Things that are no plain file, or a large one."""
    (folder / "real").write_text("{}")
    (folder / "link").symlink_to(folder / "real")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    with open(folder / "sparse", "wb") as file:
        file.truncate(2**40)
    return [
        (folder / "link", "it is a symbolic link"),
        (folder / "dangling", "it is a symbolic link"),
        (folder / "zero", "it is a symbolic link"),
        (folder / "pipe", "must be a file"),
        (folder / "folder", "must be a file"),
        (folder / "nowhere", "must be a file that can be read"),
        (folder / "sparse", "must have at most 100 bytes, got 1099511627776"),
        (Path("/dev/zero"), "must be a file"),
        (folder / "a\0b", "must be a file that can be read"),
    ]


def test_only_plain_files_of_a_bounded_size_are_read(tmp_path):
    for file, message in odd_files(tmp_path):
        for read in (read_bytes, sha256_of_file):
            with pytest.raises(ZooError, match=message):
                read(file, 100)
    assert read_bytes(tmp_path / "link", 100, links=True) == b"{}"  # one that a user names
    with pytest.raises(ZooError, match="must be a file"):
        read_bytes(tmp_path / "zero", 100, links=True)


def test_files_that_a_user_names_are_bounded_too(tmp_path):
    odd_files(tmp_path)
    for name in ("pipe", "zero", "sparse"):
        for read in (
            lambda file: load_recipe("mbpo", PENDULUM, file=file),
            read_sweep,
            read_index,
            lambda file: read_rows(file, Evaluation),
        ):
            with pytest.raises(ValueError, match=f"{name}.* must "):
                read(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": ' + DEEP, "is not JSON"),
        (b'{"a": ' + 60 * b"[" + 60 * b"]" + b"}", "must be nested at most 50 levels deep"),
        (60 * b'{"a":' + b"1" + 60 * b"}", "must be nested at most 50 levels deep"),
        (b'{"a": ' + 400 * b"9" + b"}", "whole numbers must have at most 40 digits, got 400"),
        (b'{"a": ' + 10_000 * b"9" + b"}", "whole numbers must have at most 40 digits, got 10000"),
        (b'{"a": NaN}', "numbers must be finite, got NaN"),
        (b'{"a": [-Infinity]}', "numbers must be finite, got -Infinity"),
        (b'{"a": 1e999}', "numbers must be finite, got 1e999"),
        (b"[1]", "must hold a JSON object, got list"),
        (b"\xff", "is not JSON"),
        (4_000_001 * b" ", "must have at most 4000000 bytes"),
    ],
)
def test_json_is_bounded(data, message):
    with pytest.raises(ZooError, match=f"it {message}" if not message.startswith(("whole", "numbers")) else message):
        parse_json(data, "it")


def test_sound_json_is_read():
    content = {"a": [1, -2.5, {"b": [None, True, "x" * 200_000]}], "c": 2**127, "d": 49 * [[]]}
    assert parse_json(json.dumps(content), "it") == content
    assert parse_json(b'{"a": Infinity}', "it", finite=False) == {"a": float("inf")}


def test_a_few_words_describe_no_space_that_fills_the_memory() -> None:
    frame = {"type": "Box", "shape": [2**11, 2**10], "dtype": "uint8", "low": "0", "high": "255"}
    four = {"type": "Tuple", "spaces": [frame, {"type": "Dict", "spaces": [["a", frame], ["b", frame]]}, frame]}
    assert parse_json(json.dumps(four), "it") == four
    for content, entries in (
        ({"a": four, "b": four, "c": [{"$space": frame}]}, 9 * 2**21),
        ({"type": "MultiBinary", "n": 3 * 10**9}, 3 * 10**9),
        ({"a": {"type": "MultiBinary", "n": [10**5, 10**5]}}, 10**10),
        ({"a": {"type": "Discrete", "n": 3 * 10**9}}, 3 * 10**9),
        ({**frame, "shape": [10**6, 10**6]}, 10**12),
        ({**frame, "shape": [-(10**6), 10**6]}, 10**12),
    ):
        with pytest.raises(ZooError, match=f"it must describe spaces of at most {2**24} entries, got {entries}"):
            parse_json(json.dumps(content), "it")
    for content in ({"shape": [10**9], "low": "low"}, {**frame, "shape": "wide"}, {**frame, "shape": 10**4 * [10**9]}):
        assert parse_json(json.dumps(content), "it") == content  # no spaces, or none that NumPy makes


# -- versions -----------------------------------------------------------------------------------------


def test_a_file_of_another_version_says_what_to_do():
    known = FileFormat(version=3, oldest=2, advice=versions.RETRAIN)
    for version in (2, 3):
        known.check({"format_version": version}, "it")
    for found, message in (
        (
            4,
            r"it must have a format_version from 2 to 3, got 4; a newer release than .* wrote it: update mbrl-wrappers",
        ),
        (1, r"it must have a format_version from 2 to 3, got 1; an older release wrote it: .*train the agent again"),
        (None, r"it must have a format_version from 2 to 3, got None$"),
        (True, r"it must have a format_version from 2 to 3, got True$"),
        ("3", r"it must have a format_version from 2 to 3, got '3'$"),
    ):
        with pytest.raises(ZooError, match=message):
            known.check({"format_version": found}, "it")


@pytest.mark.parametrize(("name", "kind"), [("config.json", "AGENT"), ("eval.json", "EVALUATION")])
def test_agents_of_other_versions_are_refused(copy, monkeypatch, name, kind):
    folder, newest = copy / "sac", getattr(versions, kind).version
    forge(folder, lambda content: content.update(format_version=newest + 1), name)
    with pytest.raises(
        ZooError, match=rf"{name} must have .*format_version .*{newest}, got {newest + 1}; .*pip install -U mbrl-wra"
    ):
        zoo.load(folder)
    forge(folder, lambda content: content.update(format_version=newest), name)
    monkeypatch.setattr(versions, kind, FileFormat(newest + 1, oldest=newest + 1, advice=versions.RETRAIN))
    with pytest.raises(
        ZooError, match=rf"{name} must have the format_version {newest + 1}, got {newest}; .*by its recipe \(mbrl-zoo"
    ):
        zoo.load(folder)
    monkeypatch.setattr(versions, kind, FileFormat(newest + 1, oldest=newest))
    zoo.load(folder, device="cpu")


def test_an_evaluation_of_version_1_was_deterministic(copy):
    assert open_folder(copy / "sac").is_deterministic
    forge(copy / "sac", lambda content: content.update(deterministic=False), "eval.json")
    assert not open_folder(copy / "sac").is_deterministic

    def old(content: dict[str, Any]) -> None:
        content.update(format_version=1)
        del content["deterministic"]

    forge(copy / "sac", old, "eval.json")
    assert open_folder(copy / "sac").is_deterministic
    forge(copy / "sac", lambda content: content.update(deterministic="no"), "eval.json")
    with pytest.raises(ZooError, match=r"eval.json does not record .*deterministic must be true or false, got 'no'"):
        open_folder(copy / "sac")


def test_manifests_and_indexes_of_other_versions_are_refused(tmp_path):
    with pytest.raises(ZooError, match=r"it must have the format_version 1, got 7; .*update mbrl-wrappers"):
        parse_manifest(b'{"format_version": 7}', "it")
    (tmp_path / "index.json").write_text('{"format_version": 7}')
    with pytest.raises(ZooError, match=r"index.json must have the format_version 1, got 7; .*update mbrl-wrappers"):
        read_index(tmp_path / "index.json")
    with pytest.raises(ZooError, match=r"a diagnosis must have the format_version 1, got 0; .*write it again"):
        Diagnosis.from_json('{"format_version": 0}')


# -- agents -------------------------------------------------------------------------------------------

NOISE = {"$normal_noise": [0.0, 0.1]}


def nested(depth: int) -> dict[str, Any]:
    """Noise of 1024 ** depth envs, in some bytes."""
    noise: dict[str, Any] = NOISE
    for _ in range(depth):
        noise = {"$vectorized_noise": [noise, 1024]}
    return noise


def test_noise_is_not_repeated_without_end(copy):
    assert len(json.dumps(nested(2))) <= 91
    for depth in (2, 3):
        forge(copy / "sac", lambda config, depth=depth: config["arguments"].update(action_noise=nested(depth)))
        with pytest.raises(ZooError, match=r"action_noise must repeat one of \['\$normal_noise', '\$ornstein"):
            zoo.load(copy / "sac")
    many = {"$array": {"dtype": "float64", "shape": [200], "entries": 200 * [0.1]}}
    with pytest.raises(ZooError, match="it must have at most 100000 numbers over all envs, got 409600"):
        decode({"$vectorized_noise": [{"$normal_noise": [many, many]}, 1024]}, "it")
    assert decode({"$vectorized_noise": [NOISE, 1024]}, "it").n_envs == 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planner_kwargs": {"population": 10**9}}, "population must be at most 1000000, got 1000000000"),
        ({"planner_kwargs": {"iterations": 10**9}}, "iterations must be at most 1000, got 1000000000"),
        ({"planner_kwargs": {"horizon": 10**9}}, "horizon must be at most 1000, got 1000000000"),
        ({"planner_kwargs": {"population": 1e300}}, r"population must be at most 1000000, got 1e\+300"),
        ({"num_particles": 10**9}, "num_particles must be at most 10000, got 1000000000"),
        (
            {"num_particles": 10_000, "planner_kwargs": {"horizon": 1000, "population": 1_000_000}},
            "a search must predict at most 50000000 steps, got 10000000000000, the product of",
        ),
    ],
)
def test_a_plan_is_bounded(copy, change, message):
    forge(copy / "pets", lambda config: config["arguments"].update(change))
    with pytest.raises(ZooError, match=message):
        zoo.load(copy / "pets")


def test_published_plans_are_within_the_bounds(copy):
    paper = {"horizon": 30, "population": 500, "num_elites": 50, "iterations": 5}
    forge(copy / "pets", lambda config: config["arguments"].update(planner_kwargs=paper, num_particles=20))
    loaded: Any = zoo.load(copy / "pets", device="cpu")
    assert loaded.num_particles == 20


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("STEVE", {"horizon": 10**12, "covariance": False}, "horizon must be at most 1000, got 1000000000000"),
        ("Dyna", {"rollout_length": {"$tuple": [0, 1, 1, 10**9]}}, "rollout_length must be at most 1000"),
        ("Dyna", {"rollouts_per_step": 10**12}, "rollouts_per_step must be at most 100000"),
    ],
)
def test_a_strategy_is_bounded(copy, kind, arguments, message):
    def change(config: dict[str, Any]) -> None:
        config["model_based"].update(strategy=kind, arguments=arguments)

    forge(copy / "sac", change)
    with pytest.raises(ZooError, match=message):
        zoo.load(copy / "sac")


def test_what_an_agent_imagines_for_each_observation_is_bounded():
    with pytest.raises(ZooError, match="file: length must be at most 100, got 1000000000"):
        check_effort({"length": 10**9, "n_steps": 5}, "file")
    check_effort({"length": 15}, "file")


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({"hidden": 100_000 * [1], "weight_decay": 100_001 * [0.0]}, None),
        ({"num_members": 10**9}, None),
        ({"hidden": [10**9]}, None),
        ({}, {"net_arch": 100_000 * [1]}),
        ({}, {"net_arch": [10**9]}),
        ({}, {"net_arch": [8], "n_critics": 10**6}),
    ],
)
def test_networks_are_as_large_as_their_files(copy, settings, policy):
    def change(config: dict[str, Any]) -> None:
        config["model_based"]["dynamics"]["description"]["settings"].update(settings)
        if policy is not None:
            config["arguments"]["policy_kwargs"] = policy

    forge(copy / "sac", change)
    with pytest.raises(ZooError, match="the description asks for more tensors than the file holds"):
        zoo.load(copy / "sac", device="cpu")


def test_the_depth_of_a_network_does_not_hide_in_a_large_file(copy):
    """A large tensor allows for many entries, and not for many layers."""
    file = copy / "sac" / "model.safetensors"
    save_file({**load_file(file), "policy.more": torch.zeros(2_000_000)}, file)
    forge(copy / "sac", lambda config: config["arguments"].update(policy_kwargs={"net_arch": 3000 * [1]}))
    with pytest.raises(ZooError, match="the description asks for more tensors than the file holds"):
        zoo.load(copy / "sac", device="cpu")


def test_spaces_have_numbers(copy):
    box = {"type": "Box", "shape": [1], "dtype": "S1000000000", "low": ["0"], "high": ["1"]}
    forge(copy / "sac", lambda config: config.update(observation_space=box))
    with pytest.raises(ZooError, match="dtype of a Box must be one of numbers"):
        zoo.load(copy / "sac")


# -- manifests ----------------------------------------------------------------------------------------


def test_a_manifest_lists_files_of_sizes_that_can_be_read(copy):
    record = {"sha256": 64 * "0", "size": 1}
    for files, message in (
        ({"a.json": {**record, "size": 4_000_001}}, "a.json must have at most 4000000 bytes, got 4000001"),
        ({"a.csv": {**record, "size": 10**9}}, "a.csv must have at most 2000000 bytes"),
        ({"model.safetensors": {**record, "size": 10**12}}, "model.safetensors must have at most 16000000000 bytes"),
        ({"replay.mp4": {**record, "size": 10**10}}, "replay.mp4 must have at most 1000000000 bytes"),
        ({"a": {**record, "size": 10**39}}, "a must have at most 1000000000 bytes"),
        ({f"a{index}": record for index in range(1001)}, "must list at most 1000 files, got 1001"),
    ):
        with pytest.raises(ZooError, match=message):
            parse_manifest(json.dumps({"format_version": 1, "files": files}).encode(), "it")


@pytest.mark.parametrize("kind", ["sparse", "pipe", "zero", "link"])
def test_a_listed_file_that_is_none_is_refused(copy, kind):
    folder = copy / "sac"
    odd_files(copy)
    (folder / "README.md").unlink(missing_ok=True)
    (copy / kind).rename(folder / "README.md")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["README.md"] = {"sha256": 64 * "0", "size": 2}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for open_it in (check_files, zoo.load):
        with pytest.raises(ZooError, match=r"README\.md (must|is missing)"):
            open_it(folder)


# -- tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b"1," + 200_000 * b"1" + b",1,1,1,1\n", "is not CSV: field larger than field limit"),
        (400 * b"9" + b",1,1,1,1,1\n", "must hold numbers: of at most 64 bits, got one of 400 digits"),
        (10_000 * b"9" + b",1,1,1,1,1\n", "must hold numbers"),
        (b"1,1e300,1,1,1,1\n", r"must hold numbers: at most 1e\+100 in size, got 1e\+300"),
        (b"1,1,1,1\n", "must hold numbers"),
        (b"1,\xff,1,1,1,1\n", "is not CSV"),
        (b"1,\x00,1,1,1,1\n", "must hold numbers|is not CSV"),
        (2_000_001 * b"\n", "must have at most 2000000 bytes"),
    ],
)
def test_tables_are_bounded(tmp_path, rows, message):
    file = tmp_path / "progress.csv"
    write_rows(file, [Evaluation(1, 2.0, 3.0, 4, 5.0, 6.0)])
    assert read_rows(file, Evaluation) == [Evaluation(1, 2.0, 3.0, 4, 5.0, 6.0)]
    with open(file, "ab") as opened:
        opened.write(rows)
    with pytest.raises(ValueError, match=f"progress.csv {message}"):
        read_rows(file, Evaluation)
    write_rows(file, [HorizonError(1, float("nan"), float("inf"), 1e99)])  # a model may diverge
    assert read_rows(file, HorizonError)[0].median == float("inf")


# -- reports ------------------------------------------------------------------------------------------


@pytest.fixture
def spec() -> JobSpec:
    return make_job("mbpo", PENDULUM, steps=500)


def started(folder: Path, spec: JobSpec, rows: list[Evaluation]) -> Path:
    """Write what a run leaves that goes on."""
    folder.mkdir(parents=True)
    (folder / JOB).write_text(spec.to_json())
    write_rows(folder / PROGRESS, rows)
    return folder


ROWS = [Evaluation(100, -9.0, 1.0, 90, 1.0, 1.0), Evaluation(200, -8.0, 1.0, 190, 2.0, 2.0)]


def test_bad_folders_are_left_out_and_end_no_report(tmp_path, spec, saved):
    started(tmp_path / "runs" / "good", spec, ROWS)
    reasons = {}
    seeds = itertools.count(1)  # else they were left out as the same job

    def another() -> JobSpec:
        return dataclasses.replace(spec, seed=next(seeds))

    for file in (JOB, PROGRESS, "manifest.json"):
        for name in ("link", "dangling", "zero", "pipe", "folder", "sparse"):
            if (file, name) == (JOB, "dangling"):
                continue  # nothing is there, in the eyes of Python
            (place := tmp_path / f"odd-{file}-{name}").mkdir()
            odd_files(place)
            folder = started(tmp_path / "runs" / f"{file}-{name}", another(), ROWS)
            (folder / file).unlink(missing_ok=True)
            (place / name).rename(folder / file)
            reasons[folder.name] = r"must|has no"
    for name, content, message in (
        ("deep", DEEP, "is not JSON"),
        ("deeper", b'{"a":' + 900 * b"[" + 900 * b"]" + b"}", "nested at most 50 levels"),
        ("digits", spec.to_json().replace('"seed": 0', f'"seed": {400 * "9"}').encode(), "at most 40 digits"),
        (
            "long",
            spec.to_json().replace(PENDULUM, 200_000 * "x").encode(),
            "must have at most 100000 bytes to be shown",
        ),
        ("none", b"", "a job as JSON"),
        ("text", b"\xff\xfe", "a job as JSON"),
        ("list", b'{"recipe": [1]}', "a job as JSON"),
    ):
        folder = started(tmp_path / "runs" / name, another(), ROWS)
        (folder / JOB).write_bytes(content)
        reasons[name] = message
    for name, rows, message in (
        ("field", b"1," + 200_000 * b"1" + b",1,1,1,1\n", "field larger than field limit"),
        ("whole", 400 * b"9" + b",1,1,1,1,1\n", "at most 64 bits"),
        ("back", b"50,1,1,1,3,3\n", "steps must be at least 0 and grow"),
        ("return", b"300,-inf,1,1,3,3\n", "returns must not be infinite"),
        ("time", b"300,1,1,1,nan,3\n", "seconds must be finite"),
        ("size", b"300,1e308,1,1,3,3\n", "at most 1e\\+100 in size"),
    ):
        folder = started(tmp_path / "runs" / name, another(), ROWS)
        with open(folder / PROGRESS, "ab") as opened:
            opened.write(rows)
        reasons[name] = message
    # A finished agent whose job is not among the files of its manifest.
    shutil.copytree(saved / "sac", tmp_path / "runs" / "unlisted")
    (tmp_path / "runs" / "unlisted" / JOB).write_text(another().to_json())
    reasons["unlisted"] = "has no job.json, which says what was trained"
    found, left_out = find_runs([tmp_path / "runs"])
    assert [run.path.name for run in found] == ["good"]
    told = {folder.path.name: folder.reason for folder in left_out}
    assert told.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(reason, told[name]), (name, told[name])
        assert len(told[name]) < 400
    html = build_report([tmp_path / "runs"], tmp_path / "r.html", videos=False).read_text()
    assert "Left out" in html and len(html) < 1_000_000


@pytest.mark.parametrize("value", ["nan", "1e100", "-1e100"])
def test_curves_of_any_numbers_are_drawn(tmp_path, spec, value):
    started(tmp_path / "runs" / "good", spec, ROWS)
    odd = dataclasses.replace(ROWS[-1], return_mean=float(value), steps=2**62)
    started(tmp_path / "runs" / "odd", dataclasses.replace(spec, seed=1), [odd])
    assert "odd" in build_report([tmp_path / "runs"], tmp_path / "r.html", videos=False).read_text()


def header(entries: dict[str, Any]) -> bytes:
    data = json.dumps(entries).encode()
    return struct.pack("<Q", len(data)) + data


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**39], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": 1000 * [10**30], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0, 10**18], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]},
    ],
)
def test_headers_of_tensors_are_bounded(copy, entry):
    (copy / "sac" / "model.safetensors").write_bytes(header({"policy.a": entry}))
    write_manifest(copy / "sac", read_manifest(copy / "sac"))
    with pytest.raises(ZooError, match=r"model\.safetensors"):
        zoo.load(copy / "sac")
