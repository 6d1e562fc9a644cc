"""Peers in environments of their own, and the processes that answer from there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from workload import Case, Latent, Update

HERE = Path(__file__).resolve().parent
# The same torch on all sides.
TORCH = f"torch=={torch.__version__.partition('+')[0]}"


@dataclass(frozen=True)
class Library:
    """A peer and how it comes into an environment of its own.

    Attributes:
        name: of its side.
        package: the pinned requirement.
        installs: arguments of pip, call by call.
        script: what answers, in this folder.
        serves: which cases it has.
        environment: variables of its process for a number of threads.
    """

    name: str
    package: str
    installs: tuple[tuple[str, ...], ...]
    script: str
    serves: Callable[[Case], bool]
    environment: Callable[[int], dict[str, str]]

    def install(self) -> Path:
        """Make the environment unless it is there already; return its Python."""
        folder = HERE / f".venv-{self.name.lower()}"
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        stamp, wanted = folder / ".installed", "\n".join(argument for call in self.installs for argument in call)
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"installing {self.package} into {folder.name}", file=sys.stderr)
            venv.create(folder, clear=True, with_pip=True)
            for arguments in self.installs:
                subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)
            stamp.write_text(wanted)
        return python


# mbrl-lib pins hydra-core 1.0.3, which Python 3.11 can't import, and asks for Jupyter; it gets the newer hydra-core
# (used once, to build the activation) and what its models import.
MBRL_LIB = Library(
    "mbrl-lib",
    "mbrl==0.2.0",
    (
        (TORCH,),
        ("numpy", "gymnasium==0.26.3", "hydra-core>=1.3,<2", "termcolor", "tqdm"),
        ("--no-deps", "mbrl==0.2.0"),
    ),
    "peer_mbrl_lib.py",
    lambda case: not isinstance(case, Latent),
    lambda threads: {"OMP_NUM_THREADS": str(threads)},
)


def _jax(threads: int) -> dict[str, str]:
    """Keep XLA to a number of threads; the sampling of batches is numpy's and torch's."""
    multi_thread = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    return {"OMP_NUM_THREADS": str(threads), "NPROC": str(threads), "XLA_FLAGS": multi_thread, "JAX_PLATFORMS": "cpu"}


SBX = Library(
    "SBX",
    "sbx-rl==0.28.0",
    ((TORCH,), ("sbx-rl==0.28.0",)),
    "peer_sbx.py",
    lambda case: isinstance(case, Update),
    _jax,
)


# An independent Dreamer V3 in torch.
SHEEPRL = Library(
    "sheeprl",
    "sheeprl==0.8.4",
    ((TORCH,), (TORCH, "sheeprl==0.8.4")),
    "peer_sheeprl.py",
    lambda case: isinstance(case, Latent) and case.what == "dreamer" and case.starts is None,
    lambda threads: {"OMP_NUM_THREADS": str(threads)},
)


class Peer:
    """A process that holds a library's models and times a case when told to."""

    def __init__(self, library: Library, threads: int) -> None:
        self._library = library
        self._process = subprocess.Popen(
            [library.install(), HERE / library.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **library.environment(threads)},
        )

    def serves(self, case: Case) -> bool:
        """Tell whether the library has a case."""
        return self._library.serves(case)

    def measure(self, case: Case) -> float:
        """Return seconds per call of a case."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(case.name, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            raise RuntimeError(f"the process of {self._library.package} ended in the case {case.name!r} (code {code})")
        return float(answer)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.communicate()
