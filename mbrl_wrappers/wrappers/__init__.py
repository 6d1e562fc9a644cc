"""Wrappers around environments that use a model."""

from mbrl_wrappers.wrappers.masked_uncertainty import MaskedUncertainty, VectorMaskedUncertainty
from mbrl_wrappers.wrappers.mpc import MPCAction, VectorMPCAction

__all__ = ["MPCAction", "MaskedUncertainty", "VectorMPCAction", "VectorMaskedUncertainty"]
