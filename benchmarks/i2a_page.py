"""The page of `i2a.py`: tables and curves, from the committed rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from experiments import spread, versions
from i2a_tasks import (
    COLUMNS,
    FITTED,
    FOLDER,
    KINDS,
    MODELS,
    NUM_LEVELS,
    PLANNED,
    PLANNED_STEPS,
    SIMULATIONS,
    TASKS,
    TESTED,
    Runs,
    Task,
    runs_of,
)

from mbrl_wrappers.zoo.report.plots import learning_curves, new_figure, save_figure
from mbrl_wrappers.zoo.training.progress import Evaluation


def document() -> str:
    """Return the page, from the committed rows."""
    lines = [
        "# I2A and A2C on grids",
        "",
        "I2A by the recipe of `i2a`, 64 games of Sokoban or 16 of MiniPacman at a time, with the model that it learns,",
        "and where a row says so with the rules of the game, copies of the frame, or a poor model, of 2 channels and",
        "100 gradient steps. A2C of SB3 has the same settings and as many parameters, those of the model not counted.",
        "Frames are all env steps of a run, those included that its model is fitted to. In Sokoban, agents learn",
        f"on {NUM_LEVELS:,} levels, less the tenth that is for tests; none of these is one of the others with the",
        f"player elsewhere, turned or mirrored. Solved is the share of {TESTED} levels for tests, by one game of",
        "sampled actions each. In MiniPacman, return and steps are means of the last 100 episodes of learning.",
        "Core-seconds are those of learning, fits included; ± is over seeds (n - 1).",
        "",
        "The agent's settings were chosen by single runs on levels of 5x5 and 7x7 with one box and on seed 100 of",
        "MiniPacman's mode `avoid`, the model's by its accuracy on other levels. The paper's blocks pool and inject:",
        "each pixel is told the maximum of each channel over the frame. In Sokoban a step only changes cells next to",
        "the player, and the recipe's model does not pool (`pooling: false`). Few random episodes end with a solved",
        "level, so a tenth of each batch comes from rows with a rare reward (`rare_share: 0.1`).",
        "",
        f"{versions()}.",
        "",
    ]
    for name, task in TASKS.items():
        runs = {column: runs_of(name, column) for column in COLUMNS}
        if any(runs.values()):
            lines += [f"## {task.title}", "", *summary(task, runs), "", f"![Learning curves](i2a/{name}.svg)", ""]
            columns = " ".join(column for column, own in runs.items() if own)
            lines += [*foreseen(name), *planned(name)]
            lines += [f"Runs: `python benchmarks/i2a.py run {name} --columns {columns}`.", ""]
    return "\n".join(lines)


def summary(task: Task, runs: Mapping[str, Runs]) -> list[str]:
    """Compare the columns at equal frames, at equal time, and by what half of the levels takes."""
    seconds = [rows[-1]["cpu_seconds"] for rows in runs["i2a"].values()]
    budget = float(np.mean(seconds)) if seconds else np.inf
    timed = f"after {budget:,.0f} core-s" if seconds else "at the end"
    target = ["frames to 50%", "core-s to 50%"] if task.measure == "solved" else []
    header = ["agent", "seeds", "core-s per million frames", f"after {task.frames:,} frames", timed, *target]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for column, of_column in runs.items():
        if not of_column:
            continue
        every = list(of_column.values())
        speed = spread([1e6 * rows[-1]["cpu_seconds"] / rows[-1]["frames"] for rows in every])
        at_frames = [last_within(rows, "frames", task.frames * 1.01) for rows in every]
        at_time = [last_within(rows, "cpu_seconds", budget * 1.01) for rows in every]
        spent = float(np.mean([rows[-1]["cpu_seconds"] for rows in every]))
        shorter = f" (ended after {spent:,.0f})" if seconds and spent < 0.9 * budget else ""
        cells = [COLUMNS[column], ", ".join(map(str, of_column)), speed, shown(task, at_frames)]
        cells.append(shown(task, at_time) + shorter)
        if target:
            reached = [next((row for row in rows if row["solved"] >= 0.5), None) for rows in every]
            for key in ("frames", "cpu_seconds"):
                cells.append(", ".join("-" if row is None else f"{row[key]:,.0f}" for row in reached))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def planned(name: str) -> list[str]:
    """Return a sentence with the share of levels that tree search solves in the models, if that was measured."""
    found = {column: list(runs_of(f"plans_{name}", column).values()) for column in MODELS}
    cells = [f"{COLUMNS[c]} {spread([100 * rows[0]['solved'] for rows in own])}%" for c, own in found.items() if own]
    if not cells:
        return []
    searched = f"Tree search in the models alone ({SIMULATIONS} simulations a move with random play, {PLANNED} unseen"
    of = f"`python benchmarks/i2a.py plan {name} --columns {' '.join(column for column, own in found.items() if own)}`"
    return [f"{searched} levels, {PLANNED_STEPS} steps) solves: {', '.join(cells)}. Plans: {of}.", ""]


def foreseen(name: str) -> list[str]:
    """Return a table of what models foresee, if that was measured."""
    seeds = runs_of("model", name)
    if not seeds:
        return []
    keys = ["frames", "pixels", "rewards", "rare_rewards", "ends"]
    lines = [
        f"Shares that a model of {FITTED:,} random steps foresees in {TASKS[name].foreseen:,} random steps of other",
        "levels or games, each by its likeliest prediction: means over seeds, and each seed for rare rewards, which",
        "are all but the commonest, and ends.",
        "",
        "| model | steps ahead | " + " | ".join(key.replace("_", " ") for key in keys) + " |",
        "|" + "---|" * (2 + len(keys)),
    ]
    for rows in zip(*seeds.values(), strict=True):  # one row of each seed
        kind = list(KINDS)[int(rows[0]["model"])]
        cells = [spread([100 * row[key] for row in rows], 2) + "%" for key in keys[:3]]
        cells += [", ".join(f"{row[key]:.0%}" for row in rows) for key in keys[3:]]
        lines.append(f"| {kind} | {rows[0]['steps']:.0f} | " + " | ".join(cells) + " |")
    return [*lines, "", f"Fits: `python benchmarks/i2a.py model {name} --seeds {' '.join(map(str, seeds))}`.", ""]


def last_within(rows: list[dict[str, float]], key: str, limit: float) -> dict[str, float]:
    """Return the last row up to a limit; the first one if there is none."""
    return [row for row in rows if row[key] <= limit or row is rows[0]][-1]


def shown(task: Task, rows: list[dict[str, float]]) -> str:
    """Return what is measured, over the rows of all seeds."""
    if task.measure == "solved":
        return spread([100 * row["solved"] for row in rows], 1) + "%"
    return f"{spread([row['return'] for row in rows], 1)}, {spread([row['episode_steps'] for row in rows], 0)} steps"


def draw() -> None:
    """Draw the curves of each task over frames, as many as I2A gets, and over core-seconds."""
    for name, task in TASKS.items():
        runs = {column: own for column in COLUMNS if (own := runs_of(name, column))}
        if not runs:
            continue
        figure, axes = new_figure(2, task.title)
        for ax, most in zip(axes, (1.01 * task.frames, np.inf), strict=True):
            curves = {COLUMNS[c]: [curve(task, rows, most) for rows in own.values()] for c, own in runs.items()}
            learning_curves(ax, curves, "steps" if ax is axes[0] else "cpu_seconds")
            ax.set_ylabel("levels solved (%)" if task.measure == "solved" else "return")
        axes[0].set_xlabel("frames")
        save_figure(figure, FOLDER / f"{name}.svg")


def curve(task: Task, rows: list[dict[str, float]], most: float) -> list[Evaluation]:
    """Return the rows of up to ``most`` frames as a report draws them."""
    scale = 100 if task.measure == "solved" else 1
    return [
        Evaluation(int(row["frames"]), scale * row[task.measure], 0.0, 0, math.nan, row["cpu_seconds"])
        for row in rows
        if row["frames"] <= most
    ]
