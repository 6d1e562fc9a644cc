"""Levels of Sokoban: generated ones that can be solved, and those of files in the format of Boxoban.

A level is text, a line for each row, in Boxoban's characters: ``#`` wall, space floor, ``.`` target, ``$`` box, ``*``
box on a target, ``@`` player, ``+`` player on a target.
"""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mbrl_wrappers.seeding import stream_seed

Part = Literal["train", "test"]

NUM_KEPT = 1 << 16
"""Generated levels that are kept, since it takes longer to generate one than to play it."""

_TEST_LEVELS_ARE_ONE_IN = 10
_CHARACTERS = frozenset("# .$*@+")
_MAX_TRIES = 1000
_NUM_WALKS = 4
_PULLS_PER_BOX = 16
_TURN_PROBABILITY = 0.35
# What is dug out at each step of the walk: cells (down, right) of where it stands.
_PATTERNS = (
    ((0, 0), (0, -1), (0, 1)),
    ((0, 0), (-1, 0), (1, 0)),
    ((0, 0), (0, -1), (1, 0)),
    ((0, 0), (0, 1), (1, 0)),
    ((0, 0), (0, 1), (1, 0), (1, 1)),
)


@functools.lru_cache(maxsize=NUM_KEPT)
def generate_level(size: int, num_boxes: int, seed: int) -> str:
    """Return the level of a seed, which can be solved and in which no box stands on a target.

    As in Weber et al. (2017, arXiv:1707.06203), a random walk digs the room, targets are laid at random with a box on
    each, and the boxes are pulled away: played backwards, the pulls are a solution. Of all positions on the way, the
    one with the highest score becomes the level: changes of the pulled box, times the sum of the boxes' distances from
    their targets. The paper searches a million positions for the highest score; these are those of a few random walks.

    Args:
        size: rows and columns, with the walls around the room.
        num_boxes: as many as targets.
        seed: the same seed is the same level.

    Raises:
        ValueError: if the boxes do not find room.
    """
    generator = random.Random(stream_seed(seed, f"Sokoban level {size} {num_boxes}"))
    for _ in range(_MAX_TRIES):
        floor = _dig(size, generator)
        cells = list(_cells(floor))
        if len(cells) > num_boxes:
            *targets, player = generator.sample(cells, num_boxes + 1)
            position = _pull_away(size, floor, targets, player, generator)
            if position is not None:
                return _text(size, floor, targets, *position)
    raise ValueError(f"size must have room for num_boxes={num_boxes}, got {size}")


@functools.lru_cache(maxsize=NUM_KEPT)
def part_of(level: str) -> Part:
    """Return whether a level is for training or, as one in ten, for tests.

    A hash decides, of walls, boxes and targets alone: levels that differ in the player's cell, or are turned or
    mirrored, are in one part. Ranges of seeds don't keep small levels apart, since different seeds may be the same
    level.
    """
    rows = level.replace("@", " ").replace("+", ".").split("\n")
    forms = []
    for _ in range(4):
        rows = ["".join(column) for column in zip(*rows[::-1], strict=True)]  # turned by 90 degrees
        forms += ["\n".join(rows), "\n".join(rows[::-1])]
    return "test" if zlib.crc32(min(forms).encode()) % _TEST_LEVELS_ARE_ONE_IN == 0 else "train"


# A set of cells is a whole number: cell ``row * size + column`` is in it if that bit is set.


def _mask(cells: list[int]) -> int:
    return sum(1 << cell for cell in cells)


