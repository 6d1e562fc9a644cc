"""Policy prior and critics of TD-MPC2: networks over a world model's latents."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_wrappers.agents.planning import PlanningPolicy
from mbrl_wrappers.models.implicit.layers import Mish
from mbrl_wrappers.models.implicit.model import LARGEST_SYMLOG, form_of_layers, init_weights
from mbrl_wrappers.models.implicit.sizes import size_named
from mbrl_wrappers.models.rssm.scalars import TwoHot

DROPOUT = 0.01
LOG_STDS = (-10.0, 2.0)
PERCENTILES = (0.05, 0.95)


class ExactDropout(nn.Module):
    """Sets a share of the entries to 0 in training, each independently; few random numbers are drawn for few entries.

    A Poisson number of drops that fall anywhere hit each entry independently of the others, with the chance
    ``1 - exp(-rate)`` where ``rate`` is the number of drops for each entry.

    Args:
        share: in [0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.rate = -math.log1p(-share)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[...]`` with the others scaled up, so that the mean is the same."""
        if not self.training or not self.share:
            return x
        drops = int(torch.poisson(torch.tensor(self.rate * x.numel(), dtype=torch.float64)))
        mask = x.new_full((x.numel(),), 1 / (1 - self.share))
        mask[torch.randint(x.numel(), (drops,), device=x.device)] = 0
        return x * mask.view_as(x)


class Members(nn.Module):
    """A linear layer for each of ``N`` members, as one product of batches of matrices.

    Args:
        members: ``N``.
        inputs, outputs: widths.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return ``[K, R, outputs]`` for ``x [K or 1, R, inputs]``, of the members chosen ``[K]`` (default: all)."""
        weight, bias = (part if chosen is None else part[chosen] for part in (self.weight, self.bias))
        return torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight)


class MembersNorm(nn.Module):
    """Layer normalisation with weights of each member's own; see :class:`Members`."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return ``[K, R, width]`` for ``x [K, R, width]``."""
        weight, bias = (part if chosen is None else part[chosen] for part in (self.weight, self.bias))
        return torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), weight)


class Critics(nn.Module):
    """``N`` critics of latents and actions, whose values are two-hot; all begin at 0.

    Args:
        members: ``N``.
        inputs: the widths of latents and actions together.
        units: of each of the two hidden layers.
        bins: of the two-hot values.
    """

    def __init__(self, members: int, inputs: int, units: int, bins: int) -> None:
        super().__init__()
        self.members = members
        self.first, self.second = Members(members, inputs, units), Members(members, units, units)
        self.norms = nn.ModuleList([MembersNorm(members, units) for _ in range(2)])
        self.last = Members(members, units, bins)
        nn.init.zeros_(self.last.weight)
        self.activation, self.dropout = Mish(), ExactDropout(DROPOUT)
        self.two_hot = TwoHot(bins, LARGEST_SYMLOG)

    def forward(self, latents: Tensor, action: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return logits ``[K, ..., bins]`` for ``latents [..., Z]`` and ``action [..., A]``.

        Args:
            latents: of the model.
            action: in [-1, 1].
            chosen: ``[K]``, indices of members; default: all.
        """
        inputs = torch.cat([latents, action], dim=-1)
        x = inputs.flatten(0, -2)[None]
        x = self.activation(self.norms[0](self.dropout(self.first(x, chosen)), chosen))
        x = self.activation(self.norms[1](self.second(x, chosen), chosen))
        return self.last(x, chosen).unflatten(1, inputs.shape[:-1])

    def of_two(self, latents: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the values ``[2, ...]`` of two critics that are drawn at random, or ``[1, ...]`` of a single one."""
        chosen = torch.randperm(self.members, generator=generator, device=latents.device)[:2]
        return self.two_hot.mean(self(latents, action, chosen))


class TDMPC2Policy(PlanningPolicy):
    """TD-MPC2's policy prior, critics and slow critics; all see a model's latents, never an observation.

    Args:
        observation_space: the env's.
        action_space: a bounded Box.
        lr_schedule: ignored; the agent has the optimizers.
        units: of each hidden layer; default: the size's.
        num_critics: default: the size's.
        bins: of the two-hot values, at least 2; fewer are cheaper.

    Attributes:
        actor: latents to the outputs of a Gaussian, of which ``tanh`` is taken.
        critics, slow_critics: the slow ones follow the others.
        scale: ``[]``, the range between the percentiles 5 and 95 of values, at least 1, followed slowly.
    """

    scale: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Any,
        units: int | None = None,
        num_critics: int | None = None,
        bins: int = 101,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule)
        self.units, self.num_critics, self.bins = units, num_critics, bins
        self.register_buffer("scale", torch.ones(()))

    def build(self, num_features: int, num_actions: int, size: str) -> None:
        """Make the networks, when the model is known.

        Args:
            num_features: of the model, ``Z``.
            num_actions: width of flat actions, ``A``.
            size: of :data:`~mbrl_wrappers.models.implicit.SIZES`.
        """
        default = size_named(size)
        units = default.units if self.units is None else self.units
        self.actor = form_of_layers(units).mlp(num_features, 2, 2 * num_actions).apply(init_weights)
        num_critics = default.critics if self.num_critics is None else self.num_critics
        self.critics = Critics(num_critics, num_features + num_actions, units, self.bins)
        self.slow_critics = copy.deepcopy(self.critics).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TDMPC2Policy:
        """Switch dropout, which slow critics never have."""
        super().train(mode)
        if hasattr(self, "slow_critics"):
            self.slow_critics.eval()
        return self

    def act(self, latents: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw actions ``[..., A]`` in [-1, 1], reparameterised, for latents ``[..., Z]``.

        Returns:
            The actions, and the entropy ``[...]`` of their Gaussian before ``tanh``.
        """
        mean, log_std = self._gaussian(latents)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        entropy = (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
        return torch.addcmul(mean, log_std.exp(), noise).tanh(), entropy

    def mode(self, latents: Tensor) -> Tensor:
        """Return the actions ``[..., A]`` of the means."""
        return self._gaussian(latents)[0].tanh()

    def _gaussian(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.actor(latents).chunk(2, dim=-1)
        low, high = LOG_STDS
        return mean, low + 0.5 * (high - low) * (raw.tanh() + 1)

    @torch.no_grad()
    def follow(self, values: Tensor, rate: float) -> None:
        """Move the scale towards the range of values ``[...]``."""
        low, high = torch.quantile(values.flatten(), values.new_tensor(PERCENTILES))
        self.scale.lerp_((high - low).clamp(min=1.0), rate)

    def follow_critics(self, rate: float) -> None:
        """Move the slow critics towards the others."""
        polyak_update(self.critics.parameters(), self.slow_critics.parameters(), rate)
