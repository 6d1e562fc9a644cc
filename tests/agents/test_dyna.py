"""Dyna and MBPO: what is imagined, how long it is kept, and how batches are mixed."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor

from mbrl_wrappers.agents import Dyna
from mbrl_wrappers.imagination import AgentView, ModelBased
from mbrl_wrappers.imagination.rows import ImaginedBuffer, ImaginedRows
from mbrl_wrappers.models import DynamicsModel, KnownDynamics
from mbrl_wrappers.types import Prediction, Transitions
from testing.agents import make_agent
from testing.envs import Line, Still
from testing.models import line_model, small_ensemble

REAL_REWARD = 777.0
OBS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION = spaces.Box(-2.0, 5.0, (1,), np.float32)


class GraphCapture(DynamicsModel):
    """Moves by a given function and remembers every batch that it was asked about."""

    def __init__(self, step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
        super().__init__(OBS, ACTION)
        self._step = step
        self.asked: list[Tensor] = []

    def predict(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
        self.asked.append(obs.clone())
        next_obs, reward, terminated = self._step(obs, action)
        return Prediction(next_obs, reward, terminated, torch.zeros(len(obs)))

    def fit(self, transitions: Transitions, generator: torch.Generator | None = None) -> dict[str, float]:
        return {}


def counting(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add one to the first column; never end."""
    return obs + torch.tensor([1.0, 0.0]), obs[:, 0], torch.zeros(len(obs), dtype=torch.bool)


def bound(strategy: Dyna, dynamics: DynamicsModel | None = None, seed: int = 0) -> tuple[Dyna, Any]:
    """Bind a strategy to a fresh SAC agent with a full buffer of real rows of reward 777."""
    agent = make_agent(env=Still(OBS, ACTION), buffer_size=64, seed=seed)
    rng = np.random.default_rng(0)
    for _ in range(64):
        obs, action = rng.normal(size=(1, 2)), rng.uniform(-1, 1, (1, 1))
        agent.replay_buffer.add(obs, obs, action, np.array([REAL_REWARD]), np.array([False]), [{}])
    dynamics = dynamics or GraphCapture(counting)
    strategy.bind(AgentView(agent, dynamics), dynamics, torch.Generator().manual_seed(seed))
    return strategy, agent


def real_rows(obs: Tensor) -> Transitions:
    count = len(obs)
    zeros = torch.zeros(count)
    return Transitions(obs, zeros[:, None], zeros, obs, zeros.bool(), torch.arange(count))


def imagined(strategy: Dyna) -> ImaginedRows:
    return ImaginedRows(**strategy.imagined_state())


# -- the mixture ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100, 256])
@pytest.mark.parametrize("real_ratio", [0.0, 0.05, 0.3, 0.5, 1.0])
def test_every_batch_has_its_exact_share_of_real_rows(real_ratio, batch_size):
    strategy, agent = bound(Dyna(real_ratio, rollouts_per_step=5))
    strategy.refresh(real_rows(torch.randn(20, 2)), 100, 10)
    for _ in range(20):
        batch = strategy.sample(agent.replay_buffer, batch_size, None)
        assert int((batch.rewards == REAL_REWARD).sum()) == round(real_ratio * batch_size)
        for field in ("observations", "next_observations", "actions", "rewards", "dones"):
            assert len(getattr(batch, field)) == batch_size, field


@pytest.mark.parametrize("real_ratio", [0.0, 0.3, 1.0])
def test_a_block_holds_the_batches_that_would_be_drawn_one_by_one(real_ratio):
    drawn = []
    for at_once in (True, False):
        strategy, agent = bound(Dyna(real_ratio, rollouts_per_step=5))
        strategy.refresh(real_rows(torch.randn(20, 2, generator=torch.Generator().manual_seed(0))), 100, 10)
        agent.set_random_seed(1)
        asked = (agent.replay_buffer, 10)
        batches = (
            strategy.sample_block(*asked, 70, None) if at_once else (strategy.sample(*asked, None) for _ in range(70))
        )
        drawn.append(list(batches))
    assert len(drawn[0]) == len(drawn[1]) == 70
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one.observations, other.observations) and torch.equal(one.rewards, other.rewards)


