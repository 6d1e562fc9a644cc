"""What a game of two players is here: hundreds of games at once, in flat arrays.

Two players place stones on a board in turns, and what one of them wins the other loses. All methods take and return
arrays whose first axis counts games, and no game sees its neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from mbrl_wrappers.acceleration.kernels import inlined, kernel
from mbrl_wrappers.arguments import check_whole_number


class State(NamedTuple):
    """Where ``B`` games stand."""

    board: np.ndarray  # [B, H, W] int8: 1 for a stone of player 0, -1 for one of player 1, 0 for an empty cell
    player: np.ndarray  # [B] int8: 0 or 1, who is to move
    ended: np.ndarray  # [B] bool
    outcome: np.ndarray  # [B] int8 from the view of the player to move: 1 won, -1 lost, 0 a draw, or not over yet


class Symmetry(NamedTuple):
    """A way to turn or mirror a game into one that is worth the same.

    Place ``i`` of the turned game shows what place ``cells[i]`` of the original shows, and action ``i`` of the
    turned game does there what action ``actions[i]`` does in the original.
    """

    actions: np.ndarray  # [A] int64
    cells: np.ndarray  # [H * W] int64

    def turn_actions(self, values: np.ndarray) -> np.ndarray:
        """Turn a number for each action, such as a mask or a policy: ``[..., A]`` to ``[..., A]``."""
        return values[..., self.actions]

    def turn_planes(self, planes: np.ndarray) -> np.ndarray:
        """Turn boards or observations: ``[..., H, W]`` to ``[..., H, W]``."""
        flat = planes.reshape(*planes.shape[:-2], -1)
        return flat[..., self.cells].reshape(planes.shape)


class Look(NamedTuple):
    """How a board is drawn; colours are red, green and blue from 0 to 255."""

    shape: str  # of a cell: "square", "disc" or "hexagon"
    cell: tuple[int, int, int]
    frame: tuple[int, int, int]
    stones: tuple[tuple[int, int, int], tuple[int, int, int]]  # of player 0 and of player 1


class Game(ABC):
    """The rules of a game, over ``B`` games at once.

    Attributes:
        name: as in the id of the game's env.
        height: ``H``, of the board.
        width: ``W``, of the board.
        num_actions: ``A``.
        num_planes: ``C``, of an observation.
        max_length: no game has more moves.
        symmetries: the identity first.
        look: how a board is drawn.
    """

    name: str
    height: int
    width: int
    num_actions: int
    num_planes = 2
    max_length: int
    symmetries: list[Symmetry]
    look: Look

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self.num_planes, self.height, self.width

    def initial(self, n: int) -> State:
        """Start ``n`` games.

        Raises:
            ValueError: if ``n`` is not a whole number of at least 1.
        """
        check_whole_number("n", n)
        board = np.zeros((n, self.height, self.width), np.int8)
        return State(board, np.zeros(n, np.int8), np.zeros(n, np.bool_), np.zeros(n, np.int8))

    def step(self, state: State, action: ArrayLike) -> State:
        """Make a move in every game. A game that has ended stays as it is.

        Actions are not checked: one out of range may write into foreign memory. :meth:`check` refuses such actions.

        Args:
            state: of ``B`` games, which is left as it is.
            action: ``[B]`` whole numbers, legal where the game goes on.

        Returns:
            The state after the moves, in new arrays.
        """
        after = State(*[field.copy() for field in state])
        self._play(after, np.asarray(action, np.int64))
        return after

    @abstractmethod
    def _play(self, state: State, action: np.ndarray) -> None:
        """Make a move in every game that goes on, in place; ``action`` is ``[B]`` int64."""

    @abstractmethod
    def legal_actions(self, state: State) -> np.ndarray:
        """``[B, A]`` bool: the moves that the rules allow, none in a game that has ended."""

    def observation(self, state: State) -> np.ndarray:
        """See the boards from the view of the player to move.

        Returns:
            ``[B, C, H, W]`` float32 of 0 and 1: the stones of the player to move, those of the other, and the further
            planes that the game's class describes.
        """
        n = len(state.board)
        planes = np.zeros((n, *self.observation_shape), np.float32)
        _see(state.board.reshape(n, -1), state.player, planes.reshape(n, self.num_planes, -1))
        return planes

    def state_of(self, planes: np.ndarray) -> State:
        """Read the states of games that go on off their observations ``[B, C, H, W]``: player 0 is to move.

        The inverse of :meth:`observation`, but for who is to move, where that makes no difference.
        """
        board = np.ascontiguousarray((planes[:, 0] - planes[:, 1]).astype(np.int8))
        zeros = np.zeros((3, len(board)), np.int8)
        return State(board, zeros[0], zeros[1].astype(np.bool_), zeros[2])

    def check(self, state: State, action: ArrayLike) -> None:
        """Refuse actions that the rules do not allow. A game that has ended takes any.

        Args:
            state: of ``B`` games.
            action: ``[B]``.

        Raises:
            ValueError: naming the game, its action and the legal ones.
        """
        given = np.asarray(action)
        if given.shape != state.player.shape or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(
                f"action must be {len(state.player)} whole numbers, got {given.dtype} {given.shape}: {action!r}"
            )
        legal = self.legal_actions(state)
        in_range = (given >= 0) & (given < self.num_actions)
        allowed = legal[np.arange(len(given)), np.where(in_range, given, 0)] & in_range
        wrong = np.flatnonzero(~(allowed | state.ended))
        if len(wrong):
            game = wrong[0]
            raise ValueError(
                f"action must be legal, got {given[game]} in game {game} of {self.name}, "
                f"where these are: {np.flatnonzero(legal[game]).tolist()}"
            )

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _see_vectorised(board: np.ndarray, player: np.ndarray, planes: np.ndarray) -> None:
    mine = board * (1 - 2 * player)[:, None]
    planes[:, 0] = mine == 1
    planes[:, 1] = mine == -1


@kernel(_see_vectorised)
def _see(board: np.ndarray, player: np.ndarray, planes: np.ndarray) -> None:
    """Write the first two planes ``[B, C, cells]`` of boards ``[B, cells]``."""
    for game in range(len(player)):
        mine = np.int8(1 - 2 * player[game])
        _mark(board[game], mine, planes[game, 0])
        _mark(board[game], -mine, planes[game, 1])


@inlined
def _mark(cells: np.ndarray, stone: np.int8, plane: np.ndarray) -> None:
    for cell in range(len(cells)):
        plane[cell] = cells[cell] == stone


def square_symmetries(size: int, turns: list[tuple[bool, int]], num_extra: int = 0) -> list[Symmetry]:
    """Symmetries of a game on a square board in which an action names a cell.

    Args:
        size: of the board.
        turns: for each symmetry, whether the board is transposed, and by how many right angles it is turned after that.
        num_extra: actions behind those that name a cell, which no symmetry changes.
    """
    board = np.arange(size * size).reshape(size, size)
    extra = size * size + np.arange(num_extra)
    cells = [np.rot90(board.T if transposed else board, angles).ravel() for transposed, angles in turns]
    return [Symmetry(np.concatenate([turned, extra]), turned) for turned in cells]


ALL_TURNS = [(transposed, angles) for transposed in (False, True) for angles in range(4)]


def take_games(state: State, rows: Any) -> State:
    """Pick games by anything that indexes the first axis of an array; a game may be picked more than once."""
    return State(*[field[rows] for field in state])


# (game, state, generator) -> action [B]. In a game that has ended the action means nothing.
Opponent: TypeAlias = Callable[[Game, State, np.random.Generator], np.ndarray]
