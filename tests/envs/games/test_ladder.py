"""Measures of a player: opponents in order, and agreement with a perfect player."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_wrappers.envs.games import Game, State, make_game
from mbrl_wrappers.envs.games.ladder import (
    agreement,
    climb_ladder,
    default_ladder,
    random_positions,
    solvable_positions,
)
from mbrl_wrappers.envs.games.opponents import one_ply_player, perfect_player, random_player
from mbrl_wrappers.envs.games.perfect import perfect_solver

TIC_TAC_TOE = make_game("TicTacToe")


def blunderer(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
    """Make a move that loses something, where there is one."""
    legal, best = game.legal_actions(state), perfect_solver(game).solve(state)[1]
    return np.where(legal & ~best, 2, legal).argmax(1)


def test_agreement_is_the_share_of_moves_that_keep_the_worth() -> None:
    positions = random_positions(TIC_TAC_TOE, 0, 60)
    assert agreement(TIC_TAC_TOE, perfect_player, positions) == 1.0
    # The blunderer is right only where every move is.
    best = perfect_solver(TIC_TAC_TOE).solve(positions)[1]
    harmless = (best == TIC_TAC_TOE.legal_actions(positions)).all(1).mean()
    assert agreement(TIC_TAC_TOE, blunderer, positions) == harmless < 0.7
    assert harmless < agreement(TIC_TAC_TOE, random_player, positions) < 1.0


@pytest.mark.parametrize(("name", "least", "most"), [("TicTacToe", 0, 7), ("ConnectFour", 14, 21), ("Hex5", 10, 17)])
def test_positions_go_on_and_are_in_the_solver_s_reach(name: str, least: int, most: int) -> None:
    game = make_game(name)
    positions = solvable_positions(game, 40, seed=3)
    assert positions is not None and not positions.ended.any()
    stones = np.count_nonzero(positions.board, axis=(1, 2))
    assert least <= stones.min() and stones.max() <= most
    assert perfect_solver(game).is_in_reach(positions).all()
    again = solvable_positions(game, 40, seed=3)
    assert again is not None and np.array_equal(again.board, positions.board)


def test_games_without_a_solver_have_no_perfect_rung() -> None:
    assert default_ladder(TIC_TAC_TOE)[-1] == "perfect"
    for name in ("ConnectFour", "Gomoku9"):
        assert "perfect" not in default_ladder(make_game(name))
    assert solvable_positions(make_game("Gomoku9")) is None


def test_a_better_player_climbs_higher() -> None:
    better, worse = (
        climb_ladder(TIC_TAC_TOE, player, ["random", "one_ply", "uct_20"], 40)
        for player in (perfect_player, random_player)
    )
    assert list(better) == ["random", "one_ply", "uct_20"]
    for name, result in better.items():
        assert sum(result) == 40 and result.losses == 0 and result.score > worse[name].score


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: climb_ladder(TIC_TAC_TOE, one_ply_player, ["grandmaster"]), "opponent must be one of .*'grandmaster'"),
        (lambda: random_positions(TIC_TAC_TOE, -1, 3), "stones must be a whole number of at least 0, got -1"),
        (lambda: random_positions(TIC_TAC_TOE, 1, 0), "count must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
