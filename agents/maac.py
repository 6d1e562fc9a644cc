"""Model-augmented actor-critic (Clavera et al. 2020): the actor climbs the gradient of imagined returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.utils import polyak_update
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.agents.dyna import Dyna
from mbrl_wrappers.agents.expansion import (
    GradientWatch,
    Rollout,
    Step,
    expanded_values,
    masked_mean,
    record_means,
    roll_out,
    step_in_turn,
)
from mbrl_wrappers.agents.with_model import WithModel
from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.imagination.strategy import Samples
from mbrl_wrappers.types import Outcome


class MAAC(WithModel, SAC):
    """SAC whose actor looks ``H`` steps ahead in a model, and learns by the gradient of what it finds there.

    From the states of each batch the policy is followed through the model by reparameterisation (Clavera et al. 2020,
    equation 3; with entropy at every step, as in SAC-SVG, Amos et al. 2021, section 4)::

        J = E[ sum_{t<H} gamma^t (r_t + h_t) + gamma^H (min Q(s_H, a_H) + h_H) ]        h_t = -alpha log pi(a_t | s_t)

    Everything else is SB3's SAC, bit for bit with ``horizon=0``. States are real and imagined, as the strategy of
    :class:`~mbrl_wrappers.imagination.ModelBased` draws them; ``learn`` brings ``ModelBased(Dyna())``, the paper's, if
    its callbacks hold no other. So this one class is several algorithms:

    - MAAC: the default;
    - SAC-SVG(H) of Amos et al.: ``callback=ModelBased(RealData())``, states from the replay buffer alone;
    - DHMBPO (Kubo et al. 2025): ``expand_critic=True`` and ``callback=ModelBased(Dyna(real_ratio=0,
      rollout_length=20))``, whose long rollouts only bring states up to date, ``horizon=5`` and one update per step.

    Each row follows one member of the ensemble, with its noise. Rows that a step of the model leads to something that
    is not finite are left out of the update, and counted.

    Logged under ``train/``, beside what SAC logs: ``grad_norm_h{t}``, the mean over rows of the norm of the gradient
    of a row's ``J`` with respect to its action (in [-1, 1]) at step ``t``. The actor's gradient is the sum over ``t``
    of these times the actor's own Jacobian, so that exploding and vanishing gradients are seen; ``actor_grad_norm``,
    the norm of that sum before it is clipped; ``rows_diverged``, per update.

    Deviations: of Clavera et al., entropy counts at every step, as the soft values behind the last one have it, and the
    critic has no STEVE-like target (for that, take :class:`~mbrl_wrappers.agents.STEVE` as the strategy); of Amos et
    al., the model is the probabilistic ensemble; of Kubo et al., two critics and their minimum, SAC's learning rates,
    and the data of ``Dyna``.

    Args:
        *args: SAC's.
        horizon: imagined steps ``H``, at least 0.
        expand_critic: whether the critic too learns from the actor's rollouts, in place of the transitions of the
            batch: its values of their first ``H`` states and actions are regressed on the rewards and the target
            critic's value behind them (MVE's TD-k trick, as in Kubo et al.). Needs a horizon.
        terminal_value: whether the critic's value stands behind the last step; without it ``J`` is the return of
            ``H`` steps.
        max_grad_norm: to which the norm of the actor's gradient is clipped; default: it is not.
        backprop_steps: after so many steps back in time the gradient through the states is cut off; default: it goes
            through the whole rollout.
        **kwargs: SAC's.

    Raises:
        ValueError: for an argument out of its range; when training starts, if the callbacks hold several models.

    Example:
        >>> MAAC("MlpPolicy", "Pendulum-v1", horizon=3).learn(2_000)  # doctest: +SKIP
    """

    default_strategy = Dyna
    model_free = "SAC"

    def __init__(
        self,
        *args: Any,
        horizon: int = 3,
        expand_critic: bool = False,
        terminal_value: bool = True,
        max_grad_norm: float | None = None,
        backprop_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_whole_number("horizon", horizon, 0)
        if horizon == 0 and (expand_critic or not terminal_value):
            raise ValueError(
                "horizon must be at least 1 with expand_critic or without terminal_value, "
                f"got {horizon}, expand_critic={expand_critic} and terminal_value={terminal_value}"
            )
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, 0, math.inf, low_is_valid=False)
        if backprop_steps is not None:
            check_whole_number("backprop_steps", backprop_steps)
        self.horizon = horizon
        self.expand_critic = expand_critic
        self.terminal_value = terminal_value
        self.max_grad_norm = max_grad_norm
        self.backprop_steps = backprop_steps
        try:
            super().__init__(*args, **kwargs)
        except AssertionError as error:  # how SB3 refuses spaces
            raise ValueError(f"action_space must be a Box, got {self.action_space}") from error

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update the networks; SB3 calls this after each rollout."""
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        step = self._make_step()
        log: list[dict[str, Tensor]] = []
        for gradient_step in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
            if self.use_sde:
                self.actor.reset_noise()
            watch = GradientWatch()
            rollout = self._look_ahead(batch.observations, step, watch)
            alpha, entropy_log = self._update_alpha(rollout.log_prob[0])

            critic_loss = self._expanded_loss(rollout, alpha) if self.expand_critic else self._td_loss(batch, alpha)
            self.critic.optimizer.zero_grad()
            critic_loss.backward()
            self.critic.optimizer.step()

            last_obs = self._policy_obs(rollout.obs[-1]) if self.horizon else batch.observations
            actor_loss = -self._objective(rollout, last_obs, alpha)
            self.actor.optimizer.zero_grad()
            actor_loss.backward(inputs=list(self.actor.parameters()))
            limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
            actor_grad_norm = torch.nn.utils.clip_grad_norm_(self.actor.parameters(), limit)
            self.actor.optimizer.step()

            if gradient_step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
            losses = {"critic_loss": critic_loss, "actor_loss": actor_loss, "actor_grad_norm": actor_grad_norm}
            log.append({**entropy_log, **losses, **watch.report(), "rows_diverged": (~rollout.is_finite).sum()})
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        record_means(self.logger, log)

    # -- the actor looks ahead ---------------------------------------------------------------------

    def _make_step(self) -> Step:
        """Return a step of the model in the agent's units: actions in [-1, 1], rewards as its critic has them."""
        view, normalizer = self.model_based.view, self._vec_normalize_env
        step_in_env = step_in_turn(self.model_based.dynamics)

        def step(obs: Tensor, action: Tensor) -> Outcome:
            outcome = step_in_env(obs, view.unscale(action))
            return outcome._replace(reward=view.normalize_reward(outcome.reward, normalizer))

        return step

    def _policy_obs(self, obs: Tensor) -> Any:
        return self.model_based.view.policy_obs(obs, self._vec_normalize_env)

    def _look_ahead(self, observations: Any, step: Step, watch: GradientWatch) -> Rollout:
        def act(policy_obs: Any) -> tuple[Tensor, Tensor]:
            action, log_prob = self.actor.action_log_prob(policy_obs)
            return watch(action), log_prob

        obs = self.model_based.view.flat_obs(observations, self._vec_normalize_env)
        first = act(observations)
        return roll_out(step, lambda at: act(self._policy_obs(at)), obs, first, self.horizon, self.backprop_steps)

    def _objective(self, rollout: Rollout, last_obs: Any, alpha: Tensor) -> Tensor:
        """Return ``J`` of the class's docstring, averaged over rows."""
        last = torch.zeros_like(rollout.log_prob[-1])
        if self.terminal_value:
            last = _least(self.critic(last_obs, rollout.action[-1])) - alpha * rollout.log_prob[-1]
        values, _ = expanded_values(rollout, last, alpha, self.gamma)
        return masked_mean(values[0], rollout.is_finite)

    # -- the critic --------------------------------------------------------------------------------

    def _td_loss(self, batch: Samples, alpha: Tensor) -> Tensor:
        """Return SAC's loss (Haarnoja et al. 2018b, equations 5 and 6)."""
        with torch.no_grad():
            discounts = self.gamma if batch.discounts is None else batch.discounts
            next_action, next_log_prob = self.actor.action_log_prob(batch.next_observations)
            next_value = _least(self.critic_target(batch.next_observations, next_action)) - alpha * next_log_prob
            target = batch.rewards + (1 - batch.dones) * discounts * next_value.reshape(-1, 1)
        losses = [F.mse_loss(value, target) for value in self.critic(batch.observations, batch.actions)]
        return 0.5 * torch.stack(losses).sum()

    def _expanded_loss(self, rollout: Rollout, alpha: Tensor) -> Tensor:
        """Return the loss of the first ``H`` states and actions of the rollouts against what lies behind them."""
        with torch.no_grad():
            last = _least(self.critic_target(self._policy_obs(rollout.obs[-1]), rollout.action[-1]))
            last = last - alpha * rollout.log_prob[-1]
            target = torch.cat(expanded_values(rollout, last, alpha, self.gamma)[1])
            obs, action = (torch.cat(parts[:-1]) for parts in (rollout.obs, rollout.action))
            counts = torch.cat([is_reached & rollout.is_finite for is_reached in rollout.is_reached[:-1]])
        values = self.critic(self._policy_obs(obs), action)
        return 0.5 * torch.stack([masked_mean((value[:, 0] - target).square(), counts) for value in values]).sum()

    # -- the entropy -------------------------------------------------------------------------------

    def _update_alpha(self, log_prob: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Move the entropy coefficient, if it is learned; returns it as it was, and what is logged."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return self.ent_coef_tensor, {"ent_coef": self.ent_coef_tensor}
        assert isinstance(self.target_entropy, float)
        alpha = torch.exp(self.log_ent_coef.detach())
        loss = -(self.log_ent_coef * (log_prob.reshape(-1, 1) + self.target_entropy).detach()).mean()
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        return alpha, {"ent_coef": alpha, "ent_coef_loss": loss}


def _least(values: Sequence[Tensor]) -> Tensor:
    """Return the least of the critics' values ``[B, 1]``, as ``[B]``."""
    return torch.cat(list(values), dim=1).min(dim=1).values
