"""Pages of evidence: agents compared on an env, seed by seed, from runs of shipped recipes.

A page's own file, such as `trust.py`, says what is run, with the changes to the recipes. A run writes its curve to
docs/results/<page>/<experiment>/<column>_seed<n>.csv and, while it goes, resumes from
runs/<page>/<experiment>/<column>_seed<n>. `table` makes docs/results/<page>.md and the pictures beside it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments import RESULTS, ROOT, spread, versions, write_page
from learning_report import at_steps

from mbrl_wrappers.zoo.report.plots import learning_curves, new_figure, save_figure
from mbrl_wrappers.zoo.storage.tables import read_rows, write_rows
from mbrl_wrappers.zoo.training.building import base_of
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.run import run

SEEDS = (0, 1, 2, 3, 4)
EVAL_EPISODES = 10

Curves = dict[int, list[Evaluation]]


@dataclass(frozen=True)
class Column:
    """What is run on the seeds of an experiment; the base agent is the recipe's without its model.

    Agents that have no recipe are trained by ``trainer``, which gets the experiment and a seed.
    """

    agent: str
    algo: str = "SAC"
    model: bool = True
    params: dict[str, Any] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    trainer: Callable[[Experiment, int], list[Evaluation]] | None = None


@dataclass(frozen=True)
class Experiment:
    """Agents by label, all on one env.

    ``pairs`` names the bases of each, ``panels`` the labels that are drawn together, and ``borrowed`` the experiment
    whose runs a column is, where they are the same.
    """

    env: str
    steps: int
    eval_freq: int
    target: float | None
    columns: dict[str, Column]
    pairs: dict[str, tuple[str, ...]]
    title: str
    panels: dict[str, list[str]]
    borrowed: dict[str, str] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A page of docs/results, ``name``.md: its title, how its text begins, its experiments by name, and its seeds."""

    name: str
    title: str
    text: list[str]
    experiments: dict[str, Experiment]
    seeds: tuple[int, ...] = SEEDS

    @property
    def folder(self) -> Path:
        """Where its curves and pictures lie."""
        return RESULTS / self.name


def spec_of(page: Page, name: str, label: str, seed: int) -> JobSpec:
    experiment = page.experiments[name]
    column = experiment.columns[label]
    spec = make_job(
        column.agent,
        experiment.env,
        steps=column.steps or experiment.steps,
        seed=seed,
        algo=column.algo,
        params=column.params,
        env_kwargs=column.env_kwargs,
        eval_freq=experiment.eval_freq,
        eval_episodes=EVAL_EPISODES,
    )
    return spec if column.model else base_of(spec)


def file_of(page: Page, name: str, label: str, seed: int) -> Path:
    """The curve of a run."""
    name = page.experiments[name].borrowed.get(label, name)
    slug = label.lower().replace("(", "_").replace(")", "").replace(", ", "_").replace(" ", "_")
    return page.folder / name / f"{slug}_seed{seed}.csv"


def train(page: Page, name: str, label: str, seed: int) -> None:
    file, trainer = file_of(page, name, label, seed), page.experiments[name].columns[label].trainer
    if trainer is not None:
        rows = trainer(page.experiments[name], seed)
        if seed in page.seeds:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_rows(file, rows)
        print("finished", name, label, seed, rows[-1], flush=True)
        return
    folder = ROOT / "runs" / page.name / file.parent.name / file.stem
    _, rows = run(spec_of(page, name, label, seed), folder)
    if seed in page.seeds:  # others are for choosing settings
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "progress.csv", file)
    print("finished", name, label, seed, rows[-1], flush=True)


def curves(page: Page, name: str, label: str) -> Curves:
    """The committed curves of a column, by seed."""
    files = {seed: file_of(page, name, label, seed) for seed in page.seeds}
    return {seed: read_rows(file, Evaluation) for seed, file in files.items() if file.exists()}


def write(page: Page) -> None:
    """Write the page, and a picture of each experiment that has curves."""
    write_page(page.name, document(page))
    for name, experiment in page.experiments.items():
        if found := found_curves(page, name):
            draw(experiment, found, page.folder / f"{name}.svg")


def found_curves(page: Page, name: str) -> dict[str, Curves]:
    """The committed curves of an experiment by column; none where all are borrowed from another one."""
    experiment = page.experiments[name]
    found = {label: seeds for label in experiment.columns if (seeds := curves(page, name, label))}
    return found if found.keys() - experiment.borrowed.keys() else {}


def document(page: Page) -> str:
    """The page from the committed curves."""
    lines = [
        f"# {page.title}",
        "",
        *page.text,
        f"Returns are means over {EVAL_EPISODES} evaluation episodes of the deterministic policy, from the same start",
        "states at each evaluation; `last five` is the mean of a seed's last five evaluations. ± is the standard",
        "deviation over seeds, that of a sample (n - 1). Steps to a target are those of the first evaluation that",
        "reaches it, whether or not the next ones do; where a seed does not, the steps of its run stand for it, marked",
        "`>`. CPU seconds are those of training on one thread, compiling included; the clock shows more, since runs",
        "shared two cores.",
        "",
        f"{versions()}.",
        f"Written by `python benchmarks/{page.name}.py table` from the curves in the folder `{page.name}`.",
        "",
    ]
    for name, experiment in page.experiments.items():
        if not (found := found_curves(page, name)):
            continue
        lines += [f"## {experiment.title}", "", *experiment.text, *table(experiment, found), ""]
        lines += [f"![Learning curves]({page.name}/{name}.svg)", ""]
        lines += [f"Runs: `python benchmarks/{page.name}.py run {name}`", ""]
    return "\n".join(lines)


