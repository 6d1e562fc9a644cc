"""AlphaZero's networks (Silver et al. 2018): a policy over legal moves and a value, on layers that both share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional as F


class DenseTrunk(BaseFeaturesExtractor):
    """Dense layers that policy and value share.

    Args:
        observation_space: planes.
        widths: units of the hidden layers.
    """

    def __init__(self, observation_space: spaces.Space, widths: Iterable[int] = (128, 128)) -> None:
        widths = list(widths)
        super().__init__(observation_space, widths[-1])
        sizes = [int(np.prod(observation_space.shape or ())), *widths]
        layers = [layer for pair in zip(sizes, widths, strict=False) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(nn.Flatten(), *layers)

    def forward(self, planes: Tensor) -> Tensor:
        """Return features ``[B, F]`` of planes ``[B, C, H, W]``."""
        return self.layers(planes)


class ResidualTrunk(BaseFeaturesExtractor):
    """The paper's residual network that policy and value share; on a CPU it costs many times the dense one.

    Args:
        observation_space: planes.
        channels: of each convolution.
        blocks: residual blocks of two convolutions.
    """

    def __init__(self, observation_space: spaces.Space, channels: int = 64, blocks: int = 4) -> None:
        assert observation_space.shape is not None
        depth, height, width = observation_space.shape
        super().__init__(observation_space, channels * height * width)
        self.stem = _convolution(depth, channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolution(channels, channels), nn.ReLU(), _convolution(channels, channels))
            for _ in range(blocks)
        )

    def forward(self, planes: Tensor) -> Tensor:
        """Return features ``[B, F]`` of planes ``[B, C, H, W]``."""
        x = F.relu(self.stem(planes))
        for block in self.blocks:
            x = F.relu(x + block(x))
        return x.flatten(1)


def _convolution(depth: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(depth, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


class AlphaZeroPolicy(MaskableActorCriticPolicy):
    """A network with a policy over legal moves, and a value in [-1, 1] for the player to move.

    Args:
        *args: sb3-contrib's.
        features_extractor_class: the layers that policy and value share.
        net_arch: hidden layers of policy and value of their own.
        optimizer_kwargs: Adam's; by default the paper's weight decay.
        **kwargs: sb3-contrib's.
    """

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = DenseTrunk,
        net_arch: Any = (),
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        own = {
            "net_arch": net_arch if isinstance(net_arch, dict) else list(net_arch),
            "features_extractor_class": features_extractor_class,
            "optimizer_kwargs": {"weight_decay": 1e-4} if optimizer_kwargs is None else optimizer_kwargs,
        }
        super().__init__(*args, **{**kwargs, **own})

    def evaluate(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[B, A]`` and values ``[B]`` of observations ``[B, C, H, W]``."""
        latent_pi, latent_vf = self.mlp_extractor(self.extract_features(planes))
        return self.action_net(latent_pi), torch.tanh(self.value_net(latent_vf))[:, 0]


class ResidualPolicy(AlphaZeroPolicy):
    """:class:`AlphaZeroPolicy` with the paper's residual network."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": ResidualTrunk, **kwargs})
