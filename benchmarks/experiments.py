"""What the learning evidence runs, and where its results lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mbrl_wrappers.zoo.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PPO_FILE = "ppo_in_model.csv"

# The recipe of the paper costs ten hours a seed on one core; these are its terms on a CPU's budget.
HOPPER_ON_CPU = {
    "agent": {"learning_starts": 1000, "gradient_steps": 10, "policy_kwargs": {"net_arch": [128, 128]}},
    "strategy": {"rollout_length": [20_000, 150_000, 1, 15], "rollouts_per_step": 400},
    "dynamics": {"max_steps": 500},
}
CART_POLE_NOTE = (
    "The aim, 475 on 4 of 5 seeds, is missed. With the exact model in place of the learned one a seed did no better "
    "(at most 300 in 4,000 steps), so the learned model is probably not the cause. In the run looked into, the agent "
    "did not learn that the track ends: its Q-function said 52 one step before a termination, where the truth is 1. "
    "Other settings were tried on one or two seeds each, most of them cut short: rewards scaled by 0.02 with a faster "
    "target network (tau 0.25) reached 500 after 1,000 steps on one seed and after 4,000 on another, and 10-step "
    "returns 492 after 3,000; all lost it again. Longer rollouts and more exploration showed no gain."
)
HOPPER_NOTE = (
    "A CPU's budget in place of the paper's: half its updates per step, networks of 2 x 128 units, 1,000 random steps "
    "first instead of 5,000. The schedule of the rollout length starts at 20,000 steps, so it is 1 all the way here."
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is run on an env: MBPO for `steps`, the base agent on to `base_steps` for equal time."""

    steps: int
    base_steps: int
    eval_every: int
    target: float
    overrides: dict[str, dict] = dataclasses.field(default_factory=dict)
    note: str = ""


EXPERIMENTS = {
    "Pendulum-v1": Experiment(2_500, 3_500, 250, -180.0),
    "InvertedPendulum-v5": Experiment(3_000, 4_000, 250, 1000.0),
    "CartPole-v1": Experiment(6_000, 6_000, 500, 475.0, note=CART_POLE_NOTE),
    "Hopper-v5": Experiment(20_000, 20_000, 1_000, float("nan"), HOPPER_ON_CPU, HOPPER_NOTE),
}


def recipe_of(env: str) -> Recipe:
    recipe = load_recipe("mbpo", env)
    changes = {name: {**getattr(recipe, name), **own} for name, own in EXPERIMENTS[env].overrides.items()}
    return dataclasses.replace(recipe, **changes)
