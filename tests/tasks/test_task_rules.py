"""The known rewards and terminations against the environments that they describe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import mbrl_wrappers.envs  # noqa: F401 - registers the ids of this library
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.env_specs import registered_id
from mbrl_wrappers.models.given import call_given, first_disagreement
from mbrl_wrappers.tasks.registry import REWARDS, TASKS, TERMINATIONS
from mbrl_wrappers.types import Transitions

pytestmark = pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date")

NEVER_END = (
    "Pendulum-v1",
    "HalfCheetah-v5",
    "HumanoidStandup-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "mbrl_wrappers/MBBLCartPole-v0",
    "mbrl_wrappers/MBBLInvertedPendulum-v0",
    "mbrl_wrappers/PETSCartpole-v0",
)
END = tuple(env_id for env_id in TERMINATIONS if env_id not in NEVER_END)


def _set_positions(env: Any, positions: dict[int, float]) -> None:
    """Set some positions of a MuJoCo environment, in place."""
    qpos = env.data.qpos.copy()
    for index, value in positions.items():
        qpos[index] = value
    env.set_state(qpos, env.data.qvel.copy())


def _near_the_limit(env_id: str, env: Any, rng: np.random.Generator) -> None:
    """Put an environment into a random state about the limits at which it terminates."""
    match env_id.split("-")[0]:
        case "CartPole":
            env.state = rng.uniform(-1, 1, size=4) * (2.5, 3.0, 0.22, 3.0)
        case "MountainCar":
            env.state = np.array([rng.uniform(0.3, 0.52), rng.uniform(0, 0.07)])
        case "MountainCarContinuous":
            env.state = np.array([rng.uniform(0.3, 0.47), rng.uniform(0, 0.07)], dtype=np.float32)
        case "Acrobot":
            env.state = rng.uniform(-1, 1, size=4) * (np.pi, np.pi, 5.0, 5.0) + (np.pi, 0.0, 0.0, 0.0)
        case "Ant":
            _set_positions(env, {2: rng.uniform(0.1, 1.4)})
        case "Hopper":
            _set_positions(env, {1: rng.uniform(0.6, 1.3), 2: rng.uniform(-0.25, 0.25)})
        case "Humanoid":
            _set_positions(env, {2: rng.uniform(0.2, 2.8)})
        case "InvertedPendulum":
            _set_positions(env, {1: rng.uniform(-0.25, 0.25)})
        case "InvertedDoublePendulum":
            _set_positions(env, {1: rng.uniform(-0.7, 0.7), 2: rng.uniform(-0.7, 0.7)})
        case "Walker2d":
            _set_positions(env, {1: rng.uniform(0.7, 2.1), 2: rng.uniform(-1.1, 1.1)})


def _observe(env: Any) -> np.ndarray:
    """Return an unwrapped environment's observation of the state it is in."""
    for name in ("_get_obs", "_get_ob"):
        if hasattr(env, name):
            return getattr(env, name)()
    return np.array(env.state, dtype=np.float32)


def _play(env_id: str, num_episodes: int = 120, max_steps: int = 12, **kwargs: Any) -> Transitions:
    """Act at random, half of the episodes from a reset and half from near the limits.

    The actions of a Box leave it by up to a half, to see which environments clip them and where.
    """
    env: Any = gym.make(env_id, **kwargs).unwrapped
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"obs": [], "action": [], "reward": [], "next_obs": [], "terminated": []}
    for episode in range(num_episodes):
        env.reset(seed=episode)
        if episode % 2:
            _near_the_limit(env_id, env, rng)
        obs = _observe(env)
        for _ in range(max_steps):
            if isinstance(env.action_space, gym.spaces.Discrete):
                choice = int(rng.integers(env.action_space.n))
                next_obs, reward, terminated, _, _ = env.step(choice)
                action = np.eye(env.action_space.n)[choice]
            else:
                action = (1.5 * rng.uniform(env.action_space.low, env.action_space.high)).astype(np.float32)
                next_obs, reward, terminated, _, _ = env.step(action)
            for name, value in zip(rows, (obs, action, reward, next_obs, terminated), strict=True):
                rows[name].append(np.array(value, dtype=bool if name == "terminated" else np.float64))
            if terminated:
                break
            obs = next_obs
    env.close()
    fields = {name: torch.as_tensor(np.stack(values)) for name, values in rows.items()}
    return Transitions(**fields, key=torch.arange(len(fields["obs"])))


