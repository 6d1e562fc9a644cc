"""Commands that are printed: pasted into a terminal they make the same job."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbrl_wrappers.zoo.training.building import base_of
from mbrl_wrappers.zoo.training.command import command_of
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import load_recipe, parse_params, recipe_yaml, write_literal
from testing.commands import parser_of_commands

OTHER_NUMBERS = {"steps": 7001, "eval_freq": 90, "eval_episodes": 3, "save_freq": 0, "device": "auto"}
JOBS: list[tuple[str, str, dict[str, Any]]] = [
    ("mbpo", "CartPole-v1", {}),
    ("mbpo", "CartPole-v1", {"algo": "QRDQN", **OTHER_NUMBERS}),
    ("mbpo", "Hopper-v5", {}),  # has a schedule
    ("mbpo", "Hopper-v5", {"steps": 6000}),  # which is not fitted to the steps here, as the command would do
    ("mbpo", "Hopper-v5", {"steps": 6000, "tell": lambda sentence: None}),
    ("mbpo", "Pendulum-v1", {"algo": "TD3", "env_kwargs": {"g": 9.5}, "seed": 3}),
    ("mbpo", "InvertedPendulum-v5", {"env_kwargs": {"width": 300, "camera_name": "1e-3", "frame_skip": 3}}),
    ("dhmbpo", "Pendulum-v1", {"params": {"dynamics.hidden": [16], "agent.ent_coef": "auto_0.1"}, "steps": 900}),
    ("i2a", "mbrl_wrappers.envs:mbrl_wrappers/MiniPacman-v0", {"params": {"dynamics.kind": "CopyDynamics"}}),
    ("pets", "Pendulum-v1", {"eval_episodes": 20}),  # planners have 5
    ("alphazero", "mbrl_wrappers.envs:mbrl_wrappers/TicTacToe-v0", {"env_kwargs": {"first": False}}),
]


@pytest.fixture
def job_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], JobSpec]:
    monkeypatch.chdir(tmp_path)  # where there are no runs
    return parser_of_commands(monkeypatch)


@pytest.mark.parametrize(("agent", "env", "more"), JOBS)
def test_a_command_makes_the_same_job(agent: str, env: str, more: dict[str, Any], job_of: Any) -> None:
    spec = make_job(agent, env, **more)
    assert job_of(command_of(spec) or "").to_json() == spec.to_json()


def test_what_a_command_has_anyway_is_left_out() -> None:
    assert command_of(make_job("mbpo", "Pendulum-v1", steps=7001)) == (
        "mbrl-zoo train mbpo --env Pendulum-v1 -n 7001 --seed 0"
    )


@pytest.mark.parametrize(
    ("agent", "more"), [("maac", {"eval_episodes": 2}), ("mbpo", {"params": {"agent.gamma": 0.5}})]
)
def test_a_control_is_trained_by_the_command_of_its_agent(agent: str, more: dict[str, Any], job_of: Any) -> None:
    spec = base_of(make_job(agent, "Pendulum-v1", **more))
    assert base_of(job_of(command_of(spec) or "")).to_json() == spec.to_json()


def test_a_recipe_that_lacks_a_setting_is_a_file(tmp_path: Path, job_of: Any) -> None:
    """No change to the library's recipe takes a setting away."""
    spec = make_job("mbpo", "Pendulum-v1", eval_episodes=2)
    recipe = dataclasses.replace(spec.recipe, agent={"gamma": 0.9})
    spec = dataclasses.replace(spec, recipe=recipe)
    assert command_of(spec) is None
    file = tmp_path / "my recipe.yml"
    file.write_text(recipe_yaml(spec.recipe, spec.steps))
    command = command_of(spec, file) or ""
    assert job_of(command) == dataclasses.replace(spec, recipe=dataclasses.replace(recipe, steps=spec.steps))
    assert "--params" not in shlex.split(command)


@pytest.mark.parametrize(
    "changes",
    [{"agent": "$m_{b}$<b>"}, {"recipe": None}, {"env_kwargs": [1]}, {"steps": "many"}, {"agent": None}],
    ids=str,
)
def test_a_job_from_elsewhere_has_no_command(changes: dict[str, Any]) -> None:
    assert command_of(dataclasses.replace(make_job("mbpo", "Pendulum-v1"), **changes)) is None


@pytest.mark.parametrize(
    "value",
    [
        "1e-3", "true", "null", "", "yes", "~", "0o17", " a", "a: b", "a #b", "#", "-", "[x", "'", '"', "two\nlines",
        "ä\U0001f600", "a=b", "$HOME", 1, 1.0, 1e-5, 1e22, -0.0, True, None, math.inf, -math.inf, [64, "64", [1.5]],
        {"net_arch": {"pi": [8], "qf": []}, "1": None}, [], {},
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_is_read_as_it_was_written(value: Any, tmp_path: Path) -> None:
    """By the command line, and by recipes."""
    (word,) = shlex.split(shlex.join([f"x={write_literal(value)}"]))
    assert repr(parse_params([word])) == repr({"x": value})
    recipe = dataclasses.replace(load_recipe("pets", ""), dynamics={"x": value})
    (tmp_path / "recipe.yml").write_text(recipe_yaml(recipe, recipe.steps), encoding="utf-8")
    assert repr(load_recipe("pets", "", file=tmp_path / "recipe.yml")) == repr(recipe)
