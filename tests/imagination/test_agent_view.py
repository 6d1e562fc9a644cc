"""The adapter to Stable-Baselines3's agents: it acts as they act, reads them as they are, and changes nothing."""

from __future__ import annotations

import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers.imagination import AgentView
from mbrl_wrappers.imagination.rows import ImaginedRows
from mbrl_wrappers.models import EnsembleDynamics
from testing.agents import make_agent
from testing.envs import Still
from testing.models import seeded

LOW, HIGH = np.array([-2.0, 10.0], np.float32), np.array([5.0, 11.0], np.float32)
BOX = spaces.Box(-100.0, 100.0, (3,), np.float32)
ALGORITHMS = {kind.__name__: kind for kind in (SAC, TD3, DDPG, TQC, CrossQ, DQN, QRDQN)}
DISCRETE = ("DQN", "QRDQN")


def still(observation_space: spaces.Space = BOX, action_space: spaces.Space | None = None) -> Still:
    return Still(observation_space, spaces.Box(LOW, HIGH) if action_space is None else action_space)


def agent_of(name: str, env: Any = None, **kwargs: Any) -> Any:
    own = still(action_space=spaces.Discrete(4)) if name in DISCRETE else still()
    return make_agent(ALGORITHMS[name], own if env is None else env, **kwargs)


def make_view(agent: Any) -> AgentView:
    dynamics = EnsembleDynamics(agent.observation_space, agent.action_space, num_members=2, num_elites=1, hidden=(8,))
    return AgentView(agent, dynamics)


def some_rows(view: AgentView, count: int, obs_dim: int, seed: int = 0) -> ImaginedRows:
    source = seeded(seed)
    obs = torch.randn(count, obs_dim, generator=source)
    return ImaginedRows(
        obs=obs,
        action=view.act(obs, source),
        reward=torch.randn(count, generator=source),
        next_obs=obs + 1,
        terminated=torch.arange(count) % 3 == 0,
    )


