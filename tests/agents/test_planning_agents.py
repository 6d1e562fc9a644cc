"""RS, PETS and POPLIN as agents of Stable-Baselines3: learning, predicting, saving, and what a policy is taught."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from mbrl_wrappers.agents import PETS, POPLIN, RS
from mbrl_wrappers.agents import poplin as poplin_module
from mbrl_wrappers.agents.planning import PlanningAgent
from mbrl_wrappers.imagination.real_data import real_transitions
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.planners import CEM, ICEM, MPPI, PlannerState, RandomShooting
from mbrl_wrappers.types import Transitions

OBS = spaces.Box(-10.0, 10.0, (2,), np.float32)
DICT_OBS = spaces.Dict(count=spaces.Box(-10.0, 10.0, (1,), np.float32), side=spaces.Discrete(2))
PUSH = spaces.Box(-2.0, 5.0, (1,), np.float32)
STEPS = spaces.Discrete(3)
TWO_STEPS = spaces.MultiDiscrete([3, 2])
TINY: dict[str, Any] = {"num_members": 3, "num_elites": 2, "hidden": [8], "max_steps": 8}


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch):
    """Keep what a policy is taught short, where it does not matter how well it learns."""
    monkeypatch.setattr(poplin_module, "_EPOCHS", 5)
    monkeypatch.setattr(poplin_module, "_GAN_EPOCHS", 3)


class Walk(gym.Env):
    """A point on a line that should be at 0; an episode ends beyond 1, or after nine steps.

    Where an episode starts is told by its number. ``poison`` says at which step what is not finite.
    """

    def __init__(
        self,
        action_space: spaces.Space = PUSH,
        observation_space: spaces.Space = OBS,
        episode: int = 0,
        poison: tuple[int, str, float] | None = None,
    ) -> None:
        self.action_space, self.observation_space = action_space, observation_space
        self.episode, self.poison = episode, poison
        self.received: list[Any] = []
        self.seen: list[Any] = []

    def _observation(self, over: bool = False) -> Any:
        obs: Any = np.array([self.x, self.count / 10], np.float32)
        if self.poison is not None and len(self.received) >= self.poison[0]:
            if self.poison[1] == "observation" or (self.poison[1] == "last observation" and over):
                obs[1] = self.poison[2]
        if self.observation_space == DICT_OBS:
            obs = {"count": obs[1:], "side": np.int64(self.x > 0)}
        self.seen.append(obs)
        return obs

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.x, self.count = 0.5 * math.sin(7 * self.episode + 1), 0
        self.episode += 1
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.received.append(np.array(action))
        push = 0.2 * float(np.reshape(action, -1)[0])
        self.x = float(np.clip(self.x + push - (0.3 if self.action_space == PUSH else 0.2), -10, 10))
        self.count += 1
        reward = -abs(self.x)
        if self.poison is not None and self.poison[1] == "reward" and len(self.received) >= self.poison[0]:
            reward = self.poison[2]
        terminated, truncated = abs(self.x) > 1, self.count >= 9
        return self._observation(terminated or truncated), reward, terminated, truncated, {}


def equations(noise_std: float = 0.0) -> KnownDynamics:
    """Walk's own, for actions that push."""
    return KnownDynamics(
        OBS,
        PUSH,
        lambda obs, action: obs + torch.cat([0.2 * action - 0.3, torch.full_like(action, 0.1)], 1),
        lambda obs, action, next_obs: -next_obs[:, 0].abs(),
        lambda obs, action, next_obs: next_obs[:, 0].abs() > 1,
        noise_std=noise_std,
    )


SMALL_CEM = {"horizon": 3, "population": 8, "num_elites": 3, "iterations": 2}
PLANNED: dict[str, tuple[type[PlanningAgent], dict[str, Any]]] = {
    "RS": (RS, {"horizon": 3, "population": 8}),
    "PETS": (PETS, {"planner_kwargs": SMALL_CEM}),
    "PETS-CEM": (PETS, {"planner": "CEM", "planner_kwargs": SMALL_CEM}),
    "PETS-MPPI": (PETS, {"planner": "MPPI", "planner_kwargs": {"horizon": 3, "population": 8}}),
    "PETS-RS": (PETS, {"planner": "RS", "planner_kwargs": {"horizon": 3, "population": 8}}),
}
LEGAL = [
    (variant, distillation)
    for variant in ("A-init", "A-replan", "P-sep", "P-uni")
    for distillation in ("bc", "avg", "gan")
    if variant[0] == "P" or distillation != "avg"
]
PROPOSED: dict[str, tuple[type[PlanningAgent], dict[str, Any]]] = {
    f"POPLIN-{variant}-{distillation}": (
        POPLIN,
        {
            "variant": variant, "distillation": distillation, **SMALL_CEM, "policy_kwargs": {"net_arch": [6]},
        },
    )
    for variant, distillation in LEGAL
}  # fmt: skip
ALL = {**PLANNED, **PROPOSED}
ONE_OF_EACH = [
    "RS",
    "PETS",
    "PETS-CEM",
    "PETS-MPPI",
    "POPLIN-A-init-bc",
    "POPLIN-A-replan-gan",
    "POPLIN-P-sep-avg",
    "POPLIN-P-uni-bc",
]
OF_CATEGORIES = ["RS", "PETS", "PETS-CEM", "PETS-RS"]


def ensemble(env: Any, **kwargs: Any) -> EnsembleDynamics:
    return EnsembleDynamics(env.observation_space, env.action_space, **{**TINY, **kwargs})


