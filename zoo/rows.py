"""Tables as CSV: one line per record of a dataclass of numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from mbrl_wrappers.files import write_atomically

Row = TypeVar("Row")


def write_rows(path: str | Path, rows: Sequence[Any]) -> None:
    """Write at least one record, with a header of the fields' names, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[field.name for field in dataclasses.fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_atomically(path, text.getvalue().encode())


def read_rows(path: str | Path, kind: type[Row]) -> list[Row]:
    """Read what :func:`write_rows` wrote.

    Args:
        path: the file.
        kind: a dataclass whose fields are annotated ``int`` or ``float``.

    Raises:
        ValueError: naming the file, if its columns are not the fields, or a value is not a number.
    """
    parsers = {f.name: int if f.type == "int" else float for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(parsers):
            raise ValueError(f"{path} must have the columns {list(parsers)}, got {reader.fieldnames}")
        try:
            return [kind(**{name: parse(row[name]) for name, parse in parsers.items()}) for row in reader]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold numbers: {error}") from error
