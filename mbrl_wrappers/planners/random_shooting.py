"""Random shooting: the best of many random action sequences."""

from __future__ import annotations

import torch
from gymnasium import spaces

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.planners.base import Objective, Plan, Planner, PlannerState, elite_weights, take


class RandomShooting(Planner):
    """The best of sequences that are drawn uniformly (Richards 2005; "RS" in Wang et al. 2019).

    A plan does not depend on the plan before it.

    Args:
        action_space: see :class:`Planner`.
        horizon: steps of a plan.
        population: sequences drawn.

    Raises:
        ValueError: for an argument out of its range.
    """

    def __init__(self, action_space: spaces.Space, *, horizon: int = 10, population: int = 1000) -> None:
        super().__init__(action_space, horizon=horizon)
        check_whole_number("population", population)
        self.population = population

    def propose(self, state: PlannerState, action: torch.Tensor) -> PlannerState:
        """Refuse: a proposal would change nothing.

        Raises:
            ValueError: always.
        """
        raise ValueError("planner must start from a proposal to be given one, got RandomShooting")

    def _search(self, objective: Objective, state: PlannerState, generator: torch.Generator) -> Plan:
        drawn = self.action_set.draw((self.population, self.horizon), generator)
        candidates, returns = self._evaluate(objective, drawn.expand(len(state["plan"]), *drawn.shape))
        best = returns.argmax(1, keepdim=True)
        return Plan(
            take(candidates, best)[:, 0],
            take(returns, best)[:, 0],
            candidates,
            returns,
            elite_weights(returns, 1),
            state,
        )
