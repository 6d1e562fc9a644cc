"""The base of all agents that plan in a model: Stable-Baselines3's API around a model and a planner."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from mbrl_wrappers.agents.agent_with_model import AgentWithModel, check_state, started_episodes
from mbrl_wrappers.arguments import check_device, check_number
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.imagination.callback import default_dynamics
from mbrl_wrappers.imagination.fitting import fit_and_log
from mbrl_wrappers.imagination.replay_experience import ReplayExperience
from mbrl_wrappers.models import WorldModel
from mbrl_wrappers.models.action_returns import Propagation, TrajectoryReturns
from mbrl_wrappers.planners import Plan, Planner, PlannerState, reset_rows
from mbrl_wrappers.seeding import stream_seed


class PlanningPolicy(BasePolicy):
    """Stands where SB3 wants a policy: an agent that plans has no network that acts."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, lr_schedule: Any) -> None:
        super().__init__(observation_space, action_space)

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """Scale actions of a Box for the buffer: to [-1, 1]; whole numbers stay as they are."""
        space = self.action_space
        assert isinstance(space, spaces.Box)
        if not np.issubdtype(space.dtype, np.floating):
            return action
        # A dimension with a single value (low == high) is scaled to -1.
        spread = np.where(space.high > space.low, space.high - space.low, np.ones_like(space.low))
        return 2.0 * ((action - space.low) / spread) - 1.0

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Scale actions of the buffer back to the Box."""
        is_scaled = np.issubdtype(self.action_space.dtype, np.floating)
        return super().unscale_action(scaled_action) if is_scaled else scaled_action

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        raise NotImplementedError("an agent that plans acts by agent.predict, its policy can't act alone")


class PlansActions(AgentWithModel):
    """An SB3 agent that plans its actions in its model; one call plans for all environments.

    ``predict`` takes and returns a state, as recurrent agents do in SB3: the last plan, from which the next one
    starts. ``evaluate_policy``, ``EvalCallback`` and the zoo pass it on; without it every plan starts from scratch.
    The random numbers of ``predict`` depend only on the agent's seed and the number of calls, which the state counts,
    so an episode can be repeated, and evaluations don't disturb training.
    """

    _planner: Planner
    _plan_generator: torch.Generator
    _plan_state: PlannerState | None = None

    @abstractmethod
    def _plan(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        """Plan from flat observations ``[B, D]``."""

    def _choice(self, plan: Plan, seed: int, deterministic: bool) -> Tensor:
        """Return the actions ``[B, A]`` to take: the plans' first ones, unless a class explores."""
        return plan.action

    # -- learning -------------------------------------------------------------------------------

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Act at random while learning has not started, then plan; returns env actions and those for the buffer."""
        if self.num_timesteps < learning_starts:
            self._plan_state = None
            return super()._sample_action(learning_starts, action_noise, n_envs)
        self._prepare_first_plan()
        obs = self._last_flat_obs()
        if self._plan_state is None or len(self._plan_state["plan"]) != n_envs:
            self._plan_state = self._initial_state(n_envs)
        state = self._forget(self._plan_state, self._last_episode_starts)
        seed = int(torch.randint(2**62, (1,), generator=self._plan_generator))
        plan = self._act(obs, state, seed)
        self._plan_state = plan.state
        self.logger.record_mean("planner/predicted_return", float(plan.predicted_return.mean()))
        action = self.dynamics.action_codec.decode_numpy(self._choice(plan, seed, deterministic=False))
        return action, self.policy.scale_action(action) if isinstance(self.action_space, spaces.Box) else action

    def _prepare_first_plan(self) -> None:
        """Do what has to be done before the agent plans for the first time."""

    def _act(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        """Plan a step that is going to be taken while learning."""
        return self._plan(obs, state, seed)

    # -- planning -------------------------------------------------------------------------------

    def plan(self, observation: np.ndarray | dict[str, np.ndarray]) -> Plan:
        """Plan from scratch for one observation or a batch, as the first ``predict`` of an episode does.

        Args:
            observation: as ``predict`` takes it.

        Returns:
            The plan, with its candidates.
        """
        obs, _ = self.flat_observation(observation)
        return self._plan(obs, self._initial_state(len(obs)), self._predict_seed(0))

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Plan for one observation or a batch.

        Args:
            observation: as SB3's agents take it.
            state: what the last call returned; None for a new start.
            episode_start: ``[B]`` bool, environments whose plans are forgotten.
            deterministic: whether to take the plans' first actions; only agents that explore differ.

        Returns:
            The actions, and the state for the next call.

        Raises:
            ValueError: if the observation is not finite, or the state or ``episode_start`` is for another number of
                environments.
        """
        obs, is_batch = self.flat_observation(observation)
        plan_state, calls = self._unpack(state, episode_start, len(obs))
        seed = self._predict_seed(calls)
        plan = self._plan(obs, plan_state, seed)
        action = self.dynamics.action_codec.decode_numpy(self._choice(plan, seed, deterministic))
        return action if is_batch else action[0], self._pack(plan.state, calls + 1)

    def _initial_state(self, batch: int) -> PlannerState:
        """Return the state of ``batch`` environments for which nothing was planned yet."""
        return self._planner.initial_state(batch, self.device)

    def _forget(self, state: PlannerState, started: Any) -> PlannerState:
        """Forget the plans of the environments that have just started an episode, ``[B]`` bool."""
        rows = torch.as_tensor(np.asarray(started, dtype=bool), device=self.device)
        return reset_rows(state, self._initial_state(len(state["plan"])), rows)

    def _pack(self, state: PlannerState, calls: int) -> tuple[np.ndarray, ...]:
        arrays = [value.cpu().numpy() for value in state.values()]
        return (*arrays, np.full(len(arrays[0]), calls))

    def _unpack(
        self, state: tuple[np.ndarray, ...] | None, episode_start: np.ndarray | None, batch: int
    ) -> tuple[PlannerState, int]:
        """Return the state of the planner and the number of earlier calls."""
        started, fresh = started_episodes(episode_start, batch), self._initial_state(batch)
        if state is None:
            return fresh, 0
        shapes = [tuple(value.shape) for value in fresh.values()] + [(batch,)]
        check_state(state, shapes)
        parts = {name: torch.as_tensor(part, device=self.device) for name, part in zip(fresh, state, strict=False)}
        return self._forget(parts, started), int(state[-1][0])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_planner", "_plan_state"]


