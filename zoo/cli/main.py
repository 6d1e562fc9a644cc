"""The command ``mbrl-zoo``."""

from __future__ import annotations

import os
import select
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

import mbrl_wrappers
from mbrl_wrappers.zoo.cli.commands import COMMANDS, FAILED, say
from mbrl_wrappers.zoo.sweeps.processes import TrainingFailed

USERS_MISTAKE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mbrl-zoo``.

    Args:
        arguments: the command line without the program's name; default: ``sys.argv``.

    Returns:
        The exit code: 0, also where a person has ended ``play`` or ``dream`` by Ctrl-D; 1 if a run failed, ``verify``
        found a difference or ``doctor`` a fault, or if the reader of the output, such as ``head``, left before the end;
        2 for a user's mistake; 130 after Ctrl-C.

    Raises:
        SystemExit: with the code 143 after SIGTERM, once running jobs have written their checkpoints.
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    finally:
        if _reader_has_left():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its own flush


def _reader_has_left() -> bool:
    """Write what waits to be written; tell whether nobody reads it any more."""
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except BrokenPipeError:
        return True
    except (AttributeError, OSError, ValueError):  # no poll on this system, or no file behind the stream
        return False


def _run(given: Sequence[str]) -> int:
    """Run a command line; see :func:`main`."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        # For the user's own envs. Last, so that a file in a downloaded folder can't replace an installed package.
        sys.path.append(str(Path.cwd()))
    try:
        if list(given) == ["--version"]:
            print(f"mbrl-wrappers {mbrl_wrappers.__version__}")
            return 0
        _refuse_repeated(given)
        if agent := _agent_to_help_with(given):
            from mbrl_wrappers.zoo.cli.settings import settings_text

            print(settings_text(agent))
            return 0
        command: Any = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="mbrl-zoo",
            description="Train, keep and check model-based agents. (--version: of the library.)\n\n"
            "The shell completes words after: mbrl-zoo --tyro-write-completion bash FILE",
            args=given,
        )
        return command.run()
    except (OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            return FAILED
        say(f"error: {error}")
        return USERS_MISTAKE
    except TrainingFailed as error:
        print(f"mbrl-zoo: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _agent_to_help_with(given: Sequence[str]) -> str | None:
    """Return AGENT of ``train --help AGENT``, whose settings are to be listed; else None."""
    asks = len(given) == 3 and given[0] == "train" and given[1] in ("-h", "--help")
    return given[2] if asks and not given[2].startswith("-") else None


def _refuse_repeated(given: Sequence[str]) -> None:
    """Refuse an option that is given twice, of which the parser would silently ignore the first."""
    options = Counter(word.partition("=")[0] for word in given if word.startswith("--"))
    for option, number in options.items():
        if number > 1:
            raise ValueError(f"{option} must be given once, with all its values after it, got it {number} times")
