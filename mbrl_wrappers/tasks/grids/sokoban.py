"""Sokoban: push every box onto a target.

Rules and rewards are those of Weber et al. (2017, arXiv:1707.06203). They show the game in sprites of 8x8 pixels; a
frame here has one pixel for each cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.tasks.grids.env import GridEnv
from mbrl_wrappers.tasks.grids.games import PRESENT, Games
from mbrl_wrappers.tasks.grids.sokoban_levels import (
    NUM_KEPT,
    Part,
    check_level,
    generate_level,
    part_of,
    read_levels,
)
from mbrl_wrappers.tasks.grids.tiles import Tile

WALL, TARGET, BOX, PLAYER = range(4)

_LAST_LEVEL = 2**63 - 1

STEP_REWARD, BOX_REWARD, SOLVED_REWARD = -0.1, 1.0, 10.0

_FLOOR_COLOUR, _WALL_COLOUR = (40, 36, 34), (120, 110, 100)
_RED, _BROWN, _GREEN, _BLUE = (210, 60, 60), (200, 150, 70), (80, 190, 90), (90, 140, 240)


class SokobanGames(Games):
    """``B`` games of Sokoban side by side; an episode terminates when all boxes are on targets.

    Planes of a frame: walls, targets, boxes, the player.

    Args:
        num_games: ``B``.
        size: rows and columns of a level, at least 5, with the walls around it.
        num_boxes: boxes of a level, and targets.
        level_file: a file in the format of Boxoban (Guez et al., 2018), whose levels have this size and number of
            boxes; default: levels are generated, each from a seed.
        levels: the levels that episodes are drawn from, ``first`` to ``stop - 1``: seeds of generated levels, or places
            in the file. A level is generated in about a millisecond, and the last 65,536 are kept. Default: as many
            seeds, from 0, or the whole file.
        part: ``"train"`` or ``"test"``, the part of these levels that episodes are drawn from. No level is in both
            parts, not even with the player elsewhere, turned or mirrored; see
            :func:`~mbrl_wrappers.tasks.grids.sokoban_levels.part_of`. Ranges of seeds are not enough for that, since
            different seeds can be the same small level. A new level for tests takes ten times as long. Default: all.
        noop: whether there is a fifth action, to stay.
        max_episode_steps: steps after which an episode is truncated; None: never.

    Attributes:
        level: ``[B]``, the level that each game plays; -1 where :meth:`put` has put one.

    Raises:
        ValueError: for an argument out of its range, levels that are broken or of another size, or if none of the first
            thousand is in the part.
    """

    planes = ("wall", "target", "box", "player")
    tiles = (
        Tile(" ", (), _FLOOR_COLOUR),
        Tile("#", ("wall",), _WALL_COLOUR),
        Tile(".", ("target",), _FLOOR_COLOUR, _RED, 0.3),
        Tile("$", ("box",), _FLOOR_COLOUR, _BROWN, 0.8, is_round=False),
        Tile("*", ("box", "target"), _FLOOR_COLOUR, _GREEN, 0.8, is_round=False),
        Tile("@", ("player",), _FLOOR_COLOUR, _BLUE, 0.7),
        Tile("+", ("player", "target"), _RED, _BLUE, 0.7),
    )

    def __init__(
        self,
        num_games: int,
        *,
        size: int = 10,
        num_boxes: int = 4,
        level_file: str | Path | None = None,
        levels: tuple[int, int] | None = None,
        part: Part | None = None,
        noop: bool = False,
        max_episode_steps: int | None = None,
    ) -> None:
        check_whole_number("size", size, 5)
        check_whole_number("num_boxes", num_boxes)
        if part not in (None, *get_args(Part)):
            raise ValueError(f"part must be None or one of {get_args(Part)}, got {part!r}")
        self.size = size
        self.num_boxes = num_boxes
        self.part = part
        self._file = None if level_file is None else _levels_of(level_file, size, num_boxes)
        self._first, self._stop = _checked_range(levels, NUM_KEPT if self._file is None else len(self._file))
        if self._file is not None and self._stop > len(self._file):
            raise ValueError(
                f"levels must end at {len(self._file)}, the number of levels in {level_file}, got {levels}"
            )
        self._text_of(self._first)  # refuses boxes without room now, not at the first reset
        if not any(map(self._is_in_part, range(self._first, min(self._stop, self._first + 1000)))):
            raise ValueError(
                f"part must have one of the first thousand levels from {self._first} to {self._stop - 1}, got {part!r}"
            )
        super().__init__(num_games, (size, size), 5 if noop else 4, max_episode_steps)
        self.level = np.full(num_games, -1)
        self._offsets = np.array([-size, size, -1, 1, 0])
        self._edge = np.pad(np.zeros((size - 2, size - 2), bool), 1, constant_values=True).ravel()
        self._players = np.zeros(num_games, int)
        self._boxes_off = np.ones(num_games, int)

    def _start(self, rows: np.ndarray) -> None:
        for row in rows:
            generator = self._generator(row)
            level = int(generator.integers(self._first, self._stop))
            while not self._is_in_part(level):
                level = int(generator.integers(self._first, self._stop))
            self.play(row, level)

    def _is_in_part(self, level: int) -> bool:
        return self.part is None or part_of(self._text_of(level)) == self.part

    def _text_of(self, level: int) -> str:
        """Return the text of a level: of its seed, or of its place in the file."""
        if self._file is None:
            return generate_level(self.size, self.num_boxes, level)
        if not 0 <= level < len(self._file):
            raise ValueError(f"level must be from 0 to {len(self._file) - 1}, the levels of the file, got {level}")
        return self._file[level]

    def play(self, row: int, level: int) -> None:
        """Let a game begin with a level: a seed, or a place in the file.

        Raises:
            ValueError: if there is no such level.
        """
        if level > _LAST_LEVEL:
            raise ValueError(f"level must be at most {_LAST_LEVEL}, got {level}")
        text = self._text_of(level)
        self._begin(row)
        self._lay(row, text)
        self.level[row] = level

    def begin_as(self, row: int, options: Mapping[str, Any]) -> None:
        """Play ``options["level"]``, if it is there."""
        if "level" in options:
            check_whole_number("options['level']", options["level"], 0)
            self.play(row, int(options["level"]))

    def put(self, row: int, level: str) -> None:
        """Put a position into a game, in the characters of :mod:`~mbrl_wrappers.tasks.grids.sokoban_levels`.

        Raises:
            ValueError: if the text is no position of this size.
        """
        check_level(level, "level")
        _check_size(level, self.size, "level")
        self._begin(row)
        self._lay(row, level)
        self.level[row] = -1

    def put_frames(self, frames: np.ndarray) -> None:
        """Put a position into every game, by its frame.

        Args:
            frames: uint8, of as many numbers as ``boards``.

        Raises:
            ValueError: unless each frame shows one player, a box, and neither of them in the outermost cells.
        """
        boards = frames.reshape(self.boards.shape)
        players, boxes = boards[:, PLAYER] > 0, boards[:, BOX] > 0
        wrong = (players.sum(1) != 1) | ~boxes.any(1) | ((players | boxes) & self._edge).any(1)
        if wrong.any():
            first = int(wrong.argmax())
            shown = boards[first].reshape(self.observation_space.shape)[[BOX, PLAYER]]
            raise ValueError(
                f"frames must show one player, and boxes, within the walls, got in frame {first} (boxes, player)\n"
                f"{shown}"
            )
        self._begin(self._rows)
        self.boards[:] = boards
        self.level[:], self._players = -1, players.argmax(1)
        self._boxes_off = np.count_nonzero(boards[:, BOX] > boards[:, TARGET], axis=1)

    def _lay(self, row: int, level: str) -> None:
        cells = np.frombuffer(level.replace("\n", "").encode(), np.uint8)
        board = _PLANES_OF_CHARACTER[:, cells]
        self.boards[row] = board
        self._players[row] = board[PLAYER].argmax()
        self._boxes_off[row] = np.count_nonzero(board[BOX] > board[TARGET])

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, boards, offset = self._rows, self.boards, self._offsets[actions]
        ahead = self._players + offset
        box_ahead = boards[rows, BOX, ahead] > 0
        # Only a box, which never lies in the walls around, is looked past.
        behind_box = np.where(box_ahead, ahead + offset, ahead)
        stuck = (boards[rows, WALL, behind_box] | boards[rows, BOX, behind_box]) > 0
        moves = ~stuck & (offset != 0)
        pushes = moves & box_ahead
        boards[rows, PLAYER, self._players] = 0
        self._players = np.where(moves, ahead, self._players)
        boards[rows, PLAYER, self._players] = PRESENT
        gained = self._push(np.flatnonzero(pushes), ahead, behind_box)
        solved = self._boxes_off == 0
        return STEP_REWARD + BOX_REWARD * gained + SOLVED_REWARD * solved, solved

    def _push(self, rows: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Move a box of each of these games; return how many more of a game's boxes are on targets, ``[B]``."""
        boards, start, end = self.boards, start[rows], end[rows]
        boards[rows, BOX, start] = 0
        boards[rows, BOX, end] = PRESENT
        gained = np.zeros(self.num_games, int)
        gained[rows] = (boards[rows, TARGET, end] > 0).astype(int) - (boards[rows, TARGET, start] > 0)
        self._boxes_off -= gained
        return gained

    def info(self) -> dict[str, np.ndarray]:
        """Return which levels the games play, and whether these are solved, ``[B]``."""
        return {"level": self.level.copy(), "is_success": self._boxes_off == 0}


