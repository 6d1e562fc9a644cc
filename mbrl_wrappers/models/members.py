"""The members of an ensemble: the interfaces that planners and agents use, also for a model without members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from mbrl_wrappers.models.uncertainty import Measure
from mbrl_wrappers.types import Outcome, Prediction

# ``(obs [M, R, D], action [M, R, A], generator) -> Outcome``; see :meth:`Members.particle_step`.
ParticleStep = Callable[[Tensor, Tensor, torch.Generator | None], Outcome]

# ``(obs [M, R, D], action [M, R, A], real next_obs [M, R, D], real reward [M, R]) -> next_obs, reward``; see
# :meth:`InfersNoise.inferred_step`.
InferredStep = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Members(Protocol):
    """A model as members that predict on their own; :func:`members_of` makes one of any model."""

    @property
    def particle_members(self) -> list[int]:
        """The members that a planner's particles are dealt out to: the elites of an ensemble."""

    def particle_step(
        self, members: Sequence[int], *, deterministic: bool = False, sample_discrete: bool | None = None
    ) -> ParticleStep:
        """Return a function that takes steps with some members, each member on separate rows.

        Args:
            members: ``M`` of ``particle_members``; the function keeps their parameters as they are at this call.
            deterministic: whether it predicts each member's mean instead of a sample.
            sample_discrete: whether categories, flags and terminations, which have no mean, are sampled; if not, they
                are the likeliest values. Default: the opposite of ``deterministic``.

        Returns:
            ``(obs [M, R, D], action [M, R, A], generator) -> Outcome`` with fields ``[M, R, ...]``: one step, for the
            rest like :meth:`DynamicsModel.predict <mbrl_wrappers.models.base.DynamicsModel.predict>`.

        Raises:
            ValueError: for a member that does not exist.
        """

    def predict_mixture(self, obs: Tensor, action: Tensor, *, generator: torch.Generator | None = None) -> Prediction:
        """Sample one step of a batch from the Gaussian with mean and variance of all members' predictions together."""


class Ensemble(Members, Protocol):
    """A model of two or more members that can be compared; :func:`ensemble_of` refuses others."""

    def predict_measured(
        self, obs: Tensor, action: Tensor, measure: Measure, *, generator: torch.Generator | None = None
    ) -> Prediction:
        """Sample one step of a batch, with an uncertainty that compares the members' predictions of it.

        Args:
            obs: ``[..., D]``.
            action: ``[..., A]``.
            measure: computes the uncertainty from all predictions; see :mod:`mbrl_wrappers.models.uncertainty`.
            generator: draws the members and the noise.

        Raises:
            ValueError: as :func:`ensemble_of`.
        """


class CrossesMembers(Ensemble, Protocol):
    """An ensemble whose members rate each other's steps, as STEVE needs it."""

    def cross_step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Outcome:
        """Take the mean step of each member on rows of its own, and have every member predict the rewards.

        The rollouts of STEVE (Buckman et al. 2018, section 3): every trajectory of a transition model is rated by
        every reward model. Categories, flags and terminations are sampled, from the same random numbers for all
        members, so that they differ only where the members disagree.

        Args:
            obs: ``[M, R, D]``, the rows of each of the ``M`` members.
            action: ``[M, R, A]``.
            generator: the source of all randomness.

        Returns:
            ``next_obs [M, R, D]`` and ``terminated [M, R]``, each row predicted by its own member, and
            ``reward [M, M, R]``, indexed first by the member that predicts the reward, then by the row's own member.

        Raises:
            ValueError: if ``obs`` is not for ``M`` members, ``M`` is less than 2, or the reward is given, not learned.
        """


class SoftEnds(Members, Protocol):
    """A model that can tell how likely a step ends an episode, as SAC-SVG takes it."""

    def soft_end_step(self, members: Sequence[int]) -> ParticleStep:
        """Return a function like :meth:`Members.particle_step`'s, whose ``terminated`` are probabilities.

        They are of the floating dtype of the rewards, and differentiable.

        Args:
            members: ``M`` of :attr:`Members.particle_members`.

        Raises:
            ValueError: for a member that does not exist, or a termination that is given, not learned.
        """


