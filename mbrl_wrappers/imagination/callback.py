"""Stable-Baselines3's point of entry: a callback that makes an off-policy agent model-based."""

from __future__ import annotations

import copy
import time
import warnings
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her import HerReplayBuffer

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.finite import check_finite
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.imagination.buffer import BufferDecorator, plain_buffer
from mbrl_wrappers.imagination.fitting import fit_and_log
from mbrl_wrappers.imagination.hindsight import GoalDynamics, Hindsight
from mbrl_wrappers.imagination.last_observations import keep_last_observations
from mbrl_wrappers.imagination.replay_experience import ReplayExperience
from mbrl_wrappers.imagination.strategy import Strategy
from mbrl_wrappers.imagination.terminations import count_unknown_ends, note_terminations
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.members import check_predicts
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.seeding import set_apart, stream_seed
from mbrl_wrappers.types import Transitions

_NEVER = -1
# Layers up to this width, in batches up to this many numbers, are too small to be shared among threads.
_SMALL_LAYER = 512
_SMALL_BATCH = 256 * 512


class ModelBased(BaseCallback):
    """Fits a model on an agent's replay buffer and lets a strategy draw the agent's batches.

    Pass it to ``learn`` of SAC, TD3, DDPG, DQN, TQC, CrossQ or QR-DQN; the agent's own ``train`` stays
    as it is. After every ``fit_every`` steps, at the end of a rollout, the model is fitted on all real data and
    the strategy imagines anew. The first fit comes when the agent's ``learning_starts`` steps are done; from
    then on the strategy draws every batch. A later ``learn`` without the callback uses the plain replay buffer
    again, even after a ``learn`` that was interrupted.

    The callback stays on the agent as ``agent.model_based``, is saved with it by ``agent.save`` (model
    and settings, without imagined rows) and is there again after ``load``: go on with
    ``agent.learn(n, callback=agent.model_based, reset_num_timesteps=False)``. For a run that resumes
    exactly where it stopped, see :func:`~mbrl_wrappers.imagination.save_checkpoint`.

    Args:
        strategy: how imagined data is used, such as :class:`~mbrl_wrappers.agents.Dyna`.
        dynamics: the model; default: an :class:`~mbrl_wrappers.models.EnsembleDynamics` for the
            agent's env, with its known termination function where there is one.
        fit_every: env steps between fits.
        seed: of fitting and imagining, which don't use torch's, NumPy's or the agent's generators; default:
            the agent's seed, or a random one. SB3 seeds the env and its action space alike, so that an env's noise may
            depend on the random actions: when training starts, the action space gets a random stream of its own, see
            :func:`~mbrl_wrappers.seeding.set_apart`.
        verbose: as in SB3; from 1 on the model prints how a long fit is getting on. The agent's ``verbose`` and
            ``learn(..., progress_bar=True)`` have it print too.

    Raises:
        ValueError: if ``strategy`` is not a :class:`Strategy`, ``fit_every`` is not a whole number of at least 1, or
            ``seed`` is not a whole number of at least 0.

    Example:
        >>> agent = SAC("MlpPolicy", "Pendulum-v1")                         # doctest: +SKIP
        >>> agent.learn(2_000, callback=ModelBased(Dyna(real_ratio=0.05)))  # doctest: +SKIP
    """

    # Set when training starts; a later ``learn`` keeps the generators.
    model: Any
    view: AgentView
    _hindsight: Hindsight | None
    _fit_generator: torch.Generator
    _imagine_generator: torch.Generator

    def __init__(
        self,
        strategy: Strategy,
        dynamics: WorldModel | None = None,
        *,
        fit_every: int = 250,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if not isinstance(strategy, Strategy):
            raise ValueError(f"strategy must be an instance such as Dyna(), got {strategy!r}")
        check_whole_number("fit_every", fit_every)
        if seed is not None:
            check_whole_number("seed", seed, 0)
        self.strategy = strategy
        self.dynamics = dynamics
        self.fit_every = fit_every
        self.seed = seed
        self._last_fit = _NEVER
        self._warned: set[str] = set()
        self._generator_states: dict[str, torch.Tensor] = {}
        self._imagined_state: dict[str, torch.Tensor] = {}
        self._learn_began: float | None = None  # SB3's start_time

    # -- start and end --------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        agent = self.model
        if not isinstance(agent, OffPolicyAlgorithm):
            raise ValueError(
                f"ModelBased needs an off-policy agent with a replay buffer, got {type(agent).__name__}; "
                "train on-policy agents inside mbrl_wrappers.envs.ImaginedVecEnv"
            )
        self._check_is_alone(agent)
        buffer = self._plain_buffer(agent)
        if agent.num_timesteps < self._last_fit:  # learn() counts from 0 again
            self._last_fit = _NEVER
        goes_on = agent.num_timesteps > agent.learning_starts or self._last_fit != _NEVER
        if goes_on and buffer.size() == 0:
            self._last_fit = _NEVER
            warnings.warn(
                f"replay_buffer holds nothing of the run that goes on at step {agent.num_timesteps}: until "
                f"{agent.learning_starts} new steps are collected, no model is fitted and nothing imagined; "
                "agent.load_replay_buffer brings saved experience back",
                stacklevel=2,
            )
        check_finite("observation", agent._last_obs)
        if self.dynamics is None:
            self.dynamics = default_dynamics(agent, self._seed_of(agent))
        self.dynamics.check_spaces(agent.observation_space, agent.action_space)
        self._warn_of_lost_terminations(buffer)
        self._warn_of_time_limits(buffer)
        self.dynamics.to(agent.device)
        self.dynamics.verbose = max(self.verbose, agent.verbose, int(self.locals.get("progress_bar", False)))
        self._tell_of_threads()
        codec = self.dynamics.obs_codec
        self._hindsight = Hindsight(buffer, codec) if isinstance(buffer, HerReplayBuffer) else None
        self.view = AgentView(agent, self.dynamics, self._hindsight)
        self._make_generators(agent)
        set_apart(agent.action_space)
        keep_last_observations(agent.get_vec_normalize_env())
        self.strategy.bind(self.view, self._model_of_strategy(), self._imagine_generator)
        self.strategy.load_imagined_state(self._imagined_state)
        self._imagined_state = {}
        agent.replay_buffer = BufferDecorator(buffer, self.strategy, partial(self._serves, agent, agent.start_time))
        agent.model_based = self  # type: ignore[attr-defined]
        if self._last_fit != _NEVER and not self.strategy.has_imagined():
            self._imagine(ReplayExperience(buffer, self.view, self.dynamics).rows(), agent.num_timesteps)

    def _tell_of_threads(self) -> None:
        """Say where torch computes small networks on many threads, which takes longer than on one."""
        threads, agent = torch.get_num_threads(), self.model
        largest = max((max(p.shape) for p in agent.policy.parameters() if p.dim() > 1), default=0)
        is_small = largest <= _SMALL_LAYER and agent.batch_size * largest <= _SMALL_BATCH
        if threads > 1 and agent.device.type == "cpu" and is_small and self.dynamics is not None:
            if self.dynamics.verbose and "threads" not in self._warned:
                self._warned.add("threads")
                print(
                    f"torch computes on {threads} threads, and networks as small as these are mostly faster on one: "
                    "torch.set_num_threads(1) at the start of the script, as mbrl-zoo does"
                )

    def _check_is_alone(self, agent: OffPolicyAlgorithm) -> None:
        """Refuse a second callback of this class, or the same one a second time, in one ``learn``."""
        other = getattr(agent, "model_based", None)
        if other is not None and other._learn_began == agent.start_time:
            raise ValueError("callback must hold one ModelBased at most, got another one or the same one twice")
        self._learn_began = agent.start_time

    def _on_training_end(self) -> None:
        self.model.replay_buffer = self._plain_buffer(self.model)

    @property
    def collects_anew(self) -> bool:
        """Whether learning has started before, but the experience was lost and there is too little new for a fit."""
        return self._last_fit == _NEVER and self.model.num_timesteps > self.model.learning_starts

    def _serves(self, agent: OffPolicyAlgorithm, start_time: float) -> bool:
        """Tell whether the strategy draws the batches: after the first fit, in the ``learn`` that began at that time.

        If ``learn`` is interrupted, SB3 does not call ``on_training_end`` and the buffer stays decorated; the start
        time tells this ``learn`` from a later one without the callback.
        """
        return self._last_fit != _NEVER and agent.start_time == start_time

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

    def _warn_of_time_limits(self, buffer: ReplayBuffer) -> None:
        unknown = count_unknown_ends(buffer)
        if unknown and "handle_timeout_termination" not in self._warned:
            self._warned.add("handle_timeout_termination")
            warnings.warn(
                f"handle_timeout_termination=False stored time limits as terminations, and of {unknown} episodes that "
                "ended before this callback saw them it is not known which they were: the model takes all of them for "
                "terminations. Collect them with the callback, or with handle_timeout_termination=True",
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
            self._fit_generator = torch.Generator().manual_seed(stream_seed(seed, "fit"))
        if not hasattr(self, "_imagine_generator") or self._imagine_generator.device.type != agent.device.type:
            self._imagine_generator = torch.Generator(agent.device).manual_seed(stream_seed(seed, "imagine"))
        for name, state in self._generator_states.items():
            generator = getattr(self, name)
            if len(state) == len(generator.get_state()):  # a GPU's state does not fit a CPU's generator
                generator.set_state(state)
        self._generator_states = {}

    @property
    def _learns_rewards_of_goals(self) -> bool:
        hindsight = self._hindsight
        learned = self.strategy.needs_learned_reward or getattr(self.model, "needs_learned_reward", False)
        return hindsight is not None and (hindsight.needs_info or learned)

    def _model_of_strategy(self) -> DynamicsModel:
        assert self.dynamics is not None
        if self._hindsight is None or self._learns_rewards_of_goals:
            # It may be another WorldModel: Strategy.bind checks it if the strategy `needs_predictions`.
            return cast(DynamicsModel, self.dynamics)
        if self.strategy.needs_predictions:
            check_predicts(self.dynamics)
        return cast(DynamicsModel, GoalDynamics(cast(DynamicsModel, self.dynamics), self._hindsight))

    # -- during training ------------------------------------------------------------------------

    def _on_step(self) -> bool:
        """Refuse values that are not finite before they are stored, and note which episodes terminate."""
        check_finite("observation", self.locals["new_obs"], self.num_timesteps)
        check_finite("reward", self.locals["rewards"], self.num_timesteps)
        for info in self.locals["infos"]:
            if "terminal_observation" in info:
                check_finite("observation", info["terminal_observation"], self.num_timesteps)
        note_terminations(self._plain_buffer(self.model), self.locals["dones"], self.locals["infos"])
        return True

    def _on_rollout_end(self) -> None:
        # SB3 calls this after the transition is stored and before train(), but _on_step before it is stored.
        agent, buffer = self.model, self._plain_buffer(self.model)
        now = agent.num_timesteps
        due = self._last_fit == _NEVER or now - self._last_fit >= self.fit_every
        if not due or not self._has_started(now, buffer):
            return
        assert self.dynamics is not None
        experience: Experience = ReplayExperience(buffer, self.view, self.dynamics)
        transitions = experience.rows()
        if len(transitions) == 0:
            return
        if self._hindsight is not None and self._learns_rewards_of_goals:
            experience = self._hindsight.relabelled(transitions, self._imagine_generator)
        fit_and_log(self.dynamics, experience, self._fit_generator, self.logger)
        self._imagine(transitions, now)
        self._last_fit = now

    def _has_started(self, now: int, buffer: ReplayBuffer) -> bool:
        """Tell whether ``learning_starts`` steps are done and, unless the buffer is too small, stored."""
        first = max(self.model.learning_starts, 1)
        return now >= first and buffer.size() * buffer.n_envs >= min(first, buffer.buffer_size * buffer.n_envs)

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
        """Return imagined rows and generators as tensors; ``agent.save`` leaves them out."""
        imagined = self._imagined_state or self.strategy.imagined_state()
        return {f"imagined.{k}": v for k, v in imagined.items()} | {
            f"generator.{k}": v for k, v in self._current_generator_states().items()
        }

    def load_full_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the result of :meth:`full_state`; it takes effect when training starts."""
        self._imagined_state = {k.removeprefix("imagined."): v for k, v in state.items() if k.startswith("imagined.")}
        self._generator_states = {
            k.removeprefix("generator."): v for k, v in state.items() if k.startswith("generator.")
        }

    def _current_generator_states(self) -> dict[str, torch.Tensor]:
        names = ("_fit_generator", "_imagine_generator")
        states = {name: getattr(self, name).get_state() for name in names if hasattr(self, name)}
        return states | self._generator_states  # loaded states that await the start of training take precedence

    def __getstate__(self) -> dict[str, Any]:
        """Drop the agent, its view and everything that training rebuilds; the model goes to the CPU."""
        kept = ("strategy", "fit_every", "seed", "verbose", "n_calls", "num_timesteps", "_last_fit", "_warned")
        state = {name: self.__dict__[name] for name in kept}
        state["dynamics"] = _on_cpu(self.dynamics)
        state["_generator_states"] = self._current_generator_states()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come back as a callback that no agent is bound to yet."""
        BaseCallback.__init__(self, state["verbose"])
        self._imagined_state = {}
        self._learn_began = None
        self.__dict__.update(state)


def default_dynamics(
    agent: OffPolicyAlgorithm, seed: int, *, known_reward: bool = False, **kwargs: Any
) -> EnsembleDynamics:
    """Build the paper's ensemble for an agent's env, with the known termination function if there is one.

    Args:
        agent: the model gets its spaces, env and device.
        seed: of the model.
        known_reward: whether to use the env's known reward function too, if there is one.
        **kwargs: further arguments of :class:`~mbrl_wrappers.models.EnsembleDynamics`.
    """
    kwargs = {"seed": seed, "device": agent.device, **kwargs}
    if agent.env is None:
        return EnsembleDynamics(agent.observation_space, agent.action_space, **kwargs)
    return EnsembleDynamics.for_env(agent.env, known_reward=known_reward, **kwargs)


def _on_cpu(dynamics: WorldModel | None) -> WorldModel | None:
    if dynamics is None or dynamics.device.type == "cpu":
        return dynamics
    return copy.deepcopy(dynamics).to("cpu")
