"""What is measured of models with a memory, and how a report shows their dreams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.agents import Dreamer, PlaNet
from mbrl_wrappers.models import MDNRNN, RSSM
from mbrl_wrappers.types import Sequences
from mbrl_wrappers.zoo.analysis.diagnosis import diagnose
from mbrl_wrappers.zoo.analysis.dreams import WARM_UP, Remembered, dream_of, errors_of_dreams, remembered
from mbrl_wrappers.zoo.analysis.findings import Diagnosis
from mbrl_wrappers.zoo.analysis.plan_candidates import candidates_in
from mbrl_wrappers.zoo.environment import as_shown_to_agents
from mbrl_wrappers.zoo.report.page import build_report
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.run import run
from mbrl_wrappers.zoo.video import side_by_side_video
from testing.envs import Cart
from testing.models import CartModel, seeded

TINY: dict[str, Any] = {"deter": 8, "units": 8, "layers": 1, "latent": [2, 4], "bins": 9, "depth": 2}
PIXELS = "mbrl_wrappers/PixelPendulum-v0"


def played(model: CartModel, episode: int = 0, length: int = 20) -> Remembered:
    env, rng = Cart(), np.random.default_rng(episode)
    obs, seen, done, rewards = env.reset(seed=episode)[0], [], [], []
    seen.append(obs)
    for _ in range(length):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        obs, reward, *_ = env.step(action)
        seen.append(obs)
        done.append(action)
        rewards.append(reward)
    return remembered(model, torch.as_tensor(np.array(seen)), torch.as_tensor(np.array(done)), rewards, seeded())


def test_an_exact_model_dreams_what_is_real() -> None:
    paths = [played(CartModel(), episode, 20 + episode) for episode in range(3)]
    for path in paths:
        assert torch.allclose(path.states.position, path.obs)
        assert torch.allclose(path.states.velocity[1:], path.obs.diff(dim=0))
    found = errors_of_dreams(CartModel(), paths, 8, 100)
    assert found.divergence is None and [row.steps_ahead for row in found.observation] == list(range(1, 9))
    assert max(row.high for row in (*found.observation, *found.reward)) < 1e-4


def test_errors_of_dreams_grow_as_the_wrong_push_says() -> None:
    """A cart whose push is missing drifts by the pushes so far: 0.2 a_1, then 0.2 (2 a_1 + a_2), and so on."""
    right, wrong = CartModel(), CartModel(push=0.0)
    path = played(right)
    found = errors_of_dreams(wrong, [path], 3, 1)  # the first start: after the warm-up
    pushes = 0.2 * path.action[WARM_UP : WARM_UP + 3, 0]
    missed = pushes.cumsum(0).cumsum(0).abs() / path.obs.std(correction=0)
    assert [row.median for row in found.observation] == pytest.approx(missed.tolist(), rel=1e-3)
    guessed = (path.obs[WARM_UP + 1 : WARM_UP + 4, 0] - pushes.cumsum(0).cumsum(0)).square()
    rewards = (guessed + path.reward[WARM_UP : WARM_UP + 3]).abs() / path.reward.std(correction=0)
    assert [row.median for row in found.reward] == pytest.approx(rewards.tolist(), rel=1e-3)
    assert len(errors_of_dreams(wrong, [path], 100, 5).observation) == 20  # no episode is longer


def test_a_dream_begins_where_the_model_stops_looking() -> None:
    path = played(CartModel())
    dream = dream_of(CartModel(push=0.0), path, warm_up=4)
    assert dream.warm_up == 4 and torch.equal(dream.real, path.obs) and dream.dreamed.shape == path.obs.shape
    assert torch.equal(dream.dreamed[:4], path.obs[:4])
    speed = path.obs[3] - path.obs[2]
    steps = torch.arange(1, 18)[:, None]
    assert torch.allclose(dream.dreamed[4:], path.obs[3] + steps * speed, atol=1e-4)
    assert dream_of(CartModel(), played(CartModel(), length=2), warm_up=9).warm_up == 2


def test_one_step_s_divergence_is_that_of_the_loss() -> None:
    model = RSSM(Cart.observation_space, Cart.action_space, **TINY, sequence_length=2)
    draw = model.latent.noise
    model.latent.noise = lambda *shape, **given: torch.ones_like(draw(*shape, **given))  # type: ignore[method-assign]
    obs, action = torch.randn(1, 6, 1), torch.rand(1, 6, 1)
    never = torch.zeros(1, 6, dtype=torch.bool)
    loss = model.loss(Sequences(obs, action, torch.zeros(1, 6), never, never))
    path = remembered(model, obs[0], action[0, 1:], [0.0] * 5, seeded())
    found = []
    for t in range(6):
        after = type(path.states)(*(part[t : t + 1] for part in path.states))
        found.append(model.divergence(after, after, obs[:, t]))  # the memory does not depend on the imagined latent
    assert torch.stack(found).mean().item() == pytest.approx(loss.terms["divergence_loss"].item(), rel=1e-4)


def agent_of(kind: Any, env: Any, **options: Any) -> Any:
    shown = as_shown_to_agents(env, options.pop("space", env.observation_space))
    model = RSSM(shown.observation_space, env.action_space, **TINY, sequence_length=4, train_steps=1)
    return kind("MlpPolicy", env, dynamics=model, seed=0, device="cpu", **options)


@pytest.mark.parametrize("kind", [Dreamer, PlaNet])
def test_a_diagnosis_of_a_latent_model(kind: Any) -> None:
    search = {"planner_kwargs": {"horizon": 2, "population": 4, "num_elites": 2, "iterations": 1}}
    agent = agent_of(kind, gym.make("Pendulum-v1"), **(search if kind is PlaNet else {}))
    before, memory = torch.get_rng_state(), agent.predict(np.zeros((1, 3), np.float32))[0]
    found = diagnose(agent, agent.dynamics, gym.make("Pendulum-v1"), steps=100, horizon=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(agent.predict(np.zeros((1, 3), np.float32))[0], memory)
    assert found.steps == (120 if kind is PlaNet else 100) and found.calibration is None and not found.reward.given
    for rows in (found.error, found.reward_error, found.divergence):
        assert rows is not None and len(rows) == 6 and all(0 <= row.low <= row.median <= row.high for row in rows)
    assert found.termination.hits == found.termination.misses == 0
    assert found.exploitation.real[0] < 0 and Diagnosis.from_json(found.to_json()) == found


def test_candidates_of_a_latent_plan_are_paths() -> None:
    search = {"horizon": 3, "population": 8, "num_elites": 2, "iterations": 1}
    agent = agent_of(PlaNet, gym.make("Pendulum-v1"), planner_kwargs=search)
    shown = candidates_in(agent, gym.make("Pendulum-v1"))
    assert shown.values.shape == (8, 4) and np.ptp(shown.values[:, 0]) == 0 and shown.chosen.sum() == 2


def test_images_are_shown_with_the_channels_first() -> None:
    env = gym.make(PIXELS)
    first = spaces.Box(0, 255, (1, 32, 32), np.uint8)
    shown = as_shown_to_agents(env, first)
    obs, _ = shown.reset(seed=0)
    raw, _ = env.reset(seed=0)
    assert (
        first.contains(obs)
        and np.array_equal(obs[0], raw[..., 0])
        and as_shown_to_agents(env, env.observation_space) is env
    )
    both = spaces.Dict(eye=env.observation_space, ear=spaces.Box(-1, 1, (2,), np.float32))
    wrapped = gym.wrappers.TransformObservation(env, lambda obs: {"eye": obs, "ear": np.zeros(2, np.float32)}, both)
    wanted = spaces.Dict(eye=first, ear=both["ear"])
    assert wanted.contains(as_shown_to_agents(wrapped, wanted).reset(seed=0)[0])


@pytest.fixture(scope="module")
def runs(brief_diagnosis: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny run on vectors and one on pixels."""
    params = {f"dynamics.{name}": value for name, value in TINY.items()}
    params |= {"agent.learning_starts": 100, "agent.batch_size": 2, "agent.sequence_length": 8, "agent.replay_ratio": 2}
    params |= {"agent.policy_kwargs": {"units": 8, "bins": 9}}
    folders = {}
    for env in ("Pendulum-v1", PIXELS):
        folders[env] = tmp_path_factory.mktemp("runs") / "dreamer"
        run(
            make_job("dreamer", env, steps=200, params=params, eval_freq=200, eval_episodes=1, save_freq=0),
            folders[env],
        )
    return folders


