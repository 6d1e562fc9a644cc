"""STEVE: its targets and weights, against loops over every member, reward and critic."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from mbrl_wrappers.agents import STEVE
from mbrl_wrappers.imagination import AgentView, ModelBased
from mbrl_wrappers.models import DynamicsModel, EnsembleDynamics, KnownDynamics
from mbrl_wrappers.models.heads import MOST_SPREADS
from mbrl_wrappers.models.network import EnsembleMLP
from mbrl_wrappers.seeding import set_apart
from testing import envs
from testing.agents import make_agent

OBS, ACTION = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-2.0, 3.0, (1,), np.float32)
GAMMA, ALPHA = 0.9, 0.3

Still = functools.partial(envs.Still, OBS, ACTION)


def filled_agent(kind: type = TD3, env: Any = Still, n_critics: int = 3, **kwargs: Any) -> Any:
    policy_kwargs = {"net_arch": [8], "n_critics": n_critics}
    agent = make_agent(kind, env, gamma=GAMMA, policy_kwargs=policy_kwargs, **kwargs)
    if isinstance(agent, TD3):
        agent.target_policy_noise = 0.0  # so that loops in another order act alike
    source = np.random.default_rng(0)
    for row in range(40):
        obs, next_obs = source.normal(size=(2, 1, 2))
        done = np.array([row % 4 == 0])
        agent.replay_buffer.add(obs, next_obs, source.uniform(-1, 1, (1, 1)), np.array([float(row)]), done, [{}])
    return agent


def ensemble(**kwargs: Any) -> EnsembleDynamics:
    settings = {"num_members": 4, "num_elites": 3, "hidden": (8,), "seed": 1, **kwargs}
    dynamics = EnsembleDynamics(OBS, ACTION, **settings)
    with torch.no_grad():  # far enough apart for horizons to differ, and some rollouts to end
        for weight in (weight for network in networks(dynamics) for weight in network.weights):
            weight.mul_(3.0)
    return dynamics


def networks(dynamics: EnsembleDynamics) -> list[EnsembleMLP]:
    return [module for module in dynamics.modules() if isinstance(module, EnsembleMLP)]


def without_ends(dynamics: EnsembleDynamics) -> EnsembleDynamics:
    assert dynamics.termination_network is not None
    with torch.no_grad():
        dynamics.termination_network.biases[-1].fill_(-1e3)
    return dynamics


def bound(strategy: STEVE, agent: Any, dynamics: DynamicsModel, seed: int = 0) -> STEVE:
    strategy.bind(AgentView(agent, dynamics), dynamics, torch.Generator().manual_seed(seed))
    return strategy


def draw(strategy: STEVE, agent: Any, batch: int, env: Any = None) -> tuple[Any, Any]:
    """Return the real rows that a batch is made of, and the batch."""
    np.random.seed(0)  # noqa: NPY002 - SB3's buffers draw from it
    real = agent.replay_buffer.sample(batch)
    np.random.seed(0)  # noqa: NPY002
    return real, strategy.sample(agent.replay_buffer, batch, env)


def act(agent: Any, view: AgentView, obs: Tensor, noise: Tensor) -> tuple[Tensor, float]:
    """Return the action of the agent's target policy and the bonus of its entropy."""
    if isinstance(agent, TD3):
        return view.target_policy(obs, torch.Generator())[0], 0.0
    mean, log_std, _ = agent.actor.get_action_dist_params(obs)
    gaussian = mean + log_std.exp() * noise
    log_prob = agent.actor.action_dist.proba_distribution(mean, log_std).log_prob(gaussian.tanh(), gaussian)
    low, high = torch.as_tensor(ACTION.low), torch.as_tensor(ACTION.high)
    return low + (high - low) * (gaussian.tanh() + 1) / 2, -ALPHA * log_prob.item()