@pytest.fixture(scope="module")
def play() -> Callable[[str], Transitions]:
    """Return ``_play``, playing each environment once."""
    return functools.cache(_play)


def _state_of(env_id: str, state: dict[int, float]) -> tuple[torch.Tensor, bool]:
    """Write values into a MuJoCo robot's (qpos, qvel), return its observation and whether it is unhealthy."""
    env: Any = gym.make(env_id).unwrapped
    env.reset(seed=0)
    for index, value in state.items():
        vector, at = (env.data.qpos, index) if index < env.model.nq else (env.data.qvel, index - env.model.nq)
        vector[at] = value
    return torch.as_tensor(env._get_obs()), not bool(env.is_healthy)


@pytest.mark.parametrize("env_id", TERMINATIONS)
def test_termination_is_that_of_the_real_env(env_id, play):
    real = play(env_id)
    given = TERMINATIONS[env_id](real.obs, real.action, real.next_obs)
    assert given.dtype == torch.bool
    assert torch.equal(given, real.terminated)
    if env_id in END:
        assert 10 <= int(real.terminated.sum()) <= len(real) - 10
    else:
        assert not real.terminated.any()


# Every argument that is said to leave the rules as they are, with a value of its own; but for those of the camera.
OTHER_VALUES: dict[str, Any] = {"reset_noise_scale": 0.02} | {
    f"include_{part}_in_observation": False for part in ("cfrc_ext", "cinert", "cvel", "qfrc_actuator")
}
FREE = [(env_id, OTHER_VALUES.keys() & task.free) for env_id, task in TASKS.items() if OTHER_VALUES.keys() & task.free]


@pytest.mark.parametrize(("env_id", "names"), FREE)
def test_rules_hold_whatever_the_free_arguments_are(env_id, names):
    kwargs = {name: OTHER_VALUES[name] for name in names}
    real = _play(env_id, 40, **kwargs)
    assert torch.equal(TERMINATIONS[env_id](real.obs, real.action, real.next_obs), real.terminated)
    if env_id in REWARDS:
        assert first_disagreement(REWARDS[env_id], "reward_fn", real) is None
    with gym.make(env_id, width=32, **kwargs) as env:
        assert registered_id(env.spec) == env_id
        assert EnsembleDynamics.for_env(env, hidden=(8,)).termination_fn is TERMINATIONS[env_id]


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Ant-v5", {"healthy_z_range": (0.1, 1.0)}),
        ("Ant-v5", {"include_cfrc_ext_in_observation": False, "exclude_current_positions_from_observation": False}),
        ("Hopper-v5", {"terminate_when_unhealthy": False}),
        ("HumanoidStandup-v5", {"include_cfrc_ext_in_observation": False}),
        ("HalfCheetah-v5", {"frame_skip": 2}),
    ],
)
def test_other_arguments_may_change_the_rules(env_id, kwargs):
    with gym.make(env_id, **kwargs) as env:
        assert registered_id(env.spec) is None


