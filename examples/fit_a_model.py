"""Fit a model on random data and look at its error, one step ahead and further.

python examples/fit_a_model.py
"""

import gymnasium as gym
import torch

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.models.rollout_error import open_loop_error

torch.set_num_threads(1)
env = gym.make("Pendulum-v1")
dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64))

generator = torch.Generator().manual_seed(0)
report = dynamics.fit(collect_transitions(env, dynamics, 2_000, seed=0), generator)
print("fit:", {name: round(value, 4) for name, value in report.items()})

# A fresh episode, real and imagined side by side: the model sees its own predictions, never the truth.
real = collect_transitions(env, dynamics, 200, seed=1)
states = torch.cat([real.obs, real.next_obs[-1:]])
error = open_loop_error(dynamics, states[None], real.action[None], horizon=50)
for steps_ahead in (1, 5, 10, 25, 50):
    median = error[:, steps_ahead - 1].median()
    print(f"{steps_ahead:3d} steps ahead: median error {median:.3f} of the observations' spread")

dynamics.save("pendulum.safetensors")
print("saved; load it with EnsembleDynamics.load('pendulum.safetensors')")
