"""PETS: planning in a probabilistic ensemble with trajectory sampling."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import BasePolicy

from mbrl_wrappers.agents.planning import PlanningAgent
from mbrl_wrappers.planners import PLANNERS, Planner


class PETS(PlanningAgent):
    """Probabilistic ensembles with trajectory sampling (Chua et al. 2018, algorithm 1).

    The model is the library's ensemble with the env's reward and termination functions where these are known.
    The default plan is lighter than the paper's: iCEM with 3 iterations of at most 100 sequences, and 5 particles,
    one for each elite of the ensemble. The paper's own (half-cheetah) is ``planner="CEM"``,
    ``planner_kwargs={"horizon": 30, "population": 500, "num_elites": 50, "iterations": 5}``, ``num_particles=20``;
    ``docs/results/planning.md`` compares time and return of several plan sizes on Pendulum-v1. The paper fits once an
    episode: ``train_freq=(1, "episode")``.

    Args:
        policy: ``"MlpPolicy"`` (``"MultiInputPolicy"`` for Dict observations).
        env: to learn in.
        planner: ``"iCEM"``, ``"CEM"``, ``"MPPI"``, ``"RS"`` or ``"Gradient"``.
        planner_kwargs: arguments of the planner, such as ``{"horizon": 15}``.
        **kwargs: as for :class:`~mbrl_wrappers.agents.planning.PlanningAgent`.

    Raises:
        ValueError: for an argument out of its range, an action space that can't be searched, or a model of other
            spaces than the env's.

    Example:
        >>> agent = PETS("MlpPolicy", "Pendulum-v1", train_freq=(1, "episode")).learn(1_600)  # doctest: +SKIP
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        planner: str = "iCEM",
        planner_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if planner not in PLANNERS:
            raise ValueError(f"planner must be one of {sorted(PLANNERS)}, got {planner!r}")
        self.planner = planner
        self.planner_kwargs = planner_kwargs
        super().__init__(policy, env, **kwargs)

    def _make_planner(self) -> Planner:
        return PLANNERS[self.planner](self.action_space, **(self.planner_kwargs or {}))
