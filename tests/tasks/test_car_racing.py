"""CarRacing: its frames, its actions, and the error where Box2D is not installed."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import mbrl_wrappers.envs  # noqa: F401 - registers the tasks
from mbrl_wrappers.tasks.car_racing import VIEW, CarRacing
from mbrl_wrappers.tasks.frames import scaled_down

ACTIONS = np.array([[0.3, 0.5, -1.0], [-1.0, -0.2, 0.4], [0.0, 1.0, 0.0]], np.float32)


def made(env_id: str, **kwargs: Any) -> Any:
    pytest.importorskip("Box2D", exc_type=ImportError)
    pytest.importorskip("pygame")
    return gym.make(env_id, **kwargs)


def test_it_is_gymnasium_s_env_with_gas_and_brake_in_the_authors_units() -> None:
    real, own = made("CarRacing-v3"), made("mbrl_wrappers/CarRacing-v0")
    assert own.observation_space.contains(own.reset(seed=3)[0])
    real.reset(seed=3)
    for steering, gas, brake in np.repeat(ACTIONS, 10, 0).tolist():
        theirs = real.step(np.array([steering, (gas + 1) / 2, max(brake, 0)], np.float32))
        obs, reward, *rest = own.step(np.array([steering, gas, brake], np.float32))
        np.testing.assert_array_equal(obs, scaled_down(theirs[0], VIEW))
        assert reward == pytest.approx(theirs[1], abs=1e-6) and rest[:2] == list(theirs[2:4])
    assert own.unwrapped.car.hull.position[0] == pytest.approx(real.unwrapped.car.hull.position[0])


def test_four_steps_at_once_are_the_same_game_to_its_end() -> None:
    """Straight ahead, which leaves the field in the end."""
    seen = []
    for name in ("CarRacing", "CarRacingFrameSkip4"):
        env = made(f"mbrl_wrappers/{name}-v0")
        env.reset(seed=0)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, info = env.step(np.zeros(3, np.float32))
            total, over = total + reward, terminated or truncated
        seen.append((total, obs, terminated, info["lap_finished"]))
    assert seen[0][0] == pytest.approx(seen[1][0]) and seen[0][2:] == seen[1][2:] == (True, False)
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("frame_skip", [0, -1, 1.5])
def test_a_bad_frame_skip_is_named(frame_skip: Any) -> None:
    with pytest.raises(ValueError, match=f"frame_skip must be .*, got {frame_skip}"):
        CarRacing(frame_skip=frame_skip)


def test_a_missing_box2d_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ValueError, match=r"CarRacing needs Box2D and pygame: pip install 'gymnasium\[box2d\]'"):
        CarRacing()
