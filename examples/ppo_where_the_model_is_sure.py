"""Train PPO inside a model that was learned from little data, and end episodes where the model is no longer sure.

python examples/ppo_where_the_model_is_sure.py
"""

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import EnsembleDynamics, ImaginedVecEnv
from mbrl_wrappers.envs import Trust, calibrated_threshold, collect_transitions

torch.set_num_threads(1)
env = gym.make("Pendulum-v1")
dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64))
transitions = collect_transitions(env, dynamics, 1_000, seed=0)
dynamics.fit(transitions, torch.Generator().manual_seed(0))

# Trusted is what the members agree on as well as on 99% of the real steps that were held out.
threshold = calibrated_threshold(dynamics, transitions, 0.99, generator=torch.Generator().manual_seed(0))
for name, trust in (("all steps", None), ("sure steps", Trust(threshold=threshold, on_mask="truncate"))):
    imagined = ImaginedVecEnv(dynamics, num_envs=64, horizon=200, trust=trust, seed=0)
    agent = PPO("MlpPolicy", imagined, n_steps=64, batch_size=256, gamma=0.95, learning_rate=1e-3, seed=0)
    agent.learn(150_000)
    real = Monitor(gym.make("Pendulum-v1"))
    real.reset(seed=12345)
    mean, std = evaluate_policy(agent, real, n_eval_episodes=20)
    lengths = [episode["l"] for episode in agent.ep_info_buffer or ()]
    imagined_steps = sum(lengths) / len(lengths)
    print(f"{name}: return in the real env {mean:.0f} ± {std:.0f}; imagined episodes of {imagined_steps:.0f} steps")
