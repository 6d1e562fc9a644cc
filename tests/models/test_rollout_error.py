"""Open-loop error: exact where it can be worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import KnownDynamics
from mbrl_wrappers.models.rollout_error import open_loop_error

A = np.array([[0.9, 0.1], [0.0, 1.0]])
B = np.array([[0.0], [0.5]])


def linear(matrix: np.ndarray, noise_std: float = 0.0) -> KnownDynamics:
    return KnownDynamics.linear_quadratic(matrix, B, np.eye(2), np.eye(1), noise_std=noise_std).double()


def trajectories(dynamics: KnownDynamics, count: int, steps: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    obs = [torch.randn(count, dynamics.obs_codec.dim, generator=generator, dtype=torch.float64)]
    action = torch.randn(count, steps, dynamics.action_codec.dim, generator=generator, dtype=torch.float64)
    for step in range(steps):
        obs.append(dynamics.predict(obs[-1], action[:, step]).next_obs)
    return torch.stack(obs, dim=1), action


def test_the_true_model_has_no_error():
    obs, action = trajectories(linear(A), count=4, steps=12)
    error = open_loop_error(linear(A), obs, action, horizon=5)
    assert error.shape == (4 * 8, 5)
    assert error.max() < 1e-12


def test_a_wrong_linear_model_errs_as_its_matrix_powers_say():
    wrong = A + np.array([[0.05, 0.0], [0.02, -0.1]])
    obs, action = trajectories(linear(A), count=3, steps=10)
    error = open_loop_error(linear(wrong), obs, action, horizon=4)
    spread = obs.reshape(-1, 2).numpy().std(axis=0)
    expected = []
    for path, actions in zip(obs.numpy(), action.numpy(), strict=True):
        for start in range(7):
            row = []
            for ahead in range(1, 5):
                powers = [np.linalg.matrix_power(wrong, ahead - 1 - k) @ B @ actions[start + k] for k in range(ahead)]
                predicted = np.linalg.matrix_power(wrong, ahead) @ path[start] + sum(powers)
                row.append(np.sqrt(np.mean(((predicted - path[start + ahead]) / spread) ** 2)))
            expected.append(row)
    # The model was built in single precision.
    torch.testing.assert_close(error, torch.tensor(np.array(expected)), rtol=1e-5, atol=1e-7)
    assert (error > 0).all()


def test_a_model_that_answers_with_the_mean_state_errs_by_one():
    obs, action = trajectories(linear(A), count=200, steps=5)
    mean = obs.reshape(-1, 2).mean(0)
    guess = KnownDynamics(
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(-1, 1, (1,)),
        lambda obs, action: mean.expand_as(obs),
        lambda obs, action, next_obs: obs[..., 0],
    )
    error = open_loop_error(guess, obs, action, horizon=1)
    assert float(error.square().mean().sqrt()) == pytest.approx(1.0, abs=0.05)


def test_a_dimension_that_does_not_vary_counts_in_its_own_units():
    shift = KnownDynamics(
        spaces.Box(-np.inf, np.inf, (1,)),
        spaces.Box(-1, 1, (1,)),
        lambda obs, action: obs + 0.5,
        lambda obs, action, next_obs: obs[..., 0],
    )
    error = open_loop_error(shift, torch.full((2, 4, 1), 7.0), torch.zeros(2, 3, 1), horizon=3)
    torch.testing.assert_close(error, torch.tensor([[0.5, 1.0, 1.5]] * 2))


def test_samples_come_from_the_generator():
    noisy = linear(A, noise_std=0.3)
    obs, action = trajectories(linear(A), count=3, steps=6)

    def sampled(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return open_loop_error(noisy, obs, action, 4, generator, deterministic=False)

    assert torch.equal(sampled(0), sampled(0)) and not torch.equal(sampled(0), sampled(1))
    assert (sampled(0) > 0).all() and open_loop_error(noisy, obs, action, 4).max() < 1e-12


def test_nothing_is_kept_for_gradients():
    obs, action = trajectories(linear(A), count=2, steps=3)
    assert not open_loop_error(linear(A), obs.requires_grad_(), action, 2).requires_grad


@pytest.mark.parametrize(
    ("obs", "action", "horizon", "message"),
    [
        ((2, 6, 2), (2, 5, 1), 6, "horizon must be from 1 to the trajectories' 5 steps, got 6"),
        ((2, 6, 2), (2, 5, 1), 0, "horizon must be from 1 to the trajectories' 5 steps, got 0"),
        ((6, 2), (5, 1), 1, r"obs must have shape \[E, T \+ 1, 2\] .*, got \(6, 2\)"),
        ((0, 6, 2), (0, 5, 1), 1, "obs must have shape .* at least one trajectory"),
        ((2, 6, 3), (2, 5, 1), 1, r"obs must have shape \[E, T \+ 1, 2\] .*, got \(2, 6, 3\)"),
        ((2, 6, 2), (2, 6, 1), 1, r"action must have shape \(2, 5, 1\) .*, got \(2, 6, 1\)"),
    ],
)
def test_bad_input_is_named(obs, action, horizon, message):
    with pytest.raises(ValueError, match=message):
        open_loop_error(linear(A), torch.zeros(obs), torch.zeros(action), horizon)
