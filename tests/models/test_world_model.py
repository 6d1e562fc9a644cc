"""Models with a memory: the same episodes, envs and agents as without, and features that mean the same everywhere."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gym_check_env
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor

from mbrl_wrappers.agents import MAAC, PETS, Dyna, RealData
from mbrl_wrappers.envs import ImaginedEnv, ImaginedVecEnv, ImaginedVectorEnv, Trust, collect_episodes
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.models.world_model import put, select
from mbrl_wrappers.types import Transitions
from mbrl_wrappers.wrappers import LatentObservation, MPCAction
from testing.envs import Cart
from testing.models import CartModel, Moving

OBS, ACTION = Cart.observation_space, Cart.action_space
PUSH, HORIZON = Cart.push, Cart.limit


# -- rows of states ------------------------------------------------------------------------------------------


def test_rows_of_a_state_are_chosen_and_put_in_every_part_of_it() -> None:
    one = {"a": torch.arange(3.0), "b": (torch.arange(6).reshape(3, 2), torch.arange(12.0).reshape(3, 2, 2))}
    other = {"a": -one["a"], "b": (-one["b"][0], -one["b"][1])}
    mask = torch.tensor([True, False, True])
    found: Any = select(mask, one, other)
    assert found["a"].tolist() == [0, -1, 2] and found["b"][0].tolist() == [[0, 1], [-2, -3], [4, 5]]
    assert found["b"][1][1].tolist() == [[-4, -5], [-6, -7]]
    rows = {"a": torch.tensor([7.0]), "b": (torch.tensor([[8, 9]]), torch.ones(1, 2, 2))}
    replaced: Any = put(one, ~mask, rows)
    assert replaced["a"].tolist() == [0, 7, 2] and replaced["b"][0].tolist() == [[0, 1], [8, 9], [4, 5]]
    assert one["a"].tolist() == [0, 1, 2]  # type: ignore[attr-defined]


# -- without a memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_markov_model_s_state_is_the_observation(deterministic: bool) -> None:
    model = EnsembleDynamics(OBS, ACTION, num_members=3, num_elites=2, hidden=(8,), seed=0)
    obs, action = torch.rand(20, 1), torch.rand(20, 1)
    generator = torch.Generator().manual_seed(0)
    state, said = model.step(model.begin(obs), action, generator, deterministic)
    p = model.predict(obs, action, generator=generator.manual_seed(0), deterministic=deterministic)
    assert torch.equal(state, model.obs_codec.project(p.next_obs)) and torch.equal(model.decode(state), state)
    assert torch.equal(said.reward, p.reward) and torch.equal(said.terminated, p.terminated)
    assert torch.equal(said.uncertainty, p.uncertainty) and not said.diverged.any()
    assert model.features(state).shape == (20, model.num_features)
    assert torch.equal(model.observe(obs, action, p.next_obs, torch.zeros(20, dtype=torch.bool)), p.next_obs)


def test_what_is_not_finite_has_diverged() -> None:
    def step(obs: Tensor, action: Tensor) -> Tensor:
        return torch.where(obs > 1, torch.inf, obs)

    model = KnownDynamics(OBS, ACTION, step, lambda obs, action, next_obs: torch.where(obs[:, 0] < 0, torch.nan, 1.0))
    _, said = model.step(torch.tensor([[-1.0], [0.5], [2.0]]), torch.zeros(3, 1))
    assert said.diverged.tolist() == [True, False, True]


# -- with a memory -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*environment not having a spec")
@pytest.mark.parametrize("observe", ["observation", "features"])
def test_its_imagined_env_passes_the_checks(observe: Any) -> None:
    env = ImaginedEnv(CartModel(), observe=observe, horizon=5)
    check_env(env)
    assert env.observation_space.shape == ((1,) if observe == "observation" else (2,))


def test_imagined_episodes_are_the_real_ones_in_every_facade() -> None:
    env, model = LatentObservation(Cart(), CartModel()), CartModel()
    seen, _ = env.reset(seed=0)
    starts = np.full((3, 1), seen[0], np.float32)
    single = ImaginedEnv(model, start_obs=starts, horizon=HORIZON, observe="features")
    vector = ImaginedVectorEnv(model, 3, start_obs=starts, horizon=HORIZON, observe="features")
    sb3 = ImaginedVecEnv(model, 3, start_obs=starts, horizon=HORIZON, observe="features")
    plain = ImaginedVecEnv(model, 3, start_obs=starts, horizon=HORIZON)
    shown = [single.reset()[0], vector.reset()[0][1], sb3.reset()[2]]
    plain.reset()
    for step in range(HORIZON - 1):
        assert all(np.allclose(seen, other, atol=1e-4) for other in shown), step
        action = np.array([np.sin(step)], np.float32)
        seen, reward, *_ = env.step(action)
        assert seen[1] == pytest.approx(env.unwrapped.velocity, abs=1e-4)  # type: ignore[attr-defined]
        actions = np.stack([action] * 3)
        steps = [single.step(action), vector.step(actions), sb3.step(actions)]
        shown = [steps[0][0], steps[1][0][1], steps[2][0][2]]
        assert [float(np.ravel(found[1])[0]) for found in steps] == pytest.approx([float(reward)] * 3, abs=1e-3)
        assert np.allclose(plain.step(actions)[0][0], seen[:1], atol=1e-4)


def test_an_episode_that_ends_shows_its_last_features_and_begins_without_memory() -> None:
    env = ImaginedVecEnv(CartModel(), 2, horizon=3, observe="features", seed=0)
    env.reset()
    push = np.ones((2, 1), np.float32)
    for _ in range(2):
        env.step(push)
    obs, _, done, infos = env.step(push)
    assert done.all() and (obs[:, 1] == 0).all()
    assert all(info["terminal_observation"][1] == pytest.approx(3 * PUSH) for info in infos)


@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_gymnasium_s_checker_passes() -> None:
    gym_check_env(LatentObservation(Cart(), CartModel()), skip_render_check=True)


def test_an_env_that_resets_itself_begins_without_memory() -> None:
    env = LatentObservation(gym.wrappers.Autoreset(gym.wrappers.TimeLimit(Cart(), 3)), CartModel())
    env.reset(seed=0)
    speeds = [float(env.step(np.ones(1, np.float32))[0][1]) for _ in range(6)]
    assert speeds == pytest.approx([PUSH, 2 * PUSH, 3 * PUSH, 0, PUSH, 2 * PUSH], abs=1e-5)


def test_a_fit_may_raise_the_precision_under_an_env() -> None:
    """Changes of 0.001 at values of a million: float32 can't say them."""
    space = spaces.Box(-1e7, 1e7, (1,), np.float64)
    model = EnsembleDynamics(space, ACTION, num_members=2, num_elites=1, hidden=(8,), max_steps=20)
    obs = 1e6 + 1e-3 * torch.arange(60, dtype=torch.float64)[:, None]
    action, nothing = torch.zeros(60, 1), torch.zeros(60)
    envs: list[Any] = [
        ImaginedEnv(model, start_obs=obs[:5].numpy()),
        ImaginedVecEnv(model, 3, start_obs=obs[:5].numpy()),
        ImaginedVectorEnv(model, 3, start_obs=obs[:5].numpy()),
    ]
    with pytest.warns(UserWarning, match="float32 can't resolve"):
        model.fit(Transitions(obs, action, nothing, obs + 1e-3, nothing.bool(), torch.arange(60)))
    for env in envs:
        shown: Any = env.reset()
        shown = shown if isinstance(shown, np.ndarray) else shown[0]
        assert shown.dtype == np.float64 and np.ravel(shown)[0] in obs[:5].numpy()


