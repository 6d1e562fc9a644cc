"""The network of I2A's environment model: convolutions that know of the whole frame by pooling and injecting."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_COPY = 4.0  # at the start, a pixel keeps its kind with a probability near 1


class FrameOutputs(NamedTuple):
    """What the network says of a step of ``B`` rows, with ``K`` kinds of pixels and ``R`` rewards.

    Attributes:
        pixels: ``[B, K, H, W]`` logits of the next frame.
        reward: ``[B, R]`` logits.
        end: ``[B]`` logit of a termination.
    """

    pixels: Tensor
    reward: Tensor
    end: Tensor


class FrameNetwork(nn.Module):
    """Predict the next frame, the reward and the end from a frame and an action, all as logits.

    After Weber et al. (2017, arXiv:1707.06203), appendix: the action is tiled over the frame, and blocks of
    convolutions keep the frame's size, each with a pool-and-inject layer (the maximum of each channel over the frame is
    tiled over it again). Ours: all kernels are 3x3, blocks are residual, a pixel's own kind is added to its logits, and
    rewards and ends are read off the maxima of the last channels.

    Args:
        kinds: ``K``, kinds of pixels.
        actions: width ``A`` of an action.
        rewards: ``R``, different rewards.
        channels: of the convolutions.
        blocks: how many.
        pooling: whether blocks pool and inject. Without it a pixel's next kind depends only on the pixels around it.
        seed: of the initial weights.
    """

    def __init__(
        self, kinds: int, actions: int, rewards: int, channels: int, blocks: int, pooling: bool, seed: int
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(kinds + actions, channels, 3, padding=1)
            self.blocks = nn.ModuleList(_Block(channels, pooling) for _ in range(blocks))
            self.pixels = nn.Conv2d(channels, kinds, 1)
            self.outcome = nn.Sequential(
                nn.Linear(channels + actions, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, rewards + 1)
            )
        self.copy = nn.Parameter(torch.tensor(_COPY))

    def forward(self, kinds: Tensor, action: Tensor) -> FrameOutputs:
        """Return the logits of a step.

        Convolutions are faster on a CPU if the channels of ``kinds`` are last in memory.

        Args:
            kinds: ``[B, K, H, W]``, one-hot; if these are fewer than the network has room for, so are the logits.
            action: ``[B, A]``.
        """
        x = torch.relu(convolve(self.first, kinds, action))
        for block in self.blocks:
            x = block(x)
        outcome = self.outcome(torch.cat([highest(x), action], dim=1))
        weight, bias = (part[: kinds.shape[1]] for part in self.pixels.parameters())
        return FrameOutputs(F.conv2d(x, weight, bias) + self.copy * kinds, outcome[:, :-1], outcome[:, -1])


class _Block(nn.Module):
    """Two convolutions around which the input passes, the first one of pooled and injected channels too."""

    def __init__(self, channels: int, pooling: bool) -> None:
        super().__init__()
        self.pooling = pooling
        self.widen = nn.Conv2d((1 + pooling) * channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide = convolve(self.widen, x, highest(x)) if self.pooling else self.widen(x)
        return torch.relu(x + self.mix(torch.relu(wide)))


def convolve(convolution: nn.Conv2d, x: Tensor, constants: Tensor) -> Tensor:
    """Return ``convolution(cat([x, constants tiled over the frame]))`` ``[B, O, H, W]``, without tiling them.

    What a constant plane of ones contributes to each pixel, which depends on how near the frame's edge is, is worked
    out once for the batch.

    Args:
        convolution: 3x3, padded by 1, of ``C + N`` channels; of more, those between them are left out.
        x: ``[B, C, H, W]``.
        constants: ``[B, N]``.
    """
    (height, width), num = x.shape[-2:], constants.shape[1]
    own, tiled = convolution.weight[:, : x.shape[1]], convolution.weight[:, -num:]
    reach = F.conv2d(x.new_ones(1, 1, height, width), tiled.flatten(0, 1)[:, None], padding=1)  # [1, O N, H, W]
    reach = reach.unflatten(1, (-1, num))[0].permute(1, 2, 3, 0).flatten(1)  # [N, H W O]
    added = (constants @ reach).unflatten(1, (height, width, -1)).movedim(-1, 1)
    return F.conv2d(x, own, convolution.bias, padding=1) + added


def highest(x: Tensor) -> Tensor:
    """Return the maxima ``[B, C]`` over frames ``[B, C, H, W]``."""
    return F.adaptive_max_pool2d(x, 1).flatten(1)  # amax is ten times as slow where the channels are last in memory
