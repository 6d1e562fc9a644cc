"""How frames of grid games look: as text, and in colours."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_PIXELS = 16

Colour = tuple[int, int, int]


class Tile(NamedTuple):
    """The look of a cell.

    Attributes:
        character: in a text.
        planes: a cell looks like this where all of these planes are set.
        ground: the colour of the cell.
        colour: of the shape on it.
        radius: of the shape, in half cells: nearly 0 is a dot, 1 touches the cell's edges; 0 for none.
        is_round: whether the shape is a disc rather than a square.
    """

    character: str
    planes: tuple[str, ...]
    ground: Colour
    colour: Colour = (0, 0, 0)
    radius: float = 0.0
    is_round: bool = True


def tile_indices(tiles: Sequence[Tile], planes: Sequence[str], frame: np.ndarray) -> np.ndarray:
    """Return the index of each cell's tile ``[H, W]`` in a frame ``[C, H, W]``: the last one whose planes are set."""
    indices = np.zeros(frame.shape[1:], int)
    for index, tile in enumerate(tiles):
        needed = [planes.index(name) for name in tile.planes]
        indices[(frame[needed] > 0).all(0)] = index
    return indices


def write_tiles(tiles: Sequence[Tile], planes: Sequence[str], frame: np.ndarray) -> str:
    """Return a frame ``[C, H, W]`` as lines of text."""
    characters = np.array([tile.character for tile in tiles])
    return "\n".join("".join(row) for row in characters[tile_indices(tiles, planes, frame)])


def draw_tiles(tiles: Sequence[Tile], planes: Sequence[str], frame: np.ndarray) -> np.ndarray:
    """Return a frame ``[C, H, W]`` as a picture, uint8 ``[16 H, 16 W, 3]``."""
    cells = np.stack([_picture(tile) for tile in tiles])[tile_indices(tiles, planes, frame)]
    height, width = frame.shape[1:]
    return cells.swapaxes(1, 2).reshape(height * _PIXELS, width * _PIXELS, 3)


@functools.cache
def _picture(tile: Tile) -> np.ndarray:
    """Return a tile as a picture, uint8 ``[16, 16, 3]``."""
    centres = np.abs((2 * np.arange(_PIXELS) + 1) / _PIXELS - 1)
    down, right = centres[:, None], centres[None]
    distance = np.hypot(down, right) if tile.is_round else np.maximum(down, right)
    return np.where((distance < tile.radius)[..., None], tile.colour, tile.ground).astype(np.uint8)
