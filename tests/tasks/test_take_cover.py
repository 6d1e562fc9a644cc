"""VizDoom's TakeCover: what is seen of it, what it pays, and what is said where vizdoom is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import mbrl_wrappers.envs  # noqa: F401 - registers the tasks
from mbrl_wrappers.tasks.frames import scaled_down
from mbrl_wrappers.tasks.take_cover import VIEW, TakeCover


def test_each_pixel_is_the_mean_of_its_area_above_the_status_bar() -> None:
    screen = np.zeros((192, 128, 3), np.uint8)  # without its last sixth 160 x 128
    screen[:80, :64] = 200
    screen[160:] = 255
    frame = scaled_down(screen, VIEW)
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
    assert (frame[:32, :32] == 200).all() and not frame[32:].any() and not frame[:, 32:].any()


def test_each_step_of_life_pays_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)  # VizDoom writes its settings into the current folder
    env: Any = gym.make("mbrl_wrappers/TakeCover-v0", max_episode_steps=30)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs) and env.action_space.n == 3 and len(np.unique(obs)) > 20
    rewards, over = [], False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(0)
        rewards.append(reward)
        over = terminated or truncated
    env.close()
    assert set(rewards) == {1.0} and env.observation_space.contains(obs)


@pytest.mark.parametrize("seed", [0, 4])
def test_four_tics_a_step_are_the_same_game(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its end, which comes within a step or not."""
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    survived = []
    for name in ("TakeCover", "TakeCoverFrameSkip4"):
        env: Any = gym.make(f"mbrl_wrappers/{name}-v0")
        env.reset(seed=seed)
        rewards, terminated = [], False
        while not terminated:
            _, reward, terminated, _, _ = env.step(0)
            rewards.append(reward)
        env.close()
        survived.append(sum(rewards))
    assert survived[0] == survived[1] > 4 and set(rewards[:-1]) == {4.0} and 1 <= rewards[-1] <= 4


def test_a_missing_vizdoom_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom.gymnasium_wrapper", None)
    with pytest.raises(ValueError, match=r"TakeCover needs vizdoom: pip install 'mbrl-wrappers\[vizdoom\]'"):
        TakeCover()
