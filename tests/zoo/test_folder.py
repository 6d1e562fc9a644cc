"""An agent's folder: what is saved comes back, what was altered is refused, and nothing in it runs."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer

from mbrl_wrappers import Dyna, EnsembleDynamics, KnownDynamics, ModelBased, zoo
from mbrl_wrappers.zoo import ZooError, registry
from mbrl_wrappers.zoo.environment import record_env
from mbrl_wrappers.zoo.registry import ALGORITHMS
from mbrl_wrappers.zoo.storage.folder import open_folder, save_agent
from mbrl_wrappers.zoo.storage.manifest import FileRecord, parse_manifest, read_manifest, write_manifest
from testing.agents import WITH_MODELS
from testing.envs import Still, Walk

DISCRETE = ("DQN", "QRDQN", "MaskablePPO")
NET = {"net_arch": [8]}


def goal_env() -> Walk:
    return Walk("goal", limit=5)


def make_agent(name: str, **kwargs: Any) -> Any:
    """A small agent of a registered class."""
    kind = ALGORITHMS[name]
    if name != "ARS":
        kwargs.setdefault("policy_kwargs", dict(NET))
    if issubclass(kind, OffPolicyAlgorithm):
        kwargs = {"learning_starts": 20, "buffer_size": 300, "batch_size": 16, **kwargs}
    elif name in ("AlphaZero", "ExIt"):
        small = {"num_games": 4, "num_simulations": 4, "learning_starts": 10, "batch_size": 16}
        return kind("MlpPolicy", "mbrl_wrappers/TicTacToe-v0", seed=1, device="cpu", **small, **kwargs)
    elif name != "ARS":
        kwargs.setdefault("n_steps", 32)
    if name in ("PPO", "RecurrentPPO", "MaskablePPO", "TRPO"):
        kwargs.setdefault("batch_size", 32)
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    env = "CartPole-v1" if name in DISCRETE else "Pendulum-v1"
    return kind(policy, env, seed=1, device="cpu", **kwargs)


def model_based(env: Any = None, **kwargs: Any) -> ModelBased:
    with gym.make("Pendulum-v1") as real:
        dynamics = EnsembleDynamics.for_env(real, hidden=(8,), num_members=2, num_elites=1, max_steps=5, **kwargs)
    return ModelBased(Dyna(rollouts_per_step=2, rollout_length=(0, 99, 1, 2)), dynamics, fit_every=30)


def keep(agent: BaseAlgorithm, folder: Path, **kwargs: Any) -> Path:
    """Save without an evaluation."""
    zoo.save(agent, folder, episodes=0, **kwargs)
    return folder


def same_weights(one: BaseAlgorithm, other: BaseAlgorithm) -> bool:
    a, b = one.policy.state_dict(), other.policy.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refused(**arguments: Any) -> str:
    """The message with which saving such a SAC is refused."""
    agent = make_agent("SAC", **arguments)
    with pytest.raises(ZooError) as refusal:
        keep(agent, Path("never"))
    assert not list(Path().glob("*never*"))
    return str(refusal.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a SAC with a model, with an evaluation."""
    agent = make_agent("SAC")
    agent.learn(60, callback=model_based())
    folder = tmp_path_factory.mktemp("zoo") / "agent"
    zoo.save(agent, folder, episodes=2)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


# -- what is saved comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALGORITHMS.keys() - WITH_MODELS))
def test_every_registered_agent_comes_back(name, tmp_path):
    agent = make_agent(name)
    if hasattr(agent, "default_strategy"):  # the model that it brings by default is a large one
        agent.learn(40, callback=ModelBased(agent.default_strategy(), model_based().dynamics))
    elif name != "MaskablePPO":  # has no env to learn in here
        agent.learn(40)
    keep(agent, tmp_path / "agent")
    loaded: Any = zoo.load(tmp_path / "agent", device="cpu")
    assert type(loaded) is type(agent)
    assert same_weights(agent, loaded)
    obs = np.stack([agent.observation_space.sample() / 1e3 for _ in range(9)])
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    assert loaded.num_timesteps == agent.num_timesteps and loaded.seed == 1
    for argument in ("gamma", "learning_rate", "policy_kwargs", "train_freq", "ent_coef", "target_entropy", "n_steps"):
        assert getattr(loaded, argument, None) == getattr(agent, argument, None), argument
    if name not in ("AlphaZero", "ExIt", "MaskablePPO"):  # their env, which holds the game, is made anew
        loaded.learn(40)


