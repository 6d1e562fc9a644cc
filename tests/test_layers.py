"""The import rule of the design: only leftward, and Stable-Baselines3 only where the library meets it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGE = "mbrl_wrappers"

# Left to right. The modules of the first column may use one another; after it, a unit may import what stands
# in a column to its left, and itself.
COLUMNS = (
    {"arguments", "bounded_json", "experience", "files", "lazy", "returns", "seeding", "spaces", "types", "workers"},
    {"acceleration", "tasks"},
    {"models"},
    {"planners"},
    {"envs"},
    {"imagination", "wrappers"},
    {"agents"},
    {"zoo"},
)
COLUMN_OF = {unit: column for column, units in enumerate(COLUMNS) for unit in units}

# `planners` and `models` meet only through a callable, although one stands to the left of the other.
STRANGERS = {("planners", "models")}

# Third-party packages that only these modules, or modules inside these packages, may import.
RESERVED = {
    "stable_baselines3": (
        "envs.sb3_core",
        "envs.sb3_vec_env",
        "wrappers.sb3_imagined_futures",
        "imagination",
        "agents",
        "zoo",
    ),
    "sb3_contrib": ("envs.sb3_vec_env", "imagination", "agents", "zoo"),
    "huggingface_hub": ("zoo.catalogue.hub",),
    "ray": ("zoo.sweeps.ray_cluster",),
}


def source_files() -> dict[str, Path]:
    """Each module's installed name, and its file in the checkout."""
    files = {}
    for folder, parent in ((PACKAGE, ()), ("agents", (PACKAGE,)), ("zoo", (PACKAGE,))):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            files[".".join((*parent, *path.relative_to(CHECKOUT).with_suffix("").parts))] = path
    return files


def imported_names(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `module` ends in `__init__` for a package, so that one dot means its folder in both cases.
            start = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def is_inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def complaint(module: str, target: str) -> str | None:
    """Why `module` may not import `target`, or None if it may."""
    inner = module.removeprefix(f"{PACKAGE}.")
    unit = inner.split(".")[0]
    top, *rest = target.split(".")
    if top in {"agents", "zoo"}:
        return f"wrong name, write {PACKAGE}.{target}"
    if top in RESERVED and not is_inside(inner, RESERVED[top]):
        return f"only {', '.join(RESERVED[top])} may import {top}"
    if top != PACKAGE or not rest or rest[0] == "__version__":
        return None
    if rest[0] not in COLUMN_OF:
        return f"{rest[0]!r} has no column: import names from the modules that define them"
    if unit == "__init__" or rest[0] == unit:
        return None
    both_first = COLUMN_OF[unit] == COLUMN_OF[rest[0]] == 0
    if COLUMN_OF[rest[0]] >= COLUMN_OF[unit] and not both_first:
        return f"{rest[0]} does not stand to the left of {unit}"
    if (unit, rest[0]) in STRANGERS:
        return f"{unit} and {rest[0]} meet only through a callable"
    return None


def complaints(module: str, source: str) -> list[str]:
    found = []
    for line, target in imported_names(module, ast.parse(source)):
        reason = complaint(module, target)
        if reason:
            found.append(f"{module}:{line} imports {target}: {reason}")
    return found


def test_every_module_has_a_column() -> None:
    units = {name.split(".")[1] for name in source_files()} - {"__init__"}
    assert units <= COLUMN_OF.keys(), f"give these a column: {sorted(units - COLUMN_OF.keys())}"


def test_imports_go_only_leftward() -> None:
    files = source_files()
    assert {f"{PACKAGE}.__init__", f"{PACKAGE}.agents.__init__", f"{PACKAGE}.zoo.__init__"} <= files.keys()
    found = [line for name, path in files.items() for line in complaints(name, path.read_text("utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mbrl_wrappers.models.ensemble", "from mbrl_wrappers.envs import ImaginedEnv"),
        ("mbrl_wrappers.models.ensemble", "def f():\n    import mbrl_wrappers.envs.imagined"),
        ("mbrl_wrappers.models.__init__", "from ..envs import imagined"),
        ("mbrl_wrappers.models.ensemble", "from mbrl_wrappers import EnsembleDynamics"),
        ("mbrl_wrappers.models.ensemble", "import torch, stable_baselines3.sac"),
        ("mbrl_wrappers.spaces", "from mbrl_wrappers import models"),
        ("mbrl_wrappers.planners.cem", "from mbrl_wrappers.models import EnsembleDynamics"),
        ("mbrl_wrappers.planners.cem", "from mbrl_wrappers.envs.imagined import ImaginedEnv"),
        ("mbrl_wrappers.envs.imagined", "from stable_baselines3.common.vec_env import VecEnv"),
        ("mbrl_wrappers.wrappers.mpc", "import sb3_contrib"),
        ("mbrl_wrappers.imagination.callback", "from mbrl_wrappers.agents.dyna import Dyna"),
        ("mbrl_wrappers.agents.dyna", "from mbrl_wrappers import zoo"),
        ("mbrl_wrappers.zoo.cards", "from agents.dyna import Dyna"),
        ("mbrl_wrappers.zoo.cards", "import huggingface_hub"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(complaints(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mbrl_wrappers.spaces", "from .types import Transitions"),
        ("mbrl_wrappers.models.__init__", "from .ensemble import EnsembleDynamics"),
        ("mbrl_wrappers.models.ensemble", "from . import x\nfrom mbrl_wrappers import spaces, __version__"),
        ("mbrl_wrappers.envs.sb3_vec_env", "from stable_baselines3.common.vec_env import VecEnv"),
        ("mbrl_wrappers.imagination.callback", "import stable_baselines3\nimport mbrl_wrappers.models"),
        ("mbrl_wrappers.agents.dyna", "from ..imagination import Strategy"),
        ("mbrl_wrappers.zoo.catalogue.hub", "import huggingface_hub\nimport mbrl_wrappers.agents"),
    ],
)
def test_a_right_import_is_let_through(module: str, source: str) -> None:
    assert complaints(module, source) == []


def test_the_bare_package_imports_nothing_heavy() -> None:
    program = "import sys, mbrl_wrappers; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert PACKAGE in loaded
    assert not loaded & {"torch", "stable_baselines3", "sb3_contrib", "gymnasium", "numpy"}
