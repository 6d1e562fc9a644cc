"""MAAC: SAC where the horizon is 0, and what its losses hold where it is not."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from mbrl_wrappers.acceleration.steppers import Stepper
from mbrl_wrappers.agents import MAAC, SACSVG, STEVE, Dyna, RealData
from mbrl_wrappers.agents import value_gradient_agent as through_model
from mbrl_wrappers.agents.actor_gradients import GradientWatch, ascend, logged, record_means
from mbrl_wrappers.agents.policy_rollouts import step_in_turn, step_of_agent
from mbrl_wrappers.agents.update_mode import MIN_CAPTURED_UPDATES
from mbrl_wrappers.imagination import BufferDecorator, ModelBased, load_checkpoint, save_checkpoint
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.seeding import set_apart
from testing import agents, envs
from testing.agents import same, weights
from testing.models import line_model, small_ensemble

OBS, ACTION = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-2.0, 2.0, (1,), np.float32)
GAMMA, ALPHA = 0.9, 0.3


# A point that an action moves and that is best at 0; an episode ends beyond 3, or after twenty steps.
Line = functools.partial(
    envs.Line, start=2.0, push=2.0, reward=envs.squared_distance, ends=lambda x: abs(x[..., 0]) > 3, limit=20
)
make_agent = functools.partial(agents.make_agent, kind=MAAC, env=Line, buffer_size=2_000, gamma=GAMMA)


def line(diverges_at: float = math.inf) -> KnownDynamics:
    def step(obs: Tensor, action: Tensor) -> Tensor:
        moved = obs + action
        return moved / (moved <= diverges_at).float()

    return line_model(Line(), step_fn=step)


def with_line(agent: Any, dynamics: KnownDynamics | None = None) -> Any:
    """Give an agent a model as training does, and real rows, without training."""
    callback = ModelBased(RealData(), dynamics or line())
    agent.learn(25, callback=callback)
    return agent


def step_of(agent: Any) -> Any:
    view = agent.model_based.view
    return step_of_agent(view, step_in_turn(agent.model_based.dynamics), view.scales())


def look_ahead(agent: Any, observations: torch.Tensor, watch: GradientWatch | None = None) -> Any:
    view = agent.model_based.view
    scales, watch = view.scales(), GradientWatch() if watch is None else watch
    return agent._look_ahead(observations, view.flat_obs(observations, scales), step_of(agent), watch, scales)


class Logged(BaseCallback):
    """Keeps what is logged at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        self.rows.append(dict(self.logger.name_to_value))
        return True


# -- SAC where there is nothing to look ahead to ---------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"ent_coef": 0.2, "gradient_steps": 2, "target_update_interval": 3},
        {"use_sde": True},
        {"n_steps": 3, "policy_kwargs": {"net_arch": [16], "n_critics": 3}},
    ],
    ids=["default", "fixed_entropy", "gsde", "n_steps"],
)
def test_a_horizon_of_0_is_sac_to_the_last_bit(arguments: dict[str, Any]) -> None:
    plain = make_agent(kind=SAC, **arguments)
    set_apart(plain.action_space)
    plain.learn(80)
    ours = make_agent(horizon=0, **arguments)
    ours.learn(80, callback=ModelBased(RealData(), small_ensemble(Line())))

    assert same(weights(plain), weights(ours))


def test_a_horizon_of_0_is_sac_under_vec_normalize() -> None:
    def normalized() -> VecNormalize:
        return VecNormalize(DummyVecEnv([Line]), gamma=GAMMA)

    plain = make_agent(env=normalized(), kind=SAC)
    set_apart(plain.action_space)
    plain.learn(80)
    ours = make_agent(env=normalized(), horizon=0)
    ours.learn(80, callback=ModelBased(RealData(), small_ensemble(Line())))

    assert same(weights(plain), weights(ours))


