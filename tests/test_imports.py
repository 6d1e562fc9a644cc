"""No module and no room imports another in a circle; `test_layers.py` has the order of the rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
FOLDERS = {"mbrl_wrappers": "mbrl_wrappers", "mbrl_wrappers.agents": "agents", "mbrl_wrappers.zoo": "zoo"}


def modules() -> dict[str, Path]:
    """Every module by its full name."""
    found = {}
    for package, folder in FOLDERS.items():
        for file in (CHECKOUT / folder).rglob("*.py"):
            parts = file.relative_to(CHECKOUT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = file
    return found


def imports(file: Path, known: set[str]) -> Iterator[str]:
    """Every import in a file, at its top, in a function or for its types: the modules that it can't do without."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in whole)


def graph() -> dict[str, set[str]]:
    found = modules()
    return {name: set(imports(file, set(found))) for name, file in found.items() if file.name != "__init__.py"}


def test_no_import_runs_in_a_circle() -> None:
    edges = graph()
    assert len(edges) > 100 and "mbrl_wrappers.models.base" in edges["mbrl_wrappers.models.ensemble.step"]
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise AssertionError(f"these modules import one another: {error.args[1]}") from None


@pytest.mark.parametrize("depth", [2, 3], ids=["rooms", "rooms of the zoo"])
def test_rooms_build_on_one_another_in_one_direction(depth: int) -> None:
    edges: dict[str, set[str]] = {}
    for module, others in graph().items():
        room = ".".join(module.split(".")[:depth])
        rooms = {".".join(other.split(".")[:depth]) for other in others}
        if depth == 2 or room.startswith("mbrl_wrappers.zoo."):
            edges.setdefault(room, set()).update(rooms - {room})
    assert len(edges) > 7
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise AssertionError(f"these rooms import one another: {error.args[1]}") from None
