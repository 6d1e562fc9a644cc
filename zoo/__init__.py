"""Recipes, training, evaluation and keeping of agents and models; import it as `mbrl_wrappers.zoo`."""

if __name__ != "mbrl_wrappers.zoo":
    raise ImportError(
        f"This folder is the package 'mbrl_wrappers.zoo', but it was imported as {__name__!r}, which "
        "would make a second copy of every class. Write `import mbrl_wrappers.zoo`."
    )

from typing import TYPE_CHECKING

from mbrl_wrappers.lazy import lazy_names

if TYPE_CHECKING:
    from mbrl_wrappers.zoo.catalogue.hub import pull, push
    from mbrl_wrappers.zoo.catalogue.lookup import load, load_dynamics
    from mbrl_wrappers.zoo.catalogue.saving import save
    from mbrl_wrappers.zoo.catalogue.verification import evaluate, verify
    from mbrl_wrappers.zoo.comparison import Training, resume, train
    from mbrl_wrappers.zoo.errors import ZooError
    from mbrl_wrappers.zoo.registry import register, register_agent, register_dynamics
    from mbrl_wrappers.zoo.training.recipe import Recipe, load_recipe

__all__ = [
    "Recipe",
    "Training",
    "ZooError",
    "evaluate",
    "load",
    "load_dynamics",
    "load_recipe",
    "pull",
    "push",
    "register",
    "register_agent",
    "register_dynamics",
    "resume",
    "save",
    "train",
    "verify",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Recipe": "mbrl_wrappers.zoo.training.recipe",
        "Training": "mbrl_wrappers.zoo.comparison",
        "ZooError": "mbrl_wrappers.zoo.errors",
        "evaluate": "mbrl_wrappers.zoo.catalogue.verification",
        "load": "mbrl_wrappers.zoo.catalogue.lookup",
        "load_dynamics": "mbrl_wrappers.zoo.catalogue.lookup",
        "load_recipe": "mbrl_wrappers.zoo.training.recipe",
        "pull": "mbrl_wrappers.zoo.catalogue.hub",
        "push": "mbrl_wrappers.zoo.catalogue.hub",
        "register": "mbrl_wrappers.zoo.registry",
        "register_agent": "mbrl_wrappers.zoo.registry",
        "register_dynamics": "mbrl_wrappers.zoo.registry",
        "resume": "mbrl_wrappers.zoo.comparison",
        "save": "mbrl_wrappers.zoo.catalogue.saving",
        "train": "mbrl_wrappers.zoo.comparison",
        "verify": "mbrl_wrappers.zoo.catalogue.verification",
    },
)
