"""Recipes: what lies under what, and which mistakes are caught."""

from __future__ import annotations

import copy
import dataclasses
import importlib.resources
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml

from mbrl_wrappers.zoo import load_recipe
from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.training.building import build_agent, training_env
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import available_agents, override, parse_params, read_literals, recipe_from
from testing.agents import WITH_MODELS

ENTRIES = {
    "default": {
        "algo": "SAC",
        "steps": 1000,
        "agent": {"learning_starts": 100, "gradient_steps": 20, "tau": 0.01},
        "strategy": {"rollouts_per_step": 400},
        "model_based": {"fit_every": 250},
    },
    "discrete_algo": "DQN",
    "algorithms": {"DQN": {"gradient_steps": 10, "exploration_fraction": 0.2}},
    "Small-v0": {"steps": 50, "agent": {"gradient_steps": 2, "target_entropy": -1.0}, "dynamics": {"hidden": [8]}},
    "Discrete-v0": {"algo": "DQN", "agent": {"exploration_fraction": 0.5}},
}


def test_an_entry_has_the_defaults_underneath():
    recipe = recipe_from(ENTRIES, "Small-v0")
    assert (recipe.algo, recipe.steps) == ("SAC", 50)
    assert recipe.agent == {"learning_starts": 100, "gradient_steps": 2, "tau": 0.01, "target_entropy": -1.0}
    assert recipe.strategy == {"rollouts_per_step": 400}
    assert recipe.model_based == {"fit_every": 250}
    assert recipe.dynamics == {"hidden": [8]}


def test_an_env_without_entry_has_the_defaults():
    recipe = recipe_from(ENTRIES, "Unknown-v0")
    assert (recipe.algo, recipe.steps, recipe.agent) == ("SAC", 1000, ENTRIES["default"]["agent"])


def test_discrete_actions_get_an_algorithm_that_takes_them():
    recipe = recipe_from(ENTRIES, "Unknown-v0", discrete_actions=True)
    assert recipe.algo == "DQN"
    assert recipe.agent == {"learning_starts": 100, "gradient_steps": 10, "exploration_fraction": 0.2}


def test_an_entry_that_names_its_algorithm_is_the_same_for_all_who_ask():
    recipe = recipe_from(ENTRIES, "Discrete-v0")
    assert recipe == recipe_from(ENTRIES, "Discrete-v0", discrete_actions=True)
    assert recipe.agent == {"learning_starts": 100, "gradient_steps": 10, "exploration_fraction": 0.5}


def test_another_algorithm_keeps_what_means_the_same_to_it():
    recipe = recipe_from(ENTRIES, "Small-v0", algo="TD3")
    assert (recipe.algo, recipe.agent) == ("TD3", {"learning_starts": 100, "gradient_steps": 2})


def test_the_env_to_train_in_is_normalised_as_the_recipe_says():
    params = {"normalize.norm_obs": False, "agent.gamma": 0.9}
    spec = make_job("mve", "Pendulum-v1", params=params)
    agent, _ = build_agent(spec, training_env(spec.recipe, make_env("Pendulum-v1")))
    normalizer = agent.get_vec_normalize_env()
    assert (normalizer.norm_obs, normalizer.norm_reward, normalizer.gamma) == (False, True, 0.9)
    spec = make_job("mve", "Pendulum-v1", params={**params, "normalize.gamma": 0.5})
    base, _ = build_agent(dataclasses.replace(spec, model=False), training_env(spec.recipe, make_env("Pendulum-v1")))
    assert base.get_vec_normalize_env().gamma == 0.5


def test_a_job_that_normalises_nothing_is_written_as_before_it_could_say_so():
    spec = make_job("mbpo", "Pendulum-v1")
    assert "normalize" not in spec.to_json() and JobSpec.from_json(spec.to_json()) == spec
    says = make_job("mbpo", "Pendulum-v1", params={"normalize.norm_obs": False})
    assert JobSpec.from_json(says.to_json()) == says and says.digest() != spec.digest()


