"""The probabilistic ensemble of PETS and MBPO."""

from mbrl_wrappers.models.ensemble.model import EnsembleDynamics

__all__ = ["EnsembleDynamics"]
