"""Search over action sequences. A planner is given an objective and the actions it may choose, never a model."""

from typing import Any

from gymnasium import spaces

from mbrl_wrappers.planners.base import Objective, Plan, Planner, PlannerState, reset_rows
from mbrl_wrappers.planners.cem import CEM, CEMSettings, search_gaussian
from mbrl_wrappers.planners.icem import ICEM
from mbrl_wrappers.planners.mppi import MPPI
from mbrl_wrappers.planners.random_shooting import RandomShooting

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "CEMSettings",
    "Objective",
    "Plan",
    "Planner",
    "PlannerState",
    "RandomShooting",
    "default_planner",
    "reset_rows",
    "search_gaussian",
]

# What a plan is made with where nothing else is asked for; a CPU can do either at every step.
_LIGHT_CEM = {"population": 100, "num_elites": 10, "iterations": 3}

PLANNERS: dict[str, type[Planner]] = {"RS": RandomShooting, "CEM": CEM, "iCEM": ICEM, "MPPI": MPPI}


def default_planner(action_space: spaces.Space, **kwargs: Any) -> Planner:
    """Return iCEM for a Box, and a CEM with 3 iterations of 100 sequences for other spaces.

    Args:
        action_space: to plan in.
        **kwargs: of the planner, overriding its own.
    """
    if isinstance(action_space, spaces.Box):
        return ICEM(action_space, **kwargs)
    return CEM(action_space, **{**_LIGHT_CEM, **kwargs})