def step_of(
    dynamics: EnsembleDynamics, mover: int, rater: int, obs: Tensor, action: Tensor
) -> tuple[Tensor, float, float]:
    """Return where one member's mean leads, what another one's pays for it, and the first one's chance of an end."""
    x = dynamics.input_normalizer.normalize(torch.cat([obs, action], dim=-1))
    outputs = dynamics.network.member(mover, x)
    change = dynamics.target_normalizer.denormalize(outputs.mean)[:, :2]
    if dynamics.reward_network is None:  # joint
        paid = dynamics.target_normalizer.denormalize(dynamics.network.member(rater, x).mean)[:, 2]
        return obs + change, paid.item(), outputs.flags.sigmoid().item()
    spreads = dynamics.target_normalizer.normalize(change).clamp(-MOST_SPREADS, MOST_SPREADS)
    seen = torch.cat([x, spreads], dim=-1)
    paid = dynamics.reward_normalizer.denormalize(dynamics.reward_network.member(rater, seen).mean)
    return obs + change, paid.item(), dynamics.termination_network.member(mover, seen).flags.sigmoid().item()


@torch.no_grad()
def written_out(agent: Any, dynamics: EnsembleDynamics, horizon: int, real: Any) -> tuple[Tensor, Tensor]:
    """Return the targets of each horizon, ``[B, H+1, K]`` over all combinations, and of the least critic, [B, H+1]."""
    view, generator = AgentView(agent, dynamics), torch.Generator().manual_seed(0)
    shape, noise, uniform = (len(real.rewards), 1), [], []
    for _ in range(horizon + 1):
        noise.append(torch.randn(shape, generator=generator))
        uniform.append(torch.rand(shape, generator=generator))
    members = dynamics.particle_members
    targets, of_least = [], []
    for i in range(len(real.rewards)):
        r, goes_on = real.rewards[i].item(), 1 - real.dones[i].item()
        combinations: list[list[float]] = [[] for _ in range(horizon + 1)]
        least: list[list[float]] = [[] for _ in range(horizon + 1)]
        for mover in members:
            for rater in members:
                obs, total, alive = real.next_observations[i : i + 1], 0.0, 1.0
                for h in range(horizon + 1):
                    action, bonus = act(agent, view, obs, noise[h][i])
                    values = (view.target_values(obs, action)[:, 0] + bonus).tolist()
                    found = [r + goes_on * GAMMA * (total + alive * GAMMA**h * value) for value in values]
                    combinations[h] += found
                    least[h].append(min(found))
                    obs, reward, chance = step_of(dynamics, mover, rater, obs, action)
                    total += alive * GAMMA**h * (reward + bonus)
                    alive *= float(uniform[h][i] >= chance)
        targets.append(combinations)
        of_least.append([np.mean(found) for found in least])
    return torch.tensor(targets), torch.tensor(of_least)


@pytest.mark.parametrize(("kind", "joint"), [(TD3, False), (SAC, False), (SAC, True)])
@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("horizon", [1, 3])
def test_the_target_is_the_weighted_mean_over_all_combinations(horizon: int, covariance: bool, kind: type, joint: bool):
    agent, dynamics = filled_agent(kind, **({"ent_coef": ALPHA} if kind is SAC else {})), ensemble(joint=joint)
    real, batch = draw(bound(STEVE(horizon, covariance=covariance), agent, dynamics), agent, 12)
    targets, of_least = written_out(agent, dynamics, horizon, real)
    centred = targets - targets.mean(-1, keepdim=True)
    if covariance:
        products = (centred @ centred.transpose(1, 2) / targets.shape[-1]).double()
        weights = torch.linalg.inv(products + 1e-3 * torch.eye(horizon + 1)).sum(-1).float()
    else:
        weights = 1 / (centred.square().mean(-1) + 1e-8)
    expected = (weights * of_least).sum(1) / weights.sum(1)
    assert torch.allclose(batch.rewards[:, 0], expected.float(), atol=2e-3 if covariance else 1e-4)
    assert bool(real.dones.any())
    assert targets.var(-1).min() == 0
    assert (batch.dones == 1).all()
    for name in ("observations", "actions", "next_observations"):
        assert torch.equal(getattr(batch, name), getattr(real, name))


