"""What latent models share: a view of observations and actions, and the states that a fit keeps."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl_wrappers.models.action_scale import ActionScale
from mbrl_wrappers.models.described import DescribedBySettings

NUM_STARTS = 512


class LatentModel(DescribedBySettings):
    """A world model that encodes images and vectors into latent states, which are made of vectors.

    A subclass calls :meth:`_make_buffers` when its settings are known.

    Attributes:
        start_states: ``[S, W]`` rows of states of real experience, for imagined episodes to begin from; ``num_starts``
            of these rows are in use.
    """

    takes_images: ClassVar[bool] = True
    start_states: Tensor
    _num_starts: Tensor
    _scaled: ActionScale

    @property
    @abstractmethod
    def state_widths(self) -> list[int]:
        """The widths of a state's tensors, in their order; ``W`` is their sum."""

    @abstractmethod
    def state_of(self, rows: Tensor) -> Any:
        """Return the state ``[B, ...]`` of rows ``[B, W]``, its tensors side by side."""

    def rows_of(self, state: Any) -> Tensor:
        """Return a state's tensors side by side, ``[B, W]``."""
        return torch.cat(tuple(state), dim=-1)

    def _make_buffers(self) -> None:
        """Make room for start states."""
        self.register_buffer("start_states", torch.zeros(NUM_STARTS, sum(self.state_widths)))
        self.register_buffer("_num_starts", torch.zeros((), dtype=torch.int64))
        self._scaled = ActionScale(self.action_codec)

    # -- how states begin --------------------------------------------------------------------------------

    def begin(self, obs: Tensor, generator: torch.Generator | None = None) -> Any:
        """Return the state in which an episode begins; see :meth:`WorldModel.begin`."""
        action = obs.new_zeros(len(obs), self.action_codec.dim, dtype=torch.float32)
        is_first = torch.ones(len(obs), dtype=torch.bool, device=obs.device)
        return self.observe(self._empty(len(obs)), action, obs, is_first, generator)

    def _empty(self, rows: int) -> Any:
        return self.state_of(torch.zeros(rows, sum(self.state_widths), device=self.device))

    @property
    def num_starts(self) -> int:
        """The number of states that imagined episodes may begin from."""
        return int(self._num_starts)

    def keep_starts(self, rows: Tensor) -> None:
        """Keep some of these states ``[N, W]``, evenly spread, as starts of imagined episodes.

        Args:
            rows: states of real experience in which no episode has ended.
        """
        if not len(rows):
            return
        chosen = torch.linspace(0, len(rows) - 1, min(NUM_STARTS, len(rows)), device=rows.device).long()
        kept = rows[chosen].detach()
        self.start_states[: len(kept)] = kept
        self._num_starts.fill_(len(kept))

    def draw_starts(self, count: int, generator: torch.Generator | None = None) -> Any:
        """Return states of real experience; see :meth:`WorldModel.draw_starts`."""
        rows = torch.randint(self.num_starts, (count,), generator=generator, device=self.device)
        return self.state_of(self.start_states[rows])

    # -- observations and actions as networks see them ---------------------------------------------------

    def _seen(self, obs: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return images ``[N, C, H, W]`` in 0..1 and the rest ``[N, V]``, as they are encoded and predicted."""
        images = [self.obs_codec.image(obs, index).float() / 255 for index in range(len(self.obs_codec.images))]
        vector = self.obs_codec.vector(obs).float()
        return images, self._squashed(vector)

    def _shown(self, images: list[Tensor], vector: Tensor) -> Tensor:
        """Turn images and vectors, as networks see them, back into observations ``[N, D]``."""
        vector = self._stretched(vector)
        flat = self.obs_codec.assemble([255 * image for image in images], vector if vector.shape[-1] else None)
        return self.obs_codec.project(flat).to(self.obs_dtype)

    def _squashed(self, vector: Tensor) -> Tensor:
        """Return vectors as networks see them; a subclass may change their scale."""
        return vector

    def _stretched(self, vector: Tensor) -> Tensor:
        """Return the inverse of :meth:`_squashed`."""
        return vector
