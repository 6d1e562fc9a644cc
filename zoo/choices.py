"""The random numbers of an agent's choices, so that sampled actions can be repeated and leave no trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers.seeding import stream_seed


def choices_seed(seed: int) -> int:
    """Derive the seed of an agent's choices from the seed of its episodes, below 2^32 as SB3 needs it."""
    return stream_seed(seed, "choices") % 2**32


def seed_choices(agent: BaseAlgorithm, seed: int) -> None:
    """Seed the generators that SB3's agents draw actions from: torch's, NumPy's, and the action space's.

    Args:
        agent: the agent.
        seed: of :func:`choices_seed`.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - DQN draws from it
    agent.action_space.seed(seed)


@contextmanager
def undisturbed(agent: BaseAlgorithm) -> Iterator[None]:
    """Restore the global random generators, the action space's generator, and the policy's training mode."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - as above
    space, agent.action_space = agent.action_space, copy.deepcopy(agent.action_space)
    was_training = agent.policy.training
    devices = [agent.device] if agent.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
            agent.action_space = space
            agent.policy.set_training_mode(was_training)
