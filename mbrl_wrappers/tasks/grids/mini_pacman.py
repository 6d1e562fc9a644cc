"""MiniPacman: five tasks in one maze, by what is rewarded.

Map size, things in the maze, their movements, rewards and what clears a level follow the appendix of Weber et al.
(2017, arXiv:1707.06203). Where it is silent, these are ours:

- the map itself, which has no dead ends;
- the places at a level's start: Pacman, power pills and ghosts are drawn from all floor cells, ghosts from those that
  are at least 5 steps along rows and columns away from Pacman; a ghost looks in a random direction;
- the order of a step: first Pacman walks, a cell at a time, and meets the ghosts in the cells that it enters; then the
  ghosts move, and meet it where they come to it;
- a fast Pacman eats what lies in both cells of its way, and a wall stops it between them;
- a ghost that was eaten stays away until the next level;
- the time limit of 3,000 steps, which is that of the game's author's own code.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mbrl_wrappers.tasks.grids.env import GridEnv
from mbrl_wrappers.tasks.grids.games import DOWN, LEFT, PRESENT, RIGHT, STAY, UP, Games
from mbrl_wrappers.tasks.grids.tiles import Tile

MAZE = """\
###################
#........#........#
#.##.###.#.###.##.#
#.................#
#.##.#.#####.#.##.#
#....#...#...#....#
#.##.###.#.###.##.#
#.##...........##.#
#.##.###.#.###.##.#
#....#...#...#....#
#.##.#.#####.#.##.#
#.................#
#.##.###.#.###.##.#
#........#........#
###################"""
HEIGHT, WIDTH = 15, 19

WALL, FOOD, PILL, PACMAN, GHOST, EDIBLE, POWER = range(7)

NUM_PILLS = 2
POWER_STEPS = 19  # as many as there are columns, over which a bar shows them
SAFE_DISTANCE = 5

Mode = Literal["regular", "avoid", "hunt", "ambush", "rush"]

_GREEN, _YELLOW, _RED = (60, 200, 80), (230, 210, 60), (220, 60, 60)
_FLOOR_COLOUR, _WALL_COLOUR, _FOOD_COLOUR, _PILL_COLOUR = (20, 20, 30), (90, 90, 120), (120, 150, 230), (80, 230, 230)


@dataclass(frozen=True)
class ModeRules:
    """What a task rewards, and when a level of it is cleared.

    Attributes:
        step: the reward of a step.
        food: of eating food.
        pill: of eating a power pill.
        ghost: of eating a ghost.
        death: of being eaten.
        goal: what must be gone for the level to be cleared; None if only time clears it.
        level_steps: steps after which a level is cleared whatever is left; None: never.
    """

    step: float
    food: float
    pill: float
    ghost: float
    death: float
    goal: Literal["food", "pills", "ghosts"] | None
    level_steps: int | None = None


MODES: dict[str, ModeRules] = {
    "regular": ModeRules(0, 1, 2, 5, 0, "food"),
    "avoid": ModeRules(0.1, -0.1, -5, -10, -20, None, 128),
    "hunt": ModeRules(0, 0, 1, 10, -20, "ghosts", 80),
    "ambush": ModeRules(0, -0.1, 0, 10, -20, "ghosts", 80),
    "rush": ModeRules(0, -0.1, 10, 0, 0, "pills"),
}


@dataclass
class _Turn:
    """A step while it is played, ``[B]`` each: rewards so far, the dead, and who may eat ghosts."""

    reward: np.ndarray
    died: np.ndarray
    is_strong: np.ndarray


