"""A planner as a wrapper: what becomes of an incoming action, what is executed, and when plans are forgotten."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import DictInfoToList
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.envs.simulator import SimulatorReturns
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.planners import CEM, ICEM, MPPI, Planner, PlannerState, RandomShooting
from mbrl_wrappers.wrappers import MPCAction, VectorMPCAction

OBS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
PUSH = spaces.Box(-2.0, 1.0, (1,), np.float32)
STEPS = spaces.Discrete(3, start=-1)
STEPS_FROM_ZERO = spaces.Discrete(3)  # Stable-Baselines3 knows no other
TWO_STEPS = spaces.MultiDiscrete([3, 2])
SPACES = {"Box": PUSH, "Discrete": STEPS, "MultiDiscrete": TWO_STEPS}


def push_of(space: spaces.Space, action: Any) -> float:
    """How far an action moves."""
    if space == TWO_STEPS:
        return float(action[0]) - 1 + 0.1 * float(action[1])
    return float(np.reshape(action, -1)[0]) - (space == STEPS_FROM_ZERO)


class Line(gym.Env):
    """A point that should be at 1; ``received`` is what the env was told to do."""

    def __init__(self, space: spaces.Space = PUSH, limit: int = 8, poison: float | None = None) -> None:
        self.observation_space, self.action_space = OBS, space
        self.limit, self.poison = limit, poison
        self.received: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x, self.count = float(self.np_random.uniform(-0.5, 0.5)), 0
        return self._obs(), {"of": "reset"}

    def _obs(self) -> np.ndarray:
        return np.array([self.x, self.count if self.poison is None else self.poison], np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.received.append(np.array(action))
        reward = -((self.x - 1) ** 2)
        self.x += 0.5 * push_of(self.action_space, action)
        self.count += 1
        return self._obs(), reward, False, self.count >= self.limit, {"of": "step"}


def model(space: spaces.Space = PUSH, target: float = 1.0) -> KnownDynamics:
    """The line's own equations, but perhaps for another target."""

    def step(obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        if isinstance(space, spaces.Box):
            push = action[:, 0]
        else:
            push = action[:, :3] @ torch.tensor([-1.0, 0.0, 1.0])
            push = push + 0.1 * action[:, 4] if space == TWO_STEPS else push
        return torch.stack([obs[:, 0] + 0.5 * push, obs[:, 1] + 1], 1)

    return KnownDynamics(OBS, space, step, lambda obs, action, next_obs: -(obs[:, 0] - target).square())


def small(space: spaces.Space = PUSH, kind: Any = CEM, **kwargs: Any) -> Planner:
    if kind in (CEM, ICEM):
        kwargs = {"population": 20, "num_elites": 4, "iterations": 2, **kwargs}
    elif kind is RandomShooting:
        kwargs = {"population": 20, **kwargs}
    return kind(space, **{"horizon": 3, **kwargs})


def wrapped(space: spaces.Space = PUSH, mode: Any = "replace", planner: Any = None, **kwargs: Any) -> Any:
    return MPCAction(Line(space), model(space), planner or small(space), mode=mode, **{"seed": 0, **kwargs})


def play(env: Any, actions: Any, seed: int | None = 3) -> list[Any]:
    """Return the observation, the reward and the plan of every step."""
    env.reset(seed=seed)
    steps = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        steps.append((obs, reward, info["mpc"]))
        if terminated or truncated:
            env.reset()
    return steps


def some_action(space: spaces.Space, which: int = 0) -> Any:
    return {
        "Box": [np.array([-1.0], np.float32), np.array([0.5], np.float32)],
        "Discrete": [np.int64(-1), np.int64(1)],
        "MultiDiscrete": [np.array([0, 1]), np.array([2, 0])],
    }[type(space).__name__][which]


class Watching(CEM):
    """Remembers the states that its searches start from, and what is forgotten."""

    def __init__(self, space: spaces.Space = PUSH) -> None:
        super().__init__(space, horizon=3, population=20, num_elites=4, iterations=2)
        self.starts: list[PlannerState] = []

    def plan(self, objective: Any, state: PlannerState, generator: Any = None) -> Any:
        self.starts.append(state)
        return super().plan(objective, state, generator)

    def fresh(self) -> list[list[bool]]:
        """Tell for each search and each env whether it started from nothing."""
        return [(start["plan"] == self.initial_state(1)["plan"]).flatten(1).all(1).tolist() for start in self.starts]


# -- the incoming action -------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_replace_ignores_the_incoming_action(space):
    one, two = (play(wrapped(space), [some_action(space, which)] * 12) for which in (0, 1))
    for (obs, _, mpc), (other_obs, _, other) in zip(one, two, strict=True):
        np.testing.assert_array_equal(obs, other_obs)
        for key in mpc:
            np.testing.assert_array_equal(mpc[key], other[key])


def test_warm_start_searches_around_the_proposal():
    for proposal in (-1.2, 0.1):
        planner = Watching()
        env = wrapped(mode="warm_start", planner=planner)
        play(env, [np.array([proposal], np.float32)] * 5)
        for start in planner.starts:
            assert planner.action_set.to_env(start["plan"])[0, 0].item() == pytest.approx(proposal, abs=1e-5)
        assert (planner.starts[3]["plan"][:, 1:] != 0).any()  # the rest is the last plan's


@pytest.mark.parametrize("kind", [ICEM, MPPI])
def test_a_search_that_is_hardly_one_executes_the_proposal(kind):
    planner = small(kind=kind, **({"init_std": 1e-4} if kind is ICEM else {"sigma": 1e-4}))
    env = wrapped(mode="warm_start", planner=planner)
    for proposal in (-1.7, 0.0, 0.9):
        _, _, mpc = play(env, [np.array([proposal], np.float32)])[0]
        assert mpc["action"].item() == pytest.approx(proposal, abs=3e-3)


def test_a_proposed_category_biases_the_search():
    counts = []
    for proposal in (-1, 1):
        planner = small(STEPS, iterations=1, population=4, num_elites=4)  # everything is an elite
        env = MPCAction(Line(STEPS, limit=100), model(STEPS), planner, mode="warm_start", seed=0)
        steps = play(env, [np.int64(proposal)] * 40)
        counts.append(sum(int(mpc["action"]) == proposal for _, _, mpc in steps))
    assert min(counts) > 25


@pytest.mark.parametrize("incoming", [-0.4, 0.0, 0.3])
def test_a_residual_is_added_to_the_plan(incoming):
    action = np.array([incoming], np.float32)
    (_, _, mpc), (_, _, planned) = (play(wrapped(mode=mode), [action])[0] for mode in ("residual", "replace"))
    np.testing.assert_array_equal(mpc["sequence"], planned["sequence"])
    assert mpc["action"].item() == pytest.approx(planned["action"].item() + incoming, abs=1e-6)


@pytest.mark.parametrize(("incoming", "bound"), [(-50.0, -2.0), (50.0, 1.0)])
def test_a_residual_beyond_a_bound_is_cut_off(incoming, bound):
    env = wrapped(mode="residual")
    _, _, mpc = play(env, [np.array([incoming], np.float32)])[0]
    assert mpc["action"].tolist() == [bound] == env.unwrapped.received[-1].tolist()


# -- what is executed and reported ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "mode"),
    [(PUSH, "residual"), *[(space, mode) for space in SPACES.values() for mode in ("replace", "warm_start")]],
)
def test_the_executed_action_and_the_plan_are_reported(space, mode):
    env = wrapped(space, mode)
    for number, (_, _, mpc) in enumerate(play(env, [some_action(space)] * 10)):
        assert set(mpc) == {"action", "sequence", "predicted_return"}
        received = env.unwrapped.received[number]
        np.testing.assert_array_equal(mpc["action"], received)
        assert env.action_space.contains(mpc["action"]) and mpc["action"].dtype == space.dtype
        assert mpc["sequence"].shape == (3, *space.shape) and mpc["sequence"].dtype == space.dtype
        assert all(env.action_space.contains(step) for step in mpc["sequence"])
        assert isinstance(mpc["predicted_return"], float) and mpc["predicted_return"] <= 0
        if mode != "residual":
            np.testing.assert_array_equal(mpc["action"], mpc["sequence"][0])


