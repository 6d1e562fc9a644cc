"""Snapshots of real environments: what follows a restore is what followed the first time, to the last bit."""

from __future__ import annotations

import copy
import io
import pathlib
import random
import tempfile
import threading
import weakref
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces, wrappers
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv, MaxAndSkipEnv, NoopResetEnv
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers.envs import ImaginedEnv
from mbrl_wrappers.envs.snapshots import Snapshots, bit_equal
from mbrl_wrappers.models import EnsembleDynamics

CLASSIC = ["CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1"]
TOY = ["FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Blackjack-v1"]
MUJOCO = ["Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum"]
MUJOCO = [f"{name}-v5" for name in [*MUJOCO, "Pusher", "Reacher", "Swimmer", "Walker2d"]]
MINIGRID = ["Empty-Random-6x6-v0", "DoorKey-8x8-v0", "Dynamic-Obstacles-8x8-v0", "MultiRoom-N4-S5-v1"]
BOX2D = ["LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3", "CarRacing-v3"]
ATARI = [
    ("Pong", {"obs_type": "ram"}),
    ("Breakout", {"frameskip": (2, 5)}),
    ("MsPacman", {"obs_type": "grayscale", "continuous": True}),
]


class Custom(gym.Env):
    """Counts and adds up the actions; each test adds what it is about."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(3)
        self.total = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.total = np.zeros(2)
        return self.total.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.total = self.total + np.array([1, action]) + self.noise()
        return self.total.copy(), float(self.total.sum()), False, False, {}

    def noise(self) -> float:
        return 0.0


def play(env: gym.Env, actions: list[Any]) -> list[Any]:
    """What an agent sees; episodes start anew as they end."""
    seen: list[Any] = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        info = {key: value for key, value in info.items() if key not in ("episode", "statistics")}  # wall time
        seen.append(copy.deepcopy((obs, reward, terminated, truncated, info)))
        if terminated or truncated:
            seen.append(copy.deepcopy(env.reset()))
    return seen


def some_actions(env: gym.Env, count: int, seed: int = 0) -> list[Any]:
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def check_exactness(make: Any, warm_up: int = 10, steps: int = 30) -> None:
    """A snapshot amid an episode against the same episode of an env that knows no snapshots."""
    env, other = make(), make()
    actions, before = some_actions(env, steps), some_actions(env, warm_up, seed=1)
    data_equivalence(env.reset(seed=3), other.reset(seed=3), exact=True)
    play(env, before), play(other, before)
    expected = play(other, actions)
    snapshots = Snapshots(env)
    start = snapshots.take()
    assert data_equivalence(play(env, actions), expected, exact=True)
    for _ in range(2):
        env.reset(seed=8)
        snapshots.restore(start)
        assert data_equivalence(play(env, actions), expected, exact=True)
    env.close(), other.close()


@pytest.mark.parametrize("name", [*CLASSIC, *TOY])
def test_classic_control_and_toy_text(name):
    check_exactness(lambda: gym.make(name))


@pytest.mark.parametrize("name", MUJOCO)
def test_mujoco(name):
    pytest.importorskip("mujoco")
    check_exactness(lambda: gym.make(name))


def test_mujoco_contact_forces_are_part_of_the_state():
    pytest.importorskip("mujoco")
    env = gym.make("Ant-v5", contact_cost_weight=1.0)
    env.reset(seed=0)
    play(env, some_actions(env, 30))
    snapshots = Snapshots(env)
    start, forces = snapshots.take(), env.unwrapped.data.cfrc_ext.copy()
    assert np.abs(forces).max() > 0
    play(env, some_actions(env, 7, seed=1))
    assert not np.array_equal(env.unwrapped.data.cfrc_ext, forces)
    snapshots.restore(start)
    assert np.array_equal(env.unwrapped.data.cfrc_ext, forces)


def _change_model(model: Any, generator: np.random.Generator) -> None:
    """Draw what the tasks of others draw for an episode: a target, masses, friction, gravity, a step."""
    model.geom_pos[-1, :2] = generator.uniform(-0.2, 0.2, 2)
    model.body_mass[1:] *= generator.uniform(0.9, 1.1)
    model.geom_friction[:, 0] *= generator.uniform(0.5, 1.5)
    model.opt.gravity[2] = generator.uniform(-12, -8)
    model.opt.timestep = generator.uniform(0.001, 0.003)
    model.stat.meaninertia *= 1.1


class OwnPhysics(gym.Wrapper):
    """Changes MuJoCo's model at a reset, or at every step too, and shows what it changed."""

    def __init__(self, env: gym.Env, every_step: bool) -> None:
        super().__init__(env)
        self.every_step = every_step
        self.observation_space = spaces.Box(-np.inf, np.inf, (3 + env.observation_space.shape[0],))

    def _with_target(self, obs: np.ndarray) -> np.ndarray:
        return np.concatenate([self.unwrapped.model.geom_pos[-1], obs])

    def reset(self, **options: Any) -> Any:
        obs, info = self.env.reset(**options)
        _change_model(self.unwrapped.model, self.unwrapped.np_random)
        return self._with_target(obs), info

    def step(self, action: Any) -> Any:
        if self.every_step:
            _change_model(self.unwrapped.model, self.unwrapped.np_random)
        obs, *rest = self.env.step(action)
        return self._with_target(obs), *rest


