"""Numbers in words."""

from __future__ import annotations

import math

import numpy as np

from mbrl_wrappers.zoo.analysis.findings import Calibration, Diagnosis, ExploitationGap, RewardError, TerminationErrors

MINUS = "\N{MINUS SIGN}"


def number(value: float) -> str:
    """Return a number with four significant digits, three below 1; from 1000 on, without decimals."""
    if not math.isfinite(value):
        return "not finite"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{3 if abs(value) < 1 else 4}g}"
    return text.replace("-", MINUS)


def seconds(value: float) -> str:
    """Return a time as hours and minutes, minutes and seconds, or seconds."""
    whole = round(value)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{value:.3g} s"


def trust_sentence(d: Diagnosis) -> str:
    """Say in a first sentence how far the model may be rolled out, and then why."""
    share = f"{d.threshold:g} of the states' spread"
    if d.trusted_steps == 0:
        return f"Do not trust the model for even one step. The median of its error is above {share} after the first."
    unit = "step" if d.trusted_steps == 1 else "steps"
    if d.is_trusted_throughout:
        return (
            f"Trust the model for {d.trusted_steps} {unit} or more. The median of its open-loop error stays below "
            f"{share} as far as was measured."
        )
    return (
        f"Trust the model for {d.trusted_steps} {unit}. Up to there the median of its open-loop error stays below "
        f"{share}."
    )


def calibration_sentence(calibration: Calibration) -> str:
    """Say whether the widest intervals have the right coverage."""
    nominal, observed = calibration.coverage[-1]
    verdict = "about right"
    if abs(observed - nominal) > 0.05:
        verdict = "too narrow" if observed < nominal else "wider than they need be"
    return f"Intervals that are said to hold {nominal:.0%} of the real outcomes hold {observed:.0%}: {verdict}."


def one_line(error: Exception) -> str:
    """Return an error's message as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


def exploitation_sentence(gap: ExploitationGap) -> str:
    """Return a sentence about the policy's gain in imagination."""
    if not math.isfinite(gap.mean):
        return "The model runs off to returns that are not finite."
    low, high = np.quantile(gap.gaps, [0.1, 0.9])
    more = "more" if gap.mean >= 0 else "less"
    return (
        f"Exploitation gap: {number(gap.mean)}. Over {gap.steps} steps from the same {len(gap.real)} starts the policy "
        f"returns {number(np.mean(gap.real).item())} in reality, and {number(abs(gap.mean))} {more} in imagination "
        f"(80% of the starts: {number(low)} to {number(high)})."
    )


def reward_sentence(reward: RewardError) -> str:
    """Say how wrong predicted rewards are."""
    source = "given; with predicted states it errs by" if reward.given else "learned; it errs by"
    return (
        f"{source} {number(reward.rmse)} of the rewards' spread, {number(reward.rmse * reward.unit)} "
        "(root mean square, one step ahead)"
    )


def termination_sentence(termination: TerminationErrors, steps: int) -> str:
    """Say how wrong predicted ends of episodes are."""
    source = "given" if termination.given else "learned"
    ends = termination.hits + termination.misses
    if not ends and not termination.false_alarms:
        return f"{source}; of {steps:,} steps none ended an episode, and none was said to"
    return (
        f"{source}; {termination.hits:,} of {ends:,} ends foreseen one step ahead, "
        f"{termination.false_alarms:,} false alarms in {steps - ends:,} other steps"
    )
