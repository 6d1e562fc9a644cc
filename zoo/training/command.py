"""The command that trains a job, whole: pasted into a terminal it makes the same job."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mbrl_wrappers.zoo.training.building import base_of
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import merged_recipe, usual_numbers
from mbrl_wrappers.zoo.training.recipe import DEFAULT_DYNAMICS, OPTIONS, SECTIONS, Recipe, load_recipe, write_literal


def command_of(spec: JobSpec, recipe: str | Path | None = None) -> str | None:
    """Return the command that makes a job, with all options that are not what it has anyway.

    The job of a control stands for that of the agent that it belongs to, which the command trains too. The number of
    steps that a recipe is written for may differ from the job's: no run depends on it.

    Args:
        spec: the job.
        recipe: a file with the job's recipe, :func:`~mbrl_wrappers.zoo.training.recipe.recipe_yaml` of it and its
            steps; default: the library's recipes, with changes to them behind ``--params``.

    Returns:
        None for an agent that this version does not know, a job that the library's recipes can't be changed to, and
        values that are no literals.
    """
    try:
        words = _words(spec, recipe)
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError):  # a job may come from anywhere
        return None
    return None if words is None else shlex.join(words)


def _assignments(option: str, values: dict[str, Any]) -> list[str]:
    """Return an option with ``name=value`` after it, nothing where there are no values."""
    return [option, *(f"{name}={write_literal(value)}" for name, value in values.items())] if values else []


def _words(spec: JobSpec, recipe: str | Path | None) -> list[str] | None:
    words = ["mbrl-zoo", "train", spec.agent, "--env", spec.env, "-n", str(spec.steps), "--seed", str(spec.seed)]
    words += _assignments("--env-kwargs", spec.env_kwargs)
    for name in () if recipe is not None else ("num_envs", "deterministic"):
        own = getattr(spec.recipe, name)
        if getattr(load_recipe(spec.agent, spec.env), name) != own:
            words += [OPTIONS[name], str(own).lower()]
    if recipe is not None:
        words += ["--recipe", str(recipe)]
        changes: dict[str, Any] | None = {}
    else:
        algo, kinds = _algo(spec)
        words += [] if algo is None else ["--algo", algo]
        changes = _changes(spec, algo, kinds)
    if changes is None:
        return None
    words += _assignments("--params", changes)
    for name, usual in usual_numbers(spec.agent, spec.recipe.algo, spec.steps).items():
        if getattr(spec, name) != usual:
            words += [f"--{name.replace('_', '-')}", str(getattr(spec, name))]
    return words + (["--device", spec.device] if spec.device != "cpu" else [])


def _algo(spec: JobSpec) -> tuple[str | None, list[bool]]:
    """Return the algorithm where it has to be named, and whether actions may be discrete, which no job says."""
    usual = {kind: load_recipe(spec.agent, spec.env, discrete_actions=kind).algo for kind in (False, True)}
    kinds = [kind for kind, algo in usual.items() if algo == spec.recipe.algo]
    return (None, kinds) if kinds else (spec.recipe.algo, list(usual))


def _changes(spec: JobSpec, algo: str | None, kinds: list[bool]) -> dict[str, Any] | None:
    """Return the changes that make the library's recipe the job's, None if there are none that do."""
    dynamics = spec.recipe.dynamics.get("kind", DEFAULT_DYNAMICS)
    changes: dict[str, Any] = {}
    for kind in kinds:
        is_own = _changed(spec, algo, kind, {}).dynamics.get("kind", DEFAULT_DYNAMICS) == dynamics
        change = {} if is_own else {"dynamics.kind": dynamics}
        changes.update({**change, **dict(_differences(_changed(spec, algo, kind, change), spec.recipe))})
    return changes if all(_is_same(_changed(spec, algo, kind, changes), spec) for kind in kinds) else None


def _changed(spec: JobSpec, algo: str | None, discrete: bool, changes: dict[str, Any]) -> Recipe:
    """Return the recipe that the command would make of the library's."""
    which: dict[str, Any] = {"algo": algo, "discrete_actions": discrete}
    which |= {name: getattr(spec.recipe, name) for name in ("num_envs", "deterministic")}
    return merged_recipe(spec.agent, spec.env, changes, spec.steps, **which)[0]


def _differences(usual: Recipe, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    for section in SECTIONS:
        before, now = getattr(usual, section), getattr(recipe, section)
        for name, value in now.items():
            if name not in before or _text(before[name]) != _text(value):
                yield f"{section}.{name}", value


def _is_same(recipe: Recipe, spec: JobSpec) -> bool:
    made = dataclasses.replace(spec, recipe=dataclasses.replace(recipe, steps=spec.recipe.steps), model=True)
    return (made if spec.model else base_of(made)).to_json() == spec.to_json()


def _text(value: Any) -> str:
    """Return a value as text that tells 1, 1.0 and true apart."""
    return json.dumps(value, sort_keys=True)
