"""Figures of training runs. Every function draws into the axes that it is given, in one style.

No figure here touches pyplot, so none needs a display or is left open.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from mbrl_wrappers.zoo.analysis.findings import Calibration, ExploitationGap
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.analysis.plan_candidates import Candidates
from mbrl_wrappers.zoo.analysis.statistics import Scores, mean_interval, performance_profile, profile_interval
from mbrl_wrappers.zoo.training.progress import Evaluation

# Colours that people with any colour vision tell apart (Wong 2011).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

# Always predicting the mean state has an error of 1; an axis that shows much more leaves no room for useful models.
MAX_SHOWN_ERROR = 2.0
MAX_SHOWN_CANDIDATES = 100
# Points of a line whose values a page shows at the pointer.
MAX_HOVERED = 400
MAX_DREAM_LINES = 3

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
        figure.suptitle(fill(title, 46 * columns), fontsize=12, fontweight="bold")  # letters that fit over the axes
        return figure, list(figure.subplots(rows, columns, squeeze=False).flatten())


def learning_curves(
    ax: Axes,
    curves: Mapping[str, Sequence[Sequence[Evaluation]]],
    over: Literal["steps", "wall_seconds", "cpu_seconds"] = "steps",
    unfinished: Mapping[str, Sequence[Sequence[Evaluation]]] | None = None,
) -> None:
    """Draw mean returns over env steps or time; with several seeds also the 95% interval, and each seed as a thin line.

    Args:
        ax: the axes to draw into.
        curves: by label, the rows of each seed. The mean ends with the shortest seed.
        over: ``"steps"``, ``"wall_seconds"`` or ``"cpu_seconds"``.
        unfinished: by label, the rows of seeds that are drawn as dotted lines and left out of the mean.
    """
    unit, scale = ("real env steps", 1) if over == "steps" else _time_unit(curves, over)
    with mpl.rc_context(STYLE):
        for color, (label, seeds) in zip(colors(len(curves)), curves.items(), strict=True):
            paths = [
                ([getattr(row, over) / scale for row in rows], [row.return_mean for row in rows]) for rows in seeds
            ]
            grid, values = _on_one_grid(paths)
            if len(paths) > 1:
                for x, returns in paths:
                    ax.plot(x, returns, color=color, linewidth=0.8, alpha=0.4)
                ax.fill_between(grid, *mean_interval(values), color=color, alpha=0.15, linewidth=0)
            for rows in (unfinished or {}).get(label, []):
                x = [getattr(row, over) / scale for row in rows]
                ax.plot(x, [row.return_mean for row in rows], color=color, linewidth=1.0, linestyle=":")
            ax.plot(grid, values.mean(axis=0), color=color, marker="o", markersize=3, label=plain(label))
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=over == "steps"))
        ax.set_title("Learning curves" if over == "steps" else "Learning curves over time")
        ax.set_xlabel(unit)
        ax.set_ylabel("return")
        legend_below(ax)


def _on_one_grid(paths: Sequence[tuple[list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate curves to the points in the range of all of them; return ``[points]`` and ``[curves, points]``."""
    points = np.unique([point for x, _ in paths for point in x])
    low, high = max(x[0] for x, _ in paths), min(x[-1] for x, _ in paths)
    grid = points[(points >= low) & (points <= high)]
    return grid, np.array([np.interp(grid, x, returns) for x, returns in paths])


def _time_unit(curves: Mapping[str, Sequence[Sequence[Evaluation]]], over: str) -> tuple[str, float]:
    """Return the axis label with a unit that suits the longest run, and that unit in seconds."""
    longest = max(getattr(rows[-1], over) for seeds in curves.values() for rows in seeds)
    what = "wall time of training" if over == "wall_seconds" else "CPU time of training"
    for name, seconds in (("h", 3600.0), ("min", 60.0)):
        if longest >= 3 * seconds:
            return f"{what} ({name})", seconds
    return f"{what} (s)", 1.0


