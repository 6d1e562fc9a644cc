"""Expert Iteration: the search of the expert, the targets of its apprentice, and learning."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbrl_wrappers.agents import ExIt
from mbrl_wrappers.envs.games import make_game
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.envs.games.matches import play_match
from mbrl_wrappers.envs.games.opponents import find_opponent, random_player
from mbrl_wrappers.imagination import load_checkpoint, save_checkpoint
from mbrl_wrappers.planners.tree import UCT
from mbrl_wrappers.planners.tree.games import Rollouts


def make_agent(game: str = "TicTacToe", **kwargs: Any) -> ExIt:
    settings: dict[str, Any] = {
        "num_games": 8, "num_simulations": 12, "learning_starts": 50, "batch_size": 32, "seed": 0, "device": "cpu",
        "policy_kwargs": {"features_extractor_kwargs": {"widths": [32]}},
    }  # fmt: skip
    return ExIt("MlpPolicy", GameEnv(game), **(settings | kwargs))


def test_without_an_apprentice_the_expert_is_plain_uct() -> None:
    agent, game = make_agent(num_simulations=40, exploration=2**0.5), make_game("TicTacToe")
    state = game.initial(5)
    found = agent.think(state, seed=3)
    assert agent._method(True) == UCT(2**0.5, 30.0)
    expansion = agent._expansion([np.random.default_rng(0)] * 5)
    assert isinstance(expansion.evaluate, Rollouts) and expansion.evaluate.evaluate is None
    assert found.visits.sum(1).tolist() == [40] * 5 and (found.visits > 0).all()


def test_with_one_its_policy_and_value_are_mixed_in() -> None:
    agent = make_agent(value_weight=3.0)
    agent.learn(400)
    expansion = agent._expansion([np.random.default_rng(index) for index in range(4)])
    assert isinstance(expansion.evaluate, Rollouts) and expansion.evaluate.weight == 0.75
    state = agent.rules.initial(4)
    logits, value = expansion.evaluate(state)
    assert np.array_equal(logits, agent.evaluate(state)[0])
    outcomes = (np.asarray(value) - 0.75 * agent.evaluate(state)[1]) / 0.25
    assert np.isin(np.round(outcomes, 4), [-1, 0, 1]).all()


def test_the_apprentice_imitates_the_share_of_visits() -> None:
    agent = make_agent()
    agent.learn(300)
    drawn = agent.examples.sample(64)
    shares = drawn.policy * 12
    np.testing.assert_allclose(shares, shares.round(), atol=1e-4)


def test_batch_iterations_forget_the_one_before() -> None:
    agent = make_agent(iteration_size=120, learning_starts=10_000)
    sizes = []
    for _ in range(12):
        agent.learn(80, reset_num_timesteps=False)
        sizes.append(len(agent.examples))
    assert max(sizes) < 120 + 8 * 9 and any(later < earlier for earlier, later in itertools.pairwise(sizes))
    online = make_agent(learning_starts=10_000)
    online.learn(960)
    assert len(online.examples) > 800


def test_expert_and_apprentice_get_better() -> None:
    agent = make_agent(num_games=32, num_simulations=30, gradient_steps=2, batch_size=128, learning_rate=2e-3)
    before = play_match(agent.rules, agent.player(0), random_player, 100).score
    agent.learn(8_000)
    assert play_match(agent.rules, agent.player(0), random_player, 100).score > max(before + 0.1, 0.75)
    assert play_match(agent.rules, agent.player(30), find_opponent("uct_30"), 60).score > 0.5


def test_a_run_that_resumes_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    whole, half = make_agent(), make_agent()
    whole.learn(400)
    half.learn(200)
    save_checkpoint(half, tmp_path / "checkpoint")
    resumed = load_checkpoint(ExIt, tmp_path / "checkpoint", GameEnv("TicTacToe"), device="cpu")
    assert resumed.prior_bonus == 30.0
    resumed.learn(200, reset_num_timesteps=False)
    for one, other in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search": "puct"}, r"search must be one of \['uct'\], got 'puct'"),
        ({"exploration": -1.0}, "exploration must be in .*, got -1.0"),
        ({"prior_bonus": -1.0}, "prior_bonus must be in .*, got -1.0"),
        ({"value_weight": -0.5}, "value_weight must be in .*, got -0.5"),
        ({"search_kwargs": {"c_init": 1}}, "search_kwargs must be left out, since ExIt has its own, got {'c_init': 1}"),
        (
            {"deterministic_search_kwargs": {"c_init": 1}},
            "deterministic_search_kwargs must be left out, .*{'c_init': 1}",
        ),
        ({"iteration_size": 0}, "iteration_size must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)