def test_the_envs_own_info_stays():
    env = wrapped()
    assert env.reset()[1] == {"of": "reset"}
    info = env.step(some_action(PUSH))[4]
    assert info["of"] == "step" and "mpc" in info


def test_the_predicted_return_is_the_models():
    env = wrapped(planner=small(kind=RandomShooting))
    obs, _ = env.reset(seed=3)
    place, total = float(obs[0]), 0.0
    mpc = env.step(some_action(PUSH))[4]["mpc"]
    for push in mpc["sequence"][:, 0]:
        total -= (place - 1) ** 2
        place += 0.5 * push
    assert mpc["predicted_return"] == pytest.approx(total, abs=1e-5)


def test_a_discount_of_zero_plans_for_one_step():
    # The reward is paid for the place before the step: without a future, nothing matters.
    steps = play(wrapped(discount=0.0), [some_action(PUSH)] * 3)
    assert all(mpc["predicted_return"] == pytest.approx(-((x - 1) ** 2), abs=1e-5) for x, mpc in places(steps))


def places(steps: list[Any]) -> list[tuple[float, Any]]:
    """Pair the place before each step, from the second on, with its plan."""
    return [(float(before[0][0]), after[2]) for before, after in itertools.pairwise(steps)]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_plans_lead_to_the_target(space):
    planner = small(space, population=200, num_elites=20, iterations=4, horizon=4)
    steps = play(wrapped(space, planner=planner), [some_action(space)] * 7)
    assert all(reward > -0.1 for _, reward, _ in steps[4:])


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_there_is_a_planner_without_one(space):
    env, action = MPCAction(Line(space), model(space), seed=0), some_action(space)  # which leads away
    planned = sum(reward for _, reward, _ in play(env, [action] * 8))
    alone = Line(space)
    alone.reset(seed=3)
    assert planned > sum(alone.step(action)[1] for _ in range(8)) + 20


