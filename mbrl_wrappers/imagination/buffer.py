"""The place where imagination enters Stable-Baselines3: the drawing of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_wrappers.imagination.last_observations import StoresLastObservations
from mbrl_wrappers.imagination.samples import split_samples
from mbrl_wrappers.imagination.strategy import Samples, Strategy

BATCHES_AT_ONCE = 32
_BYTES_AT_ONCE = 2**26
_OWN = ("inner", "strategy", "serves")


class BufferDecorator(ReplayBuffer):
    """An agent's replay buffer whose batches a strategy draws; in all else it is that buffer.

    It wraps plain, n-step, Dict and HER buffers. Pickling or copying it gives the inner buffer, so that a
    saved agent can be loaded without this library.

    Args:
        inner: the agent's buffer.
        strategy: draws the batches.
        serves: called for each batch, returns True for the strategy to draw it, False for the inner buffer; default:
            always the strategy.
    """

    def __init__(self, inner: ReplayBuffer, strategy: Strategy, serves: Callable[[], bool] = lambda: True) -> None:
        object.__setattr__(self, "inner", inner)
        object.__setattr__(self, "strategy", strategy)
        object.__setattr__(self, "serves", serves)

    def __getattr__(self, name: str) -> Any:
        # Called only for names that neither this object nor the class ReplayBuffer has.
        if name in _OWN:
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # From protocol 2 on, pickle would compare this object's class with the inner buffer's.
        return self.inner.__reduce_ex__(1)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Samples:  # type: ignore[override]
        """Draw a batch of exactly ``batch_size`` rows from the strategy."""
        if not self.serves():
            return self.inner.sample(batch_size, env=env)
        return self.strategy.sample(self.inner, batch_size, env)

    def sample_block(self, batch_size: int, count: int, env: VecNormalize | None = None) -> Iterable[Samples]:
        """Draw ``count`` batches of exactly ``batch_size`` rows, one after the other."""
        if not self.serves():
            return draw_batches(self.inner, batch_size, count, env)
        return self.strategy.sample_block(self.inner, batch_size, count, env)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Store a real transition in the inner buffer, with the last observation of an episode as the env showed it."""
        StoresLastObservations(self.inner).add(*args, **kwargs)

    def extend(self, *args: Any, **kwargs: Any) -> None:
        """Store a batch of real transitions in the inner buffer."""
        self.inner.extend(*args, **kwargs)

    def reset(self) -> None:
        """Empty the inner buffer."""
        self.inner.reset()

    def size(self) -> int:
        """Return the inner buffer's number of time steps (each holds ``n_envs`` transitions)."""
        return self.inner.size()


def plain_buffer(agent: Any) -> ReplayBuffer:
    """Return an agent's own replay buffer, which may be decorated."""
    buffer = agent.replay_buffer
    return buffer.inner if isinstance(buffer, BufferDecorator) else buffer


def draws_alike_at_once(buffer: ReplayBuffer) -> bool:
    """Tell whether a buffer draws the same rows from the same random numbers, many at once or batch by batch.

    A HER buffer relabels a share of the rows that are drawn together; with several envs, the envs are drawn after the
    places of all rows.
    """
    return type(buffer) in (ReplayBuffer, DictReplayBuffer) and buffer.n_envs == 1


def batches_at_once(buffer: ReplayBuffer, rows: int) -> int:
    """Return how many batches of ``rows`` real rows to draw as one block, limited by their observations' memory."""
    parts = buffer.observations.values() if isinstance(buffer.observations, dict) else [buffer.observations]
    of_batch = 2 * rows * sum(part[0, 0].nbytes for part in parts)
    return max(1, min(BATCHES_AT_ONCE, _BYTES_AT_ONCE // max(of_batch, 1)))


def draw_batches(
    buffer: ReplayBuffer | None, batch_size: int, count: int, env: VecNormalize | None = None
) -> Iterable[Samples]:
    """Draw ``count`` batches of ``batch_size`` rows, the ones that ``buffer.sample`` would draw, several at once."""
    assert buffer is not None
    if isinstance(buffer, BufferDecorator):
        return buffer.sample_block(batch_size, count, env)
    return _drawn(buffer, batch_size, count, env)


def _drawn(buffer: ReplayBuffer, batch_size: int, count: int, env: VecNormalize | None) -> Iterator[Samples]:
    if not draws_alike_at_once(buffer):
        yield from (buffer.sample(batch_size, env=env) for _ in range(count))
        return
    at_once = batches_at_once(buffer, batch_size)
    for first in range(0, count, at_once):
        batches = min(at_once, count - first)
        yield from split_samples(buffer.sample(batches * batch_size, env=env), batches)