@pytest.mark.parametrize("strategy", [RealData(), Dyna(0.0, rollouts_per_step=2)], ids=["real", "imagined"])
def test_the_model_starts_from_states_that_vec_normalize_clips_for_the_networks(strategy: Any) -> None:
    env = VecNormalize(DummyVecEnv([Line]), clip_obs=0.5, gamma=GAMMA)
    agent = make_agent(env=env, horizon=2).learn(40, callback=ModelBased(strategy, small_ensemble(Line())))
    agent.replay_buffer = BufferDecorator(agent.replay_buffer, strategy)  # as while it learns
    view = agent.model_based.view

    def normalized(raw: torch.Tensor) -> torch.Tensor:
        mean, spread = view.scales().obs[""]
        return ((raw - mean) / spread).float()

    for batch, obs, *_ in agent._drawn(2, 64):
        assert (normalized(obs).abs() > 1).any()
        torch.testing.assert_close(batch.observations, normalized(obs).clamp(-0.5, 0.5), atol=1e-5, rtol=1e-5)
        assert batch.next_observations.abs().max() == env.clip_obs == 0.5


# -- the objective ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_obs", [False, True])
def test_the_objective_is_the_papers(norm_obs: bool) -> None:
    env = VecNormalize(DummyVecEnv([Line]), norm_obs=norm_obs, gamma=GAMMA)
    agent = with_line(make_agent(env=env, horizon=3, ent_coef=ALPHA))
    raw = torch.linspace(-2.5, 2.5, 9)[:, None]
    observations = torch.as_tensor(env.normalize_obs(raw.numpy()))
    torch.manual_seed(1)
    rollout = look_ahead(agent, observations)
    said = agent._objective(
        rollout, agent._policy_obs(rollout.obs[-1], agent.model_based.view.scales()), torch.tensor(ALPHA)
    )

    torch.manual_seed(1)
    scale = math.sqrt(env.ret_rms.var + env.epsilon)
    total, at, alive, factor = torch.zeros(9), raw, torch.ones(9), 1.0
    for step in range(4):
        policy_obs = torch.as_tensor(env.normalize_obs(at.detach().numpy()))
        action, log_prob = agent.actor.action_log_prob(policy_obs)
        if step == 3:
            reward = torch.min(*agent.critic(policy_obs, action))[:, 0]
        else:
            at = torch.where(alive[:, None] > 0, at + 2 * action, at)
            reward = (-at[:, 0].square() / scale).clamp(-env.clip_reward, env.clip_reward)
        total = total + factor * alive * (reward - ALPHA * log_prob)
        alive = alive * (at[:, 0].abs() <= 3)
        factor *= GAMMA
    assert 0 < alive.sum() < 9
    # A row that terminated goes on from the state before, and only its noise is drawn; so numbers agree up to that.
    torch.testing.assert_close(said, total.mean(), atol=1e-5, rtol=1e-5)


def test_without_a_terminal_value_it_is_the_return_of_some_steps() -> None:
    agent = with_line(make_agent(horizon=2, terminal_value=False, ent_coef=0.0))
    observations = torch.linspace(-0.5, 0.5, 5)[:, None]
    rollout = look_ahead(agent, observations)
    assert not rollout.terminated[0].any()

    said = agent._objective(rollout, None, torch.tensor(0.0))

    first, second = rollout.reward
    torch.testing.assert_close(first, -rollout.obs[1][:, 0].square())
    torch.testing.assert_close(said, (first + GAMMA * second).mean())


@pytest.mark.parametrize("critic_horizon", [None, 1, 2])
def test_the_critic_is_regressed_on_what_lies_behind_each_step(critic_horizon: int | None) -> None:
    agent = with_line(make_agent(horizon=2, expand_critic=True, critic_horizon=critic_horizon, ent_coef=ALPHA))
    observations = torch.tensor([[-1.0], [0.5], [2.9]])
    rollout = look_ahead(agent, observations)
    rollout.action[0].data[2] = 1.0  # the third row ends at once
    with torch.no_grad():
        step = step_of(agent)
        rollout = rollout._replace(
            terminated=[step(rollout.obs[0], rollout.action[0]).terminated, rollout.terminated[1]]
        )
        rollout.reward[0] = step(rollout.obs[0], rollout.action[0]).reward
        rollout.is_reached[1] = ~rollout.terminated[0]

    loss = agent._expanded_loss(rollout, torch.tensor(ALPHA), None, None)

    assert rollout.terminated[0].tolist() == [False, False, True]
    with torch.no_grad():
        behind = torch.min(*agent.critic_target(rollout.obs[2], rollout.action[2]))[:, 0]
        behind = behind - ALPHA * rollout.log_prob[2]
        second = rollout.reward[1] + GAMMA * torch.where(rollout.terminated[1], 0.0, behind)
        first = rollout.reward[0] + GAMMA * ~rollout.terminated[0] * (second - ALPHA * rollout.log_prob[1])
        errors = [
            (value[:, 0] - target).square()
            for critic in range(2)
            for value, target in (
                (agent.critic(rollout.obs[0], rollout.action[0])[critic], first),
                (agent.critic(rollout.obs[1], rollout.action[1])[critic][:2], second[:2]),
            )[:critic_horizon]
        ]
    rows = 3 if critic_horizon == 1 else 5  # the third row has no second step
    torch.testing.assert_close(loss.detach(), 0.5 * torch.cat(errors).sum() / rows)