# -- seeds and episodes --------------------------------------------------------------------------------------


def executed(steps: list[Any]) -> list[float]:
    return [float(np.reshape(mpc["action"], -1)[0]) for _, _, mpc in steps]


def test_a_seed_of_reset_seeds_the_planner_too():
    env, other = wrapped(seed=1), wrapped(seed=2)
    first = executed(play(env, [some_action(PUSH)] * 5, seed=7))
    assert first == executed(play(env, [some_action(PUSH)] * 5, seed=7))
    assert first == executed(play(other, [some_action(PUSH)] * 5, seed=7))
    assert first != executed(play(env, [some_action(PUSH)] * 5, seed=8))


def test_the_constructors_seed_counts_until_reset_gets_one():
    def run(seed: int) -> list[float]:
        env = wrapped(seed=seed)
        env.unwrapped.reset(seed=5)
        return executed(play(env, [some_action(PUSH)] * 5, seed=None))

    assert run(1) == run(1) != run(2)


def test_plans_of_an_episode_are_forgotten_at_its_end():
    planner = Watching()
    env = wrapped(planner=planner)  # episodes of 8 steps
    play(env, [some_action(PUSH)] * 20)
    assert [row[0] for row in planner.fresh()] == [step % 8 == 0 for step in range(20)]


def vector_env(mode: AutoresetMode, planner: Any, limits: tuple[int, ...] = (3, 5), **kwargs: Any) -> VectorMPCAction:
    envs = SyncVectorEnv([lambda limit=limit: Line(limit=limit) for limit in limits], autoreset_mode=mode)
    return VectorMPCAction(envs, model(), planner, **{"mode": "replace", "seed": 0, **kwargs})


def nothing(count: int) -> np.ndarray:
    return np.zeros((count, 1), np.float32)


def test_with_next_step_autoreset_plans_are_forgotten_one_step_after_the_end():
    planner = Watching()
    env = vector_env(AutoresetMode.NEXT_STEP, planner)
    env.reset(seed=0)
    for _ in range(16):
        env.step(nothing(2))
    for number, row in enumerate(planner.fresh()):
        # An episode of L steps takes one more step, which resets and whose action is not executed.
        assert row == [number % (limit + 1) == 0 for limit in (3, 5)], number


def test_with_same_step_autoreset_plans_are_forgotten_at_once():
    planner = Watching()
    env = vector_env(AutoresetMode.SAME_STEP, planner)
    env.reset(seed=0)
    for _ in range(16):
        env.step(nothing(2))
    for number, row in enumerate(planner.fresh()):
        assert row == [number % limit == 0 for limit in (3, 5)], number


