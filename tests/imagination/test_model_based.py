"""The callback: when it fits, what it refuses, and that it leaves the agent's own training as it is."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, TransformObservation
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import Tensor

from mbrl_wrappers.agents import Dyna
from mbrl_wrappers.imagination import BufferDecorator, ModelBased
from mbrl_wrappers.imagination.callback import default_dynamics
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.seeding import set_apart
from testing.agents import make_agent
from testing.envs import Walk

TINY: dict[str, Any] = {"num_members": 3, "num_elites": 2, "hidden": (16, 16), "max_steps": 20}


class Recorder(EnsembleDynamics):
    """Fits as usual and remembers on how many transitions."""

    def __init__(self, env: Any, **kwargs: Any) -> None:
        super().__init__(env.observation_space, env.action_space, **{**TINY, **kwargs})
        self.fits: list[int] = []

    def fit(self, experience: Any, generator: torch.Generator | None = None) -> dict[str, float]:
        self.fits.append(len(experience.rows()))
        return super().fit(experience, generator)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SAC": (SAC, {}),
    "SAC with gSDE": (SAC, {"use_sde": True}),
    "TD3": (TD3, {"action_noise": NormalActionNoise(np.zeros(1), np.ones(1))}),
    "DDPG": (DDPG, {}),
    "DQN": (DQN, {}),
    "TQC": (TQC, {}),
    "CrossQ": (CrossQ, {}),
    "QRDQN": (QRDQN, {}),
}


def tiny_dyna(**kwargs: Any) -> Dyna:
    return Dyna(**{"rollouts_per_step": 2, "epoch_length": 50, **kwargs})


def model_based(agent: Any, fit_every: int = 30, **kwargs: Any) -> ModelBased:
    return ModelBased(tiny_dyna(), Recorder(agent.env, **kwargs), fit_every=fit_every)


# -- when it fits --------------------------------------------------------------------------------------------


def test_the_first_fit_comes_with_learning_starts_and_then_when_due():
    agent = make_agent()
    callback = model_based(agent)
    agent.learn(115, callback=callback)
    assert callback.dynamics.fits == [20, 50, 80, 110]


def test_steps_of_several_envs_are_all_counted():
    agent = make_agent(env=DummyVecEnv([Walk] * 3))
    callback = model_based(agent)
    agent.learn(100, callback=callback)
    assert callback.dynamics.fits == [21, 51, 81]


def test_after_episodes_it_fits_once_for_all_that_is_due():
    agent = make_agent(env=Walk(limit=9), train_freq=(1, "episode"))
    callback = model_based(agent, fit_every=5)
    ends: list[int] = []

    class Ends(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            ends.append(self.num_timesteps)

    agent.learn(90, callback=[callback, Ends()])
    expected, last = [], None
    for now in ends:
        if now >= 20 and (last is None or now - last >= 5):
            expected.append(now)
            last = now
    assert callback.dynamics.fits == expected and len(expected) > 5


def test_more_than_one_step_between_updates():
    agent = make_agent(train_freq=8)
    callback = model_based(agent)
    agent.learn(100, callback=callback)
    assert callback.dynamics.fits == [24, 56, 88]


def test_training_from_the_first_step():
    agent = make_agent(learning_starts=0)
    callback = model_based(agent)
    agent.learn(40, callback=callback)
    assert callback.dynamics.fits == [1, 31]
    assert all(torch.isfinite(p).all() for p in [*callback.dynamics.parameters(), *agent.policy.parameters()])


def test_learning_goes_on_without_starting_over():
    agent = make_agent()
    callback = model_based(agent)
    agent.learn(60, callback=callback)
    agent.learn(60, callback=callback, reset_num_timesteps=False)
    assert callback.dynamics.fits == [20, 50, 80, 110]


def test_two_calls_of_learn_are_the_same_as_one():
    states = []
    for calls in ([120], [63, 57]):
        agent = make_agent(env=Walk(limit=9))
        callback = model_based(agent)
        for steps in calls:
            agent.learn(steps, callback=callback, reset_num_timesteps=False)
        states.append((callback.full_state(), callback.dynamics.state_dict(), agent.policy.state_dict()))
    for one, two in zip(*states, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_learning_that_counts_anew_waits_for_learning_starts_again():
    agent = make_agent()
    callback = model_based(agent)
    agent.learn(60, callback=callback)
    agent.learn(60, callback=callback)
    assert callback.dynamics.fits == [20, 50, 60 + 20, 60 + 50]


def test_a_callback_may_serve_a_second_agent():
    callback = model_based(make_agent())
    make_agent().learn(60, callback=callback)
    second = make_agent()
    second.learn(60, callback=callback)
    assert second.model_based is callback
    assert callback.dynamics.fits == [20, 50, 20, 50]


def test_the_seed_alone_decides_what_is_fitted_and_imagined():
    def states(seed: int, torch_seed: int) -> dict[str, Tensor]:
        agent = make_agent()
        callback = ModelBased(tiny_dyna(), Recorder(agent.env), seed=seed)
        torch.manual_seed(torch_seed)
        agent.learn(20, callback=callback)  # uniform actions: the same real data each time
        return {**callback.full_state(), **callback.dynamics.state_dict()}

    one, same, other = states(5, 0), states(5, 1), states(6, 0)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["imagined.next_obs"], other["imagined.next_obs"])
    assert not torch.equal(one["network.weights.0"], other["network.weights.0"])


# -- what it leaves as it is ---------------------------------------------------------------------------------


class ImaginesInVain(Dyna):
    """Imagines as Dyna does, and trains on real data alone."""

    def sample(self, real_buffer: Any, batch_size: int, env: Any) -> Any:
        return real_buffer.sample(batch_size, env)


def everything(agent: Any) -> dict[str, Any]:
    """All that training changes, as arrays."""
    buffer = agent.replay_buffer
    state = {f"policy.{name}": value.clone().numpy() for name, value in agent.policy.state_dict().items()}
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        state[f"buffer.{name}"] = getattr(buffer, name)
    for name, value in agent.get_parameters().items():
        if "optimizer" in name:
            moments = value["state"].values()
            state |= {f"{name}.{i}.{k}": v.numpy() for i, m in enumerate(moments) for k, v in m.items()}
    state["torch"] = torch.get_rng_state().numpy()
    state["numpy"] = np.random.get_state()[1]  # noqa: NPY002
    state["numpy position"] = np.random.get_state()[2]  # noqa: NPY002
    state["python"] = np.array(random.getstate()[1])
    state["action space"] = np.array(agent.action_space.sample())
    state["env"] = agent.env.get_attr("np_random")[0].uniform()
    return state


@pytest.mark.parametrize("strategy", [ImaginesInVain, Dyna], ids=["imagines in vain", "only real"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_imagined_rows_the_agent_is_the_model_free_one_bit_for_bit(kind, strategy):
    results = []
    for with_model in (False, True):
        algorithm, own = KINDS[kind]
        agent = make_agent(algorithm, **own)
        set_apart(agent.action_space)  # SB3 alone would draw actions and the env's noise from the same stream
        callback = None
        if with_model:
            kwargs = {"real_ratio": 1.0} if strategy is Dyna else {}
            chosen = strategy(rollouts_per_step=2, rollout_length=2, epoch_length=50, **kwargs)
            callback = ModelBased(chosen, Recorder(agent.env), fit_every=10)
        agent.learn(50, callback=callback)
        results.append(everything(agent))
        if callback is not None:
            assert len(callback.dynamics.fits) == 4 and len(chosen._buffer) > 0
    plain, imagined = results
    assert plain.keys() == imagined.keys()
    for name in plain:
        np.testing.assert_array_equal(plain[name], imagined[name], err_msg=name)


def test_with_imagined_rows_it_is_another_one():
    agents = [make_agent(), make_agent()]
    agents[0].learn(50)
    agents[1].learn(50, callback=model_based(agents[1]))
    names = [name for name, value in everything(agents[0]).items() if name.startswith("policy.actor")]
    states = [everything(agent) for agent in agents]
    assert any(not np.array_equal(states[0][name], states[1][name]) for name in names)


def test_the_buffer_is_decorated_only_while_learning():
    seen = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            model: Any = self.model
            seen.append(type(model.replay_buffer))
            return True

    agent = make_agent()
    own = agent.replay_buffer
    agent.learn(30, callback=[model_based(agent), Look()])
    assert set(seen) == {BufferDecorator}
    assert agent.replay_buffer is own
    agent.learn(10)  # model-free again
    assert own.size() == 40


def test_learning_after_an_exception_decorates_once():
    class Break(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 25:
                raise RuntimeError("broken")
            return True

    agent = make_agent()
    own, callback = agent.replay_buffer, model_based(agent)
    with pytest.raises(RuntimeError, match="broken"):
        agent.learn(30, callback=[callback, Break()])
    agent.learn(30, callback=callback, reset_num_timesteps=False)
    assert agent.replay_buffer is own and type(own) is not BufferDecorator


# -- what it refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit_every", [0, -5])
def test_fit_every_below_one(fit_every):
    with pytest.raises(ValueError, match=f"fit_every must be a whole number of at least 1, got {fit_every}"):
        ModelBased(tiny_dyna(), fit_every=fit_every)


@pytest.mark.parametrize("is_same", [True, False])
def test_two_callbacks_in_one_learn(is_same):
    agent = make_agent()
    own, first = agent.replay_buffer, model_based(agent)
    second = first if is_same else model_based(agent)
    with pytest.raises(ValueError, match="callback must hold one ModelBased at most"):
        agent.learn(30, callback=[first, CallbackList([second])])
    agent.learn(30, callback=first)
    assert agent.replay_buffer is own and agent.model_based is first


def test_on_policy_agents():
    agent = PPO("MlpPolicy", Walk(), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="off-policy agent with a replay buffer, got PPO"):
        agent.learn(8, callback=ModelBased(tiny_dyna()))


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_a_model_of_other_spaces(name):
    agent = make_agent()
    other = {"observation_space": agent.observation_space, "action_space": agent.action_space}
    other[name] = spaces.Box(-2.0, 4.0, (1,), np.float32)
    dynamics = EnsembleDynamics(**other, **TINY)
    with pytest.raises(ValueError, match=rf"dynamics\.{name} must equal the env's"):
        agent.learn(30, callback=ModelBased(tiny_dyna(), dynamics))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["observation", "reward"])
def test_values_that_are_not_finite_are_refused_before_they_are_stored(what, value):
    agent = make_agent(env=Walk(poison=(15, what, value)))
    with pytest.raises(ValueError, match=rf"{what} from the environment must be finite, got .* at step 15"):
        agent.learn(30, callback=model_based(agent))
    assert agent.replay_buffer.size() == 14
    for name in ("observations", "next_observations", "rewards"):
        assert np.isfinite(getattr(agent.replay_buffer, name)).all()


def test_a_last_observation_that_is_not_finite_is_refused():
    env = Walk(limit=4, poison=(1, "last observation", np.nan))
    agent = make_agent(env=env)
    with pytest.raises(ValueError, match="observation from the environment must be finite, got"):
        agent.learn(30, callback=model_based(agent))
    assert agent.replay_buffer.size() == env.total - 1
    assert np.isfinite(agent.replay_buffer.next_observations).all()


def test_values_that_are_not_finite_in_a_dict():
    class InDict(gym.ObservationWrapper):
        def __init__(self, env: gym.Env) -> None:
            super().__init__(env)
            self.observation_space = spaces.Dict({"level": spaces.Discrete(2), "x": env.observation_space})

        def observation(self, observation: np.ndarray) -> dict[str, Any]:
            return {"level": 1, "x": observation}

    agent = SAC("MultiInputPolicy", InDict(Walk(poison=(15, "observation", np.nan))), buffer_size=99, device="cpu")
    with pytest.raises(ValueError, match="observation from the environment must be finite"):
        agent.learn(30, callback=model_based(agent))
    assert agent.replay_buffer.size() == 14


class Serving(Dyna):
    """Remembers how many rows there were when it was asked for a batch."""

    def __init__(self) -> None:
        super().__init__(rollouts_per_step=2, epoch_length=50)
        self.asked_at: list[int] = []

    def sample(self, real_buffer: Any, batch_size: int, env: Any) -> Any:
        self.asked_at.append(real_buffer.size())
        return super().sample(real_buffer, batch_size, env)


@pytest.mark.parametrize("steps", [40, 20], ids=["long after the first fit", "right after it"])
@pytest.mark.parametrize("fresh", [False, True], ids=["its own callback", "a new one"])
def test_going_on_without_experience_collects_anew_and_fits_when_there_is_enough(steps, fresh, tmp_path):
    agent = make_agent()
    agent.learn(steps, callback=ModelBased(Serving(), Recorder(agent.env), fit_every=30))
    agent.save(tmp_path / "agent")
    loaded: Any = SAC.load(tmp_path / "agent", env=Walk(), device="cpu")
    callback = ModelBased(Serving(), Recorder(loaded.env), fit_every=30) if fresh else loaded.model_based
    if fresh and steps == 20:  # as at the end of any warm-up: nothing was learned yet
        loaded.learn(10, callback=callback, reset_num_timesteps=False)
    else:
        with pytest.warns(UserWarning, match=rf"holds nothing of the run that goes on at step {steps}: until 20 new"):
            loaded.learn(10, callback=callback, reset_num_timesteps=False)
    assert loaded._n_updates == agent._n_updates + 10  # goes on as SB3 does
    before, asked = ([], []) if fresh else ([20], agent.model_based.strategy.asked_at)
    assert callback.dynamics.fits == before and callback.strategy.asked_at == asked
    loaded.learn(50, callback=callback, reset_num_timesteps=False)
    assert callback.dynamics.fits == [*before, 20, 50]
    assert callback.strategy.asked_at == [*asked, *range(20, 61)]
    assert all(torch.isfinite(p).all() for p in [*callback.dynamics.parameters(), *loaded.policy.parameters()])


def test_starting_over_without_experience_is_no_matter_of_concern(tmp_path):
    agent = make_agent()
    agent.learn(40, callback=model_based(agent))
    agent.save(tmp_path / "agent")
    loaded: Any = SAC.load(tmp_path / "agent", env=Walk(), device="cpu")
    loaded.learn(30, callback=loaded.model_based)
    assert loaded.num_timesteps == 30 and loaded.model_based.dynamics.fits == [20, 20]


def test_a_buffer_smaller_than_the_warm_up_is_enough_when_it_is_full():
    agent = make_agent(buffer_size=15)
    callback = model_based(agent)
    agent.learn(40, callback=callback)
    assert callback.dynamics.fits == [15]


def test_a_loaded_agent_imagines_before_its_next_fit(tmp_path):
    agent = make_agent()
    agent.learn(45, callback=model_based(agent))
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")
    loaded: Any = SAC.load(tmp_path / "agent", env=Walk(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert len(loaded.model_based.strategy._buffer) == 0
    loaded.learn(1, callback=loaded.model_based, reset_num_timesteps=False)
    assert loaded.model_based.dynamics.fits == [20]  # the next one is due at step 50
    assert len(loaded.model_based.strategy._buffer) == 60
    loaded.learn(10, callback=loaded.model_based, reset_num_timesteps=False)
    assert loaded.model_based.dynamics.fits == [20, 50]


# -- functions given by hand ---------------------------------------------------------------------------------


def right(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, 0].abs() > 1


def misplaced_parenthesis(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Take the absolute value of the comparison instead of the number, so that falling below -1 goes unseen."""
    return ~((next_obs[:, :1] < 1).long().abs().all(-1))


