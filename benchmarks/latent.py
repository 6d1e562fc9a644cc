"""Agents that learn in latent models, compared with SAC.

python benchmarks/latent.py run Pendulum-v1
python benchmarks/latent.py run Pendulum-v1-short
python benchmarks/latent.py table
"""

from __future__ import annotations

from comparisons import Column, Experiment, Page, main

PAGE = Page(
    name="latent",
    title="Latent models",
    text=[
        "Dreamer, version 3, with the recipe of `dreamer`: its model has 96 units. Settings were chosen on seed 0.",
        "TD-MPC2 with the recipe of `tdmpc2`: networks of 128 units, plans of 3 steps by 3 iterations of 128",
        "sequences. Its settings were chosen on seeds 0 and 100.",
        "",
    ],
    seeds=(1, 2, 3, 4, 5),
    experiments={
        "Pendulum-v1": Experiment(
            title="Pendulum-v1, vectors",
            env="Pendulum-v1",
            steps=4_000,
            eval_freq=500,
            target=-180.0,
            columns={
                "Dreamer": Column("dreamer", "Dreamer"),
                "SAC, 1 update": Column("dhmbpo", "MAAC", model=False),
            },
            pairs={"Dreamer": ("SAC, 1 update",)},
            panels={"": ["Dreamer", "SAC, 1 update"]},
        ),
        "Pendulum-v1-short": Experiment(
            title="Pendulum-v1, vectors, ten episodes",
            env="Pendulum-v1",
            steps=2_000,
            eval_freq=1_000,
            target=-200.0,
            columns={"TD-MPC2": Column("tdmpc2", "TDMPC2")},
            pairs={},
            panels={"": ["TD-MPC2"]},
        ),
        "PixelPendulum-v0": Experiment(
            title="PixelPendulum-v0, frames of 32 x 32",
            env="mbrl_wrappers/PixelPendulum-v0",
            steps=5_000,
            eval_freq=500,
            target=-300.0,
            columns={"Dreamer": Column("dreamer", "Dreamer")},
            pairs={},
            panels={"": ["Dreamer"]},
        ),
    },
)

if __name__ == "__main__":
    main(PAGE, __doc__)
