"""Learning evidence: MBPO beside the same agent without a model, over seeds.

    python benchmarks/learning.py run Pendulum-v1 --seeds 0 1 2 3 4 --variants mbpo base
    python benchmarks/learning.py table

A run writes its curve to docs/results/<env>/<variant>_seed<n>.csv and, while it goes, resumes from
runs/<env>/<variant>_seed<n>. `table` makes docs/results/learning.md and one plot per env from the curves.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

import torch

from mbrl_wrappers.zoo.recipe import Recipe, load_recipe
from mbrl_wrappers.zoo.training import RunSpec, run

ROOT = Path(__file__).parents[1]

# The recipe of the paper costs 12 h a seed on one core; these are its terms on a CPU's budget.
HOPPER_ON_CPU = {
    "agent": {"learning_starts": 1000, "gradient_steps": 10, "policy_kwargs": {"net_arch": [128, 128]}},
    "strategy": {"rollout_length": [20_000, 150_000, 1, 15], "rollouts_per_step": 400},
    "dynamics": {"max_steps": 500},
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is run on an env: MBPO for `steps`, the base agent on to `base_steps` for equal time."""

    steps: int
    base_steps: int
    eval_every: int
    target: float
    overrides: dict[str, dict] = dataclasses.field(default_factory=dict)


EXPERIMENTS = {
    "Pendulum-v1": Experiment(2_500, 3_500, 250, -180.0),
    "InvertedPendulum-v5": Experiment(3_000, 4_000, 250, 1000.0),
    "CartPole-v1": Experiment(6_000, 8_000, 500, 475.0),
    "Hopper-v5": Experiment(21_000, 36_000, 1_000, float("nan"), HOPPER_ON_CPU),
}


def recipe_of(env: str) -> Recipe:
    recipe = load_recipe("mbpo", env)
    changes = {name: {**getattr(recipe, name), **own} for name, own in EXPERIMENTS[env].overrides.items()}
    return dataclasses.replace(recipe, **changes)


def train(env: str, variant: str, seed: int, steps: int | None) -> None:
    experiment = EXPERIMENTS[env]
    length = steps or (experiment.steps if variant == "mbpo" else experiment.base_steps)
    spec = RunSpec(
        env=env,
        recipe=recipe_of(env),
        model=variant == "mbpo",
        seed=seed,
        steps=length,
        eval_every=experiment.eval_every,
        eval_episodes=20,
        checkpoint_every=2_000,
    )
    folder = ROOT / "runs" / env / f"{variant}_seed{seed}"
    _, rows = run(spec, folder, on_evaluation=lambda row: print(env, variant, seed, row, flush=True))
    results = ROOT / "docs" / "results" / env
    results.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "progress.csv", results / f"{variant}_seed{seed}.csv")
    print("finished", env, variant, seed, rows[-1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("env", choices=sorted(EXPERIMENTS))
    runs.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    runs.add_argument("--variants", nargs="+", choices=["mbpo", "base"], default=["mbpo", "base"])
    runs.add_argument("--steps", type=int, help="default: the experiment's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        for variant in arguments.variants:
            train(arguments.env, variant, seed, arguments.steps)


if __name__ == "__main__":
    main()
