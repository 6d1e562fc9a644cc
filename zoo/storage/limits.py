"""Files of unknown origin, read within bounds: a file's own claims are not believed.

All readers of the zoo go through here. Sizes are checked before anything is read, pipes and devices are refused, and
JSON is limited in its numbers and its depth.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mbrl_wrappers import bounded_json
from mbrl_wrappers.bounded_json import MAX_JSON_BYTES
from mbrl_wrappers.zoo.errors import ZooError

MAX_TABLE_BYTES = 2_000_000
MAX_FILE_BYTES = 1_000_000_000
# Files of tensors may be larger, since they may hold replay buffers.
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
        file: the file's path.
        limit: in bytes.
        links: whether the file may be a symbolic link, as for a path from the user.

    Raises:
        ZooError: naming the file, if it does not exist, is a link, a pipe or a device, or is too large.
    """
    # Without O_NONBLOCK, opening a pipe would wait for its writer.
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
    """Return the rest of an open file.

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
    """Read a JSON object, see :func:`mbrl_wrappers.bounded_json.parse_json`.

    Raises:
        ZooError: naming ``source``.
    """
    try:
        return bounded_json.parse_json(data, source, finite=finite)
    except ValueError as error:
        raise ZooError(str(error)) from error
