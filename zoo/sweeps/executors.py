"""Where the jobs of a sweep are run: a small interface, and the executor for this machine.

Nothing heavy is imported here, so that a new process handles signals before it loads its libraries.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mbrl_wrappers.zoo.sweeps.lock import FolderLock
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed, TrainingProcess, stop_all

if TYPE_CHECKING:
    from mbrl_wrappers.zoo.training.job import JobSpec

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        spec: the job.
        was_run: whether this executor ran the job; False if it was finished before, such as by another sweep.
        error: the failure's message or traceback; None for a finished job.
    """

    spec: JobSpec
    was_run: bool
    error: str | None = None


class Executor(Protocol):
    """Runs jobs."""

    def run(self, specs: Sequence[JobSpec], root: Path) -> Generator[Outcome, None, None]:
        """Run jobs to their ends.

        Args:
            specs: different jobs.
            root: the folder with a subfolder for each job, named by its digest.

        Yields:
            One outcome for each job, in the order in which they end. Closing the generator early stops all jobs.
        """
        ...


class LocalExecutor:
    """Runs each job in a process of its own on this machine, on one thread.

    Args:
        max_workers: jobs at a time; default: the number of cores.

    Raises:
        ValueError: if ``max_workers`` is less than 1.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, got {max_workers}")
        self._max_workers = max_workers or os.cpu_count() or 1

    def run(self, specs: Sequence[JobSpec], root: Path) -> Generator[Outcome, None, None]:
        """See :meth:`Executor.run`; waits for jobs that another sweep is running."""
        from mbrl_wrappers.zoo.training.run import is_finished

        waiting, running = deque(specs), list[_Running]()
        try:
            while waiting or running:
                for _ in range(len(waiting)):
                    if len(running) == self._max_workers:
                        break
                    spec = waiting.popleft()
                    folder = root / spec.digest()
                    lock = FolderLock.take_if_free(folder)
                    if lock is None:
                        waiting.append(spec)
                        continue
                    with closing(lock):
                        if is_finished(folder):
                            yield Outcome(spec, was_run=False)
                        else:
                            running.append(_Running(spec, TrainingProcess(spec.digest(), spec, folder, lock=lock)))
                time.sleep(POLL_SECONDS)
                for job in list(running):
                    outcome = job.outcome()
                    if outcome is not None:
                        running.remove(job)
                        job.process.stop()
                        yield outcome
        finally:
            stop_all([job.process for job in running])


@dataclass(frozen=True)
class _Running:
    """A job in its process."""

    spec: JobSpec
    process: TrainingProcess

    def outcome(self) -> Outcome | None:
        """Return how the job ended, None while it goes on."""
        try:
            return None if self.process.is_running() else Outcome(self.spec, was_run=True)
        except (TrainingFailed, ValueError) as error:
            return Outcome(self.spec, was_run=True, error=str(error))