def test_samples_of_dreams_are_the_freer_the_higher_the_temperature() -> None:
    """From the last observation that was seen on; a model that takes no temperature has no samples."""
    assert not dream_of(CartModel(), played(CartModel())).samples
    env = gym.make("Pendulum-v1")
    model = MDNRNN.for_env(env, latent=2, memory=4, units=4)
    obs, action = torch.randn(30, 3), torch.zeros(29, 1)
    path = remembered(model, obs, action, [0.0] * 29, seeded())
    dreams = [dream_of(model, path, seed=seed) for seed in range(5)]
    assert list(dreams[0].samples) == [0.5, 1.0, 1.5]
    off = []
    for temperature in dreams[0].samples:
        drawn = torch.stack([dream.samples[temperature] - dream.dreamed for dream in dreams])
        assert drawn[:, :WARM_UP].abs().max() == 0
        off.append(float(drawn[:, WARM_UP:].abs().mean()))
    assert 0 < off[0] < off[1] < off[2]
    again = dream_of(model, path, seed=3).samples
    assert all(torch.equal(again[temperature], value) for temperature, value in dreams[3].samples.items())


@pytest.mark.parametrize("env", ["Pendulum-v1", PIXELS])
def test_a_report_shows_dreams_at_temperatures(brief_diagnosis: None, env: str, tmp_path: Path) -> None:
    pytest.importorskip("cma")
    params: dict[str, Any] = {
        "agent": {"learning_starts": 100, "generations": 1, "population": 2, "dreams": 1, "dream_length": 3},
        "dynamics": {"latent": 2, "memory": 4, "units": 4, "depth": 2, "batch_size": 4, "num_sequences": 2,
                     "sequence_length": 8, "vision_steps": 1, "memory_steps": 1},
    }  # fmt: skip
    flat = {f"{section}.{name}": value for section, part in params.items() for name, value in part.items()}
    spec = make_job("world_models", env, steps=110, params=flat, eval_freq=110, eval_episodes=1, save_freq=0)
    run(spec, tmp_path / "run")
    page = build_report([tmp_path / "run"], tmp_path / "page", videos=False).read_text()
    assert all(f">temperature {temperature}<" in page for temperature in ("0.5", "1", "1.5"))
    assert "the more freely the higher it is" in page


