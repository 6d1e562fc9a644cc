"""The improved cross-entropy method: correlated noise, fewer samples, elites that are kept."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_number
from mbrl_wrappers.planners.base import (
    Objective,
    Plan,
    Planner,
    PlannerState,
    elite_weights,
    take,
    weighted_mean,
)
from mbrl_wrappers.planners.cem import CEMSettings, reopened
from mbrl_wrappers.planners.noise import coloured_noise


class ICEM(Planner):
    """iCEM (Pinneri et al. 2020, algorithm 1), for boxes and for categories.

    Samples are the mean plus noise that is coloured over the steps of a plan, cut off at the bounds; their number
    shrinks from one iteration to the next; a share of the elites is evaluated again in the next iteration and, one
    step later, in the next plan; the last iteration evaluates the mean too; the plan is the best sequence of the
    last iteration.

    Categories, which the paper does not have, are searched with a probability for each category at each step, as in
    :class:`~mbrl_wrappers.planners.cem.CEM`. The category is chosen by normal noise, so coloured noise keeps a category
    for several steps; the likeliest categories take the place of the mean.

    Args:
        action_space: see :class:`Planner`.
        horizon: steps of a plan.
        population: sequences drawn in the first iteration.
        num_elites: number of best sequences to which the distribution is refitted.
        iterations: number of refits.
        alpha: share of the old distribution that is kept, in [0, 1].
        init_std: standard deviation that a search starts with, in units of half the range; not for categories.
        noise_exponent: ``beta``: the noise's power spectrum falls as ``1 / frequency^beta``; 0 is white noise. Default:
            2 for boxes (the paper tunes it for each task), 0 for categories.
        population_decay: ``gamma``, at least 1: iteration ``i`` draws ``population / gamma^i`` sequences, but at least
            ``2 * num_elites``.
        kept_elites: ``xi``, share of the elites that is kept, in [0, 1].

    Raises:
        ValueError: for an argument out of its range.
    """

    def __init__(
        self,
        action_space: spaces.Space,
        *,
        horizon: int = 30,
        population: int = 100,
        num_elites: int = 10,
        iterations: int = 3,
        alpha: float = 0.1,
        init_std: float = 0.5,
        noise_exponent: float | None = None,
        population_decay: float = 1.25,
        kept_elites: float = 0.3,
    ) -> None:
        super().__init__(action_space, horizon=horizon)
        if noise_exponent is None:
            noise_exponent = 0.0 if self.action_set.discrete else 2.0
        self.settings = CEMSettings(population, num_elites, iterations, alpha, min_variance=0.0)
        check_number("init_std", init_std, 0, 2)
        check_number("noise_exponent", noise_exponent, 0, 10)
        check_number("population_decay", population_decay, 1, 1e6)
        check_number("kept_elites", kept_elites, 0, 1)
        self.init_std = init_std
        self.noise_exponent = noise_exponent
        self.population_decay = population_decay
        self.num_kept = round(kept_elites * num_elites)

    def initial_state(self, batch_size: int, device: torch.device | str = "cpu") -> PlannerState:
        """Return the state before the first plan, without kept elites."""
        state = super().initial_state(batch_size, device)
        kept = self._central(self.action_set.start(batch_size, self.num_kept, self.horizon, device=device))
        return {**state, "elites": kept, "has_elites": torch.zeros(batch_size, dtype=torch.bool, device=device)}

    def _search(self, objective: Objective, state: PlannerState, generator: torch.Generator) -> Plan:
        mean, kept = state["plan"], state["elites"]
        if self.action_set.discrete:
            mean = reopened(self.action_set, mean)
        variance = torch.full_like(mean, self.init_std**2)
        usable = state["has_elites"][:, None].expand(-1, self.num_kept)
        last = self.settings.iterations - 1
        for iteration in range(self.settings.iterations):
            searched = self._sample(mean, variance, iteration, generator)
            extra = [kept] if iteration < last else [kept, self._central(mean)[:, None]]
            searched = torch.cat([searched, *extra], dim=1)
            candidates, returns = self._evaluate(objective, searched)
            first = searched.shape[1] - sum(part.shape[1] for part in extra)
            returns[:, first : first + self.num_kept].masked_fill_(~usable, -torch.inf)
            weights = elite_weights(returns, self.settings.num_elites)
            found = (weights.sum(1) > 0)[:, None, None]
            new_mean = weighted_mean(searched, weights)
            new_variance = weighted_mean((searched - new_mean[:, None]).square(), weights)
            alpha = self.settings.alpha
            mean = torch.where(found, alpha * mean + (1 - alpha) * new_mean, mean)
            variance = torch.where(found, alpha * variance + (1 - alpha) * new_variance, variance)
            best = returns.topk(max(self.num_kept, 1), dim=1).indices
            kept = take(searched, best[:, : self.num_kept])
            usable = torch.isfinite(take(returns, best[:, : self.num_kept]))
        plan = take(candidates, best[:, :1])[:, 0]
        # Without a finite return, fall back on the mean.
        plan = torch.where(found, plan, self.action_set.to_env(self._central(mean)))
        drawn = self.action_set.draw((self.num_kept, 1), generator)
        elites = torch.cat([kept[:, :, 1:], drawn.expand(len(kept), -1, -1, -1)], dim=2)
        return Plan(
            plan,
            take(returns, best[:, :1])[:, 0],
            candidates,
            returns,
            weights,
            {
                "plan": self._shifted(mean, mean[:, -1:]),
                "elites": elites,
                "has_elites": usable.all(1),
            },
        )

    def _sample(self, mean: Tensor, variance: Tensor, iteration: int, generator: torch.Generator) -> Tensor:
        """Draw the sequences of an iteration, ``[B, P, H, A]`` in the units of the search."""
        least = 2 * self.settings.num_elites
        number = max(int(self.settings.population * self.population_decay**-iteration), least)
        width = len(self.action_set.blocks) if self.action_set.discrete else self.action_set.dim
        noise = coloured_noise(
            number, width, steps=self.horizon, exponent=self.noise_exponent, generator=generator
        ).transpose(1, 2)
        if self.action_set.discrete:
            return self.action_set.choose(mean[:, None], torch.special.ndtr(noise))
        return (mean[:, None] + variance.sqrt()[:, None] * noise).clamp(-1.0, 1.0)

    def _central(self, mean: Tensor) -> Tensor:
        """Return the sequence in the middle of a distribution: its mean, or its likeliest categories."""
        return self.action_set.likeliest(mean) if self.action_set.discrete else mean
