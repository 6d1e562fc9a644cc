"""Any Gymnasium space as flat tensors, and back.

A model sees vectors. :class:`FlatSpace` lays the parts of a space one after the other: a Box as its
entries, a Discrete as a one-hot block, a MultiDiscrete as one block per component, a MultiBinary as
zeros and ones; Dict and Tuple are walked in their own order, to any depth. For models with an image encoder, images are
laid flat too, in bytes.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Image:
    """The place and the form of an image in flat rows.

    As in Stable-Baselines3, the channels are the smaller one of the first and the last of a frame's three axes, the
    last one where both are equal. Any axes before these three count frames.

    Attributes:
        name: for errors, such as ``observation_space['camera']``.
        columns: the image's columns in flat rows.
        height: in pixels.
        width: in pixels.
        channels: of all frames together.
        frames: the number of frames; 1 for an image without axes before its last three.
        channels_first: whether a frame's channels come before its height in the space.
    """

    name: str
    columns: slice
    height: int
    width: int
    channels: int
    frames: int
    channels_first: bool

    @classmethod
    def of(cls, space: spaces.Box, name: str, start: int) -> Image:
        """Describe an image whose first column is ``start``."""
        shape = space.shape if len(space.shape) > 2 else (1, *space.shape)
        *stack, first, middle, last = shape
        channels_first = first < last
        channels, height, width = (first, middle, last) if channels_first else (last, first, middle)
        frames, columns = math.prod(stack), slice(start, start + math.prod(shape))
        return cls(name, columns, height, width, frames * channels, frames, channels_first)

    def take(self, flat: Tensor) -> Tensor:
        """Return the image ``[..., C, H, W]`` of flat rows: a view, except for several frames with channels last."""
        pixels, size = flat[..., self.columns], (self.height, self.width)
        if self.channels_first:
            return pixels.unflatten(-1, (self.channels, *size))
        pixels = pixels.unflatten(-1, (self.frames, *size, self.channels // self.frames))
        return pixels.movedim(-1, -3).flatten(-4, -3)

    def lay(self, image: Tensor) -> Tensor:
        """Return the columns ``[..., C * H * W]`` of an image ``[..., C, H, W]``.

        Raises:
            ValueError: if it has another shape.
        """
        if image.shape[-3:] != (self.channels, self.height, self.width):
            wanted = f"{self.channels}, {self.height}, {self.width}"
            raise ValueError(f"{self.name} must have shape [..., {wanted}], got {tuple(image.shape)}")
        if self.channels_first:
            return image.flatten(-3)
        return image.unflatten(-3, (self.frames, -1)).movedim(-3, -1).flatten(-4)


@dataclass(frozen=True)
class _Leaf:
    """One elementary space and its columns ``start:stop``; ``categories`` is the number for each component."""

    space: spaces.Space
    start: int
    stop: int
    categories: list[int]
    name: str
    image: Image | None = None

    @property
    def is_binary(self) -> bool:
        """Whether each entry is 0 or 1: a MultiBinary, or a Box of bools or of integers from 0 to 1."""
        if not isinstance(self.space, spaces.Box):
            return isinstance(self.space, spaces.MultiBinary)
        whole = not np.issubdtype(self.space.dtype, np.floating)
        return whole and bool((self.space.low == 0).all() and (self.space.high == 1).all())

    @property
    def is_whole(self) -> bool:
        """Whether the entries are whole numbers: an integer Box that is not binary."""
        is_box = isinstance(self.space, spaces.Box)
        return is_box and not self.is_binary and not np.issubdtype(self.space.dtype, np.floating)

    def blocks(self) -> list[tuple[int, int]]:
        """Return the ``(start, stop)`` columns of each one-hot block; empty for a Box or MultiBinary."""
        return list(itertools.pairwise(itertools.accumulate(self.categories, initial=self.start)))


def _categories(space: spaces.Space) -> list[int]:
    """Return the number of categories of each component of a discrete space, ``[]`` for others."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flatten()]
    return []


