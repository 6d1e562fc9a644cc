"""I2A's environment model: it learns games, tells what it does not know, and comes back from a file as it was."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN
from torch import Tensor

from mbrl_wrappers.agents import Dyna
from mbrl_wrappers.envs import ImaginedEnv, ImaginedVecEnv, ImaginedVectorEnv, collect_episodes, collect_transitions
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics, FrameDynamics
from mbrl_wrappers.models.frame_network import FrameNetwork, convolve
from mbrl_wrappers.models.rollout_error import open_loop_error
from mbrl_wrappers.tasks.grids import Sokoban, SokobanGames
from mbrl_wrappers.tasks.grids.tiles import draw_tiles
from mbrl_wrappers.types import Transitions
from mbrl_wrappers.zoo.registry import DYNAMICS
from mbrl_wrappers.zoo.storage.agent_file import describe_dynamics
from testing.models import global_generators, seeded

SMALL: dict[str, Any] = {"channels": 16, "blocks": 1, "most_kinds": 8, "most_rewards": 8, "batch_size": 32}
LEVEL = "#####\n# . #\n# $ #\n#@  #\n#####"


class Room(gym.Wrapper):
    """Sokoban, always in the same level: few frames, so that a small model knows them all."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(**kwargs)
        games = self.get_wrapper_attr("games")
        games.put(0, LEVEL)
        return games.observations()[0], info


def room() -> gym.Env:
    return gym.wrappers.TimeLimit(Room(Sokoban(size=5, num_boxes=1)), 15)


def pictured() -> gym.Env:
    return gym.make("mbrl_wrappers/Sokoban-v0", size=5, num_boxes=1, render_mode="rgb_array")


def picture_of(frame: np.ndarray) -> np.ndarray:
    return draw_tiles(SokobanGames.tiles, SokobanGames.planes, frame)


@pytest.fixture(scope="module")
def report() -> dict[str, float]:
    return {}


@pytest.fixture(scope="module")
def fitted(report: dict[str, float]) -> FrameDynamics:
    model = FrameDynamics.for_env(room(), max_steps=600, patience=5, learning_rate=5e-3, **SMALL)
    report.update(model.fit(collect_transitions(room(), model, 1500, seed=0), seeded()))
    return model


def test_a_fit_learns_frames_rewards_and_ends(fitted: FrameDynamics, report: dict[str, float]) -> None:
    assert report["pixel_accuracy"] > 0.99 and report["reward_accuracy"] > 0.97
    assert report["pixel_kinds"] == 7 and report["grad_steps"] <= 600
    real = collect_transitions(room(), fitted, 600, seed=1)
    found = fitted.predict(real.obs, real.action, deterministic=True)
    moved = (real.obs != real.next_obs).any(-1)
    assert 100 < moved.sum() < 500
    assert (found.next_obs == real.next_obs).all(-1)[moved].float().mean() > 0.9
    is_right, is_rare = (found.reward - real.reward).abs() < 1e-4, (real.reward + 0.1).abs() > 1e-3
    assert is_rare.sum() > 10 and is_right[is_rare].float().mean() > 0.7 and is_right.float().mean() > 0.98
    assert (found.terminated == real.terminated).float().mean() > 0.98
    assert found.terminated[real.terminated].float().mean() > 0.7


def test_all_of_a_prediction_was_seen(fitted: FrameDynamics) -> None:
    real = collect_transitions(room(), fitted, 200, seed=2)
    for deterministic in (True, False):
        found = fitted.predict(real.obs, real.action, generator=seeded(), deterministic=deterministic)
        assert found.next_obs.dtype == torch.uint8 and found.next_obs.shape == real.obs.shape
        kinds = {tuple(pixel) for pixel in fitted.obs_codec.image(found.next_obs).movedim(1, -1).flatten(0, 2).tolist()}
        seen = {tuple(pixel) for pixel in fitted.obs_codec.image(real.obs).movedim(1, -1).flatten(0, 2).tolist()}
        assert kinds <= seen | {(0, 255, 255, 0)}
        assert set(found.reward.tolist()) <= set(fitted.rewards[: fitted.num_rewards].tolist())
        assert ((0 <= found.uncertainty) & (found.uncertainty < 0.2)).all()


