"""Self-play by workers: each plays games of its own, with the newest weights that it was sent."""

from __future__ import annotations

import io
import itertools
import pickle
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from mbrl_wrappers.agents.self_play import Examples, SelfPlay
from mbrl_wrappers.envs.games import Game
from mbrl_wrappers.planners.tree import TreeSearch
from mbrl_wrappers.planners.tree.games import GameExpansion
from mbrl_wrappers.workers import Worker, WorkerDied, WorkerExecutor, WorkerFailed

# Calls that a worker has at a time, so that it need not wait for the next one.
CALLS = 2
# A worker that dies so often without having ended a game in between is not replaced any more.
MAX_DEATHS = 3


class PlayingAgent(Protocol):
    """What self-play by workers needs of an agent: :class:`~mbrl_wrappers.agents.AlphaZero` or a kind of it."""

    policy: Any
    rules: Game
    _n_updates: int

    def save(self, path: Any) -> None:
        """Write the agent, without games and buffer."""

    @classmethod
    def load(cls, path: Any, *, device: Any = ..., **kwargs: Any) -> Any:
        """Read what :meth:`save` wrote."""

    def _tree_search(self) -> TreeSearch: ...

    def _expansion(self, generators: Sequence[np.random.Generator]) -> GameExpansion: ...

    def _new_games(self, stream: str) -> SelfPlay: ...


class Weights(NamedTuple):
    """What a worker has to know of the learner.

    Attributes:
        tensors: the policy's parameters and buffers, by name; one that it has under several names comes once.
        num_updates: that they have had.
    """

    tensors: Mapping[str, np.ndarray]
    num_updates: int

    @classmethod
    def of(cls, agent: PlayingAgent) -> Weights:
        """Return a copy of an agent's weights."""
        tensors = {name: tensor.detach().cpu().numpy().copy() for name, tensor in _tensors(agent)}
        return cls(tensors, agent._n_updates)

    @torch.no_grad()
    def put_into(self, agent: PlayingAgent) -> None:
        """Give an agent these weights."""
        for name, tensor in _tensors(agent):
            tensor.copy_(torch.tensor(self.tensors[name]))
        agent._n_updates = self.num_updates


def _tensors(agent: PlayingAgent) -> Iterator[tuple[str, torch.Tensor]]:
    return itertools.chain(agent.policy.named_parameters(), agent.policy.named_buffers())


class Played(NamedTuple):
    """A move of all games of a worker.

    Attributes:
        examples: positions of the games that have ended.
        lengths: of these games, in moves.
        seconds: of the worker's CPU.
    """

    examples: Examples
    lengths: np.ndarray
    seconds: float


class Player:
    """The object of a worker: the agent without its learning, on the CPU and one thread.

    Args:
        kind: the agent's class.
        saved: what its ``save`` has written.
        games: to go on with, a pickled :class:`~mbrl_wrappers.agents.self_play.SelfPlay`.
    """

    def __init__(self, kind: type[PlayingAgent], saved: bytes, games: bytes) -> None:
        torch.set_num_threads(1)
        self._agent = kind.load(io.BytesIO(saved), device="cpu", workers=0)
        self._games: SelfPlay = pickle.loads(games)
        self._agent.rules = self._games.game
        self._games.search = self._agent._tree_search()

    def move(self, weights: Weights) -> Played:
        """Make a move in every game."""
        began, agent = time.process_time(), self._agent
        weights.put_into(agent)
        agent.policy.set_training_mode(False)
        examples, lengths = self._games.move(agent._expansion(self._games.rollout_generators))
        return Played(examples, lengths, time.process_time() - began)

    def games(self) -> bytes:
        """Return the games in progress, pickled."""
        return pickle.dumps(self._games)


