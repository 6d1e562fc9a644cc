"""Objects in processes of their own: the order of answers, errors, and deaths."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from mbrl_wrappers.workers import LocalWorkers, Worker, WorkerDied, WorkerFailed


@contextmanager
def started(*made_of: Any) -> Iterator[Worker]:
    with closing(LocalWorkers()) as executor:
        executor.open(1)
        worker = executor.start_worker(*made_of)
        try:
            yield worker
        finally:
            worker.stop()


def test_an_object_keeps_its_state_and_answers_in_order() -> None:
    with started(list, "ab") as worker:
        large = bytes(3_000_000)  # more than fits into a pipe, both ways, before anybody reads
        for value in (large, 1, large):
            worker.call("append", value)
            worker.call("copy")
        answers = [worker.answer() for _ in range(6)]
    assert answers[::2] == [None] * 3
    assert answers[1::2] == [["a", "b", large], ["a", "b", large, 1], ["a", "b", large, 1, large]]


def test_errors_come_back_as_text() -> None:
    with started(list, "ab") as worker:
        worker.call("count", "a")
        worker.call("index", "missing")
        worker.call("copy")
        assert worker.answer() == 1
        with pytest.raises(WorkerFailed, match=r"(?s)Traceback.*ValueError: .* not in list"):
            worker.answer()
        with pytest.raises(WorkerDied, match=r"process \d+ ended by exit code 0"):
            worker.answer()
    with started(int, "x") as worker:
        worker.call("bit_length")
        with pytest.raises(WorkerFailed, match="invalid literal for int"):
            worker.answer()


def test_answers_from_before_a_death_are_kept() -> None:
    with started(list, "ab") as worker:
        worker.call("copy")
        assert worker.answer() == ["a", "b"]
        assert worker.is_ready()
        worker.call("copy")
        pid, connection = worker._process.pid, worker._connection  # type: ignore[attr-defined]
        assert connection.poll(60)  # the second answer has come, and stays in the pipe
        os.kill(pid, signal.SIGKILL)
        worker.call("copy")
        assert worker.answer() == ["a", "b"]
        with pytest.raises(WorkerDied, match=rf"process {pid} ended by signal 9 \(Killed\), as by a kernel"):
            worker.answer()
        assert worker.is_ready()
        worker.call("copy")  # nobody is there: no error but the answer's
        with pytest.raises(WorkerDied):
            worker.answer()
