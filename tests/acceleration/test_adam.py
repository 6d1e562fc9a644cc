"""Adam in one launch, and the steps that a recording takes, are torch's Adam."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mbrl_wrappers.acceleration.adam import AdamStep, FusedAdamStep
from mbrl_wrappers.acceleration.steppers import FusedStepper, Stepper
from mbrl_wrappers.agents.actor_gradients import ascend

LEARNING_RATE = 0.01


class Network(nn.Module):
    """A linear layer with its optimizer, as SB3's networks have one."""

    def __init__(self, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.optimizer: Any = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, weight_decay=weight_decay)

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


def twins(**kwargs: Any) -> tuple[Network, Network]:
    torch.manual_seed(0)
    one, other = Network(**kwargs), Network(**kwargs)
    other.load_state_dict(one.state_dict())
    return one, other


def data(step: int) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_fused_step_is_torchs(weight_decay: float) -> None:
    theirs, ours = twins(weight_decay=weight_decay)
    for step in range(5):
        for network in (theirs, ours):
            network.optimizer.zero_grad()
            network.linear(data(step)).square().sum().backward()
        theirs.optimizer.step()
        grads = [p.grad.t().contiguous().t() for p in ours.parameters()]  # transposed, as a compiler may leave them
        take, schedule = FusedAdamStep(ours.optimizer), FusedAdamStep.schedule(ours.optimizer, 1)
        take(AdamStep.state(ours.optimizer), schedule[0], grads)
        AdamStep.count(ours.optimizer, 1)
        torch.testing.assert_close(theirs.weights(), ours.weights(), atol=1e-7, rtol=1e-6)


def test_a_stepper_for_recordings_does_what_the_plain_one_does_and_tells_the_optimizer() -> None:
    theirs, ours = twins()
    plain, fused = Stepper(theirs.optimizer), FusedStepper(ours.optimizer)
    for step in range(6):
        if step == 3:  # a learning rate that falls
            for network in (theirs, ours):
                network.optimizer.param_groups[0]["lr"] = LEARNING_RATE / 10
        if step % 3 == 0:
            fused.begin()
        plain.descend(theirs.linear(data(step)).square().sum())
        fused.descend(ours.linear(data(step)).square().sum())
        if step % 3 == 2:
            fused.end()
    torch.testing.assert_close(theirs.weights(), ours.weights(), atol=1e-7, rtol=1e-6)
    assert [float(network.optimizer.state_dict()["state"][0]["step"]) for network in (theirs, ours)] == [6, 6]
    # From here on the optimizer itself can go on.
    for network in (theirs, ours):
        Stepper(network.optimizer).descend(network.linear(data(9)).square().sum())
    torch.testing.assert_close(theirs.weights(), ours.weights(), atol=1e-7, rtol=1e-6)


def test_a_gradient_that_is_not_finite_is_no_step_for_either() -> None:
    theirs, ours = twins()
    fused = FusedStepper(ours.optimizer)
    for network, stepper in ((theirs, Stepper(theirs.optimizer)), (ours, fused)):
        for factor in (1.0, torch.inf, 2.0, torch.nan, 1.0):
            norm = ascend((network.linear(data(0)) * factor).sum(), network, 1.0, [], stepper)
            assert norm.isfinite() == (factor in (1.0, 2.0))
    fused.end()
    torch.testing.assert_close(theirs.weights(), ours.weights(), atol=1e-7, rtol=1e-6)
    assert [float(network.optimizer.state_dict()["state"][0]["step"]) for network in (theirs, ours)] == [3, 3]
