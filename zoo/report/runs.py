"""The runs of a report: found in folders, read, and put into groups that may be averaged."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.report.sentences import one_line
from mbrl_wrappers.zoo.storage.folder import EVAL, JOB, PROGRESS, AgentFolder, open_folder
from mbrl_wrappers.zoo.storage.limits import max_bytes, read_bytes
from mbrl_wrappers.zoo.storage.manifest import MANIFEST
from mbrl_wrappers.zoo.storage.tables import parse_rows
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.progress import Evaluation

# Parts of a job that don't change the trained agent, except for the seed; runs that differ only in these are grouped.
_BOOKKEEPING = {"save_freq", "device", "eval_episodes", "eval_freq", "seed"}
# The bootstrap of a performance profile resamples all episodes 2000 times.
MAX_EPISODES = 1000
# A report shows the settings of jobs, so a huge job would make a huge page.
MAX_JOB_BYTES = 100_000


@dataclass(frozen=True)
class Run:
    """One training run, finished or not.

    Attributes:
        path: the run's folder.
        spec: the job.
        rows: the evaluations.
        folder: the agent's folder; None while the run is not finished.
    """

    path: Path
    spec: JobSpec
    rows: list[Evaluation]
    folder: AgentFolder | None

    @property
    def returns(self) -> list[float]:
        """Returns of the saved agent's evaluation episodes."""
        evaluation = None if self.folder is None else self.folder.evaluation
        return [] if evaluation is None else [episode.total_reward for episode in evaluation.episodes]

    @property
    def has_model(self) -> bool:
        """Whether there is an agent with a model to look at."""
        return self.folder is not None and self.folder.has_model

    @property
    def last_return(self) -> float:
        """Mean return of the last evaluation."""
        return self.rows[-1].return_mean


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only.

    Attributes:
        label: the agent's usual name, plus the settings that distinguish the group from others of the same name.
        runs: sorted by seed.
    """

    label: str
    runs: list[Run]

    @property
    def counted(self) -> list[Run]:
        """Runs that results are averaged over: the finished ones or, if there are none, all with an evaluation."""
        evaluated = [run for run in self.runs if run.rows]
        return [run for run in evaluated if run.folder is not None] or evaluated

    @property
    def others(self) -> list[Run]:
        """Runs that are not ``counted``."""
        return [run for run in self.runs if run not in self.counted]

    @property
    def scores(self) -> list[list[float]]:
        """Returns of the evaluation episodes of each finished run."""
        return [run.returns for run in self.runs if run.returns]


@dataclass(frozen=True)
class EnvSection:
    """All groups of one environment.

    Attributes:
        name: of the environment, with the arguments it was given.
        groups: agents with a model first.
    """

    name: str
    groups: list[Group]


@dataclass(frozen=True)
class LeftOut:
    """A folder that is not shown.

    Attributes:
        path: where it is.
        reason: why it is not shown.
    """

    path: Path
    reason: str


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Read the runs at or below some folders, each once.

    Returns:
        The runs, and the folders that look like runs but can't be read or repeat a job.

    Raises:
        ZooError: if a folder does not exist, or has no run in it.
    """
    runs: dict[str, Run] = {}
    left_out = []
    for path in _run_folders(folders):
        try:
            run = _read_run(path)
        except (OSError, RecursionError, ValueError) as error:
            left_out.append(LeftOut(path, one_line(error)))
            continue
        first = runs.setdefault(run.spec.digest(), run)
        if first is not run:
            left_out.append(LeftOut(path, f"the same job as {first.path}"))
    return list(runs.values()), left_out


def group_by_env(runs: Sequence[Run]) -> list[EnvSection]:
    """Group runs by environment, agent and settings; groups of the same agent get different labels."""
    envs: dict[str, list[Run]] = {}
    for run in runs:
        envs.setdefault(_env_name(run.spec), []).append(run)
    return [EnvSection(name, _groups(envs[name])) for name in sorted(envs)]