class _Seat:
    """A worker's place, and what lasts when the worker ends.

    Attributes:
        worker: None while nobody works.
        games: that the next worker goes on with, pickled; None: new ones.
        answers: that were taken before their turn.
        calls: without an answer yet.
        num_workers: that have sat here.
        deaths: since a game has ended.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.games: bytes | None = None
        self.answers: deque[Played] = deque()
        self.calls = self.num_workers = self.deaths = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "worker": None, "calls": 0}


class SelfPlayWorkers:
    """Workers that play ``B`` games each, and take turns in handing over what they have played.

    A worker that is out of turn waits, so that a run does not depend on how fast each of them is. Once in a round of
    turns they are sent new weights, the same for all. One that dies takes its unfinished games, and the moves that it
    has not handed over, with it. Another takes its place, with new games; until it is ready, its turns are left out.

    Args:
        num_workers: how many.
    """

    def __init__(self, num_workers: int) -> None:
        self.seconds = 0.0  # of the workers' CPUs
        self._seats = [_Seat() for _ in range(num_workers)]
        self._turn = 0
        self._weights: Weights | None = None
        self._agent: PlayingAgent
        self._executor: WorkerExecutor

    def __len__(self) -> int:
        return len(self._seats)

    @contextmanager
    def at_work(self, agent: PlayingAgent, executor: WorkerExecutor) -> Iterator[None]:
        """Have the workers while the context lasts; between two contexts, their games are kept here.

        An error that ends the context ends the games too.

        Args:
            agent: whose games they are.
            executor: starts the workers.
        """
        self._agent, self._executor = agent, executor
        try:
            executor.open(len(self))
            self._share(self._weights or Weights.of(agent))
            self._saved = _saved(agent)
            for number in range(len(self)):
                self._start(number)
            yield
            self.gather()
        except BaseException:
            for seat in self._seats:
                seat.games = None
                seat.answers.clear()
            raise
        finally:
            for seat in self._seats:
                if seat.worker is not None:
                    seat.worker.stop()
                seat.worker, seat.calls = None, 0
            executor.close()

    def move(self) -> tuple[Examples, np.ndarray]:
        """Return what the worker whose turn it is has played in a move, see :meth:`SelfPlay.move`, and call it again.

        Raises:
            WorkerDied: if one worker after the other dies in the same place.
            WorkerFailed: if a worker has raised an error.
        """
        while True:
            number = self._turn
            self._turn = (number + 1) % len(self)
            if number == 0:
                self._share(Weights.of(self._agent))
            seat = self._seats[number]
            if not seat.answers and not self._is_awaited(seat):
                continue
            played = seat.answers.popleft() if seat.answers else self._played(number)
            if played is not None:
                self._call(seat)
                self.seconds += played.seconds
                return played.examples, played.lengths

    def gather(self) -> None:
        """Bring here what a run has to go on with: all answers to come, and the games in progress."""
        for number, seat in enumerate(self._seats):
            if seat.worker is None:
                continue  # gathered before
            games = None
            while games is None:
                while seat.calls:
                    played = self._played(number)
                    if played is not None:
                        seat.answers.append(played)
                seat.worker.call(Player.games.__name__)
                games = self._answer(number)
            seat.games = games

    def _share(self, weights: Weights) -> None:
        self._weights, self._shared = weights, self._executor.share(weights)

    def _start(self, number: int) -> None:
        """Put a worker into a seat, and make all calls for which there is no answer yet."""
        seat = self._seats[number]
        games = seat.games
        if games is None:
            games = pickle.dumps(self._agent._new_games(f"games of worker {number}, {seat.num_workers}"))
            seat.num_workers += 1
        seat.games = None
        seat.worker = self._executor.start_worker(Player, type(self._agent), self._saved, games)
        for _ in range(CALLS - len(seat.answers)):
            self._call(seat)

    def _call(self, seat: _Seat) -> None:
        assert seat.worker is not None
        seat.worker.call(Player.move.__name__, self._shared)
        seat.calls += 1

    def _is_awaited(self, seat: _Seat) -> bool:
        """Tell whether to wait for a worker: not for one that has just replaced another, while others can go on."""
        others = [other.worker for other in self._seats if other is not seat and other.deaths == 0]
        return seat.deaths == 0 or not others or (seat.worker is not None and seat.worker.is_ready())

    def _played(self, number: int) -> Played | None:
        """Wait for a worker's move, None if it has died instead and was replaced."""
        played, seat = self._answer(number), self._seats[number]
        if played is not None:
            seat.calls -= 1
            if len(played.lengths):
                seat.deaths = 0
        return played

    def _answer(self, number: int) -> Any:
        worker = self._seats[number].worker
        assert worker is not None
        try:
            return worker.answer()
        except WorkerFailed as error:
            raise WorkerFailed(f"worker {number} of self-play failed\n{error}") from None
        except WorkerDied as error:
            self._replace(number, error)
            return None

    def _replace(self, number: int, error: WorkerDied) -> None:
        seat = self._seats[number]
        assert seat.worker is not None
        seat.worker.stop()
        # Not with games of a checkpoint: those that have ended since would end once more.
        seat.worker, seat.games, seat.calls = None, None, 0
        seat.deaths += 1
        if seat.deaths == MAX_DEATHS:
            raise WorkerDied(
                f"worker {number} of self-play died {MAX_DEATHS} times before a game of its had ended: {error}"
            ) from error
        warnings.warn(
            f"worker {number} of self-play died, and its unfinished games are played anew by another: {error}",
            stacklevel=2,
        )
        self._start(number)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out workers, and where they are; their games have been gathered before."""
        lasting = ("seconds", "_seats", "_turn", "_weights")
        return {name: vars(self)[name] for name in lasting}


def _saved(agent: PlayingAgent) -> bytes:
    file = io.BytesIO()
    agent.save(file)
    return file.getvalue()
