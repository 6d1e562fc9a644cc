"""What is known of environments: rules, equations, renderers; and the tasks that this library brings.

A new task is a file with a dictionary ``TASKS`` of its ids, and a line in ``registry.py``.
"""

from mbrl_wrappers.tasks.grids import Breakout, MiniPacman, Sokoban
from mbrl_wrappers.tasks.mbbl import MBBLCartPole, MBBLInvertedPendulum
from mbrl_wrappers.tasks.pets_cartpole import PETSCartpole
from mbrl_wrappers.tasks.pixel_mountain_car import PixelMountainCarContinuous
from mbrl_wrappers.tasks.pixel_pendulum import PixelPendulum
from mbrl_wrappers.tasks.registration import register_tasks
from mbrl_wrappers.tasks.take_cover import TakeCover
from mbrl_wrappers.tasks.task import Physics, Task

__all__ = [
    "Breakout",
    "MBBLCartPole",
    "MBBLInvertedPendulum",
    "MiniPacman",
    "PETSCartpole",
    "Physics",
    "PixelMountainCarContinuous",
    "PixelPendulum",
    "Sokoban",
    "TakeCover",
    "Task",
    "register_tasks",
]
