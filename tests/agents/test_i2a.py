"""I2A: it learns from what is imagined, its model learns from it alone, and it comes back as it was."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from torch import Tensor

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import I2A
from mbrl_wrappers.envs import GamesVecEnv
from mbrl_wrappers.imagination import load_checkpoint, save_checkpoint
from mbrl_wrappers.imagination.replay_experience import ReplayExperience
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models import CopyDynamics, FrameDynamics, SokobanDynamics
from mbrl_wrappers.models.frame_baselines import _FixedFrames
from mbrl_wrappers.tasks.grids import Sokoban, SokobanGames
from mbrl_wrappers.types import Prediction
from mbrl_wrappers.zoo.environment import SeededEpisodes
from testing.envs import Still
from testing.models import global_generators

EXTRACTOR = {"channels": 4, "features_dim": 8, "rollout_channels": 4, "frame_features": 8, "rollout_features": 8}


def games_env(count: int = 4, limit: int = 20) -> GamesVecEnv:
    return GamesVecEnv(SokobanGames(count, size=5, num_boxes=1, levels=(0, 50), max_episode_steps=limit), seed=0)


def make_agent(env: Any = None, dynamics: Any = SokobanDynamics, **kwargs: Any) -> I2A:
    env = games_env() if env is None else env
    if isinstance(dynamics, type):
        dynamics = dynamics.for_env(env)  # type: ignore[attr-defined]
    arguments: dict[str, Any] = {
        "length": 2, "n_steps": 4, "seed": 0, "device": "cpu",
        "policy_kwargs": {"features_extractor_kwargs": dict(EXTRACTOR), "rollout_policy_channels": 4},
    }  # fmt: skip
    return I2A("CnnPolicy", env, dynamics=dynamics, **(arguments | kwargs))


def learner(env: Any, **kwargs: Any) -> FrameDynamics:
    small = {"channels": 4, "blocks": 1, "most_kinds": 8, "most_rewards": 8, "max_steps": 20, "min_epoch_steps": 10}
    return FrameDynamics.for_env(env, **(small | kwargs))


def state_of(agent: I2A) -> dict[str, Tensor]:
    state = {f"policy.{name}": value for name, value in agent.policy.state_dict().items()}
    state |= {f"model.{name}": value for name, value in agent.dynamics.state_dict().items()}
    for kind in ("optimizer", "rollout_optimizer"):
        for index, moments in getattr(agent.policy, kind).state_dict()["state"].items():
            state |= {f"{kind}.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    return {name: value.clone() for name, value in state.items()}


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


# -- gradients -----------------------------------------------------------------------------------------------


def test_the_gradient_reaches_the_rollout_encoder_and_never_the_model() -> None:
    env = games_env()
    model = learner(env)
    agent = make_agent(env, model, first_fit=16)
    agent.learn(32)  # the model is fitted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.zero_grad()
    agent.learn(16, reset_num_timesteps=False)
    agent.policy.zero_grad()
    buffer = agent.rollout_buffer
    batch = next(iter(buffer.get()))
    values, log_prob, _ = agent.policy.evaluate_actions(batch.observations, batch.actions.long().flatten())
    (values.mean() + log_prob.mean()).backward()
    extractor: Any = agent.policy.features_extractor
    for part in (extractor.frames, extractor.rollouts, extractor.model_free):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
    for frozen in (model, agent.policy.rollout_policy):
        assert all(parameter.grad is None for parameter in frozen.parameters())
    assert_same(before, dict(model.state_dict()))


def test_the_rollout_policy_imitates_the_agent_and_nothing_else_is_changed() -> None:
    agent = make_agent()
    agent.learn(16)
    agent.rollout_buffer.actions[:] = 2
    others = {name: value.clone() for name, value in agent.policy.named_parameters() if "rollout_policy" not in name}
    for _ in range(200):
        agent._distil()
    frames = torch.as_tensor(games_env().reset()).float() / 255
    assert (agent.policy.rollout_policy(frames).argmax(1) == 2).all()
    assert all(torch.equal(others[name], value) for name, value in agent.policy.named_parameters() if name in others)
    held = {id(parameter) for group in agent.policy.optimizer.param_groups for parameter in group["params"]}
    assert not held & {id(parameter) for parameter in agent.policy.rollout_policy.parameters()}


# -- the model -----------------------------------------------------------------------------------------------


def test_a_model_is_fitted_to_the_agents_own_steps_and_used_by_a_new_policy() -> None:
    env = games_env(limit=7)
    agent: Any = make_agent(env, learner(env), first_fit=160, fit_rows=100)
    agent.learn(160)
    assert agent.dynamics.num_starts == 0
    obs = env.reset()
    assert np.array_equal(agent.imagine(obs)["frames"][:, 1, 0], obs)  # copies
    real = ReplayExperience(agent.replay_buffer, AgentView(agent, agent.dynamics), agent.dynamics).rows()
    assert len(real) == 100
    said = SokobanDynamics.for_env(env).predict(real.obs, real.action)
    assert torch.equal(said.next_obs, real.next_obs) and torch.equal(said.terminated, real.terminated)
    torch.testing.assert_close(said.reward, real.reward)
    first_policy = agent.policy
    agent.learn(16, reset_num_timesteps=False)
    assert agent.policy is not first_policy and agent._core.rollout_policy is agent.policy.rollout_policy
    assert agent.dynamics.num_starts > 0 and agent._num_fits == 1 and agent.replay_buffer is None
    assert agent._core.dynamics is agent.dynamics


def test_further_fits_follow_if_asked_for() -> None:
    env = games_env()
    agent = make_agent(env, learner(env), first_fit=32, fit_every=32, fit_rows=64)
    agent.learn(160)
    assert agent._num_fits == 4 and agent.replay_buffer is not None and agent.replay_buffer.full


def test_fits_go_on_in_a_second_learn_and_wait_for_data_after_loading(tmp_path: Path) -> None:
    env = games_env()
    agent: Any = make_agent(env, learner(env), first_fit=32, fit_every=32, fit_rows=64)
    agent.learn(80)
    assert agent._num_fits == 2
    agent.learn(80)  # its steps are counted from 0 again
    assert agent._num_fits == 4
    agent.save(tmp_path / "agent.zip")
    loaded: Any = I2A.load(tmp_path / "agent.zip", env=env, device="cpu")
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded._num_fits == 4 and loaded.replay_buffer.size() * 4 == 32
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded._num_fits == 5


def test_an_agent_loaded_before_its_first_fit_gathers_the_data_for_it(tmp_path: Path) -> None:
    env = games_env()
    make_agent(env, learner(env), first_fit=160, fit_rows=64).learn(160).save(tmp_path / "agent.zip")
    loaded: Any = I2A.load(tmp_path / "agent.zip", env=env, device="cpu")
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded._num_fits == 0 and loaded.replay_buffer.size() * 4 == 64
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded._num_fits == 1 and loaded.dynamics.num_starts > 0


def test_rollouts_follow_the_agents_own_rollout_policy() -> None:
    agent = make_agent(length=4)
    last: Any = agent.policy.rollout_policy[-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([-50.0, 50.0, -50.0, -50.0])
    played = SokobanGames(4, size=5, num_boxes=1, levels=(0, 50))
    played.seed([0, 1, 2, 3])  # none of these levels is solved below
    played.reset()
    obs = played.observations()
    frames = agent.imagine(obs, deterministic=False)["frames"]
    for step in range(4):
        over = played.step(np.full(4, 3 if step == 0 else 1)).terminated
        assert not over.any() and np.array_equal(frames[:, 3, step], played.observations())
    # And while it learns: a further step down changes no frame once the player stands at a wall or a box.
    agent.policy.rollout_optimizer.param_groups[0]["lr"] = 0.0
    agent.learn(16)
    kept = agent.rollout_buffer.observations["frames"]  # [T B, A, length, C, H, W]
    replayed = SokobanDynamics.for_env(games_env())
    flat = torch.as_tensor(kept[..., 0, :, :, :].reshape(-1, obs[0].size))
    down = torch.eye(4)[torch.ones(len(flat), dtype=torch.long)]
    after = replayed.predict(flat, down)
    goes_on = (kept[..., 0, 2, :, :].reshape(len(flat), -1) > kept[..., 0, 1, :, :].reshape(len(flat), -1)).any(1)
    expected = torch.where(torch.as_tensor(goes_on)[:, None], after.next_obs, flat)
    assert np.array_equal(kept[..., 1, :, :, :].reshape(len(flat), -1), expected.numpy())


def test_a_model_that_was_fitted_before_serves_from_the_first_step() -> None:
    env = games_env()
    model = learner(env)
    make_agent(env, model, first_fit=32).learn(48)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    agent = make_agent(env, model, first_fit=1)
    agent.learn(32)
    assert agent._core.dynamics is model and agent._num_fits == 0 and agent.replay_buffer is None
    assert_same(before, dict(model.state_dict()))


def test_the_default_model_is_learned() -> None:
    agent = make_agent(dynamics=None)
    assert isinstance(agent.dynamics, FrameDynamics) and agent._is_learning_model()


def test_the_models_rewards_are_the_envs_own_under_vec_normalize() -> None:
    env: Any = VecNormalize(games_env(), norm_obs=False)
    agent: Any = make_agent(env, learner(games_env()), first_fit=1000)
    agent.learn(64)
    rewards = agent.replay_buffer.rewards[: agent.replay_buffer.pos]
    assert np.isin(rewards.round(1), np.float32([-0.1, 0.9, -1.1, 10.9])).all()


# -- acting --------------------------------------------------------------------------------------------------


def test_predict_takes_the_envs_own_observations_and_leaves_training_alone() -> None:
    agent = make_agent()
    agent.learn(16)
    obs, before = games_env(6).reset(), global_generators()
    actions, _ = agent.predict(obs, deterministic=True)
    assert actions.shape == (6,)
    assert [int(agent.predict(one, deterministic=True)[0]) for one in obs] == actions.tolist()
    assert all(np.array_equal(a, b) for a, b in zip(before[0], global_generators()[0], strict=True))
    assert len(np.unique([agent.predict(obs[0])[0] for _ in range(40)])) > 1
    with pytest.raises(ValueError, match="observation must be the env's own, an array, got a dict with"):
        agent.predict(agent.imagine(obs))
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        agent.predict(obs[:, :, :4])


def test_callbacks_evaluate_in_plain_envs(tmp_path: Path) -> None:
    evaluation = EvalCallback(VecMonitor(games_env(2)), n_eval_episodes=2, eval_freq=4, verbose=0, log_path=tmp_path)
    make_agent(VecMonitor(games_env())).learn(64, callback=evaluation)
    assert len(evaluation.evaluations_timesteps) == 4


# -- learning ------------------------------------------------------------------------------------------------


class Riddle(gym.Env):
    """Reward for the one action that a parity of the frame's pixels names; the next frame is as random."""

    observation_space = spaces.Box(0, 255, (3, 5, 5), np.uint8)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._frame = self._drawn()
        return self._frame, {}

    def _drawn(self) -> np.ndarray:
        return (self.np_random.integers(2, size=(3, 5, 5)) * 255).astype(np.uint8)

    def step(self, action: Any) -> Any:
        reward = float(action == int(answer(torch.as_tensor(self._frame.reshape(1, -1)))))
        self._frame = self._drawn()
        return self._frame, reward, False, bool(self.np_random.random() < 0.1), {}