class MiniPacmanGames(Games):
    """``B`` games of MiniPacman side by side; an episode terminates when a ghost eats Pacman.

    Planes of a frame: walls, food, power pills, Pacman, ghosts, edible ghosts, and a bar along the bottom wall, as long
    as the power of the last pill lasts. As in the paper, a frame does not show where ghosts look, nor the level's time.

    Args:
        num_games: ``B``.
        mode: the task, one of :data:`MODES`.
        max_episode_steps: steps after which an episode is truncated; None: never.

    Attributes:
        level: ``[B]``, from 1 on.
        level_steps: ``[B]``, steps since the level started.
        pacman: ``[B]``, Pacman's cell ``row * 19 + column``.
        power: ``[B]``, further steps in which Pacman is fast and eats ghosts.
        ghosts, facing, alive: ``[B, G]``, cell and direction of each ghost, and whether it is there.

    Raises:
        ValueError: for an unknown mode.
    """

    planes = ("wall", "food", "pill", "pacman", "ghost", "edible", "power")
    tiles = (
        Tile(" ", (), _FLOOR_COLOUR),
        Tile("#", ("wall",), _WALL_COLOUR),
        Tile("=", ("power",), _WALL_COLOUR, _PILL_COLOUR, 0.5, is_round=False),
        Tile(".", ("food",), _FLOOR_COLOUR, _FOOD_COLOUR, 0.25),
        Tile("o", ("pill",), _FLOOR_COLOUR, _PILL_COLOUR, 0.6),
        Tile("C", ("pacman",), _FLOOR_COLOUR, _GREEN, 0.9),
        Tile("g", ("edible",), _FLOOR_COLOUR, _YELLOW, 0.8, is_round=False),
        Tile("G", ("ghost",), _FLOOR_COLOUR, _RED, 0.8, is_round=False),
    )

    def __init__(self, num_games: int, *, mode: Mode = "regular", max_episode_steps: int | None = None) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
        super().__init__(num_games, (HEIGHT, WIDTH), 5, max_episode_steps)
        self.rules = MODES[mode]
        self.level, self.level_steps = np.ones(num_games, int), np.zeros(num_games, int)
        self.pacman, self.power = np.zeros(num_games, int), np.zeros(num_games, int)
        self.ghosts, self.facing = np.zeros((num_games, 1), int), np.zeros((num_games, 1), int)
        self.alive = np.zeros((num_games, 1), bool)
        self._next_cell, self._turns, self._is_far = _next_cells(), _ghost_turns(), _far_apart()
        self._floor = np.flatnonzero(_IS_FLOOR)
        self._food_left, self._pills_left = np.zeros(num_games, int), np.zeros(num_games, int)

    def _start(self, rows: np.ndarray) -> None:
        for row in rows:
            self._start_level(row, 1)
        self._draw()

    def _start_level(self, row: int, level: int) -> None:
        generator = self._generator(row)
        cells = generator.permutation(self._floor)
        pacman, pills = cells[0], cells[1 : 1 + NUM_PILLS]
        ghosts = cells[self._is_far[pacman, cells]][: 1 + (level - 1) // 2]
        self._lay(row, pacman, pills, ghosts, generator.integers(4, size=len(ghosts)))
        self.level[row] = level

    def put(self, row: int, pacman: int, pills: Any, ghosts: Any, facing: Any) -> None:
        """Put a position into a game: a maze full of food, with Pacman, power pills and ghosts in these cells.

        Args:
            row: the game.
            pacman: a cell.
            pills: cells.
            ghosts: cells.
            facing: the direction of each ghost.
        """
        self._begin(row)
        self._lay(row, pacman, pills, ghosts, facing)
        self.level[row] = 1
        self._draw()

    def _lay(self, row: int, pacman: int, pills: Any, ghosts: Any, facing: Any) -> None:
        board, count = self.boards[row], len(ghosts)
        board[:] = _FULL_MAZE
        board[FOOD, pacman] = 0
        board[PILL, pills] = PRESENT
        self._food_left[row], self._pills_left[row] = len(self._floor) - 1, len(pills)
        self.pacman[row], self.power[row], self.level_steps[row] = pacman, 0, 0
        if count > self.ghosts.shape[1]:
            more = ((0, 0), (0, count - self.ghosts.shape[1]))
            self.ghosts, self.facing, self.alive = (np.pad(x, more) for x in (self.ghosts, self.facing, self.alive))
        self.alive[row] = np.arange(self.alive.shape[1]) < count
        self.ghosts[row, :count], self.facing[row, :count] = ghosts, facing

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.level_steps += 1
        is_fast = self.power > 0
        self.power -= is_fast
        turn = _Turn(np.full(self.num_games, float(self.rules.step)), np.zeros_like(is_fast), is_fast.copy())
        self._walk(actions, turn)
        if is_fast.any():
            self._walk(np.where(is_fast, actions, STAY), turn)
        self._chase(turn)
        # Games that are over draw nothing, or a reset would not find the stream where a single game has it.
        for row in np.flatnonzero(self._cleared() & ~turn.died & ~self.over):
            self._start_level(int(row), int(self.level[row]) + 1)
        self._draw()
        return turn.reward, turn.died

    def _walk(self, actions: np.ndarray, turn: _Turn) -> None:
        """Move Pacman by one cell, where it eats and meets ghosts."""
        rows, boards = self._rows, self.boards
        self.pacman = self._next_cell[self.pacman, actions]
        food, pill = boards[rows, FOOD, self.pacman] > 0, boards[rows, PILL, self.pacman] > 0
        boards[rows, FOOD, self.pacman] = 0
        turn.reward += self.rules.food * food
        self._food_left -= food
        if pill.any():
            boards[rows, PILL, self.pacman] = 0
            turn.reward += self.rules.pill * pill
            self._pills_left -= pill
            self.power[pill] = POWER_STEPS
            turn.is_strong |= pill
        self._meet(turn)

    def _chase(self, turn: _Turn) -> None:
        """Move the ghosts, which flee from a strong Pacman, by one cell."""
        self.facing = self._turns[turn.is_strong[:, None].astype(int), self.ghosts, self.facing, self.pacman[:, None]]
        self.ghosts = self._next_cell[self.ghosts, self.facing]
        self._meet(turn)

    def _meet(self, turn: _Turn) -> None:
        """Let Pacman eat the ghosts in its cell, or be eaten."""
        met = self.alive & (self.ghosts == self.pacman[:, None])
        if met.any():
            eaten = met & turn.is_strong[:, None]
            self.alive &= ~eaten
            turn.reward += self.rules.ghost * eaten.sum(1)
            dies = met.any(1) & ~turn.is_strong & ~turn.died
            turn.reward += self.rules.death * dies
            turn.died |= dies

    def _cleared(self) -> np.ndarray:
        """Return the games whose level is done, ``[B]`` bool."""
        left = {"food": self._food_left, "pills": self._pills_left, "ghosts": self.alive.sum(1), None: 1}
        cleared = np.equal(left[self.rules.goal], np.zeros(self.num_games))
        if self.rules.level_steps is not None:
            cleared |= self.level_steps >= self.rules.level_steps
        return cleared

    def _draw(self) -> None:
        """Draw what moves into the frames."""
        boards = self.boards
        boards[:, PACMAN:] = 0
        boards[self._rows, PACMAN, self.pacman] = PRESENT
        rows, index = np.nonzero(self.alive)
        boards[rows, np.where(self.power[rows] > 0, EDIBLE, GHOST), self.ghosts[rows, index]] = PRESENT
        boards[:, POWER, -WIDTH:] = _POWER_BARS[self.power]

    def info(self) -> dict[str, np.ndarray]:
        """Return the games' levels, ``[B]``."""
        return {"level": self.level.copy()}


class MiniPacman(GridEnv):
    """Eat, hunt or flee in a maze with ghosts, by the mode.

    The reward of a step, of food, of a power pill, of eating a ghost and of being eaten, and what clears a level:

    ======= ==== ==== ==== ===== ===== =================================
    mode    step food pill ghost death the next level comes
    ======= ==== ==== ==== ===== ===== =================================
    regular    0    1    2     5     0 without food
    avoid    0.1 -0.1   -5   -10   -20 after 128 steps
    hunt       0    0    1    10   -20 without ghosts, or after 80 steps
    ambush     0 -0.1    0    10   -20 without ghosts, or after 80 steps
    rush       0 -0.1   10     0     0 without power pills
    ======= ==== ==== ==== ===== ===== =================================

    - Observation: uint8 ``[7, 15, 19]``, see :class:`MiniPacmanGames`. SB3 takes it for an image, but the
      encoder of its ``CnnPolicy`` needs 36x36 pixels: take ``MlpPolicy``, or give ``CnnPolicy`` a features extractor
      for small images.
    - Action: 0 to 3 move up, down, left, right; 4 stays. A wall stops Pacman.
    - A level begins with food in every cell, 2 power pills and ``1 + (level - 1) // 2`` ghosts. For 19 steps, a power
      pill lets Pacman move by two cells and eat ghosts, which flee from it.
    - An episode terminates when a ghost eats Pacman; the registered time limit truncates it after 3,000 steps.
    - ``info``: ``"level"``, from 1 on.

    Args:
        mode: the task.
        render_mode: None, ``"rgb_array"`` or ``"ansi"``.

    Example:
        >>> import mbrl_wrappers.envs  # registers the ids
        >>> env = gym.make("mbrl_wrappers/MiniPacman-v0", mode="hunt")
    """

    def __init__(self, *, mode: Mode = "regular", render_mode: str | None = None) -> None:
        super().__init__(MiniPacmanGames(1, mode=mode), render_mode)


@functools.cache
def _far_apart() -> np.ndarray:
    """Return whether a ghost may start in one cell if Pacman starts in another, bool ``[H * W, H * W]``."""
    row, column = np.divmod(np.arange(HEIGHT * WIDTH), WIDTH)
    return abs(row[:, None] - row) + abs(column[:, None] - column) >= SAFE_DISTANCE


@functools.cache
def _next_cells() -> np.ndarray:
    """Return the cell ``[H * W, 5]`` to which each action leads from each cell; walls themselves lead nowhere."""
    floor, cells = _IS_FLOOR, np.arange(HEIGHT * WIDTH)
    table = np.repeat(cells[:, None], 5, axis=1)
    for action, offset in enumerate((-WIDTH, WIDTH, -1, 1)):
        table[floor, action] = np.where(floor[cells[floor] + offset], cells[floor] + offset, cells[floor])
    return table


@functools.cache
def _ghost_turns() -> np.ndarray:
    """Return the next direction of a ghost, int8 ``[2, H * W, 4, H * W]``.

    By whether it flees, its cell, its direction and Pacman's cell: the paper's algorithm, tabulated. A ghost follows a
    corridor; at a junction it takes the direction closest to Pacman's, or farthest from it, and never turns back.
    """
    next_cell, cells = _next_cells(), np.arange(HEIGHT * WIDTH)
    turns = np.zeros((2, HEIGHT * WIDTH, 4, HEIGHT * WIDTH), np.int8)
    for cell in np.flatnonzero(_IS_FLOOR):
        allowed = [direction for direction in (DOWN, LEFT, RIGHT, UP) if next_cell[cell, direction] != cell]
        down, right = cells // WIDTH - cell // WIDTH, cells % WIDTH - cell % WIDTH
        towards = {DOWN: down, UP: -down, RIGHT: right, LEFT: -right}
        for facing in range(4):
            if len(allowed) == 2:
                turns[:, cell, facing] = _along(allowed, facing)
            else:
                open_ways = np.array([direction for direction in allowed if direction != _opposite(facing)])
                scores = np.stack([towards[direction] for direction in open_ways])
                turns[0, cell, facing] = open_ways[scores.argmax(0)]
                turns[1, cell, facing] = open_ways[scores.argmin(0)]
    return turns


def _along(allowed: list[int], facing: int) -> int:
    """Return the way on in a corridor with two ways."""
    if facing in allowed:
        return facing
    return allowed[1] if _opposite(facing) == allowed[0] else allowed[0]


def _opposite(direction: int) -> int:
    return {UP: DOWN, DOWN: UP, LEFT: RIGHT, RIGHT: LEFT}[direction]


def _full_maze() -> np.ndarray:
    """Return the board ``[C, H * W]`` of a maze with walls and food alone."""
    board = np.zeros((len(MiniPacmanGames.planes), HEIGHT * WIDTH), np.uint8)
    board[WALL, ~_IS_FLOOR] = board[FOOD, _IS_FLOOR] = PRESENT
    return board


_IS_FLOOR = np.array([character != "#" for character in MAZE.replace("\n", "")])
_FULL_MAZE = _full_maze()
# The bottom row's cells ``[POWER_STEPS + 1, W]`` for each number of steps that the power lasts.
_POWER_BARS = np.where(np.arange(WIDTH) < np.arange(POWER_STEPS + 1)[:, None], PRESENT, 0).astype(np.uint8)
