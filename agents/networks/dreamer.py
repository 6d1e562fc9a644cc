"""Actor and critics of Dreamer: networks over a world model's features."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.models.rssm import PRESETS, CategoricalLatent, GaussianLatent
from mbrl_wrappers.models.rssm.networks import Layers
from mbrl_wrappers.models.rssm.presets import Version
from mbrl_wrappers.models.rssm.scalars import ScalarHead


class BoundedNormal(GaussianLatent):
    """Version 3's continuous actions: Gaussians with means in [-1, 1] and standard deviations in [0.1, 1]."""

    def distribution(self, outputs: Tensor) -> Tensor:
        """Turn outputs ``[..., 2 A]`` into means and standard deviations ``[..., 2, A]``."""
        mean, std = outputs.unflatten(-1, (2, self.dim)).unbind(-2)
        return torch.stack([mean.tanh(), 0.1 + 0.9 * (std + 2.0).sigmoid()], dim=-2)

    def before_tanh(self, outputs: Tensor) -> Tensor:
        """Return ``u [..., A]`` of outputs ``[..., 2 A]``, where ``tanh(u)`` is the mean."""
        return outputs[..., : self.dim]

    def log_prob(self, of: Tensor, action: Tensor) -> Tensor:
        """Return the logarithm of the density of actions ``[..., A]``, ``[...]``."""
        mean, std = of.unbind(-2)
        return (-0.5 * ((action - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, of: Tensor) -> Tensor:
        """Return the entropy ``[...]``."""
        return (of[..., 1, :].log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class SquashedNormal(GaussianLatent):
    """Version 1's continuous actions: ``tanh`` of Gaussians with means in [-5, 5] and large initial deviations."""

    MEAN_SCALE = 5.0
    INIT_STD = 5.0
    MIN_STD = 1e-4

    def distribution(self, outputs: Tensor) -> Tensor:
        """Turn outputs ``[..., 2 A]`` into means and standard deviations ``[..., 2, A]``, before ``tanh``."""
        mean, std = outputs.unflatten(-1, (2, self.dim)).unbind(-2)
        mean = self.MEAN_SCALE * (mean / self.MEAN_SCALE).tanh()
        raw_init = math.log(math.expm1(self.INIT_STD))  # softplus(raw_init) = INIT_STD
        return torch.stack([mean, F.softplus(std + raw_init) + self.MIN_STD], dim=-2)

    def before_tanh(self, outputs: Tensor) -> Tensor:
        """Return ``u [..., A]`` of outputs ``[..., 2 A]``, where ``tanh(u)`` is the mode."""
        return self.distribution(outputs)[..., 0, :]

    def sample(self, of: Tensor, noise: Tensor) -> Tensor:
        """Return actions ``[..., A]``, reparameterised."""
        return super().sample(of, noise).tanh()

    def mode(self, of: Tensor) -> Tensor:
        """Return the actions of the means, ``[..., A]``."""
        return super().mode(of).tanh()


class OneOf(CategoricalLatent):
    """Discrete actions as one-hot vectors, each likely by at least 1% of a uniform distribution's chance.

    Args:
        num_actions: their number.
    """

    def __init__(self, num_actions: int) -> None:
        super().__init__(1, num_actions)

    def log_prob(self, of: Tensor, action: Tensor) -> Tensor:
        """Return the logarithm of the probability of actions ``[..., A]``, ``[...]``."""
        return (of.squeeze(-2).log() * action).sum(-1)

    def entropy(self, of: Tensor) -> Tensor:
        """Return the entropy ``[...]``."""
        return -(of * of.log()).sum((-2, -1))


class DreamerPolicy(BasePolicy):
    """Dreamer's actor, critic and slow critic; all see a model's features, never an observation.

    Args:
        observation_space: the env's.
        action_space: a Box, or Discrete.
        lr_schedule: ignored; the agent has the optimizers.
        units: of each hidden layer.
        layers: hidden layers of each network.
        bins: of the critics' two-hot distribution, at least 2; 0 for a Gaussian; default: the version's, 255 or 0.

    Attributes:
        actor: features to the outputs of a distribution of ``actions``.
        critic, slow_critic: features to values; the slow one follows the other.
        return_range: ``[2]``, running estimates of low and high percentiles of imagined returns.
    """

    actions: Any
    return_range: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Any,
        units: int = 200,
        layers: int = 2,
        bins: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        for name, value in (("units", units), ("layers", layers)):
            check_whole_number(name, value)
        if bins not in (None, 0):
            check_whole_number("bins", bins, 2)
        self.units, self.layers, self.bins = units, layers, bins
        self.register_buffer("return_range", torch.zeros(2))

    def build(self, num_features: int, num_actions: int, version: Version) -> None:
        """Make the networks, when the model is known.

        Args:
            num_features: of the model, ``F``.
            num_actions: width of flat actions, ``A``.
            version: of Dreamer.
        """
        preset = PRESETS[version]
        form = Layers(self.units, preset.activation, preset.layer_norm)
        if isinstance(self.action_space, spaces.Discrete):
            self.actions = OneOf(num_actions)
        else:
            self.actions = (SquashedNormal if version == 1 else BoundedNormal)(num_actions)
        self.actor = form.mlp(num_features, self.layers, self.actions.num_outputs)
        bins = preset.bins if self.bins is None else self.bins
        self.critic = ScalarHead(num_features, form, self.layers, bins or None)
        self.slow_critic: nn.Module = copy.deepcopy(self.critic).requires_grad_(False)

    def act(self, features: Tensor, generator: torch.Generator | None = None, deterministic: bool = False) -> Tensor:
        """Return actions ``[B, A]`` for features ``[B, F]``: one-hot, or from -1 to 1 where continuous."""
        of = self.actions.distribution(self.actor(features))
        if deterministic:
            return self.actions.mode(of)
        return self.actions.sample(of, self.actions.noise(len(of), like=of, generator=generator))

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        raise NotImplementedError("Dreamer acts by agent.predict, its policy has no memory to act alone")