def test_without_autoreset_plans_are_forgotten_where_the_mask_says():
    planner = Watching()
    env = vector_env(AutoresetMode.DISABLED, planner)
    env.reset(seed=0)
    expected = []
    started = np.ones(2, dtype=bool)
    for _ in range(16):
        expected.append(started.tolist())
        _, _, terminated, truncated, _ = env.step(nothing(2))
        started = np.logical_or(terminated, truncated)
        if started.any():
            env.reset(options={"reset_mask": started.copy()})
    assert planner.fresh() == expected and sum(map(sum, expected)) > 6


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_reset_forgets_all_plans(mode):
    planner = Watching()
    env = vector_env(mode, planner)
    for _ in range(2):
        env.reset(seed=0)
        env.step(nothing(2))
        env.step(nothing(2))
    assert planner.fresh() == [[True, True], [False, False]] * 2


# -- vector envs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_vector_env_reports_arrays_of_all_envs(space):
    envs = SyncVectorEnv([lambda: Line(space)] * 3)
    env = VectorMPCAction(envs, model(space), small(space), mode="warm_start", seed=0)
    env.reset(seed=0)
    incoming = np.stack([some_action(space)] * 3)
    for _ in range(10):
        mpc = env.step(incoming)[4]["mpc"]
        assert mpc["action"].shape == (3, *space.shape) and mpc["action"].dtype == space.dtype
        assert mpc["sequence"].shape == (3, 3, *space.shape) and mpc["sequence"].dtype == space.dtype
        assert mpc["predicted_return"].shape == (3,)
        assert all(space.contains(action) for action in mpc["action"])
        assert all(space.contains(action) for action in mpc["sequence"].reshape(-1, *space.shape))
        np.testing.assert_array_equal(mpc["action"], mpc["sequence"][:, 0])
    lines: list[Any] = [single.unwrapped for single in envs.envs]
    received = [line.received[0] for line in lines]
    assert len(received) == 3 and all(space.contains(action) for action in received)


def test_what_a_vector_env_executes_is_what_it_reports():
    planner = small()
    envs = SyncVectorEnv([Line] * 2)
    env = VectorMPCAction(envs, model(), planner, mode="residual", seed=0)
    env.reset(seed=0)
    actions = [env.step(np.array([[0.2], [-0.3]], np.float32))[4]["mpc"]["action"] for _ in range(5)]
    lines: list[Any] = [single.unwrapped for single in envs.envs]
    for row in range(2):
        np.testing.assert_array_equal(np.stack(actions)[:, row], np.stack(lines[row].received))


def test_one_env_of_many_is_planned_for_as_if_alone():
    envs = [vector_env(AutoresetMode.NEXT_STEP, small(), limits=(8,) * count) for count in (1, 3)]
    steps = []
    for env in envs:
        obs, _ = env.reset(seed=4)
        taken = []
        for _ in range(6):
            obs, *_, info = env.step(nothing(env.num_envs))
            taken.append((obs[0], info["mpc"]["action"][0]))
        steps.append(taken)
    for (obs, action), (other_obs, other) in zip(*steps, strict=True):
        np.testing.assert_allclose(obs, other_obs, atol=1e-5)
        np.testing.assert_allclose(action, other, atol=1e-5)


def test_seeds_of_a_vector_env_seed_the_planner():
    def run(env: VectorMPCAction, seed: Any) -> np.ndarray:
        env.reset(seed=seed)
        return np.stack([env.step(nothing(2))[4]["mpc"]["action"] for _ in range(4)])

    env = vector_env(AutoresetMode.NEXT_STEP, small(), seed=9)
    first = run(env, 7)
    np.testing.assert_array_equal(first, run(env, 7))
    np.testing.assert_array_equal(first, run(env, [7, 8]))
    assert not np.array_equal(first, run(env, 8))


def test_gymnasiums_lists_of_infos_work():
    env = DictInfoToList(vector_env(AutoresetMode.NEXT_STEP, small()))
    env.reset(seed=0)
    infos = env.step(nothing(2))[4]
    assert [info["mpc"]["action"].shape for info in infos] == [(1,), (1,)]


# -- improvement ---------------------------------------------------------------------------------------------


def episode(env: gym.Env, seed: int = 0) -> float:
    env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        total, over = total + float(reward), terminated or truncated
    return total


def test_planning_in_the_true_simulator_is_as_good_as_an_exact_model_and_better_than_a_wrong_one():
    returns = {}
    for name in ("simulator", "exact", "wrong"):
        env = Line()
        dynamics: Any = {"exact": model(), "wrong": model(target=-1.0)}.get(name) or SimulatorReturns(env)
        planner = small(population=40, num_elites=8, iterations=3, horizon=3)
        returns[name] = np.mean([episode(MPCAction(env, dynamics, planner, mode="replace"), s) for s in range(3)])
    assert returns["simulator"] > returns["wrong"] + 5
    assert returns["simulator"] == pytest.approx(returns["exact"], abs=0.3)


