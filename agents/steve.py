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
    """Values are regressed on a mean of the targets of all horizons up to ``H``, the surer ones weighing more.

    From a real transition ``(s, a, r, s')`` each elite of the model is rolled out ``H`` steps under the policy that the
    agent's target bootstraps with. The target of horizon ``h`` is ``r`` plus ``h`` imagined rewards plus a critic's
    value behind them (section 3 of the paper), one for each elite that moves, each elite that rewards and
    each critic. With their mean ``mu_h`` and variance over these::

        y = sum_h w_h mu_h,        w_h proportional to 1 / (variance_h + 1e-8)

    With ``covariance``, the weights are those of the linear combination of least variance, of which these are the
    case of uncorrelated targets; they may be negative. The log has the mean weight of each horizon,
    ``imagination/weight_h0`` and so on: how far the model is trusted.

    The whole target is handed to the agent as a reward behind which nothing is bootstrapped. ``horizon=0`` is the
    agent's own target, to the last bit. Real n-step rows are continued where they end. A termination ends a rollout; a
    horizon at which anything is not finite gets no weight.

    Deviations: the ensembles of transitions and rewards are the members of one
    :class:`~mbrl_wrappers.models.EnsembleDynamics`, whose means are followed; the critics are the agent's, all
    trained on the same batches, and ``mu_h`` takes the least of them as the agent's own target does; where a policy is
    random, all trajectories share its noise, which would else be taken for doubt about the model; SAC's values hold
    the entropy at the imagined states.

    Args:
        horizon: imagined steps ``H``, at least 0; the paper's is 3.
        covariance: see above.

    Raises:
        ValueError: for an argument out of its range; when training starts, for a model without at least two elites and
            a learned reward, or an agent without at least two scalar critics (``policy_kwargs={"n_critics": 4}``; DQN,
            TQC and QR-DQN have none such).

    Example:
        >>> agent = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"n_critics": 4})  # doctest: +SKIP
        >>> agent.learn(5_000, callback=ModelBased(STEVE(horizon=3)))                # doctest: +SKIP
    """

    needs_learned_reward = True  # whose variance counts
    rewards_are_targets = True

    def __init__(self, horizon: int = 3, covariance: bool = False) -> None:
        check_whole_number("horizon", horizon, 0)
        self.horizon = horizon
        self.covariance = covariance
        self._forget()

    def _forget(self) -> None:
        """Begin to count anew."""
        self._rows, self._diverged = 0.0, 0
        self._weights = torch.zeros(self.horizon + 1)

    def bind(self, view: AgentView, dynamics: DynamicsModel, generator: torch.Generator) -> None:
        """Take the agent and the model; see :meth:`Strategy.bind`."""
        view.check_critic(several=True)
        crossed_members_of(dynamics)  # or refuse it
        if dynamics.reward_fn is not None:
            raise ValueError(
                f"dynamics must have a learned reward, whose variance counts, got reward_fn={dynamics.reward_fn}"
            )
        super().bind(view, dynamics, generator)

    def refresh(self, transitions: Transitions, num_timesteps: int, new_steps: int) -> dict[str, float]:
        """Keep nothing, and report on the batches since the last time."""
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
        """Return the value ``[B]`` of ``obs [B, D]``, which the target takes times ``factor [B]``."""
        weights, means, finite = self._look_ahead(obs, factor, env)
        self._diverged += int((~finite).any(0).sum())
        matters = (factor > 0).to(weights)  # behind a terminal state all targets are the same
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
        finite[0] = True  # which is the agent's own affair
        weights = self._weigh(torch.where(finite[:, None], deviations, 0.0), finite)
        return weights, torch.where(finite, means, 0.0), finite

    def _candidates(self, obs: Tensor, env: VecNormalize | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Follow every elite from ``obs [B, D]``.

        Yields:
            For each horizon the imagined rewards, ``[N, M, B]`` of each elite that rewards and each that moves, and
            the values behind them, ``[C, M, B]`` of each critic.
        """
        view, model = self._view, crossed_members_of(self._dynamics)
        members = len(model.particle_members)
        is_finite = torch.ones(members, len(obs), dtype=torch.bool, device=obs.device)
        gained = RunningReturn(obs.new_zeros(members, members, len(obs)), is_finite, 1.0)
        believed = RealRange.around(self._dynamics.start_obs)
        state = obs[None]  # of all members alike, as is the first action
        for step in range(self.horizon + 1):
            # Noise that differed between the members would be taken for their disagreement.
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
            # What a given function says of a state that is not finite is no end.
            is_finite = is_finite & believed.holds(outcome.next_obs)
            gained = gained.then(reward, outcome.terminated & is_finite, view.gamma ** (step + 1))
            # Which the policy could not act on, and whose values are not used.
            state = torch.where(is_finite[..., None], outcome.next_obs, state)

    @staticmethod
    def _merge(candidates: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean ``[B]`` of a horizon's targets, of the least critic, and all targets around theirs."""
        rewards, values = candidates
        targets = (rewards + values[:, None]).flatten(0, 2)
        return (rewards + values.amin(0)).mean((0, 1)), targets - targets.mean(0)

    def _weigh(self, deviations: Tensor, finite: Tensor) -> Tensor:
        """Return the weights ``[H+1, B]`` for targets around their mean, ``[H+1, K, B]``; none where not finite."""
        if not self.covariance:
            precision = 1 / (deviations.square().mean(1) + _LEAST_VARIANCE) * finite
            return precision / precision.sum(0)
        spread = deviations.permute(2, 0, 1).double()
        covariance = spread @ spread.transpose(1, 2) / spread.shape[2]
        covariance = covariance + _LEAST_OWN_VARIANCE * torch.eye(
            len(finite), dtype=covariance.dtype, device=spread.device
        )
        weights = torch.linalg.solve(covariance, finite.T.double()) * finite.T
        return (weights / weights.sum(1, keepdim=True)).T.to(deviations)
