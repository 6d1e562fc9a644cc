"""Pickles read as descriptions of their objects; nothing is made, imported or called.

``pickletools`` lists a pickle's opcodes, and the reader here follows them with inert values: numbers, texts, bytes,
tuples, lists, dicts, names of classes and functions, and records of calls instead of calls. An array is then read from
the bytes in its record.
"""

from __future__ import annotations

import math
import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_wrappers.zoo.errors import ZooError

MAX_PICKLE_BYTES = 16_000_000
MAX_OPCODES = 100_000
# Packages whose names SB3's pickles may contain, most of them in spaces and generators, which are not read.
_PACKAGES = {"collections", "gym", "gymnasium", "numpy", "sb3_contrib", "stable_baselines3", "mbrl_wrappers"}
_BUILTINS = {"builtins set", "builtins frozenset", "builtins object", "builtins slice"}
_DTYPE = re.compile(r"[fiub][1248]")


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names.

    Attributes:
        module, name: of the class or function.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)  # a record may hold itself
class Record:
    """The description of an object that a call would make.

    Attributes:
        what: the class or function that would be called.
        arguments: the call's arguments.
        state: the state that unpickling would set on the result.
    """

    what: Any
    arguments: Any
    state: Any = None

    def is_a(self, name: str) -> bool:
        """Tell whether ``what`` has this name, in any module: classes move between releases."""
        return isinstance(self.what, Name) and self.what.name == name


class _Mark:
    """Where the parts of a tuple, list or dict begin."""


def describe_pickle(data: bytes, source: object) -> Any:
    """Return the description of a pickle's object.

    Args:
        data: the pickle.
        source: where the pickle comes from, for errors.

    Raises:
        ZooError: for data that is no pickle, or a pickle with opcodes that plain data does not need or with names from
            other packages than SB3, NumPy, Gymnasium and this one.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise ZooError(f"{source} must have at most {MAX_PICKLE_BYTES} bytes, got {len(data)}")
    reader = _Reader()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of invalid escapes in a damaged text
            for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if number == MAX_OPCODES:
                    raise ZooError(f"it has more than {MAX_OPCODES} opcodes")
                reader.take(opcode.name, argument)
        (result,) = reader.stack
    except ZooError as error:
        raise ZooError(f"{source} can't be read without unpickling it: {error}") from None
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ZooError(f"{source} is no pickle that can be read without unpickling it: {error!r}") from error
    return result


class _Reader:
    """A stack and a memo, as a pickle's opcodes expect them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, opcode: str, argument: Any) -> None:
        """Interpret an opcode."""
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        elif opcode not in _NOTHING:
            raise ZooError(f"it has the opcode {opcode}")

    def put(self, index: int | None) -> None:
        """Remember the last value."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        """Recall a value."""
        self.stack.append(self.memo[index])

    def pop_to_mark(self) -> list[Any]:
        """Pop the values above the last mark."""
        parts = []
        while not isinstance(value := self.stack.pop(), _Mark):
            parts.append(value)
        return parts[::-1]

    def tuple_of(self, count: int) -> None:
        """Join the last values."""
        parts = tuple(self.stack[-count:])
        if len(parts) != count:
            raise ValueError(f"a tuple of {count} must have as many parts, got {len(parts)}")
        del self.stack[-count:]
        self.stack.append(parts)

    def extend(self, parts: list[Any]) -> None:
        """Add to a list, or to a set, which is a list here."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError(f"entries must be added to a list, got {type(target).__name__}")
        target.extend(parts)

    def set_items(self, parts: list[Any]) -> None:
        """Add to a dict, or to a record of one."""
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = {} if target.state is None else target.state
            target = target.state
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            if not isinstance(key, str | int):  # hashing a nested tuple may take for ever
                raise TypeError(f"keys must be texts or numbers, got {type(key).__name__}")
            target[key] = value

    def name(self, module: Any, name: Any) -> None:
        """Push a name, which is never looked up."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("names must be texts")
        if module.split(".")[0] not in _PACKAGES and f"{module} {name}" not in _BUILTINS:
            raise ZooError(f"it names {module[:100]}.{name[:100]}")
        self.stack.append(Name(module, name))

    def call(self) -> None:
        """Push a record in place of a call."""
        arguments, what = self.stack.pop(), self.stack.pop()
        self.stack.append(Record(what, arguments))

    def build(self) -> None:
        """Give a record its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Record) or target.state is not None:
            raise TypeError(f"only a new object can be given a state, got {type(target).__name__}")
        target.state = state


def _stack_global(reader: _Reader, _: Any) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    reader.name(module, name)


_NOTHING = {"PROTO", "FRAME", "STOP"}
_VALUES = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "MARK": _Mark,
}
_ACTIONS: dict[str, Callable[[_Reader, Any], None]] = {
    "BINPUT": _Reader.put,
    "LONG_BINPUT": _Reader.put,
    "MEMOIZE": lambda reader, _: reader.put(None),
    "BINGET": _Reader.get,
    "LONG_BINGET": _Reader.get,
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "TUPLE": lambda reader, _: reader.stack.append(tuple(reader.pop_to_mark())),
    "APPEND": lambda reader, _: reader.extend([reader.stack.pop()]),
    "APPENDS": lambda reader, _: reader.extend(reader.pop_to_mark()),
    "ADDITEMS": lambda reader, _: reader.extend(reader.pop_to_mark()),
    "SETITEM": lambda reader, _: reader.set_items([reader.stack.pop(-2), reader.stack.pop()]),
    "SETITEMS": lambda reader, _: reader.set_items(reader.pop_to_mark()),
    "GLOBAL": lambda reader, argument: reader.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda reader, _: reader.call(),
    "NEWOBJ": lambda reader, _: reader.call(),
    "BUILD": lambda reader, _: reader.build(),
}


def number_of(value: Any) -> float:
    """Return a number that a pickle describes, as Python's or as NumPy's.

    Raises:
        ValueError: if the value is not a number, or not finite.
    """
    if isinstance(value, Record):
        array = array_of(value)
        if array.shape != ():
            raise ValueError(f"a number must have no shape, got {array.shape}")
        value = array.item()
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a finite number must be given, got {type(value).__name__}")
    return value


def array_of(value: Any) -> np.ndarray:
    """Return a NumPy array of numbers, or a NumPy scalar, from its bytes.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, Record):
        raise ValueError(f"an array must be given, got {type(value).__name__}")
    if value.is_a("scalar"):
        dtype, data = value.arguments
        shape: tuple[int, ...] = ()
        order = "C"
    elif value.is_a("_frombuffer"):
        data, dtype, shape, order = value.arguments
    elif value.is_a("_reconstruct"):
        _, shape, dtype, in_columns, data = value.state
        order = "F" if in_columns else "C"
    else:
        raise ValueError("an array of NumPy's must be given")
    kind = _dtype_of(dtype)
    if order not in ("C", "F") or not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        raise ValueError("an array must have bytes, a shape and an order")
    if len(shape) > 8 or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("a shape must be whole numbers")
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and type {kind} must have as many bytes, got {len(data)}")
    return np.frombuffer(bytes(data), dtype=kind).reshape(shape, order="F" if order == "F" else "C")


def _dtype_of(value: Any) -> np.dtype:
    code = value.arguments[0] if isinstance(value, Record) and value.is_a("dtype") else None
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise ValueError("an array must be of numbers")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    if order not in ("<", ">", "=", "|"):
        raise ValueError("a type must have a byte order")
    return np.dtype(f"{order}{code}")
