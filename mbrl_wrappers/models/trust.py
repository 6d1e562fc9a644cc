"""How far a model is trusted: by imagined environments, by the wrappers around them and by M2AC."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mbrl_wrappers.arguments import check_number
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.fit import holdout_mask
from mbrl_wrappers.models.uncertainty import Measure, keep_rate_at, most_certain, resolve_measure
from mbrl_wrappers.types import Transitions

OnMask = Literal["mask", "truncate", "penalize"]


@dataclass(frozen=True)
class Trust:
    """A rule for which imagined steps are masked, and what masking does.

    Attributes:
        measure: of a step's uncertainty: a function or a name in
            :data:`~mbrl_wrappers.models.uncertainty.MEASURES`.
        keep_rate: share of each batch of steps that is trusted, the most certain ones, in (0, 1]; default: M2AC's,
            which falls with the step of an episode (:func:`~mbrl_wrappers.models.uncertainty.keep_rate_at`).
        threshold: instead of a share: steps up to this uncertainty are trusted; see :func:`calibrated_threshold`.
        on_mask: ``"mask"`` only tells which steps are masked, and episodes go on (M2AC's non-stop mode);
            ``"truncate"`` ends an episode at a masked step, as a truncation; ``"penalize"`` goes on, and only masked
            steps lose reward.
        penalty: factor of the uncertainty that is subtracted from a step's reward; default: M2AC's (Pan et al. 2020).
            MOPO (Yu et al. 2020) is ``measure="max_aleatoric_std", threshold=0.0, on_mask="penalize"`` with a penalty
            of about 1.

    Raises:
        ValueError: for a value out of its range, or both a share and a threshold.
    """

    measure: str | Measure = "one_versus_rest"
    keep_rate: float | None = None
    threshold: float | None = None
    on_mask: OnMask = "mask"
    penalty: float = 0.001

    def __post_init__(self) -> None:
        """Check the values."""
        resolve_measure(self.measure)
        if self.keep_rate is not None:
            check_number("keep_rate", self.keep_rate, 0, 1, low_is_valid=False)
        if self.threshold is not None:
            check_number("threshold", self.threshold, 0, sys.float_info.max)
        if self.keep_rate is not None and self.threshold is not None:
            raise ValueError(f"threshold must be None where there is a keep_rate, got {self.threshold}")
        if self.on_mask not in get_args(OnMask):
            raise ValueError(f"on_mask must be one of {get_args(OnMask)}, got {self.on_mask!r}")
        check_number("penalty", self.penalty, 0, sys.float_info.max)

    def rate(self, step: int, horizon: int) -> float:
        """Return the share of a batch that is trusted at step ``step`` of ``horizon``, counted from 0."""
        return keep_rate_at(step, horizon) if self.keep_rate is None else self.keep_rate

    def trusts(self, uncertainty: Tensor, steps: int | Tensor, horizon: int) -> Tensor:
        """Return which of ``B`` steps are trusted, bool ``[B]``.

        Args:
            uncertainty: ``[B]``.
            steps: ``[B]`` how many steps each episode made before this one, or one number for all.
            horizon: steps of an episode.
        """
        if self.threshold is not None:
            return uncertainty <= self.threshold
        if isinstance(steps, int) or self.keep_rate is not None:
            return most_certain(uncertainty, self.rate(steps if isinstance(steps, int) else 0, horizon))
        present, which = steps.clamp(max=horizon - 1).unique(return_inverse=True)
        rates = torch.tensor([self.rate(step, horizon) for step in present.tolist()], device=steps.device)
        return most_certain(uncertainty, rates[which])


def calibrated_threshold(
    dynamics: EnsembleDynamics,
    transitions: Transitions,
    quantile: float,
    measure: str | Measure = "one_versus_rest",
    generator: torch.Generator | None = None,
) -> float:
    """Return a quantile of the uncertainty at real steps that the model was not trained on.

    Args:
        dynamics: fitted on these transitions.
        transitions: real data; only the rows that the fit held out are used.
        quantile: in [0, 1]: as a threshold, the quantile 0.95 trusts 95% of these rows.
        measure: as in :class:`Trust`.
        generator: on the model's device; default: torch's global one.

    Raises:
        ValueError: for a quantile out of its range, or if no row was held out.
    """
    check_number("quantile", quantile, 0, 1)
    held = transitions[holdout_mask(transitions.key, dynamics.settings["holdout_ratio"])]
    if len(held) == 0:
        raise ValueError(f"transitions must have rows that the fit held out, got none among {len(transitions)}")
    obs, action = held.obs.to(dynamics.device), held.action.to(dynamics.device)
    with torch.no_grad():
        p = dynamics.predict_measured(obs, action, resolve_measure(measure), generator=generator)
    return float(p.uncertainty.quantile(quantile))
