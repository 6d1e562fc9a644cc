"""Breakout on a small grid: keep a ball in play that breaks a wall of bricks.

A game of the size and kind of MinAtar's (Young and Tian 2019, arXiv:1903.03176), with rules of our own:

- the ball moves by one cell along a diagonal, after the paddle has moved by one cell;
- the sides and the top reflect it; a brick that it meets breaks, and sends it back up or down from where it is;
- in the row above the paddle it bounces off a paddle in the column that it is going to, and goes on sideways; a paddle
  in its own column sends it back the way it came; otherwise it is lost;
- a new wall is laid at the first bounce off the paddle after the last brick is broken.
"""

from __future__ import annotations

import numpy as np

from mbrl_wrappers.tasks.grids.env import GridEnv
from mbrl_wrappers.tasks.grids.games import PRESENT, Games
from mbrl_wrappers.tasks.grids.tiles import Tile

PADDLE, BALL, TRAIL, BRICK = range(4)
SIZE = 10
BRICK_ROWS = range(1, 4)
START_ROW, PADDLE_ROW = 4, SIZE - 1
KEEP, GO_LEFT, GO_RIGHT = range(3)

_SIDEWAYS = np.array([0, -1, 1])
_WALL = np.zeros((SIZE, SIZE), np.uint8)
_WALL[list(BRICK_ROWS)] = PRESENT
_GROUND, _RED, _WHITE, _GREY, _GREEN = (24, 26, 34), (210, 90, 70), (240, 240, 230), (90, 95, 105), (80, 190, 90)