class Sokoban(GridEnv):
    """Push every box onto a target: one step costs 0.1, a box on a target earns 1, all of them 10.

    - Observation: uint8 ``[4, size, size]``, planes of walls, targets, boxes and the player, 255 where there is one.
      SB3 takes it for an image, but the encoder of its ``CnnPolicy`` needs 36x36 pixels: take ``MlpPolicy``, or give
      ``CnnPolicy`` a features extractor for small images.
    - Action: 0 to 3 move up, down, left, right, and push a box if nothing is behind it; 4 stays, with ``noop``.
    - Reward: -0.1 for a step, +1 for a box that comes onto a target, -1 for one that leaves it, +10 for the solution.
    - An episode terminates when the level is solved; the registered time limit truncates it after 120 steps.
    - ``info``: ``"level"``, the number of the level, and ``"is_success"``, whether it is solved.
    - ``reset(options={"level": n})`` starts level ``n``, also one outside of ``levels``.

    Args:
        size, num_boxes, level_file, levels, part, noop: see :class:`SokobanGames`.
        render_mode: None, ``"rgb_array"`` or ``"ansi"``.

    Example:
        >>> import mbrl_wrappers.envs  # registers the ids
        >>> env = gym.make("mbrl_wrappers/Sokoban-v0", size=7, num_boxes=2, part="train")
        >>> test_env = gym.make("mbrl_wrappers/Sokoban-v0", size=7, num_boxes=2, part="test")
    """

    games: SokobanGames

    def __init__(
        self,
        *,
        size: int = 10,
        num_boxes: int = 4,
        level_file: str | Path | None = None,
        levels: tuple[int, int] | None = None,
        part: Part | None = None,
        noop: bool = False,
        render_mode: str | None = None,
    ) -> None:
        games = SokobanGames(
            1, size=size, num_boxes=num_boxes, level_file=level_file, levels=levels, part=part, noop=noop
        )
        super().__init__(games, render_mode)

    def _start(self, options: dict[str, Any]) -> None:
        if "level" in options:
            self.games.begin_as(0, options)
        else:
            self.games.reset()


