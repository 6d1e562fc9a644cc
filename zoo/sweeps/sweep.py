"""Many jobs: read from a file, each run once, whatever is interrupted."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.files import remove_abandoned, write_atomically
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.storage.folder import PROGRESS
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, parse_json, read_bytes
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.sweeps.executors import Executor, FolderLock, Outcome
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed, sigterm_exits, sigterm_requests_stop
from mbrl_wrappers.zoo.training.building import base_of
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.recipe import check_name, check_text, read_literals
from mbrl_wrappers.zoo.training.run import Stopped, is_finished, run

SWEEP = "sweep.json"
REQUIRED = ("agents", "envs", "seeds")
# Passed on to make_job as arguments.
OPTIONAL = (
    "steps",
    "algo",
    "params",
    "recipe",
    "num_envs",
    "eval_freq",
    "eval_episodes",
    "deterministic",
    "save_freq",
    "device",
)
TRACEBACK_LINES = 4


@dataclass(frozen=True)
class Result:
    """A finished job.

    Attributes:
        digest: the job's name, see :meth:`~mbrl_wrappers.zoo.training.job.JobSpec.digest`.
        folder: where the job's files are.
        rows: the evaluations.
        was_run: whether the job was run now; False if it was finished before.
    """

    digest: str
    folder: Path
    rows: list[Evaluation]
    was_run: bool


def read_sweep(path: str | Path) -> list[JobSpec]:
    """Read the jobs of a sweep from a file of YAML literals.

    Required are ``agents`` and ``envs``, lists of names, and ``seeds``, a list of numbers, or a number N for the seeds
    0 to N - 1. Optional are ``steps``, ``algo``, ``params``, ``recipe`` (a path relative to the file), ``num_envs``,
    ``eval_freq``, ``eval_episodes``, ``deterministic``, ``save_freq`` and ``device``, see
    :func:`~mbrl_wrappers.zoo.training.job_making.make_job`, and ``baseline``: agents are trained without their model
    too, if they can do without, unless it is false.

    Args:
        path: the file.

    Returns:
        The jobs without duplicates, by agent, env and seed in the file's order, each before its baseline.

    Raises:
        ValueError: naming the key that is missing, unknown or has an invalid value.
    """
    path = Path(path)
    content = _read_content(path)
    arguments = {key: content[key] for key in OPTIONAL if content.get(key) is not None}
    if "recipe" in arguments:
        check_text(f"{path}: recipe", arguments["recipe"])
        arguments["recipe"] = path.parent / arguments["recipe"]
    if not isinstance(arguments.get("params", {}), dict):
        raise ValueError(f"{path}: params must be a mapping of section.argument to value, got {arguments['params']!r}")
    seeds = _read_seeds(content["seeds"], path)
    jobs: dict[str, JobSpec] = {}
    for agent in content["agents"]:
        for env in content["envs"]:
            try:  # to build one seed's job shows that all seeds' jobs can be built
                first = make_job(agent, env, seed=seeds[0], **arguments)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            for seed in seeds:
                spec = dataclasses.replace(first, seed=seed)
                variants = [spec]
                if content.get("baseline", True) and AGENTS[agent].strategy is not None:
                    variants.append(base_of(spec))
                jobs.update((variant.digest(), variant) for variant in variants)
    return list(jobs.values())


def _read_content(path: Path) -> dict[str, Any]:
    """Return a sweep file's mapping, its keys and names checked."""
    try:
        content = read_literals(read_bytes(path, MAX_JSON_BYTES, links=True).decode())
    except (UnicodeError, yaml.YAMLError, ZooError) as error:
        raise ValueError(f"a sweep must be a file of YAML literals, got {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping with the keys {REQUIRED}, got {content!r}")
    for key in content:
        check_name(str(key), (*REQUIRED, *OPTIONAL, "baseline"), f"{path}: key")
    for key in REQUIRED:
        if key not in content:
            raise ValueError(f"{path} must have the key {key!r}, got {sorted(content)}")
    for key in ("agents", "envs"):
        names = content[key]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: {key} must be a list of names, got {names!r}")
    if not isinstance(content.get("baseline", True), bool):
        raise ValueError(f"{path}: baseline must be true or false, got {content['baseline']!r}")
    return content