class BreakoutGames(Games):
    """``B`` games of Breakout side by side; an episode terminates when the ball is lost.

    Planes of a frame: the paddle, the ball, where the ball was before the last step, and bricks.

    Args:
        num_games: ``B``.
        max_episode_steps: steps after which an episode is truncated; None: never.

    Attributes:
        level: ``[B]``, the number of walls that were laid.
        paddle: ``[B]``, the paddle's column.
        ball, last_ball: ``[B, 2]``, row and column of the ball, now and before the last step.
        heading: ``[B, 2]``, how far the ball goes down and to the right in a step, 1 or -1 each.
    """

    planes = ("paddle", "ball", "trail", "brick")
    tiles = (
        Tile(" ", (), _GROUND),
        Tile("#", ("brick",), _RED, _GROUND, 0.0),
        Tile(".", ("trail",), _GROUND, _GREY, 0.5),
        Tile("=", ("paddle",), _GROUND, _GREEN, 0.95, is_round=False),
        Tile("o", ("ball",), _GROUND, _WHITE, 0.7),
        Tile("@", ("ball", "paddle"), _GREEN, _WHITE, 0.7),
    )

    def __init__(self, num_games: int, *, max_episode_steps: int | None = None) -> None:
        super().__init__(num_games, (SIZE, SIZE), 3, max_episode_steps)
        self.level, self.paddle = np.ones(num_games, int), np.zeros(num_games, int)
        self.ball, self.last_ball = np.zeros((num_games, 2), int), np.zeros((num_games, 2), int)
        self.heading = np.ones((num_games, 2), int)

    def _start(self, rows: np.ndarray) -> None:
        for row in rows:
            generator = self._generator(row)
            column, sideways = int(generator.integers(SIZE)), int(generator.choice([-1, 1]))
            self._lay(row, (START_ROW, column), (1, sideways), SIZE // 2, _WALL)
        self._draw()

    def put(self, row: int, ball: tuple[int, int], heading: tuple[int, int], paddle: int, bricks: np.ndarray) -> None:
        """Put a position into a game.

        Args:
            row: the game.
            ball: its row and column.
            heading: how far it goes down and to the right in a step, 1 or -1 each.
            paddle: its column.
            bricks: bool ``[10, 10]``, the cells with a brick.
        """
        self._begin(row)
        self._lay(row, ball, heading, paddle, np.where(bricks, PRESENT, 0))
        self._draw()

    def _lay(self, row: int, ball: tuple[int, int], heading: tuple[int, int], paddle: int, bricks: np.ndarray) -> None:
        self.ball[row] = self.last_ball[row] = ball
        self.heading[row], self.paddle[row], self.level[row] = heading, paddle, 1
        self.boards[row, BRICK] = bricks.reshape(-1)

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.paddle = np.clip(self.paddle + _SIDEWAYS[actions], 0, SIZE - 1)
        self.last_ball, ball = self.ball, self.ball.copy()
        aim = self._reflected_by_walls()
        broken = self._broken(aim)
        # A ball that meets something stays in its row, and turns there.
        falls = (aim[:, 0] == PADDLE_ROW) & ~self.over
        returned = falls & (ball[:, 1] == self.paddle)
        bounced = returned | (falls & (aim[:, 1] == self.paddle))
        turns = broken | bounced
        ball[:, 0] = np.where(turns, ball[:, 0], aim[:, 0])
        ball[:, 1] = np.where(returned, ball[:, 1], aim[:, 1])
        self.heading[turns, 0] *= -1
        self.heading[returned, 1] *= -1
        self._lay_new_walls(bounced)
        self.ball = np.where(self.over[:, None], self.ball, ball)
        self._draw()
        return broken.astype(float), falls & ~bounced

    def _reflected_by_walls(self) -> np.ndarray:
        """Turn the balls that would leave the grid; return the cells ``[B, 2]`` that all are going to."""
        aim = self.ball + self.heading
        outside = (aim < 0) | (aim >= SIZE)
        outside[:, 0] &= aim[:, 0] < 0  # at the bottom they are lost
        self.heading[outside] *= -1
        return np.clip(self.ball + self.heading, 0, SIZE - 1)

    def _broken(self, aim: np.ndarray) -> np.ndarray:
        """Break the bricks in the cells ``[B, 2]`` that balls are going to; return where there was one, ``[B]``."""
        cell = SIZE * aim[:, 0] + aim[:, 1]
        broken = (self.boards[self._rows, BRICK, cell] > 0) & ~self.over
        self.boards[self._rows[broken], BRICK, cell[broken]] = 0
        return broken

    def _lay_new_walls(self, bounced: np.ndarray) -> None:
        cleared = bounced & ~self.boards[:, BRICK].any(1)
        self.boards[cleared, BRICK] = _WALL.reshape(-1)
        self.level += cleared

    def _draw(self) -> None:
        """Draw what moves into the frames."""
        rows, boards = self._rows, self.boards
        boards[:, :BRICK] = 0
        boards[rows, PADDLE, SIZE * PADDLE_ROW + self.paddle] = PRESENT
        boards[rows, BALL, SIZE * self.ball[:, 0] + self.ball[:, 1]] = PRESENT
        boards[rows, TRAIL, SIZE * self.last_ball[:, 0] + self.last_ball[:, 1]] = PRESENT

    def info(self) -> dict[str, np.ndarray]:
        """Return the number of walls that were laid, ``[B]``."""
        return {"level": self.level.copy()}


class Breakout(GridEnv):
    """Keep a ball in play that breaks a wall of bricks; a brick is a reward of 1.

    - Observation: uint8 ``[4, 10, 10]``, see :class:`BreakoutGames`. SB3 takes it for an image, but the encoder of its
      ``CnnPolicy`` needs 36x36 pixels: take ``MlpPolicy``, or give ``CnnPolicy`` a features extractor for small images.
    - Action: 0 keeps the paddle where it is, 1 and 2 move it to the left and to the right.
    - An episode begins with three rows of bricks, and the ball below them in a random column, on its way down to the
      left or right. When all are broken, a new wall follows.
    - An episode terminates when the ball is lost; the registered time limit truncates it after 1,000 steps.
    - ``info``: ``"level"``, the number of walls that were laid.

    Args:
        render_mode: None, ``"rgb_array"`` or ``"ansi"``.

    Example:
        >>> import mbrl_wrappers.envs  # registers the ids
        >>> env = gym.make("mbrl_wrappers/Breakout-v0", render_mode="ansi")
    """

    def __init__(self, *, render_mode: str | None = None) -> None:
        super().__init__(BreakoutGames(1), render_mode)
