"""Stochastic value gradients (Heess et al. 2015): the value's gradient along real trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BaseModel, BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, create_mlp
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

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
from mbrl_wrappers.agents.model_based_agent import model_callbacks
from mbrl_wrappers.agents.policy_rollouts import Infer, check_differentiable, infer_in_turn
from mbrl_wrappers.agents.real_batches import RealData
from mbrl_wrappers.agents.trajectories import DictTrajectoryBuffer, FlatStretches, Stretches, TrajectoryBuffer
from mbrl_wrappers.agents.value_gradient_agent import ValueGradientAgent
from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.imagination.buffer import plain_buffer
from mbrl_wrappers.imagination.scales import Scales
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.returns import backup

_LOG_TWO = math.log(2.0)
_SQUASHED_LIMIT = 1 - 1e-6


class ValueNetwork(BaseModel):
    """A state's value."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.value_net = nn.Sequential(*create_mlp(features_dim, 1, net_arch, activation_fn))

    def forward(self, obs: Any) -> Tensor:
        """Return values ``[B, 1]``."""
        assert self.features_extractor is not None
        return self.value_net(self.extract_features(obs, self.features_extractor))


class SVGPolicy(SACPolicy):
    """SAC's actor, a squashed Gaussian, and one critic: of states and actions, or of states alone.

    Args:
        *args: arguments of SAC's policy.
        of_states: whether the critic evaluates states alone, without actions.
        **kwargs: arguments of SAC's policy.
    """

    def __init__(self, *args: Any, of_states: bool = True, **kwargs: Any) -> None:
        self.of_states = of_states
        super().__init__(*args, **{"n_critics": 1, **kwargs})

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "of_states": self.of_states}

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Build the critic; SB3's policy calls this for the critic and for its target."""
        if not self.of_states:
            return super().make_critic(features_extractor)
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return ValueNetwork(**kwargs).to(self.device)  # type: ignore[return-value]


