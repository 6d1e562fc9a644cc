"""A decorated buffer is the agent's own buffer in everything but the drawing of batches."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.utils._pytree import tree_leaves

from mbrl_wrappers.imagination import BufferDecorator, Strategy
from mbrl_wrappers.imagination.buffer import BATCHES_AT_ONCE, draw_batches
from testing.envs import Still

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
DICT = spaces.Dict({"observation": BOX, "achieved_goal": BOX, "desired_goal": BOX})
ACTION = spaces.Box(-1.0, 1.0, (2,), np.float32)


class FirstRows(Strategy):
    """Draws what it was asked for, in a way that no buffer would."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, int, Any]] = []

    def refresh(self, transitions: Any, num_timesteps: int, new_steps: int) -> dict[str, float]:
        return {}

    def sample(self, real_buffer: ReplayBuffer, batch_size: int, env: Any) -> Any:
        self.asked.append((real_buffer, batch_size, env))
        return real_buffer._get_samples(np.zeros(batch_size, dtype=int), env)


KINDS = {
    "plain": lambda: ReplayBuffer(20, BOX, ACTION, "cpu"),
    "n-step": lambda: NStepReplayBuffer(20, BOX, ACTION, "cpu", n_steps=3),
    "dict": lambda: DictReplayBuffer(20, DICT, ACTION, "cpu"),
    "hindsight": lambda: HerReplayBuffer(20, DICT, ACTION, DummyVecEnv([lambda: Still(DICT, ACTION)]), "cpu"),
}
ALIKE_OR_NOT = KINDS | {
    "in place": lambda: ReplayBuffer(
        20, BOX, ACTION, "cpu", optimize_memory_usage=True, handle_timeout_termination=False
    ),
    "two envs": lambda: ReplayBuffer(40, BOX, ACTION, "cpu", n_envs=2),
}


def add(buffer: Any, count: int, start: int = 0) -> None:
    for i in range(start, start + count):
        value: Any = np.full((buffer.n_envs, 3), i, np.float32)
        obs = value if buffer.observation_space == BOX else dict.fromkeys(DICT.spaces, value)
        envs = buffer.n_envs
        rewards, dones = np.full(envs, float(i)), np.full(envs, i % 5 == 4)
        buffer.add(obs, obs, np.full((envs, 2), i), rewards, dones, [{}] * envs)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def pair(request):
    inner = request.param()
    add(inner, 10)
    return inner, BufferDecorator(inner, FirstRows())


def test_batches_come_from_the_strategy_and_all_else_from_the_inner_buffer(pair):
    inner, decorated = pair
    batch = decorated.sample(6, env=None)
    assert decorated.strategy.asked == [(inner, 6, None)]
    assert len(batch.rewards) == 6
    assert isinstance(decorated, ReplayBuffer)
    for name in ("pos", "full", "n_envs", "buffer_size", "device", "observation_space", "dones", "rewards"):
        assert getattr(decorated, name) is getattr(inner, name), name
    assert decorated.size() == inner.size() == 10


@pytest.mark.parametrize("make", ALIKE_OR_NOT.values(), ids=ALIKE_OR_NOT)
def test_a_strategy_that_does_not_serve_leaves_the_batches_of_the_inner_buffer(make):
    inner, strategy, serving = make(), FirstRows(), [False]
    add(inner, 10)
    decorated = BufferDecorator(inner, strategy, lambda: serving[0])
    for draw in (lambda b: [b.sample(6)], lambda b: list(draw_batches(b, 6, 3))):
        batches = []
        for buffer in (inner, decorated):
            np.random.seed(3)  # noqa: NPY002 - the generator SB3 draws from
            batches.append(tree_leaves(draw(buffer)))
        assert all(torch.equal(one, two) for one, two in zip(*batches, strict=True) if one is not None)
    assert not strategy.asked
    serving[0] = True
    decorated.sample(6)
    assert len(strategy.asked) == 1


def test_what_is_added_or_set_goes_to_the_inner_buffer(pair):
    inner, decorated = pair
    add(decorated, 10, start=10)
    assert inner.full and inner.pos == 0 and inner.rewards[:, 0].tolist() == list(range(20))
    decorated.device = "meta"
    assert inner.device == "meta" and set(vars(decorated)) == {"inner", "strategy", "serves"}
    decorated.reset()
    assert inner.size() == decorated.size() == 0 and not inner.full


@pytest.mark.parametrize("rows", [10, 30])  # a ring that is full, too
@pytest.mark.parametrize("kind", [*KINDS, "in place", "two envs"])
def test_batches_drawn_at_once_are_those_drawn_one_by_one(kind, rows):
    inner = ALIKE_OR_NOT[kind]()
    add(inner, rows)
    count = BATCHES_AT_ONCE + 3
    np.random.seed(0)  # noqa: NPY002 - the generator that buffers draw from
    together = list(draw_batches(inner, 4, count))
    np.random.seed(0)  # noqa: NPY002
    one_by_one = [inner.sample(4) for _ in range(count)]
    assert len(together) == count
    for one, other in zip(together, one_by_one, strict=True):
        for part, expected in zip(tree_leaves(one), tree_leaves(other), strict=True):
            assert part is expected is None or torch.equal(part, expected)


def test_extend_adds_a_batch():
    inner = KINDS["plain"]()
    rows = np.zeros((2, 1, 3), np.float32)
    BufferDecorator(inner, FirstRows()).extend(
        rows, rows, np.zeros((2, 1, 2)), np.ones((2, 1)), np.zeros((2, 1)), [[{}]] * 2
    )
    assert inner.size() == 2 and inner.rewards[:2].tolist() == [[1.0], [1.0]]


def test_an_unknown_attribute_is_an_attribute_error(pair):
    with pytest.raises(AttributeError, match="nonsense"):
        pair[1].nonsense  # noqa: B018
    with pytest.raises(AttributeError, match="inner"):
        BufferDecorator.__new__(BufferDecorator).inner  # noqa: B018


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_it_is_the_inner_buffer(pair, protocol):
    inner, decorated = pair
    restored = pickle.loads(pickle.dumps(decorated, protocol))
    assert type(restored) is type(inner)
    np.testing.assert_array_equal(restored.rewards, inner.rewards)
    assert restored.size() == 10
    add(restored, 1, start=10)
    assert restored.rewards[10, 0] == 10 and inner.rewards[10, 0] == 0


def test_pickles_name_nothing_of_this_library(pair):
    assert b"mbrl_wrappers" not in pickle.dumps(pair[1])


def test_copies_are_plain_and_independent(pair):
    inner, decorated = pair
    deep = copy.deepcopy(decorated)
    assert type(deep) is type(inner) and deep.rewards is not inner.rewards
    np.testing.assert_array_equal(deep.rewards, inner.rewards)
    assert type(copy.copy(decorated)) is type(inner)


def test_saved_and_loaded_as_stable_baselines_does(pair):
    inner, decorated = pair
    file = io.BytesIO()
    save_to_pkl(file, decorated)
    file.seek(0)
    assert type(load_from_pkl(file)) is type(inner)