@pytest.mark.parametrize("every_step", [False, True])
def test_a_mujoco_model_that_changes_goes_back(every_step):
    pytest.importorskip("mujoco")
    check_exactness(lambda: OwnPhysics(gym.make("Reacher-v5", max_episode_steps=7), every_step))


def test_references_into_a_mujoco_model_stay_valid():
    pytest.importorskip("mujoco")
    env = gym.make("InvertedPendulum-v5")
    env.reset(seed=0)
    model = env.unwrapped.model
    masses, gravity = model.body_mass, model.opt.gravity
    snapshots = Snapshots(env)
    start, before = snapshots.take(), masses.copy()
    masses[1:] = 7.0
    gravity[:] = 1.0
    changed = snapshots.take()
    snapshots.restore(start)
    assert env.unwrapped.model is model and np.array_equal(masses, before) and gravity[2] == -9.81
    snapshots.restore(changed)
    assert (masses[1:] == 7.0).all() and (gravity == 1.0).all() and (model.body_mass == masses).all()


def test_many_mujoco_snapshots_keep_their_states_apart_although_copies_are_passed_on():
    pytest.importorskip("mujoco")
    env = gym.make("Hopper-v5")
    snapshots = Snapshots(env)
    env.reset(seed=0)
    actions = some_actions(env, 6)
    for _ in range(3):
        taken, seen = [], []
        for action in actions:
            taken.append(snapshots.take())
            seen.append(play(env, [action]))
        for index in (4, 0, 5, 2):
            snapshots.restore(taken[index])
            assert data_equivalence(play(env, [actions[index]]), seen[index], exact=True)


@pytest.mark.parametrize(("game", "options"), ATARI)
def test_atari(game, options):
    ale_py = pytest.importorskip("ale_py")
    gym.register_envs(ale_py)
    check_exactness(lambda: gym.make(f"ALE/{game}-v5", repeat_action_probability=0.0, **options), warm_up=60, steps=20)


def test_atari_with_the_usual_wrappers_and_sticky_actions_of_gymnasium():
    ale_py = pytest.importorskip("ale_py")
    gym.register_envs(ale_py)

    def make() -> gym.Env:
        env = gym.make("ALE/Breakout-v5", repeat_action_probability=0.0, frameskip=1, obs_type="grayscale")
        env = EpisodicLifeEnv(MaxAndSkipEnv(NoopResetEnv(env)))
        return wrappers.FrameStackObservation(wrappers.StickyAction(env, 0.5), 4)

    check_exactness(make, warm_up=60)


