"""SVG: noise that makes what really happened, stretches of real experience, and gradients against closed forms."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from mbrl_wrappers.agents import SVG, Dyna, RealData
from mbrl_wrappers.agents import value_gradient_agent as through_model
from mbrl_wrappers.agents.policy_rollouts import infer_in_turn
from mbrl_wrappers.agents.trajectories import TrajectoryBuffer
from mbrl_wrappers.imagination import ModelBased, load_checkpoint, save_checkpoint
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.models.network import EnsembleMLP
from testing import agents, envs
from testing.agents import same, weights
from testing.models import line_model, small_ensemble

OBS, ACTION = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-2.0, 2.0, (1,), np.float32)
GAMMA, SLOPE, NOISE = 0.9, 0.8, 0.1


# ``s' = 0.8 s + a + noise``, best at 0; an episode ends beyond 3, or after ten steps.
Line = functools.partial(
    envs.Line, start=2.0, push=2.0, slope=SLOPE, noise=NOISE, reward=envs.squared_distance,
    ends=lambda x: abs(x[..., 0]) > 3,
)  # fmt: skip
make_agent = functools.partial(agents.make_agent, kind=SVG, env=Line, buffer_size=2_000, gamma=GAMMA)


def line() -> KnownDynamics:
    return line_model(Line())


def trained(dynamics: Any = None, steps: int = 60, **kwargs: Any) -> Any:
    agent = make_agent(**kwargs)
    agent.learn(steps, callback=ModelBased(RealData(), dynamics or line()))
    return agent


def objective_of(agent: Any, stretches: Any) -> tuple[Tensor, Tensor]:
    """The actor's objective on stretches and their weights, with the line as the model."""
    real = agent._flat(stretches)
    probes = [torch.zeros_like(reward, requires_grad=True) for reward in real.reward]
    infer = infer_in_turn(line()) if agent.horizon else None
    return agent._objective(real, infer, probes, agent.model_based.view.scales())


# -- the noise that is inferred --------------------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
def test_an_ensemble_makes_the_real_step_again(joint: bool) -> None:
    settings = {"num_members": 4, "num_elites": 3, "hidden": (8,), "joint": joint}
    dynamics = EnsembleDynamics.for_env(gym.make("Pendulum-v1"), **settings).double()
    generator = torch.Generator().manual_seed(0)
    obs, action, next_obs, reward = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((7, 3), (7, 1), (7, 3), (7,))
    )
    obs.requires_grad_()
    action.requires_grad_()

    again, paid = infer_in_turn(dynamics)(obs, action, next_obs, reward)

    torch.testing.assert_close(again, next_obs, atol=1e-12, rtol=0)
    torch.testing.assert_close(paid, reward, atol=1e-12, rtol=0)

    def with_constant_noise(obs: Tensor, action: Tensor) -> Tensor:
        """The model's reparameterised sample, with the noise of the real step written out."""
        columns = []
        for row in range(7):
            member, x = dynamics.elites[row % 3].item(), torch.cat([obs[row], action[row]])[None]
            change, paid = (next_obs[row] - obs[row]).detach()[None], reward[row : row + 1][None]
            if joint:
                target = drawn_again(dynamics.network, member, x, torch.cat([change, paid], dim=-1))
            else:
                change = drawn_again(dynamics.network, member, x, change)
                paid = drawn_again(dynamics.reward_network, member, torch.cat([x, change], dim=-1), paid)
                target = torch.cat([change, paid], dim=-1)
            columns.append(torch.cat([obs[row : row + 1] + target[:, :3], target[:, 3:]], dim=-1))
        return torch.cat(columns)

    ours = torch.autograd.grad(torch.cat([again, paid[:, None]], -1).sin().sum(), (obs, action))
    theirs = torch.autograd.grad(with_constant_noise(obs, action).sin().sum(), (obs, action))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def drawn_again(network: EnsembleMLP, member: int, x: Tensor, real: Tensor) -> Tensor:
    """Real targets as a member's sample; no data has been seen, so normalisers do nothing."""
    mean, std, *_ = network.member(member, x)
    return mean + std * ((real - mean) / std).detach()