def _leaf_width(space: spaces.Space, name: str, images: bool) -> int:
    """Return the number of columns of an elementary space, or refuse the space by name."""
    if isinstance(space, spaces.Box):
        if _is_image(space) and not (images and space.dtype == np.uint8):
            reason = (
                f"models of images take pixels of uint8, not of {space.dtype}"
                if images
                else "EnsembleDynamics and other flat models take no pixels, but those with an encoder do, whose class "
                "says takes_images"
            )
            raise ValueError(
                f"{name} is an image, {space}: {reason}; where these are symbols, as MiniGrid's, or numbers in a "
                "table, gymnasium.wrappers.FlattenObservation lays them flat"
            )
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return sum(_categories(space))
    if isinstance(space, spaces.MultiBinary):
        return int(np.prod(space.shape))
    raise ValueError(
        f"{name} is of the unsupported space {space!r}; supported are Box, Discrete, MultiDiscrete, "
        "MultiBinary, and Dict or Tuple of these (gymnasium.wrappers.FilterObservation leaves parts of a Dict out)"
    )


def _is_image(space: spaces.Box) -> bool:
    """Tell whether a Box looks like one frame or several, by the rule in :class:`FlatSpace`."""
    height_and_width = max((min(sides) for sides in itertools.pairwise(space.shape)), default=0)
    if space.dtype != np.uint8:
        return height_and_width >= 32
    is_gray = height_and_width >= 16 and space.high.max() == 255
    return len(space.shape) >= 3 or height_and_width >= 32 or is_gray


def _check_pixels(values: Tensor, name: str) -> None:
    """Refuse pixels that are not whole numbers from 0 to 255, such as those scaled to 0..1."""
    if values.is_floating_point():
        raise ValueError(f"{name} must be pixels of uint8, from 0 to 255, got {values.dtype}")
    if values.numel():
        least, most = (int(value) for value in values.long().aminmax())
        if least < 0 or most > 255:
            raise ValueError(f"{name} must be pixels from 0 to 255, got {least} to {most}")


def _as_bytes(values: Tensor) -> Tensor:
    """Round and clip values to uint8."""
    return values if values.dtype == torch.uint8 else values.round().clamp(0, 255).to(torch.uint8)


