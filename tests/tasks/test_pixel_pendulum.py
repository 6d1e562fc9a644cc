"""The pendulum as pixels: the same task, and frames in which every turn shows."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import mbrl_wrappers.envs  # noqa: F401 - registers the tasks
from mbrl_wrappers.tasks.pixel_pendulum import rod

PIXELS = "mbrl_wrappers/PixelPendulum-v0"


@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_it_is_gymnasium_s_pendulum_but_for_what_is_seen() -> None:
    env, plain = gym.make(PIXELS), gym.make("Pendulum-v1")
    check_env(env.unwrapped, skip_render_check=True)
    (seen, _), (vector, _) = env.reset(seed=3), plain.reset(seed=3)
    for _ in range(200):
        drawn = rod(np.arctan2(vector[1], vector[0]))  # of float32
        assert np.abs(seen.astype(int) - drawn).max() <= 1
        action = plain.action_space.sample()
        seen, reward, *ends, _ = env.step(action)
        vector, expected, *wanted, _ = plain.step(action)
        assert reward == expected and ends == wanted
    assert ends[-1] and env.observation_space.contains(seen)


def test_frames_show_where_the_rod_points_and_small_turns() -> None:
    for angle, row, column in ((0.0, 5, 16), (np.pi, 26, 16), (np.pi / 2, 16, 5), (-np.pi / 2, 16, 26)):
        frame = rod(angle)[..., 0]
        assert frame.shape == (32, 32) and frame[row, column] == 255 and frame[31 - row, 31 - column] == 0
        assert (rod(angle + 0.02)[..., 0] != frame).sum() > 5
    brightness = [float(rod(angle).sum()) for angle in np.linspace(0, 6, 20)]
    assert brightness == pytest.approx([brightness[0]] * 20, rel=0.03)