def test_a_known_system_makes_the_real_step_again() -> None:
    obs, action = torch.tensor([[1.0], [-2.0]], requires_grad=True), torch.tensor([[0.5], [0.1]], requires_grad=True)
    real, reward = torch.tensor([[1.5], [-1.4]]), torch.tensor([-2.25, -1.0])

    next_obs, paid = infer_in_turn(line())(obs, action, real, reward)

    torch.testing.assert_close(next_obs, real)
    torch.testing.assert_close(paid, reward)
    of_obs, of_action = torch.autograd.grad(paid.sum(), (obs, action))
    torch.testing.assert_close(of_obs, -2 * real * SLOPE)
    torch.testing.assert_close(of_action, -2 * real)


def test_actions_are_taken_again_and_their_densities_are_the_policys() -> None:
    agent = trained()
    obs, action = torch.randn(9, 1), torch.linspace(-0.99, 0.99, 9)[:, None]

    again, log_prob = agent._act_again(obs, action)

    torch.testing.assert_close(again, action, atol=1e-5, rtol=1e-5)
    mean, log_std, _ = agent.actor.get_action_dist_params(obs)
    gaussian = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(gaussian, torch.distributions.TanhTransform())
    torch.testing.assert_close(log_prob, squashed.log_prob(action).sum(-1), atol=1e-3, rtol=1e-3)


def test_weights_are_1_on_policy_and_clipped_off_it() -> None:
    agent = make_agent(learning_starts=0, gradient_steps=0)
    agent.learn(50, callback=ModelBased(RealData(), line()))
    stretches = agent.replay_buffer.sample_stretches(20, 3)

    torch.testing.assert_close(objective_of(agent, stretches)[1], torch.ones(20), atol=1e-3, rtol=0)

    unlikely = stretches._replace(log_prob=stretches.log_prob - 10)
    assert (objective_of(agent, unlikely)[1] == 5.0).all()
    agent.max_importance_weight = 0.0
    assert objective_of(agent, unlikely)[0] == 0


# -- stretches -------------------------------------------------------------------------------------


def filled(size: int, rows: int, envs: int = 1, episode: int = 4) -> TrajectoryBuffer:
    """A buffer whose steps are numbered by time; in env ``e`` every ``episode + e`` steps an episode ends."""
    buffer = TrajectoryBuffer(size * envs, OBS, ACTION, "cpu", n_envs=envs)
    for row in range(rows):
        done = np.array([(row + 1) % (episode + env) == 0 for env in range(envs)])
        infos = [{"log_prob": -float(row), "TimeLimit.truncated": bool(row % 2)} for _ in range(envs)]
        at = np.full((envs, 1), float(row))
        buffer.add(at, at + 1, np.zeros((envs, 1)), np.full(envs, float(row)), done, infos)
    return buffer


@pytest.mark.parametrize(("size", "rows"), [(100, 30), (20, 50), (20, 40)])
def test_a_stretch_ends_with_its_episode_or_now(size: int, rows: int) -> None:
    np.random.seed(0)  # noqa: NPY002
    buffer = filled(size, rows, envs=2)

    stretches = buffer.sample_stretches(200, 3)

    for column in range(200):
        steps = stretches.reward[stretches.is_real[:, column], column]
        assert max(0, rows - size) <= steps[0] < rows
        assert (np.diff(steps) == 1).all()
        ends = [step for step in steps if any((step + 1) % (4 + env) == 0 for env in range(2))]
        assert len(steps) == 3 or steps[-1] in ends or steps[-1] == rows - 1
        assert (stretches.obs[stretches.is_real[:, column], column, 0] == steps).all()
        assert (stretches.log_prob[stretches.is_real[:, column], column] == -steps).all()
        assert (stretches.next_obs[~stretches.is_real[:, column], column, 0] == steps[-1] + 1).all()
    assert {int(n) for n in stretches.is_real.sum(0)} == {1, 2, 3}
    assert stretches.terminated[0].any()
    assert not stretches.terminated[0][stretches.reward[0] % 2 == 1].any()  # a time limit is no termination