def test_the_mean_of_the_critics_can_stand_behind_the_last_step() -> None:
    values = {}
    for actor_value in ("min", "mean"):
        agent = with_line(make_agent(horizon=1, ent_coef=0.0, actor_value=actor_value))
        torch.manual_seed(1)
        rollout = look_ahead(agent, torch.linspace(-0.5, 0.5, 5)[:, None])
        values[actor_value] = agent._objective(rollout, rollout.obs[-1], torch.tensor(0.0))
        behind = torch.cat(agent.critic(rollout.obs[-1], rollout.action[-1]), 1)
        expected = behind.mean(1) if actor_value == "mean" else behind.min(1).values
        torch.testing.assert_close(values[actor_value], (rollout.reward[0] + GAMMA * expected).mean())
    assert values["mean"] > values["min"]


@pytest.mark.parametrize("expand_critic", [False, True])
def test_targets_take_the_least_of_so_many_critics(expand_critic: bool) -> None:
    agent = with_line(
        make_agent(
            horizon=1, expand_critic=expand_critic, ent_coef=0.0, target_critics=2,
            policy_kwargs={"net_arch": [16], "n_critics": 4},
        )
    )  # fmt: skip
    drawn = {tuple(agent._target_members().tolist()) for _ in range(200)}
    assert len(drawn) == 12  # each pair, in both orders
    with torch.no_grad():
        for number, critic in enumerate(agent.critic_target.q_networks):
            for parameter in critic.parameters():
                parameter.zero_()
            critic[-1].bias.fill_(float(number + 1))
    rollout = look_ahead(agent, torch.linspace(-0.5, 0.5, 5)[:, None])
    batch = rollout if expand_critic else agent.replay_buffer.sample(16)

    found = {}
    with torch.no_grad():
        for pair in ((0, 1), (3, 2)):
            scales = [None] if expand_critic else []
            critic_loss = agent._expanded_loss if expand_critic else agent._td_loss
            loss = critic_loss(batch, torch.tensor(0.0), torch.tensor(pair), *scales)
            if expand_critic:
                target = rollout.reward[0] + GAMMA * (min(pair) + 1.0)
                values = agent.critic(rollout.obs[0], rollout.action[0])
            else:
                target = batch.rewards[:, 0] + GAMMA * (1 - batch.dones[:, 0]) * (min(pair) + 1.0)
                values = agent.critic(batch.observations, batch.actions)
            found[pair] = 0.5 * sum((value[:, 0] - target).square().mean() for value in values)
            torch.testing.assert_close(loss, found[pair])
    assert found[0, 1] != found[3, 2]


# -- hygiene of gradients --------------------------------------------------------------------------


def test_gradient_norms_are_logged_by_step() -> None:
    agent, logged = make_agent(horizon=2, ent_coef=0.0), Logged()
    agent.learn(40, callback=[ModelBased(RealData(), line()), logged])

    names = {name for name in logged.rows[-1] if "grad_norm" in name}
    assert names == {"train/grad_norm_h0", "train/grad_norm_h1", "train/grad_norm_h2", "train/actor_grad_norm"}
    assert all(logged.rows[-1][name] > 0 for name in names)