def _run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    seen = set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ZooError(f"folders must exist, got {str(folder)!r}")
        found = {file.parent for name in (JOB, MANIFEST) for file in folder.rglob(name)}
        if not found:
            raise ZooError(f"folders must hold runs, there is no {JOB} in {folder}")
        for path in sorted(found):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _read_run(path: Path) -> Run:
    """Read a run's files.

    Raises:
        ValueError: naming the file that can't be read.
    """
    folder = open_folder(path) if os.path.lexists(path / MANIFEST) else None
    job, progress = (_read_file(path, name, folder) for name in (JOB, PROGRESS))
    if job is None:
        raise ZooError(f"{path} has no {JOB}, which says what was trained")
    if len(job) > MAX_JOB_BYTES:
        raise ZooError(f"{path / JOB} must have at most {MAX_JOB_BYTES} bytes to be shown, got {len(job)}")
    spec = JobSpec.from_json(job)
    for name, value in (("env", spec.env), ("agent", spec.agent), ("algo", spec.recipe.algo)):
        if not isinstance(value, str):
            raise ZooError(f"{path / JOB}: {name} must be a string, got {value!r}")
    if not isinstance(spec.env_kwargs, dict):
        raise ZooError(f"{path / JOB}: env_kwargs must be an object, got {spec.env_kwargs!r}")
    for name in ("seed", "steps"):
        if type(getattr(spec, name)) is not int:
            raise ZooError(f"{path / JOB}: {name} must be a whole number, got {getattr(spec, name)!r}")
    rows = [] if progress is None else parse_rows(progress, Evaluation, path / PROGRESS)
    _check_rows(rows, path / PROGRESS)
    run = Run(path, spec, rows, folder)
    if len(run.returns) > MAX_EPISODES:
        raise ZooError(f"{path / EVAL} must record at most {MAX_EPISODES} episodes to be shown, got {len(run.returns)}")
    return run


def _read_file(path: Path, name: str, folder: AgentFolder | None) -> bytes | None:
    """Return a file of a run, None if there is none; of a finished run, only files in its manifest are read."""
    if folder is not None:
        return folder.file(name)
    return read_bytes(path / name, max_bytes(name)) if os.path.lexists(path / name) else None


def _check_rows(rows: Sequence[Evaluation], source: Path) -> None:
    """Refuse a curve that can't be interpolated, since all curves of a figure share their points."""
    steps = [row.steps for row in rows]
    if any(step < 0 for step in steps) or any(after <= before for before, after in itertools.pairwise(steps)):
        raise ZooError(f"{source}: steps must be at least 0 and grow from row to row")
    if any(math.isinf(value) for row in rows for value in (row.return_mean, row.return_std)):
        raise ZooError(f"{source}: returns must not be infinite")
    times = [seconds for row in rows for seconds in (row.wall_seconds, row.cpu_seconds)]
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times):
        raise ZooError(f"{source}: seconds must be finite and at least 0")


def _env_name(spec: JobSpec) -> str:
    if not spec.env_kwargs:
        return spec.env
    return f"{spec.env} with {', '.join(f'{key}={value}' for key, value in sorted(spec.env_kwargs.items()))}"


def _groups(runs: Sequence[Run]) -> list[Group]:
    """Return the groups of one environment."""
    titles: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        settings = json.dumps(_settings(run.spec), sort_keys=True)
        titles.setdefault(run.spec.label(), {}).setdefault(settings, []).append(run)
    groups = []
    for title, variants in titles.items():
        differing = _differing([json.loads(settings) for settings in variants])
        for settings, members in variants.items():
            suffix = "".join(f", {key}={json.loads(settings).get(key)}" for key in differing)
            groups.append(Group(title + suffix, sorted(members, key=lambda run: run.spec.seed)))
    return sorted(groups, key=lambda group: (not group.runs[0].spec.model, group.label))


def _settings(spec: JobSpec) -> dict[str, Any]:
    """Return the settings that define an agent, as one level of dotted names."""
    fields = {name: value for name, value in dataclasses.asdict(spec).items() if name not in _BOOKKEEPING}
    recipe = fields.pop("recipe")
    recipe.pop("steps")  # the job has its own
    if not spec.model:  # without a model, it makes no difference which agent it is compared with
        del fields["agent"]
        recipe = {name: recipe[name] for name in ("algo", "agent", "normalize", "num_envs")}
    flat: dict[str, Any] = dict(fields)
    for name, value in recipe.items():
        flat.update(
            {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names whose values are not the same in all."""
    names = sorted({name for one in settings for name in one})
    return [name for name in names if len({json.dumps(one.get(name), sort_keys=True) for one in settings}) > 1]


def median_run(runs: Sequence[Run]) -> Run:
    """Return the run in the middle by last return, the lower one of two."""
    return sorted(runs, key=lambda run: run.last_return)[(len(runs) - 1) // 2]
