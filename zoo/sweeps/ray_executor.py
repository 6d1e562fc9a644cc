"""Jobs as tasks of Ray, on one machine or many."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from mbrl_wrappers.files import remove_abandoned, temporary_beside, write_atomically
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.folder import JOB
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, read_bytes
from mbrl_wrappers.zoo.storage.manifest import MANIFEST, check_bytes, parse_manifest, read_file, read_manifest
from mbrl_wrappers.zoo.sweeps.executors import FolderLock, Outcome
from mbrl_wrappers.zoo.sweeps.ray_cluster import RayCluster
from mbrl_wrappers.zoo.sweeps.sweep import run_job
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.run import is_finished

MAX_RETRIES = 3


class RayExecutor:
    """Runs each job as a Ray task of one CPU, on one thread.

    The nodes need no shared file system: a task trains in a temporary folder of its node and returns the finished
    agent's files, which are checked against their manifest here. A job whose worker or node dies is started again from
    the beginning, because its checkpoints are lost, at most ``MAX_RETRIES`` times. Every node needs the same versions
    of this library and of the environments.

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
        self._cluster = RayCluster(address, max_workers)
        self._max_workers = max_workers

    def run(self, specs: Sequence[JobSpec], root: Path) -> Generator[Outcome, None, None]:
        """See :meth:`~mbrl_wrappers.zoo.sweeps.executors.Executor.run`."""
        if not specs:
            return
        ray = self._cluster.ray
        try:
            self._cluster.connect()
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
