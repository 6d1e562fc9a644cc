"""The networks that stand inside the time loop: the recurrent cell and the posterior, and the prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbrl_wrappers.models.rssm.networks import Layers, linear


class Cell(nn.Module):
    """A gated recurrent unit over an embedding of the latent and the action: ``h' = GRU(h, z, a)``.

    As in Dreamer V2 and V3, the update gate begins below a half, so that the memory changes slowly.

    Args:
        deter: ``H``, the width of the memory.
        stoch: ``Z``, the width of the latent.
        action: ``A``.
        layers: the form of the layers.
    """

    def __init__(self, deter: int, stoch: int, action: int, layers: Layers) -> None:
        super().__init__()
        self.of_stoch = linear(stoch, layers.units, bias=False)
        self.of_action, *rest = layers.hidden(action)
        self.rest_of_input = nn.Sequential(*rest)
        self.gates = linear(layers.units + deter, 3 * deter)
        self.norm = nn.LayerNorm(3 * deter, eps=1e-3) if layers.layer_norm else nn.Identity()

    def project(self, action: Tensor) -> Tensor:
        """Return the part of the input, ``[..., U]``, that depends on the actions ``[..., A]`` alone."""
        return self.of_action(action)

    def forward(self, deter: Tensor, stoch: Tensor, projected: Tensor) -> Tensor:
        """Return the next memory ``[B, H]``; ``projected`` is from :meth:`project`."""
        x = self.rest_of_input(self.of_stoch(stoch) + projected)  # [B, U]
        reset, candidate, update = self.norm(self.gates(torch.cat([x, deter], dim=-1))).chunk(3, dim=-1)
        candidate = (reset.sigmoid() * candidate).tanh()
        return torch.lerp(deter, candidate, (update - 1).sigmoid())


class LatentNetwork(nn.Module):
    """The network of a latent's distribution, given the memory and, for the posterior, an embedding.

    Args:
        deter: ``H``.
        embedding: ``E``; 0 for the prior.
        outputs: of the distribution.
        layers: the form of the layers.
    """

    def __init__(self, deter: int, embedding: int, outputs: int, layers: Layers) -> None:
        super().__init__()
        self.of_deter, *rest = layers.hidden(deter)
        self.of_embedding = linear(embedding, layers.units, bias=False) if embedding else None
        self.rest = nn.Sequential(*rest, linear(layers.units, outputs))

    def project(self, embedding: Tensor) -> Tensor:
        """Return the part of the hidden layer, ``[..., U]``, that depends on the embeddings ``[..., E]`` alone."""
        assert self.of_embedding is not None  # the prior has none
        return self.of_embedding(embedding)

    def forward(self, deter: Tensor, projected: Tensor | None = None) -> Tensor:
        """Return the outputs ``[B, ...]`` for memories ``[B, H]``; ``projected`` is from :meth:`project`."""
        x = self.of_deter(deter)
        return self.rest(x if projected is None else x + projected)
