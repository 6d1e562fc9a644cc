"""The file that holds how an agent climbed a ladder of opponents."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from mbrl_wrappers.agents.ladder import LadderRow
from mbrl_wrappers.envs.games.matches import MatchResult
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage import versions
from mbrl_wrappers.zoo.storage.limits import parse_json

LADDER = "ladder.json"
MAX_ROWS, MAX_OPPONENTS, MAX_GAMES, MAX_NAME = 10_000, 20, 10**6, 40


def ladder_to_json(rows: Sequence[LadderRow]) -> bytes:
    """Return the bytes of a ``ladder.json``."""
    content = {"format_version": versions.LADDER.version, "rows": [dataclasses.asdict(row) for row in rows]}
    return json.dumps(content, allow_nan=False).encode()


def ladder_from_json(data: bytes, source: object) -> list[LadderRow]:
    """Read the result of :func:`ladder_to_json`.

    Raises:
        ZooError: naming ``source``, if it is not a ladder of this version, within the bounds of this module.
    """
    content = parse_json(data, source)
    versions.LADDER.check(content, source)
    try:
        rows = [_row(row) for row in content["rows"][: MAX_ROWS + 1]]
        if not 1 <= len(rows) <= MAX_ROWS:
            raise ValueError(f"1 to {MAX_ROWS} rows")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ZooError(f"{source} must hold a ladder: {error!r}") from error
    return rows


def _row(row: dict[str, Any]) -> LadderRow:
    results = {_name(name): MatchResult(*map(_count, counts)) for name, counts in row["results"].items()}
    if not 1 <= len(results) <= MAX_OPPONENTS or not all(sum(result) for result in results.values()):
        raise ValueError(f"1 to {MAX_OPPONENTS} matches, of at least one game each")
    shares = (None if row[name] is None else _number(row[name], 1.0) for name in ("kept", "kept_by_network"))
    return LadderRow(int(_number(row["steps"], 2**62)), _number(row["cpu_seconds"], 1e12), results, *shares)


def _name(name: str) -> str:
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"names of at most {MAX_NAME} characters")
    return name


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_GAMES:
        raise ValueError(f"counts of 0 to {MAX_GAMES} games, got {value!r}")
    return value


def _number(value: Any, most: float) -> float:
    number = float(value)
    if not (math.isfinite(number) and 0 <= number <= most):
        raise ValueError(f"numbers of 0 to {most:g}, got {value!r}")
    return number
