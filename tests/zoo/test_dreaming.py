"""`mbrl-zoo dream`: agents and people in a model, with videos."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3 import SAC

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased, zoo
from mbrl_wrappers.agents import WorldModels
from mbrl_wrappers.models import MDNRNN
from mbrl_wrappers.zoo.cli.dreaming import dream
from mbrl_wrappers.zoo.cli.main import main

MODEL: dict[str, Any] = {
    "latent": 3, "memory": 8, "units": 8, "depth": 2, "num_sequences": 4, "sequence_length": 6, "vision_steps": 2,
    "memory_steps": 2,
}  # fmt: skip


def saved(env_id: str, folder: Path) -> str:
    env = gym.make(env_id)
    policy = "CnnPolicy" if len(env.observation_space.shape or ()) > 1 else "MlpPolicy"
    agent: Any = WorldModels(
        policy, env, learning_starts=20, generations=1, population=2, dreams=1, dream_length=3, seed=0, device="cpu",
        dynamics=None, _init_setup_model=False,
    )  # fmt: skip
    agent.dynamics = MDNRNN(agent.observation_space, agent.action_space, **MODEL)
    agent._setup_model()
    agent.learn(26)
    zoo.save(agent, folder, episodes=0)
    return str(folder)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved("mbrl_wrappers.envs:mbrl_wrappers/PixelPendulum-v0", tmp_path_factory.mktemp("agents") / "pixels")


def test_an_agent_dreams_and_is_recorded(pixels: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "dream.mp4"
    wanted = ["dream", pixels, "--steps", "7", "--temperature", "0.5", "--record", str(file), "--episodes", "2"]
    assert main(wanted) == 0
    assert "seed 12346: dreamed return" in capsys.readouterr().out and file.stat().st_size > 500


def test_the_same_seed_is_the_same_dream_and_a_temperature_another_one(pixels: str) -> None:
    first, second, hot = (dream(pixels, steps=9, temperature=value) for value in (None, 1.0, 3.0))
    assert first == second and first[0].length == 9 and first != hot


def test_a_person_plays_and_is_recorded(pixels: str, tmp_path: Path) -> None:
    shown: list[str] = []
    answers = iter(["0.5", "", "5", "left", "-1"])
    played = dream(
        pixels, steps=3, record=tmp_path / "dream.mp4", by_keyboard=True, ask=lambda _: next(answers), show=shown.append
    )  # fmt: skip
    assert played[0].length == 3 and not list(answers)  # 5 is beyond the bounds, and "left" is no number
    assert len(shown) == 3 and len(shown[0].splitlines()) == 16 and (tmp_path / "dream.mp4").exists()


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        (3, ["seed 1: dreamed return", "Video: "]),
        (2, ["No video: no episode came to its end"]),
        (0, ["No video: no episode came to its end"]),
    ],
)
def test_a_person_who_ends_the_input_quits(
    actions: int, says: list[str], pixels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("0.5\n" * actions))
    file = tmp_path / "dream.mp4"
    words = ["dream", pixels, "--keyboard", "--steps", "3", "--episodes", "2", "--seed", "1", "--record", str(file)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    after = out.partition("\nYou quit.\n")[2].splitlines()
    for line, start in zip(after, says, strict=True):
        assert line.startswith(start)
    assert err == "" and file.exists() == (actions == 3)


def test_vectors_are_shown_by_the_env_s_renderer(tmp_path: Path) -> None:
    folder = saved("Pendulum-v1", tmp_path / "vectors")
    assert dream(folder, steps=3, record=tmp_path / "dream.mp4")[0].length == 3
    assert (tmp_path / "dream.mp4").stat().st_size > 500


def test_an_agent_that_acts_on_observations_dreams_too(tmp_path: Path) -> None:
    agent = SAC("MlpPolicy", "Pendulum-v1", learning_starts=20, policy_kwargs={"net_arch": [8]}, device="cpu")
    dynamics = EnsembleDynamics.for_env("Pendulum-v1", hidden=(8,), num_members=2, num_elites=1, max_steps=5)
    agent.learn(40, callback=ModelBased(Dyna(rollouts_per_step=2), dynamics, fit_every=30))
    zoo.save(agent, tmp_path / "sac", episodes=0)
    assert dream(tmp_path / "sac", steps=4)[0].length == 4
    with pytest.raises(ValueError, match=r"temperature must be None for a EnsembleDynamics, got 2"):
        dream(tmp_path / "sac", temperature=2)
    bare = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, device="cpu")
    zoo.save(bare, tmp_path / "bare", episodes=0)
    with pytest.raises(zoo.ZooError, match=r"name must be of an agent with a model, got .*bare: SAC"):
        dream(tmp_path / "bare")
