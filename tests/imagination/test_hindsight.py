"""Hindsight replay with imagination: the goals and rewards of imagined rows, and agents that learn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from torch import Tensor

from mbrl_wrappers.agents import M2AC, MAAC, MVE, STEVE, Dyna, RealData
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.imagination.hindsight import GoalDynamics, Hindsight
from mbrl_wrappers.imagination.real_data import real_transitions
from mbrl_wrappers.imagination.rows import ImaginedRows
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics, WorldModel

BITS = 4
ACHIEVED, DESIRED = slice(0, BITS), slice(BITS, 2 * BITS)  # the parts of a Dict in the order of their names
TINY: dict[str, Any] = {"num_members": 2, "num_elites": 2, "hidden": (8,), "max_steps": 20, "seed": 0}


def at_goal(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    bits = next_obs.shape[-1] // 3
    return (next_obs[..., :bits] == next_obs[..., bits : 2 * bits]).all(-1)


def exact(env: Any) -> KnownDynamics:
    """The flipping of bits; the reward, which is not to be asked for, would be 777."""

    def flip(obs: Tensor, action: Tensor) -> Tensor:
        achieved, desired, state = obs.chunk(3, dim=-1)
        flips = (action > 0).float()
        return torch.cat([(achieved - flips).abs(), desired, (state - flips).abs()], dim=-1)

    def unasked(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return torch.full_like(next_obs[..., 0], 777.0)

    known = KnownDynamics(env.observation_space, env.action_space, flip, unasked, at_goal)
    known._warned.add("reward_fn")  # that the real env disagrees is meant
    return known


def trained(
    strategy: Any, kind: Any = SAC, dynamics: Any = None, infos: bool = False, selection: str = "future", envs: int = 2
) -> Any:
    env = make_vec_env(lambda: BitFlippingEnv(BITS, continuous=kind is not DQN, max_steps=6), envs)
    kwargs = {"n_sampled_goal": 4, "goal_selection_strategy": selection, "copy_info_dict": infos}
    agent = kind(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=kwargs, learning_starts=40,
        batch_size=20, buffer_size=200, seed=0, device="cpu", policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    dynamics = dynamics(env) if dynamics else EnsembleDynamics.for_env(env, **TINY)
    agent.learn(60, callback=ModelBased(strategy, dynamics, fit_every=10, seed=0))
    return agent


@pytest.mark.parametrize("strategy", [Dyna, M2AC])
@pytest.mark.parametrize("selection", ["future", "final", "episode"])
@pytest.mark.parametrize("envs", [1, 3])
def test_imagined_rewards_are_those_of_the_env_for_goals_that_stay(strategy, selection, envs):
    kwargs = {"penalty": 0.0} if strategy is M2AC else {}
    agent = trained(strategy(0.5, 3, 20, **kwargs), selection=selection, envs=envs)
    rows = agent.model_based.strategy._buffer.ordered()
    achieved, desired = (rows.next_obs[:, part].numpy() for part in (ACHIEVED, DESIRED))
    (paid,) = agent.env.env_method("compute_reward", achieved, desired, [{}] * len(rows), indices=[0])
    np.testing.assert_array_equal(rows.reward.numpy(), paid)
    assert set(paid) == {-1.0, 0.0}
    assert torch.equal(rows.obs[:, DESIRED], rows.next_obs[:, DESIRED])
    goals = rows.obs[:, DESIRED]
    assert (goals == 1).all(-1).any() and (goals != 1).any(-1).any()  # the env's goal (all ones), and relabelled ones


def test_starts_have_goals_as_the_buffer_samples_them_and_nothing_else_changes():
    agent = trained(Dyna(0.5, 1, 20))
    view, buffer = agent.model_based.view, agent.replay_buffer
    t = real_transitions(buffer, view, agent.model_based.dynamics)
    index = torch.arange(len(t)).repeat(200)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    obs, share = view.starts(t, index, torch.Generator().manual_seed(0))
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(obs[:, ACHIEVED], t.obs[index][:, ACHIEVED])
    assert torch.equal(obs[:, 2 * BITS :], t.obs[index][:, 2 * BITS :])
    step, env = np.divmod(t.key.numpy(), buffer.n_envs)
    ended = torch.as_tensor(buffer.ep_length[step, env] > 0)
    assert torch.equal(obs[~ended[index]], t.obs[index][~ended[index]])
    # A goal of a row is one that was achieved later in its episode, or the real one.
    for row in ended.nonzero()[:, 0].tolist():
        s, e = step[row], env[row]
        later = buffer.next_observations["achieved_goal"][s : buffer.ep_start[s, e] + buffer.ep_length[s, e], e]
        found = obs[index == row][:, DESIRED].unique(dim=0)
        possible = torch.as_tensor(np.concatenate([later, np.ones((1, BITS))])).float().unique(dim=0)
        assert torch.equal(found, possible)
    own = (obs[:, DESIRED] == t.next_obs[index][:, ACHIEVED]).all(-1).float().mean()
    assert 0.05 < share <= own


def test_steps_that_achieve_their_own_goal_have_the_share_of_the_real_ones():
    agent = trained(Dyna(0.5, 1, 20), dynamics=exact)
    view, dynamics = agent.model_based.view, agent.model_based.strategy._dynamics
    t = real_transitions(agent.replay_buffer, view, agent.model_based.dynamics)
    prediction = dynamics.predict(t.obs, t.action)
    rows = ImaginedRows(t.obs, t.action, prediction.reward, prediction.next_obs, prediction.terminated)
    for share in (0.0, 1.0):
        found = view.in_hindsight(rows, share, torch.Generator().manual_seed(0))
        met = (found.next_obs[:, ACHIEVED] == found.next_obs[:, DESIRED]).all(-1)
        assert torch.equal(found.reward, met.float() - 1) and torch.equal(found.terminated, met)
        assert met.all() if share else torch.equal(found.obs, rows.obs)


def test_a_model_is_asked_with_goals_that_it_knows_and_its_ends_are_those_of_the_goals():
    agent = trained(Dyna(0.5, 1, 20), dynamics=exact)
    goals = agent.model_based.strategy._dynamics
    assert isinstance(goals, GoalDynamics)
    inner = agent.model_based.dynamics
    inner.seen_range = torch.ones(2, 3 * BITS, dtype=torch.float64)
    obs = torch.tensor([[0.0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]])
    action = torch.tensor([[1.0, -1, -1, -1]])
    steps = (
        goals.predict(obs, action).outcome,
        goals.predict_mixture(obs, action).outcome,
        goals.particle_step([0])(obs, action, None),
    )
    for next_obs, reward, terminated in steps:
        assert next_obs.tolist() == [[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]]
        assert reward.tolist() == [0.0] and terminated.tolist() == [True]
    assert torch.isnan(goals.predict(obs * torch.nan, action).reward).all()


def test_the_targets_of_mve_are_paid_by_the_env():
    agent = trained(MVE(2), dynamics=exact)
    strategy = agent.model_based.strategy
    steps, _ = strategy._roll_out(torch.zeros(5, 3 * BITS), torch.ones(5, dtype=torch.bool), None)
    assert all(step.reward.max() <= 0 for step in steps)  # none of 777


@pytest.mark.parametrize(
    ("strategy", "infos", "kind"), [(Dyna(0.5, 1, 20), True, SAC), (STEVE(2), False, SAC), (RealData(), False, MAAC)]
)
def test_where_rewards_must_be_learned_the_model_sees_relabelled_rows(strategy, infos, kind, monkeypatch):
    fitted: list[Any] = []
    monkeypatch.setattr(EnsembleDynamics, "fit", _noting(fitted, EnsembleDynamics.fit))
    agent = trained(strategy, kind, infos=infos)
    assert agent.model_based.strategy._dynamics is agent.model_based.dynamics
    rows = fitted[-1]
    met = at_goal(rows.obs, rows.action, rows.next_obs)
    assert torch.equal(rows.reward, met.float() - 1)
    assert (met & ~(rows.next_obs[:, DESIRED] == 1).all(-1)).any()  # successes at goals of hindsight


def _noting(fitted: list[Any], fit: Any) -> Any:
    def noted(self: Any, transitions: Any, generator: Any = None) -> Any:
        fitted.append(transitions)
        return fit(self, transitions, generator)

    return noted


@pytest.mark.parametrize("kind", ["discrete", "binary", "box"])
def test_goals_of_every_space(kind):
    part = {"discrete": spaces.Discrete(5, start=2), "binary": spaces.MultiBinary(3), "box": spaces.Box(-9, 9, (2, 1))}
    space = spaces.Dict({name: part[kind] for name in ("achieved_goal", "desired_goal", "observation")})
    dynamics = KnownDynamics(space, spaces.Discrete(2), lambda o, a: o, lambda o, a, n: o[:, 0])
    paid = []

    class Env:
        def env_method(self, name, achieved, desired, infos, indices):
            paid.append((achieved.shape, desired.shape, len(infos), indices))
            return [(achieved == desired).reshape(len(infos), -1).all(-1)]

    buffer = HerReplayBuffer(20, space, spaces.Discrete(2), Env(), "cpu")
    hindsight = Hindsight(buffer, dynamics.obs_codec)
    one, other = (dynamics.obs_codec.encode({key: np.stack([part[kind].sample()] * 2) for key in space}) for _ in "ab")
    obs = hindsight.with_goals(one, torch.stack([one[0, hindsight.achieved], other[0, hindsight.achieved]]))
    expected = [1.0, float(torch.equal(one[0, hindsight.achieved], other[0, hindsight.achieved]))]
    assert hindsight.reward(obs).tolist() == expected
    shape = (2, *buffer.next_observations["achieved_goal"].shape[2:])
    assert paid == [(shape, shape, 2, [0])]


def bit_flipper(bits: int) -> Any:
    """The agent of SB3's own test of hindsight replay, which has 10 bits and 1500 steps."""
    env = make_vec_env(lambda: BitFlippingEnv(n_bits=bits), 2)
    return DQN(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_rate=2e-3, train_freq=1,
        gradient_steps=2, learning_starts=20, exploration_final_eps=0.02, target_update_interval=100, seed=0,
        batch_size=32, buffer_size=int(1e5), stats_window_size=50, device="cpu",
        replay_buffer_kwargs={"n_sampled_goal": 5, "goal_selection_strategy": "future"},
    )  # fmt: skip


