"""How far back a gradient may go: policies that climb the return of T exact steps of Pendulum-v1, without a value.

    python benchmarks/horizons.py

Writes docs/results/horizons.csv and docs/results/horizons.md.
"""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import torch
from experiments import RESULTS, spread, versions, write_csv
from torch import Tensor, nn

from mbrl_wrappers import KnownDynamics
from mbrl_wrappers.agents.policy_rollouts import expanded_values, roll_out, step_in_turn

HORIZONS = (10, 20, 50, 100, 200)
SEEDS = (0, 1, 2)
UPDATES, ROWS, EPISODES = 500, 64, 10


def policy(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1), nn.Tanh())


def train(horizon: int, seed: int) -> tuple[float, float, float]:
    """Return the real return after training, the median norm of the gradient before clipping, and CPU seconds."""
    dynamics = KnownDynamics.for_env("Pendulum-v1")
    step, network = step_in_turn(dynamics, deterministic=True), policy(seed)
    optimizer, generator = torch.optim.Adam(network.parameters(), lr=1e-3), torch.Generator().manual_seed(seed)
    norms, started = [], time.process_time()

    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * network(obs), obs.new_zeros(len(obs))

    for _ in range(UPDATES):
        # States from everywhere: what a replay buffer holds once the pendulum has been swung.
        angle = torch.pi * (2 * torch.rand(ROWS, generator=generator) - 1)
        speed = 8 * (2 * torch.rand(ROWS, generator=generator) - 1)
        obs = torch.stack([angle.cos(), angle.sin(), speed], dim=-1)
        rollout = roll_out(step, act, obs, act(obs), horizon)
        values, _ = expanded_values(rollout, torch.zeros(ROWS), 0.0, 1.0)  # sum_{t<T} r_t
        optimizer.zero_grad()
        (-values[0].mean() / horizon).backward()
        norms.append(float(nn.utils.clip_grad_norm_(network.parameters(), 1.0)))
        optimizer.step()
    return evaluate(network), float(np.median(norms)), time.process_time() - started


@torch.no_grad()
def evaluate(network: nn.Sequential) -> float:
    env, returns = gym.make("Pendulum-v1"), []
    for episode in range(EPISODES):
        obs, _ = env.reset(seed=1000 + episode)
        total, ended = 0.0, False
        while not ended:
            obs, reward, _, ended, _ = env.step(2 * network(torch.as_tensor(obs)).numpy())
            total += float(reward)
        returns.append(total)
    return float(np.mean(returns))


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for horizon in HORIZONS:
        for seed in SEEDS:
            rows.append((horizon, seed, *train(horizon, seed)))
            print(rows[-1], flush=True)
    columns = ("horizon", "seed", "return_mean", "gradient_norm", "cpu_seconds")
    write_csv(RESULTS / "horizons.csv", [dict(zip(columns, row, strict=True)) for row in rows])
    lines = [
        "# How far back a gradient may go",
        "",
        f"A policy of 2 x 64 units climbs the return of T steps in the exact equations of Pendulum-v1: {UPDATES}",
        f"updates of Adam (0.001), {ROWS} random states each, no discount and no value behind the last step, gradients",
        f"clipped to a norm of 1. The return is that of the real env, the mean of {EPISODES} episodes of 200 steps;",
        "± is over seeds (n - 1).",
        "",
        f"{versions()}.",
        "Written by `python benchmarks/horizons.py`; the numbers are in horizons.csv.",
        "",
        "| T | return, by seed " + ", ".join(map(str, SEEDS)) + " | mean ± std | median norm of the gradient | CPU s |",
        "|---|---|---|---|---|",
    ]
    for horizon in HORIZONS:
        _, _, returns, norms, seconds = zip(*(row for row in rows if row[0] == horizon), strict=True)
        by_seed = ", ".join(f"{value:.1f}" for value in returns)
        cells = (by_seed, spread(returns, 1), spread(norms, 2), spread(seconds))
        lines.append(f"| {horizon} | " + " | ".join(cells) + " |")
    (RESULTS / "horizons.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
