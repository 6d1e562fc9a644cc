"""Any space as flat tensors and back: round trips over many spaces, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first

from mbrl_wrappers.spaces import FlatSpace, Image, space_from_json, space_to_json

BATCH = 7
INFINITY = np.inf

LEAVES: dict[str, spaces.Space] = {
    "box float32": spaces.Box(-2.0, 3.0, (4,), np.float32),
    "box float64": spaces.Box(-2.0, 3.0, (4,), np.float64),
    "box float16": spaces.Box(-2.0, 3.0, (2,), np.float16),
    "box matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "box per entry": spaces.Box(np.array([-1.0, 0.0, -5.0]), np.array([1.0, 0.1, 5.0]), dtype=np.float64),
    "box unbounded": spaces.Box(-INFINITY, INFINITY, (3,), np.float64),
    "box half bounded": spaces.Box(np.float32([-INFINITY, 0.0]), np.float32([1.0, INFINITY])),
    "box scalar": spaces.Box(-1.0, 1.0, (), np.float32),
    "box int8": spaces.Box(-128, 127, (3,), np.int8),
    "box int64": spaces.Box(-1000, 1000, (2, 2), np.int64),
    "box uint8": spaces.Box(0, 255, (5,), np.uint8),
    "box bool": spaces.Box(0, 1, (3,), np.bool_),
    "discrete": spaces.Discrete(5),
    "discrete of one": spaces.Discrete(1),
    "discrete with start": spaces.Discrete(4, start=-2),
    "multi discrete": spaces.MultiDiscrete([3, 1, 5]),
    "multi discrete with start": spaces.MultiDiscrete([3, 2], start=[-7, 4]),
    "multi discrete matrix": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-1, 10]]),
    "multi discrete int32": spaces.MultiDiscrete([3, 2], dtype=np.int32),
    "multi binary": spaces.MultiBinary(4),
    "multi binary matrix": spaces.MultiBinary([2, 3]),
}
NESTED = {
    "dict": spaces.Dict({"velocity": LEAVES["box float32"], "gear": LEAVES["discrete with start"]}),
    "tuple": spaces.Tuple([LEAVES["box int64"], LEAVES["multi binary"], LEAVES["box scalar"]]),
    "dict of tuple of dict": spaces.Dict(
        z=spaces.Tuple([spaces.Dict(b=LEAVES["multi discrete matrix"], a=LEAVES["box matrix"]), LEAVES["discrete"]]),
        a=spaces.Dict(only=spaces.Dict(one=LEAVES["box float64"])),
    ),
    "numbered keys": spaces.Dict({2: LEAVES["discrete"], 1: LEAVES["box scalar"]}),
}
SPACES = LEAVES | NESTED


BYTE, FLOAT, BIT = np.uint8, np.float32, np.bool_
IMAGES = [
    spaces.Box(0, 255, (84, 84), BYTE),
    spaces.Box(0, 255, (16, 20), BYTE),
    spaces.Box(0, 1, (64, 64), BYTE),
    spaces.Box(0, 255, (84, 84, 1), BYTE),
    spaces.Box(0, 255, (84, 84, 3), BYTE),
    spaces.Box(0, 255, (3, 84, 84), BYTE),
    spaces.Box(0, 255, (4, 84, 84, 3), BYTE),
    spaces.Box(0, 255, (7, 7, 3), BYTE),
    spaces.Box(0.0, 255.0, (84, 84, 3), FLOAT),
    spaces.Box(0.0, 1.0, (3, 64, 64), FLOAT),
    spaces.Box(-INFINITY, INFINITY, (84, 84, 3), FLOAT),
    spaces.Box(0.0, 1.0, (84, 84), np.float64),
    spaces.Box(0.0, 1.0, (4, 32, 48), np.float16),
    spaces.Box(0, 255, (84, 84, 3), np.int64),
    spaces.Box(0, 1, (84, 84), BIT),
]
NO_IMAGES = [
    spaces.Box(0, 255, (128,), BYTE),  # an Atari game's RAM
    spaces.Box(0, 255, (7056,), BYTE),
    spaces.Box(0, 10, (24, 18), BYTE),  # a board
    spaces.Box(0, 255, (4, 128), BYTE),  # several RAMs
    spaces.Box(0, 1, (10, 10, 4), BIT),  # MinAtar
    spaces.Box(0, 1, (19, 19, 17), BIT),
    spaces.Box(-1.0, 1.0, (10, 10), FLOAT),
    spaces.Box(-1.0, 1.0, (5, 3), FLOAT),
    spaces.Box(-INFINITY, INFINITY, (200, 12), FLOAT),  # a window of a time series
    spaces.Box(-1.0, 1.0, (7, 11, 11), FLOAT),  # an occupancy grid
]


def _random_space(rng: np.random.Generator, depth: int = 0) -> spaces.Space:
    """Draw a space: any leaf of the list above, or a Dict or Tuple of such, up to three deep."""
    kind = rng.integers(4) if depth < 3 else 0
    if kind < 2 and depth:
        return list(LEAVES.values())[rng.integers(len(LEAVES))]
    parts = [_random_space(rng, depth + 1) for _ in range(rng.integers(1, 4))]
    if kind % 2:
        return spaces.Tuple(parts)
    return spaces.Dict({f"part {rng.integers(1000)}": part for part in parts})


SPACES |= {f"random {seed}": _random_space(np.random.default_rng(seed)) for seed in range(40)}


def _sample(space: spaces.Space, seed: int, batch: int = BATCH) -> list[Any]:
    space.seed(seed)
    return [space.sample() for _ in range(batch)]


def _stack(space: spaces.Space, elements: list[Any]) -> Any:
    """Turn a list of elements into a batch in the space's own structure."""
    if isinstance(space, spaces.Dict):
        return {key: _stack(part, [element[key] for element in elements]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_stack(part, [element[i] for element in elements]) for i, part in enumerate(space.spaces))
    return np.stack([np.asarray(element) for element in elements])


def _pairs(space: spaces.Space, one: Any, other: Any) -> list[tuple[spaces.Space, Any, Any]]:
    """Return the leaves of two batches beside each other."""
    if isinstance(space, spaces.Dict):
        assert list(one) == list(other) == list(space.spaces)
        return [pair for key, part in space.spaces.items() for pair in _pairs(part, one[key], other[key])]
    if isinstance(space, spaces.Tuple):
        assert isinstance(other, tuple) and len(one) == len(other) == len(space.spaces)
        return [
            pair
            for part, left, right in zip(space.spaces, one, other, strict=True)
            for pair in _pairs(part, left, right)
        ]
    return [(space, one, other)]


def _row(space: spaces.Space, batch: Any, index: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _row(part, batch[key], index) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_row(part, value, index) for part, value in zip(space.spaces, batch, strict=True))
    return np.asarray(batch[index])


@pytest.mark.parametrize("name", SPACES)
def test_round_trip(name):
    space = SPACES[name]
    codec = FlatSpace(space)
    for seed in range(5):
        batch = _stack(space, _sample(space, seed))
        flat = codec.encode(batch)
        assert flat.shape == (BATCH, codec.dim) and flat.dtype == torch.float32
        decoded = codec.decode_numpy(flat)
        for leaf, before, after in _pairs(space, batch, decoded):
            assert after.dtype == leaf.dtype and after.shape == (BATCH, *leaf.shape)
            # Columns are float32: 7 digits of a float, integers and categories exactly.
            exact = not np.issubdtype(leaf.dtype, np.floating)
            np.testing.assert_allclose(after, before, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-7)
        assert all(_row(space, decoded, index) in space for index in range(BATCH))
        torch.testing.assert_close(codec.encode(decoded), flat)
        tensors = codec.decode(flat)
        for _, before, after in _pairs(space, decoded, tensors):
            np.testing.assert_allclose(after.numpy(), before, rtol=1e-6)
        assert torch.equal(codec.encode(tensors), flat)


@pytest.mark.parametrize("name", SPACES)
def test_elements_of_the_space_are_left_alone_by_snap_and_project(name):
    space = SPACES[name]
    codec = FlatSpace(space)
    flat = codec.encode(_stack(space, _sample(space, 3)))
    assert torch.equal(codec.snap(flat), flat)
    # A float64 bound need not be a float32 number.
    torch.testing.assert_close(codec.project(flat), flat, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SPACES)
def test_whatever_is_decoded_lies_in_the_space(name):
    space = SPACES[name]
    codec = FlatSpace(space)
    wild = 50 * torch.randn(BATCH, codec.dim, generator=torch.Generator().manual_seed(0))
    for flat in (wild, codec.snap(wild), codec.project(wild)):
        decoded = codec.decode_numpy(flat)
        assert all(_row(space, decoded, index) in space for index in range(BATCH))


@pytest.mark.parametrize("name", SPACES)
def test_json_gives_an_equal_space(name):
    space = SPACES[name]
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert again == space
    assert type(again) is type(space)
    assert [leaf.space.dtype for leaf in FlatSpace(again).leaves] == [
        leaf.space.dtype for leaf in FlatSpace(space).leaves
    ]
    leaf: Any
    original: Any
    for leaf, original in zip(FlatSpace(again).leaves, FlatSpace(space).leaves, strict=True):
        if isinstance(leaf.space, spaces.Box):  # Gymnasium compares bounds only approximately
            assert np.array_equal(leaf.space.low, original.space.low)
            assert np.array_equal(leaf.space.high, original.space.high)


def test_json_keeps_bounds_and_dtypes_to_the_last_digit():
    low = np.array([-0.1, -INFINITY, np.nextafter(-1.0, 0.0)])
    space = spaces.Box(low, np.array([1 / 3, 0.0, INFINITY]), dtype=np.float64)
    again: Any = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert np.array_equal(again.low, space.low) and np.array_equal(again.high, space.high)
    wide = spaces.Box(-(2**63), 2**63 - 1, (1,), np.int64)
    again = space_from_json(space_to_json(wide))
    assert np.array_equal(again.high, wide.high)


def test_layout():
    space = spaces.Dict(
        a=spaces.Discrete(3, start=1),
        b=spaces.Box(-1.0, 1.0, (2,)),
        c=spaces.MultiDiscrete([2, 2]),
        d=spaces.MultiBinary(2),
    )
    codec = FlatSpace(space)
    value = {"a": np.array([3]), "b": np.array([[0.5, -0.5]]), "c": np.array([[1, 0]]), "d": np.array([[0, 1]])}
    assert codec.dim == 11
    assert codec.encode(value).tolist() == [[0, 0, 1, 0.5, -0.5, 0, 1, 1, 0, 0, 1]]


@pytest.mark.parametrize("start", [0, -3])
def test_discrete_as_stable_baselines_stores_it(start):
    space = spaces.Discrete(4, start=start)
    value = np.array([0, 3, 1]) + start
    codec = FlatSpace(space)
    assert torch.equal(codec.encode(value[:, None]), codec.encode(value))
    assert torch.equal(codec.encode(torch.as_tensor(value, dtype=torch.float32)), codec.encode(value))
    assert codec.decode_numpy(codec.encode(value[:, None])).tolist() == value.tolist()


def test_multi_discrete_matrix_as_stable_baselines_stores_it():
    space = SPACES["multi discrete matrix"]
    batch = _stack(space, _sample(space, 0))
    codec = FlatSpace(space)
    assert torch.equal(codec.encode(batch.reshape(BATCH, -1)), codec.encode(batch))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (0,)])
