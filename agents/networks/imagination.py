"""I2A's networks (Weber et al. 2017): what an agent makes of imagined rollouts, and the policy that these follow."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from mbrl_wrappers.arguments import check_whole_number


class FrameExtractor(BaseFeaturesExtractor):
    """Two convolutions and a dense layer, for small frames; the model-free path of I2A, and all of its A2C.

    Args:
        observation_space: a frame ``[C, H, W]``.
        channels: of the convolutions, the second of which halves the frame.
        features_dim: units of the dense layer.
    """

    def __init__(self, observation_space: spaces.Space, channels: int = 32, features_dim: int = 128) -> None:
        for name, value in (("channels", channels), ("features_dim", features_dim)):
            check_whole_number(name, value)
        super().__init__(observation_space, features_dim)
        self.layers = frame_network(observation_space.shape or (), channels, features_dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Return features ``[B, F]`` of frames ``[B, C, H, W]``, floats in [0, 1]."""
        return self.layers(frames)


class ImaginationExtractor(BaseFeaturesExtractor):
    """The features of an observation and of the rollouts that were imagined from it.

    The model-free path is a :class:`FrameExtractor`. The rollout encoder reads each rollout backwards: a convolutional
    network for each frame, then an LSTM over the frames' features and rewards. The aggregator lays its last outputs
    side by side, one for each first action, and behind them the features of the model-free path.

    Args:
        observation_space: of :class:`~mbrl_wrappers.wrappers.ImaginationCore`.
        channels: of the model-free path's convolutions.
        features_dim: of the model-free path.
        rollout_channels: of the rollout encoder's convolutions.
        frame_features: of each imagined frame.
        rollout_features: units of the LSTM.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        channels: int = 32,
        features_dim: int = 128,
        rollout_channels: int = 16,
        frame_features: int = 64,
        rollout_features: int = 64,
    ) -> None:
        sizes = {
            "rollout_channels": rollout_channels, "frame_features": frame_features, "rollout_features": rollout_features
        }  # fmt: skip
        for name, value in sizes.items():
            check_whole_number(name, value)
        self.num_actions, self.length, *shape = observation_space["frames"].shape or ()
        super().__init__(observation_space, features_dim + self.num_actions * rollout_features)
        self.model_free = FrameExtractor(observation_space["observation"], channels, features_dim)
        self.frames = frame_network(tuple(shape), rollout_channels, frame_features)
        self.rollouts = nn.LSTM(frame_features + 1, rollout_features, batch_first=True)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return features ``[B, F]`` of a batch; SB3 has divided the observation by 255, but not the frames."""
        frames, rewards = observations["frames"], observations["rewards"]
        seen = self.frames(frames.flatten(0, 2) / 255)  # [B A T, F]
        read = torch.cat([seen, rewards.reshape(-1, 1)], 1).reshape(-1, self.length, seen.shape[1] + 1)
        _, (summaries, _) = self.rollouts(read.flip(1))  # [1, B A, F]
        model_free = self.model_free(observations["observation"])
        return torch.cat([summaries.reshape(len(frames), -1), model_free], 1)


class ImaginationPolicy(MultiInputActorCriticPolicy):
    """Policy and value on imagined rollouts, and the rollout policy, which is trained apart from them.

    Args:
        *args: SB3's.
        rollout_learning_rate: Adam's, of the rollout policy.
        rollout_policy_channels: of the rollout policy's convolutions.
        features_extractor_class: of observations with their imagined futures.
        net_arch: hidden layers of policy and value behind the features.
        **kwargs: SB3's.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *args: Any,
        rollout_learning_rate: float = 1e-3,
        rollout_policy_channels: int = 16,
        features_extractor_class: type[BaseFeaturesExtractor] = ImaginationExtractor,
        net_arch: Any = (),
        **kwargs: Any,
    ) -> None:
        check_whole_number("rollout_policy_channels", rollout_policy_channels)
        own = {
            "features_extractor_class": features_extractor_class,
            "net_arch": net_arch if isinstance(net_arch, dict) else list(net_arch),
        }
        super().__init__(observation_space, action_space, lr_schedule, *args, **{**kwargs, **own})
        shape = observation_space["observation"].shape or ()
        # Built behind the policy's own optimiser, which therefore does not hold it.
        self.rollout_policy = nn.Sequential(
            frame_network(shape, rollout_policy_channels, 64), nn.Linear(64, int(action_space.n))
        )
        self.rollout_optimizer = torch.optim.Adam(self.rollout_policy.parameters(), rollout_learning_rate, fused=True)


class _FrameNetwork(nn.Sequential):
    """Layers that see frames with the channels last in memory, for which convolutions are faster on a CPU."""

    def forward(self, frames: Tensor) -> Tensor:
        return super().forward(frames.contiguous(memory_format=torch.channels_last))


def frame_network(shape: tuple[int, ...], channels: int, features: int) -> nn.Module:
    """Return a network from frames ``[N, C, H, W]`` to features ``[N, F]``."""
    depth, height, width = shape
    if min(height, width) < 3:
        raise ValueError(f"observation_space must have frames of at least 3 x 3, got {height} x {width}")
    cells = (-(-(height - 2) // 2)) * (-(-(width - 2) // 2))
    return _FrameNetwork(
        nn.Conv2d(depth, channels, 3),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * cells, features),
        nn.ReLU(),
    )
