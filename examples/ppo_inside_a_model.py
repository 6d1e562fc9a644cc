"""Train PPO entirely inside a model that was learned from 3,000 random steps of the real env.

python examples/ppo_inside_a_model.py
"""

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import EnsembleDynamics, ImaginedVecEnv
from mbrl_wrappers.envs import collect_transitions

torch.set_num_threads(1)
env = gym.make("Pendulum-v1")
dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64))
dynamics.fit(collect_transitions(env, dynamics, 3_000, seed=0), torch.Generator().manual_seed(0))

imagined = ImaginedVecEnv(dynamics, num_envs=64, horizon=200, seed=0)
agent = PPO("MlpPolicy", imagined, n_steps=64, batch_size=256, gamma=0.95, learning_rate=1e-3, seed=0)
agent.learn(250_000)

mean, std = evaluate_policy(agent, Monitor(gym.make("Pendulum-v1")), n_eval_episodes=20)
print(f"return in the real env after 0 real steps of PPO: {mean:.0f} ± {std:.0f} (random: about -1200)")
