"""Sequences drawn from a replay buffer are what the envs did, in its order."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers.imagination import AgentView
from mbrl_wrappers.imagination.replay_experience import ReplayExperience
from mbrl_wrappers.models import EnsembleDynamics

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float64)


class Told(gym.Env):
    """Its observations are [env, episode, step], its rewards 100 episode + step; it remembers its actions."""

    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def __init__(self, number: int = 0, form: str = "box") -> None:
        self.number, self.form, self.episode = number, form, -1
        self.observation_space: Any = BOX
        if form == "dict":
            self.observation_space = spaces.Dict({"told": BOX, "odd": spaces.Discrete(2)})
        if form == "goal":
            self.observation_space = spaces.Dict({"observation": BOX, "achieved_goal": BOX, "desired_goal": BOX})
        self.actions: dict[tuple[int, int], float] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.episode, self.at = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        self.at += 1
        self.actions[self.episode, self.at] = float(action[0])
        length = 2 + (self.episode + self.number) % 4
        ends = self.at >= length
        is_cut = self.episode % 2 == 1
        return self._obs(), 100.0 * self.episode + self.at, ends and not is_cut, ends and is_cut, {}

    def _obs(self) -> Any:
        told = np.array([self.number, self.episode, self.at], np.float64)
        if self.form == "dict":
            return {"told": told, "odd": self.at % 2}
        if self.form == "goal":
            return {"observation": told, "achieved_goal": told, "desired_goal": np.full(3, float(self.episode))}
        return told

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        return np.zeros(len(achieved))


def experience_of(form: str = "box", num_envs: int = 1, steps: int = 60, **kwargs: Any) -> tuple[Any, list[Told]]:
    envs = [Told(number, form) for number in range(num_envs)]
    venv: Any = DummyVecEnv([lambda env=env: env for env in envs])
    if kwargs.pop("normalized", False):
        venv = VecNormalize(venv)
    agent = SAC(
        "MlpPolicy" if form == "box" else "MultiInputPolicy", venv, learning_starts=10_000, device="cpu", seed=0,
        policy_kwargs={"net_arch": [4]}, **{"buffer_size": 1_000, **kwargs},
    )  # fmt: skip
    agent.learn(steps)
    model = EnsembleDynamics(envs[0].observation_space, envs[0].action_space, num_members=2, num_elites=1, hidden=(4,))
    return (agent, ReplayExperience(agent.replay_buffer, AgentView(agent, model), model), model), envs


def told(sequences: Any, model: Any) -> np.ndarray:
    """Return env, episode and step of each entry, ``[B, T, 3]``."""
    batch, length = sequences.is_first.shape
    obs = model.obs_codec.decode_numpy(sequences.obs.flatten(0, 1))
    if isinstance(obs, dict):
        obs = obs["told"] if "told" in obs else obs["observation"]
    return np.rint(obs).reshape(batch, length, 3).astype(int)  # VecNormalize gives last observations back rounded


@pytest.mark.parametrize(
    ("form", "num_envs", "kwargs"),
    [
        ("box", 1, {}),
        ("box", 3, {}),
        ("dict", 2, {}),
        ("box", 2, {"normalized": True}),
        ("box", 1, {"n_steps": 3}),
        ("goal", 1, {"replay_buffer_class": HerReplayBuffer}),
        ("box", 1, {"buffer_size": 40}),  # older steps are overwritten
        ("box", 2, {"buffer_size": 46}),
    ],
)
def test_sequences_are_what_happened(form: str, num_envs: int, kwargs: dict[str, Any]) -> None:
    (_, experience, model), envs = experience_of(form, num_envs, steps=180 if num_envs == 1 else 240, **kwargs)
    found = experience.sequences(200, 7, torch.Generator().manual_seed(0))
    entries = told(found, model)
    assert found.obs.shape[:2] == found.reward.shape == (200, 7) and found.action.shape == (200, 7, 1)
    crossings = 0
    for sequence in range(200):
        number = entries[sequence, 0, 0]
        for t in range(7):
            own, episode, at = entries[sequence, t]
            is_first = bool(found.is_first[sequence, t])
            assert own == number
            if t:
                before = entries[sequence, t - 1]
                expected = (before[1] + 1, 0) if is_first else (before[1], before[2] + 1)
                assert (episode, at) == expected
                crossings += is_first
            if is_first:
                assert found.action[sequence, t] == found.reward[sequence, t] == 0
                assert not found.terminated[sequence, t]
                continue
            assert found.reward[sequence, t] == 100 * episode + at
            assert float(found.action[sequence, t]) == pytest.approx(envs[number].actions[episode, at], abs=1e-5)
            ends = at >= 2 + (episode + number) % 4
            assert bool(found.terminated[sequence, t]) == (ends and episode % 2 == 0)
    assert crossings > 50


def test_every_place_is_as_likely_as_any_other() -> None:
    (_, experience, model), _ = experience_of(num_envs=2, steps=80)
    found = experience.sequences(100_000, 3, torch.Generator().manual_seed(0))
    entries = told(found, model)[:, 0]
    _, counts = np.unique(entries, axis=0, return_counts=True)
    # 40 steps of each env are some 50 entries; the last two of each env begin no sequence.
    assert len(counts) > 90 and counts.max() < 1.5 * counts.min()


def test_the_same_generator_draws_the_same() -> None:
    (_, experience, _), _ = experience_of()
    one, two = (experience.sequences(9, 5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_an_episode_that_was_broken_off_ends_there() -> None:
    (agent, experience, model), _ = experience_of(steps=10)
    before = len(np.unique(told(experience.sequences(500, 1), model)[:, 0], axis=0))
    agent.learn(10)  # resets the env wherever it is
    found = experience.sequences(1_000, 2, torch.Generator().manual_seed(0))
    entries = told(found, model)
    for sequence in range(1_000):
        is_next = tuple(entries[sequence, 1, 1:]) == (entries[sequence, 0, 1], entries[sequence, 0, 2] + 1)
        assert is_next != bool(found.is_first[sequence, 1])
    assert len(np.unique(entries[:, 0], axis=0)) > before


def test_one_that_is_kept_while_the_buffer_fills_sees_what_a_new_one_sees() -> None:
    (agent, kept, model), _ = experience_of(num_envs=2, steps=8, buffer_size=40)  # 20 rows
    for steps in (2, 10, 20, 0, 22, 38, 6):  # up to its end, and over it
        agent.learn(steps, reset_num_timesteps=False)
        new = ReplayExperience(agent.replay_buffer, AgentView(agent, model), model)
        one, two = (part.sequences(50, 3, torch.Generator().manual_seed(1)) for part in (kept, new))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert one.is_first[:, 1:].any()


def test_rows_are_those_of_the_buffer() -> None:
    (agent, experience, _), _ = experience_of(steps=25)
    assert len(experience.rows()) == agent.replay_buffer.size() == 25


def test_what_can_not_be_drawn_is_refused() -> None:
    (_, experience, _), _ = experience_of(steps=10)
    with pytest.raises(ValueError, match=r"length must be at most 1[0-9], the entries of the longest stream, got 100"):
        experience.sequences(1, 100)
    kwargs = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    (_, sparing, _), _ = experience_of(steps=10, **kwargs)
    with pytest.raises(ValueError, match="optimize_memory_usage must be False to draw sequences"):
        sparing.sequences(1, 2)
