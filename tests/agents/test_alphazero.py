"""AlphaZero: what it learns from, how it acts, and that it learns, saves and resumes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.agents.self_play import ExampleBuffer, Examples, SelfPlay
from mbrl_wrappers.envs.games import Hex, make_game
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.envs.games.matches import play_match
from mbrl_wrappers.envs.games.opponents import perfect_player, random_player
from mbrl_wrappers.imagination import load_checkpoint, save_checkpoint
from mbrl_wrappers.planners.tree import PUCT, Gumbel, TreeSearch
from mbrl_wrappers.planners.tree.games import GameExpansion

TIC_TAC_TOE = make_game("TicTacToe")


def make_agent(game: Any = "TicTacToe", **kwargs: Any) -> AlphaZero:
    settings: dict[str, Any] = {
        "num_games": 8, "num_simulations": 8, "learning_starts": 50, "batch_size": 32, "seed": 0, "device": "cpu",
        "policy_kwargs": {"features_extractor_kwargs": {"widths": [16]}},
    }  # fmt: skip
    return AlphaZero("MlpPolicy", GameEnv(game), **(settings | kwargs))


def even(state: Any) -> tuple[np.ndarray, np.ndarray]:
    """A network that knows nothing."""
    return np.zeros((len(state.player), 9)), np.zeros(len(state.player))


def blind(evaluate: Any) -> GameExpansion:
    return GameExpansion(TIC_TAC_TOE, evaluate)


def play(num_games: int = 6, **kwargs: Any) -> SelfPlay:
    settings: dict[str, Any] = {
        "explored_moves": 9,
        "random_opening": 0,
        "value_mix": 0.0,
        "reuses_trees": False,
        "seed": 0,
    }
    return SelfPlay(TIC_TAC_TOE, TreeSearch(8), num_games, **(settings | kwargs))


# -- self-play -------------------------------------------------------------------------------------------


def collected(games: SelfPlay, rounds: int) -> list[Examples]:
    return [games.move(blind(even))[0] for _ in range(rounds)]


@pytest.mark.parametrize("reuses_trees", [False, True])
def test_examples_tell_the_outcome_to_the_player_to_move(reuses_trees: bool) -> None:
    """A finished game is replayed by its planes: the last mover of a won game sees 1, the other -1, and so on back."""
    found = 0
    for examples in collected(play(reuses_trees=reuses_trees), 60):
        starts = np.flatnonzero(examples.planes.sum((1, 2, 3)) == 0)
        for begin, end in pairwise([*starts, len(examples.value)]):
            values = examples.value[begin:end]
            assert np.abs(values).max() == np.abs(values).min()  # a win and a loss in turn, or a draw throughout
            assert (values[1:] == -values[:-1]).all()
            stones = examples.planes[begin:end].sum((1, 2, 3))
            assert stones.tolist() == list(range(end - begin))
            if values[-1] != 0:  # who moved last has won
                assert values[-1] == 1
                found += 1
    assert found > 5


def test_policies_are_distributions_over_legal_moves() -> None:
    for examples in collected(play(), 20):
        assert (examples.policy[~examples.legal] == 0).all()
        np.testing.assert_allclose(examples.policy.sum(1), 1, rtol=1e-5)
        assert (examples.legal == (examples.planes.sum(1) == 0).reshape(-1, 9)).all()


def test_the_value_s_target_is_mixed() -> None:
    outcomes, mixed, roots = (
        np.concatenate([examples.value for examples in collected(play(value_mix=mix), 30)]) for mix in (0.0, 0.25, 1.0)
    )
    np.testing.assert_allclose(mixed, 0.75 * outcomes + 0.25 * roots, atol=1e-6)
    assert len(np.unique(outcomes)) == 3 < len(np.unique(roots))


def test_a_game_does_not_depend_on_its_neighbours() -> None:
    few, many = play(2), play(7)
    for _ in range(25):
        few.move(blind(even))
        many.move(blind(even))
        for one, other in zip(few.state, many.state, strict=True):
            assert (one == other[:2]).all()


def test_moves_behind_the_explored_ones_are_the_best() -> None:
    def best_first(state: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(20.0 * np.arange(9)[::-1], (len(state.player), 1)), np.zeros(len(state.player))

    games = SelfPlay(TIC_TAC_TOE, TreeSearch(4, PUCT(dirichlet_fraction=0.0)), 5, 0, 0, 0.0, False, seed=0)
    games.move(blind(best_first))
    assert (games.state.board.reshape(5, 9).argmax(1) == 0).all()


@pytest.mark.parametrize("reuses_trees", [False, True])
def test_random_openings_are_played_and_not_learned_from(reuses_trees: bool) -> None:
    """A game's first example has as many stones as its opening has moves, and outcomes are those of the whole game."""
    first, boards = set(), set()
    for examples in collected(play(20, random_opening=4, reuses_trees=reuses_trees), 60):
        stones = examples.planes.sum((1, 2, 3))
        starts = np.flatnonzero(np.diff(stones, prepend=99) <= 0)
        first |= set(stones[starts].tolist())
        boards |= {examples.planes[start].tobytes() for start in starts}
        for begin, end in pairwise([*starts, len(stones)]):
            assert (examples.value[begin + 1 : end] == -examples.value[begin : end - 1]).all()
    assert first == {0, 1, 2, 3, 4} and len(boards) > 40


