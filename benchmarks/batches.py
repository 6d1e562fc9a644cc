"""What a batch costs: the arithmetic of a drawn batch compared with the least that it must compute, and its time.

    python benchmarks/batches.py

Writes docs/results/batches.md. Counted are the multiplications and additions of matrix products.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from torch.utils.flop_counter import FlopCounterMode

from mbrl_wrappers.agents import M2AC, MVE, STEVE, Dyna
from mbrl_wrappers.imagination import AgentView, Strategy
from mbrl_wrappers.imagination.real_data import real_transitions
from mbrl_wrappers.models import EnsembleDynamics

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "batches.md"
BATCH, MEMBERS, CRITICS, HORIZON, ROLLOUTS = 256, 5, 4, 3, 2000
ENVS: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "Pendulum-v1": ([64, 64], [64, 64]),
    "HalfCheetah-v5": ([200] * 4, [256, 256]),
}


def flops(widths: Sequence[int]) -> int:
    """Return those of one row through a network."""
    return sum(2 * a * b for a, b in itertools.pairwise(widths))


def model_widths(env_id: str) -> dict[str, list[int]]:
    """Return the widths of the layers of the model's networks, by their names."""
    networks = EnsembleDynamics.for_env(env_id, hidden=ENVS[env_id][0]).networks
    return {
        name: [network.weights[0].shape[1], *(weight.shape[2] for weight in network.weights)]
        for name, network in networks.items()
    }


def make(env_id: str, strategy: Strategy) -> tuple[Any, EnsembleDynamics]:
    """Bind a strategy to an agent that has met 1,000 random steps, and a model of its env."""
    hidden, net_arch = ENVS[env_id]
    env = gym.make(env_id)
    agent = SAC("MlpPolicy", env, learning_starts=1_000, policy_kwargs={"net_arch": net_arch, "n_critics": CRITICS})
    agent.learn(1_000)
    dynamics = EnsembleDynamics.for_env(env, hidden=hidden, num_members=MEMBERS, num_elites=MEMBERS)
    strategy.bind(AgentView(agent, dynamics), dynamics, torch.Generator().manual_seed(0))
    return agent, dynamics


def floors(env_id: str) -> dict[str, int]:
    """Return the least FLOPs of each strategy's work, from the sizes of the networks."""
    net_arch = ENVS[env_id][1]
    env = gym.make(env_id)
    obs, action = (math.prod(space.shape or ()) for space in (env.observation_space, env.action_space))
    networks = {name: flops(widths) for name, widths in model_widths(env_id).items()}
    model, reward = sum(networks.values()), networks["reward_network"]
    actor, critic = flops([obs, *net_arch, 2 * action]), flops([obs + action, *net_arch, 1])
    starts = math.ceil(BATCH / (HORIZON + 1))
    ahead = HORIZON * MEMBERS * BATCH
    return {
        "Dyna": ROLLOUTS * (actor + model),
        "M2AC": HORIZON * ROLLOUTS * (actor + MEMBERS * model),
        "MVE": starts * HORIZON * (actor + model),
        # each member's rows by that member, and their rewards by all
        "STEVE": (BATCH + ahead) * (actor + CRITICS * critic) + ahead * (model + (MEMBERS - 1) * reward),
    }


def milliseconds(call: Callable[[], Any], repetitions: int = 30) -> float:
    times = []
    for _ in range(repetitions):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return 1e3 * float(np.median(times))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        "# What a batch costs",
        "",
        f"A drawn batch of {BATCH} rows for SAC with {CRITICS} critics, horizon {HORIZON}, {MEMBERS} members; for",
        f"Dyna and M2AC, whose batches cost no arithmetic, a refresh of {ROLLOUTS:,} rollouts, of one and of {HORIZON}",
        "steps. The floor is what must be computed: rows times network sizes. One thread. Written by",
        "`python benchmarks/batches.py`.",
        "",
        "| env | strategy | MFLOP | floor | ratio | ms (median of 30) |",
        "|---|---|---|---|---|---|",
    ]
    for env_id in ENVS:
        least = floors(env_id)
        for name, strategy in (
            ("MVE", MVE(HORIZON)),
            ("STEVE", STEVE(HORIZON)),
            ("Dyna", Dyna(rollouts_per_step=10)),
            ("M2AC", M2AC(rollout_length=HORIZON, rollouts_per_step=10)),
        ):
            agent: Any
            dynamics: Any
            agent, dynamics = make(env_id, strategy)
            buffer = agent.replay_buffer
            if isinstance(strategy, Dyna):
                real = real_transitions(buffer, AgentView(agent, dynamics), dynamics)
                dynamics._fit_normalizers(real)  # else an untrained model runs off

                def draw(strategy: Any = strategy, source: Any = real) -> Any:
                    return strategy.refresh(source, 0, ROLLOUTS // 10)

            else:

                def draw(strategy: Any = strategy, source: Any = buffer) -> Any:
                    return strategy.sample(source, BATCH, None)

            draw()
            with FlopCounterMode(display=False) as counter:
                draw()
            counted = counter.get_total_flops()
            lines.append(
                f"| {env_id} | {name} | {counted / 1e6:.1f} | {least[name] / 1e6:.1f} | "
                f"{counted / least[name]:.2f} | {milliseconds(draw):.1f} |"
            )
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
