"""An SB3 policy that was trained for too short, alone and improved by planning: one wrapper is the only change.

python examples/improve_a_policy.py
"""

import gymnasium as gym
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased
from mbrl_wrappers.planners import ICEM
from mbrl_wrappers.wrappers import MPCAction

torch.set_num_threads(1)
env = gym.make("Pendulum-v1")
dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64), max_steps=500, reward_fn="Pendulum-v1")
agent = SAC("MlpPolicy", env, learning_starts=200, policy_kwargs={"net_arch": [64, 64]}, seed=0, device="cpu")
agent.learn(600, callback=ModelBased(Dyna(rollouts_per_step=100), dynamics, fit_every=200))

alone = Monitor(gym.make("Pendulum-v1"))
planned = Monitor(MPCAction(gym.make("Pendulum-v1"), dynamics, ICEM(env.action_space, horizon=15, population=50)))
for name, test_env in (("the policy alone", alone), ("the policy's actions as proposals to a planner", planned)):
    test_env.reset(seed=12345)
    mean, std = evaluate_policy(agent, test_env, n_eval_episodes=5)
    print(f"{name}: return {mean:.0f} ± {std:.0f}")