def test_a_report_shows_dreams_beside_reality(runs: dict[str, Path], tmp_path: Path) -> None:
    page = build_report(list(runs.values()), tmp_path / "page", videos=False).read_text()
    assert page.count("What a dream does not know") == page.count("Reward error over the horizon") == 2
    assert "entry 2, dream" in page and "Frames of a real episode above those of the model" in page
    assert page.count("<h3>A dream</h3>") == 2 and 'class="note"' not in page


@pytest.mark.parametrize("env", ["Pendulum-v1", PIXELS])
def test_a_video_shows_what_the_model_sees_and_then_dreams(env: str, tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (1, 32, 32), np.uint8) if env == PIXELS else gym.make(env).observation_space
    agent = agent_of(Dreamer, gym.make(env), space=space)
    seen: list[str] = []

    def noting(name: str) -> Any:
        method = getattr(agent.dynamics, name)

        def noted(*args: Tensor, **kwargs: Any) -> Any:
            seen.append(name)
            return method(*args, **kwargs)

        return noted

    model = RSSM.from_description(agent.dynamics.description())
    for name in ("begin", "step"):
        setattr(model, name, noting(name))
    count = side_by_side_video(
        agent, model, lambda: gym.make(env, render_mode="rgb_array"), tmp_path / "a", max_frames=12
    )
    assert count == 12 and seen.count("begin") == 1 and seen.count("step") == 12 - WARM_UP
