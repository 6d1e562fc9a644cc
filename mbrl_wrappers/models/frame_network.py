"""The network of I2A's environment model: convolutions that know of the whole frame by pooling and injecting."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

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
        seed: of the initial weights.
    """

    def __init__(self, kinds: int, actions: int, rewards: int, channels: int, blocks: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(kinds + actions, channels, 3, padding=1)
            self.blocks = nn.ModuleList(_Block(channels) for _ in range(blocks))
            self.pixels = nn.Conv2d(channels, kinds, 1)
            self.outcome = nn.Sequential(
                nn.Linear(channels + actions, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, rewards + 1)
            )
        self.copy = nn.Parameter(torch.tensor(_COPY))

    def forward(self, kinds: Tensor, action: Tensor) -> FrameOutputs:
        """Return the logits of a step.

        Args:
            kinds: ``[B, K, H, W]``, one-hot.
            action: ``[B, A]``.
        """
        tiled = action[:, :, None, None].expand(-1, -1, *kinds.shape[-2:])
        x = torch.relu(self.first(torch.cat([kinds, tiled], dim=1)))
        for block in self.blocks:
            x = block(x)
        outcome = self.outcome(torch.cat([x.amax((-2, -1)), action], dim=1))
        return FrameOutputs(self.pixels(x) + self.copy * kinds, outcome[:, :-1], outcome[:, -1])


class _Block(nn.Module):
    """Pool and inject, then two convolutions around which the input passes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.amax((-2, -1), keepdim=True).expand_as(x)
        return torch.relu(x + self.mix(torch.relu(self.widen(torch.cat([x, pooled], dim=1)))))