def test_a_simulators_plan_leaves_the_episode_as_it_is():
    env = Line()
    control = MPCAction(env, SimulatorReturns(env), small(), mode="replace", seed=0)
    control.reset(seed=0)
    first = env.x
    control.step(np.zeros(1, np.float32))
    assert env.count == 1 and env.x == pytest.approx(first + 0.5 * float(env.received[-1][0]))


def test_a_bad_policy_on_pendulum_is_improved():
    env = gym.make("Pendulum-v1", max_episode_steps=100)
    planner = ICEM(env.action_space, horizon=20, population=60, num_elites=6, iterations=2)
    planned = MPCAction(env, KnownDynamics.for_env("Pendulum-v1"), planner, num_particles=1, seed=0)
    before, after = ([episode(each, seed) for seed in (0, 1)] for each in (env, planned))
    assert np.mean(after) > np.mean(before) + 300


# -- with other libraries ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*environment not having a spec")
@pytest.mark.filterwarnings("ignore:.*ecommend .*symmetric and normalized")
@pytest.mark.parametrize("mode", ["replace", "warm_start", "residual"])
def test_gymnasiums_checker_passes_on_pendulum(mode):
    env = PendulumEnv()
    check_env(MPCAction(env, KnownDynamics.for_env("Pendulum-v1"), small(env.action_space), mode=mode))


@pytest.mark.parametrize("kind", [SAC, DQN])
def test_stable_baselines_evaluates_a_policy_that_is_improved(kind):
    space = PUSH if kind is SAC else STEPS_FROM_ZERO
    agent = kind("MlpPolicy", Line(space), policy_kwargs={"net_arch": [8]}, buffer_size=10, seed=0, device="cpu")

    def make() -> gym.Env:
        planner = small(space, kind=ICEM if kind is SAC else CEM, population=60, num_elites=8, iterations=3)
        return MPCAction(Line(space), model(space), planner, seed=0)

    env = VecMonitor(DummyVecEnv([make] * 2))
    improved, _ = evaluate_policy(agent, env, 4)
    bad, _ = evaluate_policy(agent, VecMonitor(DummyVecEnv([lambda: Line(space)] * 2)), 4)
    assert improved > bad + 1 and improved > -4
    obs = env.reset()
    _, _, _, infos = env.step(agent.predict(obs)[0])
    assert len(infos) == 2 and all("mpc" in info for info in infos)


def test_a_policy_may_learn_what_to_add():
    agent = SAC(
        "MlpPolicy", wrapped(mode="residual"), policy_kwargs={"net_arch": [8]}, learning_starts=10, buffer_size=50,
        seed=0, device="cpu",
    )  # fmt: skip
    agent.learn(20)
    assert agent.replay_buffer.size() == 20


def test_wrappers_around_it_and_inside():
    env = TimeLimit(MPCAction(TimeLimit(Line(limit=100), 5), model(), small(), seed=0), 3)
    env.reset(seed=0)
    over = [env.step(np.zeros(1, np.float32))[3] for _ in range(3)]
    assert over == [False, False, True]


def test_a_learned_model_with_several_particles():
    dynamics = EnsembleDynamics(OBS, PUSH, num_members=3, num_elites=2, hidden=[8], max_steps=1)
    dynamics.fit(collect_transitions(Line(), dynamics, 20, seed=0))
    for propagation in ("TS1", "TSinf", "expectation", "DS", "MM"):
        env = MPCAction(Line(), dynamics, small(), num_particles=3, propagation=propagation, seed=0)
        assert len(play(env, [some_action(PUSH)] * 2)) == 2


# -- bad input -----------------------------------------------------------------------------------------------

OTHER = spaces.Box(-2.0, 1.5, (1,), np.float32)


