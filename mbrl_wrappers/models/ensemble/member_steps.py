"""The predictions of an ensemble: by one random member per row, by the mixture, or by every member on its own rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.models import routing
from mbrl_wrappers.models.ensemble.step import NetworkSteps, Run, shaped
from mbrl_wrappers.models.given import GivenFunction
from mbrl_wrappers.models.heads import Outputs, chance_std
from mbrl_wrappers.models.members import InferredStep, ParticleStep, ensemble_of
from mbrl_wrappers.models.uncertainty import Measure, MemberGaussians
from mbrl_wrappers.types import Outcome, Prediction


class MemberSteps(NetworkSteps):
    """The predictions of an ensemble by its elites, as :mod:`mbrl_wrappers.models.members` asks for them.

    Args:
        observation_space, action_space, settings, reward_fn, termination_fn: as for
            :class:`~mbrl_wrappers.models.ensemble.step.NetworkSteps`.
    """

    elites: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        settings: dict[str, Any],
        reward_fn: GivenFunction | str | None,
        termination_fn: GivenFunction | str | None,
    ) -> None:
        super().__init__(observation_space, action_space, settings, reward_fn, termination_fn)
        self.register_buffer("elites", torch.arange(settings["num_elites"]))
        self._elite_list = list(range(settings["num_elites"]))

    def predict(
        self,
        obs: Tensor,
        action: Tensor,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        members: Tensor | None = None,
    ) -> Prediction:
        """Predict one step; see :meth:`DynamicsModel.predict`.

        Args:
            obs: ``[..., D]``.
            action: ``[..., A]``.
            generator: draws the members and the noise.
            deterministic: the mean over the elites; otherwise a sample of one random elite per row.
            members: ``[...]`` int64, which member predicts each row; default: balanced at random
                over the elites.

        Returns:
            The prediction, with the leading dimensions of ``obs``.
        """
        rows = self.as_rows(obs, action)
        if deterministic:
            run = self.run_mixture
        else:
            groups = self._groups(obs, members, generator)

            def run(name: str, x: Tensor) -> Outputs:
                return routing.evaluate(self.networks[name], x, groups)

        return self._prediction(obs, self.advance(rows, run, generator, deterministic, not deterministic))

    @property
    def particle_members(self) -> list[int]:
        """The elites; see :class:`~mbrl_wrappers.models.members.Members`."""
        return list(self._elite_list)

    def particle_step(
        self, members: Sequence[int], *, deterministic: bool = False, sample_discrete: bool | None = None
    ) -> ParticleStep:
        """Return a function that takes steps with some members; see :class:`~mbrl_wrappers.models.members.Members`.

        The members' parameters are constants in it, without a gradient.
        """
        run = self._run_members(members)
        samples = not deterministic if sample_discrete is None else sample_discrete

        def step(obs: Tensor, action: Tensor, generator: torch.Generator | None) -> Outcome:
            taken = self.advance(self.as_rows(obs, action), run, generator, deterministic, samples)
            return shaped(taken.outcome, obs)

        return step

    def soft_end_step(self, members: Sequence[int]) -> ParticleStep:
        """Return a function that takes steps with some members; see :class:`~mbrl_wrappers.models.members.SoftEnds`.

        The members' parameters are constants in it, without a gradient.
        """
        if self.termination_fn is not None:
            raise ValueError(f"dynamics must have a learned termination, got termination_fn={self.termination_fn}")
        run = self._run_members(members)

        def step(obs: Tensor, action: Tensor, generator: torch.Generator | None) -> Outcome:
            taken = self.advance(self.as_rows(obs, action), run, generator, False, True, soft_ends=True)
            return shaped(taken.outcome, obs)

        return step

    def inferred_step(self, members: Sequence[int]) -> InferredStep:
        """Return a function that repeats real steps; see :class:`~mbrl_wrappers.models.members.InfersNoise`.

        The members' parameters are constants in it, without a gradient. Discrete columns have the gradients of their
        probabilities.

        Raises:
            ValueError: for a model with several components, since a real step doesn't tell which one it came from.
        """
        if self.network.heads.components > 1:
            raise ValueError(f"num_components must be 1 to infer noise, got {self.network.heads.components}")
        run = self._run_members(members)
        columns, heads = self.columns, self.network.heads

        def step(obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
            rows = self.as_rows(obs, action)
            real_obs = self._flatten(next_obs, "obs").to(rows.obs)
            real_reward = reward.reshape(-1, 1).to(rows.x)

            def drawn_reward(outputs: Outputs) -> Tensor:
                assert self.reward_normalizer is not None  # there is a reward network
                return _as_drawn(outputs, self.reward_normalizer.normalize(real_reward))

            real = columns.targets_of(rows.obs, real_obs).to(rows.x)
            if self.has_joint_reward:
                real = torch.cat([real, real_reward], dim=-1)
            outputs = run("network", rows.x)
            target = _as_drawn(outputs, self.target_normalizer.normalize(real))
            chances = heads.chances(outputs)[:, : columns.num_discrete]
            discrete = columns.discrete_of(real_obs).to(chances)
            discrete = chances + (discrete - chances).detach()
            drawn = self.target_normalizer.denormalize(target)[:, : columns.num_continuous]
            change = columns.keep_constants(columns.change_to(rows.obs, drawn))
            again = columns.land(rows.obs, change, discrete)
            paid = self._reward(rows, run, again, target, discrete, change, drawn_reward)[0]
            # A given function has no noise: the difference from the real reward is added as a constant.
            return again.reshape(obs.shape), (paid + (real_reward[:, 0] - paid).detach()).reshape(reward.shape)

        return step

    def predict_mixture(self, obs: Tensor, action: Tensor, *, generator: torch.Generator | None = None) -> Prediction:
        """Sample from the moment-matched mixture of the elites."""
        rows = self.as_rows(obs, action)
        return self._prediction(obs, self.advance(rows, self.run_mixture, generator, False, True))

    def predict_measured(
        self, obs: Tensor, action: Tensor, measure: Measure, *, generator: torch.Generator | None = None
    ) -> Prediction:
        """Sample one step, each row by a random elite, and measure all elites' predictions of it.

        See :class:`~mbrl_wrappers.models.members.Ensemble`. Every elite evaluates every row. Categories and flags are
        compared as Gaussians with the mean and variance of the Bernoulli distribution of their probability.
        """
        ensemble_of(self)
        rows = self.as_rows(obs, action)
        count, places = len(rows.x), list(range(len(self._elite_list)))
        drawn = routing.member_of_row(routing.dealt(count, places, generator, self.device))
        index = torch.arange(count, device=drawn.device)
        of_all: dict[str, Outputs] = {}

        def run(name: str, x: Tensor) -> Outputs:
            of_all[name] = self.networks[name].members(self._elite_list, x)
            return Outputs(*(output[drawn, index] for output in of_all[name]))

        taken = self.advance(rows, run, generator, False, True)
        uncertainty = measure(self._gaussians(of_all), drawn)
        outcome = shaped(taken.outcome, obs)
        return Prediction(*outcome, uncertainty.reshape(outcome.reward.shape))

    def _gaussians(self, of_all: dict[str, Outputs]) -> MemberGaussians:
        """Return all members' predictions of the changing columns and of the reward, ``[M, B, V]``."""
        outputs, heads = of_all["network"], self.network.heads
        moments = [heads.moments(outputs)]
        if self.columns.num_discrete:
            chances = heads.chances(outputs)[..., : self.columns.num_discrete]
            moments.append((chances, chance_std(chances)))
        if "reward_network" in of_all:
            moments.append((of_all["reward_network"].mean, of_all["reward_network"].std))
        mean, std = (torch.cat(parts, dim=-1) for parts in zip(*moments, strict=True))
        return MemberGaussians(self._what_counts(mean), self._what_counts(std))

    def cross_step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Outcome:
        """Take the mean step of each elite, rated by every elite.

        See :meth:`CrossesMembers.cross_step <mbrl_wrappers.models.members.CrossesMembers.cross_step>`.
        """
        ensemble_of(self)
        members = len(self._elite_list)
        if self.reward_fn is not None:
            raise ValueError(f"dynamics must have a learned reward, got reward_fn={self.reward_fn}")
        if obs.dim() != 3 or len(obs) != members:
            raise ValueError(f"obs must have shape [{members}, R, {self.obs_codec.dim}], got {tuple(obs.shape)}")
        of_all: dict[str, Outputs] = {}
        own = torch.arange(members, device=self.device)

        def run(name: str, x: Tensor) -> Outputs:  # x: the rows of the first elite, then the second's, ...
            if name == "reward_network" or self.has_joint_reward:
                of_all[name] = self.networks[name].members(self._elite_list, x)
                pairs = (output.unflatten(1, (members, -1)) for output in of_all[name])
                return Outputs(*(pair[own, own].flatten(0, 1) for pair in pairs))
            return own_rows(name, x)

        own_rows = self._run_members(self._elite_list)
        rows = self.as_rows(obs, action)
        taken = self.advance(rows, run, generator, True, True, copies=members)
        if self.has_joint_reward:
            means = self.network.heads.moments(of_all["network"])[0]
            reward = self.target_normalizer.denormalize(means)[..., -1]
        else:
            assert self.reward_normalizer is not None  # the reward is learned
            reward = self.reward_normalizer.denormalize(of_all["reward_network"].mean)[..., 0]
        outcome = shaped(taken.outcome, obs)
        return Outcome(outcome.next_obs, reward.unflatten(1, (members, -1)), outcome.terminated)

    def _groups(self, obs: Tensor, members: Tensor | None, generator: torch.Generator | None) -> routing.Deal:
        """Return which member predicts each row of ``obs [..., D]``."""
        batch = obs.shape[:-1]
        if members is None:
            return routing.dealt(batch.numel(), self._elite_list, generator, self.device)
        if members.shape != batch:
            raise ValueError(f"members must have shape {tuple(batch)}, got {tuple(members.shape)}")
        return routing.grouped(members.reshape(-1), self.network.num_members)

    def _run_members(self, members: Sequence[int]) -> Run:
        """Return a function that evaluates networks on rows ``[M R, in_dim]``, ``R`` for each member in turn."""
        wrong = [member for member in members if not 0 <= member < self.network.num_members]
        if wrong or not members:
            raise ValueError(f"members must be in [0, {self.network.num_members}), got {list(members)}")
        with torch.no_grad():  # or a compiled step would compute gradients of the weights, which nobody needs
            chosen = {name: self.networks[name].choose(members) for name in self.networks}

        def run(name: str, x: Tensor) -> Outputs:
            dealt = x.reshape(len(members), -1, x.shape[-1])
            return Outputs(*(part.flatten(0, 1) for part in self.networks[name].evaluate(chosen[name], dealt)))

        return run

    def run_mixture(self, name: str, x: Tensor) -> Outputs:
        """Match the first two moments of the equal mixture of the elites; chances are averaged."""
        network = self.networks[name]
        outputs = network.members(self._elite_list, x)
        means, stds = network.heads.moments(outputs)
        mean = means.mean(0)
        variance = stds.square().mean(0) + (means - mean).square().mean(0)  # law of total variance
        blocks = outputs.categories.split(network.heads.categories, -1)
        categories = torch.cat([mean[:, :0], *(_log_mean(block.log_softmax(-1)) for block in blocks)], dim=-1)
        flags = _log_mean(F.logsigmoid(outputs.flags)) - _log_mean(F.logsigmoid(-outputs.flags))
        return Outputs(mean, variance.sqrt(), mean[:, :0], categories, flags)

    def _choose_elites(self, score: Tensor) -> None:
        # Kept as a list too, so that picking a member doesn't wait for the GPU.
        self.elites.copy_(score.argsort()[: len(self.elites)])
        self._elite_list = self.elites.tolist()


def _log_mean(log_chances: Tensor) -> Tensor:
    """Return the logarithm of the members' mean probability, from log-probabilities ``[M, ...]``."""
    return log_chances.logsumexp(0) - math.log(len(log_chances))


def _as_drawn(outputs: Outputs, real: Tensor) -> Tensor:
    """Return real targets ``[B, T]`` as ``mean + std * noise``, with the noise that reproduces them as a constant."""
    noise = ((real - outputs.mean) / outputs.std).detach()
    return outputs.mean + outputs.std * noise