def test_a_gradient_norm_is_that_of_a_row() -> None:
    agent = with_line(make_agent(horizon=1, terminal_value=False, ent_coef=0.0))
    watch, observations = GradientWatch(), torch.linspace(-0.5, 0.5, 5)[:, None]
    rollout = look_ahead(agent, observations, watch)

    agent._objective(rollout, None, torch.tensor(0.0)).backward()

    # r = -(s + 2 a)^2, for actions in [-1, 1] that move by twice their size
    expected = (4 * rollout.obs[1].detach()).abs().mean()
    torch.testing.assert_close(watch.report()["grad_norm_h0"], expected)
    assert watch.report()["grad_norm_h1"] == 0


class Parts(gym.ObservationWrapper):
    """Says a point's place and its square."""

    observation_space = spaces.Dict({"at": OBS, "square": OBS})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"at": observation, "square": observation**2}


@pytest.mark.parametrize(
    ("expand_critic", "wrap"),
    [(True, lambda env: env), pytest.param(False, Parts, marks=pytest.mark.slow)],
)
def test_compiled_it_learns_the_same_and_compiles_once(
    expand_critic: bool, wrap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for compile in (False, True):
        log: list[Any] = []
        monkeypatch.setattr(through_model, "record_means", lambda logger, updates, log=log: log.extend(updates))
        scaled = VecNormalize(DummyVecEnv([lambda: wrap(Line())]))
        policy = "MlpPolicy" if wrap is not Parts else "MultiInputPolicy"
        agent = make_agent(
            env=scaled, policy=policy, horizon=1, expand_critic=expand_critic, compile=compile, actor_value="mean",
            target_critics=1,
        )  # fmt: skip
        model_based = ModelBased(RealData(), small_ensemble(wrap(Line())), fit_every=4)
        agent.learn(21, callback=model_based)  # an update
        with torch.compiler.set_stance("fail_on_recompile"):  # though the scale of rewards and the elites change
            agent.learn(12, callback=model_based, reset_num_timesteps=False)
        found.append([*weights(agent), *(update.values for update in log)])

    assert "grad_norm_h1" in log[0].names
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(plain, compiled, atol=1e-5, rtol=1e-4)


def test_what_can_t_be_compiled_is_refused() -> None:
    with pytest.raises(ValueError, match="compile must be True, False or 'auto', got 'yes'"):
        make_agent(compile="yes")
    in_words = gym.wrappers.TransformObservation(Line(), np.sign, spaces.Discrete(2))
    with pytest.raises(
        ValueError, match="compile must be False or 'auto' for this agent, got True: SB3 turns discrete"
    ):
        make_agent(env=in_words, compile=True)
    agent = make_agent(env=in_words, compile="auto")
    assert agent._mode_for(10**9, 0) == "eager"


def test_what_pays_is_compiled_or_on_a_gpu_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def ways(agent: Any, pays_from: int) -> list[str]:
        return [agent._mode_for(agent.learning_starts + pays_from + more, 0) for more in (-1, 0)]

    agent = make_agent(compile="auto")
    assert ways(agent, 10_000) == ["eager", "compiled"]
    assert ways(make_agent(compile="auto", horizon=0), 10_000) == ["eager", "eager"]

    monkeypatch.setattr(MAAC, "_on_gpu", True)
    monkeypatch.setattr(through_model, "objection_to_captured_updates", lambda device, optimizers: None)
    assert ways(agent, MIN_CAPTURED_UPDATES) == ["eager", "captured"]
    assert ways(agent, 10_000) == ["captured", "captured"]
    assert make_agent(compile=True)._mode_for(1, 0) == "captured"


def test_where_compiling_fails_it_learns_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(function: Any, **_: Any) -> Any:
        def fail(*args: Any) -> Any:
            raise RuntimeError("no C++ compiler")

        return fail

    monkeypatch.setattr(torch, "compile", compiler)
    agent = make_agent(compile="auto", horizon=1)
    agent.learn(25, callback=ModelBased(RealData(), small_ensemble(Line())))  # too short to pay
    monkeypatch.setattr(agent, "_pays_from", lambda: 0)
    with pytest.warns(UserWarning, match="cannot be compiled here and go on in eager mode: no C\\+\\+ compiler"):
        agent.learn(25)
    assert agent._n_updates == 10
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        make_agent(compile=True, horizon=1).learn(25, callback=ModelBased(RealData(), small_ensemble(Line())))


def test_the_actors_gradient_is_clipped() -> None:
    free, bound = make_agent(ent_coef=0.0), make_agent(ent_coef=0.0, max_grad_norm=1e-3)
    for agent in (free, bound):
        with_line(agent)
        agent.train(1, 16)

    def norm(agent: Any) -> float:
        return float(torch.cat([p.grad.flatten() for p in agent.actor.parameters()]).norm())

    assert norm(free) > 0.01
    assert norm(bound) <= 1e-3 * 1.001


def test_rows_that_diverge_are_counted_and_reach_no_weight() -> None:
    agent, logged = make_agent(horizon=3), Logged()
    agent.learn(60, callback=[ModelBased(RealData(), line(diverges_at=0.5)), logged])

    assert 0 < logged.rows[-1]["train/rows_diverged"] <= logged.rows[-1]["train/rows_without_gradient"] < 16
    assert logged.rows[-1]["train/grad_norm_h0"] > 0
    assert all(torch.isfinite(value).all() for value in weights(agent))


def test_the_gradient_is_that_of_the_rows_that_do_not_diverge() -> None:
    agent = with_line(make_agent(horizon=1, terminal_value=False, ent_coef=0.0))
    observations = torch.cat([torch.linspace(-1, 1, 8), torch.full((8,), 50.0)])[:, None]
    gradients = []
    for diverges_at in (math.inf, 25.0):
        agent.model_based.dynamics = line(diverges_at)
        torch.manual_seed(0)
        rollout = look_ahead(agent, observations)
        if diverges_at == math.inf:
            rollout = rollout._replace(is_finite=torch.arange(16) < 8)
        assert rollout.is_finite.sum() == 8
        objective = agent._objective(rollout, None, torch.tensor(0.0))
        parts = torch.autograd.grad(objective, list(agent.actor.parameters()), allow_unused=True)
        gradients.append(torch.cat([part.flatten() for part in parts if part is not None]))

    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


def test_an_exploding_gradient_is_told_and_ruins_no_weight() -> None:
    agent = with_line(make_agent(horizon=2))
    agent.model_based.dynamics = KnownDynamics(
        OBS, ACTION, lambda obs, action: obs + 1e-3 * (1e30 * action).sin(), line().reward_fn
    )
    agent.train(1, 16)

    assert agent.logger.name_to_value["train/rows_diverged"] == 0
    assert agent.logger.name_to_value["train/rows_without_gradient"] > 0
    assert all(torch.isfinite(value).all() for value in weights(agent))


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    network = torch.nn.Linear(1, 1)
    network.optimizer = torch.optim.SGD(network.parameters(), lr=1.0)  # type: ignore[assignment]
    before = [value.detach().clone() for value in network.parameters()]

    stepper = Stepper(network.optimizer)
    norm = ascend((network(torch.ones(1, 1)) * 1e38).square().sum(), network, None, [], stepper)
    assert not torch.isfinite(norm)
    assert same(before, list(network.parameters()))

    ascend(network(torch.ones(1, 1)).sum(), network, 0.5, [], stepper)
    moved = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, abs=1e-4)
    assert (moved > 0).all()  # upwards