@pytest.mark.parametrize("name", ["SAC", "CompiledTD3", "DQN"])
def test_training_goes_on_where_it_stopped(name, tmp_path):
    """With the optimizer saved, the next updates are those that the agent itself would have made."""
    agent = make_agent(name)
    agent.learn(60)
    keep(agent, tmp_path / "agent", with_optimizer=True)
    loaded: Any = zoo.load(tmp_path / "agent", device="cpu")
    assert loaded.replay_buffer.size() == agent.replay_buffer.size() == 60
    for one in (agent, loaded):
        one._setup_learn(60)  # makes the logger
        np.random.seed(3)  # noqa: NPY002 - what SB3 draws from
        torch.manual_seed(3)
        one.train(5, 16)
    assert same_weights(agent, loaded)
    without: Any = zoo.load(keep(agent, tmp_path / "without"), device="cpu")
    assert without.replay_buffer.size() == 0
    smaller = [len((tmp_path / folder / "model.safetensors").read_bytes()) for folder in ("without", "agent")]
    assert smaller[0] < smaller[1] / 2


def test_a_model_based_agent_comes_back_with_its_model(tmp_path):
    agent, callback = make_agent("SAC"), model_based()
    agent.learn(60, callback=callback)
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent", with_optimizer=True), device="cpu")
    back = loaded.model_based
    assert (back.strategy.rollouts_per_step, back.strategy.rollout_length, back.fit_every) == (2, (0, 99, 1, 2), 30)
    dynamics = zoo.load_dynamics(tmp_path / "agent")
    assert dynamics.termination_name == "Pendulum-v1"
    obs, action = torch.zeros(4, 3), torch.zeros(4, 1)
    expected = callback.dynamics.predict(obs, action, deterministic=True)
    for model in (back.dynamics, dynamics):
        predicted = model.predict(obs, action, deterministic=True)
        assert torch.equal(predicted.next_obs, expected.next_obs) and torch.equal(predicted.reward, expected.reward)
    loaded.learn(60, callback=back, reset_num_timesteps=False)
    assert loaded.num_timesteps == 120


def test_layers_that_a_network_shares_are_saved_once(tmp_path):
    agent = make_agent("AlphaZero")
    aliases = [name for name in agent.policy.state_dict() if name.startswith(("pi_features_ex", "vf_features_ex"))]
    assert aliases
    folder = keep(agent, tmp_path / "agent")
    assert not {f"policy.{name}" for name in aliases} & load_file(folder / "model.safetensors").keys()
    assert same_weights(zoo.load(folder, device="cpu"), agent)


def test_weights_that_were_tied_later_come_back(tmp_path):
    agent = make_agent("SAC")
    agent.critic.qf1[0].weight = agent.critic.qf0[0].weight
    folder = keep(agent, tmp_path / "agent")
    assert "policy.critic.qf1.0.weight" not in load_file(folder / "model.safetensors")
    assert same_weights(zoo.load(folder, device="cpu"), agent)


def test_a_shared_layer_that_is_missing_is_named(tmp_path):
    folder = keep(make_agent("AlphaZero"), tmp_path / "agent")
    config = json.loads((folder / "config.json").read_bytes())
    config["shared_weights"]["vf_features_extractor.layers.1.bias"] = "elsewhere"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").unlink()
    write_manifest(folder, [file.name for file in folder.iterdir()])
    with pytest.raises(ZooError, match=r"lacks the tensor policy\.elsewhere, which is policy\.vf_features_extractor"):
        zoo.load(folder, device="cpu")


def test_a_folder_that_holds_shared_layers_under_each_of_their_names_is_loaded(tmp_path):
    """As folders did before."""
    agent = make_agent("AlphaZero")
    folder = keep(agent, tmp_path / "agent")
    tensors = {f"policy.{name}": value.contiguous().clone() for name, value in agent.policy.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_bytes())
    del config["shared_weights"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").unlink()
    write_manifest(folder, [file.name for file in folder.iterdir()])
    assert same_weights(zoo.load(folder, device="cpu"), agent)
    tensors["policy.vf_features_extractor.layers.1.bias"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    (folder / "manifest.json").unlink()
    write_manifest(folder, [file.name for file in folder.iterdir()])
    with pytest.raises(ZooError, match=r"tensor policy.vf_features_extractor.layers.1.bias must have shape"):
        zoo.load(folder, device="cpu")


def test_a_loaded_agent_without_a_buffer_starts_over_with_its_weights(saved):
    loaded: Any = zoo.load(saved, device="cpu")
    before = {name: value.clone() for name, value in loaded.model_based.dynamics.state_dict().items()}
    loaded.learn(50, callback=loaded.model_based)
    after = loaded.model_based.dynamics.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_arguments_that_are_no_literals_come_back(tmp_path):
    noises = {
        "normal": NormalActionNoise(np.zeros(1), np.full(1, 0.3)),
        "walk": OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.2), theta=0.4),
        "several": VectorizedActionNoise(NormalActionNoise(np.zeros(1), np.ones(1)), 2),
    }
    for name, noise in noises.items():
        agent = make_agent(
            "CompiledTD3",
            action_noise=noise,
            learning_rate=LinearSchedule(1e-3, 1e-4, 0.5),
            train_freq=(2, "episode"),
            policy_kwargs={"net_arch": {"pi": [4], "qf": [6]}, "activation_fn": torch.nn.Tanh, "n_critics": 3},
            compile=False,
        )
        loaded: Any = zoo.load(keep(agent, tmp_path / name), device="cpu")
        assert repr(loaded.action_noise) == repr(noise) and loaded.compile is False
        assert loaded.train_freq == agent.train_freq
        assert [loaded.lr_schedule(left) for left in (1.0, 0.75, 0.0)] == pytest.approx([1e-3, 5.5e-4, 1e-4])
        assert loaded.policy_kwargs == agent.policy_kwargs


