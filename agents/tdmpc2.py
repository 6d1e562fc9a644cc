"""TD-MPC2 (Hansen et al. 2024): plans in a latent model that was learned to foretell rewards and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from mbrl_wrappers.acceleration.steppers import Stepper
from mbrl_wrappers.agents.actor_gradients import Logged, ascend, logged, record_means
from mbrl_wrappers.agents.networks.tdmpc2 import TDMPC2Policy
from mbrl_wrappers.agents.planning import PlansActions
from mbrl_wrappers.agents.update_mode import AcceleratedUpdates, check_compile
from mbrl_wrappers.arguments import check_device, check_number, check_whole_number
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.env_specs import spec_of
from mbrl_wrappers.models.implicit import ImplicitModel, Unrolled
from mbrl_wrappers.models.implicit.model import ENCODER_LEARNING_RATE
from mbrl_wrappers.planners import MPPI, Plan, PlannerState
from mbrl_wrappers.returns import RunningReturn, backup
from mbrl_wrappers.seeding import stream_seed
from mbrl_wrappers.types import Sequences

VALUE_WEIGHT = 0.1
ACTOR_EPS = 1e-5
DISCOUNTS = (0.95, 0.995)
DISCOUNT_STEPS = 5
SEED_EPISODES, LEAST_SEED_STEPS = 5, 1000
# MPPI's arguments. The authors' temperature of 0.5 multiplies returns; ours divides them.
PLANNER: dict[str, Any] = {
    "population": 512, "num_elites": 64, "iterations": 6, "sigma": 2.0, "min_sigma": 0.05, "temperature": 2.0,
}  # fmt: skip
MANY_ACTIONS, MORE_ITERATIONS = 20, 2


class TDMPC2(AcceleratedUpdates, PlansActions):
    """An agent that plans in a latent model, behind whose horizon a critic's value stands.

    Each update follows a batch of sequences in the model, with the losses of
    :class:`~mbrl_wrappers.models.ImplicitModel`, and trains ``N`` critics on them with the same weights (eq. 3)::

        0.1 CE(Q_i(z_t, a_t), y_t)        y_t = r_t + gamma (1 - d_t) min Q'(h(s_{t+1}), pi(h(s_{t+1})))

    ``d_t`` is 1 where step ``t`` terminated the episode, and the minimum is over two slow critics that are drawn at
    random. The policy prior climbs their mean, divided by a running range of values, plus an entropy bonus (eq. 4).

    Actions are planned by MPPI (section 3.2). ``num_proposals`` of its sequences are the policy's; a sequence is worth
    its predicted rewards until it is predicted to terminate, and if it does not, the value behind it. While learning, a
    sequence is drawn from the plan's distribution, and noise of the elites' standard deviation added; ``deterministic``
    predictions are the plan's mean.

    ``predict`` takes and returns a state, as for all agents that plan; see
    :class:`~mbrl_wrappers.agents.planning.PlansActions`. Several envs are planned for at once.

    Deviations: one task at a time; deterministic predictions are the plan's mean instead of a random elite; the entropy
    is that of the Gaussian before ``tanh``, whose gradient is the authors' own; sequences may begin in an episode that
    has not ended. As in the authors' code, the updates for the first random steps are made at once, when
    learning starts.

    Args:
        policy: ``"MlpPolicy"`` (``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for Dict observations: the encoder
            is the model's, so these are the same); ``policy_kwargs`` may hold ``units``, ``num_critics`` and ``bins``,
            see :class:`~mbrl_wrappers.agents.networks.tdmpc2.TDMPC2Policy`.
        env: to learn in, with a bounded Box of actions.
        size: of all networks: ``"0.6M"`` (for a CPU), ``"1M"`` or ``"5M"``; default: the given model's, or
            ``"0.6M"``.
        dynamics: the model; default: one of that size, for the env.
        learning_rate: of model, critics and policy; a number, or a schedule as in SB3.
        encoder_scale: the encoder's learning rate, divided by the others'.
        buffer_size: number of steps that are kept.
        learning_starts: env steps with random actions; default: five episodes by the env's time limit, at least 1,000.
        batch_size: ``B``, sequences in a batch.
        updates_per_step: for each env step.
        horizon: ``H``, steps of a sequence and of a plan.
        rho: the weight of a step compared with the one before it, in (0, 1].
        tau: the rate of the slow critics, and of the range of values.
        gamma: discount; default: ``(L/5 - 1) / (L/5)`` for the env's time limit ``L``, within [0.95, 0.995].
        ent_coef: weight of the policy's entropy, which counts once for each dimension of actions.
        max_grad_norm: to which the norms of the gradients are clipped: of model and critics together, and the policy's.
        planning: whether to plan; otherwise the agent acts by its policy prior.
        num_proposals: sequences of the policy's among those of a plan.
        planner_kwargs: arguments of :class:`~mbrl_wrappers.planners.MPPI` in the place of the paper's: 512 sequences,
            64 elites, 6 iterations (8 from 20 dimensions of actions on).
        compile: True, False or ``"auto"``: whether updates, and the search for actions while learning, run as compiled
            functions, with the same results up to rounding. Compiling takes about two minutes and pays off in long
            runs; ``"auto"`` compiles those. Only on a CPU.
        policy_kwargs, stats_window_size, tensorboard_log, verbose, monitor_wrapper, seed, device: as in SB3.

    Raises:
        ValueError: for an argument out of its range, another action space, ``compile=True`` on a GPU, or a model of
            other spaces than the env's.

    Example:
        >>> agent = TDMPC2("MlpPolicy", "Pendulum-v1", learning_rate=1e-3).learn(2_000)  # doctest: +SKIP
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": TDMPC2Policy,
        "CnnPolicy": TDMPC2Policy,
        "MultiInputPolicy": TDMPC2Policy,
    }

    compiles_on_gpu = False

    policy: TDMPC2Policy
    _planner: MPPI
    _owed_updates = 0.0

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        size: str | None = None,
        dynamics: ImplicitModel | None = None,
        learning_rate: float | Schedule = 3e-4,
        encoder_scale: float = ENCODER_LEARNING_RATE,
        buffer_size: int = 1_000_000,
        learning_starts: int | None = None,
        batch_size: int = 256,
        updates_per_step: float = 1.0,
        horizon: int = 3,
        rho: float = 0.5,
        tau: float = 0.01,
        gamma: float | None = None,
        ent_coef: float = 1e-4,
        max_grad_norm: float = 20.0,
        planning: bool = True,
        num_proposals: int = 24,
        planner_kwargs: dict[str, Any] | None = None,
        compile: bool | Literal["auto"] = False,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        monitor_wrapper: bool = True,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        check_device("device", device)
        check_compile(compile)
        self.compile = compile
        try:
            super().__init__(
                policy,
                env,
                learning_rate=learning_rate,
                buffer_size=buffer_size,
                learning_starts=0 if learning_starts is None else learning_starts,
                batch_size=batch_size,
                tau=tau,
                gamma=0.0 if gamma is None else gamma,
                train_freq=1,
                gradient_steps=-1,  # `train` is told the number of env steps
                policy_kwargs=policy_kwargs,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                verbose=verbose,
                device=device,
                support_multi_env=True,
                monitor_wrapper=monitor_wrapper,
                seed=seed,
                sde_support=False,
                supported_action_spaces=(spaces.Box,),
            )
        except AssertionError as error:  # how SB3 refuses spaces
            raise ValueError(f"action_space must be a bounded Box, got {self.action_space}") from error
        limit = getattr(spec_of(self.env), "max_episode_steps", None) if self.env is not None else None
        if learning_starts is None:
            self.learning_starts = max(LEAST_SEED_STEPS, SEED_EPISODES * (limit or 0))
        if gamma is None:
            self.gamma = discount_for(limit)
        self.size = size
        self.dynamics = dynamics
        self.encoder_scale = encoder_scale
        self.updates_per_step = updates_per_step
        self.horizon = horizon
        self.rho = rho
        self.ent_coef = ent_coef
        self.max_grad_norm = max_grad_norm
        self.planning = planning
        self.num_proposals = num_proposals
        self.planner_kwargs = planner_kwargs
        self._check_arguments()
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        for name in ("batch_size", "horizon"):
            check_whole_number(name, getattr(self, name))
        check_whole_number("num_proposals", self.num_proposals, 0)
        for name in ("gamma", "tau"):
            check_number(name, getattr(self, name), 0, 1)
        check_number("rho", self.rho, 0, 1, low_is_valid=False)
        for name in ("encoder_scale", "updates_per_step", "max_grad_norm"):
            check_number(name, getattr(self, name), 0, 1e9, low_is_valid=False)
        check_number("ent_coef", self.ent_coef, 0, 1e9)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.buffer_size < (self.horizon + 1) * self.n_envs:
            raise ValueError(
                f"buffer_size must be at least {self.horizon + 1} steps of each env, for the horizon, got "
                f"{self.buffer_size} for {self.n_envs} envs"
            )
        if self.dynamics is None:
            size: dict[str, Any] = {} if self.size is None else {"size": self.size}
            self.dynamics = ImplicitModel(self.observation_space, self.action_space, seed=self.seed or 0, **size)
        if not isinstance(self.dynamics, ImplicitModel):
            raise ValueError(f"dynamics must be an ImplicitModel for TDMPC2, got {type(self.dynamics).__name__}")
        if self.size not in (None, self.dynamics.settings["size"]):
            raise ValueError(f"size must be that of dynamics, {self.dynamics.settings['size']!r}, got {self.size!r}")
        self._adopt(self.dynamics)
        self._planner = self._make_planner()
        self.policy.build(
            self.dynamics.num_features, self.dynamics.action_codec.dim, self.size or self.dynamics.settings["size"]
        )
        self.policy.to(self.device)
        self._learners = nn.ModuleList([self.dynamics, self.policy.critics])
        model, rest = self.dynamics.parameter_groups(self.lr_schedule(1), self.encoder_scale)
        rest["params"] += list(self.policy.critics.parameters())
        self.model_optimizer = torch.optim.Adam([model, rest], self.lr_schedule(1), fused=True)
        self.actor_optimizer = torch.optim.Adam(
            self.policy.actor.parameters(), self.lr_schedule(1), eps=ACTOR_EPS, fused=True
        )
        if not hasattr(self, "_plan_generator"):  # a loaded agent has its own
            self._plan_generator = torch.Generator().manual_seed(stream_seed(self.seed, "plan"))
        self._check_compile()

    def _make_planner(self) -> MPPI:
        many = self.dynamics.action_codec.dim >= MANY_ACTIONS
        iterations = PLANNER["iterations"] + MORE_ITERATIONS * many
        own = {"horizon": self.horizon, "iterations": iterations, **(self.planner_kwargs or {})}
        planner = MPPI(self.action_space, **{**PLANNER, **own})
        if self.num_proposals >= planner.population:
            raise ValueError(
                f"num_proposals must be below the planner's population {planner.population}, got {self.num_proposals}"
            )
        return planner

    # -- learning -------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Make the updates that are due; SB3 calls this after each step of all envs.

        Args:
            gradient_steps: the number of env steps since the last call.
            batch_size: sequences in a batch.
        """
        buffer = self.replay_buffer
        assert buffer is not None
        if buffer.size() <= self.horizon:
            return
        is_first = not self._n_updates and not self._owed_updates
        self._owed_updates += self.updates_per_step * (self.num_timesteps if is_first else gradient_steps)
        num_updates = int(self._owed_updates)
        if not num_updates:
            return
        self._owed_updates -= num_updates
        self._update_learning_rate([self.model_optimizer, self.actor_optimizer])
        self.model_optimizer.param_groups[0]["lr"] *= self.encoder_scale
        experience, log = self._experience(), list[Logged]()
        while len(log) < num_updates:
            try:
                log.append(self._update(experience, batch_size))
                self._has_updated = True
            except Exception as error:
                self._fall_back(error)
        self._n_updates += num_updates
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        record_means(self.logger, log)

    def _update(self, experience: Experience, batch_size: int) -> Logged:
        """Train model and critics, then the policy, then the slow critics, once."""
        drawn = experience.sequences(batch_size, self.horizon + 1)
        self.dynamics.keep_starts(drawn)  # for imagined envs
        mask = self.policy.critics.drops(self.horizon * batch_size)
        losses, latents, is_over = self._part(TDMPC2._losses)(drawn, mask)
        total = torch.stack(list(losses.values())).sum()
        norm = ascend(-total, self._learners, self.max_grad_norm, (), Stepper(self.model_optimizer))
        log = self._update_policy(latents, is_over)
        self.policy.follow_critics(self.tau)
        return logged({**{f"{name}_loss": loss for name, loss in losses.items()}, "model_grad_norm": norm, **log})

    def _losses(self, drawn: Sequences, mask: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the losses of model and critics, the latents of the sequences, and which of them don't count.

        Args:
            drawn: ``[B, H + 1, ...]``.
            mask: of the critics' dropout.
        """
        unrolled = self.dynamics.unroll(drawn, self.rho)
        losses = {**self.dynamics.losses(unrolled), "value": VALUE_WEIGHT * self._value_loss(unrolled, mask)}
        return losses, unrolled.latents.detach(), unrolled.is_over

    def _value_loss(self, unrolled: Unrolled, mask: Tensor | None = None) -> Tensor:
        """Return the critics' loss, a scalar."""
        critics, targets = self.policy.critics, self._targets(unrolled)
        outputs = critics(unrolled.latents[:-1], unrolled.action, mask=mask)  # [N, H, B, bins]
        return (unrolled.weight * critics.two_hot.loss(outputs, targets).mean(0)).sum()

    @torch.no_grad()
    def _targets(self, unrolled: Unrolled) -> Tensor:
        """Return the values that the critics learn, ``[H, B]``, each step with its own termination."""
        encoded, critics = unrolled.encoded, self.policy.slow_critics
        action, _ = self.policy.act(encoded, self.policy.noise(encoded.shape[:-1]))
        least = critics.values(encoded, action, critics.two()).amin(0)
        return backup(unrolled.reward, unrolled.terminated, least, self.gamma)

    def _update_policy(self, latents: Tensor, is_over: Tensor) -> dict[str, Tensor]:
        """Train the policy on latents ``[H + 1, B, Z]``; returns the numbers to log.

        Args:
            latents: without gradients.
            is_over: ``[H + 1, B]`` bool, latents that don't count.
        """
        batch, critics = latents.shape[:2], self.policy.critics
        noise, chosen = self.policy.noise(batch), critics.two()
        mask = critics.drops(batch.numel(), len(chosen))
        critics.requires_grad_(False)  # compiled, the gradients of all parameters would be computed
        try:
            values, entropy = self._part(TDMPC2._values_of_policy)(latents, noise, chosen, mask)
        finally:
            critics.requires_grad_(True)
        first = values[0].detach()[~is_over[0]]
        if len(first):
            self.policy.follow(first, self.tau)
        gain = values / self.policy.scale + self.ent_coef * noise.shape[-1] * entropy
        counts = (~is_over).float()
        decay = self.rho ** torch.arange(len(gain), device=gain.device, dtype=gain.dtype)
        objective = (decay * (gain * counts).sum(1) / counts.sum(1).clamp(min=1)).mean()
        norm = ascend(objective, self.policy.actor, self.max_grad_norm, (), Stepper(self.actor_optimizer))
        return {
            "actor_objective": objective, "actor_grad_norm": norm, "entropy": entropy, "value": first,
            "value_scale": self.policy.scale,
        }  # fmt: skip

    def _values_of_policy(self, latents: Tensor, noise: Tensor, chosen: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of the policy's actions by two critics, and its entropy, ``[H + 1, B]`` each."""
        action, entropy = self.policy.act(latents, noise)
        return self.policy.critics.values(latents, action, chosen, mask).mean(0), entropy

    def _objection(self) -> str | None:
        return "on a GPU nothing of it is compiled" if self._on_gpu else None

    def _pays_from(self) -> float:
        return 10_000  # compiling takes two minutes and saves some 20 ms an update, with its plan

    def _planned_updates(self, total_timesteps: int, steps_done: int) -> float:
        return self.updates_per_step * super()._planned_updates(total_timesteps, steps_done)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        cut = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        if self.dynamics.termination_head is None and (np.asarray(dones, bool) & ~cut).any():
            raise ValueError(
                "episodic must be True for the model of an env whose episodes terminate, got False, and the episode "
                f"terminated in step {self.num_timesteps}"
            )
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    # -- acting ---------------------------------------------------------------------------------

    def _plan(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        return self._search(obs, state, seed, self._returns)

    def _act(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        # Only here are the numbers of rows always the same.
        return self._search(obs, state, seed, self._part(TDMPC2._returns))

    @torch.no_grad()
    def _search(self, obs: Tensor, state: PlannerState, seed: int, returns: Callable[..., Tensor]) -> Plan:
        """Plan from flat observations ``[B, D]``, by the policy's sequences among others."""
        generator = torch.Generator(self.device).manual_seed(seed)
        latents = self.dynamics.begin(obs)
        proposals = self._proposals(latents, generator) if self.num_proposals else None

        def objective(actions: Tensor) -> Tensor:
            noise = self.policy.noise((actions.shape[:2].numel(),), generator)
            return returns(latents, actions, noise, self.policy.critics.two(generator))

        return self._planner.plan(objective, state, generator, proposals)

    def _proposals(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Return sequences of the policy's from latents ``[B, Z]``, ``[B, K, H, A]`` in the env's units."""
        rows = latents.repeat_interleave(self.num_proposals, 0)
        actions: list[Tensor] = []
        for step in range(self._planner.horizon):
            if step:
                rows, _ = self.dynamics.step(rows, actions[-1], deterministic=True)
            actions.append(self._env_action(self.policy.act(rows, self.policy.noise((len(rows),), generator))[0]))
        return torch.stack(actions, dim=1).unflatten(0, (len(latents), -1))

    def _returns(self, latents: Tensor, actions: Tensor, noise: Tensor, chosen: Tensor) -> Tensor:
        """Return what sequences ``[B, P, H, A]`` from latents ``[B, Z]`` are worth, ``[B, P]``.

        Rewards count until a step is predicted to terminate, the value of the last latent if none does.

        Args:
            latents: ``[B, Z]``.
            actions: ``[B, P, H, A]``.
            noise: of the policy's actions in the last latents, ``[B P, A]``.
            chosen: ``[2]``, the critics that evaluate these.
        """
        rows = latents.repeat_interleave(actions.shape[1], 0)
        nothing = torch.zeros(len(rows), device=rows.device)
        found = RunningReturn(nothing, nothing == 0, 1.0)
        for step, action in enumerate(actions.flatten(0, 1).unbind(1)):
            rows, prediction = self.dynamics.step(rows, action, deterministic=True)
            found = found.then(prediction.reward, prediction.terminated, self.gamma ** (step + 1))
        action, _ = self.policy.act(rows, noise)
        value = self.policy.critics.values(rows, action, chosen).mean(0)
        return (found.reward + found.bootstrap(value)).unflatten(0, actions.shape[:2])

    def _choice(self, plan: Plan, seed: int, deterministic: bool) -> Tensor:
        """Return the actions ``[B, A]`` to take: of the plan, or of a sequence drawn from it, with noise."""
        if deterministic:
            return plan.action
        generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "exploration"))
        # Where no return was finite, there is no candidate to draw.
        has_weights = (plan.weights.sum(1) > 0)[:, None]
        chances = torch.where(has_weights, plan.weights, 1.0)
        drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]
        rows = torch.arange(len(drawn), device=drawn.device)
        action = torch.where(has_weights, plan.candidates[rows, drawn, 0], plan.action)
        noise = torch.randn(action.shape, generator=generator, device=action.device)
        searched = self._planner.action_set.from_env(action) + self._planner.spread_of(plan)[:, 0] * noise
        return self._env_action(searched.clamp(-1, 1))

    def _env_action(self, action: Tensor) -> Tensor:
        """Turn actions ``[..., A]`` from [-1, 1] into the env's units."""
        return self._planner.action_set.to_env(action)

    @torch.no_grad()
    def _by_policy(self, obs: Tensor, seed: int, deterministic: bool) -> Tensor:
        """Return the policy's actions ``[B, A]`` in the env's units, for flat observations ``[B, D]``."""
        latents = self.dynamics.begin(obs)
        if deterministic:
            return self._env_action(self.policy.mode(latents))
        noise = self.policy.noise((len(latents),), torch.Generator(self.device).manual_seed(seed))
        return self._env_action(self.policy.act(latents, noise)[0])

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.planning or self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        seed = int(torch.randint(2**62, (1,), generator=self._plan_generator))
        action = self._by_policy(self._last_flat_obs(), seed, deterministic=False)
        action = self.dynamics.action_codec.decode_numpy(action)
        return action, self.policy.scale_action(action)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Plan for one observation or a batch, or act by the policy prior; see :meth:`PlansActions.predict`.

        Args:
            observation: as SB3's agents take it.
            state: what the last call returned; None for a new start.
            episode_start: ``[B]`` bool, environments whose plans are forgotten.
            deterministic: whether to take the plan's mean (or the policy's) instead of a sample.
        """
        if self.planning:
            return super().predict(observation, state, episode_start, deterministic)
        obs, is_batch = self.flat_observation(observation)
        plan_state, calls = self._unpack(state, episode_start, len(obs))
        action = self._by_policy(obs, self._predict_seed(calls), deterministic)
        chosen = self.dynamics.action_codec.decode_numpy(action)
        return chosen if is_batch else chosen[0], self._pack(plan_state, calls + 1)

    # -- saving ---------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "model_optimizer", "actor_optimizer"], []

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_learners"]


def discount_for(max_episode_steps: int | None) -> float:
    """Return the discount for a time limit, by the authors' rule; without a limit the greatest."""
    least, greatest = DISCOUNTS
    if max_episode_steps is None:
        return greatest
    return min(max(1 - DISCOUNT_STEPS / max_episode_steps, least), greatest)
