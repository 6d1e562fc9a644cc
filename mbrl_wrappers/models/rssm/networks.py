"""Encoders and decoders of observations: vectors, images, and observations that consist of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbrl_wrappers.spaces import FlatSpace, Image

SMALLEST_MAP = 4
"""Images are halved until their shorter side would get smaller than this."""


@dataclass(frozen=True)
class Layers:
    """The form of all layers of a model's networks.

    Attributes:
        units: of a hidden layer.
        activation: after each of them.
        layer_norm: whether each is normalised before its activation.
        eps: of the normalisation.
    """

    units: int
    activation: type[nn.Module]
    layer_norm: bool
    eps: float = 1e-3

    def hidden(self, inputs: int) -> list[nn.Module]:
        """Return a hidden layer's modules."""
        norm = [nn.LayerNorm(self.units, eps=self.eps)] if self.layer_norm else []
        return [linear(inputs, self.units), *norm, self.activation()]

    def mlp(self, inputs: int, num_layers: int, outputs: int | None = None) -> nn.Sequential:
        """Return a network of hidden layers and, if ``outputs`` are given, a linear one."""
        widths = [inputs, *[self.units] * num_layers]
        modules = [module for width in widths[:-1] for module in self.hidden(width)]
        return nn.Sequential(*modules, *([] if outputs is None else [linear(widths[-1], outputs)]))

    def norm_of_channels(self, channels: int) -> list[nn.Module]:
        """Return what normalises a convolution's outputs ``[B, C, H, W]`` over their channels."""
        return [ChannelNorm(channels)] if self.layer_norm else []


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer with Glorot's initial weights, as in the papers' code."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, ``[B, C, H, W]``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def map_sizes(image: Image) -> list[tuple[int, int]]:
    """Return height and width of an image and of each feature map, each half as large as the one before."""
    sizes = [(image.height, image.width)]
    while min(sizes[-1]) >= 2 * SMALLEST_MAP:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


class ImageEncoder(nn.Sequential):
    """Convolutions that halve an image ``[B, C, H, W]`` again and again, and lay the last maps flat.

    Args:
        image: its form.
        layers: the form of the layers.
        depth: channels of the first feature maps; each next one has twice as many.
    """

    def __init__(self, image: Image, layers: Layers, depth: int) -> None:
        sizes, channels = map_sizes(image), image.channels
        modules: list[nn.Module] = []
        for stage in range(len(sizes) - 1):
            wider = depth * 2**stage
            modules += [nn.Conv2d(channels, wider, 4, stride=2, padding=1)]
            modules += [*layers.norm_of_channels(wider), layers.activation()]
            channels = wider
        super().__init__(*modules, nn.Flatten())
        self.num_outputs = channels * sizes[-1][0] * sizes[-1][1]


class ImageDecoder(nn.Module):
    """The mirror image of an :class:`ImageEncoder`: features ``[B, F]`` to pixels ``[B, C, H, W]`` around 0..1."""

    def __init__(self, inputs: int, image: Image, layers: Layers, depth: int) -> None:
        super().__init__()
        sizes = map_sizes(image)
        stages = len(sizes) - 1
        widths = [image.channels, *(depth * 2**stage for stage in range(stages))]
        self.first_map = (widths[-1], *sizes[-1])
        self.expand = linear(inputs, widths[-1] * sizes[-1][0] * sizes[-1][1])
        modules: list[nn.Module] = []
        for stage in reversed(range(stages)):
            of_maps, of_image = sizes[stage + 1], sizes[stage]
            odd = (of_image[0] - 2 * of_maps[0], of_image[1] - 2 * of_maps[1])  # what halving has rounded off
            modules += [nn.ConvTranspose2d(widths[stage + 1], widths[stage], 4, 2, padding=1, output_padding=odd)]
            if stage:
                modules += [*layers.norm_of_channels(widths[stage]), layers.activation()]
        self.net = nn.Sequential(*modules)

    def forward(self, features: Tensor) -> Tensor:
        """Return pixels; 0 is black and 1 is white."""
        return self.net(self.expand(features).unflatten(-1, self.first_map)) + 0.5


class Encoder(nn.Module):
    """Observations to embeddings: a CNN for each image, an MLP for everything else, side by side.

    Args:
        codec: of the observations.
        layers: the form of the layers.
        num_layers: of the MLP.
        depth: see :class:`ImageEncoder`.
    """

    def __init__(self, codec: FlatSpace, layers: Layers, num_layers: int, depth: int) -> None:
        super().__init__()
        self._codec = codec
        self.of_images = nn.ModuleList(ImageEncoder(image, layers, depth) for image in codec.images)
        width = int((~codec.is_pixel).sum())
        self.of_vector = layers.mlp(width, num_layers) if width else None
        of_images = sum(net.num_outputs for net in self.of_images)  # type: ignore[misc]
        self.num_outputs = int(of_images) + (layers.units if width else 0)

    def forward(self, images: Sequence[Tensor], vector: Tensor) -> Tensor:
        """Return embeddings ``[B, E]`` of images ``[B, C, H, W]`` in 0..1 and vectors ``[B, V]``."""
        parts = [net(image - 0.5) for net, image in zip(self.of_images, images, strict=True)]
        if self.of_vector is not None:
            parts.append(self.of_vector(vector))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Decoder(nn.Module):
    """Features to the means of images and vectors; the arguments are those of :class:`Encoder`."""

    def __init__(self, inputs: int, codec: FlatSpace, layers: Layers, num_layers: int, depth: int) -> None:
        super().__init__()
        self.of_images = nn.ModuleList(ImageDecoder(inputs, image, layers, depth) for image in codec.images)
        width = int((~codec.is_pixel).sum())
        self.of_vector = layers.mlp(inputs, num_layers, width) if width else None

    def forward(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return images ``[B, C, H, W]`` in 0..1 and vectors ``[B, V]`` for features ``[B, F]``."""
        vector = features[:, :0] if self.of_vector is None else self.of_vector(features)
        return [net(features) for net in self.of_images], vector
