"""Stable-Baselines3's SAC, TD3 and TQC with each gradient update as one compiled function."""

from typing import TYPE_CHECKING

from mbrl_wrappers.lazy import lazy_names

if TYPE_CHECKING:
    from mbrl_wrappers.agents.compiled.soft_actor_critic import CompiledSAC, CompiledTQC
    from mbrl_wrappers.agents.compiled.td3 import CompiledTD3

__all__ = ["CompiledSAC", "CompiledTD3", "CompiledTQC"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CompiledSAC": "mbrl_wrappers.agents.compiled.soft_actor_critic",
        "CompiledTD3": "mbrl_wrappers.agents.compiled.td3",
        "CompiledTQC": "mbrl_wrappers.agents.compiled.soft_actor_critic",
    },
)
