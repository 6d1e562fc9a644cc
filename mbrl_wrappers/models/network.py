"""The ensemble's network: independent MLPs stored side by side, so that one product serves them all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_wrappers.models.heads import Heads, Outputs
from mbrl_wrappers.models.linear import ensemble_linear, is_served_by_onednn, onednn_linear

CHUNK_ROWS = 2048
# With so many rows per member or more, one product per member is at least as fast as one for all members.
_ROWS_OF_ITS_OWN = 256


class Workspace:
    """Memory for activations that is reused from product to product.

    An allocator may return large blocks to the system after each use, and then has to get fresh pages for the next.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}

    def take(self, slot: int, rows: int, width: int, like: Tensor) -> Tensor:
        """Return ``[rows, width]`` of arbitrary content, in the memory of the slot's previous result."""
        buffer = self._buffers.get(slot)
        if (
            buffer is None
            or buffer.numel() < rows * width
            or (buffer.dtype, buffer.device) != (like.dtype, like.device)
            or buffer.is_inference() != torch.is_inference_mode_enabled()
        ):
            self._buffers[slot] = buffer = like.new_empty(rows * width)
        return buffer[: rows * width].view(rows, width)


Layers = list[tuple[Tensor, Tensor]]
"""Weight ``[in, out]`` and bias ``[1, out]`` of each layer of one network."""


@dataclass(frozen=True)
class ChosenMembers:
    """The parameters of ``M`` members of an ensemble, side by side.

    Attributes:
        layers: weight ``[M, in, out]`` and bias ``[M, 1, out]`` of each layer.
        bounds: of the log-variance and the variance, ``[M, 1, K * T]`` each; see :meth:`EnsembleMLP._bounds`.
        workspace: shared by all evaluations, so no two may run at the same time.
    """

    layers: list[tuple[Tensor, Tensor]]
    bounds: tuple[Tensor, ...]
    workspace: Workspace = field(default_factory=Workspace)

    @cached_property
    def of_members(self) -> list[Layers]:
        """The layers of one member after the other, as views."""
        return _of_members(self.layers)