# -- acting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ"])
def test_a_stochastic_actor_is_sampled_as_predict_samples_it(name):
    agent = agent_of(name)
    obs = torch.randn(64, 3, generator=seeded(1))
    action = make_view(agent).act(obs, seeded(7))
    # The view's private torch seed is the first number of its generator.
    torch.manual_seed(int(torch.randint(2**62, (1,), generator=seeded(7))))
    expected, _ = agent.predict(obs.numpy(), deterministic=False)
    np.testing.assert_allclose(action.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert len(action.unique(dim=0)) == 64


@pytest.mark.parametrize("name", ["TD3", "DDPG"])
def test_a_deterministic_actor_without_noise_acts_as_predict(name):
    agent = agent_of(name)
    obs = torch.randn(64, 3, generator=seeded(1))
    expected, _ = agent.predict(obs.numpy(), deterministic=True)
    np.testing.assert_allclose(make_view(agent).act(obs, seeded()).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vectorized", [False, True])
def test_gaussian_action_noise_has_its_mean_and_spread(vectorized):
    mean, sigma = np.array([0.1, -0.2]), np.array([0.05, 0.1])
    noise: Any = NormalActionNoise(mean, sigma)
    agent = agent_of("TD3", action_noise=VectorizedActionNoise(noise, 3) if vectorized else noise)
    obs = torch.zeros(20_000, 3)
    scaled = 2 * (make_view(agent).act(obs, seeded()).numpy() - LOW) / (HIGH - LOW) - 1
    actor, _ = agent.predict(np.zeros((1, 3), np.float32), deterministic=True)
    centre = 2 * (actor[0] - LOW) / (HIGH - LOW) - 1 + mean
    assert np.abs(centre).max() < 0.6  # far from the bounds, so that clipping does not matter
    np.testing.assert_allclose(scaled.mean(0), centre, atol=0.005)
    np.testing.assert_allclose(scaled.std(0), sigma, rtol=0.05)


def test_large_action_noise_is_clipped_to_the_bounds():
    agent = agent_of("TD3", action_noise=NormalActionNoise(np.zeros(2), 5 * np.ones(2)))
    action = make_view(agent).act(torch.zeros(500, 3), seeded()).numpy()
    np.testing.assert_allclose(action.min(0), LOW, atol=1e-5)
    np.testing.assert_allclose(action.max(0), HIGH, atol=1e-5)


def test_correlated_action_noise_is_left_out_and_left_alone():
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))
    agent = agent_of("DDPG", action_noise=noise)
    noise()
    before = noise.noise_prev.copy()
    obs = torch.zeros(8, 3)
    expected, _ = agent.predict(obs.numpy(), deterministic=True)
    np.testing.assert_allclose(make_view(agent).act(obs, seeded()).numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(noise.noise_prev, before)


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_exploration_is_epsilon_greedy_at_the_current_rate(name, rate):
    agent = agent_of(name)
    agent.exploration_rate = rate
    obs = torch.zeros(20_000, 3)
    action = make_view(agent).act(obs, seeded())
    assert torch.equal(action.sum(-1), torch.ones(20_000)) and set(action.unique().tolist()) <= {0.0, 1.0}
    greedy, _ = agent.predict(obs[:1].numpy(), deterministic=True)
    expected = np.full(4, rate / 4)
    expected[int(greedy[0])] += 1 - rate
    np.testing.assert_allclose(action.mean(0).numpy(), expected, atol=0.015)


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_an_exploration_that_is_asked_for_counts_in_place_of_the_agents(name, rate):
    agent = agent_of(name)
    agent.exploration_rate = 0.2
    obs = torch.zeros(20_000, 3)
    action = make_view(agent).act(obs, seeded(), rate)
    greedy, _ = agent.predict(obs[:1].numpy(), deterministic=True)
    expected = np.full(4, rate / 4)
    expected[int(greedy[0])] += 1 - rate
    np.testing.assert_allclose(action.mean(0).numpy(), expected, atol=0.015)


@pytest.mark.parametrize("name", ["TD3", "SAC"])
def test_exploration_of_continuous_actions_is_uniform_between_their_bounds(name):
    view = make_view(agent_of(name))
    obs = torch.zeros(20_000, 3)
    action = view.act(obs, seeded(), 1.0)
    unit = (action - torch.as_tensor(LOW)) / torch.as_tensor(HIGH - LOW)
    assert unit.min() >= 0 and unit.max() <= 1
    np.testing.assert_allclose(unit.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(unit.var(0), 1 / 12, atol=0.003)
    assert abs(torch.corrcoef(unit.T)[0, 1]) < 0.03
    policys = view.act(obs, seeded())
    shared = (view.act(obs, seeded(), 0.25) == policys).all(-1).float().mean()
    assert shared == pytest.approx(0.75, abs=0.015)


@pytest.mark.parametrize("name", ["SAC", "TD3", "DDPG", "TQC", "CrossQ"])
def test_actions_are_in_the_units_of_the_env(name):
    action = make_view(agent_of(name)).act(10 * torch.randn(500, 3, generator=seeded(2)), seeded())
    assert action.shape == (500, 2) and action.dtype == torch.float32
    assert (action >= torch.as_tensor(LOW)).all() and (action <= torch.as_tensor(HIGH)).all()
    assert (action[:, 1] > 9.9).all()  # in [10, 11], nowhere near [-1, 1]


def test_an_action_space_of_two_axes_is_laid_flat():
    low, high = np.array([[-2.0, 0.0], [1.0, -1.0]], np.float32), np.array([[5.0, 4.0], [2.0, 1.0]], np.float32)
    agent = agent_of("SAC", still(action_space=spaces.Box(low, high)))
    view = make_view(agent)
    action = view.act(torch.randn(200, 3, generator=seeded()), seeded())
    assert action.shape == (200, 4)
    assert (action.numpy() >= low.flatten()).all() and (action.numpy() <= high.flatten()).all()
    scaled = agent.policy.scale_action(action.numpy().reshape(200, 2, 2)).reshape(200, 4)
    np.testing.assert_allclose(view.env_action(scaled).numpy(), action.numpy(), atol=1e-5)


def test_noise_of_gsde_is_the_agents_current_one():
    agent = agent_of("SAC", use_sde=True)
    agent.actor.reset_noise(1)
    matrix = agent.actor.action_dist.exploration_mat.clone()
    obs = torch.randn(20, 3, generator=seeded())
    action = make_view(agent).act(obs, seeded())
    assert torch.equal(agent.actor.action_dist.exploration_mat, matrix)
    expected, _ = agent.predict(obs.numpy(), deterministic=False)
    np.testing.assert_allclose(action.numpy(), expected, rtol=1e-5, atol=1e-5)


# -- leaving the agent as it was -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_the_agent_changes(name, training):
    noise = NormalActionNoise(np.zeros(2), np.ones(2)) if name in ("TD3", "DDPG") else None
    agent = agent_of(name, **({"action_noise": noise} if noise else {}))
    agent.policy.set_training_mode(training)
    modes = {key: module.training for key, module in agent.policy.named_modules()}
    state = {key: value.clone() for key, value in agent.policy.state_dict().items()}  # with BatchNorm's statistics
    random_states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    view = make_view(agent)
    view.samples(some_rows(view, 30, 3), None, like=None)
    assert {key: module.training for key, module in agent.policy.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in agent.policy.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], random_states[1])  # noqa: NPY002
    assert random.getstate() == random_states[2]


def test_the_generator_alone_decides():
    view = make_view(agent_of("SAC"))
    obs = torch.randn(16, 3, generator=seeded())
    torch.manual_seed(1)
    first = view.act(obs, seeded(3))
    torch.manual_seed(2)
    assert torch.equal(view.act(obs, seeded(3)), first)
    source = seeded(3)
    view.act(obs, source)
    assert not torch.equal(view.act(obs, source), first)


# -- observations and rewards --------------------------------------------------------------------------------


def normalized_env(observation_space: spaces.Space, keys: list[str] | None = None) -> VecNormalize:
    env = VecNormalize(
        DummyVecEnv([lambda: still(observation_space)]), norm_obs_keys=keys, clip_obs=2.0, clip_reward=1.5
    )
    env.seed(0)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(20):
        env.step(np.zeros((1, 2), np.float32))
    env.ret_rms.update(rng.normal(3, 2, 100))
    return env


def test_vec_normalize_gives_the_numbers_it_gives_itself():
    env = normalized_env(BOX)
    view = make_view(agent_of("SAC", env))
    rows = some_rows(view, 100, 3)
    rows = ImaginedRows(50 * rows.obs, rows.action, 5 * rows.reward, 60 * rows.obs, rows.terminated)
    batch = view.samples(rows, env, like=None)
    np.testing.assert_allclose(batch.observations.numpy(), env.normalize_obs(rows.obs.numpy()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        batch.next_observations.numpy(), env.normalize_obs(rows.next_obs.numpy()), rtol=1e-5, atol=1e-6
    )
    reward = env.normalize_reward(rows.reward.numpy())
    np.testing.assert_allclose(batch.rewards[:, 0].numpy(), reward, rtol=1e-5, atol=1e-6)
    assert batch.observations.dtype == batch.rewards.dtype == torch.float32
    assert (batch.observations.abs() == 2.0).any() and (batch.rewards.abs() == 1.5).any()  # both clips were met


@pytest.mark.parametrize("keys", [None, ["b"]])
def test_vec_normalize_of_a_dict_normalises_its_keys(keys):
    space = spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float32), "b": spaces.Box(-9, 9, (2, 2), np.float32)})
    env = normalized_env(space, keys)
    view = make_view(agent_of("SAC", env))
    rows = some_rows(view, 50, 6)
    batch = view.samples(rows, env, like=None)
    raw = {"a": rows.obs[:, :2].numpy(), "b": rows.obs[:, 2:].reshape(-1, 2, 2).numpy()}
    for key, expected in env.normalize_obs(raw).items():
        np.testing.assert_allclose(batch.observations[key].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(batch.observations["a"].numpy(), raw["a"]) == (keys == ["b"])


@pytest.mark.parametrize("switch", ["norm_obs", "norm_reward"])
def test_vec_normalize_that_is_switched_off_leaves_numbers_raw(switch):
    env = VecNormalize(DummyVecEnv([still]), **{switch: False})
    env.reset()
    for _ in range(5):
        env.step(np.zeros((1, 2), np.float32))
    view = make_view(agent_of("SAC", env))
    rows = some_rows(view, 20, 3)
    batch = view.samples(rows, env, like=None)
    assert torch.equal(batch.observations, rows.obs) == (switch == "norm_obs")
    assert torch.equal(batch.rewards[:, 0], rows.reward) == (switch == "norm_reward")


def test_the_policy_is_asked_in_normalised_observations():
    env = normalized_env(BOX)
    agent = agent_of("TD3", env)
    obs = 30 * torch.randn(40, 3, generator=seeded())
    expected, _ = agent.predict(env.normalize_obs(obs.numpy()), deterministic=True)
    np.testing.assert_allclose(make_view(agent).act(obs, seeded()).numpy(), expected, rtol=1e-4, atol=1e-5)


# -- batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SAC", "DQN"])
def test_actions_go_to_the_buffers_form_and_back(name):
    view = make_view(agent_of(name))
    rows = some_rows(view, 60, 3)
    stored = view.samples(rows, None, like=None).actions
    if name == "SAC":
        assert stored.abs().max() <= 1 + 1e-5
        np.testing.assert_allclose(stored.numpy(), 2 * (rows.action.numpy() - LOW) / (HIGH - LOW) - 1, atol=1e-5)
    else:
        assert stored.shape == (60, 1) and stored.dtype == torch.int64
    assert torch.allclose(view.env_action(stored.numpy()), rows.action, atol=1e-5)


def filled(agent: Any, rows: int = 30) -> Any:
    """Put random steps of an episode into an agent's buffer, rewards 777."""
    space, buffer = agent.observation_space, agent.replay_buffer
    space.seed(0)
    agent.action_space.seed(0)
    for _ in range(rows):
        obs: Any
        next_obs: Any
        obs, next_obs = ([space.sample()] for _ in range(2))
        if isinstance(space, spaces.Dict):
            obs, next_obs = ({k: o[0][k][None] for k in o[0]} for o in (obs, next_obs))
        else:
            obs, next_obs = np.array(obs), np.array(next_obs)
        action = np.array([agent.action_space.sample()])
        if isinstance(agent.action_space, spaces.Box):
            action = agent.policy.scale_action(action)
        buffer.add(obs, next_obs, action, np.array([777.0]), np.array([False]), [{}])
    return buffer


SPACES = {
    "float32": BOX,
    "float64": spaces.Box(-1, 1, (3,), np.float64),
    "two axes": spaces.Box(-1, 1, (2, 3), np.float32),
    "bytes": spaces.Box(0, 255, (3,), np.uint8),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([3, 2]),
    "binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,), np.float64)}),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", ["SAC", "DQN"])
def test_a_joined_batch_has_the_rows_shapes_and_dtypes_of_a_real_one(space, name):
    action_space = spaces.Discrete(4) if name == "DQN" else None
    agent = agent_of(name, still(space, action_space))
    view, buffer = make_view(agent), filled(agent)
    obs = view._obs_codec.encode(buffer.sample(20).observations).float()
    rows = ImaginedRows(obs, view.act(obs, seeded()), torch.zeros(20), obs, torch.ones(20, dtype=torch.bool))
    real = buffer.sample(7)
    batch = view.samples(rows, None, like=real)
    assert type(batch) is type(real)
    for field in ("observations", "next_observations", "actions", "rewards", "dones"):
        mine, theirs = getattr(batch, field), getattr(real, field)
        parts = [(mine[k], theirs[k]) for k in theirs] if isinstance(theirs, dict) else [(mine, theirs)]
        for joined, real_part in parts:
            assert joined.dtype == real_part.dtype, field
            assert joined.shape == (27, *real_part.shape[1:]), field
            assert torch.equal(joined[:7], real_part), field
    assert batch.discounts is None
    assert torch.equal(batch.dones[7:], torch.ones(20, 1))
    alone = view.samples(rows, None, like=None)
    decoded = view._obs_codec.encode(alone.observations)
    assert torch.equal(decoded, obs)


def test_imagined_rows_have_the_discount_of_one_step():
    agent = agent_of("SAC", n_steps=3, gamma=0.9)
    view, buffer = make_view(agent), filled(agent)
    real = buffer.sample(5)
    assert torch.allclose(real.discounts, torch.tensor(0.9**3), atol=0.2)
    batch = view.samples(some_rows(view, 6, 3), None, like=real)
    assert torch.equal(batch.discounts[:5], real.discounts)
    assert torch.allclose(batch.discounts[5:], torch.full((6, 1), 0.9))


@pytest.mark.parametrize(
    ("name", "options"),
    [("SAC", {}), ("TQC", {}), ("CrossQ", {}), ("SAC", {"use_sde": True}), ("TQC", {"use_sde": True})],
)
def test_the_target_policy_draws_as_the_actor_does(name, options):
    agent = agent_of(name, **options)
    view, obs = make_view(agent), torch.randn(64, 3, generator=seeded(1))
    with torch.random.fork_rng(), torch.no_grad(), view.evaluating():
        torch.manual_seed(5)
        action, log_prob = agent.actor.action_log_prob(obs)
    with view.evaluating():
        ours, bonus = view.target_policy(obs, seeded(5))
        twice, _ = view.target_policy(obs.repeat(2, 1), seeded(5), copies=2)
    low, high = torch.as_tensor(LOW), torch.as_tensor(HIGH)
    assert torch.allclose(ours, low + (action + 1) / 2 * (high - low), atol=1e-5)
    assert torch.allclose(bonus, -agent.log_ent_coef.exp() * log_prob.reshape(-1), atol=1e-4)
    assert torch.allclose(twice, ours.repeat(2, 1), atol=1e-5)


def test_the_target_policy_smooths_as_td3_does():
    agent = agent_of("TD3")
    agent.target_policy_noise, agent.target_noise_clip = 0.4, 0.3
    view, obs = make_view(agent), torch.randn(500, 3, generator=seeded(1))
    ours, bonus = view.target_policy(obs, seeded(5))
    with torch.no_grad():
        mean = agent.actor_target(obs)
    noise = (0.4 * torch.randn(mean.shape, generator=seeded(5))).clamp(-0.3, 0.3)
    low, high = torch.as_tensor(LOW), torch.as_tensor(HIGH)
    assert torch.allclose(ours, low + ((mean + noise).clamp(-1, 1) + 1) / 2 * (high - low), atol=1e-5)
    assert (bonus == 0).all() and (noise.abs() == 0.3).any()


# -- actions that can't be scaled ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SAC", "TD3"])
@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            spaces.Box(np.float32([1, -1]), np.float32([1, 1])),
            r"low < high .*, got \[1.\] to \[1.\] in entries \[\[0\]\]",
        ),
        (spaces.Box(np.ones((2, 2)), np.array([[2.0, 2], [1, 2]]), dtype=np.float64), r"low < high .* \[\[1, 0\]\]"),
        (spaces.Box(-1e300, 1e300, (1,), np.float64), r"a range that float32 holds .*, got \[-1.e\+300\] to"),
        (spaces.Box(-3e38, 3e38, (1,), np.float32), "a range that float32 holds"),
        (spaces.Box(0, 5, (1,), np.int64), "must be a Box of floats for .*, got .*int64.*TransformAction"),
        (spaces.Box(-128, 127, (1,), np.int8), "must be a Box of floats for .*, got .*int8"),
        (spaces.Box(3, 3, (1,), np.int64), "must be a Box of floats for .*, got .*int64"),
        (spaces.Box(0, 1, (2,), np.bool_), "must be a Box of floats for .*, got .*bool"),
    ],
)
def test_actions_that_an_agent_cannot_scale_are_named(name, space, message):
    with pytest.raises(ValueError, match=f"^action_space .*{message}"):
        make_view(agent_of(name, still(action_space=space)))


