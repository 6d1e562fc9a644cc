"""mbrl-lib in an environment of its own, and the process that answers from there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from types import TracebackType

import torch
from workload import Case

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".venv-mbrl-lib"
PEER = "mbrl==0.2.0"
# The same torch on both sides. mbrl-lib pins hydra-core 1.0.3, which Python 3.11 can't import, and asks
# for Jupyter; it gets the newer hydra-core (used once, to build the activation) and what its models import.
TORCH = f"torch=={torch.__version__.partition('+')[0]}"
REQUIREMENTS = ("numpy", "gymnasium==0.26.3", "hydra-core>=1.3,<2", "termcolor", "tqdm")


def install() -> Path:
    """Make the environment unless it is there already; return its Python."""
    python = FOLDER / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp, wanted = FOLDER / ".installed", "\n".join([TORCH, *REQUIREMENTS, PEER])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {PEER} into {FOLDER.name}", file=sys.stderr)
        venv.create(FOLDER, clear=True, with_pip=True)
        for arguments in ([TORCH], REQUIREMENTS, ["--no-deps", PEER]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)
        stamp.write_text(wanted)
    return python


class Peer:
    """A process that holds mbrl-lib's models and times a case when told to."""

    def __init__(self, threads: int) -> None:
        self._process = subprocess.Popen(
            [install(), HERE / "peer_mbrl_lib.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )

    def serves(self, case: Case) -> bool:
        """Tell whether mbrl-lib has a case: it has all."""
        return True

    def measure(self, case: Case) -> float:
        """Return seconds per call of a case."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(case.name, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {PEER} ended in the case {case.name!r} (code {self._process.wait()})")
        return float(answer)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.communicate()
