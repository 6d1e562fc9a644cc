"""Every example runs as it stands, with smaller numbers; test_docs.py has the snippets of README and docs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from mbrl_wrappers import EnsembleDynamics, zoo

CHECKOUT = Path(__file__).parents[1]

# File: what is written in it, and what is run in its place.
SMALLER: dict[str, dict[str, str]] = {
    "examples/fit_a_model.py": {
        "hidden=(64, 64)": "hidden=(16, 16), max_steps=50",
        "collect_transitions(env, dynamics, 2_000": "collect_transitions(env, dynamics, 300",
    },
    "examples/improve_a_policy.py": {
        "hidden=(64, 64), max_steps=500": "hidden=(16, 16), max_steps=20",
        "learning_starts=200": "learning_starts=50",
        "agent.learn(600,": "agent.learn(110,",
        "rollouts_per_step=100": "rollouts_per_step=2",
        "fit_every=200": "fit_every=50",
        "horizon=15, population=50": "horizon=3, population=20",
        "n_eval_episodes=5": "n_eval_episodes=1",
    },
    "examples/i2a_imagination.py": {
        "SokobanGames(64": "SokobanGames(4",
        "max_steps=600": "max_steps=10",
        "first_fit=20_000, fit_rows=20_000": "first_fit=80, fit_rows=80",
        "agent.learn(40_000)": "agent.learn(120)",
        "dpi=80": "dpi=30",
    },
    "examples/learn_connect_four.py": {
        "num_games=256,": "num_games=8, num_simulations=4,",
        "batch_size=1024,": "batch_size=64,",
        "gradient_steps=2": "gradient_steps=1",
        "agent.learn(1_000_000)": "agent.learn(400)",
        "num_simulations=200": "num_simulations=4",
        "num_games=100": "num_games=4",
    },
    "examples/search_a_simulator.py": {
        "hidden=(64, 64)": "hidden=(16,), max_steps=20",
        "2_000, seed": "200, seed",
        "TreeSearch(16": "TreeSearch(2",
        "steps < 200": "steps < 5",
    },
    "examples/mbpo_on_your_env.py": {
        "learning_starts=200, gradient_steps=5": "learning_starts=50, gradient_steps=1",
        "(64, 64), max_steps=500": "(16, 16), max_steps=20",
        "agent.learn(1_000,": "agent.learn(120,",
        "rollouts_per_step=100": "rollouts_per_step=2",
        "fit_every=200": "fit_every=50",
        "n_eval_episodes=20": "n_eval_episodes=2",
    },
    "examples/plan_candidates.py": {
        "hidden=(64, 64), max_steps=500": "hidden=(16, 16), max_steps=20",
        '"horizon": 25, "population": 60': '"horizon": 3, "population": 20',
        "agent.learn(400)": "agent.learn(205)",
    },
    "examples/ppo_in_a_dream.py": {
        "train_steps=1_500": "train_steps=3",
        "collect_episodes(env, model, 5_000": "collect_episodes(env, model, 100",
        "num_envs=64, horizon=200": "num_envs=4, horizon=20",
        "agent.learn(200_000)": "agent.learn(256)",
        "n_eval_episodes=20": "n_eval_episodes=1",
    },
    "examples/ppo_inside_a_model.py": {
        "hidden=(64, 64)": "hidden=(16, 16), max_steps=50",
        "collect_transitions(env, dynamics, 3_000": "collect_transitions(env, dynamics, 300",
        "num_envs=64": "num_envs=4",
        "agent.learn(250_000)": "agent.learn(256)",
        "n_eval_episodes=20": "n_eval_episodes=2",
    },
    "examples/ppo_where_the_model_is_sure.py": {
        "hidden=(64, 64)": "hidden=(16, 16), max_steps=50",
        "collect_transitions(env, dynamics, 1_000": "collect_transitions(env, dynamics, 300",
        "transitions, 0.99": "transitions, 0.5",
        "num_envs=64, horizon=200": "num_envs=4, horizon=20",
        "agent.learn(150_000)": "agent.learn(256)",
        "n_eval_episodes=20": "n_eval_episodes=2",
    },
    "examples/tune_with_optuna.py": {
        "learning_starts=200": "learning_starts=20",
        '"gradient_steps", 1, 10': '"gradient_steps", 1, 2',
        "hidden=(64, 64), max_steps=500": "hidden=(16, 16), max_steps=10",
        "rollouts_per_step=100": "rollouts_per_step=2",
        "agent.learn(400,": "agent.learn(30,",
        "n_eval_episodes=5": "n_eval_episodes=1",
        "n_trials=20": "n_trials=2",
    },
    "examples/train_in_a_dream.py": {
        "**sizes, **rates": "**sizes, **rates, vision_steps=2, memory_steps=2",
        "sigma=0.5": "learning_starts=40, population=4, dreams=2",
        "agent.learn(10_210)": "agent.learn(45)",
        "n_eval_episodes=20": "n_eval_episodes=1",
        "dreams=100": "dreams=2",
    },
    "examples/wrong_termination.py": {
        "learning_starts=500": "learning_starts=200",
        "max_steps=100": "max_steps=10",
        "agent.learn(600,": "agent.learn(210,",
    },
}


@pytest.fixture
def run_smaller(tmp_path, monkeypatch, capsys):
    """Run a file of the checkout in an empty folder, as a program of its own; returns what it printed."""

    def run(name: str) -> str:
        source = (CHECKOUT / name).read_text(encoding="utf-8")
        for written, smaller in SMALLER[name].items():
            count = source.count(written)
            assert count == 1, f"{name} must have {written!r} once, has it {count} times: adapt SMALLER to the file"
            source = source.replace(written, smaller)
        script = tmp_path / "program" / Path(name).with_suffix(".py").name
        script.parent.mkdir()
        script.write_text(source, encoding="utf-8")
        folder = tmp_path / "outputs"
        folder.mkdir()
        monkeypatch.chdir(folder)
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_run_here():
    examples = {f"examples/{file.name}" for file in (CHECKOUT / "examples").glob("*.py")}
    run = re.findall(r'run_smaller\("(.*?)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert set(SMALLER) == set(run) == examples


def test_fit_a_model(run_smaller):
    printed = run_smaller("examples/fit_a_model.py")
    assert printed.count("steps ahead: median error ") == 5 and "nan" not in printed
    assert EnsembleDynamics.load("pendulum.safetensors").start_obs.shape[1] == 3


def test_improve_a_policy(run_smaller):
    assert run_smaller("examples/improve_a_policy.py").count(": return -") == 2


def test_i2a_imagination(run_smaller):
    assert "share of imagined frames that are right, by step: [" in run_smaller("examples/i2a_imagination.py")
    assert Path("i2a_imagination.png").read_bytes().startswith(b"\x89PNG")


def test_learn_connect_four(run_smaller):
    printed = run_smaller("examples/learn_connect_four.py")
    assert "against a player that wins and prevents wins at once: " in printed
    assert "mbrl-zoo play connect_four" in printed
    loaded: Any = zoo.load("connect_four")
    assert loaded.rules.name == "ConnectFour"


def test_search_a_simulator(run_smaller):
    printed = run_smaller("examples/search_a_simulator.py")
    assert printed.count("the pole stood for 5 of 200 steps") == 2


def test_mbpo_on_your_env(run_smaller):
    assert "of at most 100" in run_smaller("examples/mbpo_on_your_env.py")


def test_plan_candidates(run_smaller):
    assert "10 elites, best predicted return -" in run_smaller("examples/plan_candidates.py")
    assert "predicted return" in Path("plan_candidates.svg").read_text(encoding="utf-8")


def test_ppo_in_a_dream(run_smaller):
    dream, real = run_smaller("examples/ppo_in_a_dream.py").splitlines()
    assert dream.startswith("dream return: ") and real.startswith("real return: -")


def test_ppo_inside_a_model(run_smaller):
    assert "return in the real env after 0 real steps of PPO: -" in run_smaller("examples/ppo_inside_a_model.py")


def test_ppo_where_the_model_is_sure(run_smaller):
    everywhere, where_sure = run_smaller("examples/ppo_where_the_model_is_sure.py").splitlines()
    assert everywhere.startswith("all steps: return in the real env -")
    assert everywhere.endswith("imagined episodes of 20 steps")
    assert int(where_sure.split()[-2]) < 20


def test_train_in_a_dream(run_smaller):
    assert "return in the dream: " in run_smaller("examples/train_in_a_dream.py")


def test_a_wrong_termination_is_caught(run_smaller):
    caught, known = run_smaller("examples/wrong_termination.py").splitlines()
    assert caught.startswith("caught: termination_fn contradicts the real environment: it says False, ")
    assert known == "known termination of Hopper-v5: Hopper-v5"


def test_tune_with_optuna(run_smaller):
    assert "best return -" in run_smaller("examples/tune_with_optuna.py")
    assert Path("mbpo.db").exists()  # the study goes on from it
