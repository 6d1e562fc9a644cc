"""The page: figures, tables and sentences about runs, put into one HTML file."""

from __future__ import annotations

import base64
import datetime
import hashlib
import importlib.resources
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

import mbrl_wrappers
from mbrl_wrappers.envs.rendering import frames_of
from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.zoo.analysis.dreams import Dream
from mbrl_wrappers.zoo.analysis.findings import Diagnosis
from mbrl_wrappers.zoo.analysis.plan_candidates import PLANNED_STEPS, Candidates
from mbrl_wrappers.zoo.analysis.statistics import bootstrap_interval, interquartile_mean
from mbrl_wrappers.zoo.environment import render_without_display
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.report import board_games, plots, reproduction
from mbrl_wrappers.zoo.report.model import look_into
from mbrl_wrappers.zoo.report.runs import EnvSection, Group, Run, find_runs, group_by_env, median_run
from mbrl_wrappers.zoo.report.sentences import (
    calibration_sentence,
    exploitation_sentence,
    number,
    one_line,
    reward_sentence,
    seconds,
    termination_sentence,
    trust_sentence,
)
from mbrl_wrappers.zoo.report.verdicts import comparison_sentences, model_verdict
from mbrl_wrappers.zoo.storage.folder import MISFITS
from mbrl_wrappers.zoo.training.command import command_of

FIGURE_INCHES = (4.0, 3.5)
WIDE_FIGURE_INCHES = (8.2, 3.5)
_OF_SAMPLES = (
    "Without a temperature the model's likeliest step is taken; the others are drawn, the more freely the higher it is."
)
_SEEDS_NOTE = (
    "Thin lines: seeds. Bands: 95% bootstrap intervals of the mean over seeds; with few seeds they are too narrow."
)


