"""A model as an environment: single, for Gymnasium vectors, and for Stable-Baselines3."""

from typing import TYPE_CHECKING

from mbrl_wrappers.envs.collect import collect_transitions
from mbrl_wrappers.envs.imagined import ImaginedEnv
from mbrl_wrappers.envs.vector_env import ImaginedVectorEnv
from mbrl_wrappers.lazy import lazy_names

if TYPE_CHECKING:
    from mbrl_wrappers.envs.sb3_vec_env import ImaginedVecEnv

__all__ = ["ImaginedEnv", "ImaginedVecEnv", "ImaginedVectorEnv", "collect_transitions"]

# The one facade that needs Stable-Baselines3 is imported when it is asked for.
__getattr__, __dir__ = lazy_names(__name__, {"ImaginedVecEnv": "mbrl_wrappers.envs.sb3_vec_env"})