def test_what_is_logged_is_the_mean_over_those_updates_that_have_it() -> None:
    logger = configure(None, [])
    updates = [{"a": torch.tensor(1.0)}, {"a": torch.tensor(3.0), "b": torch.tensor([4.0, 6.0])}]
    record_means(logger, [logged(update) for update in updates])
    assert logger.name_to_value == {"train/a": 2.0, "train/b": 5.0}


def test_norms_behind_many_steps_are_those_at_powers_of_2() -> None:
    watch = GradientWatch()
    for _ in range(70):
        watch.probe(torch.zeros(1, 1))
    norms = [name for name in watch.report() if name.startswith("grad_norm")]
    assert norms == [f"grad_norm_h{step}" for step in (*range(21), 32, 64)]


def test_a_batch_of_nothing_but_diverged_rows_has_no_gradient() -> None:
    agent = with_line(make_agent(horizon=1), line(diverges_at=-1e9))
    assert all(torch.isfinite(value).all() for value in weights(agent))
    agent.train(1, 16)
    assert all((p.grad == 0).all() for p in agent.actor.parameters())


# -- as an SB3 agent -------------------------------------------------------------------------------


def test_learn_brings_a_model() -> None:
    agent = make_agent(horizon=1)
    agent.learn(5)

    assert isinstance(agent.model_based.strategy, Dyna)
    assert isinstance(agent.model_based.dynamics, EnsembleDynamics)


