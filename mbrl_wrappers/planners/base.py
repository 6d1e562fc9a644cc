"""The base of all planners: records, state and the objective's check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.planners.actions import ActionSet

# Actions ``[B, P, H, A]`` in the env's units -> returns ``[B, P]``.
Objective = Callable[[Tensor], Tensor]

# Tensors ``[B, ...]`` by name that one search leaves for the next. ``"plan" [B, H, A]``, where the next search starts,
# is always among them, in the units of the search (probabilities of the categories where actions are discrete).
PlannerState = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """The plans for ``B`` environments.

    Attributes:
        actions: ``[B, H, A]`` the plan, in the env's units and inside the bounds; never NaN.
        predicted_return: ``[B]`` return of the plan itself where the planner evaluates it (random shooting, iCEM);
            otherwise the weighted mean of the candidates' returns.
        candidates: ``[B, P, H, A]`` the sequences that the last iteration evaluated.
        returns: ``[B, P]`` the candidates' returns; minus infinity where they were not finite.
        weights: ``[B, P]`` the candidates' weights in the plan, such as equal ones for elites and 0 for the others.
        state: where the next search starts, one step later.
    """

    actions: Tensor
    predicted_return: Tensor
    candidates: Tensor
    returns: Tensor
    weights: Tensor
    state: PlannerState

    @property
    def action(self) -> Tensor:
        """The first action of each plan, ``[B, A]``."""
        return self.actions[:, 0]


class Planner(ABC):
    """Searches for the sequence of ``H`` actions with the greatest return, for ``B`` environments at once.

    State goes in and comes out. All randomness comes from the generator, which advances by one number per call of
    :meth:`plan`, and all environments share the same random numbers: the plan for one depends on its own objective and
    state and on the generator, not on the rest of the batch.

    Args:
        action_space: bounded Boxes, or Discrete and MultiDiscrete parts.
        horizon: ``H``, steps of a plan.

    Raises:
        ValueError: for a space that can't be searched, or a horizon below 1.
    """

    def __init__(self, action_space: spaces.Space, *, horizon: int) -> None:
        check_whole_number("horizon", horizon)
        self.action_space = action_space
        self.action_set = ActionSet(action_space)
        self.horizon = horizon

    def initial_state(self, batch_size: int, device: torch.device | str = "cpu") -> PlannerState:
        """Return the state before the first plan."""
        check_whole_number("batch_size", batch_size)
        return {"plan": self.action_set.start(batch_size, self.horizon, device=device)}

    def reset(self, state: PlannerState, ended: Tensor) -> PlannerState:
        """Forget everything about some environments, and nothing about the others.

        Args:
            state: tensors ``[B, ...]``.
            ended: ``[B]`` bool, the environments that start a new episode.

        Returns:
            The new state; the given one is not changed.
        """
        return reset_rows(state, self.initial_state(len(ended), state["plan"].device), ended)

    def propose(self, state: PlannerState, action: Tensor) -> PlannerState:
        """Let the next search start from a proposal for the first action.

        Args:
            state: tensors ``[B, ...]``.
            action: ``[B, A]`` in the env's units.

        Returns:
            The new state; the given one is not changed.
        """
        plan = state["plan"].clone()
        plan[:, 0] = self.action_set.from_env(action.to(plan))
        return {**state, "plan": plan}

    @torch.no_grad()
    def plan(self, objective: Objective, state: PlannerState, generator: torch.Generator | None = None) -> Plan:
        """Search.

        Args:
            objective: ``actions [B, P, H, A] -> returns [B, P]``; a return that is not finite ranks last.
            state: :meth:`initial_state`, or the state of the last :class:`Plan`.
            generator: on the state's device; default: torch's global one.

        Raises:
            ValueError: if the objective returns another shape.
        """
        return self._search(objective, state, self._own_generator(state, generator))

    @staticmethod
    def _own_generator(state: PlannerState, generator: torch.Generator | None) -> torch.Generator:
        """Return a generator for one search; the given one advances by one number."""
        device = state["plan"].device
        seed = torch.randint(2**62, (1,), generator=generator, device=device)
        return torch.Generator(device).manual_seed(int(seed))

    @abstractmethod
    def _search(self, objective: Objective, state: PlannerState, generator: torch.Generator) -> Plan:
        """Do the work of :meth:`plan`, with a generator of its own."""

    def _evaluate(self, objective: Objective, searched: Tensor) -> tuple[Tensor, Tensor]:
        """Return candidates ``[B, P, H, A]`` in the env's units, and their returns with minus infinity for bad ones."""
        actions = self.action_set.to_env(searched)
        return actions, checked_returns(objective, actions)

    def _shifted(self, plan: Tensor, last: Tensor | None = None) -> Tensor:
        """Return a sequence ``[B, H, A]`` one step later, with ``last [B, 1, A]`` (default: the middle) at its end."""
        last = self.action_set.start(len(plan), 1, device=plan.device).to(plan) if last is None else last
        return torch.cat([plan[:, 1:], last], dim=1)


def reset_rows(state: PlannerState, fresh: PlannerState, ended: Tensor) -> PlannerState:
    """Return a state with the rows ``ended [B]`` of a fresh one."""
    return {
        name: torch.where(ended.reshape(-1, *[1] * (value.dim() - 1)), fresh[name], value)
        for name, value in state.items()
    }


def checked_returns(objective: Objective, controls: Tensor) -> Tensor:
    """Call an objective on ``[B, P, ...]`` and return ``[B, P]``; returns that are not finite become minus infinity.

    Raises:
        ValueError: if the objective returns anything but floating-point returns ``[B, P]``.
    """
    returns = objective(controls)
    shape = tuple(controls.shape[:2])
    if not isinstance(returns, Tensor) or tuple(returns.shape) != shape or not returns.is_floating_point():
        found = f"{tuple(returns.shape)} of {returns.dtype}" if isinstance(returns, Tensor) else repr(returns)
        raise ValueError(f"objective must return a floating tensor of shape {shape}, got {found}")
    return torch.where(torch.isfinite(returns), returns, -torch.inf)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return ``values[b, index[b, k]]``: ``[B, P, ...]`` and ``[B, K]`` give ``[B, K, ...]``."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, index]


def elite_weights(returns: Tensor, num_elites: int) -> Tensor:
    """Return weights ``[B, P]``: equal for the best candidates, 0 for the others and for returns that aren't finite."""
    best = returns.topk(num_elites, dim=1).indices
    chosen = torch.zeros_like(returns).scatter(1, best, 1.0) * torch.isfinite(returns)
    return chosen / chosen.sum(1, keepdim=True).clamp(min=1.0)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return ``sum_p weights[b, p] values[b, p]``, ``[B, ...]``; values with weight 0 need not be finite."""
    weights = weights.to(values.dtype).reshape(*weights.shape, *[1] * (values.dim() - 2))
    return torch.where(weights > 0, weights * values, 0.0).sum(1)
