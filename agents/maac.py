"""Model-augmented actor-critic (Clavera et al. 2020): the actor climbs the gradient of imagined returns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import polyak_update
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from mbrl_wrappers.acceleration.steppers import Stepper
from mbrl_wrappers.agents.actor_gradients import (
    GradientWatch,
    Logged,
    ascend,
    least,
    logged,
    masked_mean,
    watched,
)
from mbrl_wrappers.agents.dyna import Dyna
from mbrl_wrappers.agents.model_based_agent import model_callbacks
from mbrl_wrappers.agents.networks.scaled_critic import ScaledCritic, scaled_critics
from mbrl_wrappers.agents.policy_rollouts import Rollout, Step, expanded_values, roll_out, step_in_turn, step_of_agent
from mbrl_wrappers.agents.real_batches import RealData
from mbrl_wrappers.agents.value_gradient_agent import ValueGradientAgent
from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.imagination.buffer import draw_batches
from mbrl_wrappers.imagination.scales import Scales, clipped, without_clipping
from mbrl_wrappers.imagination.strategy import Samples, Strategy
from mbrl_wrappers.models.base import DynamicsModel


class MAAC(ValueGradientAgent, SAC):
    """SAC whose actor learns by the gradient of returns, ``H`` steps ahead in a model.

    From the states of each batch the policy is followed through the model by reparameterisation (Clavera et al. 2020;
    with entropy at every step, as in SAC-SVG, Amos et al. 2021)::

        J = E[ sum_{t<H} gamma^t (r_t + h_t) + gamma^H (min Q(s_H, a_H) + h_H) ]        h_t = -alpha log pi(a_t | s_t)

    Everything else is SB3's SAC, bit for bit with ``horizon=0``. States are real and imagined, as the strategy of
    :class:`~mbrl_wrappers.imagination.ModelBased` draws them; ``learn`` brings ``ModelBased(Dyna())``, the paper's, if
    its callbacks hold no other. So this one class is several algorithms:

    - MAAC: the default;
    - SAC-SVG(H) of Amos et al.: :class:`SACSVG`, states from the replay buffer alone;
    - DHMBPO (Kubo et al. 2025): ``horizon=5``, ``expand_critic=True`` and ``callback=ModelBased(Dyna(real_ratio=0,
      rollout_length=20, rollouts_per_step=13))``, whose long rollouts only bring states up to date, at one update per
      step; the authors' code has ``actor_value="mean"``, ``target_critics=2`` of five, ``scaled_critic=True`` with raw
      rewards, and scaled inputs, for which ``VecNormalize(norm_reward=False)`` around the env stands in.

    Each row follows one member of the ensemble, with its noise. Rows that a step of the model leads to something that
    is not finite are left out where the model is used, and counted.

    Logged under ``train/`` in addition to SAC's: ``grad_norm_h{t}``, the mean over rows of the norm of the gradient
    of a row's ``J`` with respect to its action (in [-1, 1]) at step ``t``, but for the way through the action's own
    density: these, times the actor's own Jacobian, add up to the gradient of the actor, so that exploding and vanishing
    gradients are seen. ``actor_grad_norm``, the norm of that gradient before it is clipped; where it is not finite no
    step is taken. ``rows_diverged`` and ``rows_without_gradient``, per update, those that were left out.

    Deviations: of Clavera et al., entropy counts at every step, as the soft values behind the last one have it, and the
    critic has no STEVE-like target (for that, take :class:`~mbrl_wrappers.agents.STEVE` as the strategy); of Amos et
    al., the model is the probabilistic ensemble; of Kubo et al., the data of ``Dyna``. No gradient goes through the
    discrete and whole-number parts of an observation.

    Args:
        *args: SAC's.
        horizon: imagined steps ``H``, at least 0.
        expand_critic: whether the critic too learns from the actor's rollouts, in place of the transitions of the
            batch: its values of their first states and actions are regressed on the rewards and the target critic's
            value behind them. Needs a horizon; of the strategy's batches only the states are taken then.
        critic_horizon: with ``expand_critic``, at how many states of a rollout the critic learns, from 1 to ``H``: 1
            in Kubo et al.'s code; default: at all ``H`` (MVE's TD-k trick).
        soft_ends: whether a learned termination counts with its probability ``p_t``, which passes a gradient, as in
            Amos et al.: what comes after step ``t`` is weighted by ``1 - p_t``, and rollouts go on. Default: it is
            drawn, and ends the rollout.
        terminal_value: whether the critic's value stands behind the last step; without it ``J`` is the return of
            ``H`` steps.
        actor_value: what of the critics' values stands behind the last step for the actor, their ``"min"`` or, as in
            Kubo et al.'s code, their ``"mean"``.
        target_critics: of how many critics the critic's targets take the least value, drawn anew for each update, at
            least 1 and at most as many as ``policy_kwargs["n_critics"]`` says (REDQ, Chen et al. 2021, algorithm 1);
            default: of all.
        scaled_critic: whether the critics' outputs are scaled, and their targets bounded, by the 0.01 and 0.99
            quantiles of imagined rewards (of real ones without ``expand_critic``), entropy included, divided by
            ``1 - gamma``; the bounds follow at the learning rate. With raw rewards, as in Kubo et al.'s code. Not for
            rewards that are constant or rarer than one step in a hundred, nor where the value of a termination, 0, lies
            far from all others: targets are cut off at the bounds.
        max_grad_norm: to which the norm of the actor's gradient is clipped; default: it is not.
        backprop_steps: after so many steps back in time the gradient through the states is cut off; default: it goes
            through the whole rollout.
        compile: True, False or ``"auto"``: whether rollout, losses and their gradients run as compiled functions, with
            the same random numbers and the same results up to rounding. Compiling takes a minute or two when the first
            update comes, and for each other batch size; see ``docs/results/updates.md`` for what it gains. What is
            wrong with a model is told in the compiler's words then. On a GPU nothing is compiled, and each update is
            one CUDA graph, captured anew after each fit of the model; see ``docs/results/gpu.md``. ``"auto"`` does it
            where ``learn`` is asked for enough updates to win that back and the agent allows it; where it fails, it
            warns and goes on without.
        **kwargs: SAC's.

    Raises:
        ValueError: for an argument out of its range, a features extractor that is shared or, with ``compile=True``,
            observations with discrete parts and, on a GPU, gSDE, another optimizer than Adam or another GPU than the
            current one; when training starts, if the callbacks hold several models.

    Example:
        >>> MAAC("MlpPolicy", "Pendulum-v1", horizon=3).learn(2_000)  # doctest: +SKIP
    """

    default_strategy: ClassVar[type[Strategy]] = Dyna
    model_free = "SAC"

    def __init__(
        self,
        *args: Any,
        horizon: int = 3,
        expand_critic: bool = False,
        critic_horizon: int | None = None,
        soft_ends: bool = False,
        terminal_value: bool = True,
        actor_value: Literal["min", "mean"] = "min",
        target_critics: int | None = None,
        scaled_critic: bool = False,
        max_grad_norm: float | None = None,
        backprop_steps: int | None = None,
        compile: bool | Literal["auto"] = False,
        **kwargs: Any,
    ) -> None:
        check_whole_number("horizon", horizon, 0)
        if horizon == 0 and (expand_critic or not terminal_value):
            raise ValueError(
                "horizon must be at least 1 with expand_critic or without terminal_value, "
                f"got {horizon}, expand_critic={expand_critic} and terminal_value={terminal_value}"
            )
        if critic_horizon is not None:
            check_whole_number("critic_horizon", critic_horizon)
            if not expand_critic or critic_horizon > horizon:
                raise ValueError(
                    f"critic_horizon must be at most horizon, which is {horizon}, and needs expand_critic, got "
                    f"{critic_horizon} and expand_critic={expand_critic}"
                )
        if not isinstance(soft_ends, bool):
            raise ValueError(f"soft_ends must be True or False, got {soft_ends!r}")
        if actor_value not in ("min", "mean"):
            raise ValueError(f"actor_value must be 'min' or 'mean', got {actor_value!r}")
        if target_critics is not None:
            check_whole_number("target_critics", target_critics)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, 0, math.inf, low_is_valid=False)
        if backprop_steps is not None:
            check_whole_number("backprop_steps", backprop_steps)
        self.horizon = horizon
        self.expand_critic = expand_critic
        self.critic_horizon = critic_horizon
        self.soft_ends = soft_ends
        self.terminal_value = terminal_value
        self.actor_value = actor_value
        self.target_critics = target_critics
        self.scaled_critic = scaled_critic
        self.max_grad_norm = max_grad_norm
        self.backprop_steps = backprop_steps
        super().__init__(*args, compile=compile, **kwargs)
        if expand_critic and self.n_steps > 1:
            raise ValueError(
                f"n_steps must be 1 with expand_critic, whose critic takes no real steps, got {self.n_steps}"
            )
        if scaled_critic and not self.gamma < 1:
            raise ValueError(f"gamma must be below 1 with scaled_critic, got {self.gamma}")
        if scaled_critic and self.n_steps > 1:
            raise ValueError(f"n_steps must be 1 with scaled_critic, which bounds single rewards, got {self.n_steps}")

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> BaseCallback:
        callback = super()._init_callback(callback, progress_bar)
        (model_based,) = model_callbacks(callback)
        if self.scaled_critic and model_based.strategy.rewards_are_targets:
            raise ValueError(
                "scaled_critic must be False where a strategy writes returns of several steps into the rewards, got "
                f"{type(model_based.strategy).__name__}"
            )
        return callback

    def _setup_model(self) -> None:
        with scaled_critics(self) if self.scaled_critic else nullcontext():
            super()._setup_model()
        if self.horizon and self.policy.share_features_extractor:
            raise ValueError(
                "policy_kwargs must not share a features extractor, whose gradient SB3's critic does not pass back to "
                f"the states that the actor looks ahead to, got {self.policy_kwargs}"
            )
        if self.target_critics is not None and self.target_critics > len(self.critic.q_networks):
            raise ValueError(
                f"target_critics must be at most the number of critics, {len(self.critic.q_networks)}, "
                f"got {self.target_critics}"
            )

    def _drawn(self, gradient_steps: int, batch_size: int) -> Iterator[tuple[Any, ...]]:
        view, normalizer = self.model_based.view, self._vec_normalize_env
        scales = view.scales()
        batches = iter(draw_batches(self.replay_buffer, batch_size, gradient_steps, normalizer))
        for gradient_step in range(gradient_steps):
            with without_clipping(normalizer):  # the model starts from the states as they are
                batch = next(batches)
            if self.use_sde:
                self.actor.reset_noise()
            obs = view.flat_obs(batch.observations, scales)
            batch = batch._replace(
                observations=clipped(batch.observations, scales, self.device),
                next_observations=clipped(batch.next_observations, scales, self.device),
            )
            moves_target = gradient_step % self.target_update_interval == 0
            members = self._target_members() if self._on_gpu else None  # no part of a captured graph
            yield batch, obs, scales, members, moves_target

    def _pays_from(self) -> float:
        return super()._pays_from() if self.horizon else math.inf

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        optimizers = {"actor": self.actor.optimizer, "critic": self.critic.optimizer}
        if self.ent_coef_optimizer is not None:
            optimizers["alpha"] = self.ent_coef_optimizer
        return optimizers

    def _steps_through(self, dynamics: DynamicsModel) -> Step:
        return step_in_turn(dynamics, soft_ends=self.soft_ends)

    def _constants(self) -> list[Any]:
        options = (
            self.horizon,
            self.expand_critic,
            self.critic_horizon,
            self.terminal_value,
            self.actor_value,
            self.target_critics,
            self.scaled_critic,
        )
        numbers = (self.max_grad_norm, self.backprop_steps, self.gamma, self.tau, self.target_entropy)
        rate = self.critic.optimizer.param_groups[0]["lr"] if self.scaled_critic else None  # of the bounds
        fixed_alpha = None if self.ent_coef_optimizer is not None else self.ent_coef_tensor.data_ptr()
        return [*options, *numbers, rate, fixed_alpha]

    def _update(
        self,
        steppers: Mapping[str, Stepper],
        step_in_env: Step,
        batch: Samples,
        obs: Tensor,
        scales: Scales | None,
        members: Tensor | None,
        moves_target: bool,
    ) -> Logged:
        """Update all networks once.

        Args:
            steppers: of the optimizers.
            step_in_env: of the model.
            batch: as the networks take it.
            obs: its observations as the model takes them, ``[B, D]``.
            scales: of VecNormalize.
            members: which critics the targets take the least of, ``[C]``, if that is drawn already.
            moves_target: whether the target critic is due.

        Returns:
            What is logged.
        """
        kind = type(self)
        step = step_of_agent(self.model_based.view, step_in_env, scales)
        watch = GradientWatch()
        rollout = self._look_ahead(batch.observations, obs, step, watch, scales)
        alpha, entropy_log = self._update_alpha(rollout.log_prob[0], steppers.get("alpha"))

        if self.scaled_critic:
            self._update_value_bounds(rollout, batch, alpha)
        members = self._target_members() if members is None else members
        if self.expand_critic:
            critic_loss = self._part(kind._expanded_loss)(rollout, alpha, members, scales)
        else:
            critic_loss = self._part(kind._td_loss)(batch, alpha, members)
        steppers["critic"].descend(critic_loss)

        last_obs = self._policy_obs(rollout.obs[-1], scales) if self.horizon else batch.observations
        objective = self._part(kind._objective)(rollout, last_obs, alpha)
        actor_grad_norm = ascend(objective, self.actor, self.max_grad_norm, watch.probes, steppers["actor"])

        if moves_target:
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        losses = {"critic_loss": critic_loss, "actor_loss": -objective, "actor_grad_norm": actor_grad_norm}
        return logged({**entropy_log, **losses, **watch.report(), "rows_diverged": (~rollout.is_finite).sum()})

    # -- the actor looks ahead ---------------------------------------------------------------------

    def _look_ahead(
        self, observations: Any, obs: Tensor, step: Step, watch: GradientWatch, scales: Scales | None
    ) -> Rollout:
        probes = [watch.probe(obs) for _ in range(self.horizon + 1)]
        return self._part(type(self)._ahead)(observations, obs, step, probes, scales)

    def _policy_obs(self, obs: Tensor, scales: Scales | None) -> Any:
        return self.model_based.view.policy_obs(obs, scales)

    def _ahead(
        self, observations: Any, obs: Tensor, step: Step, probes: list[Tensor], scales: Scales | None
    ) -> Rollout:
        """Look ahead from the policy's observations, which are ``obs [B, D]`` to the model."""
        probe_of_next = iter(probes)

        def act(policy_obs: Any) -> tuple[Tensor, Tensor]:
            action, log_prob = self.actor.action_log_prob(policy_obs)
            return watched(action, next(probe_of_next)), log_prob

        first = act(observations)

        def act_at(obs: Tensor) -> tuple[Tensor, Tensor]:
            return act(self._policy_obs(obs, scales))

        return roll_out(step, act_at, obs, first, self.horizon, self.backprop_steps)

    def _objective(self, rollout: Rollout, last_obs: Any, alpha: Tensor) -> Tensor:
        """Return ``J`` of the class's docstring, averaged over rows."""
        last = torch.zeros_like(rollout.log_prob[-1])
        if self.terminal_value:
            fixed = {name: value.detach() for name, value in self.critic.named_parameters()}
            behind = functional_call(self.critic, fixed, (last_obs, rollout.action[-1]))
            last = least(behind) if self.actor_value == "min" else torch.cat(behind, dim=1).mean(1)
            last = last - alpha * rollout.log_prob[-1]
        values, _ = expanded_values(rollout, last, alpha, self.gamma)
        return masked_mean(values[0], rollout.is_finite)

    # -- the critic --------------------------------------------------------------------------------

    def _target_members(self) -> Tensor | None:
        """Draw the critics whose minimum is the target; None for all critics."""
        if self.target_critics is None:
            return None
        return torch.randperm(len(self.critic.q_networks), device=self.device)[: self.target_critics]

    def _target_value(self, obs: Any, action: Tensor, members: Tensor | None) -> Tensor:
        """Return the least of the target critics' values ``[B]``, within the bounds where critics are scaled."""
        value = least(self.critic_target(obs, action), members)
        return self.critic_target.scale.clamp(value) if isinstance(self.critic_target, ScaledCritic) else value

    @torch.no_grad()
    def _update_value_bounds(self, rollout: Rollout, batch: Samples, alpha: Tensor) -> None:
        if self.expand_critic:
            # r_t - alpha log pi(a_t | s_t) of the steps that were taken
            with_entropy = torch.stack(rollout.reward) - alpha * torch.stack(rollout.log_prob[:-1])
            counts = torch.stack(rollout.is_reached[:-1]) & rollout.is_finite
            rewards = torch.where(counts, with_entropy, torch.nan)
        else:
            rewards = batch.rewards - alpha * rollout.log_prob[0][:, None]
        rate = self.critic.optimizer.param_groups[0]["lr"]
        assert isinstance(self.critic, ScaledCritic)
        self.critic.scale.update(rewards, self.gamma, rate)

    def _td_loss(self, batch: Samples, alpha: Tensor, members: Tensor | None) -> Tensor:
        """Return SAC's loss (Haarnoja et al. 2018b, equations 5 and 6)."""
        with torch.no_grad():
            discounts = self.gamma if batch.discounts is None else batch.discounts
            next_action, next_log_prob = self.actor.action_log_prob(batch.next_observations)
            next_value = self._target_value(batch.next_observations, next_action, members)
            next_value = next_value - alpha * next_log_prob
            target = batch.rewards + (1 - batch.dones) * discounts * next_value.reshape(-1, 1)
        losses = [F.mse_loss(value, target) for value in self.critic(batch.observations, batch.actions)]
        return 0.5 * torch.stack(losses).sum()

    def _expanded_loss(self, rollout: Rollout, alpha: Tensor, members: Tensor | None, scales: Scales | None) -> Tensor:
        """Return the loss of the critics at the first states of the rollouts, against the returns behind them."""
        counted = slice(self.critic_horizon if self.critic_horizon is not None else self.horizon)
        with torch.no_grad():
            last_obs = self._policy_obs(rollout.obs[-1], scales)
            last = self._target_value(last_obs, rollout.action[-1], members)
            last = last - alpha * rollout.log_prob[-1]
            target = torch.cat(expanded_values(rollout, last, alpha, self.gamma)[1][counted])
            obs, action = (torch.cat(parts[counted]) for parts in (rollout.obs, rollout.action))
            counts = torch.cat([is_reached & rollout.is_finite for is_reached in rollout.is_reached[counted]])
        values = self.critic(self._policy_obs(obs, scales), action)
        return 0.5 * torch.stack([masked_mean((value[:, 0] - target).square(), counts) for value in values]).sum()

    # -- the entropy -------------------------------------------------------------------------------

    def _update_alpha(self, log_prob: Tensor, stepper: Stepper | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Update the entropy coefficient, if it is learned; returns its value before, and the numbers to log."""
        if stepper is None or self.log_ent_coef is None:
            return self.ent_coef_tensor, {"ent_coef": self.ent_coef_tensor}
        assert isinstance(self.target_entropy, float)
        alpha = torch.exp(self.log_ent_coef.detach())
        loss = -(self.log_ent_coef * (log_prob.reshape(-1, 1) + self.target_entropy).detach()).mean()
        stepper.descend(loss)
        return alpha, {"ent_coef": alpha, "ent_coef_loss": loss}


class SACSVG(MAAC):
    """SAC-SVG(H) (Amos et al. 2021): :class:`MAAC` on real states alone.

    ``learn`` brings ``ModelBased(RealData())``, if its callbacks hold no other.

    Example:
        >>> SACSVG("MlpPolicy", "Pendulum-v1", horizon=2).learn(2_000)  # doctest: +SKIP
    """

    default_strategy = RealData
