"""Sokoban's rules on positions written by hand, its levels, and how it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mbrl_wrappers.tasks.grids import Sokoban, SokobanGames
from mbrl_wrappers.tasks.grids.games import DOWN, LEFT, RIGHT, STAY, UP
from mbrl_wrappers.tasks.grids.sokoban_levels import generate_level, part_of


def position(*rows: str) -> str:
    """Complete some rows of a room of 5x5 cells."""
    return "\n".join(["#####", *rows, *["#   #"] * (3 - len(rows)), "#####"])


def played(level: str, *actions: int) -> tuple[str, list[float], list[bool]]:
    """Return the position after moves, the reward of each, and whether it ended the game."""
    games = SokobanGames(1, size=5, num_boxes=1, noop=True)
    games.put(0, level)
    steps = [games.step([action]) for action in actions]
    return games.text(0), [float(step.reward[0]) for step in steps], [bool(step.terminated[0]) for step in steps]


@pytest.mark.parametrize(
    ("before", "action", "after", "reward"),
    [
        # Moves, onto a target too, and into a wall.
        (("# @ #", "#  $#", "#  .#"), LEFT, ("#@  #", "#  $#", "#  .#"), -0.1),
        (("# @ #", "#  $#", "#  .#"), DOWN, ("#   #", "# @$#", "#  .#"), -0.1),
        (("# @ #", "#  $#", "#  .#"), STAY, ("# @ #", "#  $#", "#  .#"), -0.1),
        (("# @ #", "#  $#", "#  .#"), UP, ("# @ #", "#  $#", "#  .#"), -0.1),
        (("#@. #", "#  $#"), RIGHT, ("# + #", "#  $#"), -0.1),
        (("# +$#",), LEFT, ("#@.$#",), -0.1),
        # Pushes: over the floor, not into walls or boxes, never two boxes.
        (("#@$ #", "#  .#"), RIGHT, ("# @$#", "#  .#"), -0.1),
        (("#.  #", "#@$ #"), RIGHT, ("#.  #", "# @$#"), -0.1),
        (("#  .#", "#$@ #"), LEFT, ("#  .#", "#$@ #"), -0.1),
        (("#@$$#", "# ..#"), RIGHT, ("#@$$#", "# ..#"), -0.1),
        (("#@$*#", "#  .#"), RIGHT, ("#@$*#", "#  .#"), -0.1),
        (("#@$##", "#  .#"), RIGHT, ("#@$##", "#  .#"), -0.1),
        # Boxes and targets.
        (("#@$.#", "# $.#"), RIGHT, ("# @*#", "# $.#"), 0.9),
        (("#@* #", "#   #"), RIGHT, ("# +$#", "#   #"), -1.1),
        (("#@*.#", "# $ #"), RIGHT, ("# +*#", "# $ #"), -0.1),
        (("#@$.#", "# *$#", "# . #"), RIGHT, ("# @*#", "# *$#", "# . #"), 0.9),
    ],
)
def test_a_move_changes_the_position(
    before: tuple[str, ...], action: int, after: tuple[str, ...], reward: float
) -> None:
    text, rewards, ends = played(position(*before), action)
    assert text == position(*after)
    assert rewards == [pytest.approx(reward)] and ends == [False]


def test_a_level_ends_when_all_boxes_are_on_targets() -> None:
    text, rewards, ends = played(position("#@$.#", "#   #", "# $.#"), RIGHT, LEFT, DOWN, DOWN, RIGHT)
    assert text == position("#  *#", "#   #", "# @*#")
    assert rewards == pytest.approx([0.9, -0.1, -0.1, -0.1, 10.9])
    assert ends == [False, False, False, False, True]


def test_a_box_may_leave_a_target_and_return() -> None:
    text, rewards, ends = played(position("#@*.#", "#  $#"), RIGHT, DOWN)
    assert text == position("# .*#", "# @$#") and not any(ends)
    assert rewards == pytest.approx([-0.1, -0.1])


def test_planes_are_walls_targets_boxes_and_the_player() -> None:
    games = SokobanGames(1, size=5, num_boxes=1)
    games.put(0, position("#+$ #", "#  *#"))
    frame = games.observations()[0]
    assert frame.dtype == np.uint8 and games.observation_space.contains(frame)
    places = [[tuple(cell) for cell in np.argwhere(plane == 255)] for plane in frame]
    assert len(places[0]) == 16
    assert places[1:] == [[(1, 1), (2, 3)], [(1, 2), (2, 3)], [(1, 1)]]
    assert set(np.unique(frame)) == {0, 255}


@pytest.mark.parametrize("size", [5, 7])
def test_random_play_keeps_boxes_and_players(size: int) -> None:
    games = SokobanGames(32, size=size, num_boxes=1, levels=(0, 50), noop=True)
    games.seed(list(range(32)))
    games.reset()
    walls = games.observations()[:, :2]
    rng = np.random.default_rng(0)
    for _ in range(200):
        games.step(rng.integers(5, size=32))
        frames = games.observations() > 0
        assert (frames[:, 2].sum((1, 2)) == 1).all() and (frames[:, 3].sum((1, 2)) == 1).all()
        assert not (frames[:, 3] & (frames[:, 0] | frames[:, 2])).any() and not (frames[:, 2] & frames[:, 0]).any()
        assert (games.observations()[:, :2] == walls).all()


# -- levels ------------------------------------------------------------------------------------------------------------


def test_levels_come_from_their_range() -> None:
    def levels(first: int, stop: int) -> tuple[set[int], set[str]]:
        games = SokobanGames(200, size=7, num_boxes=2, levels=(first, stop))
        games.seed(list(range(200)))
        games.reset()
        return {int(level) for level in games.level}, {games.text(row) for row in range(200)}

    train, train_texts = levels(0, 20)
    test, test_texts = levels(20, 40)
    assert train == set(range(20)) and test == set(range(20, 40))
    assert train_texts == {generate_level(7, 2, seed) for seed in range(20)}
    assert test_texts == {generate_level(7, 2, seed) for seed in range(20, 40)}


@pytest.mark.parametrize("size", [5, 7])
def test_parts_have_no_level_in_common(size: int) -> None:
    """Ranges of seeds have: levels are small."""

    def texts(first: int, part: Any) -> set[str]:
        games = SokobanGames(150, size=size, num_boxes=1, levels=(first, first + 1000), part=part)
        games.seed(list(range(150)))
        games.reset()
        return {games.text(row) for row in range(150)}

    assert size == 7 or texts(0, None) & texts(1000, None)
    train, test = texts(0, "train"), texts(0, "test")
    assert train and test and not train & test and not texts(1000, "test") & train
    assert {part_of(level) for level in train} == {"train"} and {part_of(level) for level in test} == {"test"}


def test_a_level_s_part_does_not_depend_on_the_player_nor_on_its_sides() -> None:
    for seed in range(200):
        level = generate_level(6, 1, seed)
        cells = np.array([list(row) for row in level.split("\n")])
        player = np.argwhere(np.isin(cells, ["@", "+"]))[0]
        for other in np.argwhere(cells == " "):
            moved = cells.copy()
            moved[tuple(player)] = "." if cells[tuple(player)] == "+" else " "
            moved[tuple(other)] = "@"
            for form in (moved, np.rot90(moved), np.flipud(moved), np.rot90(np.fliplr(moved), 3)):
                assert part_of("\n".join("".join(row) for row in form)) == part_of(level)


def test_one_level_in_ten_is_for_tests() -> None:
    parts = [part_of(generate_level(7, 2, seed)) for seed in range(1000)]
    assert 70 < parts.count("test") < 130


def test_a_level_can_be_asked_for() -> None:
    env = Sokoban(size=6, num_boxes=1, levels=(0, 5), render_mode="ansi")
    _, info = env.reset(options={"level": 17})
    assert env.render() == generate_level(6, 1, 17) and info == {"level": 17, "is_success": False}


@pytest.fixture
def level_file(tmp_path: Path) -> Path:
    path = tmp_path / "levels.txt"
    path.write_text("\n".join(f"; {seed}\n{generate_level(10, 4, seed)}\n" for seed in range(3)))
    return path


def test_a_file_of_levels_is_played(level_file: Path) -> None:
    env = Sokoban(level_file=level_file, render_mode="ansi")
    seen = set()
    for seed in range(20):
        _, info = env.reset(seed=seed)
        assert env.render() == generate_level(10, 4, info["level"])
        seen.add(info["level"])
    assert seen == {0, 1, 2}
    _, info = Sokoban(level_file=str(level_file), levels=(2, 3)).reset(seed=0)
    assert info["level"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 4}, "size must be a whole number of at least 5, got 4"),
        ({"size": 7.0}, "size must be a whole number"),
        ({"num_boxes": 0}, "num_boxes must be a whole number of at least 1, got 0"),
        ({"size": 5, "num_boxes": 9}, "size must have room for num_boxes=9, got 5"),
        ({"levels": 7}, r"levels must be a pair \(first, stop\), got 7"),
        ({"levels": (3, 3)}, "the stop of levels must be a whole number of at least 4, got 3"),
        ({"levels": (-1, 3)}, "the first of levels must be a whole number of at least 0, got -1"),
        ({"part": "valid"}, r"part must be None or one of \('train', 'test'\), got 'valid'"),
        (
            {"size": 5, "num_boxes": 1, "levels": (0, 1), "part": "test"},
            "part must have one of the first thousand levels from 0 to 0, got 'test'",
        ),
        ({"render_mode": "human"}, r"render_mode must be None or one of \['rgb_array', 'ansi'\], got 'human'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sokoban(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 7}, "level 0 of .*levels.txt must have 7 rows and columns, got 10 and 10"),
        ({"num_boxes": 3}, "level 0 of .*levels.txt must have num_boxes=3 boxes, got 4"),
        ({"levels": (0, 4)}, r"levels must end at 3, the number of levels in .*levels.txt, got \(0, 4\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(level_file: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sokoban(level_file=level_file, **arguments)


def test_levels_that_are_not_there_are_refused(level_file: Path) -> None:
    with pytest.raises(ValueError, match="level must be from 0 to 2, the levels of the file, got 3"):
        Sokoban(level_file=level_file).reset(options={"level": 3})
    with pytest.raises(ValueError, match=r"options\['level'\] must be a whole number of at least 0, got 'first'"):
        Sokoban(size=5, num_boxes=1).reset(options={"level": "first"})
    with pytest.raises(ValueError, match="level must have 5 rows and columns, got 3 and 5"):
        SokobanGames(1, size=5, num_boxes=1).put(0, "#####\n#@$.#\n#####")
    with pytest.raises(FileNotFoundError):
        Sokoban(level_file=level_file.with_name("none.txt"))


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_picture_shows_a_tile_for_each_cell() -> None:
    env: Any = gym.make("mbrl_wrappers.envs:mbrl_wrappers/Sokoban-v0", size=5, num_boxes=1, render_mode="rgb_array")
    env.reset(seed=0)
    level = position("#+$ #", "#.*@#").replace("+", " ").replace(".*", "*.")
    env.unwrapped.games.put(0, level)
    picture = env.render()
    assert picture.shape == (80, 80, 3) and picture.dtype == np.uint8
    looks: dict[str, set[bytes]] = {}
    for row, line in enumerate(level.split("\n")):
        for column, character in enumerate(line):
            tile = picture[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            looks.setdefault(character, set()).add(tile.tobytes())
    assert all(len(tiles) == 1 for tiles in looks.values())
    assert len(set.union(*looks.values())) == len(looks) == 6