def profiles(ax: Axes, scores: Mapping[str, Scores]) -> None:
    """Draw performance profiles, the share of episodes with a return above each value, with 95% intervals.

    Args:
        ax: the axes to draw into.
        scores: by label, the episodes' returns of each seed.
    """
    returns = [value for runs in scores.values() for run in runs for value in run]
    low, high = min(returns), max(returns)
    margin = 0.03 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, 201)
    with mpl.rc_context(STYLE):
        for color, (label, runs) in zip(colors(len(scores)), scores.items(), strict=True):
            ax.fill_between(thresholds, *profile_interval(runs, thresholds), color=color, alpha=0.15, linewidth=0)
            ax.plot(thresholds, performance_profile(runs, thresholds), color=color, label=plain(label))
        ax.set_ylim(-0.02, 1.05)
        ax.set_title("Performance profile")
        ax.set_xlabel("return τ")
        ax.set_ylabel("share of episodes above τ")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
        legend_below(ax)


def model_error(ax: Axes, rows: Sequence[HorizonError], threshold: float | None = None) -> None:
    """Draw a model's open-loop error over the horizon: the median, and a band from 10% to 90%.

    Args:
        ax: the axes to draw into.
        rows: one per step ahead.
        threshold: error up to which the model is trusted; if given, it is drawn, and the axis ends at 2 or below.
    """
    with mpl.rc_context(STYLE):
        _band_over_horizon(ax, rows, of="starts")
        ax.set_ylim(bottom=0)
        if threshold is not None:
            ax.axhline(threshold, color=COLORS[1], linewidth=1.2, linestyle="--", label="trusted below")
            ax.set_ylim(top=min(max(ax.get_ylim()[1], 1.4 * threshold), MAX_SHOWN_ERROR))
        ax.set_title("Model error over the horizon")
        ax.set_xlabel("steps ahead, open loop")
        ax.set_ylabel("error / spread of the states")
        legend_below(ax)


def reward_error(ax: Axes, rows: Sequence[HorizonError]) -> None:
    """Draw the error of a latent model's rewards over the horizon: the median, and a band from 10% to 90%."""
    with mpl.rc_context(STYLE):
        _band_over_horizon(ax, rows, of="starts")
        ax.set_ylim(bottom=0)
        ax.set_title("Reward error over the horizon")
        ax.set_xlabel("imagined steps ahead")
        ax.set_ylabel("error / spread of the rewards")
        legend_below(ax)


def divergence(ax: Axes, rows: Sequence[HorizonError]) -> None:
    """Draw how much real observations tell of imagined states: the median, and a band from 10% to 90%."""
    with mpl.rc_context(STYLE):
        _band_over_horizon(ax, rows, of="starts")
        ax.set_ylim(bottom=0)
        ax.set_title("What a dream does not know")
        ax.set_xlabel("imagined steps ahead")
        ax.set_ylabel("KL(posterior || imagined) (nats)")
        legend_below(ax)


def dream_lines(ax: Axes, real: np.ndarray, dreamed: np.ndarray, entries: Sequence[int], warm_up: int) -> None:
    """Draw entries of observations along a real episode and along the model's dream of it.

    Args:
        ax: the axes to draw into.
        real: ``[T + 1, D]``.
        dreamed: ``[T + 1, D]``.
        entries: the number of each of the ``D`` in the observation.
        warm_up: the first observations, which the model has seen.
    """
    with mpl.rc_context(STYLE):
        for column, (entry, color) in enumerate(zip(entries, colors(len(entries)), strict=True)):
            ax.plot(real[:, column], color=color, linewidth=1.2, label=f"entry {entry}, real")
            ax.plot(dreamed[:, column], color=color, linewidth=1.6, linestyle="--", label=f"entry {entry}, dream")
        ax.axvline(warm_up - 1, color="0.4", linewidth=1.0, linestyle=":")
        ax.set_title("A dream and reality")
        ax.set_xlabel("step")
        ax.set_ylabel("observation")
        legend_below(ax)


def dream_samples(ax: Axes, real: np.ndarray, samples: Mapping[float, np.ndarray], entry: int, warm_up: int) -> None:
    """Draw an entry of observations along a real episode and along dreams of it at several temperatures.

    Args:
        ax: the axes to draw into.
        real: ``[T + 1]``.
        samples: ``[T + 1]``, by temperature.
        entry: its number in the observation.
        warm_up: the first observations, which the model has seen.
    """
    with mpl.rc_context(STYLE):
        ax.plot(real, color="0.3", linewidth=1.6, label="real")
        for (temperature, values), color in zip(samples.items(), colors(len(samples)), strict=True):
            ax.plot(values, color=color, linewidth=1.2, linestyle="--", label=f"temperature {temperature:g}")
        ax.axvline(warm_up - 1, color="0.4", linewidth=1.0, linestyle=":")
        ax.set_title("Dreams at three temperatures")
        ax.set_xlabel("step")
        ax.set_ylabel(f"entry {entry} of the observation")
        legend_below(ax)


