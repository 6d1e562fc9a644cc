"""Times updates of sheeprl's Dreamer V3, in a virtual environment of its own (see ``peer.py``).

Its networks have our sizes. Its batch is at hand and its metrics are off, while our batch is drawn from the replay
buffer and our losses are logged. Reads the name of a case
per line and answers with seconds per call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
import numpy as np
import torch
from gymnasium import spaces
from lightning import Fabric
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v3.agent import build_agent
from sheeprl.algos.dreamer_v3.dreamer_v3 import train
from sheeprl.algos.dreamer_v3.utils import Moments
from sheeprl.utils.metric import MetricAggregator
from sheeprl.utils.utils import dotdict
from workload import (
    ACTION_DIM,
    BINS,
    CASES,
    GROUPS,
    HORIZON,
    LAYERS,
    LENGTH,
    OBS_DIM,
    SEQUENCES,
    Latent,
    make_rows,
    seconds_per_call,
)


def settings_of(case: Latent) -> Any:
    """Return sheeprl's settings with the sizes of a case; all others are its own."""
    sizes = {
        "dense_units": case.units,
        "mlp_layers": LAYERS,
        "horizon": HORIZON,
        "world_model.discrete_size": GROUPS,
        "world_model.stochastic_size": GROUPS,
        "world_model.recurrent_model.recurrent_state_size": case.units,
        "world_model.transition_model.hidden_size": case.units,
        "world_model.representation_model.hidden_size": case.units,
        "world_model.reward_model.bins": BINS,
        "critic.bins": BINS,
        **{f"cnn_keys.{part}": "[]" for part in ("encoder", "decoder")},
        **{f"mlp_keys.{part}": "[state]" for part in ("encoder", "decoder")},
        "per_rank_batch_size": SEQUENCES,
        "per_rank_sequence_length": LENGTH,
    }
    overrides = ["exp=dreamer_v3", "env=gym", *(f"algo.{name}={value}" for name, value in sizes.items())]
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        return dotdict(OmegaConf.to_container(hydra.compose("config", overrides), resolve=True))


def update_call(case: Latent) -> Callable[[], object]:
    """Return an update of model, actor and critic."""
    cfg, fabric = settings_of(case), Fabric(accelerator="cpu", devices=1)
    torch.distributions.Distribution.set_default_validate_args(cfg.distribution.validate_args)  # as its command does
    torch.manual_seed(0)
    obs_space = spaces.Dict({"state": spaces.Box(-np.inf, np.inf, (OBS_DIM,))})
    model, actor, critic, target, _ = build_agent(fabric, (ACTION_DIM,), True, cfg, obs_space)
    optimizers = fabric.setup_optimizers(
        *(
            hydra.utils.instantiate(settings.optimizer, params=module.parameters(), _convert_="all")
            for settings, module in (
                (cfg.algo.world_model, model),
                (cfg.algo.actor, actor),
                (cfg.algo.critic, critic),
            )
        )
    )
    of = cfg.algo.actor.moments
    moments = Moments(of.decay, of.max, of.percentile.low, of.percentile.high)
    rows = make_rows(SEQUENCES * LENGTH)
    never = torch.zeros(LENGTH, SEQUENCES, 1)

    def in_time(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (LENGTH, SEQUENCES))  # [T, B, ...]

    data = {
        "state": in_time(rows.obs),
        "actions": in_time(rows.action),
        "rewards": in_time(rows.reward)[..., None],
        **{name: never.clone() for name in ("terminated", "truncated", "is_first")},
    }

    def update() -> None:
        with torch.no_grad():
            for own, slow in zip(critic.module.parameters(), target.parameters(), strict=True):
                slow.lerp_(own, cfg.algo.critic.tau)
        train(fabric, model, actor, critic, target, *optimizers, dict(data), None, cfg, True, (ACTION_DIM,), moments)

    return update


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the library prints must not look like an answer
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    MetricAggregator.disabled = True
    cases = {case.name: case for case in CASES if isinstance(case, Latent) and case.what == "dreamer"}
    calls: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        name = line.strip()
        calls.setdefault(name, update_call(cases[name]))
        print(seconds_per_call(calls[name], cases[name].calls), file=answers)


if __name__ == "__main__":
    main()
