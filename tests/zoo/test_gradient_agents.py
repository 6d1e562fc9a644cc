"""Agents that climb the model's gradient in the zoo: built from recipes, compared, trained, resumed and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

from mbrl_wrappers import EnsembleDynamics, ModelBased, zoo
from mbrl_wrappers.agents import MAAC, SACSVG, SVG, CompiledSAC, Dyna, RealData
from mbrl_wrappers.zoo.analysis.findings import DIAGNOSIS, Diagnosis
from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.registry import AGENTS
from mbrl_wrappers.zoo.report import build_report
from mbrl_wrappers.zoo.storage.folder import open_folder
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.training.building import base_of, build_agent, training_env
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.run import Stopped, run
from testing.envs import Line, squared_distance

pytestmark = pytest.mark.usefixtures("brief_diagnosis")

KINDS: dict[str, Any] = {"dhmbpo": MAAC, "maac": MAAC, "sac_svg": SACSVG, "svg": SVG}


def slide() -> Line:
    """Ten steps on a line, best at 0; the noise of each step is the env's own."""
    return Line(noise=0.01, bound=20.0, reward=squared_distance)


gym.register("mbrl_wrappers_tests/Slide-v0", entry_point=slide)
ENV = "mbrl_wrappers_tests/Slide-v0"

AGENT = {"learning_starts": 20, "gradient_steps": 1, "batch_size": 16, "policy_kwargs": {"net_arch": [8]}}
MODEL = {"hidden": [8], "num_members": 3, "num_elites": 2, "max_steps": 20}


def params(name: str, **more: Any) -> dict[str, Any]:
    sections: dict[str, dict] = {"agent": AGENT, "dynamics": MODEL, "model_based": {"fit_every": 20}}
    if name in ("dhmbpo", "maac"):
        sections["strategy"] = {"rollouts_per_step": 2}
    return {f"{section}.{key}": value for section, part in sections.items() for key, value in part.items()} | more


def job(name: str, **changes: Any) -> JobSpec:
    arguments: dict[str, Any] = {"steps": 60, "eval_freq": 30, "eval_episodes": 2, "save_freq": 0}
    return make_job(name, ENV, seed=0, **{**arguments, "params": params(name), **changes})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of two of them, and of what they are compared with."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("dhmbpo", "svg"):
        run(job(name), root / name)
    run(base_of(job("svg")), root / "base")
    return {name: root / name for name in ("dhmbpo", "svg", "base")}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_recipe_makes_the_agent_and_its_model(name):
    for env in ("Pendulum-v1", "Hopper-v5"):
        spec = make_job(name, env)
        with make_env(env) as real:
            agent, callback = build_agent(spec, training_env(spec.recipe, real))
        assert type(agent) is KINDS[name]
        assert type(callback.strategy) is AGENTS[name].strategy is (RealData if "svg" in name else Dyna)
        for argument, value in spec.recipe.agent.items():
            if argument in ("horizon", "expand_critic", "max_grad_norm", "window", "gamma", "batch_size"):
                assert getattr(agent, argument) == value
    assert spec.label() == {"dhmbpo": "DHMBPO", "maac": "MAAC", "sac_svg": "SAC-SVG", "svg": "SVG"}[name]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_it_is_compared_with_sac_at_equal_updates(name):
    spec = make_job(name, "Pendulum-v1")
    base = base_of(spec)
    with make_env("Pendulum-v1") as real:
        agent, callback = build_agent(base, training_env(base.recipe, real))
    assert type(agent) is CompiledSAC and callback is None and base.label() == "SAC"
    assert not {"horizon", "expand_critic", "window"} & base.recipe.agent.keys()
    assert agent.gradient_steps == spec.recipe.agent.get("gradient_steps", 1)
    assert agent.learning_starts == spec.recipe.agent["learning_starts"]
    assert agent.ent_coef == ("auto" if name == "svg" else "auto_0.01")  # SVG's is the weight of another thing
    assert JobSpec.from_json(base.to_json()) == base


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("maac", {"agent.horizn": 3}, r"argument of agent \(MAAC\) must be one of .*did you mean 'horizon'"),
        ("maac", {"strategy.real_ration": 3}, r"argument of strategy \(Dyna\) must be one of .*'real_ratio'"),
        ("svg", {"strategy.real_ratio": 0.1}, "strategy must be empty for SVG, which has none, got"),
        ("svg", {"agent.horizon": -1}, "horizon must be a whole number of at least 0 or 'inf', got -1"),
    ],
)
def test_what_it_does_not_have_is_refused(name, more, message):
    with pytest.raises(ValueError, match=message):
        job(name, params=params(name, **more))


