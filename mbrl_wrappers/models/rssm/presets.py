"""The differences between the models of Dreamer's versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from mbrl_wrappers.arguments import check_number, check_whole_number

Version = Literal[1, 3]
PIXELS = ("gaussian", "bernoulli")


@dataclass(frozen=True)
class Preset:
    """The parts of a version of Dreamer's model that are no sizes.

    Attributes:
        activation: of all networks.
        layer_norm: whether each layer is normalised before its activation.
        latent: the width of a Gaussian latent, or the groups and classes of a categorical one.
        symlog: whether vectors are seen and predicted as their :func:`~mbrl_wrappers.models.rssm.scalars.symlog`.
        bins: of the two-hot distribution of rewards; None for a Gaussian of unit variance.
        kl_scales: the factors of the divergence as a loss of the prior, and as a loss of the posterior.
        free_nats: below which the divergence is no loss.
    """

    activation: type[nn.Module]
    layer_norm: bool
    latent: int | tuple[int, int]
    symlog: bool
    bins: int | None
    kl_scales: tuple[float, float]
    free_nats: float


PRESETS: dict[Version, Preset] = {
    # Hafner et al. 2020. One divergence trains prior and posterior alike.
    1: Preset(nn.ELU, False, latent=30, symlog=False, bins=None, kl_scales=(1.0, 1.0), free_nats=3.0),
    # Hafner et al. 2023.
    3: Preset(nn.SiLU, True, latent=(32, 32), symlog=True, bins=255, kl_scales=(0.5, 0.1), free_nats=1.0),
}


def checked_settings(preset: Preset, **given: Any) -> dict[str, Any]:
    """Return a model's settings as JSON has them: the preset's value where None was given.

    Raises:
        ValueError: for a setting out of its range.
    """
    default = {name: getattr(preset, name) for name in ("latent", "kl_scales", "free_nats")} | {
        "bins": preset.bins or 0
    }
    chosen = {name: default[name] if name in default and value is None else value for name, value in given.items()}
    settings = {name: list(value) if isinstance(value, list | tuple) else value for name, value in chosen.items()}
    _check_ranges(settings)
    return settings


def _check_ranges(settings: dict[str, Any]) -> None:
    """Refuse settings out of their range."""
    for name in ("deter", "units", "layers", "depth", "batch_size", "train_steps"):
        check_whole_number(name, settings[name])
    check_whole_number("sequence_length", settings["sequence_length"], 2)
    if settings["pixels"] not in PIXELS:
        raise ValueError(f"pixels must be one of {PIXELS}, got {settings['pixels']!r}")
    latent, bins, scales = settings["latent"], settings["bins"], settings["kl_scales"]
    if isinstance(latent, list):
        if len(latent) != 2:
            raise ValueError(f"latent must be a width or [groups, classes], got {latent}")
        check_whole_number("latent's groups", latent[0])
        check_whole_number("latent's classes", latent[1], 2)
    else:
        check_whole_number("latent", latent)
    if bins != 0:
        check_whole_number("bins", bins, 2)
    if not isinstance(scales, list) or len(scales) != 2:
        raise ValueError(f"kl_scales must be two numbers, got {scales}")
    for scale in scales:
        check_number("kl_scales", scale, 0, 1e6)
    check_number("free_nats", settings["free_nats"], 0, 1e6)
    check_number("learning_rate", settings["learning_rate"], 0, 1, low_is_valid=False)
