"""Model-based training of Stable-Baselines3's off-policy agents, as a callback."""

from mbrl_wrappers.imagination.buffer import BufferDecorator
from mbrl_wrappers.imagination.callback import ModelBased
from mbrl_wrappers.imagination.checkpoint import checkpoint_extra, has_checkpoint, load_checkpoint, save_checkpoint
from mbrl_wrappers.imagination.strategy import Strategy
from mbrl_wrappers.imagination.view import AgentView

__all__ = [
    "AgentView",
    "BufferDecorator",
    "ModelBased",
    "Strategy",
    "checkpoint_extra",
    "has_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]
