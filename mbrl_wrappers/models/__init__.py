"""World models: learned ones, and exact ones to compare them with."""

from mbrl_wrappers.models.action_returns import TrajectoryReturns
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.frame_baselines import CopyDynamics, SokobanDynamics
from mbrl_wrappers.models.frames import FrameDynamics
from mbrl_wrappers.models.implicit import ImplicitModel
from mbrl_wrappers.models.known import KnownDynamics
from mbrl_wrappers.models.mdn_rnn import MDNRNN
from mbrl_wrappers.models.rssm import RSSM
from mbrl_wrappers.models.world_model import StepPrediction, WorldModel

__all__ = [
    "MDNRNN",
    "RSSM",
    "CopyDynamics",
    "DynamicsModel",
    "EnsembleDynamics",
    "FrameDynamics",
    "ImplicitModel",
    "KnownDynamics",
    "SokobanDynamics",
    "StepPrediction",
    "TrajectoryReturns",
    "WorldModel",
]
