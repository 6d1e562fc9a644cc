"""Training an agent and the same agent without a model, as ``mbrl-zoo train`` does."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers.arguments import check_device, check_whole_number
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.environment import in_file_names
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.report.plots import save_training_figure
from mbrl_wrappers.zoo.storage.folder import JOB, MODEL_ERROR, PROGRESS, load_agent, open_folder
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, read_bytes
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.sweeps.lock import FolderLock
from mbrl_wrappers.zoo.sweeps.processes import TrainingProcess, sigterm_exits, stop_all
from mbrl_wrappers.zoo.terminal import TrainingProgress
from mbrl_wrappers.zoo.training.building import base_of
from mbrl_wrappers.zoo.training.envs import env_of
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.recipe import check_name
from mbrl_wrappers.zoo.training.run import check_folder, check_track, is_finished, lengthen
from mbrl_wrappers.zoo.training.scaling import continued

POLL_SECONDS = 0.2
BASE = "base"


@dataclass(frozen=True)
class Training:
    """The result of :func:`train`.

    Attributes:
        agent: the trained agent; its model is at ``agent.model_based.dynamics``, or at ``agent.dynamics`` for an agent
            that plans.
        spec: the job that the agent was trained by.
        folder: where all files are; the agent's files are in the subfolder of its name, such as ``mbpo``.
        curves: evaluations by label, such as ``"MBPO(SAC)"``, and ``"SAC"`` for the agent without a model.
        model_error: the model's error over the horizon; empty without a model.
    """

    agent: BaseAlgorithm
    spec: JobSpec
    folder: Path
    curves: dict[str, list[Evaluation]]
    model_error: list[HorizonError]


def train(
    agent: str,
    env: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    algo: str | None = None,
    params: Mapping[str, Any] | None = None,
    recipe: str | Path | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    num_envs: int | None = None,
    folder: str | Path | None = None,
    eval_freq: int | None = None,
    eval_episodes: int | None = None,
    deterministic: bool | None = None,
    save_freq: int | None = None,
    device: str = "cpu",
    track: str | None = None,
    baseline: bool = True,
    with_optimizer: bool = False,
    progress_bar: bool = False,
    executor: str = "local",
    address: str | None = None,
    tell: Callable[[str], None] = print,
) -> Training:
    """Train an agent on an environment and, for comparison, the same agent without a model.

    The two run in parallel, each in a process of its own and on one thread, so a script has to call this function
    under ``if __name__ == "__main__":``. Called again with the same arguments, it goes on from the folder's last
    checkpoints; a finished run is read, not repeated. Called again with more ``steps``, it goes on to them.

    A recipe for more steps than ``steps`` is fitted to them, see
    :func:`~mbrl_wrappers.zoo.training.scaling.shorten`.

    Args:
        agent: the registered name, such as ``"mbpo"``.
        env: a Gymnasium id or ``"package.module:Class"``.
        steps: env steps; default: the recipe's.
        seed: of agents, model and episodes.
        algo: SB3's name of the model-free agent; default: the recipe's, which depends on the action space.
        params: changes to the recipe by ``"section.argument"``, such as ``{"strategy.real_ratio": 0.1}``.
        recipe: a file of recipes to use in place of the library's.
        env_kwargs: arguments of the env.
        num_envs: envs to train in at once; default: the recipe's. Evaluations have one env in any case.
        folder: where to write ``curves.png`` and two subfolders, named after the agent (such as ``mbpo``) and ``base``,
            with the files of :func:`~mbrl_wrappers.zoo.training.run.run`; default: :func:`default_folder`.
        eval_freq: env steps between evaluations; default: a tenth of ``steps``.
        eval_episodes: episodes per evaluation; default: 20, or 5 for an agent that plans.
        deterministic: whether they take the policy's mode instead of a sample; default: the recipe's.
        save_freq: env steps between checkpoints, 0 for none; default: a tenth of ``steps``.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        track: ``"tensorboard"`` or ``"wandb"``, to log SB3's metrics there.
        baseline: whether to train the agent without a model too; ignored for agents that only work with a model.
        with_optimizer: keep optimisers and replay buffer in the agents' folders, so that training can go on later.
        progress_bar: show a progress bar.
        executor: where the workers of an agent live that has some, by its recipe or ``params``: ``"local"`` for
            processes here, ``"ray"`` for a Ray cluster.
        address: of the Ray cluster; default: one of its own.
        tell: gets a sentence about each thing that is other than the arguments and the recipe say.

    Raises:
        ValueError: for an argument that can't be used, or a folder that holds a run with other arguments.
        TrainingFailed: if a run ends in any other error.
    """
    folder = default_folder(agent, env, seed) if folder is None else Path(folder)

    told: list[str] = []
    spec = make_job(
        agent,
        env,
        steps=steps,
        seed=seed,
        algo=algo,
        params=params,
        recipe=recipe,
        env_kwargs=env_kwargs,
        num_envs=num_envs,
        eval_freq=eval_freq,
        eval_episodes=eval_episodes,
        deterministic=deterministic,
        save_freq=save_freq,
        device=device,
        tell=told.append,
    )
    if (old := _job_in(folder / agent)) is not None:
        chosen = {"eval_freq": eval_freq, "save_freq": save_freq, **(params or {})}
        spec = continued(old, spec, fixed={name for name, value in chosen.items() if value is not None})
    for sentence in told:
        tell(sentence)
    options = {"track": track, "with_optimizer": with_optimizer, "executor": executor, "address": address}
    return _train_all(spec, folder, options, baseline=baseline, progress_bar=progress_bar, tell=tell)


def _job_in(folder: Path) -> JobSpec | None:
    """Return the job of the run in a folder, None if there is none that this version reads."""
    try:
        return JobSpec.from_json(read_bytes(folder / JOB, MAX_JSON_BYTES)) if (folder / JOB).exists() else None
    except ValueError:
        return None


def resume(
    folder: str | Path,
    *,
    steps: int | None = None,
    track: str | None = None,
    with_optimizer: bool = False,
    progress_bar: bool = False,
    executor: str = "local",
    address: str | None = None,
    tell: Callable[[str], None] = print,
) -> Training:
    """Go on with a run of :func:`train` with the arguments that it was started with.

    Args:
        folder: the run's folder. Only resume runs that you started yourself: the env is imported by name, and the
            checkpoints are pickles.
        steps: to go on to, at least as many as the run was started with; default: these.
        track: as for :func:`train`.
        with_optimizer: as for :func:`train`.
        progress_bar: as for :func:`train`.
        executor: as for :func:`train`.
        address: as for :func:`train`.
        tell: as for :func:`train`.

    Raises:
        ZooError: if the folder does not hold exactly one run of :func:`train`, or ``steps`` are too few.
    """
    folder = Path(folder)
    jobs = [file for file in sorted(folder.glob(f"*/{JOB}")) if file.parent.name != BASE]
    if len(jobs) != 1:
        raise ZooError(f"folder must hold one run to resume, with its {JOB} in it, got {len(jobs)} in {folder}")
    spec = JobSpec.from_json(read_bytes(jobs[0], MAX_JSON_BYTES))
    if spec.agent != jobs[0].parent.name or spec.agent not in AGENTS:
        raise ZooError(f"{jobs[0]} must be the job of a registered agent and of its folder, got {spec.agent!r}")
    if steps is not None:
        check_whole_number("steps", steps)
        if steps < spec.steps:
            raise ZooError(f"steps must be at least the {spec.steps:,} that the run was started with, got {steps:,}")
        spec = dataclasses.replace(spec, steps=steps)
    baseline = (folder / BASE).exists()
    options = {"track": track, "with_optimizer": with_optimizer, "executor": executor, "address": address}
    return _train_all(spec, folder, options, baseline=baseline, progress_bar=progress_bar, tell=tell)


def _train_all(
    spec: JobSpec,
    folder: Path,
    options: dict[str, Any],
    *,
    baseline: bool,
    progress_bar: bool,
    tell: Callable[[str], None],
) -> Training:
    check_device("device", spec.device)
    check_name(options["executor"], ("local", "ray"), "executor")
    if options["executor"] == "ray" and not spec.recipe.agent.get("workers"):
        raise ValueError(
            f"executor must be 'local' without agent.workers in params or recipe, got {options['executor']!r}"
        )
    label = spec.label()
    own = folder / spec.agent
    variants = {label: (spec, own)}
    if baseline and AGENTS[spec.agent].strategy is not None:
        base = base_of(spec)
        variants[base.label()] = (base, folder / BASE)
    check_track(options["track"])
    longer = {name: lengthen(*variant) for name, variant in variants.items()}  # all of them, or none
    for name, (variant, variant_folder) in variants.items():
        if longer[name] is not None:
            continue
        check_folder(variant, variant_folder)
        is_late = options["with_optimizer"] and is_finished(variant_folder)
        if is_late and "training" not in open_folder(variant_folder).config:
            raise ZooError(f"with_optimizer comes too late: the run in {variant_folder} is finished without")
    unfinished = {name: (s, f) for name, (s, f) in variants.items() if longer[name] or not is_finished(f)}
    with (
        _locked(unfinished) as locks,  # first: a finished run is opened again below
        sigterm_exits(),
        ExitStack() as stack,
    ):
        for name, go_on in longer.items():
            if go_on is not None:
                go_on()
                tell(f"the run in {variants[name][1]} goes on to {spec.steps:,} steps")
        processes = stack.enter_context(_started(unfinished, locks, options))
        progress = stack.enter_context(TrainingProgress(processes) if progress_bar else nullcontext())
        while any([process.is_running() for process in processes]):
            time.sleep(POLL_SECONDS)
            if progress is not None:
                progress.update()
    result = Training(
        agent=load_agent(open_folder(own), env_of(spec), spec.device),
        spec=spec,
        folder=folder,
        curves={name: read_rows(f / PROGRESS, Evaluation) for name, (_, f) in variants.items()},
        model_error=read_rows(own / MODEL_ERROR, HorizonError) if (own / MODEL_ERROR).exists() else [],
    )
    figure = folder / "curves.png"
    if unfinished or not figure.exists():
        save_training_figure(figure, f"{label} on {spec.env}", result.curves, result.model_error)
    return result


def default_folder(agent: str, env: str, seed: int) -> Path:
    """Return the default folder of a run."""
    return Path("runs") / f"{agent}_{in_file_names(env)}_seed{seed}"


@contextmanager
def _locked(variants: Mapping[str, tuple[JobSpec, Path]]) -> Iterator[dict[str, FolderLock]]:
    """Take the right to write to the runs' folders."""
    with ExitStack() as stack:
        locks = {}
        for label, (_, folder) in variants.items():
            lock = FolderLock.take_if_free(folder)
            if lock is None:
                raise ZooError(f"folder must not be in use, but another process is training in {folder}")
            locks[label] = stack.enter_context(closing(lock))
        yield locks


@contextmanager
def _started(
    variants: Mapping[str, tuple[JobSpec, Path]], locks: Mapping[str, FolderLock], options: dict[str, Any]
) -> Iterator[list[TrainingProcess]]:
    """Start the runs; when the block ends, for whatever reason, all of them are stopped."""
    processes: list[TrainingProcess] = []
    try:
        for label, (spec, folder) in variants.items():
            process = TrainingProcess(label, spec, folder, lock=locks[label], keep_checkpoint=True, **options)
            processes.append(process)  # which inherits the lock
        yield processes
    finally:
        stop_all(processes)