def _cells(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _dig(size: int, generator: random.Random) -> int:
    """Return the floor that a random walk digs out."""
    floor, directions = 0, ((-1, 0), (1, 0), (0, -1), (0, 1))
    row, column = generator.randrange(1, size - 1), generator.randrange(1, size - 1)
    down, right = generator.choice(directions)
    for _ in range(3 * size):
        inside = 0 < row + down < size - 1 and 0 < column + right < size - 1
        if not inside or generator.random() < _TURN_PROBABILITY:
            down, right = generator.choice(
                [(d, r) for d, r in directions if 0 < row + d < size - 1 and 0 < column + r < size - 1]
            )
        row, column = row + down, column + right
        for below, beside in generator.choice(_PATTERNS):
            if 0 < row + below < size - 1 and 0 < column + beside < size - 1:
                floor |= 1 << (row + below) * size + column + beside
    return floor


def _pull_away(
    size: int, floor: int, targets: list[int], player: int, generator: random.Random
) -> tuple[list[int], int] | None:
    """Pull boxes off their targets; return boxes and player of the position with the highest score, None without any.

    The player may stand anywhere that it reaches, which changes nothing of what can be solved.
    """
    on_target, best, best_score = _mask(targets), None, 0
    for _ in range(_NUM_WALKS):
        for boxes, reached, changes in _walk(size, floor, targets, player, generator):
            score = changes * sum(_distance(size, box, target) for box, target in zip(boxes, targets, strict=True))
            if score > best_score and not _mask(boxes) & on_target:
                best, best_score = (boxes, reached), score
    if best is None:
        return None
    boxes, reached = best
    return boxes, generator.choice(list(_cells(reached)))


def _walk(
    size: int, floor: int, boxes: list[int], player: int, generator: random.Random
) -> Iterator[tuple[list[int], int, int]]:
    """Pull boxes at random; yield boxes, the cells that the player reaches, and how often the pulled box changed."""
    changes, last = 0, None
    reached = _reached(size, floor & ~_mask(boxes), player)
    for _ in range(_PULLS_PER_BOX * len(boxes)):
        free = floor & ~_mask(boxes)
        pulls = [
            (index, step)
            for index, box in enumerate(boxes)
            for step in (-size, size, -1, 1)
            if reached >> box + step & 1 and free >> box + 2 * step & 1
        ]
        if not pulls:
            return
        index, step = generator.choice(pulls)
        box = boxes[index] + step
        boxes = [*boxes[:index], box, *boxes[index + 1 :]]
        reached = _reached(size, floor & ~_mask(boxes), box + step)
        changes, last = changes + (index != last), index
        yield boxes, reached, changes


def _reached(size: int, free: int, start: int) -> int:
    """Return the free cells that a player reaches without a push."""
    reached, before = 1 << start, 0
    while reached != before:
        before = reached
        reached |= (reached << 1 | reached >> 1 | reached << size | reached >> size) & free
    return reached


def _distance(size: int, cell: int, other: int) -> int:
    return abs(cell // size - other // size) + abs(cell % size - other % size)


def _text(size: int, floor: int, targets: list[int], boxes: list[int], player: int) -> str:
    characters = [" " if floor >> cell & 1 else "#" for cell in range(size * size)]
    for cell in targets:
        characters[cell] = "."
    for cell in boxes:
        characters[cell] = "$"
    characters[player] = "+" if player in targets else "@"
    return "\n".join("".join(characters[start : start + size]) for start in range(0, size * size, size))


def read_levels(path: str | Path) -> list[str]:
    """Read a file of levels in Boxoban's format: each level's rows follow a line that begins with a semicolon.

    Raises:
        ValueError: if the file holds no level, or one that is broken, naming it and what is wrong.
        OSError: if the file can't be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text, got bytes that are none: {error}") from error
    levels: list[list[str]] = []
    for line in lines:
        if line.startswith(";"):
            levels.append([])
        elif line.strip():
            if not levels:
                raise ValueError(f"{path} must begin with a line '; 0' before the first level, got {line!r}")
            levels[-1].append(line.rstrip())
    if not levels:
        raise ValueError(f"{path} must hold at least one level, got none")
    texts = ["\n".join(rows) for rows in levels]
    for index, text in enumerate(texts):
        check_level(text, f"level {index} of {path}")
        if "$" not in text:
            raise ValueError(f"level {index} of {path} must have a box that is off its target:\n{text}")
    return texts


def check_level(level: str, name: str) -> None:
    """Refuse a text that is no level.

    Args:
        level: the text.
        name: of the level, for the error.

    Raises:
        ValueError: naming the level and what is wrong with it.
    """
    if not level:
        raise ValueError(f"{name} must have rows, got none")
    rows = level.split("\n")
    counts = {character: level.count(character) for character in _CHARACTERS}
    unknown = set(level) - _CHARACTERS - {"\n"}
    boxes, targets = counts["$"] + counts["*"], counts["."] + counts["*"] + counts["+"]
    edge = rows[0] + rows[-1] + "".join(row[:1] + row[-1:] for row in rows)
    if unknown:
        raise ValueError(f"{name} must consist of the characters '# .$*@+', got {sorted(unknown)}:\n{level}")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{name} must have rows of one length, got {[len(row) for row in rows]}:\n{level}")
    if set(edge) != {"#"}:
        raise ValueError(f"{name} must have walls all around it:\n{level}")
    if counts["@"] + counts["+"] != 1:
        raise ValueError(f"{name} must have one player, got {counts['@'] + counts['+']}:\n{level}")
    if boxes == 0 or boxes != targets:
        raise ValueError(f"{name} must have boxes and as many targets, got {boxes} and {targets}:\n{level}")
