"""The agents that ship: each plays as its card says, and its model is there."""

from __future__ import annotations

import json

import pytest
import torch

from mbrl_wrappers import ImaginedEnv, zoo
from mbrl_wrappers.zoo.catalogue.index import embedded
from mbrl_wrappers.zoo.catalogue.lookup import open_agent, places
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.evaluation import mean_and_std
from mbrl_wrappers.zoo.storage.agent_file import model_of

# Mean returns over the first evaluation episodes that a broken policy is far from.
LEAST = {
    "alphazero/ConnectFour": 0.5,
    "alphazero/TicTacToe": 0.5,
    "dhmbpo/Hopper-v5": 2900.0,
    "dreamer/Pendulum-v1": -300.0,
    "dreamer/PixelPendulum-v0": -300.0,
    "dreamer/cartpole-swingup": 500.0,
    "maac/Pendulum-v1": -300.0,
    "exit/Hex5": 0.5,
    "i2a/MiniPacman": -15.0,
    "i2a/Sokoban7": 3.0,
    "m2ac/InvertedPendulum-v5": 950.0,
    "mbpo/CartPole-v1": 475.0,
    "mbpo/InvertedPendulum-v5": 950.0,
    "mbpo/MountainCarContinuous-v0": 90.0,
    "mbpo/Pendulum-v1": -250.0,
    "mve/Pendulum-v1": -300.0,
    "pets/PETSCartpole-v0": 150.0,
    "pets/Pendulum-v1": -250.0,
    "poplin/Pendulum-v1": -250.0,
    "rs/MBBLCartPole-v0": 195.0,
    "steve/Pendulum-v1": -300.0,
    "svg/Pendulum-v1": -600.0,
    "tdmpc2/cartpole-swingup": 600.0,
    "world_models/PixelPendulum": -450.0,
    "world_models/TakeCover": 350.0,
}
OF_FEWER_SEEDS = {
    "alphazero/ConnectFour": [20, 21, 22],
    "alphazero/TicTacToe": [20, 21, 22],
    "dhmbpo/Hopper-v5": [0, 1, 2],
    "dreamer/Pendulum-v1": [1, 2, 3],
    "dreamer/PixelPendulum-v0": [1, 2, 3],
    "dreamer/cartpole-swingup": [1],
    "exit/Hex5": [20, 21, 22],
    "i2a/MiniPacman": [10],
    "i2a/Sokoban7": [10, 11],
    "tdmpc2/cartpole-swingup": [1],
    "world_models/PixelPendulum": [1, 2, 3],
    "world_models/TakeCover": [3],
}
SEARCH_LONG = {"pets/PETSCartpole-v0", "poplin/Pendulum-v1", "rs/MBBLCartPole-v0"}
PLAYED_ANEW = {"i2a/MiniPacman", "i2a/Sokoban7"}  # for the card, more episodes than the run's evaluations
MAX_BYTES = 45_000_000  # of all agents in a clone; tests/test_packaging.py limits the wheel


def test_those_ship_that_should_and_they_are_small():
    assert embedded().keys() == LEAST.keys()
    assert [place.name for place in places() if place.place == "embedded"] == sorted(LEAST)
    assert sum(open_agent(name).total_bytes for name in LEAST) < MAX_BYTES


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SEARCH_LONG else name for name in LEAST]
)
def test_each_plays_as_its_card_says(name):
    folder = open_agent(name)
    # Every step of an agent that plans is a search; in a puzzle an episode is solved or not.
    episodes = 1 if name.startswith(("pets", "poplin", "rs", "tdmpc2")) else 20 if name == "i2a/Sokoban7" else 5
    played = zoo.evaluate(name, episodes=episodes)
    assert mean_and_std(played)[0] > LEAST[name]
    assert folder.evaluation is not None
    mean, std = mean_and_std(folder.evaluation.episodes)
    said = f"Return {mean:.1f} ± {std:.1f} over {len(folder.evaluation.episodes)} episodes"
    assert said in (folder.file("README.md") or b"").decode()


@pytest.mark.parametrize("name", LEAST)
def test_each_is_the_median_of_its_seeds(name):
    evaluation = open_agent(name).evaluation
    assert evaluation is not None
    returns = {trained.seed: trained.return_mean for trained in evaluation.trained_seeds}
    assert sorted(returns) == OF_FEWER_SEEDS.get(name, [0, 1, 2, 3, 4])
    own = json.loads(open_agent(name).file("job.json") or b"{}")["seed"]
    assert returns[own] == sorted(returns.values())[(len(returns) - 1) // 2]
    assert name in PLAYED_ANEW or returns[own] == pytest.approx(mean_and_std(evaluation.episodes)[0])


@pytest.mark.parametrize("name", [name for name in LEAST if not name.startswith(("alphazero", "exit"))])
def test_each_that_learned_a_model_brings_it(name):
    dynamics = zoo.load_dynamics(name)
    env = ImaginedEnv(dynamics, horizon=5, observe="observation" if dynamics.decodes else "features")
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    agent = zoo.load(name, device="cpu")
    model = model_of(agent)
    assert model is not None and model.obs_codec.dim == dynamics.obs_codec.dim
    action = agent.predict(obs, deterministic=True)[0] if dynamics.decodes else env.action_space.sample()
    obs, reward, *_ = env.step(action)
    assert env.observation_space.contains(obs) and torch.isfinite(torch.tensor(reward))


def test_the_list_shows_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in LEAST) and out.count("embedded") == len(LEAST)
    assert max(map(len, out.splitlines())) <= 80
    assert main(["list", "--env", "CartPole-v1"]) == 0
    assert capsys.readouterr().out.count("mbpo/") == 1
    assert main(["pull", "mbpo/CartPole-v1"]) == 0
    assert "ships with the library" in capsys.readouterr().out
