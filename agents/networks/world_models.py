"""C of World Models: a linear controller of a model's features, and many of them side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.nn import functional as F


class ControllerPolicy(BasePolicy):
    """A linear controller that sees a model's features, never an observation; it begins at 0.

    Continuous actions are the ``tanh`` of its outputs, a discrete one is that of the largest output.

    Args:
        observation_space: the env's.
        action_space: a Box, or Discrete.
        lr_schedule: ignored; no gradient trains the controller.

    Attributes:
        controller: features ``[B, F]`` to outputs ``[B, A]``.
    """

    controller: nn.Linear

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, lr_schedule: Any) -> None:
        super().__init__(observation_space, action_space)

    def build(self, num_features: int, num_actions: int) -> None:
        """Make the controller, when the model is known.

        Args:
            num_features: of the model, ``F``.
            num_actions: width of flat actions, ``A``.
        """
        self.controller = nn.Linear(num_features, num_actions).requires_grad_(False)
        nn.init.zeros_(self.controller.weight)
        nn.init.zeros_(self.controller.bias)

    @property
    def vector(self) -> np.ndarray:
        """The controller's weights and biases, ``[N]`` in float64."""
        parts = (self.controller.weight.flatten(), self.controller.bias)
        return torch.cat(parts).double().cpu().numpy()

    @vector.setter
    def vector(self, vector: np.ndarray) -> None:
        weight, bias = self._parted(torch.as_tensor(vector)[None])
        self.controller.weight.copy_(weight[0])
        self.controller.bias.copy_(bias[0])

    def act(self, features: Tensor) -> Tensor:
        """Return actions ``[B, A]`` for features ``[B, F]``: one-hot, or from -1 to 1 where continuous."""
        return self._actions(self.controller(features))

    def act_as(self, vectors: Tensor, features: Tensor) -> Tensor:
        """Return the actions of many controllers at once.

        Args:
            vectors: a controller each, ``[P, N]``.
            features: ``B / P`` rows for each controller, one controller's after the other's, ``[B, F]``.

        Returns:
            ``[B, A]``, as :meth:`act`.
        """
        weight, bias = self._parted(vectors.to(features))
        of_each = features.unflatten(0, (len(vectors), -1))
        outputs = torch.einsum("paf,pbf->pba", weight, of_each) + bias[:, None]
        return self._actions(outputs.flatten(0, 1))

    def _parted(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights ``[P, A, F]`` and biases ``[P, A]`` of controllers ``[P, N]``."""
        weight, bias = vectors.split([self.controller.weight.numel(), self.controller.bias.numel()], dim=-1)
        return weight.unflatten(-1, self.controller.weight.shape), bias

    def _actions(self, outputs: Tensor) -> Tensor:
        if isinstance(self.action_space, spaces.Discrete):
            return F.one_hot(outputs.argmax(-1), outputs.shape[-1]).to(outputs)
        return outputs.tanh()

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        raise NotImplementedError("WorldModels acts by agent.predict, its policy has no memory to act alone")
