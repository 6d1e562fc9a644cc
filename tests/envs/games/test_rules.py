"""The rules: against OpenSpiel, against a plain description, and against counts that are known."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_wrappers.envs.games import ConnectFour, Game, Gomoku, Hex, Othello, State, TicTacToe
from mbrl_wrappers.envs.games.base import take_games
from testing.games import name_of, random_game

# Each game, its name in OpenSpiel, and how many random games fit into a few seconds.
TWINS = [
    (TicTacToe(), "tic_tac_toe", 10_000),
    (ConnectFour(), "connect_four", 10_000),
    (Othello(8), "othello", 1_000),
    (Hex(3), "hex(board_size=3)", 10_000),
    (Hex(5), "hex(board_size=5)", 10_000),
    (Hex(11), "hex(board_size=11)", 300),
    (Gomoku(5, 4), "gomoku(size=5,connect=4)", 10_000),
    (Gomoku(9), "gomoku(size=9)", 300),
    (Gomoku(15), "gomoku", 100),
]


def perft(game: Game, depth: int) -> list[int]:
    """How many sequences of moves there are of each length."""
    state, counts = game.initial(1), []
    for _ in range(depth):
        rows, actions = game.legal_actions(state).nonzero()
        state = game.step(take_games(state, rows), actions)
        counts.append(len(actions))
    return counts


@pytest.mark.parametrize(
    ("game", "counts"),
    [
        (TicTacToe(), [9, 72, 504, 3024, 15_120, 54_720, 148_176, 200_448, 127_872]),
        (ConnectFour(), [7, 49, 343, 2401, 16_807, 117_649]),
        (Othello(8), [4, 12, 56, 244, 1396, 8200, 55_092]),
    ],
    ids=str,
)
def test_sequences_of_moves_are_as_many_as_is_known(game, counts):
    assert perft(game, len(counts)) == counts


@pytest.mark.parametrize(
    ("game", "twin", "depth"),
    [
        (ConnectFour(), "connect_four", 4),
        (Othello(8), "othello", 5),
        (Hex(2), "hex(board_size=2)", 4),
        (Hex(3), "hex(board_size=3)", 5),
        (Gomoku(4, 3), "gomoku(size=4,connect=3)", 3),
    ],
    ids=str,
)
def test_sequences_of_moves_are_as_many_as_in_open_spiel(game, twin, depth):
    pyspiel = pytest.importorskip("pyspiel")
    states, counts = [pyspiel.load_game(twin).new_initial_state()], []
    for _ in range(depth):
        states = [state.child(action) for state in states for action in state.legal_actions()]
        counts.append(len(states))
    assert perft(game, depth) == counts


def agree_with_open_spiel(game: Game, twin: str, num_games: int, seed: int = 0) -> None:
    pyspiel = pytest.importorskip("pyspiel")
    states, actions = random_game(game, num_games, seed)
    legal = np.stack([game.legal_actions(state) for state in states])
    player, ended = np.stack([state.player for state in states]), np.stack([state.ended for state in states])
    # Outcomes are seen from the player to move; those of player 0 are their opposites where player 1 is.
    first_wins = np.where(states[-1].player == 0, states[-1].outcome, -states[-1].outcome)
    open_spiel = pyspiel.load_game(twin)
    for index in range(num_games):
        state = open_spiel.new_initial_state()
        for time, action in enumerate(actions):
            assert state.is_terminal() == ended[time, index]
            if state.is_terminal():
                break
            assert state.current_player() == player[time, index]
            assert state.legal_actions() == legal[time, index].nonzero()[0].tolist()
            state.apply_action(int(action[index]))
        assert state.is_terminal()
        assert state.returns() == [first_wins[index], -first_wins[index]]


@pytest.mark.parametrize(("game", "twin", "num_games"), TWINS, ids=str)
def test_random_games_go_as_in_open_spiel(game, twin, num_games):
    agree_with_open_spiel(game, twin, num_games)


@pytest.mark.slow
@pytest.mark.parametrize(("game", "twin"), [twins[:2] for twins in TWINS if twins[2] < 10_000], ids=str)
def test_ten_thousand_random_games_go_as_in_open_spiel(game, twin):
    for seed in range(1, 41):
        agree_with_open_spiel(game, twin, 250, seed)


def othello_by_walking(board: np.ndarray, stone: int, row: int, column: int) -> list[tuple[int, int]]:
    """The cells that a move at `(row, column)` turns over, found cell by cell."""
    turned: list[tuple[int, int]] = []
    if board[row, column] != 0:
        return turned
    for down, right in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        line, r, c = [], row + down, column + right
        while 0 <= r < len(board) and 0 <= c < len(board) and board[r, c] == -stone:
            line.append((r, c))
            r, c = r + down, c + right
        if 0 <= r < len(board) and 0 <= c < len(board) and board[r, c] == stone:
            turned += line
    return turned


@pytest.mark.parametrize("size", [6, 8])
def test_othello_turns_over_what_walking_along_the_lines_finds(size):
    game = Othello(size)
    states, actions = random_game(game, 20)
    for before, action, after in zip(states, actions, states[1:], strict=False):
        legal = game.legal_actions(before)
        for index in np.flatnonzero(~before.ended):
            board, stone = before.board[index], 1 - 2 * before.player[index]
            moves = {cell: othello_by_walking(board, stone, *divmod(cell, size)) for cell in range(size * size)}
            possible = [cell for cell, turned in moves.items() if turned] or [size * size]
            assert legal[index].nonzero()[0].tolist() == possible
            expected = board.copy()
            if action[index] < size * size:
                for cell in [divmod(int(action[index]), size), *moves[action[index]]]:
                    expected[cell] = stone
            assert (after.board[index] == expected).all()


@pytest.mark.parametrize("size", [6, 8])
def test_othello_passes_only_where_no_other_move_is_and_never_twice(size):
    game = Othello(size)
    states, actions = random_game(game, 200)
    num_passes = 0
    for before, action, after in zip(states, actions, states[1:], strict=False):
        legal = game.legal_actions(before)[~before.ended]
        assert (legal[:, -1] == ~legal[:, :-1].any(1)).all() and legal.any(1).all()
        passed = ~before.ended & (action == game.num_actions - 1)
        num_passes += passed.sum()
        assert (after.board[passed] == before.board[passed]).all()
        assert not after.ended[passed].any()
        assert not game.legal_actions(after)[passed, -1].any()
    assert num_passes > 50


def test_hex_has_no_swap():
    pyspiel = pytest.importorskip("pyspiel")
    game, with_swap = Hex(3), pyspiel.load_game("hex(board_size=3,swap=True)")
    state = game.step(game.initial(1), [4])
    other = with_swap.new_initial_state()
    other.apply_action(4)
    assert len(other.legal_actions()) > game.legal_actions(state).sum() == 8
    assert not game.legal_actions(state)[0, 4]
    # The second player's first stone lies where it was put, as the second player's.
    after = game.step(state, [1])
    assert after.board[0].tolist() == [[0, -1, 0], [0, 1, 0], [0, 0, 0]]


def test_hex_always_has_a_winner():
    for size in (2, 3, 5, 8):
        states, _ = random_game(Hex(size), 500)
        assert (states[-1].outcome == -1).all()


def played(game: Game, *moves: int) -> State:
    state = game.initial(1)
    for move in moves:
        game.check(state, [move])
        state = game.step(state, [move])
    return state


@pytest.mark.parametrize(
    ("game", "moves"),
    [
        (ConnectFour(), (0, 1, 0, 1, 0, 1, 0)),  # upwards
        (ConnectFour(), (0, 0, 1, 1, 2, 2, 3)),  # across
        (ConnectFour(), (0, 1, 1, 2, 2, 3, 2, 3, 3, 6, 3)),  # diagonally
        (Gomoku(9), (0, 9, 1, 10, 2, 11, 3, 12, 5, 18, 4)),  # six in a line
        (Hex(3), (1, 0, 4, 3, 7)),
        (Hex(3), (2, 0, 4, 3, 6)),  # along the diagonal on which cells touch
    ],
    ids=str,
)
def test_the_first_player_wins_with_the_last_move(game, moves):
    before, after = played(game, *moves[:-1]), played(game, *moves)
    assert not before.ended[0] and before.outcome[0] == 0
    assert after.ended[0] and after.player[0] == 1 and after.outcome[0] == -1


def test_the_other_diagonal_does_not_connect_in_hex():
    assert not played(Hex(3), 0, 1, 4, 2, 8).ended[0]


def test_a_line_does_not_run_over_the_edge():
    assert not played(Gomoku(5, 3), 3, 10, 4, 12, 5).ended[0]


def test_a_full_board_is_a_draw():
    state = played(TicTacToe(), 0, 1, 2, 4, 3, 5, 7, 6, 8)
    assert state.ended[0] and state.outcome[0] == 0


@pytest.mark.parametrize(("game", "twin", "num_games"), TWINS, ids=str)
def test_no_game_is_longer_than_it_says(game, twin, num_games):
    assert len(random_game(game, 100)[1]) <= game.max_length


@pytest.mark.parametrize("game", [Gomoku(), Hex(), Othello()], ids=name_of)
def test_default_sizes(game):
    assert game.name in ("Gomoku15", "Hex11", "Othello8")