def test_the_buffer_keeps_the_newest_and_turns_all_parts_alike() -> None:
    buffer = ExampleBuffer(TIC_TAC_TOE, 20, seed=0)
    for number in range(5):
        planes = np.zeros((7, 2, 3, 3), np.uint8)
        planes[:, 0, 0, 1] = 1
        policy = planes[:, 0].reshape(7, 9).astype(np.float32)
        buffer.add(Examples(planes, policy > 0, policy, np.full(7, number, np.float32)))
    assert len(buffer) == 20
    drawn = buffer.sample(500)
    assert set(drawn.value) == {2, 3, 4}  # 35 were added
    assert (drawn.planes[:, 0].reshape(-1, 9) == drawn.policy).all() and ((drawn.policy > 0) == drawn.legal).all()
    assert set(np.unique(drawn.policy.argmax(1))) == {1, 3, 5, 7}  # an edge becomes any edge, and nothing else


def test_more_examples_than_fit_are_the_last_ones() -> None:
    buffer = ExampleBuffer(TIC_TAC_TOE, 4, seed=0)
    zeros = np.zeros((9, 2, 3, 3), np.uint8), np.ones((9, 9), bool), np.zeros((9, 9), np.float32)
    buffer.add(Examples(*zeros, np.arange(9, dtype=np.float32)))
    assert set(buffer.sample(100).value) == {5, 6, 7, 8}


# -- the agent -------------------------------------------------------------------------------------------


def test_the_loss_is_the_papers() -> None:
    agent = make_agent(gradient_steps=1)
    agent.learn(400)
    batch = agent.examples.sample(16)
    agent.examples.sample = lambda count: batch  # type: ignore[method-assign]
    logits, value = agent.policy.evaluate(torch.as_tensor(batch.planes).float())
    log_probs = torch.where(torch.as_tensor(batch.legal), logits, -1e9).log_softmax(1)
    cross_entropy = -(torch.as_tensor(batch.policy) * log_probs).sum(1).mean()
    squared = (torch.as_tensor(batch.value) - value).square().mean()
    agent.train(1, 16)
    logged = agent.logger.name_to_value
    assert logged["train/policy_loss"] == pytest.approx(cross_entropy.item(), rel=1e-4)
    assert logged["train/value_loss"] == pytest.approx(squared.item(), rel=1e-4)
    assert logged["train/policy_divergence"] >= 0


@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_predict_obeys_the_rules_and_wins_at_once(search: str) -> None:
    agent = make_agent(search=search, num_simulations=40)
    planes = np.zeros((2, 3, 3), np.float32)
    planes[0, 0, :2], planes[1, 1, :2] = 1, 1  # both sides have two in a row; the mover completes the first
    action, state = agent.predict(planes, deterministic=True)
    assert action == 2 and state is None
    actions, _ = agent.predict(np.stack([planes, planes]), deterministic=True)
    assert actions.tolist() == [2, 2]
    for _ in range(20):
        action, _ = agent.predict(planes)
        assert action in (2, 5, 6, 7, 8)
    assert agent.player(0)(TIC_TAC_TOE, TIC_TAC_TOE.initial(3), np.random.default_rng(0)).shape == (3,)