def _read_seeds(seeds: Any, path: Path) -> list[int]:
    if not isinstance(seeds, list):
        check_whole_number(f"{path}: seeds, unless a list,", seeds)
        return list(range(seeds))
    if not seeds:
        raise ValueError(f"{path}: seeds must name at least one, got {seeds}")
    for seed in seeds:
        check_whole_number(f"{path}: each of seeds", seed, 0)
    return seeds


def run_job(spec: JobSpec, root: str | Path) -> Result:
    """Run a job in this process, from its checkpoint if it was interrupted; a finished one is read, not repeated.

    Args:
        spec: the job.
        root: the folder with a subfolder for each job, named by its digest. If another process is running the same job
            there, this one waits for it.

    Raises:
        SystemExit: with the code 143, after SIGTERM and a checkpoint; called again, the job goes on from there.
    """
    folder = Path(root) / spec.digest()
    if is_finished(folder):
        return _read_result(spec, folder, was_run=False)
    with closing(FolderLock.take(folder)):
        was_run = not is_finished(folder)
        if was_run:
            with sigterm_requests_stop() as stop:
                try:
                    run(spec, folder, should_stop=stop.is_wanted)
                except Stopped:
                    sys.exit(128 + signal.SIGTERM)
            if stop.was_made:  # too late to stop the run, during its last evaluation or while its files were written
                sys.exit(128 + signal.SIGTERM)
        return _read_result(spec, folder, was_run)


def run_sweep(
    specs: Sequence[JobSpec],
    root: str | Path,
    executor: Executor,
    *,
    on_update: Callable[[Outcome], None] | None = None,
) -> list[Result]:
    """Run the jobs that are not finished yet; called again, a sweep goes on from where it was interrupted.

    Args:
        specs: the jobs.
        root: where to write a subfolder for each job, named by its digest, and ``sweep.json``, the list of jobs.
        executor: runs the jobs. :class:`~mbrl_wrappers.zoo.sweeps.executors.LocalExecutor` starts processes, so a
            script has to call this function under ``if __name__ == "__main__":``.
        on_update: called for each job that has ended, starting with those that were finished before.

    Returns:
        The jobs' results, in the order of ``specs``.

    Raises:
        TrainingFailed: naming every failed job, after all other jobs have finished.
    """
    root = Path(root)
    jobs = {spec.digest(): spec for spec in specs}
    _record_jobs(jobs, root)
    finished = {digest: spec for digest, spec in jobs.items() if is_finished(root / digest)}
    outcomes = {digest: Outcome(spec, was_run=False) for digest, spec in finished.items()}
    for outcome in outcomes.values():
        if on_update is not None:
            on_update(outcome)
    unfinished = [spec for digest, spec in jobs.items() if digest not in finished]
    with sigterm_exits(), closing(executor.run(unfinished, root)) as ended:
        for outcome in ended:
            outcomes[outcome.spec.digest()] = outcome
            if on_update is not None:
                on_update(outcome)
    failed = [outcome for outcome in outcomes.values() if outcome.error is not None]
    if failed:
        raise TrainingFailed(f"{len(failed)} of {len(jobs)} jobs failed\n" + "\n".join(map(_describe_failure, failed)))
    return [_read_result(spec, root / digest, outcomes[digest].was_run) for digest, spec in jobs.items()]


def _record_jobs(jobs: dict[str, JobSpec], root: Path) -> None:
    """Add jobs to the root's list."""
    file = root / SWEEP
    new = {
        digest: {"agent": spec.agent, "env": spec.env, "seed": spec.seed, "model": spec.model}
        for digest, spec in jobs.items()
    }
    if new.items() <= _recorded_jobs(file).items():
        return
    with closing(FolderLock.take(root)):
        remove_abandoned(root)
        write_atomically(file, json.dumps({**_recorded_jobs(file), **new}, indent=1).encode())


def _recorded_jobs(file: Path) -> dict[str, Any]:
    return parse_json(read_bytes(file, MAX_JSON_BYTES), file) if file.exists() else {}


def _read_result(spec: JobSpec, folder: Path, was_run: bool) -> Result:
    return Result(spec.digest(), folder, read_rows(folder / PROGRESS, Evaluation), was_run)


def _describe_failure(outcome: Outcome) -> str:
    spec = outcome.spec
    lines = (outcome.error or "").rstrip().splitlines()[-TRACEBACK_LINES:]
    return "\n".join([f"{spec.digest()}: {spec.label()} on {spec.env}, seed {spec.seed}", *lines])