def test_ppo_schedules_come_back(tmp_path):
    agent = make_agent("PPO", clip_range=LinearSchedule(0.3, 0.1, 1.0), learning_rate=ConstantSchedule(5e-4))
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent"), device="cpu")
    assert loaded.clip_range(0.5) == pytest.approx(0.2)
    assert loaded.lr_schedule(0.3) == 5e-4


def test_normalisers_come_back(tmp_path):
    venv = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=5.0, gamma=0.9)
    agent = sb3.SAC("MlpPolicy", venv, learning_starts=9, policy_kwargs=dict(NET), seed=0, device="cpu")
    agent.learn(250)
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent"), device="cpu")
    back = loaded.get_vec_normalize_env()
    assert (back.clip_obs, back.gamma, back.training) == (5.0, 0.9, True)
    obs = np.array([[0.1, 0.2, 3.0]], np.float32)
    assert np.array_equal(back.normalize_obs(obs), venv.normalize_obs(obs))
    assert np.array_equal(back.normalize_reward(np.ones(1)), venv.normalize_reward(np.ones(1)))
    zoo.save(agent, tmp_path / "evaluated", episodes=1)
    assert zoo.verify(tmp_path / "evaluated").status == "match"


def test_dict_observations_and_hindsight_come_back(tmp_path):
    agent = sb3.SAC(
        "MultiInputPolicy",
        goal_env(),
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2, "goal_selection_strategy": "final"},
        policy_kwargs=dict(NET),
        learning_starts=9,
        buffer_size=100,
        device="cpu",
    )
    agent.learn(30)
    folder = keep(agent, tmp_path / "agent", env=f"{__name__}:goal_env")
    blind: Any = zoo.load(folder, device="cpu")
    assert blind.replay_buffer is None and blind.replay_buffer_class is HerReplayBuffer
    obs = goal_env().reset(seed=1)[0]
    assert np.array_equal(blind.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])
    loaded: Any = zoo.load(folder, env=goal_env(), device="cpu")
    assert loaded.replay_buffer.n_sampled_goal == 2
    loaded.learn(30)
    with pytest.raises(ZooError, match="can't be saved without pickle: save without the optimizer"):
        keep(agent, tmp_path / "other", env=f"{__name__}:goal_env", with_optimizer=True)


@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 3},
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"env": 3},
    ],
    ids=["n_steps", "optimize_memory_usage", "three envs"],
)
def test_buffers_of_all_forms_come_back(options, tmp_path):
    envs = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * options.pop("env", 1))
    agent = sb3.SAC("MlpPolicy", envs, learning_starts=9, buffer_size=99, device="cpu", **options)
    agent.learn(30)
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent", with_optimizer=True), device="cpu")
    old, new = agent.replay_buffer, loaded.replay_buffer
    assert type(new) is type(old) and new.size() == old.size() and loaded.n_envs == agent.n_envs
    rows = old.pos + 1 if old.optimize_memory_usage else old.pos  # the newest next_obs lies one further on
    assert np.array_equal(new.observations[:rows], old.observations[:rows])
    assert loaded.n_steps == agent.n_steps and getattr(new, "n_steps", 1) == getattr(old, "n_steps", 1)
    loaded.learn(30, reset_num_timesteps=False)


def test_state_dependent_exploration_comes_back(tmp_path):
    agent = make_agent("SAC", use_sde=True)
    agent.learn(30)
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent"), device="cpu")
    assert torch.equal(loaded.actor.log_std, agent.actor.log_std)
    assert np.isfinite(loaded.predict(np.zeros((1, 3), np.float32))[0]).all()


