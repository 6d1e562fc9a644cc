"""Streams of random numbers that have nothing to do with each other, although one seed stands behind them all.

Gymnasium and Stable-Baselines3 seed an env and its action space with the same number, and the two then draw the very
same numbers: where a step of the env takes as many as an action, its noise is a function of the random action, and a
model learns that actions command the noise. Whatever is seeded in this package gets its seed from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from gymnasium import spaces

from mbrl_wrappers.arguments import check_whole_number

# In front of the 64 bits of a seed that :func:`set_apart` gave, and by which it knows such a one again. A seed that
# NumPy draws itself has 128 bits.
_APART = 0x6D62726C << 128


def stream_seed(seed: int | None, stream: str) -> int:
    """Return the seed of one of the streams of a seed, by NumPy's ``SeedSequence``: the same in every process.

    Args:
        seed: of everything, at least 0; None: a new one at each call.
        stream: its name.

    Returns:
        Less than ``2**64``, as torch's generators take it.

    Raises:
        ValueError: if the seed is no such number.
    """
    if seed is not None:
        check_whole_number("seed", seed, 0)
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(stream.encode()))
    return int(sequence.generate_state(1, np.uint64)[0])


def set_apart(space: spaces.Space, seed: int | None = None) -> None:
    """Give the samples of a space a stream of their own, even where the env was seeded with the same number.

    Args:
        space: of random actions.
        seed: of the stream. None: it follows from the state of the space's generator, so that a space that was seeded
            draws the same actions again; one whose stream is its own already goes on with it.

    Raises:
        ValueError: if the seed is no whole number of at least 0.
    """
    if seed is None:
        if is_apart(space):
            return
        seed = int(space.np_random.integers(2**63))
    space.seed(_APART | stream_seed(seed, "actions"))


def is_apart(space: spaces.Space) -> bool:
    """Tell whether the stream of a space's samples is from :func:`set_apart`."""
    seeded_by = getattr(space.np_random.bit_generator, "seed_seq", None)
    entropy = getattr(seeded_by, "entropy", None)
    return isinstance(entropy, int) and entropy >> 64 == _APART >> 64


@contextmanager
def numpy_state_kept(seed: int | None = None) -> Iterator[None]:
    """Put NumPy's global generator, which SB3's buffers draw from, back when the context ends.

    Args:
        seed: of the generator inside the context; default: it goes on from its state.
    """
    state = np.random.get_state()  # noqa: NPY002
    if seed is not None:
        np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