@pytest.mark.parametrize("name", ["box scalar", "box matrix", "discrete with start", "multi discrete matrix", "dict"])
def test_decoding_with_any_batch_dimensions(name, batch):
    space = SPACES[name]
    codec = FlatSpace(space)
    flat = torch.randn(*batch, codec.dim, generator=torch.Generator().manual_seed(0))
    for decode in (codec.decode, codec.decode_numpy):
        decoded = decode(flat)
        for leaf, value, _ in _pairs(space, decoded, decoded):
            assert tuple(value.shape) == (*batch, *leaf.shape)


def test_arrays_that_pytorch_does_not_take_as_they_are():
    codec = FlatSpace(spaces.Box(-1.0, 1.0, (2,)))
    read_only = np.broadcast_to(np.float32(0.5), (3, 2))
    backwards = np.array([[0.0, 1.0], [2.0, 3.0]], dtype=np.float32)[::-1]
    assert codec.encode(read_only).tolist() == [[0.5, 0.5]] * 3
    assert codec.encode(backwards).tolist() == [[2.0, 3.0], [0.0, 1.0]]
    assert codec.encode([[0.0, 1.0]]).tolist() == [[0.0, 1.0]]


def test_encoding_on_a_device():
    codec = FlatSpace(SPACES["dict"])
    batch = _stack(SPACES["dict"], _sample(SPACES["dict"], 0))
    assert torch.equal(codec.encode(batch, "cpu"), codec.encode(batch))


