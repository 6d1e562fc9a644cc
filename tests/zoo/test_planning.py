"""Agents that plan in the zoo: built from recipes, trained, saved, resumed, verified and shown."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_wrappers import EnsembleDynamics, KnownDynamics, zoo
from mbrl_wrappers.agents import PETS, POPLIN, RS
from mbrl_wrappers.agents.planning import PlanningAgent
from mbrl_wrappers.zoo import ZooError
from mbrl_wrappers.zoo.analysis.diagnosis import diagnose
from mbrl_wrappers.zoo.analysis.findings import DIAGNOSIS, Diagnosis
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.analysis.plan_candidates import Candidates, candidates_in, candidates_of
from mbrl_wrappers.zoo.catalogue.lookup import open_agent
from mbrl_wrappers.zoo.catalogue.saving import export
from mbrl_wrappers.zoo.catalogue.sb3_import import import_sb3
from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.evaluation import play_episodes
from mbrl_wrappers.zoo.report import build_report, plots
from mbrl_wrappers.zoo.storage.agent_file import model_of
from mbrl_wrappers.zoo.storage.manifest import write_manifest
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.training.building import build_agent
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.run import Stopped, run
from mbrl_wrappers.zoo.video import record_video
from testing.envs import Line
from testing.models import line_model

KINDS: dict[str, type[PlanningAgent]] = {"pets": PETS, "poplin": POPLIN, "rs": RS}


def path2d(render_mode: str | None = None) -> Line:
    """Ten steps in a plane, the second entry three times as fast; the noise of each step is the env's own."""
    return Line(speed=(0.1, 0.3), noise=0.01, bound=20.0, reward=lambda x: -abs(x[..., 1]), render_mode=render_mode)


gym.register("mbrl_wrappers_tests/Path2d-v0", entry_point=path2d)
ENV = "mbrl_wrappers_tests/Path2d-v0"

SMALL: dict[str, dict[str, Any]] = {
    "pets": {"planner_kwargs": {"horizon": 3, "population": 12, "num_elites": 3, "iterations": 1}},
    "poplin": {"horizon": 3, "population": 12, "num_elites": 3, "iterations": 1, "policy_kwargs": {"net_arch": [4]}},
    "rs": {"horizon": 3, "population": 12},
}
MODEL = {"hidden": [8], "num_members": 2, "num_elites": 1, "max_steps": 5}


def params(name: str, **more: Any) -> dict[str, Any]:
    agent = {"learning_starts": 20, "train_freq": [1, "episode"], "buffer_size": 500, **SMALL[name]}
    sections = {"agent": agent, "dynamics": MODEL}
    return {f"{section}.{key}": value for section, part in sections.items() for key, value in part.items()} | more


def job(name: str = "pets", seed: int = 0, **changes: Any) -> JobSpec:
    arguments: dict[str, Any] = {"steps": 60, "eval_freq": 30, "eval_episodes": 2, "save_freq": 0}
    return make_job(name, ENV, seed=seed, **{**arguments, "params": params(name), **changes})


def agent_of(name: str, **kwargs: Any) -> Any:
    """An agent that has learned for 40 steps; a model that is given stays as it is."""
    env = gym.make(ENV)
    dynamics = EnsembleDynamics.for_env(env, **MODEL)
    arguments = {"learning_starts": 20, "train_freq": 10, "buffer_size": 100, "dynamics": dynamics, **SMALL[name]}
    agent = KINDS[name]("MlpPolicy", env, seed=1, device="cpu", **{**arguments, **kwargs})
    return agent.learn(40) if "dynamics" not in kwargs else agent


