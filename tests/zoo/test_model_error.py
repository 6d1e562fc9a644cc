"""Windows of real episodes, and the error's quantiles over them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_wrappers.models import KnownDynamics
from mbrl_wrappers.zoo.analysis.model_error import HorizonError, measure_model_error, real_windows
from mbrl_wrappers.zoo.storage.tables import read_rows, write_rows

EPISODE_LENGTHS = (4, 7, 2)


class Counter(gym.Env):
    """Adds the action to a count; episodes begin at 100, 200, ... and have the lengths above, in turn."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.episodes = 0

    def _obs(self) -> np.ndarray:
        return np.array([self.count], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.left = EPISODE_LENGTHS[self.episodes % len(EPISODE_LENGTHS)]
        self.episodes += 1
        self.count = 100.0 * self.episodes
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += float(action[0])
        self.left -= 1
        terminates = self.episodes % 2 == 0
        return self._obs(), 0.0, self.left == 0 and terminates, self.left == 0 and not terminates, {}


class Random:
    """An agent that draws its actions from a generator of its own."""

    def set_random_seed(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def predict(self, obs: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
        assert not deterministic
        return self.rng.uniform(0.1, 1.0, 1).astype(np.float32), None


def counting(bias: float = 0.0) -> KnownDynamics:
    return KnownDynamics(
        Counter.observation_space,
        Counter.action_space,
        lambda obs, action: obs + action + bias,
        lambda obs, action, next_obs: obs[..., 0],
    )


@pytest.mark.parametrize(
    ("length", "steps", "windows"),
    [
        (3, 13, 2 + 5),  # of episodes of 4, 7 and 2 steps
        (4, 13, 1 + 4),
        (7, 13, 1),
        (3, 12, 2 + 5),  # the last episode is cut off by the end
        (3, 9, 2 + 3),
    ],
)
def test_windows_are_all_that_fit_into_an_episode(length, steps, windows):
    obs, action = real_windows(Random(), counting(), Counter(), length, steps, seed=0)
    assert obs.shape == (windows, length + 1, 1) and action.shape == (windows, length, 1)
    # The counter adds up within a window, so no window reaches over the start of an episode.
    torch.testing.assert_close(obs[:, 1:], obs[:, :-1] + action, rtol=0, atol=1e-4)
    assert len(obs[:, 0].unique()) == windows


def test_a_horizon_longer_than_all_episodes_is_cut():
    obs, action = real_windows(Random(), counting(), Counter(), length=50, steps=13, seed=0)
    assert obs.shape == (1, 8, 1) and action.shape == (1, 7, 1)


def test_the_error_of_a_biased_model_grows_step_by_step():
    rows = measure_model_error(Random(), counting(bias=0.5), Counter(), horizon=3, steps=130)
    assert [row.steps_ahead for row in rows] == [1, 2, 3]
    for row in rows:
        assert row.low == pytest.approx(row.median, rel=1e-3) == pytest.approx(row.high, rel=1e-3)
        assert row.median == pytest.approx(row.steps_ahead * rows[0].median, rel=1e-3)
    assert rows == measure_model_error(Random(), counting(bias=0.5), Counter(), horizon=3, steps=130)


def test_rows_come_back_from_their_file(tmp_path):
    rows = [HorizonError(1, 0.1, 1 / 3, 1e-30), HorizonError(2, 0.0, 2.5, float("inf"))]
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv", HorizonError) == rows
    assert (tmp_path / "rows.csv").read_text().splitlines()[0] == "steps_ahead,low,median,high"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps_ahead,low,median\n1,2,3\n", "rows.csv must have the columns"),
        ("steps_ahead,low,median,high\n1,2,three,4\n", "rows.csv must hold numbers: .*three"),
        ("steps_ahead,low,median,high\n1,2\n", "rows.csv must hold numbers"),
        ("", "rows.csv must have the columns"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "rows.csv", HorizonError)
