"""Models that learn nothing: copies of frames, and the rules of Sokoban."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.models import CopyDynamics, SokobanDynamics
from mbrl_wrappers.tasks.grids import MiniPacman, SokobanGames
from mbrl_wrappers.zoo.registry import DYNAMICS
from mbrl_wrappers.zoo.storage.agent_file import describe_dynamics
from testing.models import seeded

LEVEL = "#####\n#@  #\n# $.#\n#   #\n#####"


def sokoban(**arguments: object) -> gym.Env:
    return gym.make("mbrl_wrappers/Sokoban-v0", **{"size": 6, "num_boxes": 2, "levels": (0, 20), **arguments})


@pytest.mark.parametrize("noop", [True, False])
def test_the_rules_foresee_every_step(noop: bool) -> None:
    env = sokoban(noop=noop)
    model = SokobanDynamics.for_env(env)
    real = collect_transitions(env, model, 600, seed=0)
    said = model.predict(real.obs, real.action)
    assert torch.equal(said.next_obs, real.next_obs) and torch.equal(said.terminated, real.terminated)
    torch.testing.assert_close(said.reward, real.reward)
    assert model.fit(real, seeded()) == {"rows": 600.0, "frame_accuracy": 1.0, "reward_accuracy": 1.0}
    assert model.num_starts == 600


def test_a_copy_is_the_frame() -> None:
    env = sokoban()
    model = CopyDynamics.for_env(env)
    real = collect_transitions(env, model, 200, seed=0)
    said = model.predict(real.obs, real.action)
    assert torch.equal(said.next_obs, real.obs) and not said.terminated.any() and not said.reward.any()
    stays = (real.obs == real.next_obs).all(1).double().mean()
    assert model.fit(real)["frame_accuracy"] == pytest.approx(float(stays))


@pytest.mark.parametrize("kind", [CopyDynamics, SokobanDynamics])
def test_they_come_back_from_a_file(kind, tmp_path) -> None:
    model = kind.for_env(sokoban(), seed=3)
    model.save(tmp_path / "model.safetensors")
    again = kind.load(tmp_path / "model.safetensors")
    assert (again.observation_space, again.action_space) == (model.observation_space, model.action_space)
    assert describe_dynamics(model).config["kind"] == kind.__name__ and DYNAMICS[kind.__name__] is kind


def test_a_position_is_put_into_games_by_its_frame() -> None:
    one, games = SokobanGames(1, size=5, num_boxes=1), SokobanGames(3, size=5, num_boxes=1, max_episode_steps=9)
    one.put(0, LEVEL)
    games.put_frames(np.repeat(one.observations(), 3, 0))
    assert [games.text(row) for row in range(3)] == [LEVEL] * 3 and games.level.tolist() == [-1] * 3
    for action in (1, 3, 0, 2):  # the second one pushes the box onto the target
        (single, *_), (each, *_) = one.step(np.array([action])), games.step(np.full(3, action))
        assert np.array_equal(np.repeat(single, 3), each)
        assert np.array_equal(np.repeat(one.observations(), 3, 0), games.observations())
    assert games.info()["is_success"].all()


def test_other_frames_and_spaces_are_refused() -> None:
    games = SokobanGames(2, size=5, num_boxes=1)
    games.reset()
    frames = games.observations()
    none, several, in_the_wall = np.zeros((5, 5)), np.eye(5) * 255, np.eye(5, k=4) * 255
    for plane, wrong in ((3, none), (3, several), (3, in_the_wall), (2, none), (2, in_the_wall)):
        frames[1] = games.observations()[1]
        frames[1, plane] = wrong
        with pytest.raises(ValueError, match=r"frames must show one player, and boxes, within the walls, got in fra"):
            games.put_frames(frames)
    with pytest.raises(ValueError, match=r"observation_space must be Sokoban's Box\(.*\), got Box"):
        SokobanDynamics.for_env(MiniPacman())
    with pytest.raises(ValueError, match=r"action_space must be Sokoban's Discrete\(4\), got Discrete\(3\)"):
        SokobanDynamics(games.observation_space, spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"observation_space must be Sokoban's, got"):
        SokobanDynamics(spaces.Box(0, 255, (4, 3, 3), np.uint8), spaces.Discrete(4))
    with pytest.raises(ValueError, match="obs must have shape"):
        CopyDynamics.for_env(sokoban()).predict(torch.zeros(2, 3), torch.zeros(2, 4))
