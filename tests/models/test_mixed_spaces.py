"""Models of spaces with parts of every kind, by every way to take a step: dtypes, copies, compilers, gradients."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.uncertainty import jensen_renyi
from mbrl_wrappers.types import Transitions
from testing.models import seeded

SPACE = spaces.Dict(
    gear=spaces.Discrete(3),
    speed=spaces.Box(-5.0, 5.0, (2,), np.float32),
    lamps=spaces.MultiBinary(2),
    counts=spaces.Box(0, 9, (2,), np.int32),
    modes=spaces.MultiDiscrete([2, 4]),
    doors=spaces.Box(0, 1, (1,), np.bool_),
)
ACTION = spaces.Discrete(2)


def data_of(model: EnsembleDynamics, rows: int = 60) -> Transitions:
    """Draw states one independently of the other."""
    SPACE.seed(0)
    batches = [[SPACE.sample() for _ in range(rows)] for _ in range(2)]
    obs, next_obs = (
        model.obs_codec.encode({key: np.stack([element[key] for element in batch]) for key in SPACE})
        for batch in batches
    )
    action = torch.eye(2)[torch.randint(2, (rows,), generator=seeded())]
    return Transitions(obs, action, obs[:, 0], next_obs, next_obs[:, 3] > 3, torch.arange(rows))


def made(joint: bool = False, components: int = 1) -> EnsembleDynamics:
    model = EnsembleDynamics(
        SPACE,
        ACTION,
        hidden=(16,),
        num_members=3,
        num_elites=2,
        max_steps=20,
        joint=joint,
        num_components=components,
    )
    model.fit(data_of(model), seeded())
    return model


@pytest.fixture(
    scope="module",
    params=[(False, 1), (True, 1), (False, 3), (True, 2)],
    ids=["apart", "joint", "apart, mixture", "joint, mixture"],
)
def model(request) -> EnsembleDynamics:
    return made(*request.param)


def by_predict(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    return model.predict(obs, action, generator=seeded()).outcome


def by_mean(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    return model.predict(obs, action, deterministic=True).outcome


def by_mixture(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    return model.predict_mixture(obs, action, generator=seeded()).outcome


def by_measured(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    return model.predict_measured(obs, action, jensen_renyi, generator=seeded()).outcome


def by_particles(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    return model.particle_step([0, 2])(obs.expand(2, -1, -1), action.expand(2, -1, -1), seeded())


def by_crossing(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    return model.cross_step(obs.expand(2, -1, -1), action.expand(2, -1, -1), seeded())


WAYS: list[Callable[..., tuple[Tensor, ...]]] = [
    by_predict,
    by_mean,
    by_mixture,
    by_measured,
    by_particles,
    by_crossing,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_every_imagined_state_is_of_the_space(model, way, dtype):
    model = copy.deepcopy(model).to(dtype)
    data = data_of(model)
    next_obs, reward, terminated = way(model, data.obs.to(dtype), data.action.to(dtype))
    assert next_obs.dtype == reward.dtype == dtype and terminated.dtype == torch.bool
    flat = next_obs.reshape(-1, model.obs_codec.dim)
    projected, is_float = model.obs_codec.project(flat), model.obs_codec.is_continuous & ~model.obs_codec.is_whole
    assert torch.equal(projected[:, ~is_float], flat[:, ~is_float])
    torch.testing.assert_close(projected, flat, rtol=1e-6, atol=1e-6)  # a sum of floats is rounded
    decoded = model.obs_codec.decode_numpy(flat)
    assert all(SPACE.contains({key: part[row] for key, part in decoded.items()}) for row in range(len(flat)))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@torch.no_grad()
def test_a_copy_takes_the_same_steps(model, way):
    data = data_of(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    expected = way(model, data.obs, data.action)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        for one, another in zip(expected, way(other, data.obs, data.action), strict=True):
            assert torch.equal(one, another)


@torch.no_grad()
def test_a_saved_model_takes_the_same_steps(model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    loaded, data = EnsembleDynamics.load(tmp_path / "model.safetensors"), data_of(model)
    for way in WAYS:
        for one, another in zip(way(model, data.obs, data.action), way(loaded, data.obs, data.action), strict=True):
            assert torch.equal(one, another)


def test_a_compiled_step_is_the_step(model):
    data = data_of(model, 20)
    obs, action = data.obs.expand(2, -1, -1), data.action.expand(2, -1, -1)
    step = model.particle_step([0, 2], deterministic=True)

    def taken(obs: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        return tuple(step(obs, action, None))

    compiled = torch.compile(taken, backend="eager", fullgraph=True)
    for one, other in zip(compiled(obs, action), taken(obs, action), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_of_continuous_columns_and_of_chances_reach_the_action(model):
    data = data_of(model, 30)
    codec = model.obs_codec
    for part in (codec.is_continuous & ~codec.is_whole, codec.is_whole, codec.is_binary, ~codec.is_continuous):
        action = data.action.clone().requires_grad_()
        p = model.predict(data.obs, action, generator=seeded())
        weight = torch.randn(p.next_obs.shape, generator=seeded(1)) * part
        (gradient,) = torch.autograd.grad((p.next_obs * weight).sum(), action, retain_graph=True)
        assert gradient.isfinite().all() and (gradient != 0).any(1).double().mean() > 0.9


def test_the_mean_has_the_gradient_of_finite_differences(model):
    description = model.description()
    free = EnsembleDynamics.from_description(
        {**description, "settings": {**model.settings, "range_margin": None}}  # bounds let gradients through
    )
    free.load_state_dict(model.state_dict())
    model, data = free.double(), data_of(model, 3)
    floats = model.obs_codec.is_continuous & ~model.obs_codec.is_whole

    def predict(action: Tensor) -> Tensor:
        return model.predict(data.obs.double(), action, deterministic=True).next_obs[:, floats]

    assert torch.autograd.gradcheck(predict, (data.action.double().requires_grad_(),))


def test_a_real_step_is_taken_once_more_with_a_gradient(model):
    data = data_of(model, 30)
    args: list[Any] = [part.expand(2, *part.shape) for part in (data.obs, data.action, data.next_obs, data.reward)]
    if model.network.heads.components > 1:
        with pytest.raises(ValueError, match="num_components must be 1 to infer noise, got"):
            model.inferred_step([0, 2])
        return
    action = args[1].clone().requires_grad_()
    next_obs, reward = model.inferred_step([0, 2])(args[0], action, args[2], args[3])
    torch.testing.assert_close(next_obs, args[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reward, args[3], rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(next_obs.square().sum() + reward.sum(), action)
    assert gradient.isfinite().all() and (gradient != 0).any(-1).all()
