"""Search in games: the adapter to a game's rules, and values by random play instead of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from mbrl_wrappers.arguments import check_number
from mbrl_wrappers.planners.tree.records import Array, Root, Step

# ``(states, or what describes them) -> (logits [B, A], value [B] for the player to move)``.
Evaluate = Callable[[Any], tuple[Array, Array]]


class GameState(Protocol):
    """The fields that each game's state has in addition to its board; arrays ``[B]``.

    Attributes:
        ended: bool.
        outcome: for the player to move: 1 won, -1 lost, 0 a draw or not ended.
    """

    @property
    def ended(self) -> np.ndarray: ...  # noqa: D102

    @property
    def outcome(self) -> np.ndarray: ...  # noqa: D102


class Game(Protocol):
    """The rules of a game of two players who alternate, for ``B`` games at once."""

    max_length: int

    def step(self, state: Any, action: np.ndarray) -> Any:
        """Return the states after the actions ``[B]``."""

    def legal_actions(self, state: Any) -> np.ndarray:
        """Return ``[B, A]`` bool, all False in ended games."""


class GameExpansion:
    """A game as a search sees it.

    Args:
        game: the rules.
        evaluate: such as a network, or :class:`Rollouts`.
    """

    def __init__(self, game: Game, evaluate: Evaluate) -> None:
        self.game = game
        self.evaluate = evaluate

    def root(self, state: Any) -> Root:
        """Return the states to search from."""
        logits, value = self.evaluate(state)
        return Root(state, logits, value, self.game.legal_actions(state))

    def __call__(self, state: Any, action: np.ndarray) -> tuple[Any, Step]:
        """Take a step, see :data:`~mbrl_wrappers.planners.tree.records.Expand`."""
        state = self.game.step(state, action)
        logits, value = self.evaluate(state)
        # The player who moved has won what the one to move has lost.
        return state, Step(-state.outcome, state.ended, logits, value, self.game.legal_actions(state))


class Rollouts:
    """Values of states by one random game from each, with equal logits for all actions: UCT without a network.

    With ``evaluate``, logits come from there, and the value is a mix of both, as in Expert Iteration (Anthony et al.
    2017), which adds ``w_v`` times the network's value to the mean outcome: that is ``weight = w_v / (1 + w_v)``.

    Args:
        game: the rules.
        generators: one for each state, not those of the search, so that each root's games depend on its own.
        evaluate: a network.
        weight: the share of the network's value, in [0, 1].

    Raises:
        ValueError: for a weight outside [0, 1], or one without a network.
    """

    def __init__(
        self,
        game: Game,
        generators: Sequence[np.random.Generator],
        evaluate: Evaluate | None = None,
        weight: float = 0.0,
    ) -> None:
        check_number("weight", weight, 0, 1)
        if evaluate is None and weight > 0:
            raise ValueError(f"weight must be 0 without evaluate, got {weight}")
        self.game = game
        self.generators = generators
        self.evaluate = evaluate
        self.weight = weight

    def __call__(self, state: Any) -> tuple[Array, Array]:
        """Evaluate states, see :data:`Evaluate`."""
        outcome = self._play(state)
        if self.evaluate is None:
            return np.zeros(self.game.legal_actions(state).shape), outcome
        logits, value = self.evaluate(state)
        return logits, (1 - self.weight) * outcome + self.weight * np.asarray(value)

    def _play(self, state: Any) -> np.ndarray:
        """Return the outcomes ``[B]`` of random games for the player who is to move now."""
        draws = np.array([generator.random(self.game.max_length) for generator in self.generators])
        sign = np.ones(len(draws))  # of the player to move: games that have ended stay as they are
        for draw in draws.T:
            if state.ended.all():
                break
            cumulative = self.game.legal_actions(state).cumsum(1)  # [B, A]
            wanted = (draw * cumulative[:, -1]).astype(np.int64) + 1
            sign = np.where(state.ended, sign, -sign)
            state = self.game.step(state, (cumulative == wanted[:, None]).argmax(1))
        return sign * state.outcome
