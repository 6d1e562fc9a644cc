"""A termination function done wrong, and caught by the first real transition that it contradicts.

    python examples/wrong_termination.py

Hopper falls when a joint or a velocity leaves (-100, 100), its height falls to 0.7 or its angle leaves
(-0.2, 0.2). The function below forgets the angle, so the model would let a falling hopper live on.
"""

import warnings

import gymnasium as gym
import torch
from stable_baselines3 import SAC
from torch import Tensor

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased


def forgets_the_angle(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return whether the hopper is too low: only half of the rule."""
    return next_obs[..., 0] <= 0.7


torch.set_num_threads(1)
env = gym.make("Hopper-v5")
agent = SAC("MlpPolicy", env, learning_starts=500, policy_kwargs={"net_arch": [32, 32]}, seed=0)
wrong = EnsembleDynamics(
    env.observation_space, env.action_space, hidden=(32, 32), termination_fn=forgets_the_angle, max_steps=100
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    agent.learn(600, callback=ModelBased(Dyna(rollouts_per_step=10), wrong))
print("caught:", *[warning.message for warning in caught if "termination_fn" in str(warning.message)])

# The right one is in the registry; EnsembleDynamics.for_env and ModelBased find it by the env's id.
right = EnsembleDynamics.for_env(env)
print("known termination of Hopper-v5:", right.termination_name)
