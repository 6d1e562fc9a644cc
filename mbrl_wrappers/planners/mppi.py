"""Model predictive path integral control: an average of all samples, weighted by their returns."""

from __future__ import annotations

import torch
from gymnasium import spaces

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.planners.base import Objective, Plan, Planner, PlannerState, weighted_mean


class MPPI(Planner):
    """MPPI (Williams et al. 2017, algorithm 2), for boxes.

    The plan is the mean of sequences drawn around the last plan, one step later, each with the weight
    ``exp(return / temperature)``. Deviations: actions are bounded and there is no control cost; samples are clipped to
    the bounds before they are evaluated and averaged; the noise is white, and the plan is not smoothed.

    Args:
        action_space: see :class:`Planner`; Boxes only.
        horizon: steps of a plan.
        population: sequences drawn in each iteration.
        iterations: number of updates of the mean; 1 in the paper.
        sigma: standard deviation of the noise, in units of half the range.
        temperature: ``lambda``, in units of the return.

    Raises:
        ValueError: for an argument out of its range, or a space with categories.
    """

    def __init__(
        self,
        action_space: spaces.Space,
        *,
        horizon: int = 25,
        population: int = 400,
        iterations: int = 1,
        sigma: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(action_space, horizon=horizon)
        if self.action_set.discrete:
            raise ValueError(
                f"action_space must be of Boxes for MPPI, got {action_space}: use iCEM or CEM for categories"
            )
        check_whole_number("population", population)
        check_whole_number("iterations", iterations)
        check_number("sigma", sigma, 0, 1e9, low_is_valid=False)
        check_number("temperature", temperature, 0, 1e9, low_is_valid=False)
        self.population = population
        self.iterations = iterations
        self.sigma = sigma
        self.temperature = temperature

    def _search(self, objective: Objective, state: PlannerState, generator: torch.Generator) -> Plan:
        mean = state["plan"]
        for _ in range(self.iterations):
            shape = (self.population, self.horizon, self.action_set.dim)
            noise = torch.randn(shape, generator=generator, device=generator.device)
            searched = (mean[:, None] + self.sigma * noise).clamp(-1.0, 1.0)
            candidates, returns = self._evaluate(objective, searched)
            best = returns.amax(1, keepdim=True)
            found = torch.isfinite(best)
            weights = torch.where(
                found, torch.softmax((returns - best.nan_to_num(neginf=0.0)) / self.temperature, 1), 0
            )
            mean = torch.where(found[..., None], weighted_mean(searched, weights), mean)
        predicted = torch.where(found[:, 0], weighted_mean(returns, weights), -torch.inf)
        return Plan(
            self.action_set.to_env(mean), predicted, candidates, returns, weights, {"plan": self._shifted(mean)}
        )
