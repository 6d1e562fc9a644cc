"""Work on a GPU in one launch: functions that are captured once, as CUDA graphs, and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_map_only

_WARM_UPS = 2  # the first call creates library handles and chooses kernels
_failures = 0  # captures that failed; see _generator_kept


def objection_to_capture(device: torch.device) -> str | None:
    """Return the reason why a device can't capture CUDA graphs, or None."""
    if device.type != "cuda":
        return f"the device is {device}, not a GPU"
    if device.index not in (None, torch.cuda.current_device()):
        return f"the GPU is {device}, not the current one, {torch.cuda.current_device()}; see torch.cuda.set_device"
    return None


@dataclass(frozen=True)
class _Graph:
    """A captured call, with the tensors that it reads its inputs from and leaves its outputs in."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: Any

    def replay(self, inputs: list[Tensor]) -> Any:
        if inputs:
            torch._foreach_copy_(self.inputs, inputs)
        self.graph.replay()
        return tree_map_only(Tensor, Tensor.clone, self.outputs)


class GraphCapture:
    """Calls functions of tensors on one GPU by replaying CUDA graphs, captured at the first call.

    A GPU computes an update of small networks faster than the CPU can launch its kernels one by one; a graph is one
    launch. The results equal those of the function itself, up to the choice of kernels; random numbers still come from
    torch's global generators.

    Distributions don't check their parameters in a capture or a replay: NaN goes unnoticed.

    Args:
        device: the current GPU.

    Raises:
        ValueError: for another device.

    Example:
        >>> update = GraphCapture(torch.device("cuda")).captured(train_on, [weights])  # doctest: +SKIP
        >>> update(batch)  # doctest: +SKIP
    """

    def __init__(self, device: torch.device) -> None:
        if objection := objection_to_capture(device):
            raise ValueError(f"device must be the current GPU, got {device}: {objection}")
        self._device = device
        self._graphs: dict[Hashable, _Graph] = {}
        self._tried: set[Hashable] = set()
        self._place: Hashable = None

    def __reduce__(self) -> Any:
        """Copies and unpickled objects capture anew."""
        return type(self), (self._device,)

    def captured(self, function: Callable[..., Any], works_on: Sequence[Tensor]) -> Callable[..., Any]:
        """Return a function with the same results, faster from the second call on.

        The function's arguments are tensors and constants, in nested tuples, lists and dicts. Each combination of
        shapes and constants has a graph of its own.

        Args:
            function: may change ``works_on`` in place, but nothing else that outlasts the call except gradients. It
                must never wait for the GPU. Pass the same function at each call, until :meth:`forget`; other tensors
                that it reads must stay at their addresses.
            works_on: the tensors that the function changes. Their addresses are part of a graph: where one has moved,
                everything is captured anew.
        """
        place = (_failures, *(tensor.data_ptr() for tensor in works_on))
        if place != self._place:
            self.forget()
            self._place = place
        return partial(self._call, function, works_on)

    def forget(self) -> None:
        """Capture anew from the next call on, since the function or a tensor that it reads has changed."""
        self._graphs.clear()

    def _call(self, function: Callable[..., Any], works_on: Sequence[Tensor], *inputs: Any) -> Any:
        tensors: list[Tensor] = []
        key = _take_apart(inputs, tensors)
        if key not in self._graphs:
            held = tree_map_only(Tensor, Tensor.clone, inputs)
            if key not in self._tried:
                self._try(function, works_on, held)
                self._tried.add(key)
            self._graphs[key] = self._capture(function, held)
        return self._graphs[key].replay(tensors)

    def _try(self, function: Callable[..., Any], works_on: Sequence[Tensor], held: tuple[Any, ...]) -> None:
        """Warm a function up before its capture: call it, so that handles and kernels exist, and undo its effects."""
        stream = torch.cuda.Stream(self._device)
        with _without_checks(), _restored(works_on, self._device):
            stream.wait_stream(torch.cuda.current_stream(self._device))
            try:
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UPS):
                        function(*held)
            finally:
                torch.cuda.current_stream(self._device).wait_stream(stream)

    def _capture(self, function: Callable[..., Any], held: tuple[Any, ...]) -> _Graph:
        graph = torch.cuda.CUDAGraph()
        with _without_checks(), _generator_kept(self._device), torch.cuda.graph(graph):
            outputs = tree_map_only(Tensor, Tensor.detach, function(*held))
        tensors: list[Tensor] = []
        _take_apart(held, tensors)
        return _Graph(graph, tensors, outputs)


def _take_apart(value: Any, tensors: list[Tensor]) -> Hashable:
    """Append the tensors of a nested value to ``tensors``; return its structure, shapes, dtypes and constants."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.dtype
    if isinstance(value, dict):
        return tuple((key, _take_apart(part, tensors)) for key, part in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(_take_apart(part, tensors) for part in value)
    return value


@contextmanager
def _restored(tensors: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Restore tensors and the GPU's random state when the context ends."""
    before = [tensor.detach().clone() for tensor in tensors]
    random_state = torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        torch.cuda.set_rng_state(random_state, device)


@contextmanager
def _without_checks() -> Iterator[None]:
    """Switch off the checks of distributions, for which the CPU would wait, and torch's warning about streams."""
    checks = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # the warm-up uses another stream
            yield
    finally:
        Distribution.set_default_validate_args(checks)


@contextmanager
def _generator_kept(device: torch.device) -> Iterator[None]:
    """Replace the GPU's generator when a capture fails: it would stay in its capture state.

    Graphs that were captured before still refer to the old generator; ``_failures`` makes them be captured anew.
    """
    global _failures
    random_state = torch.cuda.get_rng_state(device)
    try:
        yield
    except BaseException:
        _failures += 1
        fresh = torch.Generator(device)
        fresh.set_state(random_state)
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())
        raise
