"""MVE: the targets that an agent sees, against the sums of the paper written out."""

from __future__ import annotations

import functools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from mbrl_wrappers.agents import MVE, PETS
from mbrl_wrappers.imagination import AgentView, ModelBased
from mbrl_wrappers.models import DynamicsModel, EnsembleDynamics, KnownDynamics
from mbrl_wrappers.seeding import set_apart
from testing import agents, envs
from testing.agents import weights
from testing.models import line_model

OBS, ACTION = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)
GAMMA, ALPHA = 0.9, 0.3


# A point that an action moves, with what it says of itself as reward; ends beyond 3.
Line = functools.partial(envs.Line, drift=0.1, reward=envs.place, ends=lambda x: x[..., 0] > 3, limit=20)
make_agent = functools.partial(agents.make_agent, env=Line, gamma=GAMMA, net=[8])


def line(ends_at: float = math.inf, diverges_at: float = math.inf) -> KnownDynamics:
    def step(obs: Tensor, action: Tensor) -> Tensor:
        return torch.where(obs > diverges_at, torch.nan, obs + action + 0.1)

    return line_model(Line(), step_fn=step, termination_fn=lambda obs, action, next_obs: next_obs[:, 0] > ends_at)


def fill(buffer: Any, rows: int = 40, terminal: bool = False) -> None:
    source = np.random.default_rng(0)
    for row in range(rows):
        obs, action = source.uniform(-2, 2, (1, 1)), source.uniform(-1, 1, (1, 1))
        done = np.array([terminal and row % 2 == 0])
        buffer.add(obs, obs + action + 0.1, action, np.array([float(row)]), done, [{}])


def bound(strategy: MVE, agent: Any, dynamics: DynamicsModel, seed: int = 0) -> MVE:
    strategy.bind(AgentView(agent, dynamics), dynamics, torch.Generator().manual_seed(seed))
    return strategy


def draw(strategy: MVE, agent: Any, batch: int, env: Any = None, seed: int = 0) -> Any:
    np.random.seed(seed)  # noqa: NPY002 - SB3's buffers draw from it
    return strategy.sample(agent.replay_buffer, batch, env)


def written_out(agent: Any, dynamics: KnownDynamics, horizon: int, starts: int, seed: int = 0) -> list[list[Any]]:
    """Follow each real row and add up its rewards forwards: a list of (obs, reward, next_obs, done, discount) each."""
    np.random.seed(seed)  # noqa: NPY002
    real = agent.replay_buffer.sample(starts)
    view, generator = AgentView(agent, dynamics), torch.Generator().manual_seed(seed)
    obs, path = real.next_observations, []
    for _ in range(horizon):
        action, bonus = view.target_policy(obs, generator)
        p = dynamics.predict(obs, action)
        path.append((obs, action, bonus, p))
        obs = torch.where(torch.isfinite(p.next_obs), p.next_obs, obs)
    rows = []
    for i in range(starts):
        stop, ends = horizon, bool(real.dones[i])
        if ends:
            stop = 0
        for h in range(stop):
            if not torch.isfinite(path[h][3].next_obs[i]).all():
                stop = h
                break
            if path[h][3].terminated[i]:
                stop, ends = h + 1, True
                break
        states = [path[h][0][i] for h in range(horizon)] + [obs[i]]
        of_start = []
        for t in range(-1, stop):
            reward = real.rewards[i].item() if t < 0 else path[t][3].reward[i].item()
            total = reward + sum(
                GAMMA ** (k - t) * (path[k][2][i].item() + path[k][3].reward[i].item()) for k in range(t + 1, stop)
            )
            first = real.observations[i] if t < 0 else states[t]
            of_start.append((first.item(), total, states[stop].item(), float(ends), GAMMA ** (stop - t)))
        rows.append(of_start)
    return rows


def as_rows(batch: Any) -> list[tuple[float, ...]]:
    columns = (batch.observations, batch.rewards, batch.next_observations, batch.dones, batch.discounts)
    return [tuple(float(column[row]) for column in columns) for row in range(len(batch.rewards))]


def same(first: list[tuple[float, ...]], second: list[Any]) -> bool:
    """Tell whether two lists hold the same rows, in any order; where an episode ends, the bootstrap is of no matter."""

    def key(row: Any) -> tuple[float, ...]:
        obs, reward, next_obs, done, discount = row
        return (obs, reward, done, *((0.0, 0.0) if done else (next_obs, discount)))

    a, b = (np.array(sorted(map(key, rows))) for rows in (first, second))
    return a.shape == b.shape and np.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", [SAC, TD3])
