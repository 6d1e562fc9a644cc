"""Train PPO entirely in the dream of a latent model, then let it act in the real env by what the model remembers.

The pendulum's observation lacks its speed, which an agent has to remember. The model learns from 5,000 random steps.

python examples/ppo_in_a_dream.py
"""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import TransformObservation
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor

from mbrl_wrappers import ImaginedVecEnv
from mbrl_wrappers.envs import collect_episodes
from mbrl_wrappers.models import RSSM
from mbrl_wrappers.wrappers import LatentObservation


def make_env() -> gym.Env:
    """Make a pendulum that shows its angle alone."""
    angle = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    return TransformObservation(gym.make("Pendulum-v1"), lambda obs: obs[:2], angle)


torch.set_num_threads(1)
env = make_env()
model = RSSM.for_env(
    env, deter=64, units=64, latent=[8, 16], bins=41, sequence_length=32, learning_rate=1e-3, train_steps=1_500
)
model.fit(collect_episodes(env, model, 5_000, seed=0), torch.Generator().manual_seed(0))

dream = VecMonitor(ImaginedVecEnv(model, num_envs=64, horizon=200, observe="features", seed=0))
agent = PPO("MlpPolicy", dream, n_steps=64, batch_size=256, gamma=0.95, learning_rate=1e-3, seed=0)
agent.learn(200_000)

for name, where in (("dream", dream), ("real", Monitor(LatentObservation(make_env(), model)))):
    mean, std = evaluate_policy(agent, where, n_eval_episodes=20)
    print(f"{name} return: {mean:.0f} ± {std:.0f} (random: about -1200)")