def test_snap_takes_the_likeliest_category_and_leaves_the_rest():
    codec = FlatSpace(spaces.Dict(a=spaces.MultiDiscrete([2, 3]), b=spaces.Box(-1.0, 1.0, (1,))))
    flat = torch.tensor([[0.2, 0.1, -5.0, -2.0, -3.0, 7.0]])
    assert codec.snap(flat).tolist() == [[1, 0, 0, 1, 0, 7]]
    assert codec.snap(flat[0]).tolist() == [1, 0, 0, 1, 0, 7]
    assert codec.snap(flat.double()).dtype == torch.float64
    boxes = FlatSpace(spaces.Box(-1.0, 1.0, (2,)))
    only_boxes = torch.tensor([[7.0, 8.0]])
    assert boxes.snap(only_boxes) is only_boxes


def test_integers_are_decoded_to_the_nearest():
    flat = torch.tensor([[2.7, -1.6, 0.2]])
    integers = FlatSpace(spaces.Box(-5, 5, (3,), np.int32))
    assert integers.decode(flat).tolist() == integers.decode_numpy(flat).tolist() == [[3, -2, 0]]
    bits = FlatSpace(spaces.MultiBinary(3))
    assert bits.decode(flat).tolist() == bits.decode_numpy(flat).tolist() == [[1, 0, 0]]


