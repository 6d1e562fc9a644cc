"""Returns against their sums written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mbrl_wrappers.returns import PendingReturn, RunningReturn, backup, lambda_returns, returns_to_go

STEPS, ROWS, GAMMA = 6, 40, 0.9


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards and terminations ``[T, B]`` and values ``[T + 1, B]``; some rows terminate at once, some never."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(steps, ROWS, generator=generator).double() for steps in (STEPS, STEPS + 1))
    return rewards, torch.rand(STEPS, ROWS, generator=generator) < 0.2, values


def n_step(rewards: Tensor, terminated: Tensor, values: Tensor, start: int, n: int) -> Tensor:
    """``sum_{k<n} gamma^k r_{t+k} + gamma^n V_{t+n}`` up to the first termination, row by row."""
    result = torch.zeros(ROWS, dtype=torch.double)
    for row in range(ROWS):
        for k in range(n):
            result[row] += GAMMA**k * rewards[start + k, row]
            if terminated[start + k, row]:
                break
        else:
            result[row] += GAMMA**n * values[start + n, row]
    return result


def test_returns_to_go_are_those_of_all_steps_that_are_left() -> None:
    rewards, terminated, values = drawn()
    assert terminated.any() and not terminated.any(0).all()
    action_values, state_values = returns_to_go(rewards.unbind(), terminated.unbind(), values[-1], GAMMA)
    for t in range(STEPS):
        expected = n_step(rewards, terminated, values, t, STEPS - t)
        assert torch.allclose(action_values[t], expected) and torch.equal(action_values[t], state_values[t])
    assert torch.equal(state_values[STEPS], values[-1])


def test_a_bonus_belongs_to_its_state_and_not_to_its_action() -> None:
    rewards, terminated, values = drawn()
    bonuses = torch.randn(STEPS, ROWS, generator=torch.Generator().manual_seed(1)).double()
    action_values, state_values = returns_to_go(
        rewards.unbind(), terminated.unbind(), values[-1], GAMMA, bonuses.unbind()
    )
    expected, _ = returns_to_go((rewards + bonuses).unbind(), terminated.unbind(), values[-1], GAMMA)
    for t in range(STEPS):
        assert torch.allclose(state_values[t], expected[t])
        assert torch.allclose(action_values[t], expected[t] - bonuses[t])


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_lambda_returns_are_weighted_means_of_n_step_returns(lam: float) -> None:
    rewards, terminated, values = drawn()
    found = lambda_returns(rewards, terminated, values, GAMMA, lam)
    for t in range(STEPS):
        left = STEPS - t
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, left)] + [lam ** (left - 1)]
        parts = [n_step(rewards, terminated, values, t, n) for n in range(1, left + 1)]
        assert sum(weights) == pytest.approx(1)
        assert torch.allclose(found[t], sum(w * part for w, part in zip(weights, parts, strict=True)))


def test_both_ways_of_summing_agree_with_the_sum() -> None:
    rewards, terminated, values = drawn()
    obs = torch.arange(ROWS)[:, None].double()
    pending = PendingReturn.at(obs)
    for t in reversed(range(STEPS)):
        pending = pending.after(rewards[t], terminated[t], GAMMA)
    critic = values[-1]
    from_the_end = pending.reward + pending.discount * ~pending.terminated * critic
    running = RunningReturn(torch.zeros(ROWS).double(), torch.ones(ROWS, dtype=torch.bool), 1.0)
    for t in range(STEPS):
        bootstrapped = running.reward + running.bootstrap(values[t])
        assert torch.allclose(bootstrapped, n_step(rewards, terminated, values, 0, t))
        running = running.then(rewards[t], terminated[t], GAMMA ** (t + 1))
    expected = n_step(rewards, terminated, values, 0, STEPS)
    assert torch.allclose(from_the_end, expected) and torch.equal(pending.obs, obs)
    assert torch.allclose(running.reward + running.bootstrap(critic), expected)


def test_what_lies_behind_a_termination_is_not_looked_at() -> None:
    reward, terminated = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    assert backup(reward, terminated, torch.tensor([torch.nan, 3.0]), 0.5).tolist() == [1.0, 3.5]
    running = RunningReturn(torch.zeros(2), ~terminated, 0.5)
    assert running.bootstrap(torch.tensor([torch.nan, 3.0])).tolist() == [0.0, 1.5]


def test_discounts_of_the_steps_are_chances_to_go_on() -> None:
    """A discount of 0 is a termination, the same discount at all steps is that number."""
    rewards, terminated, values = drawn()
    never = torch.zeros_like(terminated)
    found = lambda_returns(rewards, never, values, GAMMA * (~terminated).double(), 0.7)
    assert torch.allclose(found, lambda_returns(rewards, terminated, values, GAMMA, 0.7))


def test_lambda_returns_have_the_gradients_of_their_sum() -> None:
    rewards, terminated, values = (part[:, :3] for part in drawn())
    discounts = torch.rand_like(rewards)
    inputs = [part.requires_grad_() for part in (rewards, values, discounts)]
    assert torch.autograd.gradcheck(lambda r, v, g: lambda_returns(r, terminated, v, g, 0.9), inputs)
