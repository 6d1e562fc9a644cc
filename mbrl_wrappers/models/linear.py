"""Matrix products of the ensemble, by the fastest library that torch brings along.

On a CPU torch hands float32 products to MKL. oneDNN, which the same builds of torch carry, applies the
activation in the same pass and is up to twice as fast on some processors, on others no faster. Which one serves
is decided by the processor's instructions, never by a clock: all processes on one machine choose alike, however busy
it is. ``torch.backends.mkldnn.enabled = False`` keeps oneDNN out of it.

The operator is the one that ``torch.compile`` emits for a linear layer. It is not public; where it is
missing or answers otherwise than torch, torch's own product is used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MIN_ROWS = 256  # below it oneDNN's cost of a call, 0.02 ms, outweighs what it gains


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

    MKL takes no AVX-512 instructions there, oneDNN does. Up to Zen 4 those are carried out in halves and gain nothing:
    a training step was measured 16% slower with oneDNN. VP2INTERSECT came with Zen 5. A torch that can't tell the
    processor's instructions leaves oneDNN out.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "AMD" in str(capabilities.get("cpu_name")) and bool(capabilities.get("avx512_vp2intersect"))


def is_served_by_onednn(x: Tensor) -> bool:
    """Tell whether oneDNN takes the products of ``x [..., B, I]``: many float32 rows, where it is the faster one.

    Never inside ``torch.compile``, which chooses for itself.
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

    Gradients of gradients are available only where oneDNN does not serve.
    """
    if is_served_by_onednn(x):
        return _OneDNNEnsembleLinear.apply(x, weight, bias)
    return torch.baddbmm(bias, x, weight)
