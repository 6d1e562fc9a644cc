"""What belongs to a run that is to be made again, apart from its command: its recipe, and its files."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from mbrl_wrappers.zoo.report.runs import Run
from mbrl_wrappers.zoo.storage.folder import CARD, JOB, PROGRESS
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import recipe_yaml

FILES = (CARD, JOB, PROGRESS, "eval.json", "diagnosis.json", "model_error.csv", "replay.mp4")
RECIPE = "recipe.yml"  # what the page's recipe is to be saved as, for a command that needs it


@dataclass(frozen=True)
class Link:
    """A link of the page to a file beside it."""

    text: str
    href: str


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
