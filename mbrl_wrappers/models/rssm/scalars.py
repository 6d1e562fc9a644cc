"""Predictions of rewards and values whose scale is not known: symlog and two-hot (Hafner et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbrl_wrappers.models.rssm.networks import Layers

LARGEST_SYMLOG = 20.0


def symlog(x: Tensor) -> Tensor:
    """Return ``sign(x) log(|x| + 1)``."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Return the inverse of :func:`symlog`."""
    return x.sign() * x.abs().expm1()


def two_hot_places(value: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the two-hot code of values puts its weight.

    The code has the weight ``1 - w`` in the bin below the value and ``w`` in the next, so that its mean is the value.

    Args:
        value: ``[...]``; values outside of the bins are taken for the outermost bin.
        bins: ``[N]`` equally spaced values, in ascending order.

    Returns:
        The index of the bin below, ``[...]``, and ``w``, ``[...]``.
    """
    place = (value - bins[0]) / (bins[1] - bins[0])
    place = place.clamp(0, len(bins) - 1)
    below = place.floor().clamp(max=len(bins) - 2)
    return below.long(), place - below


class ScalarHead(nn.Module):
    """A network that predicts a number: by a two-hot distribution of its symlog, or by a Gaussian of unit variance.

    The last layer begins at 0, so that all predictions do.

    Args:
        inputs: ``F``.
        layers: the form of the layers.
        num_layers: hidden ones.
        bins: ``N``, of the two-hot distribution, in equal distances from -20 to 20 in symlog; None for the Gaussian.
            Fewer are cheaper.
    """

    bins: Tensor | None

    def __init__(self, inputs: int, layers: Layers, num_layers: int, bins: int | None) -> None:
        super().__init__()
        self.net = layers.mlp(inputs, num_layers, bins or 1)
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        places = None if bins is None else torch.linspace(-LARGEST_SYMLOG, LARGEST_SYMLOG, bins)
        self.register_buffer("bins", places, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the network's outputs ``[..., N]`` for ``[..., F]``."""
        return self.net(features)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the predicted numbers ``[...]``."""
        return outputs[..., 0] if self.bins is None else symexp(outputs.softmax(-1) @ self.bins)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the negative log-likelihood of targets ``[...]``, up to a constant."""
        if self.bins is None:
            return 0.5 * (outputs[..., 0] - target).square()
        below, weight = two_hot_places(symlog(target), self.bins)
        near = torch.stack([below, below + 1], dim=-1)
        chances = outputs.log_softmax(-1).gather(-1, near)  # [..., 2]
        return -torch.lerp(chances[..., 0], chances[..., 1], weight)
