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


class TwoHot(nn.Module):
    """Numbers as two-hot distributions of their symlog over bins in equal distances.

    Args:
        bins: ``N``, their number.
        largest: the symlog of the last bin; the first one is its negative.
    """

    bins: Tensor

    def __init__(self, bins: int, largest: float = LARGEST_SYMLOG) -> None:
        super().__init__()
        self.register_buffer("bins", torch.linspace(-largest, largest, bins), persistent=False)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the numbers ``[...]`` that logits ``[..., N]`` stand for."""
        return symexp(outputs.softmax(-1) @ self.bins)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropies ``[...]`` of logits ``[..., N]`` for targets ``[...]``, which may broadcast."""
        below, weight = two_hot_places(symlog(target), self.bins)
        near = torch.stack([below, below + 1], dim=-1).expand(*outputs.shape[:-1], 2)
        chances = outputs.log_softmax(-1).gather(-1, near)  # [..., 2]
        return -torch.lerp(chances[..., 0], chances[..., 1], weight)


class ScalarHead(nn.Module):
    """A network that predicts a number: by a two-hot distribution of its symlog, or by a Gaussian of unit variance.

    The last layer begins at 0, so that all predictions do.

    Args:
        inputs: ``F``.
        layers: the form of the layers.
        num_layers: hidden ones.
        bins: ``N``, of the two-hot distribution; None for the Gaussian. Fewer are cheaper.
        largest: see :class:`TwoHot`.
    """

    def __init__(
        self, inputs: int, layers: Layers, num_layers: int, bins: int | None, largest: float = LARGEST_SYMLOG
    ) -> None:
        super().__init__()
        self.net = layers.mlp(inputs, num_layers, bins or 1)
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        self.two_hot = None if bins is None else TwoHot(bins, largest)

    def forward(self, features: Tensor) -> Tensor:
        """Return the network's outputs ``[..., N]`` for ``[..., F]``."""
        return self.net(features)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the predicted numbers ``[...]``."""
        return outputs[..., 0] if self.two_hot is None else self.two_hot.mean(outputs)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the negative log-likelihood of targets ``[...]``, up to a constant."""
        if self.two_hot is None:
            return 0.5 * (outputs[..., 0] - target).square()
        return self.two_hot.loss(outputs, target)