def test_the_real_rows_of_a_block_are_drawn_batch_by_batch():
    # A buffer with hindsight relabels a share of what is drawn together: cut up afterwards, batches would differ.
    strategy, agent = bound(Dyna(0.3, rollouts_per_step=5))
    strategy.refresh(real_rows(torch.randn(20, 2)), 100, 10)
    sizes = []

    class Hindsight(ReplayBuffer):
        def sample(self, size, env=None):
            sizes.append(size)
            return super().sample(size, env=env)

    agent.replay_buffer.__class__ = Hindsight
    block = iter(strategy.sample_block(agent.replay_buffer, 10, 5, None))
    next(block)
    assert sizes == [3]
    assert len(list(block)) == 4 and sizes == [3] * 5


def test_a_twentieth_of_a_batch_of_256_is_13_rows():
    strategy, agent = bound(Dyna(0.05, rollouts_per_step=5))
    strategy.refresh(real_rows(torch.randn(20, 2)), 100, 10)
    assert int((strategy.sample(agent.replay_buffer, 256, None).rewards == REAL_REWARD).sum()) == 13


def test_before_anything_is_imagined_batches_are_real():
    strategy, agent = bound(Dyna(0.05))
    assert (strategy.sample(agent.replay_buffer, 32, None).rewards == REAL_REWARD).all()


def test_without_real_rows_the_real_buffer_is_not_touched():
    strategy, agent = bound(Dyna(0.0, rollouts_per_step=5))
    strategy.refresh(real_rows(torch.randn(20, 2)), 100, 10)
    agent.replay_buffer.reset()  # nothing to draw from
    assert len(strategy.sample(agent.replay_buffer, 32, None).rewards) == 32


# -- rollouts ------------------------------------------------------------------------------------------------


def test_rollouts_branch_from_real_states_and_are_as_long_and_as_many_as_said():
    dynamics = GraphCapture(counting)
    strategy, _ = bound(Dyna(rollout_length=4, rollouts_per_step=3), dynamics)
    real = torch.arange(50.0)[:, None].repeat(1, 2)
    report = strategy.refresh(real_rows(real), 100, 20)
    assert [len(batch) for batch in dynamics.asked] == [60] * 4
    starts = dynamics.asked[0]
    assert torch.equal(starts[:, 0], starts[:, 1])  # they are rows of the real data
    assert len(starts[:, 0].unique()) > 20  # of all of it
    for k, batch in enumerate(dynamics.asked):
        assert torch.equal(batch[:, 0], starts[:, 0] + k)
    assert report["rows"] == report["buffer_rows"] == 240 and report["rollout_length"] == 4
    assert report["terminated"] == report["diverged"] == 0


def test_terminated_rollouts_stop_and_the_end_of_a_rollout_is_no_termination():
    def ends_beyond_two(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        next_obs, reward, _ = counting(obs, action)
        return next_obs, reward, next_obs[:, 0] > 2

    dynamics = GraphCapture(ends_beyond_two)
    strategy, agent = bound(Dyna(0.0, rollout_length=3, rollouts_per_step=1), dynamics)
    starts = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-5.0, 0.0]])
    report = strategy.refresh(real_rows(starts), 100, 300)
    assert all((batch[:, 0] <= 2).all() for batch in dynamics.asked)
    rows = imagined(strategy)
    assert torch.equal(rows.terminated, rows.next_obs[:, 0] > 2)
    assert report["terminated"] == int(rows.terminated.sum()) > 0
    assert report["rows"] == len(rows) == sum(len(batch) for batch in dynamics.asked) < 900
    # From -5 the rollout is cut off after three steps: not an end.
    assert not rows.terminated[rows.next_obs[:, 0] == -2].any() and (rows.next_obs[:, 0] == -2).any()
    batch = strategy.sample(agent.replay_buffer, 500, None)
    assert torch.equal(batch.dones[:, 0] > 0.5, batch.next_observations[:, 0] > 2)


def test_rollouts_that_have_all_ended_ask_no_more():
    dynamics = GraphCapture(lambda obs, action: (obs, obs[:, 0], torch.ones(len(obs), dtype=torch.bool)))
    strategy, _ = bound(Dyna(rollout_length=5, rollouts_per_step=1), dynamics)
    assert strategy.refresh(real_rows(torch.randn(9, 2)), 100, 10)["rows"] == 10
    assert len(dynamics.asked) == 1


