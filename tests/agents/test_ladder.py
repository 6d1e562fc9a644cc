"""The ladder that an agent climbs while it learns."""

from __future__ import annotations

from typing import Any

import pytest
from stable_baselines3 import DQN

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.agents.ladder import LadderCallback, measure_ladder
from mbrl_wrappers.envs.games.env import GameEnv


def tiny_agent(**kwargs: Any) -> AlphaZero:
    return AlphaZero(
        "MlpPolicy", GameEnv("TicTacToe"), num_games=8, num_simulations=8, learning_starts=20, seed=0, device="cpu",
        policy_kwargs={"features_extractor_kwargs": {"widths": [8]}}, **kwargs,
    )  # fmt: skip


def test_rows_are_measured_while_learning_and_at_the_end() -> None:
    agent, ladder = tiny_agent(), LadderCallback(80, ["random", "perfect"], num_games=10)
    agent.learn(200, callback=ladder)
    assert [row.steps for row in ladder.rows] == [80, 160, 200]
    seconds = [row.cpu_seconds for row in ladder.rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    for row in ladder.rows:
        assert list(row.results) == ["random", "perfect"] and all(sum(result) == 10 for result in row.results.values())
        assert row.results["perfect"].wins == 0 and row.kept is not None and 0 < row.kept <= 1
    last = agent.logger.name_to_value
    assert last["ladder/random"] == ladder.rows[-1].results["random"].score
    assert last["ladder/kept"] == ladder.rows[-1].kept


def test_measuring_leaves_the_agent_as_it_was() -> None:
    measured, other = tiny_agent(), tiny_agent()
    measured.learn(300, callback=LadderCallback(64, ["random"], num_games=4))
    other.learn(300)
    for one, two in zip(measured.policy.parameters(), other.policy.parameters(), strict=True):
        assert one.equal(two)


def test_a_search_is_better_than_the_network_alone() -> None:
    searched, alone = (measure_ladder(tiny_agent(), 0.0, ["one_ply"], 40, number) for number in (64, 0))
    assert searched.results["one_ply"].score > alone.results["one_ply"].score


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"every": 5, "num_games": 0}, "num_games must be"),
        ({"every": 5, "num_simulations": -1}, "num_simulations must be"),
        ({"every": 5, "opponents": ["nobody"]}, "opponent must be one of .*'nobody'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LadderCallback(**arguments)


def test_agents_that_play_no_game_are_refused() -> None:
    agent = DQN("MlpPolicy", "CartPole-v1", learning_starts=5)
    with pytest.raises(ValueError, match="LadderCallback needs AlphaZero or ExIt, got DQN"):
        agent.learn(10, callback=LadderCallback(5))