def dream_frames(ax: Axes, rows_of: Mapping[str, np.ndarray], steps: Sequence[int], warm_up: int) -> None:
    """Draw frames along a real episode above those of the model's dreams of it.

    Args:
        ax: the axes to draw into.
        rows_of: ``[N, H, W, 3]`` uint8, by what stands in front of a row, from top to bottom.
        steps: ``N`` steps at which the frames are.
        warm_up: the first observations, which the model has seen.
    """
    first = next(iter(rows_of.values()))
    gap = max(1, first.shape[2] // 12)
    rows = []
    for frames in rows_of.values():
        bordered = np.pad(frames, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255)
        rows.append(np.concatenate(bordered, axis=1))
    height, width = rows[0].shape[0], first.shape[2] + 2 * gap
    with mpl.rc_context(STYLE):
        ax.imshow(np.concatenate(rows), interpolation="nearest")
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        names = [f"{step}, seen" if step < warm_up else str(step) for step in steps]
        ax.set_xticks([width * (place + 0.5) for place in range(len(steps))], names, fontsize=8)
        ax.set_yticks([height * (row + 0.5) for row in range(len(rows))], list(rows_of))
        ax.tick_params(length=0)
        ax.set_xlabel("step")
        ax.set_title("A dream and reality")


def uncertainty(ax: Axes, rows: Sequence[HorizonError]) -> None:
    """Draw the ensemble's uncertainty along imagined rollouts: the median, and a band from 10% to 90%."""
    with mpl.rc_context(STYLE):
        _band_over_horizon(ax, rows, of="rollouts", log=True)
        ax.set_title("Uncertainty along imagined rollouts")
        ax.set_xlabel("imagined step")
        ax.set_ylabel("one-versus-rest divergence (nats)")
        legend_below(ax)


def _band_over_horizon(ax: Axes, rows: Sequence[HorizonError], of: str, *, log: bool = False) -> None:
    """Draw the median and a band from 10% to 90% over the steps ahead; ``log`` needs values that are all above 0."""
    if log and all(row.low > 0 for row in rows):
        ax.set_yscale("log")
    ahead, low, median, high = np.array([(row.steps_ahead, row.low, row.median, row.high) for row in rows]).T
    ax.fill_between(ahead, low, high, color=COLORS[0], alpha=0.2, linewidth=0, label=f"10% to 90% of {of}")
    ax.plot(ahead, median, color=COLORS[0], label="median")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))


def gradient_norms(ax: Axes, rows: Sequence[HorizonError]) -> None:
    """Draw the norm of the first action's gradient over the horizon: the median, and a band from 10% to 90%."""
    with mpl.rc_context(STYLE):
        _band_over_horizon(ax, rows, of="states", log=True)
        ax.set_title("Gradient of the first action")
        ax.set_xlabel("imagined steps before the critic's value")
        ax.set_ylabel("norm")
        legend_below(ax)


def horizon_weights(ax: Axes, weights: Sequence[float]) -> None:
    """Draw the weights of the horizons in STEVE's targets."""
    with mpl.rc_context(STYLE):
        horizons = np.arange(len(weights))
        bars = ax.bar(horizons, weights, color=COLORS[0], width=0.6)
        ax.bar_label(bars, [f"{weight:.2f}" for weight in weights], padding=2)
        ax.axhline(0, color="0.5", linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(y=0.15)
        ax.set_title("Weight of each horizon")
        ax.set_xlabel("imagined steps before the critics' value")
        ax.set_ylabel("mean weight")


def spread_calibration(ax: Axes, calibration: Calibration) -> None:
    """Draw the observed spread of one-step predictions over the predicted one, by bins."""
    predicted, observed = np.array(calibration.spread).T
    with mpl.rc_context(STYLE):
        both = np.concatenate([predicted, observed])
        both = both[np.isfinite(both) & (both > 0)]
        limits = (both.min() / 1.5, both.max() * 1.5)
        ax.plot(limits, limits, color="0.5", linewidth=1.2, linestyle="--", label="as predicted")
        ax.plot(predicted, observed, color=COLORS[0], marker="o", markersize=4, label="tenths of the predictions")
        ax.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
        finest = {10: (1, 2, 3, 5, 7), 30: (1, 2, 5), 1000: (1, 3), np.inf: (1,)}
        labelled = next(digits for span, digits in finest.items() if limits[1] / limits[0] < span)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=labelled, numticks=6))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_title("Spread of one-step predictions")
        ax.set_xlabel("predicted / spread of the changes")
        ax.set_ylabel("observed / spread of the changes")
        legend_below(ax)