def test_sticky_actions_of_the_ale_are_refused():
    ale_py = pytest.importorskip("ale_py")
    gym.register_envs(ale_py)
    env = gym.make("ALE/Pong-v5", repeat_action_probability=0.25)
    with pytest.raises(ValueError, match=r"AtariEnv.ale: .*last action.*wrappers\.StickyAction"):
        Snapshots(env, check=False)


@pytest.mark.parametrize("name", MINIGRID)
def test_minigrid(name):
    minigrid = pytest.importorskip("minigrid")
    gym.register_envs(minigrid)
    check_exactness(lambda: gym.make(f"MiniGrid-{name}"))


@pytest.mark.parametrize("name", BOX2D)
def test_box2d_is_refused(name):
    pytest.importorskip("Box2D")
    with pytest.raises(ValueError, match="Box2D worlds can't be copied"):
        Snapshots(gym.make(name))


def test_an_imagined_env():
    dynamics = EnsembleDynamics(Custom.observation_space, spaces.Discrete(3), hidden=[8])
    env = ImaginedEnv(dynamics, start_obs=torch.randn(4, 2), horizon=7)
    weights = list(dynamics.parameters())
    env.reset(seed=0)
    snapshots, actions = Snapshots(env), some_actions(env, 10)
    start = snapshots.take()
    first = play(env, actions)
    snapshots.restore(start)
    assert data_equivalence(play(env, actions), first, exact=True)
    assert env.dynamics is dynamics and all(a is b for a, b in zip(dynamics.parameters(), weights, strict=True))


def test_the_time_limit_comes_at_its_step_again():
    env = gym.make("Pendulum-v1", max_episode_steps=10)
    env.reset(seed=0)
    snapshots = Snapshots(env)
    play(env, some_actions(env, 4))
    start = snapshots.take()
    for _ in range(3):
        ends = [env.step(action)[3] for action in some_actions(env, 6)]
        assert ends == [False] * 5 + [True]
        snapshots.restore(start)


def test_an_episode_that_is_over_can_be_gone_back_from():
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    snapshots = Snapshots(env)
    start = snapshots.take()
    lengths = []
    for _ in range(2):
        count, over = 0, False
        while not over:
            over, count = env.step(1)[2], count + 1
        lengths.append(count)
        snapshots.restore(start)
    assert lengths[0] == lengths[1] < 15


def test_several_snapshots_in_any_order():
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    snapshots, actions = Snapshots(env), [0, 1, 1, 0, 1, 0]
    taken, states = [], []
    for action in actions:
        taken.append(snapshots.take())
        states.append(env.unwrapped.state.copy())
        env.step(action)
    for index in (3, 0, 5, 3, 1):
        snapshots.restore(taken[index])
        assert np.array_equal(env.unwrapped.state, states[index])
        assert np.array_equal(env.step(actions[index])[0], np.float32(env.unwrapped.state))


def test_wrappers_with_a_state():
    def make() -> gym.Env:
        env = gym.make("CartPole-v1", max_episode_steps=15)
        env = wrappers.NormalizeReward(wrappers.NormalizeObservation(Monitor(env)))
        env = wrappers.TimeAwareObservation(wrappers.DelayObservation(env, delay=2))
        return wrappers.RecordEpisodeStatistics(wrappers.FrameStackObservation(env, 3), stats_key="statistics")

    check_exactness(make)


