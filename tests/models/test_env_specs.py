"""What is asked of an env before a model is made for it: answers where there are any, and never any harm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, TransformReward
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import PETS, Dyna
from mbrl_wrappers.envs import ImaginedVecEnv
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.imagination.callback import default_dynamics
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.env_specs import _sent_spec, spec_of
from mbrl_wrappers.zoo.errors import ZooError
from testing.broken_envs import Sound

TINY: dict[str, Any] = {"num_members": 2, "num_elites": 1, "hidden": (8,)}


class CanOnlyBeSent:
    """A function that can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)

    def __deepcopy__(self, memo: Any) -> CanOnlyBeSent:
        return self

    def __call__(self, reward: float) -> float:
        return reward


class BrokenSpec(gym.Wrapper):
    @property
    def spec(self) -> Any:
        raise RuntimeError("no spec")


def with_lambda(env: gym.Env) -> gym.Env:
    return TransformReward(env, lambda reward: 0.1 * reward)


def with_what_arrives_broken(env: gym.Env) -> gym.Env:
    return TransformReward(env, CanOnlyBeSent())


# -- envs in processes of their own --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_workers() -> Iterator[Callable[..., SubprocVecEnv]]:
    """Makes SubprocVecEnvs, each once, and closes them in the end."""
    made: dict[Any, SubprocVecEnv] = {}

    def make(wrap: Callable[[gym.Env], gym.Env]) -> SubprocVecEnv:
        if wrap not in made:
            made[wrap] = SubprocVecEnv([lambda: wrap(gym.make("Pendulum-v1"))], start_method="spawn")
        return made[wrap]

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import this file
    yield make
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    for env in made.values():
        env.close()


def agent_in(env: Any, kind: Any = SAC, **kwargs: Any) -> Any:
    return kind("MlpPolicy", env, learning_starts=4, buffer_size=100, device="cpu", seed=0, **kwargs)


def build_model(env: Any) -> None:
    assert EnsembleDynamics.for_env(env, known_reward=True, **TINY).reward_name == "learned"


def build_default_model(env: Any) -> None:
    assert default_dynamics(agent_in(env), 0, known_reward=True, **TINY).reward_name == "learned"


def learn_model_based(env: Any) -> None:
    small = EnsembleDynamics.for_env(env, max_steps=2, **TINY)
    agent_in(env).learn(8, callback=ModelBased(Dyna(rollouts_per_step=1), small))


def plan(env: Any) -> None:
    agent_in(env, PETS)


def save(env: Any) -> None:
    with pytest.raises(ZooError, match="env must be given"):
        zoo.save(agent_in(env), "nowhere")


def ask_for_the_spec(env: Any) -> None:
    assert spec_of(env) is None


ASKS = [build_model, build_default_model, learn_model_based, plan, save, ask_for_the_spec]


@pytest.mark.parametrize("ask", ASKS)
def test_workers_outlive_every_question(ask, in_workers):
    env = in_workers(with_lambda)
    env.reset()
    ask(env)
    for _ in range(2):
        obs, *_ = env.step(np.zeros((1, 1), np.float32))
        assert obs.shape == (1, 3)


def test_a_spec_that_arrives_broken_leaves_the_worker_as_it_was(in_workers):
    env = in_workers(with_what_arrives_broken)
    assert spec_of(env) is None
    assert env.reset().shape == (1, 3)
    assert env.step(np.zeros((1, 1), np.float32))[0].shape == (1, 3)


def pendulum() -> gym.Env:
    return gym.make("Pendulum-v1")


@pytest.mark.parametrize("wrap", [with_lambda, BrokenSpec, lambda env: env.unwrapped])
def test_a_spec_that_can_not_be_sent_is_not_asked_for(wrap):
    env = DummyVecEnv([lambda: wrap(pendulum())])
    assert _sent_spec(env) is None  # as if its envs were in other processes


def test_a_spec_that_can_be_sent_is_used():
    env = VecMonitor(DummyVecEnv([lambda: RecordEpisodeStatistics(pendulum()), lambda: with_lambda(pendulum())]))
    for spec in (spec_of(env), _sent_spec(env)):
        assert spec.id == "Pendulum-v1" and "RecordEpisodeStatistics" in str(spec.additional_wrappers)


# -- what a model may be made for ----------------------------------------------------------------------------


def cart_pole(**kwargs: Any) -> gym.Env:
    return gym.make("CartPole-v1", **kwargs)


def imagined() -> ImaginedVecEnv:
    return ImaginedVecEnv(EnsembleDynamics.for_env("CartPole-v1", **TINY), 2, start_obs=np.zeros((1, 4), np.float32))


FORMS: dict[str, tuple[Callable[[], Any], str]] = {
    "id": (lambda: "CartPole-v1", "CartPole-v1"),
    "id with a module": (lambda: "gymnasium:CartPole-v1", "CartPole-v1"),
    "env": (cart_pole, "CartPole-v1"),
    "vec env": (lambda: DummyVecEnv([cart_pole] * 3), "CartPole-v1"),
    "agent's env": (lambda: DQN("MlpPolicy", cart_pole(), buffer_size=9, device="cpu").get_env(), "CartPole-v1"),
    "on-policy agent's env": (lambda: PPO("MlpPolicy", "CartPole-v1", device="cpu").get_env(), "CartPole-v1"),
    "normalised": (lambda: VecNormalize(VecMonitor(DummyVecEnv([cart_pole]))), "CartPole-v1"),
    "agent": (lambda: DQN("MlpPolicy", cart_pole(), buffer_size=9, device="cpu"), "CartPole-v1"),
    "class": (lambda: Sound, "learned"),
    "function": (lambda: cart_pole, "CartPole-v1"),
    "other env": (lambda: FlattenObservation(cart_pole()), "learned"),
    "other env in a vec env": (lambda: DummyVecEnv([lambda: cart_pole(sutton_barto_reward=True)]), "learned"),
    "imagined": (
        imagined,
        "learned",
    ),
    "stacked": (lambda: VecFrameStack(DummyVecEnv([cart_pole]), 2), "learned"),
}


@pytest.mark.parametrize(("make", "termination"), FORMS.values(), ids=FORMS)
def test_a_model_for_any_form_of_env(make, termination):
    env = make()
    model = EnsembleDynamics.for_env(env, **TINY)
    of = cart_pole() if isinstance(env, str) or env is cart_pole else Sound() if env is Sound else env
    assert (model.observation_space, model.action_space) == (of.observation_space, of.action_space)
    assert model.termination_name == termination


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "vector env": (lambda: gym.make_vec("CartPole-v1", num_envs=2), r"env\.single_observation_space"),
    "agent without an env": (lambda: SAC("MlpPolicy", None, _init_setup_model=False), "and SAC has none to take it"),
    "function": (lambda: lambda: 5, r"env must be .*, got <function"),
    "class with arguments": (lambda: ImaginedVecEnv, r"env must be .*, got <class"),
    "agent's env that there is not": (lambda: None, r"env must be .*, got None"),
    "class": (lambda: gym.Env, r"env must be .*, got <class"),
    "space": (lambda: cart_pole().observation_space, r"env must be .*, got Box"),
    "unknown id": (lambda: "CratPole-v1", r"env must be a Gymnasium id that can be made here, got 'CratPole-v1'"),
    "unknown module": (lambda: "no_such_module:CartPole-v1", r"env must be a Gymnasium id .*no_such_module"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_env_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        EnsembleDynamics.for_env(make(), **TINY)