def coverage(ax: Axes, calibration: Calibration) -> None:
    """Draw the share of real outcomes that lie in central intervals of the predicted distribution."""
    nominal, observed = np.array(calibration.coverage).T * 100
    with mpl.rc_context(STYLE):
        ax.plot([0, 100], [0, 100], color="0.5", linewidth=1.2, linestyle="--", label="as predicted")
        ax.plot(nominal, observed, color=COLORS[0], marker="o", markersize=4, label="observed")
        ax.set(xlim=(0, 100), ylim=(0, 102))
        ax.set_title("Coverage of one-step intervals")
        ax.set_xlabel("predicted interval (%)")
        ax.set_ylabel("real outcomes inside (%)")
        legend_below(ax)


def exploitation(ax: Axes, gap: ExploitationGap) -> None:
    """Draw the imagined over the real return of each start state."""
    with mpl.rc_context(STYLE):
        starts = np.array([gap.real, gap.imagined])
        real, imagined = starts[:, np.isfinite(starts).all(axis=0)]
        values = np.array([*gap.real, *imagined])
        margin = 0.05 * max(np.ptp(values), np.abs(values).max()) or 1.0  # so that a tiny gap does not fill the axes
        limits = (values.min() - margin, values.max() + margin)
        ax.plot(limits, limits, color="0.5", linewidth=1.2, linestyle="--", label="the same")
        ax.scatter(real, imagined, color=COLORS[0], s=22, alpha=0.7, linewidths=0, label="a start state")
        ax.set(xlim=limits, ylim=limits)
        ax.set_title("Imagined and real return")
        ax.set_xlabel(f"real return of {gap.steps} steps")
        ax.set_ylabel("imagined return")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=5))
        legend_below(ax)


def plan_candidates(ax: Axes, candidates: Candidates) -> None:
    """Draw where the candidates of a plan lead, coloured by their return, with the elites and the plan marked.

    If the candidates are not action sequences, their returns are drawn over their first actions.

    Args:
        ax: the axes to draw into; a colour bar is put next to them.
        candidates: at most 100 paths are drawn: all elites, and an even selection of the others by return.
    """
    with mpl.rc_context(STYLE):
        if candidates.are_paths:
            _candidate_paths(ax, candidates)
        else:
            _first_actions(ax, candidates)
        legend_below(ax)


def _candidate_paths(ax: Axes, candidates: Candidates) -> None:
    # The best are darkest, so that they stand out. With few colours, the colour bar of an SVG is small.
    palette = mpl.colormaps["viridis_r"].resampled(32)
    scale = Normalize(candidates.returns.min(), candidates.returns.max())
    ahead = np.arange(candidates.values.shape[1])
    shown = _shown(candidates)
    for is_elite in (False, True):
        rows = shown[candidates.chosen[shown] == is_elite]
        paths = [np.column_stack([ahead, candidates.values[row]]) for row in rows]
        width, alpha = (2.4, 0.9) if is_elite else (0.8, 0.6)
        lines = LineCollection(paths, cmap=palette, norm=scale, linewidths=width, alpha=alpha)
        lines.set_array(candidates.returns[rows])
        ax.add_collection(lines)
        ax.plot([], [], color="0.5", linewidth=width, label="elites" if is_elite else "candidates")
    ax.plot(ahead, candidates.plan, color=COLORS[1], linestyle="--", label="the plan")
    ax.autoscale_view()
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    ax.set_title("Candidates of a plan")
    ax.set_xlabel("steps ahead, in the model")
    ax.set_ylabel(f"observation[{candidates.column}]")
    bar = ax.figure.colorbar(ScalarMappable(scale, palette), ax=ax)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(nbins=5)
    bar.set_label("predicted return")


def _shown(candidates: Candidates) -> np.ndarray:
    """Return the rows of the elites, after an even selection of the others by return."""
    order = candidates.returns.argsort(kind="stable")
    elites, others = (order[candidates.chosen[order] == is_elite] for is_elite in (True, False))
    room = max(MAX_SHOWN_CANDIDATES - len(elites), 0)
    if len(others) > room:
        others = others[np.linspace(0, len(others) - 1, room).round().astype(int)]
    return np.concatenate([others, elites])


