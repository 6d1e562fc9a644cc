"""The fast products of the ensemble against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mbrl_wrappers.models import linear
from mbrl_wrappers.models.linear import MIN_ROWS, ensemble_linear, is_served_by_onednn, onednn_linear


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.fixture
def without_onednn():
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    yield
    torch.backends.mkldnn.enabled = enabled


@pytest.fixture
def faster(monkeypatch):
    """oneDNN serves wherever it can, however fast this machine is with it."""
    monkeypatch.setattr(linear, "_is_faster", lambda: True)


def test_values_and_gradients_equal_torchs_batched_product(faster):
    inputs = tensors((3, 300, 4), (3, 4, 6), (3, 1, 6))
    ours, theirs = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
    (weights,) = tensors((3, 300, 6), seed=1)
    (ensemble_linear(*ours) * weights).sum().backward()
    (torch.baddbmm(theirs[2], theirs[0], theirs[1]) * weights).sum().backward()
    assert torch.allclose(ensemble_linear(*ours), torch.baddbmm(theirs[2], theirs[0], theirs[1]), atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4)


@pytest.mark.parametrize("silu", [True, False])
def test_one_member_equals_torchs_product(faster, silu):
    x, weight, bias = tensors((300, 7), (7, 9), (9,))
    expected = torch.addmm(bias, x, weight)
    product = onednn_linear(x, weight, bias, silu=silu) if is_served_by_onednn(x) else None
    if product is None:  # a build without oneDNN has nothing to compare
        assert linear._operator() is None
        return
    assert torch.allclose(product, F.silu(expected) if silu else expected, atol=1e-5)


def test_it_serves_many_rows_in_float32_only(faster):
    (x,) = tensors((MIN_ROWS, 3))
    assert not is_served_by_onednn(x.double())
    assert not is_served_by_onednn(x[1:])
    assert is_served_by_onednn(x) == (linear._operator() is not None)


ZEN_5 = {"cpu_name": "AMD EPYC 9575F 64-Core Processor", "avx512_f": True, "avx512_vp2intersect": True}


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (ZEN_5, True),
        ({**ZEN_5, "avx512_vp2intersect": False}, False),  # Zen 4
        ({**ZEN_5, "cpu_name": "11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz"}, False),
        ({"architecture": "aarch64"}, False),
        (None, False),  # a torch that can't tell
    ],
)
def test_the_processor_alone_tells_whether_it_serves(monkeypatch, capabilities, expected):
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    linear._is_faster.cache_clear()
    try:
        (x,) = tensors((MIN_ROWS, 3))
        assert is_served_by_onednn(x) == (expected and linear._operator() is not None)
    finally:
        linear._is_faster.cache_clear()


def test_it_can_be_switched_off(faster, without_onednn):
    x, weight, bias = tensors((2, MIN_ROWS, 3), (2, 3, 5), (2, 1, 5))
    assert not is_served_by_onednn(x)
    assert torch.equal(ensemble_linear(x, weight, bias), torch.baddbmm(bias, x, weight))


def test_it_leaves_the_choice_to_the_compiler(faster):
    (x,) = tensors((MIN_ROWS, 3))
    compiled = torch.compile(lambda x: x + is_served_by_onednn(x), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), x)


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