def test_gradients_pass_straight_through_snap():
    codec = FlatSpace(spaces.Tuple([spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,))]))
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    (codec.snap(flat) * weights).sum().backward()
    torch.testing.assert_close(flat.grad, weights)


def test_project_clips_boxes_and_snaps_blocks():
    codec = FlatSpace(
        spaces.Dict(
            a=spaces.Discrete(2),
            b=spaces.Box(np.array([-1.0, -INFINITY]), np.array([2.0, 0.5]), dtype=np.float64),
            c=spaces.Box(0, 9, (1,), np.int64),
        )
    )
    flat = torch.tensor([[0.1, 0.3, -5.0, -5.0, 12.0], [0.3, 0.1, 5.0, 5.0, -1.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 1.0, -1.0, -5.0, 9.0], [1.0, 0.0, 2.0, 0.5, 0.0]], dtype=torch.float64)
    assert torch.equal(codec.project(flat), expected)
    unbounded = FlatSpace(SPACES["box unbounded"])
    assert torch.equal(unbounded.project(1e9 * torch.ones(1, 3)), 1e9 * torch.ones(1, 3))


def test_bounds_beyond_float32():
    codec = FlatSpace(spaces.Box(-1e300, 1e300, (2,), np.float64))
    flat = torch.tensor([[-1e30, 3.0]])
    assert torch.equal(codec.project(flat), flat)
    assert torch.equal(codec.encode(codec.decode_numpy(flat)), flat)


