"""Networks as functions of their parameters."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def compiled(function: Any) -> Callable[..., Any]:
    """Compile a function as one graph, for the shapes that it is called with.

    Random numbers come from torch's generators, as without compiling.
    """
    # A copy of the code: the compiler allows each code object only a few variants, which all agents would share.
    own = types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__
    )
    run = torch.compile(own, fullgraph=True, dynamic=False, options={"fallback_random": True})
    is_compiled = False

    def called(*args: Any) -> Any:
        nonlocal is_compiled
        if is_compiled:
            return run(*args)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own, which would end it where warnings are errors
            result = run(*args)
        is_compiled = True
        return result

    return called


def polyak(params: Sequence[Tensor], target_params: Sequence[Tensor], tau: Tensor) -> None:
    """Move target parameters the share ``tau`` towards the parameters, in place."""
    for p, target in zip(params, target_params, strict=True):
        target.lerp_(p, tau)


def tensors_of(module: torch.nn.Module) -> list[Tensor]:
    """Return a module's parameters without gradient, in the order of ``named_parameters``."""
    return [p.detach() for p in module.parameters()]


class Functional(torch.nn.Module):
    """A module whose parameters are given at each call.

    Args:
        module: any module without running statistics; it is not changed.
        method: the name of the method to call.
    """

    def __init__(self, module: torch.nn.Module, method: str = "forward") -> None:
        super().__init__()
        self._module = module
        self._method = method
        self._names = [f"_module.{name}" for name, _ in module.named_parameters()]

    def forward(self, *args: Any) -> Any:
        """Call the method with the module's current parameters."""
        return getattr(self._module, self._method)(*args)

    def at(self, params: Sequence[Tensor], *args: Any) -> Any:
        """Call the method with other parameters, in the order of :func:`tensors_of`."""
        return torch.func.functional_call(self, dict(zip(self._names, params, strict=True)), args)
