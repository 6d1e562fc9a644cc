"""Balance a pole by tree search, in the true simulator and in a model that was learned from 2,000 random steps.

python examples/search_a_simulator.py
"""

import gymnasium as gym
import torch

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.planners.tree import UCT, TreeSearch, root_generators
from mbrl_wrappers.wrappers import ModelExpansion, SimulatorExpansion

torch.set_num_threads(1)
env = gym.make("CartPole-v1")
model = EnsembleDynamics.for_env(env, hidden=(64, 64), seed=0)
model.fit(collect_transitions(env, model, 2_000, seed=0), torch.Generator().manual_seed(0))

search = TreeSearch(16, UCT(), zero_sum=False, discount=0.99)
searching, playing = root_generators(0, 1), root_generators(1, 1)  # random numbers: of the search, of random play
in_simulator = SimulatorExpansion(env, generators=playing, rollout_steps=15)
in_model = ModelExpansion(model, generators=playing, rollout_steps=15)
for name in ("simulator", "model"):
    obs, info = env.reset(seed=0)
    steps, ended = 0, False
    while not ended and steps < 200:
        if name == "simulator":
            result = search.search(in_simulator.root(), in_simulator, searching, temperature=0.0)
        else:
            result = search.search(in_model.root(torch.as_tensor(obs[None])), in_model, searching, temperature=0.0)
        obs, reward, terminated, truncated, info = env.step(int(result.action[0]))
        steps, ended = steps + 1, terminated or truncated
    print(f"planned in the {name}: the pole stood for {steps} of 200 steps")
