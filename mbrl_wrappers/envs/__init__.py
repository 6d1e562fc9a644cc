"""A model as an environment: single, for Gymnasium vectors, and for Stable-Baselines3."""

from typing import TYPE_CHECKING, Any

from mbrl_wrappers.envs.collect import collect_transitions
from mbrl_wrappers.envs.imagined import ImaginedEnv
from mbrl_wrappers.envs.vector_env import ImaginedVectorEnv

if TYPE_CHECKING:
    from mbrl_wrappers.envs.sb3_vec_env import ImaginedVecEnv

__all__ = ["ImaginedEnv", "ImaginedVecEnv", "ImaginedVectorEnv", "collect_transitions"]


def __getattr__(name: str) -> Any:
    # The one facade that needs Stable-Baselines3 is imported when it is asked for.
    if name == "ImaginedVecEnv":
        from mbrl_wrappers.envs.sb3_vec_env import ImaginedVecEnv

        return ImaginedVecEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