def answer(obs: Tensor) -> Tensor:
    return (obs > 0)[:, :40].sum(1) % 2 + 2 * ((obs > 0)[:, 20:].sum(1) % 2)


class Oracle(_FixedFrames):
    """Knows the reward, and nothing of the next frame."""

    def predict(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
        reward = (action.argmax(1) == answer(obs)).float()
        return Prediction(obs, reward, torch.zeros_like(reward, dtype=torch.bool), torch.zeros_like(reward))


@pytest.mark.parametrize(("kind", "low", "high"), [(Oracle, 0.75, 1.0), (CopyDynamics, 0.1, 0.45)])
def test_what_is_imagined_is_made_use_of(kind: Any, low: float, high: float) -> None:
    """A riddle that no small network reads off the frame is easy for an agent that looks at imagined rewards."""
    env = VecMonitor(DummyVecEnv([Riddle] * 16))
    agent = make_agent(env, kind, n_steps=5, learning_rate=3e-3, gamma=0.0, length=1)
    agent.learn(5_000)
    episodes = list(agent.ep_info_buffer or [])
    assert low < sum(info["r"] for info in episodes) / sum(info["l"] for info in episodes) <= high


@pytest.mark.parametrize("name", ["A2C", "PPO"])
def test_both_learners_train_all_but_the_model(name: str) -> None:
    agent = make_agent(learner=name, batch_size=8, n_epochs=2)
    before = state_of(agent)
    agent.learn(32)
    after = state_of(agent)
    assert all(not torch.equal(before[key], after[key]) for key in before if key.startswith("policy."))
    assert agent._n_updates == (2 if name == "A2C" else 4)
    if name == "A2C":
        assert isinstance(agent.policy.optimizer, torch.optim.RMSprop)


# -- files ---------------------------------------------------------------------------------------------------


def one_game(episode: int) -> gym.Env:
    env = gym.wrappers.TimeLimit(Sokoban(size=5, num_boxes=1, levels=(0, 50)), 9)
    return SeededEpisodes(env, seed=3, episode=episode)


@pytest.mark.parametrize("name", ["A2C", "PPO"])
def test_a_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """With the model's first fit, to steps from before and after the checkpoint, still to come."""
    env = one_game(0)
    agent = make_agent(env, learner(env), first_fit=60, fit_every=20, learner=name, batch_size=4)
    agent.learn(40)
    save_checkpoint(agent, tmp_path / "checkpoint", {"steps": 40})
    agent.set_env(one_game(100))
    agent.learn(60, reset_num_timesteps=False)

    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - another process would have other generators
    again = load_checkpoint(I2A, tmp_path / "checkpoint", one_game(100), device="cpu")
    again.learn(60, reset_num_timesteps=False)
    assert (again.num_timesteps, again._num_fits) == (agent.num_timesteps, agent._num_fits) == (100, 2)
    assert_same(state_of(again), state_of(agent))


def test_checkpoints_hold_agents_without_a_buffer_too(tmp_path: Path) -> None:
    agent = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(20)
    save_checkpoint(agent, tmp_path / "checkpoint")
    again = load_checkpoint(A2C, tmp_path / "checkpoint", agent.env, device="cpu")
    state = agent.policy.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.policy.state_dict().items())