def test_loading_leaves_all_random_numbers_alone(saved):
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    expected = draws()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    zoo.load(saved, device="cpu")
    zoo.load_dynamics(saved)
    assert draws() == expected


def test_a_fixed_entropy_coefficient_comes_back(tmp_path):
    agent = make_agent("SAC", ent_coef=0.3)
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent"), device="cpu")
    assert loaded.ent_coef == 0.3 and float(loaded.ent_coef_tensor) == pytest.approx(0.3)


# -- what is registered, and what is refused when it is saved -----------------------------------------


@pytest.fixture
def registries():
    """Puts the registries back as they were."""
    known = [getattr(registry, name) for name in ("AGENTS", "ALGORITHMS", "STRATEGIES", "DYNAMICS", "OBJECTS")]
    before = [dict(names) for names in known]
    yield
    for names, old in zip(known, before, strict=True):
        names.clear()
        names.update(old)


class OwnSAC(sb3.SAC):
    """An agent with an argument of its own."""

    def __init__(self, *args: Any, bonus: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bonus = bonus


class OwnDyna(Dyna):
    """A strategy that nobody knows."""


def test_an_agent_of_ones_own_is_registered_by_its_class(registries, tmp_path):
    agent = OwnSAC("MlpPolicy", "Pendulum-v1", bonus=0.5, policy_kwargs=dict(NET), device="cpu")
    with pytest.raises(ZooError, match=r"got OwnSAC: call mbrl_wrappers.zoo.register_agent\('a_name', OwnSAC\) first"):
        keep(agent, tmp_path / "agent")
    zoo.register_agent("own", OwnSAC)
    zoo.register_agent("own", OwnSAC)  # again is no mistake
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent"), device="cpu")
    assert type(loaded) is OwnSAC and loaded.bonus == 0.5
    with pytest.raises(ValueError, match=r"name must be free, but 'own' is the agent .*OwnSAC"):
        zoo.register_agent("own", OwnDyna)
    with pytest.raises(ValueError, match="kind must be a Strategy or an SB3 agent, got <class 'dict'>"):
        zoo.register_agent("dict", dict)


def test_a_strategy_of_ones_own_is_registered_by_its_class(registries, tmp_path):
    agent, callback = make_agent("SAC"), model_based()
    callback.strategy = OwnDyna(rollouts_per_step=3)
    agent.learn(30, callback=callback)
    with pytest.raises(ZooError, match="strategy must be of a registered class, got OwnDyna"):
        keep(agent, tmp_path / "agent")
    zoo.register_agent("own", OwnDyna)
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent"), device="cpu")
    assert type(loaded.model_based.strategy) is OwnDyna and loaded.model_based.strategy.rollouts_per_step == 3


def test_functions_are_registered_on_both_sides(registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def halving(left: float) -> float:
        return 1e-3 * 0.5 ** (4 * (1 - left))

    assert "learning_rate of SAC can't be saved without pickle, got <function" in refused(learning_rate=halving)
    assert "register('a_name', it)" in refused(learning_rate=lambda left: 1e-3)
    zoo.register("halving", halving)
    agent = make_agent("SAC", learning_rate=halving)
    loaded: Any = zoo.load(keep(agent, tmp_path / "agent"), device="cpu")
    assert loaded.learning_rate is halving
    del registry.OBJECTS["halving"]
    with pytest.raises(ZooError, match="learning_rate needs 'halving', which is not registered here"):
        zoo.load(tmp_path / "agent")


def test_what_cannot_be_saved_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Odd(torch.nn.Module):
        pass

    nested = {"net_arch": [4], "activation_fn": Odd}
    assert "policy_kwargs of SAC['activation_fn'] can't be saved without pickle, got <class" in refused(
        policy_kwargs={"net_arch": [4], "activation_fn": torch.nn.Hardtanh}
    )
    agent = make_agent("SAC")
    agent.policy_kwargs = nested
    with pytest.raises(ZooError, match="Odd"):
        keep(agent, tmp_path / "agent")
    agent.policy_kwargs = {"$float": "1"}
    with pytest.raises(ZooError, match=r"strings without a leading '\$', got '\$float'"):
        keep(agent, tmp_path / "agent")


def test_exact_dynamics_cannot_be_saved_and_say_so(tmp_path):
    agent = make_agent("SAC")
    agent.learn(30, callback=ModelBased(Dyna(rollouts_per_step=2), KnownDynamics.for_env("Pendulum-v1"), fit_every=30))
    with pytest.raises(ZooError, match="dynamics must be of a registered class, got KnownDynamics"):
        keep(agent, tmp_path / "agent")


@pytest.mark.filterwarnings("ignore:.*contradicts the real environment:UserWarning")
def test_a_models_own_functions_are_registered(registries, tmp_path):
    def never(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(obs), dtype=torch.bool)

    agent = make_agent("SAC")
    agent.learn(30, callback=model_based(termination_fn=never))
    with pytest.raises(ZooError, match="termination_fn of EnsembleDynamics can't be saved without pickle"):
        keep(agent, tmp_path / "agent")
    zoo.register("never", never)
    assert zoo.load_dynamics(keep(agent, tmp_path / "agent")).termination_fn is never


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    agent = make_agent("SAC")
    with torch.no_grad():
        next(agent.actor.parameters())[0] = torch.nan
    with pytest.raises(ZooError, match=r"the tensor policy\.actor\..* must be finite"):
        keep(agent, tmp_path / "agent")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten(saved):
    agent = make_agent("SAC")
    before = {file: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(ZooError, match="folder must be new or empty, got "):
        keep(agent, saved)
    with gym.make("Pendulum-v1") as env, pytest.raises(ZooError, match="path must not hold an agent already"):
        save_agent(agent, saved, env=record_env(env, "Pendulum-v1", {}))
    assert {file: file.read_bytes() for file in saved.iterdir()} == before


def test_a_save_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    agent = make_agent("SAC")

    def fail(folder: Path, names: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mbrl_wrappers.zoo.storage.folder.write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        keep(agent, tmp_path / "agent")
    assert not list(tmp_path.iterdir())


# -- what was altered is refused ----------------------------------------------------------------------


def test_no_file_holds_a_pickle(saved):
    assert sorted(file.name for file in saved.iterdir()) == [
        "config.json",
        "env.json",
        "eval.json",
        "manifest.json",
        "model.safetensors",
    ]
    for file in saved.glob("*.json"):
        json.loads(file.read_bytes())
    assert not any(data.read_bytes()[:2] in (b"\x80\x04", b"PK") for data in saved.iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "env.json", "eval.json"])
def test_a_changed_byte_is_refused(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ZooError, match=rf"copy/{name} must have the sha256 "):
        zoo.load(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "env.json", "eval.json"])
def test_a_missing_file_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(ZooError, match=rf"copy/{name} is missing, though manifest.json lists it"):
        zoo.load(copy)


def test_a_shortened_file_is_refused(copy):
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(ZooError, match=r"copy/model.safetensors must have \d+ bytes, as manifest.json says, got \d+"):
        zoo.load_dynamics(copy)


def test_a_symbolic_link_is_refused(copy, saved):
    for name in ("config.json", "manifest.json"):
        (copy / name).unlink()
        (copy / name).symlink_to(saved / name)
        with pytest.raises(ZooError, match=name):
            zoo.load(copy)


def test_a_folder_without_a_manifest_is_no_agents(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(ZooError, match=r"must be an agent's folder or a run with one finished agent, got 0 in it"):
        zoo.load(copy)
    with pytest.raises(ZooError, match=r"must be an agent's folder, it has no manifest.json"):
        open_folder(copy)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../escape": {"sha256": 64 * "0", "size": 1}}, r"a file's name must be letters.*got '\.\./escape'"),
        ({"/etc/passwd": {"sha256": 64 * "0", "size": 1}}, r"a file's name must be letters.*got '/etc/passwd'"),
        ({"..": {"sha256": 64 * "0", "size": 1}}, r"a file's name must be letters.*got '\.\.'"),
        ({"sub/a": {"sha256": 64 * "0", "size": 1}}, "a file's name must be letters"),
        ({"a\x00b": {"sha256": 64 * "0", "size": 1}}, "a file's name must be letters"),
        ({"a": {"sha256": "0", "size": 1}}, "the record of a must be a sha256 and a size"),
        ({"a": {"sha256": 64 * "0"}}, "the record of a must be a sha256 and a size"),
        ({"a": {"sha256": 64 * "0", "size": -1}}, "the size of a must be a whole number, got -1"),
        ({"a": {"sha256": 64 * "0", "size": True}}, "the size of a must be a whole number, got True"),
        ({}, "must list files"),
        ([], "must list files"),
    ],
)
def test_a_manifest_that_names_what_it_may_not_is_refused(copy, files, message):
    (copy / "manifest.json").write_text(json.dumps({"format_version": 1, "files": files}))
    with pytest.raises(ZooError, match=message):
        zoo.load(copy)


def test_manifests_of_other_forms_are_refused(copy):
    for data, message in (
        (b"[]", "must hold a JSON object, got list"),
        (b"{", "is not JSON"),
        (100_000 * b"[", "is not JSON"),
        (b"{}", "must have the format_version 1, got None"),
        (4_000_001 * b" ", "must have at most 4000000 bytes"),
    ):
        with pytest.raises(ZooError, match=f"source {message}"):
            parse_manifest(data, "source")
    assert isinstance(read_manifest(copy)["config.json"], FileRecord)


def reseal(folder: Path) -> None:
    """Write the manifest of files as they are: a forger who owns the whole folder."""
    names = [file.name for file in folder.iterdir() if file.name != "manifest.json"]
    write_manifest(folder, names)


def forge(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "config.json") -> None:
    """Change a JSON file and fit the manifest to it."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    reseal(folder)


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


DYNAMICS = ("model_based", "dynamics")
SPACE = {"type": "Box", "shape": [4], "dtype": "float32", "low": ["0"] * 4, "high": ["1"] * 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("algorithm", value="os.system"), "the algorithm 'os.system' is not registered here"),
        (put("algorithm", value=7), "algorithm must be given, got 7"),
        (put("policy", value="os.system"), "the policy 'os.system' is not registered here"),
        (put("arguments", "nonsense", value=1), r"SAC has no arguments \['nonsense'\]"),
        (put("arguments", "env", value="os:system"), r"SAC has no arguments \['env'\]"),
        (put("arguments", "learning_rate", value={"$registered": "system"}), "learning_rate needs 'system', which is "),
        (put("arguments", "learning_rate", value={"$call": "os.system"}), "must be a literal or have one tag of"),
        (put("arguments", "learning_rate", value={"$linear": ["a"]}), r"learning_rate has an unusable \$linear"),
        (put("arguments", "action_noise", value={"$ornstein_uhlenbeck_noise": 3}), "unusable"),
        (put("arguments", "action_noise", value={"$vectorized_noise": [None, 10**9]}), "must be for at most 1024 envs"),
        (
            put("arguments", "policy_kwargs", value={"net_arch": 3000 * [1]}),
            "asks for more tensors than the file holds",
        ),
        (put("arguments", "buffer_size", value=10**15), "does not describe an agent of this version"),
        (put("arguments", "gamma", value="high"), None),
        (put("arguments", "policy_kwargs", value={"net_arch": [9]}), r"must have shape \(9, 3\).* got \(8, 3\)"),
        (put("arguments", "policy_kwargs", value={"net_arch": [10**7, 10**7]}), "asks for more tensors than the file"),
        (put("arguments", "policy_kwargs", value={"net_arch": [2**40]}), "asks for more tensors than the file holds"),
        (put("observation_space", value={"type": "Gone"}), "space type must be one of"),
        (
            put("observation_space", value={"type": "Discrete", "n": 10**12, "start": 0, "dtype": "int64"}),
            "ZooError|must",
        ),
        (put("observation_space", value=SPACE), "env must have the spaces of the agent"),
        (put("model_based", "strategy", value="os.system"), "the strategy 'os.system' is not registered"),
        (put("model_based", "arguments", "real_ratio", value=7), "real_ratio must be in"),
        (put(*DYNAMICS, "kind", value="KnownDynamics"), "the kind of model 'KnownDynamics' is not registered"),
        (
            put(*DYNAMICS, "description", "settings", "hidden", value=[9]),
            "the tensor network.weights.0 must have shape",
        ),
        (
            put(*DYNAMICS, "description", "settings", "hidden", value=[10**9]),
            "asks for more tensors than the file",
        ),
        (put(*DYNAMICS, "description", "settings", "num_members", value=10**9), "asks for more tensors than the file"),
        (
            put(*DYNAMICS, "description", "functions", "termination_fn", value="rm"),
            "termination_fn must be a callable or one",
        ),
        (put("num_envs", value=10**9), "num_envs must be in .*, got 1000000000"),
        (put("format_version", value=2), "must have the format_version 1, got 2"),
        (lambda config: config.pop("seed"), "does not describe an agent of this version: KeyError"),
        (lambda config: config.pop("counters"), "counters must be given, got None"),
    ],
)
def test_a_forged_description_is_refused(copy, change, message):
    forge(copy, change)
    if message is None:  # a value that only training would use
        loaded: Any = zoo.load(copy, device="cpu")
        assert loaded.gamma == "high"
        return
    with pytest.raises(ZooError, match=message):
        zoo.load(copy, device="cpu")


def test_forged_tensors_are_refused(copy):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    name = "policy.actor.mu.weight"
    for changed, message in (
        ({**tensors, name: torch.zeros(7, 7)}, f"the tensor {name} must have shape .* got \\(7, 7\\)"),
        ({**tensors, name: tensors[name].double()}, f"the tensor {name} must have .*float32, got .*float64"),
        ({key: value for key, value in tensors.items() if key != name}, f"lacks the tensor {name}"),
        (
            {**tensors, "policy.extra": torch.zeros(1)},
            r"tensors that its description does not ask for: \['policy.extra'",
        ),
        ({**tensors, name: tensors[name] * torch.inf}, f"the tensor {name} must be finite"),
        ({**tensors, "dynamics.start_obs": torch.zeros(5000, 3)}, "the tensor start_obs must have shape"),
        ({**tensors, "dynamics.elites": torch.tensor([99])}, "does not describe"),
    ):
        save_file(changed, file)
        reseal(copy)
        with pytest.raises(ZooError, match=message):
            zoo.load(copy, device="cpu")


HUGE = b'{"policy.a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<Q", 10 * 2**30) + b"{}", "must begin with a header of at most 4000000 bytes, got 10737418240"),
        (struct.pack("<Q", 2**63) + b"{}", "must begin with a header of at most"),
        (b"", "must begin with a header of at most"),
        (struct.pack("<Q", 2) + b"[]", "has a header that is not safetensors'"),
        (struct.pack("<Q", 2) + b"{}" + b"rest", "must hold the 0 bytes of its header's tensors, got 4"),
        (
            struct.pack("<Q", len(HUGE)) + HUGE,
            "must hold the 4000000000000 bytes of its header's tensors, got 0",
        ),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(copy, data, message):
    (copy / "model.safetensors").write_bytes(data)
    reseal(copy)
    for load in (zoo.load, zoo.load_dynamics):
        with pytest.raises(ZooError, match=f"copy/model.safetensors {message}"):
            load(copy)


class Payload:
    """What a pickle would run when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_planted_payload_never_runs(copy, tmp_path):
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # so it would run
    mark.unlink()
    for name in ("model.safetensors", "config.json", "env.json", "eval.json", "manifest.json"):
        folder = Path(shutil.copytree(copy, tmp_path / f"with_{name}"))
        torch.save(Payload(mark), folder / name)
        if name != "manifest.json":
            reseal(folder)
        with pytest.raises(ZooError, match=name):
            zoo.load(folder)
    forge(copy, put("name", value="os:system"), "env.json")
    with pytest.raises(ZooError, match="device must be one of this machine's, or 'auto', got 'gone'"):
        zoo.load(copy, device="gone")
    loaded: Any = zoo.load(copy, device="cpu")  # the env is looked up, and not found
    assert loaded.env is None
    with pytest.raises(ZooError, match="env 'os:system' is not registered with Gymnasium here"):
        zoo.evaluate(copy)
    forge(copy, put("name", value="InvertedPendulum-v5"), "env.json")
    forge(copy, put("kwargs", value={"xml_file": "/etc/passwd"}), "env.json")
    with pytest.raises(ZooError, match="would be made with the path '/etc/passwd' of a file's"):
        zoo.evaluate(copy)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("env.json", put("wrappers", value=5), "wrappers must be a list, got 5"),
        (
            "eval.json",
            put("episodes", value=[{"seed": -1, "total_reward": 0, "length": 1}]),
            "seeds must be at least 0",
        ),
        ("env.json", put("kwargs", value=[]), "kwargs and versions must be objects"),
        ("env.json", put("name", value=3), "must have the entries"),
        ("env.json", lambda content: content.pop("versions"), "must have the entries"),
        ("eval.json", put("episodes", value=[]), "must list at least one episode, got none"),
        ("eval.json", put("episodes", value=[{"seed": 1}]), "must list episodes with seed, total_reward and length"),
        ("eval.json", put("trained_seeds", value=[{"seed": 1}]), "does not record an evaluation"),
        ("eval.json", put("versions", value=3), "does not record an evaluation"),
    ],
)
def test_forged_records_are_refused(copy, name, change, message):
    forge(copy, change, name)
    with pytest.raises(ZooError, match=f"copy/{name}:? {message}"):
        zoo.load(copy)


