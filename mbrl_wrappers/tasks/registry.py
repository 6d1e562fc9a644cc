"""Every environment that something is known of, by its id.

A model need not learn rules that are known: model-based policy optimisation (Janner et al., 2019,
arXiv:1906.08253) gives its model the termination rule, PETS (Chua et al., 2018, arXiv:1805.12114) gives
it the reward. The rules here are read off Gymnasium's sources and hold for environments made with default
arguments; an environment made with other keyword arguments needs its own functions.

CartPole, MountainCar and Acrobot round a float64 state to a float32 observation: transitions at the limit of a rule
may differ.
"""

from __future__ import annotations

from mbrl_wrappers.tasks import acrobot, cart_pole, mbbl, mountain_car, mujoco, pendulum, pets_cartpole
from mbrl_wrappers.tasks.task import GivenFunction, Task

TASKS: dict[str, Task] = {
    **acrobot.TASKS,
    **cart_pole.TASKS,
    **mountain_car.TASKS,
    **pendulum.TASKS,
    **mujoco.TASKS,
    **mbbl.TASKS,
    **pets_cartpole.TASKS,
}
TERMINATIONS: dict[str, GivenFunction] = {env_id: task.termination_fn for env_id, task in TASKS.items()}
REWARDS: dict[str, GivenFunction] = {
    env_id: task.reward_fn for env_id, task in TASKS.items() if task.reward_fn is not None
}
