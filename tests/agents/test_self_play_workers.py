"""Self-play by workers: what they hand over, runs that repeat and resume, and workers that die or fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.agents import AlphaZero, ExIt
from mbrl_wrappers.agents.self_play import Examples
from mbrl_wrappers.agents.self_play_workers import Player, SelfPlayWorkers, Weights
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.imagination import load_checkpoint, save_checkpoint
from mbrl_wrappers.workers import WorkerDied, WorkerFailed
from testing.workers import Nearby

GAMES = 8


def make_agent(kind: type[AlphaZero] = AlphaZero, **kwargs: Any) -> AlphaZero:
    settings: dict[str, Any] = {
        "num_games": GAMES, "num_simulations": 4, "learning_starts": 50, "batch_size": 32, "seed": 0, "device": "cpu",
        "workers": 2, "policy_kwargs": {"features_extractor_kwargs": {"widths": [16]}},
    }  # fmt: skip
    return kind("MlpPolicy", GameEnv("TicTacToe"), **(settings | kwargs))


@pytest.fixture(autouse=True)
def _threads_kept() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


class AtStep(BaseCallback):
    """Does something before a move, once."""

    def __init__(self, step: int, act: Callable[[AlphaZero], None]) -> None:
        super().__init__()
        self.step, self.act = step, act

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps == self.step:
            self.act(self.model)


def stored(agent: AlphaZero) -> Examples:
    return Examples(*(field[: len(agent.examples)] for field in agent.examples._rows))


def assert_same_rows(one: Examples, other: Examples) -> None:
    for field, same in zip(one, other, strict=True):
        assert np.array_equal(field, same)


def assert_same_weights(one: AlphaZero, other: AlphaZero) -> None:
    for tensor, same in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(tensor, same)


def played_here(agent: AlphaZero, stream: str, moves: int) -> Examples:
    """Play the games of a stream in this process."""
    games = agent._new_games(stream)
    agent.policy.set_training_mode(False)
    found = [games.move(agent._expansion(games.rollout_generators))[0] for _ in range(moves)]
    return Examples(*map(np.concatenate, zip(*found, strict=True)))


def workers_of(agent: AlphaZero) -> SelfPlayWorkers:
    assert isinstance(agent.self_play, SelfPlayWorkers)
    return agent.self_play


@pytest.mark.slow
def test_processes_play_what_would_be_played_here_also_after_a_kill() -> None:
    """With weights that stay, until there are none: then the error of the process is the run's."""

    def kill(agent: AlphaZero) -> None:
        worker: Any = workers_of(agent)._seats[0].worker
        os.kill(worker._process.pid, signal.SIGKILL)

    def break_weights(agent: AlphaZero) -> None:
        workers_of(agent)._share = lambda weights: None  # type: ignore[method-assign]
        workers_of(agent)._shared = Weights({}, 0)

    agent = make_agent(learning_starts=10_000, reuse_trees=True)
    disturbances = [AtStep(20 * GAMES, kill), AtStep(60 * GAMES, break_weights)]
    with (
        pytest.warns(UserWarning, match=r"worker 0 of self-play died, .*: process \d+ ended by signal 9 \(Killed\)"),
        pytest.raises(WorkerFailed, match=r"(?s)worker \d of self-play failed\nTraceback.*KeyError: '"),
    ):
        agent.learn(100 * GAMES, callback=disturbances)
    workers = workers_of(agent)
    assert agent.num_timesteps >= 60 * GAMES and workers.seconds > 0
    assert [seat.num_workers for seat in workers._seats] == [2, 1]
    rows, mine = set(map(bytes, joined(stored(agent)))), set[bytes]()
    for stream in ("0, 0", "0, 1", "1, 0"):
        own = list(map(bytes, joined(played_here(agent, f"games of worker {stream}", 66))))
        assert len(rows.intersection(own)) > 50
        mine |= set(own)
    assert rows <= mine
    lengths = [info["l"] for info in agent.ep_info_buffer or ()]
    assert sum(lengths) == len(agent.examples) and len(lengths) == agent._episode_num


def joined(examples: Examples) -> np.ndarray:
    """Return the bytes of each row, ``[N, K]``."""
    parts = [np.ascontiguousarray(field).reshape(len(field), -1).view(np.uint8) for field in examples]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("kind", [AlphaZero, ExIt])
def test_a_worker_hands_over_what_would_be_played_here(kind: type[AlphaZero]) -> None:
    agent = make_agent(kind, workers=1, learning_starts=10_000)
    agent.executor = Nearby()
    agent.learn(25 * GAMES)
    assert_same_rows(stored(agent), played_here(agent, "games of worker 0, 0", 25))


