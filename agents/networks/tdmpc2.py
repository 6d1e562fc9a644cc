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
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.models.implicit.layers import Mish
from mbrl_wrappers.models.implicit.model import LARGEST_SYMLOG, form_of_layers, init_weights
from mbrl_wrappers.models.implicit.sizes import size_named
from mbrl_wrappers.models.rssm.scalars import TwoHot

DROPOUT = 0.01
LOG_STDS = (-10.0, 2.0)
PERCENTILES = (0.05, 0.95)


def dropout_mask(shape: tuple[int, ...], share: float, like: Tensor) -> Tensor:
    """Return factors that set each entry to 0 with a given chance; few random numbers are drawn for few zeros.

    A Poisson number of drops that fall anywhere hit each entry independently of the others, with the chance
    ``1 - exp(-rate)`` where ``rate`` is the number of drops for each entry.

    Args:
        shape: of the entries.
        share: of those that are set to 0, in [0, 1).
        like: a tensor of the dtype and the device.

    Returns:
        ``shape``, 0 or ``1 / (1 - share)``, so that the mean is 1.
    """
    size = math.prod(shape)
    mask = like.new_full((size,), 1 / (1 - share))
    drops = int(torch.poisson(torch.tensor(-math.log1p(-share) * size, dtype=torch.float64)))
    mask[torch.randint(size, (drops,), device=like.device)] = 0
    return mask.view(shape)


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
        self.activation = Mish()
        self.two_hot = TwoHot(bins, LARGEST_SYMLOG)

    def forward(
        self, latents: Tensor, action: Tensor, chosen: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return logits ``[K, ..., bins]`` for ``latents [..., Z]`` and ``action [..., A]``.

        Args:
            latents: of the model.
            action: in [-1, 1].
            chosen: ``[K]``, indices of members; default: all.
            mask: of :meth:`drops`; default: no dropout.
        """
        inputs = torch.cat([latents, action], dim=-1)
        x = self.first(inputs.flatten(0, -2)[None], chosen)
        x = self.activation(self.norms[0](x if mask is None else x * mask, chosen))
        x = self.activation(self.norms[1](self.second(x, chosen), chosen))
        return self.last(x, chosen).unflatten(1, inputs.shape[:-1])

    def drops(self, rows: int, members: int | None = None) -> Tensor:
        """Draw the dropout's mask ``[K, rows, units]`` for ``K`` members; default: all."""
        weight = self.first.weight
        return dropout_mask((members or self.members, rows, weight.shape[-1]), DROPOUT, weight)

    def two(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw two members, or the single one, ``[2]`` or ``[1]``."""
        return torch.randperm(self.members, generator=generator, device=self.last.weight.device)[:2]

    def values(self, latents: Tensor, action: Tensor, chosen: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the values ``[K, ...]`` of chosen members; see :meth:`forward`."""
        return self.two_hot.mean(self(latents, action, chosen, mask))


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
        for name, value in (("units", units), ("num_critics", num_critics)):
            if value is not None:
                check_whole_number(name, value)
        check_whole_number("bins", bins, 2)
        self.units, self.num_critics, self.bins = units, num_critics, bins
        self.register_buffer("scale", torch.ones(()))

    def build(self, num_features: int, num_actions: int, size: str) -> None:
        """Make the networks, when the model is known.

        Args:
            num_features: of the model, ``Z``.
            num_actions: width of flat actions, ``A``.
            size: of :data:`~mbrl_wrappers.models.implicit.SIZES`.
        """
        self.num_actions = num_actions
        default = size_named(size)
        units = default.units if self.units is None else self.units
        self.actor = form_of_layers(units).mlp(num_features, 2, 2 * num_actions).apply(init_weights)
        num_critics = default.critics if self.num_critics is None else self.num_critics
        self.critics = Critics(num_critics, num_features + num_actions, units, self.bins)
        self.slow_critics = copy.deepcopy(self.critics).requires_grad_(False)

    def noise(self, batch: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise of a batch of actions, ``[*batch, A]``."""
        return torch.randn((*batch, self.num_actions), generator=generator, device=self.scale.device)

    def act(self, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return random actions ``[..., A]`` in [-1, 1], reparameterised.

        Args:
            latents: ``[..., Z]``.
            noise: of :meth:`noise`.

        Returns:
            The actions, and the entropy ``[...]`` of their Gaussian before ``tanh``.
        """
        mean, log_std = self._gaussian(latents)
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