def alike(dynamics: EnsembleDynamics) -> EnsembleDynamics:
    with torch.no_grad():
        for network in networks(dynamics):
            for parameter in (*network.weights, *network.biases):
                parameter.copy_(parameter[:1].expand_as(parameter))
    return dynamics


@pytest.mark.parametrize("kind", [SAC, TD3, TQC])
def test_noise_of_the_policy_is_no_doubt_about_the_model(kind: type):
    agent, dynamics = filled_agent(kind), alike(ensemble())
    if kind is TD3:
        agent.target_policy_noise = 0.3
    states = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    view, obs = AgentView(agent, dynamics), states.repeat(3, 1)
    action, bonus = view.target_policy(obs, torch.Generator(), copies=3)
    assert (action.unflatten(0, (3, 5)).std(0) < 1e-6).all() and (bonus.unflatten(0, (3, 5)).std(0) < 1e-6).all()
    assert action[:5].std() > 0.01
    free, _ = view.target_policy(obs, torch.Generator())
    assert (free.unflatten(0, (3, 5)).std(0) > 1e-3).all()
    if kind is TQC:
        return
    strategy = bound(STEVE(3), agent, dynamics)
    for rewards, values in strategy._candidates(states, None):
        assert rewards.std((0, 1)).max() < 1e-5 and values.std(1).max() < 1e-5


def test_a_model_whose_members_agree_is_trusted_and_one_whose_members_do_not_is_not():
    agent = filled_agent()
    wild = without_ends(ensemble())
    wild.target_normalizer.std.fill_(100.0)
    wild.reward_normalizer.std.fill_(100.0)
    shares = []
    for dynamics in (alike(ensemble()), wild):
        strategy = bound(STEVE(3), agent, dynamics)
        draw(strategy, agent, 40)
        report = strategy.refresh(None, 0, 0)
        assert sum(report[f"weight_h{h}"] for h in range(4)) == pytest.approx(1.0)
        shares.append(report["weight_h0"])
    trusting, wary = shares
    assert trusting < 0.6
    assert wary > 0.99


def test_the_first_action_is_the_same_for_all_members():
    """Else the noise of the policy would be taken for the critics' doubt (SAC with critics that agree)."""
    agent = filled_agent(SAC, n_critics=2)
    with torch.no_grad():
        one, two = agent.critic_target.q_networks
        two.load_state_dict(one.state_dict())
    strategy = bound(STEVE(2), agent, ensemble())
    real, batch = draw(strategy, agent, 20)
    view, generator = AgentView(agent, ensemble()), torch.Generator().manual_seed(0)
    action, bonus = view.target_policy(real.next_observations, generator)
    own = view.target_values(real.next_observations, action).amin(0) + bonus
    expected = real.rewards[:, 0] + (1 - real.dones[:, 0]) * GAMMA * own
    assert torch.allclose(batch.rewards[:, 0], expected, atol=1e-3)


def assert_nothing_is_looked_ahead(agent: Any, dynamics: EnsembleDynamics) -> None:
    strategy = bound(STEVE(2), agent, dynamics)
    _, batch = draw(strategy, agent, 20)
    assert torch.isfinite(batch.rewards).all()
    report = strategy.refresh(None, 0, 0)
    assert report["weight_h0"] == 1.0
    assert report["diverged"] == 20.0


def test_a_horizon_that_is_not_finite_has_no_weight():
    agent, dynamics = filled_agent(), ensemble()
    with torch.no_grad():
        dynamics.network.weights[0][dynamics.particle_members[1]] = torch.nan
    assert_nothing_is_looked_ahead(agent, dynamics)


@pytest.mark.parametrize("ends_there", [False, True])
def test_where_a_member_diverges_no_termination_is_believed(ends_there: bool):
    def ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return ~torch.isfinite(next_obs).all(-1) & ends_there

    agent, dynamics = filled_agent(), ensemble(termination_fn=ends)
    dynamics.target_normalizer.std[0] = torch.inf  # the states, not the rewards
    assert_nothing_is_looked_ahead(agent, dynamics)