def make(name: str = "PETS", env: Any = None, dynamics: Any = None, kind: Any = None, **kwargs: Any) -> Any:
    """Build a small agent; ``kind`` replaces the class."""
    own, options = ALL[name]
    env = Walk() if env is None else env
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    arguments: dict[str, Any] = {
        "learning_starts": 10, "train_freq": 10, "buffer_size": 200, "num_particles": 2, "seed": 0, "device": "cpu",
        **options, **kwargs,
    }  # fmt: skip
    return (kind or own)(policy, env, dynamics=ensemble(env) if dynamics is None else dynamics, **arguments)


def known(name: str = "PETS", env: Any = None, **kwargs: Any) -> Any:
    return make(name, env, equations(), **kwargs)


def several(count: int, *args: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Walk(*args)] * count)


def received(agent: Any, row: int = 0) -> np.ndarray:
    """Return what the env was told to do."""
    return np.array(agent.env.get_attr("received")[row])


def observations(count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 2)).astype(np.float32)


def transitions(count: int = 60) -> Transitions:
    obs = torch.as_tensor(observations(count))
    action = torch.linspace(-2, 5, count)[:, None]
    p = equations().predict(obs, action)
    return Transitions(obs, action, p.reward, p.next_obs, p.terminated, torch.arange(count))


