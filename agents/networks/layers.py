"""Layers for the networks of any SB3 agent, given as ``policy_kwargs={"activation_fn": LayerNormSiLU}``.

SB3 makes an activation behind each hidden layer without telling it the layer's width. So these normalise without the
weights that ``torch.nn.LayerNorm`` learns, which need the width (LayerNorm-simple, Xu et al. 2019).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F


class LayerNormActivation(nn.Module):
    """Dropout, then layer normalisation, then an activation: the order of DroQ (Hiraoka et al. 2022).

    Attributes:
        activation: ``[..., D] -> [..., D]``.
        dropout: share of the values that are set to 0 in training mode, in [0, 1).
    """

    activation: ClassVar[type[nn.Module]]
    dropout: ClassVar[float] = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Dropout(self.dropout)] * (self.dropout > 0), _LayerNorm(), self.activation())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., D]`` of the same shape as ``x``."""
        return self.layers(x)


class _LayerNorm(nn.Module):
    """Zero mean and unit variance over the last dimension, whatever its width."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])


class LayerNormReLU(LayerNormActivation):
    """Layer normalisation and ReLU."""

    activation = nn.ReLU


class LayerNormSiLU(LayerNormActivation):
    """Layer normalisation and SiLU."""

    activation = nn.SiLU


class DroQReLU(LayerNormReLU):
    """Dropout of a hundredth, layer normalisation and ReLU: DroQ's layer, made for many updates per env step."""

    dropout = 0.01


class DropoutLayerNormSiLU(LayerNormSiLU):
    """Dropout of a thousandth, which DHMBPO's critics have (Kubo et al. 2025), layer normalisation and SiLU."""

    dropout = 0.001
