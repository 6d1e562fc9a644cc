"""Loops over arrays that numba compiles where it is installed, and the same numbers from NumPy where it is not."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

numba: Any
try:
    numba = importlib.import_module("numba")
except ImportError:
    numba = None

Function = TypeVar("Function", bound=Callable[..., Any])

# Whether kernels run compiled. Read at every call, so that a test may set it to False and compare the two paths.
use_numba = numba is not None


def kernel(vectorised: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorate loops over arrays that have a twin in NumPy.

    Args:
        vectorised: takes the same arguments and computes the same numbers; it runs where numba is missing, or
            :data:`use_numba` is False.
    """

    def decorate(loops: Function) -> Function:
        fast = compiled(loops)

        @functools.wraps(loops)
        def run(*arguments: Any) -> Any:
            return (fast if use_numba else vectorised)(*arguments)

        return run  # type: ignore[return-value]

    return decorate


def compiled(function: Function) -> Function:
    """Compile a function of numbers and arrays; without numba it stays the slow Python that it is."""
    if numba is None:
        return function
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no folder can be written to: compiled anew in every process
        return numba.njit(function)


def inlined(function: Function) -> Function:
    """Let compiled functions call this one, which stays plain Python for everybody else."""
    return function if numba is None else numba.extending.register_jitable(function)
