"""What is learned: dynamics models, and exact ones beside them."""

from mbrl_wrappers.models.action_returns import TrajectoryReturns
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.known import KnownDynamics

__all__ = ["DynamicsModel", "EnsembleDynamics", "KnownDynamics", "TrajectoryReturns"]
