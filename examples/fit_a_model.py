"""Fit a model on random data and look at its error, one step ahead and further.

python examples/fit_a_model.py
"""

import gymnasium as gym
import torch

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.envs import collect_transitions

torch.set_num_threads(1)
env = gym.make("Pendulum-v1")
dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64))

generator = torch.Generator().manual_seed(0)
report = dynamics.fit(collect_transitions(env, dynamics, 2_000, seed=0), generator)
print("fit:", {name: round(value, 4) for name, value in report.items()})

# A fresh episode, real and imagined side by side: the model sees its own predictions, never the truth.
real = collect_transitions(env, dynamics, 200, seed=1)
spread = real.obs.std(dim=0)
for horizon in (1, 5, 10, 25, 50):
    imagined = real.obs[: 200 - horizon]
    for step in range(horizon):
        action = real.action[step : 200 - horizon + step]
        imagined = dynamics.predict(imagined, action, deterministic=True).next_obs
    truth = real.next_obs[horizon - 1 : 199]
    error = ((imagined - truth) / spread).square().mean().sqrt()
    print(f"{horizon:3d} steps ahead: error {error:.3f} of the observations' spread")

dynamics.save("pendulum.safetensors")
print("saved; load it with EnsembleDynamics.load('pendulum.safetensors')")