def test_merging_changes_no_entry():
    before = copy.deepcopy(ENTRIES)
    override(recipe_from(ENTRIES, "Small-v0"), {"agent.tau": 0.5, "dynamics.hidden": [4]})
    assert before == ENTRIES


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"step": 50}, "recipe key of Bad-v0 must be one of .*, got 'step'; did you mean 'steps'?"),
        ({"dynamic": {}}, "got 'dynamic'; did you mean 'dynamics'?"),
        ({"steps": 0}, "steps of Bad-v0 must be a whole number of at least 1, got 0"),
        ({"steps": "many"}, "steps of Bad-v0 must be a whole number of at least 1, got 'many'"),
        ({"agent": ["tau"]}, r"agent of Bad-v0 must be a mapping of arguments, got \['tau'\]"),
    ],
)
def test_a_wrong_entry_is_named(own, message):
    with pytest.raises(ValueError, match=message):
        recipe_from({**ENTRIES, "Bad-v0": own}, "Bad-v0")


@pytest.mark.parametrize("agent", ["mpbo", "../recipes/mbpo", ""])
def test_an_unknown_agent_is_named(agent):
    with pytest.raises(ValueError, match=rf"agent must be one of \['alphazero', 'dhmbpo', .*\], got '{agent}'"):
        load_recipe(agent, "Pendulum-v1")


def test_params_are_literals_by_section():
    params = parse_params(["agent.policy_kwargs={net_arch: [4]}", "strategy.real_ratio=0.1", "dynamics.max_steps=5"])
    recipe = override(recipe_from(ENTRIES, "Small-v0"), params)
    assert recipe.agent["policy_kwargs"] == {"net_arch": [4]} and recipe.agent["tau"] == 0.01
    assert recipe.strategy == {"rollouts_per_step": 400, "real_ratio": 0.1}
    assert recipe.dynamics == {"hidden": [8], "max_steps": 5}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 1e-3),
        ("3E+4", 3e4),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("0.0003", 0.0003),
        (".inf", float("inf")),
        ("143", 143),
        ("-7", -7),
        ("0", 0),
        ("10_000", 10_000),
        ("0x10", 16),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("yes", "yes"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("auto_0.1", "auto_0.1"),
        ("lin_1e-3", "lin_1e-3"),
        ("'143'", "143"),
        ("{net_arch: [64, 64], lr: 1e-3}", {"net_arch": [64, 64], "lr": 1e-3}),
    ],
)
def test_a_value_is_what_it_looks_like(written, value):
    read = parse_params([f"agent.x={written}"])["agent.x"]
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("written", ["00143", "-010", "08", "01_000", "[64, 064]"])
def test_a_whole_number_is_never_octal(written):
    with pytest.raises(ValueError, match=r"got 'agent\.x=.*': a whole number must not begin with 0, got '-?0\w+'"):
        parse_params([f"agent.x={written}"])


def test_params_run_nothing():
    with pytest.raises(ValueError, match="must have YAML literals as values"):
        parse_params(["agent.tau=!!python/object/apply:os.system [exit]"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("strategy.real_ratio", "params must be like 'strategy.real_ratio=0.1', got 'strategy.real_ratio'"),
        ("real_ratio=1", "params must have names like 'strategy.real_ratio', got 'real_ratio'"),
        ("strategi.real_ratio=1", "got 'strategi'; did you mean 'strategy'?"),
        ("steps.=1", "params must have names like"),
    ],
)
def test_wrong_params_are_named(assignment, message):
    with pytest.raises(ValueError, match=message):
        override(recipe_from(ENTRIES, "Small-v0"), parse_params([assignment]))


def _shipped() -> list[tuple[str, str]]:
    folder = importlib.resources.files("mbrl_wrappers.zoo") / "recipes"
    return [
        (agent, name)
        for agent in available_agents()
        for name in read_literals((folder / f"{agent}.yml").read_text(encoding="utf-8"))
        if name not in ("default", "discrete_algo", "algorithms")
    ]


def _spec(agent: str, env: str, **changes):
    wishes: dict[str, Any] = {
        "steps": None,
        "seed": 0,
        "algo": None,
        "params": {},
        "eval_episodes": 1,
        "save_freq": None,
    }
    return make_job(agent, env, **{**wishes, "device": "cpu", **changes})


