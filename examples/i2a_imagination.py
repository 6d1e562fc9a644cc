"""What I2A imagines, compared with what happens: frames of a learned model and of the game, as a picture.

python examples/i2a_imagination.py
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from mbrl_wrappers.agents import I2A
from mbrl_wrappers.envs import GamesVecEnv
from mbrl_wrappers.models import FrameDynamics, SokobanDynamics
from mbrl_wrappers.tasks.grids import SokobanGames
from mbrl_wrappers.tasks.grids.tiles import draw_tiles
from mbrl_wrappers.wrappers import ImaginationCore

torch.set_num_threads(1)
games = SokobanGames(64, size=6, num_boxes=1, max_episode_steps=120)
env = GamesVecEnv(games, seed=0)
model = FrameDynamics.for_env(env, channels=16, blocks=1, most_kinds=8, most_rewards=8, max_steps=600)
agent = I2A("CnnPolicy", env, dynamics=model, length=5, first_fit=20_000, fit_rows=20_000, seed=0, device="cpu")
agent.learn(40_000)  # after 20,000 steps the model is fitted to them, and imagination sets in

obs = env.reset()[:1]
imagined = agent.imagine(obs)
rules = ImaginationCore(SokobanDynamics.for_env(env), agent.length, agent.policy.rollout_policy)
real = rules.imagine(obs, torch.Generator().manual_seed(0), alike=True)  # the same random numbers as the agent's
right = (imagined["frames"] == real["frames"]).all((-3, -2, -1))[0]  # [first action, step]
print(f"share of imagined frames that are right, by step: {np.round(right.mean(0), 2)}")
print(f"chosen: {['up', 'down', 'left', 'right'][int(agent.predict(obs, deterministic=True)[0][0])]}")

figure = Figure(figsize=(9, 12))
axes = figure.subplots(8, 6)
for action, name in enumerate(["up", "down", "left", "right"]):
    for row, (source, frames) in enumerate([("imagined", imagined["frames"]), ("real", real["frames"])]):
        shown = [obs[0], *frames[0, action]]
        for step, frame in enumerate(shown):
            axis = axes[2 * action + row, step]
            axis.imshow(draw_tiles(SokobanGames.tiles, SokobanGames.planes, frame))
            axis.set_xticks([]), axis.set_yticks([])
        axes[2 * action + row, 0].set_ylabel(f"{name}, {source}")
figure.suptitle("A rollout for each first action: the learned model's frames, and the game's")
figure.tight_layout()
figure.savefig("i2a_imagination.png", dpi=80)
