"""The settings that ``--params`` can change, as ``mbrl-zoo train --help AGENT`` shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mbrl_wrappers.zoo.registry import AGENTS, argument_defaults
from mbrl_wrappers.zoo.training.building import constructors_of, settable_names
from mbrl_wrappers.zoo.training.recipe import OPTIONS, SECTIONS, load_recipe


def settings_text(agent: str) -> str:
    """Return all settings of an agent's recipe, a line each: its name, and its value in the recipe or the default.

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
    lines += ["", "options of their own, with the values of the recipe"]
    lines += [f"  {f'{option} {name.upper()}':<36}   {getattr(recipe, name)}" for name, option in OPTIONS.items()]
    for section in SECTIONS:
        kind = constructors_of(agent, recipe).get(section)
        if kind is not None:
            when = ", where one of these is given" if section == "normalize" and not recipe.normalize else ""
            lines += ["", f"{section} ({kind.__name__}{when})", *_lines(section, kind, getattr(recipe, section))]
    return "\n".join(lines)


def _lines(section: str, kind: type, chosen: dict[str, Any]) -> Iterator[str]:
    defaults = argument_defaults(kind)
    for name in sorted(settable_names(section, kind) | chosen.keys()):
        value = chosen.get(name, defaults.get(name))
        mark = "*" if name in chosen else " "
        yield f"  {f'{section}.{name}':<36} {mark} {_shown(value)}".rstrip()


def _shown(value: Any) -> str:
    text = getattr(value, "__name__", None) or str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
