"""Dreamer (Hafner et al. 2020 and 2023): actor and critic learn in the imagination of a latent world model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import polyak_update
from torch import Tensor

from mbrl_wrappers.acceleration.steppers import Stepper
from mbrl_wrappers.agents.actor_gradients import Logged, ascend, logged, record_means
from mbrl_wrappers.agents.dreamer_presets import DREAMER_PRESETS
from mbrl_wrappers.agents.networks.dreamer import DreamerPolicy
from mbrl_wrappers.agents.remembering import RememberingAgent
from mbrl_wrappers.arguments import check_device, check_number, check_whole_number
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.rssm import RSSM
from mbrl_wrappers.models.rssm.presets import Version
from mbrl_wrappers.returns import lambda_returns

ActorGradient = Literal["dynamics", "reinforce"]

RETURN_PERCENTILES = (0.05, 0.95)
RETURN_DECAY = 0.99
LEAST_RETURN_RANGE = 1.0
SLOW_CRITIC_RATE = 0.02


class Evaluated(NamedTuple):
    """What imagined trajectories are worth, ``[H, N, ...]``.

    Attributes:
        returns: ``G``, of each step.
        values: ``v``, of the state before it.
        outputs: of the critic in that state.
        weight: the chance to get there, discounted.
    """

    returns: Tensor
    values: Tensor
    outputs: Tensor
    weight: Tensor


class Dreamer(RememberingAgent):
    """An agent whose actor and critic learn from trajectories that a latent model imagines.

    Each update trains the model on a batch of sequences, then imagines trajectories with the actor from the posterior
    states of these sequences, and computes their lambda returns (eq. 6 of Hafner et al. 2020)::

        G_t = r_{t+1} + gamma c_{t+1} ((1 - lambda) v(s_{t+1}) + lambda G_{t+1}),    G_H = v(s_H)

    where ``c`` is the predicted chance that the episode goes on. The critic learns to predict ``G``, the actor to
    increase it. Every step is weighted by the chance to get there, ``prod gamma c``.

    - ``version=1`` (Hafner et al. 2020): the actor climbs the gradient of ``G`` through the model.
    - ``version=3`` (Hafner et al. 2023): returns are divided by the range between their percentiles 5 and 95, if it
      exceeds 1; the critic is two-hot, and learns to agree with a slow copy of itself; the actor has an entropy bonus.
      For discrete actions, its gradient is that of ``log pi(a) (G - v)`` (REINFORCE).

    Deviations: networks are of a size for a CPU; updates are spread evenly over the steps, without a block of them at
    the start; the gradients of model, actor and critic are clipped to the same norm; Adam has torch's epsilon; the
    actor's last layer begins as all others do (version 3: at a hundredth of that); version 1's deterministic action is
    the mean's (the likeliest of samples). See :class:`~mbrl_wrappers.models.RSSM` for the model's.

    Args:
        policy: ``"MlpPolicy"`` (``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for Dict observations: the encoder
            is the model's, so these are the same); ``policy_kwargs`` may hold ``units``, ``layers`` and ``bins``, see
            :class:`~mbrl_wrappers.agents.networks.dreamer.DreamerPolicy`.
        env: to learn in, with Box or Discrete actions.
        version: 1 or 3, the preset for all arguments below that are None.
        dynamics: the model; default: an RSSM of that version, for the env.
        learning_rate: of the model; a number, or a schedule as in SB3.
        behavior_learning_rate: of actor and critic.
        buffer_size: number of steps that are kept.
        learning_starts: env steps with random actions; training begins when an env has made ``sequence_length`` too.
        batch_size: ``B``, sequences in a batch.
        sequence_length: ``T``, entries of each sequence.
        replay_ratio: entries that the model is trained on for each env step; so there are ``replay_ratio / (B T)``
            updates for each step.
        imagination_starts: the number of states of a batch, drawn at random, from which trajectories start; default:
            all ``B T``. Fewer are cheaper.
        horizon: ``H``, imagined steps.
        gamma: discount.
        gae_lambda: ``lambda``.
        actor_gradient: ``"dynamics"``, through the model, or ``"reinforce"``; default: ``"reinforce"`` for discrete
            actions in version 3, else ``"dynamics"``.
        ent_coef: weight of the actor's entropy; 0 for continuous actions in version 1.
        action_penalty: ``c``, of continuous actions ``tanh(u)``: the actor pays ``c mean_j u_j^2`` of its mean. Without
            it (the paper's 0), large learning rates can drive all means to a bound, where tanh passes no gradient back.
        max_grad_norm: to which the norms of the model's, the actor's and the critic's gradient are clipped.
        action_noise: added to continuous actions while learning, in units of [-1, 1]; default: none in version 3,
            Gaussian with a standard deviation of 0.3 in version 1.
        policy_kwargs, stats_window_size, tensorboard_log, verbose, monitor_wrapper, seed, device: as in SB3.

    Raises:
        ValueError: for an argument out of its range, another action space, or a model of other spaces than the env's.

    Example:
        >>> agent = Dreamer("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, replay_ratio=200)  # doctest: +SKIP
        >>> evaluate_policy(agent.learn(5_000), env)                                          # doctest: +SKIP
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": DreamerPolicy,
        "CnnPolicy": DreamerPolicy,
        "MultiInputPolicy": DreamerPolicy,
    }

    policy: DreamerPolicy
    _owed_updates = 0.0

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        version: Version = 3,
        dynamics: RSSM | None = None,
        learning_rate: float | Schedule | None = None,
        behavior_learning_rate: float | None = None,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1024,
        batch_size: int | None = None,
        sequence_length: int | None = None,
        replay_ratio: float | None = None,
        imagination_starts: int | None = None,
        horizon: int = 15,
        gamma: float | None = None,
        gae_lambda: float = 0.95,
        actor_gradient: ActorGradient | None = None,
        ent_coef: float | None = None,
        action_penalty: float = 0.0,
        max_grad_norm: float = 100.0,
        action_noise: ActionNoise | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        monitor_wrapper: bool = True,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if version not in DREAMER_PRESETS:
            raise ValueError(f"version must be one of {tuple(DREAMER_PRESETS)}, got {version!r}")
        check_device("device", device)
        given: dict[str, Any] = {
            "learning_rate": learning_rate, "behavior_learning_rate": behavior_learning_rate, "batch_size": batch_size,
            "sequence_length": sequence_length, "replay_ratio": replay_ratio, "gamma": gamma, "ent_coef": ent_coef,
        }  # fmt: skip
        default = DREAMER_PRESETS[version].arguments
        chosen = {name: default[name] if value is None else value for name, value in given.items()}
        try:
            super().__init__(
                policy,
                env,
                learning_rate=chosen["learning_rate"],
                buffer_size=buffer_size,
                learning_starts=learning_starts,
                batch_size=chosen["batch_size"],
                gamma=chosen["gamma"],
                train_freq=1,
                gradient_steps=-1,  # `train` is told the number of env steps
                action_noise=action_noise,
                policy_kwargs=policy_kwargs,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                verbose=verbose,
                device=device,
                support_multi_env=True,
                monitor_wrapper=monitor_wrapper,
                seed=seed,
                sde_support=False,
                supported_action_spaces=(spaces.Box, spaces.Discrete),
            )
        except AssertionError as error:  # how SB3 refuses spaces
            raise ValueError(f"action_space must be Discrete or a bounded Box, got {self.action_space}") from error
        self.version = version
        self.dynamics = dynamics
        self.behavior_learning_rate = chosen["behavior_learning_rate"]
        self.sequence_length = chosen["sequence_length"]
        self.replay_ratio = chosen["replay_ratio"]
        self.imagination_starts = imagination_starts
        self.horizon = horizon
        self.gae_lambda = gae_lambda
        self.actor_gradient = actor_gradient
        self.ent_coef = chosen["ent_coef"]
        self.action_penalty = action_penalty
        self.max_grad_norm = max_grad_norm
        self._check_arguments()
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        for name in ("batch_size", "horizon"):
            check_whole_number(name, getattr(self, name))
        check_whole_number("sequence_length", self.sequence_length, 2)
        if self.imagination_starts is not None:
            check_whole_number("imagination_starts", self.imagination_starts)
        for name in ("gamma", "gae_lambda"):
            check_number(name, getattr(self, name), 0, 1)
        for name in ("behavior_learning_rate", "replay_ratio", "max_grad_norm"):
            check_number(name, getattr(self, name), 0, 1e9, low_is_valid=False)
        for name in ("ent_coef", "action_penalty"):
            check_number(name, getattr(self, name), 0, 1e9)
        if self.actor_gradient not in (None, "dynamics", "reinforce"):
            raise ValueError(f"actor_gradient must be 'dynamics' or 'reinforce', got {self.actor_gradient!r}")

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.buffer_size < self.sequence_length * self.n_envs:
            raise ValueError(
                f"buffer_size must be at least {self.sequence_length} steps of each env, the sequence_length, got "
                f"{self.buffer_size} for {self.n_envs} envs"
            )
        is_discrete = isinstance(self.action_space, spaces.Discrete)
        if self.version == 1 and not is_discrete and (self.ent_coef > 0 or self.actor_gradient == "reinforce"):
            raise ValueError(
                "ent_coef must be 0 and actor_gradient 'dynamics' for continuous actions in version 1, got "
                f"{self.ent_coef} and {self.actor_gradient!r}"
            )
        self._preset = DREAMER_PRESETS[self.version]
        self._reinforces = (self.actor_gradient or self._default_gradient(is_discrete)) == "reinforce"
        if self.action_noise is None and self._preset.exploration_std and not is_discrete:
            std = np.full(self.action_space.shape or (), self._preset.exploration_std)
            self.action_noise = NormalActionNoise(np.zeros_like(std), std)
        if self.dynamics is None:
            spaces_of_env = self.observation_space, self.action_space
            self.dynamics = RSSM(*spaces_of_env, version=self.version, seed=self.seed or 0)
        if not isinstance(self.dynamics, RSSM):
            raise ValueError(f"dynamics must be an RSSM for Dreamer, got a {type(self.dynamics).__name__}")
        if self.dynamics.settings["version"] != self.version:
            of_model = self.dynamics.settings["version"]
            raise ValueError(f"dynamics must have the agent's version, {self.version}, got one of version {of_model}")
        self._adopt(self.dynamics)
        self.policy.build(self.dynamics.num_features, self.dynamics.action_codec.dim, self.version)
        self.policy.to(self.device)
        adam, rate = torch.optim.Adam, self.behavior_learning_rate
        self.model_optimizer = adam(self.dynamics.parameters(), self.lr_schedule(1), fused=True)
        self.actor_optimizer = adam(self.policy.actor.parameters(), rate, fused=True)
        self.critic_optimizer = adam(self.policy.critic.parameters(), rate, fused=True)

    def _default_gradient(self, is_discrete: bool) -> ActorGradient:
        return "reinforce" if is_discrete and self.version == 3 else "dynamics"

    # -- learning -------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Make the updates that are due; SB3 calls this after each step of all envs.

        Args:
            gradient_steps: the number of env steps since the last call.
            batch_size: sequences in a batch.
        """
        buffer = self.replay_buffer
        assert buffer is not None
        if buffer.size() < self.sequence_length:
            return
        self._owed_updates += gradient_steps * self.replay_ratio / (batch_size * self.sequence_length)
        num_updates = int(self._owed_updates)
        if not num_updates:
            return
        self._owed_updates -= num_updates
        self._update_learning_rate(self.model_optimizer)
        experience = self._experience()
        log = [self._update(experience, batch_size) for _ in range(num_updates)]
        self._n_updates += num_updates
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        record_means(self.logger, log)

    def _update(self, experience: Experience, batch_size: int) -> Logged:
        """Train model, actor and critic once (algorithm 1 of Hafner et al. 2020)."""
        drawn = experience.sequences(batch_size, self.sequence_length)
        loss = self.dynamics.loss(drawn)
        norm = ascend(-loss.total, self.dynamics, self.max_grad_norm, (), Stepper(self.model_optimizer))
        features, is_over = loss.features.flatten(0, 1), drawn.terminated.flatten()  # [B T, F], [B T]
        self.dynamics.keep_starts(features[~is_over])  # for imagined envs
        if self.imagination_starts is not None:
            rows = torch.randperm(len(features), device=self.device)[: self.imagination_starts]
            features, is_over = features[rows], is_over[rows]
        return logged({**loss.terms, "model_grad_norm": norm, **self._update_behavior(features, is_over)})

    def _update_behavior(self, start: Tensor, is_over: Tensor) -> dict[str, Tensor]:
        """Train actor and critic on trajectories from features ``[N, F]``; returns the numbers to log.

        Args:
            start: features of posterior states.
            is_over: ``[N]`` bool, states in which an episode has terminated: nothing after them counts.
        """
        with torch.set_grad_enabled(not self._reinforces):
            features, actions = self._imagine(start)
        found = self._evaluate(features, is_over)
        seen = features[:-1].detach()
        outputs = self.policy.actor(seen)
        of = self.policy.actions.distribution(outputs)
        gain, log = self._gain(found, of, actions), {}
        if self.ent_coef:
            log["entropy"] = self.policy.actions.entropy(of)
            gain = gain + self.ent_coef * log["entropy"]
        if self.action_penalty and isinstance(self.action_space, spaces.Box):
            log["action_penalty"] = self.action_penalty * self.policy.actions.before_tanh(outputs).square().mean(-1)
            gain = gain - log["action_penalty"]
        objective = (found.weight * gain).mean()
        loss = (found.weight * self._critic_loss(found, seen)).mean()
        steppers = Stepper(self.actor_optimizer), Stepper(self.critic_optimizer)
        log["actor_grad_norm"] = ascend(
            objective, self.policy.actor, self.max_grad_norm, (), steppers[0], retain_graph=True
        )
        log["critic_grad_norm"] = ascend(-loss, self.policy.critic, self.max_grad_norm, (), steppers[1])
        if self._preset.has_slow_critic:
            polyak_update(self.policy.critic.parameters(), self.policy.slow_critic.parameters(), SLOW_CRITIC_RATE)
        return {**log, "imagined_return": found.returns, "actor_objective": objective, "critic_loss": loss}

    def _evaluate(self, features: Tensor, is_over: Tensor) -> Evaluated:
        """Return the lambda returns of trajectories, given their features ``[H + 1, N, F]``; see _update_behavior."""
        # The state s_{t+1} that a step leads to says its reward and whether the episode goes on.
        with torch.set_grad_enabled(features.requires_grad):
            reward, goes_on = self.dynamics.outcomes(features[1:])
        outputs = self.policy.critic(features)
        values, discount = self.policy.critic.mean(outputs), self.gamma * goes_on
        never = torch.zeros_like(goes_on, dtype=torch.bool)  # the chances to go on say it all
        returns = lambda_returns(reward, never, values, discount, self.gae_lambda)
        weight = torch.cat([(~is_over).float()[None], discount[:-1]]).cumprod(0)
        return Evaluated(returns, values[:-1], outputs[:-1], weight.detach())

    def _imagine(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the actor through the model; returns features ``[H + 1, N, F]`` and actions ``[H, N, A]``."""

        def act(features: Tensor) -> tuple[Tensor, Tensor]:
            action = self.policy.act(features.detach())
            return self._env_action(action), action

        return self.dynamics.imagine(self.dynamics.state_of(start), act, self.horizon)

    def _gain(self, found: Evaluated, of: Tensor, actions: Tensor) -> Tensor:
        """Return the actor's objective ``[H, N]``, without its entropy bonus and action penalty.

        Args:
            found: the returns of the actions.
            of: the distributions that the actions were drawn from, ``[H, N, ...]``.
            actions: ``[H, N, A]``.
        """
        scale = self._return_scale(found.returns) if self._preset.normalizes_returns else 1.0
        if not self._reinforces:
            return found.returns / scale
        advantage = (found.returns - found.values) / scale
        return self.policy.actions.log_prob(of, actions) * advantage.detach()

    @torch.no_grad()
    def _return_scale(self, returns: Tensor) -> Tensor:
        """Update the running percentiles of returns; returns their range, at least 1."""
        percentiles = torch.quantile(returns.flatten(), returns.new_tensor(RETURN_PERCENTILES))
        low, high = self.policy.return_range.lerp_(percentiles, 1 - RETURN_DECAY)
        return (high - low).clamp(min=LEAST_RETURN_RANGE)

    def _critic_loss(self, found: Evaluated, features: Tensor) -> Tensor:
        """Return the critic's loss ``[H, N]`` in states of features ``[H, N, F]``."""
        critic = self.policy.critic
        loss = critic.loss(found.outputs, found.returns.detach())
        if not self._preset.has_slow_critic:
            return loss
        with torch.no_grad():
            slow = critic.mean(self.policy.slow_critic(features))
        return loss + critic.loss(found.outputs, slow)

    # -- acting ---------------------------------------------------------------------------------

    def _act(self, features: Tensor, generator: torch.Generator | None = None, deterministic: bool = False) -> Tensor:
        return self.policy.act(features, generator, deterministic)

    # -- saving ---------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "model_optimizer", "actor_optimizer", "critic_optimizer"], []

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_preset"]