def test_predictions_are_reproducible_and_disturb_nothing() -> None:
    planes = np.zeros((4, 2, 3, 3), np.float32)
    first, second = make_agent(), make_agent()
    assert all((first.predict(planes)[0] == second.predict(planes)[0]).all() for _ in range(3))
    first.seed_predictions(5)
    drawn = [first.predict(planes)[0] for _ in range(6)]
    second.seed_predictions(5)
    assert all((second.predict(planes)[0] == action).all() for action in drawn) and len(np.unique(drawn)) > 1
    second.seed_predictions(6)
    assert any((second.predict(planes)[0] != action).any() for action in drawn)
    for agent in (first, second):
        agent.seed_predictions(None)
    assert (first.predict(planes)[0] == second.predict(planes)[0]).all()
    first.learn(300)
    second.learn(100)
    second.predict(planes)
    second.learn(200, reset_num_timesteps=False)
    for one, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_it_learns_not_to_lose() -> None:
    agent = make_agent(
        num_games=64, num_simulations=24, gradient_steps=2, batch_size=256, learning_rate=2e-3,
        policy_kwargs={"features_extractor_kwargs": {"widths": [64, 64]}},
    )  # fmt: skip
    agent.learn(25_000)
    assert play_match(TIC_TAC_TOE, agent.player(), perfect_player, 60).losses <= 3
    untrained = play_match(TIC_TAC_TOE, make_agent().player(0), random_player, 100).score
    assert play_match(TIC_TAC_TOE, agent.player(0), random_player, 100).score > max(untrained + 0.1, 0.8)


def test_it_meets_sb3_s_tools() -> None:
    class Count(BaseCallback):
        steps = 0

        def _on_step(self) -> bool:
            self.steps += 1
            return self.steps < 10

    agent, count = make_agent(), Count()
    agent.learn(1_000, callback=count)
    assert count.steps == 10 and agent.num_timesteps == 80
    returns, _ = evaluate_policy(agent, GameEnv("TicTacToe", first="random"), 5, warn=False)
    assert -1 <= float(np.mean(returns)) <= 1
    agent.learn(80, progress_bar=False, log_interval=1, reset_num_timesteps=False)
    assert agent.num_timesteps == 160


def test_saved_and_loaded(tmp_path: Path) -> None:
    agent = make_agent(search="puct", explored_moves=3)
    agent.learn(200)
    agent.save(tmp_path / "agent")
    loaded = AlphaZero.load(tmp_path / "agent", env=GameEnv("TicTacToe"), device="cpu")
    assert (loaded.search, loaded.explored_moves, loaded.num_timesteps) == ("puct", 3, 200)
    for one, other in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    planes = np.zeros((2, 3, 3), np.float32)
    without_env = AlphaZero.load(tmp_path / "agent", device="cpu")
    assert without_env.predict(planes, deterministic=True)[0] == loaded.predict(planes, deterministic=True)[0]
    unknown = make_agent(Hex(6))
    unknown.save(tmp_path / "unknown")
    with pytest.raises(ValueError, match="env must be given for the rules of Hex6"):
        AlphaZero.load(tmp_path / "unknown", device="cpu").predict(np.zeros((3, 6, 6)))


