"""Search in games, and values by random play."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbrl_wrappers.planners.tree import UCT, GameExpansion, Rollouts, TreeSearch, root_generators
from testing.trees import Board, TicTacToe

GAME = TicTacToe()


def rows(board: Board, index: Any) -> Board:
    return Board(*(field[index] for field in board))


def test_a_step_in_a_game_rewards_the_player_who_moved() -> None:
    expansion = GameExpansion(GAME, GAME.perfect)
    board = GAME.after("0314", "0314", "01243576")
    state, step = expansion(board, np.array([2, 8, 8]))
    assert step.reward.tolist() == [1, 0, 0]  # a win, a move, a draw
    assert step.ended.tolist() == [True, False, True]
    assert not step.legal[step.ended].any() and step.legal[1].sum() == 4
    np.testing.assert_array_equal(state.cells, GAME.step(board, np.array([2, 8, 8])).cells)


def test_outcomes_of_random_games_are_those_of_the_player_to_move() -> None:
    for moves, value in (("03145768", 1.0), ("01243576", 0.0)):  # one cell is left: it wins, it draws
        assert Rollouts(GAME, root_generators(0, 1))(GAME.after(moves))[1] == [value]


def exact_mean(board: Board) -> float:
    """The mean outcome of random games for the player to move."""
    if board.ended[0]:
        return float(board.outcome[0])
    return float(np.mean([-exact_mean(GAME.step(board, np.array([a]))) for a in np.flatnonzero(board.cells[0] == 0)]))


@pytest.mark.parametrize("moves", ["031", "04", "0421"])
def test_random_games_have_the_right_mean(moves: str) -> None:
    board = GAME.after(moves)
    size = 4000
    logits, values = Rollouts(GAME, root_generators(0, size))(rows(board, np.zeros(size, int)))
    assert logits.shape == (size, 9) and not logits.any()
    np.testing.assert_allclose(values.mean(), exact_mean(board), atol=5 / size**0.5)


def test_random_games_of_a_root_depend_on_its_own_generator() -> None:
    board = rows(GAME.initial(1), np.zeros(20, int))
    some = [3, 11]
    together = Rollouts(GAME, root_generators(0, 20))
    generators = root_generators(0, 20)
    apart = Rollouts(GAME, [generators[i] for i in some])
    for _ in range(5):
        np.testing.assert_array_equal(apart(rows(board, some))[1], together(board)[1][some])


def test_a_network_is_mixed_with_random_games() -> None:
    board = GAME.after("01243576", "0314")
    network = lambda state: (np.ones(state.cells.shape), np.full(len(state.cells), 0.5))  # noqa: E731
    alone = Rollouts(GAME, root_generators(0, 2))(board)[1]
    logits, mixed = Rollouts(GAME, root_generators(0, 2), network, 0.25)(board)
    assert (logits == 1).all()
    np.testing.assert_allclose(mixed, 0.75 * alone + 0.25 * 0.5)
    with pytest.raises(ValueError, match=r"weight must be in \[0, 1\], got 2"):
        Rollouts(GAME, [], network, 2)
    with pytest.raises(ValueError, match=r"weight must be 0 without evaluate, got 0\.5"):
        Rollouts(GAME, [], weight=0.5)


def test_search_without_a_network_does_not_lose_to_random_players() -> None:
    size, generator = 10, np.random.default_rng(0)
    board, generators = GAME.initial(size), root_generators(1, size)
    is_first = np.arange(size) < size // 2
    search, lost = TreeSearch(80, UCT()), np.zeros(size, bool)
    for move in range(9):
        going = ~board.ended
        expansion = GameExpansion(GAME, Rollouts(GAME, root_generators(move, int(going.sum()))))
        root = expansion.root(rows(board, going))
        some = [generators[row] for row in np.flatnonzero(going)]
        planned = search.search(root, expansion, some, temperature=0.0).action
        drawn = [generator.choice(np.flatnonzero(legal)) for legal in root.legal]
        action, planner_moves = np.zeros(size, int), is_first == (move % 2 == 0)
        action[going] = np.where(planner_moves[going], planned, drawn)
        board = GAME.step(board, action)
        lost |= going & (board.outcome == -1) & ~planner_moves
        if board.ended.all():
            break
    assert board.ended.all() and not lost.any()
