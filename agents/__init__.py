"""Model-based algorithms, one file each; import them from `mbrl_wrappers.agents`."""

if __name__ != "mbrl_wrappers.agents":
    raise ImportError(
        f"This folder is the package 'mbrl_wrappers.agents', but it was imported as {__name__!r}, which "
        "would make a second copy of every class. Write `import mbrl_wrappers.agents`."
    )

from typing import TYPE_CHECKING

from mbrl_wrappers.lazy import lazy_names

if TYPE_CHECKING:
    from mbrl_wrappers.agents.alphazero import AlphaZero
    from mbrl_wrappers.agents.compiled import CompiledSAC, CompiledTD3, CompiledTQC
    from mbrl_wrappers.agents.dreamer import Dreamer
    from mbrl_wrappers.agents.dyna import Dyna
    from mbrl_wrappers.agents.exit import ExIt
    from mbrl_wrappers.agents.i2a import I2A
    from mbrl_wrappers.agents.m2ac import M2AC
    from mbrl_wrappers.agents.maac import MAAC, SACSVG
    from mbrl_wrappers.agents.macura import MACURA
    from mbrl_wrappers.agents.mve import MVE
    from mbrl_wrappers.agents.networks.steve_td3 import STEVETD3Policy
    from mbrl_wrappers.agents.pets import PETS
    from mbrl_wrappers.agents.planet import PlaNet
    from mbrl_wrappers.agents.poplin import POPLIN
    from mbrl_wrappers.agents.real_batches import RealData
    from mbrl_wrappers.agents.rs import RS
    from mbrl_wrappers.agents.steve import STEVE
    from mbrl_wrappers.agents.svg import SVG
    from mbrl_wrappers.agents.tdmpc2 import TDMPC2
    from mbrl_wrappers.agents.world_models import WorldModels

__all__ = [
    "I2A",
    "M2AC",
    "MAAC",
    "MACURA",
    "MVE",
    "PETS",
    "POPLIN",
    "RS",
    "SACSVG",
    "STEVE",
    "SVG",
    "TDMPC2",
    "AlphaZero",
    "CompiledSAC",
    "CompiledTD3",
    "CompiledTQC",
    "Dreamer",
    "Dyna",
    "ExIt",
    "PlaNet",
    "RealData",
    "STEVETD3Policy",
    "WorldModels",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AlphaZero": "mbrl_wrappers.agents.alphazero",
        "CompiledSAC": "mbrl_wrappers.agents.compiled",
        "CompiledTD3": "mbrl_wrappers.agents.compiled",
        "CompiledTQC": "mbrl_wrappers.agents.compiled",
        "Dreamer": "mbrl_wrappers.agents.dreamer",
        "Dyna": "mbrl_wrappers.agents.dyna",
        "ExIt": "mbrl_wrappers.agents.exit",
        "I2A": "mbrl_wrappers.agents.i2a",
        "M2AC": "mbrl_wrappers.agents.m2ac",
        "MAAC": "mbrl_wrappers.agents.maac",
        "MACURA": "mbrl_wrappers.agents.macura",
        "MVE": "mbrl_wrappers.agents.mve",
        "PETS": "mbrl_wrappers.agents.pets",
        "POPLIN": "mbrl_wrappers.agents.poplin",
        "PlaNet": "mbrl_wrappers.agents.planet",
        "RS": "mbrl_wrappers.agents.rs",
        "RealData": "mbrl_wrappers.agents.real_batches",
        "SACSVG": "mbrl_wrappers.agents.maac",
        "STEVE": "mbrl_wrappers.agents.steve",
        "STEVETD3Policy": "mbrl_wrappers.agents.networks.steve_td3",
        "SVG": "mbrl_wrappers.agents.svg",
        "TDMPC2": "mbrl_wrappers.agents.tdmpc2",
        "WorldModels": "mbrl_wrappers.agents.world_models",
    },
)
