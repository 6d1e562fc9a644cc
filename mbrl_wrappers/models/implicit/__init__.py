"""The implicit world model of TD-MPC2 (Hansen et al. 2024): latent dynamics without a decoder."""

from mbrl_wrappers.models.implicit.model import ImplicitModel, Unrolled
from mbrl_wrappers.models.implicit.sizes import SIZES

__all__ = ["SIZES", "ImplicitModel", "Unrolled"]