@pytest.mark.parametrize("env_id", REWARDS)
def test_reward_is_that_of_the_real_env(env_id, play):
    real = play(env_id)
    given = REWARDS[env_id](real.obs, real.action, real.next_obs)
    torch.testing.assert_close(given, real.reward, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("env_id", TERMINATIONS)
def test_any_batch_dimensions_and_float32(env_id, play):
    real = play(env_id)[:12]
    for fn in filter(None, (REWARDS.get(env_id), TERMINATIONS.get(env_id))):
        flat = fn(real.obs, real.action, real.next_obs)
        folded = [x.reshape(3, 4, -1) for x in (real.obs, real.action, real.next_obs)]
        assert torch.equal(fn(*folded), flat.reshape(3, 4))
        assert fn(real.obs[0], real.action[0], real.next_obs[0]).shape == ()
        single = fn(real.obs.float(), real.action, real.next_obs.float())
        assert single.dtype == (torch.bool if flat.dtype == torch.bool else torch.float32)
        torch.testing.assert_close(single, flat, rtol=1e-4, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Reacher-v5", "Pusher-v5", "HumanoidStandup-v5"])
def test_rewards_can_be_differentiated(env_id, play):
    real = play(env_id)[:5]
    inside = real.action / 2  # where nothing is clipped
    inputs = tuple(x.clone().requires_grad_() for x in (real.obs, inside, real.next_obs))
    reward = REWARDS[env_id](*inputs)
    gradients = torch.autograd.grad(reward.sum(), inputs, allow_unused=True)
    assert gradients[1] is not None and (gradients[1] != 0).all()
    state = gradients[0] if env_id == "Pendulum-v1" else gradients[2]
    assert state is not None and state.isfinite().all() and (state != 0).any(-1).all()


@pytest.mark.parametrize("value", [-150.0, -100.0, 100.0, 150.0])
@pytest.mark.parametrize("index", [3, 4, 5])
def test_hopper_bounds_every_joint_on_both_sides(index, value):
    # `abs(next_obs[:, 1:] < 100)`, a parenthesis misplaced in several libraries, lets negative values pass
    obs, unhealthy = _state_of("Hopper-v5", {index: value})
    assert unhealthy
    assert TERMINATIONS["Hopper-v5"](obs, torch.zeros(3), obs)


@pytest.mark.parametrize("value", [-150.0, -100.0, 100.0, 150.0])
def test_hopper_bounds_every_velocity_on_both_sides(value):
    obs, unhealthy = _state_of("Hopper-v5", {})
    assert not unhealthy
    for index in range(5, 11):
        outside = obs.clone()
        outside[index] = value
        assert TERMINATIONS["Hopper-v5"](obs, torch.zeros(3), outside)
        outside[index] = np.sign(value) * 99.0
        assert not TERMINATIONS["Hopper-v5"](obs, torch.zeros(3), outside)


@pytest.mark.parametrize(
    ("env_id", "index", "limits"),
    [
        ("Ant-v5", 2, (0.2, 1.0)),
        ("Hopper-v5", 1, (0.7, 1000.0)),
        ("Hopper-v5", 2, (-0.2, 0.2)),
        ("Hopper-v5", 4, (-100.0, 100.0)),
        ("Humanoid-v5", 2, (1.0, 2.0)),
        ("Walker2d-v5", 1, (0.8, 2.0)),
        ("Walker2d-v5", 2, (-1.0, 1.0)),
    ],
)
def test_limits_are_open_or_closed_as_in_the_real_env(env_id, index, limits):
    ends = TERMINATIONS[env_id]
    seen = set()
    for limit in limits:
        for value in (limit, np.nextafter(limit, -np.inf), np.nextafter(limit, np.inf)):
            obs, unhealthy = _state_of(env_id, {index: value})
            assert bool(ends(obs, obs, obs)) == unhealthy, value
            seen.add(unhealthy)
    for value in (np.nan, np.inf, -np.inf):
        obs, unhealthy = _state_of(env_id, {index: value})
        assert bool(ends(obs, obs, obs)) and unhealthy
    assert seen == {True, False}


def test_ant_needs_finite_velocities_and_ignores_contact_forces():
    obs, unhealthy = _state_of("Ant-v5", {15 + 7: np.nan})
    assert unhealthy and TERMINATIONS["Ant-v5"](obs, obs, obs)
    obs, unhealthy = _state_of("Ant-v5", {})
    obs[-1] = torch.nan
    assert not unhealthy and not TERMINATIONS["Ant-v5"](obs, obs, obs)


@pytest.mark.parametrize("index", range(4))
def test_inverted_pendulum_needs_finite_numbers(index):
    obs = torch.zeros(4)
    assert not TERMINATIONS["InvertedPendulum-v5"](obs, obs, obs)
    obs[index] = torch.nan
    assert TERMINATIONS["InvertedPendulum-v5"](obs, obs, obs)
    assert REWARDS["InvertedPendulum-v5"](obs, obs, obs) == 0


def test_continuous_mountain_car_compares_in_float32():
    env: Any = gym.make("MountainCarContinuous-v0").unwrapped
    env.reset(seed=0)
    goal = np.float32(0.45)
    # counter gravity and move by less than the spacing of float32, so that the car stays at the goal
    env.state = np.array([goal, 5e-9], dtype=np.float32)
    action = np.array([0.0025 * np.cos(3 * goal) / 0.0015], dtype=np.float32)
    next_obs, reward, terminated, _, _ = env.step(action)
    assert terminated and next_obs[0] == goal
    for dtype in (torch.float32, torch.float64):
        inputs = [torch.as_tensor(x, dtype=dtype) for x in (next_obs, action, next_obs)]
        assert TERMINATIONS["MountainCarContinuous-v0"](*inputs)
        assert float(REWARDS["MountainCarContinuous-v0"](*inputs)) == pytest.approx(reward, abs=1e-5)


BATCH = (torch.zeros(6, 3), torch.zeros(6, 2), torch.zeros(6, 3))


@pytest.mark.parametrize(
    ("kind", "output", "received"),
    [
        ("termination", torch.zeros(6), "torch.float32"),
        ("termination", torch.zeros(6, 1, dtype=torch.bool), r"\(6, 1\)"),
        ("termination", torch.zeros((), dtype=torch.bool), r"\(\)"),
        ("termination", np.zeros(6, dtype=bool), "ndarray"),
        ("termination", False, "bool: False"),
        ("reward", torch.zeros(6, dtype=torch.int64), "torch.int64"),
        ("reward", torch.zeros(6, dtype=torch.bool), "torch.bool"),
        ("reward", torch.zeros(6, 1), r"\(6, 1\)"),
        ("reward", torch.zeros(5), r"\(5,\)"),
        ("reward", 0.0, "float: 0.0"),
        ("reward", None, "NoneType"),
    ],
)
def test_a_given_function_that_returns_the_wrong_thing_is_refused_by_name(kind, output, received):
    dtype = "bool" if kind == "termination" else "floating"
    message = rf"^{kind}_fn must return a tensor of shape \(6,\) and {dtype} dtype, got .*{received}"
    with pytest.raises(ValueError, match=message):
        call_given(lambda *_: output, f"{kind}_fn", *BATCH)


def test_a_right_given_function_returns_its_output():
    reward = call_given(lambda obs, *_: obs.sum(-1) + 2, "reward_fn", *BATCH)
    assert torch.equal(reward, torch.full((6,), 2.0))
    ends = call_given(lambda obs, *_: obs[..., 0] >= 0, "termination_fn", *BATCH)
    assert ends.all()


@pytest.mark.parametrize("env_id", ["Hopper-v5", "InvertedPendulum-v5", "Reacher-v5"])
def test_the_known_functions_do_not_disagree_with_the_real_env(env_id, play):
    reward, termination = REWARDS.get(env_id), TERMINATIONS[env_id]
    assert first_disagreement(termination, "termination_fn", play(env_id)) is None
    assert first_disagreement(termination, "termination_fn", play(env_id)[:0]) is None
    if reward is not None:
        assert first_disagreement(reward, "reward_fn", play(env_id)) is None


def test_the_first_wrong_termination_is_found(play):
    real = play("Hopper-v5")
    first_end = int(real.terminated.nonzero()[0])
    assert first_disagreement(TERMINATIONS["Swimmer-v5"], "termination_fn", real) == first_end
    ends_always = first_disagreement(lambda obs, *_: obs[..., 0] == obs[..., 0], "termination_fn", real)
    assert ends_always == int((~real.terminated).nonzero()[0])


def test_the_misplaced_parenthesis_is_found():
    def copied(obs, action, next_obs):
        bounded = (next_obs[:, 1:] < 100).all(-1)  # what abs() of a truth value comes to
        return ~(bounded & (next_obs[:, 0] > 0.7) & (next_obs[:, 1].abs() < 0.2))

    states = [_state_of("Hopper-v5", {4: value}) for value in (0.0, 150.0, -150.0)]
    obs, terminated = torch.stack([obs for obs, _ in states]), torch.tensor([ends for _, ends in states])
    real = Transitions(obs, torch.zeros(3, 3), torch.zeros(3), obs, terminated, torch.arange(3))
    assert first_disagreement(copied, "termination_fn", real) == 2
    assert first_disagreement(TERMINATIONS["Hopper-v5"], "termination_fn", real) is None


def test_the_first_wrong_reward_is_found_and_small_errors_pass(play):
    real = play("Reacher-v5")
    true_reward = REWARDS["Reacher-v5"]

    def off_from(row: int, error: float) -> Callable[..., torch.Tensor]:
        def reward(obs, action, next_obs):
            value = true_reward(obs, action, next_obs).float()
            value[row:] += error
            return value

        return reward

    assert first_disagreement(off_from(17, 0.01), "reward_fn", real) == 17
    assert first_disagreement(off_from(17, 5e-4), "reward_fn", real) is None
    assert first_disagreement(off_from(17, 5e-4), "reward_fn", real, rtol=0.0, atol=1e-4) == 17
    with pytest.raises(ValueError, match=r"^reward_fn must return a tensor"):
        first_disagreement(TERMINATIONS["Reacher-v5"], "reward_fn", real)
