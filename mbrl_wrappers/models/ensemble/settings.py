"""The settings of an ensemble: their ranges, and their values in older files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.models.fit import HOLDOUT_METRICS

PAPER_WEIGHT_DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
# Values of the settings that files of format 1 don't contain.
OF_FORMAT_1 = {"joint": True, "num_components": 1, "range_margin": None, "averaging": 0.0}


def layer_decay(weight_decay: float | Sequence[float] | None, num_layers: int) -> list[float]:
    """Return the L2 factor of each layer; see :class:`~mbrl_wrappers.models.EnsembleDynamics`."""
    if weight_decay is None:
        return list(PAPER_WEIGHT_DECAY) if num_layers == len(PAPER_WEIGHT_DECAY) else [1e-4] * num_layers
    if isinstance(weight_decay, Iterable):
        decay = list(weight_decay)
        if len(decay) != num_layers:
            raise ValueError(f"weight_decay must have one number per layer, {num_layers}, got {decay}")
        return decay
    return [weight_decay] * num_layers


def check_ranges(settings: dict[str, Any]) -> None:
    """Refuse a setting out of its range.

    Raises:
        ValueError: naming it and its value.
    """
    for name, least in (
        ("num_members", 1),
        ("num_components", 1),
        ("batch_size", 1),
        ("patience", 0),
        ("min_epoch_steps", 1),
    ):
        check_whole_number(name, settings[name], least)
    if settings["max_steps"] is not None:
        check_whole_number("max_steps", settings["max_steps"])
    check_whole_number("num_elites", settings["num_elites"])
    if settings["num_elites"] > settings["num_members"]:
        raise ValueError(
            f"num_elites must be at most num_members={settings['num_members']}, got {settings['num_elites']}"
        )
    for units in settings["hidden"]:
        check_whole_number("hidden", units)
    check_number("beta_nll", settings["beta_nll"], 0, 1)
    if settings["range_margin"] is not None:
        check_number("range_margin", settings["range_margin"], 0, sys.float_info.max)
    for name in ("joint", "normalize_targets", "residual"):
        if not isinstance(settings[name], bool):
            raise ValueError(f"{name} must be True or False, got {settings[name]!r}")
    if settings["holdout_metric"] not in HOLDOUT_METRICS:
        raise ValueError(f"holdout_metric must be one of {sorted(HOLDOUT_METRICS)}, got {settings['holdout_metric']!r}")
    check_number("learning_rate", settings["learning_rate"], 0, 1, low_is_valid=False)
    for decay in settings["weight_decay"]:
        check_number("weight_decay", decay, 0, 1)
    if not 0 <= settings["averaging"] < 1:
        raise ValueError(f"averaging must be in [0, 1), got {settings['averaging']}")
    if not 0 < settings["holdout_ratio"] < 1:
        raise ValueError(f"holdout_ratio must be in (0, 1), got {settings['holdout_ratio']}")