@pytest.mark.parametrize("reuse_trees", [False, True])
def test_a_run_that_resumes_is_the_one_that_never_stopped(tmp_path: Path, reuse_trees: bool) -> None:
    whole, half = make_agent(reuse_trees=reuse_trees), make_agent(reuse_trees=reuse_trees)
    whole.learn(400)
    half.learn(200)
    save_checkpoint(half, tmp_path / "checkpoint")
    resumed = load_checkpoint(AlphaZero, tmp_path / "checkpoint", GameEnv("TicTacToe"), device="cpu")
    resumed.learn(200, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps and resumed._n_updates == whole._n_updates
    for one, other in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_residual_network_trains_too() -> None:
    kwargs = {"features_extractor_kwargs": {"channels": 4, "blocks": 1}}
    agent = AlphaZero(
        "CnnPolicy", GameEnv("TicTacToe"), num_games=8, num_simulations=4, learning_starts=20, batch_size=16,
        policy_kwargs=kwargs, seed=0, device="cpu",
    )  # fmt: skip
    agent.learn(100)
    assert agent._n_updates > 0


@pytest.mark.parametrize("game", ["ConnectFour", "Othello6", "Hex5"])
def test_other_games(game: str) -> None:
    agent = make_agent(game, num_simulations=4)
    agent.learn(400)
    env = GameEnv(game, first="random")
    obs, _ = env.reset(seed=0)
    ended = False
    while not ended:
        action, _ = agent.predict(obs, deterministic=True, action_masks=env.action_masks())
        obs, _, ended, _, _ = env.step(action)


def test_the_search_takes_arguments_and_keeps_them(tmp_path: Path) -> None:
    """The larger the scale of values, the nearer the improved policy is to the best action alone."""
    sharp, soft = (make_agent(search_kwargs={"value_scale": scale}) for scale in (1.0, 0.01))
    start = sharp.rules.initial(4)
    peaks = [agent.think(start, 64, seed=0).policy.max(1).mean() for agent in (sharp, soft)]
    assert peaks[0] > peaks[1] + 0.1
    soft.save(tmp_path / "agent.zip")
    loaded = AlphaZero.load(tmp_path / "agent.zip", GameEnv("TicTacToe"))
    assert loaded.think(start, 64, seed=0).policy.max(1).mean() == peaks[1]
    puct = make_agent(search="puct", search_kwargs={"c_init": 0.0, "dirichlet_fraction": 0.9})
    assert puct._method(is_quiet=False) == PUCT(c_init=0.0, dirichlet_fraction=0.9)
    assert puct._method(is_quiet=True) == PUCT(c_init=0.0, dirichlet_fraction=0.0)


def test_play_without_noise_has_arguments_of_its_own(tmp_path: Path) -> None:
    """Self-play searches with softer policies than matches do, also after loading."""
    arguments = {"search_kwargs": {"visit_offset": 10.0, "value_scale": 0.1}}
    agent = make_agent(**arguments, deterministic_search_kwargs={"value_scale": 1.0})
    agent.save(tmp_path / "agent.zip")
    for one in (agent, AlphaZero.load(tmp_path / "agent.zip", GameEnv("TicTacToe"))):
        assert one._method(is_quiet=False) == Gumbel(visit_offset=10.0, value_scale=0.1)
        assert one._method(is_quiet=True) == Gumbel(visit_offset=10.0, value_scale=1.0)
    start, soft = agent.rules.initial(1), make_agent(**arguments)
    quiet, noisy = (agent.think(start, 64, temperature, seed=0).policy.max() for temperature in (0.0, 1.0))
    assert quiet > soft.think(start, 64, seed=0).policy.max() + 0.1
    assert noisy == soft.think(start, 64, 1.0, seed=0).policy.max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search": "minimax"}, "search must be one of .*, got 'minimax'"),
        ({"num_simulations": 0}, "num_simulations must be a whole number of at least 1, got 0"),
        ({"num_games": 1.5}, "num_games must be a whole number of at least 1, got 1.5"),
        ({"explored_moves": -1}, "explored_moves must be a whole number of at least 0, got -1"),
        ({"random_opening": -1}, "random_opening must be a whole number of at least 0, got -1"),
        ({"value_mix": 1.1}, r"value_mix must be in \[0, 1\], got 1.1"),
        (
            {"search_kwargs": {"c_init": 1}},
            r"search_kwargs must be arguments of 'gumbel', \['max_con.*'\], got {'c_init': 1}",
        ),
        (
            {"deterministic_search_kwargs": {"c": 1}},
            r"deterministic_search_kwargs must be arguments of 'gumbel', \['max_con.*'\], got {'c'",
        ),
        ({"search_kwargs": {"value_scale": -1.0}}, "value_scale must be in .*, got -1.0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)


def test_what_is_no_game_is_refused() -> None:
    with pytest.raises(ValueError, match="env must be of a game, with an attribute game"):
        AlphaZero("MlpPolicy", "CartPole-v1")
    agent = make_agent()
    with pytest.raises(ValueError, match=r"observation must have shape \(2, 3, 3\), got \(3, 3\)"):
        agent.predict(np.zeros((3, 3)))
    full = np.zeros((2, 3, 3), np.float32)
    full[0] = 1
    with pytest.raises(ValueError, match="observation must be of games with a legal move"):
        agent.predict(full)