def test_stretches_are_of_one_length_however_many_steps_are_real() -> None:
    stretches = filled(100, 30).sample_stretches(50, 4, window=2)
    assert stretches.reward.shape == (4, 50)
    assert {int(n) for n in stretches.is_real.sum(0)} == {1, 2}


def test_a_window_holds_the_newest_steps() -> None:
    stretches = filled(20, 50).sample_stretches(100, 1, window=5)
    assert set(stretches.reward.flatten()) == {45, 46, 47, 48, 49}


def test_episodes_are_those_that_have_ended_from_their_first_step() -> None:
    buffer = filled(100, 30, envs=2)  # in env 0 the last one from 24 to 27, in env 1 from 20 to 24 and from 25 to 29

    newest, more = buffer.sample_episodes(10), buffer.sample_episodes(10, window=10)

    assert sorted(newest.reward[0]) == [24, 25]
    assert sorted(newest.is_real.sum(0)) == [4, 5]
    assert sorted(more.reward[0]) == [20, 20, 24, 25]
    assert sorted(more.is_real.sum(0)) == [4, 4, 5, 5]
    assert newest.reward.shape == (5, 2)
    assert len(buffer.sample_episodes(2, window=30).reward[0]) == 2
    assert sorted(buffer.sample_episodes(10, window=2).reward[0]) == [24, 25]  # where none is as new, the newest


def test_what_there_is_of_an_episode_stands_for_it_where_none_has_ended() -> None:
    episodes = filled(100, 3).sample_episodes(10)
    assert episodes.reward[:, 0].tolist() == [0, 1, 2]


def test_the_oldest_step_of_a_full_buffer_begins_what_is_left_of_an_episode() -> None:
    episodes = filled(6, 50).sample_episodes(10, window=6)  # of the one from 44 to 47; the next has not ended
    assert episodes.reward[:, 0].tolist() == [44, 45, 46, 47]


def test_no_stretch_goes_on_behind_a_reset() -> None:
    agent = make_agent(horizon=3)
    for _ in range(2):  # 25 steps are two episodes and a half at most
        agent.learn(25, callback=ModelBased(RealData(), line()))
    agent.learn(7, callback=agent.model_based, reset_num_timesteps=False)  # goes on where it was

    np.random.seed(0)  # noqa: NPY002
    stretches = agent.replay_buffer.sample_stretches(2000, 3)
    follows = stretches.is_real[1:]
    assert (stretches.obs[1:][follows] == stretches.next_obs[:-1][follows]).all()
    assert agent.replay_buffer.timeouts[24] == 1
    assert agent.replay_buffer.dones[49] == 0


# -- the objective ---------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 3, "inf"])
def test_the_gradient_is_that_of_the_real_path_written_out(horizon: Any) -> None:
    env = VecNormalize(DummyVecEnv([Line]), norm_obs=False, gamma=GAMMA)
    agent = trained(env=env, horizon=horizon)
    scale = float(np.sqrt(env.ret_rms.var + env.epsilon))
    assert abs(scale - 1) > 0.1
    stretches = agent._draw(agent.replay_buffer, 16)
    objective, weight = objective_of(agent, stretches)
    parameters = list(agent.actor.parameters())
    ours = torch.autograd.grad(objective, parameters, allow_unused=True)

    total = torch.zeros(())
    for column in range(stretches.reward.shape[1]):
        steps = int(stretches.is_real[:, column].sum())
        at = torch.as_tensor(stretches.obs[0, column])[None]
        value, factor, ended = torch.zeros(()), 1.0, False
        for t in range(steps):
            taken = torch.as_tensor(stretches.action[t, column])[None]
            mean, log_std, _ = agent.actor.get_action_dist_params(at)
            noise = ((torch.atanh(taken) - mean) / log_std.exp()).detach()
            moved = SLOPE * at + 2 * torch.tanh(mean + log_std.exp() * noise)
            at = moved + (torch.as_tensor(stretches.next_obs[t, column])[None] - moved).detach()
            value = value - factor * at.square().sum() / scale
            factor *= GAMMA
            ended = bool(stretches.terminated[t, column])
        if not ended:
            value = value + factor * agent.critic(at).sum()
        total = total + weight[column] * value / stretches.reward.shape[1]
    theirs = torch.autograd.grad(total, parameters, allow_unused=True)

    torch.testing.assert_close(objective, total, atol=1e-4, rtol=1e-4)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)