def test_imagined_frames_are_shown_in_every_facade(fitted: FrameDynamics) -> None:
    start = room().reset(seed=0)[0][None]
    single = ImaginedEnv(fitted, start_obs=start, deterministic=True)
    sb3 = ImaginedVecEnv(fitted, 3, start_obs=start, deterministic=True)
    vector = ImaginedVectorEnv(fitted, 3, start_obs=start, deterministic=True)
    real = room()
    np.testing.assert_array_equal(real.reset(seed=0)[0], single.reset(seed=0)[0])
    sb3.reset()
    vector.reset(seed=0)
    for action in (2, 0, 1, 2):
        expected, reward, *_ = real.step(action)
        obs, imagined_reward, *_ = single.step(action)
        np.testing.assert_array_equal(obs, expected)
        assert imagined_reward == pytest.approx(reward)
        np.testing.assert_array_equal(sb3.step(np.full(3, action))[0][1], expected)
        np.testing.assert_array_equal(vector.step(np.full(3, action))[0][2], expected)
    single = ImaginedEnv(fitted, start_obs=start, render_mode="rgb_array", render_env=pictured())
    single.reset()
    np.testing.assert_array_equal(single.render(), picture_of(start[0]))
    agent = A2C("MlpPolicy", ImaginedVecEnv(fitted, 4, horizon=10, seed=0), policy_kwargs={"net_arch": [8]}, seed=0)
    assert agent.learn(40).num_timesteps == 40


def test_rows_do_not_influence_one_another(fitted: FrameDynamics) -> None:
    real = collect_transitions(room(), fitted, 20, seed=3)
    whole = fitted.predict(real.obs, real.action, deterministic=True)
    for row in range(20):
        part = fitted.predict(real.obs[row], real.action[row], deterministic=True)
        assert torch.equal(part.next_obs, whole.next_obs[row]) and part.reward.shape == ()
    folded = fitted.predict(real.obs.reshape(4, 5, -1), real.action.reshape(4, 5, -1), deterministic=True)
    assert torch.equal(folded.next_obs.reshape(20, -1), whole.next_obs) and folded.terminated.shape == (4, 5)


def test_all_randomness_comes_from_generators() -> None:
    before = global_generators()

    def run() -> tuple[Tensor, Tensor]:
        model = FrameDynamics.for_env(room(), max_steps=20, **SMALL)
        rows = collect_transitions(room(), model, 200, seed=0)
        model.fit(rows, seeded())
        return model.start_obs, model.predict(rows.obs, rows.action, generator=seeded(1)).next_obs

    (starts, one), (other_starts, other) = run(), run()
    assert torch.equal(starts, other_starts) and torch.equal(one, other)
    after = global_generators()
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1][1], after[1][1])


def test_sampled_pixels_follow_their_chances(fitted: FrameDynamics) -> None:
    real = collect_transitions(room(), fitted, 1, seed=4)
    obs, action = real.obs.expand(4000, -1), real.action.expand(4000, -1)
    chances = fitted.outputs(obs[:1], action[:1]).pixels.softmax(1)[0]
    kinds = fitted._one_hot(fitted._kinds(fitted.predict(obs, action, generator=seeded()).next_obs)).mean(0)
    torch.testing.assert_close(kinds, chances, atol=0.04, rtol=0)


def test_a_fit_adds_kinds_and_keeps_those_it_knows(fitted: FrameDynamics) -> None:
    model = FrameDynamics.for_env(room(), max_steps=5, **SMALL)
    rows = collect_transitions(room(), model, 300, seed=0)
    short = rows[:3]
    model.fit(short, seeded())
    known = model.codes[: model.num_kinds].clone()
    model.fit(rows, seeded())
    assert torch.equal(model.codes[: len(known)], known) and model.num_kinds > len(known)
    again = model._frames(model._kinds(rows.obs).long())
    assert torch.equal(again, rows.obs)


