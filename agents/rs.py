"""Random shooting in a learned model."""

from __future__ import annotations

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy

from mbrl_wrappers.agents.planning import PlanningAgent
from mbrl_wrappers.models.action_returns import Propagation
from mbrl_wrappers.planners import Planner, RandomShooting


class RS(PlanningAgent):
    """Random shooting (Richards 2005; Wang et al. 2019, section 3.1): the best of 1000 random plans of 10 steps.

    The model is one network, whose mean is used. Deviations from Wang et al.: 2 layers of 200 SiLU units, not
    of 1000 ReLU units; 200 random steps and a fit every 200, not 10,000 and 3000. The reward function is the env's
    if it is known, as in the paper, and learned otherwise.

    Args:
        policy: ``"MlpPolicy"`` (``"MultiInputPolicy"`` for Dict observations).
        env: to learn in.
        horizon: steps of a plan.
        population: random plans.
        num_particles: particles that follow each plan.
        propagation: how particles are propagated; see :class:`~mbrl_wrappers.models.action_returns.TrajectoryReturns`.
        **kwargs: as for :class:`~mbrl_wrappers.agents.planning.PlanningAgent`.

    Raises:
        ValueError: for an argument out of its range, an action space that can't be searched, or a model of other
            spaces than the env's.

    Example:
        >>> agent = RS("MlpPolicy", "Pendulum-v1").learn(2_000)  # doctest: +SKIP
    """

    default_dynamics_kwargs: ClassVar[dict[str, Any]] = {"num_members": 1, "num_elites": 1, "hidden": (200, 200)}

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        horizon: int = 10,
        population: int = 1000,
        num_particles: int = 1,
        propagation: Propagation = "expectation",
        **kwargs: Any,
    ) -> None:
        self.horizon = horizon
        self.population = population
        super().__init__(policy, env, num_particles=num_particles, propagation=propagation, **kwargs)

    def _make_planner(self) -> Planner:
        return RandomShooting(self.action_space, horizon=self.horizon, population=self.population)