@pytest.mark.parametrize(
    ("space", "dynamics", "arguments", "message"),
    [
        (PUSH, model(), {"mode": "add"}, "mode must be one of .*'warm_start'.*, got 'add'"),
        (PUSH, model(OTHER), {}, r"dynamics.action_space must equal the env's Box\(-2.0, 1.0.*, got Box\(-2.0, 1.5"),
        (PUSH, KnownDynamics.for_env("Pendulum-v1"), {}, "dynamics.observation_space must equal the env's"),
        (STEPS, model(STEPS), {"mode": "residual"}, "mode 'residual' needs Box actions to add, got Discrete"),
        (PUSH, model(), {"planner": RandomShooting(PUSH)}, "planner must start from a proposal .*got RandomShooting"),
        (PUSH, model(), {"planner": CEM(OTHER)}, "planner must be for the env's actions Box.*got one for Box.*1.5"),
        (PUSH, model(), {"propagation": "TS2"}, "propagation must be one of .*got 'TS2'"),
        (PUSH, model(), {"num_particles": 0}, "num_particles must be a whole number of at least 1, got 0"),
        (PUSH, model(), {"discount": 2.0}, r"discount must be in \[0, 1\], got 2.0"),
    ],
)
@pytest.mark.parametrize("kind", [MPCAction, VectorMPCAction])
def test_arguments_that_do_not_fit_are_named(space, dynamics, arguments, message, kind):
    env: Any = Line(space) if kind is MPCAction else SyncVectorEnv([lambda: Line(space)])
    with pytest.raises(ValueError, match=message):
        kind(env, dynamics, **arguments)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (1,), np.float32), "action_space must be bounded to be searched"),
        (spaces.Dict(a=PUSH), "action_space must be Box, Discrete or MultiDiscrete, got Dict"),
        (spaces.MultiBinary(2), "action_space must be Box, Discrete or MultiDiscrete, got MultiBinary"),
    ],
)
def test_action_spaces_that_cannot_be_planned_in_are_named(space, message):
    dynamics = KnownDynamics(OBS, space, lambda obs, action: obs, lambda obs, action, next_obs: obs[:, 0])
    with pytest.raises(ValueError, match=message):
        MPCAction(Line(space), dynamics)


def test_random_shooting_may_replace():
    assert len(play(wrapped(planner=small(kind=RandomShooting)), [some_action(PUSH)] * 3)) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_observations_that_are_not_finite_are_named(bad):
    env = MPCAction(Line(poison=bad), model(), small())
    env.reset()
    with pytest.raises(ValueError, match=r"observation from the environment must be finite, got \[.*(nan|inf)\]"):
        env.step(some_action(PUSH))
    vector = VectorMPCAction(SyncVectorEnv([lambda: Line(poison=bad)]), model(), small())
    vector.reset()
    with pytest.raises(ValueError, match="observation from the environment must be finite, got"):
        vector.step(nothing(1))


@pytest.mark.parametrize("mode", ["warm_start", "residual"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_actions_that_are_not_finite_are_named(mode, bad):
    env = wrapped(mode=mode)
    env.reset()
    with pytest.raises(ValueError, match=r"action must be finite, got \[\[(nan|-inf)\]\]"):
        env.step(np.array([bad], np.float32))


def test_a_category_that_there_is_not_is_named():
    env = wrapped(STEPS, mode="warm_start")
    env.reset()
    with pytest.raises(ValueError, match=r"values of Discrete\(3, start=-1\) must lie in it, got \[7\]"):
        env.step(np.int64(7))


def test_a_step_before_reset_is_refused():
    with pytest.raises(gym.error.ResetNeeded):
        wrapped().step(some_action(PUSH))
    with pytest.raises(gym.error.ResetNeeded):
        vector_env(AutoresetMode.NEXT_STEP, small()).step(nothing(2))


@pytest.mark.parametrize("incoming", [np.zeros(1, np.float64), [0.0]], ids=["double", "list"])
def test_actions_that_are_like_those_of_the_space_are_taken(incoming):
    env = wrapped(mode="warm_start")
    env.reset(seed=0)
    action = env.step(incoming)[4]["mpc"]["action"]
    assert env.action_space.contains(action)


def test_a_model_that_has_never_met_a_reward_is_refused():
    env = gym.make("Pendulum-v1")
    dynamics = EnsembleDynamics(env.observation_space, env.action_space, hidden=[8], max_steps=1)
    with pytest.raises(ValueError, match="dynamics must be fitted or given its reward_fn, got a EnsembleDynamics"):
        MPCAction(env, dynamics)
    dynamics.fit(collect_transitions(env, dynamics, 20, seed=0))
    MPCAction(env, dynamics)
