"""Returns of action sequences under a model: the objective of a planner."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal, get_args

import torch
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.network import CHUNK_ROWS
from mbrl_wrappers.types import Prediction

Propagation = Literal["TS1", "TSinf", "expectation"]


class TrajectoryReturns:
    """Predicted returns of action sequences, averaged over particles (Chua et al. 2018, section 5).

    Each candidate sequence is followed by ``num_particles`` particles from the same observation. They are shared
    out evenly over the ensemble's elites within every candidate, so that candidates are compared under the same
    members; where the numbers do not divide, random members get one particle more. A predicted or given
    termination ends a particle's reward.

    Candidates are worked on in chunks that give each member some 1,000 rows at a time. Memory beyond the arguments
    and the result is that of one chunk, a few MB for the paper's ensemble.

    Args:
        dynamics: the model; ``predict_as`` of its ``particle_members`` is what a particle follows.
        num_particles: particles of each candidate; ``"expectation"`` has one.
        propagation: ``"TSinf"``: a particle keeps its member to the end; ``"TS1"``: the particles of a candidate
            are dealt out anew at every step; ``"expectation"``: the model's mean, without noise.
        discount: factor per step, in [0, 1].

    Raises:
        ValueError: for an argument out of its range.
    """

    def __init__(
        self,
        dynamics: DynamicsModel,
        *,
        num_particles: int = 20,
        propagation: Propagation = "TSinf",
        discount: float = 1.0,
    ) -> None:
        check_whole_number("num_particles", num_particles)
        if propagation not in get_args(Propagation):
            raise ValueError(f"propagation must be one of {get_args(Propagation)}, got {propagation!r}")
        check_number("discount", discount, 0, 1)
        self.dynamics = dynamics
        self.num_particles = 1 if propagation == "expectation" else num_particles
        self.propagation = propagation
        self.discount = discount

    @torch.no_grad()
    def __call__(self, obs: Tensor, actions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Evaluate candidate sequences.

        Args:
            obs: ``[B, D]`` flat observations in the env's units.
            actions: ``[B, P, H, A]`` flat actions in the env's units, ``P`` sequences for each observation.
            generator: the source of all randomness, on the model's device; default: torch's global one.

        Returns:
            ``[B, P]`` returns; minus infinity where a prediction was not finite.

        Raises:
            ValueError: if the shapes do not fit the model or each other.
        """
        expected = (len(obs), "P", "H", self.dynamics.action_codec.dim)
        if actions.dim() != 4 or (actions.shape[0], actions.shape[3]) != (expected[0], expected[3]):
            raise ValueError(f"actions must have shape {expected}, got {tuple(actions.shape)}")
        population = actions.shape[1]
        starts, sequences = obs.repeat_interleave(population, dim=0), actions.flatten(0, 1)
        members = self._deal(generator)
        rows = max(1, CHUNK_ROWS * len(set(members)) // len(members))
        chunks = zip(starts.split(rows), sequences.split(rows), strict=True)
        returns = torch.cat([self._follow(*chunk, members, generator) for chunk in chunks])
        return returns.nan_to_num(-torch.inf, -torch.inf, -torch.inf).reshape(len(obs), population)

    def _deal(self, generator: torch.Generator | None) -> list[int]:
        """Return the member of each particle, in order."""
        members = self.dynamics.particle_members
        order = torch.randperm(len(members), generator=generator, device=self.dynamics.device).tolist()
        return sorted(members[order[particle % len(order)]] for particle in range(self.num_particles))

    def _follow(self, start: Tensor, actions: Tensor, members: list[int], generator: torch.Generator | None) -> Tensor:
        """Return the mean return ``[C]`` of sequences ``[C, H, A]`` from ``start [C, D]``."""
        particles = len(members)
        obs = start.expand(particles, *start.shape)
        alive = torch.ones(obs.shape[:2], dtype=torch.bool, device=obs.device)
        total = torch.zeros(len(start), dtype=obs.dtype, device=obs.device)
        factor = 1.0
        for action in actions.unbind(1):
            if self.propagation == "TS1":
                obs, alive = self._shuffle(obs, alive, generator)
            p = self._step(obs, action.expand(particles, *action.shape), members, generator)
            total += factor * torch.where(alive, p.reward, 0.0).mean(0)
            obs, alive = p.next_obs, alive & ~p.terminated
            factor *= self.discount
        return total

    @staticmethod
    def _shuffle(obs: Tensor, alive: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Exchange the particles of each candidate at random; places keep their members."""
        order = torch.rand(alive.shape, generator=generator, device=obs.device).argsort(0)
        return obs.gather(0, order[..., None].expand(obs.shape)), alive.gather(0, order)

    def _step(self, obs: Tensor, action: Tensor, members: list[int], generator: torch.Generator | None) -> Prediction:
        """Take one step with ``obs [K, C, D]``, each particle by its own member."""
        if self.propagation == "expectation":
            return self.dynamics.predict(obs, action, deterministic=True)
        steps = []
        for member in dict.fromkeys(members):
            first = members.index(member)
            block = slice(first, first + members.count(member))
            steps.append(self.dynamics.predict_as(member, obs[block], action[block], generator=generator))
        return Prediction(**{f.name: torch.cat([getattr(p, f.name) for p in steps]) for f in fields(Prediction)})
