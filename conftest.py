"""What holds for every test: no display, and one thread for each test process.

Both are read when the libraries are first imported, so they are set here, before any test file is.
"""

import functools
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="module")
def brief_diagnosis() -> Iterator[None]:
    """Have runs measure their models on few steps, where a test is about something else."""
    from mbrl_wrappers.zoo.training import run  # not before the environment is set

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "diagnose", functools.partial(run.diagnose, steps=100))
        yield
