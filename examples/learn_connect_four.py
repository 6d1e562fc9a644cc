"""Learn Connect Four from nothing but its rules, in some minutes, and play against what came out.

python examples/learn_connect_four.py
"""

import numpy as np
import torch

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.envs.games.matches import play_match
from mbrl_wrappers.envs.games.opponents import one_ply_player
from mbrl_wrappers.envs.games.rendering import text

torch.set_num_threads(1)
env = "mbrl_wrappers.envs:mbrl_wrappers/ConnectFour-v0"
agent = AlphaZero(
    "MlpPolicy",
    env,
    num_games=256,
    batch_size=1024,
    gradient_steps=2,
    random_opening=8,
    value_mix=0.5,  # values are learned from outcomes and searches alike
    search_kwargs={"value_scale": 0.1},  # soft policies while it learns
    deterministic_search_kwargs={"value_scale": 0.5},  # sharper ones when it plays
    seed=0,
    device="cpu",
)
agent.learn(1_000_000)  # moves; `progress_bar=True` shows how far it is
zoo.save(agent, "connect_four", episodes=0)

game = agent.rules
player = agent.player(num_simulations=200)
wins, draws, losses = play_match(game, player, one_ply_player, num_games=100)
print(f"against a player that wins and prevents wins at once: {wins} wins, {draws} draws, {losses} losses")

generator, state = np.random.default_rng(0), game.initial(1)
players = [player, one_ply_player]
while not state.ended[0]:
    state = game.step(state, players[state.player[0]](game, state, generator))
print(text(game, state))
print("Play against it: mbrl-zoo play connect_four")
