"""Imagined futures are those of the model, an observation's own, and SB3's agents train on them as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from mbrl_wrappers.agents.networks import ImaginationExtractor
from mbrl_wrappers.envs import GamesVecEnv
from mbrl_wrappers.models import CopyDynamics, EnsembleDynamics, SokobanDynamics
from mbrl_wrappers.tasks.grids import MiniPacmanGames, SokobanGames
from mbrl_wrappers.wrappers import ImaginationCore, VecImaginedFutures
from testing.models import global_generators, seeded

UP, RIGHT = 0, 3
SMALL = {"channels": 4, "features_dim": 8, "rollout_channels": 4, "frame_features": 8, "rollout_features": 8}


def games(count: int, limit: int | None = 20) -> SokobanGames:
    return SokobanGames(count, size=5, num_boxes=1, levels=(0, 50), max_episode_steps=limit)


def rules() -> SokobanDynamics:
    return SokobanDynamics(games(1).observation_space, games(1).action_space)


def positions(count: int) -> np.ndarray:
    """Frames of games in the middle of random play."""
    played, generator = games(count, None), np.random.default_rng(0)
    played.seed(list(range(count)))
    played.reset()
    for _ in range(5):
        played.step(generator.integers(4, size=count))
    return played.observations()


def always(action: int) -> Any:
    return lambda frames: torch.full((len(frames), 4), -1e9).index_fill(1, torch.tensor(action), 0.0)


def test_rollouts_are_what_the_game_does() -> None:
    obs = positions(6)
    imagined = ImaginationCore(rules(), 4, always(RIGHT)).imagine(obs)
    for first in range(4):
        played, over = games(6, None), np.zeros(6, bool)
        played.put_frames(obs)
        for step in range(4):
            before = played.observations()
            reward = played.step(np.full(6, RIGHT if step else first)).reward
            shown = np.where(over[:, None, None, None], before, played.observations())
            np.testing.assert_array_equal(imagined["frames"][~over, first, step], shown[~over])
            np.testing.assert_allclose(imagined["rewards"][:, first, step], np.where(over, 0, reward), atol=1e-6)
            over |= played._boxes_off == 0
    assert np.array_equal(imagined["observation"], obs)


def test_a_rollout_that_has_ended_stays_and_earns_nothing() -> None:
    played = games(1)
    played.put(0, "#####\n#   #\n#@$.#\n#   #\n#####")
    imagined = ImaginationCore(rules(), 3, always(UP)).imagine(played.observations())
    frames, rewards = imagined["frames"][0, RIGHT], imagined["rewards"][0, RIGHT]
    np.testing.assert_allclose(rewards, [10.9, 0, 0], atol=1e-6)
    assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[1], frames[2])
    assert imagined["rewards"][0, UP].tolist() == pytest.approx([-0.1] * 3)


def test_actions_behind_the_first_are_drawn_from_the_rollout_policy() -> None:
    chances, seen = torch.tensor([0.1, 0.2, 0.3, 0.4]), []

    class Watched(SokobanDynamics):
        def step(self, state: Tensor, action: Tensor, *args: Any, **kwargs: Any) -> Any:
            seen.append(action)
            return super().step(state, action, *args, **kwargs)

    model = Watched(games(1).observation_space, games(1).action_space)
    core = ImaginationCore(model, 6, lambda frames: chances.log().expand(len(frames), -1))
    core.imagine(positions(200), seeded())
    first, *later = seen
    assert torch.equal(first.argmax(1), torch.arange(4).repeat(200))
    np.testing.assert_allclose(torch.cat(later).mean(0), chances, atol=0.02)


def test_a_row_does_not_know_its_neighbours() -> None:
    obs, core = positions(8), ImaginationCore(rules(), 3)
    together = core.imagine(obs, seeded(), alike=True)
    for row in range(8):
        alone = core.imagine(obs[row : row + 1], seeded(), alike=True)
        for key, values in together.items():
            assert np.array_equal(alone[key][0], values[row])


def test_a_generator_is_all_that_rollouts_draw_from() -> None:
    before, core = global_generators(), ImaginationCore(rules(), 3)
    first, again = (core.imagine(positions(8), seeded(4)) for _ in range(2))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert all(np.array_equal(a, b) for a, b in zip(before[:1], global_generators()[:1], strict=True))
    assert not np.array_equal(first["frames"], core.imagine(positions(8), seeded(5))["frames"])


@pytest.mark.parametrize("monitor_is_outside", [True, False])
def test_last_observations_have_their_own_futures(monitor_is_outside: bool) -> None:
    env: Any = GamesVecEnv(games(3, limit=4), seed=0)
    core = ImaginationCore(rules(), 2, always(UP))
    env = VecMonitor(VecImaginedFutures(env, core)) if monitor_is_outside else VecImaginedFutures(VecMonitor(env), core)
    twin, generator = GamesVecEnv(games(3, limit=4), seed=0), np.random.default_rng(0)
    obs, plain = env.reset(), twin.reset()
    for step in range(1, 13):
        assert env.observation_space.contains({key: values[0] for key, values in obs.items()})
        assert np.array_equal(obs["observation"], plain)
        assert np.array_equal(obs["frames"], core.imagine(plain)["frames"])
        actions = generator.integers(4, size=3)
        (obs, *_, infos), (plain, *_, own) = env.step(actions), twin.step(actions)
        for info, plain_info in zip(infos, own, strict=True):
            assert ("terminal_observation" in info) == ("terminal_observation" in plain_info)
            if "terminal_observation" in info:
                last = plain_info["terminal_observation"]
                assert np.array_equal(info["terminal_observation"]["observation"], last)
                expected = core.imagine(last[None])
                assert np.array_equal(info["terminal_observation"]["frames"], expected["frames"][0])
                assert info["episode"]["l"] == plain_info["episode"]["l"]
        assert any("terminal_observation" in info for info in infos) or step % 4


@pytest.mark.parametrize("kind", [A2C, PPO])
def test_agents_of_sb3_train_on_them_unchanged(kind: Any) -> None:
    """Time limits are met too, where SB3 asks for the value of the last observation."""
    env = VecImaginedFutures(GamesVecEnv(games(4, limit=3), seed=0), ImaginationCore(rules(), 2), seed=0)
    own: dict[str, Any] = {"batch_size": 16} if kind is PPO else {}
    policy = {"features_extractor_class": ImaginationExtractor, "features_extractor_kwargs": SMALL, "net_arch": []}
    agent = kind("MultiInputPolicy", env, n_steps=8, policy_kwargs=policy, seed=0, device="cpu", **own)
    before = {name: value.clone() for name, value in agent.policy.named_parameters()}
    agent.learn(64)
    assert all(not torch.equal(before[name], value) for name, value in agent.policy.named_parameters())
    stored = agent.rollout_buffer.observations["frames"]
    assert stored.dtype == np.uint8 and stored.shape[-5:] == (4, 2, 4, 5, 5)
    # What is stored was imagined from the observation beside it.
    observation = agent.rollout_buffer.observations["observation"].reshape(-1, 4, 5, 5)
    expected = ImaginationCore(rules(), 1).imagine(observation)["frames"][:, :, 0]
    assert np.array_equal(stored.reshape(-1, 4, 2, 4, 5, 5)[:, :, 0], expected)


def test_other_spaces_are_refused() -> None:
    vector = spaces.Box(-1, 1, (3,), np.float32)
    model = EnsembleDynamics(vector, spaces.Discrete(2), hidden=(8,))
    with pytest.raises(ValueError, match=r"observation_space must be a frame of uint8, channels first, got Box"):
        ImaginationCore(model)
    last = CopyDynamics(spaces.Box(0, 255, (9, 9, 3), np.uint8), spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"observation_space must be a frame of uint8, channels first, got Box"):
        ImaginationCore(last)
    continuous = CopyDynamics(spaces.Box(0, 255, (3, 9, 9), np.uint8), vector)
    with pytest.raises(ValueError, match=r"action_space must be Discrete and start at 0, got Box"):
        ImaginationCore(continuous)
    with pytest.raises(ValueError, match=r"length must be a whole number of at least 1, got 0"):
        ImaginationCore(rules(), 0)
    with pytest.raises(ValueError, match=r"dynamics.observation_space must equal the env's"):
        VecImaginedFutures(GamesVecEnv(MiniPacmanGames(2)), ImaginationCore(rules()))