class FlatSpace:
    """Two-way map between a Gymnasium space and flat float tensors of width ``dim``.

    A Box counts as an image if two neighbouring axes have 32 entries or more each; a Box of uint8 also if it has three
    axes or more, or values up to 255 and two axes of 16 or more. Frames that the env has flattened can't be told from
    other numbers. Images are refused unless ``images`` is set; a space of images alone stays in uint8::

        pixels = codec.image(flat).float() / 255                          # [..., C, H, W], whatever the space has
        flat = codec.assemble([pixels * 255], codec.vector(flat))

    Args:
        space: the space; a Dict or Tuple may be nested.
        name: the space's name in errors, such as ``"observation_space"``.
        images: whether images of uint8 are allowed.

    Attributes:
        dim: number of columns.
        blocks: ``(start, stop)`` of the one-hot block of each component of a discrete part.
        is_binary: ``[dim]`` bool, columns that hold a single 0 or 1: a MultiBinary or a Box of flags.
        is_whole: ``[dim]`` bool, columns of other integer Boxes.
        is_continuous: ``[dim]`` bool, all columns that are neither in a block nor binary.
        is_pixel: ``[dim]`` bool, the columns of images.
        images: an :class:`Image` for each image, in the order of the space.

    Raises:
        ValueError: for a space with a part that has no flat form (Text, Graph, Sequence, images); the
            message names the part.
    """

    def __init__(self, space: spaces.Space, name: str = "space", images: bool = False) -> None:
        self.space = space
        self.leaves: list[_Leaf] = []
        self._collect(space, name, images)
        self.dim = self.leaves[-1].stop if self.leaves else 0
        if self.dim == 0:
            raise ValueError(f"{name} has no entries: {space!r}")
        self.blocks = [block for leaf in self.leaves for block in leaf.blocks()]
        self.is_binary = self._columns(lambda leaf: leaf.is_binary)
        self.is_whole = self._columns(lambda leaf: leaf.is_whole)
        self.is_continuous = self._columns(lambda leaf: not leaf.categories and not leaf.is_binary)
        self.is_pixel = self._columns(lambda leaf: leaf.image is not None)
        self.images = tuple(leaf.image for leaf in self.leaves if leaf.image is not None)
        self._low, self._high = self._bounds()

    def _collect(self, space: spaces.Space, name: str, images: bool) -> None:
        if isinstance(space, spaces.Dict):
            for key, part in space.spaces.items():
                self._collect(part, f"{name}[{key!r}]", images)
        elif isinstance(space, spaces.Tuple):
            for index, part in enumerate(space.spaces):
                self._collect(part, f"{name}[{index}]", images)
        else:
            start = self.leaves[-1].stop if self.leaves else 0
            stop = start + _leaf_width(space, name, images)
            image = Image.of(space, name, start) if isinstance(space, spaces.Box) and _is_image(space) else None
            self.leaves.append(_Leaf(space, start, stop, _categories(space), name, image))

    def _columns(self, holds: Callable[[_Leaf], bool]) -> Tensor:
        """Return a mask ``[dim]`` of the columns of the leaves for which a property holds."""
        return torch.cat([torch.full((leaf.stop - leaf.start,), holds(leaf)) for leaf in self.leaves])

    @property
    def exact_dtype(self) -> torch.dtype:
        """The smallest of float32 and float64 that holds every value of the space exactly; uint8 for images alone."""
        if all(leaf.image for leaf in self.leaves):
            return torch.uint8
        boxes = [leaf.space for leaf in self.leaves if isinstance(leaf.space, spaces.Box)]
        return torch.float32 if all(np.can_cast(box.dtype, np.float32) for box in boxes) else torch.float64

    def column_name(self, column: int) -> str:
        """Return the name of a column for errors and warnings, such as ``observation_space['arm'][3]``."""
        leaf = next(leaf for leaf in self.leaves if column < leaf.stop)
        return f"{leaf.name}[{column - leaf.start}]"

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each column, float64 ``[dim]`` each; infinite where there is none."""
        return self._low, self._high

    def _bounds(self) -> tuple[Tensor, Tensor]:
        low, high = torch.zeros(self.dim, dtype=torch.float64), torch.ones(self.dim, dtype=torch.float64)
        for leaf in self.leaves:
            if isinstance(leaf.space, spaces.Box):
                low[leaf.start : leaf.stop] = torch.as_tensor(leaf.space.low.astype(np.float64)).flatten()
                high[leaf.start : leaf.stop] = torch.as_tensor(leaf.space.high.astype(np.float64)).flatten()
        return low, high

    def reach(self, seen: Tensor) -> None:
        """Widen the bounds beyond the space's, for envs whose observations leave their own space.

        Args:
            seen: ``[2, dim]`` lowest and highest values that have been observed; ``[0, dim]`` for none.
        """
        low, high = self._bounds()
        self._low, self._high = torch.cat([low[None], seen]).amin(0), torch.cat([high[None], seen]).amax(0)

    def encode(
        self, value: Any, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Lay a batch of elements of the space flat.

        Args:
            value: the batch in the space's own structure (dict, tuple, array or tensor); each leaf has
                shape ``[B, *leaf.shape]``. A Discrete leaf may be ``[B]`` or, as SB3 stores it, ``[B, 1]``;
                images have their channels where the space has them.
            device: of the result; default: the device of the leaves, the CPU for arrays.
            dtype: of the result; see ``exact_dtype``.

        Returns:
            ``[B, dim]``.

        Raises:
            ValueError: if a leaf has the wrong shape or a category that its space does not have, if pixels are no whole
                numbers from 0 to 255, or if the leaves differ in ``B``.
        """
        columns = []
        for leaf, part in zip(self.leaves, _walk(self.space, value), strict=True):
            # PyTorch takes neither read-only arrays nor negative strides; `require` copies only such arrays.
            array = part if isinstance(part, Tensor) else np.require(part, requirements=("C", "W"))
            columns.append(self._encode_leaf(leaf, torch.as_tensor(array, device=device), dtype))
        batches = {len(rows) for rows in columns}
        if len(batches) > 1:
            raise ValueError(f"all parts of {self.space} must have the same batch, got {sorted(batches)} rows")
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)

    @staticmethod
    def _encode_leaf(leaf: _Leaf, array: Tensor, dtype: torch.dtype) -> Tensor:
        rows = array.shape[0] if array.dim() else 0
        expected = int(np.prod(leaf.space.shape or (1,)))
        if array.dim() == 0 or array.numel() != rows * expected:
            raise ValueError(f"a batch of {leaf.space!r} must have shape [B, {expected}], got {tuple(array.shape)}")
        if leaf.image and array.shape[1:] != leaf.space.shape:  # misplaced channels have as many entries
            wanted = ", ".join(map(str, leaf.space.shape or ()))
            raise ValueError(f"{leaf.name} must have shape [B, {wanted}], got {tuple(array.shape)}")
        if leaf.image and array.dtype != torch.uint8:
            _check_pixels(array, leaf.name)
        flat = array.reshape(rows, expected)
        if not leaf.categories:
            return flat.to(dtype)
        first = np.asarray(getattr(leaf.space, "start", 0)).flatten()
        index = flat.long() - torch.as_tensor(first, device=flat.device)
        wrong = ((index < 0) | (index >= torch.as_tensor(leaf.categories, device=flat.device))).any(-1)
        if wrong.any():
            raise ValueError(f"values of {leaf.space!r} must lie in it, got {flat[wrong][0].tolist()}")
        return torch.cat([F.one_hot(index[:, i], n).to(dtype) for i, n in enumerate(leaf.categories)], dim=-1)

    def decode(self, flat: Tensor) -> Any:
        """Turn flat rows back into the space's structure, as tensors.

        Args:
            flat: ``[B, dim]``.

        Returns:
            The space's structure with leaves ``[B, *leaf.shape]``: float for a Box of floats, uint8 for images, int64
            for other integer and bool boxes and for discrete spaces (the likeliest category).
        """
        parts = iter([self._decode_leaf(leaf, flat[..., leaf.start : leaf.stop]) for leaf in self.leaves])
        return _rebuild(self.space, parts)

    @staticmethod
    def _decode_leaf(leaf: _Leaf, columns: Tensor) -> Tensor:
        batch = columns.shape[:-1]
        shape = leaf.space.shape or ()
        if leaf.categories:
            first = np.asarray(getattr(leaf.space, "start", 0)).flatten()
            index = torch.stack([part.argmax(-1) for part in columns.split(leaf.categories, dim=-1)], dim=-1)
            return (index + torch.as_tensor(first, device=index.device)).reshape((*batch, *shape))
        if leaf.image:
            return _as_bytes(columns).reshape((*batch, *shape))
        if isinstance(leaf.space, spaces.MultiBinary):
            return (columns > 0.5).long().reshape((*batch, *shape))
        if not np.issubdtype(leaf.space.dtype, np.floating):
            # The largest float below 2^63: a larger one would wrap around in the cast to int64.
            most = 2.0**63 * (1 - torch.finfo(columns.dtype).eps / 2)
            return columns.round().clamp(max=most).long().reshape((*batch, *shape))
        return columns.reshape((*batch, *shape))

    def decode_numpy(self, flat: Tensor) -> Any:
        """Like :meth:`decode`, as arrays of the leaves' own dtypes, inside ``bounds``."""
        parts = []
        for leaf in self.leaves:
            array = self._decode_leaf(leaf, flat[..., leaf.start : leaf.stop].detach()).cpu().numpy()
            if isinstance(leaf.space, spaces.Box):
                low, high = (self._limits(leaf, bound) for bound in self.bounds)
                if leaf.image:  # bytes stay bytes
                    low, high = low.astype(array.dtype), high.astype(array.dtype)
                array = np.clip(array, low, high)
            parts.append(array.astype(leaf.space.dtype))
        return _rebuild(self.space, iter(parts))

    @staticmethod
    def _limits(leaf: _Leaf, bound: Tensor) -> np.ndarray:
        """Return a bound in the shape of its Box, clipped to the range of the Box's dtype."""
        dtype = leaf.space.dtype
        assert dtype is not None
        limits = bound[leaf.start : leaf.stop].numpy().reshape(leaf.space.shape)
        if np.issubdtype(dtype, np.bool_):
            return limits
        info = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
        most = float(info.max)
        if most > info.max:  # float64 rounds the largest 64-bit integers up, which would then wrap around
            most = float(np.nextafter(most, 0))
        return np.where(np.isinf(limits), limits, np.clip(limits, float(info.min), most))

    def snap(self, flat: Tensor) -> Tensor:
        """Make every one-hot block one-hot again; gradients pass straight through.

        Args:
            flat: ``[..., dim]``, for example a Gaussian's sample.

        Returns:
            ``[..., dim]``; the very tensor ``flat`` if the space has no one-hot block.
        """
        if not self.blocks:
            return flat
        parts, done = [], 0
        for start, stop in self.blocks:
            block = flat[..., start:stop]
            hard = F.one_hot(block.argmax(-1), stop - start).to(flat.dtype)
            parts += [flat[..., done:start], straight_through(hard, block)]
            done = stop
        return torch.cat([*parts, flat[..., done:]], dim=-1)

    def project(self, flat: Tensor) -> Tensor:
        """Return the nearest element of the space: blocks snapped, whole numbers rounded, boxes clipped.

        Gradients pass straight through.
        """
        flat = self.snap(flat)
        rounds = self.is_whole | self.is_binary
        if flat.is_floating_point() and rounds.any():
            flat = torch.where(rounds.to(flat.device), straight_through(flat.round(), flat), flat)
        low, high = self.bounds
        if torch.isinf(low).all() and torch.isinf(high).all():
            return flat
        return straight_through(torch.clamp(flat, low.to(flat), high.to(flat)), flat)

    # -- images and the rest --------------------------------------------------------------------------

    def image(self, flat: Tensor, index: int = 0) -> Tensor:
        """Return an image of flat rows, its values as they are.

        Args:
            flat: ``[..., dim]``.
            index: into ``images``.

        Returns:
            ``[..., C, H, W]``, whatever order the space has; a view, except for several frames with channels last.

        Raises:
            ValueError: if there is no such image.
        """
        if not 0 <= index < len(self.images):
            raise ValueError(f"index must be below {len(self.images)}, the number of images, got {index}")
        return self.images[index].take(flat)

    def vector(self, flat: Tensor) -> Tensor:
        """Return the columns of flat rows ``[..., dim]`` that are no pixels, ``[..., V]``."""
        parts = [flat[..., run] for run in self._vector_runs()]
        return parts[0] if len(parts) == 1 else torch.cat([flat[..., :0], *parts], dim=-1)

    def assemble(self, images: Sequence[Tensor], vector: Tensor | None = None) -> Tensor:
        """Make flat rows of images and the other columns, the inverse of :meth:`image` and :meth:`vector`.

        Args:
            images: ``[..., C, H, W]`` each, in the order of ``images``.
            vector: ``[..., V]``; None where there are no other columns.

        Returns:
            ``[..., dim]``, of the dtype to which torch promotes the parts.

        Raises:
            ValueError: if the number of images or a shape does not match the space.
        """
        if len(images) != len(self.images):
            raise ValueError(f"images must be {len(self.images)} as in the space, got {len(images)}")
        parts = {place.columns.start: place.lay(image) for place, image in zip(self.images, images, strict=True)}
        runs = self._vector_runs()
        widths = [run.stop - run.start for run in runs]
        if (0 if vector is None else vector.shape[-1]) != sum(widths):
            shape = None if vector is None else tuple(vector.shape)
            raise ValueError(f"vector must have shape [..., {sum(widths)}], got {shape}")
        if vector is not None:
            parts |= {run.start: part for run, part in zip(runs, vector.split(widths, dim=-1), strict=True)}
        ordered = [parts[start] for start in sorted(parts)]
        return ordered[0] if len(ordered) == 1 else torch.cat(ordered, dim=-1)

    def _vector_runs(self) -> list[slice]:
        """Return the columns between the images."""
        edges = [0, *(edge for image in self.images for edge in (image.columns.start, image.columns.stop)), self.dim]
        return [slice(*run) for run in zip(edges[::2], edges[1::2], strict=True) if run[0] < run[1]]


