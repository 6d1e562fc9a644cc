"""How a run can be made again: its command, its recipe, the versions that it was made with, and its files."""

from __future__ import annotations

import json
import os
import shlex
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrl_wrappers.zoo.report.runs import Run
from mbrl_wrappers.zoo.storage.folder import CARD, JOB, PROGRESS
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import SECTIONS, Recipe, load_recipe, recipe_yaml

FILES = (CARD, JOB, PROGRESS, "eval.json", "diagnosis.json", "model_error.csv", "replay.mp4")


@dataclass(frozen=True)
class Link:
    """A link of the page to a file beside it."""

    text: str
    href: str


def command_of(spec: JobSpec) -> str | None:
    """Return the command that trains a job; None for an agent that this version does not know.

    What the library's recipe says is left out, all other settings stand behind ``--params``.
    """
    try:
        usual = load_recipe(spec.agent, spec.env, algo=spec.recipe.algo)
    except (KeyError, TypeError, ValueError):
        return None
    words = ["mbrl-zoo", "train", spec.agent, "--env", spec.env, "-n", str(spec.steps), "--seed", str(spec.seed)]
    words += ["--algo", spec.recipe.algo] if load_algo(spec) != spec.recipe.algo else []
    if spec.env_kwargs:
        words += ["--env-kwargs", *(f"{name}={_literal(value)}" for name, value in spec.env_kwargs.items())]
    if changes := _changes(usual, spec.recipe):
        words += ["--params", *changes]
    return shlex.join(words)


def load_algo(spec: JobSpec) -> str:
    """Return the algorithm that the library's recipe names for a job's env and kind of actions."""
    names = {load_recipe(spec.agent, spec.env, discrete_actions=discrete).algo for discrete in (False, True)}
    return spec.recipe.algo if spec.recipe.algo in names else names.pop()


def _changes(usual: Recipe, recipe: Recipe) -> list[str]:
    changes = []
    for section in SECTIONS:
        before, now = getattr(usual, section), getattr(recipe, section)
        changes += [f"{section}.{name}={_literal(now[name])}" for name in now if before.get(name, now) != now[name]]
    return changes


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def recipe_text(spec: JobSpec) -> str:
    """Return a job's recipe as YAML."""
    return recipe_yaml(spec.recipe, spec.steps)


def links_to(run: Run, page: Path) -> list[Link]:
    """Return links from a page to the files of a run that are there."""
    return [Link(name, link_from(page, run.path / name)) for name in FILES if (run.path / name).is_file()]


def link_from(page: Path, target: Path) -> str:
    """Return a relative link from a page to a file or folder, or an absolute one to another drive."""
    try:
        relative = os.path.relpath(target.resolve(), page.resolve().parent)
    except ValueError:
        return target.resolve().as_uri()
    return urllib.parse.quote(Path(relative).as_posix())
