"""Stable-Baselines3's point of entry: a callback that makes an off-policy agent model-based."""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.finite import check_finite
from mbrl_wrappers.imagination.buffer import BufferDecorator, plain_buffer
from mbrl_wrappers.imagination.real_data import real_transitions
from mbrl_wrappers.imagination.strategy import Strategy
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.given import known_functions, registered_id
from mbrl_wrappers.types import Transitions

_NEVER = -1
# Wrappers under which a replay buffer holds what the env itself said.
_TRANSPARENT_WRAPPERS = (VecCheckNan, VecMonitor, VecNormalize, VecVideoRecorder)


class ModelBased(BaseCallback):
    """Fits a model on an agent's replay buffer and lets a strategy draw the agent's batches.

    Pass it to ``learn`` of SAC, TD3, DDPG, DQN, TQC, CrossQ or QR-DQN; the agent's own ``train`` stays
    as it is. After each rollout that makes a fit due, the model is fitted on all real data and the
    strategy imagines anew; every batch is drawn by the strategy. The first fit comes when the agent's
    ``learning_starts`` steps are done.

    The callback stays on the agent as ``agent.model_based``, is saved with it by ``agent.save`` (model
    and settings, without imagined rows) and is there again after ``load``: go on with
    ``agent.learn(n, callback=agent.model_based, reset_num_timesteps=False)``. For a run that resumes
    exactly where it stopped, see :func:`~mbrl_wrappers.imagination.save_checkpoint`.

    Args:
        strategy: how imagined data is used, such as :class:`~mbrl_wrappers.agents.Dyna`.
        dynamics: the model; default: an :class:`~mbrl_wrappers.models.EnsembleDynamics` for the
            agent's env, with its known termination function where there is one.
        fit_every: env steps between fits.
        seed: of fitting and imagining, which never touch torch's, NumPy's or the agent's generators;
            default: the agent's seed, or a random one.
        verbose: as in SB3.

    Raises:
        ValueError: if ``strategy`` is not one, or ``fit_every`` is not a whole number from 1 on.

    Example:
        >>> agent = SAC("MlpPolicy", "Pendulum-v1")                         # doctest: +SKIP
        >>> agent.learn(2_000, callback=ModelBased(Dyna(real_ratio=0.05)))  # doctest: +SKIP
    """

    # Declared, not set: training makes them, and going on keeps them.
    model: Any
    view: AgentView
    _fit_generator: torch.Generator
    _imagine_generator: torch.Generator

    def __init__(
        self,
        strategy: Strategy,
        dynamics: DynamicsModel | None = None,
        *,
        fit_every: int = 250,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if not isinstance(strategy, Strategy):
            raise ValueError(f"strategy must be an instance such as Dyna(), got {strategy!r}")
        check_whole_number("fit_every", fit_every)
        self.strategy = strategy
        self.dynamics = dynamics
        self.fit_every = fit_every
        self.seed = seed
        self._last_fit = _NEVER
        self._warned: set[str] = set()
        self._generator_states: dict[str, torch.Tensor] = {}
        self._imagined_state: dict[str, torch.Tensor] = {}

    # -- start and end --------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        agent = self.model
        if not isinstance(agent, OffPolicyAlgorithm):
            raise ValueError(
                f"ModelBased needs an off-policy agent with a replay buffer, got {type(agent).__name__}; "
                "train on-policy agents inside mbrl_wrappers.envs.ImaginedVecEnv"
            )
        buffer = self._plain_buffer(agent)
        if agent.num_timesteps < self._last_fit:  # learn() counts from 0 again
            self._last_fit = _NEVER
        goes_on = agent.num_timesteps > agent.learning_starts or self._last_fit != _NEVER
        if goes_on and buffer.size() == 0:
            raise ValueError(
                f"replay_buffer must hold the experience of the run that goes on at step {agent.num_timesteps}, "
                "got 0 rows: call agent.load_replay_buffer first"
            )
        check_finite("observation", agent._last_obs)
        if self.dynamics is None:
            self.dynamics = default_dynamics(agent, self._seed_of(agent))
        self.dynamics.check_spaces(agent.observation_space, agent.action_space)
        self._warn_of_lost_terminations(buffer)
        self.dynamics.to(agent.device)
        self.view = AgentView(agent, self.dynamics)
        self._make_generators(agent)
        self.strategy.bind(self.view, self.dynamics, self._imagine_generator)
        self.strategy.load_imagined_state(self._imagined_state)
        self._imagined_state = {}
        agent.replay_buffer = BufferDecorator(buffer, self.strategy)
        agent.model_based = self  # type: ignore[attr-defined]
        if self._last_fit != _NEVER and not self.strategy.has_imagined():
            self._imagine(real_transitions(buffer, self.view, self.dynamics), agent.num_timesteps)

    def _on_training_end(self) -> None:
        self.model.replay_buffer = self._plain_buffer(self.model)

    @staticmethod
    def _plain_buffer(agent: Any) -> ReplayBuffer:
        if agent.replay_buffer is None:
            raise ValueError("the agent's replay_buffer must be set up, got None")
        return plain_buffer(agent)

    def _warn_of_lost_terminations(self, buffer: ReplayBuffer) -> None:
        learned = isinstance(self.dynamics, EnsembleDynamics) and self.dynamics.termination_fn is None
        if buffer.optimize_memory_usage and learned and "optimize_memory_usage" not in self._warned:
            self._warned.add("optimize_memory_usage")
            warnings.warn(
                "optimize_memory_usage=True keeps no last observation of an episode, so a learned termination never "
                "sees one and imagined episodes do not end: give the model a termination_fn",
                stacklevel=2,
            )

    def _seed_of(self, agent: OffPolicyAlgorithm) -> int:
        if self.seed is None:
            fresh = int(np.random.SeedSequence().generate_state(1)[0])
            self.seed = agent.seed if agent.seed is not None else fresh
        return self.seed

    def _make_generators(self, agent: OffPolicyAlgorithm) -> None:
        seed = self._seed_of(agent)
        if not hasattr(self, "_fit_generator"):  # a second learn() goes on with the first one's
            self._fit_generator = torch.Generator().manual_seed(seed)
        if not hasattr(self, "_imagine_generator") or self._imagine_generator.device.type != agent.device.type:
            self._imagine_generator = torch.Generator(agent.device).manual_seed(seed + 1)
        for name, state in self._generator_states.items():
            generator = getattr(self, name)
            if len(state) == len(generator.get_state()):  # a GPU's state does not fit a CPU's generator
                generator.set_state(state)
        self._generator_states = {}

    # -- during training ------------------------------------------------------------------------

    def _on_step(self) -> bool:
        """Refuse values that are not finite before they are stored."""
        check_finite("observation", self.locals["new_obs"], self.num_timesteps)
        check_finite("reward", self.locals["rewards"], self.num_timesteps)
        for info in self.locals["infos"]:
            if "terminal_observation" in info:
                check_finite("observation", info["terminal_observation"], self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:
        # After the transition is stored and before train(); _on_step fires before it is stored.
        agent = self.model
        now = agent.num_timesteps
        due = self._last_fit == _NEVER or now - self._last_fit >= self.fit_every
        if now < max(agent.learning_starts, 1) or not due:
            return
        assert self.dynamics is not None
        transitions = real_transitions(self._plain_buffer(agent), self.view, self.dynamics)
        if len(transitions) == 0:
            return
        started = time.perf_counter()
        report = self.dynamics.fit(transitions, self._fit_generator)
        report["fit_seconds"] = time.perf_counter() - started
        for name, value in report.items():
            self.logger.record(f"dynamics/{name}", value)
        self._imagine(transitions, now)
        self._last_fit = now

    def _imagine(self, transitions: Transitions, now: int) -> None:
        new_steps = self.fit_every if self._last_fit == _NEVER else max(now - self._last_fit, self.fit_every)
        started = time.perf_counter()
        report = self.strategy.refresh(transitions, now, new_steps)
        report["seconds"] = time.perf_counter() - started
        self._warn_of_divergence(report.get("diverged", 0.0), now)
        for name, value in report.items():
            self.logger.record(f"imagination/{name}", value)

    def _warn_of_divergence(self, steps: float, now: int) -> None:
        if steps and "diverged" not in self._warned:
            self._warned.add("diverged")
            warnings.warn(
                f"the model diverged in {steps:.0f} imagined steps at step {now}: what it predicted was not finite or "
                "far beyond all real observations. The agent does not see them; imagination/diverged counts them from "
                "here on. A model that does so often needs shorter rollouts, or another fit",
                stacklevel=2,
            )

    # -- saving ---------------------------------------------------------------------------------

    def full_state(self) -> dict[str, torch.Tensor]:
        """Return imagined rows and generators as tensors: what ``agent.save`` leaves out."""
        imagined = self._imagined_state or self.strategy.imagined_state()
        return {f"imagined.{k}": v for k, v in imagined.items()} | {
            f"generator.{k}": v for k, v in self._current_generator_states().items()
        }

    def load_full_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what :meth:`full_state` returned; it is put in place when training starts."""
        self._imagined_state = {k.removeprefix("imagined."): v for k, v in state.items() if k.startswith("imagined.")}
        self._generator_states = {
            k.removeprefix("generator."): v for k, v in state.items() if k.startswith("generator.")
        }

    def _current_generator_states(self) -> dict[str, torch.Tensor]:
        names = ("_fit_generator", "_imagine_generator")
        states = {name: getattr(self, name).get_state() for name in names if hasattr(self, name)}
        return states | self._generator_states  # those that wait for training to start come first

    def __getstate__(self) -> dict[str, Any]:
        """Drop the agent, its view and what training rebuilds; the model goes to the CPU."""
        kept = ("strategy", "fit_every", "seed", "verbose", "n_calls", "num_timesteps", "_last_fit", "_warned")
        state = {name: self.__dict__[name] for name in kept}
        state["dynamics"] = _on_cpu(self.dynamics)
        state["_generator_states"] = self._current_generator_states()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come back as a callback that no agent is bound to yet."""
        BaseCallback.__init__(self, state["verbose"])
        self._imagined_state = {}
        self.__dict__.update(state)


def default_dynamics(
    agent: OffPolicyAlgorithm, seed: int, *, known_reward: bool = False, **kwargs: Any
) -> EnsembleDynamics:
    """Build the paper's ensemble for an agent's env, with the known termination function if there is one.

    Args:
        agent: whose spaces, env and device the model gets.
        seed: of the model.
        known_reward: whether to take the env's known reward function too, if there is one.
        **kwargs: of :class:`~mbrl_wrappers.models.EnsembleDynamics`.
    """
    env_id = _registered_id(agent.env)
    kwargs = {**known_functions(env_id, known_reward=known_reward), **kwargs}
    return EnsembleDynamics(agent.observation_space, agent.action_space, seed=seed, device=agent.device, **kwargs)


def _registered_id(env: VecEnv | None) -> str | None:
    """Return the id of an agent's env that is as registered, None if a wrapper may have changed it."""
    outer = env
    while isinstance(outer, VecEnvWrapper):
        if not isinstance(outer, _TRANSPARENT_WRAPPERS):
            return None
        outer = outer.venv
    return registered_id(env.get_attr("spec")[0]) if env is not None and env.has_attr("spec") else None


def _on_cpu(dynamics: DynamicsModel | None) -> DynamicsModel | None:
    if dynamics is None or dynamics.device.type == "cpu":
        return dynamics
    return copy.deepcopy(dynamics).to("cpu")
