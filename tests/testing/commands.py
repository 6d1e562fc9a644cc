"""What a command that was printed would do."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from mbrl_wrappers.zoo import comparison
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.training.job import JobSpec


class _Parsed(Exception):
    """The command has come to the point where it would train."""


def parser_of_commands(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], JobSpec]:
    """Return a function that runs a command of ``mbrl-zoo train`` up to the training, and returns the job."""

    def stop(spec: JobSpec, *_: object, **__: object) -> None:
        raise _Parsed(spec)

    monkeypatch.setattr(comparison, "_train_all", stop)

    def job_of(command: str) -> JobSpec:
        program, *words = shlex.split(command)
        assert program == "mbrl-zoo"
        with pytest.raises(_Parsed) as parsed:
            main(words)
        (spec,) = parsed.value.args
        return spec

    return job_of
