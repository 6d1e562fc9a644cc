"""Output in the terminal: runs as they go, and a table at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mbrl_wrappers.zoo.catalogue.lookup import Place
from mbrl_wrappers.zoo.evaluation import mean_and_std
from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.storage.folder import AgentFolder
from mbrl_wrappers.zoo.sweeps.processes import TrainingProcess
from mbrl_wrappers.zoo.training.progress import Evaluation

SECONDS_A_LINE = 30.0


class TrainingProgress:
    """One line per run: steps, last return, the model's error and the time left.

    Where there is no terminal, a line is printed for each evaluation instead, and every half minute.

    Args:
        processes: the runs.
    """

    def __init__(self, processes: Sequence[TrainingProcess]) -> None:
        self._processes = processes
        self._printed: dict[str, int] = {}
        self._lines = {process.label: time.monotonic() for process in processes}
        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            expand=True,
            disable=not self._console.is_terminal,
        )
        self._tasks = [self._progress.add_task(p.label, total=p.total_steps, numbers="") for p in processes]

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.update()
        self._progress.stop()

    def update(self) -> None:
        """Show where the runs are."""
        for task, process in zip(self._tasks, self._processes, strict=True):
            if self._console.is_terminal:
                self._progress.update(task, completed=process.steps, numbers=_numbers(process))
            elif process.last_evaluation[0] > self._printed.get(process.label, 0):
                self._printed[process.label] = process.last_evaluation[0]
                self._lines[process.label] = time.monotonic()
                line = f"{process.label}  step {process.last_evaluation[0]}  {_numbers(process)}"
                self._console.print(line, soft_wrap=True, highlight=False)
            elif time.monotonic() - self._lines[process.label] > SECONDS_A_LINE:
                self._lines[process.label] = time.monotonic()
                line = f"{process.label}  step {process.steps} of {process.total_steps}  {_numbers(process)}"
                self._console.print(line.rstrip(), soft_wrap=True, highlight=False)


def _numbers(process: TrainingProcess) -> str:
    parts = []
    if not math.isnan(process.last_evaluation[1]):
        parts.append(f"return {process.last_evaluation[1]:.1f}")
    if not math.isnan(process.model_error):
        parts.append(f"model error {process.model_error:.3f}")
    return "  ".join(parts)


def result_table(title: str, curves: Mapping[str, Sequence[Evaluation]], episodes: int) -> Table:
    """Return a table of the last evaluation of each curve."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("agent")
    for heading in ("env steps", "updates", f"return ({episodes} episodes)", "wall time"):
        table.add_column(heading, justify="right")
    for label, rows in curves.items():
        last = rows[-1]
        table.add_row(
            label,
            f"{last.steps:,}",
            f"{last.updates:,}",
            f"{last.return_mean:.1f} ± {last.return_std:.1f}",
            _clock(last.wall_seconds),
        )
    return table


HEADINGS = ("name", "return", "seeds", "steps", "time", "size", "where")


def catalogue_table(agents: Sequence[tuple[Place, AgentFolder | None]]) -> Table:
    """Return a table of the zoo's agents; agents that were not pulled or are broken show only their names."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(HEADINGS[0], overflow="fold")
    for heading in HEADINGS[1:-1]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(HEADINGS[-1], no_wrap=True)
    for place, folder in agents:
        table.add_row(*_catalogue_row(place, folder))
    return table


def catalogue_markdown(agents: Sequence[tuple[Place, AgentFolder | None]]) -> str:
    """Return the table of the zoo's agents as a page shows it."""
    rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 2), "---")]
    rows += [tuple(_catalogue_row(place, folder)) for place, folder in agents]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def algorithm_table() -> Table:
    """Return a table of the agents that ``mbrl-zoo train`` knows."""
    table = Table("train", "", "paper", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name, record in AGENTS.items():
        table.add_row(name, record.title, record.paper)
    return table


def _catalogue_row(place: Place, folder: AgentFolder | None) -> list[str]:
    cells = [""] * 5 if folder is None else _catalogue_cells(folder)
    is_broken = folder is None and place.path is not None
    return [place.name, *cells, "broken" if is_broken else place.place]


def _catalogue_cells(folder: AgentFolder) -> list[str]:
    size = size_text(folder.total_bytes)
    if folder.evaluation is None:
        return ["", "", "", "", size]
    mean, std = mean_and_std(folder.evaluation.episodes)
    trained = folder.evaluation.trained_seeds
    most = max((seed.steps for seed in trained), default=0)
    steps = f"{most / 1e6:.3g} M" if most >= 1_000_000 else f"{most:,}" if trained else ""
    seconds = sum(seed.wall_seconds for seed in trained) / len(trained) if trained else 0.0
    return [f"{mean:.1f} ± {std:.1f}", str(len(trained)), steps, _clock(seconds), size]


def _clock(seconds: float) -> str:
    """Return a time in minutes and seconds, in hours from 100 minutes on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 100 else f"{seconds / 3600:.1f} h"


def size_text(size: int) -> str:
    """Return a number of bytes in kB or MB."""
    if size < 1_000_000:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 10_000_000 else f"{size / 1e6:.0f} MB"
