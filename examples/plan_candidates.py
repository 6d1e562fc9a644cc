"""Train an agent that plans, and draw what it chooses between: the candidates of a plan as its model sees them.

python examples/plan_candidates.py
"""

import gymnasium as gym
import torch

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.agents import PETS
from mbrl_wrappers.zoo.analysis.plan_candidates import candidates_of
from mbrl_wrappers.zoo.report.plots import new_figure, plan_candidates, save_figure

torch.set_num_threads(1)
env = gym.make("Pendulum-v1")
dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64), max_steps=500, reward_fn="Pendulum-v1")
planner = {"horizon": 25, "population": 60}
agent = PETS("MlpPolicy", env, dynamics=dynamics, planner_kwargs=planner, learning_starts=200, seed=0, device="cpu")
agent.learn(400)

obs, _ = gym.make("Pendulum-v1").reset(seed=4)  # hangs down
candidates = candidates_of(agent, obs)
best = candidates.returns.max()
print(f"{len(candidates.returns)} candidates, {candidates.chosen.sum()} elites, best predicted return {best:.1f}")

figure, (ax,) = new_figure(1, "Pendulum-v1: which way to swing?")
plan_candidates(ax, candidates)
save_figure(figure, "plan_candidates.svg")
print("saved plan_candidates.svg: thick lines are the elites, the dashed one is the plan")
