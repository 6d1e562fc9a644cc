"""Jobs as tasks of Ray, and workers as its actors, on one machine or many.

The only file that imports ``ray``, and that where it is needed.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from mbrl_wrappers.files import remove_abandoned, temporary_beside, write_atomically
from mbrl_wrappers.workers import Worker, WorkerDied, WorkerFailed
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.folder import JOB
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, read_bytes
from mbrl_wrappers.zoo.storage.manifest import MANIFEST, check_bytes, parse_manifest, read_file, read_manifest
from mbrl_wrappers.zoo.sweeps.executors import FolderLock, Outcome
from mbrl_wrappers.zoo.sweeps.sweep import run_job
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.run import is_finished

AUTH_MODE = "RAY_AUTH_MODE"
MAX_RETRIES = 3


class RayExecutor:
    """Runs each job as a Ray task of one CPU, on one thread.

    The nodes need no shared file system: a task trains in a temporary folder of its node and returns the finished
    agent's files, which are checked against their manifest here. A job whose worker or node dies is started again from
    the beginning, because its checkpoints are lost, at most ``MAX_RETRIES`` times. Every node needs the same versions
    of this library and of the environments.

    It also starts workers (:class:`~mbrl_wrappers.workers.WorkerExecutor`), such as those of self-play: set it as
    ``executor`` of an agent with ``workers``. Each is an actor of one CPU; what they share goes through Ray's object
    store, once to a node.

    Args:
        address: of a cluster, such as ``"10.0.0.1:6379"`` or ``"auto"``. By default, Ray is started on this machine
            for this executor alone.
        max_workers: jobs at a time; default: the number of CPUs of the cluster, or of this machine.

    Raises:
        ValueError: if ``max_workers`` is less than 1.
        ZooError: if Ray is not installed, or the cluster does not use tokens.
    """

    def __init__(self, address: str | None = None, max_workers: int | None = None) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, got {max_workers}")
        if address is None:
            os.environ.setdefault(AUTH_MODE, "token")  # Ray listens on the network; it makes a token if none exists
        elif os.environ.get(AUTH_MODE) != "token":
            raise ZooError(_without_token("here", address, os.environ.get(AUTH_MODE)))
        self._ray = _import_ray()
        self._address = address
        self._max_workers = max_workers

    def run(self, specs: Sequence[JobSpec], root: Path) -> Generator[Outcome, None, None]:
        """See :meth:`~mbrl_wrappers.zoo.sweeps.executors.Executor.run`."""
        if not specs:
            return
        ray = self._ray
        try:
            self._connect()
            task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_train)
            has_gpu = ray.cluster_resources().get("GPU", 0) > 0
            waiting, running = deque[JobSpec](), dict[Any, JobSpec]()
            for spec in specs:
                if spec.device.startswith("cuda") and not has_gpu:  # Ray would wait for a GPU for ever
                    error = f"device must be one that the Ray cluster has, got {spec.device!r}: it has no GPU"
                    yield Outcome(spec, was_run=False, error=error)
                else:
                    waiting.append(spec)
            while waiting or running:
                while waiting and (self._max_workers is None or len(running) < self._max_workers):
                    spec = waiting.popleft()
                    gpus = 1 if spec.device.startswith("cuda") else 0
                    running[task.options(num_gpus=gpus).remote(spec.to_json())] = spec
                (ended,), _ = ray.wait(list(running))
                yield _collect(ray, ended, running.pop(ended), root)
        finally:
            ray.shutdown()  # ends the running tasks

    def open(self, num_workers: int) -> None:
        """See :class:`~mbrl_wrappers.workers.WorkerExecutor`."""
        self._connect()
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if num_workers > cpus:  # Ray would wait for more
            raise ValueError(f"workers must be at most {cpus}, the CPUs of the Ray cluster, got {num_workers}")

    def start_worker(self, make: Callable[..., Any], *arguments: Any) -> Worker:
        """See :class:`~mbrl_wrappers.workers.WorkerExecutor`."""
        return _RayWorker(self._ray, make, arguments)

    def share(self, value: Any) -> Any:
        """See :class:`~mbrl_wrappers.workers.WorkerExecutor`."""
        return self._ray.put(value)

    def close(self) -> None:
        """See :class:`~mbrl_wrappers.workers.WorkerExecutor`."""
        self._ray.shutdown()

    def _connect(self) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._initialise()
        finally:
            if threading.current_thread() is threading.main_thread() and handler is not None:
                signal.signal(
                    signal.SIGTERM, handler
                )  # Ray puts its own in place, which would exit without a checkpoint

    def _initialise(self) -> None:
        ray = self._ray
        quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
        if self._address is None:
            ray.init("local", num_cpus=self._max_workers, include_dashboard=False, **quiet)
            return
        try:
            ray.init(self._address, **quiet)
        except (ConnectionError, ValueError, ray.exceptions.AuthenticationError) as error:
            problem = f"address must be a Ray cluster that takes our token, got {self._address!r}: {error}"
            raise ZooError(problem) from error
        mode = ray.get(ray.remote(num_cpus=0)(os.getenv).remote(AUTH_MODE))
        if mode != "token":  # the cluster accepts any client, with or without a token
            raise ZooError(_without_token("on its nodes", self._address, mode))


class _Actor:
    """A worker's object, made by a call, since Ray tells errors of calls better than those of constructors."""

    def make(self, pickled: bytes) -> None:
        make, arguments = pickle.loads(pickled)
        self._made = make(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._made, method)(*arguments)


