"""Recipes, training and evaluation of agents and models; import it as `mbrl_wrappers.zoo`."""

if __name__ != "mbrl_wrappers.zoo":
    raise ImportError(
        f"This folder is the package 'mbrl_wrappers.zoo', but it was imported as {__name__!r}, which "
        "would make a second copy of every class. Write `import mbrl_wrappers.zoo`."
    )

from typing import TYPE_CHECKING

from mbrl_wrappers.lazy import lazy_names

if TYPE_CHECKING:
    from mbrl_wrappers.zoo.job import Training, train
    from mbrl_wrappers.zoo.recipe import Recipe, load_recipe

__all__ = ["Recipe", "Training", "load_recipe", "train"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Recipe": "mbrl_wrappers.zoo.recipe",
        "Training": "mbrl_wrappers.zoo.job",
        "load_recipe": "mbrl_wrappers.zoo.recipe",
        "train": "mbrl_wrappers.zoo.job",
    },
)