@dataclass(frozen=True)
class Figure:
    """A picture of the page.

    Attributes:
        svg: the drawing.
        alt: alternative text, for readers who can't see the picture.
        caption: an explanation of how to read it.
        curves: JSON of the values that the page's script shows at the pointer; None for none.
        wide: whether it takes a page's width.
    """

    svg: Markup
    alt: str
    caption: str
    curves: str | None = None
    wide: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, its sort key and, for a folder, a link."""

    text: str
    value: float | str
    href: str | None = None


NOTHING = Cell("\N{EN DASH}", "")


def build_report(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    title: str | None = None,
    env: str | None = None,
    videos: bool = True,
) -> Path:
    """Write a report of training runs as one HTML file, which needs nothing but a browser.

    Each environment has a section with learning curves, a table, performance profiles, and the diagnosis of one model:
    that of the agent with the best returns, at its median seed. If its folder holds no ``diagnosis.json``, the model is
    measured now. The page bears the date of now, or that of ``SOURCE_DATE_EPOCH`` in the environment.

    Args:
        folders: agents' folders, training runs, or folders that contain these.
        output: the HTML file to write.
        title: of the page; default: one that names what was trained.
        env: the name of the env of all runs, for envs of your own: a name that stands in a file is not imported.
        videos: whether to record videos of real and imagined rollouts side by side.

    Returns:
        ``output``.

    Raises:
        ZooError: if there is no run to show.
        ValueError: if there is no ``env`` of this name.
    """
    render_without_display()
    runs, left_out = find_runs([Path(folder) for folder in folders])
    if not runs:
        raise ZooError(f"folders must hold at least one run that can be read: {left_out[0].path}: {left_out[0].reason}")
    date = _date()
    grouped, page_file = group_by_env(runs), Path(output)
    sections = [_section(section, page_file, env, videos) for section in grouped]
    style, *scripts = (_template_file(name) for name in ("style.css", "sort.js", "figures.js"))
    script = "\n".join(f"{{\n{part}}}" for part in scripts)
    page = _templates().get_template("report.html.j2")
    html = page.render(
        title=title or _title(grouped),
        date=date,
        num_runs=len(runs),
        sections=sections,
        left_out=left_out,
        version=mbrl_wrappers.__version__,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_atomically(output, html.encode())
    return Path(output)


def _date() -> str:
    """Return the time of now, or of ``SOURCE_DATE_EPOCH``, by which the same runs make the same page at any time."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        seconds_since_1970 = time.time() if given is None else int(given)
        moment = datetime.datetime.fromtimestamp(seconds_since_1970, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise ZooError(f"SOURCE_DATE_EPOCH must be the seconds since 1970 as a whole number, got {given!r}") from error
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _templates() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(_template_file)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _template_file(name: str) -> str:
    return (importlib.resources.files("mbrl_wrappers.zoo.report") / "templates" / name).read_text(encoding="utf-8")


def _title(sections: Sequence[EnvSection]) -> str:
    """Return a title that names what was trained."""
    if len(sections) > 1:
        return f"Training on {', '.join(section.name for section in sections[:3])}{' and more' * (len(sections) > 3)}"
    labels = [group.label for group in sections[0].groups]
    shown = " and ".join(labels) if len(labels) < 3 else f"{len(labels)} agents"
    return f"{shown} on {sections[0].name}"


def _section(section: EnvSection, page: Path, env: str | None, videos: bool) -> dict[str, Any]:
    """Return the template's values for one environment."""
    started = [group for group in section.groups if group.counted]
    return {
        "name": section.name,
        "figures": _return_figures(started),
        "table": [_row(group) for group in section.groups],
        "runs": [_run_row(group, run, page) for group in section.groups for run in group.runs],
        "comparisons": comparison_sentences(section.groups),
        "made": _how_it_was_made(section, page),
        "num_unfinished": sum(run.folder is None for group in section.groups for run in group.runs),
        "model": _model(section, env, videos),
        "game": _game(section),
    }


def _how_it_was_made(section: EnvSection, page: Path) -> dict[str, Any]:
    """Return command, recipe, versions and files of a section's first run."""
    run = next((run for group in section.groups for run in group.runs if run.folder is not None), None)
    run = run or section.groups[0].runs[0]
    evaluation = None if run.folder is None else run.folder.evaluation
    versions = {} if evaluation is None else evaluation.versions
    command = command_of(run.spec)
    return {
        "label": f"{run.spec.label()}, seed {run.spec.seed}",
        "command": command or command_of(run.spec, reproduction.RECIPE),
        "recipe_file": None if command else reproduction.RECIPE,
        "recipe": reproduction.recipe_text(run.spec),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "links": reproduction.links_to(run, page),
    }


def _return_figures(groups: Sequence[Group]) -> list[Figure]:
    figures = []
    if groups:
        curves = {group.label: [run.rows for run in group.counted] for group in groups}
        going_on = {group.label: [run.rows for run in group.others if run.rows] for group in groups}
        many = any(len(seeds) > 1 for seeds in curves.values())
        note = f" {_SEEDS_NOTE}" if many else ""
        note += " Dotted: not finished." if any(going_on.values()) else ""
        names = ", ".join(curves)
        caption = f"Mean return of the evaluation episodes.{note}"
        figures = [
            _figure(
                lambda ax: plots.learning_curves(ax, curves, unfinished=going_on),
                f"Learning curves over env steps of {names}",
                caption,
            ),
            _figure(
                lambda ax: plots.learning_curves(ax, curves, "wall_seconds", going_on),
                f"Learning curves over wall time of {names}",
                "The same over the time that training took, evaluations left out.",
            ),
        ]
    scores = {group.label: group.scores for group in groups if group.scores}
    if scores:
        figures.append(
            _figure(
                lambda ax: plots.profiles(ax, scores),
                f"Performance profiles of {', '.join(scores)}",
                "Of the finished agents' last evaluation: further right and up is better. "
                "Bands: 95% bootstrap intervals.",
            )
        )
    return figures


def _row(group: Group) -> list[Cell]:
    """Return a group's row of the table of results."""
    last = [run.last_return for run in group.counted]
    seeds = Cell(f"{len(last)} (+{len(group.others)})" if group.others else str(len(last)), len(last))
    if not last:
        return [Cell(group.label, group.label), seeds, *[NOTHING] * 4]
    spread = f" ± {number(float(np.std(last, ddof=1)))}" if len(last) > 1 else ""
    steps = float(np.mean([run.rows[-1].steps for run in group.counted]))
    wall = float(np.mean([run.rows[-1].wall_seconds for run in group.counted]))
    return [
        Cell(group.label, group.label),
        seeds,
        Cell(f"{number(float(np.mean(last)))}{spread}", float(np.mean(last))),
        _iqm(group),
        Cell(f"{steps:,.0f}", steps),
        Cell(seconds(wall), wall),
    ]


def _iqm(group: Group) -> Cell:
    if not group.scores:
        return NOTHING
    center = interquartile_mean(np.concatenate(group.scores))
    low, high = bootstrap_interval(group.scores)
    return Cell(f"{number(center)} [{number(low)}, {number(high)}]", center)


def _run_row(group: Group, run: Run, page: Path) -> list[Cell]:
    """Return a run's row of the table of runs."""
    state = "unfinished" if run.folder is None else "finished"
    folder = Cell(str(run.path), str(run.path), reproduction.link_from(page, run.path))
    row = [Cell(group.label, group.label), Cell(str(run.spec.seed), run.spec.seed), Cell(state, state)]
    if not run.rows:
        return [*row, Cell(f"0 of {run.spec.steps:,}", 0), *[NOTHING] * 4, folder]
    last = run.rows[-1]
    return [
        *row,
        Cell(f"{last.steps:,} of {run.spec.steps:,}", last.steps),
        Cell(f"{last.updates:,}", last.updates),
        Cell(f"{number(last.return_mean)} ± {number(last.return_std)}", last.return_mean),
        Cell(seconds(last.wall_seconds), last.wall_seconds),
        Cell(seconds(last.cpu_seconds), last.cpu_seconds),
        folder,
    ]


def _game(section: EnvSection) -> dict[str, Any] | None:
    """Return the template's values for the best agent that plays a board game; None if there is none."""
    groups = {group.label: [run for run in group.counted if run.folder is not None] for group in section.groups}
    best = max(
        (item for item in groups.items() if item[1]),
        key=lambda item: np.mean([run.last_return for run in item[1]]).item(),
        default=None,
    )
    if best is None:
        return None
    label, runs = best
    run = median_run(runs)
    assert run.folder is not None
    found = board_games.look_at_game(run.folder)
    if found is None:
        return None
    return {
        "label": label,
        "seed": run.spec.seed,
        "num_seeds": len(runs),
        "missing": found.missing,
        "figures": _game_figures(found),
    }


def _game_figures(found: board_games.GameFindings) -> list[Figure]:
    rows, figures = found.ladder, []
    if rows:
        figures.append(
            _figure(
                lambda ax: board_games.draw_ladder(ax, rows),
                f"Score against {', '.join(rows[-1].results)} over CPU time",
                f"Share of points in matches of {max(map(sum, rows[-1].results.values()))} games, half of which the "
                "agent began. A draw is half a point.",
            )
        )
    if any(row.kept is not None for row in rows):
        figures.append(
            _figure(
                lambda ax: board_games.draw_agreement(ax, rows),
                "Share of moves that keep what a position is worth, over CPU time",
                "In positions after random moves: the share of the agent's moves after which the position is worth as "
                "much to a perfect player as before.",
            )
        )
    game, position, search = found.game, found.position, found.search
    if game is not None and position is not None and search is not None:
        figures += [
            _figure(
                lambda ax: board_games.draw_board(ax, game, position),
                "A position in a game of the agent against itself",
                f"A game of the agent against itself, where {'the first' if position.player[0] == 0 else 'the second'} "
                "player is to move.",
            ),
            _figure(
                lambda ax: board_games.draw_tree(ax, game, search),
                "The most visited part of a search tree",
                f"The agent's search from there, {int(search.visits[0].sum())} simulations: moves, and their values "
                "for the player to move in the picture (1 won, -1 lost): blue is good for that player, red is bad. "
                "Large nodes were visited often.",
            ),
        ]
    return figures


def _model(section: EnvSection, env: str | None, videos: bool) -> dict[str, Any] | None:
    """Return the template's values for the model of a section; None if no agent has a model."""
    candidates = {group.label: [run for run in group.counted if run.has_model] for group in section.groups}
    candidates = {label: runs for label, runs in candidates.items() if runs}
    if not candidates:
        return None
    label, runs = max(candidates.items(), key=lambda item: np.mean([run.last_return for run in item[1]]).item())
    run = median_run(runs)
    assert run.folder is not None  # since it has a model
    findings = look_into(run.folder, video=videos, env=env)
    view: dict[str, Any] = {
        "label": label,
        "seed": run.spec.seed,
        "num_seeds": len(runs),
        "missing": findings.missing,
        "video": None if findings.video is None else base64.b64encode(findings.video).decode(),
        "diagnosis": findings.diagnosis,
        "plan": [] if findings.candidates is None else [_plan_figure(findings.candidates)],
        "dream": [] if findings.dream is None else _dream_figures(findings.dream, findings.obs_codec),
    }
    if findings.diagnosis is not None:
        try:
            view.update(
                verdict=model_verdict(findings.diagnosis),
                trust=trust_sentence(findings.diagnosis),
                reward=reward_sentence(findings.diagnosis.reward),
                termination=termination_sentence(findings.diagnosis.termination, findings.diagnosis.steps),
                figures=_model_figures(findings.diagnosis),
            )
        except MISFITS as error:  # a diagnosis of unknown origin may hold numbers that can't be drawn
            view.update(diagnosis=None, missing=[*findings.missing, f"The model is not shown: {one_line(error)}"])
    return view


def _model_figures(d: Diagnosis) -> list[Figure]:
    figures = [
        _figure(
            lambda ax: plots.model_error(ax, d.error, d.threshold),
            "Open-loop error of the model against the steps ahead",
            "The model is fed its own predictions and the real actions. 1 is the error of always answering with the "
            f"mean state. Cut off at {plots.MAX_SHOWN_ERROR:g}.",
        )
    ]
    figures += _latent_figures(d)
    calibration = d.calibration
    if calibration is not None:
        figures += [
            _figure(
                lambda ax: plots.spread_calibration(ax, calibration),
                "Observed against predicted spread of one-step predictions",
                "Above the diagonal the model is too sure of itself, below it is too careful.",
            ),
            _figure(
                lambda ax: plots.coverage(ax, calibration),
                "Share of real outcomes inside predicted intervals",
                calibration_sentence(calibration),
            ),
        ]
    figures.append(
        _figure(
            lambda ax: plots.exploitation(ax, d.exploitation),
            "Imagined against real return from the same start states",
            exploitation_sentence(d.exploitation),
        )
    )
    uncertainty, weights = d.uncertainty, d.horizon_weights
    if uncertainty is not None:
        figures.append(
            _figure(
                lambda ax: plots.uncertainty(ax, uncertainty),
                "Uncertainty of the ensemble against the steps of imagined rollouts",
                "How far the member that takes a step is from the others, along rollouts of the exploring policy from "
                "real states.",
            )
        )
    if weights is not None:
        figures.append(
            _figure(
                lambda ax: plots.horizon_weights(ax, weights),
                "Mean weight of each horizon in the targets of STEVE",
                f"{weights[0]:.0%} of a target is the critics' value at once, the rest looks into the model first.",
            )
        )
    norms = d.gradient_norms
    if norms is not None:
        figures.append(
            _figure(
                lambda ax: plots.gradient_norms(ax, norms),
                "Norm of the gradient of a first action's value against the imagined steps",
                "What the actor would climb if it looked so many steps ahead. With exact model and critic the line is "
                "level but for noise. Where it rises the gradient explodes in the model, where it falls it is lost.",
            )
        )
    return figures


def _latent_figures(d: Diagnosis) -> list[Figure]:
    """Return the figures of a model with a memory alone."""
    figures, rewards, nats = [], d.reward_error, d.divergence
    if rewards is not None:
        figures.append(
            _figure(
                lambda ax: plots.reward_error(ax, rewards),
                "Error of imagined rewards against the steps ahead",
                "Absolute, with the real actions, and without a real observation in between.",
            )
        )
    if nats is not None:
        figures.append(
            _figure(
                lambda ax: plots.divergence(ax, nats),
                "Divergence of observed from imagined states against the steps ahead",
                "The divergence of the state that has seen the real observation from the one that was imagined: what "
                "the dream does not know of reality.",
            )
        )
    return figures


def _dream_figures(dream: Dream, codec: FlatSpace | None) -> list[Figure]:
    assert codec is not None  # comes with the dream
    last = len(dream.real) - 1
    beginning = (
        f"Up to step {dream.warm_up - 1} the model sees the episode, and shows what it makes of it; from there on it "
        "is told the actions alone."
    )
    if codec.images:
        steps = sorted({0, dream.warm_up - 1, *(round(last * share) for share in np.linspace(0.2, 1, 6))})
        rows = {"real": dream.real, "dream": dream.dreamed}
        rows |= {f"temperature {temperature:g}": sample for temperature, sample in dream.samples.items()}
        frames = {name: frames_of(codec, part[steps]) for name, part in rows.items()}
        draw: Callable[[Axes], None] = lambda ax: plots.dream_frames(ax, frames, steps, dream.warm_up)  # noqa: E731
        more = f" {_OF_SAMPLES}" if dream.samples else ""
        alt = "Frames of a real episode above those of the model's dream of it"
        return [_figure(draw, alt, beginning + more, wide=True)]
    spread = dream.real.float().std(0)
    chosen = spread.argsort(descending=True)[: plots.MAX_DREAM_LINES].sort().values
    entries, dreams = (part[:, chosen].float().cpu().numpy() for part in (dream.real, dream.dreamed))
    note = "" if len(chosen) == len(spread) else f" Shown are the {len(chosen)} entries that vary most."
    figures = [
        _figure(
            lambda ax: plots.dream_lines(ax, entries, dreams, chosen.tolist(), dream.warm_up),
            "Entries of the observation along a real episode and along the model's dream of it",
            beginning + note,
            wide=True,
        )
    ]
    if dream.samples:
        entry = int(spread.argmax())
        real, *sampled = (part[:, entry].float().cpu().numpy() for part in (dream.real, *dream.samples.values()))
        by_temperature = dict(zip(dream.samples, sampled, strict=True))
        figures.append(
            _figure(
                lambda ax: plots.dream_samples(ax, real, by_temperature, entry, dream.warm_up),
                "The entry of the observation that varies most, along a real episode and along dreams at temperatures",
                _OF_SAMPLES,
                wide=True,
            )
        )
    return figures


def _plan_figure(candidates: Candidates) -> Figure:
    if candidates.are_paths:
        alt = "Paths of a plan's candidates in the model over the steps ahead, coloured by predicted return"
        caption = (
            f"The {len(candidates.returns)} sequences of {len(candidates.plan) - 1} actions that the search compared "
            f"last, {PLANNED_STEPS} steps into an episode, as the model's mean has them (at most "
            f"{plots.MAX_SHOWN_CANDIDATES} are drawn). Shown is the entry of the observation in which they differ most."
        )
    else:
        alt = "Predicted returns of a plan's candidates against their first actions"
        caption = (
            f"The {len(candidates.returns)} candidates that the search compared last, {PLANNED_STEPS} steps into an "
            "episode. They are perturbations of a policy, which acts on what it meets: only their first actions are "
            "known."
        )
    return _figure(lambda ax: plots.plan_candidates(ax, candidates), alt, caption)


def _figure(draw: Callable[[Axes], None], alt: str, caption: str, *, wide: bool = False) -> Figure:
    figure, (ax,) = plots.new_figure(1, "")
    figure.set_size_inches(*(WIDE_FIGURE_INCHES if wide else FIGURE_INCHES))
    draw(ax)
    svg, curves = plots.svg_of(figure), plots.curves_of(figure)
    return Figure(Markup(svg), alt, caption, None if curves is None else json.dumps(curves), wide)
