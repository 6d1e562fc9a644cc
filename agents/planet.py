"""PlaNet: planning in the states of a latent model."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from mbrl_wrappers.agents.planning import PlanningAgent, PlanningPolicy
from mbrl_wrappers.arguments import check_number
from mbrl_wrappers.models import RSSM, WorldModel
from mbrl_wrappers.models.state_returns import StateReturns
from mbrl_wrappers.planners import PLANNERS, Plan, Planner, PlannerState

PAPERS_SEARCH = {"horizon": 12, "population": 1000, "num_elites": 100, "iterations": 10}


class PlaNet(PlanningAgent):
    """An agent that plans in the latent states of its model (Hafner et al. 2019, algorithm 1).

    The model follows the real episode: each observation leads from its last state and the last action to the next one
    (:meth:`WorldModel.observe <mbrl_wrappers.models.WorldModel.observe>`), from which the planner's candidates are
    imagined::

        a_0 = first action of argmax over a_0..a_{H-1} of sum_t gamma^t r(s_t, a_t)

    So observations may be images, or leave out what an agent has to remember. States and actions are part of what
    :meth:`predict` returns: pass it to the next call, and ``episode_start``, as ``evaluate_policy`` does.

    Deviations: the model is an :class:`~mbrl_wrappers.models.RSSM` of version 1, with a head for terminations;
    candidates are truncated Gaussians within the bounds of the actions, see
    :class:`~mbrl_wrappers.planners.CEM`, which starts from the last plan instead of anew.

    Args:
        policy: ``"MlpPolicy"`` (``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for Dict observations).
        env: to learn in.
        dynamics: the model, of any kind; default: an RSSM with the paper's batches, 100 of them a fit.
        planner: ``"CEM"``, ``"iCEM"``, ``"MPPI"``, ``"RS"`` or ``"Gradient"``.
        planner_kwargs: arguments of the planner; default for ``"CEM"``: the paper's, 10 iterations of 1,000 sequences
            of 12 steps. On a CPU, take a tenth of that.
        num_particles: imagined episodes of each candidate.
        sample_noise: whether they are samples; if False, they follow the model's mean.
        exploration_std: of Gaussian noise on continuous actions while learning, in units of [-1, 1].
        gamma: discount factor inside a plan, in [0, 1].
        learning_starts: env steps with random actions; an env must have made the model's ``sequence_length`` by then.
        train_freq: steps between fits, each of all envs; or ``(1, "episode")`` with one env.
        buffer_size: number of real transitions that are kept.
        policy_kwargs, stats_window_size, tensorboard_log, verbose, monitor_wrapper, seed, device: as in SB3.

    Raises:
        ValueError: for an argument out of its range, an action space that can't be searched, or a model of other
            spaces than the env's.

    Example:
        >>> agent = PlaNet("CnnPolicy", "mbrl_wrappers/PixelPendulum-v0").learn(10_000)  # doctest: +SKIP
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **PlanningAgent.policy_aliases,
        "CnnPolicy": PlanningPolicy,
    }

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        dynamics: WorldModel | None = None,
        planner: str = "CEM",
        planner_kwargs: dict[str, Any] | None = None,
        num_particles: int = 1,
        sample_noise: bool = True,
        exploration_std: float = 0.3,
        gamma: float = 1.0,
        learning_starts: int = 1000,
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
        if planner not in PLANNERS:
            raise ValueError(f"planner must be one of {sorted(PLANNERS)}, got {planner!r}")
        check_number("exploration_std", exploration_std, 0, 1e6)
        self.planner = planner
        self.planner_kwargs = planner_kwargs
        self.exploration_std = exploration_std
        super().__init__(
            policy,
            env,
            dynamics=dynamics,
            num_particles=num_particles,
            sample_noise=sample_noise,
            gamma=gamma,
            learning_starts=learning_starts,
            train_freq=train_freq,
            buffer_size=buffer_size,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            monitor_wrapper=monitor_wrapper,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        length = getattr(self.dynamics, "settings", {}).get("sequence_length", 0)
        every = cast(TrainFreq, self.train_freq)
        first_fit = max(self.learning_starts, every.frequency * self.n_envs)
        if every.unit == TrainFrequencyUnit.STEP and first_fit < length * self.n_envs:
            raise ValueError(
                f"learning_starts must be at least {length * self.n_envs}, the model's sequence_length of {length} in "
                f"each of {self.n_envs} envs, got {self.learning_starts}"
            )

    def _default_dynamics(self) -> WorldModel:
        return RSSM(
            self.observation_space, self.action_space, version=1, learning_rate=1e-3, batch_size=50,
            sequence_length=50, train_steps=100, seed=self.seed or 0,
        )  # fmt: skip

    def _make_planner(self) -> Planner:
        own = PAPERS_SEARCH if self.planner == "CEM" else {}
        return PLANNERS[self.planner](self.action_space, **{**own, **(self.planner_kwargs or {})})

    def _make_returns(self) -> StateReturns:
        return StateReturns(
            self.dynamics, num_particles=self.num_particles, sample_noise=self.sample_noise, discount=self.gamma
        )

    # -- planning -------------------------------------------------------------------------------

    def _plan(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        generator = torch.Generator(self.device).manual_seed(seed)
        now = self._observed(obs, state, generator)
        plan = self._planner.plan(lambda actions: self._returns(now, actions, generator), state, generator)
        known = {"action": plan.action, "is_first": torch.zeros_like(state["is_first"]), **self._parts(now)}
        return dataclasses.replace(plan, state={**plan.state, **known})

    @torch.no_grad()
    def _observed(self, obs: Tensor, state: PlannerState, generator: torch.Generator) -> Any:
        """Return the model's state after observations ``[B, D]``."""
        _, spec = self._no_memory(1)
        before = tree_unflatten([state[f"memory_{part}"] for part in range(spec.num_leaves)], spec)
        return self.dynamics.observe(before, state["action"], obs, state["is_first"], generator)

    def _act(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        """Plan a step, and explore around it."""
        plan, action_set = self._plan(obs, state, seed), self._planner.action_set
        if action_set.discrete or not self.exploration_std:
            return plan
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        noise = torch.randn(plan.action.shape, generator=generator, device=self.device)
        searched = action_set.from_env(plan.action) + self.exploration_std * noise
        actions = plan.actions.clone()
        actions[:, 0] = action_set.to_env(searched.clamp(-1.0, 1.0))
        return dataclasses.replace(plan, actions=actions, state={**plan.state, "action": actions[:, 0]})

    def _initial_state(self, batch: int) -> PlannerState:
        memory, _ = self._no_memory(batch)
        no_action = torch.zeros(batch, self.dynamics.action_codec.dim, device=self.device)
        is_first = torch.ones(batch, dtype=torch.bool, device=self.device)
        return {**super()._initial_state(batch), "action": no_action, "is_first": is_first, **memory}

    def _no_memory(self, batch: int) -> tuple[PlannerState, TreeSpec]:
        """Return zeros in the form of the model's states, whose values never count, and how they lie in it."""
        dynamics = self.dynamics
        obs = torch.zeros(1, dynamics.obs_codec.dim, dtype=dynamics.obs_dtype, device=self.device)
        with torch.no_grad():
            begun = dynamics.begin(obs, torch.Generator(self.device))
        zeros = {
            name: torch.zeros_like(part).expand(batch, *part.shape[1:]) for name, part in self._parts(begun).items()
        }
        return zeros, tree_flatten(begun)[1]

    @staticmethod
    def _parts(state: Any) -> PlannerState:
        return {f"memory_{index}": part for index, part in enumerate(tree_flatten(state)[0])}
