"""The actions that a planner may choose, and how sequences of them are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.spaces import FlatSpace


class ActionSet:
    """Flat actions of a bounded box, or of categories (one-hot).

    A box is searched in [-1, 1], from its lower to its upper bound, so that a variance means the same whatever the
    range. Integer boxes are searched over real numbers and rounded; each integer has an equal share of [-1, 1].

    Args:
        action_space: bounded Boxes, or Discrete and MultiDiscrete parts.

    Raises:
        ValueError: for another space, or a bound that is not finite.

    Attributes:
        dim: width ``A`` of a flat action.
        discrete: whether actions are categories.
        blocks: first and last column + 1 of each one-hot block; empty for a box.
    """

    def __init__(self, action_space: spaces.Space) -> None:
        codec = FlatSpace(action_space, "action_space")
        leaves = [leaf.space for leaf in codec.leaves]
        is_box = [isinstance(space, spaces.Box) for space in leaves]
        self.blocks = [block for leaf in codec.leaves for block in leaf.blocks()]
        self.discrete = not any(is_box)
        if self.discrete and not all(isinstance(space, spaces.Discrete | spaces.MultiDiscrete) for space in leaves):
            raise ValueError(f"action_space must be of Discrete and MultiDiscrete or of Boxes, got {action_space}")
        if not self.discrete and not all(is_box):
            raise ValueError(f"action_space must not mix Boxes with other parts, got {action_space}")
        self.dim = codec.dim
        low, high = (bound.float() for bound in codec.bounds)
        unbounded = [space for space in leaves if isinstance(space, spaces.Box) and not space.is_bounded()]
        if unbounded or not torch.isfinite(high - low).all():
            raise ValueError(
                f"action_space must be bounded to be searched, got {action_space}: "
                "gymnasium.wrappers.TransformAction gives the env bounds"
            )
        self._low, self._high = low, high
        whole = [
            not np.issubdtype(leaf.space.dtype, np.floating)
            for leaf in codec.leaves
            for _ in range(leaf.start, leaf.stop)
        ]
        self._whole = torch.tensor(whole) & (not self.discrete)

    @property
    def has_whole_numbers(self) -> bool:
        """Whether some entries of a box are integers."""
        return bool(self._whole.any())

    def to_env(self, searched: Tensor) -> Tensor:
        """Turn actions ``[..., A]`` from the units of the search into the env's, inside the bounds."""
        if self.discrete:
            return searched
        low, high, margin = self._range(searched)
        action = (low - margin) + 0.5 * (searched + 1.0) * (high - low + 2.0 * margin)
        if self.has_whole_numbers:
            action = torch.where(margin > 0, action.round(), action)
        return torch.clamp(action, low, high)

    def from_env(self, action: Tensor) -> Tensor:
        """Turn actions ``[..., A]`` from the env's units into those of the search."""
        if self.discrete:
            return action
        low, high, margin = self._range(action)
        # A range of zero holds a single action; `tiny` avoids a division by 0.
        spread = (high - low + 2.0 * margin).clamp(min=torch.finfo(action.dtype).tiny)
        return (2.0 * (action - low + margin) / spread - 1.0).clamp(-1.0, 1.0)

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bounds, and how far the search goes beyond them so that each integer has an equal share."""
        return self._low.to(like), self._high.to(like), 0.5 * self._whole.to(like)

    def start(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the middle of a box, or even chances of all categories, ``[*shape, A]``."""
        middle = torch.zeros(self.dim, device=device)
        for first, end in self.blocks:
            middle[first:end] = 1.0 / (end - first)
        return middle.expand(*shape, self.dim)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw uniformly, in the units of the search: ``[*shape, A]``."""
        if not self.discrete:
            return 2.0 * torch.rand(*shape, self.dim, generator=generator, device=generator.device) - 1.0
        chances = self.start(*[1] * len(shape), device=generator.device)
        return self.choose(chances, torch.rand(*shape, len(self.blocks), generator=generator, device=generator.device))

    def choose(self, chances: Tensor, numbers: Tensor) -> Tensor:
        """Turn uniform random numbers into categories.

        Args:
            chances: ``[..., A]`` probabilities, which sum to 1 over each block.
            numbers: ``[..., blocks]`` in [0, 1); broadcast against ``chances``.

        Returns:
            ``[..., A]`` one-hot in each block.
        """
        columns = []
        for number, (first, end) in zip(numbers.unbind(-1), self.blocks, strict=True):
            above = chances[..., first:end].cumsum(-1)[..., :-1] <= number[..., None]
            columns.append(F.one_hot(above.sum(-1), end - first).to(chances.dtype))
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)

    def likeliest(self, chances: Tensor) -> Tensor:
        """Turn probabilities ``[..., A]`` into the likeliest category of each block, one-hot."""
        columns = [
            F.one_hot(chances[..., first:end].argmax(-1), end - first).to(chances.dtype) for first, end in self.blocks
        ]
        return torch.cat(columns, dim=-1)
