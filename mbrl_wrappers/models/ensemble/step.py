"""One step of an ensemble: what its networks predict for some rows, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.columns import ObservationColumns
from mbrl_wrappers.models.ensemble.settings import check_ranges
from mbrl_wrappers.models.given import GivenFunction, call_given, resolve
from mbrl_wrappers.models.heads import MOST_SPREADS, Heads, Outputs, chance_std
from mbrl_wrappers.models.network import EnsembleMLP
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.types import Outcome, Prediction

# ``(name of a network, its input [B, in_dim]) -> Outputs`` with fields ``[B, ...]``.
Run = Callable[[str, Tensor], Outputs]


class Rows(NamedTuple):
    """Where steps start, as rows: ``obs [B, D]``, ``action [B, A]``, and the normalised input ``x [B, D + A]``."""

    obs: Tensor
    action: Tensor
    x: Tensor


class Step(NamedTuple):
    """A step, as rows, and the variance of each target that it was drawn with, ``[B, V]``."""

    outcome: Outcome
    variance: Tensor


class NetworkSteps(DynamicsModel):
    """Networks of next observations, rewards and terminations, and the step that they predict together.

    A step is taken with any function that evaluates the networks on rows: by one member per row, by the mixture of
    all, by some members on rows of their own.

    Args:
        observation_space: the environment's.
        action_space: the environment's.
        settings: the arguments of an :class:`~mbrl_wrappers.models.EnsembleDynamics`, functions and device excepted.
        reward_fn: a function, an environment's id, or None for a learned reward.
        termination_fn: the same for terminations.

    Raises:
        ValueError: for a setting out of its range, an unsupported space, or an unknown id.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        settings: dict[str, Any],
        reward_fn: GivenFunction | str | None,
        termination_fn: GivenFunction | str | None,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_ranges(settings)
        self.settings = settings
        self.reward_fn, self.reward_name = resolve(reward_fn, "reward_fn")
        self.termination_fn, self.termination_name = resolve(termination_fn, "termination_fn")
        self.columns = ObservationColumns(self.obs_codec, settings["range_margin"], settings["residual"])
        columns, joint = self.columns, settings["joint"]
        learns_reward, learns_end = self.reward_fn is None, self.termination_fn is None
        self.network = self._make_network(
            Heads(
                columns.num_continuous + (joint and learns_reward),
                settings["num_components"],
                columns.categories,
                columns.num_flags + (joint and learns_end),
            )
        )
        self.reward_network = self._make_outcome_network(Heads(1)) if learns_reward and not joint else None
        self.termination_network = self._make_outcome_network(Heads(flags=1)) if learns_end and not joint else None
        self.input_normalizer = Normalizer(self.obs_codec.dim + self.action_codec.dim, exact=True)
        self.target_normalizer = Normalizer(self.network.heads.targets)
        self.reward_normalizer = Normalizer(1) if self.reward_network is not None else None

    def _make_network(self, heads: Heads) -> EnsembleMLP:
        """Build the network of next observations, from ``(obs, action)``."""
        settings = self.settings
        width = self.obs_codec.dim + self.action_codec.dim
        return EnsembleMLP(settings["num_members"], width, heads, settings["hidden"], settings["seed"])

    def _make_outcome_network(self, heads: Heads) -> EnsembleMLP:
        """Build a smaller network of rewards or terminations, which sees the next observation too."""
        settings = self.settings
        width = 2 * self.obs_codec.dim + self.action_codec.dim
        hidden = [max(units // 2, min(units, 64)) for units in settings["hidden"][:2]]
        return EnsembleMLP(settings["num_members"], width, heads, hidden, settings["seed"])

    @property
    def networks(self) -> dict[str, EnsembleMLP]:
        """The networks that the model has, by the names of their attributes."""
        found = {
            "network": self.network,
            "reward_network": self.reward_network,
            "termination_network": self.termination_network,
        }
        return {name: network for name, network in found.items() if network is not None}

    def _note_columns(self) -> None:
        """Read the properties of the columns from the buffers."""
        self.columns.set_range(self.seen_range if len(self.seen_range) else None)
        continuous, discrete = (counts.bool() for counts in self.columns.counts())
        kept = torch.cat([continuous, *[continuous.new_ones(1)] * self.has_joint_reward, discrete])
        if self.reward_network is not None:
            kept = torch.cat([kept, kept.new_ones(1)])
        self._counting: Tensor | None = None if kept.all() or not kept.any() else kept.nonzero()[:, 0]

    def as_rows(self, obs: Tensor, action: Tensor) -> Rows:
        """Return observations and actions as rows, and the networks' input made of them."""
        flat_obs = self._flatten(obs, "obs").to(self.obs_dtype)
        flat_action = self._flatten(action, "action").to(self._like.dtype)
        x = self.input_normalizer.normalize(torch.cat([flat_obs, flat_action], dim=-1))
        return Rows(flat_obs, flat_action, x)

    def advance(
        self,
        rows: Rows,
        run: Run,
        generator: torch.Generator | None,
        deterministic: bool,
        sample_discrete: bool,
        copies: int = 1,
        soft_ends: bool = False,
    ) -> Step:
        """Take a step with rows ``[B, ...]``.

        Args:
            rows: the starts.
            run: evaluates a network on these rows.
            generator: the source of all randomness.
            deterministic: whether continuous targets are their means.
            sample_discrete: whether categories, flags and terminations are sampled; if not, they are the likeliest.
            copies: number of equal blocks of rows whose discrete parts are sampled with the same random numbers.
            soft_ends: whether learned terminations are their probabilities.
        """
        columns, heads = self.columns, self.network.heads

        def drawn(heads: Heads, outputs: Outputs) -> Tensor:
            return heads.moments(outputs)[0] if deterministic else heads.sample(outputs, generator)

        def decided(heads: Heads, chances: Tensor) -> Tensor:
            if not sample_discrete:
                return heads.decide(chances)
            shape = (len(chances) // copies, chances.shape[-1])
            uniform = torch.rand(shape, generator=generator, dtype=chances.dtype, device=chances.device)
            return heads.decide(chances, uniform if copies == 1 else uniform.repeat(copies, 1))

        outputs = run("network", rows.x)
        target = drawn(heads, outputs)
        variances = [heads.moments(outputs)[1].square()]
        discrete = target[:, :0]
        if heads.categories or heads.flags:
            chances = heads.chances(outputs)
            discrete = decided(heads, chances)
            variances.append(chance_std(chances[:, : columns.num_discrete]).square())
        raw = self.target_normalizer.denormalize(target)[:, : columns.num_continuous]
        change = columns.bound(rows.obs, columns.change_to(rows.obs, raw))
        next_obs = columns.land(rows.obs, change, discrete[:, : columns.num_discrete])
        # Taken from next_obs, in which blocks and flags that never change have their values from before the step.
        landed = columns.discrete_of(next_obs).to(rows.x)
        reward, variance = self._reward(rows, run, next_obs, target, landed, change, lambda out: drawn(Heads(1), out))
        if variance is not None:
            variances.append(variance)
        if self.has_joint_end:
            terminated = chances[:, -1] if soft_ends else discrete[:, -1] > 0.5
        else:
            decide = None if soft_ends else decided
            terminated = self._terminated(rows, run, next_obs, landed, decide, change)
        counted = self._what_counts(torch.cat(variances, dim=-1) if len(variances) > 1 else variances[0])
        return Step(Outcome(next_obs, reward, terminated), counted)

    def _reward(
        self,
        rows: Rows,
        run: Run,
        next_obs: Tensor,
        target: Tensor,
        discrete: Tensor,
        change: Tensor,
        draw: Callable[[Outputs], Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the rewards ``[B]`` of a step, and the variance ``[B, 1]`` that a separate reward network predicts."""
        if self.reward_fn is not None:
            return call_given(self.reward_fn, "reward_fn", rows.obs, rows.action, next_obs), None
        if self.has_joint_reward:
            return self.target_normalizer.denormalize(target)[:, -1], None
        assert self.reward_normalizer is not None
        outputs = run("reward_network", self._outcome_input(rows, change, discrete))
        return self.reward_normalizer.denormalize(draw(outputs))[:, 0], outputs.std.square()

    def _terminated(
        self,
        rows: Rows,
        run: Run,
        next_obs: Tensor,
        discrete: Tensor,
        decided: Callable[[Heads, Tensor], Tensor] | None,
        change: Tensor,
    ) -> Tensor:
        """Return which steps end their episodes, ``[B]`` bool, or without ``decided`` the probabilities of that."""
        if self.termination_fn is not None:
            return call_given(self.termination_fn, "termination_fn", rows.obs, rows.action, next_obs)
        assert self.termination_network is not None
        outputs = run("termination_network", self._outcome_input(rows, change, discrete))
        heads = self.termination_network.heads
        chances = heads.chances(outputs)
        return chances[:, 0] if decided is None else decided(heads, chances.detach())[:, 0] > 0.5

    def _outcome_input(self, rows: Rows, change: Tensor, discrete: Tensor) -> Tensor:
        """Return the inputs of the networks of rewards and terminations, ``[B, 2 D + A]``.

        Args:
            rows: where the steps start.
            change: ``[B, C]`` of the continuous columns, in the env's units.
            discrete: ``[B, L]`` blocks and flags of the next observation.
        """
        # The change of a clock is constant, so it is normalised by rounding errors; where the clock is held at a bound,
        # its change is off by a million of them.
        target = self.target_normalizer.normalize(self.columns.target_at(rows.obs, change))
        parts = [rows.x, target.clamp(-MOST_SPREADS, MOST_SPREADS), discrete]
        return torch.cat(parts if self.columns.num_discrete else parts[:2], dim=-1)

    @property
    def has_joint_end(self) -> bool:
        """Whether the termination is the last flag of the network of next observations."""
        return self.termination_fn is None and self.termination_network is None

    @property
    def has_joint_reward(self) -> bool:
        """Whether the reward is the last target of the network of next observations."""
        return self.reward_fn is None and self.reward_network is None

    def _what_counts(self, values: Tensor) -> Tensor:
        """Return the targets ``[..., V]`` that ever change, discrete ones and the reward included."""
        return values if self._counting is None else values.index_select(-1, self._counting)

    def _prediction(self, obs: Tensor, step: Step) -> Prediction:
        """Give a step the leading dimensions of ``obs``, and its uncertainty, the root mean variance of its targets."""
        outcome = shaped(step.outcome, obs)
        return Prediction(*outcome, step.variance.mean(-1).sqrt().reshape(outcome.reward.shape))


def shaped(outcome: Outcome, obs: Tensor) -> Outcome:
    """Give an outcome of rows the leading dimensions of ``obs``."""
    batch = obs.shape[:-1]
    return Outcome(
        outcome.next_obs.reshape(obs.shape), outcome.reward.reshape(batch), outcome.terminated.reshape(batch)
    )
