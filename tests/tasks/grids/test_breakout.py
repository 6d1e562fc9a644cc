"""Breakout's rules on positions written by hand, how it looks, and MinAtar's game as a yardstick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mbrl_wrappers.envs.rendering import set_state_from_obs
from mbrl_wrappers.tasks.grids import Breakout, BreakoutGames
from mbrl_wrappers.tasks.grids.breakout import BALL, BRICK, GO_LEFT, GO_RIGHT, KEEP, PADDLE, TRAIL

Place = tuple[int, int]
FULL = np.zeros((10, 10), bool)
FULL[1:4] = True


def game(ball: Place, heading: Place, paddle: int = 5, bricks: np.ndarray | None = None) -> BreakoutGames:
    games = BreakoutGames(1)
    games.seed([0])
    games.put(0, ball, heading, paddle, FULL if bricks is None else bricks)
    return games


def bricks(*cells: Place) -> np.ndarray:
    found = np.zeros((10, 10), bool)
    for cell in cells:
        found[cell] = True
    return found


def place_of(games: BreakoutGames, plane: int) -> list[Place]:
    return [tuple(int(x) for x in cell) for cell in np.argwhere(games.observations()[0, plane] == 255)]


def played(games: BreakoutGames, *actions: int) -> tuple[list[Place], list[float], list[bool]]:
    """Return where the ball was after each step, the rewards, and the ends."""
    balls, rewards, ends = [], [], []
    for action in actions:
        step = games.step([action])
        balls += place_of(games, BALL)
        rewards.append(float(step.reward[0]))
        ends.append(bool(step.terminated[0]))
    return balls, rewards, ends


def test_the_ball_moves_along_diagonals_and_leaves_a_trail() -> None:
    games = game((4, 4), (1, 1))
    assert played(games, KEEP, KEEP)[0] == [(5, 5), (6, 6)]
    assert place_of(games, TRAIL) == [(5, 5)] and place_of(games, PADDLE) == [(9, 5)]
    assert len(place_of(games, BRICK)) == 30


@pytest.mark.parametrize(
    ("ball", "heading", "after"),
    [
        ((6, 0), (1, -1), [(7, 1), (8, 2)]),
        ((6, 9), (1, 1), [(7, 8), (8, 7)]),
        ((6, 0), (-1, -1), [(5, 1), (4, 2)]),
        ((0, 4), (-1, 1), [(1, 5), (2, 6)]),
        ((0, 0), (-1, -1), [(1, 1), (2, 2)]),  # a corner
        ((0, 9), (-1, 1), [(1, 8), (2, 7)]),
    ],
)
def test_sides_and_top_reflect_the_ball(ball: Place, heading: Place, after: list[Place]) -> None:
    assert played(game(ball, heading, bricks=bricks((3, 4))), KEEP, KEEP)[0] == after


@pytest.mark.parametrize(
    ("ball", "heading", "brick", "after"),
    [
        ((4, 4), (-1, 1), (3, 5), [(4, 5), (5, 6)]),  # from below
        ((0, 4), (1, -1), (1, 3), [(0, 3), (1, 2)]),  # from above
        ((4, 9), (-1, 1), (3, 8), [(4, 8), (5, 7)]),  # off the side
        ((0, 4), (-1, 1), (1, 5), [(0, 5), (1, 6)]),  # off the top: it is up again
    ],
)
def test_a_brick_breaks_and_turns_the_ball(ball: Place, heading: Place, brick: Place, after: list[Place]) -> None:
    games = game(ball, heading, bricks=bricks(brick, (2, 2)))
    balls, rewards, ends = played(games, KEEP, KEEP)
    assert rewards == [1.0, 0.0] and place_of(games, BRICK) == [(2, 2)] and not any(ends)
    assert balls == after


@pytest.mark.parametrize(
    ("paddle", "action", "after", "is_lost"),
    [
        (6, KEEP, [(8, 6), (7, 7)], False),  # in the column that the ball is going to
        (5, KEEP, [(8, 5), (7, 4)], False),  # in the ball's own: back the way it came
        (4, KEEP, [(9, 6)], True),
        (7, KEEP, [(9, 6)], True),
        (7, GO_LEFT, [(8, 6), (7, 7)], False),
        (5, GO_RIGHT, [(8, 6), (7, 7)], False),
        (4, GO_RIGHT, [(8, 5), (7, 4)], False),
        (6, GO_RIGHT, [(9, 6)], True),
    ],
)
def test_the_paddle_moves_first_and_returns_the_ball(
    paddle: int, action: int, after: list[Place], is_lost: bool
) -> None:
    games = game((8, 5), (1, 1), paddle)
    balls, rewards, ends = played(games, *[action, KEEP][: len(after)])
    assert balls == after and ends[0] == is_lost and sum(rewards) == 0


def test_the_paddle_stops_at_the_sides() -> None:
    for action, wall in ((GO_LEFT, 0), (GO_RIGHT, 9)):
        games = game((4, 4), (1, 1), wall)
        games.step([action])
        assert place_of(games, PADDLE) == [(9, wall)]


def test_a_new_wall_follows_the_last_brick_when_the_ball_is_returned() -> None:
    games = game((4, 4), (-1, 1), 8, bricks((3, 5)))
    assert played(games, KEEP)[1] == [1.0] and not place_of(games, BRICK) and games.level[0] == 1
    balls, _, ends = played(games, *[KEEP] * 4)
    assert balls[-1] == (8, 9) and not any(ends)
    balls, _, ends = played(games, KEEP)
    assert balls == [(8, 8)] and not any(ends) and len(place_of(games, BRICK)) == 30 and games.level[0] == 2


def test_starts_differ_in_column_and_direction() -> None:
    games = BreakoutGames(200)
    games.seed(list(range(200)))
    games.reset()
    assert (games.ball[:, 0] == 4).all() and set(games.ball[:, 1]) == set(range(10))
    assert (games.heading[:, 0] == 1).all() and set(games.heading[:, 1]) == {-1, 1}
    frames = games.observations()
    assert ((frames > 0).sum((2, 3)) == [1, 1, 1, 30]).all() and games.paddle.tolist() == [5] * 200


def follow(games: BreakoutGames) -> np.ndarray:
    """Be where the ball is."""
    return np.where(games.ball[:, 1] < games.paddle, GO_LEFT, np.where(games.ball[:, 1] > games.paddle, GO_RIGHT, KEEP))


def test_a_player_who_follows_the_ball_never_loses_it_and_random_play_keeps_the_rules() -> None:
    games, rng = BreakoutGames(30), np.random.default_rng(0)
    for plays in (follow, lambda games: rng.integers(3, size=games.num_games)):
        games.seed(list(range(30)))
        games.reset()
        lost, total = np.zeros(30, bool), 0.0
        for _ in range(300):
            before = (games.boards[:, BRICK] > 0).sum(1)
            step = games.step(plays(games))
            after = (games.boards[:, BRICK] > 0).sum(1)
            assert ((before - after == step.reward) | (after == 30)).all() and (abs(games.heading) == 1).all()
            assert (games.boards[:, :BRICK] > 0).any(2).all() and (games.ball >= 0).all() and (games.ball < 10).all()
            lost |= step.terminated
            total += step.reward.sum()
            if plays is not follow:
                games.reset(step.terminated)
        assert (not lost.any() and total > 30 * 3) if plays is follow else lost.all()


def returns(play: Callable[[Any], int], env: Any, episodes: int) -> float:
    total = 0.0
    for _ in range(episodes):
        env.reset()
        for _ in range(1000):
            reward, over = env.act(play(env))
            total += reward
            if over:
                break
    return total / episodes


class Ours:
    """Our game with MinAtar's methods."""

    def __init__(self) -> None:
        self.games = BreakoutGames(1)
        self.games.seed([0])

    def reset(self) -> None:
        self.games.reset()

    def act(self, action: int) -> tuple[float, bool]:
        step = self.games.step([action])
        return float(step.reward[0]), bool(step.terminated[0])

    def state(self) -> np.ndarray:
        return self.games.observations()[0].transpose(1, 2, 0) > 0


