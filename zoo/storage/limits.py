"""Files of unknown origin, read within bounds: what a file claims of itself is not believed.

All readers of the zoo go through here. A size is checked before anything is read, a pipe or a device is no file, JSON
has numbers that can be computed with and is nested as deeply as people write it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mbrl_wrappers.zoo.errors import ZooError

MAX_JSON_BYTES = 4_000_000
MAX_JSON_DEPTH = 50
# Seeds have 128 bits at most; Python takes long over longer ones, and no float holds one of 309 digits.
MAX_DIGITS = 40
MAX_TABLE_BYTES = 2_000_000
MAX_FILE_BYTES = 1_000_000_000
# Of tensors: replay buffers lie among them.
MAX_TENSOR_BYTES = 16_000_000_000
MAX_FILES = 1000

_PIECE = 1 << 20


def max_bytes(name: str) -> int:
    """Return how many bytes a file of an agent's folder may have, by the file's name."""
    if name.endswith(".safetensors"):
        return MAX_TENSOR_BYTES
    if name.endswith(".json"):
        return MAX_JSON_BYTES
    return MAX_TABLE_BYTES if name.endswith(".csv") else MAX_FILE_BYTES


@contextmanager
def open_file(file: str | Path, limit: int, *, links: bool = False) -> Iterator[BinaryIO]:
    """Open a plain file of at most ``limit`` bytes.

    Args:
        file: its path.
        limit: in bytes.
        links: whether it may be a symbolic link, as one that a user names may.

    Raises:
        ZooError: naming the file, if there is none, or it is a link, a pipe, a device or too large.
    """
    # Opening a pipe would wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if not links and Path(file).is_symlink():
        raise ZooError(f"{file} must be a file, it is a symbolic link")
    try:
        descriptor = os.open(file, flags if links else flags | getattr(os, "O_NOFOLLOW", 0))
    except (OSError, ValueError) as error:
        raise ZooError(f"{file} must be a file that can be read: {error}") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise ZooError(f"{file} must be a file")
        if state.st_size > limit:
            raise ZooError(f"{file} must have at most {limit} bytes, got {state.st_size}")
        with open(descriptor, "rb", closefd=False) as opened:
            yield opened
    finally:
        os.close(descriptor)


def read_bytes(file: str | Path, limit: int, *, links: bool = False) -> bytes:
    """Return the bytes of a plain file of at most ``limit`` bytes.

    Raises:
        ZooError: as :func:`open_file`.
    """
    with open_file(file, limit, links=links) as opened:
        return read_at_most(opened, limit, file)


def read_at_most(opened: Any, limit: int, source: object) -> bytes:
    """Return what is left in an open file.

    Raises:
        ZooError: naming ``source``, if it is more than ``limit`` bytes.
    """
    pieces, left = [], limit + 1
    while left and (piece := opened.read(min(left, _PIECE))):
        pieces.append(piece)
        left -= len(piece)
    if not left:
        raise ZooError(f"{source} must have at most {limit} bytes")
    return b"".join(pieces)


def sha256_of_file(file: str | Path, limit: int) -> tuple[str, int]:
    """Return the SHA-256 of a file as 64 hexadecimal digits, and its size; the file is read in pieces.

    Raises:
        ZooError: as :func:`open_file`.
    """
    digest, size = hashlib.sha256(), 0
    with open_file(file, limit) as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
            size += len(piece)
            if size > limit:
                raise ZooError(f"{file} must have at most {limit} bytes")
    return digest.hexdigest(), size


def parse_json(data: bytes | str, source: object, *, finite: bool = True) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        data: the JSON.
        source: what errors call it.
        finite: refuse NaN and infinity, in words or as a number that is too large.

    Raises:
        ZooError: naming ``source``, if it is none, or one that is too long, or too deeply nested.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ZooError(f"{source} must have at most {MAX_JSON_BYTES} bytes, got {len(data)}")
    numbers: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite} if finite else {}
    try:
        content = json.loads(data, parse_int=_whole_number, **numbers)
    except (ValueError, RecursionError) as error:
        raise ZooError(f"{source} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ZooError(f"{source} must hold a JSON object, got {type(content).__name__}")
    _check_depth(content, source)
    return content


def _check_depth(content: Any, source: object) -> None:
    """Refuse what a recursive function could not follow."""
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ZooError(f"{source} must be nested at most {MAX_JSON_DEPTH} levels deep")
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [inner for part in parts for inner in part if isinstance(inner, dict | list)]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"numbers must be finite, got {text[:MAX_DIGITS]}")
    return value


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"whole numbers must have at most {MAX_DIGITS} digits, got {len(text)}")
    return int(text)
