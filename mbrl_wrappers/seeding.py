"""Streams of random numbers that have nothing to do with each other, although one seed stands behind them all.

Gymnasium and Stable-Baselines3 seed an env and its action space with the same number, and the two then draw the very
same random numbers: where a step of the env draws as many of them as an action, its noise is a function of the random
action, and a model learns that actions command the noise. All seeds in this package are therefore derived here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from gymnasium import spaces

from mbrl_wrappers.arguments import check_whole_number

# Leading bits of the seeds that :func:`set_apart` gives to spaces, by which :func:`is_apart` recognises them; the last
# 64 bits are the stream's seed. Seeds that NumPy draws itself have only 128 bits, so they can't be mistaken for these.
_APART = 0x6D62726C << 128


def stream_seed(seed: int | None, stream: str) -> int:
    """Derive the seed of a named stream from a common seed, by NumPy's ``SeedSequence``: the same in every process.

    Args:
        seed: the common seed, at least 0; None: a random one at each call.
        stream: the stream's name.

    Returns:
        A seed below ``2**64``, as torch's generators take it.

    Raises:
        ValueError: if the seed is not a whole number of at least 0.
    """
    if seed is not None:
        check_whole_number("seed", seed, 0)
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(stream.encode()))
    return int(sequence.generate_state(1, np.uint64)[0])


def set_apart(space: spaces.Space, seed: int | None = None) -> None:
    """Give the samples of a space a stream of their own, even where the env was seeded with the same number.

    Args:
        space: the action space that random actions are sampled from.
        seed: of the stream. None: derived from the state of the space's generator, so that a seeded space draws
            reproducible actions; a space that was set apart before keeps its stream.

    Raises:
        ValueError: if the seed is no whole number of at least 0.
    """
    if seed is None:
        if is_apart(space):
            return
        seed = int(space.np_random.integers(2**63))
    space.seed(_APART | stream_seed(seed, "actions"))


def is_apart(space: spaces.Space) -> bool:
    """Tell whether :func:`set_apart` gave the space its stream."""
    seeded_by = getattr(space.np_random.bit_generator, "seed_seq", None)
    entropy = getattr(seeded_by, "entropy", None)
    return isinstance(entropy, int) and entropy >> 64 == _APART >> 64


@contextmanager
def numpy_state_kept(seed: int | None = None) -> Iterator[None]:
    """Put NumPy's global generator, which SB3's buffers draw from, back when the context ends.

    Args:
        seed: of the generator inside the context; default: the generator goes on from its current state.
    """
    state = np.random.get_state()  # noqa: NPY002
    if seed is not None:
        np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
