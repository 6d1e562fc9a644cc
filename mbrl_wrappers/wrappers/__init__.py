"""Wrappers around environments that use a model."""

from mbrl_wrappers.wrappers.mpc import MPCAction, VectorMPCAction
from mbrl_wrappers.wrappers.uncertainty import MaskedUncertainty, VectorMaskedUncertainty

__all__ = ["MPCAction", "MaskedUncertainty", "VectorMPCAction", "VectorMaskedUncertainty"]
