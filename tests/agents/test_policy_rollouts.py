"""Rollouts through a model and their gradients, against closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.agents.policy_rollouts import Rollout, expanded_values, roll_out, step_in_turn
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics

GAMMA = 0.95
A = torch.tensor([[1.0, 0.2], [-0.1, 0.9]], dtype=torch.float64)
B = torch.tensor([[0.1], [0.5]], dtype=torch.float64)
Q = torch.tensor([[1.0, 0.2], [0.2, 0.5]], dtype=torch.float64)
R = torch.tensor([[0.3]], dtype=torch.float64)
GAIN = torch.tensor([[0.4, 0.7]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """What the buffers of a known system are made of is the default type at the time."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear_system() -> KnownDynamics:
    return KnownDynamics.linear_quadratic(A, B, Q, R)


def states(rows: int = 30) -> Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))


def linear_policy(gain: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda obs: (-obs @ gain.T, obs.new_zeros(len(obs)))


def cost_matrix(gain: Tensor) -> Tensor:
    """P of a gain's value ``-x^T P x``, by the Lyapunov equation as a system of linear equations."""
    closed = GAMMA**0.5 * (A - B @ gain)
    immediate = Q + gain.T @ R @ gain
    solved = torch.linalg.solve(
        torch.eye(4) - torch.kron(closed.T.contiguous(), closed.T.contiguous()), immediate.flatten()
    )
    return solved.reshape(2, 2)


def action_value(obs: Tensor, action: Tensor, cost: Tensor) -> Tensor:
    next_obs = obs @ A.T + action @ B.T
    now = ((obs @ Q) * obs).sum(-1) + ((action @ R) * action).sum(-1)
    return -now - GAMMA * ((next_obs @ cost) * next_obs).sum(-1)


def follow(gain: Tensor, horizon: int, backprop_steps: int | None = None) -> Rollout:
    act = linear_policy(gain)
    return roll_out(step_in_turn(linear_system()), act, states(), act(states()), horizon, backprop_steps)


def objective(gain: Tensor, horizon: int, cost: Tensor, backprop_steps: int | None = None) -> Tensor:
    rollout = follow(gain, horizon, backprop_steps)
    last = action_value(rollout.obs[-1], rollout.action[-1], cost)
    return expanded_values(rollout, last, 0.0, GAMMA)[0][0].mean()


def slope(obs: Tensor, gain: Tensor, cost: Tensor) -> Tensor:
    """The gradient ``[B, 1]`` of the exact action values of a gain's policy, at its own actions."""
    action = -obs @ gain.T
    return -2 * (action @ R + GAMMA * (obs @ A.T + action @ B.T) @ cost @ B)


@pytest.mark.parametrize("horizon", [0, 1, 5, 20])
def test_the_gradient_is_the_policy_gradient_of_a_linear_quadratic_system(horizon: int) -> None:
    gain, cost = GAIN.clone().requires_grad_(), cost_matrix(GAIN)

    (gradient,) = torch.autograd.grad(objective(gain, horizon, cost), gain)

    # sum_t gamma^t E[ (d a_t / d gain)^T dQ/da ] over the states that the policy meets, at steps 0 to H
    obs, expected = states(), torch.zeros_like(GAIN)
    for t in range(horizon + 1):
        expected = expected - GAMMA**t * slope(obs, GAIN, cost).T @ obs / len(obs)
        obs = obs @ (A - B @ GAIN).T
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("horizon", [1, 5, 20])
def test_the_values_are_exact_at_any_horizon(horizon: int) -> None:
    cost = cost_matrix(GAIN)
    expected = -((states() @ cost) * states()).sum(-1)

    rollout = follow(GAIN, horizon)
    last = action_value(rollout.obs[-1], rollout.action[-1], cost)
    values, action_values = expanded_values(rollout, last, 0.0, GAMMA)

    assert (len(values), len(action_values)) == (horizon + 1, horizon)
    torch.testing.assert_close(values[0], expected)
    torch.testing.assert_close(action_values[0], expected)  # the policy has no noise


@pytest.mark.parametrize("horizon", [1, 5])
def test_the_learned_gain_converges_to_the_riccati_solution(horizon: int) -> None:
    best = torch.zeros(1, 2)
    for _ in range(200):  # policy iteration
        cost = cost_matrix(best)
        best = torch.linalg.solve(R + GAMMA * B.T @ cost @ B, GAMMA * B.T @ cost @ A)

    gain = GAIN.clone().requires_grad_()
    optimizer = torch.optim.Adam([gain], lr=0.02)
    for _ in range(600):
        loss = -objective(gain, horizon, cost_matrix(gain.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    torch.testing.assert_close(gain.detach(), best, atol=1e-4, rtol=0)
    assert (GAIN - best).abs().max() > 0.1


def test_entropy_counts_at_every_step() -> None:
    horizon, alpha = 3, 0.7

    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return -obs @ GAIN.T, obs[:, 0]

    rollout = roll_out(step_in_turn(linear_system()), act, states(), act(states()), horizon)
    values, action_values = expanded_values(rollout, torch.ones(len(states())), alpha, GAMMA)

    rewards = [-((obs @ Q) * obs).sum(-1) - (obs @ GAIN.T @ R * (obs @ GAIN.T)).sum(-1) for obs in rollout.obs]
    soft = [reward - alpha * obs[:, 0] for reward, obs in zip(rewards, rollout.obs, strict=True)]
    expected = sum(GAMMA**t * soft[t] for t in range(horizon)) + GAMMA**horizon
    torch.testing.assert_close(values[0], expected)
    torch.testing.assert_close(action_values[0], expected + alpha * states()[:, 0])
    torch.testing.assert_close(action_values[2], rewards[2] + GAMMA)


def test_backprop_steps_cut_the_way_through_the_states() -> None:
    gain, cost = GAIN.clone().requires_grad_(), cost_matrix(GAIN)

    (cut,) = torch.autograd.grad(objective(gain, 4, cost, backprop_steps=1), gain)
    (whole,) = torch.autograd.grad(objective(gain, 4, cost, backprop_steps=4), gain)
    (uncut,) = torch.autograd.grad(objective(gain, 4, cost), gain)

    # every action is then judged by its own step alone: by its reward, and the last one by the critic
    obs, expected = states(), torch.zeros_like(GAIN)
    for t in range(5):
        own = slope(obs, GAIN, cost) if t == 4 else 2 * (obs @ GAIN.T) @ R
        expected = expected - GAMMA**t * own.T @ obs / len(obs)
        obs = obs @ (A - B @ GAIN).T
    torch.testing.assert_close(cut, expected)
    assert not torch.allclose(cut, uncut, rtol=0.01)
    assert not torch.allclose(whole, cut, rtol=0.01)


def line(ends_at: float = np.inf, diverges_at: float = np.inf) -> KnownDynamics:
    def step(obs: Tensor, action: Tensor) -> Tensor:
        moved = obs + action
        return moved / (moved <= diverges_at).to(moved)

    return KnownDynamics(
        spaces.Box(-np.inf, np.inf, (1,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
        step,
        lambda obs, action, next_obs: next_obs[:, 0],
        lambda obs, action, next_obs: next_obs[:, 0] > ends_at,
    )


def test_nothing_lies_behind_a_termination() -> None:
    push = torch.tensor(1.0, requires_grad=True)

    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return push.expand(len(obs), 1), torch.zeros(len(obs))

    start = torch.tensor([[0.0], [-5.0]])
    rollout = roll_out(step_in_turn(line(ends_at=1.5)), act, start, act(start), 4)
    values, _ = expanded_values(rollout, torch.full((2,), 100.0), 0.0, 1.0)
    (gradient,) = torch.autograd.grad(values[0][0], push)

    assert values[0].tolist() == [1 + 2, -4 - 3 - 2 - 1 + 100]  # the step that ends an episode is rewarded
    assert gradient == 1 + 2
    assert [reached.tolist() for reached in rollout.is_reached] == [
        [True, True], [True, True], [False, True], [False, True], [False, True]
    ]  # fmt: skip
    assert rollout.obs[-1][0] == 1.0  # stays where it was
    assert rollout.is_finite.all()


def test_a_row_that_diverges_is_told_and_stays_where_it_was() -> None:
    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(obs), 1), torch.zeros(len(obs))

    start = torch.tensor([[0.0], [-5.0]])
    rollout = roll_out(step_in_turn(line(diverges_at=1.5)), act, start, act(start), 3)

    assert rollout.is_finite.tolist() == [False, True]
    assert all(torch.isfinite(part).all() for parts in (rollout.obs, rollout.reward) for part in parts)
    assert [reached[0].item() for reached in rollout.is_reached] == [True, True, False, False]


def test_a_row_that_has_terminated_can_no_longer_diverge() -> None:
    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(obs == 1, 1.0, 5.0), torch.zeros(len(obs))

    start = torch.tensor([[1.0]])
    first = (torch.tensor([[0.5]]), torch.zeros(1))
    rollout = roll_out(step_in_turn(line(ends_at=1.2, diverges_at=1.7)), act, start, first, 2)

    assert rollout.terminated[0].item()
    assert rollout.is_finite.item()


def test_a_model_without_a_gradient_is_refused() -> None:
    dynamics = KnownDynamics.for_env("mbrl_wrappers/MBBLCartPole-v0")
    action = torch.zeros(3, 1, requires_grad=True)

    with pytest.raises(ValueError, match="dynamics must be differentiable with respect to the action"):
        roll_out(
            step_in_turn(dynamics), lambda obs: (action, action[:, 0]), torch.zeros(3, 4), (action, action[:, 0]), 1
        )


@pytest.mark.parametrize("rows", [1, 3, 6, 7])
def test_rows_keep_their_member(rows: int) -> None:
    dynamics = EnsembleDynamics.for_env(gym.make("Pendulum-v1"), num_members=4, num_elites=3, hidden=(8,)).double()
    obs, action = torch.randn(rows, 3), torch.randn(rows, 1)

    outcome = step_in_turn(dynamics, deterministic=True)(obs, action)

    for row in range(rows):
        member = dynamics.particle_members[row % 3]
        alone = dynamics.particle_step([member], deterministic=True)(
            obs[None, row : row + 1], action[None, row : row + 1], None
        )
        torch.testing.assert_close(outcome.next_obs[row], alone.next_obs[0, 0])
        torch.testing.assert_close(outcome.reward[row], alone.reward[0, 0])
