"""Learn Connect Four from nothing but its rules, in some minutes, and look at a game against a player with one rule.

python examples/learn_connect_four.py
"""

import numpy as np
import torch

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.envs.games.matches import play_match
from mbrl_wrappers.envs.games.opponents import one_ply_player
from mbrl_wrappers.envs.games.rendering import text

torch.set_num_threads(1)
env = "mbrl_wrappers.envs:mbrl_wrappers/ConnectFour-v0"
agent = AlphaZero("MlpPolicy", env, num_games=256, batch_size=1024, gradient_steps=2, seed=0, device="cpu")
agent.learn(1_000_000)  # moves; `progress_bar=True` shows how far it is
agent.save("connect_four")

game = agent.rules
wins, draws, losses = play_match(game, agent.player(200), one_ply_player, num_games=100)
print(f"against a player that wins and prevents wins at once: {wins} wins, {draws} draws, {losses} losses")

generator, state = np.random.default_rng(0), game.initial(1)
players = [agent.player(200), one_ply_player]
while not state.ended[0]:
    state = game.step(state, players[state.player[0]](game, state, generator))
print(text(game, state))
