"""Train an agent with or without a model, with evaluations, checkpoints and an exact resume."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.agents.ladder import LadderRow, measure_ladder
from mbrl_wrappers.arguments import check_device
from mbrl_wrappers.files import remove_abandoned, write_atomically
from mbrl_wrappers.imagination import checkpoint_extra, has_checkpoint, load_checkpoint, save_checkpoint
from mbrl_wrappers.imagination.buffer import plain_buffer
from mbrl_wrappers.imagination.checkpoint import start_episodes
from mbrl_wrappers.workers import WorkerExecutor
from mbrl_wrappers.zoo.analysis.diagnosis import diagnose
from mbrl_wrappers.zoo.analysis.findings import DIAGNOSIS
from mbrl_wrappers.zoo.analysis.ladder import LADDER, ladder_from_json, ladder_to_json
from mbrl_wrappers.zoo.environment import SeededEpisodes, installed_versions, record_env
from mbrl_wrappers.zoo.evaluation import Episode, mean_and_std, play_episodes
from mbrl_wrappers.zoo.storage.agent_file import model_of
from mbrl_wrappers.zoo.storage.folder import (
    CARD,
    JOB,
    MODEL_ERROR,
    PROGRESS,
    EvalRecord,
    TrainedSeed,
    load_agent,
    open_folder,
    save_agent,
)
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, parse_json, read_bytes
from mbrl_wrappers.zoo.storage.manifest import MANIFEST
from mbrl_wrappers.zoo.storage.tables import read_rows, write_rows
from mbrl_wrappers.zoo.training.building import algorithm_of, build_agent, training_env
from mbrl_wrappers.zoo.training.card import write_card
from mbrl_wrappers.zoo.training.envs import SeededStarts, guarded_env, vec_env
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.progress import Evaluation

CHECKPOINT = "checkpoint"
# A run that is asked to stop first finishes its episode, since it can only resume exactly from there, within this time.
STOP_SECONDS = 10.0
# Time without a checkpoint after which a run of one env writes one at the end of an episode; or within an episode, from
# where it can't resume exactly, if the episode has taken as long.
SAVE_SECONDS = 600.0


class Stopped(Exception):
    """A run was stopped from outside, after a checkpoint."""


def is_finished(folder: str | Path) -> bool:
    """Tell whether a run has come to its end in a folder."""
    return (Path(folder) / MANIFEST).exists()


def run(
    spec: JobSpec,
    folder: str | Path,
    *,
    progress_bar: bool = False,
    track: str | None = None,
    with_optimizer: bool = False,
    keep_checkpoint: bool = False,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    on_step: Callable[[OffPolicyAlgorithm], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    executor: WorkerExecutor | None = None,
) -> tuple[OffPolicyAlgorithm, list[Evaluation]]:
    """Train an agent, going on from the folder's checkpoint if there is one; a finished run is read, not repeated.

    With one env, a checkpoint is written at the first end of an episode after ``save_freq`` steps or ten minutes. From
    there a run resumes as, bit for bit, the one that was never interrupted. Within an episode one is written only if
    the episode has taken ten minutes: a run that resumes from it begins a new episode, and so differs.

    With several envs there is hardly a step at which all episodes end, so each checkpoint, after ``save_freq`` steps,
    breaks all episodes off: they are stored as cut by a time limit, and new ones begin, whether the run is interrupted
    or not. So it resumes bit for bit too.

    Args:
        spec: the job.
        folder: where to write ``job.json``, ``progress.csv`` (one row per evaluation), ``checkpoint`` during the run,
            and at the end the agent's files, see :mod:`mbrl_wrappers.zoo.storage.folder`.
        progress_bar: show SB3's progress bar.
        track: ``"tensorboard"`` or ``"wandb"``, to log SB3's metrics to the folder's ``tensorboard``.
        with_optimizer: whether the agent's files keep optimisers and replay buffer too.
        keep_checkpoint: whether the last checkpoint stays when the run is finished, so that :func:`lengthen` can let it
            go on. It holds pickles and is none of the agent's files.
        on_evaluation: called with each row.
        on_step: called with the agent after each env step.
        should_stop: called between an update and the next step; once it returns True, the run writes a checkpoint at
            the episode's end and raises :class:`Stopped`. An episode that takes more than 10 s is broken off, and so
            are those of several envs at once; the resumed run then starts with the next ones and differs from one that
            was never stopped.
        executor: starts the agent's workers, if it has any; default: processes of this machine.

    Returns:
        The trained agent, whose env is closed, and its evaluations.

    Raises:
        ValueError: if the folder holds a run of another spec, or this machine lacks the device.
    """
    folder = Path(folder)
    check_device("device", spec.device)
    check_folder(spec, folder)
    if not is_finished(folder):
        remove_abandoned(folder)
        write_atomically(folder / JOB, spec.to_json().encode())
    checkpoint = folder / CHECKPOINT
    kind: Any = algorithm_of(spec.agent, spec.recipe.algo, model=spec.model)
    episodes: Any
    episodes, monitored = _seeded_env(spec)
    with closing(monitored) as env, guarded_env(spec) as eval_env:
        if is_finished(folder):
            agent: Any = load_agent(open_folder(folder), env, spec.device)
            return agent, read_rows(folder / PROGRESS, Evaluation)
        rows: list[Evaluation] = []
        callback: BaseCallback | None
        wrapped = training_env(spec.recipe, env)
        if has_checkpoint(checkpoint):
            state = checkpoint_extra(checkpoint)
            episodes.episode = state["episode"]
            agent = load_checkpoint(kind, checkpoint, wrapped, spec.device)
            callback = getattr(agent, "model_based", None)
            rows = [Evaluation(**row) for row in state["rows"]]
            clock = _Clock(state["wall_seconds"], state["cpu_seconds"], agent)
        else:
            agent, callback = build_agent(spec, wrapped)
            clock = _Clock(0.0, 0.0, agent)
        if executor is not None:
            agent.executor = executor
        if track is not None:
            agent.set_logger(_tracker(track, folder, spec))
        ladder = _read_ladder(folder, agent.num_timesteps)
        recorder = _Recorder(spec, folder, episodes, eval_env, clock, rows, ladder, on_evaluation, on_step, should_stop)
        remaining = spec.steps - agent.num_timesteps
        if remaining > 0:
            callbacks: list[BaseCallback] = [recorder] if callback is None else [callback, recorder]
            agent.learn(remaining, callback=callbacks, reset_num_timesteps=False, progress_bar=progress_bar)
            if spec.save_freq:
                recorder.checkpoint()  # so that a stop from here on loses nothing
        played = recorder.evaluate(agent)
        _keep(agent, spec, folder, eval_env, played, rows, ladder, with_optimizer)
        if not keep_checkpoint:
            for left in (checkpoint, *folder.glob(f".{CHECKPOINT}.*")):
                shutil.rmtree(left, ignore_errors=True)  # a pickle, which should not be shared
    return agent, rows


def lengthen(spec: JobSpec, folder: Path) -> Callable[[], None] | None:
    """Prepare a run to go on for more steps than it was started for.

    Args:
        spec: the job with more steps.
        folder: of the run, finished or not.

    Returns:
        What has to be called to let it go on; None where the folder holds no run that is shorter and otherwise alike.

    Raises:
        ValueError: for a finished run without a checkpoint.
    """
    if not (folder / JOB).exists():
        return None
    old = JobSpec.from_json(read_bytes(folder / JOB, MAX_JSON_BYTES))
    if old.steps >= spec.steps or dataclasses.replace(old, steps=spec.steps) != spec:
        return None
    if is_finished(folder) and not has_checkpoint(folder / CHECKPOINT):
        raise ValueError(
            f"steps must be {old.steps:,} for the run in {folder}, which is finished and has no checkpoint to go on "
            f"from, got {spec.steps:,}"
        )

    def go_on() -> None:
        (folder / MANIFEST).unlink(missing_ok=True)  # first: with the old job and no manifest it is finished again
        write_atomically(folder / JOB, spec.to_json().encode())

    return go_on


def _read_ladder(folder: Path, steps: int) -> list[LadderRow]:
    """Return the matches of a run that is resumed; it may have gone on for longer than to its checkpoint."""
    file = folder / LADDER
    rows = ladder_from_json(read_bytes(file, MAX_JSON_BYTES), file) if file.exists() else []
    return [row for row in rows if row.steps <= steps]


def _seeded_env(spec: JobSpec) -> tuple[SeededEpisodes | SeededStarts, Monitor | VecEnv]:
    """Make the job's env to train in, or several; also return what seeds its episodes."""
    if spec.recipe.num_envs > 1:
        starts = SeededStarts(vec_env(spec), spec.seed)
        return starts, starts
    episodes = SeededEpisodes(guarded_env(spec), spec.seed)
    return episodes, Monitor(episodes)


