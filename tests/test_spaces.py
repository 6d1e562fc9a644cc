"""Any space as flat tensors and back: round trips over many spaces, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_wrappers.spaces import FlatSpace, space_from_json, space_to_json

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
        assert "gymnasium.wrappers.FlattenObservation" in message


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