def test_a_forged_state_of_training_is_refused(tmp_path):
    agent = make_agent("SAC")
    agent.learn(40)
    folder = keep(agent, tmp_path / "agent", with_optimizer=True)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    config = (folder / "config.json").read_bytes()
    for change, message in (
        (put("training", "replay_buffer", "position", value=10**9), "the replay buffer must hold at most 300 rows"),
        (put("training", "replay_buffer", "position", value=7), r"replay_buffer\.\w+ must have shape \(7, "),
        (put("training", "optimizers", value={}), "lacks the settings of the optimizer actor.optimizer"),
        (
            put("training", "optimizers", "actor.optimizer", value=[]),
            "the settings of the optimizer actor.optimizer don't fit",
        ),
    ):
        forge(folder, change)
        with pytest.raises(ZooError, match=message):
            zoo.load(folder, device="cpu")
        (folder / "config.json").write_bytes(config)
    name = "training.optimizer.actor.optimizer.0.exp_avg"
    save_file({**tensors, name: torch.zeros(1, 2)}, file)
    reseal(folder)
    with pytest.raises(ZooError, match=r"0.exp_avg must have shape \(8, 3\), got \(1, 2\)"):
        zoo.load(folder, device="cpu")


# -- spaces and envs ----------------------------------------------------------------------------------


