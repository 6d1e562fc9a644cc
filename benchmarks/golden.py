"""Golden runs: short seeded runs of every agent and strategy, and digests of the weights and returns they end with.

A change that should move no number must reproduce them bit for bit on the machine that recorded them.

python benchmarks/golden.py record            # writes runs/golden.json
python benchmarks/golden.py check             # compares, names what differs and fails
python benchmarks/golden.py check --only MAAC
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from experiments import ROOT, versions
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import EnsembleDynamics, ImaginedVecEnv, ModelBased, MPCAction
from mbrl_wrappers.agents import (
    I2A,
    M2AC,
    MAAC,
    MVE,
    PETS,
    POPLIN,
    RS,
    SACSVG,
    STEVE,
    SVG,
    TDMPC2,
    CompiledSAC,
    CompiledTD3,
    Dreamer,
    Dyna,
    PlaNet,
)
from mbrl_wrappers.envs import GamesVecEnv, collect_transitions
from mbrl_wrappers.models import RSSM, FrameDynamics, ImplicitModel
from mbrl_wrappers.tasks.grids import SokobanGames
from mbrl_wrappers.zoo.storage import agent_file

FILE = ROOT / "runs" / "golden.json"
PENDULUM, CART_POLE, INVERTED = "Pendulum-v1", "CartPole-v1", "InvertedPendulum-v5"
PLANS = {"learning_starts": 100, "train_freq": 100, "seed": 0, "device": "cpu"}
SEARCH = {"horizon": 5, "population": 20}


def nets() -> dict[str, Any]:
    """Arguments of small agents; new dicts, since SB3 writes into ``policy_kwargs``."""
    return {
        "policy_kwargs": {"net_arch": [32, 32]},
        "learning_starts": 100,
        "batch_size": 64,
        "seed": 0,
        "device": "cpu",
    }


def model_of(env: Any) -> EnsembleDynamics:
    torch.manual_seed(0)
    return EnsembleDynamics.for_env(env, hidden=(32, 32), max_steps=200, num_members=3, num_elites=2)


def normalized(env_id: str) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(env_id))]))


def model_based(agent: Any, strategy: Any) -> Any:
    """Train an off-policy agent with a strategy for 300 steps."""
    return agent.learn(300, callback=ModelBased(strategy, dynamics=model_of(agent.env), fit_every=100))


def dyna() -> Dyna:
    return Dyna(real_ratio=0.5, rollout_length=3, rollouts_per_step=4)


def planning(kind: Any, **options: Any) -> Any:
    env = gym.make(PENDULUM)
    return kind("MlpPolicy", env, dynamics=model_of(env), **PLANS, **options).learn(250)


def planning_in_a_dream() -> Any:
    """Train PlaNet for 300 steps."""
    env = gym.make(PENDULUM)
    dynamics = RSSM.for_env(env, version=1, deter=32, units=32, latent=8, sequence_length=32, train_steps=20)
    search = {"horizon": 4, "population": 20, "num_elites": 4, "iterations": 2}
    arguments: dict[str, Any] = {"learning_starts": 200, "train_freq": 50, "planner_kwargs": search}
    return PlaNet("MlpPolicy", env, dynamics=dynamics, seed=0, device="cpu", **arguments).learn(300)


def dreaming(**options: Any) -> Any:
    """Train Dreamer for 300 steps."""
    env = gym.make(PENDULUM)
    sizes: dict[str, Any] = {"units": 32, "layers": 1, "bins": 41}
    dynamics = RSSM.for_env(env, deter=32, latent=[4, 8], **sizes)
    arguments = {"learning_starts": 200, "replay_ratio": 100, "horizon": 5, "imagination_starts": 64, **options}
    return Dreamer("MlpPolicy", env, dynamics=dynamics, policy_kwargs=sizes, seed=0, device="cpu", **arguments).learn(
        300
    )


def imagining(**options: Any) -> Any:
    """Train I2A for 512 steps of Sokoban, half of them with a fitted model."""
    env = GamesVecEnv(SokobanGames(8, size=5, num_boxes=1, max_episode_steps=50), seed=0)
    dynamics = FrameDynamics.for_env(env, channels=8, blocks=1, max_steps=50)
    arguments = {"first_fit": 256, "fit_rows": 256, **options}
    agent: Any = I2A("CnnPolicy", env, dynamics=dynamics, seed=0, device="cpu", **arguments).learn(512)
    agent.golden_returns = [episode["r"] for episode in agent.ep_info_buffer or ()][-2:]
    return agent


def planning_in_latents() -> Any:
    """Train TD-MPC2 for 120 steps."""
    env = gym.make(PENDULUM)
    dynamics = ImplicitModel.for_env(env, latent=32, units=32, encoder_units=32, bins=41)
    search = {"population": 32, "num_elites": 8, "iterations": 2}
    return TDMPC2(
        "MlpPolicy", env, dynamics=dynamics, policy_kwargs={"units": 32, "bins": 41}, learning_starts=80,
        batch_size=32, planner_kwargs=search, num_proposals=8, seed=0, device="cpu",
    ).learn(120)  # fmt: skip


def ppo_in_a_model() -> Any:
    env = gym.make(PENDULUM)
    dynamics = model_of(env)
    dynamics.fit(collect_transitions(env, dynamics, 300, seed=0), torch.Generator().manual_seed(0))
    imagined = ImaginedVecEnv(dynamics, num_envs=8, horizon=50, seed=0)
    return PPO("MlpPolicy", imagined, n_steps=32, batch_size=64, seed=0, device="cpu").learn(1_024)


def improved_by_planning() -> Any:
    env = gym.make(PENDULUM)
    agent: Any = SAC("MlpPolicy", env, **nets()).learn(150)
    dynamics = model_of(env)
    dynamics.fit(collect_transitions(env, dynamics, 300, seed=0), torch.Generator().manual_seed(0))
    planned = Monitor(MPCAction(gym.make(PENDULUM), dynamics, seed=0))
    planned.reset(seed=0)
    agent.golden_returns = evaluate_policy(agent, planned, n_eval_episodes=1, return_episode_rewards=True)[0]
    return agent


RUNS: dict[str, Callable[[], Any]] = {
    "SAC + Dyna": lambda: model_based(SAC("MlpPolicy", PENDULUM, **nets()), dyna()),
    "SAC + Dyna, VecNormalize, ends": lambda: model_based(SAC("MlpPolicy", normalized(INVERTED), **nets()), dyna()),
    "CompiledSAC + Dyna": lambda: model_based(CompiledSAC("MlpPolicy", PENDULUM, compile=False, **nets()), dyna()),
    "CompiledTD3 + Dyna": lambda: model_based(CompiledTD3("MlpPolicy", PENDULUM, compile=False, **nets()), dyna()),
    "DQN + Dyna": lambda: model_based(DQN("MlpPolicy", CART_POLE, **nets()), dyna()),
    "TD3 + STEVE": lambda: model_based(TD3("MlpPolicy", PENDULUM, **nets()), STEVE(horizon=2)),
    "SAC + MVE": lambda: model_based(SAC("MlpPolicy", PENDULUM, **nets()), MVE(horizon=2)),
    "SAC + M2AC": lambda: model_based(
        SAC("MlpPolicy", PENDULUM, **nets()), M2AC(rollout_length=3, rollouts_per_step=4)
    ),
    "MAAC": lambda: model_based(MAAC("MlpPolicy", PENDULUM, horizon=2, **nets()), dyna()),
    "DHMBPO": lambda: model_based(
        MAAC("MlpPolicy", normalized(PENDULUM), horizon=3, expand_critic=True, actor_value="mean", **nets()),
        Dyna(real_ratio=0.0, rollout_length=5, rollouts_per_step=4),
    ),
    "SAC-SVG": lambda: SACSVG("MlpPolicy", PENDULUM, horizon=2, **nets()).learn(200),
    "SVG": lambda: SVG("MlpPolicy", PENDULUM, horizon=1, **nets()).learn(200),
    "RS": lambda: planning(RS, **SEARCH),
    "I2A": imagining,
    "I2A, PPO": lambda: imagining(learner="PPO", n_steps=32, batch_size=64),
    "PETS": lambda: planning(PETS, planner_kwargs={**SEARCH, "num_elites": 4}),
    "POPLIN": lambda: planning(POPLIN, **SEARCH, num_elites=4, iterations=2, policy_kwargs={"net_arch": [16]}),
    "PlaNet": planning_in_a_dream,
    "Dreamer": dreaming,
    "Dreamer, REINFORCE": lambda: dreaming(actor_gradient="reinforce"),
    "TD-MPC2": planning_in_latents,
    "PPO in ImaginedVecEnv": ppo_in_a_model,
    "MPCAction": improved_by_planning,
}


def digest(agent: Any) -> dict[str, Any]:
    """Hash an agent's weights, its model's, and the returns of two episodes."""
    weights = hashlib.sha256()
    for module in filter(None, [agent.policy, agent_file.model_of(agent)]):
        for name, tensor in sorted(module.state_dict().items()):
            if isinstance(tensor, torch.Tensor):
                weights.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    returns: Any = getattr(agent, "golden_returns", None)
    if returns is None:
        env = Monitor(gym.make(CART_POLE if isinstance(agent, DQN) else PENDULUM))
        if env.observation_space != agent.observation_space:
            env = Monitor(gym.make(INVERTED))
        env.reset(seed=0)
        episodes = 1 if agent.__class__ in (RS, PETS, POPLIN, PlaNet, TDMPC2) else 2
        returns = evaluate_policy(agent, env, n_eval_episodes=episodes, return_episode_rewards=True)[0]
    return {"weights": weights.hexdigest()[:16], "returns": [float(value) for value in returns]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "check"])
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # tiny models foresee little, and say so
    recorded: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"versions": versions(), "runs": {}}
    if arguments.command == "check" and recorded["versions"] != versions():
        sys.exit(f"{FILE} was recorded with {recorded['versions']}, this is {versions()}: record anew")
    changed = []
    for name in arguments.only:
        start = time.process_time()
        found = digest(RUNS[name]())
        if arguments.command == "record":
            recorded["runs"][name] = found
        elif recorded["runs"].get(name) != found:
            changed.append(name)
            print(f"{name}: recorded {recorded['runs'].get(name)}, got {found}")
        print(f"{name}: {time.process_time() - start:.0f} CPU s", flush=True)
    if arguments.command == "record":
        recorded["versions"] = versions()
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(recorded, indent=1))
    elif changed:
        sys.exit(f"changed: {', '.join(changed)}")


if __name__ == "__main__":
    main()
