"""PlaNet: plans from the states of a model with a memory, and SB3's API around them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import PETS, PlaNet
from mbrl_wrappers.imagination import load_checkpoint, save_checkpoint
from mbrl_wrappers.models import RSSM
from mbrl_wrappers.models.action_returns import TrajectoryReturns
from mbrl_wrappers.models.state_returns import StateReturns
from mbrl_wrappers.planners import PLANNERS
from testing.agents import same
from testing.envs import Cart, Line, Still, Walk
from testing.models import CartModel, Moving, line_model, seeded

SEARCH = {"horizon": 4, "population": 12, "num_elites": 4, "iterations": 2}
MODEL: dict[str, Any] = {
    "deter": 16, "units": 16, "layers": 1, "depth": 4, "latent": 4, "version": 1, "batch_size": 4,
    "sequence_length": 6, "train_steps": 2,
}  # fmt: skip


def make(env: Any = None, model: Any = None, **kwargs: Any) -> PlaNet:
    env = Walk() if env is None else env
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model = RSSM(env.observation_space, env.action_space, **MODEL) if model is None else model
    arguments = {"planner_kwargs": SEARCH, "learning_starts": 10, "train_freq": 10, "buffer_size": 300, **kwargs}
    return PlaNet(policy, env, dynamics=model, seed=0, device="cpu", **arguments)


def parameters(agent: PlaNet) -> list[Tensor]:
    return [part.detach().clone() for part in agent.dynamics.state_dict().values()]


# -- returns of states ---------------------------------------------------------------------------------------


def test_returns_without_a_memory_are_those_of_trajectories() -> None:
    model = line_model(Line(ends=lambda x: x[..., 0] > 2, reward=lambda x: x[..., 0], bound=20.0))
    obs, actions = torch.rand(3, 1, generator=seeded()), torch.rand(3, 5, 6, 1, generator=seeded(1))
    found = StateReturns(model, sample_noise=False, discount=0.9)(model.begin(obs), actions)
    wanted = TrajectoryReturns(model, propagation="expectation", discount=0.9)(obs, actions)
    assert torch.allclose(found, wanted) and len(found.unique()) == 15


def test_returns_of_states_are_sums_of_single_steps() -> None:
    """Rewards of the steps up to a termination, that of the last one included; particles share a sequence."""
    model = RSSM(Walk().observation_space, spaces.Box(-2, 2, (1,), np.float32), **MODEL)
    for head in (model.reward_head.net, model.continue_head):
        torch.nn.init.normal_(head[-1].weight, std=0.3, generator=seeded())
    torch.nn.init.constant_(model.continue_head[-1].bias, 1.0)
    state, actions = model.begin(torch.randn(2, 2), seeded()), 2 * torch.rand(2, 3, 5, 1) - 1
    found = StateReturns(model, num_particles=2, discount=0.8)(state, actions, seeded(1))
    rows = torch.arange(2).repeat_interleave(6)
    at, generator = type(state)(*(part[rows] for part in state)), seeded(1)
    total, alive = torch.zeros(12), torch.ones(12)
    for t in range(5):
        at, said = model.step(at, actions.flatten(0, 1).repeat_interleave(2, dim=0)[:, t], generator)
        total, alive = total + 0.8**t * alive * said.reward, alive * (~said.terminated)
    assert torch.allclose(found, total.reshape(2, 3, 2).mean(-1).detach(), atol=1e-5) and 0 < alive.mean() < 1


def test_a_sequence_that_diverges_is_worth_nothing_and_actions_have_gradients() -> None:
    model, actions = CartModel(), torch.zeros(1, 2, 3, 1)
    state = Moving(torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    actions[0, 1, 1] = np.nan
    found = StateReturns(model)(state, actions)
    assert found[0].tolist() == [pytest.approx(-(1.5**2 + 2**2 + 2.5**2)), -np.inf]
    actions = torch.zeros(1, 2, 3, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(StateReturns(model)(state, actions).sum(), actions)
    assert (gradient < 0).all() and gradient[0, 0, 0] < gradient[0, 0, 2]
    with pytest.raises(ValueError, match=r"actions must have shape \('B', 'P', 'H', 1\), got \(1, 2, 3, 2\)"):
        StateReturns(model)(state, torch.zeros(1, 2, 3, 2))


# -- planning from what is remembered ------------------------------------------------------------------------


@pytest.mark.parametrize("planner", ["CEM", "iCEM"])
def test_it_brings_a_cart_to_rest_whose_speed_only_a_memory_knows(planner: str) -> None:
    search = {"horizon": 12, "population": 60, "num_elites": 6, "iterations": 3}
    agent = make(Cart(), CartModel(), planner=planner, planner_kwargs=search)
    env = Monitor(Cart())
    env.reset(seed=0)
    worth, _ = evaluate_policy(agent, env, 3)
    assert worth > -45  # full speed ahead for half of the way, then the other way
    obs, forgetful = env.reset(seed=0)[0], 0.0
    for _ in range(Cart.limit):
        obs, reward, *_ = env.step(agent.predict(obs)[0])  # without the state
        forgetful += float(reward)
    assert forgetful < worth - 20


def test_memories_follow_the_model_and_are_forgotten_where_episodes_begin() -> None:
    agent, model = make(DummyVecEnv([Cart] * 2), CartModel()), CartModel()
    state: Any = None
    for t, position in enumerate([1.0, 1.5, 2.5, 3.0]):
        started = np.array([False, t == 2])
        action, state = agent.predict(np.full((2, 1), position, np.float32), state, started)
        plan, taken, is_first, seen, speed, calls = state
        assert np.array_equal(taken, action) and not is_first.any() and calls.tolist() == [t + 1] * 2
        assert plan.shape == (2, 4, 1) and seen[:, 0].tolist() == [position] * 2
        assert speed[:, 0].tolist() == [[0, 0], [0.5, 0.5], [1, 0], [0.5, 0.5]][t]
    assert model.push == agent.dynamics.push


def test_while_it_learns_the_model_hears_of_the_actions_that_were_taken() -> None:
    """The noise of exploration included."""
    env = DummyVecEnv([lambda: Monitor(Walk(limit=9)), lambda: Monitor(Walk(limit=5))])
    agent, heard = make(env, exploration_std=0.5), []
    observe = agent.dynamics.observe

    def noted(state: Any, action: Tensor, obs: Tensor, is_first: Tensor, generator: Any = None) -> Any:
        heard.append((obs.clone(), action.clone(), is_first.clone()))
        return observe(state, action, obs, is_first, generator)

    agent.dynamics.observe = noted
    agent.learn(60)
    heard = [parts for parts in heard if len(parts[0]) == 2 and parts[0].any()]
    buffer = agent.replay_buffer
    assert buffer is not None
    taken = agent._view.unscale(torch.as_tensor(buffer.actions[: buffer.pos]))
    first = buffer.pos - len(heard)
    assert heard[0][2].all() and first >= 5
    for place, (obs, action, is_first) in enumerate(heard[1:], start=first + 1):
        assert torch.equal(obs, torch.as_tensor(buffer.observations[place]))
        assert torch.equal(is_first, obs[:, 1] == 0)
        assert torch.allclose(action[~is_first], taken[place - 1][~is_first], atol=1e-5)
    assert (taken[first:] != taken[first:].clamp(-1.9, 4.9)).any()  # some at the bounds


def test_exploration_is_as_large_as_it_should_be() -> None:
    agent = make(Cart(), CartModel(), exploration_std=0.2)
    obs, state = torch.zeros(400, 1), agent._initial_state(400)
    noise = agent._act(obs, state, 3).action - agent._plan(obs, state, 3).action
    assert noise.std() == pytest.approx(0.2, rel=0.15)
    still = make(Cart(), CartModel(), exploration_std=0.0)
    assert torch.equal(still._act(obs, state, 3).action, still._plan(obs, state, 3).action)


# -- learning ------------------------------------------------------------------------------------------------


class Echo(gym.Env[np.ndarray, np.ndarray]):
    """It shows a sign every other step, and pays for an action of that sign in the step after the one that shows it."""

    observation_space, action_space = spaces.Box(-4, 4, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.sign = 0, float(self.np_random.choice([-1.0, 1.0]))
        return np.array([4 * self.sign], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward, shown = 0.0, 0.0
        if self.steps % 2 == 0:
            reward = 2 * float(action[0]) * self.sign
            self.sign = float(self.np_random.choice([-1.0, 1.0]))
            shown = 4 * self.sign
        return np.array([shown], np.float32), reward, False, self.steps >= 16, {}


@pytest.mark.slow
def test_it_learns_what_it_has_to_remember() -> None:
    """A return of 16 at most, and of 0 for one that forgets: an observation says nothing when its action counts."""
    model = RSSM(
        Echo.observation_space, Echo.action_space, version=1, deter=32, units=32, layers=1, latent=4, free_nats=0.1,
        batch_size=16, sequence_length=9, train_steps=250, learning_rate=5e-3,
    )  # fmt: skip
    search = {"horizon": 3, "population": 40, "num_elites": 6, "iterations": 3}
    agent = make(Echo(), model, planner_kwargs=search, learning_starts=300, train_freq=200).learn(700)
    env = Monitor(Echo())
    env.reset(seed=9)
    assert evaluate_policy(agent, env, 5)[0] > 6


@pytest.mark.parametrize("form", ["box", "dict", "image"])
@pytest.mark.parametrize(
    "action", [spaces.Box(-2.0, 5.0, (1,), np.float32), spaces.Discrete(3)], ids=["box", "discrete"]
)
def test_it_learns_in_several_envs(form: str, action: spaces.Space) -> None:
    image = spaces.Box(0, 255, (3, 16, 17), np.uint8)

    def one() -> gym.Env:
        if form != "image":
            return Monitor(Walk(form, isinstance(action, spaces.Discrete)))
        return Monitor(gym.wrappers.TimeLimit(Still(image, action), 9))

    agent = make(DummyVecEnv([one] * 2), train_freq=10, learning_starts=20)
    before = parameters(agent)
    agent.learn(60)
    assert agent._num_fits == 3 and not same(before, parameters(agent)) and agent.num_timesteps == 60
    worth, _ = evaluate_policy(agent, one(), 1, warn=False)
    assert np.isfinite(worth)


def test_evaluations_do_not_disturb_training_and_episodes_can_be_repeated() -> None:
    def trained(evaluates: bool) -> PlaNet:
        agent = make().learn(30)
        if evaluates:
            evaluate_policy(agent, Monitor(Walk()), 2)
        return agent.learn(20, reset_num_timesteps=False)

    agent = trained(True)
    assert same(parameters(agent), parameters(trained(False)))
    obs = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    (action, state), (again, _) = agent.predict(obs), agent.predict(obs)
    assert np.array_equal(action, again)
    one, _ = agent.predict(obs[0])
    assert one.shape == (1,)
    kept = agent.predict(obs, state, np.zeros(3, bool))[1]
    forgot = agent.predict(obs, state, np.array([True, False, False]))[1]
    assert kept is not None and forgot is not None
    assert np.array_equal(kept[3][1:], forgot[3][1:]) and not np.array_equal(kept[3][0], forgot[3][0])


# -- saving --------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_run(tmp_path: Any) -> None:
    def go_on(agent: PlaNet) -> list[Tensor]:
        assert agent.env is not None
        agent.env.seed(11)
        agent._last_obs = agent.env.reset()  # type: ignore[assignment]
        agent._plan_state, agent._last_episode_starts = None, np.ones(1, bool)
        return parameters(agent.learn(30, reset_num_timesteps=False))

    agent = make().learn(30)
    save_checkpoint(agent, tmp_path / "run")
    resumed = load_checkpoint(PlaNet, tmp_path / "run", Walk(), device="cpu")
    assert same(go_on(agent), go_on(resumed)) and agent._num_fits == resumed._num_fits > 3


def test_the_zoo_s_files_hold_all_of_it(tmp_path: Any) -> None:
    env = gym.make("Pendulum-v1")
    agent = make(env, RSSM.for_env(env, **MODEL), exploration_std=0.1).learn(30)
    zoo.save(agent, tmp_path / "kept", episodes=0)
    again: Any = zoo.load(tmp_path / "kept", env=env)
    obs = np.stack([agent.observation_space.sample() for _ in range(2)])
    first, second = agent.predict(obs)[1], again.predict(obs)[1]
    assert all(np.array_equal(*parts) for parts in zip(first or (), second, strict=True))
    assert again.planner_kwargs == SEARCH and again.exploration_std == 0.1


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"planner": "MCTS"}, r"planner must be one of .*'CEM'.*, got 'MCTS'"),
        ({"planner_kwargs": {"horizon": 0}}, "horizon must be a whole number of at least 1, got 0"),
        ({"num_particles": 0}, "num_particles must be a whole number of at least 1, got 0"),
        ({"exploration_std": -1}, r"exploration_std must be in \[0, 1e\+06\], got -1"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"dynamics\.observation_space must equal the env's"):
        make(Walk(), CartModel())
    with pytest.raises(ValueError, match=r"dynamics must predict from an observation alone.*got CartModel"):
        PETS("MlpPolicy", Cart(), dynamics=CartModel())
    agent = make()
    with pytest.raises(ValueError, match="state must be of 1 environments with shapes"):
        agent.predict(np.zeros((1, 2), np.float32), (np.zeros((2, 3)),))
    with pytest.raises(ValueError, match="observation from the environment must be finite"):
        agent.predict(np.full((1, 2), np.nan, np.float32))


def test_the_default_search_is_the_paper_s() -> None:
    planner = make(planner_kwargs=None)._planner
    assert planner.horizon == 12 and planner.settings.population == 1000  # type: ignore[attr-defined]
    assert planner.settings.num_elites == 100 and planner.settings.iterations == 10  # type: ignore[attr-defined]
    assert isinstance(make(planner="iCEM", planner_kwargs=None)._planner, PLANNERS["iCEM"])


def test_the_first_fit_has_sequences_of_the_model_s_length() -> None:
    model = RSSM.for_env(Walk(), deter=4, units=4, latent=2, version=1, sequence_length=10)
    with pytest.raises(ValueError, match=r"learning_starts must be at least 10, .* of 10 in each of 1 envs, got 4"):
        PlaNet("MlpPolicy", Walk(), dynamics=model, learning_starts=4, train_freq=5, device="cpu")
    PlaNet("MlpPolicy", Walk(), dynamics=model, learning_starts=4, train_freq=10, device="cpu")