class MultiInputSVGPolicy(SVGPolicy):
    """:class:`SVGPolicy` for Dict observations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


class SVG(ValueGradientAgent, OffPolicyAlgorithm):
    """Stochastic value gradients of real trajectories (Heess et al. 2015): SVG(0), SVG(1), SVG(H) and SVG(inf).

    The noise with which policy and model reproduce a real trajectory is inferred, so that ``a_t = pi(s_t, eta_t)`` and
    ``s_{t+1} = f(s_t, a_t, xi_t)`` are the real ones; then the policy ascends the gradient of ::

        w ( sum_{t<H} gamma^t r_t + gamma^H V(s_H) )

    through policy and model (the paper's SVG(inf), there without the value at the end, and SVG(1) with experience
    replay). Nothing is predicted, so only errors of the model's derivative matter. ``w`` is the importance weight of
    the actions, their density now divided by their density when they were taken, clipped; it is 1 on policy. ``V`` is
    learned by fitted policy evaluation on replayed steps, each with its importance weight, with a target network.
    SVG(0) needs no model: its objective is ``w Q(s, pi(s, eta))``.

    ``learn`` adds ``ModelBased(RealData())``, which fits the model, unless its callbacks include a ``ModelBased``.
    Logged under ``train/``: ``grad_norm_h{t}`` as for :class:`~mbrl_wrappers.agents.MAAC`, weighted by ``w``, with 0
    for stretches that ended before step ``t``; ``importance_weight``, the mean of ``w``.

    Deviations: actions are squashed to their bounds, as SAC's are; the standard deviation depends on the state; the
    value of the last state counts in SVG(inf) too, unless it is terminal (after a time limit it is not); Adam and a
    Polyak-averaged target; the rows are divided among the members of an ensemble. The model is fitted for SVG(0) too,
    which does not use it.

    Args:
        policy: ``"MlpPolicy"`` or, for Dict observations, ``"MultiInputPolicy"``.
        env: with a bounded Box of actions.
        learning_rate: of actor and critic.
        horizon: ``H``: real steps that the gradient goes back through, or ``"inf"``: to the end of the episode.
        window: the actor's stretches are drawn from this many newest steps of each env; default: from all steps in the
            buffer, but for ``"inf"`` each env's newest episode that has ended.
        max_importance_weight: to which weights are clipped, at least 0.
        ent_coef: weight of the entropy in the actor's objective.
        max_grad_norm: to which the norm of the actor's gradient is clipped; default: no clipping.
        train_freq: env steps between updates, or ``(1, "episode")``; default: 1, for ``"inf"`` an
            episode, which SB3 supports for one env only: with several, set a number of steps.
        buffer_size, learning_starts, batch_size, tau, gamma, gradient_steps, stats_window_size, tensorboard_log,
            policy_kwargs, verbose, seed, device: as in SB3's SAC.
        compile: as in :class:`~mbrl_wrappers.agents.MAAC`; with ``"inf"`` nothing is compiled.

    Raises:
        ValueError: for an argument out of its range, actions that are not a Box or, with ``compile=True``, ``"inf"``,
            observations with discrete parts and, on a GPU, another optimizer than Adam or another GPU than the current
            one.

    Example:
        >>> SVG("MlpPolicy", "Pendulum-v1", horizon=1).learn(10_000)  # doctest: +SKIP
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": SVGPolicy,
        "MultiInputPolicy": MultiInputSVGPolicy,
    }
    default_strategy = RealData
    model_free = "SAC"
    not_shared = frozenset({"ent_coef"})  # SAC's is a part of its values

    policy: Any
    actor: Any
    critic: Any
    critic_target: Any

    def __init__(
        self,
        policy: str | type[SVGPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        horizon: int | Literal["inf"] = 1,
        window: int | None = None,
        max_importance_weight: float = 5.0,
        ent_coef: float = 0.0,
        max_grad_norm: float | None = None,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] | None = None,
        gradient_steps: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        compile: bool | Literal["auto"] = False,
        _init_setup_model: bool = True,
    ) -> None:
        if horizon != "inf" and (not isinstance(horizon, int) or isinstance(horizon, bool) or horizon < 0):
            raise ValueError(f"horizon must be a whole number of at least 0 or 'inf', got {horizon!r}")
        if window is not None:
            check_whole_number("window", window)
        check_number("max_importance_weight", max_importance_weight, 0, math.inf)
        check_number("ent_coef", ent_coef, 0, math.inf)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, 0, math.inf, low_is_valid=False)
        if train_freq is None:
            train_freq = (1, "episode") if horizon == "inf" else 1
        self.horizon = horizon
        self.window = window
        self.max_importance_weight = max_importance_weight
        self.ent_coef = ent_coef
        self.max_grad_norm = max_grad_norm
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs={"of_states": horizon != 0, **(policy_kwargs or {})},
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            compile=compile,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        if _init_setup_model:
            self._setup_model()

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> BaseCallback:
        callback = super()._init_callback(callback, progress_bar)
        (model_based,) = model_callbacks(callback)
        if not isinstance(model_based.strategy, RealData):
            raise ValueError(f"strategy must be RealData() for SVG, got {type(model_based.strategy).__name__}")
        return callback

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._setup_learn(*args, **kwargs)
        at = self._last_obs if self._vec_normalize_env is None else self._last_original_obs
        buffer: Any = plain_buffer(self)
        buffer.cut_off_unless_at(at)
        return result

    def _setup_model(self) -> None:
        is_dict = isinstance(self.observation_space, spaces.Dict)
        self.replay_buffer_class = DictTrajectoryBuffer if is_dict else TrajectoryBuffer
        super()._setup_model()
        self.actor, self.critic, self.critic_target = self.policy.actor, self.policy.critic, self.policy.critic_target

    # -- acting: each action is kept with its density -------------------------------------------------

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        is_random = self.num_timesteps < learning_starts
        action, buffer_action = super()._sample_action(learning_starts, action_noise, n_envs)
        if is_random:
            self._log_probs = np.full(n_envs, -_LOG_TWO * buffer_action[0].size)
        else:
            with torch.no_grad():
                obs, _ = self.policy.obs_to_tensor(self._last_obs)
                taken = torch.as_tensor(buffer_action, device=self.device).reshape(n_envs, -1)
                self._log_probs = self._act_again(obs, taken)[1].cpu().numpy()
        return action, buffer_action

    def _store_transition(
        self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: list[dict]
    ) -> None:
        infos = [{**info, "log_prob": log_prob} for info, log_prob in zip(infos, self._log_probs, strict=True)]
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _act_again(self, policy_obs: Any, action: Tensor) -> tuple[Tensor, Tensor]:
        """Repeat the real actions ``[B, A]`` with the current policy, by inferring their noise.

        Returns:
            The actions, with a gradient, and their log-densities under the current policy, ``[B]``.
        """
        mean, log_std, _ = self.actor.get_action_dist_params(policy_obs)
        before_tanh = torch.atanh(action.clamp(-_SQUASHED_LIMIT, _SQUASHED_LIMIT))
        noise = (before_tanh - mean) / log_std.exp()
        log_prob = self.actor.action_dist.proba_distribution(mean, log_std).log_prob(action, before_tanh)
        return torch.tanh(mean + log_std.exp() * noise.detach()), log_prob

    # -- learning ------------------------------------------------------------------------------------

    def _drawn(self, gradient_steps: int, batch_size: int) -> Iterator[tuple[Any, ...]]:
        buffer: Any = plain_buffer(self)
        scales = self.model_based.view.scales()
        for _ in range(gradient_steps):
            steps = self._flat(buffer.sample_stretches(batch_size, 1))
            yield steps, self._flat(self._draw(buffer, batch_size)), scales

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"actor": self.policy.actor.optimizer, "critic": self.policy.critic.optimizer}

    def _steps_through(self, dynamics: DynamicsModel) -> Infer | None:
        return infer_in_turn(dynamics) if self.horizon else None

    def _constants(self) -> list[Any]:
        weights = (self.max_importance_weight, self.ent_coef, self.max_grad_norm)
        return [self.horizon, *weights, self.gamma, self.tau]

    def _objection(self) -> str | None:
        if self.horizon == "inf":
            return "horizon is 'inf', where an update may be of any number of steps"
        return super()._objection()

    def _update(
        self,
        steppers: Mapping[str, Stepper],
        infer: Infer | None,
        steps: FlatStretches,
        real: FlatStretches,
        scales: Scales | None,
    ) -> Logged:
        """Update all networks once.

        Args:
            steppers: of the optimizers, by name.
            infer: repeats real steps with the model; None for SVG(0).
            steps: single steps, for the critic.
            real: the actor's stretches.
            scales: the statistics of VecNormalize.

        Returns:
            The numbers to log.
        """
        kind = type(self)
        critic_loss = self._part(kind._critic_loss)(steps, scales)
        steppers["critic"].descend(critic_loss)

        watch = GradientWatch()
        probes = [watch.probe(reward) for reward in real.reward]
        objective, weight = self._part(kind._objective)(real, infer, probes, scales)
        actor_grad_norm = ascend(objective, self.actor, self.max_grad_norm, watch.probes, steppers["actor"])

        polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
        losses = {"critic_loss": critic_loss, "actor_loss": -objective, "actor_grad_norm": actor_grad_norm}
        return logged({**losses, "importance_weight": weight.mean(), **watch.report()})

    def _draw(self, buffer: TrajectoryBuffer, batch_size: int) -> Stretches:
        """Draw the actor's stretches."""
        if self.horizon == "inf":
            return buffer.sample_episodes(batch_size, self.window)
        return buffer.sample_stretches(batch_size, max(self.horizon, 1), self.window)

    def _critic_loss(self, real: FlatStretches, scales: Scales | None) -> Tensor:
        """Return the loss of fitted policy evaluation on single steps; importance weights are needed for V, not Q."""
        obs, next_obs = (self._policy_obs(part, scales) for part in real.obs)
        with torch.no_grad():
            if self.horizon:
                next_value = self.critic_target(next_obs)[:, 0]
                weight = self._weight(self._act_again(obs, real.action[0])[1] - real.log_prob[0])
            else:
                next_value = least(self.critic_target(next_obs, self.actor(next_obs)))
                weight = torch.ones_like(real.reward[0])
            reward = self._normalized(real.reward[0], scales)
            target = backup(reward, real.terminated[0], next_value, self.gamma)
        values = (self.critic(obs),) if self.horizon else self.critic(obs, real.action[0])
        return 0.5 * torch.stack([(weight * (value[:, 0] - target).square()).mean() for value in values]).sum()

    def _objective(
        self, real: FlatStretches, infer: Infer | None, probes: Sequence[Tensor], scales: Scales | None
    ) -> tuple[Tensor, Tensor]:
        """Return the actor's objective, and the importance weights ``[B]``."""
        if infer is None:
            value, log_ratio = self._value_of_action(real, probes[0], scales)
        else:
            value, log_ratio = self._value_of_path(real, infer, probes, scales)
        weight = self._weight(log_ratio)
        objective = (weight * value).mean()
        if self.ent_coef:
            log_prob = self.actor.action_log_prob(self._policy_obs(real.obs[:-1].flatten(0, 1), scales))[1]
            objective = objective - self.ent_coef * masked_mean(log_prob, real.is_real.flatten())
        return objective, weight

    def _value_of_action(self, real: FlatStretches, probe: Tensor, scales: Scales | None) -> tuple[Tensor, Tensor]:
        """Return the critic's values of repeated actions, ``[B]``, and the actions' log-density ratios, ``[B]``."""
        obs = self._policy_obs(real.obs[0], scales)
        action, log_prob = self._act_again(obs, real.action[0])
        return least(self.critic(obs, watched(action, probe))), log_prob - real.log_prob[0]

    def _value_of_path(
        self, real: FlatStretches, infer: Infer, probes: Sequence[Tensor], scales: Scales | None
    ) -> tuple[Tensor, Tensor]:
        """Return the values of the stretches' first states, ``[B]``, and the stretches' log-density ratios, ``[B]``."""
        obs, rewards, log_ratio = real.obs[0], [], torch.zeros_like(real.reward[0])
        for t, is_real in enumerate(real.is_real):
            action, log_prob = self._act_again(self._policy_obs(obs, scales), real.action[t])
            taken = self.model_based.view.unscale(watched(action, probes[t]))
            next_obs, reward = infer(obs, taken, real.obs[t + 1], real.reward[t])
            check_differentiable(action, next_obs)
            rewards.append(self._normalized(reward, scales))
            log_ratio = log_ratio + torch.where(is_real, log_prob - real.log_prob[t], 0.0).detach()
            obs = torch.where(is_real[:, None], next_obs, obs)
        value = self.critic(self._policy_obs(obs, scales))[:, 0]
        for t in reversed(range(len(rewards))):
            longer = backup(rewards[t], real.terminated[t], value, self.gamma)  # v_t = r_t + gamma v_{t+1}
            value = torch.where(real.is_real[t], longer, value)
        return value, log_ratio

    def _flat(self, stretches: Stretches) -> FlatStretches:
        return stretches.flat(self.dynamics.obs_codec, self.device)

    def _normalized(self, reward: Tensor, scales: Scales | None) -> Tensor:
        return self.model_based.view.normalize_reward(reward, scales)

    def _weight(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.detach().exp().clamp(max=self.max_importance_weight)

    def _policy_obs(self, obs: Tensor, scales: Scales | None) -> Any:
        return self.model_based.view.policy_obs(obs, scales)

    # -- saving --------------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor", "critic", "critic_target"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
