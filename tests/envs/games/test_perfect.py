"""Perfect players: against plain minimax, against what is known, and against each other."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_wrappers.acceleration import kernels
from mbrl_wrappers.envs.games import ConnectFour, Game, Gomoku, Hex, Othello, State, TicTacToe
from mbrl_wrappers.envs.games.base import take_games
from mbrl_wrappers.envs.games.opponents import perfect_player, random_player
from mbrl_wrappers.envs.games.perfect import ConnectFourSolver, HexSolver, TicTacToeSolver, perfect_solver
from testing.games import random_positions

needs_numba = pytest.mark.skipif(not kernels.use_numba, reason="takes minutes without numba")


def minimax(game: Game, state: State, known: dict[bytes, int]) -> int:
    """What one position is worth to the player to move, by the rules alone."""
    if state.ended[0]:
        return int(state.outcome[0])
    key = state.board.tobytes()
    if key not in known:
        actions = game.legal_actions(state)[0].nonzero()[0]
        after = game.step(take_games(state, np.zeros_like(actions)), actions)
        known[key] = max(-minimax(game, take_games(after, [index]), known) for index in range(len(actions)))
    return known[key]


def agrees_with_minimax(game: Game, state: State) -> None:
    values, best = perfect_solver(game).solve(state)
    known: dict[bytes, int] = {}
    for index in range(len(values)):
        position = take_games(state, [index])
        assert values[index] == minimax(game, position, known)
        for action in range(game.num_actions):
            keeps = False
            if game.legal_actions(position)[0, action]:
                keeps = -minimax(game, game.step(position, [action]), known) == values[index]
            assert best[index, action] == keeps


@pytest.mark.parametrize(
    ("game", "num_moves", "n"),
    [
        (TicTacToe(), 3, 20),
        (Hex(2), 0, 1),
        (Hex(3), 2, 10),
        (Hex(4), 8, 20),
        (Hex(5), 17, 20),
        (ConnectFour(), 33, 30),
        (ConnectFour(), 36, 100),
    ],
    ids=str,
)
def test_solvers_agree_with_minimax(game, num_moves, n):
    agrees_with_minimax(game, random_positions(game, n, num_moves))


@pytest.mark.slow
@pytest.mark.parametrize(("game", "num_moves"), [(Hex(4), 6), (Hex(5), 15), (ConnectFour(), 24)], ids=str)
def test_solvers_agree_with_minimax_on_emptier_boards(game, num_moves):
    agrees_with_minimax(game, random_positions(game, 20, num_moves))


def test_the_values_of_a_late_connect_four_position_differ():
    values, _ = ConnectFourSolver().solve(random_positions(ConnectFour(), 200, 30))
    assert set(values.tolist()) == {-1, 0, 1}


@needs_numba
def test_connect_four_values_do_not_change_along_a_perfect_game():
    solver, game = ConnectFourSolver(), ConnectFour()
    state = random_positions(game, 8, 16)
    value, best = solver.solve(state)
    sign = np.ones_like(value)
    while not state.ended.all():
        sign = np.where(state.ended, sign, -sign)
        state = game.step(state, best.argmax(1))
        now, best = solver.solve(state)
        np.testing.assert_array_equal(now * sign, value)


@needs_numba
def test_connect_four_does_not_care_which_side_is_left():
    solver, game = ConnectFourSolver(), ConnectFour()
    state = random_positions(game, 20, 18)
    value, best = solver.solve(state)
    mirror = game.symmetries[1]
    mirrored, mirrored_best = ConnectFourSolver().solve(state._replace(board=mirror.turn_planes(state.board)))
    np.testing.assert_array_equal(mirrored, value)
    np.testing.assert_array_equal(mirrored_best, mirror.turn_actions(best))


def test_tic_tac_toe_has_5478_positions_and_is_a_draw():
    solver = TicTacToeSolver()
    assert (solver.table != -2).sum() == 5478
    value, best = solver.solve(TicTacToe().initial(1))
    assert value[0] == 0 and best.all()


def test_perfect_tic_tac_toe_players_draw_and_lose_to_nobody():
    game, rng = TicTacToe(), np.random.default_rng(0)
    for players in ((perfect_player, perfect_player), (perfect_player, random_player), (random_player, perfect_player)):
        state = game.initial(500)
        while not state.ended.all():
            mover = players[np.count_nonzero(state.board[~state.ended][0]) % 2]
            state = game.step(state, mover(game, state, rng))
        first_wins = state.outcome * (1 - 2 * state.player)
        if players[0] is players[1]:
            assert (first_wins == 0).all()
        else:
            as_perfect = first_wins if players[0] is perfect_player else -first_wins
            assert as_perfect.min() == 0 and as_perfect.mean() > 0.5


@needs_numba
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_first_player_wins_hex(size):
    value, best = HexSolver(size).solve(Hex(size).initial(1))
    assert value[0] == 1
    assert best[0].reshape(size, size)[:, ::-1].diagonal().all()  # its short diagonal wins on each of these boards


@needs_numba
def test_hex_5_is_solved_from_six_stones_on_and_does_not_care_about_a_half_turn():
    game = Hex(5)
    state = random_positions(game, 2, 6)
    value, best = HexSolver(5).solve(state)
    turn = game.symmetries[1]
    turned_value, turned_best = HexSolver(5).solve(state._replace(board=turn.turn_planes(state.board)))
    np.testing.assert_array_equal(turned_value, value)
    np.testing.assert_array_equal(turned_best, turn.turn_actions(best))
    assert set(np.abs(value).tolist()) == {1}


def test_ended_games_have_their_outcome_and_no_best_move():
    for solver in (TicTacToeSolver(), ConnectFourSolver(), HexSolver(3)):
        state = random_positions(solver.game, 30, 42)
        value, best = solver.solve(state)
        np.testing.assert_array_equal(value, state.outcome)
        assert not best.any()


def test_too_early_positions_and_unsolved_games_are_refused():
    with pytest.raises(ValueError, match="at least 10 stones in ConnectFour for its solver, got 0 in game 0"):
        ConnectFourSolver().solve(ConnectFour().initial(2))
    with pytest.raises(ValueError, match="at least 6 stones in Hex5 for its solver, got 2 in game 0"):
        HexSolver(5).solve(random_positions(Hex(5), 1, 2))
    with pytest.raises(ValueError, match="size must be at most 5, got 6"):
        HexSolver(6)
    for game in (Othello(6), Hex(6), Gomoku(9)):
        with pytest.raises(ValueError, match=rf"game must be .*, got {game.name}"):
            perfect_solver(game)


def test_a_game_has_one_solver_that_remembers():
    assert perfect_solver(Hex(4)) is perfect_solver(Hex(4)) is not perfect_solver(Hex(3))