def test_workers_play_different_games() -> None:
    agent = make_agent(workers=3)
    games = [played_here(agent, f"games of worker {stream}", 12) for stream in ("0, 0", "1, 0", "0, 1")]
    assert len({examples.policy.tobytes() for examples in games}) == 3
    without_seed = make_agent(seed=None)
    games = [played_here(without_seed, "games of worker 0, 0", 12) for _ in range(2)]
    assert games[0].policy.tobytes() != games[1].policy.tobytes()


@pytest.mark.parametrize("kind", [AlphaZero, ExIt])
def test_the_newest_weights_are_played_with(kind: type[AlphaZero]) -> None:
    """A worker's calls take the weights of the last round of turns, which two moves were called with before."""
    agent = make_agent(kind, workers=1, gradient_steps=2)
    seen: list[tuple[int, float]] = []

    class Watching(Player):
        def move(self, weights: Any) -> Any:
            played = super().move(weights)
            seen.append(of(self._agent))
            return played

    def of(agent: AlphaZero) -> tuple[int, float]:
        return agent._n_updates, agent.policy.value_net.bias.item()

    learned = [of(agent)]

    class Record(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            learned.append(of(agent))

    agent.executor = Nearby(makes=Watching)
    agent.learn(30 * GAMES, callback=Record())
    assert agent._n_updates > 20
    assert seen[:2] == learned[:1] * 2
    assert seen[2:] == learned[1:]


@pytest.mark.parametrize("reuse_trees", [False, True])
def test_a_run_that_resumes_is_the_one_that_never_stopped(tmp_path: Path, reuse_trees: bool) -> None:
    """Stopped between two turns of a round, in the middle of games, while workers are there and when they are not."""
    whole = make_agent(workers=3, reuse_trees=reuse_trees)
    whole.executor = Nearby()
    whole.learn(50 * GAMES, callback=AtStep(25 * GAMES, lambda agent: save_checkpoint(agent, tmp_path / "checkpoint")))
    for moves in (10, 8, 7):
        resumed = load_checkpoint(AlphaZero, tmp_path / "checkpoint", GameEnv("TicTacToe"), device="cpu")
        assert resumed.workers == 3
        resumed.executor = Nearby()
        resumed.learn(moves * GAMES, reset_num_timesteps=False)
        save_checkpoint(resumed, tmp_path / "checkpoint")
    resumed.learn(0, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps
    assert resumed._n_updates == whole._n_updates > 20
    assert_same_weights(resumed, whole)
    assert_same_rows(stored(resumed), stored(whole))


def test_another_number_of_workers_goes_on_with_the_same_positions(tmp_path: Path) -> None:
    agent = make_agent(workers=0)
    agent.learn(20 * GAMES)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = AlphaZero.load(tmp_path / "agent", env=GameEnv("TicTacToe"), device="cpu", workers=1)
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert_same_rows(stored(loaded), stored(agent))
    loaded.executor = Nearby()
    loaded.learn(10 * GAMES, reset_num_timesteps=False)
    assert loaded.num_timesteps == 30 * GAMES and len(loaded.examples) > len(agent.examples)


def test_a_worker_that_dies_now_and_then_is_replaced_each_time() -> None:
    agent = make_agent(workers=2)
    agent.executor = Nearby(30, np.inf, 30, 30, 30, 30)
    checkpoint = AtStep(20 * GAMES, lambda agent: workers_of(agent).gather())  # whose games are not played again
    with pytest.warns(UserWarning, match="worker 0 of self-play died"):
        agent.learn(200 * GAMES, callback=checkpoint)
    assert agent.num_timesteps == 200 * GAMES
    assert [seat.num_workers for seat in workers_of(agent)._seats] == [4, 1]  # who played 100 moves between them


def test_a_worker_that_keeps_dying_ends_the_run() -> None:
    agent = make_agent(workers=2)
    agent.executor = Nearby(30, np.inf, 2, 1)
    message = "worker 0 of self-play died 3 times before a game of its had ended: its time had come"
    with pytest.warns(UserWarning, match="worker 0"), pytest.raises(WorkerDied, match=message):
        agent.learn(200 * GAMES)
    agent.executor, steps = Nearby(), agent.num_timesteps
    agent.learn(10 * GAMES, reset_num_timesteps=False)  # with new games
    assert agent.num_timesteps == steps + 10 * GAMES
    assert [seat.num_workers for seat in workers_of(agent)._seats] == [4, 2]


def test_bad_numbers_of_workers_are_named() -> None:
    with pytest.raises(ValueError, match="workers must be a whole number of at least 0, got -1"):
        make_agent(workers=-1)