def _keep(
    agent: OffPolicyAlgorithm,
    spec: JobSpec,
    folder: Path,
    env: gym.Env,
    episodes: list[Episode],
    rows: list[Evaluation],
    ladder: list[LadderRow],
    with_optimizer: bool,
) -> None:
    """Measure the model, and write the agent's files; the manifest, which marks the end, comes last."""
    files = [JOB, PROGRESS, CARD]
    dynamics = model_of(agent)
    if dynamics is not None and dynamics.decodes and dynamics.num_starts:  # without starts it was never fitted
        diagnosis = diagnose(agent, dynamics, env, seed=spec.seed)
        write_atomically(folder / DIAGNOSIS, diagnosis.to_json())
        write_rows(folder / MODEL_ERROR, diagnosis.error)
        files += [DIAGNOSIS, MODEL_ERROR]
    if ladder:
        files.append(LADDER)
    last = rows[-1]
    trained = TrainedSeed(
        spec.seed, last.steps, last.updates, last.return_mean, last.return_std, last.wall_seconds, last.cpu_seconds
    )
    evaluation = EvalRecord(episodes, installed_versions(), [trained], spec.recipe.deterministic)
    name = spec.agent if spec.model else None
    write_card(folder / CARD, spec, evaluation, has_model=dynamics is not None, ladder=ladder)
    env_record = record_env(env, spec.env, spec.env_kwargs)
    save_agent(
        agent,
        folder,
        env=env_record,
        name=name,
        evaluation=evaluation,
        other_files=files,
        with_optimizer=with_optimizer,
    )


