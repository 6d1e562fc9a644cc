"""The probabilistic ensemble of PETS and MBPO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.models import routing, storage
from mbrl_wrappers.models.base import DynamicsModel, InferredStep, ParticleStep
from mbrl_wrappers.models.fit import (
    HOLDOUT_METRICS,
    MAX_HOLDOUT_ROWS,
    FitData,
    FitReport,
    FitSettings,
    fit_ensemble,
    holdout_mask,
    spread_rows,
)
from mbrl_wrappers.models.given import GivenFunction, call_given, known_functions, registered_id, resolve
from mbrl_wrappers.models.network import ChosenMembers, EnsembleMLP
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.models.uncertainty import Measure, MemberGaussians
from mbrl_wrappers.spaces import space_to_json
from mbrl_wrappers.types import Outcome, Prediction, Transitions

PAPER_WEIGHT_DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)


class EnsembleDynamics(DynamicsModel):
    """Bootstrapped ensemble of probabilistic networks (Chua et al. 2018; Janner et al. 2019, section 5).

    Every member predicts a diagonal Gaussian over ``[next_obs - obs, reward]``. A sampled prediction
    takes one random elite per row (TS1 of PETS, and MBPO's rollouts); members are drawn balanced over
    the batch, and only the member that a row needs is evaluated. A termination that is not given is a
    logit beside the Gaussian; a step terminates where it is positive.

    Deviations from the papers: targets are normalised as the inputs are (``normalize_targets=False``
    restores the papers' raw targets; ``docs/results/normalized_targets.md`` has what it changes); the
    optimiser starts afresh at each fit; log-variance bounds are per member
    (:class:`~mbrl_wrappers.models.network.EnsembleMLP`).

    Args:
        observation_space: the environment's.
        action_space: the environment's.
        num_members: networks in the ensemble.
        num_elites: how many of them predict: the best on the hold-out.
        hidden: units of the hidden layers.
        learning_rate: Adam's.
        weight_decay: L2 factor per layer, output layer included; a single number for all layers.
            Default: MBPO's five values for four hidden layers, 1e-4 otherwise.
        batch_size: rows per member and gradient step.
        holdout_ratio: share of the transitions that is never trained on, at most 5000 rows of it scored.
        patience: a fit stops when more epochs than this go by without a 1% gain of any member.
        min_epoch_steps: gradient steps that an epoch has at least.
        max_steps: most gradient steps of one fit; None for no limit.
        beta_nll: in [0, 1]: each term of the loss is weighted by the predicted variance to this power (the
            beta-NLL of Seitzer et al. 2022). At 0, the papers' loss, rare and abrupt steps such as impacts may be
            taken for noise and their mean hardly be learned; at 1 the mean's gradient is that of squared errors.
        holdout_metric: which error on the hold-out tells the best weights and the elites, and when to stop. Of the
            squared error (``"mse"``, MBPO's) a few abrupt steps such as impacts can make up nearly all, and then it
            says nothing of the smooth steps; the absolute error (``"mae"``) does.
        reward_fn: ``(obs [N, D], action [N, A], next_obs [N, D]) -> [N]`` instead of a learned reward,
            or the id of an environment whose reward function is known.
        termination_fn: likewise, returning bool, instead of a learned termination.
        normalize_targets: whether targets are scaled to unit spread.
        seed: of the initial weights.
        device: where the model lies.

    Raises:
        ValueError: for an argument out of its range, an unsupported space, or an unknown id.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        num_members: int = 7,
        num_elites: int = 5,
        hidden: Sequence[int] = (200, 200, 200, 200),
        learning_rate: float = 1e-3,
        weight_decay: float | Sequence[float] | None = None,
        batch_size: int = 256,
        holdout_ratio: float = 0.2,
        patience: int = 5,
        min_epoch_steps: int = 20,
        max_steps: int | None = None,
        beta_nll: float = 0.0,
        holdout_metric: str = "mse",
        reward_fn: GivenFunction | str | None = None,
        termination_fn: GivenFunction | str | None = None,
        normalize_targets: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space)
        if not isinstance(hidden, Sequence) or not hidden:
            raise ValueError(f"hidden must name the units of at least one layer, got {hidden!r}")
        self.settings: dict[str, Any] = {
            "num_members": num_members,
            "num_elites": num_elites,
            "hidden": list(hidden),
            "learning_rate": learning_rate,
            "weight_decay": _layer_decay(weight_decay, len(hidden) + 1),
            "batch_size": batch_size,
            "holdout_ratio": holdout_ratio,
            "patience": patience,
            "min_epoch_steps": min_epoch_steps,
            "max_steps": max_steps,
            "beta_nll": beta_nll,
            "holdout_metric": holdout_metric,
            "normalize_targets": normalize_targets,
            "seed": seed,
        }
        _check_ranges(self.settings)
        self.reward_fn, self.reward_name = resolve(reward_fn, "reward_fn")
        self.termination_fn, self.termination_name = resolve(termination_fn, "termination_fn")
        target_dim = self.obs_codec.dim + (self.reward_fn is None)
        self.input_normalizer = Normalizer(self.obs_codec.dim + self.action_codec.dim)
        self.target_normalizer = Normalizer(target_dim)
        self.network = EnsembleMLP(
            num_members,
            self.obs_codec.dim + self.action_codec.dim,
            target_dim,
            int(self.termination_fn is None),
            hidden,
            seed,
        )
        self.elites: Tensor
        self.register_buffer("elites", torch.arange(num_elites))
        self._elite_list = list(range(num_elites))
        self.to(device)

    @classmethod
    def for_env(cls, env: gym.Env, *, known_reward: bool = False, **kwargs: Any) -> EnsembleDynamics:
        """Build a model for an environment, with its known termination function if it has one.

        The functions are used only where the env is the registered one as it comes: other constructor
        arguments or a wrapper that may change what is observed leave them to be learned.

        Args:
            env: any Gymnasium env with supported spaces.
            known_reward: whether to take the env's known reward function too, if it has one.
            **kwargs: as for the constructor, overriding what is found.
        """
        found = known_functions(registered_id(env.spec), known_reward=known_reward)
        return cls(env.observation_space, env.action_space, **{**found, **kwargs})

    def predict(
        self,
        obs: Tensor,
        action: Tensor,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        members: Tensor | None = None,
    ) -> Prediction:
        """Predict one step; see :meth:`DynamicsModel.predict`.

        Args:
            obs: ``[..., D]``.
            action: ``[..., A]``.
            generator: draws the members and the noise.
            deterministic: the mean over the elites; otherwise a sample of one random elite per row.
            members: ``[...]`` int64, which member predicts each row; default: balanced at random
                over the elites.

        Returns:
            The prediction, with the leading dimensions of ``obs``.
        """
        flat_obs, flat_action, x = self._inputs(obs, action)
        if deterministic:
            mean, std, logits = self._mixture(x)
            target = mean
        else:
            mean, std, logits = routing.evaluate(self.network, x, self._groups(obs, members, generator))
            target = _sampled(mean, std, generator)
        return _prediction(self._outcome(obs, flat_obs, flat_action, target, logits), std)

    @property
    def particle_members(self) -> list[int]:
        """The elites; see :class:`DynamicsModel`."""
        return list(self._elite_list)

    def particle_step(self, members: Sequence[int], *, deterministic: bool = False) -> ParticleStep:
        """Return a function that takes steps as some members; see :meth:`DynamicsModel.particle_step`.

        The members' parameters are constants to it, without a gradient.
        """
        chosen = self._chosen(members)

        def step(obs: Tensor, action: Tensor, generator: torch.Generator | None) -> Outcome:
            flat_obs, flat_action, x = self._inputs(obs, action)
            outputs = self.network.evaluate(chosen, x.reshape(len(members), -1, x.shape[-1]))
            mean, std, logits = (output.flatten(0, 1) for output in outputs)
            target = mean if deterministic else _sampled(mean, std, generator)
            return self._outcome(obs, flat_obs, flat_action, target, logits)

        return step

    def inferred_step(self, members: Sequence[int]) -> InferredStep:
        """Return a function that takes real steps once more; see :meth:`DynamicsModel.inferred_step`.

        The members' parameters are constants to it, without a gradient.
        """
        chosen = self._chosen(members)

        def step(obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
            flat_obs, flat_action, x = self._inputs(obs, action)
            outputs = self.network.evaluate(chosen, x.reshape(len(members), -1, x.shape[-1]))
            mean, std, logits = (output.flatten(0, 1) for output in outputs)
            real = self._flatten(next_obs, "obs").to(flat_obs) - flat_obs
            if self.reward_fn is None:
                real = torch.cat([real, reward.reshape(-1, 1).to(real)], dim=-1)
            noise = ((self.target_normalizer.normalize(real) - mean) / std).detach()
            again, paid, _ = self._outcome(obs, flat_obs, flat_action, mean + std * noise, logits)
            return again, paid + (reward - paid).detach()  # a given function knows nothing of noise in rewards

        return step

    def _chosen(self, members: Sequence[int]) -> ChosenMembers:
        wrong = [member for member in members if not 0 <= member < self.network.num_members]
        if wrong or not members:
            raise ValueError(f"members must be in [0, {self.network.num_members}), got {list(members)}")
        with torch.no_grad():  # a compiled step would work out the gradients of weights that nobody asks for
            return self.network.choose(members)

    def predict_mixture(self, obs: Tensor, action: Tensor, *, generator: torch.Generator | None = None) -> Prediction:
        """Sample from the moment-matched mixture of the elites; see :meth:`DynamicsModel.predict_mixture`."""
        flat_obs, flat_action, x = self._inputs(obs, action)
        mean, std, logits = self._mixture(x)
        outcome = self._outcome(obs, flat_obs, flat_action, _sampled(mean, std, generator), logits)
        return _prediction(outcome, std)

    def predict_measured(
        self, obs: Tensor, action: Tensor, measure: Measure, *, generator: torch.Generator | None = None
    ) -> Prediction:
        """Sample one step, each row by a random elite, and measure all elites' predictions of it.

        See :meth:`DynamicsModel.predict_measured`. Every row is evaluated by every elite.
        """
        self.check_several_members()
        flat_obs, flat_action, x = self._inputs(obs, action)
        means, stds, logits = self.network.members(self._elite_list, x)
        places = list(range(len(self._elite_list)))
        drawn = routing.member_of_row(routing.dealt(len(x), places, generator, self.device))
        rows = torch.arange(len(x), device=x.device)
        target = _sampled(means[drawn, rows], stds[drawn, rows], generator)
        outcome = self._outcome(obs, flat_obs, flat_action, target, logits[drawn, rows])
        uncertainty = measure(MemberGaussians(means, stds), drawn)
        return Prediction(*outcome, uncertainty.reshape(outcome.reward.shape))

    def cross_step(self, obs: Tensor, action: Tensor) -> Outcome:
        """Take a step in the mean of each elite on rows of its own, and have all elites say what they are worth.

        The rollouts of STEVE (Buckman et al. 2018, section 3): every trajectory of a transition model is rated by
        every reward model.

        Args:
            obs: ``[M, R, D]``, the rows of each of the ``M`` elites.
            action: ``[M, R, A]``.

        Returns:
            ``next_obs [M, R, D]`` and ``terminated [M, R]`` by each one's own elite, ``reward [M, M, R]``: first the
            elite that rates, then the one whose row it is.

        Raises:
            ValueError: for another number of elites, fewer than two of them, or a reward that is given, not learned.
        """
        self.check_several_members()
        members = len(self._elite_list)
        if self.reward_fn is not None:
            raise ValueError(f"dynamics must have a learned reward, got reward_fn={self.reward_fn}")
        if obs.dim() != 3 or len(obs) != members:
            raise ValueError(f"obs must have shape [{members}, R, {self.obs_codec.dim}], got {tuple(obs.shape)}")
        flat_obs, flat_action, x = self._inputs(obs, action)
        means, _, logits = self.network.members(self._elite_list, x)
        means, logits = (output.unflatten(1, (members, -1)) for output in (means, logits))
        own = torch.arange(members, device=x.device)
        outcome = self._outcome(
            obs, flat_obs, flat_action, means[own, own].flatten(0, 1), logits[own, own].flatten(0, 1)
        )
        reward = self.target_normalizer.denormalize(means)[..., -1]
        return Outcome(outcome.next_obs, reward, outcome.terminated)

    def _inputs(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return observations and actions as rows in the model's dtype, and the network's input made of them."""
        dtype = self._like.dtype
        flat_obs, flat_action = self._flatten(obs, "obs").to(dtype), self._flatten(action, "action").to(dtype)
        return flat_obs, flat_action, self.input_normalizer.normalize(torch.cat([flat_obs, flat_action], dim=-1))

    def _outcome(self, obs: Tensor, flat_obs: Tensor, flat_action: Tensor, target: Tensor, logits: Tensor) -> Outcome:
        """Turn the network's outputs, as rows, into where they lead, with the leading dimensions of ``obs``."""
        target = self.target_normalizer.denormalize(target)
        next_obs = self.obs_codec.snap(flat_obs + target[:, : self.obs_codec.dim])
        if self.reward_fn is None:
            reward = target[:, -1]
        else:
            reward = call_given(self.reward_fn, "reward_fn", flat_obs, flat_action, next_obs)
        if self.termination_fn is None:
            terminated = logits[:, 0] > 0
        else:
            terminated = call_given(self.termination_fn, "termination_fn", flat_obs, flat_action, next_obs)
        batch = obs.shape[:-1]
        return Outcome(next_obs.reshape(obs.shape), reward.reshape(batch), terminated.reshape(batch))

    def _groups(self, obs: Tensor, members: Tensor | None, generator: torch.Generator | None) -> routing.Deal:
        """Return who predicts which row, of rows with the leading dimensions of ``obs``."""
        batch = obs.shape[:-1]
        if members is None:
            return routing.dealt(batch.numel(), self._elite_list, generator, self.device)
        if members.shape != batch:
            raise ValueError(f"members must have shape {tuple(batch)}, got {tuple(members.shape)}")
        return routing.grouped(members.reshape(-1), self.network.num_members)

    def _mixture(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Match the first two moments of the equal mixture of the elites; logits are averaged."""
        means, stds, logits = self.network.members(self._elite_list, x)
        mean = means.mean(0)
        variance = stds.square().mean(0) + (means - mean).square().mean(0)
        return mean, variance.sqrt(), logits.mean(0)

    def fit(self, transitions: Transitions, generator: torch.Generator | None = None) -> dict[str, float]:
        """Train on all transitions given, from the current weights; see :meth:`DynamicsModel.fit`.

        Returns:
            ``holdout_error`` (``holdout_metric`` of normalised targets, mean over elites), ``train_loss``,
            ``grad_steps``, ``rows``.
        """
        transitions = transitions.to(self.device)
        self._check_transitions(transitions)
        held = holdout_mask(transitions.key, self.settings["holdout_ratio"])
        if held.all() or not held.any():  # too few rows to spare one
            train, holdout = transitions, transitions
        else:
            train, holdout = transitions[~held], transitions[spread_rows(held, MAX_HOLDOUT_ROWS)]
        self._fit_normalizers(train)
        report = fit_ensemble(
            self.network, self._fit_data(train), self._fit_data(holdout), self._fit_settings(), generator
        )
        self._choose_elites(report)
        self._keep_start_states(train.obs, generator)
        return {
            "holdout_error": float(report.score[self.elites].mean()),
            "train_loss": report.train_loss,
            "grad_steps": float(report.steps),
            "rows": float(len(transitions)),
        }

    def _targets(self, transitions: Transitions) -> Tensor:
        delta = transitions.next_obs - transitions.obs
        return delta if self.reward_fn is not None else torch.cat([delta, transitions.reward[:, None]], dim=-1)

    def _fit_normalizers(self, train: Transitions) -> None:
        self.input_normalizer.fit(torch.cat([train.obs, train.action], dim=-1))
        if self.settings["normalize_targets"]:
            self.target_normalizer.fit(self._targets(train))

    def _fit_data(self, transitions: Transitions) -> FitData:
        dtype = self._like.dtype
        return FitData(
            self.input_normalizer.normalize(torch.cat([transitions.obs, transitions.action], dim=-1).to(dtype)),
            self.target_normalizer.normalize(self._targets(transitions).to(dtype)),
            transitions.terminated[:, None].to(dtype),
        )

    def _fit_settings(self) -> FitSettings:
        return FitSettings(**{field.name: self.settings[field.name] for field in fields(FitSettings)})

    def _choose_elites(self, report: FitReport) -> None:
        # Python's list beside the buffer: picking a member must not wait for a device.
        self.elites.copy_(report.score.argsort()[: len(self.elites)])
        self._elite_list = self.elites.tolist()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Restore weights, normalisers, elites and start states; the number of start states may differ."""
        elites = state_dict.get("elites", self.elites)
        if elites.dtype != torch.int64 or not ((elites >= 0) & (elites < self.network.num_members)).all():
            raise RuntimeError(f"elites must be int64 in [0, {self.network.num_members}), got {elites}")
        result = super().load_state_dict(state_dict, strict, assign)
        self._elite_list = self.elites.tolist()
        return result

    def save(self, path: str | Path) -> None:
        """Write weights and description into one safetensors file, atomically.

        A given reward or termination function is stored by its environment's id; one of your own
        can't be stored and is asked for again by :meth:`load`.

        Args:
            path: such as ``"hopper.safetensors"``.
        """
        storage.save(path, "EnsembleDynamics", self, self.description())

    def description(self) -> dict[str, Any]:
        """Return what :meth:`from_description` builds an equal model of, without its state, as JSON-safe values.

        A given function is described by its environment's id, one of your own by ``"custom"``.
        """
        return {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "settings": self.settings,
            "functions": {"reward_fn": self.reward_name, "termination_fn": self.termination_name},
        }

    @classmethod
    def from_description(
        cls,
        description: dict[str, Any],
        *,
        reward_fn: GivenFunction | None = None,
        termination_fn: GivenFunction | None = None,
    ) -> EnsembleDynamics:
        """Build a model with fresh weights from what :meth:`description` returned.

        Args:
            description: names in it are looked up, never imported.
            reward_fn: your own function, if the described model had one.
            termination_fn: likewise.

        Raises:
            ValueError: if the description is not that of such a model, or a function of your own is missing.
        """
        functions: dict[str, Any] = {}
        for name, given in (("reward_fn", reward_fn), ("termination_fn", termination_fn)):
            stored = description["functions"].get(name)
            if (stored == "custom") != (given is not None):
                wanted = "a function of your own" if stored == "custom" else f"None, since it is {stored!r} there"
                raise ValueError(f"{name} must be {wanted} for this model, got {given}")
            functions[name] = given if stored == "custom" else stored
        try:
            observation_space, action_space = storage.spaces_of(description)
            return cls(observation_space, action_space, **description["settings"], **functions)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"the description is not that of an EnsembleDynamics: {error}") from error

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        reward_fn: GivenFunction | None = None,
        termination_fn: GivenFunction | None = None,
        device: torch.device | str = "cpu",
    ) -> EnsembleDynamics:
        """Read a model written by :meth:`save`.

        Args:
            path: the file.
            reward_fn: your own function, if the saved model had one.
            termination_fn: likewise.
            device: where to put it.

        Raises:
            ValueError: if the file is not such a model, or a function of your own is missing.
        """
        header, tensors = storage.load(path, "EnsembleDynamics")
        try:
            model = cls.from_description(header, reward_fn=reward_fn, termination_fn=termination_fn)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        storage.restore(model, tensors, path)
        return model.to(device)


def _prediction(outcome: Outcome, std: Tensor) -> Prediction:
    """Add the uncertainty, from the standard deviations of all targets, as rows."""
    root_mean_square = torch.linalg.vector_norm(std, dim=-1) * std.shape[-1] ** -0.5
    return Prediction(*outcome, root_mean_square.reshape(outcome.reward.shape))


def _sampled(mean: Tensor, std: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device))


def _layer_decay(weight_decay: float | Sequence[float] | None, num_layers: int) -> list[float]:
    if weight_decay is None:
        return list(PAPER_WEIGHT_DECAY) if num_layers == len(PAPER_WEIGHT_DECAY) else [1e-4] * num_layers
    if isinstance(weight_decay, Iterable):
        decay = list(weight_decay)
        if len(decay) != num_layers:
            raise ValueError(f"weight_decay must have one number per layer, {num_layers}, got {decay}")
        return decay
    return [weight_decay] * num_layers


def _check_ranges(settings: dict[str, Any]) -> None:
    for name, least in (("num_members", 1), ("batch_size", 1), ("patience", 0), ("min_epoch_steps", 1)):
        check_whole_number(name, settings[name], least)
    if settings["max_steps"] is not None:
        check_whole_number("max_steps", settings["max_steps"])
    check_whole_number("num_elites", settings["num_elites"])
    if settings["num_elites"] > settings["num_members"]:
        raise ValueError(
            f"num_elites must be at most num_members={settings['num_members']}, got {settings['num_elites']}"
        )
    for units in settings["hidden"]:
        check_whole_number("hidden", units)
    check_number("beta_nll", settings["beta_nll"], 0, 1)
    if settings["holdout_metric"] not in HOLDOUT_METRICS:
        raise ValueError(f"holdout_metric must be one of {sorted(HOLDOUT_METRICS)}, got {settings['holdout_metric']!r}")
    check_number("learning_rate", settings["learning_rate"], 0, 1, low_is_valid=False)
    for decay in settings["weight_decay"]:
        check_number("weight_decay", decay, 0, 1)
    if not 0 < settings["holdout_ratio"] < 1:
        raise ValueError(f"holdout_ratio must be in (0, 1), got {settings['holdout_ratio']}")