def test_learn_takes_the_model_that_it_is_given_however_deep() -> None:
    mine = ModelBased(RealData(), small_ensemble(Line()))
    agent = make_agent(horizon=1)
    agent.learn(25, callback=CallbackList([Logged(), CallbackList([mine])]))
    assert agent.model_based is mine

    agent.learn(5, callback=Logged(), reset_num_timesteps=False)
    assert agent.model_based is mine

    with pytest.raises(ValueError, match="callback must hold one ModelBased at most, got 2"):
        agent.learn(5, callback=[mine, ModelBased(RealData())])


def test_sac_svg_learns_from_real_states() -> None:
    agent = SACSVG("MlpPolicy", Line(), horizon=1, learning_starts=20, batch_size=16, seed=0, device="cpu")
    agent.learn(5)
    assert isinstance(agent.model_based.strategy, RealData)


def test_a_function_is_a_callback_too() -> None:
    calls: list[Any] = []

    def callback(found: dict[str, Any], _: Any) -> bool:
        calls.append(found["self"])
        return True

    agent = make_agent(horizon=1)
    agent.learn(5, callback=callback)
    assert len(calls) == 5
    assert agent.model_based is not None


@pytest.mark.parametrize("expand_critic", [False, True])
@pytest.mark.parametrize(
    "strategy", [Dyna(0.5, rollouts_per_step=2), STEVE(horizon=1), RealData()], ids=lambda s: type(s).__name__
)
def test_it_trains_with_any_strategy(strategy: Any, expand_critic: bool) -> None:
    agent = make_agent(expand_critic=expand_critic)
    before = weights(agent)
    model_based = ModelBased(strategy, small_ensemble(Line()), fit_every=20)
    agent.learn(60, callback=[model_based, EvalCallback(Monitor(Line()), eval_freq=30)])

    assert all(torch.isfinite(value).all() for value in weights(agent))
    assert not same(before, weights(agent))
    evaluate_policy(agent, Monitor(Line()), n_eval_episodes=1)


def test_dict_observations_several_envs_and_gsde() -> None:
    class Parts(gym.ObservationWrapper):
        observation_space = spaces.Dict({"at": OBS, "sign": spaces.Discrete(2)})

        def observation(self, observation: np.ndarray) -> dict[str, Any]:
            return {"at": observation, "sign": int(observation[0] > 0)}

    env = VecNormalize(make_vec_env(lambda: Parts(Line()), n_envs=2), norm_obs_keys=["at"], gamma=GAMMA)
    agent = MAAC(
        "MultiInputPolicy", env, learning_starts=20, batch_size=16, use_sde=True, expand_critic=True, seed=0,
        policy_kwargs={"net_arch": [16]}, device="cpu",
    )  # fmt: skip
    dynamics = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=3, num_elites=2, hidden=(16,), max_steps=30
    )
    agent.learn(60, callback=ModelBased(Dyna(0.5, rollouts_per_step=2), dynamics, fit_every=20))

    assert all(torch.isfinite(value).all() for value in weights(agent))


def test_it_is_saved_and_loaded_with_its_model(tmp_path: Path) -> None:
    agent = make_agent(horizon=2, max_grad_norm=1.0, expand_critic=True, backprop_steps=1)
    agent.learn(40, callback=ModelBased(RealData(), small_ensemble(Line())))
    agent.save(tmp_path / "agent")

    loaded = MAAC.load(tmp_path / "agent", Line())

    assert (loaded.horizon, loaded.max_grad_norm, loaded.expand_critic, loaded.backprop_steps) == (2, 1.0, True, 1)
    assert same(weights(agent), weights(loaded))
    assert same(list(agent.model_based.dynamics.parameters()), list(loaded.model_based.dynamics.parameters()))