def test_episode_statistics_go_back():
    env: Any = Monitor(gym.make("CartPole-v1", max_episode_steps=5))
    env = wrappers.RecordEpisodeStatistics(env, stats_key="statistics")
    env.reset(seed=0)
    snapshots = Snapshots(env)
    play(env, [0, 1, 0])
    start = snapshots.take()
    for _ in range(2):
        env.step(1)
        info = env.step(0)[4]
        assert info["statistics"]["l"] == info["episode"]["l"] == 5
        assert list(env.return_queue) == [5.0] == env.env.get_episode_rewards()
        snapshots.restore(start)
        assert not env.return_queue and env.env.get_episode_rewards() == []


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CartPole-v1"])
@pytest.mark.parametrize("reset", [True, False])
def test_the_check_leaves_env_and_action_space_as_they_were(name, reset):
    env, other = gym.make(name), gym.make(name)
    for one in (env, other):
        one.action_space.seed(5)
        if reset:
            one.reset(seed=4)
    generator = env.unwrapped._np_random
    Snapshots(env)
    if reset:
        assert env.unwrapped._np_random is generator
    else:
        with pytest.raises(gym.error.ResetNeeded):
            env.step(0)
        assert data_equivalence(env.reset(seed=4), other.reset(seed=4), exact=True)
    assert env.action_space.sample() == other.action_space.sample()
    actions = some_actions(env, 40)
    assert data_equivalence(play(env, actions), play(other, actions), exact=True)


def test_a_restore_leaves_the_generator_of_the_action_space_alone():
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    env.action_space.seed(0)
    expected = some_actions(env, 20)
    snapshots = Snapshots(env)
    start, sampled = snapshots.take(), []
    for _ in range(20):
        sampled.append(env.action_space.sample())
        snapshots.restore(start)
    assert sampled == expected


class OwnGenerators(Custom):
    """Draws from every kind of generator, one of them deep inside and one shared with the world outside."""

    def __init__(self, shared: np.random.Generator) -> None:
        super().__init__()
        self.old = np.random.RandomState(0)
        self.python = random.Random(0)
        self.torch = torch.Generator().manual_seed(0)
        self.inside = {"deep": [shared]}
        self.draw = lambda: self.python.random()

    def noise(self) -> float:
        drawn = [self.draw(), self.old.rand(), self.inside["deep"][0].random(), self.np_random.random()]
        return sum(drawn) + torch.rand((), generator=self.torch).item()


def test_generators_of_every_kind_go_back_and_stay_the_same_objects():
    shared = np.random.default_rng(0)
    env = OwnGenerators(shared)
    env.reset(seed=0)
    objects = [env.old, env.python, env.torch, env.np_random]
    snapshots = Snapshots(env)
    start = snapshots.take()
    state = shared.bit_generator.state
    first = play(env, [0, 1, 2])
    snapshots.restore(start)
    assert shared.bit_generator.state == state and env.inside["deep"][0] is shared
    assert all(a is b for a, b in zip(objects, [env.old, env.python, env.torch, env.np_random], strict=True))
    assert data_equivalence(play(env, [0, 1, 2]), first, exact=True)


def test_a_generator_that_no_one_seeded_goes_back():
    class Noisy(Custom):
        def noise(self) -> float:
            return self.np_random.random()

    env = Noisy()
    env.reset()
    start = Snapshots(env, check=False).take()
    first = play(env, [0, 1])
    Snapshots(env).restore(start)
    assert data_equivalence(play(env, [0, 1]), first, exact=True)


class GlobalNoise(Custom):
    def noise(self) -> float:
        return np.random.rand()  # noqa: NPY002 - what is to be found


class HiddenCounter(Custom):
    def noise(self) -> float:
        type(self).calls = getattr(type(self), "calls", 0) + 1
        return 0.0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float(self.calls), terminated, truncated, info


class HiddenEnd(Custom):
    ends = iter([False] * 20 + [True, False] * 1000)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return *super().step(action)[:2], next(self.ends), False, {}


class HiddenGain(Custom):
    """Draws a parameter for each episode, where no snapshot reaches it."""

    gains = iter(range(1000))

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        type(self).gain = next(self.gains)
        return super().reset(**options)

    def noise(self) -> float:
        return self.gain


class SamplesItsSpace(Custom):
    def noise(self) -> float:
        return self.action_space.sample()


@pytest.mark.parametrize(
    ("env_class", "what"),
    [
        (GlobalNoise, "observation"),
        (HiddenCounter, "reward"),
        (HiddenEnd, "terminated"),
        (HiddenGain, "observation"),
        (SamplesItsSpace, "observation"),
    ],
)
def test_a_state_out_of_reach_is_refused_with_what_differed(env_class, what):
    env = env_class()
    with pytest.raises(ValueError, match=f"exactly, got <{env_class.__name__} instance>: the {what}"):
        Snapshots(env)
    assert Snapshots(env, check=False).take() is not None