def test_the_env_must_be_the_agents(saved):
    with gym.make("CartPole-v1") as env, pytest.raises(ZooError, match="env must have the spaces of the agent in "):
        zoo.load(saved, env=env)


def test_normalised_observations_need_the_env(tmp_path):
    venv = VecNormalize(DummyVecEnv([goal_env]), norm_obs_keys=["observation"])
    agent = sb3.SAC("MultiInputPolicy", venv, policy_kwargs=dict(NET), buffer_size=50, device="cpu")
    agent.learn(20)
    keep(agent, tmp_path / "agent", env=f"{__name__}:goal_env")
    with pytest.raises(ZooError, match=r"env must be given: the agent in .* was trained under VecNormalize"):
        zoo.load(tmp_path / "agent")
    loaded: Any = zoo.load(tmp_path / "agent", env=goal_env(), device="cpu")
    obs = goal_env().reset(seed=0)[0]
    normalized = (env.normalize_obs(obs)["observation"] for env in (loaded.get_vec_normalize_env(), venv))
    assert np.array_equal(*normalized)


def test_an_agent_without_a_model_has_no_dynamics(tmp_path):
    keep(make_agent("SAC"), tmp_path / "agent")
    with pytest.raises(ZooError, match=r"the agent in .*agent has no model of its environment"):
        zoo.load_dynamics(tmp_path / "agent")


