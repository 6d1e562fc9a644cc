"""TD3 with one compiled function per gradient update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from stable_baselines3 import TD3
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.td3.policies import Actor
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.acceleration.adam import AdamState, AdamStep
from mbrl_wrappers.acceleration.functional import Functional, polyak, tensors_of
from mbrl_wrappers.agents.compiled.agent import CompiledAgent, common_objection, logged_values
from mbrl_wrappers.agents.networks.steve_td3 import MeanCritic


class TD3State(NamedTuple):
    """The tensors of TD3.

    Attributes:
        actor, critic: parameters and their optimizer's state.
        target_actor, target_critic: parameters of the targets.
    """

    actor: AdamState
    critic: AdamState
    target_actor: list[Tensor]
    target_critic: list[Tensor]


class TD3Settings(NamedTuple):
    """Hyperparameters as tensors without dimensions."""

    gamma: Tensor
    tau: Tensor
    noise_clip: Tensor


class CompiledTD3(CompiledAgent, TD3):
    """SB3's TD3 (Fujimoto et al. 2018) with one compiled function per gradient update.

    See :class:`~mbrl_wrappers.agents.compiled.agent.CompiledAgent` for ``compile``, SB3's ``TD3`` for the rest.
    """

    def _trained(self) -> dict[str, torch.optim.Optimizer]:
        return {"actor": self.actor.optimizer, "critic": self.critic.optimizer}

    def _objection_of_kind(self) -> str | None:
        actor, critic = (Actor,), (ContinuousCritic, MeanCritic)
        networks = {"actor": actor, "actor_target": actor, "critic": critic, "critic_target": critic}
        return common_objection(self.policy, networks, self._trained().values())

    def _state(self) -> TD3State:
        actor, critic = (AdamStep.state(optimizer) for optimizer in self._trained().values())
        return TD3State(actor, critic, tensors_of(self.actor_target), tensors_of(self.critic_target))

    def _settings(self) -> TD3Settings:
        return TD3Settings(*map(self._number, (self.gamma, self.tau, self.target_noise_clip)))

    def _steps_of(self, name: str, count: int) -> int:
        if name == "critic":
            return count
        return (self._n_updates + count) // self.policy_delay - self._n_updates // self.policy_delay

    def _is_due(self, index: int) -> bool:
        return self._steps_of("actor", index + 1) > self._steps_of("actor", index)

    def _draw(self, batch: ReplayBufferSamples) -> Tensor:
        return torch.empty_like(batch.actions).normal_(0, self.target_policy_noise)

    def _constants(self) -> list[Any]:
        return [self.target_policy_noise]

    def _make_update(self) -> Callable[..., Tensor]:
        steps = self._adam_steps()
        actor, critic = Functional(self.actor), Functional(self.critic)
        first_critic = Functional(self.critic, "q1_forward")
        target_actor, target_critic = Functional(self.actor_target), Functional(self.critic_target)

        def update(
            state: TD3State,
            schedule: dict[str, Tensor],
            settings: TD3Settings,
            batch: ReplayBufferSamples,
            noise: Tensor,
            moves_actor: bool,
        ) -> Tensor:
            # Critic, with smoothed target actions (algorithm 1, lines 8 to 10).
            discount = settings.gamma if batch.discounts is None else batch.discounts
            smoothing = noise.clamp(-settings.noise_clip, settings.noise_clip)
            next_action = (target_actor.at(state.target_actor, batch.next_observations) + smoothing).clamp(-1, 1)
            outputs = target_critic.at(state.target_critic, batch.next_observations, next_action)
            next_value = torch.cat(outputs, dim=1).min(dim=1, keepdim=True).values
            target = batch.rewards + (1 - batch.dones) * discount * next_value

            def critic_loss(params: list[Tensor]) -> Tensor:
                outputs = critic.at(params, batch.observations, batch.actions)
                return torch.stack([F.mse_loss(value, target) for value in outputs]).sum()

            grads, critic_loss_value = torch.func.grad_and_value(critic_loss)(state.critic.params)
            steps["critic"](state.critic, schedule["critic"], grads)
            if not moves_actor:
                return logged_values([critic_loss_value, torch.full_like(critic_loss_value, torch.nan)])

            # Actor and targets (lines 12 to 15).
            def actor_loss(params: list[Tensor]) -> Tensor:
                action = actor.at(params, batch.observations)
                return -first_critic.at(state.critic.params, batch.observations, action).mean()

            grads, actor_loss_value = torch.func.grad_and_value(actor_loss)(state.actor.params)
            steps["actor"](state.actor, schedule["actor"], grads)
            polyak(state.critic.params, state.target_critic, settings.tau)
            polyak(state.actor.params, state.target_actor, settings.tau)
            return logged_values([critic_loss_value, actor_loss_value])

        return update

    def _record(self, logged: Tensor) -> None:
        with_actor = [index for index in range(len(logged)) if self._is_due(index)]
        self._n_updates += len(logged)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if with_actor:
            self.logger.record("train/actor_loss", logged[with_actor, 1].mean().item())
        self.logger.record("train/critic_loss", logged[:, 0].mean().item())
