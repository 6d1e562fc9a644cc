"""What a model's targets change: normalised or raw, changes or next observations; one-step error and cost of a fit.

    python benchmarks/normalized_targets.py

Writes docs/results/normalized_targets.md.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from experiments import RESULTS

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.types import Transitions

ENVS = ("Pendulum-v1", "InvertedPendulum-v5", "CartPole-v1", "Hopper-v5")
SEEDS = range(3)
ROWS = 2_000
TARGETS: dict[str, dict[str, bool]] = {
    "changes, normalised": {},
    "changes, raw": {"normalize_targets": False},
    "next observations, normalised": {"residual": False},
}


@torch.no_grad()
def predict(dynamics: EnsembleDynamics, real: Transitions) -> torch.Tensor:
    return dynamics.predict(real.obs, real.action, deterministic=True).next_obs


def measure(env_id: str, settings: dict[str, bool], seed: int) -> tuple[float, float, float]:
    """Return the one-step error on fresh data, in units of the change's spread: mean and worst dim; and the steps."""
    env = gym.make(env_id)
    dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64), seed=seed, **settings)
    report = dynamics.fit(collect_transitions(env, dynamics, ROWS, seed=seed), torch.Generator().manual_seed(seed))
    fresh = collect_transitions(env, dynamics, 1_000, seed=100 + seed)
    said = predict(dynamics, fresh)
    spread = (fresh.next_obs - fresh.obs).std(0).clamp(min=1e-8)
    error = ((said - fresh.next_obs) / spread).square().mean(0).sqrt()
    return float(error.mean()), float(error.max()), report["grad_steps"]


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "# Normalised targets",
        "",
        f"`EnsembleDynamics` with 7 members of 2 x 64 units, fitted on {ROWS:,} random steps and judged on 1,000",
        "fresh ones: root-mean-square one-step error in units of the spread of the change `next_obs - obs`; mean",
        f"± std over {len(SEEDS)} seeds. Raw changes are the targets of the papers, normalised ones the default, next",
        "observations those of FTFL (`residual=False`). Written by",
        "`python benchmarks/normalized_targets.py`.",
        "",
        "| env | targets | error, mean over dims | error, worst dim | gradient steps |",
        "|---|---|---|---|---|",
    ]
    for env_id in ENVS:
        for name, settings in TARGETS.items():
            numbers = np.array([measure(env_id, settings, seed) for seed in SEEDS])
            mean, std = numbers.mean(0), numbers.std(0, ddof=1)
            cells = [f"{mean[i]:.4f} ± {std[i]:.4f}" for i in (0, 1)] + [f"{mean[2]:.0f} ± {std[2]:.0f}"]
            lines.append(f"| {env_id} | {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    (RESULTS / "normalized_targets.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
