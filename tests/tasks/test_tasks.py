"""The benchmark tasks: against the simulators that they stand for, and against what is known of them."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from torch import Tensor

import mbrl_wrappers.envs
from mbrl_wrappers.envs.games import GAMES
from mbrl_wrappers.models import KnownDynamics
from mbrl_wrappers.models.env_specs import registered_id
from mbrl_wrappers.tasks import swing_up
from mbrl_wrappers.tasks.control_suite import CONTROL_TASKS
from mbrl_wrappers.tasks.registration import register_tasks
from mbrl_wrappers.tasks.registry import REWARDS, TERMINATIONS

PETS_CARTPOLE = "mbrl_wrappers/PETSCartpole-v0"
MBBL_CART_POLE = "mbrl_wrappers/MBBLCartPole-v0"
MBBL_PENDULUM = "mbrl_wrappers/MBBLInvertedPendulum-v0"

NUM_STEPS = {PETS_CARTPOLE: 200, MBBL_CART_POLE: 200, MBBL_PENDULUM: 100}

# The bodies of the swing-up for MuJoCo; its own limits of the rail are left out.
SWING_UP = """
<mujoco>
  <option gravity="0 0 -9.81" integrator="RK4" timestep="0.02"/>
  <default>
    <joint damping="1"/>
    <geom type="capsule" density="1000" contype="0" conaffinity="0"/>
  </default>
  <worldbody>
    <body>
      <joint name="rail" type="slide" axis="1 0 0"/>
      <geom fromto="-0.1 0 0 0.1 0 0" size="0.1"/>
      <body>
        <joint type="hinge" axis="0 1 0"/>
        <geom fromto="0 0 0 0 0 -0.6" size="0.049"/>
        <site name="tip" pos="0 0 -0.6"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="rail" gear="100" ctrllimited="true" ctrlrange="-3 3"/></actuator>
</mujoco>
"""


def highest(env: gym.Env) -> np.ndarray:
    assert isinstance(env.action_space, spaces.Box)
    return env.action_space.high


def _actions(env: gym.Env, num_steps: int, seed: int = 0) -> np.ndarray:
    """Draw actions ``[T, 1]`` that keep their side for ten steps, so that a cart gets somewhere."""
    rng = np.random.default_rng(seed)
    sides = np.repeat(rng.choice([-1.0, 1.0], size=num_steps // 10 + 1), 10)[:num_steps]
    return (sides * rng.uniform(0, highest(env), num_steps))[:, None].astype(np.float32)


def _made(env_id: str, **state: Any) -> Any:
    """Make an env without its wrappers, in a state."""
    env: Any = gym.make(env_id).unwrapped
    env.reset(seed=0)
    for name, value in state.items():
        setattr(env, name, np.array(value))
    return env


def _as_obs(env_id: str, state: np.ndarray) -> Tensor:
    """Return the observation of a state in float64."""
    if env_id == MBBL_CART_POLE:
        return torch.as_tensor(state)
    position, angle, velocity, angle_velocity = state
    return torch.tensor([position, np.cos(angle), np.sin(angle), velocity, angle_velocity], dtype=torch.float64)


def _energy(state: np.ndarray) -> float:
    """Return the mechanical energy of the swing-up's bodies."""
    _, angle, velocity, angle_velocity = state
    coupling = swing_up._SWING * math.cos(angle)
    kinetic = swing_up._TOTAL_MASS * velocity**2 / 2 + swing_up._HINGE_INERTIA * angle_velocity**2 / 2
    return kinetic - coupling * velocity * angle_velocity - swing_up._GRAVITY * coupling


# ------------------------------------------------------------------------------------- all tasks


# Recommendations that the published tasks do not follow: actions in [-3, 3], velocities without bounds.
@pytest.mark.filterwarnings("ignore:.*recommend using a symmetric and normalized space")
@pytest.mark.filterwarnings("ignore:.*A Box observation space m(in|ax)imum value is -?infinity")
@pytest.mark.parametrize("env_id", NUM_STEPS)
def test_gymnasium_accepts_the_env(env_id):
    env = gym.make(env_id).unwrapped
    check_env(env, skip_render_check=env_id == MBBL_PENDULUM)
    env.close()


