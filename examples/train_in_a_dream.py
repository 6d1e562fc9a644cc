"""See, remember, and train inside the dream: a controller of pixels that has never acted in the real env.

python examples/train_in_a_dream.py
"""

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecTransposeImage

from mbrl_wrappers.agents import WorldModels
from mbrl_wrappers.models import MDNRNN

torch.set_num_threads(1)
env = VecTransposeImage(make_vec_env("mbrl_wrappers.envs:mbrl_wrappers/PixelPendulum-v0", seed=0))
sizes = {"latent": 4, "memory": 64, "units": 64, "depth": 8, "num_sequences": 32, "sequence_length": 32}
rates = {"kl_tolerance": 8.0, "vision_learning_rate": 1e-3, "memory_learning_rate": 5e-3}
model = MDNRNN.for_env(env, **sizes, **rates)
agent = WorldModels("CnnPolicy", env, dynamics=model, dream_length=200, temperature=0.1, sigma=0.5, seed=0)
agent.learn(10_210)  # 10,000 random steps; then one for each fit and each generation in the dream

mean, std = evaluate_policy(agent, env, n_eval_episodes=20)
dreamed = agent.dream(dreams=100)
print(f"return in the dream: {dreamed.mean():.0f}, in reality: {mean:.0f} ± {std:.0f} (random: about -1200)")
