"""The ids by which ``gymnasium.make`` finds this library's environments."""

from __future__ import annotations

import gymnasium as gym

from mbrl_wrappers.tasks.control_suite import CONTROL_TASKS, FRAME_SIZE

_TASKS = {
    "mbrl_wrappers/PETSCartpole-v0": ("pets_cartpole:PETSCartpole", 200),
    "mbrl_wrappers/MBBLCartPole-v0": ("mbbl:MBBLCartPole", 200),
    "mbrl_wrappers/MBBLInvertedPendulum-v0": ("mbbl:MBBLInvertedPendulum", 100),
    "mbrl_wrappers/Breakout-v0": ("grids:Breakout", 1000),
    "mbrl_wrappers/MiniPacman-v0": ("grids:MiniPacman", 3000),
    "mbrl_wrappers/Sokoban-v0": ("grids:Sokoban", 120),
    "mbrl_wrappers/PixelPendulum-v0": ("pixel_pendulum:PixelPendulum", 200),
    "mbrl_wrappers/PixelMountainCarContinuous-v0": ("pixel_mountain_car:PixelMountainCarContinuous", 999),
    "mbrl_wrappers/TakeCover-v0": ("take_cover:TakeCover", 2100),
    "mbrl_wrappers/TakeCoverFrameSkip4-v0": ("take_cover:TakeCover", 525),
    "mbrl_wrappers/CarRacing-v0": ("car_racing:CarRacing", 1000),
    "mbrl_wrappers/CarRacingFrameSkip4-v0": ("car_racing:CarRacing", 250),
}
_FRAME_SKIP = {"mbrl_wrappers/TakeCoverFrameSkip4-v0": 4, "mbrl_wrappers/CarRacingFrameSkip4-v0": 4}
# What `gymnasium.make_vec` calls; other tasks run side by side as separate envs.
_VECTORS = {
    "mbrl_wrappers/Breakout-v0": "mbrl_wrappers.envs.grid_games:breakout_vector_env",
    "mbrl_wrappers/MiniPacman-v0": "mbrl_wrappers.envs.grid_games:mini_pacman_vector_env",
    "mbrl_wrappers/Sokoban-v0": "mbrl_wrappers.envs.grid_games:sokoban_vector_env",
}
# Names of mbrl_wrappers.envs.games.GAMES, which end by their own rules. Their modules are imported on first use.
_GAMES = ("TicTacToe", "ConnectFour", "Othello6", "Othello8", "Hex5", "Hex7", "Hex11", "Gomoku9", "Gomoku15")


def register_tasks() -> None:
    """Make this library's tasks, the Control Suite's and the board games known to Gymnasium.

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
                vector_entry_point=_VECTORS.get(env_id),
                kwargs={"frame_skip": _FRAME_SKIP[env_id]} if env_id in _FRAME_SKIP else None,
                max_episode_steps=max_episode_steps,
            )
    for name in CONTROL_TASKS:
        domain, _, task = name.partition("-")
        for suffix, own in (("", {}), ("-pixels", {"pixels": FRAME_SIZE})):
            env_id = f"mbrl_wrappers/control-{name}{suffix}-v0"
            if env_id not in gym.registry:
                maker = "mbrl_wrappers.tasks.control_suite:make_control_task"
                gym.register(env_id, entry_point=maker, kwargs={"domain": domain, "task": task, **own})
    for name in _GAMES:
        env_id = f"mbrl_wrappers/{name}-v0"
        if env_id not in gym.registry:
            gym.register(env_id, entry_point="mbrl_wrappers.envs.games.env:GameEnv", kwargs={"game": name})
