"""What the library is for: agents learn by their models, in the steps that docs/results shows for more seeds."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import EnsembleDynamics, ImaginedVecEnv
from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import load_recipe
from mbrl_wrappers.zoo.training.run import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("env", "steps", "least"), [("Pendulum-v1", 2_500, -200), ("InvertedPendulum-v5", 3_000, 950)])
def test_mbpo(env, steps, least, tmp_path):
    recipe = load_recipe("mbpo", env)
    spec = JobSpec(env=env, recipe=recipe, model=True, seed=0, steps=steps, eval_freq=steps)
    _, evaluations = run(spec, tmp_path)
    assert evaluations[-1].steps == steps
    assert evaluations[-1].return_mean >= least


def test_ppo_inside_a_model():
    env = gym.make("Pendulum-v1")
    dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64))
    dynamics.fit(collect_transitions(env, dynamics, 3_000, seed=0), torch.Generator().manual_seed(0))
    imagined = ImaginedVecEnv(dynamics, num_envs=64, horizon=200, seed=0)
    agent = PPO("MlpPolicy", imagined, n_steps=64, batch_size=256, gamma=0.95, learning_rate=1e-3, seed=0, device="cpu")
    agent.learn(250_000)
    real = Monitor(gym.make("Pendulum-v1"))
    real.reset(seed=12345)
    mean, _ = evaluate_policy(agent, real, n_eval_episodes=20)
    assert mean >= -400