@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize(
    ("model", "terminal"), [({}, False), ({}, True), ({"ends_at": 0.5}, False), ({"diverges_at": 1.0}, False)]
)
def test_every_state_of_a_rollout_has_the_target_of_the_paper(kind: type, horizon: int, model: dict, terminal: bool):
    agent, dynamics = make_agent(kind, **({"ent_coef": ALPHA} if kind is SAC else {})), line(**model)
    fill(agent.replay_buffer, terminal=terminal)
    strategy = bound(MVE(horizon), agent, dynamics)
    np.random.seed(0)  # noqa: NPY002
    batch = strategy._expand(agent.replay_buffer, 30, None)
    assert same(as_rows(batch), [row for rows in written_out(agent, dynamics, horizon, 30) for row in rows])


def test_without_td_k_only_real_states_are_there():
    agent, dynamics = make_agent(ent_coef=ALPHA), line()
    fill(agent.replay_buffer)
    batch = draw(bound(MVE(3, td_k=False), agent, dynamics), agent, 16)
    assert same(as_rows(batch), [rows[0] for rows in written_out(agent, dynamics, 3, 16)])


def test_the_members_of_an_ensemble_take_turns_and_each_follows_its_mean():
    agent = make_agent(TD3)
    agent.target_policy_noise = 0.0  # so that loops in another order act alike
    dynamics = EnsembleDynamics(OBS, ACTION, hidden=(8,), num_members=4, num_elites=3, seed=0)
    with torch.no_grad():
        dynamics.termination_network.weights[-1].mul_(1e6)  # chances of 0 or 1
    fill(agent.replay_buffer)
    batch = draw(bound(MVE(2, td_k=False), agent, dynamics), agent, 12)
    np.random.seed(0)  # noqa: NPY002
    real, view = agent.replay_buffer.sample(12), AgentView(agent, dynamics)
    assert 0 < batch.dones.sum() < 12
    for row in range(12):
        step = dynamics.particle_step([dynamics.particle_members[row % 3]], deterministic=True)
        obs, total, factor, ends = real.next_observations[row : row + 1], real.rewards[row].item(), GAMMA, False
        for _ in range(2):
            action, _ = view.target_policy(obs, torch.Generator())
            outcome = step(obs[None], action[None], None)
            if not ends:
                total += factor * outcome.reward.item()
            ends = ends or bool(outcome.terminated)
            obs, factor = outcome.next_obs[0], GAMMA * factor
        assert batch.rewards[row].item() == pytest.approx(total, abs=1e-4)
        assert bool(batch.dones[row]) == ends
        assert ends or torch.allclose(batch.next_observations[row], obs[0], atol=1e-5)


@pytest.mark.parametrize("horizon", [1, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 10, 64])
@pytest.mark.parametrize("ends_at", [math.inf, 0.0])
def test_a_batch_has_exactly_the_rows_asked_for(horizon: int, batch_size: int, ends_at: float):
    agent = make_agent(ent_coef=ALPHA)
    fill(agent.replay_buffer, terminal=True)
    batch = draw(bound(MVE(horizon), agent, line(ends_at)), agent, batch_size)
    assert all(len(part) == batch_size for part in batch)


