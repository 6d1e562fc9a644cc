"""Layers, critics and policies for the networks of SB3's agents, with or without a model."""

from typing import TYPE_CHECKING

from mbrl_wrappers.lazy import lazy_names

if TYPE_CHECKING:
    from mbrl_wrappers.agents.networks.averaged import AveragedSACPolicy, AveragedTD3Policy
    from mbrl_wrappers.agents.networks.imagination import FrameExtractor, ImaginationExtractor
    from mbrl_wrappers.agents.networks.layers import DropoutLayerNormSiLU, DroQReLU, LayerNormReLU, LayerNormSiLU
    from mbrl_wrappers.agents.networks.redq import REDQPolicy
    from mbrl_wrappers.agents.networks.simba import SimBaDQNPolicy, SimBaSACPolicy, SimBaTD3Policy, SimBaTQCPolicy
    from mbrl_wrappers.agents.networks.steve_td3 import STEVETD3Policy

__all__ = [
    "AveragedSACPolicy",
    "AveragedTD3Policy",
    "DroQReLU",
    "DropoutLayerNormSiLU",
    "FrameExtractor",
    "ImaginationExtractor",
    "LayerNormReLU",
    "LayerNormSiLU",
    "REDQPolicy",
    "STEVETD3Policy",
    "SimBaDQNPolicy",
    "SimBaSACPolicy",
    "SimBaTD3Policy",
    "SimBaTQCPolicy",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AveragedSACPolicy": "mbrl_wrappers.agents.networks.averaged",
        "AveragedTD3Policy": "mbrl_wrappers.agents.networks.averaged",
        "DroQReLU": "mbrl_wrappers.agents.networks.layers",
        "DropoutLayerNormSiLU": "mbrl_wrappers.agents.networks.layers",
        "FrameExtractor": "mbrl_wrappers.agents.networks.imagination",
        "ImaginationExtractor": "mbrl_wrappers.agents.networks.imagination",
        "LayerNormReLU": "mbrl_wrappers.agents.networks.layers",
        "LayerNormSiLU": "mbrl_wrappers.agents.networks.layers",
        "REDQPolicy": "mbrl_wrappers.agents.networks.redq",
        "STEVETD3Policy": "mbrl_wrappers.agents.networks.steve_td3",
        "SimBaDQNPolicy": "mbrl_wrappers.agents.networks.simba",
        "SimBaSACPolicy": "mbrl_wrappers.agents.networks.simba",
        "SimBaTD3Policy": "mbrl_wrappers.agents.networks.simba",
        "SimBaTQCPolicy": "mbrl_wrappers.agents.networks.simba",
    },
)
