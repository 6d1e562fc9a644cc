"""The fast products of the ensemble against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mbrl_wrappers.models import linear
from mbrl_wrappers.models.linear import ensemble_linear, is_served_by_onednn, onednn_linear


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.fixture
def without_onednn():
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = enabled


def test_values_and_gradients_equal_torchs_batched_product():
    inputs = tensors((3, 10, 4), (3, 4, 6), (3, 1, 6))
    ours, theirs = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
    (weights,) = tensors((3, 10, 6), seed=1)
    (ensemble_linear(*ours) * weights).sum().backward()
    (torch.baddbmm(theirs[2], theirs[0], theirs[1]) * weights).sum().backward()
    assert torch.allclose(ensemble_linear(*ours), torch.baddbmm(theirs[2], theirs[0], theirs[1]), atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


@pytest.mark.parametrize("silu", [True, False])
def test_one_member_equals_torchs_product(silu):
    x, weight, bias = tensors((50, 7), (7, 9), (9,))
    expected = torch.addmm(bias, x, weight)
    product = onednn_linear(x, weight, bias, silu=silu) if is_served_by_onednn(x) else None
    if product is None:  # a build without oneDNN has nothing to compare
        assert linear._operator() is None
        return
    assert torch.allclose(product, F.silu(expected) if silu else expected, atol=1e-5)


def test_it_serves_float32_batches_only():
    (x,) = tensors((8, 3))
    assert not is_served_by_onednn(x.double())
    assert not is_served_by_onednn(x[:1])
    assert is_served_by_onednn(x) == (linear._operator() is not None)


def test_it_can_be_switched_off(without_onednn):
    x, weight, bias = tensors((2, 8, 3), (2, 3, 5), (2, 1, 5))
    assert not is_served_by_onednn(x)
    assert torch.equal(ensemble_linear(x, weight, bias), torch.baddbmm(bias, x, weight))


def test_an_operator_that_answers_otherwise_is_not_used(monkeypatch):
    class Renamed:
        @staticmethod
        def _linear_pointwise(*arguments):
            return torch.zeros(3, 4)

    monkeypatch.setattr(torch.ops, "mkldnn", Renamed)
    linear._operator.cache_clear()
    try:
        assert linear._operator() is None
    finally:
        monkeypatch.undo()
        linear._operator.cache_clear()
