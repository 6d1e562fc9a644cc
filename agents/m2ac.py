"""M2AC (Pan et al. 2020): imagined data enters where the model is sure of it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mbrl_wrappers.agents.dyna import Dyna, Schedule
from mbrl_wrappers.imagination.rows import ImaginedRows
from mbrl_wrappers.models.trust import Trust
from mbrl_wrappers.models.uncertainty import Measure
from mbrl_wrappers.types import Prediction, Transitions


class M2AC(Dyna):
    """Dyna whose rollouts are masked: of each step, the rows that the model is surest of enter the buffer.

    The masked model-based actor-critic (Pan et al. 2020, algorithm 1). Each step of the rollouts is predicted by
    a random elite; its uncertainty is how far this elite's prediction is from the others' (one-versus-rest). Step ``h``
    of ``H`` keeps the share ``(H - h) / (2 (H + 1))`` of its rows, the most certain ones (``H = 1``: half); rollouts go
    on through rows that are not kept (the paper's non-stop mode). ``penalty`` times its uncertainty is subtracted from
    the reward of a row that is kept.

    The buffer covers as many rollouts as Dyna's, so it has fewer rows. In the paper all 7 members predict:
    ``EnsembleDynamics.for_env(env, num_elites=7)``.

    Args:
        rollout_length: ``H``, constant as in the paper, or a schedule as Dyna's.
        penalty: factor of the uncertainty, at least 0.
        measure: of the uncertainty, a function or a name in :data:`~mbrl_wrappers.models.uncertainty.MEASURES`.
        keep_rate: share of its rows that each step keeps, in (0, 1]; default: the paper's formula.
        real_ratio, rollouts_per_step, retained_epochs, epoch_length, exploration: as for
            :class:`~mbrl_wrappers.agents.Dyna`.

    Raises:
        ValueError: for an argument out of its range; when training starts, for a model without at least two members.

    Example:
        >>> agent.learn(5_000, callback=ModelBased(M2AC()))  # doctest: +SKIP
    """

    measure: str | Measure

    def __init__(
        self,
        real_ratio: float = 0.05,
        rollout_length: int | Schedule = 10,
        rollouts_per_step: int = 400,
        retained_epochs: int = 1,
        epoch_length: int = 1000,
        exploration: float | None = None,
        *,
        penalty: float = 0.001,
        measure: str | Measure = "one_versus_rest",
        keep_rate: float | None = None,
    ) -> None:
        Trust(measure, keep_rate, penalty=penalty)  # checks them
        self.penalty = penalty
        self.measure = measure
        self.keep_rate = keep_rate
        self._uncertainty: list[float] = []
        super().__init__(real_ratio, rollout_length, rollouts_per_step, retained_epochs, epoch_length, exploration)

    def refresh(self, transitions: Transitions, num_timesteps: int, new_steps: int) -> dict[str, float]:
        """Roll out from real states; logs the uncertainty of the first and the last step too."""
        self._uncertainty = []
        report = super().refresh(transitions, num_timesteps, new_steps)
        return report | {"uncertainty_first": self._uncertainty[0], "uncertainty_last": self._uncertainty[-1]}

    @property
    def trust(self) -> Trust:
        """How far the model is trusted."""
        return Trust(self.measure, self.keep_rate, penalty=self.penalty)

    def _rows_per_rollout(self, length: int) -> float:
        return sum(self.trust.rate(step, length) for step in range(length))

    def _judge(self, rows: ImaginedRows, prediction: Prediction, step: int, length: int) -> tuple[ImaginedRows, Tensor]:
        uncertainty = prediction.uncertainty
        self._uncertainty.append(float(uncertainty.nanmedian()))
        kept = self.trust.trusts(uncertainty, step, length)
        penalized = dataclasses.replace(rows, reward=rows.reward - self.penalty * uncertainty)
        return penalized, kept & torch.isfinite(uncertainty)
