"""Planning by gradient: Adam climbs the return of action sequences through the model."""

from __future__ import annotations

import sys

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.planners.actions import ActionSet
from mbrl_wrappers.planners.base import Objective, Plan, Planner, PlannerState, checked_returns, take
from mbrl_wrappers.planners.cem import CEM
from mbrl_wrappers.planners.noise import truncated_normal


class GradientPlanner(Planner):
    """Gradient ascent on several sequences at once, of which the best that was met is the plan.

    The sequences start at the last plan, one step later: one as it is, the others with noise. Each takes ``iterations``
    steps of Adam (Kingma and Ba 2015) in units of half the range, and is put back onto the bounds after each. With
    ``after_cem`` one of them starts at the plan of a search by the cross-entropy method instead: it finds the hill, the
    gradient the top (Bharadhwaj et al. 2020 interleave the two).

    A gradient that is not finite counts as 0. A model that passes no gradient back to the
    actions, such as a simulator, is refused.

    Args:
        action_space: a bounded Box of floats, or a Dict or Tuple of such.
        horizon: steps of a plan.
        population: sequences that climb, ``P``.
        iterations: steps of Adam; the objective is evaluated once more than that.
        learning_rate: of Adam; above 0, in units of half the range.
        sigma: standard deviation of the noise that sequences start with, in these units, at least 0.
        after_cem: arguments of :class:`CEM`, such as ``{"population": 100}``; default: no search before the ascent.

    Raises:
        ValueError: for an argument out of its range, or actions that are not floats.
    """

    def __init__(
        self,
        action_space: spaces.Space,
        *,
        horizon: int = 20,
        population: int = 10,
        iterations: int = 20,
        learning_rate: float = 0.1,
        sigma: float = 0.5,
        after_cem: dict[str, float] | None = None,
    ) -> None:
        super().__init__(action_space, horizon=horizon)
        if self.action_set.discrete or self.action_set.has_whole_numbers:
            raise ValueError(f"action_space must be of Boxes of floats for a gradient, got {action_space}: use iCEM")
        check_whole_number("population", population)
        check_whole_number("iterations", iterations)
        check_number("learning_rate", learning_rate, 0, sys.float_info.max, low_is_valid=False)
        check_number("sigma", sigma, 0, sys.float_info.max)
        self.population = population
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.sigma = sigma
        self.cem = None if after_cem is None else CEM(action_space, horizon=horizon, **after_cem)  # type: ignore[arg-type]

    def _search(self, objective: Objective, state: PlannerState, generator: torch.Generator) -> Plan:
        noise = truncated_normal(self.population, self.horizon, self.action_set.dim, generator=generator)
        noise[0] = 0.0
        start = state["plan"][:, None] + self.sigma * noise  # [B, P, H, A]
        if self.cem is not None:
            # A mean on a bound would leave the search no variance to sample with.
            found = self.cem.plan(objective, {"plan": state["plan"].clamp(-0.8, 0.8)}, generator)
            start[:, 0] = self.action_set.from_env(found.actions)
        climbing = start.clamp(-1, 1).requires_grad_()
        adam = torch.optim.Adam([climbing], lr=self.learning_rate, maximize=True)
        best, best_returns = climbing.detach().clone(), torch.full(start.shape[:2], -torch.inf, device=start.device)
        for iteration in range(self.iterations + 1):
            is_last = iteration == self.iterations
            returns, gradient = _climbed(objective, climbing, self.action_set, with_gradient=not is_last)
            is_better = returns > best_returns
            best_returns = torch.where(is_better, returns, best_returns)
            best = torch.where(is_better[..., None, None], climbing.detach(), best)
            if not is_last:
                climbing.grad = gradient
                adam.step()
                climbing.data.clamp_(-1, 1)
        top = best_returns.argmax(1, keepdim=True)
        plan = take(best, top)[:, 0]
        weights = torch.zeros_like(best_returns).scatter(1, top, 1.0)
        return Plan(
            self.action_set.to_env(plan),
            take(best_returns, top)[:, 0],
            self.action_set.to_env(best),
            best_returns,
            weights * torch.isfinite(best_returns),
            {"plan": self._shifted(plan)},
        )


def _climbed(
    objective: Objective, searched: Tensor, action_set: ActionSet, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the returns ``[B, P]`` of sequences ``[B, P, H, A]`` and their gradient, 0 where it is not finite.

    Raises:
        ValueError: if there is no gradient.
    """
    with torch.set_grad_enabled(with_gradient):
        returns = checked_returns(objective, action_set.to_env(searched))
        if not with_gradient:
            return returns, None
        if not returns.requires_grad:
            if returns.isfinite().any():
                raise ValueError("objective must be differentiable with respect to the actions, got no gradient")
            return returns, torch.zeros_like(searched)
        (gradient,) = torch.autograd.grad(torch.where(returns.isfinite(), returns, 0.0).sum(), searched)
    is_finite = gradient.isfinite().flatten(2).all(-1)[..., None, None]
    return returns.detach(), torch.where(is_finite, gradient, 0.0)
