"""Sizes of TD-MPC2's networks, and the ranges of its model's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mbrl_wrappers.arguments import check_number, check_whole_number


@dataclass(frozen=True)
class Size:
    """A size of all networks; it is named by the number of parameters, target critics included for the smallest.

    Attributes:
        latent: the width of a latent state, ``Z``.
        units: of each hidden layer, the encoder's excepted.
        encoder_units: of each hidden layer of the encoder.
        critics: their number.
    """

    latent: int
    units: int
    encoder_units: int
    critics: int = 5


# The last two are the authors'.
SIZES: dict[str, Size] = {
    "0.6M": Size(latent=128, units=128, encoder_units=128),
    "1M": Size(latent=128, units=384, encoder_units=256, critics=2),
    "5M": Size(latent=512, units=512, encoder_units=256),
}


def size_named(name: Any) -> Size:
    """Return the size of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in SIZES:
        raise ValueError(f"size must be one of {tuple(SIZES)}, got {name!r}")
    return SIZES[name]


def checked_settings(size: str, **given: Any) -> dict[str, Any]:
    """Return a model's settings, with the size's value where None was given.

    Raises:
        ValueError: for a setting out of its range.
    """
    default = size_named(size)
    settings = {name: getattr(default, name) if value is None else value for name, value in given.items()}
    for name in ("latent", "units", "encoder_units", "simplex", "depth", "horizon", "batch_size"):
        check_whole_number(name, settings[name])
    check_whole_number("encoder_layers", settings["encoder_layers"], 2)
    check_whole_number("bins", settings["bins"], 2)
    check_whole_number("train_steps", settings["train_steps"])
    if settings["latent"] % settings["simplex"]:
        raise ValueError(f"latent must be a multiple of simplex {settings['simplex']}, got {settings['latent']}")
    if not isinstance(settings["episodic"], bool):
        raise ValueError(f"episodic must be True or False, got {settings['episodic']!r}")
    check_number("rho", settings["rho"], 0, 1, low_is_valid=False)
    check_number("learning_rate", settings["learning_rate"], 0, 1, low_is_valid=False)
    return {"size": size, **settings}
