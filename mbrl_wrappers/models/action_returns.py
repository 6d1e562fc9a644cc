"""Returns of action sequences under a model: the objective of a planner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.members import ParticleStep, check_predicts, members_of
from mbrl_wrappers.models.network import CHUNK_ROWS
from mbrl_wrappers.types import Outcome

Propagation = Literal["TS1", "TSinf", "expectation", "DS", "MM"]

# ``(obs [K, C, D], control [C, X]) -> actions [K, C, A]``, for K particles of each of C candidates.
Policy = Callable[[Tensor, Tensor], Tensor]

# Particles ``[K, C, ...]`` take a step.
_Step = Callable[[Tensor, Tensor], Outcome]


class TrajectoryReturns:
    """Predicted returns of action sequences, averaged over particles (Chua et al. 2018, section 5).

    Each candidate sequence is followed by ``num_particles`` particles from the same observation. They are shared
    out evenly over the ensemble's elites within every candidate, so that candidates are compared under the same
    members; if the particles do not divide evenly, random members get one more each. After a termination, learned or
    given, a particle gains no more reward.

    Candidates are evaluated in chunks, which bounds the memory: on a CPU each member gets some 2,000 rows at a time,
    so that activations stay in the cache, on a GPU 64 times as many.

    Args:
        dynamics: the model, whose :func:`members <mbrl_wrappers.models.members.members_of>` particles follow.
        num_particles: particles of each candidate; ``"expectation"`` has one.
        propagation: how particles are propagated. ``"TSinf"``: each keeps its member to the end; ``"TS1"``: the
            particles of a candidate are dealt out to the members anew at every step; ``"DS"``: each samples from the
            moment-matched mixture of all members; ``"MM"``: as ``"DS"``, and after each step a candidate's particles
            are redrawn from the Gaussian with the mean and variance of those that did not terminate (their rewards are
            computed before the redraw, in the original after it); ``"expectation"``: the mean of all members, without
            noise. The last three evaluate every member on every particle.
        sample_noise: whether a step samples the noise that its member predicts. If False, the particles of ``"TSinf"``
            and ``"TS1"`` follow their members' means, as in PETS's deterministic ensembles (DE), though these means
            are of probabilistic networks. Then particles differ only where members disagree, and under ``"TSinf"``
            all particles of a member are the same. Meant for an env without noise, where the predicted noise is only
            the model's error.
        discount: factor per step, in [0, 1].

    Raises:
        ValueError: for an argument out of its range, or a model with a memory.
    """

    def __init__(
        self,
        dynamics: DynamicsModel,
        *,
        num_particles: int = 20,
        propagation: Propagation = "TSinf",
        sample_noise: bool = True,
        discount: float = 1.0,
    ) -> None:
        check_whole_number("num_particles", num_particles)
        if propagation not in get_args(Propagation):
            raise ValueError(f"propagation must be one of {get_args(Propagation)}, got {propagation!r}")
        if not sample_noise and propagation in ("DS", "MM"):
            raise ValueError(f"sample_noise must be True for propagation {propagation!r}, got {sample_noise}")
        check_number("discount", discount, 0, 1)
        check_predicts(dynamics)
        self.dynamics = dynamics
        self.num_particles = 1 if propagation == "expectation" else num_particles
        self.propagation = propagation
        self.sample_noise = sample_noise
        self.discount = discount

    def __call__(
        self,
        obs: Tensor,
        actions: Tensor,
        generator: torch.Generator | None = None,
        policy: Policy | None = None,
    ) -> Tensor:
        """Evaluate candidate sequences; with a gradient if the actions have one.

        Args:
            obs: ``[B, D]`` flat observations in the env's units.
            actions: ``[B, P, H, A]`` flat actions in the env's units, ``P`` sequences for each observation; with a
                policy ``[B, P, H, X]``, the controls that it gets at each step.
            generator: the source of all randomness, on the model's device; default: torch's global one.
            policy: chooses the particles' actions, ``(obs [K, C, D], control [C, X]) -> actions [K, C, A]``; default:
                the controls are the actions.

        Returns:
            ``[B, P]`` returns; minus infinity where a prediction or the return was not finite.

        Raises:
            ValueError: if the shapes do not fit the model or each other.
        """
        width = self.dynamics.action_codec.dim if policy is None else actions.shape[-1]
        expected = (len(obs), "P", "H", width)
        if actions.dim() != 4 or (actions.shape[0], actions.shape[3]) != (expected[0], expected[3]):
            raise ValueError(f"actions must have shape {expected}, got {tuple(actions.shape)}")
        population = actions.shape[1]
        step = self._make_step(generator)
        shares = min(self.num_particles, len(members_of(self.dynamics).particle_members)) if self._deals else 1
        rows = max(1, shares * _rows_at_once(self.dynamics.device) // self.num_particles)
        # Each start state serves ``population`` consecutive sequences.
        owner = torch.arange(len(obs) * population, device=obs.device) // max(population, 1)
        chunks = zip(owner.split(rows), actions.flatten(0, 1).split(rows), strict=True)
        with torch.set_grad_enabled(actions.requires_grad and torch.is_grad_enabled()):
            returns = torch.cat([self._follow(obs[index], part, step, generator, policy) for index, part in chunks])
        return returns.reshape(len(obs), population)

    @property
    def _deals(self) -> bool:
        """Whether each particle follows one member."""
        return self.propagation in ("TS1", "TSinf")

    def _make_step(self, generator: torch.Generator | None) -> _Step:
        """Return a function that takes particles one step on; particle ``k`` has the same member from call to call."""
        dynamics, model = self.dynamics, members_of(self.dynamics)
        if self.propagation == "expectation":
            return lambda obs, action: dynamics.predict(obs, action, deterministic=True).outcome
        if not self._deals:
            return lambda obs, action: model.predict_mixture(obs, action, generator=generator).outcome
        members = model.particle_members
        order = torch.randperm(len(members), generator=generator, device=dynamics.device).tolist()
        share, odd = divmod(self.num_particles, len(members))
        # The first ``odd`` members of the random order get one particle more.
        groups = [(order[:odd], share + 1), (order[odd:], share)]
        steps = [
            (model.particle_step([members[i] for i in g], deterministic=not self.sample_noise), len(g), size)
            for g, size in groups
            if g and size
        ]
        return lambda obs, action: _step_in_groups(steps, obs, action, generator)

    def _follow(
        self,
        start: Tensor,
        controls: Tensor,
        step: _Step,
        generator: torch.Generator | None,
        policy: Policy | None,
    ) -> Tensor:
        """Return the mean return ``[C]`` of controls ``[C, H, X]`` from ``start [C, D]``."""
        obs = start.expand(self.num_particles, *start.shape)
        alive = torch.ones(obs.shape[:2], dtype=torch.bool, device=obs.device)
        total, zero = torch.zeros_like(alive, dtype=obs.dtype), obs.new_zeros(())
        factor = 1.0
        for control in controls.unbind(1):
            if self.propagation == "TS1":
                obs, alive = self._shuffle(obs, alive, generator)
            action = control.expand(self.num_particles, *control.shape) if policy is None else policy(obs, control)
            outcome = step(obs, action)
            # 0 * inf and 0 * NaN are NaN: an observation that is not finite, or whose sum overflows, spoils the return.
            paid = torch.add(outcome.reward, outcome.next_obs.sum(-1), alpha=0.0)
            total.add_(torch.where(alive, paid, zero), alpha=factor)  # sum_t gamma^t r_t
            obs, alive = outcome.next_obs, alive & ~outcome.terminated
            if self.propagation == "MM":
                obs = self._resample(obs, alive, generator)
            factor *= self.discount
        returns = total.mean(0)
        return torch.where(returns.isfinite(), returns, -torch.inf)

    @staticmethod
    def _shuffle(obs: Tensor, alive: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Permute the particles of each candidate at random, which deals them out to the members anew."""
        order = torch.rand(alive.shape, generator=generator, device=obs.device).argsort(0)
        candidates = alive.shape[1]
        # index_select copies whole rows; a gather looks up entry by entry and takes three times as long.
        rows = (order * candidates + torch.arange(candidates, device=obs.device)).flatten()
        return obs.flatten(0, 1).index_select(0, rows).reshape(obs.shape), alive.gather(0, order)

    def _resample(self, obs: Tensor, alive: Tensor, generator: torch.Generator | None) -> Tensor:
        """Redraw each candidate's particles ``[K, C, D]`` from the Gaussian with the moments of those alive."""
        share = alive / alive.sum(0).clamp(min=1)
        values = torch.where(alive[..., None], obs, 0.0)
        mean = (share[..., None] * values).sum(0)
        std = (share[..., None] * (values - mean).square()).sum(0).sqrt()
        noise = torch.randn(obs.shape, generator=generator, dtype=obs.dtype, device=obs.device)
        return self.dynamics.obs_codec.snap(mean + std * noise)


def _step_in_groups(
    steps: list[tuple[ParticleStep, int, int]], obs: Tensor, action: Tensor, generator: torch.Generator | None
) -> Outcome:
    """Take a step with ``obs [K, C, D]``, in one call for all members that have the same number of particles."""
    outcomes = []
    first = 0
    for step, num_members, share in steps:
        end = first + num_members * share
        rows, deeds = (part[first:end].reshape(num_members, -1, part.shape[-1]) for part in (obs, action))
        outcome = step(rows, deeds, generator)
        shape = (end - first, obs.shape[1])
        outcomes.append([part.reshape(*shape, *part.shape[2:]) for part in outcome])
        first = end
    return Outcome(*(parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*outcomes, strict=True)))


def _rows_at_once(device: torch.device) -> int:
    """Return how many rows a member gets in one matrix product."""
    return CHUNK_ROWS if device.type == "cpu" else 64 * CHUNK_ROWS
