"""The differences between the models of Dreamer's versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Version = Literal[1, 3]


@dataclass(frozen=True)
class Preset:
    """The parts of a version of Dreamer's model that are no sizes.

    Attributes:
        activation: of all networks.
        layer_norm: whether each layer is normalised before its activation.
        latent: the width of a Gaussian latent, or the groups and classes of a categorical one.
        symlog: whether vectors are seen and predicted as their :func:`~mbrl_wrappers.models.rssm.scalars.symlog`.
        bins: of the two-hot distribution of rewards; None for a Gaussian of unit variance.
        kl_scales: the factors of the divergence as a loss of the prior, and as a loss of the posterior.
        free_nats: below which the divergence is no loss.
    """

    activation: type[nn.Module]
    layer_norm: bool
    latent: int | tuple[int, int]
    symlog: bool
    bins: int | None
    kl_scales: tuple[float, float]
    free_nats: float


PRESETS: dict[Version, Preset] = {
    # Hafner et al. 2020. One divergence trains prior and posterior alike.
    1: Preset(nn.ELU, False, latent=30, symlog=False, bins=None, kl_scales=(1.0, 1.0), free_nats=3.0),
    # Hafner et al. 2023.
    3: Preset(nn.SiLU, True, latent=(32, 32), symlog=True, bins=255, kl_scales=(0.5, 0.1), free_nats=1.0),
}