def straight_through(value: Tensor, original: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``original``; NaN where ``original`` is not finite."""
    if not original.is_floating_point():
        return value
    if original.requires_grad:
        return value.detach() + (original - original.detach())
    return torch.add(value, original, alpha=0.0)


def _walk(space: spaces.Space, value: Any) -> list[Any]:
    """Return the leaves of ``value`` in the order of the space's leaves."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in _walk(part, value[key])]
    if isinstance(space, spaces.Tuple):
        return [leaf for index, part in enumerate(space.spaces) for leaf in _walk(part, value[index])]
    return [value]


def _rebuild(space: spaces.Space, parts: Any) -> Any:
    """Inverse of :func:`_walk`: consume the iterator ``parts`` into the space's structure."""
    if isinstance(space, spaces.Dict):
        return {key: _rebuild(part, parts) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_rebuild(part, parts) for part in space.spaces)
    return next(parts)


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """Describe a space by plain literals that :func:`space_from_json` turns back into an equal space.

    Bounds are a list with a string for each entry, or a single string for an image whose entries all have that bound.
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[k, space_to_json(s)] for k, s in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(s) for s in space.spaces]}
    if isinstance(space, spaces.Box):
        number = float if np.issubdtype(space.dtype, np.floating) else int
        bounds: dict[str, Any] = {}
        for k in ("low", "high"):
            bound = getattr(space, k).flatten()
            is_short = bound.size > 0 and _is_image(space) and bool((bound == bound[0]).all())
            entries = [str(number(x)) for x in (bound[:1] if is_short else bound).tolist()]
            bounds[k] = entries[0] if is_short else entries
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        lists = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": "MultiDiscrete", "dtype": str(space.dtype), **lists}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    raise ValueError(f"space {space!r} can't be described; see mbrl_wrappers.spaces.FlatSpace for the supported ones")


def space_from_json(description: dict[str, Any]) -> spaces.Space:
    """Rebuild a space described by :func:`space_to_json`.

    Raises:
        ValueError: if the type is not one of those that this function knows; no class is looked up by a name in a file.
    """
    if not isinstance(description, dict):
        raise ValueError(f"the description of a space must be an object, got {description!r}")
    kind = description.get("type")
    if kind == "Dict":
        return spaces.Dict(OrderedDict((key, space_from_json(part)) for key, part in description["spaces"]))
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(part) for part in description["spaces"]])
    if kind == "Box":
        dtype = np.dtype(description["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError(f"dtype of a Box must be one of numbers, got {str(dtype)[:100]!r}")
        shape = tuple(description["shape"])
        low, high = (_bound_from_json(description[k], shape, dtype) for k in ("low", "high"))
        return spaces.Box(low, high, shape=shape, dtype=dtype.type)
    if kind == "Discrete":
        # Gymnasium 1.1 has no other dtype than int64 here, and no argument for it.
        other: dict[str, Any] = (
            {} if description["dtype"] == "int64" else {"dtype": np.dtype(description["dtype"]).type}
        )
        return spaces.Discrete(description["n"], start=description["start"], **other)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(
            np.array(description["nvec"]),
            dtype=np.dtype(description["dtype"]).type,
            start=np.array(description["start"]),
        )
    if kind == "MultiBinary":
        return spaces.MultiBinary(description["n"])
    raise ValueError(f"space type must be one of Dict, Tuple, Box, Discrete, MultiDiscrete, MultiBinary, got {kind!r}")


def _bound_from_json(bound: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return a bound of a Box, described by a list of its entries or by the single value of all entries."""
    number = float if np.issubdtype(dtype, np.floating) else int
    if isinstance(bound, str):
        return np.full(shape, np.array(number(bound), dtype=dtype))
    return np.array([number(x) for x in bound], dtype=dtype).reshape(shape)
