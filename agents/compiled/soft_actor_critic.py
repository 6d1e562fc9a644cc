"""SAC and TQC with one compiled function per gradient update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from sb3_contrib import TQC
from sb3_contrib.common.utils import quantile_huber_loss
from sb3_contrib.tqc import policies as tqc_policies
from stable_baselines3 import SAC
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac import policies as sac_policies
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.acceleration.adam import AdamState, AdamStep
from mbrl_wrappers.acceleration.functional import Functional, polyak, tensors_of
from mbrl_wrappers.agents.compiled.agent import CompiledAgent, common_objection, logged_values

_HALF_LOG_2PI = 0.9189385332046727
_ACTORS = (sac_policies.Actor, tqc_policies.Actor)
_CRITICS = (ContinuousCritic, tqc_policies.Critic)


class SoftState(NamedTuple):
    """The tensors of a soft actor-critic.

    Attributes:
        actor, critic: parameters and their optimizer's state.
        alpha: the logarithm of the entropy coefficient and its optimizer's state; None if the coefficient is fixed.
        target: parameters of the target critic.
    """

    actor: AdamState
    critic: AdamState
    alpha: AdamState | None
    target: list[Tensor]


class SoftSettings(NamedTuple):
    """Hyperparameters as tensors without dimensions; ``alpha`` is used only if it is not learned."""

    gamma: Tensor
    tau: Tensor
    target_entropy: Tensor
    alpha: Tensor


class _CompiledSoftActorCritic(CompiledAgent):
    """The base of SAC and TQC: the order of updates, the entropy and the target."""

    actor: Any
    critic: Any
    critic_target: Any
    ent_coef_optimizer: Any
    ent_coef_tensor: Tensor  # set if the coefficient is fixed
    target_entropy: Any
    target_update_interval: int

    def _next_values(self, outputs: Any) -> Tensor:
        """Return the target critic's values ``[B, K]`` of the next actions."""
        raise NotImplementedError

    def _critic_loss(self, outputs: Any, target: Tensor) -> Tensor:
        """Return the loss of the critic's outputs against targets ``[B, K]``."""
        raise NotImplementedError

    def _value(self, outputs: Any) -> Tensor:
        """Return the actor's objective, ``[B, 1]``."""
        raise NotImplementedError

    def _trained(self) -> dict[str, torch.optim.Optimizer]:
        optimizers = {"actor": self.actor.optimizer, "critic": self.critic.optimizer}
        if self.ent_coef_optimizer is not None:
            optimizers["alpha"] = self.ent_coef_optimizer
        return optimizers

    def _objection_of_kind(self) -> str | None:
        if type(self.actor.action_dist) is not SquashedDiagGaussianDistribution:
            return f"the actor's distribution is {type(self.actor.action_dist).__name__}"
        networks = {"actor": _ACTORS, "critic": _CRITICS, "critic_target": _CRITICS}
        return common_objection(self.policy, networks, self._trained().values())

    def _state(self) -> SoftState:
        states = {name: AdamStep.state(optimizer) for name, optimizer in self._trained().items()}
        return SoftState(states["actor"], states["critic"], states.get("alpha"), tensors_of(self.critic_target))

    def _settings(self) -> SoftSettings:
        alpha = self.ent_coef_tensor if self.ent_coef_optimizer is None else 0.0
        return SoftSettings(*map(self._number, (self.gamma, self.tau, self.target_entropy, alpha)))

    def _draw(self, batch: ReplayBufferSamples) -> tuple[Tensor, Tensor]:
        like = next(self.actor.parameters())
        shape = (len(batch.actions), self.actor.action_dist.action_dim)
        noise, next_noise = (like.new_empty(shape).normal_() for _ in range(2))  # as torch.distributions.Normal draws
        return noise, next_noise

    def _is_due(self, index: int) -> bool:
        return index % self.target_update_interval == 0

    def _make_update(self) -> Callable[..., Tensor]:
        steps = self._adam_steps()
        distribution = Functional(self.actor, "get_action_dist_params")
        critic, critic_target = Functional(self.critic), Functional(self.critic_target)
        epsilon = self.actor.action_dist.epsilon
        next_values, critic_loss_of, value_of = self._next_values, self._critic_loss, self._value

        def act(params: list[Tensor], obs: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
            """Return a squashed Gaussian's actions ``[B, A]`` and their log-density ``[B, 1]``."""
            mean, log_std, _ = distribution.at(params, obs)
            action = torch.tanh(mean + log_std.exp() * noise)
            gaussian = -0.5 * noise.square() - log_std - _HALF_LOG_2PI
            return action, (gaussian - torch.log(1 - action.square() + epsilon)).sum(1, keepdim=True)

        def update(
            state: SoftState,
            schedule: dict[str, Tensor],
            settings: SoftSettings,
            batch: ReplayBufferSamples,
            noises: tuple[Tensor, Tensor],
            moves_target: bool,
        ) -> Tensor:
            noise, next_noise = noises
            alpha = settings.alpha if state.alpha is None else state.alpha.params[0].exp()

            # Critic (Haarnoja et al. 2018b, equations 5 and 6; for TQC Kuznetsov et al. 2020, equations 10 to 13).
            discount = settings.gamma if batch.discounts is None else batch.discounts
            next_action, next_log_prob = act(state.actor.params, batch.next_observations, next_noise)
            next_value = next_values(critic_target.at(state.target, batch.next_observations, next_action))
            target = batch.rewards + (1 - batch.dones) * discount * (next_value - alpha * next_log_prob)

            def critic_loss(params: list[Tensor]) -> Tensor:
                return critic_loss_of(critic.at(params, batch.observations, batch.actions), target)

            grads, critic_loss_value = torch.func.grad_and_value(critic_loss)(state.critic.params)
            steps["critic"](state.critic, schedule["critic"], grads)

            # Actor (equation 7).
            def actor_loss(params: list[Tensor]) -> tuple[Tensor, Tensor]:
                action, log_prob = act(params, batch.observations, noise)
                value = value_of(critic.at(state.critic.params, batch.observations, action))
                return (alpha * log_prob - value).mean(), log_prob

            grads, (actor_loss_value, log_prob) = torch.func.grad_and_value(actor_loss, has_aux=True)(
                state.actor.params
            )

            # Entropy coefficient (equation 18); SB3 takes the gradient with respect to its logarithm.
            logged = [critic_loss_value, actor_loss_value, alpha.mean()]
            if state.alpha is not None:
                log_alpha = state.alpha.params[0]
                surplus = (log_prob + settings.target_entropy).mean()
                logged.append(-(log_alpha * surplus).mean())
                grad = torch.ones_like(log_alpha) * -surplus
                steps["alpha"](state.alpha, schedule["alpha"], [grad])
            steps["actor"](state.actor, schedule["actor"], grads)
            if moves_target:
                polyak(state.critic.params, state.target, settings.tau)
            return logged_values(logged)

        return update

    def _record(self, logged: Tensor) -> None:
        self._n_updates += len(logged)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        names = ("critic_loss", "actor_loss", "ent_coef", "ent_coef_loss")
        for name, value in zip(names, logged.mean(0).tolist(), strict=False):
            self.logger.record(f"train/{name}", value)


class CompiledSAC(_CompiledSoftActorCritic, SAC):
    """SB3's SAC (Haarnoja et al. 2018b) with one compiled function per gradient update.

    See :class:`~mbrl_wrappers.agents.compiled.agent.CompiledAgent` for ``compile``, SB3's ``SAC`` for the rest.
    """

    def _next_values(self, outputs: Any) -> Tensor:
        return torch.cat(outputs, dim=1).min(dim=1, keepdim=True).values

    def _critic_loss(self, outputs: Any, target: Tensor) -> Tensor:
        return 0.5 * torch.stack([F.mse_loss(value, target) for value in outputs]).sum()

    def _value(self, outputs: Any) -> Tensor:
        return torch.cat(outputs, dim=1).min(dim=1, keepdim=True).values


class CompiledTQC(_CompiledSoftActorCritic, TQC):
    """sb3-contrib's TQC (Kuznetsov et al. 2020) with one compiled function per gradient update.

    See :class:`~mbrl_wrappers.agents.compiled.agent.CompiledAgent` for ``compile``, and ``TQC`` for the rest.
    """

    def _constants(self) -> list[Any]:
        return [self.top_quantiles_to_drop_per_net]

    def _next_values(self, outputs: Any) -> Tensor:
        kept = self.critic.quantiles_total - self.top_quantiles_to_drop_per_net * self.critic.n_critics
        return outputs.flatten(1).sort(dim=1).values[:, :kept]

    def _critic_loss(self, outputs: Any, target: Tensor) -> Tensor:
        return quantile_huber_loss(outputs, target.unsqueeze(1), sum_over_quantiles=False)

    def _value(self, outputs: Any) -> Tensor:
        return outputs.mean(dim=2).mean(dim=1, keepdim=True)
