"""An examination in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mbrl_wrappers.zoo.doctor.examination import Examination
from mbrl_wrappers.zoo.doctor.findings import Finding
from mbrl_wrappers.zoo.doctor.trial import Column, Trial
from mbrl_wrappers.zoo.report.sentences import seconds

WIDTH = 100
_MOST_COLUMNS = 12
_INDENT = 16


def text_of(result: Examination) -> str:
    """Return an examination as text for a terminal."""
    return "\n".join(_lines(result))


def _lines(result: Examination) -> Iterator[str]:
    yield result.env
    for topic, fact in result.facts.items():
        yield from _entry(topic, fact)
    if result.trial is not None:
        yield from _of_trial(result.trial)
    for title, findings in (
        ("Faults", result.faults),
        ("Worth knowing", [finding for finding in result.findings if not finding.is_fault]),
    ):
        if findings:
            yield ""
            yield f"{title} ({len(findings)})"
            for finding in findings:
                yield from _of_finding(finding)
    yield ""
    yield from _of_advice(result)


def _entry(topic: str, says: str) -> list[str]:
    lines = textwrap.wrap(says, WIDTH - _INDENT - 2) or [""]
    return [f"  {topic:<{_INDENT - 2}}{lines[0]}", *(" " * _INDENT + line for line in lines[1:])]


def _of_finding(finding: Finding) -> list[str]:
    return _entry(finding.topic, finding.says)


def _of_trial(trial: Trial) -> Iterator[str]:
    yield ""
    yield (
        f"A small model, fitted on {trial.rows:,} random steps in {seconds(trial.fit_seconds)}, on {trial.test_rows:,} "
        "others"
    )
    heading = [f"{step} {'step' if step == 1 else 'steps'}" for step in trial.ahead]
    if trial.columns:
        width = max(12, *(len(column.name) + 3 for column in trial.columns))
        yield f"  {'error after':<{width}}" + "".join(f"{name:>10}" for name in heading) + f"{'spread':>10}"
        for column in _shown(trial.columns):
            cells = "".join(f"{error:>10.3g}" for error in column.errors)
            note = "" if column.is_foreseen else "  can't be predicted"
            yield f"  {'obs' + column.name:<{width}}{cells}{column.spread:>10.3g}{note}"
    left_out = len(trial.columns) - len(_shown(trial.columns))
    if left_out or trial.num_constant:
        better = [f"{left_out} more are predicted better"] * bool(left_out)
        never = [f"{trial.num_constant} never changed"] * bool(trial.num_constant)
        yield f"  {'; '.join(better + never)}"
    of_reward = "given" if trial.reward.given else "learned"
    error = f"error {trial.reward.rmse * trial.reward.unit:.3g} of a spread of {trial.reward.unit:.3g}"
    share = (
        f"{of_reward}; R² {trial.reward_r2:.2f}, {error}" if trial.reward_varies else f"{of_reward}; it did not vary"
    )
    yield from _entry("reward", share)
    ends = trial.ends
    number = ends.hits + ends.misses
    found = f"{ends.hits} of {number} found" if number else "there were none"
    yield from _entry("ends", f"{'given' if ends.given else 'learned'}; {found}, {ends.false_alarms} false alarms")
    more = " or more" if trial.trusted == trial.horizon else ""
    yield from _entry(
        "rollouts", f"{trial.trusted} steps{more}: so long the median error stays below a quarter of the states' spread"
    )


def _shown(columns: list[Column]) -> list[Column]:
    """Return the columns to show, in their order: all if they are few, else the worst predicted ones."""
    if len(columns) <= _MOST_COLUMNS:
        return columns
    worst = sorted(columns, key=lambda column: -column.errors[0] / column.spread)[:_MOST_COLUMNS]
    return [column for column in columns if column in worst]


def _of_advice(result: Examination) -> Iterator[str]:
    advice = result.advice
    if advice is None:
        yield "Mend the faults first, and run this command again." if result.faults else "No agent here fits this env."
        return
    yield f"Train {advice.agent}: {advice.why}."
    recipe = advice.spec.recipe
    if advice.agent == "alphazero":  # whose learning_starts are no random steps
        parts = [f"{recipe.algo}, {advice.spec.steps:,} moves against itself"]
    else:
        parts = [f"{recipe.algo}, {advice.spec.steps:,} env steps"]
        parts += [
            f"{value} {words}"
            for name, words in (("learning_starts", "of them random"), ("gradient_steps", "updates a step"))
            if (value := recipe.agent.get(name)) is not None
        ]
    if "rollout_length" in recipe.strategy:
        parts.append(f"rollouts of {recipe.strategy['rollout_length']} steps")
    yield from _entry("recipe", ", ".join(parts))
    if advice.cost is not None:
        yield from _entry(
            "time",
            f"about {seconds(advice.cost.seconds)} on one CPU core, without its control; "
            f"{seconds(advice.cost.in_env)} of that in the env, evaluations included",
        )
    if advice.command is not None:
        yield "  command"
        yield advice.command  # as it stands, to be copied
