"""Workers of self-play in the process of the test."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from mbrl_wrappers.agents.self_play_workers import Player
from mbrl_wrappers.workers import Worker, WorkerDied


class Nearby:
    """Starts workers in this very process.

    Args:
        lives: the number of moves that each worker lives for, in the order in which they are started; for ever by
            default.
        makes: makes a worker's object.
    """

    def __init__(self, *lives: float, makes: Callable[..., Any] = Player) -> None:
        self._lives, self._makes = deque(lives), makes

    def open(self, num_workers: int) -> None: ...

    def close(self) -> None: ...

    def share(self, value: Any) -> Any:
        return pickle.dumps(value)

    def start_worker(self, make: Callable[..., Any], *arguments: Any) -> Worker:
        made = self._makes(*pickle.loads(pickle.dumps(arguments)))
        return NearbyWorker(made, self._lives.popleft() if self._lives else np.inf)


class NearbyWorker:
    def __init__(self, made: Any, life: float) -> None:
        self.made, self.life, self.answers = made, life, deque[Any]()

    def call(self, method: str, *arguments: Any) -> None:
        self.life -= 1
        if self.life >= 0:
            answer = getattr(self.made, method)(*map(pickle.loads, arguments))
            self.answers.append(pickle.loads(pickle.dumps(answer)))

    def is_ready(self) -> bool:
        return True

    def answer(self) -> Any:
        if not self.answers:
            raise WorkerDied("its time had come")
        return self.answers.popleft()

    def stop(self) -> None: ...