def table(experiment: Experiment, found: dict[str, Curves]) -> list[str]:
    """A row for each agent, every seed in it; returns and times are those after the experiment's steps."""
    header = ["agent", "seeds"]
    if experiment.target is not None:
        header += [f"steps to {experiment.target:g}, by seed", "mean", "of the base's"]
    header += [f"return at {experiment.steps:,}, by seed", "mean ± std", "last five", "CPU s", "clock s"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for label, seeds in found.items():
        cells = [label, ", ".join(map(str, seeds))]
        if experiment.target is not None:
            bases = {base: found[base] for base in experiment.pairs.get(label, ()) if base in found}
            cells += reaches(experiment.target, seeds, bases)
        ends = [at_steps(rows, experiment.steps) for rows in seeds.values()]
        cells += [", ".join(f"{row.return_mean:.1f}" for row in ends), spread([row.return_mean for row in ends], 1)]
        cells += [spread([last_five(rows, experiment.steps) for rows in seeds.values()], 1)]
        cells += [spread([row.cpu_seconds for row in ends]), spread([row.wall_seconds for row in ends])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def last_five(rows: list[Evaluation], steps: int) -> float:
    """The mean return of the last five evaluations up to some env steps."""
    return float(np.mean([row.return_mean for row in rows if row.steps <= steps][-5:]))


def reaches(target: float, seeds: Curves, bases: dict[str, Curves]) -> list[str]:
    """When each seed reaches the target, the mean, and what share of each base's mean that is."""
    own = {seed: steps_to(rows, target) for seed, rows in seeds.items()}
    cells = [", ".join(f"{steps:,}" if reached else f">{steps:,}" for steps, reached in own.values())]
    mean, is_bound = mean_steps(own.values())
    cells += [f"{'>' if is_bound else ''}{mean:,.0f}"]
    theirs = {base: {seed: steps_to(rows, target) for seed, rows in of_base.items()} for base, of_base in bases.items()}
    shares = {base: share(own, of_base) for base, of_base in theirs.items()}
    if len(shares) == 1:
        return [*cells, *shares.values()]
    return [*cells, "; ".join(f"{value} ({base})" for base, value in shares.items()) or "-"]


def share(own: dict[int, tuple[int, bool]], theirs: dict[int, tuple[int, bool]]) -> str:
    """What share of a base's steps an agent needs on the seeds that both have, as far as that is known."""
    common = own.keys() & theirs.keys()
    if not common:
        return "-"
    mean, is_bound = mean_steps(own[seed] for seed in common)
    their_mean, theirs_is_bound = mean_steps(theirs[seed] for seed in common)
    if is_bound and theirs_is_bound:
        return "unknown"
    mark = ">" if is_bound else "<" if theirs_is_bound else ""
    return f"{mark}{mean / their_mean:.2f}"


def mean_steps(reached: Iterable[tuple[int, bool]]) -> tuple[float, bool]:
    """The mean, and whether it is a lower bound since not all have reached the target."""
    steps, is_reached = zip(*reached, strict=True)
    return float(np.mean(steps)), not all(is_reached)


def steps_to(rows: list[Evaluation], target: float) -> tuple[int, bool]:
    """Env steps to the first evaluation at the target, and whether there is one; without, those of the run."""
    for row in rows:
        if row.return_mean >= target:
            return row.steps, True
    return rows[-1].steps, False


def draw(experiment: Experiment, found: dict[str, Curves], file: Path) -> None:
    """Learning curves, of agents on the same base in the same panel."""
    panels = {panel: [label for label in labels if label in found] for panel, labels in experiment.panels.items()}
    panels = {panel: labels for panel, labels in panels.items() if labels}
    figure, axes = new_figure(len(panels), experiment.title)
    for ax, (panel, labels) in zip(axes, panels.items(), strict=True):
        learning_curves(ax, {label: list(found[label].values()) for label in labels})
        ax.set_title(panel, loc="left")
    save_figure(figure, file)


def main(page: Page, description: str | None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("experiment", choices=sorted(page.experiments))
    runs.add_argument("--seeds", type=int, nargs="+", default=list(page.seeds))
    runs.add_argument("--columns", nargs="+", help="default: all")
    commands.add_parser("table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "table":
        write(page)
        return
    columns = page.experiments[arguments.experiment].columns
    if unknown := set(arguments.columns or ()) - columns.keys():
        parser.error(f"--columns must be among {list(columns)}, got {sorted(unknown)}")
    for seed in arguments.seeds:
        for label in arguments.columns or columns:
            train(page, arguments.experiment, label, seed)
