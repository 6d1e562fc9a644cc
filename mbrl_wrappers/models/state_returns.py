"""Returns of action sequences from the states of a world model: a planner's objective where a model has a memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.models.network import CHUNK_ROWS
from mbrl_wrappers.models.world_model import WorldModel


class StateReturns:
    """Predicted returns of action sequences that begin in a state, averaged over imagined episodes.

    It takes the steps of any world model; :class:`~mbrl_wrappers.models.action_returns.TrajectoryReturns` follows the
    members of an ensemble from observations. After an imagined termination an episode gains no more reward.

    Args:
        dynamics: the model.
        num_particles: imagined episodes of each candidate.
        sample_noise: whether a step is sampled; if False, it is the model's mean.
        discount: factor per step, in [0, 1].

    Raises:
        ValueError: for an argument out of its range.
    """

    def __init__(
        self, dynamics: WorldModel, *, num_particles: int = 1, sample_noise: bool = True, discount: float = 1.0
    ) -> None:
        check_whole_number("num_particles", num_particles)
        check_number("discount", discount, 0, 1)
        self.dynamics = dynamics
        self.num_particles = num_particles
        self.sample_noise = sample_noise
        self.discount = discount

    def __call__(self, state: Any, actions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Evaluate candidate sequences; with a gradient if the actions have one.

        Args:
            state: of the model, ``[B, ...]``.
            actions: ``[B, P, H, A]`` flat actions in the env's units, ``P`` sequences for each state.
            generator: the source of all randomness, on the model's device; default: torch's global one.

        Returns:
            ``[B, P]`` returns; minus infinity where a prediction was not finite.

        Raises:
            ValueError: if the actions do not fit the model.
        """
        width = self.dynamics.action_codec.dim
        if actions.dim() != 4 or actions.shape[-1] != width:
            raise ValueError(f"actions must have shape ('B', 'P', 'H', {width}), got {tuple(actions.shape)}")
        batch, population = actions.shape[:2]
        # Each state serves ``P K`` consecutive rows, each sequence ``K`` of them.
        sequence = torch.arange(batch * population, device=actions.device).repeat_interleave(self.num_particles)
        sequences = actions.flatten(0, 1)
        with torch.set_grad_enabled(actions.requires_grad and torch.is_grad_enabled()):
            returns = torch.cat(
                [
                    self._follow(tree_map(lambda part: part[rows // population], state), sequences[rows], generator)  # noqa: B023
                    for rows in sequence.split(CHUNK_ROWS)
                ]
            )
        return returns.reshape(batch, population, self.num_particles).mean(-1)

    def _follow(self, state: Any, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the returns ``[R]`` of sequences ``[R, H, A]`` from states ``[R, ...]``."""
        total = actions.new_zeros(len(actions))
        alive = torch.ones_like(total, dtype=torch.bool)
        factor = 1.0
        for action in actions.unbind(1):
            state, said = self.dynamics.step(state, action, generator, deterministic=not self.sample_noise)
            paid = torch.where(said.diverged, -torch.inf, factor * said.reward)
            total = total + torch.where(alive, paid, 0.0)  # sum_t gamma^t r_t
            alive = alive & ~said.terminated
            factor *= self.discount
        return total