@pytest.mark.parametrize(("agent", "env_id"), _shipped())
def test_every_shipped_recipe_can_be_built(agent, env_id, monkeypatch):
    for part, package in {"/control-": "shimmy", "TakeCover": "vizdoom", "CarRacing": "Box2D"}.items():
        if part in env_id:
            pytest.importorskip(package)
    if "-pixels-" in env_id:  # black frames, drawn without OpenGL
        black = np.zeros((64, 64, 3), np.uint8)
        monkeypatch.setattr("dm_control.mujoco.engine.Physics.render", lambda *_, **__: black)
    spec = _spec(agent, env_id)
    discrete = isinstance(gym.make(env_id).action_space, gym.spaces.Discrete)
    assert spec.recipe == load_recipe(agent, env_id)
    if spec.recipe.algo not in {*WITH_MODELS, "AlphaZero", "ExIt"}:  # that take all actions there are recipes for
        assert discrete == (spec.recipe.algo in ("DQN", "QRDQN"))


@pytest.mark.parametrize("algo", ["TD3", "DDPG", "TQC", "CrossQ"])
def test_every_algorithm_can_be_chosen_for_continuous_actions(algo):
    assert _spec("mbpo", "Pendulum-v1", algo=algo).recipe.algo == algo


@pytest.mark.parametrize(("algo", "built"), [(None, "DQN"), ("QRDQN", "QRDQN")])
def test_every_algorithm_can_be_chosen_for_discrete_actions(algo, built):
    assert _spec("mbpo", "MountainCar-v0", algo=algo).recipe.algo == built


@pytest.mark.parametrize("kind", ["CopyDynamics", "SokobanDynamics"])
def test_another_kind_of_model_is_one_argument_away(kind):
    """The recipe's settings of the model are those of its own kind."""
    spec = make_job("i2a", "mbrl_wrappers/Sokoban-v0", params={"dynamics.kind": kind})
    assert spec.recipe.dynamics == {"kind": kind}
    kept = make_job("i2a", "mbrl_wrappers/Sokoban-v0", params={"dynamics.kind": "FrameDynamics"})
    assert kept.recipe == load_recipe("i2a", "mbrl_wrappers/Sokoban-v0")
    ensemble = load_recipe("mbpo", "Pendulum-v1")
    assert override(ensemble, {"dynamics.kind": "EnsembleDynamics"}).dynamics.items() >= ensemble.dynamics.items()


@pytest.mark.parametrize(("kind", "expected"), [("normal", "NormalActionNoise"), ("ornstein-uhlenbeck", "OrnsteinUhl")])
def test_a_recipe_can_name_action_noise(kind, expected):
    params = {"agent.noise_type": kind, "agent.noise_std": 0.3}
    spec = make_job("mbpo", "Pendulum-v1", algo="TD3", params=params)
    with make_env("Pendulum-v1") as env:
        noise = build_agent(spec, env)[0].action_noise
    assert type(noise).__name__.startswith(expected)
    assert noise._sigma == pytest.approx([0.3]) and noise._mu == pytest.approx([0.0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"agent.noise_type": "loud", "agent.noise_std": 0.1}, "agent.noise_type must be one of .*got 'loud'"),
        ({"agent.noise_type": "normal", "agent.noise_std": -1}, "agent.noise_std must be a positive number, got -1"),
        ({"agent.noise_type": "normal"}, "agent.noise_std must be a positive number, got None"),
    ],
)
def test_action_noise_that_is_none_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        make_job("mbpo", "Pendulum-v1", algo="TD3", params=params)


