"""Tables as CSV: one line per record of a dataclass of numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.zoo.storage.limits import MAX_TABLE_BYTES, read_bytes

Row = TypeVar("Row")

# Small enough that squares of such numbers, and their sums, stay finite.
MAX_NUMBER = 1e100


def write_rows(path: str | Path, rows: Sequence[Any]) -> None:
    """Write at least one record, with a header of the fields' names, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[field.name for field in dataclasses.fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_atomically(path, text.getvalue().encode())


def read_rows(path: str | Path, kind: type[Row]) -> list[Row]:
    """Read a table of :func:`write_rows`.

    Args:
        path: the file.
        kind: a dataclass whose fields are annotated ``int`` or ``float``.

    Raises:
        ValueError: naming the file, if its columns are not the fields, or a value is not a number.
    """
    return parse_rows(read_bytes(path, MAX_TABLE_BYTES), kind, path)


def parse_rows(data: bytes, kind: type[Row], source: object) -> list[Row]:
    """Read the bytes of a file that :func:`write_rows` wrote.

    Args:
        data: the bytes.
        kind: as for :func:`read_rows`.
        source: the file, for errors.

    Raises:
        ValueError: as :func:`read_rows`.
    """
    parsers = {f.name: _whole if f.type == "int" else _real for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    try:
        reader = csv.DictReader(io.StringIO(data.decode(), newline=""))
        if reader.fieldnames != list(parsers):
            raise ValueError(f"{source} must have the columns {list(parsers)}, got {reader.fieldnames}")
        rows = list(reader)
    except (csv.Error, UnicodeError) as error:  # a field that is too long, among others
        raise ValueError(f"{source} is not CSV: {error}") from error
    try:
        return [kind(**{name: parse(row[name]) for name, parse in parsers.items()}) for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} must hold numbers: {error}") from error


def _real(text: str) -> float:
    value = float(text)
    if math.isfinite(value) and abs(value) > MAX_NUMBER:
        raise ValueError(f"at most {MAX_NUMBER:g} in size, got {value:g}")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) >= 2**63:
        raise ValueError(f"of at most 64 bits, got one of {len(text)} digits")
    return value
