"""Games as Gymnasium envs."""

from __future__ import annotations

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sb3_contrib import MaskablePPO

import mbrl_wrappers.envs  # noqa: F401 - registers the ids
from mbrl_wrappers.envs.games import GAMES, ConnectFour, Game, Hex, State, TicTacToe
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.envs.games.rendering import picture, text
from testing.games import SMALL_GAMES, name_of


class LegalInstead(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """Replaces illegal actions, which Gymnasium's checker draws too, by the first legal one."""

    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)

    def action(self, action):
        mask = self.get_wrapper_attr("action_masks")()
        return action if mask[action] else mask.argmax()


class Scripted:
    """An opponent that makes given moves, and keeps what it has seen."""

    def __init__(self, *moves: int) -> None:
        self.moves = list(moves)
        self.states: list[State] = []

    def __call__(self, game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
        self.states.append(state)
        return np.array([self.moves.pop(0)])


def play(env: gym.Env, *moves: int) -> list[tuple]:
    return [env.step(np.int64(move)) for move in moves]


def random_episode(env: gym.Env, seed: int) -> list:
    _, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    steps, ended = [], False
    while not ended:
        obs, reward, ended, truncated, info = env.step(env.action_space.sample(info["action_mask"]))
        assert not truncated
        steps.append((obs, reward))
    return steps


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("first", [True, False, "random"])
def test_gymnasiums_checker_has_no_complaint(name, first):
    env = gym.make(f"mbrl_wrappers/{name}-v0", first=first).unwrapped
    assert env.spec.id == f"mbrl_wrappers/{name}-v0"
    with pytest.warns(UserWarning, match="different from the unwrapped version"):
        check_env(LegalInstead(env))
    if name == "ConnectFour":  # any column is legal for six moves
        check_env(env)


@pytest.mark.parametrize(("name", "first"), [("TicTacToe", True), ("ConnectFour", False), ("Othello6", "random")])
def test_maskable_ppo_takes_the_masks_as_they_are(name, first):
    env = gym.make(f"mbrl_wrappers/{name}-v0", first=first)
    agent = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0)
    agent.learn(256)
    assert agent.num_timesteps == 256
    obs, info = env.reset(seed=0)
    action, _ = agent.predict(obs, action_masks=env.get_wrapper_attr("action_masks")())
    assert info["action_mask"][action]


def test_rewards_and_ends():
    env = GameEnv("TicTacToe", opponent=Scripted(3, 4))
    env.reset(seed=0)
    assert [step[1:4] for step in play(env, 0, 1, 2)] == [(0, False, False), (0, False, False), (1, True, False)]
    env = GameEnv("TicTacToe", opponent=Scripted(0, 1, 2), first=False)
    env.reset(seed=0)
    assert [step[1:4] for step in play(env, 3, 4)] == [(0, False, False), (-1, True, False)]
    env = GameEnv("TicTacToe", opponent=Scripted(1, 4, 5, 6))
    env.reset(seed=0)
    *before, last = [step[1:4] for step in play(env, 0, 2, 3, 7, 8)]
    assert before == [(0, False, False)] * 4 and last == (0, True, False)


@pytest.mark.parametrize("first", [True, False])
def test_observations_are_the_agents_until_the_end(first):
    env = GameEnv(Hex(3), opponent=Scripted(3, 0, 2, 8), first=first)
    obs, _ = env.reset()
    assert obs[1].sum() == (0 if first else 1) and (obs[2] == (0 if first else 1)).all()
    for count, move in enumerate((1, 4, 7), 1):
        obs, _, ended, _, _ = env.step(move)
        assert obs[0].sum() == count and obs[0].ravel()[move] == 1
        assert (obs[2] == (0 if first else 1)).all()
    assert ended == first  # a chain from the top to the bottom


def test_the_opponent_sees_the_game_from_its_own_side():
    opponent = Scripted(3, 4)
    env = GameEnv("TicTacToe", opponent=opponent)
    env.reset()
    play(env, 0, 1)
    assert [state.player.tolist() for state in opponent.states] == [[1], [1]]
    np.testing.assert_array_equal(TicTacToe().observation(opponent.states[0])[0, 1].ravel().nonzero()[0], [0])


def test_who_moves_first():
    for first, expected in ((True, {0}), (False, {1}), ("random", {0, 1})):
        env = GameEnv("TicTacToe", first=first)
        assert {int(env.reset(seed=seed)[0].sum()) for seed in range(20)} == expected
    starts = [GameEnv("TicTacToe", first="random").reset(seed=seed)[0].sum() for seed in range(400)]
    assert 150 < sum(starts) < 250


def test_a_pass_of_the_agent_lets_the_opponent_go_on():
    env = GameEnv("Othello6")
    passes = 0
    for seed in range(30):
        _, info = env.reset(seed=seed)
        ended = False
        while not ended:
            before, mask = env.state, info["action_mask"]
            _, _, ended, _, info = env.step(int(mask.argmax()))
            assert ended or env.state.player[0] == 0
            if mask[36]:
                passes += 1
                assert mask.sum() == 1 and (env.state.board != 0).sum() > (before.board != 0).sum()
    assert passes > 5