@pytest.mark.parametrize("env_id", NUM_STEPS)
def test_only_the_time_limit_ends_an_episode(env_id):
    env = gym.make(env_id)
    env.reset(seed=0)
    for step in range(1, NUM_STEPS[env_id] + 1):
        obs, reward, terminated, truncated, _ = env.step(highest(env))
        assert obs in env.observation_space and type(reward) is float
        assert not terminated and truncated == (step == NUM_STEPS[env_id])


@pytest.mark.parametrize("env_id", NUM_STEPS)
def test_seed_and_actions_determine_the_episode(env_id):
    episodes = []
    for seed in (5, 5, 6):
        env = gym.make(env_id)
        rows = [env.reset(seed=seed)[0]]
        for action in _actions(env, 50):
            obs, reward, *_ = env.step(action)
            rows.append(np.append(obs, float(reward)))
        episodes.append(np.concatenate(rows))
    assert np.array_equal(episodes[0], episodes[1]) and not np.array_equal(episodes[0], episodes[2])


@pytest.mark.parametrize("env_id", NUM_STEPS)
@pytest.mark.parametrize("function", ["reward", "termination"])
def test_known_functions_hold_through_an_episode(env_id, function):
    env = gym.make(env_id)
    obs, _ = env.reset(seed=1)
    for action in _actions(env, NUM_STEPS[env_id]):
        next_obs, reward, terminated, _, _ = env.step(action)
        row = [torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (obs, action, next_obs)]
        if function == "reward":
            assert float(REWARDS[env_id](*row)) == pytest.approx(reward, rel=1e-5, abs=1e-6)
        else:
            assert bool(TERMINATIONS[env_id](*row)) == terminated
        obs = next_obs
    assert registered_id(env.spec) == env_id


@pytest.mark.parametrize("env_id", NUM_STEPS)
@pytest.mark.parametrize("action", [np.zeros(2), 0.5, np.zeros((1, 1)), np.array([np.nan]), np.array([np.inf])])
def test_a_wrong_action_is_refused_by_name(env_id, action):
    with pytest.raises(ValueError, match=r"^action must be one finite number of shape \(1,\), got shape"):
        _made(env_id).step(action)


@pytest.mark.parametrize("env_id", [PETS_CARTPOLE, MBBL_CART_POLE])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_from_the_same_state(env_id, copied):
    env = _made(env_id)
    env.step(np.array([0.5]))
    other = copied(env)
    for action in ([0.3], [-0.7]):
        assert np.array_equal(env.step(np.array(action))[0], other.step(np.array(action))[0])
    assert np.array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.parametrize("env_id", [PETS_CARTPOLE, MBBL_CART_POLE])
