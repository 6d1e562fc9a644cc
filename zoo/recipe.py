"""Recipes: what to train with, as plain YAML literals."""

from __future__ import annotations

import difflib
import importlib.resources
from dataclasses import dataclass
from typing import Any

import yaml

SECTIONS = ("agent", "strategy", "model_based", "dynamics")


@dataclass(frozen=True)
class Recipe:
    """Settings of one agent on one environment.

    Attributes:
        algo: SB3's name of the model-free agent, such as ``"SAC"``.
        steps: env steps to train for.
        agent, strategy, model_based, dynamics: keyword arguments of the four constructors.
    """

    algo: str
    steps: int
    agent: dict[str, Any]
    strategy: dict[str, Any]
    model_based: dict[str, Any]
    dynamics: dict[str, Any]


def load_recipe(agent: str, env_id: str) -> Recipe:
    """Read the recipe of an agent for an environment, on top of the agent's defaults.

    Args:
        agent: such as ``"mbpo"``.
        env_id: an env without an entry of its own gets the defaults.

    Raises:
        ValueError: for an agent without recipes, or an unknown key (the nearest valid one is named).
    """
    file = importlib.resources.files("mbrl_wrappers.zoo") / "recipes" / f"{agent}.yml"
    if not agent.isidentifier() or not file.is_file():
        raise ValueError(f"agent must be one of {available_agents()}, got {agent!r}")
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    default, own = entries["default"], entries.get(env_id, {})
    for key in own:
        _check_key(key, env_id)
    algo = own.get("algo", default["algo"])
    # Another agent than the default one does not take the default one's arguments.
    base = default if algo == default["algo"] else {**default, "agent": {}}
    sections = {name: {**base.get(name, {}), **own.get(name, {})} for name in SECTIONS}
    return Recipe(algo=algo, steps=own.get("steps", default["steps"]), **sections)


def available_agents() -> list[str]:
    """Return the agents that have recipes."""
    folder = importlib.resources.files("mbrl_wrappers.zoo") / "recipes"
    return sorted(file.name.removesuffix(".yml") for file in folder.iterdir() if file.name.endswith(".yml"))


def _check_key(key: str, env_id: str) -> None:
    valid = ("algo", "steps", *SECTIONS)
    if key not in valid:
        nearest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
        raise ValueError(f"recipe key of {env_id} must be one of {valid}, got {key!r}; did you mean {nearest!r}?")
