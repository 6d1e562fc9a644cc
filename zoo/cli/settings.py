"""The settings that ``--params`` can change, as ``mbrl-zoo train --help AGENT`` shows them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from mbrl_wrappers.zoo.registry import AGENTS, argument_types
from mbrl_wrappers.zoo.training.building import constructors_of, settable_names
from mbrl_wrappers.zoo.training.recipe import SECTIONS, load_recipe


def settings_text(agent: str) -> str:
    """Return all settings of an agent's recipe, a line each: name, value in the recipe or the default, and type.

    Raises:
        ValueError: for an unknown agent.
    """
    recipe = load_recipe(agent, "")
    record = AGENTS[agent]
    lines = [f"{agent}: {record.title} ({record.paper})", ""]
    lines += [
        f"The settings of {agent} that --params changes, with the values of its recipe (*) or the defaults:",
        f"  mbrl-zoo train {agent} --params NAME=VALUE [NAME=VALUE ...]",
    ]
    for section in SECTIONS:
        kind = constructors_of(agent, recipe).get(section)
        if kind is not None:
            when = ", where one of these is given" if section == "normalize" and not recipe.normalize else ""
            lines += ["", f"{section} ({kind.__name__}{when})", *_lines(section, kind, getattr(recipe, section))]
    return "\n".join(lines)


def _lines(section: str, kind: type, chosen: dict[str, Any]) -> Iterator[str]:
    defaults = _defaults(kind)
    for name in sorted(settable_names(section, kind) | chosen.keys()):
        value = chosen.get(name, defaults.get(name))
        mark = "*" if name in chosen else " "
        yield f"  {f'{section}.{name}':<36} {mark} {_shown(value)}".rstrip()


def _defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of a constructor's arguments, those that it passes on included."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            found = {p.name: p.default for p in parameters if p.default is not p.empty} | found
    return {name: value for name, value in found.items() if name in argument_types(kind)}


def _shown(value: Any) -> str:
    text = getattr(value, "__name__", None) or str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
