"""The ids by which ``gymnasium.make`` finds this library's environments."""

from __future__ import annotations

import gymnasium as gym

_TASKS = {
    "mbrl_wrappers/PETSCartpole-v0": ("pets_cartpole:PETSCartpole", 200),
    "mbrl_wrappers/MBBLCartPole-v0": ("mbbl:MBBLCartPole", 200),
    "mbrl_wrappers/MBBLInvertedPendulum-v0": ("mbbl:MBBLInvertedPendulum", 100),
    "mbrl_wrappers/PixelPendulum-v0": ("pixel_pendulum:PixelPendulum", 200),
}


def register_tasks() -> None:
    """Make this library's tasks known to Gymnasium, each with its time limit.

    Ids that are registered already stay as they are. Importing :mod:`mbrl_wrappers.envs` calls this function; without
    an import, write the module before the id.

    Example:
        >>> env = gym.make("mbrl_wrappers.envs:mbrl_wrappers/PETSCartpole-v0")
    """
    for env_id, (name, max_episode_steps) in _TASKS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=f"mbrl_wrappers.tasks.{name}",
                max_episode_steps=max_episode_steps,
            )