class EnsembleMLP(nn.Module):
    """``E`` probabilistic MLPs with SiLU units and the same heads each.

    The log-variances of the Gaussians are softly clamped between two learned bounds (Chua et al. 2018,
    appendix A.1). Deviation: the bounds are kept per member instead of shared, so that a member's best weights and
    the bounds they were trained with are stored and restored together.

    Args:
        num_members: ``E``.
        in_dim: width of the input.
        heads: the layout of the outputs.
        hidden: units of the hidden layers.
        seed: of the initial weights, a truncated normal of std ``1 / sqrt(fan_in)``. That is twice PETS's, with which
            signals fade from layer to layer of SiLU units and a first fit takes several times as many steps.
    """

    def __init__(self, num_members: int, in_dim: int, heads: Heads, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        self.num_members, self.heads = num_members, heads
        widths = [in_dim, *hidden, sum(heads.widths)]
        generator = torch.Generator().manual_seed(seed)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(widths):
            weight = torch.empty(num_members, fan_in, fan_out)
            std = 1 / fan_in**0.5
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(num_members, 1, fan_out)))
        if heads.components > 1:  # components that start equal would stay equal
            apart = torch.linspace(-1, 1, heads.components).repeat_interleave(heads.targets)
            self.biases[-1].data[..., : heads.gaussians] = apart
        self.max_logvar = nn.Parameter(torch.full((num_members, 1, heads.gaussians), 0.5))
        self.min_logvar = nn.Parameter(torch.full((num_members, 1, heads.gaussians), -10.0))
        self._views: tuple[list[int], list[Layers]] = ([], [])

    def forward(self, x: Tensor) -> Outputs:
        """Evaluate every member on rows of its own.

        Args:
            x: ``[E, B, in_dim]`` normalised inputs (expanded where members share rows).

        Returns:
            Fields ``[E, B, ...]``.
        """
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = ensemble_linear(x, weight, bias)
            x = F.silu(x) if layer < last else x
        return self._outputs(x, self._bounds(slice(None)))

    def member(self, index: int, x: Tensor) -> Outputs:
        """Evaluate one member on ``x [B, in_dim]``; returns fields ``[B, ...]``.

        On a CPU and without gradients rows go in chunks, whose activations stay in the cache.
        """
        return self._outputs(_mlp(self._members_layers()[index], x, Workspace()), self._bounds(index))

    def last_layer(self, members: Sequence[int], shares: Sequence[int], x: Tensor) -> Tensor:
        """Evaluate the last layer of several members, each on rows of its own.

        Args:
            members: the members to evaluate.
            shares: how many rows each of them has.
            x: ``[B, in_dim]``, the first member's rows, then the next one's.

        Returns:
            ``[B, out]``, for :meth:`of_outputs`.
        """
        layers, shares, workspace = self._members_layers(), list(shares), Workspace()
        parts = x.split(shares)
        if torch.is_grad_enabled():
            return torch.cat([_mlp(layers[i], rows, workspace) for i, rows in zip(members, parts, strict=True)])
        out = x.new_empty(len(x), layers[0][-1][0].shape[-1])
        for i, rows, result in zip(members, parts, out.split(shares), strict=True):
            _mlp_into(result, layers[i], rows, workspace)
        return out

    def of_outputs(self, out: Tensor, members: Tensor) -> Outputs:
        """Turn the last layer's values ``[B, out]`` into distributions; ``members [B]`` has each row's member."""
        bounds = self._bounds(slice(None))
        of_rows = torch.cat(bounds, dim=-1).flatten(0, 1).index_select(0, members)
        return self._outputs(out, of_rows.chunk(len(bounds), dim=-1))

    def choose(self, members: Sequence[int]) -> ChosenMembers:
        """Gather some members' parameters, for many calls of :meth:`evaluate`."""
        index = torch.tensor(members, device=self.max_logvar.device)
        layers = [(weight[index], bias[index]) for weight, bias in self._pairs()]
        return ChosenMembers(layers, self._bounds(index))

    def members(self, indices: Sequence[int], x: Tensor) -> Outputs:
        """Evaluate several members on the same rows ``x [B, in_dim]``; returns fields ``[M, B, ...]``."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.evaluate(self.choose(indices), x.expand(len(indices), *x.shape))
        # To gather the members' parameters would cost more than to evaluate 100 rows.
        of_members, workspace = self._members_layers(), Workspace()
        out = torch.stack([_mlp(of_members[index], x, workspace) for index in indices])
        return self._outputs(out, self._bounds(torch.tensor(indices)))

    def evaluate(self, chosen: ChosenMembers, x: Tensor) -> Outputs:
        """Evaluate ``x [M, B, in_dim]``, each member on rows of its own; returns fields ``[M, B, ...]``."""
        if x.shape[1] >= _ROWS_OF_ITS_OWN and x.device.type == "cpu":
            parts = zip(chosen.of_members, x, strict=True)
            out = torch.stack([_mlp(layers, rows, chosen.workspace) for layers, rows in parts])
        else:
            last = len(chosen.layers) - 1
            out = x
            for layer, (weight, bias) in enumerate(chosen.layers):
                out = torch.baddbmm(bias, out, weight)
                if layer < last:
                    out = F.silu(out, inplace=not out.requires_grad)
        return self._outputs(out, chosen.bounds)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight and bias of each layer, of all members."""
        # Indexing or iterating a ParameterList costs as much as a one-row product.
        weights, biases = (cast("dict[str, Tensor]", module._parameters) for module in (self.weights, self.biases))
        return list(zip(weights.values(), biases.values(), strict=True))

    def _members_layers(self) -> list[Layers]:
        """Return the layers of each member.

        Where no gradient flows through them, they are views that are made only once: they share the parameters' memory,
        so they follow whatever is written into it. A parameter that has been moved, cast or replaced is recognised by
        its new address, which can't be the old one as long as the views hold that memory.
        """
        pairs = self._pairs()
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return _of_members(pairs)
        addresses = [tensor.data_ptr() for pair in pairs for tensor in pair]
        if self._views[0] != addresses:
            self._views = (addresses, _of_members([(weight.detach(), bias.detach()) for weight, bias in pairs]))
        return self._views[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the views out of copies, which have parameters of their own."""
        return {**self.__dict__, "_views": ([], [])}

    def _bounds(self, index: int | slice | Tensor) -> tuple[Tensor, ...]:
        """Return the greatest log-variance of some members, its exponential, and the least variance."""
        max_logvar = self.max_logvar[index]
        return max_logvar, max_logvar.exp(), self.min_logvar[index].exp()

    def _outputs(self, out: Tensor, bounds: tuple[Tensor, ...]) -> Outputs:
        """Take the last layer's values apart, with standard deviations in the place of log-variances.

        The two soft clamps ``max - softplus(max - logvar)`` and ``min + softplus(logvar - min)``, without their
        logarithms: ``var = exp(min) + exp(max) sigmoid(logvar - max)``.
        """
        mean, logvar, mixture, categories, flags = out.split(self.heads.widths, dim=-1)
        max_logvar, greatest, least = bounds
        std = torch.addcmul(least, greatest, torch.sigmoid(logvar - max_logvar)).sqrt()
        return Outputs(mean, std, mixture, categories, flags)

    def bound_penalty(self, counts: Tensor | None = None) -> Tensor:
        """Return ``0.01 (sum max_logvar - sum min_logvar)``, averaged over members (see the class).

        Args:
            counts: ``[K * T]``, 1 for the Gaussians that count and 0 for the others; default: all count.
        """
        apart = self.max_logvar - self.min_logvar
        return 0.01 * (apart if counts is None else apart * counts).sum() / self.num_members


def _of_members(layers: Layers) -> list[Layers]:
    """Split layers of several networks, weight ``[M, in, out]`` and bias ``[M, 1, out]``, into one network each."""
    of_layers = [zip(weight.unbind(), bias.unbind(), strict=True) for weight, bias in layers]
    return [list(of_member) for of_member in zip(*of_layers, strict=True)]


def _mlp(layers: Layers, x: Tensor, workspace: Workspace) -> Tensor:
    """Return the outputs ``[B, out]`` of one network for ``x [B, in]``; see :meth:`EnsembleMLP.member`."""
    if torch.is_grad_enabled():
        last = len(layers) - 1
        for layer, (weight, bias) in enumerate(layers):
            x = torch.addmm(bias, x, weight)
            x = F.silu(x) if layer < last else x
        return x
    out = x.new_empty(len(x), layers[-1][0].shape[-1])
    _mlp_into(out, layers, x, workspace)
    return out


def _mlp_into(out: Tensor, layers: Layers, x: Tensor, workspace: Workspace) -> None:
    """Write the outputs of one network into ``out [B, out]``, without gradients, on a CPU in chunks."""
    if len(x) <= CHUNK_ROWS or x.device.type != "cpu":
        _chunk_into(out, layers, x, workspace)
        return
    for rows, result in zip(x.split(CHUNK_ROWS), out.split(CHUNK_ROWS), strict=True):
        _chunk_into(result, layers, rows, workspace)


def _chunk_into(out: Tensor, layers: Layers, x: Tensor, workspace: Workspace) -> None:
    *hidden, (weight, bias) = layers
    if is_served_by_onednn(x):
        for inner_weight, inner_bias in hidden:
            x = onednn_linear(x, inner_weight, inner_bias[0], silu=True)
        out.copy_(onednn_linear(x, weight, bias[0]))
        return
    is_small = len(x) < _ROWS_OF_ITS_OWN  # the allocator keeps small blocks, and serves them faster
    for layer, (inner_weight, inner_bias) in enumerate(hidden):
        target = None if is_small else workspace.take(layer % 2, len(x), inner_weight.shape[-1], x)
        x = F.silu(torch.addmm(inner_bias, x, inner_weight, out=target), inplace=True)
    torch.addmm(bias, x, weight, out=out)
