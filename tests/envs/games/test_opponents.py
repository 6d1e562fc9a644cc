"""Players found by name."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_wrappers.envs.games import ConnectFour, Gomoku, Hex, Othello, State, TicTacToe, opponents
from mbrl_wrappers.envs.games.opponents import (
    endgame_player,
    find_opponent,
    one_ply_player,
    perfect_player,
    random_player,
    register_opponent,
    winning_moves,
)
from testing.games import SMALL_GAMES, name_of, random_positions


def position(text: str) -> State:
    """Positions of one board each, rows separated by spaces and boards by `|`; x is to move."""
    boards = np.array([[[".xo".index(cell) for cell in row] for row in board.split()] for board in text.split("|")])
    board = np.where(boards == 2, -1, boards).astype(np.int8)
    n = len(board)
    return State(board, np.zeros(n, np.int8), np.zeros(n, np.bool_), np.zeros(n, np.int8))


def moves_of(player, game, state, seed=0, n=40):
    """The moves that a player makes in one position."""
    rng = np.random.default_rng(seed)
    return {int(player(game, state, rng)[0]) for _ in range(n)}


@pytest.mark.parametrize("game", SMALL_GAMES, ids=name_of)
@pytest.mark.parametrize("player", [random_player, one_ply_player])
def test_moves_are_legal_and_follow_from_the_generator(game, player):
    state = random_positions(game, 30, 5)
    actions = player(game, state, np.random.default_rng(1))
    assert actions.shape == (30,)
    game.check(state, actions)
    np.testing.assert_array_equal(player(game, state, np.random.default_rng(1)), actions)
    if player is random_player:
        assert (player(game, state, np.random.default_rng(2)) != actions).any()


def test_random_moves_are_uniform_over_the_legal_ones():
    game = ConnectFour()
    state = game.initial(1)
    for move in [3] * 6:
        state = game.step(state, [move])
    many = State(*[np.repeat(field, 6000, 0) for field in state])
    counts = np.bincount(random_player(game, many, np.random.default_rng(0)), minlength=7)
    assert counts[3] == 0
    np.testing.assert_allclose(np.delete(counts, 3), 1000, atol=150)


def test_one_ply_wins_then_blocks_then_draws_lots():
    game = TicTacToe()
    assert moves_of(one_ply_player, game, position("xx. oo. ...")) == {2}
    assert moves_of(one_ply_player, game, position("x.. oo. ..x")) == {5}
    assert moves_of(one_ply_player, game, position("x.. .o. ...")) == {1, 2, 3, 5, 6, 7, 8}
    assert moves_of(one_ply_player, game, position("o.o .x. o.o")) == {1, 3, 5, 7}
    # In one batch, each as alone.
    batch = position("xx. oo. ...|x.. oo. ..x")
    assert one_ply_player(game, batch, np.random.default_rng(0)).tolist() == [2, 5]


def test_winning_moves():
    assert winning_moves(Hex(3), position("x.. ... x..")).nonzero()[1].tolist() == [3]
    assert winning_moves(Gomoku(5, 3), position(".xx.. ..... ..... ..... .....")).nonzero()[1].tolist() == [0, 3]
    # The last stone counts: black has more stones than white only after it.
    full = " ".join(["oooooo"] * 2 + ["xxxxxx"] * 3 + [".ooxxx"])
    assert winning_moves(Othello(6), position(full)).nonzero()[1].tolist() == [30]


def test_perfect_and_endgame_players_keep_the_value():
    second_to_move = position("x.. .o. ..x")._replace(player=np.ones(1, np.int8))
    assert moves_of(perfect_player, TicTacToe(), second_to_move) == {1, 3, 5, 7}  # a corner loses
    late = random_positions(ConnectFour(), 30, 32)
    action = endgame_player(ConnectFour(), late, np.random.default_rng(0))
    _, best = opponents.perfect_solver(ConnectFour()).solve(late)
    going = ~late.ended
    assert going.any() and best[going, action[going]].all()


def test_the_endgame_player_plays_one_ply_until_it_knows():
    state = random_positions(ConnectFour(), 10, 4)
    ConnectFour().check(state, endgame_player(ConnectFour(), state, np.random.default_rng(0)))


def test_players_without_a_solver_are_refused():
    with pytest.raises(ValueError, match="opponent='perfect' needs a game solved from its start, got ConnectFour"):
        perfect_player(ConnectFour(), ConnectFour().initial(1), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"game must be .*, got Othello8"):
        endgame_player(Othello(), Othello().initial(1), np.random.default_rng(0))


def test_the_register(monkeypatch):
    monkeypatch.setattr(opponents, "_OPPONENTS", dict(opponents._OPPONENTS))

    def leftmost(game, state, generator):
        return game.legal_actions(state).argmax(1)

    register_opponent("leftmost", leftmost)
    register_opponent("leftmost", leftmost)
    assert find_opponent("leftmost") is find_opponent(leftmost) is leftmost
    with pytest.raises(ValueError, match="name must be free, got 'random'"):
        register_opponent("random", leftmost)
    for wrong in ("Random", 3, None, ["random"]):
        with pytest.raises(ValueError, match=r"opponent must be one of .*'one_ply'"):
            find_opponent(wrong)


def test_uct_is_found_with_its_number_of_simulations():
    game = TicTacToe()
    state, generator = game.initial(3), np.random.default_rng(0)
    assert game.legal_actions(state)[np.arange(3), find_opponent("uct_20")(game, state, generator)].all()
    for name in ("uct_0", "uct_", "uct_1.5"):
        with pytest.raises(ValueError, match="uct_N for N simulations"):
            find_opponent(name)