def test_the_values_of_imagined_states_are_bootstrapped_once_and_by_the_agent():
    """With rewards of 1 and no entropy the target is a geometric sum, whatever the policy does."""
    dynamics = KnownDynamics(
        OBS, ACTION, lambda obs, action: obs + action, lambda obs, action, next_obs: 1.0 + 0 * obs[:, 0]
    )
    agent = make_agent(TD3)
    for row in range(40):
        agent.replay_buffer.add(np.array([[row]]), np.array([[row]]), np.zeros((1, 1)), np.ones(1), np.zeros(1), [{}])
    batch = draw(bound(MVE(4), agent, dynamics), agent, 50)
    steps = torch.log(batch.discounts) / math.log(GAMMA)
    assert set(steps.round().flatten().tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert torch.allclose(batch.rewards, (1 - batch.discounts) / (1 - GAMMA), atol=1e-5)


def test_real_n_step_rows_are_continued():
    dynamics = KnownDynamics(
        OBS, ACTION, lambda obs, action: obs + action, lambda obs, action, next_obs: 1.0 + 0 * obs[:, 0]
    )
    agent = make_agent(TD3, n_steps=3)
    assert isinstance(agent.replay_buffer, NStepReplayBuffer)
    for row in range(40):
        agent.replay_buffer.add(
            np.array([[row]]), np.array([[row + 1]]), np.zeros((1, 1)), np.ones(1), np.zeros(1), [{}]
        )
    batch = draw(bound(MVE(2, td_k=False), agent, dynamics), agent, 50)
    assert torch.allclose(batch.rewards, (1 - batch.discounts) / (1 - GAMMA), atol=1e-5)
    assert torch.isclose(batch.discounts.min(), torch.tensor(GAMMA**5))
    assert batch.discounts.max() <= GAMMA**3 + 1e-6  # rows at the newest end have fewer real steps


def test_normalized_rewards_and_observations_are_those_of_the_agent():
    env: Any = VecNormalize(DummyVecEnv([Line]))
    agent = SAC("MlpPolicy", env, gamma=GAMMA, ent_coef=ALPHA, seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    fill(agent.replay_buffer)
    env.obs_rms.mean, env.obs_rms.var, env.ret_rms.var = np.array([0.5]), np.array([4.0]), np.array(100.0)
    dynamics = line()
    batch = draw(bound(MVE(2), agent, dynamics), agent, 30, env)
    np.random.seed(0)  # noqa: NPY002
    real = agent.replay_buffer.sample(10)
    expected = agent.replay_buffer._normalize_obs(real.observations.numpy(), env)
    assert np.allclose(sorted(batch.observations[:10, 0].tolist()), sorted(expected[:, 0]), atol=1e-5)
    view, generator = AgentView(agent, dynamics), torch.Generator().manual_seed(0)
    obs, total = real.next_observations, env.normalize_reward(real.rewards.numpy())[:, 0]
    for step in (1, 2):
        action, bonus = view.target_policy(obs, generator)
        p = dynamics.predict(obs, action)
        total = total + GAMMA**step * (bonus.numpy() + env.normalize_reward(p.reward.numpy()))
        obs = p.next_obs
    assert np.allclose(batch.rewards[:10, 0], total, atol=1e-4)


def parameters_after(kind: type, strategy: MVE | None, steps: int = 120) -> list[Tensor]:
    agent = make_agent(kind, learning_starts=20, train_freq=1, gradient_steps=1, batch_size=16)
    set_apart(agent.action_space)
    agent.learn(steps, callback=None if strategy is None else ModelBased(strategy, line(3.0), fit_every=50, seed=3))
    return weights(agent)


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_a_horizon_of_0_is_the_agent_without_a_model(kind: type):
    plain, without = parameters_after(kind, None), parameters_after(kind, MVE(0))
    assert all(map(torch.equal, plain, without))
    assert not all(map(torch.equal, plain, parameters_after(kind, MVE(2))))


@pytest.mark.parametrize("kind", [SAC, TD3, DDPG, TQC, CrossQ])
def test_every_agent_of_boxes_trains_and_its_generators_are_left_alone(kind: type):
    agent = make_agent(kind, learning_starts=20, train_freq=1, gradient_steps=1, batch_size=20)
    agent.learn(40, callback=ModelBased(MVE(2), line(3.0), seed=0))
    strategy = bound(MVE(2), agent, line())
    agent.policy.set_training_mode(True)
    modes, state = [m.training for m in agent.policy.modules()], torch.get_rng_state()
    batch = draw(strategy, agent, 20)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in agent.policy.modules()] == modes
    np.random.seed(0)  # noqa: NPY002
    agent.replay_buffer.sample(7)
    assert torch.isfinite(batch.rewards).all()
    mark = np.random.random()  # noqa: NPY002
    draw(strategy, agent, 20)
    assert np.random.random() == mark  # noqa: NPY002 - the real rows took what SB3 takes for them, no more


@pytest.mark.parametrize("kind", [DQN, QRDQN])
def test_agents_of_choices_train(kind: type):
    env = gym.make("CartPole-v1")
    agent = kind(
        "MlpPolicy", env, learning_starts=20, batch_size=20, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}
    )
    agent.learn(60, callback=ModelBased(MVE(2), KnownDynamics.for_env("CartPole-v1"), seed=0))
    batch = draw(bound(MVE(2), agent, KnownDynamics.for_env("CartPole-v1")), agent, 20)
    assert batch.actions.dtype == torch.int64
    assert batch.actions.shape == (20, 1)


def test_hindsight_and_dict_observations():
    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=6)
    agent = SAC(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=20, batch_size=20, seed=0,
        device="cpu", policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    dynamics = EnsembleDynamics(env.observation_space, env.action_space, hidden=(8,), max_steps=20, seed=0)
    agent.learn(60, callback=ModelBased(MVE(2), dynamics, seed=0))
    batch = draw(bound(MVE(2), agent, dynamics), agent, 20)
    assert {key: len(part) for key, part in batch.observations.items()} == dict.fromkeys(env.observation_space, 20)
    assert torch.isfinite(batch.rewards).all()


def test_rows_and_divergences_are_counted():
    agent = make_agent(ent_coef=ALPHA)
    fill(agent.replay_buffer)
    strategy = bound(MVE(2), agent, line(diverges_at=-10.0))
    draw(strategy, agent, 12)
    assert strategy.refresh(None, 0, 0) == {"rows": 12.0, "diverged": 12.0}
    assert strategy.refresh(None, 0, 0) == {"rows": 0.0, "diverged": 0.0}


def test_bad_arguments_and_agents_are_refused():
    with pytest.raises(ValueError, match="horizon must be a whole number of at least 0, got -1"):
        MVE(-1)
    planner = PETS("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(ValueError, match="the agent must have a critic, got PETS"):
        bound(MVE(1), planner, planner.dynamics)
