"""A model as a Stable-Baselines3 VecEnv, and agents that train in it."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from sb3_contrib import ARS, TRPO, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from mbrl_wrappers.envs import ImaginedVecEnv
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.types import Transitions
from testing.envs import walker
from testing.models import global_generators, walker_model

HORIZON = 6


def _real_walks(num_envs: int) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(gym.wrappers.TimeLimit(walker(), HORIZON)) for _ in range(num_envs)])


def _actions(num_steps: int, num_envs: int, seed: int = 0) -> np.ndarray:
    """Random actions that drift, so that some walkers fall and some run out of time."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(-0.8, 0.8, num_envs)[:, None]
    return np.clip(rng.uniform(-1, 1, (num_steps, num_envs, 1)) + drift, -1, 1).astype(np.float32)


def _fitted(env_id: str) -> EnsembleDynamics:
    """Fit a small ensemble on random play in a real env."""
    env = gym.make(env_id)
    dynamics = EnsembleDynamics.for_env(env, num_members=3, num_elites=2, hidden=(32, 32), max_steps=150)
    rows: dict[str, list[Any]] = {"obs": [], "action": [], "reward": [], "next_obs": [], "terminated": []}
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for _ in range(300):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        for name, value in zip(rows, (obs, action, reward, next_obs, terminated), strict=True):
            rows[name].append(value)
        obs = env.reset()[0] if terminated or truncated else next_obs
    columns = {name: np.array(value) for name, value in rows.items()}
    transitions = Transitions(
        obs=dynamics.obs_codec.encode(columns["obs"]),
        action=dynamics.action_codec.encode(columns["action"]),
        reward=torch.as_tensor(columns["reward"]).float(),
        next_obs=dynamics.obs_codec.encode(columns["next_obs"]),
        terminated=torch.as_tensor(columns["terminated"]),
        key=torch.arange(300),
    )
    dynamics.fit(transitions, torch.Generator().manual_seed(0))
    return dynamics


@pytest.fixture(scope="module")
def cartpole() -> EnsembleDynamics:
    return _fitted("CartPole-v1")


@pytest.fixture(scope="module")
def pendulum() -> EnsembleDynamics:
    return _fitted("Pendulum-v1")


def _dict_dynamics() -> KnownDynamics:
    """A room with a light: the action switches it, and the position decays."""
    space = spaces.Dict({"light": spaces.Discrete(2), "where": spaces.Box(-1, 1, (2,))})
    return KnownDynamics(
        space,
        spaces.Discrete(2),
        lambda obs, action: torch.cat([action, 0.5 * obs[:, 2:]], dim=-1),
        lambda obs, action, next_obs: next_obs[..., 1],
        start_obs=torch.tensor([[1.0, 0.0, 0.8, -0.8], [0.0, 1.0, 0.4, 0.4]]),
    )


# --- the semantics of a VecEnv


def test_every_return_value_is_that_of_a_dummy_vec_env():
    num_envs, kinds = 5, set()
    real, imagined = _real_walks(num_envs), ImaginedVecEnv(walker_model(), num_envs, horizon=HORIZON)
    np.testing.assert_array_equal(imagined.reset(), real.reset())
    for actions in _actions(60, num_envs):
        obs, rewards, dones, infos = real.step(actions)
        said_obs, said_rewards, said_dones, said_infos = imagined.step(actions)
        np.testing.assert_allclose(said_obs, obs, atol=1e-6)
        np.testing.assert_allclose(said_rewards, rewards, atol=1e-6)
        np.testing.assert_array_equal(said_dones, dones)
        assert said_obs.dtype == obs.dtype and said_rewards.dtype == rewards.dtype and said_dones.dtype == dones.dtype
        for done, info, said in zip(dones, infos, said_infos, strict=True):
            assert said["TimeLimit.truncated"] is bool(info["TimeLimit.truncated"])
            assert said.keys() - {"uncertainty", "diverged"} == info.keys()
            if done:
                np.testing.assert_allclose(said["terminal_observation"], info["terminal_observation"], atol=1e-6)
                assert said["episode"]["l"] == info["episode"]["l"]
                assert said["episode"]["r"] == pytest.approx(info["episode"]["r"], abs=1e-5)
                assert said["episode"]["t"] >= 0
                kinds.add((said["TimeLimit.truncated"], said["episode"]["l"] == HORIZON))
    assert kinds >= {(True, True), (False, False)}


