"""Column by column: constants stay, whole numbers are whole, imagined values lie where real ones were."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.columns import ObservationColumns
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.types import Transitions
from testing.models import box, seeded

ACTION = spaces.Box(-1.0, 1.0, (1,), np.float32)


def model_of(space: spaces.Space, **kwargs: Any) -> EnsembleDynamics:
    kwargs = {"hidden": (16,), "num_members": 3, "num_elites": 2, "max_steps": 40, "seed": 1} | kwargs
    return EnsembleDynamics(space, ACTION, reward_fn=no_reward, termination_fn=no_end, **kwargs)


def no_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return obs.new_zeros(len(obs))


def no_end(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.zeros(len(obs), dtype=torch.bool)


def made_of(obs: Tensor, next_obs: Tensor, action: Tensor | None = None) -> Transitions:
    rows = len(obs)
    action = torch.rand(rows, 1, generator=seeded(5)) * 2 - 1 if action is None else action
    never = torch.zeros(rows, dtype=torch.bool)
    return Transitions(obs, action, torch.zeros(rows), next_obs, never, torch.arange(rows))


def rollout(model: EnsembleDynamics, obs: Tensor, steps: int) -> list[Tensor]:
    source, seen = seeded(3), [obs]
    with torch.no_grad():
        for _ in range(steps):
            action = torch.rand(len(obs), 1, generator=source) * 2 - 1
            seen.append(model.predict(seen[-1], action, generator=source).next_obs)
    return seen[1:]


# -- constants -----------------------------------------------------------------------------------------


def test_a_goal_stays_where_it_is_for_ever():
    """A position moves, a goal differs from episode to episode and is constant in each."""
    place, goal = (torch.rand(300, 2, generator=seeded(s)) * scale for s, scale in ((0, 1.0), (1, 0.01)))
    moved = place + 0.1 * torch.randn(300, 2, generator=seeded(2))
    data = made_of(torch.cat([place, goal], -1), torch.cat([moved, goal], -1))
    model = model_of(box(4))
    model.fit(data, seeded())
    for imagined in rollout(model, data.obs, 30):
        assert torch.equal(imagined[:, 2:], goal)
    assert not torch.allclose(imagined[:, :2], place, atol=0.05)


def test_a_constant_that_is_computed_anew_with_rounding_errors_is_one():
    place, goal = torch.randn(300, 1, generator=seeded()), 3 * torch.rand(300, 1, generator=seeded(1))
    again = ((goal + 0.1) - 0.1).float()
    assert not torch.equal(again, goal)
    model = model_of(box(2))
    model.fit(made_of(torch.cat([place, goal], -1), torch.cat([place + 1, again], -1)), seeded())
    assert model.columns.changes.tolist() == [True, False]
    assert torch.equal(rollout(model, torch.cat([place, goal], -1), 30)[-1][:, 1:], goal)


def test_small_steps_of_a_counter_are_no_rounding():
    obs = torch.full((300, 1), 1e6)
    data = made_of(obs, obs + 0.0625)  # the spacing of float32 there
    assert model_of(box(1)).columns.changes.all()
    model = model_of(box(1))
    with pytest.warns(UserWarning, match="float32 can't resolve"):
        model.fit(data, seeded())
    assert model.columns.changes.all()


def test_the_rounding_of_a_constant_motion_is_nothing_to_learn():
    """A clock goes on by 0.04 at each step: beside it the other column is learned as if it were alone."""
    obs = torch.rand(400, 2, generator=seeded()) * 2 - 1
    action = torch.rand(400, 1, generator=seeded(1)) * 2 - 1
    data = made_of(obs, torch.stack([obs[:, 0] - 0.04, obs[:, 1] + 0.5 * action[:, 0]], -1), action)
    model = model_of(box(2), max_steps=300, range_margin=None)
    report = model.fit(data, seeded())
    assert report["holdout_error"] < 0.05
    after = rollout(model, obs, 20)[-1][:, 0]
    torch.testing.assert_close(after, obs[:, 0] - 20 * 0.04, rtol=0, atol=2e-5)


def test_a_task_that_differs_from_episode_to_episode_stays_one_hot_and_a_part_that_changes_does_not():
    space = spaces.Dict(task=spaces.Discrete(4), gear=spaces.Discrete(3), flags=spaces.MultiBinary(2))
    model = model_of(space)
    codec = model.obs_codec
    source = np.random.default_rng(0)
    task, flags = source.integers(4, size=300), source.integers(2, size=(300, 2))
    gears, next_flags = source.integers(3, size=(2, 300)), np.stack([flags[:, 0], source.integers(2, size=300)], -1)
    data = made_of(
        codec.encode({"task": task, "gear": gears[0], "flags": flags}),
        codec.encode({"task": task, "gear": gears[1], "flags": next_flags}),
    )
    model.fit(data, seeded())
    for imagined in rollout(model, data.obs, 30):
        parts = codec.decode(imagined)
        assert np.array_equal(parts["task"], task) and np.array_equal(parts["flags"][:, 0], flags[:, 0])
        assert torch.equal(codec.project(imagined), imagined)
    assert (parts["gear"].numpy() != gears[0]).any() and (parts["flags"][:, 1].numpy() != flags[:, 1]).any()


def test_a_column_that_begins_to_change_is_learned_in_the_next_fit():
    obs = torch.randn(400, 2, generator=seeded())
    model = model_of(box(2), max_steps=300)
    still = made_of(obs, torch.stack([obs[:, 0] + 1, obs[:, 1]], -1))
    model.fit(still, seeded())
    assert torch.equal(model.predict(obs, still.action, generator=seeded()).next_obs[:, 1], obs[:, 1])
    moving = made_of(obs, obs + torch.cat([torch.ones(400, 1), 0.5 * still.action], -1), still.action)
    model.fit(moving, seeded())
    with torch.no_grad():
        predicted = model.predict(obs, moving.action, deterministic=True).next_obs
    assert (predicted - moving.next_obs)[:, 1].square().mean().sqrt() < 0.2 * (0.5 * still.action).std()


def test_nothing_is_constant_before_a_fit():
    assert model_of(box(3)).columns.changes.all()


def test_constants_come_back_from_a_file(tmp_path):
    obs = torch.randn(100, 2, generator=seeded())
    model = EnsembleDynamics(box(2), ACTION, hidden=(8,), max_steps=5, termination_fn="Pendulum-v1")
    model.fit(made_of(obs, torch.stack([obs[:, 0] + 1, obs[:, 1]], -1)), seeded())
    model.save(tmp_path / "model.safetensors")
    loaded = EnsembleDynamics.load(tmp_path / "model.safetensors")
    assert torch.equal(rollout(loaded, obs, 5)[-1], rollout(model, obs, 5)[-1])
    assert torch.equal(rollout(loaded, obs, 5)[-1][:, 1], obs[:, 1])


# -- whole numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [None, 0.0, 0.2])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("highest", [6, 127])
def test_counters_are_whole_and_stay_in_their_space(dtype: Any, margin: float | None, highest: int):
    space = spaces.Box(0, highest, (2,), dtype)
    model = model_of(space, range_margin=margin)
    obs = torch.randint(7, (300, 2), generator=seeded()).float()
    step = torch.randint(-1, 2, (300, 2), generator=seeded(1))
    model.fit(made_of(obs, (obs + step).clamp(0, 6)), seeded())
    for imagined in rollout(model, obs, 10):
        assert torch.equal(imagined, imagined.round()) and imagined.min() >= 0 and imagined.max() <= highest
        assert space.contains(model.obs_codec.decode_numpy(imagined)[0])


def test_the_largest_and_smallest_integers_do_not_wrap():
    info = np.iinfo(np.int64)
    codec = FlatSpace(spaces.Box(info.min, info.max, (2,), np.int64))
    far = torch.tensor([[-1e19, 1e19], [-9.3e18, 9.3e18], [0.0, 1.0]], dtype=torch.float64)
    for flat in (far, codec.project(far), far.float()):
        decoded = codec.decode_numpy(flat)
        assert (decoded[:2, 0] < -9.2e18).all() and (decoded[:2, 1] > 9.2e18).all()
        assert decoded[2].tolist() == [0, 1]


# -- bounds -----------------------------------------------------------------------------------------------


def columns_of(space: spaces.Space, margin: float | None, seen: list[list[float]] | None) -> ObservationColumns:
    columns = ObservationColumns(FlatSpace(space), margin)
    if seen is not None:
        columns.set_range(torch.tensor(seen, dtype=torch.float64))
    return columns


@pytest.mark.parametrize(("margin", "low", "high"), [(0.0, 2.0, 4.0), (0.5, 1.0, 5.0), (2.0, 0.0, 6.0)])
def test_imagined_values_stay_near_those_observed_and_in_the_space(margin: float, low: float, high: float):
    columns = columns_of(box(1, 0.0, 6.0), margin, [[2.0], [4.0]])
    obs, change = torch.full((3, 1), 3.0), torch.tensor([[-100.0], [0.25], [100.0]])
    assert (obs + columns.bound(obs, change))[:, 0].tolist() == [low, 3.25, high]


@pytest.mark.parametrize("space", [box(1), box(1, 0.0, 6.0)])
def test_without_a_margin_predictions_are_free(space: spaces.Box):
    columns = columns_of(space, None, [[2.0], [4.0]])
    change = torch.tensor([[-100.0], [100.0]])
    assert torch.equal(columns.bound(torch.full((2, 1), 3.0), change), change)


def test_a_state_that_is_outside_already_goes_where_it_goes():
    columns = columns_of(box(1), 0.0, [[2.0], [4.0]])
    obs, change = torch.tensor([[10.0], [10.0], [10.0], [0.0]]), torch.tensor([[0.0], [1.0], [-1.0], [-2.0]])
    assert (obs + columns.bound(obs, change))[:, 0].tolist() == [10.0, 11.0, 9.0, -2.0]


@pytest.mark.parametrize("bound", [0.1, 1.0, 123.456, 1e6])
def test_what_rounding_adds_at_a_bound_is_not_taken_for_outside(bound):
    columns = columns_of(box(1), 0.0, [[-bound], [bound]])
    obs = torch.full((1, 1), 0.3 * bound)
    for _ in range(100):
        obs = obs + columns.bound(obs, torch.full((1, 1), 0.7 * bound))
    assert obs.item() <= bound * (1 + 1e-5)


def test_bounds_let_gradients_through():
    columns = columns_of(box(1), 0.0, [[2.0], [4.0]])
    change = torch.tensor([[100.0]], requires_grad=True)
    columns.bound(torch.full((1, 1), 3.0), change).sum().backward()
    assert change.grad.item() == 1.0


def test_a_rollout_of_a_hardly_trained_model_stays_in_the_range_that_was_seen():
    obs = torch.rand(200, 2, generator=seeded()) * torch.tensor([1.0, 5.0])
    next_obs = obs.flip(0)
    free, kept = (model_of(box(2), max_steps=2, range_margin=margin) for margin in (None, 0.0))
    for model in (free, kept):
        model.fit(made_of(obs, next_obs), seeded())
    low, high = obs.amin(0) - 1e-6, obs.amax(0) + 1e-6  # a sum is rounded
    inside = [((part >= low) & (part <= high)).all() for part in rollout(kept, obs, 20)]
    assert all(inside)
    assert (rollout(free, obs, 20)[-1] > high).any()


# -- environments that leave their space ------------------------------------------------------------------------


def test_leaving_the_space_is_told_once_with_column_and_values():
    model = model_of(spaces.Dict(a=box(1), b=box(2, 0.0, 1.0)))
    obs = torch.rand(50, 3, generator=seeded())
    obs[:, 2] = torch.linspace(0.5, 5.0, 50)
    data = made_of(obs, obs.flip(0))
    with pytest.warns(UserWarning) as caught:
        model.fit(data, seeded())
        model.fit(data, seeded())
    assert len(caught) == 1
    assert "observation_space['b'][1] must be in [0, 1], got 0.5 to 5" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_observations_on_the_bounds_are_inside():
    model = model_of(box(1, -0.1, 0.1))
    obs = torch.tensor([[-0.1], [0.1]], dtype=torch.float64).repeat(20, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(made_of(obs.float(), obs.flip(0).float()), seeded())


def test_what_was_observed_outside_the_space_is_imagined_and_decoded_there(tmp_path):
    model = EnsembleDynamics(box(1, 0.0, 1.0), ACTION, hidden=(8,), max_steps=5, termination_fn="Pendulum-v1")
    obs = torch.linspace(2.0, 5.0, 60)[:, None]
    with pytest.warns(UserWarning, match="leaves its observation_space"):
        model.fit(made_of(obs, obs.flip(0)), seeded())
    model.save(tmp_path / "model.safetensors")
    for one in (model, EnsembleDynamics.load(tmp_path / "model.safetensors")):
        assert torch.equal(one.obs_codec.project(obs), obs)
        assert np.array_equal(one.obs_codec.decode_numpy(obs), obs.numpy())
        assert all((part > 1).all() for part in rollout(one, obs, 5))


def test_a_clock_that_is_held_at_its_bound_leaves_rewards_alone():
    # Its steps of 0.1 differ by rounding alone; measured in that, the step that is missing would be a million wide.
    model = EnsembleDynamics(box(2), ACTION, hidden=(16,), num_members=3, num_elites=2, max_steps=40, seed=1)
    obs = torch.randn(400, 2, generator=seeded())
    obs[:, 1] = torch.arange(400) % 9 / 10
    next_obs = torch.stack([0.9 * obs[:, 0], torch.arange(400) % 9 / 10 + 0.1], dim=-1)
    data = made_of(obs, next_obs)
    change = next_obs[:, 1] - obs[:, 1]
    assert 0 < change.double().std() < 1e-7
    model.fit(Transitions(obs, data.action, -obs[:, 0].abs(), next_obs, data.terminated, data.key), seeded())
    steps = rollout(model, obs[:50], 20)
    assert (steps[-1][:, 1] - 1.08).abs().max() < 0.1  # where it is held
    with torch.no_grad():
        held = model.predict(steps[-1], data.action[:50], generator=seeded())
    assert held.reward.abs().max() < 20
    assert torch.allclose(steps[0][:9, 1], next_obs[:9, 1], atol=0.05)