def test_an_agent_learns_with_an_exact_model():
    agent = bit_flipper(6)
    agent.learn(1200, callback=ModelBased(Dyna(real_ratio=0.25, rollouts_per_step=20), exact(agent.env)))
    assert np.mean(agent.ep_success_buffer) > 0.9


@pytest.mark.slow
def test_an_agent_learns_with_a_learned_model():
    agent = bit_flipper(10)
    dynamics = EnsembleDynamics.for_env(agent.env, seed=0, hidden=(64, 64))
    agent.learn(3000, callback=ModelBased(Dyna(real_ratio=0.5, rollouts_per_step=20), dynamics))
    assert np.mean(agent.ep_success_buffer) > 0.9


class Remembering(WorldModel):
    """A model with a memory, of which only the spaces count."""

    begin = observe = step = features = decode = fit = None  # type: ignore[assignment]
    num_features = 1

    def __init__(self, env: Any) -> None:
        super().__init__(env.observation_space, env.action_space)


@pytest.mark.parametrize("strategy", [Dyna, M2AC, MVE, STEVE])
def test_a_model_with_a_memory_is_named_as_without_goals(strategy: Any) -> None:
    with pytest.raises(ValueError, match=r"must predict from an observation alone, .* got Remembering"):
        trained(strategy(), dynamics=Remembering, **({"kind": TD3} if strategy is STEVE else {}))


def test_the_model_behind_the_goals_is_named() -> None:
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got KnownDynamics with 1"):
        trained(M2AC(), dynamics=exact)
