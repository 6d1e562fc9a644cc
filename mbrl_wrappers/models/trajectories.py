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

    Candidates are worked on in chunks, which bounds the memory beyond the arguments and the result: on a CPU chunks
    that give each member some 1,000 rows, whose activations stay in the cache, on a GPU 64 times as many.

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
            ``[B, P]`` returns; minus infinity where a prediction or the return was not finite.

        Raises:
            ValueError: if the shapes do not fit the model or each other.
        """
        expected = (len(obs), "P", "H", self.dynamics.action_codec.dim)
        if actions.dim() != 4 or (actions.shape[0], actions.shape[3]) != (expected[0], expected[3]):
            raise ValueError(f"actions must have shape {expected}, got {tuple(actions.shape)}")
        population = actions.shape[1]
        blocks = self._deal(generator)
        rows = max(1, len(blocks) * _rows_at_once(self.dynamics.device) // self.num_particles)
        # A start state belongs to ``population`` sequences in a row.
        owner = torch.arange(len(obs) * population, device=obs.device) // max(population, 1)
        chunks = zip(owner.split(rows), actions.flatten(0, 1).split(rows), strict=True)
        returns = torch.cat([self._follow(obs[index], part, blocks, generator) for index, part in chunks])
        return returns.reshape(len(obs), population)

    def _deal(self, generator: torch.Generator | None) -> list[tuple[int, slice]]:
        """Return the members, and which particles are theirs."""
        if self.propagation == "expectation":
            return [(0, slice(0, 1))]
        members = self.dynamics.particle_members
        order = torch.randperm(len(members), generator=generator, device=self.dynamics.device).tolist()
        shares = torch.arange(self.num_particles).tensor_split(len(members))  # the first get the odd ones
        return [
            (members[place], slice(int(share[0]), int(share[-1]) + 1))
            for place, share in zip(order, shares, strict=True)
            if len(share)
        ]

    def _follow(
        self, start: Tensor, actions: Tensor, blocks: list[tuple[int, slice]], generator: torch.Generator | None
    ) -> Tensor:
        """Return the mean return ``[C]`` of sequences ``[C, H, A]`` from ``start [C, D]``."""
        obs = start.expand(self.num_particles, *start.shape)
        alive = torch.ones(obs.shape[:2], dtype=torch.bool, device=obs.device)
        diverged = torch.zeros(len(start), dtype=torch.bool, device=obs.device)
        total = torch.zeros(len(start), dtype=obs.dtype, device=obs.device)
        factor = 1.0
        for action in actions.unbind(1):
            if self.propagation == "TS1":
                obs, alive = self._shuffle(obs, alive, generator)
            p = self._step(obs, action.expand(self.num_particles, *action.shape), blocks, generator)
            finite = torch.isfinite(p.reward) & torch.isfinite(p.next_obs).all(-1)
            diverged |= (alive & ~finite).any(0)
            total += factor * torch.where(alive, p.reward, 0.0).mean(0)
            obs, alive = p.next_obs, alive & ~p.terminated
            factor *= self.discount
        return torch.where(diverged | ~total.isfinite(), -torch.inf, total)

    @staticmethod
    def _shuffle(obs: Tensor, alive: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Exchange the particles of each candidate at random; places keep their members."""
        order = torch.rand(alive.shape, generator=generator, device=obs.device).argsort(0)
        return obs.gather(0, order[..., None].expand(obs.shape)), alive.gather(0, order)

    def _step(
        self, obs: Tensor, action: Tensor, blocks: list[tuple[int, slice]], generator: torch.Generator | None
    ) -> Prediction:
        """Take one step with ``obs [K, C, D]``, each particle by its own member."""
        if self.propagation == "expectation":
            return self.dynamics.predict(obs, action, deterministic=True)
        predict_as = self.dynamics.predict_as
        steps = [predict_as(member, obs[rows], action[rows], generator=generator) for member, rows in blocks]
        return Prediction(**{f.name: torch.cat([getattr(p, f.name) for p in steps]) for f in fields(Prediction)})


def _rows_at_once(device: torch.device) -> int:
    """Return the rows that a member gets in one product."""
    return CHUNK_ROWS if device.type == "cpu" else 64 * CHUNK_ROWS