def warnings_of(run: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    assert all(warning.category is UserWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def test_a_wrong_termination_is_warned_about_once_with_the_first_step_it_gets_wrong(tmp_path):
    agent = make_agent(seed=2)
    callback = model_based(agent, termination_fn=misplaced_parenthesis)
    messages = warnings_of(lambda: agent.learn(100, callback=callback))
    assert len(callback.dynamics.fits) == 3 and len(messages) == 1
    buffer = agent.replay_buffer
    wrong = np.flatnonzero(buffer.next_observations[:100, 0, 0] < -1)
    assert len(wrong) and wrong[0] < 20
    numbers = re.findall(r"\[([^\]]*)\]", messages[0])
    obs, action, next_obs = (np.array(n.split(","), dtype=float) for n in numbers)
    np.testing.assert_allclose(obs, buffer.observations[wrong[0], 0], rtol=1e-6)
    np.testing.assert_allclose(next_obs, buffer.next_observations[wrong[0], 0], rtol=1e-6)
    np.testing.assert_allclose(action, agent.policy.unscale_action(buffer.actions[wrong[0], 0]), rtol=1e-5)
    assert messages[0].startswith("termination_fn contradicts the real environment: it says False")
    # Nor again after it was saved and loaded.
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")
    loaded: Any = SAC.load(tmp_path / "agent", env=Walk(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert warnings_of(lambda: loaded.learn(40, callback=loaded.model_based, reset_num_timesteps=False)) == []


def test_a_wrong_reward_is_warned_about_beside_a_right_termination():
    agent = make_agent()
    callback = model_based(agent, termination_fn=right, reward_fn=lambda obs, action, next_obs: next_obs[:, 0])
    messages = warnings_of(lambda: agent.learn(60, callback=callback))
    assert len(messages) == 1 and messages[0].startswith("reward_fn contradicts the real environment")


def test_right_functions_raise_no_warning():
    agent = make_agent()
    callback = model_based(agent, termination_fn=right, reward_fn=lambda obs, action, next_obs: -next_obs[:, 0].abs())
    assert warnings_of(lambda: agent.learn(60, callback=callback)) == []


BAD_FUNCTIONS = {
    "shape": ("termination_fn", lambda obs, action, next_obs: next_obs.abs() > 1),
    "column": ("termination_fn", lambda obs, action, next_obs: next_obs[:, :1].abs() > 1),
    "dtype": ("termination_fn", lambda obs, action, next_obs: (next_obs[:, 0].abs() > 1).float()),
    "numpy": ("termination_fn", lambda obs, action, next_obs: np.abs(next_obs.numpy()[:, 0]) > 1),
    "reward dtype": ("reward_fn", lambda obs, action, next_obs: next_obs[:, 0] > 1),
    "reward shape": ("reward_fn", lambda obs, action, next_obs: next_obs),
}


@pytest.mark.parametrize(("name", "function"), BAD_FUNCTIONS.values(), ids=BAD_FUNCTIONS)
def test_a_function_that_returns_the_wrong_thing_is_refused(name, function):
    agent = make_agent()
    with pytest.raises(ValueError, match=f"{name} must return a tensor of shape"):
        agent.learn(30, callback=model_based(agent, **{name: function}))


# -- the model that it makes itself --------------------------------------------------------------------------


def identity(observation: np.ndarray) -> np.ndarray:
    return observation


def cart_pole(**kwargs: Any) -> gym.Env:
    return gym.make("CartPole-v1", **kwargs)


CART_POLES: dict[str, tuple[Callable[[], Any], str]] = {
    "as registered": (cart_pole, "CartPole-v1"),
    "shorter": (lambda: cart_pole(max_episode_steps=50), "CartPole-v1"),
    "several": (lambda: DummyVecEnv([cart_pole] * 2), "CartPole-v1"),
    "normalised": (lambda: VecNormalize(DummyVecEnv([cart_pole])), "CartPole-v1"),
    "other rewards": (lambda: cart_pole(sutton_barto_reward=True), "learned"),
    "flattened": (lambda: FlattenObservation(cart_pole()), "learned"),
    "transformed": (lambda: TransformObservation(cart_pole(), identity, cart_pole().observation_space), "learned"),
    "stacked": (lambda: VecFrameStack(DummyVecEnv([cart_pole]), 2), "learned"),
    "unregistered": (lambda: Walk(discrete=True), "learned"),
}


@pytest.mark.parametrize(("make", "expected"), CART_POLES.values(), ids=CART_POLES)
def test_a_known_termination_is_used_where_the_env_is_as_registered(make, expected):
    agent = DQN("MlpPolicy", make(), buffer_size=10, policy_kwargs={"net_arch": [8]}, device="cpu")
    assert default_dynamics(agent, 0).termination_name == expected


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [({}, "InvertedPendulum-v5"), ({"reset_noise_scale": 0.2}, "InvertedPendulum-v5"), ({"frame_skip": 3}, "learned")],
)
def test_arguments_that_may_change_the_rules_leave_termination_to_be_learned(kwargs, expected):
    env = gym.make("InvertedPendulum-v5", **kwargs)
    agent = SAC("MlpPolicy", env, buffer_size=10, policy_kwargs={"net_arch": [8]}, device="cpu")
    assert default_dynamics(agent, 0).termination_name == expected
    env.close()


def test_by_default_the_model_is_the_papers_ensemble_of_the_agents_seed():
    agent = make_agent(seed=4)
    callback = ModelBased(tiny_dyna())
    agent.learn(5, callback=callback)
    settings = callback.dynamics.settings
    assert (settings["num_members"], settings["num_elites"], settings["hidden"]) == (7, 5, [200] * 4)
    assert settings["seed"] == callback.seed == 4


def test_without_any_seed_one_is_chosen_and_kept():
    agent = make_agent(seed=None)
    callback = model_based(agent)
    agent.learn(5, callback=callback)
    first = callback.seed
    agent.learn(5, callback=callback)
    assert first == callback.seed is not None


# -- logs ----------------------------------------------------------------------------------------------------


def test_fits_and_imagination_are_logged():
    agent = make_agent()
    agent.learn(25, callback=model_based(agent), log_interval=None)
    values = agent.logger.name_to_value
    assert values["dynamics/rows"] == 20 and values["dynamics/holdout_error"] > 0
    assert values["dynamics/fit_seconds"] > 0 and values["imagination/seconds"] > 0
    assert values["imagination/rollout_length"] == 1 and values["imagination/rows"] == 60


def test_a_strategy_must_be_an_instance():
    with pytest.raises(ValueError, match=r"strategy must be an instance such as Dyna\(\), got <class"):
        ModelBased(Dyna)


def test_a_first_observation_that_is_not_finite_is_refused_before_any_step():
    class StartsWithNaN(Walk):
        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            return obs * np.nan, info

    agent = SAC("MlpPolicy", StartsWithNaN(), policy_kwargs={"net_arch": [8]}, device="cpu")
    with pytest.raises(ValueError, match="observation from the environment must be finite"):
        agent.learn(10, callback=ModelBased(Dyna()))
    assert agent.replay_buffer.size() == 0


@pytest.mark.parametrize("wrap", [lambda strategy: strategy, lambda strategy: [strategy]], ids=["alone", "in a list"])
def test_a_strategy_as_the_callback_says_what_to_write(wrap: Callable[[Any], Any]) -> None:
    agent = SAC("MlpPolicy", Walk(), policy_kwargs={"net_arch": [8]})
    with pytest.raises(TypeError, match=r"callback must be ModelBased\(Dyna\(\)\), .* got Dyna\(\)"):
        agent.learn(10, callback=wrap(Dyna()))


@pytest.mark.parametrize(
    ("of_agent", "of_callback", "of_learn", "tells"),
    [(0, 0, {}, 0), (1, 0, {}, 1), (0, 1, {}, 1), (0, 0, {"progress_bar": True}, 1)],
)
@pytest.mark.filterwarnings("ignore")  # of the progress bar, which is experimental
def test_a_long_fit_is_told_of_where_progress_is_wanted(
    of_agent: int, of_callback: int, of_learn: Any, tells: int
) -> None:
    agent = SAC("MlpPolicy", Walk(), policy_kwargs={"net_arch": [8]}, verbose=of_agent)
    model = EnsembleDynamics.for_env(agent, hidden=(8,), max_steps=1)
    agent.learn(2, callback=ModelBased(Dyna(), model, verbose=of_callback), **of_learn)
    assert model.verbose == tells


def test_many_threads_for_small_networks_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            agent = SAC("MlpPolicy", Walk(), policy_kwargs={"net_arch": [8]})
            model = EnsembleDynamics.for_env(agent, hidden=(8,), max_steps=1)
            agent.learn(2, callback=ModelBased(Dyna(), model, verbose=1))
            assert ("torch.set_num_threads(1)" in capsys.readouterr().out) == (number == 2)
    finally:
        torch.set_num_threads(threads)