def test_a_range_that_float32_cannot_see_gives_finite_actions():
    view = make_view(agent_of("SAC", still(action_space=spaces.Box(1e9, 1e9 + 1, (2,), np.float64))))
    rows = some_rows(view, 5, 3)
    assert (rows.action == 1e9).all()
    assert (view.samples(rows, None, None).actions == -1).all()


def test_a_part_without_dimensions_is_refused_and_the_remedy_helps() -> None:
    def heights() -> Still:
        """Observations with a number that has no dimensions, as dm_control has them."""
        space = spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "height": spaces.Box(0, 2, ())})
        return Still(space, spaces.Box(-1, 1, (1,)))

    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [4]}, "learning_starts": 5, "seed": 0}
    agent = SAC("MultiInputPolicy", heights(), **options)
    dynamics = EnsembleDynamics.for_env(agent.env, hidden=(4,))
    with pytest.raises(ValueError, match=r"observation_space\['height'\] must have at least one dimension"):
        AgentView(agent, dynamics)
    env = gym.wrappers.TimeLimit(gym.wrappers.FlattenObservation(heights()), 10)
    agent = SAC("MlpPolicy", env, **options)
    agent.learn(10)
    AgentView(agent, EnsembleDynamics.for_env(agent.env, hidden=(4,)))
