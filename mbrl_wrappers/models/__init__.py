"""What is learned: dynamics models, and exact ones beside them."""

from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.known import KnownDynamics
from mbrl_wrappers.models.trajectories import TrajectoryReturns

__all__ = ["DynamicsModel", "EnsembleDynamics", "KnownDynamics", "TrajectoryReturns"]
