"""The probabilistic ensemble of PETS and MBPO: its settings, its fit and its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_device
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models import model_file as storage
from mbrl_wrappers.models.ensemble.fit import check_outcomes, fit_networks, total_score
from mbrl_wrappers.models.ensemble.member_steps import MemberSteps
from mbrl_wrappers.models.ensemble.settings import OF_FORMAT_1, layer_decay
from mbrl_wrappers.models.env_specs import spaces_and_id
from mbrl_wrappers.models.fit import MAX_HOLDOUT_ROWS, Progress, holdout_mask, spread_rows
from mbrl_wrappers.models.given import GivenFunction, known_functions
from mbrl_wrappers.models.heads import Outputs
from mbrl_wrappers.models.reward_transfer import state_without_reward
from mbrl_wrappers.spaces import space_to_json
from mbrl_wrappers.types import Outcome, Transitions


class EnsembleDynamics(MemberSteps):
    """Bootstrapped ensemble of probabilistic networks (Chua et al. 2018; Janner et al. 2019, section 5).

    Every member predicts a diagonal Gaussian over the change of the continuous parts of an observation (with
    ``residual=False`` over their next values), a categorical distribution over each discrete part and a probability for
    each flag. Unless they are given as functions, the reward (a Gaussian) and the termination (a probability) are
    predicted by two further networks of the member from ``(obs, action, next_obs)``, so that they fit the sampled next
    observation. A sampled prediction takes one random elite per row (TS1 of PETS, and MBPO's rollouts); elites are
    drawn balanced over the batch, and each row is evaluated by its own elite only. A deterministic prediction is the
    mean of the elites; it terminates where their mean probability exceeds one half.

    Deviations from the papers: rewards and terminations have separate networks (``joint=True``: they are outputs of
    the same network, as in the papers); each network is fitted separately, for as long as it improves; predicted
    observations stay near the observed range (``range_margin=None``: anywhere), and columns that never changed keep
    their values; targets are normalised as the inputs are (``normalize_targets=False`` restores the papers' raw
    targets; ``docs/results/normalized_targets.md`` has the effect); the optimiser starts afresh at each fit;
    log-variance bounds are per member (:class:`~mbrl_wrappers.models.network.EnsembleMLP`).

    Args:
        observation_space: the environment's.
        action_space: the environment's.
        num_members: networks in the ensemble.
        num_elites: how many of them predict: the best on the hold-out.
        hidden: units of the hidden layers. The networks of rewards and terminations have the first two layers only, at
            half the width, but not less than 64 units or the full width, whichever is smaller.
        num_components: Gaussians in the mixture that a member predicts for the continuous parts; use more than one if
            values jump, such as the position of a pipe that leaves the screen and reappears.
        joint: whether one network predicts the next observation, the reward and the termination from ``(obs,
            action)``, as in the papers. Sampled rewards and terminations then don't depend on the sampled ``next_obs``.
        range_margin: how far predictions may leave the observed range of each column, as a share of this range, at
            least 0; None for no limit. Gradients pass the limit unchanged.
        learning_rate: Adam's.
        weight_decay: L2 factor per layer, output layer included; a single number for all layers.
            Default: MBPO's five values for four hidden layers, 1e-4 otherwise.
        batch_size: rows per member and gradient step.
        holdout_ratio: share of the transitions that is never trained on; at most 5000 of these rows are scored.
        patience: a fit stops when the hold-out errors have fallen by less than 5% over ``patience + 1`` epochs, by the
            mean of their logarithms over the targets that can be predicted at all.
        min_epoch_steps: least gradient steps of an epoch.
        max_steps: most gradient steps of one fit; None for no limit.
        beta_nll: in [0, 1]: each term of the loss is weighted by the predicted variance to this power (the
            beta-NLL of Seitzer et al. 2022), unless there are several components. At 0, the papers' loss, rare and
            abrupt steps such as impacts may be mistaken for noise, and their mean is hardly learned; at 1 the mean has
            the gradient of the squared error.
        holdout_metric: the error on the hold-out that selects the best weights and the elites, and stops the fit. A
            few abrupt steps such as impacts can dominate the squared error (``"mse"``, MBPO's), which then says
            nothing about the smooth steps; the absolute error (``"mae"``) still does.
        averaging: decay of the running average of the weights at each gradient step, in [0, 1); this average is scored
            and kept. 0 for the last weights, as in the papers.
        reward_fn: ``(obs [N, D], action [N, A], next_obs [N, D]) -> [N]`` instead of a learned reward,
            or the id of an environment whose reward function is known.
        termination_fn: the same for a learned termination; the function returns bool.
        normalize_targets: whether targets are shifted to mean 0 and scaled to standard deviation 1.
        residual: whether the networks predict the change of an observation, as in the papers, or the next observation
            itself (FTFL, Barkley and Fridovich-Keil 2025); ``docs/results/normalized_targets.md`` compares the two.
        seed: of the initial weights.
        device: of the model's tensors.

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
        num_components: int = 1,
        joint: bool = False,
        range_margin: float | None = 0.2,
        learning_rate: float = 3e-3,
        weight_decay: float | Sequence[float] | None = None,
        batch_size: int = 64,
        holdout_ratio: float = 0.2,
        patience: int = 5,
        min_epoch_steps: int = 20,
        max_steps: int | None = None,
        beta_nll: float = 0.5,
        holdout_metric: str = "mse",
        averaging: float = 0.98,
        reward_fn: GivenFunction | str | None = None,
        termination_fn: GivenFunction | str | None = None,
        normalize_targets: bool = True,
        residual: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        check_device("device", device)
        if not isinstance(hidden, Sequence) or not hidden:
            raise ValueError(f"hidden must name the units of at least one layer, got {hidden!r}")
        settings: dict[str, Any] = {
            "num_members": num_members,
            "num_elites": num_elites,
            "hidden": list(hidden),
            "num_components": num_components,
            "joint": joint,
            "range_margin": range_margin,
            "learning_rate": learning_rate,
            "weight_decay": layer_decay(weight_decay, len(hidden) + 1),
            "batch_size": batch_size,
            "holdout_ratio": holdout_ratio,
            "patience": patience,
            "min_epoch_steps": min_epoch_steps,
            "max_steps": max_steps,
            "beta_nll": beta_nll,
            "holdout_metric": holdout_metric,
            "averaging": averaging,
            "normalize_targets": normalize_targets,
            "residual": residual,
            "seed": seed,
        }
        super().__init__(observation_space, action_space, settings, reward_fn, termination_fn)
        self._note_columns()
        self.to(device)

    @classmethod
    def for_env(cls, env: str | gym.Env | Any, *, known_reward: bool = False, **kwargs: Any) -> EnsembleDynamics:
        """Build a model for an environment, with its known termination function if it has one.

        Known functions are used only for an env with the rules of the registered one. With constructor arguments that
        may change them, or a wrapper that may change its steps, they are learned.

        Args:
            env: an env id, a Gymnasium env, its class or a function that makes one, a Stable-Baselines3 VecEnv, or an
                agent that has one, with supported spaces. Under a VecNormalize, the model works with raw observations
                and rewards.
            known_reward: whether to use the env's known reward function too, if it has one.
            **kwargs: the constructor's arguments; they take precedence over known functions.

        Raises:
            ValueError: for anything else, or an env with unsupported spaces.

        Example:
            >>> model = EnsembleDynamics.for_env("Pendulum-v1", hidden=(64, 64))
            >>> model.reward_name, EnsembleDynamics.for_env("Pendulum-v1", known_reward=True).reward_name
            ('learned', 'Pendulum-v1')
        """
        observation_space, action_space, env_id = spaces_and_id(env)
        found = known_functions(env_id, known_reward=known_reward)
        return cls(observation_space, action_space, **{**found, **kwargs})

    # -- fitting -----------------------------------------------------------------------------------------

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Train on all rows of the experience, from the current weights; see :meth:`WorldModel.fit`.

        Returns:
            ``holdout_error`` (``holdout_metric`` of normalised targets plus the cross-entropy of discrete ones, mean
            over the elites), ``train_loss``, ``grad_steps`` of all networks together, and ``rows``. For mean
            predictions of the hold-out also ``reward_r2`` if the reward is learned and varies, ``ends_recall`` if there
            are terminations, ``ends_precision`` if some are predicted, and ``ends_log_loss`` if they are learned.
        """
        transitions = experience.rows().to(self.device)
        self._check_transitions(transitions)
        self._observe(transitions)
        self.columns.fit(transitions)
        self._note_columns()
        held = holdout_mask(transitions.key, self.settings["holdout_ratio"])
        if held.all() or not held.any():  # too few rows to spare one
            train, holdout = transitions, transitions
        else:
            train, holdout = transitions[~held], transitions[spread_rows(held, MAX_HOLDOUT_ROWS)]
        reports = fit_networks(self, train, holdout, generator, Progress(len(train)) if self.verbose else None)
        score = total_score(reports)
        self._choose_elites(score)
        self._keep_start_states(train.obs, generator)
        return {
            "holdout_error": float(score[self.elites].mean()),
            "train_loss": sum(report.train_loss for report in reports.values()),
            "grad_steps": float(sum(report.steps for report in reports.values())),
            "rows": float(len(transitions)),
            **check_outcomes(self, holdout, *self._mean_outcome(holdout), reports),
        }

    @torch.no_grad()
    def _mean_outcome(self, transitions: Transitions) -> tuple[Outcome, Tensor | None]:
        """Return the mean predictions and, where terminations are learned, their chances ``[B]``."""
        chances: list[Tensor] = []

        def run(name: str, x: Tensor) -> Outputs:
            outputs = self.run_mixture(name, x)
            if name == "termination_network" or (name == "network" and self.has_joint_end):
                chances.append(outputs.flags[:, -1].sigmoid())
            return outputs

        rows = self.as_rows(transitions.obs, transitions.action)
        outcome = self.advance(rows, run, None, deterministic=True, sample_discrete=False).outcome
        return outcome, chances[0] if self.termination_fn is None else None

    # -- another task ------------------------------------------------------------------------------------

    def with_reward(self, reward_fn: GivenFunction | str) -> EnsembleDynamics:
        """Return the same model of the world with another reward: for a new task without a single new real step.

        Args:
            reward_fn: ``(obs [N, D], action [N, A], next_obs [N, D]) -> [N]``, or an environment's id, as in the
                constructor.

        Returns:
            A copy; terminations, start states and all networks but the reward's are this model's. Of a joint model the
            noise has another width, so that samples differ for the same generator.

        Raises:
            ValueError: for what is no reward function.

        Example:
            >>> model = zoo.load_dynamics("mbpo/Pendulum-v1")                                     # doctest: +SKIP
            >>> spinning = model.with_reward(lambda obs, action, next_obs: next_obs[:, 2].abs())  # doctest: +SKIP
            >>> PPO("MlpPolicy", ImaginedVecEnv(spinning, num_envs=32)).learn(100_000)            # doctest: +SKIP
        """
        own_end = self.termination_fn if self.termination_name == "custom" else self.termination_name
        model = type(self)(
            self.observation_space,
            self.action_space,
            **self.settings,
            reward_fn=reward_fn,
            termination_fn=None if own_end == "learned" else own_end,
            device=self.device,
        )
        if model.reward_fn is None:
            raise ValueError(f"reward_fn must be a function or an environment's id, got {reward_fn!r}")
        # A reward function may be a module, whose own tensors stay.
        own = {name: value for name, value in model.state_dict().items() if name.startswith("reward_fn.")}
        state = state_without_reward(self.state_dict(), self.network.heads, self.has_joint_reward)
        model.to(self.dtype).load_state_dict(own | state)
        model.verbose = self.verbose
        return model

    # -- saving ------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Restore weights, normalisers, elites and start states; the number of start states may differ."""
        elites = state_dict.get("elites", self.elites)
        if elites.dtype != torch.int64 or not ((elites >= 0) & (elites < self.network.num_members)).all():
            raise RuntimeError(f"elites must be int64 in [0, {self.network.num_members}), got {elites}")
        result = super().load_state_dict(state_dict, strict, assign)
        self._elite_list = self.elites.tolist()
        self._note_columns()
        return result

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Refuse pickles of releases that had no networks of outcomes."""
        if "columns" not in state["_modules"]:
            raise ValueError(
                "this model was pickled by an older release: load it there, write it by dynamics.save or zoo.save, and "
                "load that file here"
            )
        super().__setstate__(state)

    def save(self, path: str | Path) -> None:
        """Write weights and description into one safetensors file, atomically.

        A given reward or termination function is stored by its environment's id; one of your own
        can't be stored and is asked for again by :meth:`load`.

        Args:
            path: such as ``"hopper.safetensors"``.
        """
        storage.save(path, "EnsembleDynamics", self, self.description())

    def description(self) -> dict[str, Any]:
        """Return the JSON-safe values that :meth:`from_description` builds an equal model from, weights excepted.

        A given function is described by its environment's id, one of your own by ``"custom"``.
        """
        return {
            "format_version": storage.FORMAT_VERSION,
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
        """Build a model with fresh weights from a :meth:`description`.

        Args:
            description: names in it are looked up, never imported.
            reward_fn: your own reward function, if the described model had one.
            termination_fn: your own termination function, if the described model had one.

        Raises:
            ValueError: if the description is of another kind of model, or a function of your own is missing or unused.
        """
        functions: dict[str, Any] = {}
        for name, given in (("reward_fn", reward_fn), ("termination_fn", termination_fn)):
            stored = description["functions"].get(name)
            if (stored == "custom") != (given is not None):
                wanted = "a function of your own" if stored == "custom" else f"None, since it is {stored!r} there"
                raise ValueError(f"{name} must be {wanted} for this model, got {given}")
            functions[name] = given if stored == "custom" else stored
        settings = description["settings"]
        if description.get("format_version", 1) < 2:
            settings = {**OF_FORMAT_1, **settings}
        try:
            observation_space, action_space = storage.spaces_of(description)
            model = cls(observation_space, action_space, **settings, **functions)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"the description is not that of an EnsembleDynamics: {error}") from error
        if description.get("format_version", 1) < 2 and model.columns.num_discrete:
            raise ValueError(
                "the model is of an older release, which took the discrete parts of observations for continuous ones: "
                "fit it anew (mbrl-zoo train with its recipe)"
            )
        return model

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
            reward_fn: your own reward function, if the saved model had one.
            termination_fn: your own termination function, if the saved model had one.
            device: where to put the model.

        Raises:
            ValueError: if the file holds another kind of model, or a function of your own is missing or unused.
        """
        header, tensors = storage.load(path, "EnsembleDynamics")
        try:
            model = cls.from_description(header, reward_fn=reward_fn, termination_fn=termination_fn)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if header["format_version"] < 2:
            tensors = storage.upgraded(tensors, model)
        storage.restore(model, tensors, path)
        return model.to(device)
