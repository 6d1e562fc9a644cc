"""Agents by name: found, evaluated, verified, exported, imported and listed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.dqn import CnnPolicy

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import RealData
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics, WorldModel
from mbrl_wrappers.zoo import ZooError, registry
from mbrl_wrappers.zoo.catalogue.lookup import open_agent
from mbrl_wrappers.zoo.catalogue.saving import export
from mbrl_wrappers.zoo.catalogue.sb3_import import import_sb3
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.evaluation import Episode, play_episodes
from mbrl_wrappers.zoo.registry import ALGORITHMS
from mbrl_wrappers.zoo.storage.folder import EvalRecord, TrainedSeed
from mbrl_wrappers.zoo.storage.manifest import write_manifest
from mbrl_wrappers.zoo.training.building import build_agent
from mbrl_wrappers.zoo.training.card import card_text
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.run import run
from mbrl_wrappers.zoo.video import record_video
from testing.agents import WITH_MODELS
from testing.envs import Line, Still

pytestmark = pytest.mark.usefixtures("brief_diagnosis")

NET = {"net_arch": [8]}
DISCRETE = ("DQN", "QRDQN", "MaskablePPO")


LINE = {"speed": 0.3, "noise": 0.1, "bound": 20.0}  # the noise of each step is the env's own
gym.register("mbrl_wrappers_tests/Corridor-v0", entry_point=Line, kwargs=LINE)
ENV = "mbrl_wrappers_tests/Corridor-v0"

PARAMS = {
    "agent.learning_starts": 20,
    "agent.gradient_steps": 1,
    "agent.batch_size": 16,
    "agent.policy_kwargs": NET,
    "strategy.rollouts_per_step": 2,
    "model_based.fit_every": 50,
    "dynamics.hidden": [8],
    "dynamics.max_steps": 5,
}


def job(seed: int = 0, **changes: Any) -> JobSpec:
    arguments: dict[str, Any] = {"steps": 60, "eval_episodes": 3, "save_freq": 0, "params": PARAMS}
    return make_job("mbpo", ENV, seed=seed, **{**arguments, **changes})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of one job."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / f"seed{seed}" / "mbpo" for seed in range(3)]
    for seed, folder in enumerate(folders):
        run(job(seed), folder)
    return folders


@pytest.fixture
def copy(runs: list[Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[0], tmp_path / "copy"))


def edit(folder: Path, file: str, /, **changes: Any) -> None:
    """Change a JSON file and fit the manifest to it."""
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **changes}))
    write_manifest(folder, [path.name for path in folder.iterdir() if path.name != "manifest.json"])


# -- found --------------------------------------------------------------------------------------------


def test_an_agent_is_found_by_its_folder_or_its_runs(runs):
    agent: Any = zoo.load(runs[0], device="cpu")
    assert agent.num_timesteps == 60 and agent.model_based.dynamics.obs_codec.dim == 1
    assert open_agent(runs[0].parent).path == runs[0]
    folder = open_agent(runs[0])
    assert folder.name == "mbpo" and folder.env.name == ENV and folder.env.max_episode_steps is None
    assert JobSpec.from_json(folder.file("job.json") or b"") == job(0)
    assert {"numpy", "torch", "gymnasium", "stable-baselines3", "python"} <= folder.env.versions.keys()


def test_an_unknown_name_is_told_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in ("mbpo/InvertedPendulum-v4", "InvertedPendulum-v5", "../etc", "mbpo/InvertedPendulum-v5/config.json"):
        with pytest.raises(ZooError, match=r"name must be a folder or one of .*did you mean 'mbpo/Inv|name must be "):
            zoo.load(wrong)


def test_a_folder_of_ones_own_comes_before_the_packages(runs, tmp_path, monkeypatch):
    shutil.copytree(runs[1], tmp_path / "mbpo" / "Pendulum-v1")
    monkeypatch.chdir(tmp_path)
    assert open_agent("mbpo/Pendulum-v1").env.name == ENV


# -- evaluated ----------------------------------------------------------------------------------------


def test_every_episode_has_a_seed_of_its_own(runs):
    episodes = zoo.evaluate(runs[0], episodes=4)
    assert [episode.seed for episode in episodes] == [12345, 12346, 12347, 12348]
    assert [episode.length for episode in episodes] == [10] * 4
    assert len({episode.total_reward for episode in episodes}) == 4
    assert zoo.evaluate(runs[0], episodes=2, seed=12347) == episodes[2:]  # in any order
    recorded = open_agent(runs[0]).evaluation
    assert recorded is not None and recorded.episodes == episodes[:3]
    assert zoo.evaluate(runs[0], episodes=2, deterministic=False) != episodes[:2]
    with Line(**LINE) as env:
        assert zoo.evaluate(runs[0], episodes=4, env=env) == episodes


def test_returns_are_those_of_stepping_by_hand(runs):
    agent, env = zoo.load(runs[0], device="cpu"), Line(**LINE)
    (episode,) = play_episodes(agent, env, 1, first_seed=7)
    obs, total, over = env.reset(seed=7)[0], 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(agent.predict(obs, deterministic=True)[0])
        total, over = total + reward, terminated or truncated
    assert episode == Episode(7, pytest.approx(total), 10)
    with pytest.raises(ValueError, match="episodes must be a whole number of at least 1, got 0"):
        play_episodes(agent, env, 0)


def test_an_agent_whose_recipe_samples_actions_is_played_so_everywhere(tmp_path):
    sampled = dataclasses.replace(job(), recipe=dataclasses.replace(job().recipe, deterministic=False))
    assert JobSpec.from_json(sampled.to_json()) == sampled and sampled.digest() != job().digest()
    agent, _ = run(sampled, tmp_path / "run")
    played = zoo.evaluate(tmp_path / "run", episodes=3)
    record = open_agent(tmp_path / "run").evaluation
    assert record is not None and not record.deterministic and record.episodes == played
    assert zoo.evaluate(tmp_path / "run", episodes=3, deterministic=False) == played
    assert zoo.evaluate(tmp_path / "run", episodes=3, deterministic=True) != played
    assert zoo.verify(tmp_path / "run").status == "match"
    out = export([tmp_path / "run"], tmp_path / "out", episodes=4)
    assert out.evaluation is not None and out.evaluation.episodes[:3] == played and not out.evaluation.deterministic
    card = (out.file("README.md") or b"").decode()
    assert (
        "over 4 episodes with actions sampled from the policy." in card and "predict(obs, deterministic=False)" in card
    )
    zoo.save(agent, tmp_path / "saved", env=ENV, episodes=3, deterministic=False)
    assert zoo.evaluate(tmp_path / "saved", episodes=3) == open_agent(tmp_path / "saved").evaluation.episodes == played


def test_sampled_episodes_follow_from_their_seeds_and_leave_no_trace(runs, tmp_path):
    agent, rewards = zoo.load(runs[0], device="cpu"), []

    class Watched(Line):
        def step(self, action: Any) -> Any:
            outcome = super().step(action)
            rewards.append(float(outcome[1]))
            return outcome

    def seeded() -> None:
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        agent.action_space.seed(5)

    def drawn() -> list[Any]:
        return [torch.rand(1).item(), np.random.rand(), agent.action_space.sample().tolist()]  # noqa: NPY002

    seeded()
    expected = drawn()
    seeded()
    episodes = play_episodes(agent, Line(**LINE), 3, deterministic=False)
    video = tmp_path / "video.mp4"
    record_video(agent, lambda: Watched(**LINE, render_mode="rgb_array"), video, seed=12346, deterministic=False)
    assert drawn() == expected
    assert play_episodes(agent, Line(**LINE), 1, first_seed=12347, deterministic=False) == episodes[2:]
    assert sum(rewards) == pytest.approx(episodes[1].total_reward)


@pytest.mark.parametrize("kind", [sb3.PPO, sb3.A2C, sb3.SAC])
@pytest.mark.parametrize("use_sde", [False, True])
def test_sampled_episodes_of_every_policy_can_be_verified(kind, use_sde, tmp_path):
    agent = kind("MlpPolicy", VecNormalize(DummyVecEnv([lambda: Line(**LINE)])), policy_kwargs={**NET}, use_sde=use_sde)
    if use_sde:
        policy: Any = getattr(agent, "actor", agent.policy)
        policy.reset_noise()
        noise = policy.action_dist.exploration_mat.clone()
    zoo.save(agent, tmp_path / "agent", env=ENV, episodes=3, deterministic=False)
    assert zoo.verify(tmp_path / "agent").status == "match"
    assert len({episode.total_reward for episode in zoo.evaluate(tmp_path / "agent", episodes=3)}) == 3
    if use_sde:
        assert torch.equal(policy.action_dist.exploration_mat, noise)
    with pytest.raises(ValueError, match="episodes must be at least 1 for deterministic=False, got 0"):
        zoo.save(agent, tmp_path / "other", env=ENV, episodes=0, deterministic=False)


def test_a_choice_of_actions_on_the_command_line(runs, capsys):
    returns = []
    for choice in ([], ["--deterministic", "true"], ["--deterministic", "false"]):
        assert main(["evaluate", str(runs[0]), "--episodes", "2", *choice]) == 0
        returns.append(capsys.readouterr().out)
    assert returns[0] == returns[1] != returns[2]
    assert main(["enjoy", str(runs[0]), "--episodes", "2", "--no-render", "--deterministic", "false"]) == 0
    assert capsys.readouterr().out.endswith(returns[2])


def test_the_zoo_plays_on_one_thread(runs):
    seen = set()

    class Watched(Line):
        def step(self, action: Any) -> Any:
            seen.add(torch.get_num_threads())
            return super().step(action)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        zoo.evaluate(runs[0], episodes=1, env=Watched(**LINE))
        assert zoo.verify(runs[0], env=Watched(**LINE)).status == "match"
        assert torch.get_num_threads() == 3 and seen == {1}
    finally:
        torch.set_num_threads(before)


def test_verification_says_match_drift_or_incompatible(runs, copy):
    assert zoo.verify(runs[0]).status == "match"
    versions = {**open_agent(copy).evaluation.versions, "gymnasium": "0.1", "mujoco": "2.3"}
    edit(copy, "eval.json", versions=versions)
    verdict = zoo.verify(copy)
    assert verdict.status == "match"
    assert verdict.changed == {"gymnasium": ("0.1", gym.__version__), "mujoco": ("2.3", verdict.changed["mujoco"][1])}
    episodes = json.loads((copy / "eval.json").read_text())["episodes"]
    episodes[1]["total_reward"] += 0.01
    edit(copy, "eval.json", episodes=episodes)
    verdict = zoo.verify(copy)
    assert verdict.status == "drift"
    assert verdict.reason.startswith("1 of 3 episodes differ; seed 12346: recorded ")
    assert "; other versions: " in verdict.reason and f"gymnasium (0.1 there, {gym.__version__} here)" in verdict.reason
    edit(copy, "env.json", name="Gone-v3")
    verdict = zoo.verify(copy)
    assert verdict.status == "incompatible" and "env 'Gone-v3' is not registered with Gymnasium here" in verdict.reason
    with Line(**LINE) as env:
        assert zoo.verify(copy, env=env).status == "drift"


def test_an_env_whose_spaces_have_changed_is_incompatible(copy):
    edit(copy, "env.json", name="Pendulum-v1")
    verdict = zoo.verify(copy)
    assert verdict.status == "incompatible" and "env must have the spaces of the agent" in verdict.reason


def test_an_agent_that_was_not_evaluated_cannot_be_verified(tmp_path):
    agent = sb3.SAC("MlpPolicy", ENV, policy_kwargs=dict(NET), device="cpu")
    zoo.save(agent, tmp_path / "agent", episodes=0)
    with pytest.raises(ZooError, match="must record an evaluation to be verified, it has none"):
        zoo.verify(tmp_path / "agent")


# -- exported -----------------------------------------------------------------------------------------


def test_the_median_run_is_exported_with_all_on_its_card(runs, tmp_path):
    lasts = [open_agent(folder).evaluation.trained_seeds[0].return_mean for folder in runs]
    median = int(np.argsort(lasts)[1])
    folder = export([folder.parent for folder in runs], tmp_path / "out", name="mbpo/Corridor-v0")
    assert JobSpec.from_json(folder.file("job.json") or b"").seed == median
    assert [seed.seed for seed in folder.evaluation.trained_seeds] == [0, 1, 2]
    assert [seed.return_mean for seed in folder.evaluation.trained_seeds] == lasts
    files = {"README.md", "progress.csv", "model_error.csv", "diagnosis.json", "job.json", "replay.mp4"}
    assert files <= folder.records.keys()
    card = (folder.file("README.md") or b"").decode()
    assert f"| **{median}** |" in card and all(f"{last:.1f} ± " in card for last in lasts)
    assert zoo.verify(folder.path).status == "match"
    loaded: Any = zoo.load(folder.path)
    assert loaded.model_based is not None
    assert not list(tmp_path.glob(".*"))


def test_episodes_can_be_played_anew_for_the_card(runs, tmp_path):
    arguments = ["export", str(runs[0]), "--to", str(tmp_path / "out"), "--episodes", "7"]
    assert main(arguments) == 0
    folder, run = open_agent(tmp_path / "out"), open_agent(runs[0])
    known = run.evaluation.episodes
    assert len(folder.evaluation.episodes) == 7 > len(known)
    assert folder.evaluation.episodes[: len(known)] == known
    assert folder.evaluation.trained_seeds == run.evaluation.trained_seeds
    assert "over 7 episodes" in (folder.file("README.md") or b"").decode()
    assert zoo.verify(folder.path).status == "match"


def test_an_env_that_cannot_be_rendered_has_no_replay(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Line, "render", gym.Env.render)
    folder = export(runs[:1], tmp_path / "out")
    assert "replay.mp4" not in folder.records and not (tmp_path / "out" / "replay.mp4").exists()


def test_runs_that_differ_are_not_exported_together(runs, tmp_path):
    run(job(5, steps=50), tmp_path / "other")
    with pytest.raises(ZooError, match="runs must differ in their seed only"):
        export([*runs, tmp_path / "other"], tmp_path / "out")
    with pytest.raises(ZooError, match=r"runs must differ in their seeds, got \[0, 0\]"):
        export([runs[0], runs[0]], tmp_path / "out")
    with pytest.raises(ZooError, match="runs must name at least one folder"):
        export([], tmp_path / "out")
    with pytest.raises(ZooError, match="holds no state of training: train with --with-optimizer to keep it"):
        export(runs, tmp_path / "out", with_optimizer=True)
    assert not (tmp_path / "out").exists()
    zoo.save(zoo.load(runs[0]), tmp_path / "own", episodes=1)
    with pytest.raises(ZooError, match="must be a training run"):
        export([tmp_path / "own"], tmp_path / "out")


def test_the_state_of_training_is_kept_if_wanted(tmp_path):
    run(job(), tmp_path / "run", with_optimizer=True)
    for kept in (True, False):
        folder = export([tmp_path / "run"], tmp_path / f"out_{kept}", with_optimizer=kept)
        agent: Any = zoo.load(folder.path)
        assert agent.replay_buffer.size() == (60 if kept else 0)
    agent = zoo.load(tmp_path / "out_True", device="cpu")
    agent.learn(20, callback=agent.model_based, reset_num_timesteps=False)
    assert agent.num_timesteps == 80


def test_a_card_is_what_the_hub_reads():
    evaluation = EvalRecord(
        [Episode(1, 2.0, 3), Episode(2, 4.0, 3)], {"torch": "1"}, [TrainedSeed(4, 60, 40, 3.0, 1.0, 9.0, 8.0)]
    )
    text = card_text(job(4), evaluation, name="mbpo/Corridor-v0", has_model=True)
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    (result,) = metadata["model-index"][0]["results"]
    assert metadata["model-index"][0]["name"] == "MBPO(SAC)" and metadata["library_name"] == "mbrl-wrappers"
    assert result["metrics"] == [{"type": "mean_reward", "value": "3.00 +/- 1.00", "name": "mean_reward"}]
    assert result["dataset"]["name"] == ENV and result["task"]["type"] == "reinforcement-learning"
    assert 'zoo.load("mbpo/Corridor-v0")' in body and "Return 3.0 ± 1.0 over 2 episodes" in body
    assert "| **4** | 60 | 40 | 3.0 ± 1.0 | 9 s | 8 s |" in body and "torch 1" in body


# -- imported -----------------------------------------------------------------------------------------


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("name", sorted(n for n in ALGORITHMS if not n.startswith("Compiled") and n not in WITH_MODELS))
def test_every_algorithm_is_imported_and_found_out(name, tmp_path):
    kind: Any = ALGORITHMS[name]
    kwargs: dict[str, Any] = {}
    if name != "ARS":
        kwargs = {"policy_kwargs": {**NET, "activation_fn": torch.nn.Tanh}, "learning_rate": LinearSchedule(1e-3, 0, 1)}
    if name == "PPO":
        kwargs["clip_range"] = LinearSchedule(0.3, 0.1, 1.0)
    env = "CartPole-v1" if name in DISCRETE else "Pendulum-v1"
    env = "mbrl_wrappers/TicTacToe-v0" if name in ("AlphaZero", "ExIt") else env
    agent = kind("MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy", env, device="cpu", **kwargs)
    agent.save(tmp_path / "agent.zip")
    notes = import_sb3(tmp_path / "agent.zip", tmp_path / "out", env=env, episodes=1)
    loaded: Any = zoo.load(tmp_path / "out", device="cpu")
    assert type(loaded) is (ALGORITHMS["MAAC"] if name == "SACSVG" else kind)  # a zip does not say which
    obs = np.stack([agent.observation_space.sample() / 1e3 for _ in range(9)])
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    assert loaded.policy_kwargs == agent.policy_kwargs
    if name != "ARS":
        assert loaded.lr_schedule(0.5) == 5e-4
    if name == "PPO":
        assert loaded.clip_range(0.5) == pytest.approx(0.2)
    told = {note.split(":")[0] for note in notes}
    assert told == ({"train_freq"} if issubclass(kind, OffPolicyAlgorithm) else set()) | (
        {"target_entropy"} if name == "TQC" else set()
    )


def test_nothing_in_a_zip_is_unpickled(tmp_path):
    mark = tmp_path / "ran"
    agent: Any = sb3.SAC("MlpPolicy", ENV, policy_kwargs=dict(NET), device="cpu")
    agent.learning_rate = Payload(mark)
    agent.save(tmp_path / "agent.zip")
    sb3.SAC.load(tmp_path / "agent.zip")
    assert mark.exists()  # SB3 ran it
    mark.unlink()
    notes = import_sb3(tmp_path / "agent.zip", tmp_path / "out", env=ENV, episodes=0)
    assert any(note.startswith("learning_rate: pickled in the zip") for note in notes)
    assert zoo.load(tmp_path / "out").learning_rate == 3e-4
    payload = io.BytesIO()
    torch.save(Payload(mark), payload)
    for member in ("policy.pth", "pytorch_variables.pth"):
        with zipfile.ZipFile(tmp_path / "agent.zip") as old, zipfile.ZipFile(tmp_path / "bad.zip", "w") as new:
            for info in old.infolist():
                new.writestr(info, payload.getvalue() if info.filename == member else old.read(info))
        with pytest.raises(ZooError, match=f"bad.zip: {member} holds more than tensors"):
            import_sb3(tmp_path / "bad.zip", tmp_path / "never", env=ENV)
    assert not mark.exists() and not (tmp_path / "never").exists()


def test_a_zip_that_asks_for_more_than_it_holds_is_refused(tmp_path):
    agent = sb3.SAC("MlpPolicy", ENV, policy_kwargs=dict(NET), device="cpu")
    agent.save(tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as old, zipfile.ZipFile(tmp_path / "bad.zip", "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename == "data":
                content = json.dumps({**json.loads(content), "policy_kwargs": {"net_arch": [10**7, 10**7]}}).encode()
            new.writestr(info, content)
    with pytest.raises(ZooError, match="the description asks for more tensors than the file holds"):
        import_sb3(tmp_path / "bad.zip", tmp_path / "never", env=ENV)


def picture() -> Still:
    """An image, which SB3 turns round."""
    return Still(spaces.Box(0, 255, (40, 40, 3), np.uint8), spaces.Discrete(2))


def both() -> Still:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
    return Still(space, spaces.Discrete(2))


@pytest.mark.parametrize("kind", ["Cnn", "MultiInput"])
def test_policies_of_other_observations_are_imported(kind, tmp_path):
    make = {"Cnn": picture, "MultiInput": both}[kind]
    agent = sb3.PPO(f"{kind}Policy", make(), device="cpu", n_steps=8, batch_size=8)
    agent.save(tmp_path / "agent.zip")
    import_sb3(tmp_path / "agent.zip", tmp_path / "out", env=f"{__name__}:{make.__name__}", episodes=0)
    loaded = zoo.load(tmp_path / "out", device="cpu")
    old, new = agent.policy.state_dict(), loaded.policy.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_what_an_import_cannot_do_without_is_named(tmp_path):
    class Odd(torch.nn.ReLU):
        pass

    (tmp_path / "no.zip").write_bytes(b"nothing")
    sb3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"activation_fn": Odd}, device="cpu").save(tmp_path / "odd.zip")
    agent = sb3.SAC("MlpPolicy", ENV, policy_kwargs=dict(NET), device="cpu")
    agent.action_noise = NormalActionNoise(np.zeros(1), np.ones(1))
    agent.save(tmp_path / "sac.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("data", "{}")
    for name, env, algo, message in (
        ("no", ENV, None, "file must be a zip of Stable-Baselines3, got .*no.zip: "),
        ("gone", ENV, None, "file must be a zip of Stable-Baselines3, got .*gone.zip: "),
        ("empty", ENV, None, "which has no policy.pth"),
        ("odd", "CartPole-v1", None, "policy_kwargs can't be read without unpickling"),
        ("sac", "CartPole-v1", None, r"env must have the observation_space of .*a Box of shape \[1\], got Box"),
        ("sac", ENV, "SACK", "algo must be one of .*did you mean 'SAC'"),
        ("sac", ENV, "TD3", "the agent can't be rebuilt as TD3 for"),
    ):
        with pytest.raises(ValueError, match=message):
            import_sb3(tmp_path / f"{name}.zip", tmp_path / "never", env=env, algo=algo)
    assert not (tmp_path / "never").exists()
    notes = import_sb3(tmp_path / "sac.zip", tmp_path / "out", env=ENV, episodes=0)
    assert {note.split(":")[0] for note in notes} == {"train_freq", "action_noise"}


# -- on the command line ------------------------------------------------------------------------------


def test_the_commands_print_what_they_find(runs, tmp_path, capsys):
    mean = np.mean([episode.total_reward for episode in zoo.evaluate(runs[0], episodes=2)])
    assert main(["evaluate", str(runs[0]), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"return {mean:.2f} ± ")
    assert main(["enjoy", str(runs[0]), "--no-render", "--episodes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("seed 12345: return ") and lines[2].startswith(f"return {mean:.2f}")
    assert main(["verify", str(runs[0])]) == 0
    assert capsys.readouterr().out == "match: all 3 episodes have the recorded return and length\n"
    assert main(["export", *map(str, runs), "--to", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: ")
    sb3.SAC("MlpPolicy", ENV, policy_kwargs=dict(NET), device="cpu").save(tmp_path / "sac.zip")
    arguments = ["--env", ENV, "--to", str(tmp_path / "sac"), "--eval-episodes", "1"]
    assert main(["import", str(tmp_path / "sac.zip"), *arguments]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'sac'}\n" and err.startswith("mbrl-zoo: train_freq: pickled in the zip")


def test_a_drifted_agent_ends_with_code_1(copy, capsys):
    episodes = json.loads((copy / "eval.json").read_text())["episodes"]
    episodes[0]["length"] += 1
    edit(copy, "eval.json", episodes=episodes)
    assert main(["verify", str(copy)]) == 1
    assert capsys.readouterr().out.startswith("drift: 1 of 3 episodes differ")


@pytest.mark.parametrize("command", ["enjoy", "evaluate", "verify", "export", "report"])
def test_a_wrong_name_ends_in_one_line(command, capsys, tmp_path):
    more = {"export": ["--to", str(tmp_path / "out")], "enjoy": ["--no-render"]}.get(command, [])
    assert main([command, "mbpo/Nowhere-v0", *more]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("mbrl-zoo: error: ")


# -- kinds of models ------------------------------------------------------------------------------------------


@pytest.fixture
def registries():
    """Puts the registries back as they were."""
    known: tuple[dict[str, Any], ...] = (registry.AGENTS, registry.STRATEGIES, registry.DYNAMICS)
    before = [dict(names) for names in known]
    yield
    for names, old in zip(known, before, strict=True):
        names.clear()
        names.update(old)


class TinyEnsemble(EnsembleDynamics):
    """A kind of model of one's own."""


