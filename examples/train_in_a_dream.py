"""See, remember, and train inside the dream: a controller of pixels that has never acted in the real env.

python examples/train_in_a_dream.py
"""

import gymnasium as gym
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers.agents import WorldModels
from mbrl_wrappers.models import MDNRNN

torch.set_num_threads(1)
env = Monitor(gym.make("mbrl_wrappers.envs:mbrl_wrappers/PixelPendulum-v0"))
model = MDNRNN.for_env(env, latent=4, memory=128, units=64, depth=8, kl_tolerance=4.0, sequence_length=32)
agent = WorldModels("CnnPolicy", env, dynamics=model, horizon=200, sigma=0.5, seed=0)
agent.learn(10_210)  # 10,000 random steps; then one for each fit and each generation in the dream

mean, std = evaluate_policy(agent, env, n_eval_episodes=20)
dreamed = agent.dream(dreams=100)
print(f"return in the dream: {dreamed.mean():.0f}, in reality: {mean:.0f} ± {std:.0f} (random: about -1200)")
