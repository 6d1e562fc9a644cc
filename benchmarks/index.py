"""The index of results: every task with all agents that were run on it, from the committed curves.

    python benchmarks/index.py

Writes docs/results/index.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradients
import latent
import learning_report
import locomotion
import reward_scale
import trust
from comparisons import Curves, curves, file_of, last_five
from experiments import EXPERIMENTS, RESULTS, recipe_of, spread, write_page
from learning_report import at_steps

from mbrl_wrappers.zoo.analysis.statistics import bootstrap_interval, interquartile_mean

# The newest settings come first: an agent's row on a later page is of older ones.
PAGES = (locomotion.PAGE, latent.PAGE, trust.PAGE, gradients.PAGE, reward_scale.PAGE)
TEXT = """\
# Results by task

Every agent that was run on a task, and the same agent without a model, in the order of the mean of the last five
evaluations. Equal labels on different pages are runs with different settings, which stand there. Returns are those of
the deterministic policy after the env steps of the row. IQM is the interquartile mean over seeds, with the 95% interval
of a percentile bootstrap: with three to five seeds it is too narrow. ± is the standard deviation over seeds, that of a
sample. CPU seconds are those of training on one thread.

Written by `python benchmarks/index.py` from the curves, which are CSV files in the folder of each page."""


@dataclass(frozen=True)
class Entry:
    """An agent's runs on a task, and where to find them: links to its page, and to its curves."""

    agent: str
    steps: int
    seeds: Curves
    page: str
    folder: str

    def cells(self) -> list[str]:
        ends = [at_steps(rows, self.steps) for rows in self.seeds.values()]
        returns = [row.return_mean for row in ends]
        low, high = bootstrap_interval([[value] for value in returns])
        return [
            self.agent,
            f"{self.steps:,}",
            str(len(ends)),
            f"{interquartile_mean(returns):.1f} [{low:.1f}, {high:.1f}]",
            spread(returns, 1),
            spread(self.last_fives, 1),
            spread([row.cpu_seconds for row in ends]),
            f"[{self.page}]({self.page}), [CSV]({self.folder})",
        ]

    @property
    def last_fives(self) -> list[float]:
        """The mean of each seed's last five evaluations."""
        return [last_five(rows, self.steps) for rows in self.seeds.values()]


def entries() -> dict[str, list[Entry]]:
    """Return the entries of each task."""
    found: dict[str, list[Entry]] = {}
    for page in PAGES:
        for name, experiment in page.experiments.items():
            for label in experiment.columns.keys() - experiment.borrowed.keys():
                if seeds := curves(page, name, label):
                    folder = file_of(page, name, label, 0).parent.relative_to(RESULTS).as_posix()
                    entry = Entry(label, experiment.steps, seeds, f"{page.name}.md", folder)
                    found.setdefault(experiment.title, []).append(entry)
    for env, mbpo in EXPERIMENTS.items():
        algo = recipe_of(env).algo
        for label, variant in ((f"MBPO({algo})", "mbpo"), (algo, "base")):
            if seeds := learning_report.curves(env, variant):
                found.setdefault(env, []).append(Entry(label, mbpo.steps, seeds, "learning.md", env))
    return found


def document() -> str:
    lines = [TEXT, ""]
    header = ("agent", "env steps", "seeds", "IQM", "mean ± std", "last five", "CPU s", "page and curves")
    for task, of_task in sorted(entries().items()):
        lines += [f"## {task}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += [
            "| " + " | ".join(e.cells()) + " |"
            for e in sorted(of_task, key=lambda e: -sum(e.last_fives) / len(e.last_fives))
        ]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    write_page("index", document())