def test_the_entropy_of_the_states_that_were_met_is_added() -> None:
    agent = trained(horizon=2)
    stretches = agent._draw(agent.replay_buffer, 16)
    assert not stretches.is_real.all()
    found = []
    for ent_coef in (0.0, 0.5):
        agent.ent_coef = ent_coef
        torch.manual_seed(0)
        found.append(objective_of(agent, stretches)[0])
    torch.manual_seed(0)
    log_prob = agent.actor.action_log_prob(agent._flat(stretches).obs[:-1].flatten(0, 1))[1]
    entropy = -log_prob[torch.as_tensor(stretches.is_real.ravel())].mean()

    torch.testing.assert_close(found[1] - found[0], 0.5 * entropy, atol=1e-5, rtol=1e-5)


def test_actions_are_kept_with_the_densities_that_they_were_taken_with() -> None:
    agent = make_agent(gradient_steps=0)
    agent.learn(40, callback=ModelBased(RealData(), line()))

    random, acted = agent.replay_buffer.log_probs[:20, 0], agent.replay_buffer.log_probs[20:40, 0]
    assert random == pytest.approx(np.log(0.5))  # uniform in [-1, 1]
    obs, actions = (
        torch.as_tensor(part[20:40, 0]) for part in (agent.replay_buffer.observations, agent.replay_buffer.actions)
    )
    assert acted == pytest.approx(agent._act_again(obs, actions)[1].detach().numpy(), abs=1e-4)


def test_svg_0_climbs_the_critics_gradient() -> None:
    agent = trained(horizon=0)
    stretches = agent._draw(agent.replay_buffer, 16)
    objective, weight = objective_of(agent, stretches)

    obs, action = torch.as_tensor(stretches.obs[0]), torch.as_tensor(stretches.action[0])
    torch.testing.assert_close(objective, (weight * agent.critic(obs, action)[0][:, 0]).mean(), atol=1e-5, rtol=1e-5)
    assert any(g.abs().max() > 0 for g in torch.autograd.grad(objective, list(agent.actor.parameters())))


def test_values_are_regressed_on_a_real_step() -> None:
    agent = trained()
    steps = agent.replay_buffer.sample_stretches(16, 1)
    loss = agent._critic_loss(agent._flat(steps), None)

    obs, next_obs = torch.as_tensor(steps.obs[0]), torch.as_tensor(steps.next_obs[0])
    with torch.no_grad():
        ratio = agent._act_again(obs, torch.as_tensor(steps.action[0]))[1] - torch.as_tensor(steps.log_prob[0])
        behind = torch.where(torch.as_tensor(steps.terminated[0]), 0.0, agent.critic_target(next_obs)[:, 0])
        error = agent.critic(obs)[:, 0] - torch.as_tensor(steps.reward[0]) - GAMMA * behind
    torch.testing.assert_close(loss.detach(), 0.5 * (ratio.exp().clamp(max=5.0) * error.square()).mean())


