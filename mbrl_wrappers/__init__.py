"""Model-based reinforcement learning for any Gymnasium environment and any Stable-Baselines3 agent.

A learned model of an environment is an environment. The most used names are here; each is imported when it is
first used, so `import mbrl_wrappers` alone costs nothing.
"""

from typing import TYPE_CHECKING

from mbrl_wrappers.lazy import lazy_names

if TYPE_CHECKING:
    from mbrl_wrappers.agents import M2AC, MVE, PETS, POPLIN, RS, STEVE, Dyna
    from mbrl_wrappers.envs import ImaginedEnv, ImaginedVecEnv, ImaginedVectorEnv
    from mbrl_wrappers.imagination import ModelBased
    from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
    from mbrl_wrappers.wrappers import MaskedUncertainty, MPCAction

__version__ = "0.1.0"

__all__ = [
    "M2AC",
    "MVE",
    "PETS",
    "POPLIN",
    "RS",
    "STEVE",
    "Dyna",
    "EnsembleDynamics",
    "ImaginedEnv",
    "ImaginedVecEnv",
    "ImaginedVectorEnv",
    "KnownDynamics",
    "MPCAction",
    "MaskedUncertainty",
    "ModelBased",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Dyna": "mbrl_wrappers.agents",
        "EnsembleDynamics": "mbrl_wrappers.models",
        "ImaginedEnv": "mbrl_wrappers.envs",
        "ImaginedVecEnv": "mbrl_wrappers.envs",
        "ImaginedVectorEnv": "mbrl_wrappers.envs",
        "KnownDynamics": "mbrl_wrappers.models",
        "M2AC": "mbrl_wrappers.agents",
        "MPCAction": "mbrl_wrappers.wrappers",
        "MVE": "mbrl_wrappers.agents",
        "MaskedUncertainty": "mbrl_wrappers.wrappers",
        "ModelBased": "mbrl_wrappers.imagination",
        "PETS": "mbrl_wrappers.agents",
        "POPLIN": "mbrl_wrappers.agents",
        "RS": "mbrl_wrappers.agents",
        "STEVE": "mbrl_wrappers.agents",
    },
)
