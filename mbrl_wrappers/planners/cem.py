"""The cross-entropy method: a distribution is refitted to the best of its own samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.planners.actions import ActionSet
from mbrl_wrappers.planners.base import (
    Objective,
    Plan,
    Planner,
    PlannerState,
    checked_returns,
    elite_weights,
    take,
    weighted_mean,
)
from mbrl_wrappers.planners.noise import coloured_noise, truncated_normal

# A search starts from half the last plan's probabilities, half even ones, so that it can leave the last categories.
_KEPT_CHANCES = 0.5
# Least distance of a proposal from a bound, in units of half the range: at the bound itself, samples have no variance.
_PROPOSAL_MARGIN = 0.2


@dataclass(frozen=True)
class CEMSettings:
    """Settings of a search by the cross-entropy method; :class:`CEM` explains each."""

    population: int
    num_elites: int
    iterations: int
    alpha: float
    min_variance: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_whole_number("population", self.population)
        check_whole_number("num_elites", self.num_elites)
        if self.num_elites > self.population:
            raise ValueError(f"num_elites must be at most the population {self.population}, got {self.num_elites}")
        check_whole_number("iterations", self.iterations)
        check_number("alpha", self.alpha, 0, 1)
        check_number("min_variance", self.min_variance, 0, 1)


@dataclass(frozen=True)
class Refit:
    """A distribution after a search, and the candidates that its last iteration drew.

    Attributes:
        mean: ``[B, ...]``.
        spread: ``[B, ...]`` variance of each entry.
        candidates: ``[B, P, ...]``.
        returns: ``[B, P]``, minus infinity where they were not finite.
        weights: ``[B, P]``, equal for elites and 0 for the others.
    """

    mean: Tensor
    spread: Tensor
    candidates: Tensor
    returns: Tensor
    weights: Tensor

    @property
    def predicted_return(self) -> Tensor:
        """Mean return of the elites, ``[B]``; minus infinity where no candidate was finite."""
        mean = weighted_mean(self.returns, self.weights)
        return torch.where(self.weights.sum(1) > 0, mean, -torch.inf)

    def keeping(self, last: Refit | None, over: Tensor) -> Refit:
        """Return this refit, with the rows of ``last`` for the environments whose search was over before, ``[B]``."""
        if last is None or not bool(over.any()):
            return self
        pairs = [(getattr(self, field.name), getattr(last, field.name)) for field in fields(self)]
        return Refit(*(torch.where(over.reshape(-1, *[1] * (new.dim() - 1)), old, new) for new, old in pairs))


def reopened(action_set: ActionSet, chances: Tensor) -> Tensor:
    """Return probabilities ``[..., A]`` halfway back to even ones: where a search of categories starts."""
    even = action_set.start(1, device=chances.device)
    return _KEPT_CHANCES * chances + (1 - _KEPT_CHANCES) * even


def search_gaussian(
    objective: Callable[[Tensor], Tensor],
    mean: Tensor,
    variance: Tensor,
    settings: CEMSettings,
    generator: torch.Generator,
    *,
    bounded: bool,
    noise_exponent: float = 0.0,
) -> Refit:
    """Search with a diagonal Gaussian, truncated at two standard deviations (Chua et al. 2018, section 5).

    An environment whose variances have all fallen below ``min_variance`` keeps its mean from then on.

    Args:
        objective: ``[B, P, ...] -> [B, P]``.
        mean: ``[B, ...]`` to start from.
        variance: ``[B, ...]`` to start from.
        settings: of the search.
        generator: of the samples; all ``B`` share the same noise.
        bounded: whether every entry must lie in [-1, 1]: the sampling variance is then capped at the square of half
            the distance to the nearer bound, so that two standard deviations stay inside.
        noise_exponent: above 0, the noise ``[P, H, ...]`` is coloured over its ``H`` steps, as in iCEM, before it is
            truncated.
    """
    result: Refit | None = None
    for _ in range(settings.iterations):
        searching = variance.flatten(1).amax(1) > settings.min_variance
        if result is not None and not bool(searching.any()):
            break
        sampled = torch.minimum(((1 - mean.abs()) / 2).square(), variance) if bounded else variance
        noise = _search_noise(settings.population, *mean.shape[1:], exponent=noise_exponent, generator=generator)
        candidates = mean[:, None] + sampled.sqrt()[:, None] * noise
        returns = checked_returns(objective, candidates)
        weights = elite_weights(returns, settings.num_elites)
        new_mean = weighted_mean(candidates, weights)
        new_variance = weighted_mean((candidates - new_mean[:, None]).square(), weights)
        moves = (searching & (weights.sum(1) > 0)).reshape(-1, *[1] * (mean.dim() - 1))
        mean = torch.where(moves, settings.alpha * mean + (1 - settings.alpha) * new_mean, mean)
        variance = torch.where(moves, settings.alpha * variance + (1 - settings.alpha) * new_variance, variance)
        result = Refit(mean, variance, candidates, returns, weights).keeping(result, ~searching)
    assert result is not None  # there is at least one iteration
    return result


def _search_noise(number: int, *shape: int, exponent: float, generator: torch.Generator) -> Tensor:
    """Draw ``[number, *shape]`` within two standard deviations, coloured over the first axis of ``shape`` or white."""
    if exponent == 0:
        return truncated_normal(number, *shape, generator=generator)
    steps, *rest = shape
    coloured = coloured_noise(number, *rest, steps=steps, exponent=exponent, generator=generator)
    return coloured.movedim(-1, 1).clamp(-2.0, 2.0)


class CEM(Planner):
    """The cross-entropy method of PETS (Chua et al. 2018, section 5), for boxes and for categories.

    A box is searched with a truncated Gaussian (:func:`search_gaussian`) that starts at the last plan, one step
    later and with the middle action at its end, with a quarter of the range as standard deviation; the plan is its
    mean. Deviation: variances are in units of half the range, so ``min_variance`` means the same in any box; in
    [-1, 1] it is the paper's.

    Categories are searched with a probability for each category at each step, refitted to the elites' frequencies. The
    plan is the elite that is likeliest under these probabilities, because a mixture of good sequences need not be a
    good one. The search starts from the mean of even probabilities and the last plan's.

    Args:
        action_space: see :class:`Planner`.
        horizon: steps of a plan.
        population: sequences drawn in each iteration.
        num_elites: number of best sequences to which the distribution is refitted.
        iterations: maximal number of iterations.
        alpha: share of the old distribution that is kept, in [0, 1].
        min_variance: the search ends once no variance is greater.

    Raises:
        ValueError: for an argument out of its range.
    """

    def __init__(
        self,
        action_space: spaces.Space,
        *,
        horizon: int = 25,
        population: int = 400,
        num_elites: int = 40,
        iterations: int = 5,
        alpha: float = 0.1,
        min_variance: float = 0.001,
    ) -> None:
        super().__init__(action_space, horizon=horizon)
        self.settings = CEMSettings(population, num_elites, iterations, alpha, min_variance)

    def propose(self, state: PlannerState, action: Tensor) -> PlannerState:
        """Let the next search start from a proposal; see :meth:`Planner.propose`.

        In a box a proposal is kept a tenth of the range away from the bounds, because a mean on a bound would leave no
        variance to sample with.
        """
        state = super().propose(state, action)
        if not self.action_set.discrete:
            state["plan"][:, 0].clamp_(_PROPOSAL_MARGIN - 1, 1 - _PROPOSAL_MARGIN)
        return state

    def _search(self, objective: Objective, state: PlannerState, generator: torch.Generator) -> Plan:
        to_env = self.action_set.to_env
        if self.action_set.discrete:
            found = self._search_categories(objective, state["plan"], generator)
            actions = self._likeliest_elite(found)
        else:
            variance = torch.full_like(state["plan"], 0.25)
            found = search_gaussian(
                lambda searched: objective(to_env(searched)),
                state["plan"],
                variance,
                self.settings,
                generator,
                bounded=True,
            )
            actions = to_env(found.mean)
        return Plan(
            actions,
            found.predicted_return,
            to_env(found.candidates),
            found.returns,
            found.weights,
            {"plan": self._shifted(found.mean)},
        )

    def _likeliest_elite(self, found: Refit) -> Tensor:
        """Return the elite ``[B, H, A]`` that is likeliest under the distribution fitted to all of them."""
        chances = (found.mean[:, None] * found.candidates).clamp(min=1e-6)
        likelihood = torch.where(found.candidates > 0, chances.log(), 0.0).sum((2, 3))
        best = torch.where(found.weights > 0, likelihood, -torch.inf).argmax(1, keepdim=True)
        return take(found.candidates, best)[:, 0]

    def _search_categories(self, objective: Objective, last: Tensor, generator: torch.Generator) -> Refit:
        chances = reopened(self.action_set, last)
        result: Refit | None = None
        for _ in range(self.settings.iterations):
            spread = chances * (1 - chances)
            searching = spread.flatten(1).amax(1) > self.settings.min_variance
            if result is not None and not bool(searching.any()):
                break
            shape = (self.settings.population, self.horizon, len(self.action_set.blocks))
            numbers = torch.rand(shape, generator=generator, device=generator.device)
            candidates = self.action_set.choose(chances[:, None], numbers)
            returns = checked_returns(objective, candidates)
            weights = elite_weights(returns, self.settings.num_elites)
            moves = (searching & (weights.sum(1) > 0))[:, None, None]
            chosen = weighted_mean(candidates, weights)
            chances = torch.where(moves, self.settings.alpha * chances + (1 - self.settings.alpha) * chosen, chances)
            new = Refit(chances, chances * (1 - chances), candidates, returns, weights)
            result = new.keeping(result, ~searching)
        assert result is not None  # there is at least one iteration
        return result