class InfersNoise(Protocol):
    """A model that can infer the noise of a real step, as SVG needs it."""

    def inferred_step(self, members: Sequence[int]) -> InferredStep:
        """Return a function that repeats real steps with some members, so that they can be differentiated.

        The noise with which a member would have made the real step is inferred and held constant (Heess et al. 2015):
        the step leads to the real next observation, with the member's gradient.

        Args:
            members: ``M`` of :attr:`Members.particle_members`.

        Returns:
            ``(obs [M, R, D], action [M, R, A], next_obs [M, R, D], reward [M, R]) -> next_obs, reward``: the real
            values up to rounding, with a gradient with respect to ``obs`` and ``action``.
        """


class SingleMember:
    """A model without members, as an ensemble whose only member it is.

    Args:
        dynamics: the model.

    Raises:
        ValueError: as :func:`check_predicts`.
    """

    particle_members: list[int] = [0]  # noqa: RUF012  # as declared by the protocol

    def __init__(self, dynamics: Any) -> None:
        check_predicts(dynamics)
        self._dynamics = dynamics

    def particle_step(
        self, members: Sequence[int], *, deterministic: bool = False, sample_discrete: bool | None = None
    ) -> ParticleStep:
        """Return the model's own step; see :meth:`Members.particle_step`."""
        if set(members) != {0}:
            raise ValueError(f"members must be among [0], got {list(members)}")
        predict = self._dynamics.predict
        return lambda obs, action, generator: (
            predict(obs, action, generator=generator, deterministic=deterministic).outcome
        )

    def predict_mixture(self, obs: Tensor, action: Tensor, *, generator: torch.Generator | None = None) -> Prediction:
        """Sample the model's own step."""
        return self._dynamics.predict(obs, action, generator=generator)


def _has(dynamics: Any, name: str) -> bool:
    """Tell whether a model's class has a method or property, without calling it: an error inside must not hide it."""
    return hasattr(type(dynamics), name)


def check_predicts(dynamics: Any) -> None:
    """Refuse a model with a memory where steps are predicted from an observation alone.

    Raises:
        ValueError: naming the model.
    """
    if not _has(dynamics, "predict"):
        raise ValueError(
            "dynamics must predict from an observation alone, as a DynamicsModel does, got "
            f"{type(dynamics).__name__}, which needs the states of a memory"
        )


def members_of(dynamics: Any) -> Members:
    """Return the members of a model: itself if it has some, otherwise the model as a single one."""
    return dynamics if _has(dynamics, "particle_members") else SingleMember(dynamics)


def ensemble_of(dynamics: Any) -> Ensemble:
    """Return a model as an ensemble, whose members can be compared.

    Raises:
        ValueError: if fewer than two members predict.
    """
    if (count := len(members_of(dynamics).particle_members)) < 2:
        raise ValueError(
            "dynamics must have at least 2 members that predict (num_elites of an ensemble), "
            f"got {type(getattr(dynamics, 'inner', dynamics)).__name__} with {count}"
        )
    return cast(Ensemble, dynamics)


def crossed_members_of(dynamics: Any) -> CrossesMembers:
    """Return a model as an ensemble whose members rate each other's steps.

    Raises:
        ValueError: as :func:`ensemble_of`, or if the model has no ``cross_step``.
    """
    ensemble = ensemble_of(dynamics)
    if not _has(dynamics, "cross_step"):
        raise ValueError(
            "dynamics must be an ensemble whose members rate each other's steps (cross_step, as EnsembleDynamics has "
            f"it), got {type(dynamics).__name__}"
        )
    return cast(CrossesMembers, ensemble)


def soft_ends_of(dynamics: Any) -> SoftEnds:
    """Return a model as one whose terminations are probabilities.

    Raises:
        ValueError: if the model has no ``soft_end_step``.
    """
    if not _has(dynamics, "soft_end_step"):
        raise ValueError(
            "dynamics must be a model that tells the probability of terminations (soft_end_step, as EnsembleDynamics "
            f"has it), got {type(dynamics).__name__}"
        )
    return cast(SoftEnds, dynamics)


def noise_inferring(dynamics: Any) -> InfersNoise:
    """Return a model as one that infers the noise of real steps.

    Raises:
        ValueError: if the model has no ``inferred_step``.
    """
    if not _has(dynamics, "inferred_step"):
        raise ValueError(
            "dynamics must infer the noise of real steps (inferred_step, as EnsembleDynamics and KnownDynamics do), "
            f"got {type(dynamics).__name__}"
        )
    return cast(InfersNoise, dynamics)