def test_a_real_episode_begins_without_memory() -> None:
    env = LatentObservation(Cart(), CartModel())
    for _ in range(2):
        seen, _ = env.reset(seed=1)
        assert seen[1] == 0 and env.observation_space.contains(seen)
        for _ in range(3):
            seen, *_ = env.step(np.ones(1, np.float32))
        assert seen[1] == pytest.approx(3 * PUSH, abs=1e-5)


def test_rows_are_told_apart_by_whether_they_begin() -> None:
    model = CartModel()
    state = Moving(torch.zeros(2, 1), torch.ones(2, 1))
    after = model.observe(state, torch.zeros(2, 1), torch.full((2, 1), 0.5), torch.tensor([True, False]))
    assert after.velocity.tolist() == [[0.0], [0.5]]


@pytest.mark.parametrize(("observe", "low", "high"), [("features", -30, 0), ("observation", -200, -60)])
def test_an_agent_trained_on_imagined_features_acts_in_the_real_env(observe: Any, low: float, high: float) -> None:
    """It stops at 0; one that sees the position alone swings past it for ever."""
    model = CartModel()
    imagined = ImaginedVecEnv(model, 32, horizon=HORIZON, observe=observe, seed=0)
    agent = PPO(
        "MlpPolicy", imagined, n_steps=HORIZON, batch_size=320, learning_rate=3e-3, gamma=0.95, seed=0, device="cpu"
    )
    real = LatentObservation(Cart(), model) if observe == "features" else Cart()
    agent.learn(30_000)
    assert low < evaluate_policy(agent, real, 10, warn=False)[0] < high


