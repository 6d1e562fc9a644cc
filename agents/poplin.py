"""POPLIN: planning that starts from a policy, and a policy that is distilled from plans."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_wrappers.agents.agent_with_model import started_episodes
from mbrl_wrappers.agents.planning import PlanningAgent, PlanningPolicy
from mbrl_wrappers.arguments import check_number
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.action_returns import Propagation
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.models.rollout import open_loop
from mbrl_wrappers.planners import CEM, Plan, PlannerState, search_gaussian
from mbrl_wrappers.planners.actions import ActionSet
from mbrl_wrappers.spaces import FlatSpace

Variant = Literal["A-init", "A-replan", "P-sep", "P-uni"]
Distillation = Literal["bc", "avg", "gan"]

# Wang and Ba's settings of the distillation, in their code.
_EPOCHS, _BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 100, 64, 3e-3, 1e-5
_GAN_EPOCHS, _GRADIENT_PENALTY, _DISCRIMINATOR_UNITS = 40, 10.0, 64


class ProposalPolicy(PlanningPolicy):
    """A tanh network from whitened observations to actions, which are clipped to the bounds.

    Args:
        observation_space: the env's.
        action_space: a bounded Box.
        lr_schedule: not used.
        net_arch: units of the hidden layers.

    Attributes:
        net: maps flat whitened observations to actions in units of the search: -1 and 1 are the bounds.
    """

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, lr_schedule: Any, net_arch: Sequence[int]
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule)
        self._codec = FlatSpace(observation_space, "observation_space")
        self._action_set = ActionSet(action_space)
        self.whitening = Normalizer(self._codec.dim)
        self.widths = [self._codec.dim, *net_arch, self._action_set.dim]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(self.widths):
            linear = nn.Linear(fan_in, fan_out)
            # Weight vectors of length 1; of 0.01 in the last layer, so that the first proposals are near the middle.
            length = 0.01 if len(layers) == 2 * len(net_arch) else 1.0
            with torch.no_grad():
                linear.weight.normal_()
                linear.weight.mul_(length / linear.weight.norm(dim=1, keepdim=True))
                linear.bias.zero_()
            layers += [linear, nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])

    def propose(self, obs: Tensor) -> Tensor:
        """Return actions ``[..., A]`` for flat raw observations ``[..., D]``, in units of the search, not clipped."""
        return self.net(self.whitening.normalize(obs))

    @property
    def num_parameters(self) -> int:
        """Length of :meth:`parameter_vector`."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    def parameter_vector(self) -> Tensor:
        """Return weights and biases of all layers in one vector."""
        return nn.utils.parameters_to_vector(self.net.parameters())

    def propose_with(self, parameters: Tensor, obs: Tensor) -> Tensor:
        """Return actions of many policies.

        Args:
            parameters: ``[C, num_parameters]``.
            obs: ``[K, C, D]`` flat raw observations, ``K`` for each policy.

        Returns:
            ``[K, C, A]`` in units of the search, not clipped.
        """
        x = self.whitening.normalize(obs).transpose(0, 1)
        first = 0
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(self.widths)):
            weight = parameters[:, first : first + fan_in * fan_out].unflatten(1, (fan_out, fan_in))
            first += fan_in * fan_out
            bias = parameters[:, first : first + fan_out]
            first += fan_out
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
            x = torch.tanh(x) if layer < len(self.widths) - 2 else x
        return x.transpose(0, 1)

    def act(self, obs: Tensor) -> Tensor:
        """Return actions ``[B, A]`` for flat raw observations ``[B, D]``, in the env's units and inside the bounds."""
        return self._action_set.to_env(self.propose(obs))

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        action = self.act(self._codec.encode(observation, self.device))
        return action.reshape(-1, *self.action_space.shape)  # type: ignore[misc]


