"""Conclusions of a report in plain words: which agent was better, at what cost, how far to trust its model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mbrl_wrappers.zoo.analysis.findings import Diagnosis
from mbrl_wrappers.zoo.report.runs import Group
from mbrl_wrappers.zoo.report.sentences import MINUS, number, seconds

# Shares of what varies, up to which a part of a model counts as good.
GOOD_REWARD_R2 = 0.8
GOOD_ENDS = 0.5
# Of the real return's size (at least of the size of one reward's spread).
SMALL_GAP = 0.1


def model_verdict(d: Diagnosis) -> str:
    """Weigh states, reward, ends and the gap between imagined and real returns, in one or two sentences."""
    good: list[str] = []
    bad: list[str] = []
    steps = f"{d.trusted_steps} {'step' if d.trusted_steps == 1 else 'steps'}"
    if d.trusted_steps:
        good.append(f"states hold for {steps}{' or more' if d.is_trusted_throughout else ''}")
    else:
        bad.append("states do not hold for even one step")
    r2 = 1 - d.reward.rmse**2
    is_right = r2 >= GOOD_REWARD_R2
    share = f"(R² {r2:.2f})".replace("-", MINUS) if math.isfinite(r2) else "at all"
    (good if is_right else bad).append(f"reward is {'right' if is_right else 'not right'} {share}")
    ends = d.termination.hits + d.termination.misses
    if ends:
        is_good = d.termination.hits >= GOOD_ENDS * ends
        (good if is_good else bad).append(f"it foresees {d.termination.hits} of {ends} ends")
    first = _joined(good, bad)
    return f"{first} {_gap_sentence(d)}"


def _joined(good: Sequence[str], bad: Sequence[str]) -> str:
    """Return one sentence about the model, with its strengths before its weaknesses."""
    clauses = [_listed([part if part[:3] == "it " else f"its {part}" for part in parts]) for parts in (good, bad)]
    text = ", but ".join(clause for clause in clauses if clause).replace("its states", "the model's states", 1)
    return f"{text[0].upper()}{text[1:]}."


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _gap_sentence(d: Diagnosis) -> str:
    gap = d.exploitation
    if not math.isfinite(gap.mean):
        return "Imagined returns run off to infinity: the model is not to be used for long rollouts."
    real = float(np.mean(gap.real))
    if abs(gap.mean) <= SMALL_GAP * max(abs(real), d.reward.unit):
        return f"Imagined returns are about right: {number(real + gap.mean)}, and {number(real)} in reality."
    way = "high, which the policy may exploit" if gap.mean > 0 else "low"
    return (
        f"Imagined returns are {number(abs(gap.mean))} too {way}: {number(real + gap.mean)}, {number(real)} in reality."
    )


def comparison_sentences(groups: Sequence[Group]) -> list[str]:
    """Say which of the finished agents was better, by how much and at what cost; the best one against each other."""
    done = [group for group in groups if group.scores and group.counted]
    if len(done) < 2:
        return []
    best = max(done, key=_mean)
    return [_comparison(best, other) for other in sorted(done, key=_mean, reverse=True) if other is not best]


def _comparison(best: Group, other: Group) -> str:
    ahead = _mean(best) - _mean(other)
    ours, theirs = _returns(best), _returns(other)
    if not ahead:
        return f"{best.label} and {other.label} return the same: {number(_mean(best))}.{_cost(best, other)}"
    if min(len(ours), len(theirs)) < 2:
        sure = "With one seed of each that says little"
        sure = sure if len(ours) == len(theirs) == 1 else "With one seed of one of them that says little"
    elif min(ours) > max(theirs):
        sure = f"Each of its {len(ours)} seeds was better than all {len(theirs)} of the other"
    else:
        sure = "Their seeds overlap, so that it may be chance"
    return (
        f"{best.label} was better than {other.label} by {number(ahead)}: its last return is {number(_mean(best))}, the "
        f"other's {number(_mean(other))}. {sure}.{_cost(best, other)}"
    )


def _cost(best: Group, other: Group) -> str:
    ours, theirs = (float(np.mean([run.rows[-1].cpu_seconds for run in group.counted])) for group in (best, other))
    if not (ours > 0 and theirs > 0):
        return ""
    steps = [round(float(np.mean([run.rows[-1].steps for run in group.counted]))) for group in (best, other)]
    more = "after as many env steps" if steps[0] == steps[1] else f"after {steps[0]:,} env steps against {steps[1]:,}"
    ratio = ours / theirs if ours >= theirs else theirs / ours
    times = f"{ratio:.1f} times {'the' if ours >= theirs else 'less'} CPU time"
    times = "about as much CPU time" if ratio < 1.1 else times
    return f" It took {times} ({seconds(ours)}, {seconds(theirs)}), {more}."


def _returns(group: Group) -> list[float]:
    return [run.last_return for run in group.counted]


def _mean(group: Group) -> float:
    return float(np.mean(_returns(group)))
