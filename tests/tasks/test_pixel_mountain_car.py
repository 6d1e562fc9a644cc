"""The mountain car as pixels: the same task, and frames in which every step shows."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import mbrl_wrappers.envs  # noqa: F401 - registers the tasks
from mbrl_wrappers.tasks.pixel_mountain_car import car, place_of

PIXELS = "mbrl_wrappers/PixelMountainCarContinuous-v0"


@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_it_is_gymnasium_s_car_but_for_what_is_seen() -> None:
    env, plain = gym.make(PIXELS), gym.make("MountainCarContinuous-v0")
    check_env(env.unwrapped, skip_render_check=True)
    (seen, _), (vector, _) = env.reset(seed=3), plain.reset(seed=3)
    for step in range(999):
        assert np.abs(seen.astype(int) - car(float(vector[0]))).max() <= 1
        action = np.array([1.0 if vector[1] > 0 or step < 10 else -1.0], np.float32)  # energy enough to arrive
        seen, reward, *ends, _ = env.step(action)
        vector, expected, *wanted, _ = plain.step(action)
        assert reward == expected and ends == wanted
        if ends[0]:
            break
    assert ends == [True, False] and env.observation_space.contains(seen)


def test_frames_show_where_the_car_is_and_small_steps() -> None:
    for position in (-1.2, -0.5, 0.0, 0.45, 0.6):
        row, column = (round(float(place)) for place in place_of(position))
        frame = car(position)[..., 0]
        assert 0 <= row < 32 and 0 <= column < 32 and frame[row, column] == 255
        assert (car(position + 0.002)[..., 0] != frame).sum() > 5