@pytest.mark.slow
def test_random_play_is_worth_about_as_much_as_in_minatar() -> None:
    minatar = pytest.importorskip("minatar")
    rng, ours = np.random.default_rng(0), Ours()
    theirs = minatar.Environment("breakout", sticky_action_prob=0.0)
    theirs.seed(0)
    theirs.reset()
    ours.reset()
    assert theirs.state().shape == ours.state().shape
    assert sorted(theirs.state().sum((0, 1))) == sorted(ours.state().sum((0, 1)))
    worth = []
    for env, actions in ((ours, [KEEP, GO_LEFT, GO_RIGHT]), (theirs, [0, 1, 3])):
        worth.append(returns(lambda _, own=actions: own[rng.integers(3)], env, 400))
    assert worth[0] == pytest.approx(worth[1], rel=0.5) and 0.2 < worth[0] < 1.5


# -- looks ---------------------------------------------------------------------------------------------------------


def test_text_and_picture_show_the_frame() -> None:
    games = game((4, 4), (1, 1), 6, bricks((3, 2), (1, 9)))
    games.step([KEEP])
    text = games.text(0).split("\n")
    assert text[1] == " " * 9 + "#" and text[3] == "  #" + " " * 7
    assert text[4] == "    ." + " " * 5 and text[5] == "     o" + " " * 4 and text[9] == "      =   "
    picture = games.picture(0)
    assert picture.shape == (160, 160, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) == 5


def test_a_dream_s_frame_is_shown_by_its_nearest_cells() -> None:
    env = gym.make("mbrl_wrappers/Breakout-v0", render_mode="ansi")
    env.reset(seed=0)
    frame = np.zeros((4, 10, 10))
    frame[PADDLE, 9, 3], frame[BALL, 6, 6], frame[BRICK, 1, 1] = 200, 130, 100
    set_state_from_obs(env, frame)
    shown = env.render().split("\n")
    assert shown[9] == "   =      " and shown[6] == "      o   " and shown[1] == " " * 10


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="render_mode must be None or one of"):
        Breakout(render_mode="human")
