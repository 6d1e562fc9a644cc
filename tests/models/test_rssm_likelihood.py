"""The latent model of a linear-Gaussian system against the Kalman filter, which knows its likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.experience import Episodes
from mbrl_wrappers.models import RSSM
from mbrl_wrappers.types import Sequences

# x' = A x + B a + w and y = C x + v: a damped rotation, of which one coordinate is pushed and seen.
TURN = math.cos(0.5), math.sin(0.5)
A = 0.95 * torch.tensor([[TURN[0], TURN[1]], [-TURN[1], TURN[0]]], dtype=torch.float64)
B = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
C = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
NOISE, SEEN_NOISE = torch.eye(2, dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
ACTION_VARIANCE = 1 / 3  # uniform in [-1, 1]


def stationary() -> Tensor:
    """The covariance of x while actions are random."""
    covariance = NOISE
    for _ in range(500):
        covariance = A @ covariance @ A.T + ACTION_VARIANCE * B @ B.T + NOISE
    return covariance


def played(length: int, seed: int) -> Episodes:
    generator = torch.Generator().manual_seed(seed)
    action = 2 * torch.rand(length + 200, 1, generator=generator, dtype=torch.float64) - 1
    noise = torch.randn(length + 200, 3, generator=generator, dtype=torch.float64)
    x, seen = torch.zeros(2, dtype=torch.float64), []
    for push, (*moved, shown) in zip(action, noise, strict=True):
        x = A @ x + B @ push + torch.stack(moved)
        seen.append(C @ x + SEEN_NOISE[0].sqrt() * shown)
    first = torch.zeros(length, dtype=torch.bool)
    first[0] = True
    obs = torch.stack(seen)[200:]  # x has forgotten where it began
    return Episodes(obs.float(), action[200:].float(), torch.zeros(length), torch.zeros_like(first), first)


def exact(real: Sequences) -> Tensor:
    """The negative log-likelihood of each observation given those before it, ``[B, T]``."""
    mean, covariance, found = torch.zeros(len(real.obs), 2, dtype=torch.float64), stationary(), []
    for t in range(real.obs.shape[1]):
        if t:
            mean, covariance = mean @ A.T + real.action[:, t].double() @ B.T, A @ covariance @ A.T + NOISE
        spread, error = C @ covariance @ C.T + SEEN_NOISE, real.obs[:, t].double() - mean @ C.T
        found.append(0.5 * (error.square() / spread + spread.log() + math.log(2 * math.pi))[:, 0])
        gain = covariance @ C.T / spread
        mean, covariance = mean + error @ gain.T, covariance - gain @ C @ covariance
    return torch.stack(found, dim=1)


@torch.no_grad()
def bound(model: RSSM, real: Sequences) -> float:
    """The model's own bound on the negative log-likelihood of an observation, averaged over draws of its latents.

    Its squared error is the negative log-density of a Gaussian of variance 1/2, but for a constant.
    """
    terms = [model.loss(real, torch.Generator().manual_seed(seed)).terms for seed in range(4)]
    found = [float(term["observation_loss"] + term["divergence_loss"]) for term in terms]
    return float(np.mean(found)) + 0.5 * math.log(math.pi)


def test_the_filter_is_the_joint_gaussian() -> None:
    real = played(40, 1).sequences(1, 5, torch.Generator().manual_seed(0))
    real = real._replace(action=torch.zeros_like(real.action))
    covariance = SEEN_NOISE * torch.eye(5, dtype=torch.float64)
    at = stationary()
    for first in range(5):
        between = at
        for second in range(first, 5):
            covariance[first, second] += (C @ between @ C.T).item()
            covariance[second, first] = covariance[first, second]
            between = A @ between
        at = A @ at @ A.T + NOISE
    joint = torch.distributions.MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance)
    assert exact(real).sum().item() == pytest.approx(-joint.log_prob(real.obs[0, :, 0].double()).item())


@pytest.mark.slow
def test_the_likelihood_of_a_linear_gaussian_system_is_recovered() -> None:
    """Within 0.1 nats an observation."""
    model = RSSM(
        spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32), version=1, deter=32,
        units=32, layers=1, latent=4, free_nats=0.0, batch_size=32, sequence_length=12, train_steps=400,
    )  # fmt: skip
    experience, held_out = played(8_000, 0), played(8_000, 1)
    for rate in (3e-3, 1e-3):
        model.settings["learning_rate"] = rate
        model.fit(experience, torch.Generator().manual_seed(0))
    real = held_out.sequences(400, 12, torch.Generator().manual_seed(2))
    of_filter, of_model = float(exact(real).mean()), bound(model, real)
    assert -0.03 < of_model - of_filter < 0.1
    # A model without a memory would lie far above, and actions count as much as they should.
    shifted = real._replace(action=real.action.roll(1, dims=1))
    lost = float(exact(shifted).mean()) - of_filter
    assert bound(model, shifted) - of_model == pytest.approx(lost, rel=0.3) and lost > 0.1
    assert bound(model, real._replace(is_first=torch.ones_like(real.is_first))) > of_model + 0.3
