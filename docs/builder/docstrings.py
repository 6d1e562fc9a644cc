"""Docstrings are written for readers of the code, with the roles of reST; the site renders Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(?P<short>~?)(?P<target>[\w.]+)`")
EQUATION = re.compile(r"^(?P<indent> {4,})``(?P<text>[^`]+)``(?P<source>\s+\(.*\))?$", re.MULTILINE)
# The Google style knows `Examples`, whose prompts are shown as code.
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
LITERAL = re.compile(r" ?::$", re.MULTILINE)


def as_markdown(text: str) -> str:
    """Return a docstring with its reST roles, literal blocks and equations as Markdown."""
    text = ROLE.sub(_name, text)
    text = EQUATION.sub(lambda match: match["indent"] + match["text"] + (match["source"] or ""), text)
    text = EXAMPLE.sub("Examples:", text)
    return LITERAL.sub(":", text)


def _name(role: re.Match[str]) -> str:
    target = role["target"]
    return f"`{target.rpartition('.')[2] if role['short'] else target}`"


class Markdown(griffe.Extension):
    """Converts every docstring that is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Convert the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
