"""Grid games side by side: the core under the single env and the two vectors of each grid task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.seeding import stream_seed
from mbrl_wrappers.tasks.grids.tiles import Tile, draw_tiles, write_tiles

UP, DOWN, LEFT, RIGHT, STAY = range(5)

# A cell of a plane has one of these two values, so that an image encoder which divides by 255 gets zeros and ones.
ABSENT, PRESENT = 0, 255


class GameStep(NamedTuple):
    """What a step of ``B`` games brought, except the frames after it.

    Attributes:
        reward: ``[B]`` float64.
        terminated: ``[B]`` bool.
        truncated: ``[B]`` bool, the time limit is reached; may be True together with ``terminated``.
    """

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Games(ABC):
    """``B`` games of one kind side by side.

    No game knows of another: each draws from a random stream of its own, and none restarts by itself. A game's frame is
    a stack of planes ``[C, H, W]``, one for each kind of thing; a cell is 255 where there is such a thing, else 0.

    Args:
        num_games: ``B``.
        size: ``(H, W)``.
        num_actions: the number of actions.
        max_episode_steps: steps after which an episode is truncated; None: never.

    Attributes:
        boards: uint8 ``[B, C, H * W]``, the frames of all games.
        steps: ``[B]``, steps since the games started.
        over: ``[B]`` bool, the games that have ended and wait for their reset.
    """

    planes: ClassVar[tuple[str, ...]]
    tiles: ClassVar[tuple[Tile, ...]]

    def __init__(self, num_games: int, size: tuple[int, int], num_actions: int, max_episode_steps: int | None) -> None:
        check_whole_number("num_games", num_games)
        if max_episode_steps is not None:
            check_whole_number("max_episode_steps", max_episode_steps)
        self.num_games = num_games
        self.max_episode_steps = max_episode_steps
        self.observation_space = spaces.Box(ABSENT, PRESENT, (len(self.planes), *size), np.uint8)
        self.action_space = spaces.Discrete(num_actions)
        height, width = size
        self.boards = np.zeros((num_games, len(self.planes), height * width), np.uint8)
        self.steps = np.zeros(num_games, int)
        self.over = np.zeros(num_games, bool)
        self._rows = np.arange(num_games)
        self._generators: list[np.random.Generator | None] = [None] * num_games
        self._is_started = False

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Seed the random streams of the games; a game whose seed is None keeps its own.

        Raises:
            ValueError: if there is not one seed for each game, or one is no whole number of at least 0.
        """
        if len(seeds) != self.num_games:
            raise ValueError(f"seeds must hold one for each of {self.num_games} games, got {seeds}")
        for row, seed in enumerate(seeds):
            if seed is not None:
                self._generators[row] = np.random.default_rng(stream_seed(seed, "games"))

    def _generator(self, row: int) -> np.random.Generator:
        """Return a game's random stream, made when it is first needed, since that takes longer than a step."""
        generator = self._generators[row]
        if generator is None:
            generator = self._generators[row] = np.random.default_rng()
        return generator

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Start games anew: those that a bool mask ``[B]`` marks, or all."""
        started = self._rows if rows is None else np.flatnonzero(rows)
        self._begin(started)
        self._start(started)

    def begin_as(self, row: int, options: Mapping[str, Any]) -> None:  # noqa: B027 - most games have no options
        """Let a game that was reset begin as the options of a reset say; a game without any ignores them."""

    def _begin(self, rows: Any) -> None:
        self.steps[rows], self.over[rows], self._is_started = 0, False, True

    def step(self, actions: Any) -> GameStep:
        """Take a step in every game.

        Args:
            actions: whole numbers ``[B]``.

        Raises:
            ValueError: for actions of another shape or kind, or that the games do not have.
            ResetNeeded: if no game was ever started.
        """
        if not self._is_started:
            raise gym.error.ResetNeeded("call reset before step")
        reward, terminated = self._play(self._checked(actions))
        self.steps += 1
        truncated = np.zeros_like(terminated)
        if self.max_episode_steps is not None:
            truncated = self.steps >= self.max_episode_steps
        self.over |= terminated | truncated
        return GameStep(reward, terminated, truncated)

    def _checked(self, actions: Any) -> np.ndarray:
        array, num_actions = np.asarray(actions), self.action_space.n
        if array.shape != (self.num_games,) or array.dtype.kind not in "iu":
            raise ValueError(f"actions must be whole numbers of shape ({self.num_games},), got {actions!r}")
        if array.min() < 0 or array.max() >= num_actions:
            raise ValueError(f"actions must be from 0 to {num_actions - 1}, got {actions!r}")
        return array

    def observations(self) -> np.ndarray:
        """Return the frames of all games, uint8 ``[B, C, H, W]``: a copy."""
        return self.boards.reshape(-1, *self.observation_space.shape).copy()

    @abstractmethod
    def _start(self, rows: np.ndarray) -> None:
        """Start the games of these numbers, each by draws from its own generator."""

    @abstractmethod
    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move all games by valid actions ``[B]``; return rewards and terminations ``[B]``.

        A game that is over may move on, but must not draw from its generator.
        """

    def info(self) -> dict[str, np.ndarray]:
        """Return what an env's ``info`` tells of the games, ``[B]`` each."""
        return {}

    def text(self, row: int) -> str:
        """Return a game's frame as text, a character for each cell."""
        return write_tiles(self.tiles, self.planes, self._frame(row))

    def picture(self, row: int) -> np.ndarray:
        """Return a game's frame in colours, uint8 ``[16 H, 16 W, 3]``."""
        return draw_tiles(self.tiles, self.planes, self._frame(row))

    def _frame(self, row: int) -> np.ndarray:
        return self.boards[row].reshape(self.observation_space.shape)