def check_track(track: str | None) -> None:
    """Refuse a tracker that is unknown or not installed.

    Raises:
        ValueError: naming it.
    """
    if track not in (None, "tensorboard", "wandb"):
        raise ValueError(f"track must be 'tensorboard' or 'wandb', got {track!r}")
    for package in (track, track and "tensorboard"):
        if package is not None and importlib.util.find_spec(package) is None:
            raise ValueError(f"track={track!r} needs {package}: pip install {package}")


def _tracker(track: str, folder: Path, spec: JobSpec) -> Any:
    """Make the logger that SB3 writes to."""
    check_track(track)
    target = str(folder / "tensorboard")
    if track == "wandb":
        import wandb

        wandb.init(project="mbrl-zoo", config=asdict(spec), dir=str(folder), sync_tensorboard=True)
    return configure(target, ["tensorboard"])


def check_folder(spec: JobSpec, folder: Path) -> None:
    """Refuse a folder that holds a run of another spec; nothing is written.

    Raises:
        ValueError: naming the folder and what differs.
    """
    file = folder / JOB
    if file.exists():
        old, new = parse_json(read_bytes(file, MAX_JSON_BYTES), file, finite=False), json.loads(spec.to_json())
        different = []
        for name, value in new.items():
            before = old.get(name)
            if name == "recipe" and isinstance(before, dict):
                keys = sorted(key for key in {*value, *before} if value.get(key) != before.get(key))
                different += [f"recipe.{key}" for key in keys]
            elif value != before:
                different.append(name)
        if different:
            raise ValueError(f"folder must be new or hold a run of the same spec, got {folder}: {different} differ")


class _Clock:
    """Wall and CPU seconds of training, those of the agent's workers included, which can be paused."""

    def __init__(self, wall: float, cpu: float, agent: BaseAlgorithm) -> None:
        self._agent = agent
        self._wall, self._cpu = time.perf_counter() - wall, self._cpu_seconds() - cpu

    def _cpu_seconds(self) -> float:
        return time.process_time() + getattr(self._agent, "worker_seconds", 0.0)

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, self._cpu_seconds() - self._cpu

    def skip(self, since: tuple[float, float]) -> None:
        """Leave out the time since a reading."""
        wall, cpu = self.read()
        self._wall += wall - since[0]
        self._cpu += cpu - since[1]