def test_a_recipe_and_a_saved_agent_name_the_kind_of_their_model(tmp_path: Path, registries: None):
    zoo.register_dynamics(TinyEnsemble)
    run(job(params={**PARAMS, "dynamics.kind": "TinyEnsemble"}), tmp_path / "mbpo")
    agent: Any = zoo.load(str(tmp_path / "mbpo"), device="cpu")
    assert type(agent.model_based.dynamics) is TinyEnsemble
    assert agent.model_based.dynamics.settings["hidden"] == [8]
    assert type(zoo.load_dynamics(tmp_path / "mbpo")) is TinyEnsemble
    del registry.DYNAMICS["TinyEnsemble"]
    with pytest.raises(ZooError, match="the kind of model 'TinyEnsemble' is not registered"):
        zoo.load(str(tmp_path / "mbpo"), device="cpu")


def test_an_unknown_kind_of_model_is_refused():
    with pytest.raises(ValueError, match=r"dynamics.kind must be one of .*, got 'Ensemble'; did you mean 'EnsembleDyn"):
        job(params={**PARAMS, "dynamics.kind": "Ensemble"})
    with pytest.raises(ValueError, match="kind must have a method description of its own, got KnownDynamics"):
        zoo.register_dynamics(KnownDynamics)
    with pytest.raises(ValueError, match="kind must be a WorldModel, got <class 'int'>"):
        zoo.register_dynamics(int)