@pytest.mark.parametrize(
    ("space", "path"),
    [
        (spaces.Text(5), r"action_space"),
        (spaces.Graph(spaces.Box(-1.0, 1.0, (2,)), None), r"action_space"),
        (spaces.Sequence(spaces.Discrete(2)), r"action_space"),
        (spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]), r"action_space"),
        (spaces.Box(0, 255, (64, 64, 3), np.uint8), r"action_space"),
        (spaces.Dict(a=spaces.Discrete(2), b=spaces.Text(5)), r"action_space['b']"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Dict(x=spaces.Text(5))]), r"action_space[1]['x']"),
        (spaces.Dict({3: spaces.Tuple([spaces.Box(0, 255, (3, 8, 8), np.uint8)])}), r"action_space[3][0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_space_without_a_flat_form_is_named(space, path):
    with pytest.raises(ValueError) as caught:
        FlatSpace(space, "action_space")
    assert str(caught.value).startswith(f"{path} is ")


@pytest.mark.parametrize("space", IMAGES, ids=str)
def test_an_image_is_refused_wherever_it_lies_with_a_way_to_take_symbols(space):
    for whole, path in [(space, ""), (spaces.Dict(a=LEAVES["box scalar"], b=spaces.Tuple([space])), "['b'][0]")]:
        with pytest.raises(ValueError) as caught:
            FlatSpace(whole, "observation_space")
        message = str(caught.value)
        assert message.startswith(f"observation_space{path} is an image, Box(")
        assert "EnsembleDynamics" in message and "takes_images" in message
        assert "gymnasium.wrappers.FlattenObservation" in message


@pytest.mark.parametrize(
    "space", [space for space in IMAGES if isinstance(space, spaces.Box) and space.dtype != BYTE], ids=str
)
def test_an_image_of_other_numbers_than_bytes_is_refused_by_models_of_images_too(space):
    with pytest.raises(ValueError) as caught:
        FlatSpace(spaces.Dict(a=PICTURE, b=space), "observation_space", images=True)
    message = str(caught.value)
    assert message.startswith("observation_space['b'] is an image, Box(")
    assert f"models of images take pixels of uint8, not of {space.dtype}" in message


@pytest.mark.parametrize("space", NO_IMAGES, ids=str)
def test_a_table_of_numbers_is_no_image(space):
    assert FlatSpace(space).dim == np.prod(space.shape)


def test_the_ways_that_a_refusal_names_lead_to_minigrid():
    minigrid = pytest.importorskip("minigrid")
    gym.register_envs(minigrid)
    env = gym.make("MiniGrid-Empty-5x5-v0")
    with pytest.raises(ValueError, match="FilterObservation"):
        FlatSpace(spaces.Dict(mission=env.observation_space["mission"]))
    env = gym.wrappers.FilterObservation(env, ["direction", "image"])
    with pytest.raises(ValueError, match=r"\['image'\] is an image.*FlattenObservation"):
        FlatSpace(env.observation_space)
    assert FlatSpace(gym.wrappers.FlattenObservation(env).observation_space).dim == 4 + 7 * 7 * 3


@pytest.mark.parametrize("space", [spaces.Dict({}), spaces.Tuple([]), spaces.Box(0.0, 1.0, (0,))], ids=repr)
def test_a_space_without_entries_is_refused(space):
    with pytest.raises(ValueError, match="observation_space has no entries"):
        FlatSpace(space, "observation_space")


@pytest.mark.parametrize(
    ("name", "value", "shape"),
    [
        ("box float32", np.zeros((2, 3)), "(2, 3)"),
        ("box float32", np.zeros(4), "(4,)"),
        ("box float32", 0.5, "()"),
        ("box matrix", np.zeros((2, 3)), "(2, 3)"),
        ("discrete", np.zeros((2, 2), dtype=int), "(2, 2)"),
        ("discrete", 1, "()"),
        ("multi discrete", torch.zeros(3, dtype=torch.long), "(3,)"),
        ("multi binary matrix", np.zeros((2, 5)), "(2, 5)"),
        ("dict", {"velocity": np.zeros((2, 3)), "gear": np.zeros(2)}, "(2, 3)"),
    ],
)
def test_a_wrong_shape_is_named(name, value, shape):
    with pytest.raises(ValueError, match="must have shape") as caught:
        FlatSpace(SPACES[name]).encode(value)
    assert str(caught.value).endswith(f"got {shape}")


def test_parts_of_different_batches_are_refused():
    with pytest.raises(ValueError, match=r"the same batch, got \[2, 3\] rows"):
        FlatSpace(SPACES["dict"]).encode({"velocity": np.zeros((2, 4)), "gear": np.zeros(3)})


@pytest.mark.parametrize("value", [[0, 4], [-1, 1]])
def test_a_category_outside_the_space_is_named(value):
    with pytest.raises(ValueError, match=r"Discrete\(4\) must lie in it, got \[(4|-1)\]"):
        FlatSpace(spaces.Discrete(4)).encode(np.array(value))


def test_a_type_that_json_does_not_know():
    with pytest.raises(ValueError, match="can't be described"):
        space_to_json(spaces.Text(4))
    for description in ({"type": "Text"}, {"type": "os.system"}, {}):
        with pytest.raises(ValueError, match="space type must be one of"):
            space_from_json(description)


# -- images ------------------------------------------------------------------------------------------------------

PICTURE = spaces.Box(0, 255, (20, 16, 3), BYTE)
# Spaces of images, and the axes of a batch of each (frames, channels, height, width) as the space has them.
PICTURES = {
    "channels last": (PICTURE, (1, 3, 20, 16), "bhwc"),
    "channels first": (spaces.Box(0, 255, (3, 20, 16), BYTE), (1, 3, 20, 16), "bchw"),
    "gray": (spaces.Box(0, 255, (16, 20), BYTE), (1, 1, 16, 20), "bhw"),
    "gray channels last": (spaces.Box(0, 255, (9, 8, 1), BYTE), (1, 1, 9, 8), "bhwc"),
    "gray frames": (spaces.Box(0, 255, (4, 20, 16), BYTE), (1, 4, 20, 16), "bchw"),
    "frames among the channels": (spaces.Box(0, 255, (12, 20, 16), BYTE), (1, 12, 20, 16), "bchw"),
    "frames among the last channels": (spaces.Box(0, 255, (20, 16, 12), BYTE), (1, 12, 20, 16), "bhwc"),
    "frames channels last": (spaces.Box(0, 255, (4, 20, 16, 3), BYTE), (4, 3, 20, 16), "bfhwc"),
    "frames channels first": (spaces.Box(0, 255, (4, 3, 20, 16), BYTE), (4, 3, 20, 16), "bfchw"),
    "ends alike": (spaces.Box(0, 255, (6, 7, 6), BYTE), (1, 6, 6, 7), "bhwc"),
    "few colours": (spaces.Box(3, 40, (7, 8, 3), BYTE), (1, 3, 7, 8), "bhwc"),
    "black and white": (spaces.Box(0, 1, (40, 36), BYTE), (1, 1, 40, 36), "bhw"),
}


def _channels_first(array: np.ndarray, sizes: tuple[int, ...], axes: str) -> np.ndarray:
    """Return ``[B, F * C, H, W]``, by NumPy and letters."""
    frames, channels, height, width = sizes
    full = {"b": len(array), "f": frames, "c": channels, "h": height, "w": width}
    assert array.shape == tuple(full[axis] for axis in axes)
    missing = [axis for axis in "fc" if axis not in axes]
    array = array.reshape(*[1] * len(missing), *array.shape)
    order = ["bfchw".index(axis) for axis in [*missing, *axes]]
    return np.transpose(array, np.argsort(order)).reshape(len(array.transpose(np.argsort(order))), -1, height, width)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("name", PICTURES)
def test_an_image_is_seen_channels_first_whatever_its_space(name, dtype):
    space, sizes, axes = PICTURES[name]
    codec = FlatSpace(space, images=True)
    batch = _stack(space, _sample(space, 0))
    flat = codec.encode(batch, dtype=dtype)
    assert flat.dtype == dtype and flat.shape == (BATCH, codec.dim) and codec.exact_dtype == torch.uint8
    image = codec.image(flat)
    frames, channels, height, width = sizes
    found = codec.images[0]
    assert (found.frames, found.channels, found.height, found.width) == (frames, frames * channels, height, width)
    assert image.dtype == dtype and np.array_equal(image.numpy(), _channels_first(batch, sizes, axes))
    is_view = image.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
    assert is_view == (name != "frames channels last")
    for vector in (None, codec.vector(flat)):
        again = codec.assemble([image], vector)
        assert torch.equal(again, flat) and again.dtype == dtype
    decoded = codec.decode_numpy(flat)
    assert decoded.dtype == np.uint8 and np.array_equal(decoded, batch)
    assert codec.decode(flat).dtype == torch.uint8 and torch.equal(codec.encode(codec.decode(flat), dtype=dtype), flat)
    assert torch.equal(codec.project(flat), flat) and torch.equal(codec.snap(flat), flat)
    assert codec.is_pixel.all() and codec.bounds[0].shape == (codec.dim,)
    assert codec.image(flat.reshape(1, BATCH, 1, -1)).shape == (1, BATCH, 1, *image.shape[1:])


def _with_pictures(rng: np.random.Generator) -> tuple[spaces.Space, list[str]]:
    """Draw a space of five parts, two of them images, and return the names of these in their order."""
    names = [str(name) for name in rng.choice(list(PICTURES), 2)]
    parts = [PICTURES[name][0] for name in names]
    parts += [list(LEAVES.values())[index] for index in rng.integers(len(LEAVES), size=3)]
    order = rng.permutation(len(parts))
    first, second, third, fourth, fifth = (parts[index] for index in order)
    space = spaces.Tuple([first, spaces.Dict(only=spaces.Tuple([second, third, spaces.Dict(x=fourth)])), fifth])
    return space, [names[index] for index in order if index < 2]


@pytest.mark.parametrize("seed", range(12))
def test_images_beside_other_parts_come_apart_and_together(seed):
    space, names = _with_pictures(np.random.default_rng(seed))
    codec = FlatSpace(space, "observation_space", images=True)
    batch = _stack(space, _sample(space, seed))
    assert codec.exact_dtype in (torch.float32, torch.float64)
    flat = codec.encode(batch, dtype=codec.exact_dtype)
    assert torch.equal(codec.encode(codec.decode(flat), dtype=flat.dtype), flat)
    values = [value for _, value, _ in _pairs(space, batch, batch)]
    pixels = [value for leaf, value in zip(codec.leaves, values, strict=True) if leaf.image]
    images = [codec.image(flat, index) for index in range(2)]
    for image, array, name in zip(images, pixels, names, strict=True):
        assert np.array_equal(image.numpy(), _channels_first(array, *PICTURES[name][1:]))
    vector = codec.vector(flat)
    assert torch.equal(vector, flat[:, ~codec.is_pixel])
    assert torch.equal(codec.assemble(images, vector), flat)
    as_bytes = codec.assemble([image.byte() for image in images], vector)
    assert as_bytes.dtype == flat.dtype and torch.equal(as_bytes, flat)
    for leaf in codec.leaves:
        assert codec.column_name(leaf.start) == f"{leaf.name}[0]"
    wild = 300 * torch.randn(BATCH, codec.dim, generator=torch.Generator().manual_seed(seed))
    for rows in (wild, codec.snap(wild), codec.project(wild)):
        decoded = codec.decode_numpy(rows)
        assert all(_row(space, decoded, index) in space for index in range(BATCH))


def test_pixels_are_rounded_and_clipped_to_what_the_space_has():
    codec = FlatSpace(spaces.Dict(image=PICTURES["few colours"][0], speed=spaces.Box(-1.0, 1.0, (1,))), images=True)
    flat = torch.full((1, codec.dim), 0.4)
    flat[0, :4] = torch.tensor([-7.0, 20.4, 20.6, 300.0])
    assert codec.project(flat)[0, :5].tolist() == [3, 20, 21, 40, 3] and codec.project(flat)[0, -1] == flat[0, -1]
    assert codec.decode(flat)["image"].flatten()[:5].tolist() == [0, 20, 21, 255, 0]
    assert codec.decode_numpy(flat)["image"].flatten()[:5].tolist() == [3, 20, 21, 40, 3]
    alone = FlatSpace(PICTURES["few colours"][0], images=True)
    as_bytes = alone.encode(np.arange(168, dtype=np.uint8).reshape(1, 7, 8, 3), dtype=torch.uint8)
    assert alone.project(as_bytes).dtype == torch.uint8 and alone.project(as_bytes).aminmax() == (3, 40)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.linspace(0, 1, 168), "observation must be pixels of uint8, from 0 to 255, got torch.float64"),
        (torch.zeros(168), "observation must be pixels of uint8, from 0 to 255, got torch.float32"),
        (np.arange(168) + 100, "observation must be pixels from 0 to 255, got 100 to 267"),
        (np.arange(168) - 1, "observation must be pixels from 0 to 255, got -1 to 166"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_of_another_range_are_refused(pixels: Any, message: str, dtype: torch.dtype) -> None:
    codec = FlatSpace(PICTURES["few colours"][0], "observation", images=True)
    with pytest.raises(ValueError, match=message):
        codec.encode(pixels.reshape(1, 7, 8, 3), dtype=dtype)
    for kind in (np.int64, np.uint8, np.uint16):
        whole = codec.encode(np.arange(168, dtype=kind).reshape(1, 7, 8, 3), dtype=dtype)
        assert whole.dtype == dtype and whole.tolist() == [list(range(168))]
    assert codec.encode(np.ones((1, 7, 8, 3), np.int8), dtype=dtype).sum() == 168


def test_gradients_pass_through_a_projected_image():
    codec = FlatSpace(PICTURE, images=True)
    image = torch.full((2, 3, 20, 16), 12.4, requires_grad=True)
    codec.image(codec.project(codec.assemble([image]))).sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))