def test_illegal_actions_are_refused_and_change_nothing():
    env = GameEnv("TicTacToe", opponent=Scripted(1, 2))
    env.reset()
    with pytest.raises(ValueError, match=r"got 9 in game 0 of TicTacToe, where these are: \[0, 1, 2, 3"):
        env.step(9)
    env.step(0)
    before = env.state
    for action in (0, 1, -1):
        with pytest.raises(ValueError, match=rf"got {action} in game 0 of TicTacToe, where these are: \[2, 3, 4,"):
            env.step(action)
    for wrong in (0.5, None, [3]):
        with pytest.raises(ValueError, match="action must be 1 whole numbers"):
            env.step(wrong)
    assert env.state is before
    env.step(np.array(4))  # as vector envs and SB3 hand it over


def test_steps_after_the_end_are_refused():
    env = GameEnv("TicTacToe", opponent=Scripted(3, 4))
    env.reset()
    play(env, 0, 1, 2)
    assert not env.action_masks().any()
    with pytest.raises(ValueError, match="got 5 after its end: call reset"):
        env.step(5)


def test_an_opponent_that_cheats_is_refused():
    env = GameEnv("TicTacToe", opponent=Scripted(0))
    env.reset()
    with pytest.raises(ValueError, match="opponent's action must be legal, got 0 in game 0"):
        env.step(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"game": "Chess"}, "game must be one of"),
        ({"game": ["TicTacToe"]}, "game must be one of"),
        ({"game": "TicTacToe", "opponent": "nobody"}, "opponent must be one of"),
        ({"game": "TicTacToe", "first": "second"}, "first must be True, False or 'random', got 'second'"),
        ({"game": "TicTacToe", "first": 1}, "first must be True, False or 'random', got 1"),
        ({"game": "TicTacToe", "render_mode": "human"}, "render_mode must be None, 'ansi' or 'rgb_array', got 'human'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GameEnv(**arguments)


@pytest.mark.parametrize("opponent", ["random", "one_ply"])
@pytest.mark.parametrize("game", SMALL_GAMES, ids=name_of)
def test_a_seed_decides_an_episode(game, opponent):
    env = GameEnv(game, opponent=opponent, first="random")
    first, again = random_episode(env, 3), random_episode(GameEnv(game, opponent, "random"), 3)
    assert len(first) == len(again)
    for (obs, reward), (other_obs, other_reward) in zip(first, again, strict=True):
        np.testing.assert_array_equal(obs, other_obs)
        assert reward == other_reward in (-1, 0, 1)


def test_one_ply_beats_random_and_perfect_never_loses():
    def mean_reward(opponent: str) -> float:
        env = GameEnv("TicTacToe", opponent=opponent, first="random")
        return float(np.mean([random_episode(env, seed)[-1][1] for seed in range(150)]))

    assert mean_reward("perfect") < mean_reward("one_ply") < mean_reward("random") - 0.3
    env = GameEnv("TicTacToe", opponent="perfect", first="random")
    assert max(random_episode(env, seed)[-1][1] for seed in range(150)) == 0


def test_envs_can_be_copied_and_pickled():
    env = GameEnv("ConnectFour", opponent="one_ply")
    env.reset(seed=0)
    env.step(3)
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        original = copy.deepcopy(env)
        np.testing.assert_array_equal(twin.step(2)[0], original.step(2)[0])


def state_of(game: Game, *moves: int) -> State:
    state = game.initial(1)
    for move in moves:
        state = game.step(state, [move])
    return state


def test_text():
    assert text(TicTacToe(), state_of(TicTacToe(), 4, 0)).splitlines() == [
        "   a b c",
        " 1 o . .",
        " 2 . x .",
        " 3 . . .",
        "x to move",
    ]
    assert text(Hex(3), state_of(Hex(3), 0, 8)).splitlines()[1:4] == [" 1 x . .", "  2 . . .", "   3 . . o"]
    assert text(TicTacToe(), state_of(TicTacToe(), 0, 3, 1, 4, 2)).endswith("x has won")
    assert text(TicTacToe(), state_of(TicTacToe(), 0, 3, 1, 4, 8, 5)).endswith("o has won")
    assert text(TicTacToe(), state_of(TicTacToe(), 0, 1, 2, 4, 3, 5, 7, 6, 8)).endswith("draw")


@pytest.mark.parametrize("game", SMALL_GAMES, ids=name_of)
def test_pictures_show_each_stone_in_its_colour(game):
    board = np.zeros((1, game.height, game.width), np.int8)
    board[0, 0, -1], board[0, -1, 0] = 1, -1
    image = picture(game, game.initial(1)._replace(board=board))
    assert image.dtype == np.uint8 and image.ndim == 3
    slant = 24 * (game.height - 1) if isinstance(game, Hex) else 0
    down = 48 * np.sqrt(0.75) if isinstance(game, Hex) else 48
    corners = {(0, 0): None, (0, game.width - 1): 0, (game.height - 1, 0): 1, (game.height - 1, game.width - 1): None}
    for (row, column), player in corners.items():
        shift = slant * row / (game.height - 1)
        pixel = image[int(36 + down * row), int(36 + 48 * column + shift)]
        assert tuple(pixel) == (game.look.cell if player is None else game.look.stones[player])


def test_render_modes():
    board = gym.make("mbrl_wrappers/ConnectFour-v0", render_mode="ansi")
    board.reset(seed=0)
    assert board.render() == text(ConnectFour(), board.get_wrapper_attr("state"))
    env = gym.make("mbrl_wrappers/ConnectFour-v0", render_mode="rgb_array")
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), picture(ConnectFour(), env.get_wrapper_attr("state")))
    env = GameEnv("ConnectFour")
    with pytest.warns(UserWarning, match="render_mode must be given"):
        assert env.render() is None
