"""How good a player is: matches against opponents of known strength, and agreement with a perfect player."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.games.base import Game, Opponent, State
from mbrl_wrappers.envs.games.matches import MatchResult, play_match
from mbrl_wrappers.envs.games.opponents import find_opponent
from mbrl_wrappers.envs.games.perfect import perfect_solver
from mbrl_wrappers.seeding import stream_seed

LADDER = ("random", "one_ply", "uct_100", "uct_1000")
_MORE_STONES = 4  # than a solver needs, after which it takes milliseconds for a position


def default_ladder(game: Game) -> tuple[str, ...]:
    """Return opponents of rising strength; the last one is perfect where the game is solved from its start."""
    return (*LADDER, "perfect") if _is_solved(game) else LADDER


def climb_ladder(
    game: Game, player: Opponent, opponents: Sequence[str], num_games: int = 100, seed: int | None = 0
) -> dict[str, MatchResult]:
    """Let a player meet each opponent in a match of ``num_games``, in half of which it begins.

    Raises:
        ValueError: for an opponent that is not known.
    """
    known = {name: find_opponent(name) for name in opponents}
    return {
        name: play_match(game, player, opponent, num_games, stream_seed(seed, name)) for name, opponent in known.items()
    }


def agreement(game: Game, player: Opponent, positions: State, seed: int | None = 0) -> float:
    """Return in what share of positions a player's move keeps what the position is worth to a perfect player.

    Args:
        game: the rules.
        player: whose moves are judged.
        positions: of games that go on, within the solver's reach.
        seed: of the player's random numbers.

    Raises:
        ValueError: if the game has no solver, or a position is out of its reach.
    """
    action = player(game, positions, np.random.default_rng(seed))
    _, best = perfect_solver(game).solve(positions)
    return float(best[np.arange(len(action)), action].mean())


def solvable_positions(game: Game, count: int = 200, seed: int | None = 0) -> State | None:
    """Draw positions of random games that a solver judges at once; None if the game has no solver.

    They have from 14 to 21 stones in Connect Four, 10 to 17 in Hex 5 x 5, and up to 7 in TicTacToe.
    """
    try:
        solver = perfect_solver(game)
    except ValueError:
        return None
    return random_positions(game, solver.least_stones and solver.least_stones + _MORE_STONES, count, seed)


def random_positions(game: Game, stones: int, count: int, seed: int | None = 0) -> State:
    """Draw positions after ``stones`` to ``stones + 7`` random moves in games that go on.

    Raises:
        ValueError: if ``stones`` is not a whole number of at least 0, or ``count`` not one of at least 1.
    """
    check_whole_number("stones", stones, 0)
    check_whole_number("count", count)
    generator = np.random.default_rng(seed)
    found: list[State] = []
    while len(found) < count:
        state, wanted = game.initial(1), stones + int(generator.integers(8))
        for _ in range(wanted):
            legal = np.flatnonzero(game.legal_actions(state)[0])
            state = game.step(state, generator.choice(legal, 1)) if len(legal) else state
        if not state.ended[0]:
            found.append(state)
    return State(*map(np.concatenate, zip(*found, strict=True)))


def _is_solved(game: Game) -> bool:
    try:
        return perfect_solver(game).least_stones == 0
    except ValueError:
        return False
