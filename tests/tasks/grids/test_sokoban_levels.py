"""Levels of Sokoban: generated ones have a solution, and files say what is wrong with them."""

from __future__ import annotations

import heapq
from collections import deque
from pathlib import Path

import pytest

from mbrl_wrappers.tasks.grids.sokoban_levels import generate_level, read_levels

BOXOBAN = """\
; 0
#####
#@$.#
#####
#   #
#####

; 1
#####
#+$ #
# $.#
#   #
#####
"""


def shortest_solution(level: str) -> int | None:
    """Return the number of moves that solve a level, by breadth-first search; None if nothing does."""
    width, cells = level.index("\n"), level.replace("\n", "")
    walls, targets, boxes, (player,) = (
        frozenset(i for i, c in enumerate(cells) if c in of) for of in ("#", ".*+", "$*", "@+")
    )
    start = (player, boxes)
    queue, seen = deque([(*start, 0)]), {start}
    while queue:
        player, boxes, moves = queue.popleft()
        if boxes == targets:
            return moves
        for step in (-width, width, -1, 1):
            ahead, behind = player + step, player + 2 * step
            if ahead in walls or (ahead in boxes and (behind in walls or behind in boxes)):
                continue
            after = (ahead, boxes - {ahead} | {behind} if ahead in boxes else boxes)
            if after not in seen:
                seen.add(after)
                queue.append((*after, moves + 1))
    return None


def is_solved_greedily(level: str, most: int = 20_000) -> bool:
    """Tell whether pushes that bring boxes nearer to targets first solve a level, in a given number of positions."""
    width, cells = level.index("\n"), level.replace("\n", "")
    walls, targets, boxes, (player,) = (
        frozenset(i for i, c in enumerate(cells) if c in of) for of in ("#", ".*+", "$*", "@+")
    )

    def reach(boxes: frozenset[int], start: int) -> frozenset[int]:
        reached, edge = {start}, [start]
        while edge:
            cell = edge.pop()
            new = {cell + step for step in (-width, width, -1, 1)} - walls - boxes - reached
            reached |= new
            edge += new
        return frozenset(reached)

    def distance(boxes: frozenset[int]) -> int:
        rows = [divmod(target, width) for target in targets]
        return sum(min(abs(box // width - r) + abs(box % width - c) for r, c in rows) for box in boxes)

    reached = reach(boxes, player)
    queue, seen = [(distance(boxes), 0, boxes, reached)], {(boxes, reached)}
    while queue and len(seen) < most:
        _, _, boxes, reached = heapq.heappop(queue)
        if boxes == targets:
            return True
        for box in boxes:
            for step in (-width, width, -1, 1):
                if box - step not in reached or box + step in walls or box + step in boxes:
                    continue
                pushed = boxes - {box} | {box + step}
                position = pushed, reach(pushed, box)
                if position not in seen:
                    seen.add(position)
                    heapq.heappush(queue, (distance(pushed), len(seen), *position))
    return False


def test_the_solver_knows_what_can_be_solved() -> None:
    assert shortest_solution("#####\n#@$.#\n#####") == 1
    assert shortest_solution("#####\n#  .#\n#@$ #\n#   #\n#####") == 4
    assert shortest_solution("#####\n#@ $#\n#.  #\n#####") is None


@pytest.mark.parametrize(("size", "num_boxes", "count"), [(5, 1, 100), (6, 2, 40), (7, 1, 60), (7, 2, 40), (8, 3, 5)])
def test_every_generated_level_can_be_solved(size: int, num_boxes: int, count: int) -> None:
    for seed in range(count):
        level = generate_level(size, num_boxes, seed)
        assert level.count("$") == num_boxes and "*" not in level
        assert (shortest_solution(level) or 0) > 0, level


def test_every_generated_level_of_the_default_size_can_be_solved() -> None:
    assert not is_solved_greedily("#####\n#@ $#\n#.  #\n#####")
    for seed in range(25):
        level = generate_level(10, 4, seed)
        assert is_solved_greedily(level), level


@pytest.mark.parametrize(("size", "num_boxes"), [(5, 1), (7, 2), (10, 4)])
def test_generated_levels_are_what_a_file_may_hold(tmp_path: Path, size: int, num_boxes: int) -> None:
    levels = [generate_level(size, num_boxes, seed) for seed in range(30)]
    path = tmp_path / "levels.txt"
    path.write_text("\n\n".join(f"; {number}\n{level}" for number, level in enumerate(levels)))
    assert read_levels(path) == levels
    assert {len(level) for level in levels} == {size * (size + 1) - 1}


def test_a_level_is_a_function_of_its_seed() -> None:
    levels = [generate_level(7, 2, seed) for seed in range(50)]
    generate_level.cache_clear()
    assert [generate_level(7, 2, seed) for seed in range(50)] == levels
    assert len(set(levels)) == 50


@pytest.mark.parametrize("num_boxes", [9, 20])
def test_boxes_without_room_are_refused(num_boxes: int) -> None:
    with pytest.raises(ValueError, match=f"size must have room for num_boxes={num_boxes}, got 5"):
        generate_level(5, num_boxes, 0)


def test_files_of_boxoban_are_read(tmp_path: Path) -> None:
    path = tmp_path / "000.txt"
    path.write_text(BOXOBAN)
    first, second = read_levels(path)
    assert first == "#####\n#@$.#\n#####\n#   #\n#####"
    assert second == "#####\n#+$ #\n# $.#\n#   #\n#####"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold at least one level, got none"),
        ("; 0\n#####\n#@* #\n#####", r"level 0 of .*000\.txt must have a box that is off its target"),
        ("#####\n#@$.#\n#####", "must begin with a line '; 0' before the first level, got '#####'"),
        ("; 0\n#####\n#@$.#\n#####\n; 1\n", r"level 1 of .*000\.txt must have rows, got none"),
        ("; 0\n#####\n#@$!#\n#####", r"level 0 of .*000\.txt must consist of the characters .*, got \['!'\]"),
        ("; 0\n#####\n#@$.##\n#####", r"level 0 of .*000\.txt must have rows of one length, got \[5, 6, 5\]"),
        ("; 0\n#####\n#@$. \n#####", r"level 0 of .*000\.txt must have rows of one length, got \[5, 4, 5\]"),
        ("; 0\n#####\n#@$..\n#####", r"level 0 of .*000\.txt must have walls all around it"),
        ("; 0\n#####\n# $.#\n#####", r"level 0 of .*000\.txt must have one player, got 0"),
        ("; 0\n#####\n#@+*#\n#####", r"level 0 of .*000\.txt must have one player, got 2"),
        ("; 0\n#####\n#@  #\n#####", r"level 0 of .*000\.txt must have boxes and as many targets, got 0 and 0"),
        ("; 0\n#####\n#+$.#\n#####", r"level 0 of .*000\.txt must have boxes and as many targets, got 1 and 2"),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "000.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_levels(path)


def test_a_mark_of_the_byte_order_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "levels.txt").write_text(BOXOBAN, encoding="utf-8-sig")
    assert len(read_levels(tmp_path / "levels.txt")) == 2


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "000.txt"
    path.write_bytes(b"; 0\n\xff\xfe")
    with pytest.raises(ValueError, match=r"000\.txt must be text"):
        read_levels(path)
