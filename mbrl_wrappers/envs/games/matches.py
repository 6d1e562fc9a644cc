"""Matches between players of a game, many games at once, and ratings from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.games.base import Game, Opponent, State, take_games
from mbrl_wrappers.envs.games.opponents import random_player
from mbrl_wrappers.seeding import stream_seed


class MatchResult(NamedTuple):
    """Games that the first of two players won, drew and lost."""

    wins: int
    draws: int
    losses: int

    @property
    def score(self) -> float:
        """The share of points: a draw is half a win."""
        return (self.wins + 0.5 * self.draws) / sum(self)


def play_match(
    game: Game, one: Opponent, other: Opponent, num_games: int, seed: int | None = 0, random_opening: int = 0
) -> MatchResult:
    """Let two players meet; each begins in every other game.

    Two players without randomness play the same two games over and over, unless games begin with random moves.

    Args:
        game: the rules.
        one: a player, from whose view the result is.
        other: the other player.
        num_games: number of games, all of which are played at once.
        seed: of all random numbers.
        random_opening: the number of random moves that games begin with, up to half of the longest game. The games of a
            pair, one begun by each player, have the same ones.

    Raises:
        ValueError: for an argument out of its range, or a player that makes an illegal move.
    """
    check_whole_number("num_games", num_games)
    check_whole_number("random_opening", random_opening, 0)
    if random_opening > game.max_length // 2:
        raise ValueError(f"random_opening must be at most {game.max_length // 2} in {game.name}, got {random_opening}")
    opening = np.random.default_rng(stream_seed(seed, "opening"))
    pairs = open_games(game, -(-num_games // 2), random_opening, opening)
    state, begins = take_games(pairs, np.arange(num_games) // 2), np.arange(num_games) % 2 == 0
    players = {True: one, False: other}
    generators = {True: "one", False: "other"}
    draws = {is_one: np.random.default_rng(stream_seed(seed, name)) for is_one, name in generators.items()}
    moves_first = state.player.copy()
    while not state.ended.all():
        is_ones = ((state.player == moves_first) == begins) & ~state.ended
        action = np.zeros(num_games, np.int64)
        for is_one, player in players.items():
            rows = np.flatnonzero((is_ones == is_one) & ~state.ended)
            if len(rows):
                action[rows] = player(game, take_games(state, rows), draws[is_one])
        game.check(state, action)
        state = game.step(state, action)
    outcome = np.where((state.player == moves_first) == begins, state.outcome, -state.outcome)
    return MatchResult(*(int((outcome == points).sum()) for points in (1, 0, -1)))


def open_games(game: Game, num_games: int, moves: int, generator: np.random.Generator) -> State:
    """Begin games with a number of random moves, anew where they end by them."""
    state = game.initial(num_games)
    for _ in range(moves):
        state = game.step(state, random_player(game, state, generator))
    ended = np.flatnonzero(state.ended)
    if len(ended):
        again = open_games(game, len(ended), moves, generator)
        for field, fresh in zip(state, again, strict=True):
            field[ended] = fresh
    return state


def round_robin(
    game: Game, players: Mapping[str, Opponent], num_games: int, seed: int | None = 0, random_opening: int = 0
) -> dict[tuple[str, str], MatchResult]:
    """Let every player meet every other in a match, see :func:`play_match`."""
    return {
        (one, other): play_match(
            game, players[one], players[other], num_games, stream_seed(seed, f"{one} {other}"), random_opening
        )
        for one, other in combinations(players, 2)
    }


def elo_ratings(results: Mapping[tuple[str, str], MatchResult], iterations: int = 1000) -> dict[str, float]:
    """Return Elo ratings of mean 0 that explain results best: their maximum likelihood, draws as half wins.

    A player with rating R beats one with rating S with probability ``1 / (1 + 10^((S - R) / 400))`` (the Bradley-Terry
    model, fitted by Hunter's minorisation-maximisation, 2004). So that ratings stay finite where a player has won or
    lost all games, every pair has one draw more than it played.

    Args:
        results: of matches, by the names of the two players.
        iterations: of the fit.
    """
    names: Sequence[str] = sorted({name for pair in results for name in pair})
    games, points = np.zeros((2, len(names), len(names)))
    for (one, other), result in results.items():
        i, j = names.index(one), names.index(other)
        games[[i, j], [j, i]] += sum(result) + 1
        points[i, j] += result.wins + 0.5 * (result.draws + 1)
        points[j, i] += result.losses + 0.5 * (result.draws + 1)
    strength = np.ones(len(names))
    for _ in range(iterations):
        pairs = games / (strength[:, None] + strength)
        strength = points.sum(1) / pairs.sum(1)
        strength /= np.exp(np.log(strength).mean())
    return dict(zip(names, (400 * np.log10(strength)).tolist(), strict=True))