def test_a_pixel_that_was_never_seen_is_of_no_kind(fitted: FrameDynamics) -> None:
    obs = torch.as_tensor(room().reset(seed=0)[0]).reshape(1, -1).clone()
    obs[0, 12] = 77
    assert (fitted._one_hot(fitted._kinds(obs)).sum(1) == 0).sum() == 1
    assert fitted.predict(obs, torch.eye(4)[:1], deterministic=True).next_obs.shape == obs.shape


def test_an_agent_trains_on_imagined_frames(fitted: FrameDynamics) -> None:
    env = room()
    agent = DQN("MlpPolicy", env, learning_starts=30, buffer_size=500, policy_kwargs={"net_arch": [8]}, seed=0)
    model = FrameDynamics.for_env(env, max_steps=5, **SMALL)
    agent.learn(92, callback=ModelBased(Dyna(rollouts_per_step=3), model, fit_every=30))  # a divergence would warn
    assert agent.num_timesteps == 92 and model.num_kinds > 0


def test_errors_of_frames_are_measured_in_their_spread(fitted: FrameDynamics) -> None:
    real = collect_episodes(room(), fitted, 300, seed=6).sequences(40, 3, seeded())
    whole = ~real.is_first[:, 1:].any(1)
    obs, action = real.obs[whole], real.action[whole, 1:]
    error = open_loop_error(fitted, obs, action, horizon=2)
    assert error.shape == (whole.sum(), 2) and error.median() < 0.1
    spread = obs.float().flatten(0, 1).std(0, correction=0)
    wrong = fitted.predict(obs[:, 0], action[:, 0], deterministic=True).next_obs.float() - obs[:, 1].float()
    torch.testing.assert_close(error[:, 0], (wrong / torch.where(spread > 0, spread, 1)).square().mean(-1).sqrt())


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_predicts_the_same(fitted: FrameDynamics, tmp_path: Any) -> None:
    fitted.save(tmp_path / "room.safetensors")
    loaded = FrameDynamics.load(tmp_path / "room.safetensors")
    real = collect_transitions(room(), fitted, 30, seed=5)
    for name, value in fitted.predict(real.obs, real.action, generator=seeded()).__dict__.items():
        assert torch.equal(value, getattr(loaded.predict(real.obs, real.action, generator=seeded()), name))
    assert torch.equal(loaded.start_obs, fitted.start_obs) and loaded.settings == fitted.settings
    with pytest.raises(ValueError, match="must hold a model of kind 'EnsembleDynamics', got 'FrameDynamics'"):
        EnsembleDynamics.load(tmp_path / "room.safetensors")


def test_the_zoo_knows_the_model_by_name(fitted: FrameDynamics) -> None:
    described = describe_dynamics(fitted)
    again = DYNAMICS[described.config["kind"]].from_description(described.config["description"])
    again.load_state_dict(described.tensors)
    assert type(again) is FrameDynamics and torch.equal(again.codes, fitted.codes)
    with pytest.raises(ValueError, match="reward_fn must be None for FrameDynamics, which learns it"):
        FrameDynamics.from_description(fitted.description(), reward_fn=lambda *_: 0)
    with pytest.raises(ValueError, match="the description is not that of FrameDynamics"):
        FrameDynamics.from_description({**fitted.description(), "settings": {"layers": 3}})


# -- what is refused -----------------------------------------------------------------------------------------------


