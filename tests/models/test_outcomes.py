"""Chances of next states, rewards and ends are imagined as they are, by every way to take a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.envs import ImaginedVecEnv
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.uncertainty import mean_variance
from mbrl_wrappers.types import Outcome, Transitions
from testing.models import seeded

LINE, ACTION = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)


def fitted(space: spaces.Space, data: Transitions, **kwargs: Any) -> EnsembleDynamics:
    action = ACTION if data.action.shape[1] == 1 else spaces.Discrete(data.action.shape[1])
    kwargs = {"hidden": (32, 32), "num_members": 3, "num_elites": 2, "max_steps": 400} | kwargs
    model = EnsembleDynamics(space, action, **kwargs)
    model.fit(data, seeded())
    return model


# -- next states --------------------------------------------------------------------------------------


def draws(space: spaces.Space, sample: Callable[[np.random.Generator, int], Any], rows: int = 4000) -> Transitions:
    """Draw states one independently of the other."""
    source = np.random.default_rng(0)
    codec = EnsembleDynamics(space, ACTION, hidden=(1,)).obs_codec
    obs, next_obs = (codec.encode(sample(source, rows)) for _ in range(2))
    action, never = torch.rand(rows, 1, generator=seeded()) * 2 - 1, torch.zeros(rows, dtype=torch.bool)
    return Transitions(obs, action, torch.zeros(rows), next_obs, never, torch.arange(rows))


def flags(*rates: float) -> Callable[[np.random.Generator, int], Any]:
    return lambda source, rows: source.random((rows, len(rates))) < np.array(rates)


STATES = {
    "Discrete": (spaces.Discrete(2), lambda source, rows: source.random(rows) < 0.05),
    "Discrete that starts at -1": (
        spaces.Discrete(3, start=-1),
        lambda source, rows: source.choice([-1, 0, 1], rows, p=[0.1, 0.2, 0.7]),
    ),
    "MultiDiscrete": (
        spaces.MultiDiscrete([2, 4]),
        lambda source, rows: np.stack(
            [source.random(rows) < 0.1, source.choice(4, rows, p=[0.05, 0.1, 0.2, 0.65])], -1
        ),
    ),
    "MultiBinary": (spaces.MultiBinary(3), flags(0.05, 0.2, 0.9)),
    "Box of bools": (spaces.Box(0, 1, (2,), np.bool_), flags(0.1, 0.75)),
    "Box of bytes from 0 to 1": (spaces.Box(0, 1, (2,), np.uint8), flags(0.05, 0.8)),
}


@pytest.mark.parametrize("name", STATES)
def test_a_discrete_state_is_imagined_at_its_rate_and_exactly(name: str):
    space, sample = STATES[name]
    data = draws(space, sample)
    model = fitted(space, data, max_steps=200, reward_fn=no_reward, termination_fn=never)
    with torch.no_grad():
        p = model.predict(data.obs, data.action, generator=seeded())
        particles = model.particle_step([0, 1])(data.obs.expand(2, -1, -1), data.action.expand(2, -1, -1), seeded())
        mixed = model.predict_mixture(data.obs, data.action, generator=seeded())
    rate = data.next_obs.mean(0)
    for next_obs in (p.next_obs, particles.next_obs.flatten(0, 1), mixed.next_obs):
        assert ((next_obs.mean(0) - rate).abs() < 0.02 + 0.06 * (rate * (1 - rate)).sqrt()).all()
        assert ((next_obs == 0) | (next_obs == 1)).all()
        for start, stop in model.obs_codec.blocks:
            assert (next_obs[:, start:stop].sum(-1) == 1).all()
    likeliest = model.predict(data.obs, data.action, deterministic=True).next_obs
    assert torch.equal(likeliest, (rate > 0.5).float().expand_as(likeliest))


def no_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return obs.new_zeros(len(obs))


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.zeros(len(obs), dtype=torch.bool)


def test_a_mixture_keeps_two_places_apart_where_a_gaussian_does_not():
    """A pipe leaves the screen and comes again at one of two places."""
    obs, source = torch.randn(2000, 1, generator=seeded()), torch.rand(2000, generator=seeded(1))
    where = torch.where(source < 0.3, -3.0, 3.0)[:, None] + 0.05 * torch.randn(2000, 1, generator=seeded(2))
    action, no_end = torch.rand(2000, 1, generator=seeded(3)), torch.zeros(2000, dtype=torch.bool)
    data = Transitions(obs, action, torch.zeros(2000), where, no_end, torch.arange(2000))
    between, rates = {}, {}
    for components in (1, 2):
        model = fitted(LINE, data, num_components=components, reward_fn=no_reward, termination_fn=never)
        with torch.no_grad():
            sampled = model.predict(obs, action, generator=seeded()).next_obs
        between[components] = (sampled.abs() < 2).double().mean().item()
        rates[components] = (sampled < 0).double().mean().item()
    assert between[2] < 0.02 < 0.2 < between[1]
    assert abs(rates[2] - 0.3) < 0.04


# -- ends by chance --------------------------------------------------------------------------------------


def hazard(chance: float, rows: int = 3000) -> Transitions:
    """Let each step end the episode by chance, whatever is done, and pay 1."""
    obs, action = torch.randn(rows, 1, generator=seeded()), torch.rand(rows, 1, generator=seeded(1)) * 2 - 1
    ends = torch.rand(rows, generator=seeded(2)) < chance
    return Transitions(obs, action, torch.ones(rows), obs + 0.1 * action, ends, torch.arange(rows))


HAZARDS: dict[tuple[float, bool], EnsembleDynamics] = {}


@pytest.fixture(params=[(0.1, False), (0.1, True), (0.3, False)], ids=["rare", "joint", "frequent"])
def hazardous(request) -> tuple[Transitions, EnsembleDynamics]:
    """Return data and a model of them."""
    chance, joint = request.param
    if request.param not in HAZARDS:
        data = hazard(chance)
        with pytest.warns(UserWarning, match="the model foresees none of the"):
            HAZARDS[request.param] = fitted(LINE, data, joint=joint, max_steps=250)
    return hazard(chance), HAZARDS[request.param]


def by_predict(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> Tensor:
    return model.predict(obs, action, generator=seeded()).terminated


def by_particles(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> Tensor:
    step = model.particle_step(model.particle_members)
    return step(obs.expand(2, -1, -1), action.expand(2, -1, -1), seeded()).terminated


def by_particles_without_noise(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> Tensor:
    step = model.particle_step(model.particle_members, deterministic=True, sample_discrete=True)
    return step(obs.expand(2, -1, -1), action.expand(2, -1, -1), seeded()).terminated


def by_mixture(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> Tensor:
    return model.predict_mixture(obs, action, generator=seeded()).terminated


def by_measured(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> Tensor:
    return model.predict_measured(obs, action, mean_variance, generator=seeded()).terminated


def by_crossing(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> Tensor:
    return model.cross_step(obs.expand(2, -1, -1), action.expand(2, -1, -1), seeded()).terminated


def by_imagined_envs(model: EnsembleDynamics, obs: Tensor, action: Tensor) -> Tensor:
    env = ImaginedVecEnv(model, 1000, horizon=100)
    env.seed(0)
    env.reset()
    env.step_async(action[:1000].numpy())
    return torch.as_tensor(env.step_wait()[2])


WAYS = [by_predict, by_particles, by_particles_without_noise, by_mixture, by_measured, by_crossing, by_imagined_envs]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@torch.no_grad()
def test_an_end_by_chance_comes_at_its_rate(hazardous, way):
    data, model = hazardous
    rate = way(model, data.obs, data.action).double().mean()
    assert abs(rate - data.terminated.double().mean()) < 0.04


def test_without_samples_an_end_by_chance_is_one_where_it_is_likelier_than_not(hazardous):
    data, model = hazardous
    assert not model.predict(data.obs, data.action, deterministic=True).terminated.any()
    certain = model.particle_step(model.particle_members, deterministic=True)
    assert not certain(data.obs.expand(2, -1, -1), data.action.expand(2, -1, -1), None).terminated.any()
    deadly = fitted(LINE, hazard(0.8), max_steps=150)
    assert deadly.predict(data.obs, data.action, deterministic=True).terminated.double().mean() > 0.99


@torch.no_grad()
def test_elites_that_are_crossed_meet_the_same_chances(hazardous):
    data, model = hazardous
    with_equal_elites = EnsembleDynamics.from_description(model.description())
    with_equal_elites.load_state_dict({**model.state_dict(), "elites": torch.tensor([1, 1])})
    crossed = with_equal_elites.cross_step(data.obs.expand(2, -1, -1), data.action.expand(2, -1, -1), seeded())
    assert torch.equal(crossed.terminated[0], crossed.terminated[1]) and crossed.terminated.any()


def test_a_policy_is_worth_in_imagination_what_it_is_worth():
    """With a chance of 0.1 an episode pays 10 on average; without ends it would pay all of the horizon."""
    data = hazard(0.1)
    with pytest.warns(UserWarning, match="the model foresees none of the"):
        model = fitted(LINE, data)
    env = ImaginedVecEnv(model, 1000, horizon=60)
    env.seed(0)
    env.reset()
    running, total = np.ones(1000, bool), np.zeros(1000)
    for _ in range(60):
        env.step_async(np.zeros((1000, 1), np.float32))
        _, reward, done, _ = env.step_wait()
        total += running * reward
        running &= ~done
    rate = data.terminated.double().mean().item()
    expected = (1 - (1 - rate) ** 60) / rate
    assert total.mean() == pytest.approx(expected, rel=0.25)


# -- outcomes of the state where a step leads --------------------------------------------------------------


@pytest.fixture(scope="module")
def lake() -> EnsembleDynamics:
    """Fit a model of FrozenLake on its own table, each state and action equally often."""
    frozen_lake: Any = gym.make("FrozenLake-v1").unwrapped
    table = frozen_lake.P
    source = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        for state in range(16):
            for action in range(4):
                chances = table[state][action]
                _, to, reward, ends = chances[source.choice(len(chances), p=[c[0] for c in chances])]
                rows.append((state, action, to, reward, ends))
    columns: Any = [torch.tensor(column) for column in zip(*rows, strict=True)]
    state, action, to, reward, ends = columns
    one_hot = torch.nn.functional.one_hot
    data = Transitions(
        one_hot(state, 16).float(),
        one_hot(action, 4).float(),
        reward.float(),
        one_hot(to, 16).float(),
        ends.bool(),
        torch.arange(len(rows)),
    )
    return fitted(spaces.Discrete(16), data, max_steps=800)


@torch.no_grad()
def test_reward_and_end_are_those_of_the_state_that_was_sampled(lake):
    frozen_lake: Any = gym.make("FrozenLake-v1").unwrapped
    table = frozen_lake.P
    alive = [state for state in range(16) if state not in (5, 7, 11, 12, 15)]
    state, action = (part.flatten() for part in torch.meshgrid(torch.tensor(alive), torch.arange(4), indexing="ij"))
    one_hot, repeats = torch.nn.functional.one_hot, 200
    obs, act = one_hot(state, 16).float(), one_hot(action, 4).float()
    rows = [part.repeat_interleave(repeats, 0) for part in (obs, act)]
    p = lake.predict(*rows, generator=seeded())
    step = lake.particle_step([0])(rows[0][None], rows[1][None], seeded())
    mixed = lake.predict_mixture(*rows, generator=seeded())
    measured = lake.predict_measured(*rows, mean_variance, generator=seeded())
    chances = [table[s][a] for s in alive for a in range(4)]
    true = torch.tensor([sum(c[0] for c in of_step if c[3]) for of_step in chances])
    for outcome in (p.outcome, Outcome(*(part[0] for part in step)), mixed.outcome, measured.outcome):
        to = outcome.next_obs.argmax(-1)
        assert ((outcome.reward > 0.5) == (to == 15)).double().mean() > 0.999
        over = torch.isin(to, torch.tensor([5, 7, 11, 12, 15]))
        assert (outcome.terminated == over).double().mean() > 0.99
        rate = outcome.terminated.double().reshape(len(obs), repeats).mean(1)
        assert (rate - true).abs().mean() < 0.08