# -- compiled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (0, 3))])
def test_compiled_it_learns_the_same_and_compiles_once(horizon: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for compile in (False, True):
        log: list[Any] = []
        monkeypatch.setattr(through_model, "record_means", lambda logger, updates, log=log: log.extend(updates))
        agent = make_agent(
            env=VecNormalize(DummyVecEnv([Line])),
            horizon=horizon,
            window=horizon or None,
            ent_coef=0.1,
            max_grad_norm=1.0,
            compile=compile,
        )
        model_based = ModelBased(RealData(), small_ensemble(Line()), fit_every=4)
        agent.learn(21, callback=model_based)  # an update
        with torch.compiler.set_stance("fail_on_recompile"):  # though the scale of rewards and the elites change
            agent.learn(12, callback=model_based, reset_num_timesteps=False)
        assert agent._is_compiled == compile
        found.append([*weights(agent), *(update.values for update in log)])

    assert {"grad_norm_h0", "importance_weight"} <= set(log[0].names)
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(plain, compiled, atol=1e-5, rtol=1e-4)


def test_whole_episodes_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile must be False or 'auto' for this agent, got True: horizon is 'inf'"):
        make_agent(horizon="inf", compile=True)
    assert make_agent(horizon="inf", compile="auto", train_freq=1)._mode_for(10**9, 0) == "eager"


# -- as an SB3 agent -------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [0, 1, 3, "inf"])
def test_every_horizon_trains_every_network(horizon: Any) -> None:
    agent = make_agent(horizon=horizon, max_grad_norm=5.0, ent_coef=0.01)
    before = weights(agent)
    agent.learn(60, callback=ModelBased(RealData(), small_ensemble(Line()), fit_every=20))

    after = weights(agent)
    assert all(torch.isfinite(value).all() for value in after)
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    predicted, _ = agent.predict(np.zeros((4, 1), np.float32), deterministic=True)
    assert predicted.shape == (4, 1)


def test_it_learns_to_stand_at_the_best_place() -> None:
    agent = make_agent(horizon=1, learning_rate=3e-3, ent_coef=0.01, gradient_steps=2)
    dynamics = EnsembleDynamics.for_env(Line(), num_members=3, num_elites=2, hidden=(32, 32), max_steps=100)
    start, _ = evaluate_policy(agent, Monitor(Line()), n_eval_episodes=20)
    agent.learn(300, callback=ModelBased(RealData(), dynamics, fit_every=100))

    mean, _ = evaluate_policy(agent, Monitor(Line()), n_eval_episodes=20)
    assert mean > -1.5  # the best there is loses 0.1
    assert start < -3


@pytest.mark.parametrize("horizon", [3, "inf"])
def test_updates_differ_in_how_long_their_stretches_are(horizon: Any) -> None:
    agent = make_agent(horizon=horizon, batch_size=2, gradient_steps=8, window=40)
    agent.learn(40, callback=ModelBased(RealData(), line()))
    assert all(torch.isfinite(value).all() for value in weights(agent))


def test_actions_may_be_matrices() -> None:
    class Matrix(gym.ActionWrapper):
        action_space = spaces.Box(-2.0, 2.0, (2, 1), np.float32)

        def action(self, action: np.ndarray) -> np.ndarray:
            return action.sum(0)

    agent = make_agent(env=Matrix(Line()))
    agent.learn(40, callback=ModelBased(RealData(), small_ensemble(Matrix(Line())), fit_every=20))
    assert agent.predict(np.zeros(1, np.float32))[0].shape == (2, 1)


@pytest.mark.parametrize("horizon", [0, 1])
def test_a_policy_is_saved_alone(horizon: int, tmp_path: Path) -> None:
    policy = make_agent(horizon=horizon).policy
    policy.save(tmp_path / "policy")
    loaded = type(policy).load(tmp_path / "policy")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in policy.state_dict().items())


def test_steps_that_svg_did_not_make_are_refused() -> None:
    agent = make_agent()
    with pytest.raises(ValueError, match="infos must hold the log_prob of their actions"):
        agent.replay_buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])


