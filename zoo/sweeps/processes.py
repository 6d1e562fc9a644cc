"""Training runs in processes of their own, so that several take the time of one.

Nothing heavy is imported here, so that a new process handles signals before it loads its libraries.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mbrl_wrappers.workers import end_with_parent

if TYPE_CHECKING:
    from mbrl_wrappers.zoo.sweeps.lock import FolderLock
    from mbrl_wrappers.zoo.training.job import JobSpec

STOP_SECONDS = 20.0


class TrainingFailed(RuntimeError):
    """A run ended in an error that is not the user's mistake; the message holds its traceback."""


class TrainingProcess:
    """One run (:func:`mbrl_wrappers.zoo.training.run.run`) that has been started in a process of its own.

    It computes on one thread, so that two runs on two cores do not slow each other down and numbers do
    not depend on the number of cores.

    Args:
        label: the run's name on the screen.
        spec: the job.
        folder: where to write.
        track: see :func:`~mbrl_wrappers.zoo.training.run.run`.
        with_optimizer: see :func:`~mbrl_wrappers.zoo.training.run.run`.
        keep_checkpoint: see :func:`~mbrl_wrappers.zoo.training.run.run`.
        executor: where the agent's workers live, "local" or "ray".
        address: of the Ray cluster.
        lock: of the folder; the process holds it until it ends, even if its parent is killed.
    """

    def __init__(
        self,
        label: str,
        spec: JobSpec,
        folder: Path,
        *,
        track: str | None = None,
        with_optimizer: bool = False,
        keep_checkpoint: bool = False,
        executor: str = "local",
        address: str | None = None,
        lock: FolderLock | None = None,
    ) -> None:
        self.label = label
        self.folder = folder
        self.total_steps = spec.steps
        options = {
            "track": track,
            "with_optimizer": with_optimizer,
            "keep_checkpoint": keep_checkpoint,
            "executor": executor,
            "address": address,
        }
        context = multiprocessing.get_context("spawn")
        self._state = context.Array("d", [0.0, 0.0, math.nan, math.nan], lock=False)
        self._errors, errors = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_train, args=(spec.to_json(), str(folder), options, self._state, errors, lock), daemon=True
        )
        self._process.start()
        errors.close()

    @property
    def steps(self) -> int:
        """Env steps done."""
        return int(self._state[0])

    @property
    def last_evaluation(self) -> tuple[int, float]:
        """Env steps before the last evaluation, and its mean return; NaN before the first one."""
        return int(self._state[1]), self._state[2]

    @property
    def model_error(self) -> float:
        """Hold-out error of the last fit, NaN before the first one."""
        return self._state[3]

    def is_running(self) -> bool:
        """Tell whether the run goes on.

        Raises:
            ValueError: if it ended in a user's mistake.
            TrainingFailed: if it ended in any other error.
        """
        is_alive = self._process.is_alive()
        if self._errors.poll():  # even if alive: it blocks until a message longer than the pipe's buffer is read
            self._raise_what_was_sent()
        if is_alive:
            return True
        self._process.join()
        if self._process.exitcode:
            raise TrainingFailed(f"the run in {self.folder} died with exit code {self._process.exitcode}")
        return False

    def _raise_what_was_sent(self) -> None:
        try:
            is_users_mistake, message = self._errors.recv()
        except (EOFError, OSError):  # the process ended without a message, or was killed while sending one
            return
        raise ValueError(message) if is_users_mistake else TrainingFailed(f"the run in {self.folder} failed\n{message}")

    def request_stop(self) -> None:
        """Ask the process to end after a checkpoint, without waiting for it, so that several can be asked at once."""
        self._process.terminate()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Wait until the process, which has been asked to stop, has written its checkpoint; then kill it."""
        self._process.join(max(seconds, 0.0))
        self._process.kill()
        self._process.join()


def stop_all(processes: Sequence[TrainingProcess]) -> None:
    """Have all processes write their checkpoints and exit; kill those that take longer than ``STOP_SECONDS``."""
    for process in processes:
        process.request_stop()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        process.stop(deadline - time.monotonic())


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Have SIGTERM, by which clusters end jobs, unwind as Ctrl-C does, and end in the exit code 143.

    A handler that the user has set stays in place.
    """
    if not _is_free(signal.SIGTERM):
        yield
        return
    try:
        signal.signal(signal.SIGTERM, _exit_once)
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_free(signal_number: int) -> bool:
    """Tell whether this thread may set a handler for the signal, and none is set."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal_number) is signal.SIG_DFL


def _exit_once(signal_number: int, frame: FrameType | None) -> None:
    signal.signal(signal_number, signal.SIG_IGN)  # a second one must not break off the checkpoints
    sys.exit(128 + signal_number)


def _train(
    job: str,
    folder: str,
    options: dict[str, Any],
    state: MutableSequence[float],
    errors: Connection,
    lock: FolderLock | None,
) -> None:
    """Run the job in the new process, which holds the lock while it lives; send errors instead of printing them."""
    multiprocessing.current_process().daemon = False  # towards its parent it is one; but one may have no workers
    stop = StopRequest()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        _run(job, Path(folder), options, state, stop)
    except Exception as error:
        is_users_mistake = isinstance(error, ValueError) and _is_ours(error)
        errors.send((is_users_mistake, str(error) if is_users_mistake else traceback.format_exc()))
        sys.exit(1)


class StopRequest:
    """Handles a signal: asks the current run to stop at the end of its episode; without a run, the process exits.

    A second signal changes nothing: a cluster may signal a process directly and through its parent.
    """

    def __init__(self) -> None:
        self.is_running = False
        self.was_made = False

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        if not self.is_running:
            sys.exit(128 + signal_number)
        self.was_made = True

    def is_wanted(self) -> bool:
        """Tell a run whether to stop; its first call marks the start of the run."""
        self.is_running = True
        return self.was_made


@contextmanager
def sigterm_requests_stop() -> Iterator[StopRequest]:
    """Have SIGTERM stop a run in this process after a checkpoint; a handler that the user has set stays in place."""
    stop = StopRequest()
    if not _is_free(signal.SIGTERM):
        yield stop
        return
    try:
        signal.signal(signal.SIGTERM, stop)
        yield stop
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_ours(error: Exception) -> bool:
    """Tell whether this library raised the error itself, which means that it is about the user's input."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("mbrl_wrappers.")


def _run(job: str, folder: Path, options: dict[str, Any], state: MutableSequence[float], stop: StopRequest) -> None:
    executor, address = options.pop("executor"), options.pop("address")
    import torch
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    from mbrl_wrappers.zoo.training.job import JobSpec
    from mbrl_wrappers.zoo.training.progress import Evaluation
    from mbrl_wrappers.zoo.training.run import Stopped, run

    torch.set_num_threads(1)

    def on_step(agent: OffPolicyAlgorithm) -> None:
        state[0] = agent.num_timesteps
        state[3] = agent.logger.name_to_value.get("dynamics/holdout_error", state[3])

    def on_evaluation(row: Evaluation) -> None:
        state[1], state[2] = row.steps, row.return_mean

    if executor == "ray":
        from mbrl_wrappers.zoo.sweeps.ray_cluster import RayWorkers

        options["executor"] = RayWorkers(address)
    try:
        spec = JobSpec.from_json(job)
        _, rows = run(
            spec,
            folder,
            on_evaluation=on_evaluation,
            on_step=on_step,
            should_stop=stop.is_wanted,
            **options,
        )
    except Stopped:
        sys.exit(128 + signal.SIGTERM)
    state[0] = rows[-1].steps
    on_evaluation(rows[-1])
