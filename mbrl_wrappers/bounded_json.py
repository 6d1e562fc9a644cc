"""JSON of unknown origin, read within bounds: of length, of depth, of the size of its numbers and of its spaces."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_JSON_BYTES = 4_000_000
MAX_JSON_DEPTH = 50
# Enough for seeds, which have at most 128 bits. Python parses long integers slowly, and no float holds 309 digits.
MAX_DIGITS = 40
# Limit on the entries of all spaces whose description stays short however large they are. A frame of 1920 x 1080 pixels
# has 6.2 million entries, and an agent's file describes it twice, for the agent and for its model.
MAX_SPACE_ENTRIES = 2**24
MAX_AXES = 64  # NumPy's own limit


def parse_json(data: bytes | str, source: object, *, finite: bool = True) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        data: the JSON.
        source: where the JSON comes from, for errors.
        finite: refuse NaN and infinity, whether spelled out or as a number too large for a float.

    Raises:
        ValueError: naming ``source``, if ``data`` is not a JSON object, is too long or too deeply nested, or describes
            spaces that are too large.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"{source} must have at most {MAX_JSON_BYTES} bytes, got {len(data)}")
    numbers: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite} if finite else {}
    try:
        content = json.loads(data, parse_int=_whole_number, **numbers)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source} must hold a JSON object, got {type(content).__name__}")
    _check_depth(content, source)
    if (entries := _space_entries(content)) > MAX_SPACE_ENTRIES:
        raise ValueError(f"{source} must describe spaces of at most {MAX_SPACE_ENTRIES} entries, got {entries}")
    return content


def _space_entries(content: Any) -> int:
    """Count the entries of all spaces that are described by a few numbers; see ``spaces.space_to_json``."""
    if not isinstance(content, dict | list):
        return 0
    entries = sum(map(_space_entries, content.values() if isinstance(content, dict) else content))
    if isinstance(content, dict) and content.get("type") == "Box" and isinstance(content.get("low"), str):
        shape = content.get("shape")
        if isinstance(shape, list) and len(shape) <= MAX_AXES:
            entries += math.prod(abs(n) for n in shape if isinstance(n, int))
    if isinstance(content, dict) and content.get("type") in ("Discrete", "MultiBinary"):
        counts = content.get("n")
        counts = counts if isinstance(counts, list) else [counts]
        if len(counts) <= MAX_AXES:
            entries += math.prod(abs(n) for n in counts if isinstance(n, int))
    return entries


def _check_depth(content: Any, source: object) -> None:
    """Refuse content that is nested too deeply for a recursive function."""
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"{source} must be nested at most {MAX_JSON_DEPTH} levels deep")
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