@pytest.mark.parametrize("way", ["SB3", "zoo"])
def test_agents_come_back_from_files(way: str, tmp_path: Path) -> None:
    env = gym.make("mbrl_wrappers/Sokoban-v0", size=5, num_boxes=1, levels=(0, 50))
    agent = make_agent(env, learner(env), first_fit=20, length=3, ent_coef=0.02)
    agent.learn(40)
    if way == "SB3":
        agent.save(tmp_path / "agent.zip")
        loaded: Any = I2A.load(tmp_path / "agent.zip", env=env, device="cpu")
    else:
        zoo.save(agent, tmp_path / "agent", episodes=0)
        loaded = zoo.load(tmp_path / "agent", device="cpu")
    obs = games_env(6).reset()
    mine, its = agent.imagine(obs), loaded.imagine(obs)
    assert all(np.array_equal(mine[key], its[key]) for key in mine)
    assert loaded.dynamics.num_starts == agent.dynamics.num_starts > 0  # the model was fitted, and is the same
    for one, two in zip(agent.dynamics.parameters(), loaded.dynamics.parameters(), strict=True):
        assert one.equal(two)
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    assert (loaded.length, loaded.ent_coef, loaded.num_timesteps) == (3, 0.02, 40)
    loaded.learn(8, reset_num_timesteps=False)
    assert loaded.num_timesteps == 48 and loaded._num_fits == agent._num_fits


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learner": "TRPO"}, r"learner must be one of \('A2C', 'PPO'\), got 'TRPO'"),
        ({"length": 0}, "length must be a whole number of at least 1, got 0"),
        ({"first_fit": -1}, "first_fit must be a whole number of at least 1, got -1"),
        ({"fit_every": 0}, "fit_every must be a whole number of at least 1, got 0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"device": "nowhere"}, "device must be one that this machine has"),
        ({"dynamics": "CopyDynamics"}, "dynamics must be a model, such as .*, got 'CopyDynamics'"),
        *(
            (
                {"policy_kwargs": {"features_extractor_kwargs": {name: 0}}},
                f"^{name} must be a whole number of at least 1",
            )
            for name in ("channels", "features_dim", "rollout_channels", "frame_features", "rollout_features")
        ),
        ({"policy_kwargs": {"rollout_policy_channels": 0}}, "^rollout_policy_channels must be a whole number of at le"),
        ({"dynamics": SokobanDynamics.for_env(Sokoban(size=6))}, "dynamics.observation_space must equal the env's"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPole-v1", "observation_space must be one frame of uint8, got Box"),
        ("Pendulum-v1", "action_space must be Discrete, got Box"),
    ],
)
def test_other_envs_are_refused(env: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(env, None)


def test_normalized_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="must equal the env's Box"):
        make_agent(VecNormalize(games_env()), SokobanDynamics.for_env(games_env()))


def test_frames_of_too_many_colours_are_refused_before_anything_is_learned() -> None:
    env = DummyVecEnv([lambda: Still(spaces.Box(0, 255, (3, 20, 20), np.uint8), spaces.Discrete(2))])
    agent = I2A("CnnPolicy", env, first_fit=1000, length=2, device="cpu")
    with pytest.raises(ValueError, match=r"frames must have at most 255 kinds of pixels, .* got \d+; take an RSSM"):
        agent.learn(10)


def test_an_agent_that_has_learned_is_pickled() -> None:
    agent = make_agent().learn(40)
    again = pickle.loads(pickle.dumps(agent))
    assert_same(state_of(again), state_of(agent))
