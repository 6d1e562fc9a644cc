"""A ``learn`` that raises leaves nothing behind: what comes next is what it would be without it."""

from __future__ import annotations

import copy
import functools
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from mbrl_wrappers.agents import MAAC, SVG, Dyna, RealData
from mbrl_wrappers.imagination import BufferDecorator, ModelBased
from mbrl_wrappers.models import EnsembleDynamics
from testing import agents

MODEL: dict[str, Any] = {"num_members": 2, "num_elites": 1, "hidden": (8,), "max_steps": 2}

make_agent = functools.partial(agents.make_agent, env="Pendulum-v1", net=[8], learning_starts=10, batch_size=8)


class CountingDyna(Dyna):
    """Counts the batches that it is asked for."""

    asked = 0

    def sample_block(self, real_buffer: Any, batch_size: int, count: int, env: Any) -> Any:
        self.asked += count
        return super().sample_block(real_buffer, batch_size, count, env)


class CountingRealData(RealData):
    asked = 0

    def sample(self, *args: Any) -> Any:
        self.asked += 1
        return super().sample(*args)


class Raises(BaseCallback):
    """Raises where it is told to."""

    def __init__(self, where: str, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.where, self.error = where, error

    def _here(self, where: str) -> None:
        if where == self.where and (where == "start" or self.num_timesteps >= 30):
            raise self.error

    def _on_training_start(self) -> None:
        self._here("start")

    def _on_rollout_start(self) -> None:
        self._here("rollout start")

    def _on_step(self) -> bool:
        self._here("step")
        return True

    def _on_rollout_end(self) -> None:
        self._here("rollout end")


def pendulum() -> gym.Env:
    return gym.make("Pendulum-v1")


def callback(strategy: Any = None) -> Any:
    strategy = CountingDyna(rollouts_per_step=2) if strategy is None else strategy
    return ModelBased(strategy, EnsembleDynamics.for_env("Pendulum-v1", **MODEL), fit_every=20)


def interrupt(
    agent: Any, first: ModelBased, where: str = "step", error: type[BaseException] = KeyboardInterrupt
) -> None:
    raised = False
    try:
        agent.learn(60, callback=[first, Raises(where, error)])
    except error:
        raised = True
    assert raised


@pytest.mark.parametrize("where", ["start", "rollout start", "step", "rollout end"])
@pytest.mark.parametrize("reset", [True, False], ids=["counts anew", "goes on"])
def test_later_learning_without_the_callback_is_plain(where, reset):
    agent, first = make_agent(), callback()
    interrupt(agent, first, where)
    asked = first.strategy.asked
    assert (asked > 0) == (where != "start")
    agent.learn(40, reset_num_timesteps=reset)
    assert first.strategy.asked == asked and agent._n_updates > 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_of_the_env_or_within_an_update_does_the_same(error, monkeypatch):
    for target, name in ((SAC, "train"), (type(pendulum().unwrapped), "step")):
        agent, first = make_agent(), callback()
        own = getattr(target, name)

        def raising(self, *args, agent=agent, own=own, **kwargs):
            result = own(self, *args, **kwargs)
            if agent.num_timesteps >= 30:
                raise error
            return result

        with monkeypatch.context() as patch:
            patch.setattr(target, name, raising)
            with pytest.raises(error):
                agent.learn(60, callback=first)
        asked = first.strategy.asked
        agent.learn(20, reset_num_timesteps=False)
        assert first.strategy.asked == asked > 0


def test_a_second_callback_serves_alone():
    agent, first, second = make_agent(), callback(), callback()
    interrupt(agent, first)
    asked = first.strategy.asked
    agent.learn(30, callback=second, reset_num_timesteps=False)
    assert first.strategy.asked == asked and second.strategy.asked > 0
    assert agent.model_based is second and type(agent.replay_buffer) is ReplayBuffer


def test_the_same_callback_goes_on():
    agent, first = make_agent(), callback()
    interrupt(agent, first)
    asked = first.strategy.asked
    agent.learn(30, callback=first, reset_num_timesteps=False)
    assert first.strategy.asked == asked + 30 and type(agent.replay_buffer) is ReplayBuffer


@pytest.mark.parametrize("kind", [MAAC, SVG])
def test_agents_with_a_model_go_on_with_their_own_or_with_another(kind):
    strategies = [CountingDyna if kind is MAAC else CountingRealData for _ in range(2)]
    agent = make_agent(kind)
    first, second = (callback(strategy()) for strategy in strategies)
    interrupt(agent, first)
    assert agent.model_based is first
    updates = agent._n_updates
    agent.learn(20, reset_num_timesteps=False)  # with its own: it can't do without
    assert agent.model_based is first and agent._n_updates == updates + 20
    interrupt(agent, first)
    asked = first.strategy.asked
    agent.learn(20, callback=second, reset_num_timesteps=False)
    assert first.strategy.asked == asked and agent.model_based is second


def test_what_is_saved_and_copied_after_an_interruption_is_plain(tmp_path):
    agent, first = make_agent(), callback()
    interrupt(agent, first)
    assert type(copy.deepcopy(agent.replay_buffer)) is ReplayBuffer
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")
    asked = first.strategy.asked
    rows = agent.replay_buffer.size()
    loaded: Any = SAC.load(tmp_path / "agent", env=pendulum(), device="cpu")
    for one in (loaded, agent):
        one.load_replay_buffer(tmp_path / "buffer")
        assert type(one.replay_buffer) is ReplayBuffer and one.replay_buffer.size() == rows
        one.learn(20, reset_num_timesteps=False)
        assert type(one.replay_buffer) is ReplayBuffer
        assert (one.model_based.strategy.asked, one.replay_buffer.size()) == (asked, rows + 20)


def test_evaluation_goes_on_after_an_interruption(tmp_path):
    agent, first = make_agent(), callback()
    short = gym.make("Pendulum-v1", max_episode_steps=5)
    watch = EvalCallback(
        short, n_eval_episodes=1, eval_freq=10, best_model_save_path=str(tmp_path), verbose=0, warn=False
    )
    with pytest.raises(KeyboardInterrupt):
        agent.learn(60, callback=[first, watch, Raises("step")])
    before = watch.evaluations_timesteps[-1] if watch.evaluations_timesteps else watch.n_calls
    asked = first.strategy.asked
    agent.learn(20, callback=watch, reset_num_timesteps=False)
    assert watch.n_calls > before and first.strategy.asked == asked
    best: Any = SAC.load(tmp_path / "best_model", env=pendulum(), device="cpu")
    assert type(best.model_based.strategy) is CountingDyna


def test_batches_are_drawn_from_the_model_only_after_the_first_fit():
    agent, first = make_agent(), callback()
    seen: list[tuple[bool, bool]] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            model: Any = self.model
            buffer = model.replay_buffer
            assert isinstance(buffer, BufferDecorator)
            seen.append((buffer.serves(), self.num_timesteps > 10))
            return True

    agent.learn(30, callback=[first, Look()])
    assert all(serves == fitted for serves, fitted in seen) and len(seen) == 30


@pytest.mark.parametrize("fresh", [False, True], ids=["its own callback", "a new one"])
@pytest.mark.parametrize("kind", [MAAC, SVG])
def test_agents_with_a_model_wait_for_it_where_their_experience_is_lost(kind, fresh, tmp_path):
    agent = make_agent(kind)
    agent.learn(30, callback=callback(RealData()))
    agent.save(tmp_path / "agent")
    loaded: Any = kind.load(tmp_path / "agent", env=pendulum(), device="cpu")
    with pytest.warns(UserWarning, match="holds nothing of the run that goes on at step 30: until 10 new steps"):
        loaded.learn(9, callback=callback(RealData()) if fresh else None, reset_num_timesteps=False)
    assert loaded._n_updates == agent._n_updates
    loaded.learn(11, reset_num_timesteps=False)
    assert loaded._n_updates == agent._n_updates + 11