def test_episodes_of_several_envs_with_dict_observations() -> None:
    class Parts(gym.ObservationWrapper):
        observation_space = spaces.Dict({"at": OBS, "sign": spaces.Discrete(2)})

        def observation(self, observation: np.ndarray) -> dict[str, Any]:
            return {"at": observation, "sign": int(observation[0] > 0)}

    env = VecNormalize(make_vec_env(lambda: Parts(Line()), n_envs=2), norm_obs_keys=["at"], gamma=GAMMA)
    agent = SVG("MultiInputPolicy", env, horizon=2, learning_starts=20, batch_size=16, seed=0, device="cpu")
    dynamics = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=3, num_elites=2, hidden=(16,), max_steps=30
    )
    agent.learn(60, callback=ModelBased(RealData(), dynamics, fit_every=20))

    assert all(torch.isfinite(value).all() for value in weights(agent))


def test_it_is_saved_and_loaded_with_its_model(tmp_path: Path) -> None:
    agent = trained(small_ensemble(Line()), horizon="inf", window=30, max_importance_weight=2.0)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")

    loaded = SVG.load(tmp_path / "agent", Line())
    loaded.load_replay_buffer(tmp_path / "buffer")

    assert (loaded.horizon, loaded.window, loaded.max_importance_weight) == ("inf", 30, 2.0)
    assert same(weights(agent), weights(loaded))
    assert np.array_equal(loaded.replay_buffer.log_probs, agent.replay_buffer.log_probs)
    loaded.learn(10, reset_num_timesteps=False)


def test_a_run_that_resumes_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    def go_on(agent: Any) -> None:
        agent.env.seed(5)
        agent._last_obs = None
        agent.learn(25, callback=agent.model_based, reset_num_timesteps=False)

    class AtEpisodesEnd(BaseCallback):
        def _on_step(self) -> bool:
            return not (self.num_timesteps >= 50 and self.locals["dones"][0])

    whole = make_agent(env=VecNormalize(DummyVecEnv([Line]), gamma=GAMMA), horizon=2)
    whole.learn(200, callback=[ModelBased(RealData(), small_ensemble(Line()), fit_every=20), AtEpisodesEnd()])
    assert whole.num_timesteps < 200
    save_checkpoint(whole, tmp_path / "checkpoint")
    go_on(whole)
    other = load_checkpoint(SVG, tmp_path / "checkpoint", VecNormalize(DummyVecEnv([Line]), gamma=GAMMA))
    go_on(other)

    assert same(weights(whole), weights(other))


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": -1}, "horizon must be a whole number of at least 0 or 'inf', got -1"),
        ({"horizon": "all"}, "horizon must be a whole number of at least 0 or 'inf', got 'all'"),
        ({"window": 0}, "window must be a whole number of at least 1, got 0"),
        ({"max_importance_weight": -1.0}, r"max_importance_weight must be in \[0, inf\], got -1.0"),
        ({"ent_coef": "auto"}, r"ent_coef must be in \[0, inf\], got 'auto'"),
        ({"max_grad_norm": 0}, r"max_grad_norm must be in \(0, inf\], got 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="action_space must be a bounded Box, got Discrete"):
        SVG("MlpPolicy", "CartPole-v1")


def test_a_model_without_gradient_is_refused() -> None:
    dynamics = KnownDynamics(
        OBS, ACTION, lambda obs, action: (SLOPE * obs + action).detach(), line().reward_fn, line().termination_fn
    )
    with pytest.raises(ValueError, match="dynamics must be differentiable"):
        trained(dynamics)


def test_a_model_of_several_components_is_refused_before_the_first_step() -> None:
    mixture = EnsembleDynamics.for_env(
        Line(), num_members=3, num_elites=2, hidden=(16,), max_steps=30, num_components=2
    )
    agent = make_agent()
    with pytest.raises(ValueError, match="num_components must be 1 to infer noise, got 2"):
        agent.learn(60, callback=ModelBased(RealData(), mixture))
    assert agent.num_timesteps == 0
    trained(mixture, horizon=0)  # infers nothing


def test_imagined_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"strategy must be RealData\(\) for SVG, got Dyna"):
        make_agent().learn(25, callback=ModelBased(Dyna(), small_ensemble(Line())))
