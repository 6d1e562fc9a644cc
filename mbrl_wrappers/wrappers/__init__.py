"""Wrappers around environments that use a model, and environments and models as a tree search sees them."""

from mbrl_wrappers.wrappers.expansions import ModelExpansion, SimulatorExpansion
from mbrl_wrappers.wrappers.imagined_futures import ImaginationCore, VecImaginedFutures
from mbrl_wrappers.wrappers.latent_observation import LatentObservation
from mbrl_wrappers.wrappers.masked_uncertainty import MaskedUncertainty, VectorMaskedUncertainty
from mbrl_wrappers.wrappers.mpc import MPCAction, VectorMPCAction

__all__ = [
    "ImaginationCore",
    "LatentObservation",
    "MPCAction",
    "MaskedUncertainty",
    "ModelExpansion",
    "SimulatorExpansion",
    "VecImaginedFutures",
    "VectorMPCAction",
    "VectorMaskedUncertainty",
]
