"""Model predictive path integral control: an average of the best samples, weighted by their returns."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.planners.base import Objective, Plan, Planner, PlannerState, elite_weights, weighted_mean


class MPPI(Planner):
    """MPPI (Williams et al. 2017, algorithm 2), for boxes.

    The plan is the mean of sequences drawn around the last plan, one step later, each with the weight
    ``exp(return / temperature)``. Deviations: actions are bounded and there is no control cost; samples are clipped to
    the bounds before they are evaluated and averaged; the noise is white, and the plan is not smoothed.

    With ``num_elites``, only that many best sequences have a weight, and with ``min_sigma`` the noise of the next
    iteration has the elites' weighted standard deviation: the form of TD-MPC (Hansen et al. 2022, algorithm 1).

    Args:
        action_space: see :class:`Planner`; Boxes only.
        horizon: steps of a plan.
        population: sequences evaluated in each iteration.
        iterations: number of updates of the mean; 1 in the paper.
        sigma: standard deviation of the noise, in units of half the range.
        temperature: ``lambda``, in units of the return.
        num_elites: sequences with a weight; default: all.
        min_sigma: the least standard deviation to which the noise of later iterations is fitted, ``sigma`` being the
            greatest; default: it stays at ``sigma``.

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
        num_elites: int | None = None,
        min_sigma: float | None = None,
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
        if num_elites is not None:
            check_whole_number("num_elites", num_elites)
            if num_elites > population:
                raise ValueError(f"num_elites must be at most the population {population}, got {num_elites}")
        if min_sigma is not None:
            check_number("min_sigma", min_sigma, 0, sigma)
        self.population = population
        self.iterations = iterations
        self.sigma = sigma
        self.temperature = temperature
        self.num_elites = num_elites
        self.min_sigma = min_sigma

    @torch.no_grad()
    def plan(
        self,
        objective: Objective,
        state: PlannerState,
        generator: torch.Generator | None = None,
        proposals: Tensor | None = None,
    ) -> Plan:
        """Search; see :meth:`Planner.plan`.

        Args:
            objective: ``actions [B, P, H, A] -> returns [B, P]``.
            state: :meth:`initial_state`, or the state of the last :class:`Plan`.
            generator: on the state's device; default: torch's global one.
            proposals: ``[B, K, H, A]`` in the env's units, sequences that take the place of ``K`` of the population in
                every iteration, such as those of a policy.

        Raises:
            ValueError: if the objective returns another shape, or the proposals have one or fill the population.
        """
        if proposals is None:
            return super().plan(objective, state, generator)
        batch, _, dim = state["plan"].shape
        number = proposals.shape[1] if proposals.dim() == 4 else 0
        if proposals.shape != (batch, number, self.horizon, dim) or number >= self.population:
            wanted = f"[{batch}, K, {self.horizon}, {dim}] with K below the population {self.population}"
            raise ValueError(f"proposals must have shape {wanted}, got {tuple(proposals.shape)}")
        searched = self.action_set.from_env(proposals)
        return self._search_beside(searched, objective, state, self._own_generator(state, generator))

    def _search(self, objective: Objective, state: PlannerState, generator: torch.Generator) -> Plan:
        return self._search_beside(state["plan"][:, None][:, :0], objective, state, generator)

    def _search_beside(
        self, proposals: Tensor, objective: Objective, state: PlannerState, generator: torch.Generator
    ) -> Plan:
        """Search with proposals ``[B, K, H, A]`` in the units of the search."""
        mean = state["plan"]
        sigma = torch.full_like(mean, self.sigma)
        shape = (self.population - proposals.shape[1], self.horizon, self.action_set.dim)
        for _ in range(self.iterations):
            noise = torch.randn(shape, generator=generator, device=generator.device)
            drawn = (mean[:, None] + sigma[:, None] * noise).clamp(-1.0, 1.0)
            searched = torch.cat([proposals, drawn], dim=1) if proposals.shape[1] else drawn
            candidates, returns = self._evaluate(objective, searched)
            weights = self._weights(returns)
            found = (weights.sum(1) > 0)[:, None, None]
            mean = torch.where(found, weighted_mean(searched, weights), mean)
            if self.min_sigma is not None:
                sigma = torch.where(found, self._spread(searched, mean, weights), sigma)
        predicted = torch.where(found[:, 0, 0], weighted_mean(returns, weights), -torch.inf)
        return Plan(
            self.action_set.to_env(mean), predicted, candidates, returns, weights, {"plan": self._shifted(mean)}
        )

    def _weights(self, returns: Tensor) -> Tensor:
        """Return the candidates' weights ``[B, P]``, 0 for returns that aren't finite."""
        best = returns.amax(1, keepdim=True)
        scores = (returns - best.nan_to_num(neginf=0.0)) / self.temperature
        if self.num_elites is not None:
            scores = torch.where(elite_weights(returns, self.num_elites) > 0, scores, -torch.inf)
        return torch.where(torch.isfinite(best), torch.softmax(scores, 1), 0)

    def _spread(self, searched: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
        """Return the standard deviation ``[B, H, A]`` of the next iteration's noise."""
        variance = weighted_mean((searched - mean[:, None]).square(), weights)
        return variance.sqrt().clamp(self.min_sigma, self.sigma)

    def spread_of(self, plan: Plan) -> Tensor:
        """Return the standard deviation ``[B, H, A]`` that a further iteration would have, in units of half the range.

        Raises:
            ValueError: if the planner has no ``min_sigma``, so that its noise does not follow the candidates.
        """
        if self.min_sigma is None:
            raise ValueError("min_sigma must be given for a spread that follows the candidates, got None")
        candidates, mean = (self.action_set.from_env(actions) for actions in (plan.candidates, plan.actions))
        return self._spread(candidates, mean, plan.weights)
