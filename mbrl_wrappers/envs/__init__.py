"""A model as an environment: single, for Gymnasium vectors, and for Stable-Baselines3; and real ones, put back.

Importing this package also registers, under ids ``mbrl_wrappers/...``, the tasks of published benchmarks, which lie in
``tasks``, and board games, which lie in ``envs.games``.
"""

from typing import TYPE_CHECKING

from mbrl_wrappers.envs.collect import collect_episodes, collect_transitions
from mbrl_wrappers.envs.grid_games import GamesVectorEnv
from mbrl_wrappers.envs.imagined import ImaginedEnv
from mbrl_wrappers.envs.simulator import SimulatorReturns
from mbrl_wrappers.envs.snapshots import Snapshots
from mbrl_wrappers.envs.vector_env import ImaginedVectorEnv
from mbrl_wrappers.lazy import lazy_names
from mbrl_wrappers.models.trust import Trust, calibrated_threshold
from mbrl_wrappers.tasks.registration import register_tasks

if TYPE_CHECKING:
    from mbrl_wrappers.envs.sb3_games import GamesVecEnv
    from mbrl_wrappers.envs.sb3_vec_env import ImaginedVecEnv

__all__ = [
    "GamesVecEnv",
    "GamesVectorEnv",
    "ImaginedEnv",
    "ImaginedVecEnv",
    "ImaginedVectorEnv",
    "SimulatorReturns",
    "Snapshots",
    "Trust",
    "calibrated_threshold",
    "collect_episodes",
    "collect_transitions",
]

register_tasks()

# Imported on first use, because they alone need Stable-Baselines3.
__getattr__, __dir__ = lazy_names(
    __name__,
    {"GamesVecEnv": "mbrl_wrappers.envs.sb3_games", "ImaginedVecEnv": "mbrl_wrappers.envs.sb3_vec_env"},
)