def _first_actions(ax: Axes, candidates: Candidates) -> None:
    for is_elite, color, label in ((False, "0.6", "candidates"), (True, COLORS[0], "elites")):
        rows = candidates.chosen == is_elite
        ax.scatter(candidates.values[rows, 0], candidates.returns[rows], color=color, s=14, linewidths=0, label=label)
    ax.axvline(candidates.plan[0], color=COLORS[1], linestyle="--", label="the plan")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    ax.set_title("Candidates of a plan")
    ax.set_xlabel(f"first action[{candidates.column}]")
    ax.set_ylabel("predicted return")


def save_training_figure(
    path: str | Path, title: str, curves: Mapping[str, Sequence[Evaluation]], error: Sequence[HorizonError]
) -> None:
    """Write the picture of one training: learning curves, and the model's error.

    Args:
        path: ends in ``.png`` or ``.svg``.
        title: above the plots.
        curves: rows by label.
        error: one row per step ahead; empty for an agent without a model.
    """
    figure, axes = new_figure(2 if error else 1, title)
    learning_curves(axes[0], {label: [rows] for label, rows in curves.items()})
    if error:
        model_error(axes[1], error)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the common style, the same bytes for the same figure."""
    metadata = {"Date": None} if Path(path).suffix == ".svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(path, metadata=metadata)


def svg_of(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element for a page; text stays text, and nothing refers to an outside address."""
    text = io.StringIO()
    no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context({**STYLE, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata=no_metadata, transparent=True)
    svg = text.getvalue()
    width, height = (72 * inches for inches in figure.get_size_inches())
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]  # HTML needs no XML declaration
    body = re.sub(r' id="\w+_\d+"', "", body)  # unused ids, which would repeat from figure to figure
    return f'<svg viewBox="0 0 {width:g} {height:g}" aria-hidden="true">{body}'


def legend_below(ax: Axes) -> None:
    """Put the legend under the axes, where it covers nothing."""
    lengths = sorted(map(len, ax.get_legend_handles_labels()[1]), reverse=True)
    columns = 1 if sum(lengths[:2]) > 30 else 2
    below = ax.transAxes + ScaledTranslation(0, -40 / 72, ax.figure.dpi_scale_trans)  # below ticks and label
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(-0.02, 0),
        bbox_transform=below,
        ncols=columns,
        borderaxespad=0.0,
        columnspacing=1.2,
    )


def curves_of(figure: Figure) -> dict[str, Any] | None:
    """Return the labelled lines of a drawn figure with one axes, for a script that shows values at the pointer.

    Returns:
        ``box``, the corners of the axes, and ``curves``: ``label``, ``color`` and ``points``, each ``[x, y, text of x,
        text of y]``, all in the units of :func:`svg_of`'s viewBox; None where there are no such lines.
    """
    figure.canvas.draw()  # lays the axes out
    ax, scale = figure.axes[0], 72 / figure.dpi
    height = 72 * figure.get_size_inches()[1]
    curves = []
    for line in ax.get_lines():
        label, data = str(line.get_label()), np.asarray(line.get_xydata(), float)
        is_curve = line.get_linestyle() == "-" and 2 <= len(data) <= MAX_HOVERED  # others are limits and diagonals
        if label.startswith("_") or not is_curve or not np.isfinite(data).all():
            continue
        places = ax.transData.transform(data) * scale
        points = [
            [round(x, 1), round(height - y, 1), f"{value:,.4g}", f"{result:,.4g}"]
            for (x, y), (value, result) in zip(places.tolist(), data.tolist(), strict=True)
        ]
        color = to_hex(line.get_color())
        curves.append({"label": label.replace(r"\$", "$"), "color": color, "points": points})
    (left, bottom), (right, top) = (ax.bbox.get_points() * scale).tolist()
    box = [round(value, 1) for value in (left, height - top, right, height - bottom)]
    return {"box": box, "curves": curves} if curves else None


def plain(label: str) -> str:
    """Keep a label from being read as a formula."""
    return label.replace("$", r"\$")


def colors(count: int) -> list[str]:
    """Return colours for so many lines."""
    return [COLORS[i % len(COLORS)] for i in range(count)]