def test_the_order_of_channels_is_the_one_of_stable_baselines():
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(300):
        shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4, 9, 12, 36, 64, 84], 3))
        # It has no answer, and warns of it, where the axis in the middle is the smallest.
        if shape[0] != shape[2] and shape[1] > min(shape):
            told += 1
            space = spaces.Box(0, 255, shape, BYTE)
            assert Image.of(space, "image", 0).channels_first == is_image_space_channels_first(space)
    assert told > 100


def test_what_does_not_fit_an_image_is_named():
    space = spaces.Dict(camera=PICTURE, speed=spaces.Box(-1.0, 1.0, (2,)))
    codec = FlatSpace(space, "observation_space", images=True)
    images, vector = [torch.zeros(5, 3, 20, 16)], torch.zeros(5, 2)
    with pytest.raises(ValueError, match=r"images must be 1 as in the space, got 2"):
        codec.assemble(2 * images, vector)
    with pytest.raises(ValueError, match=r"\['camera'\] must have shape \[..., 3, 20, 16\], got \(5, 20, 16, 3\)"):
        codec.assemble([torch.zeros(5, 20, 16, 3)], vector)
    for wrong, shape in ((None, "None"), (torch.zeros(5, 3), r"\(5, 3\)")):
        with pytest.raises(ValueError, match=rf"vector must have shape \[..., 2\], got {shape}"):
            codec.assemble(images, wrong)
    with pytest.raises(ValueError, match="index must be below 1, the number of images, got 1"):
        codec.image(codec.assemble(images, vector), 1)
    with pytest.raises(ValueError, match=r"\['camera'\] must have shape \[B, 20, 16, 3\], got \(5, 3, 20, 16\)"):
        codec.encode({"camera": np.zeros((5, 3, 20, 16), np.uint8), "speed": np.zeros((5, 2))})