def test_a_run_that_resumes_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    def fresh() -> tuple[Any, ModelBased]:
        agent = make_agent(env=VecNormalize(DummyVecEnv([Line]), gamma=GAMMA), horizon=2)
        return agent, ModelBased(Dyna(0.5, rollouts_per_step=2), small_ensemble(Line()), fit_every=25)

    def go_on(agent: Any) -> None:
        agent.env.seed(5)
        agent._last_obs = None
        agent.learn(30, callback=agent.model_based, reset_num_timesteps=False)

    class AtEpisodesEnd(BaseCallback):
        def _on_step(self) -> bool:
            return not (self.num_timesteps >= 50 and self.locals["dones"][0])

    whole, callback = fresh()
    whole.learn(200, callback=[callback, AtEpisodesEnd()])
    stopped_at = whole.num_timesteps
    save_checkpoint(whole, tmp_path / "checkpoint")
    go_on(whole)
    other = load_checkpoint(MAAC, tmp_path / "checkpoint", VecNormalize(DummyVecEnv([Line]), gamma=GAMMA))
    go_on(other)

    assert stopped_at < 200
    assert same(weights(whole), weights(other))


@pytest.mark.parametrize("expand_critic", [False, True])
def test_it_learns_to_stand_at_the_best_place(expand_critic: bool) -> None:
    dynamics = EnsembleDynamics.for_env(Line(), num_members=3, num_elites=2, hidden=(32, 32), max_steps=100)
    agent = make_agent(horizon=3, learning_rate=3e-3, expand_critic=expand_critic)
    agent.learn(200, callback=ModelBased(RealData(), dynamics, fit_every=100))

    mean, _ = evaluate_policy(agent, Monitor(Line()), n_eval_episodes=10)
    assert mean > -2.0  # where it starts it would lose 27 on average by standing still


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": -1}, "horizon must be a whole number of at least 0, got -1"),
        ({"horizon": 1.5}, "horizon must be a whole number of at least 0, got 1.5"),
        ({"horizon": 0, "expand_critic": True}, "horizon must be at least 1 with expand_critic"),
        ({"horizon": 0, "terminal_value": False}, "horizon must be at least 1 with expand_critic or without terminal"),
        ({"actor_value": "median"}, "actor_value must be 'min' or 'mean', got 'median'"),
        ({"target_critics": 0}, "target_critics must be a whole number of at least 1, got 0"),
        ({"target_critics": 3}, "target_critics must be at most the number of critics, 2, got 3"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm must be in \(0, inf\], got 0.0"),
        ({"backprop_steps": 0}, "backprop_steps must be a whole number of at least 1, got 0"),
        ({"critic_horizon": 0, "expand_critic": True}, r"critic_horizon must be a whole number .*, got 0"),
        (
            {"critic_horizon": 4, "expand_critic": True, "horizon": 3},
            r"critic_horizon must be at most horizon, .* got 4",
        ),
        ({"critic_horizon": 1}, r"critic_horizon must .* needs expand_critic, got 1 and expand_critic=False"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)


def test_what_sb3_refuses_is_told_in_its_words() -> None:
    with pytest.raises(ValueError, match="initial value of ent_coef must be greater than 0"):
        make_agent(ent_coef="auto_0")


def test_n_step_returns_are_refused_where_the_critic_takes_no_real_steps() -> None:
    with pytest.raises(ValueError, match=r"n_steps must be 1 with expand_critic, .* got 3"):
        make_agent(expand_critic=True, n_steps=3)
    make_agent(n_steps=3)


def test_a_shared_features_extractor_is_refused() -> None:
    shared = {"net_arch": [8], "share_features_extractor": True}
    with pytest.raises(ValueError, match="policy_kwargs must not share a features extractor"):
        make_agent(policy_kwargs=dict(shared))
    make_agent(policy_kwargs=dict(shared), horizon=0)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="action_space must be a bounded Box, got Discrete"):
        MAAC("MlpPolicy", "CartPole-v1")


def test_a_model_without_gradient_is_refused() -> None:
    def step(obs: Tensor, action: Tensor) -> Tensor:
        return (obs + action).detach()

    dynamics = KnownDynamics(OBS, ACTION, step, line().reward_fn, line().termination_fn)
    with pytest.raises(ValueError, match="dynamics must be differentiable"):
        make_agent().learn(25, callback=ModelBased(RealData(), dynamics))
