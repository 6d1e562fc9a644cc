"""The differences between the versions of Dreamer, their models' excepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mbrl_wrappers.models.rssm.presets import Version


@dataclass(frozen=True)
class DreamerPreset:
    """The parts of a version of Dreamer that are not its model's.

    Attributes:
        normalizes_returns: whether the actor's returns are divided by the range of their percentiles.
        has_slow_critic: whether the critic also learns to agree with a slow copy of itself.
        exploration_std: of the noise that is added to continuous actions.
        arguments: defaults of the agent's arguments of these names.
    """

    normalizes_returns: bool
    has_slow_critic: bool
    exploration_std: float
    arguments: dict[str, Any]


DREAMER_PRESETS: dict[Version, DreamerPreset] = {
    1: DreamerPreset(
        normalizes_returns=False,
        has_slow_critic=False,
        exploration_std=0.3,
        arguments={
            "learning_rate": 6e-4,
            "behavior_learning_rate": 8e-5,
            "batch_size": 50,
            "sequence_length": 50,
            "replay_ratio": 500.0,
            "gamma": 0.99,
            "ent_coef": 0.0,
        },
    ),
    3: DreamerPreset(
        normalizes_returns=True,
        has_slow_critic=True,
        exploration_std=0.0,
        arguments={
            "learning_rate": 1e-4,
            "behavior_learning_rate": 3e-5,
            "batch_size": 16,
            "sequence_length": 64,
            "replay_ratio": 512.0,
            "gamma": 0.997,
            "ent_coef": 3e-4,
        },
    ),
}
