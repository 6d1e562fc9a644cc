"""What probably stops some TD3 agents of docs/results/trust.md: saturated actors where the critics know better.

    python benchmarks/saturation.py

Prints, for each run of `trust.py run Pendulum-v1` with TD3 that lies in runs/, over a grid of angles and speeds: how
much better the best of five actions is than the actor's, as a share of the spread of the five; and, of the states where
that is more than half of the spread, the share in which the actor's tanh is beyond 0.99.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from experiments import ROOT

from mbrl_wrappers import zoo


def main() -> None:
    grid = itertools.product(np.linspace(-np.pi, np.pi, 41), np.linspace(-8, 8, 33))
    obs = torch.tensor([[np.cos(angle), np.sin(angle), speed] for angle, speed in grid], dtype=torch.float32)
    for folder in sorted((ROOT / "runs" / "trust" / "Pendulum-v1").glob("*td3*")):
        agent: Any = zoo.load(folder, device="cpu")

        def value(action: torch.Tensor, critic: torch.nn.Module = agent.critic) -> torch.Tensor:
            return torch.cat(critic(obs, action), dim=1).mean(1)

        with torch.no_grad():
            action = agent.actor(obs)
            values = torch.stack([value(torch.full((len(obs), 1), a)) for a in (-1.0, -0.5, 0.0, 0.5, 1.0)])
            spread, missed = values.amax(0) - values.amin(0), values.amax(0) - value(action)
        saturated = (action.abs() > 0.99)[missed > 0.5 * spread].float().mean()
        print(f"{folder.name}: missed {missed.mean() / spread.mean():.2f}, there saturated {saturated:.2f}")


if __name__ == "__main__":
    main()