def test_a_space_without_images_is_all_vector():
    codec = FlatSpace(SPACES["dict"], images=True)
    flat = codec.encode(_stack(SPACES["dict"], _sample(SPACES["dict"], 0)))
    assert codec.images == () and not codec.is_pixel.any()
    assert torch.equal(codec.vector(flat), flat) and torch.equal(codec.assemble([], flat), flat)


# -- images in files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [*IMAGES, *(space for space, *_ in PICTURES.values())], ids=str)
def test_json_of_an_image_is_short_and_its_long_form_is_read(space):
    short = space_to_json(space)
    assert len(json.dumps(short)) < 150
    long = {
        **short,
        "low": [short["low"]] * int(np.prod(space.shape)),
        "high": [short["high"]] * int(np.prod(space.shape)),
    }
    for description in (short, long):
        again: Any = space_from_json(json.loads(json.dumps(description)))
        assert again == space and again.dtype == space.dtype
        assert np.array_equal(again.low, space.low) and np.array_equal(again.high, space.high)


def test_json_lists_the_bounds_of_other_spaces_and_those_that_differ():
    high = np.full((20, 16, 3), 255, np.uint8)
    high[0, 0, 0] = 9
    description = space_to_json(spaces.Box(np.zeros_like(high), high, dtype=BYTE))
    assert description["low"] == "0" and description["high"] == ["9", *["255"] * 959]
    again: Any = space_from_json(description)
    assert np.array_equal(again.high, high)
    assert space_to_json(spaces.Box(-2.0, 2.0, (3,)))["low"] == ["-2.0"] * 3
    empty = spaces.Box(0, 255, (0, 20, 3), BYTE)
    assert space_from_json(space_to_json(empty)) == empty