class _RayWorker:
    def __init__(self, ray: ModuleType, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._ray = ray
        self._actor = ray.remote(num_cpus=1)(_Actor).remote()
        self._made = self._actor.make.remote(pickle.dumps((make, arguments)))  # objects of Ray's store are read-only
        self._answers = deque[Any]()

    def call(self, method: str, *arguments: Any) -> None:
        self._answers.append(self._actor.call.remote(method, *arguments))

    def is_ready(self) -> bool:
        ended, _ = self._ray.wait([self._made], timeout=0)
        return bool(ended)

    def answer(self) -> Any:
        errors = self._ray.exceptions
        try:
            self._ray.get(self._made)
            return self._ray.get(self._answers.popleft())
        except errors.RayTaskError as error:
            raise WorkerFailed(str(error)) from None
        except errors.RayError as error:
            raise WorkerDied(str(error)) from None

    def stop(self) -> None:
        self._ray.kill(self._actor)


def _without_token(where: str, address: str, mode: str | None) -> str:
    return (
        f"{AUTH_MODE} must be 'token' {where} for the Ray cluster at {address}, got {mode!r}: without a token, whoever "
        "reaches a cluster can run code on it. Set it on every node and here, with the same RAY_AUTH_TOKEN"
    )


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ZooError("the ray executor needs Ray: pip install 'mbrl-wrappers[ray]'") from error
    return ray


def _train(job: str) -> dict[str, bytes]:
    """Run a job on a worker, and return its folder's files by name."""
    import torch

    torch.set_num_threads(1)
    temporary = Path(tempfile.gettempdir())
    remove_abandoned(temporary)  # folders of workers that were killed
    root = temporary_beside(temporary / "mbrl-zoo")
    root.mkdir(mode=0o700)
    try:
        folder = run_job(JobSpec.from_json(job), root).folder
        records = read_manifest(folder)
        files = {name: read_file(folder, name, records) for name in records}
        return {**files, MANIFEST: read_bytes(folder / MANIFEST, MAX_JSON_BYTES)}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _collect(ray: ModuleType, reference: Any, spec: JobSpec, root: Path) -> Outcome:
    """Store a task's result, unless another sweep has stored one before."""
    try:
        files = ray.get(reference)
        return Outcome(spec, was_run=_store(files, spec, root / spec.digest()))
    except (ray.exceptions.RayError, ZooError) as error:
        return Outcome(spec, was_run=True, error=str(error))


def _store(files: Mapping[str, bytes], spec: JobSpec, folder: Path) -> bool:
    """Write a job's files, the manifest last; return False if the job was stored before.

    Raises:
        ZooError: for files that don't match their manifest, or belong to another job.
    """
    records = parse_manifest(files[MANIFEST], f"{MANIFEST} of job {spec.digest()}")
    for name, record in records.items():
        check_bytes(files.get(name, b""), record, f"{name} of job {spec.digest()}")
    if files.get(JOB) != spec.to_json().encode():
        raise ZooError(f"{JOB} must be that of job {spec.digest()}, got {files.get(JOB)!r}")
    with closing(FolderLock.take(folder)):
        if is_finished(folder):
            return False
        for name in (*records, MANIFEST):
            write_atomically(folder / name, files[name])
        return True