def assert_equal_states(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


# -- learning ------------------------------------------------------------------------------------------------


def check_learned(agent: Any, steps: int) -> None:
    assert agent.num_timesteps >= steps and agent._num_fits >= 2
    assert agent.replay_buffer.size() * agent.n_envs == agent.num_timesteps
    for parameter in [*agent.dynamics.parameters(), *agent.policy.parameters()]:
        assert parameter.isfinite().all()


@pytest.mark.parametrize(("name", "num_envs"), [*[(name, 1) for name in ALL], *[(name, 3) for name in ONE_OF_EACH]])
def test_an_agent_learns_on_boxes(name, num_envs):
    env: Any = Walk() if num_envs == 1 else several(num_envs)
    agent = make(name, env, train_freq=10 // num_envs).learn(30)
    check_learned(agent, 30)
    assert len({float(action[0]) for action in received(agent)}) > 5


UNUSUAL = {
    "whole numbers": spaces.Box(-2, 5, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (1,), np.uint8),
    "int8 of the whole range": spaces.Box(-128, 127, (1,), np.int8),
    "bools": spaces.Box(0, 1, (2,), np.bool_),
    "one value": spaces.Box(np.float32([1, -1]), np.float32([1, 1])),
    "one value alone": spaces.Box(0.1, 0.1, (1,), np.float64),
    "one whole number": spaces.Box(3, 3, (1,), np.int32),
    "float16": spaces.Box(-1, 1, (1,), np.float16),
}


@pytest.mark.parametrize("space", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("name", ["RS", "PETS", "PETS-MPPI", "POPLIN-A-init-bc", "POPLIN-P-sep-avg"])
def test_unusual_boxes_are_searched_and_stored_as_they_were_executed(name, space, tmp_path):
    env = Walk(space)  # refuses what does not lie in the space
    agent = make(name, env).learn(25)
    check_learned(agent, 25)
    done = np.array(env.received)
    assert done.dtype == space.dtype
    stored = real_transitions(agent.replay_buffer, agent._view, agent.dynamics).action
    torch.testing.assert_close(stored, torch.as_tensor(done.astype(np.float32)), rtol=0, atol=1e-3)
    action, _ = agent.predict(observations(3))
    assert action.dtype == space.dtype and all(space.contains(one) for one in action)
    agent.save(tmp_path / "agent")
    again = type(agent).load(tmp_path / "agent", device="cpu")
    np.testing.assert_array_equal(again.predict(observations(3))[0], action)


@pytest.mark.parametrize(
    "space", [spaces.Box(-np.inf, np.inf, (1,), np.int64), spaces.Box(-1e300, 1e300, (1,), np.float64)], ids=str
)
@pytest.mark.parametrize("name", ["RS", "PETS", "POPLIN-P-sep-avg"])
def test_a_box_that_only_looks_bounded_is_refused(name, space):
    with pytest.raises(ValueError, match=r"^action_space must .*(bounded|float32).*, got "):
        make(name, Walk(space))


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("space", [STEPS, TWO_STEPS], ids=["Discrete", "MultiDiscrete"])
@pytest.mark.parametrize("name", OF_CATEGORIES)
def test_an_agent_learns_on_categories(name, space, num_envs):
    agent = make(name, several(num_envs, space), train_freq=10 // num_envs).learn(30)
    check_learned(agent, 30)
    action, _ = agent.predict(observations(4))
    assert action.shape == (4, *space.shape) and all(space.contains(one) for one in action)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("name", ["RS", "PETS", "POPLIN-A-replan-bc", "POPLIN-P-sep-avg"])
def test_an_agent_learns_from_dict_observations(name, num_envs):
    agent = make(name, several(num_envs, PUSH, DICT_OBS), train_freq=10 // num_envs).learn(30)
    check_learned(agent, 30)
    obs = {"count": np.zeros(1, np.float32), "side": np.int64(1)}
    assert PUSH.contains(agent.predict(obs)[0])
    assert evaluate_policy(agent, Monitor(Walk(PUSH, DICT_OBS)), 2)[0] < 0


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_learning_for_whole_episodes_with_a_progress_bar(name):
    agent = make(name, train_freq=(1, "episode")).learn(30, progress_bar=True)
    check_learned(agent, 30)


def test_learning_from_the_first_step():
    agent = make(learning_starts=0).learn(20)
    check_learned(agent, 20)


class Counted(EnsembleDynamics):
    """Remembers on how many transitions it was fitted."""

    fits: list[int]

    def fit(self, experience: Any, generator: torch.Generator | None = None) -> dict[str, float]:
        self.fits = [*getattr(self, "fits", []), len(experience.rows())]
        return super().fit(experience, generator)


@pytest.mark.parametrize(
    ("learning_starts", "train_freq", "fits"),
    [
        (10, 10, [10, 20, 30, 40]),
        (9, 4, [9, *range(12, 41, 4)]),
        (25, 10, [25, 30, 40]),
        (0, 20, [1, 20, 40]),
    ],
)
def test_the_model_is_fitted_before_the_first_plan_and_then_when_due(learning_starts, train_freq, fits):
    dynamics = Counted(OBS, PUSH, **TINY)
    make(dynamics=dynamics, learning_starts=learning_starts, train_freq=train_freq).learn(40)
    assert dynamics.fits == fits


class Watched(PETS):
    """Remembers when it planned while learning, from what, and from which state."""

    def _act(self, obs: Tensor, state: PlannerState, seed: int) -> Any:
        self.__dict__.setdefault("acts", []).append((self.num_timesteps, obs, state))
        return super()._act(obs, state, seed)


@pytest.mark.parametrize("learning_starts", [0, 7, 20])
def test_actions_are_random_until_learning_starts(learning_starts):
    agent = make(kind=Watched, learning_starts=learning_starts, train_freq=5).learn(30)
    assert [when for when, _, _ in agent.acts] == list(range(learning_starts, 30))
    other = make("RS", learning_starts=learning_starts, train_freq=5).learn(30)
    first = received(agent)[:learning_starts]
    np.testing.assert_array_equal(first, received(other)[:learning_starts])
    assert learning_starts < 20 or np.ptp(first) > 3  # over the range of 7


def fresh(row: int, state: PlannerState) -> bool:
    return bool((state["plan"][row] == 0).all())


@pytest.mark.parametrize("num_envs", [1, 3])
def test_plans_are_forgotten_where_episodes_end(num_envs):
    agent = known("PETS-CEM", several(num_envs), kind=Watched, learning_starts=0, train_freq=9).learn(60)
    starts = [[seen for seen in rows if seen[1] == 0] for rows in agent.env.get_attr("seen")]
    assert min(map(len, starts)) > 2
    for _, obs, state in agent.acts:
        for row in range(num_envs):
            assert fresh(row, state) == (obs[row, 1] == 0).item()


def test_a_plan_does_not_outlast_random_steps():
    agent = known("PETS-CEM", kind=Watched, train_freq=5).learn(25)
    agent.acts.clear()
    agent.learn(25)  # which counts anew: ten random steps, and other episodes
    assert agent.acts[0][0] == 10 and fresh(0, agent.acts[0][2])


def test_learning_that_goes_on_is_the_same_as_one_run():
    runs = []
    for calls in ([40], [20, 20]):
        agent = make()
        for steps in calls:
            agent.learn(steps, reset_num_timesteps=False)
        runs.append(agent)
    np.testing.assert_array_equal(received(runs[0]), received(runs[1]))
    assert_equal_states(runs[0].dynamics.state_dict(), runs[1].dynamics.state_dict())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_seed_alone_decides(name):
    def run(seed: int, torch_seed: int) -> np.ndarray:
        agent = make(name, seed=seed)
        torch.manual_seed(torch_seed)
        return received(agent.learn(20))

    first = run(3, 0)
    np.testing.assert_array_equal(first, run(3, 1))
    assert not np.array_equal(first[10:], run(4, 0)[10:])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_what_is_logged(name):
    class Names(BaseCallback):
        seen: dict[str, Any]

        def _on_training_start(self) -> None:
            self.seen = {}

        def _on_step(self) -> bool:
            self.seen |= self.logger.name_to_value
            return True

    callback = Names()
    make(name).learn(40, callback=callback)
    names = {"dynamics/holdout_error", "dynamics/rows", "dynamics/fit_seconds", "planner/predicted_return"}
    assert names <= set(callback.seen)
    assert callback.seen["planner/predicted_return"] < 0 and callback.seen["dynamics/rows"] >= 30
    assert ("policy/loss" in callback.seen) == name.startswith("POPLIN") * (not name.endswith("avg"))


# -- evaluation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_evaluating_does_not_disturb_learning(name):
    agents = []
    for evaluates in (False, True):
        agent = make(name)
        callback = EvalCallback(Monitor(Walk()), eval_freq=7, n_eval_episodes=1, verbose=0, warn=False)
        agent.learn(30, callback=callback if evaluates else None)
        agents.append(agent)
    assert math.isfinite(callback.best_mean_reward)
    np.testing.assert_array_equal(received(agents[0]), received(agents[1]))
    assert_equal_states(agents[0].dynamics.state_dict(), agents[1].dynamics.state_dict())
    assert_equal_states(agents[0].policy.state_dict(), agents[1].policy.state_dict())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_evaluate_policy_takes_the_agent_and_gets_the_same_twice(name):
    agent = known(name)
    results = [evaluate_policy(agent, monitored(count), 3, return_episode_rewards=True) for count in (1, 1, 3)]
    assert results[0] == results[1] and len(results[2][0]) == 3


def monitored(count: int) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Walk())] * count)


def test_a_planned_episode_is_better_than_a_random_one():
    agent = known("PETS-CEM", planner_kwargs={**SMALL_CEM, "population": 60, "num_elites": 6})
    # The best is to go to 0 at once and stay there.
    assert evaluate_policy(agent, Monitor(Walk()), 5)[0] > -1.0


# -- predict -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_predict_without_a_state_starts_from_scratch(name):
    agent, obs = known(name), observations()
    actions, state = agent.predict(obs)
    assert actions.shape == (3, 1) and actions.dtype == np.float32
    assert all(PUSH.contains(action) for action in actions)
    assert isinstance(state, tuple) and all(isinstance(part, np.ndarray) and len(part) == 3 for part in state)
    np.testing.assert_array_equal(actions, agent.predict(obs)[0])
    np.testing.assert_array_equal(actions, agent.predict(obs, deterministic=True)[0])
    np.testing.assert_array_equal(actions, agent.predict(obs, episode_start=np.ones(3, dtype=bool))[0])


@pytest.mark.parametrize("name", ALL)
def test_plan_is_what_the_first_predict_does(name):
    agent, obs = known(name), observations()
    plan = agent.plan(obs)
    np.testing.assert_array_equal(plan.action.numpy(), agent.predict(obs)[0])
    assert plan.candidates.shape[:2] == plan.returns.shape == plan.weights.shape
    assert plan.predicted_return.shape == (3,) and plan.predicted_return.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_one_observation_is_a_batch_of_one(name):
    agent, obs = known(name), observations()
    action, state = agent.predict(obs[1])
    assert action.shape == (1,) and len(state[0]) == 1
    np.testing.assert_array_equal(action, agent.predict(obs[1:2])[0][0])
    assert agent.plan(obs[1]).actions.shape[0] == 1


@pytest.mark.parametrize("name", ALL)
def test_a_batch_is_planned_for_as_each_alone(name):
    agent = known(name)
    together, alone = None, None
    for step in range(4):
        obs = observations(seed=step)
        actions, together = agent.predict(obs, together)
        action, alone = agent.predict(obs[1], alone)
        np.testing.assert_allclose(action, actions[1], atol=1e-4)
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(many[1], one[0], atol=1e-4)


WARM = [name for name in ALL if "RS" not in name]


@pytest.mark.parametrize("name", WARM)
def test_the_state_carries_the_plan(name):
    agent = known(name)
    _, state = agent.predict(observations(seed=0))
    carried, _ = agent.predict(observations(seed=1), state)
    blank = (*(np.zeros_like(part) for part in state[:-1]), state[-1])  # as many calls, but no plan
    assert not np.array_equal(carried, agent.predict(observations(seed=1), blank)[0])


@pytest.mark.parametrize("name", ALL)
def test_episode_start_forgets_exactly_those_rows(name):
    agent, state = known(name), None
    for step in range(3):
        _, state = agent.predict(observations(seed=step), state)
    obs = observations(seed=9)
    kept, after_kept = agent.predict(obs, state)
    actions, after = agent.predict(obs, state, np.array([False, True, False]))
    scratch = agent.predict(obs)[1]
    blank = (*(np.where(np.arange(len(p)) < 0, p.T, 0 * p.T).T.astype(p.dtype) for p in scratch[:-1]), state[-1])
    anew, after_anew = agent.predict(obs, blank)
    for row, expected, left in ((0, kept, after_kept), (1, anew, after_anew), (2, kept, after_kept)):
        np.testing.assert_array_equal(actions[row], expected[row])
        for part, other in zip(after, left, strict=True):
            np.testing.assert_array_equal(part[row], other[row])
    if name in WARM:
        assert not np.array_equal(kept[1], anew[1])


def test_predict_leaves_a_state_as_it_is():
    agent = known("PETS")
    _, state = agent.predict(observations())
    before = [part.copy() for part in state]
    agent.predict(observations(), state, np.array([True, False, True]))
    for part, old in zip(state, before, strict=True):
        np.testing.assert_array_equal(part, old)


@pytest.mark.parametrize("name", ALL)
def test_a_state_of_other_environments_is_named(name):
    agent = known(name)
    _, state = agent.predict(observations(3))
    with pytest.raises(ValueError, match=r"state must be of 2 environments with shapes .*got \[\(3, "):
        agent.predict(observations(2), state)
    with pytest.raises(ValueError, match=r"episode_start must have shape \(3,\), got \(1,\)"):
        agent.predict(observations(3), state, np.array([True]))
    with pytest.raises(ValueError, match="state must be of 3 environments"):
        agent.predict(observations(3), state[:-1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_observation_that_is_not_finite_is_named(bad):
    agent = known()
    for ask in (agent.predict, agent.plan):
        with pytest.raises(ValueError, match=r"observation .*must be finite, got \[.*(nan|inf)\]"):
            ask(np.array([0.0, bad], np.float32))


def test_the_policy_of_an_agent_that_plans_cannot_act_alone():
    with pytest.raises(NotImplementedError, match=r"acts by agent\.predict"):
        known().policy.predict(observations())


# -- VecNormalize --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_plans_are_made_from_raw_observations(name):
    env = VecNormalize(several(1))
    normalized = known(name, env, learning_starts=1000).learn(30)
    plain = known(name)
    obs = observations()
    assert not np.allclose(env.normalize_obs(obs), obs, atol=0.1)
    np.testing.assert_allclose(normalized.predict(env.normalize_obs(obs))[0], plain.predict(obs)[0], atol=1e-3)
    np.testing.assert_allclose(normalized.plan(env.normalize_obs(obs)).actions, plain.plan(obs).actions, atol=1e-3)


def test_an_agent_learns_under_vec_normalize_on_raw_transitions():
    env = VecNormalize(several(3), norm_reward=True)
    agent = make(env=env, train_freq=6).learn(40)
    check_learned(agent, 40)
    assert abs(agent.dynamics.start_obs).max() <= 1.6  # in the env's units
    assert evaluate_policy(agent, env, 2, warn=False)[0] < 0


def test_dict_observations_under_vec_normalize():
    env = VecNormalize(several(2, PUSH, DICT_OBS), norm_obs_keys=["count"])
    check_learned(make(env=env, train_freq=6).learn(40), 40)


# Stable-Baselines3 stores the last observation of an episode as VecNormalize cut it off.
@pytest.mark.filterwarnings("ignore:.*contradicts the real environment")
@pytest.mark.parametrize("clip_obs", [10.0, 0.5])
def test_while_learning_plans_start_from_what_the_env_showed(clip_obs):
    env = VecNormalize(several(1), clip_obs=clip_obs)
    agent = known("PETS-CEM", env, kind=Watched, learning_starts=0, train_freq=9).learn(45)
    seen = [obs for obs in env.get_attr("seen")[0] if round(float(obs[1]) * 10) < 9]
    planned_from = np.concatenate([obs.numpy() for _, obs, _ in agent.acts])
    raw = np.array([obs for obs in seen if abs(obs[0]) <= 1][: len(planned_from)])
    np.testing.assert_allclose(planned_from, raw, atol=1e-5)


# -- saving --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_saved_agent_predicts_the_same_and_brings_its_model(name, tmp_path):
    agent = make(name).learn(20)
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", env=Walk(), device="cpu")
    assert_equal_states(agent.dynamics.state_dict(), loaded.dynamics.state_dict())
    assert_equal_states(agent.policy.state_dict(), loaded.policy.state_dict())
    state, other = None, None
    for step in range(3):
        action, state = agent.predict(observations(seed=step), state)
        again, other = loaded.predict(observations(seed=step), other)
        np.testing.assert_array_equal(action, again)
    assert loaded.num_timesteps == agent.num_timesteps
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.num_timesteps == agent.num_timesteps + 10


def test_a_saved_agent_predicts_without_an_env(tmp_path):
    agent = make().learn(20)
    agent.save(tmp_path / "agent")
    loaded = PETS.load(tmp_path / "agent", device="cpu")
    np.testing.assert_array_equal(agent.predict(observations())[0], loaded.predict(observations())[0])


class SaveAtAnEnd(BaseCallback):
    """Saves agent and data once, at the first end of an episode after 20 steps."""

    def __init__(self, folder: Any) -> None:
        super().__init__()
        self.folder, self.episode = folder, None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= 20 and self.episode is None:
            model: Any = self.model
            model.save(self.folder / "agent")
            model.save_replay_buffer(self.folder / "buffer")
            self.episode = self.training_env.get_attr("episode")[0] - 1  # the next one has begun


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_run_goes_on_as_if_it_never_stopped(name, tmp_path):
    callback = SaveAtAnEnd(tmp_path)
    agent = make(name, train_freq=(1, "episode")).learn(40, callback=callback)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    loaded = type(agent).load(tmp_path / "agent", env=Walk(episode=callback.episode), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    before = loaded.num_timesteps
    assert 20 <= before < 30
    loaded.learn(40 - before, reset_num_timesteps=False)
    assert loaded.num_timesteps == agent.num_timesteps
    np.testing.assert_array_equal(received(loaded), received(agent)[before:])
    assert_equal_states(agent.dynamics.state_dict(), loaded.dynamics.state_dict())
    assert_equal_states(agent.policy.state_dict(), loaded.policy.state_dict())


def test_another_env_takes_over():
    agent = make().learn(20)
    other = Walk()
    agent.set_env(other)
    agent.learn(20, reset_num_timesteps=False)
    assert len(other.received) == 20 and agent.replay_buffer.size() == 40
    with pytest.raises(ValueError, match="spaces do not match"):
        agent.set_env(Walk(STEPS))


# -- the model -----------------------------------------------------------------------------------------------


def test_the_default_models_know_what_is_known():
    pets, rs = (kind("MlpPolicy", "Pendulum-v1", device="cpu", seed=1) for kind in (PETS, RS))
    for agent in (pets, rs):
        assert agent.dynamics.reward_name == agent.dynamics.termination_name == "Pendulum-v1"
    assert len(pets.dynamics.particle_members) == 5 and len(rs.dynamics.particle_members) == 1
    assert rs.dynamics.settings["hidden"] == [200, 200]
    learned = PETS("MlpPolicy", Walk(), device="cpu")
    assert learned.dynamics.reward_name == learned.dynamics.termination_name == "learned"


def test_the_planner_that_is_asked_for():
    kinds: dict[str, Any] = {"RS": RandomShooting, "CEM": CEM, "iCEM": ICEM, "MPPI": MPPI}
    for name, kind in kinds.items():
        planner = make(planner=name, planner_kwargs={"horizon": 7})._planner
        assert type(planner) is kind and planner.horizon == 7
    assert all(isinstance(make(env=env)._planner, ICEM) for env in (Walk(), Walk(STEPS)))


def test_plans_without_the_models_noise_stay_so_in_a_file(tmp_path):
    agent = make(sample_noise=False).learn(40)
    agent.save(tmp_path / "agent.zip")
    loaded = PETS.load(tmp_path / "agent.zip", env=Walk())
    obs, actions = torch.zeros(1, agent.dynamics.obs_codec.dim), torch.zeros(1, 2, 3, agent.dynamics.action_codec.dim)
    for one in (agent, loaded):
        # One particle of each of the two elites, so nothing that is drawn makes a difference.
        returns = [one._returns(obs, actions, torch.Generator().manual_seed(seed)) for seed in range(2)]
        torch.testing.assert_close(*returns)


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["observation", "reward", "last observation"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("step", [4, 15])
def test_values_of_the_env_that_are_not_finite_are_named(what, value, step):
    agent = make(env=Walk(poison=(step, what, value)), train_freq=5)
    with pytest.raises(ValueError, match=r"(observation|reward|next_obs).* must be finite, got .*(nan|inf)"):
        agent.learn(60)
    if what != "last observation":
        assert agent.num_timesteps == step


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("PETS", {"planner": "MCTS"}, "planner must be one of .*'iCEM'.*, got 'MCTS'"),
        ("PETS", {"planner_kwargs": {"horizon": 0}}, "horizon must be a whole number of at least 1, got 0"),
        ("RS", {"population": 0}, "population must be a whole number of at least 1, got 0"),
        ("RS", {"horizon": 1.5}, "horizon must be a whole number of at least 1, got 1.5"),
        ("PETS", {"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ("PETS", {"num_particles": 0}, "num_particles must be a whole number of at least 1, got 0"),
        ("PETS", {"propagation": "TS2"}, "propagation must be one of .*, got 'TS2'"),
        ("PETS", {"propagation": "DS", "sample_noise": False}, "sample_noise must be True for propagation 'DS'"),
        ("POPLIN-P-sep-bc", {"variant": "B"}, "variant must be one of .*'A-init'.*, got 'B'"),
        ("POPLIN-P-sep-bc", {"distillation": "dagger"}, "distillation must be one of .*'gan'.*, got 'dagger'"),
        ("POPLIN-A-init-bc", {"distillation": "avg"}, "'avg' needs a variant with noise on parameters, got 'A-init'"),
        ("POPLIN-A-init-bc", {"num_elites": 9}, "num_elites must be at most the population 8, got 9"),
        ("POPLIN-A-init-bc", {"init_variance": 0}, r"init_variance must be in \(0, 4\], got 0"),
        ("POPLIN-A-init-bc", {"noise_exponent": -1}, r"noise_exponent must be in \[0, 10\], got -1"),
        ("POPLIN-P-uni-bc", {"noise_exponent": 2}, "noise_exponent must be 0 for 'P-uni', .*, got 2"),
        ("POPLIN-P-sep-avg", {"distil_all": True}, "distil_all must be False for distillation 'avg', got True"),
        ("POPLIN-A-init-bc", {"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ("POPLIN-A-init-bc", {"iterations": 0}, "iterations must be a whole number of at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(name, **arguments)


@pytest.mark.parametrize("name", ["RS", "PETS", "POPLIN-P-sep-avg"])
def test_a_model_of_other_spaces_is_refused(name):
    for space, what in ((spaces.Box(-2.0, 4.0, (1,), np.float32), "action_space"), (PUSH, "observation_space")):
        other = Walk(space, OBS if what == "action_space" else spaces.Box(-9.0, 9.0, (2,), np.float32))
        with pytest.raises(ValueError, match=rf"dynamics\.{what} must equal the env's .*, got "):
            make(name, dynamics=ensemble(other))


@pytest.mark.parametrize("name", ["RS", "PETS", "POPLIN-P-sep-avg"])
def test_an_unbounded_action_space_is_refused(name):
    with pytest.raises(ValueError, match=r"action_space must be .*bounded Box, got Box"):
        make(name, Walk(spaces.Box(-np.inf, np.inf, (1,), np.float32)))


@pytest.mark.parametrize("name", ["PETS-MPPI", "POPLIN-A-init-bc", "POPLIN-P-uni-avg"])
@pytest.mark.parametrize("space", [STEPS, TWO_STEPS], ids=["Discrete", "MultiDiscrete"])
def test_categories_are_refused_where_they_cannot_be_searched(name, space):
    with pytest.raises(ValueError, match=r"action_space must be of Boxes for .*, got .*Discrete"):
        make(name, Walk(space))


# -- POPLIN --------------------------------------------------------------------------------------------------

VARIANTS = ("A-init", "A-replan", "P-sep", "P-uni")


def poplin(variant: str = "P-sep", distillation: str = "bc", size: float = 1.0, **kwargs: Any) -> Any:
    """Build an agent whose policy is not as at the start but has random parameters of a size."""
    agent = known(f"POPLIN-{variant}-{distillation}", **kwargs)
    vector = size * torch.randn(agent.policy.num_parameters, generator=torch.Generator().manual_seed(1))
    torch.nn.utils.vector_to_parameters(vector, agent.policy.net.parameters())
    agent.policy.whitening.fit(torch.as_tensor(observations(50)))
    return agent


@pytest.mark.parametrize("net_arch", [[6], [5, 4], []])
def test_many_policies_at_once_are_each_policy(net_arch):
    policy = poplin(policy_kwargs={"net_arch": net_arch}).policy
    obs = torch.as_tensor(observations(4 * 3)).reshape(4, 3, 2)
    own = policy.parameter_vector().detach()
    assert own.shape == (policy.num_parameters,)
    vectors = own + torch.randn(3, len(own), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(policy.propose_with(own.expand(3, -1), obs), policy.propose(obs))
        together = policy.propose_with(vectors, obs)
        assert together.shape == (4, 3, 1)
        for which in range(3):
            torch.nn.utils.vector_to_parameters(vectors[which], policy.net.parameters())
            torch.testing.assert_close(together[:, which], policy.propose(obs[:, which]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_plan_the_policy_acts_alone(variant):
    agent, obs = poplin(variant), observations()
    _, state = agent.predict(obs)
    actions, after = agent.predict(obs, state, plan=False)
    assert after is state and agent.predict(obs, plan=False)[1] is None
    with torch.no_grad():
        searched = agent.policy.propose(torch.as_tensor(obs)).clamp(-1, 1).numpy()
    np.testing.assert_allclose(actions, -2 + 3.5 * (searched + 1), atol=1e-5)
    np.testing.assert_allclose(actions, agent.policy.predict(obs)[0], atol=1e-5)
    assert agent.predict(obs[0], plan=False)[0].shape == (1,) and np.ptp(actions) > 0.1
    with pytest.raises(ValueError, match=r"observation .*must be finite"):
        agent.predict(obs * np.nan, plan=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_search_that_hardly_searches_executes_the_policys_action(variant):
    agent, obs = poplin(variant, init_variance=1e-12), observations()
    np.testing.assert_allclose(agent.predict(obs)[0], agent.predict(obs, plan=False)[0], atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_noise_does_not_grow_from_plan_to_plan(variant):
    """The stronger the push the better, so every search wants more noise of the same sign."""
    model = KnownDynamics(
        OBS,
        PUSH,
        lambda obs, action: obs,
        lambda obs, action, next_obs: action[:, 0],
        lambda obs, action, next_obs: torch.zeros(len(obs), dtype=torch.bool),
    )
    agent = make(f"POPLIN-{variant}-bc", dynamics=model, init_variance=1.0)
    if variant.startswith("A"):
        with torch.no_grad():
            agent.policy.net[-1].bias.fill_(3.0)  # a proposal far beyond the bounds
    obs, state = observations(1), None
    for _ in range(30):
        action, state = agent.predict(obs, state)
    assert action > 3.0 and 0.5 < np.abs(state[0]).max() <= 1.0
    next_plan = agent._plan(torch.as_tensor(obs), {"plan": torch.as_tensor(state[0])}, 0)
    assert next_plan.candidates[0, :, 0].std() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_search_is_better_than_the_policy(variant):
    agent = poplin(variant, size=0.3, population=60, num_elites=6, iterations=4)
    planned = evaluate_policy(agent, Monitor(Walk()), 4)[0]

    class Alone:
        def predict(self, obs: Any, state: Any = None, **kwargs: Any) -> Any:
            return agent.predict(obs, plan=False)

    assert planned > evaluate_policy(Alone(), Monitor(Walk()), 4)[0] + 1


def test_the_state_holds_noise_on_actions_or_parameters():
    width = poplin().policy.num_parameters
    assert width == 2 * 6 + 6 + 6 + 1
    shapes = {"A-init": (3, 3, 1), "A-replan": (3, 3, 1), "P-sep": (3, 3, width), "P-uni": (3, width)}
    for variant, shape in shapes.items():
        _, state = poplin(variant).predict(observations())
        assert state[0].shape == shape and len(state) == 2
        if variant == "P-uni":
            assert (state[0] != 0).all()
        else:
            assert (state[0][:, -1] == 0).all() and (state[0][:, :-1] != 0).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_the_search_finds_is_the_return_of_its_candidates(variant):
    agent, obs = poplin(variant), observations(2)
    plan = agent.plan(obs)
    torch.testing.assert_close(plan.predicted_return, (plan.weights * plan.returns).sum(1))
    assert plan.candidates.shape == (2, 8, 3 if variant == "A-init" else 1, 1)
    if variant == "A-init":  # whose candidates are action sequences
        torch.testing.assert_close(agent._returns(torch.as_tensor(obs), plan.candidates), plan.returns)


class Taught(POPLIN):
    """Remembers what a fit had to learn from and how it changed the policy's parameters."""

    def _fit(self, transitions: Transitions) -> None:
        planned, before = list(self._planned), self.policy.parameter_vector().detach().clone()
        super()._fit(transitions)
        after = self.policy.parameter_vector().detach().clone()
        self.__dict__.setdefault("lessons", []).append((planned, before, after))
        assert self._planned == (planned if self.distil_all else [])


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("variant", ["P-sep", "P-uni"])
def test_avg_moves_the_parameters_by_the_mean_of_the_chosen_noise(variant, num_envs):
    agent = make(f"POPLIN-{variant}-avg", several(num_envs), kind=Taught, train_freq=6).learn(40)
    moved = 0
    for planned, before, after in agent.lessons:
        if planned:
            noise = torch.cat([chosen for _, _, chosen in planned])
            assert noise.shape == (len(planned) * num_envs, agent.policy.num_parameters)
            torch.testing.assert_close(after, before + noise.mean(0))
            moved += 1
        else:
            assert torch.equal(after, before)
    assert moved >= 2


@pytest.mark.parametrize("distillation", ["bc", "gan"])
def test_a_policy_learns_from_the_steps_since_the_last_fit(distillation):
    agent = make(f"POPLIN-A-init-{distillation}", kind=Taught, train_freq=6).learn(40)
    counts = [len(planned) for planned, _, _ in agent.lessons]
    assert counts[0] == 0 and sum(counts) == agent.num_timesteps - 10
    executed = torch.cat([actions for planned, _, _ in agent.lessons for _, actions, _ in planned])
    np.testing.assert_allclose(-2 + 3.5 * (executed.numpy() + 1), received(agent)[10:], atol=1e-5)
    assert all(not torch.equal(before, after) for planned, before, after in agent.lessons if planned)


def test_a_policy_learns_from_all_planned_steps_where_asked_to():
    agent = make("POPLIN-A-init-bc", kind=Taught, train_freq=6, distil_all=True).learn(40)
    counts = [len(planned) for planned, _, _ in agent.lessons]
    assert counts[0] == 0 and set(np.diff(counts[1:])) == {6} and len(counts) > 3
    executed = torch.cat([actions for _, actions, _ in agent.lessons[-1][0]])
    np.testing.assert_allclose(-2 + 3.5 * (executed.numpy() + 1), received(agent)[10 : 10 + counts[-1]], atol=1e-5)


def test_coloured_noise_changes_slowly_over_a_plan():
    def roughness(**kwargs: Any) -> float:
        search = {"horizon": 10, "population": 200, "iterations": 1, "init_variance": 0.01}
        candidates = known("POPLIN-A-init-bc", **{**search, **kwargs}).plan(observations(1)).candidates[0, :, :, 0]
        noise = candidates - candidates.mean(0)
        return float(noise.diff(dim=1).square().mean() / noise.square().mean())

    # Neighbours that know nothing of each other differ by twice the variance.
    assert 1.8 < roughness() < 2.2 and roughness(noise_exponent=2.0) < 0.8


def teach(agent: Any, mapping: Any, count: int = 300) -> None:
    """Let a fit find steps that were planned by a known mapping from observations to actions, in [-1, 1]."""
    obs = torch.as_tensor(observations(count, seed=5))
    agent._planned = [(obs, mapping(obs), torch.zeros(count, 1))]
    agent._fit(transitions())


def prepared(name: str, **kwargs: Any) -> Any:
    agent = known(name, **kwargs)
    agent._setup_learn(1)  # which gives it a logger
    return agent


def test_bc_fits_a_known_mapping(monkeypatch):
    monkeypatch.setattr(poplin_module, "_EPOCHS", 100)

    def mapping(obs: Tensor) -> Tensor:
        return (obs[:, :1] - obs[:, 1:]).clamp(-0.9, 0.9)

    agent = prepared("POPLIN-A-init-bc", policy_kwargs={"net_arch": [32]})
    obs = observations(100, seed=6)
    target = -2 + 3.5 * (mapping(torch.as_tensor(obs)).numpy() + 1)
    before = np.abs(agent.predict(obs, plan=False)[0] - target).mean()
    teach(agent, mapping)
    assert np.abs(agent.predict(obs, plan=False)[0] - target).mean() < 0.1 * before
    first = agent.logger.name_to_value["policy/loss"]
    assert first < 0.01


def test_gan_moves_the_policy_towards_what_was_planned(monkeypatch):
    monkeypatch.setattr(poplin_module, "_GAN_EPOCHS", 150)  # which comes to rest; 40 still swing
    agent, obs = prepared("POPLIN-A-init-gan", policy_kwargs={"net_arch": [32]}), observations(100, seed=6)

    def distance() -> float:
        return float(np.abs(agent.predict(obs, plan=False)[0] - (-2 + 3.5 * 1.7)).mean())

    before = distance()
    teach(agent, lambda seen: torch.full((len(seen), 1), 0.7), count=200)
    assert distance() < 0.5 * before


def test_a_fit_without_plans_leaves_the_policy_as_it_is():
    agent = prepared("POPLIN-P-sep-avg")
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent._fit(transitions())
    assert_equal_states(before, agent.policy.state_dict())


# -- known systems -------------------------------------------------------------------------------------------


def test_pets_swings_up_a_pendulum_whose_equations_it_knows():
    env = gym.make("Pendulum-v1")
    planner = {"horizon": 30, "population": 60, "num_elites": 6, "iterations": 2, "noise_exponent": 3.0}
    agent = PETS(
        "MlpPolicy", env, dynamics=KnownDynamics.for_env("Pendulum-v1"), planner_kwargs=planner, num_particles=1,
        seed=0, device="cpu",
    )  # fmt: skip
    env.reset(seed=0)
    pendulum: Any = env.unwrapped
    pendulum.state = np.array([np.pi, 0.0])  # hanging, at rest
    obs, state, total = np.array([-1.0, 0.0, 0.0], np.float32), None, 0.0
    for _ in range(200):
        action, state = agent.predict(obs, state)
        obs, reward, *_ = env.step(action)
        total += float(reward)
    assert total > -400 and obs[0] > 0.98  # it stands


def test_pets_balances_a_pole_whose_equations_it_knows():
    env = gym.make("CartPole-v1")
    planner = {"horizon": 12, "population": 30, "num_elites": 6, "iterations": 2}
    agent = PETS(
        "MlpPolicy", env, dynamics=KnownDynamics.for_env("CartPole-v1"), planner_kwargs=planner, num_particles=1,
        seed=0, device="cpu",
    )  # fmt: skip
    obs, _ = env.reset(seed=0)
    state = None
    for _ in range(200):
        action, state = agent.predict(obs, state)
        obs, _, terminated, _, _ = env.step(action)
        assert not terminated
