"""Objects in processes of their own, whose methods are called from here: on this machine, or where an executor can.

Nothing heavy is imported here, so that a new process handles signals before it loads its libraries.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

WATCH_SECONDS = 1.0


class WorkerDied(RuntimeError):
    """A worker has ended without an answer, such as by a signal or for want of memory; the message says how."""


class WorkerFailed(RuntimeError):
    """A worker's object has raised an error; the message is its traceback."""


class Worker(Protocol):
    """An object elsewhere. It answers calls in their order."""

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of the object, without waiting for the answer."""

    def is_ready(self) -> bool:
        """Tell whether the object has been made; also True if the worker has ended, as its next answer will tell."""

    def answer(self) -> Any:
        """Wait for the answer to the oldest call that has none yet.

        Raises:
            WorkerDied: if the worker has ended.
            WorkerFailed: if the object, or its constructor, has raised an error.
        """

    def stop(self) -> None:
        """End the worker at once."""


class WorkerExecutor(Protocol):
    """Starts workers, between :meth:`open` and :meth:`close`."""

    def open(self, num_workers: int) -> None:
        """Prepare for a number of workers.

        Raises:
            ValueError: if there is no room for so many.
        """

    def start_worker(self, make: Callable[..., Any], *arguments: Any) -> Worker:
        """Start a worker, whose object is ``make(*arguments)``."""

    def share(self, value: Any) -> Any:
        """Return what stands for a value in calls of many workers, whose methods get the value itself."""

    def close(self) -> None:
        """End what :meth:`open` began."""


class LocalWorkers:
    """Starts each worker in a process of its own on this machine, which ends with this one."""

    def open(self, num_workers: int) -> None:
        """See :class:`WorkerExecutor`."""

    def start_worker(self, make: Callable[..., Any], *arguments: Any) -> Worker:
        """See :class:`WorkerExecutor`."""
        return _LocalWorker(make, arguments)

    def share(self, value: Any) -> Any:
        """See :class:`WorkerExecutor`."""
        return value

    def close(self) -> None:
        """See :class:`WorkerExecutor`."""


class _LocalWorker:
    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(pickle.dumps((make, arguments)), theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends with the process
        self._is_made = False

    def call(self, method: str, *arguments: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # has died: the answer tells
            self._connection.send((method, arguments))

    def is_ready(self) -> bool:
        return self._is_made or self._connection.poll()

    def answer(self) -> Any:
        if not self._is_made:
            self._receive()
            self._is_made = True
        return self._receive()

    def _receive(self) -> Any:
        try:
            is_good, content = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerDied(f"process {self._process.pid} ended by {_cause(self._process.exitcode)}") from None
        if not is_good:
            raise WorkerFailed(content)
        return content

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    hint = ", as by a kernel that has run out of memory" if -exit_code == signal.SIGKILL else ""
    return f"signal {-exit_code} ({signal.strsignal(-exit_code)}){hint}"


def _serve(pickled: bytes, connection: Connection) -> None:
    """Make the object in the new process, and answer calls until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=end_with_parent, daemon=True).start()
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, calls), daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):  # the parent no longer wants an answer
        try:
            make, arguments = pickle.loads(pickled)
            made, answer = make(*arguments), None
            while True:
                connection.send((True, answer))
                call = calls.get()
                if call is None:
                    return
                method, arguments = call
                answer = getattr(made, method)(*arguments)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception:
            connection.send((False, traceback.format_exc()))


def _listen(connection: Connection, calls: queue.SimpleQueue[Any]) -> None:
    """Take calls off the pipe as they come: with both ends waiting to send, neither would ever read."""
    with suppress(EOFError, OSError):
        while True:
            calls.put(connection.recv())
    calls.put(None)


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, since nobody else would stop it; runs in a thread."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    # The sentinel stays open if the parent forked another process that still runs, so the parent's id is checked too.
    while not wait([parent.sentinel], WATCH_SECONDS) and os.getppid() == parent.pid:
        pass
    os._exit(1)
