"""Every off-policy agent of Stable-Baselines3 and sb3-contrib, with what people combine them with.

Each combination really trains on imagined rows, is saved, loaded and trained on.
"""

from __future__ import annotations

import copy
import csv
import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mbrl_wrappers.agents import Dyna
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.imagination.callback import default_dynamics
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.zoo.training.building import build_agent
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.recipe import Recipe
from testing.agents import make_agent
from testing.envs import Walk

ALGORITHMS = {kind.__name__: kind for kind in (SAC, TD3, DDPG, DQN, TQC, CrossQ, QRDQN)}


def model_based(env: Any) -> Any:
    dynamics = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=3, num_elites=2, hidden=(16, 16), max_steps=20
    )
    return ModelBased(Dyna(0.25, rollouts_per_step=3, rollout_length=2, epoch_length=50), dynamics, fit_every=25)


def parameters(agent: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in agent.policy.named_parameters()}


def assert_trained(agent: Any, before: dict[str, torch.Tensor]) -> None:
    """Check that a gradient has reached every network, and that all numbers are finite."""
    after = parameters(agent)
    assert all(torch.isfinite(value).all() for value in after.values())
    networks = {name.split(".")[0] for name in before}
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == networks
    assert torch.isfinite(torch.as_tensor(agent.replay_buffer.rewards)).all()


def assert_trains_saves_and_goes_on(agent: Any, env_again: Any, folder: Path, steps: int = 60) -> Any:
    """Take an agent through its life; returns it as it is at the end."""
    before = parameters(agent)
    callback = model_based(agent.env)
    agent.learn(steps, callback=callback)
    assert_trained(agent, before)
    assert agent.model_based is callback and len(callback.strategy._buffer) > 0
    obs = callback.dynamics.start_obs[:5]
    action = callback.dynamics.action_codec.encode(np.array([agent.action_space.sample() for _ in range(5)]))
    said = callback.dynamics.predict(obs, action, generator=torch.Generator().manual_seed(0))

    agent.save(folder / "agent")
    agent.save_replay_buffer(folder / "buffer")
    loaded = type(agent).load(folder / "agent", env=env_again, device="cpu")
    says = loaded.model_based.dynamics.predict(obs, action, generator=torch.Generator().manual_seed(0))
    for field in ("next_obs", "reward", "terminated", "uncertainty"):
        assert torch.equal(getattr(says, field), getattr(said, field)), field
    loaded.load_replay_buffer(folder / "buffer")
    assert type(loaded.replay_buffer) is type(agent.replay_buffer)
    before, done = parameters(loaded), loaded.num_timesteps
    loaded.learn(30, callback=loaded.model_based, reset_num_timesteps=False)
    assert loaded.num_timesteps >= done + 30
    assert_trained(loaded, before)
    return loaded


# -- agents and their options --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALGORITHMS.values(), ids=ALGORITHMS)
def test_every_agent(kind, tmp_path):
    agent = make_agent(kind)
    assert_trains_saves_and_goes_on(agent, Walk(discrete=kind in (DQN, QRDQN)), tmp_path)


OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "n-step returns": (SAC, {"n_steps": 3}),
    "n-step returns of TQC": (TQC, {"n_steps": 3}),
    "n-step returns of DQN": (DQN, {"n_steps": 3}),
    "as many updates as steps": (SAC, {"train_freq": 5, "gradient_steps": -1}),
    "many updates a step": (SAC, {"gradient_steps": 4}),
    "after each episode": (SAC, {"train_freq": (1, "episode"), "gradient_steps": -1}),
    "state-dependent exploration": (SAC, {"use_sde": True, "sde_sample_freq": 4}),
    "fixed entropy coefficient": (SAC, {"ent_coef": 0.1}),
    "Gaussian noise": (TD3, {"action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))}),
    "correlated noise": (DDPG, {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.1 * np.ones(1))}),
    "a batch of one": (SAC, {"batch_size": 1}),
    "a wrapped-around buffer": (SAC, {"buffer_size": 30}),
    "memory-saving buffer": (
        SAC, {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    ),
}  # fmt: skip


# Stable-Baselines3 says so of the buffer class that it chose itself, when it loads such an agent.
@pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored:UserWarning")
@pytest.mark.filterwarnings("ignore:optimize_memory_usage=True keeps no last observation:UserWarning")
@pytest.mark.parametrize(("kind", "options"), OPTIONS.values(), ids=OPTIONS)
def test_options_of_agents(kind, options, tmp_path):
    agent = make_agent(kind, **options)
    assert (type(agent.replay_buffer) is NStepReplayBuffer) == ("n_steps" in options)
    assert_trains_saves_and_goes_on(agent, Walk(discrete=kind is DQN), tmp_path)


SHARED_BY = {
    "SAC with and without gSDE": [(SAC, {"use_sde": True}), (SAC, {})],
    "DDPG and TD3": [(DDPG, {}), (TD3, {})],
    "QR-DQN and DQN": [(QRDQN, {}), (DQN, {})],
    "TQC and SAC": [(TQC, {}), (SAC, {})],
}


@pytest.mark.parametrize("agents", SHARED_BY.values(), ids=SHARED_BY)
def test_two_agents_share_one_policy_kwargs(agents, tmp_path):
    shared = {"net_arch": [16, 16]}
    made = [make_agent(kind, policy_kwargs=shared, **options) for kind, options in agents]
    assert all(agent.policy_kwargs is shared for agent in made)
    # SB3 itself writes use_sde, n_critics or optimizer_class into it when it constructs; after that nobody does.
    before = copy.deepcopy(shared)
    for number, agent in enumerate(made):
        weights, callback = parameters(agent), model_based(agent.env)
        agent.learn(60, callback=callback)
        assert_trained(agent, weights)
        assert len(callback.strategy._buffer) > 0
        agent.save(tmp_path / str(number))
        assert agent.policy_kwargs is shared and shared == before


@pytest.mark.parametrize(("algo", "options"), [("SAC", {"use_sde": True}), ("DDPG", {}), ("QRDQN", {})])
def test_agents_of_one_recipe_share_nothing(algo, options):
    env = Walk(discrete=algo == "QRDQN")
    recipe = Recipe(
        algo=algo,
        steps=10,
        agent={"policy_kwargs": {"net_arch": [16, 16]}, **options},
        strategy={},
        model_based={},
        dynamics={},
    )
    before = copy.deepcopy(recipe)
    spec = JobSpec(env="", recipe=recipe, model=False, seed=0, steps=10, eval_freq=10)
    one, two = (build_agent(spec, env)[0] for _ in range(2))
    assert recipe == before
    assert one.policy_kwargs == two.policy_kwargs != recipe.agent["policy_kwargs"]
    assert one.policy_kwargs is not two.policy_kwargs


def test_a_memory_saving_buffer_with_a_learned_termination_is_warned_of_once(tmp_path):
    options = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    agent = make_agent(SAC, **options)
    callback = model_based(agent.env)
    with pytest.warns(UserWarning, match="give the model a termination_fn") as caught:
        agent.learn(30, callback=callback)
        agent.learn(10, callback=callback, reset_num_timesteps=False)
    assert len(caught) == 1


# -- environments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SAC, TD3, DQN, CrossQ])
def test_several_envs_at_once(kind, tmp_path):
    def make() -> DummyVecEnv:
        return DummyVecEnv([lambda: Walk(discrete=kind is DQN)] * 3)

    noise = {"action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))} if kind is TD3 else {}
    assert_trains_saves_and_goes_on(make_agent(kind, make(), gradient_steps=-1, **noise), make(), tmp_path, steps=90)


def test_envs_in_processes_of_their_own(tmp_path):
    env = SubprocVecEnv([functools.partial(gym.make, "Pendulum-v1")] * 2, start_method="spawn")
    agent = make_agent(env=env)
    assert default_dynamics(agent, 0).termination_name == "Pendulum-v1"
    assert_trains_saves_and_goes_on(agent, env, tmp_path)
    env.close()


FORMS = {"float64": "double", "discrete": "cell", "dict": "dict"}


@pytest.mark.parametrize("kind", [SAC, DQN])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_observation(form, kind, tmp_path):
    env, again = Walk(form, kind is DQN), Walk(form, kind is DQN)
    agent = make_agent(kind, env)
    assert type(agent.replay_buffer) is (DictReplayBuffer if form == "dict" else ReplayBuffer)
    assert_trains_saves_and_goes_on(agent, again, tmp_path)


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer will be truncated:UserWarning")
@pytest.mark.parametrize("num_envs", [1, 3])
def test_hindsight(num_envs, tmp_path):
    def make() -> DummyVecEnv:
        return DummyVecEnv([lambda: Walk("goal")] * num_envs)

    agent = make_agent(SAC, make(), replay_buffer_class=HerReplayBuffer, learning_starts=40)
    loaded = assert_trains_saves_and_goes_on(agent, make(), tmp_path, steps=80)
    assert type(loaded.replay_buffer) is HerReplayBuffer


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("form", ["box", "goal"])
def test_vec_normalize(form, num_envs, tmp_path):
    def make() -> VecNormalize:
        return VecNormalize(DummyVecEnv([lambda: Walk(form)] * num_envs), norm_obs=True, norm_reward=True)

    again = make()
    loaded = assert_trains_saves_and_goes_on(make_agent(env=make()), again, tmp_path, steps=60)
    assert loaded.get_vec_normalize_env() is again
    # The model sees raw observations: its normaliser knows their spread.
    dynamics = loaded.model_based.dynamics
    raw = dynamics.obs_codec.encode(
        {key: loaded.replay_buffer.observations[key][: loaded.replay_buffer.pos, 0] for key in again.observation_space}
        if form == "goal"
        else loaded.replay_buffer.observations[: loaded.replay_buffer.pos, 0]
    )
    width = raw.shape[1]
    np.testing.assert_allclose(dynamics.input_normalizer.std[:width].numpy(), raw.std(0).numpy(), rtol=0.5)


# -- other callbacks, progress bar, loggers ------------------------------------------------------------------


def test_evaluation_and_checkpoint_callbacks(tmp_path):
    env = Walk()
    agent = make_agent(env=env)
    evaluate = EvalCallback(
        Monitor(Walk()), eval_freq=20, n_eval_episodes=2, best_model_save_path=str(tmp_path / "best"), verbose=0
    )
    save = CheckpointCallback(40, str(tmp_path), name_prefix="walk", save_replay_buffer=True)
    callback = model_based(env)
    agent.learn(80, callback=[evaluate, callback, save])
    assert len(callback.strategy._buffer) > 0 and evaluate.best_mean_reward > -np.inf

    # Loaded while training went on, by one who does not care for the model: a plain agent, a plain buffer.
    loaded: Any = SAC.load(tmp_path / "walk_40_steps", env=Walk(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "walk_replay_buffer_40_steps")
    assert type(loaded.replay_buffer) is ReplayBuffer and loaded.replay_buffer.size() == 39
    before = parameters(loaded)
    loaded.learn(30, reset_num_timesteps=False)
    assert_trained(loaded, before)
    assert loaded.num_timesteps == 70

    best: Any = SAC.load(tmp_path / "best" / "best_model", device="cpu")
    assert best.model_based.dynamics.start_obs.shape[1] == 2


def test_a_callback_that_stops_training(tmp_path):
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 50

    agent = make_agent()
    agent.learn(200, callback=[model_based(agent.env), Stop()])
    assert agent.num_timesteps == 50 and type(agent.replay_buffer) is ReplayBuffer


def test_progress_bar():
    agent = make_agent()
    agent.learn(40, callback=model_based(agent.env), progress_bar=True)
    assert agent.num_timesteps == 40


def test_loggers(tmp_path):
    agent = make_agent()
    agent.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    agent.learn(80, callback=model_based(agent.env), log_interval=1)
    agent.logger.close()
    keys = {
        "dynamics/holdout_error", "dynamics/train_loss", "dynamics/grad_steps", "dynamics/rows", "dynamics/fit_seconds",
        "imagination/rollout_length", "imagination/rows", "imagination/buffer_rows", "imagination/terminated",
        "imagination/diverged", "imagination/seconds",
    }  # fmt: skip
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert keys <= set(rows[0])
    assert {float(row["dynamics/rows"]) for row in rows if row["dynamics/rows"]} == {20, 45, 70}
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert keys <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("imagination/rollout_length")] == [2, 2, 2]


def test_a_registered_env_by_its_id(tmp_path):
    env = gym.make("Pendulum-v1")
    agent = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16, 16]}, device="cpu")
    dynamics = EnsembleDynamics.for_env(env, num_members=2, num_elites=1, hidden=(8,), max_steps=5)
    assert dynamics.termination_name == "Pendulum-v1"
    agent.learn(110, callback=ModelBased(Dyna(real_ratio=0.05, rollouts_per_step=1), dynamics))
    agent.save(tmp_path / "pendulum")
    loaded: Any = SAC.load(tmp_path / "pendulum", env=env, device="cpu")
    assert loaded.model_based.dynamics.observation_space == loaded.observation_space