@pytest.mark.parametrize("poison", ["next_obs", "reward"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverging_model_is_counted_and_kept_out(poison, value):
    def diverges_beyond_one(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        next_obs, reward, terminated = counting(obs, action)
        bad = obs[:, 0] > 1
        if poison == "next_obs":
            next_obs = torch.where(bad[:, None], torch.tensor([0.0, value]), next_obs)
        else:
            reward = torch.where(bad, torch.tensor(value), reward)
        return next_obs, reward, terminated | bad

    dynamics = GraphCapture(diverges_beyond_one)
    strategy, agent = bound(Dyna(0.0, rollout_length=3, rollouts_per_step=1), dynamics)
    report = strategy.refresh(real_rows(torch.tensor([[0.5, 0.0], [2.0, 0.0], [-9.0, 0.0]])), 100, 300)
    asked = torch.cat(dynamics.asked)
    assert report["diverged"] == int((asked[:, 0] > 1).sum()) > 0
    assert report["rows"] == len(asked) - report["diverged"]
    assert report["terminated"] == 0
    for value in strategy.imagined_state().values():
        assert torch.isfinite(value).all()
    assert all(torch.isfinite(batch).all() for batch in dynamics.asked)
    assert torch.isfinite(strategy.sample(agent.replay_buffer, 400, None).rewards).all()


def test_a_model_that_always_diverges_leaves_real_batches():
    dynamics = GraphCapture(lambda obs, action: (obs * math.nan, obs[:, 0], torch.zeros(len(obs), dtype=torch.bool)))
    strategy, agent = bound(Dyna(0.05, rollouts_per_step=1), dynamics)
    report = strategy.refresh(real_rows(torch.randn(9, 2)), 100, 10)
    assert report["diverged"] == 10 and report["rows"] == report["buffer_rows"] == 0
    assert (strategy.sample(agent.replay_buffer, 32, None).rewards == REAL_REWARD).all()
    restored, _ = bound(Dyna(0.05, rollouts_per_step=1), dynamics)
    restored.load_imagined_state(strategy.imagined_state())
    assert len(restored._buffer) == 0


def test_actions_are_the_current_policys_and_random():
    strategy, agent = bound(Dyna(rollouts_per_step=1))
    same_place = real_rows(torch.zeros(5, 2))
    strategy.refresh(same_place, 100, 400)
    before = imagined(strategy).action
    assert len(before.unique()) > 350  # a stochastic policy, not its mean
    assert (before >= ACTION.low[0]).all() and (before <= ACTION.high[0]).all()
    with torch.no_grad():
        agent.actor.mu.bias += 3.0
    strategy.refresh(same_place, 101, 400)
    after = imagined(strategy).action[400:]
    assert after.mean() > before.mean() + 1.5


def test_imagined_rows_obey_the_models_dynamics():
    A, B = np.array([[1.0, 0.1], [-0.2, 0.9]]), np.array([[0.0], [0.3]])
    dynamics = KnownDynamics.linear_quadratic(A, B, np.eye(2), np.eye(1), action_bound=3.0)

    agent = make_agent(env=Still(dynamics.observation_space, dynamics.action_space))
    strategy = Dyna(0.0, rollout_length=5, rollouts_per_step=2)
    view = AgentView(agent, dynamics)
    strategy.bind(view, dynamics, torch.Generator().manual_seed(0))
    strategy.refresh(real_rows(torch.randn(30, 2, generator=torch.Generator().manual_seed(0))), 100, 40)
    batch = strategy.sample(agent.replay_buffer, 300, None)
    action = view.env_action(batch.actions.numpy())
    assert action.abs().max() > 1.5  # in the env's units
    true_next = batch.observations @ torch.as_tensor(A.T).float() + action @ torch.as_tensor(B.T).float()
    torch.testing.assert_close(batch.next_observations, true_next, rtol=1e-4, atol=1e-5)
    true_reward = -(batch.observations.square().sum(-1) + action.square().sum(-1))
    torch.testing.assert_close(batch.rewards[:, 0], true_reward, rtol=1e-4, atol=1e-5)
    assert not batch.dones.any()


def test_the_generator_alone_decides():
    states = []
    for torch_seed in (1, 2):
        strategy, _ = bound(Dyna(rollout_length=2, rollouts_per_step=2))
        torch.manual_seed(torch_seed)
        strategy.refresh(real_rows(torch.arange(10.0).reshape(5, 2)), 100, 10)
        states.append(strategy.imagined_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# -- the schedule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "length"),
    [(0, 1), (20_000, 1), (29_285, 1), (29_286, 2), (85_000, 8), (149_999, 14), (150_000, 15), (10**6, 15)],
)
def test_mbpos_hopper_schedule(steps, length):
    assert Dyna(rollout_length=(20_000, 150_000, 1, 15)).rollout_length_at(steps) == length


def test_the_schedule_is_followed_and_may_fall():
    dynamics = GraphCapture(counting)
    strategy, _ = bound(Dyna(rollout_length=(100, 200, 5, 1), rollouts_per_step=1), dynamics)
    for now, length in ((100, 5), (150, 3), (200, 1)):
        dynamics.asked.clear()
        report = strategy.refresh(real_rows(torch.randn(9, 2)), now, 10)
        assert len(dynamics.asked) == length == report["rollout_length"]
        assert report["rows"] == 10 * length


def test_the_buffer_grows_with_the_rollout_length_and_keeps_the_newest():
    strategy, _ = bound(Dyna(rollout_length=(0, 100, 1, 3), rollouts_per_step=1, epoch_length=20))
    for epoch, now in enumerate((0, 50, 100, 120)):
        strategy.refresh(real_rows(torch.full((5, 2), 100.0 * epoch)), now, 20)
        assert strategy._buffer.capacity == strategy.rollout_length_at(now) * 20
    firsts = (imagined(strategy).obs[:, 0] // 100).unique().tolist()
    assert firsts == [3.0] and len(imagined(strategy)) == 60


@pytest.mark.parametrize("retained_epochs", [1, 3])
def test_imagined_rows_last_for_the_retained_epochs(retained_epochs):
    strategy, agent = bound(
        Dyna(0.0, rollout_length=2, rollouts_per_step=3, epoch_length=40, retained_epochs=retained_epochs)
    )
    for refresh in range(16):  # four to an epoch
        strategy.refresh(real_rows(torch.full((5, 2), float(10 * refresh))), 10 * refresh, 10)
        kept = sorted({int(value // 10) for value in imagined(strategy).obs[:, 0].tolist()})
        assert kept == list(range(max(0, refresh + 1 - 4 * retained_epochs), refresh + 1))
    drawn = {int(value // 10) for value in strategy.sample(agent.replay_buffer, 2000, None).observations[:, 0].tolist()}
    assert sorted(drawn) == kept


# -- the ring buffer -----------------------------------------------------------------------------------------


def numbered(first: int, count: int) -> ImaginedRows:
    number = torch.arange(first, first + count).float()
    return ImaginedRows(number[:, None], number[:, None], number, number[:, None], number % 2 == 0)


def numbers(buffer: ImaginedBuffer) -> list[int]:
    rows = buffer.ordered()
    assert rows is not None
    for field in dataclasses.fields(rows):
        assert len(getattr(rows, field.name)) == len(buffer)
    return rows.reward.int().tolist()


@pytest.mark.parametrize(
    "sizes", [[3], [10], [11], [25], [4, 4, 4], [7, 7, 7, 7], [10, 10], [1] * 23, [9, 35, 2], [0, 5]]
)
def test_the_newest_rows_are_kept_in_order(sizes):
    buffer, first = ImaginedBuffer(10), 0
    for count in sizes:
        buffer.add(numbered(first, count))
        first += count
        assert numbers(buffer) == list(range(max(0, first - 10), first))


@pytest.mark.parametrize("filled", [4, 10, 17])
@pytest.mark.parametrize("capacity", [3, 10, 15])
def test_resizing_keeps_the_newest_rows_and_the_ring_goes_on(filled, capacity):
    buffer = ImaginedBuffer(10)
    buffer.add(numbered(0, filled))
    buffer.resize(capacity)
    kept = min(filled, 10, capacity)
    assert numbers(buffer) == list(range(filled - kept, filled))
    buffer.add(numbered(filled, 2))
    assert numbers(buffer) == list(range(filled + 2 - min(kept + 2, capacity), filled + 2))


def test_drawing_is_uniform_over_what_is_there():
    buffer = ImaginedBuffer(10)
    buffer.add(numbered(0, 13))
    drawn = buffer.sample(20_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.reward.int(), minlength=13)
    assert counts[:3].tolist() == [0, 0, 0]
    assert (counts[3:] - 2000).abs().max() < 200
    assert torch.equal(drawn.obs[:, 0], drawn.reward)


def test_a_restored_strategy_draws_the_same_batches_as_one_that_went_on():
    strategy, agent = bound(Dyna(0.0, rollouts_per_step=3, epoch_length=20))
    for refresh in range(5):  # 150 rows into a ring of 60
        strategy.refresh(real_rows(torch.full((5, 2), float(refresh))), 10 * refresh, 10 + 2 * refresh)
    restored = pickle.loads(pickle.dumps(strategy))
    assert restored.imagined_state() == {}  # pickles leave imagined rows out
    restored.bind(strategy._view, strategy._dynamics, torch.Generator())
    restored.load_imagined_state(copy.deepcopy(strategy.imagined_state()))
    for refresh in (5, 6):
        restored._generator.set_state(strategy._generator.get_state())
        batches = [s.sample(agent.replay_buffer, 50, None) for s in (strategy, restored)]
        assert torch.equal(batches[0].observations, batches[1].observations)
        restored._generator.set_state(strategy._generator.get_state())
        for s in (strategy, restored):
            s.refresh(real_rows(torch.full((5, 2), float(refresh))), 10 * refresh, 7)


def test_an_imagined_row_takes_the_memory_that_is_promised():
    strategy, _ = bound(Dyna(rollouts_per_step=5))
    strategy.refresh(real_rows(torch.zeros(20, 2)), 100, 10)
    state = strategy.imagined_state()
    assert sum(t.nbytes for t in state.values()) == len(state["obs"]) * (4 * (2 * 2 + 1 + 1) + 1)


@pytest.mark.parametrize("exploration", [None, 1.0])
def test_imagined_actions_explore_as_told(exploration):
    strategy, agent = bound(Dyna(rollouts_per_step=500, exploration=exploration))
    for p in agent.actor.log_std.parameters():
        torch.nn.init.constant_(p, -10.0)  # a policy that hardly varies
    strategy.refresh(real_rows(torch.zeros(20, 2)), 100, 10)
    spread = float(imagined(strategy).action.std())
    if exploration is None:
        assert spread < 0.01
    else:
        assert spread == pytest.approx(7 / 12**0.5, rel=0.03)  # uniform over [-2, 5]


# -- arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("real_ratio", -0.1),
        ("real_ratio", 1.1),
        ("real_ratio", math.nan),
        ("rollout_length", 0),
        ("rollout_length", (5, 5, 1, 2)),
        ("rollout_length", (0, 5, 0, 2)),
        ("rollout_length", (0, 5, 1)),
        ("real_ratio", "half"),
        ("rollout_length", 1.5),
        ("rollouts_per_step", 0),
        ("rollouts_per_step", 2.5),
        ("epoch_length", 1e3),
        ("retained_epochs", 0),
        ("epoch_length", -1),
        ("exploration", 1.5),
        ("exploration", "all"),
    ],
)
def test_arguments_out_of_range_are_named_with_their_value(argument, value):
    with pytest.raises(ValueError, match=argument) as error:
        Dyna(**{argument: value})
    assert str(value) in str(error.value)


# -- learning ------------------------------------------------------------------------------------------------


def target() -> Line:
    """A point on a line that should be moved to 0.7 and kept there; episodes of ten steps."""
    env = Line(speed=0.3, bound=1.0, reward=lambda x: -abs(x[..., 0] - 0.7))
    env.reset(seed=0)
    return env


def best_return(episodes: int) -> float:
    """Return the mean return of going straight to the target."""
    env, returns = target(), []
    for _ in range(episodes):
        obs, _ = env.reset()
        total = 0.0
        for _ in range(10):
            obs, reward, *_ = env.step(np.clip((0.7 - obs) / 0.3, -1, 1))
            total += reward
        returns.append(total)
    return float(np.mean(returns))


def learn_target(strategy: Dyna, dynamics: DynamicsModel) -> float:
    """Train for 300 steps; return by how much the mean return falls short of the best one (untrained: over 4)."""
    agent = SAC(
        "MlpPolicy", target(), policy_kwargs={"net_arch": [32, 32]}, learning_rate=3e-3, learning_starts=50,
        batch_size=64, gradient_steps=3, gamma=0.9, ent_coef=0.02, seed=0, device="cpu",
    )  # fmt: skip
    best = best_return(30)
    untrained, _ = evaluate_policy(agent, target(), 30, warn=False)
    assert best - untrained > 4
    agent.learn(300, callback=ModelBased(strategy, dynamics, fit_every=50))
    trained, _ = evaluate_policy(agent, target(), 30, warn=False)
    return best - trained


def test_an_ensemble_learns_a_task_with_a_known_optimum():
    dynamics = small_ensemble(target(), hidden=(16, 16), max_steps=300)
    assert learn_target(Dyna(0.5, rollouts_per_step=20, epoch_length=100), dynamics) < 1.5


def test_with_an_exact_model_imagination_alone_teaches():
    strategy = Dyna(0.0, rollout_length=2, rollouts_per_step=20, epoch_length=100)
    assert learn_target(strategy, line_model(target())) < 1.0
