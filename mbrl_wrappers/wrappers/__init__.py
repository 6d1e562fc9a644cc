"""Wrappers around environments that use a model, and environments and models as a tree search sees them."""

from typing import TYPE_CHECKING

from mbrl_wrappers.lazy import lazy_names
from mbrl_wrappers.wrappers.expansions import ModelExpansion, SimulatorExpansion
from mbrl_wrappers.wrappers.imagined_futures import ImaginationCore
from mbrl_wrappers.wrappers.latent_observation import LatentObservation
from mbrl_wrappers.wrappers.masked_uncertainty import MaskedUncertainty, VectorMaskedUncertainty
from mbrl_wrappers.wrappers.mpc import MPCAction, VectorMPCAction

if TYPE_CHECKING:
    from mbrl_wrappers.wrappers.sb3_imagined_futures import VecImaginedFutures

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

# Imported on first use, because it alone needs Stable-Baselines3.
__getattr__, __dir__ = lazy_names(__name__, {"VecImaginedFutures": "mbrl_wrappers.wrappers.sb3_imagined_futures"})
