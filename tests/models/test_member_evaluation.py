"""Each row by its own member: every way of evaluating an ensemble agrees with one member at a time, and stays true."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics, routing
from mbrl_wrappers.models.heads import Heads
from mbrl_wrappers.models.network import CHUNK_ROWS, EnsembleMLP
from mbrl_wrappers.types import Transitions

MEMBERS = 5
ELITES = [4, 0, 3]
HEADS = Heads(3, components=2, categories=(2, 3), flags=1)
SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def network(dtype: torch.dtype = torch.float32) -> EnsembleMLP:
    made = EnsembleMLP(MEMBERS, in_dim=4, heads=HEADS, hidden=(16, 16), seed=0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return made.to(dtype)


def rows(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)


def one_by_one(made: EnsembleMLP, x: Tensor, members: Tensor) -> list[Tensor]:
    """Evaluate every row by itself, through ``forward``, which training uses."""
    outputs = made(x.expand(MEMBERS, *x.shape))
    places = torch.arange(len(x))
    return [output[members, places] for output in outputs]


def assert_close(outputs: Any, expected: list[Tensor]) -> None:
    for a, b in zip(outputs, expected, strict=True):
        assert a.dtype == b.dtype and torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("count", [1, 2, 7, 60, 900, 2 * CHUNK_ROWS + 5])
def test_dealt_rows_are_what_their_members_say_one_by_one(count: int, mode: Any, dtype: torch.dtype):
    made, x = network(dtype), rows(count, dtype)
    deal = routing.dealt(count, ELITES, torch.Generator().manual_seed(2), x.device)
    whose = routing.member_of_row(deal)
    assert set(whose.tolist()) <= set(ELITES)
    assert max(deal.shares) - min(deal.shares) <= 1 and sum(deal.shares) == count
    with mode():
        outputs = routing.evaluate(made, x, deal)
    assert_close(outputs, one_by_one(made, x, whose))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_shares_may_be_of_any_size(mode: Any):
    made, x = network(), rows(400)
    whose = torch.tensor([3, 0, 0, 1] * 100)
    whose[:150] = 4
    with mode():
        outputs = routing.evaluate(made, x, routing.grouped(whose, MEMBERS))
    assert_close(outputs, one_by_one(made, x, whose))


@pytest.mark.parametrize("count", [0, 1, 60, 700])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_members_on_shared_rows_agree_with_each_alone(count: int, mode: Any):
    made, x = network(), rows(count)
    with mode():
        outputs = made.members(ELITES, x)
        alone = [made.member(member, x) for member in ELITES]
    assert_close(outputs, [torch.stack(column) for column in zip(*alone, strict=True)])
    chosen = made.choose(ELITES)
    with mode():
        assert_close(made.evaluate(chosen, x.expand(3, *x.shape)), list(outputs))


def test_gradients_of_dealt_rows_are_those_of_each_row_by_its_member():
    made, x = network(torch.float64), rows(11, torch.float64).requires_grad_()
    deal = routing.dealt(11, ELITES, torch.Generator().manual_seed(2), x.device)
    grads = []
    for outputs in (routing.evaluate(made, x, deal), one_by_one(made, x, routing.member_of_row(deal))):
        loss = sum((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs)
        grads.append(torch.autograd.grad(loss, [x, *made.parameters()]))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


# -- views of parameters are kept from call to call: whatever happens to a parameter, they must show it ----------------


def in_place(made: EnsembleMLP) -> EnsembleMLP:
    with torch.no_grad():
        made.weights[1].mul_(1.5)
    return made


def past_autograd(made: EnsembleMLP) -> EnsembleMLP:
    made.weights[1].data.mul_(1.5)  # torch's version counter does not see it
    return made


def under_inference_mode(made: EnsembleMLP) -> EnsembleMLP:
    with torch.inference_mode():
        made.weights[1].mul_(1.5)
    return made


def other_data(made: EnsembleMLP) -> EnsembleMLP:
    made.weights[1].data = 1.5 * made.weights[1].data
    return made


def other_parameter(made: EnsembleMLP) -> EnsembleMLP:
    made.biases[0] = torch.nn.Parameter(made.biases[0].detach() + 1)
    return made


def loaded(made: EnsembleMLP) -> EnsembleMLP:
    made.load_state_dict({name: 1.5 * value for name, value in made.state_dict().items()})
    return made


def assigned(made: EnsembleMLP) -> EnsembleMLP:
    made.load_state_dict({name: 1.5 * value for name, value in made.state_dict().items()}, assign=True)
    return made


def trained(made: EnsembleMLP) -> EnsembleMLP:
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1)
    sum(output.square().mean() for output in made(rows(5).expand(MEMBERS, 5, 4))).backward()
    optimizer.step()
    return made


def copied(made: EnsembleMLP) -> EnsembleMLP:
    return in_place(copy.deepcopy(made))


def pickled(made: EnsembleMLP) -> EnsembleMLP:
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    return in_place(torch.load(file, weights_only=False))


def cast_and_back(made: EnsembleMLP) -> EnsembleMLP:
    return in_place(made.double().float())


CHANGES: list[Callable[[EnsembleMLP], EnsembleMLP]] = [
    in_place, past_autograd, under_inference_mode, other_data, other_parameter, loaded, assigned, trained, copied,
    pickled, cast_and_back,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_change_of_the_parameters_is_met_by_the_next_call(change: Callable[[EnsembleMLP], EnsembleMLP], mode: Any):
    made, x = network(), rows(30)
    deal = routing.dealt(30, ELITES, torch.Generator().manual_seed(2), x.device)
    with mode():
        before = [output.clone() for output in routing.evaluate(made, x, deal)]
    changed = change(made)
    with mode():
        after = routing.evaluate(changed, x, deal)
        shared = changed.members(ELITES, x)
    assert not torch.allclose(after[0], before[0], atol=1e-3)
    assert_close(after, one_by_one(changed, x, routing.member_of_row(deal)))
    assert_close(shared, [torch.stack(c) for c in zip(*(changed.member(m, x) for m in ELITES), strict=True)])


def test_a_copy_does_not_touch_its_original():
    made, x = network(), rows(30)
    with torch.no_grad():
        before = made.member(1, x)
        copied(made).member(1, x)
        assert all(torch.equal(a, b) for a, b in zip(made.member(1, x), before, strict=True))


def test_a_model_predicts_anew_after_a_fit():
    model = EnsembleDynamics(SPACE, spaces.Box(-1, 1, (1,)), num_members=3, num_elites=2, hidden=(16,), max_steps=20)
    obs, action = torch.randn(80, 3), torch.rand(80, 1)
    with torch.no_grad():
        model.predict(obs, action)  # views of the first weights
    no_end = torch.zeros(80, dtype=torch.bool)
    data = Transitions(obs, action, 5 * action[:, 0], obs + action, no_end, torch.arange(80))
    model.fit(data, torch.Generator().manual_seed(0))
    fresh = EnsembleDynamics.from_description(model.description())
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        ours, theirs = (m.predict(obs, action, generator=torch.Generator().manual_seed(0)) for m in (model, fresh))
    assert torch.equal(ours.next_obs, theirs.next_obs) and torch.equal(ours.uncertainty, theirs.uncertainty)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_it_compiles_to_the_same_numbers(mode: Any):
    made, x = network(), rows(6)
    deal = routing.grouped(torch.tensor([0, 0, 2, 0, 2, 0]), MEMBERS)

    def outputs(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(routing.evaluate(made, x, deal))

    with mode():
        compiled = torch.compile(outputs, backend="eager", fullgraph=True)
        assert_close(compiled(x), list(outputs(x)))
