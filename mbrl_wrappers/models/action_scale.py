"""Actions as networks take them: bounded ones from -1 to 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbrl_wrappers.spaces import FlatSpace


class ActionScale(nn.Module):
    """Scales bounded continuous actions to [-1, 1], and leaves the others as they are.

    Args:
        codec: of the actions.
    """

    _bounded: Tensor
    _middle: Tensor
    _half: Tensor

    def __init__(self, codec: FlatSpace) -> None:
        super().__init__()
        low, high = codec.bounds
        is_bounded = codec.is_continuous & torch.isfinite(high - low) & (high > low)
        middle, half = torch.where(is_bounded, (low + high) / 2, 0.0), torch.where(is_bounded, (high - low) / 2, 1.0)
        self.register_buffer("_bounded", is_bounded, persistent=False)
        self.register_buffer("_middle", middle.float(), persistent=False)
        self.register_buffer("_half", half.float(), persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        """Scale actions ``[..., A]`` in the env's units; those beyond the bounds are cut off, their gradients not."""
        action = (action - self._middle) / self._half
        return torch.where(self._bounded, action / action.detach().abs().clamp(min=1), action)