def test_an_env_whose_step_fails_is_refused_with_its_error():
    class Fails(Custom):
        def noise(self) -> float:
            raise RuntimeError("no such move")

    with pytest.raises(ValueError, match="RuntimeError: no such move"):
        Snapshots(Fails())


@pytest.mark.parametrize("deep", [False, True])
def test_an_attribute_that_cannot_be_copied_is_refused_by_name(deep):
    env = Custom()
    env.handle = [threading.Lock()] if deep else threading.Lock()
    with pytest.raises(ValueError, match=r"Custom.handle: .*lock"):
        Snapshots(env, check=False)


SERVERS: dict[int, float] = {}


class Client:
    """A handle of an engine outside Python: what it leads to is closed when it goes."""

    def __init__(self) -> None:
        self.id = max(SERVERS, default=0) + 1
        SERVERS[self.id] = 0.0

    def __del__(self) -> None:
        SERVERS.pop(self.id, None)


class Handle:
    """The same, without a ``__del__``."""

    def __init__(self) -> None:
        self.id = max(SERVERS, default=0) + 1
        SERVERS[self.id] = 0.0
        weakref.finalize(self, SERVERS.pop, self.id, None)


class Engine(Custom):
    def __init__(self, kind: type, *, late: bool = False, deep: bool = False) -> None:
        super().__init__()
        self.kind, self.deep = kind, deep
        if not late:
            self.connect()

    def connect(self) -> None:
        client = self.kind()
        self.client = {"of": [client]} if self.deep else client

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        if not hasattr(self, "client"):
            self.connect()
        return super().reset(**options)

    def noise(self) -> float:
        client = self.client["of"][0] if self.deep else self.client
        return SERVERS[client.id]  # a KeyError where it was closed


@pytest.mark.parametrize("kind", [Client, Handle])
@pytest.mark.parametrize("place", ["plain", "deep", "late"])
@pytest.mark.parametrize("check", [True, False])
def test_what_a_copy_would_close_is_refused_and_stays_open(kind, place, check):
    env = wrappers.TimeLimit(Engine(kind, late=place == "late", deep=place == "deep"), 9)
    if place != "late":
        env.reset(seed=0)
        env.step(1)
    elif not check:
        env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"Engine.client: a {kind.__name__} releases something .*clone_state"):
        Snapshots(env, check=check)
    if place == "late":
        env.reset(seed=0)
    for _ in range(3):
        env.step(1)


def test_a_temporary_folder_is_refused_and_stays():
    env = Custom()
    env.folder = tempfile.TemporaryDirectory()
    with pytest.raises(ValueError, match=r"Custom.folder: .*finalize.*clone_state"):
        Snapshots(env)
    assert pathlib.Path(env.folder.name).is_dir()
    env.folder.cleanup()


def test_memory_that_looks_like_a_file_is_copied():
    class Log(Custom):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.bytes = io.StringIO(), io.BytesIO()

        def noise(self) -> float:
            self.text.write("a")
            self.bytes.write(b"a")
            return self.text.tell() + self.bytes.tell()

    check_exactness(Log)


def test_a_monitor_that_writes_to_a_file_is_refused(tmp_path):
    env = Monitor(gym.make("CartPole-v1"), str(tmp_path / "log"))
    with pytest.raises(ValueError, match=r"Monitor.results_writer"):
        Snapshots(env, check=False)
    env.close()