class _Recorder(BaseCallback):
    """Evaluates and checkpoints between a finished update and the next step."""

    model: OffPolicyAlgorithm

    def __init__(
        self,
        spec: JobSpec,
        folder: Path,
        episodes: SeededEpisodes | SeededStarts,
        eval_env: gym.Env,
        clock: _Clock,
        rows: list[Evaluation],
        ladder: list[LadderRow],
        on_evaluation: Callable[[Evaluation], None] | None,
        on_step: Callable[[OffPolicyAlgorithm], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        super().__init__()
        self._spec, self._folder, self._episodes, self._eval_env, self._clock = spec, folder, episodes, eval_env, clock
        self._rows, self._on_evaluation, self._on_step_done = rows, on_evaluation, on_step
        self._should_stop = should_stop
        self._stop_by: float | None = None
        self._episode_over = False
        self._last_checkpoint = 0
        self._saved_at = self._began_at = time.monotonic()  # the last checkpoint, and the episode
        self._last_played: list[Episode] = []
        self.ladder = ladder

    def _on_training_start(self) -> None:
        self._last_checkpoint = self.model.num_timesteps

    def _on_step(self) -> bool:
        self._episode_over = bool(self.locals["dones"].all())
        if self._on_step_done is not None:
            self._on_step_done(self.model)
        if self._episode_over:
            self._began_at = time.monotonic()
        return True

    def _on_rollout_start(self) -> None:
        steps = self.model.num_timesteps
        last = self._rows[-1].steps if self._rows else 0
        if steps // self._spec.eval_freq > last // self._spec.eval_freq:
            self.evaluate(self.model)
        every, has_several = self._spec.save_freq, self._spec.recipe.num_envs > 1
        if every and (self._episode_over or has_several) and steps - self._last_checkpoint >= every:
            self.checkpoint()
            if has_several:
                start_episodes(self.model, self.locals["env"])
        elif every and not has_several and self._is_overdue():
            self.checkpoint()
        if self._should_stop is not None and self._should_stop():
            self._stop()

    def _is_overdue(self) -> bool:
        """Tell whether the last checkpoint was long ago, and, within an episode, whether the episode has been long."""
        since = self._saved_at if self._episode_over else max(self._saved_at, self._began_at)
        return self.model.num_timesteps > self._last_checkpoint and time.monotonic() - since > SAVE_SECONDS

    def _stop(self) -> None:
        """Write a checkpoint and raise ``Stopped`` once the episode is over or has taken too long."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + STOP_SECONDS
        if self._episode_over or self._spec.recipe.num_envs > 1 or time.monotonic() > self._stop_by:
            if self._last_checkpoint < self.model.num_timesteps:
                self.checkpoint()
            raise Stopped(f"stopped at step {self.model.num_timesteps}")

    def evaluate(self, agent: Any) -> list[Episode]:
        """Play the evaluation's episodes and add a row, unless this step was evaluated already."""
        if self._last_played and self._rows and self._rows[-1].steps == agent.num_timesteps:
            return self._last_played
        reading = self._clock.read()
        spec = self._spec
        self._last_played = play_episodes(
            agent, self._eval_env, spec.eval_episodes, deterministic=spec.recipe.deterministic
        )
        row = Evaluation(
            agent.num_timesteps,
            *mean_and_std(self._last_played),
            agent._n_updates,
            round(reading[0], 2),
            round(reading[1], 2),
        )
        if not self._rows or self._rows[-1].steps < row.steps:  # a resumed run may have the row of this step already
            self._rows.append(row)
        write_rows(self._folder / PROGRESS, self._rows)
        if isinstance(agent, AlphaZero) and not any(rung.steps == row.steps for rung in self.ladder):
            self.ladder.append(measure_ladder(agent, row.cpu_seconds))
            write_atomically(self._folder / LADDER, ladder_to_json(self.ladder))
        if self._on_evaluation is not None:
            self._on_evaluation(row)
        self._clock.skip(reading)
        return self._last_played

    def checkpoint(self) -> None:
        """Write everything that the rest of the run depends on."""
        reading = self._clock.read()
        episode = self._episodes.episode - 1  # the episode that has just started is started again at a resume
        if self._spec.recipe.num_envs > 1:
            episode += 1
            _break_off_episodes(self.model)
        state = {
            "steps": self.model.num_timesteps,
            "episode": episode,
            "rows": [asdict(row) for row in self._rows],
            "wall_seconds": reading[0],
            "cpu_seconds": reading[1],
        }
        save_checkpoint(self.model, self._folder / CHECKPOINT, state)
        self._last_checkpoint, self._saved_at = self.model.num_timesteps, time.monotonic()
        self._clock.skip(reading)


def _break_off_episodes(agent: Any) -> None:
    """Mark the newest steps in an agent's replay buffer as the last of their episodes, cut as by a time limit."""
    buffer = None if getattr(agent, "replay_buffer", None) is None else plain_buffer(agent)
    if buffer is None or buffer.size() == 0:
        return
    newest = (buffer.pos - 1) % buffer.buffer_size
    goes_on = buffer.dones[newest] == 0
    buffer.dones[newest, goes_on] = 1
    if buffer.handle_timeout_termination:
        buffer.timeouts[newest, goes_on] = 1