def test_the_env_that_is_recorded_is_the_agents(tmp_path):
    shorter = sb3.SAC("MlpPolicy", gym.make("Pendulum-v1", max_episode_steps=50), policy_kwargs=dict(NET), device="cpu")
    zoo.save(shorter, tmp_path / "shorter", episodes=2)
    recorded = open_folder(tmp_path / "shorter")
    assert [episode.length for episode in recorded.evaluation.episodes] == [50, 50]
    assert zoo.verify(tmp_path / "shorter").status == "match"
    rescaled = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))
    other = sb3.SAC("MlpPolicy", rescaled, policy_kwargs=dict(NET), device="cpu")
    with pytest.raises(ZooError, match=r"registered with its wrappers, since the agent's has \['RescaleAction'\]"):
        keep(other, tmp_path / "other")
    with pytest.raises(ZooError, match="env must have the spaces of the agent, got Pendulum-v1: "):
        keep(other, tmp_path / "other", env="Pendulum-v1")


def test_a_table_is_played_with_numbers(tmp_path):
    agent = sb3.DQN("MlpPolicy", "FrozenLake-v1", policy_kwargs=dict(NET), buffer_size=50, device="cpu")
    zoo.save(agent, tmp_path / "agent", episodes=2)
    assert zoo.verify(tmp_path / "agent").status == "match"


def test_an_agent_that_has_no_env_must_be_told_one(tmp_path):
    agent = make_agent("SAC")
    agent.env = None
    with pytest.raises(ZooError, match="env must be given: the agent's own has no Gymnasium id"):
        keep(agent, tmp_path / "agent")


def test_callbacks_of_ones_own_are_no_part_of_an_agent(tmp_path):
    class Nothing(BaseCallback):
        def _on_step(self) -> bool:
            return True

    agent = make_agent("SAC")
    agent.learn(10, callback=Nothing())
    assert same_weights(agent, zoo.load(keep(agent, tmp_path / "agent"), device="cpu"))


def picture() -> Still:
    return Still(spaces.Box(0, 255, (36, 36, 1), np.uint8), spaces.Discrete(2))


def test_image_policies_come_back(tmp_path):
    agent = sb3.DQN("CnnPolicy", picture(), buffer_size=10, device="cpu")
    keep(agent, tmp_path / "agent", env=f"{__name__}:picture")
    loaded: Any = zoo.load(tmp_path / "agent", env=picture(), device="cpu")
    assert same_weights(agent, loaded)
