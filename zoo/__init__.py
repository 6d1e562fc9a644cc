"""Recipes, training and evaluation of agents and models; import it as `mbrl_wrappers.zoo`."""

if __name__ != "mbrl_wrappers.zoo":
    raise ImportError(
        f"This folder is the package 'mbrl_wrappers.zoo', but it was imported as {__name__!r}, which "
        "would make a second copy of every class. Write `import mbrl_wrappers.zoo`."
    )