def test_a_recipe_file_of_ones_own_stands_in(tmp_path):
    file = tmp_path / "mine.yml"
    file.write_text("default: {algo: TD3, steps: 70, agent: {learning_starts: 9}}\n")
    spec = make_job("mbpo", "Pendulum-v1", recipe=file)
    assert (spec.recipe.algo, spec.steps, spec.recipe.agent) == ("TD3", 70, {"learning_starts": 9})
    for text, message in (
        ("[]", "must have an entry 'default'"),
        ("default: {algo: TD3}", "default must name steps"),
        ("default: {algo: TD3, steps: 9, agnt: {}}", "did you mean 'agent'"),
        ("default: !!python/object/apply:os.system [ls]", "must be a file of YAML literals"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            make_job("mbpo", "Pendulum-v1", recipe=file)
    with pytest.raises(ValueError, match=r"recipe must be a file of YAML literals, got .*gone\.yml"):
        make_job("mbpo", "Pendulum-v1", recipe=tmp_path / "gone.yml")


WRONG = [3, "x", [], [[1]], {1: 2}, None, True, 2.5]


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("default", (dict,)),
        ("discrete_algo", (str,)),
        ("algorithms", (dict,)),
        ("algorithms.DQN", (dict,)),
        ("Pendulum-v1", (dict,)),
        ("Pendulum-v1.algo", (str,)),
        ("Pendulum-v1.steps", (int,)),
        ("Pendulum-v1.agent", (dict,)),
        ("Pendulum-v1.strategy", (dict,)),
        ("Pendulum-v1.agent.learning_starts", (int,)),
        ("Pendulum-v1.agent.gradient_steps", (int,)),
        ("Pendulum-v1.agent.train_freq", (int,)),
        ("Pendulum-v1.agent.gamma", (float, int)),
        ("Pendulum-v1.strategy.real_ratio", (float,)),
        ("Pendulum-v1.normalize.norm_obs", (bool,)),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_key(path, right, tmp_path):
    *sections, key = path.split(".")
    for value in WRONG:
        if type(value) in right and value != {1: 2}:
            continue
        entries = {
            "default": {"algo": "SAC", "steps": 50, "agent": {"learning_starts": 9}, "dynamics": {"hidden": [8]}},
            "algorithms": {"DQN": {}},
            "Pendulum-v1": {"agent": {}, "strategy": {}, "normalize": {}},
        }
        place: Any = entries
        for section in sections:
            place = place[section]
        place[key] = value
        file = tmp_path / "mine.yml"
        file.write_text(yaml.safe_dump(entries))
        with pytest.raises(ValueError, match=rf"mine\.yml.*{key}"):
            make_job("mbpo", "Pendulum-v1", recipe=file)


CONNECT_FOUR = "mbrl_wrappers/ConnectFour-v0"


@pytest.mark.parametrize(
    ("agent", "env", "choice", "nulls"),
    [
        ("alphazero", CONNECT_FOUR, {"agent.search": "gumbel"}, ()),
        (
            "alphazero",
            CONNECT_FOUR,
            {"agent.search": "puct"},
            ("agent.search_kwargs", "agent.deterministic_search_kwargs"),
        ),
        (
            "alphazero",
            CONNECT_FOUR,
            {"agent.search": "puct", "agent.search_kwargs": {"c_init": 2.0}},
            ("agent.deterministic_search_kwargs",),
        ),
        ("alphazero", CONNECT_FOUR, {"agent.policy": "CnnPolicy"}, ("agent.policy_kwargs",)),
        ("alphazero", "mbrl_wrappers/TicTacToe-v0", {"agent.search": "puct"}, ()),
        ("pets", "Pendulum-v1", {"agent.planner": "CEM"}, ("agent.planner_kwargs",)),
    ],
)
def test_an_error_names_what_a_recipe_has_for_another_choice(agent, env, choice, nulls):
    """The message names all settings to set to null and no others, and with these at null the choice is possible."""
    if nulls:
        with pytest.raises(ValueError) as error:
            make_job(agent, env, params=choice)
        named = re.search(
            r"; add (.+) to params, since the recipe has values there for another choice$", str(error.value)
        )
        assert named is not None, error.value
        assert named[1].split() == [f"{name}=null" for name in nulls]
        choice = {**choice, **parse_params(named[1].split())}
    recipe = make_job(agent, env, params=choice).recipe
    assert recipe == override(load_recipe(agent, env), choice)


def test_what_no_recipe_is_to_blame_for_has_no_advice():
    for params in ({"agent.learning_rate": "fast"}, {"agent.search": "puct", "agent.num_games": 0}):
        with pytest.raises(ValueError) as error:
            make_job("alphazero", CONNECT_FOUR, params=params)
        assert "null" not in str(error.value)