class PlanningAgent(PlansActions):
    """An SB3 agent that learns a model from its experience and plans its actions in it.

    The first ``learning_starts`` steps are uniformly random; then the model is fitted, on all data, before the first
    plan and every ``train_freq``.

    Args:
        policy: ``"MlpPolicy"`` (``"MultiInputPolicy"`` for Dict observations).
        env: to learn in.
        dynamics: the model; default: an ensemble, see the subclass.
        num_particles: particles that follow each sequence.
        propagation, sample_noise: see :class:`~mbrl_wrappers.models.action_returns.TrajectoryReturns`.
        gamma: discount factor inside a plan, in [0, 1].
        learning_starts: env steps with random actions.
        train_freq: steps between fits, each of all envs; or ``(1, "episode")`` with one env.
        buffer_size: number of real transitions that are kept.
        policy_kwargs, stats_window_size, tensorboard_log, verbose, monitor_wrapper, seed, device: as in SB3.

    Raises:
        ValueError: for an argument out of its range, an action space that can't be searched, or a model of other
            spaces than the env's.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": PlanningPolicy,
        "MultiInputPolicy": PlanningPolicy,
    }

    # Arguments of the default model that differ from those of EnsembleDynamics.
    default_dynamics_kwargs: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        dynamics: WorldModel | None = None,
        num_particles: int = 5,
        propagation: Propagation = "TSinf",
        sample_noise: bool = True,
        gamma: float = 1.0,
        learning_starts: int = 200,
        train_freq: int | tuple[int, str] = 200,
        buffer_size: int = 1_000_000,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        monitor_wrapper: bool = True,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        check_number("gamma", gamma, 0, 1)
        check_device("device", device)
        try:
            super().__init__(
                policy,
                env,
                learning_rate=0.0,  # the model has its own
                buffer_size=buffer_size,
                learning_starts=learning_starts,
                gamma=gamma,
                train_freq=train_freq,
                policy_kwargs=policy_kwargs,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                verbose=verbose,
                device=device,
                support_multi_env=True,
                monitor_wrapper=monitor_wrapper,
                seed=seed,
                sde_support=False,
                supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete),
            )
        except AssertionError as error:  # how SB3 refuses spaces
            raise ValueError(
                f"action_space must be Discrete, MultiDiscrete or a bounded Box, got {self.action_space}"
            ) from error
        self.dynamics = dynamics
        self.num_particles = num_particles
        self.propagation = propagation
        self.sample_noise = sample_noise
        self._num_fits = 0
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.dynamics is None:
            self.dynamics = self._default_dynamics()
        self._adopt(self.dynamics)
        self._planner = self._make_planner()
        self._returns = self._make_returns()
        if not hasattr(self, "_fit_generator"):  # a loaded agent has its own
            self._fit_generator = torch.Generator().manual_seed(stream_seed(self.seed, "fit"))
            self._plan_generator = torch.Generator().manual_seed(stream_seed(self.seed, "plan"))

    def _default_dynamics(self) -> WorldModel:
        return default_dynamics(self, self.seed or 0, known_reward=True, **self.default_dynamics_kwargs)

    @abstractmethod
    def _make_planner(self) -> Planner:
        """Return the planner that the agent's arguments ask for."""

    def _make_returns(self) -> Any:
        """Return what evaluates the planner's candidates, for :meth:`_plan`."""
        return TrajectoryReturns(
            self.dynamics,
            num_particles=self.num_particles,
            propagation=self.propagation,
            sample_noise=self.sample_noise,
            discount=self.gamma,
        )

    # -- learning -------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Fit the model on all real data; SB3 calls this every ``train_freq``. The arguments are ignored."""
        buffer = self.replay_buffer
        assert buffer is not None
        if buffer.size():
            self._fit(ReplayExperience(buffer, self._view, self.dynamics))

    def _fit(self, experience: Experience) -> None:
        """Fit everything that is learned to all real experience."""
        report = fit_and_log(self.dynamics, experience, self._fit_generator, self.logger)
        self._num_fits += 1
        self._n_updates += int(report.get("grad_steps", 0))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _prepare_first_plan(self) -> None:
        if not self._num_fits:
            self.train(self.gradient_steps, self.batch_size)

    # -- planning -------------------------------------------------------------------------------

    def _plan(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        """Plan from flat observations ``[B, D]``."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return self._planner.plan(lambda actions: self._returns(obs, actions, generator), state, generator)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_returns"]