def test_no_strategy_is_trained_with_it():
    with pytest.raises(ValueError, match=r"algo must be one of .*, got 'MAAC'"):
        make_job("m2ac", ENV, algo="MAAC")


@pytest.mark.parametrize("name", ["dhmbpo", "svg"])
def test_a_run_leaves_an_agent_that_plays_as_recorded(runs, name):
    folder = open_folder(runs[name])
    agent: Any = zoo.load(runs[name], device="cpu")
    assert folder.has_model and type(agent) is KINDS[name] and agent.num_timesteps == 60
    assert zoo.verify(runs[name]).status == "match"
    obs, action = torch.zeros(4, 1), torch.zeros(4, 1)
    ours, theirs = agent.model_based.dynamics, zoo.load_dynamics(runs[name])
    assert torch.equal(*(model.predict(obs, action, deterministic=True).next_obs for model in (ours, theirs)))
    diagnosis = Diagnosis.from_json(folder.file(DIAGNOSIS) or b"")
    assert diagnosis.gradient_norms is not None and len(diagnosis.gradient_norms) >= 20


def test_what_it_is_compared_with_has_no_model(runs):
    folder = open_folder(runs["base"])
    assert not folder.has_model and isinstance(zoo.load(runs["base"], device="cpu"), SAC)
    assert "# SAC on" in (folder.file("README.md") or b"").decode()


@pytest.mark.parametrize("name", ["dhmbpo", "svg"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(runs, name, tmp_path):
    asked = []

    def after_35_steps() -> bool:
        asked.append(1)
        return len(asked) > 35

    with pytest.raises(Stopped):
        run(job(name), tmp_path / "run", should_stop=after_35_steps)
    agent, rows = run(job(name), tmp_path / "run")
    whole: Any = zoo.load(runs[name], device="cpu")
    states = [one.policy.state_dict() for one in (agent, whole)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    returns = [row.return_mean for row in read_rows(runs[name] / "progress.csv", Evaluation)]
    assert [row.return_mean for row in rows] == returns


@pytest.mark.parametrize("kind", [MAAC, SVG])
def test_training_goes_on_where_it_stopped(kind, tmp_path):
    agent = kind("MlpPolicy", gym.make(ENV), seed=1, device="cpu", learning_starts=20, policy_kwargs={"net_arch": [8]})
    dynamics = EnsembleDynamics.for_env(gym.make(ENV), **MODEL)
    agent.learn(30, callback=ModelBased(RealData(), dynamics))
    zoo.save(agent, tmp_path / "agent", with_optimizer=True, episodes=0)
    loaded: Any = zoo.load(tmp_path / "agent", device="cpu")
    loaded.set_env(gym.make(ENV))
    for one in (agent, loaded):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - SB3's buffers draw from it
        one.env.seed(5)
        one._last_obs = None
        one.learn(15, callback=one.model_based, reset_num_timesteps=False)
    states = [one.policy.state_dict() for one in (agent, loaded)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_report_shows_gradients_over_the_horizon(runs, tmp_path):
    build_report([runs["dhmbpo"], runs["base"]], tmp_path / "report.html", videos=False)
    page = (tmp_path / "report.html").read_text()
    assert "Norm of the gradient of a first action" in page
