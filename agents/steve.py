"""Stochastic ensemble value expansion (Buckman et al. 2018): horizons are weighted by how sure the ensembles are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.imagination.strategy import Samples, Strategy
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.divergence import RealRange
from mbrl_wrappers.models.members import crossed_members_of
from mbrl_wrappers.returns import RunningReturn
from mbrl_wrappers.types import Transitions

_LEAST_VARIANCE = 1e-8
_LEAST_OWN_VARIANCE = 1e-3  # added to a covariance's diagonal, as in the authors' code


class STEVE(Strategy):
    """Values are regressed on a weighted mean of the targets of all horizons up to ``H``; certain ones weigh more.

    From a real transition ``(s, a, r, s')`` each elite of the model is rolled out ``H`` steps under the policy that the
    agent's target bootstraps with. A target of horizon ``h`` is ``r`` plus ``h`` imagined rewards plus a critic's
    value of the state after them, discounted (section 3 of the paper). There is one for each combination of an elite
    that predicts the states, an elite that predicts the rewards and a critic. With their mean ``mu_h`` and variance::

        y = sum_h w_h mu_h,        w_h proportional to 1 / (variance_h + 1e-8)

    With ``covariance``, the weights are those of the linear combination with the least variance, which may be negative;
    the weights above are the special case of uncorrelated targets. The mean weight of each horizon is logged as
    ``imagination/weight_h0`` and so on: it shows how far the model is trusted.

    The agent gets the whole target as a reward, with ``done`` set so that it adds no bootstrap. ``horizon=0`` is
    exactly the agent's own target. Real n-step rows are continued where they end. A termination ends a rollout; a
    horizon at which anything is not finite gets no weight.

    Deviations: the ensembles of transitions and rewards are the members of one
    :class:`~mbrl_wrappers.models.EnsembleDynamics`, whose means are followed; the critics are the agent's, all
    trained on the same batches, and ``mu_h`` uses the least of their values as the agent's own target does; a random
    policy uses the same noise in all rollouts, since different noise would count as doubt about the model; for SAC,
    values include the entropy at the imagined states.

    Args:
        horizon: imagined steps ``H``, at least 0; the paper's is 3.
        covariance: whether the weights take the covariance of the horizons' targets into account.

    Raises:
        ValueError: for an argument out of its range; when training starts, for a model without at least two elites and
            a learned reward, or an agent without at least two scalar critics (``policy_kwargs={"n_critics": 4}``), such
            as DQN, TQC and QR-DQN.

    Example:
        >>> agent = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"n_critics": 4})  # doctest: +SKIP
        >>> agent.learn(5_000, callback=ModelBased(STEVE(horizon=3)))                # doctest: +SKIP
    """

    needs_learned_reward = True  # the variance of predicted rewards is part of the weights
    rewards_are_targets = True

    def __init__(self, horizon: int = 3, covariance: bool = False) -> None:
        check_whole_number("horizon", horizon, 0)
        self.horizon = horizon
        self.covariance = covariance
        self._forget()

    def _forget(self) -> None:
        """Reset what :meth:`refresh` reports."""
        self._rows, self._diverged = 0.0, 0
        self._weights = torch.zeros(self.horizon + 1)

    def bind(self, view: AgentView, dynamics: DynamicsModel, generator: torch.Generator) -> None:
        """Take the agent and the model; see :meth:`Strategy.bind`."""
        view.check_critic(several=True)
        crossed_members_of(dynamics)  # raises an error for a model without such members
        if dynamics.reward_fn is not None:
            raise ValueError(
                f"dynamics must have a learned reward, whose variance counts, got reward_fn={dynamics.reward_fn}"
            )
        super().bind(view, dynamics, generator)

    def refresh(self, transitions: Transitions, num_timesteps: int, new_steps: int) -> dict[str, float]:
        """Report on the batches since the last refresh; nothing is imagined in advance."""
        report = {"diverged": float(self._diverged)}
        if self._rows:
            report |= {f"weight_h{h}": float(weight) / self._rows for h, weight in enumerate(self._weights)}
        self._forget()
        return report

    @torch.no_grad()
    def sample(self, real_buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None) -> Samples:
        """Draw real rows and give each its target."""
        if self.horizon == 0:
            return real_buffer.sample(batch_size, env=env)
        real, obs, discount = self._view.draw_real(real_buffer, batch_size, env)
        factor = (1 - real.dones).reshape(-1) * discount
        target = real.rewards.reshape(-1) + factor * self._value_ahead(obs, factor, env)
        return real._replace(rewards=target[:, None].to(real.rewards), dones=torch.ones_like(real.dones))

    @torch.no_grad()
    def horizon_weights(self, obs: Tensor) -> Tensor:
        """Return the weight of each horizon in the target of a step to ``obs [B, D]``, raw and flat: ``[H+1, B]``."""
        discount = torch.full_like(obs[:, 0], self._view.gamma)
        return self._look_ahead(obs, discount, self._view.normalizer)[0]

    def _value_ahead(self, obs: Tensor, factor: Tensor, env: VecNormalize | None) -> Tensor:
        """Return the value ``[B]`` of ``obs [B, D]``, which the target multiplies by ``factor [B]``."""
        weights, means, finite = self._look_ahead(obs, factor, env)
        self._diverged += int((~finite).any(0).sum())
        matters = (factor > 0).to(weights)  # after a termination all horizons have the same target
        self._rows += float(matters.sum())
        self._weights += (weights @ matters).cpu()
        return (weights * means).sum(0)

    def _look_ahead(self, obs: Tensor, factor: Tensor, env: VecNormalize | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights and mean values of the horizons, and which are finite, ``[H+1, B]`` each."""
        with self._view.evaluating():
            horizons = [self._merge(candidates) for candidates in self._candidates(obs, env)]
        means = torch.stack([mean for mean, _ in horizons])
        deviations = torch.stack([deviation for _, deviation in horizons]) * factor
        finite = torch.isfinite(means) & torch.isfinite(deviations).all(1)
        finite[0] = True  # the agent's own target, whether finite or not
        weights = self._weigh(torch.where(finite[:, None], deviations, 0.0), finite)
        return weights, torch.where(finite, means, 0.0), finite

    def _candidates(self, obs: Tensor, env: VecNormalize | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Follow every elite from ``obs [B, D]``.

        Yields:
            For each horizon, the discounted sum of imagined rewards, ``[N, M, B]`` for ``N`` elites that predict
            rewards and ``M`` elites that predict states, and the discounted values after them, ``[C, M, B]`` for ``C``
            critics.
        """
        view, model = self._view, crossed_members_of(self._dynamics)
        members = len(model.particle_members)
        is_finite = torch.ones(members, len(obs), dtype=torch.bool, device=obs.device)
        gained = RunningReturn(obs.new_zeros(members, members, len(obs)), is_finite, 1.0)
        believed = RealRange.around(self._dynamics.start_obs)
        state = obs[None]  # the first state and action are the same for all members
        for step in range(self.horizon + 1):
            # The same noise for all members, since different noise would look like disagreement.
            action, bonus = view.target_policy(state.flatten(0, 1), self._generator, copies=len(state))
            value = view.target_values(state.flatten(0, 1), action) + bonus
            action, bonus = action.unflatten(0, state.shape[:2]), bonus.unflatten(0, state.shape[:2])
            yield (
                gained.reward,
                gained.bootstrap(torch.where(is_finite, value.unflatten(1, state.shape[:2]), torch.nan)),
            )
            if step == self.horizon:
                return
            width = (members, len(obs), -1)
            outcome = model.cross_step(state.expand(width), action.expand(width), self._generator)
            reward = view.normalize_reward(outcome.reward, env) + bonus
            # A termination at a state that is not finite does not count.
            is_finite = is_finite & believed.holds(outcome.next_obs)
            gained = gained.then(reward, outcome.terminated & is_finite, view.gamma ** (step + 1))
            # The policy can't act on a state that is not finite; values of the old one that replaces it aren't used.
            state = torch.where(is_finite[..., None], outcome.next_obs, state)

    @staticmethod
    def _merge(candidates: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return a horizon's mean target with the least critic, ``[B]``, and all targets' deviations, ``[K, B]``."""
        rewards, values = candidates
        targets = (rewards + values[:, None]).flatten(0, 2)
        return (rewards + values.amin(0)).mean((0, 1)), targets - targets.mean(0)

    def _weigh(self, deviations: Tensor, finite: Tensor) -> Tensor:
        """Return the weights ``[H+1, B]`` for targets around their mean, ``[H+1, K, B]``; none where not finite."""
        if not self.covariance:
            precision = 1 / (deviations.square().mean(1) + _LEAST_VARIANCE) * finite  # [H+1, B]
            return precision / precision.sum(0)
        spread = deviations.permute(2, 0, 1).double()
        covariance = spread @ spread.transpose(1, 2) / spread.shape[2]  # C: [B, H+1, H+1]
        covariance = covariance + _LEAST_OWN_VARIANCE * torch.eye(
            len(finite), dtype=covariance.dtype, device=spread.device
        )
        # w = C^-1 1, normalised: the least w^T C w with sum(w) = 1.
        weights = torch.linalg.solve(covariance, finite.T.double()) * finite.T
        return (weights / weights.sum(1, keepdim=True)).T.to(deviations)