def frame_space(channels: int = 4) -> spaces.Box:
    return spaces.Box(0, 255, (channels, 9, 9), np.uint8)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (spaces.Box(-1, 1, (3,)), spaces.Discrete(2), "observation_space must be one frame of uint8"),
        (spaces.Dict(a=frame_space(), b=frame_space()), spaces.Discrete(2), "observation_space must be one frame"),
        (frame_space(8), spaces.Discrete(2), "observation_space must have up to 7 channels"),
        (frame_space(), spaces.Box(-1, 1, (1,)), "action_space must be Discrete, got Box"),
    ],
)
def test_other_spaces_are_refused(observation_space: Any, action_space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameDynamics(observation_space, action_space)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"most_kinds": 300}, "most_kinds must be at most 255, got 300"),
        ({"learning_rate": 0.0}, r"learning_rate must be in \(0, 1\], got 0.0"),
        ({"rare_share": 1.5}, r"rare_share must be in \[0, 1\], got 1.5"),
        ({"holdout_ratio": 1.0}, r"holdout_ratio must be in \[0, 0.9\], got 1.0"),
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1, got 0"),
        ({"device": "tpu9"}, "device must be one that this machine has"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameDynamics.for_env(room(), **arguments)


def test_data_that_do_not_fit_are_refused() -> None:
    model = FrameDynamics.for_env(room(), **{**SMALL, "most_kinds": 3, "most_rewards": 3})
    rows = collect_transitions(room(), model, 100, seed=0)
    with pytest.raises(ValueError, match="the model must be fitted before it predicts; call fit"):
        model.predict(rows.obs, rows.action)
    with pytest.raises(ValueError, match=r"most_kinds must be at least [67] for these frames, got 3"):
        model.fit(rows)
    model = FrameDynamics.for_env(room(), **SMALL)
    smooth = Transitions(**{**rows.__dict__, "reward": torch.linspace(0, 1, 100)})
    with pytest.raises(ValueError, match="most_rewards must be at least 100 for these steps, got 8"):
        model.fit(smooth)
    with pytest.raises(ValueError, match="transitions must hold at least one row to fit a model, got 0"):
        model.fit(rows[:0])


def test_rare_rewards_are_learned_from_few_rows_by_their_share_of_a_batch() -> None:
    def learned(rare_share: float) -> float:
        model = FrameDynamics.for_env(room(), max_steps=200, holdout_ratio=0.0, rare_share=rare_share, **SMALL)
        rows = collect_transitions(room(), model, 3000, seed=0)
        is_rare = (rows.reward + 0.1).abs() > 1e-3
        model.fit(rows[torch.cat([(~is_rare).nonzero()[:, 0], is_rare.nonzero()[:4, 0]])], seeded())
        others = rows[is_rare]
        found = model.predict(others.obs, others.action, deterministic=True)
        return float(((found.reward - others.reward).abs() < 1e-3).float().mean())

    assert learned(0.0) < 0.2 and learned(0.25) > 0.8


def test_episodes_will_do_as_experience() -> None:
    model = FrameDynamics.for_env(room(), max_steps=3, **SMALL)
    report = model.fit(collect_episodes(room(), model, 60, seed=0), seeded())
    assert report["grad_steps"] == 3 and 0 < len(model.start_obs) <= 60


def test_constants_are_convolved_as_if_they_were_tiled() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(5, 4, 3, padding=1).double()
    x, constants = torch.randn(6, 3, 5, 7).double(), torch.randn(6, 2).double()
    tiled = constants[:, :, None, None].expand(-1, -1, 5, 7)
    torch.testing.assert_close(convolve(convolution, x, constants), convolution(torch.cat([x, tiled], 1)))


@pytest.mark.parametrize("pooling", [True, False])
def test_far_pixels_matter_only_where_blocks_pool(pooling: bool) -> None:
    network = FrameNetwork(kinds=3, actions=2, rewards=2, channels=8, blocks=1, pooling=pooling, seed=0)
    frame, other = torch.zeros(2, 1, 3, 9, 9)
    other[..., 0, 0] = 10.0
    action = torch.eye(2)[:1]
    is_same = (network(frame, action).pixels == network(other, action).pixels).all(1)[0]
    assert not is_same[:4, :4].all()  # three convolutions reach three pixels
    assert is_same[4:].all() == is_same[:, 4:].all() == (not pooling)
