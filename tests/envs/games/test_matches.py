"""Matches and ratings: who begins, who has won, and what a rating says."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_wrappers.envs.games import Game, State, make_game
from mbrl_wrappers.envs.games.matches import MatchResult, elo_ratings, open_games, play_match, round_robin
from mbrl_wrappers.envs.games.opponents import one_ply_player, perfect_player, random_player
from mbrl_wrappers.envs.games.searching import uct_player

TIC_TAC_TOE = make_game("TicTacToe")


def first_cell(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
    return game.legal_actions(state).argmax(1)


def illegal(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
    return np.full(len(state.player), game.num_actions)


def test_a_match_counts_from_the_first_player_s_view() -> None:
    result = play_match(TIC_TAC_TOE, perfect_player, random_player, 40)
    turned = play_match(TIC_TAC_TOE, random_player, perfect_player, 40)
    assert sum(result) == sum(turned) == 40
    assert result.losses == turned.wins == 0 and result.wins > 20 and turned.losses > 20
    assert result.score > 0.7 > 0.3 > turned.score


def test_each_player_begins_in_every_other_game() -> None:
    """Whoever begins fills the first row's way: the first free cell wins for the one who begins."""
    result = play_match(TIC_TAC_TOE, first_cell, first_cell, 10)
    assert result == MatchResult(5, 0, 5)


@pytest.mark.parametrize("opening", [1, 2, 3])
def test_the_games_of_a_pair_begin_with_the_same_random_moves(opening: int) -> None:
    """So that players who are equal win as often as they lose, and games differ."""
    seen: list[np.ndarray] = []

    def watching(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
        seen.append(state.board)
        return first_cell(game, state, generator)

    result = play_match(TIC_TAC_TOE, watching, first_cell, 200, random_opening=opening)
    assert result.wins == result.losses > 20 and sum(result) == 200
    assert (np.abs(seen[0]).sum((1, 2)) == opening).all()  # of the 100 games that it begins
    assert len(np.unique(seen[0], axis=0)) > 5
    assert play_match(TIC_TAC_TOE, perfect_player, random_player, 41, random_opening=4).wins > 20


def test_an_opening_that_ended_is_drawn_anew() -> None:
    """More than half of all games of Connect Four have ended after 21 random moves."""
    state = open_games(make_game("ConnectFour"), 150, 21, np.random.default_rng(0))
    assert not state.ended.any() and (np.abs(state.board).sum((1, 2)) == 21).all()


def test_perfect_players_draw_and_draws_are_half_points() -> None:
    result = play_match(TIC_TAC_TOE, perfect_player, perfect_player, 30)
    assert result == MatchResult(0, 30, 0) and result.score == 0.5


def test_a_seed_is_a_match() -> None:
    games = [play_match(TIC_TAC_TOE, one_ply_player, random_player, 50, seed) for seed in (3, 3, 4)]
    assert games[0] == games[1] != games[2]


def test_uct_beats_chance_and_finds_the_draw() -> None:
    assert play_match(TIC_TAC_TOE, uct_player(60), random_player, 30).losses <= 2
    assert play_match(TIC_TAC_TOE, uct_player(300), perfect_player, 10).draws >= 8


def test_an_illegal_move_is_refused() -> None:
    with pytest.raises(ValueError, match="action must be legal, got 9 in game 1 of TicTacToe"):
        play_match(TIC_TAC_TOE, first_cell, illegal, 2)
    with pytest.raises(ValueError, match="num_games must be a whole number of at least 1, got 0"):
        play_match(TIC_TAC_TOE, first_cell, first_cell, 0)
    with pytest.raises(ValueError, match=r"random_opening must be a whole number of at least 0, got 0\.5"):
        play_match(TIC_TAC_TOE, first_cell, first_cell, 2, random_opening=0.5)
    with pytest.raises(ValueError, match="random_opening must be at most 4 in TicTacToe, got 5"):
        play_match(TIC_TAC_TOE, first_cell, first_cell, 2, random_opening=5)


def test_ratings_explain_the_expected_score() -> None:
    """With many games, the ratings of two players give back the share of points between them."""
    ratings = elo_ratings({("a", "b"): MatchResult(60_000, 20_000, 20_000)})
    expected = 1 / (1 + 10 ** ((ratings["b"] - ratings["a"]) / 400))
    assert expected == pytest.approx(0.7, abs=1e-4) and sum(ratings.values()) == pytest.approx(0, abs=1e-6)


def test_ratings_are_consistent_across_three_players() -> None:
    """Results drawn from known strengths give the strengths back."""
    strengths = {"weak": -200.0, "middle": 50.0, "strong": 150.0}
    results = {}
    for one, other in (("weak", "middle"), ("weak", "strong"), ("middle", "strong")):
        share = 1 / (1 + 10 ** ((strengths[other] - strengths[one]) / 400))
        results[one, other] = MatchResult(round(1e6 * share), 0, round(1e6 * (1 - share)))
    assert elo_ratings(results) == pytest.approx(strengths, abs=0.1)


def test_a_player_that_wins_all_has_a_finite_rating() -> None:
    ratings = elo_ratings({("a", "b"): MatchResult(20, 0, 0)})
    assert 300 < ratings["a"] - ratings["b"] < 1000


def test_everybody_meets_everybody() -> None:
    players = {"random": random_player, "one_ply": one_ply_player, "perfect": perfect_player}
    results = round_robin(TIC_TAC_TOE, players, 30)
    assert set(results) == {("random", "one_ply"), ("random", "perfect"), ("one_ply", "perfect")}
    ratings = elo_ratings(results)
    assert ratings["random"] < ratings["one_ply"] < ratings["perfect"]