class POPLIN(PlanningAgent):
    """Model-based policy planning (Wang and Ba 2019, algorithm 1): CEM around the proposals of a policy network.

    ``"A"`` variants search for noise that is added to the policy's actions: to the actions of one rollout of the policy
    in the model (``"A-init"``), or to the actions that it chooses along each perturbed rollout (``"A-replan"``).
    ``"P"`` variants search for noise that is added to its parameters: another one for each step (``"P-sep"``), or the
    same for all steps (``"P-uni"``). The policy then learns from the steps since the last fit: it imitates the planned
    actions by regression (``"bc"``, the paper's BC-AR and BC-PR) or against a discriminator (``"gan"``), or the mean
    parameter noise that was chosen for the first steps of the plans is added to its parameters (``"avg"``, the paper's
    AVG-R; ``"P"`` variants only). ``predict(..., plan=False)`` is the policy alone.

    As in the paper's code, a plan follows the ensemble's mean with one particle, and variances are not limited by the
    bounds, to which actions are clipped. Deviations: variances are in units of half the action range (the same for
    [-1, 1]). In the ``"A"`` variants proposals are clipped before noise is added. The noise that a search starts from
    is clipped to its initial standard deviation: in the original it may grow from plan to plan until every candidate
    is clipped to the same bound, and nothing is searched any more (on Pendulum-v1 such an agent hung on one side for a
    whole episode).

    Args:
        policy: ``"MlpPolicy"`` (``"MultiInputPolicy"`` for Dict observations); ``policy_kwargs={"net_arch": [64]}``
            sets its hidden layers; default: [64, 64] for ``"A"``, [32] for ``"P"``.
        env: to learn in, with bounded Box actions.
        variant: ``"A-init"``, ``"A-replan"``, ``"P-sep"`` or ``"P-uni"``.
        distillation: ``"bc"``, ``"gan"`` or ``"avg"``; default: ``"bc"`` for ``"A"``, ``"avg"`` for ``"P"``.
        horizon: steps of a plan.
        population: candidates in each iteration.
        num_elites: best candidates, to which the distribution is refitted.
        iterations: most iterations.
        alpha: share of the old distribution that is kept.
        init_variance: variance that a search starts with; default: the paper's, 0.25 for ``"A"``, 0.1 for ``"P"`` with
            ``"avg"`` and 0.03 for ``"P"`` otherwise.
        noise_exponent: above 0, the noise that a search draws is coloured over the steps of a plan, as iCEM's
            (Pinneri et al. 2020); the paper's is white. Not for ``"P-uni"``, whose noise is the same at all steps.
        distil_all: whether the policy is distilled from all planned steps so far, instead of the steps since the last
            fit, as in the paper. Not for ``"avg"``.
        num_particles: particles that follow each candidate.
        propagation: how particles are propagated; see :class:`~mbrl_wrappers.models.action_returns.TrajectoryReturns`.
        policy_kwargs: see ``policy``.
        **kwargs: as for :class:`~mbrl_wrappers.agents.planning.PlanningAgent`.

    Raises:
        ValueError: for an argument out of its range, an action space that is no bounded Box, or a model of other
            spaces than the env's.

    Example:
        >>> agent = POPLIN("MlpPolicy", "Pendulum-v1", variant="A-init").learn(1_600)  # doctest: +SKIP
        >>> action, _ = agent.predict(obs, plan=False)                                # doctest: +SKIP
    """

    policy: ProposalPolicy
    _planner: CEM  # only its settings and its action set are used: POPLIN searches for noise instead of actions
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ProposalPolicy,
        "MultiInputPolicy": ProposalPolicy,
    }

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        variant: Variant = "P-sep",
        distillation: Distillation | None = None,
        horizon: int = 30,
        population: int = 500,
        num_elites: int = 50,
        iterations: int = 5,
        alpha: float = 0.1,
        init_variance: float | None = None,
        noise_exponent: float = 0.0,
        distil_all: bool = False,
        num_particles: int = 1,
        propagation: Propagation = "expectation",
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {get_args(Variant)}, got {variant!r}")
        if distillation not in (None, *get_args(Distillation)):
            raise ValueError(f"distillation must be one of {get_args(Distillation)}, got {distillation!r}")
        self._in_parameters = variant.startswith("P")
        if distillation == "avg" and not self._in_parameters:
            raise ValueError(f"distillation 'avg' needs a variant with noise on parameters, got {variant!r}")
        if init_variance is not None:
            check_number("init_variance", init_variance, 0, 4, low_is_valid=False)
        check_number("noise_exponent", noise_exponent, 0, 10)
        if noise_exponent > 0 and variant == "P-uni":
            raise ValueError(f"noise_exponent must be 0 for 'P-uni', whose noise has no steps, got {noise_exponent}")
        self.variant = variant
        self.distillation = distillation
        if distil_all and self._method == "avg":
            raise ValueError(f"distil_all must be False for distillation 'avg', got {distil_all}")
        self.noise_exponent, self.distil_all = noise_exponent, distil_all
        self.horizon, self.population, self.num_elites = horizon, population, num_elites
        self.iterations, self.alpha, self.init_variance = iterations, alpha, init_variance
        # Planned steps to distil: flat observation, executed action in units of the search, first noise for "avg".
        self._planned: list[tuple[Tensor, Tensor, Tensor]] = []
        super().__init__(
            policy,
            env,
            num_particles=num_particles,
            propagation=propagation,
            policy_kwargs={"net_arch": [32] if self._in_parameters else [64, 64], **(policy_kwargs or {})},
            **kwargs,
        )

    def _make_planner(self) -> CEM:
        planner = CEM(
            self.action_space,
            horizon=self.horizon,
            population=self.population,
            num_elites=self.num_elites,
            iterations=self.iterations,
            alpha=self.alpha,
            min_variance=0.0 if self._in_parameters else 0.001,  # as in the original, only "A" searches end early
        )
        if planner.action_set.discrete:
            raise ValueError(f"action_space must be of Boxes for POPLIN, got {self.action_space}")
        return planner

    @property
    def _method(self) -> str:
        return self.distillation or ("avg" if self._in_parameters else "bc")

    @property
    def _start_variance(self) -> float:
        if self.init_variance is not None:
            return self.init_variance
        return 0.25 if not self._in_parameters else 0.1 if self._method == "avg" else 0.03

    # -- planning -------------------------------------------------------------------------------

    def _initial_state(self, batch: int) -> PlannerState:
        """Return noise of zero: ``[B, H, A]`` on actions, ``[B, H, W]`` or ``[B, W]`` on ``W`` parameters."""
        width = self.policy.num_parameters if self._in_parameters else self._planner.action_set.dim
        shape = (batch, width) if self.variant == "P-uni" else (batch, self.horizon, width)
        return {"plan": torch.zeros(shape, device=self.device)}

    def _plan(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        return self._plan_with_noise(obs, state, seed)[0]

    @torch.no_grad()
    def _plan_with_noise(self, obs: Tensor, state: PlannerState, seed: int) -> tuple[Plan, Tensor]:
        """Return the plan, and the noise that was chosen for its first step, ``[B, ...]``."""
        generator = torch.Generator(self.device).manual_seed(seed)
        mean = state["plan"]
        reference = self._policy_actions(obs) if self.variant == "A-init" else None
        found = search_gaussian(
            lambda noise: self._noise_returns(obs, noise, reference, generator),
            mean,
            torch.full_like(mean, self._start_variance),
            self._planner.settings,
            generator,
            bounded=False,
            noise_exponent=self.noise_exponent,
        )
        to_env = self._planner.action_set.to_env
        if reference is not None:
            actions = to_env((reference + found.mean).clamp(-1, 1))
            candidates = to_env((reference[:, None] + found.candidates).clamp(-1, 1))
        else:
            actions = to_env(self._first_actions(obs, found.mean[:, None]))[:, 0, None]
            candidates = to_env(self._first_actions(obs, found.candidates))[:, :, None]
        chosen = rest = found.mean
        if self.variant != "P-uni":
            chosen, rest = rest[:, 0], torch.cat([rest[:, 1:], torch.zeros_like(rest[:, :1])], dim=1)
        most = self._start_variance**0.5
        rest = rest.clamp(-most, most)
        plan = Plan(actions, found.predicted_return, candidates, found.returns, found.weights, {"plan": rest})
        return plan, chosen

    def _noise_returns(
        self, obs: Tensor, noise: Tensor, reference: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Return ``[B, P]`` for noise ``[B, P, (H,) ...]``."""
        to_env = self._planner.action_set.to_env
        if reference is not None:
            return self._returns(obs, to_env((reference[:, None] + noise).clamp(-1, 1)), generator)
        if self.variant == "P-uni":
            noise = noise[:, :, None].expand(-1, -1, self.horizon, -1)
        return self._returns(
            obs, noise, generator, lambda seen, control: to_env(self._perturbed(seen, control).clamp(-1, 1))
        )

    def _perturbed(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return actions ``[K, C, A]`` of the policy with noise ``[C, ...]`` at observations ``[K, C, D]``."""
        if self._in_parameters:
            return self.policy.propose_with(self.policy.parameter_vector() + noise, obs)
        return self.policy.propose(obs).clamp(-1, 1) + noise

    def _first_actions(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the first actions ``[B, P, A]`` for noise ``[B, P, (H,) ...]``, in units of the search."""
        first = noise if self.variant == "P-uni" else noise[:, :, 0]
        seen = obs[:, None].expand(-1, first.shape[1], -1).flatten(0, 1)
        actions = self._perturbed(seen[None], first.flatten(0, 1))[0].clamp(-1, 1)
        return actions.unflatten(0, first.shape[:2])

    def _policy_actions(self, obs: Tensor) -> Tensor:
        """Roll the policy out in the model's mean; returns its actions ``[B, H, A]`` in units of the search."""
        actions: list[Tensor] = []

        def act(step: int, obs: Tensor) -> Tensor:
            actions.append(self.policy.propose(obs).clamp(-1, 1))
            return self._planner.action_set.to_env(actions[-1])

        open_loop(self.dynamics, obs, act, self.horizon)
        # Where the model diverges, proposals are 0, the middle of the action range.
        return torch.stack(actions, dim=1).nan_to_num(0.0)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        plan: bool = True,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Plan, or ask the policy.

        Args:
            observation: as SB3's agents take it.
            state: what the last call returned; None for a new start.
            episode_start: ``[B]`` bool, environments whose plans are forgotten.
            deterministic: ignored.
            plan: whether to plan; if not, the distilled policy acts alone, and the state stays as it is.

        Returns:
            Actions, and the state for the next call.

        Raises:
            ValueError: as :meth:`PlanningAgent.predict`.
        """
        if plan:
            return super().predict(observation, state, episode_start, deterministic)
        obs, is_batch = self.flat_observation(observation)
        started_episodes(episode_start, len(obs))
        with torch.no_grad():
            action = self.dynamics.action_codec.decode_numpy(self.policy.act(obs))
        return action if is_batch else action[0], state

    # -- learning -------------------------------------------------------------------------------

    def _act(self, obs: Tensor, state: PlannerState, seed: int) -> Plan:
        plan, noise = self._plan_with_noise(obs, state, seed)
        searched = self._planner.action_set.from_env(plan.action)
        kept = noise if self._method == "avg" else noise.new_empty(len(noise), 0)
        self._planned.append((obs.cpu(), searched.cpu(), kept.cpu()))
        return plan

    def _fit(self, experience: Experience) -> None:
        """Fit the model, then the policy to the plans."""
        super()._fit(experience)
        if not self._planned:
            return
        obs, actions, noise = (torch.cat(parts).to(self.device) for parts in zip(*self._planned, strict=True))
        if not self.distil_all:
            self._planned = []
        self.policy.whitening.fit(experience.rows().obs)
        if self._method == "avg":
            vector = self.policy.parameter_vector().detach() + noise.mean(0)
            nn.utils.vector_to_parameters(vector, self.policy.net.parameters())
            self._plan_state = None  # its noise was found for the parameters before this update
            return
        distil = self._imitate if self._method == "bc" else self._imitate_adversarially
        self.logger.record("policy/loss", distil(obs, actions))

    def _imitate(self, obs: Tensor, actions: Tensor) -> float:
        """Regress the policy on the executed actions (BC-AR, BC-PR)."""
        optimizer = self._optimizer(self.policy.net)
        loss = torch.zeros(())
        for rows in self._batches(len(obs), _EPOCHS):
            loss = F.mse_loss(self.policy.propose(obs[rows]), actions[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    def _imitate_adversarially(self, obs: Tensor, actions: Tensor) -> float:
        """Train the policy to fool a discriminator of (observation, action) pairs, with a gradient penalty (GAN)."""
        width = obs.shape[1] + actions.shape[1]
        units = _DISCRIMINATOR_UNITS
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=self._fit_generator)))
            discriminator = nn.Sequential(
                nn.Linear(width, units), nn.LeakyReLU(), nn.Linear(units, units), nn.LeakyReLU(), nn.Linear(units, 1)
            ).to(self.device)
        of_policy, of_discriminator = self._optimizer(self.policy.net), self._optimizer(discriminator)
        loss = torch.zeros(())
        for rows in self._batches(len(obs), _GAN_EPOCHS):
            seen = self.policy.whitening.normalize(obs[rows])
            real = torch.cat([seen, actions[rows]], dim=1)
            fake = torch.cat([seen, self.policy.net(seen)], dim=1)
            mix = torch.rand(len(real), 1, generator=self._fit_generator).to(real)
            between = (mix * real + (1 - mix) * fake.detach()).requires_grad_()
            (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
            penalty = _GRADIENT_PENALTY * (slope.norm(dim=1) - 1).square().mean()
            verdict = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake.detach())).mean()
            of_discriminator.zero_grad()
            (verdict + penalty).backward()
            of_discriminator.step()
            loss = F.softplus(-discriminator(fake)).mean()
            of_policy.zero_grad()
            loss.backward()
            of_policy.step()
        return float(loss.detach())

    @staticmethod
    def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)

    def _batches(self, rows: int, epochs: int) -> list[Tensor]:
        """Return the rows of each gradient step."""
        orders = [torch.randperm(rows, generator=self._fit_generator) for _ in range(epochs)]
        return [batch.to(self.device) for order in orders for batch in order.split(_BATCH)]