class Pixels(gym.Env):
    """A frame that says nothing."""

    observation_space = spaces.Box(0, 255, (40, 40, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros((40, 40, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros((40, 40, 3), np.uint8), 0.0, True, False, {}


gym.register("mbrl_wrappers_tests/Pixels-v0", entry_point=Pixels)


class PixelModel(WorldModel):
    """A model of images that foresees nothing; only its spaces count."""

    takes_images = True
    begin = observe = step = features = decode = fit = None  # type: ignore[assignment]
    num_features = 1

    @classmethod
    def for_env(cls, env: Any, *, seed: int, device: Any) -> PixelModel:
        return cls(env.observation_space, env.action_space)

    def description(self) -> dict[str, Any]:
        return {"functions": {}}

    @classmethod
    def from_description(cls, description: dict[str, Any], **functions: Any) -> PixelModel:
        raise NotImplementedError


class Remembering(PixelModel):
    """A model with a memory that takes no images."""

    takes_images = False


def test_a_recipe_s_model_of_images_sees_them_as_the_agent_does(tmp_path: Path, registries: None):
    zoo.register_dynamics(PixelModel)
    zoo.register_agent("real_pixels", RealData)
    content = {"algo": "DQN", "steps": 60, "agent": {"learning_starts": 20, "buffer_size": 50}}
    jobs = {}
    for kind in ("PixelModel", "EnsembleDynamics"):
        jobs[kind] = tmp_path / f"{kind}.yml"
        jobs[kind].write_text(yaml.safe_dump({"default": {**content, "dynamics": {"kind": kind}}}))
    env = "mbrl_wrappers_tests/Pixels-v0"
    agent, callback = build_agent(make_job("real_pixels", env, seed=0, recipe=jobs["PixelModel"]), Pixels())
    assert isinstance(agent.policy, CnnPolicy) and agent.observation_space.shape == (3, 40, 40)
    assert callback.dynamics.observation_space == agent.observation_space
    with pytest.raises(ValueError, match=r"observation_space is an image, .* whose class says takes_images"):
        make_job("real_pixels", env, seed=0, recipe=jobs["EnsembleDynamics"])


def test_a_recipe_with_a_memory_where_predictions_are_needed_is_refused(registries: None):
    zoo.register_dynamics(Remembering)
    params = {name: value for name, value in PARAMS.items() if not name.startswith("dynamics")}
    with pytest.raises(ValueError, match=r"must predict from an observation alone, .* got Remembering"):
        job(params={**params, "dynamics.kind": "Remembering"})
