"""MiniPacman's rules on positions written by hand, and how it looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mbrl_wrappers.tasks.grids import MiniPacman, MiniPacmanGames
from mbrl_wrappers.tasks.grids.games import DOWN, LEFT, RIGHT, STAY, UP
from mbrl_wrappers.tasks.grids.mini_pacman import EDIBLE, FOOD, GHOST, MAZE, MODES, PACMAN, PILL, POWER, WALL

FAR = (13, 17)


def cell(place: tuple[int, int]) -> int:
    return place[0] * 19 + place[1]


def game(
    mode: str,
    pacman: tuple[int, int],
    ghosts: Sequence[tuple[tuple[int, int], int]] = ((FAR, LEFT),),
    pills: Sequence[tuple[int, int]] = (FAR,),
) -> MiniPacmanGames:
    """Start a game in a position, with ghosts as (place, direction)."""
    games = MiniPacmanGames(1, mode=mode)
    games.seed([0])
    places, facing = [cell(place) for place, _ in ghosts], [direction for _, direction in ghosts]
    games.put(0, cell(pacman), [cell(pill) for pill in pills], places, facing)
    return games


def place_of(games: MiniPacmanGames, plane: int) -> list[tuple[int, int]]:
    return [tuple(int(x) for x in place) for place in np.argwhere(games.observations()[0, plane] == 255)]


def reward_of(games: MiniPacmanGames, action: int) -> float:
    return float(games.step([action]).reward[0])


def test_the_maze_has_no_dead_ends_and_is_connected() -> None:
    rows = MAZE.split("\n")
    assert len(rows) == 15 and {len(row) for row in rows} == {19}
    floor = {(r, c) for r, row in enumerate(rows) for c, character in enumerate(row) if character == "."}
    ways = {
        place: {(place[0] + d, place[1] + r) for d, r in ((0, 1), (0, -1), (1, 0), (-1, 0))} & floor for place in floor
    }
    assert all(len(neighbours) >= 2 for neighbours in ways.values())
    reached, queue = {(1, 1)}, [(1, 1)]
    while queue:
        for place in ways[queue.pop()] - reached:
            reached.add(place)
            queue.append(place)
    assert reached == floor and not floor & {(r, c) for r in range(15) for c in (0, 18)}


# -- Pacman --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "place"), [(UP, (2, 8)), (DOWN, (3, 8)), (LEFT, (3, 7)), (RIGHT, (3, 9)), (STAY, (3, 8))]
)
def test_pacman_walks_and_walls_stop_it(action: int, place: tuple[int, int]) -> None:
    games = game("regular", (3, 8))
    games.step([action])
    assert place_of(games, PACMAN) == [place]


@pytest.mark.parametrize("mode", MODES)
def test_food_is_eaten_once(mode: str) -> None:
    rules, games = MODES[mode], game(mode, (1, 3))
    assert place_of(games, FOOD).count((1, 3)) == 0 and (1, 4) in place_of(games, FOOD)
    assert reward_of(games, RIGHT) == pytest.approx(rules.step + rules.food)
    assert reward_of(games, LEFT) == pytest.approx(rules.step)
    assert (1, 4) not in place_of(games, FOOD)


@pytest.mark.parametrize("mode", MODES)
def test_a_power_pill_lasts_for_19_steps_at_double_speed(mode: str) -> None:
    rules, games = MODES[mode], game(mode, (3, 1), pills=[(3, 2), FAR])
    assert reward_of(games, RIGHT) == pytest.approx(rules.step + rules.pill + rules.food)
    assert place_of(games, PILL) == [FAR]
    assert place_of(games, PACMAN) == [(3, 2)]
    bars = [len(place_of(games, POWER))]
    for step in range(19):
        games.step([RIGHT if step < 2 else STAY])
        bars.append(len(place_of(games, POWER)))
    assert bars == list(range(19, -1, -1))
    assert place_of(games, PACMAN) == [(3, 6)]
    games.step([RIGHT])
    assert place_of(games, PACMAN) == [(3, 7)]


def test_a_fast_pacman_eats_on_both_cells_and_stops_at_a_wall() -> None:
    games = game("regular", (1, 2), pills=[(1, 3), FAR])
    rewards = [reward_of(games, RIGHT) for _ in range(5)]
    assert rewards == [1 + 2, 2, 2, 1, 0] and place_of(games, PACMAN) == [(1, 8)]


# -- ghosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ghost", "facing", "pacman", "after"),
    [
        # Corridors are followed, whatever is behind; their bends too.
        ((1, 3), LEFT, (1, 8), (1, 2)),
        ((1, 3), RIGHT, (13, 1), (1, 4)),
        ((1, 1), UP, (13, 16), (1, 2)),
        ((1, 1), LEFT, (13, 16), (2, 1)),
        # At a junction towards Pacman, but not back.
        ((3, 4), RIGHT, (3, 16), (3, 5)),
        ((3, 4), RIGHT, (11, 5), (4, 4)),
        ((3, 4), RIGHT, (3, 1), (4, 4)),  # left is back: down and up are as good, and down comes first
        ((3, 4), UP, (3, 1), (3, 3)),
        ((3, 4), UP, (11, 4), (3, 3)),  # down is back: left and right are as good, and left comes first
    ],
)
def test_a_ghost_chases(ghost: tuple[int, int], facing: int, pacman: tuple[int, int], after: tuple[int, int]) -> None:
    games = game("regular", pacman, [(ghost, facing)])
    games.step([STAY])
    assert place_of(games, GHOST) == [after] and place_of(games, EDIBLE) == []


@pytest.mark.parametrize(
    ("ghost", "facing", "after"), [((3, 4), RIGHT, (3, 5)), ((3, 4), DOWN, (3, 5)), ((3, 4), LEFT, (4, 4))]
)
def test_a_ghost_flees_from_the_step_of_the_pill_on(
    ghost: tuple[int, int], facing: int, after: tuple[int, int]
) -> None:
    games = game("regular", (3, 1), [(ghost, facing)], pills=[(3, 2), FAR])
    games.step([RIGHT])
    assert place_of(games, EDIBLE) == [after] and place_of(games, GHOST) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("action", "facing"),
    [(RIGHT, LEFT), (RIGHT, RIGHT), (STAY, LEFT)],
    ids=["paths cross", "Pacman walks into it", "it comes to Pacman"],
)
def test_a_ghost_eats_pacman(mode: str, action: int, facing: int) -> None:
    games = game(mode, (1, 3), [((1, 4), facing)])
    step = games.step([action])
    food = MODES[mode].food if action == RIGHT else 0
    assert step.terminated.tolist() == [True]
    assert step.reward[0] == pytest.approx(MODES[mode].step + MODES[mode].death + food)


def test_two_ghosts_kill_once() -> None:
    games = game("hunt", (1, 3), [((1, 4), LEFT), ((1, 4), LEFT), ((1, 2), RIGHT)])
    assert games.step([STAY]).reward[0] == -20


@pytest.mark.parametrize("mode", MODES)
def test_a_strong_pacman_eats_ghosts(mode: str) -> None:
    rules = MODES[mode]
    games = game(mode, (1, 2), [((1, 5), RIGHT), (FAR, LEFT)], pills=[(1, 3), FAR])
    games.step([RIGHT])
    assert place_of(games, PACMAN) == [(1, 3)] and (1, 6) in place_of(games, EDIBLE)
    step = games.step([RIGHT])  # to 5, and the ghost flees to 7
    assert step.reward[0] == pytest.approx(rules.step + 2 * rules.food)
    step = games.step([RIGHT])
    assert place_of(games, PACMAN) == [(1, 7)] and len(place_of(games, EDIBLE)) == 1
    assert step.reward[0] == pytest.approx(rules.step + 2 * rules.food + rules.ghost)
    assert not step.terminated.any()


def test_power_ends() -> None:
    games = game("hunt", (1, 2), pills=[(1, 3), FAR])
    games.step([RIGHT])
    for _ in range(19):
        games.step([STAY])
    games.ghosts[0, 0], games.facing[0, 0] = cell((1, 4)), LEFT
    assert games.step([STAY]).terminated.all()


# -- levels --------------------------------------------------------------------------------------------------------


def test_a_level_without_food_is_cleared_in_regular() -> None:
    games = game("regular", (1, 3))
    for place in place_of(games, FOOD):
        if place != (1, 4):
            games.boards[0, FOOD, cell(place)] = 0
    games._food_left[0] = 1
    assert games.step([RIGHT]).reward[0] == 1 and games.level[0] == 2
    assert len(place_of(games, FOOD)) == MAZE.count(".") - 1 and len(place_of(games, PILL)) == 2


def test_a_level_without_pills_is_cleared_in_rush_alone() -> None:
    for mode in MODES:
        games = game(mode, (1, 3), pills=[(1, 4)])
        games.step([RIGHT])
        assert games.level[0] == (2 if mode == "rush" else 1)


def test_a_level_without_ghosts_is_cleared_in_hunt_and_ambush() -> None:
    for mode in MODES:
        games = game(mode, (1, 3), [((1, 5), LEFT)], pills=[(1, 4), FAR])
        games.step([RIGHT])
        assert games.level[0] == (2 if mode in ("hunt", "ambush") else 1)


@pytest.mark.parametrize(
    ("mode", "limit"), [("avoid", 128), ("hunt", 80), ("ambush", 80), ("regular", None), ("rush", None)]
)
def test_time_clears_a_level(mode: str, limit: int | None) -> None:
    games = game(mode, (1, 3))
    steps = 0
    while games.level[0] == 1 and steps < 130:
        games.ghosts[0], games.facing[0] = cell((13, 12)), LEFT  # kept away
        games.step([STAY])
        steps += 1
    assert steps == (limit or 130)


def test_the_number_of_ghosts_grows_with_the_level() -> None:
    games = game("avoid", (1, 3))
    for level, count in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (12, 6)):
        games._start_level(0, level)
        assert games.alive[0].sum() == count
    games.reset()
    assert games.level[0] == 1 and games.alive[0].sum() == 1


def test_starts_are_apart_and_random() -> None:
    games = MiniPacmanGames(300, mode="hunt")
    games.seed(list(range(300)))
    games.reset()
    frames = games.observations()
    assert (frames[:, PACMAN] > 0).sum((1, 2)).tolist() == [1] * 300
    assert (frames[:, PILL] > 0).sum((1, 2)).tolist() == [2] * 300
    pacman, ghost = (np.argwhere(frames[:, plane])[:, 1:] for plane in (PACMAN, GHOST))
    assert (abs(pacman - ghost).sum(1) >= 5).all()
    assert len({tuple(place) for place in pacman}) > 60 and set(games.facing[:, 0]) == {UP, DOWN, LEFT, RIGHT}
    assert not ((frames[:, WALL] > 0) & (frames[:, FOOD:POWER] > 0).any(1)).any()


@pytest.mark.parametrize("mode", MODES)
def test_random_play_keeps_the_rules(mode: str) -> None:
    games = MiniPacmanGames(16, mode=mode)
    games.seed(list(range(16)))
    games.reset()
    rng, floor = np.random.default_rng(0), np.array([c == "." for c in MAZE.replace("\n", "")])
    for _ in range(300):
        step = games.step(rng.integers(5, size=16))
        assert floor[games.pacman].all() and floor[games.ghosts[games.alive]].all()
        assert (games._food_left == (games.boards[:, FOOD] > 0).sum(1)).all()
        assert (games._pills_left == (games.boards[:, PILL] > 0).sum(1)).all()
        games.reset(step.terminated)


# -- looks ---------------------------------------------------------------------------------------------------------


def test_text_and_picture_show_the_frame() -> None:
    games = game("hunt", (1, 2), [((1, 5), RIGHT)], pills=[(1, 3), FAR])
    assert games.text(0).split("\n")[1] == "#.Co.G...#........#"
    games.step([RIGHT])
    rows = games.text(0).split("\n")
    assert rows[1] == "#. C..g..#........#" and rows[-1] == "=" * 19
    picture = games.picture(0)
    assert picture.shape == (240, 304, 3) and picture.dtype == np.uint8
    tiles = {picture[16:32, 16 * column : 16 * column + 16].tobytes() for column in (0, 1, 2, 3, 6)}
    assert len(tiles) == 5


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode must be one of \('regular', .*\), got 'chase'"):
        MiniPacman(mode="chase")
