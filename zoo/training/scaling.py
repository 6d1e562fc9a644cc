"""A recipe fitted to fewer env steps than it was written for."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Container

from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import Recipe

# Random steps stay as the recipe has them up to this share of a run.
_MOST_RANDOM = 0.25
# Fewer than this many are too few to fit a first model on, where the run has the time.
_LEAST_RANDOM = 100


def shorten(recipe: Recipe, steps: int, fixed: Container[str] = ()) -> tuple[Recipe, list[str]]:
    """Fit what is counted in env steps to a run that is shorter than the recipe's.

    ``agent.learning_starts`` is shortened in proportion where it would take more than a quarter of the run, but not
    below 100 steps unless these are more than a quarter; a schedule of ``strategy.rollout_length`` always is.

    Args:
        recipe: which is not changed.
        steps: env steps of the run.
        fixed: names such as ``"agent.learning_starts"`` that the user has chosen.

    Returns:
        The recipe, and a sentence for each setting that was changed.
    """
    if steps >= recipe.steps:
        return recipe, []
    recipe, told = copy.deepcopy(recipe), []
    share, because = steps / recipe.steps, f"since {steps:,} steps are fewer than the recipe's {recipe.steps:,}"
    random = recipe.agent.get("learning_starts")
    if "agent.learning_starts" not in fixed and isinstance(random, int) and random > _MOST_RANDOM * steps:
        fewer = max(round(random * share), min(_LEAST_RANDOM, int(_MOST_RANDOM * steps)))
        recipe.agent["learning_starts"] = fewer
        told.append(f"agent.learning_starts is {fewer}, not {random}, {because}")
    schedule = recipe.strategy.get("rollout_length")
    if "strategy.rollout_length" not in fixed and isinstance(schedule, list) and len(schedule) == 4:
        first = round(schedule[0] * share)
        shorter = [first, max(first + 1, round(schedule[1] * share)), *schedule[2:]]
        recipe.strategy["rollout_length"] = shorter
        told.append(f"strategy.rollout_length is {shorter}, not {schedule}, {because}")
    return recipe, told


def continued(old: JobSpec, spec: JobSpec, fixed: Container[str] = ()) -> JobSpec:
    """Return a job that goes on with an old one, with what follows from the number of steps as it was begun.

    Args:
        old: job of a run that was begun.
        spec: the job that the user asks for now.
        fixed: names that the user has chosen now: ``"eval_freq"``, ``"save_freq"``, ``"agent.learning_starts"`` and
            ``"strategy.rollout_length"`` are as in the old job unless they are named.

    Returns:
        ``spec`` itself where it is another job, or the old one has more steps.
    """
    frequencies = {name: getattr(old, name) for name in ("eval_freq", "save_freq") if name not in fixed}
    recipe = copy.deepcopy(spec.recipe)
    for section, name in (("agent", "learning_starts"), ("strategy", "rollout_length")):
        own, before = getattr(recipe, section), getattr(old.recipe, section)
        if f"{section}.{name}" not in fixed and name in own and name in before:
            own[name] = before[name]
    likely = dataclasses.replace(spec, recipe=recipe, **frequencies)
    is_same = old.steps <= spec.steps and dataclasses.replace(likely, steps=old.steps) == old
    return likely if is_same else spec
