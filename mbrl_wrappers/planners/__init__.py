"""Search over action sequences. A planner is given an objective and the actions it may choose, never a model."""

from mbrl_wrappers.planners.base import Objective, Plan, Planner, PlannerState, reset_rows
from mbrl_wrappers.planners.cem import CEM, CEMSettings, search_gaussian
from mbrl_wrappers.planners.gradient import GradientPlanner
from mbrl_wrappers.planners.icem import ICEM
from mbrl_wrappers.planners.mppi import MPPI
from mbrl_wrappers.planners.random_shooting import RandomShooting

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "CEMSettings",
    "GradientPlanner",
    "Objective",
    "Plan",
    "Planner",
    "PlannerState",
    "RandomShooting",
    "reset_rows",
    "search_gaussian",
]

PLANNERS: dict[str, type[Planner]] = {
    "RS": RandomShooting,
    "CEM": CEM,
    "iCEM": ICEM,
    "MPPI": MPPI,
    "Gradient": GradientPlanner,
}