def test_a_termination_at_the_horizon_is_no_time_limit():
    env = ImaginedVecEnv(walker_model(), 2, horizon=4)
    env.reset()
    for _ in range(3):
        env.step(np.array([[1.0], [0.1]], np.float32))
    _, _, dones, infos = env.step(np.array([[1.0], [0.1]], np.float32))
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]


def test_episodes_restart_where_the_model_may_start():
    starts = torch.tensor([[0.25], [0.5]])
    env = ImaginedVecEnv(walker_model(start_obs=starts), 64, horizon=2, seed=0)
    first = env.reset()
    env.step(np.zeros((64, 1), np.float32))
    again, _, dones, infos = env.step(np.zeros((64, 1), np.float32))
    assert dones.all() and set(again[:, 0]) == {0.25, 0.5}
    assert not np.array_equal(again, first)
    np.testing.assert_array_equal([info["terminal_observation"] for info in infos], first)


def test_reset_starts_returns_and_lengths_anew():
    env = ImaginedVecEnv(walker_model(), 1, horizon=3)
    env.reset()
    env.step(np.array([[1.0]], np.float32))
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.array([[1.0]], np.float32))
    assert dones.all() and (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (6.0, 3)


def test_a_diverged_episode_is_truncated_and_shown_as_such():
    env = ImaginedVecEnv(
        walker_model(step_fn=lambda obs, action: torch.where(action > 0.5, torch.nan, obs + action)), 3
    )
    env.reset()
    env.step(np.full((3, 1), 0.25, np.float32))
    obs, rewards, dones, infos = env.step(np.array([[0.25], [1.0], [0.25]], np.float32))
    assert dones.tolist() == [False, True, False] and rewards.tolist() == [0.5, 0, 0.5]
    assert [info["diverged"] for info in infos] == [False, True, False]
    assert infos[1]["TimeLimit.truncated"] and infos[1]["terminal_observation"] == 0.25
    assert obs[:, 0].tolist() == [0.5, 0, 0.5]


def _record(env: ImaginedVecEnv, num_steps: int) -> list[Any]:
    env.action_space.seed(0)
    record: list[Any] = [env.reset()]
    for _ in range(num_steps):
        obs, rewards, dones, infos = env.step(np.stack([env.action_space.sample() for _ in range(env.num_envs)]))
        for info in infos:
            if "episode" in info:
                del info["episode"]["t"]  # wall time
        record.append((obs, rewards, dones, infos))
    return record


def test_seeded_runs_are_equal_bit_for_bit(pendulum):
    record = _record(ImaginedVecEnv(pendulum, 4, horizon=5, seed=3), 12)
    env = ImaginedVecEnv(pendulum, 4, horizon=5, seed=3)
    assert data_equivalence(_record(env, 12), record, exact=True)
    assert not data_equivalence(_record(env, 12), record)  # goes on
    assert not data_equivalence(_record(ImaginedVecEnv(pendulum, 4, horizon=5, seed=4), 12), record)
    assert not data_equivalence(_record(ImaginedVecEnv(pendulum, 4, horizon=5), 12), record)
    # as SB3 has it, a seed takes effect at the next reset, and once
    assert env.seed(3) == [3, 4, 5, 6]
    assert data_equivalence(_record(env, 12), record, exact=True)
    assert not data_equivalence(_record(env, 12), record)


def test_imagining_leaves_other_generators_alone(pendulum):
    states = global_generators()
    for seed in (0, None):
        _record(ImaginedVecEnv(pendulum, 2, horizon=3, seed=seed), 5)
    assert data_equivalence(global_generators(), states, exact=True)


def test_a_known_model_needs_nothing_else():
    env = ImaginedVecEnv(KnownDynamics.for_env("Pendulum-v1"), 256)
    assert env.reset().shape == (256, 3)
    obs, rewards, dones, infos = env.step(np.zeros((256, 1), np.float32))
    assert obs.shape == (256, 3) and rewards.shape == dones.shape == (256,) and len(infos) == 256
    assert np.isfinite(obs).all() and len(np.unique(obs, axis=0)) > 200


def test_dict_observations_are_dicts_of_batches():
    env = ImaginedVecEnv(_dict_dynamics(), 3, horizon=2, seed=0)
    obs = env.reset()
    assert {key: (value.shape, value.dtype) for key, value in obs.items()} == {
        "light": ((3,), np.int64),
        "where": ((3, 2), np.float32),
    }
    for switches in (np.array([0, 1, 1]), np.array([1, 0, 1])):
        before, (obs, rewards, dones, infos) = obs, env.step(switches)
    assert rewards.tolist() == [1, 0, 1] and dones.all()
    last = [info["terminal_observation"] for info in infos]
    assert all(env.observation_space.contains(element) for element in last)
    assert [element["light"] for element in last] == [1, 0, 1]
    np.testing.assert_allclose([element["where"] for element in last], 0.5 * before["where"], atol=1e-6)


# --- masks, attributes, methods


def test_masks_default_to_every_action_being_valid(cartpole):
    env = ImaginedVecEnv(cartpole, 3)
    assert is_masking_supported(env)
    np.testing.assert_array_equal(get_action_masks(env), np.ones((3, 2), bool))


def test_given_masks_follow_the_observations():
    dynamics = walker_model(
        action_space=spaces.Discrete(3), step_fn=lambda obs, action: obs + action @ torch.arange(-1.0, 2)[:, None]
    )

    def valid(obs: torch.Tensor) -> torch.Tensor:
        """No step further out than 1."""
        return (obs + torch.arange(-1.0, 2)).abs() <= 1

    env = ImaginedVecEnv(dynamics, 3, action_mask_fn=valid)
    env.reset()
    np.testing.assert_array_equal(get_action_masks(env), np.ones((3, 3), bool))
    env.step(np.array([0, 1, 2]))
    expected = np.array([[False, True, True], [True, True, True], [True, True, False]])
    np.testing.assert_array_equal(get_action_masks(env), expected)
    np.testing.assert_array_equal(np.stack(env.env_method("action_masks", indices=[2, 0])), expected[[2, 0]])
    np.testing.assert_array_equal(env.env_method("action_masks", indices=1), expected[[1]])


def test_masks_of_several_components_lie_side_by_side():
    dynamics = walker_model(action_space=spaces.MultiDiscrete([3, 2]), step_fn=lambda obs, action: obs)
    np.testing.assert_array_equal(get_action_masks(ImaginedVecEnv(dynamics, 4)), np.ones((4, 5), bool))


def test_continuous_actions_have_no_masks():
    env = ImaginedVecEnv(walker_model(), 2)
    assert not env.has_attr("action_masks") and not is_masking_supported(env)
    with pytest.raises(AttributeError, match="imagined episodes have no method 'action_masks'"):
        env.env_method("action_masks")
    with pytest.raises(ValueError, match="action_mask_fn needs a discrete action space, got Box"):
        ImaginedVecEnv(walker_model(), 2, action_mask_fn=lambda obs: obs > 0)


def test_attributes_are_those_of_the_whole():
    dynamics = walker_model()
    env = ImaginedVecEnv(dynamics, 3)
    assert env.get_attr("dynamics") == [dynamics] * 3
    assert env.get_attr("render_mode", indices=[0, 2]) == [None, None]
    assert env.get_attr("num_envs", indices=1) == [3]
    assert env.has_attr("dynamics") and not env.has_attr("nothing")
    with pytest.raises(AttributeError, match="nothing"):
        env.get_attr("nothing")
    env.set_attr("note", "seen")
    assert env.get_attr("note") == ["seen"] * 3
    with pytest.raises(AttributeError, match="imagined episodes have no method 'jump'"):
        env.env_method("jump")
    assert env.env_is_wrapped(Monitor) == [False] * 3
    assert env.get_images() == [None] * 3
    assert env.unwrapped is env
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number of at least 1, got 0"),
        ({"num_envs": -2}, "num_envs must be a whole number of at least 1, got -2"),
        ({"num_envs": 2, "horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"num_envs": 2, "start_obs": np.zeros((0, 1))}, "start_obs must hold at least one observation, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImaginedVecEnv(walker_model(), **arguments)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_one_action_for_each_episode(rows):
    env = ImaginedVecEnv(walker_model(), 3)
    env.reset()
    with pytest.raises(ValueError, match=rf"action must have shape \(3, 1\), .*, got \({rows}, 1\)"):
        env.step(np.zeros((rows, 1), np.float32))


def test_a_model_without_start_states_is_refused():
    dynamics = EnsembleDynamics(spaces.Box(-1, 1, (1,)), spaces.Discrete(2), hidden=(8,))
    with pytest.raises(ValueError, match="start_obs must be given for a model that was never fitted, got None"):
        ImaginedVecEnv(dynamics, 4)


# --- SB3's wrappers around it


def test_vec_normalize_scales_observations_and_last_observations():
    env: Any = VecNormalize(ImaginedVecEnv(KnownDynamics.for_env("Pendulum-v1"), 16, horizon=5, seed=0), clip_obs=100.0)
    env.reset()
    for _ in range(20):
        obs, rewards, dones, infos = env.step(np.zeros((16, 1), np.float32))
        np.testing.assert_allclose(env.unnormalize_obs(obs), env.get_original_obs(), atol=1e-4)
        for done, info in zip(dones, infos, strict=True):
            if done:
                last = env.unnormalize_obs(info["terminal_observation"])
                assert np.square(last[:2]).sum() == pytest.approx(1, abs=1e-3)
    assert env.obs_rms.count > 300 and np.abs(rewards).max() < np.abs(env.get_original_reward()).max()


def test_vec_monitor_counts_as_the_env_itself_does():
    inner = ImaginedVecEnv(walker_model(), 4, horizon=HORIZON)
    env = VecMonitor(inner)
    real = _real_walks(4)
    env.reset(), real.reset()
    for actions in _actions(30, 4):
        infos, expected = env.step(actions)[3], real.step(actions)[3]
        for info, other in zip(infos, expected, strict=True):
            assert ("episode" in info) == ("episode" in other)
            if "episode" in info:
                assert info["episode"]["l"] == other["episode"]["l"]
                assert info["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-5)


# --- agents

TINY = {"net_arch": [8]}
AGENTS: dict[str, tuple[Any, str, str, dict[str, Any]]] = {
    "PPO": (PPO, "MlpPolicy", "pendulum", {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "policy_kwargs": TINY}),
    "PPO, discrete": (
        PPO,
        "MlpPolicy",
        "cartpole",
        {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "policy_kwargs": TINY},
    ),
    "A2C": (A2C, "MlpPolicy", "pendulum", {"n_steps": 8, "policy_kwargs": TINY}),
    "A2C, discrete": (A2C, "MlpPolicy", "cartpole", {"n_steps": 8, "policy_kwargs": TINY}),
    "TRPO": (TRPO, "MlpPolicy", "pendulum", {"n_steps": 16, "batch_size": 32, "policy_kwargs": TINY}),
    "RecurrentPPO": (
        RecurrentPPO,
        "MlpLstmPolicy",
        "pendulum",
        {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "policy_kwargs": TINY | {"lstm_hidden_size": 8}},
    ),
    "MaskablePPO": (
        MaskablePPO,
        "MlpPolicy",
        "cartpole",
        {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "policy_kwargs": TINY},
    ),
    "ARS": (ARS, "LinearPolicy", "pendulum", {"n_delta": 2, "n_eval_episodes": 4}),
}


def _parameters(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()]).clone()


@pytest.mark.parametrize("name", AGENTS)
def test_agents_train_save_load_and_resume(name, request, tmp_path):
    agent_class, policy, model, settings = AGENTS[name]
    env = ImaginedVecEnv(request.getfixturevalue(model), 4, horizon=10, seed=0)
    agent = agent_class(policy, env, seed=0, device="cpu", **settings)
    start = _parameters(agent)
    agent.learn(128)
    learned, steps = _parameters(agent), agent.num_timesteps
    assert steps >= 128 and learned.isfinite().all() and not torch.equal(learned, start)
    if name != "ARS":  # whose buffer is its own
        assert {episode["l"] for episode in agent.ep_info_buffer} and all(e["l"] <= 10 for e in agent.ep_info_buffer)

    agent.save(tmp_path / "agent")
    again = agent_class.load(tmp_path / "agent", env=env, device="cpu")
    obs = env.reset()
    np.testing.assert_array_equal(again.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])
    assert torch.equal(_parameters(again), learned)
    again.learn(128, reset_num_timesteps=False)
    assert again.num_timesteps >= steps + 128 and not torch.equal(_parameters(again), learned)


@pytest.mark.parametrize("name", ["PPO", "MaskablePPO", "ARS"])
def test_training_is_a_function_of_the_seed(name, request):
    agent_class, policy, model, settings = AGENTS[name]
    trained = []
    for seed in (0, 0, 1):
        env = ImaginedVecEnv(request.getfixturevalue(model), 4, horizon=10)
        agent = agent_class(policy, env, seed=seed, device="cpu", **settings).learn(64)
        trained.append(_parameters(agent))
    assert torch.equal(trained[0], trained[1]) and not torch.equal(trained[0], trained[2])


def test_ppo_trains_on_dict_observations():
    env = VecMonitor(ImaginedVecEnv(_dict_dynamics(), 4, horizon=10, seed=0))
    agent = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, policy_kwargs=TINY, seed=0, device="cpu")
    start = _parameters(agent)
    agent.learn(64)
    assert not torch.equal(_parameters(agent), start)


def test_maskable_ppo_never_takes_an_invalid_action():
    taken = []

    def step(obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        taken.append(action.argmax(-1))
        return obs

    def only_the_middle(obs: torch.Tensor) -> torch.Tensor:
        return torch.tensor([False, True, False]).expand(len(obs), 3)

    dynamics = walker_model(action_space=spaces.Discrete(3), step_fn=step)
    env = ImaginedVecEnv(dynamics, 4, action_mask_fn=only_the_middle, seed=0)
    MaskablePPO("MlpPolicy", env, n_steps=16, batch_size=32, policy_kwargs=TINY, seed=0, device="cpu").learn(64)
    assert len(taken) == 16 and all((actions == 1).all() for actions in taken)


def test_ppo_trains_under_vec_normalize_and_is_evaluated_in_the_real_env(pendulum, tmp_path):
    env: Any = VecNormalize(ImaginedVecEnv(pendulum, 4, horizon=10, seed=0))
    real: Any = VecNormalize(
        DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1", max_episode_steps=20))]), training=False
    )
    agent = PPO("MlpPolicy", env, n_steps=16, batch_size=32, policy_kwargs=TINY, seed=0, device="cpu")
    callback = EvalCallback(real, n_eval_episodes=2, eval_freq=16, log_path=str(tmp_path), verbose=0)
    agent.learn(128, callback=callback)
    assert len(callback.evaluations_results) == 2 and np.isfinite(callback.evaluations_results).all()
    np.testing.assert_array_equal(real.obs_rms.mean, env.obs_rms.mean)


def test_a2c_learns_to_name_what_it_sees():
    """The action must equal the observation, which then moves on by one: every step can be worth 1."""
    num_rooms, horizon = 4, 10
    dynamics = KnownDynamics(
        spaces.Discrete(num_rooms),
        spaces.Discrete(num_rooms),
        lambda obs, action: obs.roll(1, dims=-1),
        lambda obs, action, next_obs: (obs * action).sum(-1),
        start_obs=torch.eye(num_rooms),
    )
    env = VecMonitor(ImaginedVecEnv(dynamics, 16, horizon=horizon, seed=0))
    agent = A2C("MlpPolicy", env, gamma=0.5, learning_rate=5e-3, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu")
    before, _ = evaluate_policy(agent, env, n_eval_episodes=16)
    agent.learn(12_000)
    after, _ = evaluate_policy(agent, env, n_eval_episodes=16)
    assert before < after == horizon


def test_ppo_learns_the_riccati_gain():
    """``x' = x + u``, reward ``-(x^2 + u^2)``, without end: the best action is ``-x / golden ratio``."""
    env = ImaginedVecEnv(KnownDynamics.linear_quadratic([[1.0]], [[1.0]], [[1.0]], [[1.0]]), 64, horizon=8, seed=0)
    agent = PPO(
        "MlpPolicy",
        env,
        n_steps=16,
        batch_size=256,
        learning_rate=3e-3,
        gamma=0.99,
        policy_kwargs={"net_arch": [32], "log_std_init": -1.0},
        seed=0,
        device="cpu",
    )
    obs = np.linspace(-0.9, 0.9, 19, dtype=np.float32)[:, None]
    best = -obs * 2 / (1 + math.sqrt(5))
    assert np.abs(agent.predict(obs, deterministic=True)[0] - best).mean() > 0.25
    agent.learn(40_000)
    assert np.abs(agent.predict(obs, deterministic=True)[0] - best).mean() < 0.12