def known(**kwargs: Any) -> KnownDynamics:
    return line_model(path2d(), **({"noise_std": 0.0} | kwargs))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each agent."""
    root = tmp_path_factory.mktemp("runs")
    for name in KINDS:
        run(job(name), root / name)
    return {name: root / name for name in KINDS}


@pytest.fixture
def copy(runs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs["pets"], tmp_path / "copy"))


def same_model(one: Any, other: Any) -> bool:
    a, b = (agent.dynamics.state_dict() for agent in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- built --------------------------------------------------------------------------------------------


def built(name: str, env: str, **more: Any) -> Any:
    spec = make_job(name, env, steps=300, params={**params(name), **more})
    with make_env(env) as real:
        return build_agent(spec, real)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_it_is_built_with_the_known_reward(name):
    agent, callback = built(name, "Pendulum-v1")
    assert type(agent) is KINDS[name] and callback is None
    assert (agent.dynamics.reward_name, agent.dynamics.termination_name) == ("Pendulum-v1", "Pendulum-v1")
    assert (agent.train_freq.frequency, agent.train_freq.unit.value) == (1, "episode")
    agent, _ = built(name, "Pendulum-v1", **{"dynamics.reward_fn": "learned"})
    assert (agent.dynamics.reward_name, agent.dynamics.termination_name) == ("learned", "Pendulum-v1")
    assert built(name, ENV)[0].dynamics.reward_name == "learned"


def test_random_shooting_has_one_network_unless_a_recipe_says_otherwise():
    recipe = params("rs")
    few = {key: value for key, value in recipe.items() if not key.startswith("dynamics.")}
    with make_env(ENV) as env:
        settings = [
            build_agent(make_job("rs", ENV, steps=300, params=wishes), env)[0].dynamics.settings  # type: ignore[attr-defined]
            for wishes in (few, few | {"dynamics.num_members": 3})
        ]
    assert [s["num_members"] for s in settings] == [1, 3] and [s["num_elites"] for s in settings] == [1, 1]


def test_its_name_is_its_class():
    assert [job(name).label() for name in ("pets", "poplin", "rs")] == ["PETS", "POPLIN", "RS"]
    assert dataclasses.replace(job("pets"), agent="unknown").label() == "UNKNOWN(PETS)"


def test_an_evaluation_has_few_episodes_where_each_step_is_a_search():
    arguments: dict[str, Any] = {"steps": 300, "params": params("pets")}
    assert make_job("pets", ENV, **arguments).eval_episodes == 5
    assert make_job("pets", ENV, **arguments, eval_episodes=7).eval_episodes == 7
    assert make_job("mbpo", "Pendulum-v1").eval_episodes == 20


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"agent.plannr": "CEM"}, r"argument of agent \(PETS\) must be one of .*did you mean 'planner'"),
        ({"dynamics.hiden": [8]}, r"argument of dynamics \(EnsembleDynamics\) must be one of .*did you mean 'hidden'"),
        ({"normalize.norm_obs": True}, r"normalize must be empty for PETS, which has none, got \{'norm_obs': True\}"),
        ({"strategy.real_ratio": 0.1}, r"strategy must be empty for PETS, which has none, got \{'real_ratio': 0.1\}"),
        ({"agent.planner": "CME"}, "planner must be one of .*, got 'CME'"),
    ],
)
def test_what_it_does_not_have_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        job(params=params("pets", **more))
    with pytest.raises(ValueError, match=r"algo must be one of .*'PETS'.*, got 'SAC'"):
        job(algo="SAC")


# -- trained ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_run_leaves_an_agent_that_plays_as_recorded(runs, name):
    folder = open_agent(runs[name])
    assert folder.has_model and folder.name == name
    agent: Any = zoo.load(runs[name], device="cpu")
    assert type(agent) is KINDS[name] and agent.num_timesteps == 60 and agent._num_fits > 1
    assert zoo.verify(runs[name]).status == "match"
    assert folder.evaluation is not None and zoo.evaluate(runs[name], episodes=2) == folder.evaluation.episodes
    obs, action = torch.zeros(4, 2), torch.zeros(4, 1)
    predicted = [
        model.predict(obs, action, deterministic=True).next_obs
        for model in (agent.dynamics, model_of(agent), zoo.load_dynamics(runs[name]))
    ]
    assert all(torch.equal(predicted[0], other) for other in predicted)
    diagnosis = Diagnosis.from_json(folder.file(DIAGNOSIS) or b"")
    assert diagnosis.steps == 50 and len(diagnosis.error) == 10  # five episodes of ten steps
    assert read_rows(runs[name] / "model_error.csv", HorizonError) == diagnosis.error
    assert f"# {KINDS[name].__name__} on {ENV}" in (folder.file("README.md") or b"").decode()
    assert "zoo.load_dynamics" in (folder.file("README.md") or b"").decode()


def without_times(rows: list[Evaluation]) -> list[tuple[Any, ...]]:
    return [dataclasses.astuple(row)[:4] for row in rows]


@pytest.mark.parametrize("name", ["pets", "poplin"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(runs, name, tmp_path):
    asked = []

    def after_35_steps() -> bool:
        asked.append(1)
        return len(asked) > 4  # between episodes, which are its rollouts

    with pytest.raises(Stopped, match="stopped at step 40"):
        run(job(name), tmp_path / "run", should_stop=after_35_steps)
    assert not (tmp_path / "run" / "manifest.json").exists()
    agent: Any
    agent, rows = run(job(name), tmp_path / "run")
    whole: Any = zoo.load(runs[name], device="cpu")
    assert same_model(agent, whole) and agent._num_fits == whole._num_fits
    assert without_times(rows) == without_times(read_rows(runs[name] / "progress.csv", Evaluation))
    episodes = open_agent(runs[name]).evaluation
    assert episodes is not None and open_agent(tmp_path / "run").evaluation.episodes == episodes.episodes


def test_seeds_are_exported_together_with_a_replay(runs, tmp_path):
    run(job(seed=1), tmp_path / "other")
    folder = export([runs["pets"], tmp_path / "other"], tmp_path / "out", name="pets/Path2d-v0")
    assert "replay.mp4" in folder.records and zoo.verify(folder.path).status == "match"
    assert "# PETS on" in (folder.file("README.md") or b"").decode()


# -- saved --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(KINDS))
def test_training_goes_on_where_it_stopped(name, tmp_path):
    """With the optimizer saved, the next fit and the next plan are those that the agent itself would have made."""
    agent = agent_of(name)
    zoo.save(agent, tmp_path / "agent", with_optimizer=True, episodes=0)
    config = json.loads((tmp_path / "agent" / "config.json").read_text())
    assert config["dynamics"]["kind"] == "EnsembleDynamics" and "dynamics" not in config["arguments"]
    loaded: Any = zoo.load(tmp_path / "agent", device="cpu")
    assert same_model(agent, loaded) and loaded.train_freq == agent.train_freq and loaded.seed == 1
    for key in SMALL[name]:
        assert getattr(loaded, key) == getattr(agent, key), key
    policies = [one.policy.state_dict() for one in (agent, loaded)]
    assert all(torch.equal(policies[0][key], policies[1][key]) for key in policies[0])
    obs, starts = np.zeros((2, 2), np.float32), np.array([True, True])
    action, state = agent.predict(obs, None, starts)
    other, other_state = loaded.predict(obs, None, starts)
    assert np.array_equal(action, other)
    assert np.array_equal(agent.predict(obs, state)[0], loaded.predict(obs, other_state)[0])
    for one in (agent, loaded):
        one._setup_learn(40, reset_num_timesteps=False)  # makes the logger
        one._planned = []  # what POPLIN is to distil is not kept
        one.train(1, 1)
    assert same_model(agent, loaded)
    generators = ("_fit_generator", "_plan_generator")
    assert all(torch.equal(getattr(agent, g).get_state(), getattr(loaded, g).get_state()) for g in generators)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 60
    fresh: Any = zoo.load(tmp_path / "agent", device="cpu").learn(30)
    assert fresh.num_timesteps == 30


def test_a_forged_state_of_training_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    zoo.save(agent_of("pets"), tmp_path / "agent", with_optimizer=True, episodes=0)
    file = tmp_path / "agent" / "model.safetensors"
    tensors = load_file(file)
    key = "training.generator._plan_generator"
    for forged, message in (
        ({k: v for k, v in tensors.items() if k != key}, "lacks the state of the generator _plan_generator"),
        ({**tensors, key: torch.zeros(3)}, "the state of the generator _plan_generator doesn't fit"),
        ({k: v for k, v in tensors.items() if not k.startswith("dynamics.network")}, "lacks the tensor "),
    ):
        save_file(forged, file)
        write_manifest(file.parent, {path.name for path in file.parent.iterdir()} - {"manifest.json"})
        with pytest.raises(ZooError, match=message):
            zoo.load(tmp_path / "agent")


def test_exact_dynamics_cannot_be_saved_and_say_so(tmp_path):
    with pytest.raises(ZooError, match="dynamics must be of a registered class, got KnownDynamics"):
        zoo.save(agent_of("pets", dynamics=known()), tmp_path / "agent", episodes=0)
    assert not list(tmp_path.iterdir())


def test_a_zip_whose_model_is_pickled_is_not_imported(tmp_path):
    agent = agent_of("pets")
    agent.save(tmp_path / "agent.zip")
    for algo in ("PETS", None):
        with pytest.raises(ZooError, match="the agent's model is in a pickle; load the zip by its own class"):
            import_sb3(tmp_path / "agent.zip", tmp_path / "out", env=ENV, algo=algo)
    zoo.save(PETS.load(tmp_path / "agent.zip", env=gym.make(ENV), device="cpu"), tmp_path / "out", episodes=1)
    assert zoo.verify(tmp_path / "out").status == "match"


# -- measured -----------------------------------------------------------------------------------------


def test_a_diagnosis_is_of_planned_episodes():
    agent = agent_of("pets", dynamics=known(noise_std=0.01))
    calls: list[int] = []
    plan = agent._plan

    def counted(obs: torch.Tensor, state: Any, seed: int) -> Any:
        calls.append(len(obs))
        return plan(obs, state, seed)

    agent._plan = counted
    with gym.make(ENV, max_episode_steps=8) as env:
        before = torch.get_rng_state()
        d = diagnose(agent, agent.dynamics, env)
        assert torch.equal(before, torch.get_rng_state())
        assert diagnose(agent, agent.dynamics, env).to_json() == d.to_json()
        assert calls[: len(calls) // 2] == 40 * [1] + 8 * [5]  # the imagined ones are planned side by side
        # Played with the plan handed on, as in an evaluation.
        assert d.exploitation.real == [e.total_reward for e in play_episodes(agent, env, 5, first_seed=2)]
    assert d.steps == 40 and len(d.error) == 8 and d.exploitation.steps == 8
    assert d.trusted_steps == 8 and d.calibration is not None and d.reward.given
    assert max(map(abs, d.exploitation.gaps)) < 1


def test_a_video_shows_the_episode_that_was_evaluated(tmp_path):
    agent = agent_of("pets")
    rewards: list[float] = []

    class Watched(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            outcome = self.env.step(action)
            rewards.append(float(outcome[1]))
            return outcome

    assert record_video(agent, lambda: Watched(gym.make(ENV, render_mode="rgb_array")), tmp_path / "video.mp4") == 11
    assert sum(rewards) == pytest.approx(play_episodes(agent, gym.make(ENV), 1)[0].total_reward)


# -- shown --------------------------------------------------------------------------------------------


def test_candidates_are_followed_in_the_model():
    agent = agent_of("pets", dynamics=known(), planner="CEM")
    obs = np.array([0.5, -0.5], np.float32)
    shown, found = candidates_of(agent, obs), agent.plan(obs)
    assert shown.column == 1  # the one that moves most
    paths = -0.5 + 0.3 * found.candidates[0, :, :, 0].cumsum(1)
    assert shown.values[:, 0] == pytest.approx(-0.5) and shown.values[:, 1:] == pytest.approx(paths.numpy(), abs=1e-5)
    assert shown.plan[1:] == pytest.approx((-0.5 + 0.3 * found.actions[0, :, 0].cumsum(0)).numpy(), abs=1e-5)
    assert shown.returns == pytest.approx(found.returns[0].numpy()) and shown.chosen.sum() == 3
    assert set(shown.returns.argsort()[-3:]) == set(shown.chosen.nonzero()[0])


@pytest.mark.parametrize(
    ("name", "arguments", "chosen"),
    [
        ("pets", {"planner": "MPPI", "planner_kwargs": {"horizon": 3, "population": 12}}, None),
        ("rs", {}, 1),
        ("poplin", {"variant": "A-init"}, 3),
        ("poplin", {"variant": "P-sep"}, 3),
        ("poplin", {"variant": "A-replan"}, 3),
    ],
)
def test_every_search_can_be_drawn(name, arguments, chosen):
    agent = agent_of(name, dynamics=known(), **arguments)
    with gym.make(ENV) as env:
        shown = candidates_in(agent, env)
    assert shown.are_paths == (arguments.get("variant") not in ("P-sep", "A-replan"))
    assert shown.chosen.sum() == chosen or (chosen is None and 0 < shown.chosen.sum() < 12)
    pictures = []
    for _ in range(2):
        figure, (ax,) = plots.new_figure(1, "")
        plots.plan_candidates(ax, shown)
        pictures.append(plots.svg_of(figure))
    assert pictures[0] == pictures[1] and "predicted return" in pictures[0] and "<image" not in pictures[0]
    assert ("observation[" if shown.are_paths else "first action[") in pictures[0]


def test_few_of_many_candidates_are_drawn_and_all_elites():
    rng = np.random.default_rng(0)
    returns = rng.normal(size=1000)
    chosen = returns > np.sort(returns)[-31]
    figure, (ax, *_) = plots.new_figure(1, "")
    plots.plan_candidates(ax, Candidates(rng.normal(size=(1000, 4)), np.zeros(4), returns, chosen, 0))
    others, elites = (len(lines.get_paths()) for lines in ax.collections)
    assert (others, elites) == (plots.MAX_SHOWN_CANDIDATES - 30, 30)
    assert [line.get_label() for line in ax.get_lines()] == ["candidates", "elites", "the plan"]
    assert len(figure.axes) == 2  # the other one is the colour bar


def test_candidates_that_are_not_finite_are_left_out():
    wild = KnownDynamics(
        path2d().observation_space,
        path2d().action_space,
        lambda obs, action: torch.where(action > 0, torch.nan, obs + action),
        lambda obs, action, next_obs: next_obs[..., 0],
    )
    shown = candidates_of(agent_of("rs", dynamics=wild, population=100), np.zeros(2, np.float32))
    assert 0 < len(shown.returns) < 100 and np.isfinite(shown.values).all() and shown.chosen.sum() == 1


def test_the_report_shows_a_plan(runs, copy, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    pages = [build_report([runs["pets"]], tmp_path / name, videos=False).read_text() for name in ("a", "b")]
    assert pages[0] == pages[1]
    assert "<h3>A plan</h3>" in pages[0] and "sequences of 3 actions that the search compared last" in pages[0]
    assert "The model of PETS" in pages[0] and ">PETS</td>" in pages[0]
    alone = build_report([runs["poplin"]], tmp_path / "c", videos=False).read_text()
    assert "only their first actions are known" in alone.replace("\n", " ")
    env = json.loads((copy / "env.json").read_text())
    (copy / "env.json").write_text(json.dumps({**env, "name": "Gone-v3"}))
    write_manifest(copy, [path.name for path in copy.iterdir() if path.name != "manifest.json"])
    page = build_report([copy], tmp_path / "d").read_text()
    assert "There is no plan and no video: env &#39;Gone-v3&#39; is not registered" in page and "A plan" not in page
