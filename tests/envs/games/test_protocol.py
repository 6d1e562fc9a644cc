"""What holds for every game: arrays in and out, games that do not see each other, two paths with the same numbers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mbrl_wrappers.acceleration import kernels
from mbrl_wrappers.envs.games import GAMES, ConnectFour, Gomoku, Hex, Othello, TicTacToe, make_game
from mbrl_wrappers.envs.games.base import State, take_games
from testing.games import SMALL_GAMES, assert_equal, name_of, random_game, random_positions

needs_numba = pytest.mark.skipif(not kernels.use_numba, reason="numba is not installed")
every_game = pytest.mark.parametrize("game", SMALL_GAMES, ids=name_of)


@every_game
def test_shapes_and_types(game):
    for state in random_game(game, 3)[0]:
        assert state.board.shape == (3, game.height, game.width) and state.board.dtype == np.int8
        for field, dtype in ((state.player, np.int8), (state.ended, np.bool_), (state.outcome, np.int8)):
            assert field.shape == (3,) and field.dtype == dtype
        assert game.legal_actions(state).shape == (3, game.num_actions)
        assert game.legal_actions(state).dtype == np.bool_
        observation = game.observation(state)
        assert observation.shape == (3, *game.observation_shape) and observation.dtype == np.float32


@needs_numba
@every_game
def test_numpy_and_numba_give_the_same_numbers(game, monkeypatch):
    states, actions = random_game(game, 50)
    compiled = [(game.legal_actions(state), game.observation(state)) for state in states]
    monkeypatch.setattr(kernels, "use_numba", False)
    for state, action, after in zip(states, actions, states[1:], strict=False):
        assert_equal(game.step(state, action), after)
    for state, (legal, observation) in zip(states, compiled, strict=True):
        np.testing.assert_array_equal(game.legal_actions(state), legal)
        np.testing.assert_array_equal(game.observation(state), observation)


@every_game
def test_a_step_leaves_its_input_as_it_is(game):
    state = random_positions(game, 4, 3)
    copies = State(*[field.copy() for field in state])
    action = game.legal_actions(state).argmax(1)
    after = game.step(state, action)
    assert_equal(state, copies)
    for field in after:
        field[...] = 1
    assert_equal(state, copies)


@every_game
def test_a_game_that_has_ended_stays_as_it_is(game):
    state = random_game(game, 20)[0][-1]
    assert state.ended.all()
    assert not game.legal_actions(state).any()
    for action in (0, game.num_actions - 1, -1, 10**6):
        game.check(state, np.full(20, action))
        assert_equal(game.step(state, np.full(20, action)), state)


@every_game
def test_a_game_does_not_see_its_neighbours(game):
    states, actions = random_game(game, 12)
    rows = [7, 2, 2, 11]
    state, alone = take_games(states[0], rows), game.initial(1)
    for action, together in zip(actions, states[1:], strict=True):
        state = game.step(state, action[rows])
        alone = game.step(alone, action[7:8])
        assert_equal(state, take_games(together, rows))
        assert_equal(alone, take_games(together, [7]))
        np.testing.assert_array_equal(game.legal_actions(state), game.legal_actions(together)[rows])
        np.testing.assert_array_equal(game.observation(state), game.observation(together)[rows])


@every_game
def test_slices_of_larger_arrays_are_states_too(game):
    state = random_positions(game, 6, 4)
    slices = State(*[np.repeat(field[:, None], 3, 1)[::2, 1] for field in state])
    action = game.legal_actions(state).argmax(1)
    assert_equal(game.step(slices, action[::2].tolist()), take_games(game.step(state, action), slice(None, None, 2)))
    np.testing.assert_array_equal(game.observation(slices), game.observation(state)[::2])
    np.testing.assert_array_equal(game.legal_actions(slices), game.legal_actions(state)[::2])


@every_game
def test_outcomes_are_seen_by_the_player_to_move(game):
    states, _ = random_game(game, 300)
    for state in states:
        assert (state.outcome[~state.ended] == 0).all()
    final = states[-1]
    if not isinstance(game, Othello):  # there the last to move may lose
        assert set(final.outcome.tolist()) <= {-1, 0}
        return
    lead = final.board.sum((1, 2), dtype=int) * (1 - 2 * final.player)
    assert (np.sign(lead) == final.outcome).all()
    assert set(final.outcome.tolist()) == {-1, 0, 1}


@every_game
def test_observations_are_seen_by_the_player_to_move(game):
    for state in random_game(game, 5)[0]:
        observation = game.observation(state)
        stone = (1 - 2 * state.player)[:, None, None]
        np.testing.assert_array_equal(observation[:, 0] - observation[:, 1], state.board * stone)
        if isinstance(game, Hex):
            assert (observation[:, 2] == state.player[:, None, None]).all()


@every_game
def test_symmetries_commute_with_the_rules(game):
    states, actions = random_game(game, 10)
    for symmetry in game.symmetries:
        inverse = symmetry.actions.argsort()
        turned = game.initial(10)
        for state, action in zip(states, actions, strict=False):
            np.testing.assert_array_equal(turned.board, symmetry.turn_planes(state.board))
            np.testing.assert_array_equal(game.observation(turned), symmetry.turn_planes(game.observation(state)))
            np.testing.assert_array_equal(game.legal_actions(turned), symmetry.turn_actions(game.legal_actions(state)))
            turned = game.step(turned, inverse[action])
        np.testing.assert_array_equal(turned.outcome, states[-1].outcome)


@every_game
def test_the_identity_comes_first_and_no_symmetry_comes_twice(game):
    first = game.symmetries[0]
    assert (first.actions == np.arange(game.num_actions)).all()
    assert (first.cells == np.arange(game.height * game.width)).all()
    distinct = {tuple(symmetry.cells.tolist()) for symmetry in game.symmetries}
    expected = {ConnectFour: 2, Othello: 4, Hex: 2, Gomoku: 8, TicTacToe: 8}[type(game)]
    assert len(distinct) == len(game.symmetries) == expected


@pytest.mark.parametrize("game", [ConnectFour(), Othello(8), Hex(5)], ids=name_of)
@pytest.mark.parametrize("action", [-1, 10**6])
def test_check_names_what_is_wrong(game, action):
    state = random_positions(game, 3, 2)
    given = game.legal_actions(state).argmax(1)
    game.check(state, given)
    given[1] = action
    legal = game.legal_actions(state)[1].nonzero()[0].tolist()
    with pytest.raises(ValueError) as error:
        game.check(state, given)
    for part in (f"got {action} in game 1 of {game.name}", str(legal)):
        assert part in str(error.value)


def test_check_refuses_taken_cells_full_columns_and_needless_passes():
    for game, moves in ((TicTacToe(), [4]), (ConnectFour(), [3] * 6), (Hex(3), [4])):
        state = game.initial(1)
        for move in moves:
            state = game.step(state, [move])
        with pytest.raises(ValueError, match=f"got {moves[0]} in game 0"):
            game.check(state, moves[:1])
    with pytest.raises(ValueError, match=r"got 64 in game 0 of Othello8, where these are: \[19, 26, 37, 44\]"):
        Othello().check(Othello().initial(1), [64])


@pytest.mark.parametrize("action", [[0], [0, 0, 0], [[0], [0]], [0.0, 1.0], 0, ["a", "b"]])
def test_check_refuses_what_are_not_actions(action):
    game = TicTacToe()
    with pytest.raises(ValueError, match="action must be 2 whole numbers, got "):
        game.check(game.initial(2), action)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Othello(7), "size must be 6 or 8, got 7"),
        (lambda: Hex(1), "size must be a whole number of at least 2, got 1"),
        (lambda: Hex(5.0), "size must be a whole number of at least 2, got 5.0"),
        (lambda: Gomoku(4), "length must be at most size=4, got 5"),
        (lambda: Gomoku(9, 2), "length must be a whole number of at least 3, got 2"),
        (lambda: TicTacToe().initial(0), "n must be a whole number of at least 1, got 0"),
        (lambda: make_game("Chess"), r"game must be one of \['ConnectFour', .*, got 'Chess'"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_games_are_found_by_their_names():
    for name in GAMES:
        assert make_game(name).name == name
    assert Gomoku(7, 4).name != Gomoku(7, 5).name


@pytest.mark.parametrize(
    ("preparation", "names"),
    [
        ("sys.modules['numba'] = None", ["TicTacToe", "ConnectFour", "Othello6", "Hex5", "Gomoku9"]),
        # No folder where numba may keep what it has compiled.
        pytest.param(
            "import numba.core.caching as c; c.CacheImpl._locator_classes = []",
            ["ConnectFour"],
            marks=[needs_numba, pytest.mark.slow],
        ),
    ],
    ids=["without numba", "without a cache"],
)
def test_games_are_played(preparation, names):
    program = (
        f"import sys; {preparation}\n"
        "import gymnasium as gym, mbrl_wrappers.envs\n"
        f"for name in {names}:\n"
        "    env = gym.make(f'mbrl_wrappers/{name}-v0', opponent='one_ply', first='random')\n"
        "    obs, info = env.reset(seed=0)\n"
        "    ended = False\n"
        "    while not ended:\n"
        "        obs, reward, ended, _, info = env.step(env.action_space.sample(info['action_mask']))\n"
        "    print(name, reward)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(names)


def test_numba_is_imported_only_with_the_games():
    program = (
        "import sys, mbrl_wrappers.envs, mbrl_wrappers.models\n"
        "assert 'numba' not in sys.modules and 'mbrl_wrappers.envs.games' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", GAMES)
def test_an_observation_tells_the_state(name: str) -> None:
    """What is read off an observation has the same observation, legal moves and future."""
    game = make_game(name)
    generator, state = np.random.default_rng(0), game.initial(30)
    for _ in range(game.max_length // 2):
        again = game.state_of(game.observation(state))
        going = ~state.ended
        for read in (game.observation, game.legal_actions):
            assert (read(again)[going] == read(state)[going]).all()
        legal = game.legal_actions(state)
        action = np.where(legal, generator.random(legal.shape), -1).argmax(1)
        state, next_again = game.step(state, action), game.step(again, action)
        assert (next_again.ended[going] == state.ended[going]).all()
        assert (next_again.outcome[going] == state.outcome[going]).all()