def test_what_attributes_share_is_shared_after_a_restore():
    class Watch(gym.Wrapper):
        def __init__(self, env: Custom) -> None:
            super().__init__(env)
            self.history = env.history

    class Piece:
        def __init__(self, board: list[Any]) -> None:
            self.board = board

    env: Any = Custom()
    env.history, env.own_step, env.itself, env.module = [[1], [2]], env.step, env, np
    env.piece, env.snapshots = Piece(env.history), Snapshots(env, check=False)
    env.last, kept = env.history[1], env.snapshots
    env = Watch(env)
    snapshots = Snapshots(env)
    start = snapshots.take()
    env.history[1].append(3)
    env.env.piece.board = None
    env.env.new, env.env.action_space = 7, spaces.Discrete(5)
    snapshots.restore(start)
    inner = env.env
    assert env.history == [[1], [2]] and env.history is inner.history and inner.last is inner.history[1]
    assert not hasattr(inner, "new") and inner.action_space.n == 3 and inner.own_step.__self__ is inner
    assert type(inner.piece) is Piece and inner.piece.board is inner.history
    assert inner.itself is inner and inner.module is np and inner.snapshots is kept
    inner.last.append(4)
    snapshots.restore(start)
    assert env.history == [[1], [2]]


def test_an_env_inside_an_env_is_saved():
    class Composite(Custom):
        def __init__(self) -> None:
            super().__init__()
            self.parts = {"inner": gym.make("CartPole-v1")}
            self.parts["inner"].reset(seed=0)

        def noise(self) -> float:
            obs, _, over, _, _ = self.parts["inner"].step(1)
            if over:
                obs, _ = self.parts["inner"].reset()
            return float(obs.sum())

    check_exactness(Composite)


class Board(gym.Env):
    """Take one of the stones of one's choice; a taken one may not be taken again. Saves itself."""

    observation_space = spaces.MultiBinary(40)

    def __init__(self, forget: bool = False) -> None:
        self.action_space = spaces.Discrete(40)
        self.forget = forget
        self.lock = threading.Lock()  # nothing to copy: the env's own methods are used

    def action_masks(self) -> np.ndarray:
        return self.stones

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.stones = self.np_random.random(40) < 0.5
        self.stones[0] = True
        return self.stones.astype(np.int8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.stones[action]:
            raise RuntimeError(f"stone {action} is gone")
        self.stones[action] = False
        return self.stones.astype(np.int8), self.np_random.random(), not self.stones.any(), False, {}

    def clone_state(self) -> Any:
        return None if self.forget else self.stones.copy()

    def restore_state(self, state: Any) -> None:
        if state is not None:
            self.stones = state.copy()


def test_an_env_may_save_itself_and_has_masked_actions():
    env = wrappers.OrderEnforcing(Board())
    env.reset(seed=0)
    snapshots = Snapshots(env)
    start = snapshots.take()
    stones = np.flatnonzero(env.unwrapped.stones)[:3].tolist()
    first = play(env, stones)
    snapshots.restore(start)
    assert data_equivalence(play(env, stones), first, exact=True)  # rewards are random


def test_an_env_that_saves_itself_badly_is_refused():
    env = Board(forget=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="exactly, got <Board instance>"):
        Snapshots(env)


def test_a_snapshot_of_another_env_is_refused():
    first, second = Snapshots(Custom()), Snapshots(Custom())
    with pytest.raises(ValueError, match="snapshot must be of"):
        first.restore(second.take())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 2),
        (1, 1.0),
        (np.int64(0), np.float64(0)),
        ("a", "b"),
        (np.float32(1), np.float64(1)),
        (np.zeros(2), np.zeros((1, 2))),
        (np.array([0.0]), np.array([-0.0])),
        ({"x": 1}, {"y": 1}),
        ({"x": (1, np.ones(2))}, {"x": (1, np.array([1, 1 + 1e-15]))}),
        ((1, 2), (1, 2, 3)),
        ((1,), 1),
    ],
)
def test_bit_equality(a, b):
    assert bit_equal(a, copy.deepcopy(a)) and bit_equal(b, copy.deepcopy(b))
    assert not bit_equal(a, b) and not bit_equal(b, a)


def test_nan_is_bit_equal_to_itself():
    assert bit_equal({"x": np.array([np.nan])}, {"x": np.array([np.nan])})