@torch.no_grad()
def test_normalized_rewards_and_n_steps():
    env: Any = VecNormalize(DummyVecEnv([Still]))
    agent = filled_agent(env=env, n_steps=3)
    env.obs_rms.mean, env.obs_rms.var, env.ret_rms.var = np.array([0.5, 0.0]), np.array([4.0, 1.0]), np.array(100.0)
    dynamics = without_ends(alike(ensemble()))
    _, batch = draw(bound(STEVE(1), agent, dynamics), agent, 10, env)
    np.random.seed(0)  # noqa: NPY002
    real = agent.replay_buffer.sample(10)
    np.random.seed(0)  # noqa: NPY002
    normed = agent.replay_buffer.sample(10, env=env)
    view = AgentView(agent, dynamics)
    values, total, obs = [], torch.zeros(10), real.next_observations
    for h in (0, 1):
        action, _ = view.target_policy(obs, torch.Generator())
        values.append(total + GAMMA**h * view.target_values(obs, action))
        p = dynamics.particle_step([0], deterministic=True)(obs[None], action[None], None)
        total, obs = total + torch.as_tensor(env.normalize_reward(p.reward[0].numpy())), p.next_obs[0]
    factor = (normed.discounts * (1 - normed.dones))[:, 0]
    weights = torch.stack([1 / ((factor * v).var(0, unbiased=False) + 1e-8) for v in values])
    ahead = (weights * torch.stack([v.amin(0) for v in values])).sum(0) / weights.sum(0)
    assert torch.allclose(batch.rewards[:, 0], normed.rewards[:, 0] + factor * ahead, atol=1e-4)
    assert torch.equal(batch.observations, normed.observations)


def parameters_after(kind: type, strategy: STEVE | None) -> list[Tensor]:
    agent = filled_agent(kind, learning_starts=20, train_freq=1, gradient_steps=1, batch_size=16)
    dynamics = ensemble(max_steps=5)
    set_apart(agent.action_space)
    agent.learn(80, callback=None if strategy is None else ModelBased(strategy, dynamics, fit_every=50, seed=3))
    return [parameter.detach().clone() for parameter in agent.policy.parameters()]


@pytest.mark.parametrize("kind", [SAC, TD3, CrossQ])
def test_a_horizon_of_0_is_the_agent_without_a_model(kind: type):
    plain = parameters_after(kind, None)
    assert all(map(torch.equal, plain, parameters_after(kind, STEVE(0))))
    assert not all(map(torch.equal, plain, parameters_after(kind, STEVE(2))))


def test_what_has_no_variance_is_refused():
    for kind, message in (
        (DDPG, "n_critics must be at least 2, got 1; DDPG takes policy_kwargs"),
        (TQC, "critics must be scalar, got TQC"),
    ):
        agent = kind("MlpPolicy", Still(), device="cpu")
        with pytest.raises(ValueError, match=message):
            bound(STEVE(), agent, ensemble())
    for other, message in ((DQN, "got 1; DQN has one network"), (QRDQN, "critics must be scalar, got QRDQN")):
        with pytest.raises(ValueError, match=message):
            bound(STEVE(), other("MlpPolicy", "CartPole-v1", device="cpu"), KnownDynamics.for_env("CartPole-v1"))
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got EnsembleDynamics with 1"):
        bound(STEVE(), filled_agent(), ensemble(num_elites=1))
    with pytest.raises(ValueError, match="dynamics must have a learned reward, whose variance counts, got reward_fn="):
        bound(STEVE(), filled_agent(), ensemble(reward_fn=lambda obs, action, next_obs: obs[:, 0]))
    with pytest.raises(ValueError, match=r"at least 2 members that predict .*, got KnownDynamics with 1"):
        bound(STEVE(), filled_agent(), KnownDynamics(OBS, ACTION, lambda o, a: o, lambda o, a, n: o[:, 0]))
    with pytest.raises(ValueError, match="horizon must be a whole number of at least 0, got -1"):
        STEVE(-1)
