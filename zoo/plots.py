"""Figures of training runs. Every function draws into the axes that it is given, in one style.

No figure here touches pyplot, so none needs a display or is left open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from mbrl_wrappers.zoo.model_error import HorizonError
from mbrl_wrappers.zoo.training import Evaluation

# Colours that people with any colour vision tell apart (Wong 2011).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.dpi": 150.0,
    "svg.hashsalt": "mbrl_wrappers",
}


def new_figure(columns: int, title: str, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure with axes side by side.

    Args:
        columns: number of axes in a row.
        title: above them all.
        rows: number of rows.

    Returns:
        The figure and its axes, from left to right, row by row.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * columns, 4.0 * rows), layout=ConstrainedLayoutEngine(wspace=0.06))
        figure.suptitle(title, fontsize=12, fontweight="bold")
        return figure, list(figure.subplots(rows, columns, squeeze=False).flatten())


def learning_curves(ax: Axes, curves: Mapping[str, Sequence[Sequence[Evaluation]]]) -> None:
    """Draw returns over real env steps: the mean over seeds, and each seed thin if there are several.

    Args:
        ax: where.
        curves: by label, the rows of each seed. The mean goes as far as the shortest seed.
    """
    with mpl.rc_context(STYLE):
        for color, (label, seeds) in zip(_colors(len(curves)), curves.items(), strict=True):
            paths = [([row.steps for row in rows], [row.return_mean for row in rows]) for rows in seeds]
            if len(paths) > 1:
                for steps, returns in paths:
                    ax.plot(steps, returns, color=color, linewidth=0.8, alpha=0.4)
            grid = sorted({step for steps, _ in paths for step in steps})
            low, high = max(steps[0] for steps, _ in paths), min(steps[-1] for steps, _ in paths)
            grid = [step for step in grid if low <= step <= high]
            mean = np.mean([np.interp(grid, steps, returns) for steps, returns in paths], axis=0)
            ax.plot(grid, mean, color=color, marker="o", markersize=3, label=label)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
        ax.set_title("Learning curves")
        ax.set_xlabel("real env steps")
        ax.set_ylabel("return")
        ax.legend(loc="best")


def model_error(ax: Axes, rows: Sequence[HorizonError]) -> None:
    """Draw a model's open-loop error over the horizon: the median, and a band from 10% to 90%.

    Args:
        ax: where.
        rows: one per step ahead.
    """
    with mpl.rc_context(STYLE):
        ahead = [row.steps_ahead for row in rows]
        ax.fill_between(
            ahead,
            [row.low for row in rows],
            [row.high for row in rows],
            color=COLORS[0],
            alpha=0.2,
            linewidth=0,
            label="10% to 90% of starts",
        )
        ax.plot(ahead, [row.median for row in rows], color=COLORS[0], label="median")
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
        ax.set_title("Model error over the horizon")
        ax.set_xlabel("steps ahead, open loop")
        ax.set_ylabel("error / spread of the states")
        ax.legend(loc="upper left")


def save_training_figure(
    path: str | Path, title: str, curves: Mapping[str, Sequence[Evaluation]], error: Sequence[HorizonError]
) -> None:
    """Write the picture of one training: learning curves, and the model's error.

    Args:
        path: ends in ``.png`` or ``.svg``.
        title: above both.
        curves: rows by label.
        error: one row per step ahead.
    """
    figure, (left, right) = new_figure(2, title)
    learning_curves(left, {label: [rows] for label, rows in curves.items()})
    model_error(right, error)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the common style, the same bytes for the same figure."""
    metadata = {"Date": None} if Path(path).suffix == ".svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(path, metadata=metadata)


def _colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]
