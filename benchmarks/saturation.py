"""What stops some TD3 agents of docs/results/trust.md: an actor that is saturated where its critic knows better.

    python benchmarks/saturation.py

Prints, for each run of `trust.py run Pendulum-v1` with TD3 that lies in runs/, over a grid of angles and speeds: the
mean size of what goes into the actor's tanh, and how much better the best of five actions is than the actor's, as a
share of the spread of the five.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from experiments import ROOT

from mbrl_wrappers import zoo


def main() -> None:
    grid = itertools.product(np.linspace(-np.pi, np.pi, 41), np.linspace(-8, 8, 33))
    obs = torch.tensor([[np.cos(angle), np.sin(angle), speed] for angle, speed in grid], dtype=torch.float32)
    for folder in sorted((ROOT / "runs" / "trust" / "Pendulum-v1").glob("*td3*")):
        agent = zoo.load(folder, device="cpu")

        def value(action: torch.Tensor, critic: torch.nn.Module = agent.critic) -> torch.Tensor:
            return torch.cat(critic(obs, action), dim=1).mean(1)

        with torch.no_grad():
            before_tanh = agent.actor.mu[:-1](obs)
            values = torch.stack([value(torch.full((len(obs), 1), a)) for a in (-1.0, -0.5, 0.0, 0.5, 1.0)])
            missed = (values.amax(0) - value(before_tanh.tanh())).mean() / (values.amax(0) - values.amin(0)).mean()
        print(f"{folder.name}: input of tanh {before_tanh.abs().mean():.1f}, missed {missed:.2f}")


if __name__ == "__main__":
    main()
