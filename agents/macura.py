"""MACURA (Frauenknecht et al. 2024): Dyna whose rollouts end where the model is no longer to be trusted."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from mbrl_wrappers.agents.dyna import Dyna, Schedule
from mbrl_wrappers.arguments import check_number
from mbrl_wrappers.imagination.rows import ImaginedRows
from mbrl_wrappers.models.uncertainty import Measure, resolve_measure
from mbrl_wrappers.types import Prediction, Transitions


class MACURA(Dyna):
    """Dyna with rollouts of a length of their own: each ends before its first step that is too uncertain.

    Real states are where the model knows most. So the measure is calibrated on the first steps of the rollouts, which
    start there. With ``u`` the members' geometric Jensen-Shannon divergence, ``kappa_i`` the ``zeta``
    quantile of ``u`` over the first steps of refresh ``i``, and ``kappa`` the mean over all refreshes so far, a rollout
    ends before its first step with ``u >= xi kappa``; that step is not kept.

    ``rollout_length`` is the longest that rollouts get. Logged under ``imagination/``, besides what Dyna logs:
    ``kappa`` and ``mean_length``, the kept steps per rollout.

    Deviation: the agent's own settings, and ``xi``, are not tuned for each environment.

    Args:
        xi: ``xi``, above 0: the greater, the longer are rollouts.
        zeta: ``zeta``, the quantile, in (0, 1].
        measure: of the uncertainty, a function or a name in :data:`~mbrl_wrappers.models.uncertainty.MEASURES`.
        real_ratio, rollout_length, rollouts_per_step, retained_epochs, epoch_length, exploration: as for
            :class:`~mbrl_wrappers.agents.Dyna`.

    Raises:
        ValueError: for an argument out of its range; when training starts, for a model without at least two members.

    Example:
        >>> agent.learn(5_000, callback=ModelBased(MACURA(xi=2.0)))  # doctest: +SKIP
    """

    ends_where_not_kept = True

    def __init__(
        self,
        real_ratio: float = 0.05,
        rollout_length: int | Schedule = 10,
        rollouts_per_step: int = 400,
        retained_epochs: int = 1,
        epoch_length: int = 1000,
        exploration: float | None = None,
        *,
        xi: float = 2.0,
        zeta: float = 0.95,
        measure: str | Measure = "geometric_jensen_shannon",
    ) -> None:
        check_number("xi", xi, 0, sys.float_info.max, low_is_valid=False)
        check_number("zeta", zeta, 0, 1, low_is_valid=False)
        resolve_measure(measure)
        self.xi = xi
        self.zeta = zeta
        self.measure = measure
        self._kappa, self._rounds = 0.0, 0
        super().__init__(real_ratio, rollout_length, rollouts_per_step, retained_epochs, epoch_length, exploration)

    def refresh(self, transitions: Transitions, num_timesteps: int, new_steps: int) -> dict[str, float]:
        """Roll out from real states; see :meth:`Strategy.refresh`."""
        report = super().refresh(transitions, num_timesteps, new_steps)
        return report | {"kappa": self._kappa, "mean_length": report["rows"] / self._started}

    def _judge(self, rows: ImaginedRows, prediction: Prediction, step: int, length: int) -> tuple[ImaginedRows, Tensor]:
        uncertainty = prediction.uncertainty
        if step == 0:
            self._started = len(rows)
            self._calibrate(uncertainty)
        return rows, uncertainty < self.xi * self._kappa  # never where it is not a number

    def _calibrate(self, uncertainty: Tensor) -> None:
        """Move ``kappa``, the mean over rounds, by the quantile of the first steps' uncertainties ``[B]``."""
        finite = uncertainty[torch.isfinite(uncertainty)].double()
        if len(finite):
            self._rounds += 1
            # kappa_n = kappa_{n-1} + (q_n - kappa_{n-1}) / n
            self._kappa += (float(finite.quantile(self.zeta)) - self._kappa) / self._rounds

    def imagined_state(self) -> dict[str, Tensor]:
        """Return the imagined rows, and ``kappa`` with the number of its rounds."""
        rows = super().imagined_state()
        if not self._rounds:
            return rows
        return {**rows, "kappa": torch.tensor([self._kappa, self._rounds], dtype=torch.float64)}

    def load_imagined_state(self, state: dict[str, Tensor]) -> None:
        """Take the imagined rows and ``kappa`` back."""
        if "kappa" in state:
            kappa, rounds = state["kappa"].tolist()
            self._kappa, self._rounds = kappa, int(rounds)
        super().load_imagined_state({name: value for name, value in state.items() if name != "kappa"})
