"""Ray: a cluster that is joined or started here, and workers as its actors.

This file and ``ray_executor.py`` are the only ones that use ``ray``, which is imported where it is needed.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mbrl_wrappers.workers import Worker, WorkerDied, WorkerFailed
from mbrl_wrappers.zoo.errors import ZooError

AUTH_MODE = "RAY_AUTH_MODE"


class RayCluster:
    """A Ray cluster whose clients need a token.

    Args:
        address: such as ``"10.0.0.1:6379"`` or ``"auto"``. By default, Ray is started on this machine for this process
            alone.
        num_cpus: that Ray takes if it is started here; default: all.

    Attributes:
        ray: the module.

    Raises:
        ZooError: if Ray is not installed, or the cluster does not use tokens.
    """

    def __init__(self, address: str | None = None, num_cpus: int | None = None) -> None:
        if address is None:
            os.environ.setdefault(AUTH_MODE, "token")  # Ray listens on the network; it makes a token if none exists
        elif os.environ.get(AUTH_MODE) != "token":
            raise ZooError(_without_token("here", address, os.environ.get(AUTH_MODE)))
        self.ray = _import_ray()
        self._address, self._num_cpus = address, num_cpus

    def connect(self) -> None:
        """Join the cluster, or start one."""
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._initialise()
        finally:
            if threading.current_thread() is threading.main_thread() and handler is not None:
                # Ray puts its own in place, which would exit without a checkpoint.
                signal.signal(signal.SIGTERM, handler)

    def _initialise(self) -> None:
        ray = self.ray
        quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
        if self._address is None:
            ray.init("local", num_cpus=self._num_cpus, include_dashboard=False, **quiet)
            return
        try:
            ray.init(self._address, **quiet)
        except (ConnectionError, ValueError, ray.exceptions.AuthenticationError) as error:
            problem = f"address must be a Ray cluster that takes our token, got {self._address!r}: {error}"
            raise ZooError(problem) from error
        mode = ray.get(ray.remote(num_cpus=0)(os.getenv).remote(AUTH_MODE))
        if mode != "token":  # the cluster accepts any client, with or without a token
            raise ZooError(_without_token("on its nodes", self._address, mode))


class RayWorkers:
    """Starts each worker as an actor of one CPU on a Ray cluster, see :class:`~mbrl_wrappers.workers.WorkerExecutor`.

    Set it as ``executor`` of an agent with ``workers``, such as those of self-play. What they share goes through Ray's
    object store, once to a node.

    Args:
        address: of a cluster, as for :class:`RayCluster`.
        num_cpus: as for :class:`RayCluster`.

    Raises:
        ZooError: if Ray is not installed, or the cluster does not use tokens.
    """

    def __init__(self, address: str | None = None, num_cpus: int | None = None) -> None:
        self._cluster = RayCluster(address, num_cpus)
        self._ray = self._cluster.ray

    def open(self, num_workers: int) -> None:
        """See :class:`~mbrl_wrappers.workers.WorkerExecutor`."""
        self._cluster.connect()
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