# -- what is refused -----------------------------------------------------------------------------------------


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"observe must be one of \('observation', 'features'\), got 'pixels'"):
        ImaginedEnv(CartModel(), observe="pixels")
    with pytest.raises(ValueError, match="trust must be None for a CartModel, which measures no step"):
        ImaginedEnv(CartModel(), trust=Trust(threshold=1.0))
    with pytest.raises(ValueError, match=r"dynamics.observation_space must equal the env's Box\(\[-1"):
        LatentObservation(gym.make("Pendulum-v1"), CartModel())


# -- fitting ------------------------------------------------------------------------------------------------------


def test_a_model_with_a_memory_is_fitted_on_sequences_in_memory() -> None:
    model = CartModel(push=0.0)
    episodes = collect_episodes(Cart(), model, 200, seed=0)
    assert model.fit(episodes, torch.Generator().manual_seed(0))["push"] == pytest.approx(PUSH, rel=1e-3)
    assert (model.start_obs >= 2).all() and (model.start_obs <= 3).all()


def test_a_model_with_a_memory_is_fitted_on_an_agent_s_sequences() -> None:
    agent = SAC("MlpPolicy", Cart(), learning_starts=100, policy_kwargs={"net_arch": [8]}, device="cpu", seed=0)
    model = CartModel(push=0.0)
    agent.learn(150, callback=ModelBased(RealData(), model, fit_every=50))
    assert model.push == pytest.approx(PUSH, rel=1e-3)


@pytest.mark.parametrize("use", ["Dyna", "MAAC", "PETS", "MPCAction"])
def test_who_predicts_from_an_observation_alone_refuses_a_model_with_a_memory(use: str) -> None:
    tiny: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0, "learning_starts": 5}
    with pytest.raises(ValueError, match=r"must predict from an observation alone, .* got CartModel"):
        if use == "Dyna":
            SAC("MlpPolicy", Cart(), **tiny).learn(10, callback=ModelBased(Dyna(), CartModel()))
        elif use == "MAAC":
            MAAC("MlpPolicy", Cart(), **tiny).learn(10, callback=ModelBased(RealData(), CartModel()))
        elif use == "PETS":
            PETS("MlpPolicy", Cart(), dynamics=CartModel())
        else:
            MPCAction(Cart(), CartModel())
