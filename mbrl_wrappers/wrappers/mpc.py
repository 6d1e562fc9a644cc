"""A planner as a wrapper: an action is a proposal, which a search in a model improves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from mbrl_wrappers.envs.finite import check_finite
from mbrl_wrappers.envs.imagined import add_batch_axis, row_of
from mbrl_wrappers.envs.simulator import SimulatorReturns
from mbrl_wrappers.models.action_returns import TrajectoryReturns
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.members import check_predicts
from mbrl_wrappers.planners import ICEM, Plan, Planner, PlannerState
from mbrl_wrappers.seeding import stream_seed
from mbrl_wrappers.spaces import FlatSpace

Mode = Literal["warm_start", "residual", "replace"]


class MPCAction(gym.Wrapper[Any, Any, Any, Any]):
    """Plans every action in a model: model predictive control as a wrapper.

    ``mode`` decides what happens to the incoming action. ``"warm_start"``: the search starts from it. ``"residual"``:
    it is added to the planned action, in the env's units, and the sum is clipped to the bounds; a policy trained in
    this env learns the correction (residual policy learning, Silver et al. 2018). ``"replace"``: it is ignored. With
    ``"warm_start"``, planning improves an SB3 policy that was trained without this wrapper.

    ``info["mpc"]`` of a step holds ``"action"``, the executed action; ``"sequence"``, the plan, one action for each
    step of the horizon; and ``"predicted_return"``.

    Args:
        env: any env with Box, Discrete or MultiDiscrete actions and the model's observations.
        dynamics: the model of the env, or a :class:`~mbrl_wrappers.envs.SimulatorReturns` of it to plan in the true
            simulator, which tells errors of the model from errors of the planner. If that was made of another instance
            of the env, a new one is made of ``env``, whose state the plan has to start from.
        planner: default: :class:`~mbrl_wrappers.planners.ICEM`.
        mode: see above.
        num_particles: particles per action sequence in the model.
        propagation, sample_noise: see :class:`~mbrl_wrappers.models.action_returns.TrajectoryReturns`.
        discount: factor per step of a plan, in [0, 1].
        seed: of the planner, until ``reset`` gets one; default: random.

    Raises:
        ValueError: if the spaces differ from the model's or the planner's, the model is neither fitted nor given a
            reward function, or the action space or the planner does not allow the mode.

    Example:
        >>> env = MPCAction(gym.make("Pendulum-v1"), dynamics)         # doctest: +SKIP
        >>> evaluate_policy(agent, env)                                # doctest: +SKIP
    """

    def __init__(
        self,
        env: gym.Env,
        dynamics: DynamicsModel | SimulatorReturns,
        planner: Planner | None = None,
        *,
        mode: Mode = "warm_start",
        num_particles: int = 5,
        propagation: Any = "TSinf",
        sample_noise: bool = True,
        discount: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(env)
        evaluate: Callable[[Tensor, Tensor, torch.Generator], Tensor]
        if isinstance(dynamics, SimulatorReturns):
            self._obs_codec, self._device = None, torch.device("cpu")
            evaluate = _ignoring_obs(_simulator_of(env, dynamics))
        else:
            _check_model(dynamics, env.observation_space, env.action_space)
            self._obs_codec, self._device = dynamics.obs_codec, dynamics.device
            evaluate = TrajectoryReturns(
                dynamics,
                num_particles=num_particles,
                propagation=propagation,
                sample_noise=sample_noise,
                discount=discount,
            )
        self._control = _Control(evaluate, planner, env.action_space, mode, 1, self._device, seed)
        self._obs: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode without an old plan; a seed seeds the planner too."""
        self._obs, info = self.env.reset(seed=seed, options=options)
        self._control.forget(np.ones(1, dtype=bool), seed)
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Plan, and take the step."""
        if self._obs is None:
            raise gym.error.ResetNeeded("reset must be called before step")
        check_finite("observation", self._obs)
        codec, device = self._obs_codec, self._device
        obs = torch.zeros(1, 0) if codec is None else codec.encode(add_batch_axis(self._obs), device)
        executed, plan = self._control.act(obs, add_batch_axis(action))
        chosen = row_of(executed, 0)
        self._obs, reward, terminated, truncated, info = self.env.step(chosen)
        sequence = self._control.codec.decode_numpy(plan.actions[0])
        mpc = {"action": chosen, "sequence": sequence, "predicted_return": float(plan.predicted_return)}
        return self._obs, reward, terminated, truncated, {**info, "mpc": mpc}


class VectorMPCAction(VectorWrapper):
    """:class:`MPCAction` for a vector env: all envs are planned for in the same calls.

    Plans are forgotten for exactly those envs whose episodes end, in each of Gymnasium's autoreset modes.
    ``info["mpc"]`` holds arrays with the env as their first dimension.

    Args:
        env: a vector env with Box, Discrete or MultiDiscrete actions.
        dynamics: the model of the env.
        planner, mode, num_particles, propagation, sample_noise, discount, seed: as for :class:`MPCAction`.

    Raises:
        ValueError: as :class:`MPCAction`.
    """

    def __init__(
        self,
        env: VectorEnv,
        dynamics: DynamicsModel,
        planner: Planner | None = None,
        *,
        mode: Mode = "warm_start",
        num_particles: int = 5,
        propagation: Any = "TSinf",
        sample_noise: bool = True,
        discount: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(env)
        _check_model(dynamics, env.single_observation_space, env.single_action_space)
        evaluate = TrajectoryReturns(
            dynamics,
            num_particles=num_particles,
            propagation=propagation,
            sample_noise=sample_noise,
            discount=discount,
        )
        self._codec = dynamics.obs_codec
        self._device = dynamics.device
        self._control = _Control(evaluate, planner, env.single_action_space, mode, env.num_envs, dynamics.device, seed)
        self._autoreset = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._ended = np.zeros(env.num_envs, dtype=bool)
        self._obs: Any = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes in all envs, or in those of the option ``reset_mask``, without their old plans."""
        mask = None if options is None else options.get("reset_mask")
        self._obs, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        first = seed[0] if isinstance(seed, list | tuple) and seed else seed
        started = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        self._control.forget(started, first if isinstance(first, int) else None)
        self._ended = self._ended & ~started
        return self._obs, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Plan for all envs, and take the step."""
        if self._obs is None:
            raise gym.error.ResetNeeded("reset must be called before step")
        check_finite("observation", self._obs)
        control = self._control
        chosen, plan = control.act(self._codec.encode(self._obs, self._device), actions)
        self._obs, reward, terminated, truncated, info = self.env.step(chosen)
        over = np.logical_or(terminated, truncated)
        # Envs whose new observation starts an episode: they ended in this step, or in the one before.
        started = {AutoresetMode.SAME_STEP: over, AutoresetMode.NEXT_STEP: self._ended}.get(self._autoreset)
        if started is not None:
            control.forget(started)
        self._ended = over
        sequence = control.codec.decode_numpy(plan.actions.flatten(0, 1))
        mpc = {
            "action": chosen,
            "sequence": sequence.reshape(*plan.actions.shape[:2], *sequence.shape[1:]),
            "predicted_return": plan.predicted_return.cpu().numpy(),
        }
        return self._obs, reward, terminated, truncated, {**info, "mpc": mpc}


class _Control:
    """Plans for ``B`` envs and combines the planned actions with the incoming ones."""

    def __init__(
        self,
        evaluate: Callable[[Tensor, Tensor, torch.Generator], Tensor],
        planner: Planner | None,
        action_space: spaces.Space,
        mode: Mode,
        num_envs: int,
        device: torch.device,
        seed: int | None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
        if not isinstance(action_space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete):
            raise ValueError(f"action_space must be Box, Discrete or MultiDiscrete, got {action_space}")
        planner = ICEM(action_space) if planner is None else planner
        if planner.action_space != action_space:
            raise ValueError(
                f"planner must be for the env's actions {action_space}, got one for {planner.action_space}"
            )
        if mode == "residual" and planner.action_set.discrete:
            raise ValueError(f"mode 'residual' needs Box actions to add, got {action_space}")
        self.codec = FlatSpace(action_space, "action_space")
        self._evaluate = evaluate
        self._planner = planner
        self._mode = mode
        self._state: PlannerState = planner.initial_state(num_envs, device)
        if mode == "warm_start":  # a planner that takes no proposals is refused now, not at the first step
            planner.propose(self._state, planner.action_set.to_env(self._state["plan"][:, 0]))
        self._generator = torch.Generator(device)
        self._generator.manual_seed(stream_seed(seed, "plans"))

    def forget(self, started: np.ndarray, seed: int | None = None) -> None:
        """Forget the plans of some envs, ``[B]`` bool; a seed seeds all draws from now on."""
        if seed is not None:
            self._generator.manual_seed(stream_seed(seed, "plans"))
        self._state = self._planner.reset(self._state, torch.as_tensor(started, device=self._generator.device))

    def act(self, obs: Tensor, action: np.ndarray) -> tuple[np.ndarray, Plan]:
        """Plan from flat observations ``[B, D]``.

        Returns:
            The batch of actions to execute, and the plan.
        """
        incoming = self.codec.encode(action, self._generator.device)
        if not torch.isfinite(incoming).all():
            raise ValueError(f"action must be finite, got {np.asarray(action).tolist()}")
        state = self._planner.propose(self._state, incoming) if self._mode == "warm_start" else self._state
        plan = self._planner.plan(lambda actions: self._evaluate(obs, actions, self._generator), state, self._generator)
        self._state = plan.state
        executed = plan.action + incoming if self._mode == "residual" else plan.action
        return self.codec.decode_numpy(executed), plan  # decoding clips to the bounds


def _ignoring_obs(simulate: SimulatorReturns) -> Callable[[Tensor, Tensor, torch.Generator], Tensor]:
    return lambda obs, actions, generator: simulate(actions)


def _simulator_of(env: gym.Env, simulate: SimulatorReturns) -> SimulatorReturns:
    """Return ``simulate`` if it plays in this very env, else a new one with the same discount that does."""
    if simulate.env.unwrapped is env.unwrapped:
        return simulate
    if str(simulate.env) != str(env):
        raise ValueError(f"dynamics must simulate the env {env} that is wrapped, got one of {simulate.env}")
    return SimulatorReturns(env, discount=simulate.discount)


def _check_model(dynamics: DynamicsModel, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    dynamics.check_spaces(observation_space, action_space)
    check_predicts(dynamics)
    if dynamics.reward_fn is None and len(dynamics.start_obs) == 0:
        raise ValueError(
            f"dynamics must be fitted or given its reward_fn, got a {type(dynamics).__name__} without either"
        )
