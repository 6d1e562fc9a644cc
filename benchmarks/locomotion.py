"""DHMBPO on Gymnasium's robots, compared with agents without a model at equal updates and at about equal time.

python benchmarks/locomotion.py run HalfCheetah-v5
python benchmarks/locomotion.py table
"""

from __future__ import annotations

from comparisons import Column, Experiment, Page, main

NETS = {"net_arch": {"pi": [256, 256], "qf": [256, 256]}, "activation_fn": "LayerNormSiLU"}
FIRST = {"agent.compile": True, "agent.critic_horizon": 1}
MODEL = {"dynamics.hidden": [200, 200, 200], "dynamics.batch_size": 512, "dynamics.max_steps": 1200}
LAYERS = {"agent.compile": True, "agent.policy_kwargs": NETS}
FIVE = {"net_arch": {"pi": [256, 256], "qf": [256, 256, 256]}, "activation_fn": "LayerNormSiLU", "n_critics": 5}

COLUMNS = {
    "base": Column("dhmbpo", "MAAC", params={"agent.compile": True}),
    "layers": Column("dhmbpo", "MAAC", params=LAYERS),
    "layers first": Column("dhmbpo", "MAAC", params={**LAYERS, **FIRST}),
    "layers first model": Column("dhmbpo", "MAAC", params={**LAYERS, **FIRST, **MODEL}),
    "layers model": Column("dhmbpo", "MAAC", params={**LAYERS, **MODEL}),
    "five": Column("dhmbpo", "MAAC", params={**FIRST, **MODEL, "agent.policy_kwargs": FIVE, "agent.target_critics": 2}),
}
STEPS = {"HalfCheetah-v5": 20_000, "Hopper-v5": 50_000, "Walker2d-v5": 50_000}

PAGE = Page(
    name="locomotion",
    title="Locomotion",
    text=[],
    seeds=(5, 6, 7),
    experiments={
        env: Experiment(
            title=env,
            env=env,
            steps=steps,
            eval_freq=2_500,
            target=None,
            columns=COLUMNS,
            pairs={},
            panels={"": list(COLUMNS)},
        )
        for env, steps in STEPS.items()
    },
)

if __name__ == "__main__":
    main(PAGE, __doc__)
