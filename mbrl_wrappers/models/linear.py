"""Matrix products of the ensemble, by the fastest library that torch brings along.

On a CPU, torch uses MKL for float32 products. oneDNN, which the same builds of torch contain, applies the
activation in the same pass and is up to twice as fast on some processors, no faster on others. The choice depends on
the processor's instruction set, never on a timing, so that all processes on one machine make the same choice, however
busy it is. ``torch.backends.mkldnn.enabled = False`` turns oneDNN off.

The operator is the one that ``torch.compile`` emits for a linear layer. It is not public; if it is missing
or its result differs from torch's, torch's own product is used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MIN_ROWS = 256  # with fewer rows, the 0.02 ms that a call of oneDNN takes outweigh its gain


@cache
def _operator() -> Any:
    """Return oneDNN's operator ``(input, weight [O, I], bias, activation, scalars, algorithm)``, or None."""
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None:
        return None
    a, b, bias = (torch.linspace(-1, 1, n).reshape(shape) for n, shape in ((6, (3, 2)), (8, (2, 4)), (4, (4,))))
    try:
        answer = operator(a, b.t(), bias, "swish", [], "")
    except (RuntimeError, TypeError):
        return None
    return operator if torch.allclose(answer, F.silu(torch.addmm(bias, a, b)), atol=1e-5) else None


@cache
def _is_faster() -> bool:
    """Tell by the processor whether oneDNN is faster than MKL: on AMD's from Zen 5 on.

    MKL uses no AVX-512 instructions on AMD's processors, oneDNN does. Up to Zen 4 these run in two halves and gain
    nothing: a training step was measured to be 16% slower with oneDNN. Zen 5 is recognised by VP2INTERSECT, which came
    with it. If torch can't tell the processor's instructions, oneDNN is not used.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "AMD" in str(capabilities.get("cpu_name")) and bool(capabilities.get("avx512_vp2intersect"))


def is_served_by_onednn(x: Tensor) -> bool:
    """Tell whether oneDNN computes the products of ``x [..., B, I]``: many float32 rows, where it is faster.

    Never inside ``torch.compile``, which makes its own choice.
    """
    if torch.compiler.is_compiling():
        return False
    wanted = x.shape[-2] >= MIN_ROWS and x.device.type == "cpu" and x.dtype == torch.float32
    return wanted and bool(torch.backends.mkldnn.enabled) and _is_faster() and _operator() is not None


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False) -> Tensor:
    """Return ``x [B, I] @ weight [I, O] + bias [O]``, through a SiLU if asked for; not differentiable."""
    return _operator()(x, weight.t(), bias, "swish" if silu else "none", [], "")


class _OneDNNEnsembleLinear(torch.autograd.Function):
    """``baddbmm(bias [E, 1, O], x [E, B, I], weight [E, I, O])``, once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.stack([onednn_linear(*member) for member in zip(x, weight, bias[:, 0], strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.stack([onednn_linear(g, w.t()) for g, w in zip(grad, weight, strict=True)])
        grad_weight = torch.stack([onednn_linear(a.t(), g) for a, g in zip(x, grad, strict=True)])
        return grad_x, grad_weight, grad.sum(1, keepdim=True)


def ensemble_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return each member's ``x [E, B, I] @ weight [E, I, O] + bias [E, 1, O]``, for training.

    Second derivatives are available only where oneDNN is not used.
    """
    if is_served_by_onednn(x):
        return _OneDNNEnsembleLinear.apply(x, weight, bias)
    return torch.baddbmm(bias, x, weight)