def test_pictures_show_the_state(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    for _ in range(10):
        env.step(highest(env))
    later = env.render()
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[-1] == 3
    assert (first != later).any() and len(np.unique(first.reshape(-1, 3), axis=0)) >= 3
    env.close()


@pytest.mark.parametrize("env_id", [PETS_CARTPOLE, MBBL_CART_POLE])
def test_a_window_opens_and_closes_twice(env_id, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make(env_id, render_mode="human")
    env.reset(seed=0)
    env.step(highest(env))
    env.close()
    env.close()


def test_registering_twice_changes_nothing():
    others = ("Breakout", "MiniPacman", "PixelMountainCarContinuous", "PixelPendulum", "Sokoban")
    elsewhere = ("CarRacing", "CarRacingFrameSkip4", "TakeCover", "TakeCoverFrameSkip4")
    ours = {*NUM_STEPS, *(f"mbrl_wrappers/{name}-v0" for name in (*others, *elsewhere))}
    specs = {env_id: gym.spec(env_id) for env_id in ours}
    register_tasks()
    assert all(gym.spec(env_id) is spec for env_id, spec in specs.items())
    games = {f"mbrl_wrappers/{name}-v0" for name in GAMES}
    assert {env_id for env_id in gym.registry if env_id.startswith("mbrl_wrappers/")} == (
        ours | games | {f"mbrl_wrappers/control-{name}{of}-v0" for name in CONTROL_TASKS for of in ("", "-pixels")}
    )
    assert mbrl_wrappers.envs.register_tasks is register_tasks


def test_ids_work_without_an_import_and_only_the_pendulum_needs_mujoco():
    program = (
        "import sys, gymnasium as gym\n"
        "for name in ('PETSCartpole', 'MBBLCartPole'):\n"
        "    gym.make(f'mbrl_wrappers.envs:mbrl_wrappers/{name}-v0')\n"
        "assert not {'mujoco', 'pygame'} & set(sys.modules)\n"
        "gym.make('mbrl_wrappers.envs:mbrl_wrappers/MBBLInvertedPendulum-v0')\n"
        "assert 'mujoco' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------- dynamics in both forms


@pytest.mark.parametrize("env_id", [PETS_CARTPOLE, MBBL_CART_POLE])
def test_env_and_known_dynamics_take_the_same_steps(env_id):
    dynamics = KnownDynamics.for_env(env_id)
    env: Any = gym.make(env_id).unwrapped
    largest_position = 0.0
    for episode in range(5):
        env.reset(seed=episode)
        for action in 1.2 * _actions(env, 200, seed=episode):  # also beyond the bounds
            before = env.state.copy()
            _, reward, terminated, _, _ = env.step(action)
            said = dynamics.predict(_as_obs(env_id, before), torch.as_tensor(action, dtype=torch.float64))
            torch.testing.assert_close(said.next_obs, _as_obs(env_id, env.state), rtol=1e-12, atol=1e-12)
            assert float(said.reward) == pytest.approx(reward, rel=1e-12, abs=1e-12)
            assert bool(said.terminated) == terminated
            largest_position = max(largest_position, abs(env.state[0]))
    assert largest_position == 2.5 if env_id == PETS_CARTPOLE else largest_position > 2.5


@pytest.mark.parametrize("env_id", [PETS_CARTPOLE, MBBL_CART_POLE])
def test_one_step_from_a_float32_observation(env_id):
    dynamics, env = KnownDynamics.for_env(env_id), gym.make(env_id)
    obs, _ = env.reset(seed=0)
    rows: dict[str, list[Any]] = {"obs": [], "action": [], "next_obs": [], "reward": []}
    for action in _actions(env, 200):
        next_obs, reward, *_ = env.step(action)
        for name, value in zip(rows, (obs, action, next_obs, reward), strict=True):
            rows[name].append(np.asarray(value, np.float32))
        obs = next_obs
    real = {name: torch.as_tensor(np.stack(values)) for name, values in rows.items()}
    said = dynamics.predict(real["obs"], real["action"])
    torch.testing.assert_close(said.next_obs, real["next_obs"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said.reward, real["reward"], rtol=1e-5, atol=1e-5)
    assert said.next_obs.dtype == said.reward.dtype == torch.float32


@pytest.mark.parametrize("env_id", [PETS_CARTPOLE, MBBL_CART_POLE])
def test_spaces_and_start_states_are_those_of_the_env(env_id):
    dynamics, env = KnownDynamics.for_env(env_id), gym.make(env_id)
    assert (dynamics.observation_space, dynamics.action_space) == (env.observation_space, env.action_space)
    torch.manual_seed(1)
    assert torch.equal(KnownDynamics.for_env(env_id).start_obs, dynamics.start_obs)
    real = np.stack([env.reset(seed=seed)[0] for seed in range(500)])
    starts = dynamics.start_obs.numpy()
    assert all(start in env.observation_space for start in starts)
    np.testing.assert_allclose(starts.mean(0), real.mean(0), atol=0.02)
    np.testing.assert_allclose(starts.std(0), real.std(0), rtol=0.15)


@pytest.mark.parametrize("env_id", [PETS_CARTPOLE, MBBL_CART_POLE])
def test_batches_and_gradients(env_id):
    dynamics = KnownDynamics.for_env(env_id)
    obs = dynamics.start_obs[:12].double().requires_grad_()
    action = torch.linspace(-0.9, 0.8, 12, dtype=torch.float64)[:, None].requires_grad_()
    flat = dynamics.predict(obs, action)
    folded = dynamics.predict(obs.reshape(3, 4, -1), action.reshape(3, 4, -1))
    assert torch.equal(folded.next_obs.reshape(12, -1), flat.next_obs)
    assert torch.equal(folded.reward.reshape(12), flat.reward)
    assert torch.equal(dynamics.predict(obs[0], action[0]).next_obs, flat.next_obs[0])

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        prediction = dynamics.predict(obs, action)
        return prediction.next_obs, prediction.reward

    assert torch.autograd.gradcheck(step, (obs, action), atol=1e-6)


# ---------------------------------------------------------------------------------- PETSCartpole


def test_the_swing_up_is_that_of_mujoco():
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(SWING_UP)
    data = mujoco.MjData(model)
    env = _made(PETS_CARTPOLE)
    num_steps, turned = 0, 0.0
    for episode in range(8):
        env.reset(seed=episode)
        data.qpos[:], data.qvel[:] = env.state[:2], env.state[2:]
        rng = np.random.default_rng(episode)
        for _ in range(100):
            # towards the middle most of the time, so that the cart stays off the rail's ends
            action = rng.uniform(-4, 4, size=1) - 1.5 * env.state[:1] - 0.5 * env.state[2:3]
            data.ctrl[:] = action
            mujoco.mj_step(model, data, nstep=2)
            env.step(action)
            assert abs(env.state[0]) < 2.4
            np.testing.assert_allclose(env.state, np.concatenate([data.qpos, data.qvel]), rtol=1e-8, atol=1e-8)
            num_steps, turned = num_steps + 1, max(turned, abs(env.state[1]))
    assert num_steps == 800 and turned > 1.5


def test_the_masses_are_those_of_mujoco():
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(SWING_UP)
    cart, pole = model.body_mass[1:]
    assert swing_up._CART_MASS == pytest.approx(cart) and swing_up._POLE_MASS == pytest.approx(pole)
    assert swing_up._POLE_INERTIA == pytest.approx(model.body_inertia[2, 0])


@pytest.mark.parametrize("angle", [0.0, 0.5, np.pi / 2, 2.0, -1.0, np.pi])
def test_the_reward_looks_at_mujocos_tip(angle):
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(SWING_UP)
    data = mujoco.MjData(model)
    data.qpos[:] = 0.3, angle
    mujoco.mj_forward(model, data)
    x, _, z = data.site("tip").xpos
    obs = torch.tensor([0.3, np.cos(angle), np.sin(angle), 0.0, 0.0], dtype=torch.float64)
    action = torch.tensor([1.5], dtype=torch.float64)
    reward = float(REWARDS[PETS_CARTPOLE](obs, action, obs))
    assert reward == pytest.approx(np.exp(-(x**2 + (z - 0.6) ** 2) / 0.36) - 0.01 * 1.5**2)


def test_reward_is_1_upright_at_rest_and_near_0_hanging():
    env = _made(PETS_CARTPOLE, state=[0, np.pi, 0, 0])
    _, reward, *_ = env.step(np.zeros(1))
    assert reward == pytest.approx(1, abs=1e-12)
    env.state = np.zeros(4)
    obs, reward, *_ = env.step(np.zeros(1))
    assert reward == pytest.approx(np.exp(-4)) and np.array_equal(obs, [0, 1, 0, 0, 0])


def test_a_push_to_the_right_leaves_the_tip_behind():
    env = _made(PETS_CARTPOLE, state=np.zeros(4))
    obs, *_ = env.step(np.ones(1))
    position, _, sin, velocity, angle_velocity = obs
    assert position > 0 and velocity > 0 and sin > 0 and angle_velocity > 0
    assert position - 0.6 * sin < 0


def test_actions_are_clipped_in_the_force_and_not_in_the_reward():
    results = []
    for action in (3.0, 5.0):
        env = _made(PETS_CARTPOLE, state=np.zeros(4))
        results.append(env.step(np.array([action])))
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1] - results[1][1] == pytest.approx(0.01 * (25 - 9))


def test_energy_and_momentum_are_conserved_without_damping(monkeypatch):
    monkeypatch.setattr(swing_up, "_SLIDER_DAMPING", 0.0)
    monkeypatch.setattr(swing_up, "_HINGE_DAMPING", 0.0)
    env = _made(PETS_CARTPOLE, state=[0.1, 2.0, 0.2, -0.5])

    def momentum() -> float:
        _, angle, velocity, angle_velocity = env.state
        return swing_up._TOTAL_MASS * velocity - swing_up._SWING * math.cos(angle) * angle_velocity

    energy, along_the_rail = _energy(env.state), momentum()
    for _ in range(150):
        env.step(np.zeros(1))
        assert _energy(env.state) == pytest.approx(energy, rel=1e-3)
        assert momentum() == pytest.approx(along_the_rail, rel=1e-3)
    assert 0.1 < abs(env.state[0]) < 2.5


def test_damping_takes_energy():
    env = _made(PETS_CARTPOLE, state=[0.1, 2.0, 0.2, -0.5])
    energies = [_energy(env.state)]
    for _ in range(500):
        env.step(np.zeros(1))
        energies.append(_energy(env.state))
    assert (np.diff(energies) <= 1e-9).all()
    assert energies[-1] == pytest.approx(-9.81 * swing_up._SWING, abs=0.1)  # the cart still glides


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_cart_that_hits_a_stop_stays_there_and_throws_its_pole(side):
    state = (side * 2.51, 0.4, side * 3.0, 1.0)
    position, angle, velocity, angle_velocity = swing_up._stopped(state, math)
    assert position == side * 2.5 and angle == 0.4 and velocity == 0

    def about_the_hinge(velocity: float, angle_velocity: float) -> float:
        return swing_up._HINGE_INERTIA * angle_velocity - swing_up._SWING * math.cos(angle) * velocity

    assert about_the_hinge(velocity, angle_velocity) == pytest.approx(about_the_hinge(*state[2:]))
    assert _energy(np.array([position, angle, velocity, angle_velocity])) < _energy(np.array(state))


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_cart_held_at_a_stop_lets_its_pole_swing_and_leaves_when_pulled(side):
    env = _made(PETS_CARTPOLE, state=[0, 0, 0, 0])
    for _ in range(200):
        obs, *_ = env.step(np.array([3.0 * side]))
        assert abs(obs[0]) <= 2.5
    assert obs[0] == side * 2.5 and obs[3] == 0
    for _ in range(200):
        obs, *_ = env.step(np.array([3.0 * side]))
    np.testing.assert_allclose(obs, [side * 2.5, 1, 0, 0, 0], atol=1e-3)  # hangs still, whatever the push
    obs, *_ = env.step(np.array([-0.5 * side]))
    assert abs(obs[0]) < 2.5 and obs[3] * side < 0


def test_stops_act_on_each_row_of_a_batch_alone():
    dynamics = KnownDynamics.for_env("mbrl_wrappers/PETSCartpole-v0")
    obs = torch.tensor(
        [[2.5, 1, 0, 0, 0], [2.5, 1, 0, 0, 0], [2.49, 1, 0, 2, 0], [-2.5, 1, 0, 0, 0], [0, 1, 0, 0, 0]],
        dtype=torch.float64,
    )
    action = torch.tensor([[1.0], [-1.0], [1.0], [-1.0], [1.0]], dtype=torch.float64)
    next_obs = dynamics.predict(obs, action).next_obs
    for row in range(len(obs)):
        torch.testing.assert_close(dynamics.predict(obs[row], action[row]).next_obs, next_obs[row])
    assert torch.equal(next_obs[[0, 3]], obs[[0, 3]])
    assert next_obs[1, 0] < 2.5 and next_obs[2, 0] == 2.5 and next_obs[2, 3] == 0 and next_obs[4, 0] > 0


# ---------------------------------------------------------------------------------- MBBLCartPole


def test_each_push_is_that_of_cartpole_v1():
    env, original = _made(MBBL_CART_POLE), _made("CartPole-v1")
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        assert np.array_equal(obs, original.reset(seed=seed)[0])
        for action in _actions(env, 300, seed=seed):
            before = env.state
            original.state, original.steps_beyond_terminated = before, None
            expected = original.step(int(action[0] > 0))[0]
            obs, reward, terminated, truncated, _ = env.step(action)
            assert np.array_equal(obs, expected) and not terminated and not truncated
            assert reward == np.cos(before[2]) - 0.01 * before[0] ** 2
    assert np.abs(env.state[2]) > 1  # fallen long ago


@pytest.mark.parametrize(
    ("action", "direction"), [(1e-6, 1), (1.0, 1), (5.0, 1), (0.0, -1), (-0.0, -1), (-1e-6, -1), (-1.0, -1)]
)
def test_only_the_sign_counts_and_0_pushes_left(action, direction):
    env = _made(MBBL_CART_POLE, state=np.zeros(4))
    velocity = env.step(np.array([action]))[0][1]
    assert np.sign(velocity) == direction
    said = KnownDynamics.for_env("mbrl_wrappers/MBBLCartPole-v0").predict(torch.zeros(4), torch.tensor([action]))
    assert float(said.next_obs[1]) == pytest.approx(velocity)
    assert abs(velocity) == pytest.approx(0.02 * 10 / 1.1 * (1 + 0.05 / 1.1 / (2 / 3 - 0.05 / 1.1)))


def test_the_best_return_is_just_below_200():
    env = gym.make(MBBL_CART_POLE)
    obs, _ = env.reset(seed=0)
    total, truncated = 0.0, False
    while not truncated:
        position, velocity, angle, angle_velocity = obs
        lean = 10 * angle + 2 * angle_velocity + 0.3 * position + 0.6 * velocity
        obs, reward, _, truncated, _ = env.step(np.array([np.sign(lean)]))
        total += reward
    assert 199 < total < 200


# -------------------------------------------------------------------------- MBBLInvertedPendulum


def test_each_step_is_that_of_inverted_pendulum_v5():
    env, original = gym.make(MBBL_PENDULUM), gym.make("InvertedPendulum-v5").unwrapped
    assert env.observation_space == original.observation_space and env.action_space == original.action_space
    obs, _ = env.reset(seed=3)
    assert np.array_equal(obs, original.reset(seed=3)[0])
    for action in _actions(env, 100):
        angle = obs[1]
        obs, reward, terminated, _, _ = env.step(action)
        assert np.array_equal(obs, original.step(action)[0]) and not terminated
        assert reward == -(angle**2)
    assert abs(obs[1]) > 0.2  # where Gymnasium's episode ends


def test_the_best_return_is_0_and_a_fallen_pole_goes_on():
    env = _made(MBBL_PENDULUM)
    env.set_state(np.zeros(2), np.zeros(2))
    # the pole's capsule is tilted by 0.001 m, so it leaves the vertical slowly when left alone
    first = env.step(np.zeros(1, np.float32))
    assert first[1] == 0 and not first[2]
    env.set_state(np.array([0.0, 1.2]), np.zeros(2))
    for _ in range(100):
        _, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        assert reward <= 0 and not terminated and not truncated


def test_a_balancing_policy_loses_almost_nothing():
    env = gym.make(MBBL_PENDULUM)
    obs, _ = env.reset(seed=0)
    total, truncated = 0.0, False
    while not truncated:
        position, angle, velocity, angle_velocity = obs
        action = 8 * angle + 1.5 * angle_velocity + 0.3 * position + 0.5 * velocity
        obs, reward, _, truncated, _ = env.step(np.array([np.clip(action, -3, 3)], np.float32))
        total += reward
    assert -0.05 < total <= 0