def _levels_of(path: str | Path, size: int, num_boxes: int) -> list[str]:
    """Read a file, all of whose levels must have this size and number of boxes."""
    levels = read_levels(path)
    for index, level in enumerate(levels):
        _check_size(level, size, f"level {index} of {path}")
        boxes = level.count("$") + level.count("*")
        if boxes != num_boxes:
            raise ValueError(f"level {index} of {path} must have num_boxes={num_boxes} boxes, got {boxes}:\n{level}")
    return levels


def _check_size(level: str, size: int, name: str) -> None:
    rows = level.split("\n")
    if (len(rows), len(rows[0])) != (size, size):
        raise ValueError(f"{name} must have {size} rows and columns, got {len(rows)} and {len(rows[0])}:\n{level}")


def _checked_range(levels: Any, count: int) -> tuple[int, int]:
    if levels is None:
        return 0, count
    if not isinstance(levels, tuple | list) or len(levels) != 2:
        raise ValueError(f"levels must be a pair (first, stop), got {levels!r}")
    first, stop = levels
    check_whole_number("the first of levels", first, 0)
    check_whole_number("the stop of levels", stop, int(first) + 1)
    return int(first), int(stop)


def _planes_of_character() -> np.ndarray:
    """Return the planes ``[4, 256]`` of each character of a level."""
    table = np.zeros((len(SokobanGames.planes), 256), np.uint8)
    for tile in SokobanGames.tiles:
        for name in tile.planes:
            table[SokobanGames.planes.index(name), ord(tile.character)] = PRESENT
    return table


_PLANES_OF_CHARACTER = _planes_of_character()
