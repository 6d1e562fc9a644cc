"""The random numbers of an agent's choices, so that sampled actions can be repeated and leave no trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution

from mbrl_wrappers.agents.agent_with_model import AgentWithModel
from mbrl_wrappers.agents.alphazero import AlphaZero
from mbrl_wrappers.seeding import stream_seed

_GSDE_NOISE = ("exploration_mat", "exploration_matrices")


def choices_seed(seed: int) -> int:
    """Derive the seed of an agent's choices from the seed of its episodes, below 2^32 as SB3 needs it."""
    return stream_seed(seed, "choices") % 2**32


def seed_generators(agent: BaseAlgorithm, seed: int) -> None:
    """Seed the generators that SB3's agents draw actions from: torch's, NumPy's, and the action space's.

    An agent with state-dependent exploration (gSDE) draws its noise anew.

    Args:
        agent: the agent.
        seed: of :func:`choices_seed`.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - DQN draws from it
    agent.action_space.seed(seed)
    if _gsde_of(agent) is not None:
        policy: Any = getattr(agent, "actor", agent.policy)
        policy.reset_noise()


def seed_choices(agent: BaseAlgorithm, seed: int) -> None:
    """Seed all that an agent's actions depend on: :func:`seed_generators`, and the noise of its predictions.

    Args:
        agent: the agent.
        seed: of :func:`choices_seed`.
    """
    seed_generators(agent, seed)
    if isinstance(agent, AgentWithModel | AlphaZero):
        agent.seed_predictions(seed)


@contextmanager
def undisturbed(agent: BaseAlgorithm, deterministic: bool = False) -> Iterator[None]:
    """Put back, at the end, every random generator that an agent draws from, and the policy's training mode.

    Args:
        agent: the agent; anything with a ``predict`` if ``deterministic``.
        deterministic: whether no action is sampled, so that there is nothing to put back.
    """
    if deterministic:
        yield
        return
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - as above
    space, agent.action_space = agent.action_space, copy.deepcopy(agent.action_space)
    was_training, gsde = agent.policy.training, _gsde_of(agent)
    noise = {} if gsde is None else {name: getattr(gsde, name, None) for name in _GSDE_NOISE}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
            agent.action_space = space
            agent.policy.set_training_mode(was_training)
            for name, value in noise.items():
                setattr(gsde, name, value)
            if isinstance(agent, AgentWithModel | AlphaZero):
                agent.seed_predictions(None)


def _gsde_of(agent: BaseAlgorithm) -> StateDependentNoiseDistribution | None:
    """Return the distribution that holds the noise of an agent with state-dependent exploration."""
    distribution = getattr(getattr(agent, "actor", agent.policy), "action_dist", None)
    return distribution if isinstance(distribution, StateDependentNoiseDistribution) else None
