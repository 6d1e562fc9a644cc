"""Real transitions read back from a replay buffer are those the environment made."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import DQN, SAC, HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers.agents import PETS, Dyna
from mbrl_wrappers.imagination import AgentView, ModelBased, load_checkpoint, save_checkpoint
from mbrl_wrappers.imagination.real_data import real_transitions
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.types import Transitions

LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([5.0, 1.0], np.float32)


@dataclass
class Log:
    """What the environment itself saw, in the order it happened."""

    obs: list[np.ndarray] = field(default_factory=list)
    action: list[np.ndarray] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    next_obs: list[np.ndarray] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)


class Walk(gym.Env):
    """A random walk in the plane that ends beyond 3 and is cut off after ``limit`` steps; it keeps a log."""

    def __init__(self, form: str = "box", discrete: bool = False, limit: int = 7) -> None:
        box = spaces.Box(-100.0, 100.0, (2,), np.float64)
        self.form, self.discrete, self.limit = form, discrete, limit
        self.observation_space: Any = box
        if form == "dict":
            self.observation_space = spaces.Dict({"x": box, "step": spaces.Discrete(limit + 1)})
        if form == "goal":
            self.observation_space = spaces.Dict({"observation": box, "achieved_goal": box, "desired_goal": box})
        self.action_space: Any = spaces.Discrete(2) if discrete else spaces.Box(LOW, HIGH)
        self.log = Log()

    def _observation(self) -> Any:
        if self.form == "dict":
            return {"x": self.x.copy(), "step": self.count}
        if self.form == "goal":
            return {"observation": self.x.copy(), "achieved_goal": self.x.copy(), "desired_goal": np.ones(2)}
        return self.x.copy()

    def _flat(self) -> np.ndarray:
        """Lay the observation flat as Gymnasium itself does."""
        return spaces.flatten(self.observation_space, self._observation()).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.x, self.count = self.np_random.normal(size=2), 0
        return self._observation(), {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
        return -np.linalg.norm(achieved - desired, axis=-1)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        log = self.log
        log.obs.append(self._flat())
        log.action.append(np.eye(2)[action] if self.discrete else np.array(action))
        self.x = self.x + self.np_random.normal(size=2) + 0.1 * np.mean(action)
        self.count += 1
        reward = float(self.compute_reward(self.x, np.ones(2), {}))
        terminated, truncated = bool(np.abs(self.x).max() > 3), self.count >= self.limit
        log.reward.append(reward)
        log.next_obs.append(self._flat())
        log.terminated.append(terminated)
        log.truncated.append(truncated and not terminated)
        return self._observation(), reward, terminated, truncated, {}


def train(kind: Any, env: Any, steps: int, callback: Any = None, **kwargs: Any) -> Any:
    """Collect ``steps`` real steps of a tiny agent that hardly trains."""
    space = env.observation_space
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    agent = kind(
        policy, env, policy_kwargs={"net_arch": [8]}, learning_starts=30, batch_size=4, seed=0, device="cpu", **kwargs
    )
    return agent.learn(steps, callback=callback)


def watching(env: Any) -> ModelBased:
    """A callback that sees every step, and hardly fits."""
    dynamics = EnsembleDynamics.for_env(env, num_members=1, num_elites=1, hidden=(4,), max_steps=1)
    return ModelBased(Dyna(rollouts_per_step=1), dynamics, fit_every=1000)


def read(agent: Any) -> Transitions:
    dynamics = EnsembleDynamics(agent.observation_space, agent.action_space, num_members=1, num_elites=1, hidden=(4,))
    return real_transitions(agent.replay_buffer, AgentView(agent, dynamics), dynamics)


def assert_equal_to_log(real: Transitions, logs: list[Log], capacity: int, usable: Any = lambda log, t: True) -> None:
    """Compare row by row: step ``t`` of env ``i`` is stored at row ``t % capacity``, so that is its key."""
    steps = len(logs[0].obs)
    expected = {}
    for t in range(max(0, steps - capacity), steps):
        for i, log in enumerate(logs):
            if usable(log, t):
                expected[(t % capacity) * len(logs) + i] = (log, t)
    assert real.key.tolist() == sorted(expected)
    rows = [expected[key] for key in real.key.tolist()]
    for name in ("obs", "action", "reward", "next_obs"):
        value = np.array([getattr(log, name)[t] for log, t in rows])
        np.testing.assert_allclose(getattr(real, name).numpy(), value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert real.terminated.tolist() == [log.terminated[t] for log, t in rows]


CASES = {
    "plain": (SAC, {}, {}),
    "discrete actions": (DQN, {"discrete": True}, {}),
    "dict": (SAC, {"form": "dict"}, {}),
    "dict and discrete actions": (DQN, {"form": "dict", "discrete": True}, {}),
    "n-step": (TQC, {}, {"n_steps": 3}),
    "hindsight": (SAC, {"form": "goal"}, {"replay_buffer_class": HerReplayBuffer}),
}


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("capacity", [1000, 25], ids=["roomy", "wrapped around"])
@pytest.mark.parametrize(("kind", "env_kwargs", "kwargs"), CASES.values(), ids=CASES)
def test_equal_to_what_the_env_saw(kind, env_kwargs, kwargs, capacity, num_envs):
    envs = [Walk(**env_kwargs) for _ in range(num_envs)]
    agent = train(
        kind, DummyVecEnv([lambda env=env: env for env in envs]), 60, buffer_size=capacity * num_envs, **kwargs
    )
    logs = [env.log for env in envs]
    assert any(t for log in logs for t in log.terminated) and any(t for log in logs for t in log.truncated)
    assert_equal_to_log(read(agent), logs, capacity)


def test_truncation_is_no_termination_and_next_obs_is_the_last_one_of_its_episode():
    env = Walk()
    real = read(train(SAC, env, 60))
    cut = np.flatnonzero(env.log.truncated)
    over = np.flatnonzero(env.log.terminated)
    assert len(cut) > 2 and len(over) > 2
    assert not real.terminated[cut].any() and real.terminated[over].all()
    for t in [*cut, *over]:
        if t + 1 < len(env.log.obs):
            assert not np.allclose(real.next_obs[t], env.log.obs[t + 1], atol=1e-3)  # the next episode's first


def test_under_vec_normalize_all_is_raw():
    env = Walk()
    venv = VecNormalize(DummyVecEnv([lambda: env]), clip_obs=1e6)
    assert_equal_to_log(read(train(SAC, venv, 60)), [env.log], 1_000_000)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("kind", "env_kwargs", "kwargs"), CASES.values(), ids=CASES)
def test_what_vec_normalize_clips_is_raw_too(kind, env_kwargs, kwargs, num_envs):
    envs = [Walk(**env_kwargs) for _ in range(num_envs)]
    keys = ["x"] if envs[0].form == "dict" else None  # the other part is discrete
    venv = VecNormalize(DummyVecEnv([lambda env=env: env for env in envs]), clip_obs=0.5, norm_obs_keys=keys)
    agent = train(kind, venv, 60, watching(venv), **kwargs)
    agent.learn(20, callback=watching(venv), reset_num_timesteps=False)  # nothing is put around the envs twice
    assert_equal_to_log(read(agent), [env.log for env in envs], 1_000_000)


def test_agents_that_hold_a_model_see_raw_ends_too():
    env = Walk()
    venv = VecNormalize(DummyVecEnv([lambda: env]), clip_obs=0.5)
    model = EnsembleDynamics.for_env(venv, num_members=1, num_elites=1, hidden=(4,), max_steps=1)
    planner_kwargs = {"population": 2, "iterations": 1, "num_elites": 1}
    agent = PETS("MlpPolicy", venv, dynamics=model, planner_kwargs=planner_kwargs, learning_starts=50, seed=0)
    agent.learn(60)
    assert any(env.log.terminated) and any(env.log.truncated)
    assert_equal_to_log(read(agent), [env.log], 1_000_000)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("capacity", [1000, 25], ids=["roomy", "wrapped around"])
def test_memory_saving_buffers_lose_the_ends_of_episodes_and_nothing_else(capacity, num_envs):
    envs = [Walk() for _ in range(num_envs)]
    agent = train(
        SAC,
        DummyVecEnv([lambda env=env: env for env in envs]),
        60,
        buffer_size=capacity * num_envs,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    )
    steps = len(envs[0].log.obs)

    def usable(log: Log, t: int) -> bool:
        overwritten = steps >= capacity and t == steps - capacity  # by the newest next observation
        return not (log.terminated[t] or log.truncated[t] or overwritten)

    assert_equal_to_log(read(agent), [env.log for env in envs], capacity, usable)


# -- buffers that store time limits as terminations -----------------------------------------------------------


def mixed() -> dict[str, Any]:
    return {"replay_buffer_kwargs": {"handle_timeout_termination": False}}  # SB3 writes into it


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("capacity", [1000, 25], ids=["roomy", "wrapped around"])
@pytest.mark.parametrize(("kind", "env_kwargs", "kwargs"), CASES.values(), ids=CASES)
def test_a_model_is_not_fitted_on_time_limits_as_terminations(kind, env_kwargs, kwargs, capacity, num_envs):
    envs = [Walk(**env_kwargs) for _ in range(num_envs)]
    venv = DummyVecEnv([lambda env=env: env for env in envs])
    agent = train(kind, venv, 60, watching(venv), buffer_size=capacity * num_envs, **kwargs, **mixed())
    assert_equal_to_log(read(agent), [env.log for env in envs], capacity)
    ends = np.array([both(env) for env in envs]).T
    rows = np.arange(len(ends))[-capacity:]
    stored = agent.replay_buffer.dones * (1 - agent.replay_buffer.timeouts)
    np.testing.assert_array_equal(stored[rows % capacity], ends[rows])  # the agent learns as its user wants


def both(env: Walk) -> list[bool]:
    return [a or b for a, b in zip(env.log.terminated, env.log.truncated, strict=True)]


def test_of_ends_that_nobody_saw_it_is_warned_once_and_they_are_terminations():
    env = Walk()
    agent, callback = train(SAC, env, 30, **mixed()), watching(env)
    unseen = sum(both(env))
    with pytest.warns(UserWarning, match=rf"handle_timeout_termination=False .* of {unseen} episodes .* not known"):
        agent.learn(30, callback=callback, reset_num_timesteps=False)
    assert read(agent).terminated.tolist() == both(env)[:30] + env.log.terminated[30:]
    agent.learn(5, callback=callback, reset_num_timesteps=False)


@pytest.mark.parametrize("capacity", [1000, 70], ids=["roomy", "wrapped around"])
def test_what_is_known_is_forgotten_when_steps_are_stored_that_nobody_saw(capacity):
    env = Walk()
    agent = train(SAC, env, 40, watching(env), buffer_size=capacity, **mixed())
    agent.learn(40, reset_num_timesteps=False)
    stored = {t % capacity: end for t, end in enumerate(both(env))}
    assert read(agent).terminated.tolist() == [stored[row] for row in sorted(stored)]


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer will be truncated:UserWarning")
@pytest.mark.parametrize("form", ["box", "goal"])
def test_what_is_known_is_saved_with_the_buffer(form, tmp_path):
    env = Walk(form)
    kwargs: dict[str, Any] = {**mixed(), **({"replay_buffer_class": HerReplayBuffer} if form == "goal" else {})}
    agent = train(SAC, env, 60, watching(env), buffer_size=200, **kwargs)
    assert sum(env.log.terminated) and sum(env.log.truncated)
    save_checkpoint(agent, tmp_path / "checkpoint")
    agent.save_replay_buffer(tmp_path / "buffer")
    resumed: Any = load_checkpoint(SAC, tmp_path / "checkpoint", Walk(form), device="cpu")
    assert read(resumed).terminated.tolist() == env.log.terminated
    resumed.learn(20, callback=resumed.model_based, reset_num_timesteps=False)
    assert read(resumed).terminated.tolist() == env.log.terminated + resumed.env.get_attr("log")[0].terminated
    agent.load_replay_buffer(tmp_path / "buffer")  # with hindsight, SB3 cuts an episode off by calling it done
    assert read(agent).terminated.tolist() == env.log.terminated


# -- what is kept of rows --------------------------------------------------------------------------------------


def test_keys_last_as_long_as_their_rows():
    env = Walk()
    agent = train(SAC, env, 20, buffer_size=30)
    early = read(agent)
    agent.learn(25, reset_num_timesteps=False)  # 45 steps in all: 15 rows are overwritten
    late = read(agent)
    assert early.key.tolist() == list(range(20)) and late.key.tolist() == list(range(30))
    same = (late.obs[:20] == early.obs).all(-1)
    assert same.tolist() == [False] * 15 + [True] * 5


def test_values_that_are_not_finite_are_refused_with_their_row():
    env = Walk()
    agent = train(SAC, env, 20)
    agent.replay_buffer.rewards[11, 0] = np.nan
    with pytest.raises(ValueError, match=r"reward must be finite, got nan in row 11"):
        read(agent)


def test_empty_buffer_gives_no_rows():
    agent = SAC("MlpPolicy", Walk(), buffer_size=10, policy_kwargs={"net_arch": [8]}, device="cpu")
    real = read(agent)
    assert len(real) == 0 and real.obs.shape == (0, 2) and real.terminated.dtype == torch.bool


def test_an_agent_that_lost_its_vec_normalize_says_what_it_takes_observations_for(tmp_path):
    venv = VecNormalize(DummyVecEnv([Walk]))
    model = EnsembleDynamics.for_env(venv, num_members=1, num_elites=1, hidden=(4,), max_steps=1)
    planner_kwargs = {"population": 2, "iterations": 1, "num_elites": 1}
    agent = PETS("MlpPolicy", venv, dynamics=model, planner_kwargs=planner_kwargs, learning_starts=50, seed=0)
    agent.learn(20).save(tmp_path / "agent")
    obs = np.ones(2)
    PETS.load(tmp_path / "agent", env=VecNormalize(DummyVecEnv([Walk]))).predict(obs)
    loaded = PETS.load(tmp_path / "agent")
    with pytest.warns(UserWarning, match="learned under a VecNormalize and has none now"):
        loaded.predict(obs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.predict(obs)  # it is said once
