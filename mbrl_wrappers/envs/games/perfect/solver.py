"""What a solver is: it knows the value of positions, and so the moves that keep it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from mbrl_wrappers.envs.games.base import Game, State, take_games


class Solver(ABC):
    """Knows what a position is worth if neither player makes a mistake.

    Attributes:
        game: whose positions it solves.
        least_stones: positions with fewer stones take too long.
    """

    game: Game
    least_stones = 0

    def is_in_reach(self, state: State) -> np.ndarray:
        """``[B]`` bool: the positions that have ended, or enough stones to be solved in about a second."""
        return state.ended | ((state.board != 0).sum((1, 2)) >= self.least_stones)

    def solve(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Find what positions are worth, and the moves that keep it.

        Args:
            state: of ``B`` games that were reached by legal moves.

        Returns:
            ``[B]`` int8, 1 where the player to move wins, -1 where they lose, 0 where it is a draw; and ``[B, A]``
            bool, the moves after which it is still so: none where the game has ended.

        Raises:
            ValueError: if a position has fewer stones than ``least_stones``.
        """
        early = np.flatnonzero(~self.is_in_reach(state))
        if len(early):
            stones = np.count_nonzero(state.board[early[0]])
            raise ValueError(
                f"state must have at least {self.least_stones} stones in {self.game.name} for its solver, "
                f"got {stones} in game {early[0]}"
            )
        legal = self.game.legal_actions(state)
        rows, actions = legal.nonzero()
        after = self.game.step(take_games(state, rows), actions)
        values = np.full(legal.shape, -2, np.int8)
        values[rows, actions] = -np.where(after.ended, after.outcome, self._values(after))
        value = np.where(state.ended, state.outcome, values.max(1))
        return value, legal & (values == value[:, None])

    @abstractmethod
    def _values(self, state: State) -> np.ndarray:
        """``[B]`` int8: what positions are worth to the player to move; anything where the game has ended."""
