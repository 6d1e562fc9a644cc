"""A recurrent state-space model (Hafner et al. 2019): the latent world model of PlaNet and Dreamer."""

from mbrl_wrappers.models.rssm.latents import CategoricalLatent, GaussianLatent
from mbrl_wrappers.models.rssm.model import RSSM, Imagined, RSSMState
from mbrl_wrappers.models.rssm.presets import PRESETS, Preset

__all__ = ["PRESETS", "RSSM", "CategoricalLatent", "GaussianLatent", "Imagined", "Preset", "RSSMState"]
