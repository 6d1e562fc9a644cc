"""Exact dynamics: equal to the environments they stand for, and to what can be worked out on paper."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.envs import ImaginedEnv
from mbrl_wrappers.models import DynamicsModel, KnownDynamics
from mbrl_wrappers.models.given import first_disagreement
from mbrl_wrappers.types import Transitions

A = np.array([[1.0, 0.1, 0.0], [0.0, 0.9, 0.2], [0.1, 0.0, 0.8]])
B = np.array([[0.0, 0.1], [0.3, 0.0], [0.0, 0.4]])
Q = np.diag([1.0, 0.5, 2.0])
R = np.array([[0.3, 0.1], [0.1, 0.2]])

KNOWN = {
    "Pendulum-v1": lambda: KnownDynamics.for_env("Pendulum-v1"),
    "CartPole-v1": lambda: KnownDynamics.for_env("CartPole-v1"),
    "linear": lambda: KnownDynamics.linear_quadratic(A, B, Q, R),
}


def _play(env_id: str, num_steps: int, seed: int = 0) -> Transitions:
    """Act at random in the real env, also outside a Box; wide states are set from time to time."""
    env: Any = gym.make(env_id).unwrapped
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"obs": [], "action": [], "reward": [], "next_obs": [], "terminated": []}
    obs, _ = env.reset(seed=seed)
    for step in range(num_steps):
        if env_id == "CartPole-v1":
            choice = int(rng.integers(2))
            next_obs, reward, terminated, _, _ = env.step(choice)
            action = np.eye(2)[choice]
        else:
            action = rng.uniform(-3, 3, size=1).astype(np.float32)
            next_obs, reward, terminated, _, _ = env.step(action)
        for name, value in zip(rows, (obs, action, reward, next_obs, terminated), strict=True):
            rows[name].append(np.array(value, dtype=bool if name == "terminated" else np.float64))
        obs = next_obs
        if terminated or step % 25 == 24:
            env.reset(seed=step)
            wide = (1.0, 2.0, 0.15, 2.0) if env_id == "CartPole-v1" else (np.pi, 8.0)
            env.state = rng.uniform(-1, 1, size=len(wide)) * wide
            obs = np.array(env.state, dtype=np.float32) if env_id == "CartPole-v1" else env._get_obs()
    env.close()
    fields = {name: torch.as_tensor(np.stack(values)) for name, values in rows.items()}
    return Transitions(**fields, key=torch.arange(len(fields["obs"])))


def _inputs(dynamics: DynamicsModel, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw observations from the start states and actions from the action space."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(dynamics.start_obs), (rows,), generator=generator)
    dynamics.action_space.seed(seed)
    actions = np.stack([dynamics.action_space.sample() for _ in range(rows)])
    return dynamics.start_obs[index], dynamics.action_codec.encode(actions)


def _riccati(num_steps: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the costs-to-go ``P_0 .. P_T`` and the optimal gains ``K_0 .. K_{T-1}`` of ``T`` steps."""
    costs = [np.zeros_like(Q)]
    gains: list[np.ndarray] = []
    for _ in range(num_steps):
        after = costs[0]
        gain = np.linalg.solve(R + B.T @ after @ B, B.T @ after @ A)
        costs.insert(0, Q + A.T @ after @ (A - B @ gain))
        gains.insert(0, gain)
    return costs, gains


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_each_step_is_that_of_the_real_env(env_id):
    real = _play(env_id, 600)
    said = KNOWN[env_id]().predict(real.obs, real.action)
    torch.testing.assert_close(said.next_obs, real.next_obs, rtol=0, atol=1e-5)
    torch.testing.assert_close(said.reward, real.reward, rtol=0, atol=1e-5)
    assert torch.equal(said.terminated, real.terminated)
    assert real.terminated.any() == (env_id == "CartPole-v1")
    assert (said.uncertainty == 0).all()


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_spaces_and_start_states_are_those_of_the_real_env(env_id):
    dynamics, env = KNOWN[env_id](), gym.make(env_id)
    assert dynamics.observation_space == env.observation_space
    assert dynamics.action_space == env.action_space
    real = np.stack([env.reset(seed=seed)[0] for seed in range(500)])
    starts = dynamics.start_obs.numpy()
    assert all(env.observation_space.contains(start) for start in starts)
    low, high = real.min(0), real.max(0)
    assert (starts.min(0) >= low - 0.05 * (high - low)).all() and (starts.max(0) <= high + 0.05 * (high - low)).all()
    np.testing.assert_allclose(starts.mean(0), real.mean(0), atol=0.15 * real.std(0).max())
    np.testing.assert_allclose(starts.std(0), real.std(0), rtol=0.1)
    if env_id == "Pendulum-v1":
        np.testing.assert_allclose(np.square(starts[:, :2]).sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_start_states_are_always_the_same_ones(name):
    torch.manual_seed(0)
    first = KNOWN[name]().start_obs
    torch.manual_seed(1)
    assert torch.equal(KNOWN[name]().start_obs, first)
    assert len(first.unique(dim=0)) == len(first)


@pytest.mark.parametrize("name", KNOWN)
def test_any_batch_dimensions_and_both_precisions(name):
    dynamics = KNOWN[name]()
    obs, action = _inputs(dynamics, 12)
    flat = dynamics.predict(obs, action)
    folded = dynamics.predict(obs.reshape(3, 4, -1), action.reshape(3, 4, -1))
    assert torch.equal(folded.next_obs, flat.next_obs.reshape(3, 4, -1))
    for field in ("reward", "terminated", "uncertainty"):
        assert torch.equal(getattr(folded, field), getattr(flat, field).reshape(3, 4))
    single = dynamics.predict(obs[0], action[0])
    assert single.next_obs.shape == obs.shape[1:] and single.reward.shape == single.terminated.shape == ()
    double = dynamics.predict(obs.double(), action.double())
    assert double.next_obs.dtype == double.reward.dtype == torch.float64 and flat.next_obs.dtype == torch.float32
    torch.testing.assert_close(double.next_obs.float(), flat.next_obs, rtol=1e-5, atol=1e-5)
    assert dynamics.predict(obs[:0], action[:0]).next_obs.shape == (0, obs.shape[1])


@pytest.mark.parametrize("name", KNOWN)
def test_gradients_are_those_of_finite_differences(name):
    dynamics = KNOWN[name]()
    obs, action = (x.double().requires_grad_() for x in _inputs(dynamics, 4))

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        prediction = dynamics.predict(obs, action)
        return prediction.next_obs, prediction.reward

    assert torch.autograd.gradcheck(step, (obs, action), atol=1e-6)
    next_obs, _ = step(obs, action)
    for gradient in torch.autograd.grad(next_obs.square().sum(), (obs, action)):
        assert gradient.isfinite().all() and (gradient != 0).any()


def test_lqr_return_is_the_riccati_cost():
    num_steps = 20
    dynamics = KnownDynamics.linear_quadratic(A, B, Q, R).double()
    costs, gains = _riccati(num_steps)
    start = dynamics.start_obs[:50]
    obs, total = start, torch.zeros(50, dtype=torch.float64)
    for gain in gains:
        prediction = dynamics.predict(obs, -obs @ torch.as_tensor(gain).T)
        obs, total = prediction.next_obs, total + prediction.reward
        assert not prediction.terminated.any()
    expected = -(start @ torch.as_tensor(costs[0]) * start).sum(-1)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_through_the_model_vanishes_at_the_riccati_actions():
    num_steps = 8
    dynamics = KnownDynamics.linear_quadratic(A, B, Q, R).double()
    _, gains = _riccati(num_steps)
    start = np.array([0.7, -0.4, 0.2])
    obs, best = start, []
    for gain in gains:
        best.append(-gain @ obs)
        obs = A @ obs + B @ best[-1]

    def gradient(actions: Tensor) -> Tensor:
        actions.requires_grad_()
        obs, total = torch.as_tensor(start), torch.zeros((), dtype=torch.float64)
        for action in actions:
            prediction = dynamics.predict(obs, action)
            obs, total = prediction.next_obs, total + prediction.reward
        return torch.autograd.grad(total, actions)[0]

    actions = torch.as_tensor(np.stack(best))
    assert gradient(actions).abs().max() < 1e-6
    assert (gradient(actions.detach() + 0.1).abs() > 0.01).all()


def test_lqr_noise_costs_what_the_riccati_equation_says():
    num_steps, noise_std = 10, 0.2
    dynamics = KnownDynamics.linear_quadratic(A, B, Q, R, noise_std=noise_std).double()
    costs, gains = _riccati(num_steps)
    generator = torch.Generator().manual_seed(0)
    obs = torch.zeros(20_000, 3, dtype=torch.float64)
    total = torch.zeros(20_000, dtype=torch.float64)
    for gain in gains:
        prediction = dynamics.predict(obs, -obs @ torch.as_tensor(gain).T, generator=generator)
        obs, total = prediction.next_obs, total + prediction.reward
    expected = -(noise_std**2) * sum(np.trace(cost) for cost in costs[1:])
    assert float(total.mean()) == pytest.approx(expected, rel=0.03)


def test_noise_comes_from_the_generator_and_is_left_out_of_the_mean():
    dynamics = KnownDynamics.linear_quadratic(A, B, Q, R, noise_std=0.5)
    obs, action = torch.zeros(20_000, 3), torch.zeros(20_000, 2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    draws = [dynamics.predict(obs, action, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    mean = dynamics.predict(obs, action, generator=torch.Generator().manual_seed(1), deterministic=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draws[0].next_obs, draws[1].next_obs) and not torch.equal(draws[0].next_obs, draws[2].next_obs)
    torch.testing.assert_close(draws[0].next_obs.std(0), torch.full((3,), 0.5), rtol=0.05, atol=0)
    torch.testing.assert_close(draws[0].next_obs.mean(0), torch.zeros(3), rtol=0, atol=0.02)
    assert (mean.next_obs == 0).all()
    assert (draws[0].uncertainty == 0).all() and (mean.uncertainty == 0).all()


def test_reward_and_termination_see_the_state_that_is_returned():
    dynamics = KnownDynamics(
        spaces.Box(-9, 9, (1,)),
        spaces.Discrete(2),
        lambda obs, action: obs + action[:, 1:],
        lambda obs, action, next_obs: next_obs[..., 0],
        lambda obs, action, next_obs: next_obs[..., 0] > 1.5,
        noise_std=1.0,
    )
    obs, action = torch.zeros(200, 1), torch.eye(2)[torch.arange(200) % 2]
    prediction = dynamics.predict(obs, action, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prediction.reward, prediction.next_obs[:, 0])
    assert torch.equal(prediction.terminated, prediction.next_obs[:, 0] > 1.5)
    assert prediction.terminated.any() and not prediction.terminated.all()


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_fit_measures_and_keeps_start_states(env_id):
    real = _play(env_id, 200)
    dynamics = KNOWN[env_id]()
    before = dynamics.predict(real.obs, real.action)
    report = dynamics.fit(real, torch.Generator().manual_seed(0))
    assert report["rows"] == 200 and 0 <= report["holdout_error"] < 1e-8
    rows = {tuple(row) for row in real.obs.float().tolist()}
    assert len(dynamics.start_obs) == 200 and {tuple(row) for row in dynamics.start_obs.tolist()} == rows
    assert torch.equal(dynamics.predict(real.obs, real.action).next_obs, before.next_obs)
    for name in ("reward_fn", "termination_fn"):
        assert first_disagreement(getattr(dynamics, name), name, real) is None


@pytest.mark.filterwarnings("ignore:.*contradicts the real environment:UserWarning")
def test_fit_error_is_in_units_of_the_spread():
    dynamics = KnownDynamics.linear_quadratic(A, B, Q, R)
    obs, action = torch.zeros(400, 3), torch.zeros(400, 2)
    # what the model says of these rows: no change and no reward
    sign = torch.where(torch.arange(400) % 2 == 0, 1.0, -1.0)
    real = Transitions(
        obs,
        action,
        reward=5 * sign,
        next_obs=sign[:, None] * torch.tensor([1.0, 20.0, 0.0]),
        terminated=torch.zeros(400, dtype=torch.bool),
        key=torch.arange(400),
    )
    # of four columns one is right (and constant), three are wrong by one standard deviation each
    assert dynamics.fit(real)["holdout_error"] == pytest.approx(3 / 4, rel=1e-4)


def test_fit_refuses_what_it_cannot_use():
    dynamics = KnownDynamics.for_env("Pendulum-v1")
    starts = dynamics.start_obs.clone()
    real = _play("Pendulum-v1", 3)
    with pytest.raises(ValueError, match="at least one row"):
        dynamics.fit(real[:0])
    with pytest.raises(ValueError, match=r"transitions.action must have shape \[N, 1\], got \(3, 2\)"):
        dynamics.fit(
            Transitions(real.obs, real.action.repeat(1, 2), real.reward, real.next_obs, real.terminated, real.key)
        )
    assert torch.equal(dynamics.start_obs, starts)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_predicts_the_same(name, copied):
    dynamics = KNOWN[name]()
    obs, action = _inputs(dynamics, 5)
    other = copied(dynamics)
    assert torch.equal(other.predict(obs, action).next_obs, dynamics.predict(obs, action).next_obs)
    assert torch.equal(other.start_obs, dynamics.start_obs)


def _made(**changes: Any) -> KnownDynamics:
    arguments = {
        "observation_space": spaces.Box(-1, 1, (2,)),
        "action_space": spaces.Discrete(2),
        "step_fn": lambda obs, action: obs,
        "reward_fn": lambda obs, action, next_obs: obs[..., 0],
    }
    return KnownDynamics(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_space": spaces.Text(3)}, "observation_space is of the unsupported space"),
        ({"reward_fn": None}, "reward_fn must be a callable or an environment's id, got None"),
        ({"reward_fn": "Nothing-v0"}, "reward_fn must be a callable or one of .*'Nothing-v0'"),
        ({"termination_fn": "Nothing-v0"}, "termination_fn must be a callable or one of .*'Nothing-v0'"),
        ({"noise_std": -0.1}, "noise_std must be at least 0 and finite, got -0.1"),
        ({"noise_std": float("nan")}, "noise_std must be at least 0 and finite, got nan"),
        ({"start_obs": torch.zeros(4, 3)}, r"start_obs must be finite and of shape \[S, 2\], got shape \(4, 3\)"),
        ({"start_obs": torch.full((4, 2), torch.inf)}, "start_obs must be finite .*inf"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        _made(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_fn": lambda obs, action: obs[:, :1]}, r"step_fn must return .*\(3, 2\) .* got shape \(3, 1\)"),
        ({"step_fn": lambda obs, action: obs > 0}, "step_fn must return .* got shape .* and dtype torch.bool"),
        ({"step_fn": lambda obs, action: None}, "step_fn must return .* got NoneType: None"),
        ({"reward_fn": lambda obs, action, next_obs: obs}, r"reward_fn must return .*\(3,\) .*\(3, 2\)"),
        (
            {"termination_fn": lambda obs, action, next_obs: obs[..., 0]},
            "termination_fn must return .*bool dtype, got .*float32",
        ),
    ],
)
def test_bad_functions_are_named(changes, message):
    dynamics = _made(**changes)
    with pytest.raises(ValueError, match=message):
        dynamics.predict(torch.zeros(3, 2), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": np.eye(2)}, r"A must be finite and of shape \(3, 3\), got shape \(2, 2\)"),
        ({"B": np.zeros(3)}, r"B must be finite and a matrix, got shape \(3,\)"),
        ({"Q": np.full((3, 3), np.nan)}, "Q must be finite .*nan"),
        ({"R": np.eye(3)}, r"R must be finite and of shape \(2, 2\), got shape \(3, 3\)"),
        ({"action_bound": 0.0}, "action_bound must be positive and finite, got 0.0"),
        ({"start_bound": np.inf}, "start_bound must be positive and finite, got inf"),
    ],
)
def test_bad_linear_systems_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        KnownDynamics.linear_quadratic(**({"A": A, "B": B, "Q": Q, "R": R} | changes))


def test_bounds_of_a_linear_system():
    dynamics = KnownDynamics.linear_quadratic(A, B, Q, R, action_bound=0.5, start_bound=3.0)
    assert dynamics.action_space == spaces.Box(-0.5, 0.5, (2,), np.float32)
    assert 2.9 < float(dynamics.start_obs.abs().max()) <= 3


def test_an_env_whose_equations_are_not_known_is_named():
    with pytest.raises(ValueError, match=r"env_id must be one of \['CartPole-v0', .*, got 'Hopper-v5'"):
        KnownDynamics.for_env("Hopper-v5")


@pytest.mark.parametrize(("space", "start", "kept"), [(np.float64, np.float64, True), (np.float32, np.float64, False)])
def test_start_states_in_float64_keep_their_precision(space, start, kept):
    """A step of 0.001 at a hundred million, which float32 can't say."""
    box, action = spaces.Box(-1e9, 1e9, (1,), space), spaces.Box(-1, 1, (1,), np.float32)
    starts = torch.as_tensor(np.array([[1e8 + 0.5]], start))
    model = KnownDynamics(box, action, lambda obs, _: obs + 1e-3, lambda obs, *_: obs[:, 0], start_obs=starts)
    env = ImaginedEnv(model)
    before, _ = env.reset(seed=0)
    after = env.step(np.zeros(1, np.float32))[0]
    first, second = float(before[0]), float(after[0])
    assert (first == 1e8 + 0.5) is kept and (abs(second - first - 1e-3) < 1e-7) is kept
