"""Tensors of an agent's file, whose names, types and shapes are checked before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, parse_json

Tensors = dict[str, Tensor]

MAX_HEADER_BYTES = MAX_JSON_BYTES
MAX_DIMENSIONS = 16
# Entries of tensors that are not in the file, such as copies for target networks and bounds of spaces.
SPARE_ENTRIES = 1_000_000
SPARE_FACTOR = 4
# Entries that each tensor counts for at least: a description may ask for millions of empty layers.
LEAST_ENTRIES = 1000
# Tensors that may be made beyond SPARE_FACTOR times the file's number.
SPARE_TENSORS = 200

_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class TensorRecord:
    """A tensor's record in a file's header."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def read_header(data: bytes, source: object) -> dict[str, TensorRecord]:
    """Read names, types and shapes of a safetensors file's tensors; the tensors stay unread.

    Args:
        data: the file's bytes.
        source: the file, for errors.

    Raises:
        ZooError: if the header is longer than 4 MB or than the file, or its sizes don't match the file's.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ZooError(f"{source} must begin with a header of at most {MAX_HEADER_BYTES} bytes, got {size}")
    try:
        header = parse_json(data[8 : 8 + size], "header")
        records = {name: _record(entry) for name, entry in header.items() if name != "__metadata__"}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ZooError(f"{source} has a header that is not safetensors': {error!r}") from error
    described = sum(math.prod(record.shape) * record.dtype.itemsize for record in records.values())
    if described != len(data) - 8 - size:
        raise ZooError(f"{source} must hold the {described} bytes of its header's tensors, got {len(data) - 8 - size}")
    return records


def _record(entry: Mapping[str, Any]) -> TensorRecord:
    shape = entry["shape"]
    if len(shape) > MAX_DIMENSIONS or not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        raise ValueError(f"a shape must be at most {MAX_DIMENSIONS} whole numbers of 63 bits")
    return TensorRecord(_DTYPES[entry["dtype"]], tuple(shape))


def read_tensors(data: bytes, source: object) -> Tensors:
    """Read all tensors of a safetensors file.

    Raises:
        ZooError: if it is not a safetensors file, or a value is not finite.
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ZooError(f"{source} is not a safetensors file: {error}") from error
    check_finite_tensors(tensors, source)
    return tensors


def check_finite_tensors(tensors: Mapping[str, Tensor], source: object) -> None:
    """Refuse NaN and infinity.

    Raises:
        ZooError: naming the first tensor that has one.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ZooError(f"{source}: the tensor {name} must be finite")


def check_shapes(records: Mapping[str, TensorRecord], expected: Mapping[str, Tensor], source: object) -> None:
    """Compare a header with the tensors that the file's description asks for.

    Raises:
        ZooError: naming the first tensor that is missing, not asked for, or of another type or shape.
    """
    for name, tensor in expected.items():
        if name not in records:
            raise ZooError(f"{source} lacks the tensor {name}")
        wanted = TensorRecord(tensor.dtype, tuple(tensor.shape))
        if records[name] != wanted:
            found = records[name]
            raise ZooError(
                f"{source}: the tensor {name} must have shape {wanted.shape} and type {wanted.dtype}, "
                f"got {found.shape} and {found.dtype}"
            )
    unknown = records.keys() - expected.keys()
    if unknown:
        raise ZooError(f"{source} has tensors that its description does not ask for: {sorted(unknown)[:5]}")


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return tensors under names that begin with ``prefix.``."""
    return {f"{prefix}.{name}": value.detach() for name, value in tensors.items()}


def aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of tensors that are earlier ones under another name, and these names.

    SB3's policies list layers that actor and critic share several times.
    """
    first: dict[Any, str] = {}
    found = {}
    for name, value in tensors.items():
        if value.numel() and not value.is_meta:
            place = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
            if first.setdefault(place, name) != name:
                found[name] = first[place]
    return found


def without_prefix(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that :func:`prefixed` put under a prefix; the values may be records too."""
    return {name.removeprefix(f"{prefix}."): v for name, v in values.items() if name.startswith(f"{prefix}.")}


class AllocationLimit(TorchFunctionMode):
    """Refuses to make more tensors than a file can fill: a description may ask for layers of any width.

    Args:
        records: the file's tensors.
        source: the file, for errors.
    """

    def __init__(self, records: Iterable[TensorRecord], source: object) -> None:
        super().__init__()
        sizes = [math.prod(record.shape) for record in records]
        self._left = SPARE_FACTOR * sum(sizes) + SPARE_ENTRIES
        self._tensors_left = SPARE_FACTOR * len(sizes) + SPARE_TENSORS
        self._source = source

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count the elements that a tensor's constructor would allocate, before it does."""
        kwargs = kwargs or {}
        if func in _FACTORIES:
            self._left -= max(func(*args, **{**kwargs, "device": "meta"}).numel(), LEAST_ENTRIES)
            self._tensors_left -= 1
            if self._left < 0 or self._tensors_left < 0:
                raise ZooError(f"{self._source}: the description asks for more tensors than the file holds")
        return func(*args, **kwargs)


_FACTORIES = {torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.zeros}
