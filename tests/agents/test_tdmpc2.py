"""TD-MPC2: targets and planned returns against closed forms, that it learns, and SB3's API with planning and files."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import TDMPC2
from mbrl_wrappers.agents.networks.tdmpc2 import Critics, dropout_mask
from mbrl_wrappers.agents.tdmpc2 import discount_for
from mbrl_wrappers.imagination import load_checkpoint, save_checkpoint
from mbrl_wrappers.models import EnsembleDynamics, ImplicitModel
from mbrl_wrappers.models.implicit import Unrolled
from mbrl_wrappers.models.world_model import StepPrediction
from mbrl_wrappers.zoo import ZooError
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import load_recipe
from mbrl_wrappers.zoo.training.run import run
from testing.agents import same
from testing.envs import Still, Walk
from testing.models import box, seeded

MODEL: dict[str, Any] = {"latent": 16, "units": 16, "encoder_units": 16, "bins": 21, "depth": 4}
AGENT: dict[str, Any] = {
    "learning_starts": 40, "batch_size": 8, "buffer_size": 500, "seed": 0, "device": "cpu", "num_proposals": 4,
    "planner_kwargs": {"population": 16, "num_elites": 8, "iterations": 2}, "updates_per_step": 0.5,
}  # fmt: skip


WALK = "mbrl_wrappers_tests/TDMPC2Walk-v0"  # with episodes of 9 steps or fewer
gym.register(WALK, entry_point=Walk)


class Context(gym.Env[np.ndarray, Any]):
    """It shows a random sign, and pays for an action that agrees with it; the next sign is independent."""

    observation_space = spaces.Box(-4, 4, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def _shown(self) -> np.ndarray:
        self.sign = float(self.np_random.choice([-1.0, 1.0]))
        return np.array([4 * self.sign], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps, reward = self.steps + 1, float(action[0]) * self.sign
        return self._shown(), reward, False, self.steps >= 16, {}


def make(env: Any = None, model: dict[str, Any] | None = None, **kwargs: Any) -> TDMPC2:
    env = Walk() if env is None else env
    arguments = {**AGENT, "policy_kwargs": {"units": 16, "bins": 21}, **kwargs}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    if "dynamics" not in arguments:
        arguments["dynamics"] = ImplicitModel(env.observation_space, env.action_space, **{**MODEL, **(model or {})})
    return TDMPC2(policy, env, **arguments)


def parameters(agent: TDMPC2) -> list[Tensor]:
    return [part.detach().clone() for module in (agent.policy, agent.dynamics) for part in module.state_dict().values()]


def worth(critics: Critics, values: list[float]) -> None:
    """Let each critic say the same number whatever it is asked."""
    below = [int(math.log1p(value)) + 10 for value in values]
    critics.last.bias.data.fill_(-1e4)
    for member, (value, place) in enumerate(zip(values, below, strict=True)):
        share = math.log1p(value) + 10 - place
        critics.last.bias.data[member, 0, place] = math.log(1 - share)
        critics.last.bias.data[member, 0, place + 1] = math.log(max(share, 1e-30))


# -- targets and returns -------------------------------------------------------------------------------------


def unrolled(agent: TDMPC2, terminated: Tensor) -> Unrolled:
    """Noise in which some steps ``[H, B]`` terminate an episode."""
    steps, rows = terminated.shape
    latents, encoded = torch.rand(steps + 1, rows, 16, generator=seeded()), torch.rand(steps, rows, 16)
    action, reward = torch.rand(steps, rows, 1), torch.randn(steps, rows)
    counts = (~terminated).cumprod(0).bool() | terminated
    over = torch.cat([torch.zeros(1, rows, dtype=torch.bool), terminated])
    return Unrolled(latents, encoded, action, reward, terminated, counts, over, torch.full((steps, rows), 0.1))


def test_every_step_s_target_has_its_own_termination() -> None:
    """With constant critics: ``r`` where the step terminated, else ``r + gamma`` times the least of two values."""
    agent = make(gamma=0.9)
    worth(agent.policy.slow_critics, [3.0, 5.0, 5.0, 5.0, 5.0])
    terminated = torch.tensor([[False, True, False], [True, False, False], [False, False, True]])
    batch = unrolled(agent, terminated)
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        targets = agent._targets(batch)
        (least,) = {round(x, 3) for x in ((targets - batch.reward)[~terminated] / 0.9).tolist()}
        seen.add(least)
        assert torch.equal(targets[terminated], batch.reward[terminated])
    assert seen == {3.0, 5.0}  # the low one is one of two with a chance of 2/5


def test_the_critics_loss_is_the_mean_cross_entropy_of_all_members_and_steps() -> None:
    agent = make(gamma=0.9)
    torch.nn.init.normal_(agent.policy.critics.last.weight)
    agent.policy.eval()
    batch = unrolled(agent, torch.zeros(3, 4, dtype=torch.bool))
    torch.manual_seed(1)
    targets = agent._targets(batch)
    expected = 0.0
    for t in range(3):
        for member in range(5):
            (outputs,) = agent.policy.critics(batch.latents[t], batch.action[t], torch.tensor([member]))
            loss = agent.policy.critics.two_hot.loss(outputs, targets[t])
            expected += (batch.weight[t] * loss).sum().item() / 5
    torch.manual_seed(1)
    assert agent._value_loss(batch).item() == pytest.approx(expected, rel=1e-4)


def test_planned_rewards_count_until_a_step_is_predicted_to_terminate() -> None:
    """A latent's first entry counts steps; the second is when it ends. The critics' value stands behind the horizon."""
    agent = make(gamma=0.5, horizon=3)
    worth(agent.policy.critics, [7.0] * 5)

    def step(state: Tensor, action: Tensor, generator: Any = None, deterministic: bool = False) -> Any:
        assert deterministic
        moved = state + torch.tensor([1.0, *[0.0] * 15])
        nothing = torch.zeros(len(state))
        return moved, StepPrediction(action[:, 0], moved[:, 0] == moved[:, 1], nothing, nothing > 0)

    agent.dynamics.step = step
    start = torch.zeros(4, 16)
    start[:, 1] = torch.tensor([1.0, 2.0, 3.0, 9.0])  # ends with the first, second, third step, and never
    actions = torch.tensor([[2.0, 3.0, 4.0], [1.0, 1.0, 1.0]])[None, :, :, None].expand(4, -1, -1, -1)
    found = agent._returns(start, actions, torch.zeros(8, 1), torch.tensor([3, 1]))
    wanted = [[2.0, 1.0], [3.5, 1.5], [4.5, 1.75], [4.5 + 7 / 8, 1.75 + 7 / 8]]
    assert torch.allclose(found, torch.tensor(wanted), rtol=1e-3)


def test_proposals_are_what_the_policy_does_in_the_model() -> None:
    agent = make(num_proposals=3)
    agent.policy.actor[-1].bias.data[1:] = -1e3  # hardly any noise
    latents = torch.rand(2, 16, generator=seeded())
    found = agent._proposals(latents, seeded(1))
    assert found.shape == (2, 3, 3, 1)
    rows = latents
    for t in range(3):
        action = agent._env_action(agent.policy.mode(rows))
        assert torch.allclose(found[:, :, t], action[:, None].expand(-1, 3, -1), atol=1e-3)
        rows, _ = agent.dynamics.step(rows, action, deterministic=True)


def test_plans_find_what_the_model_pays_for() -> None:
    agent = make()
    agent.dynamics.step = lambda state, action, *_, **__: (
        state, StepPrediction(-(action[:, 0] - 0.5).square(), *[torch.zeros(len(state)) > 0] * 3)
    )  # fmt: skip
    agent.planner_kwargs = {"population": 256, "num_elites": 32, "iterations": 6, "temperature": 0.02}
    agent._planner = agent._make_planner()
    action, _ = agent.predict(np.zeros((2, 2), np.float32), deterministic=True)
    assert np.abs(action - 0.5).max() < 0.1


# -- networks ------------------------------------------------------------------------------------------------


def test_critics_in_one_product_are_critics_one_by_one() -> None:
    critics = Critics(4, 7, 12, 9).eval()
    for parameter in critics.parameters():
        nn.init.normal_(parameter)
    latents, action = torch.randn(2, 5, 6), torch.randn(2, 5, 1)
    together, chosen = critics(latents, action), critics(latents, action, torch.tensor([2, 0]))
    for member in range(4):
        x = torch.cat([latents, action], dim=-1)
        for layer, norm in zip((critics.first, critics.second), critics.norms, strict=True):
            x = x @ layer.weight[member] + layer.bias[member, 0]
            x = F.mish(F.layer_norm(x, (12,), norm.weight[member, 0], norm.bias[member, 0]))
        x = x @ critics.last.weight[member] + critics.last.bias[member, 0]
        assert torch.allclose(together[member], x, rtol=1e-4, atol=1e-4)
    assert torch.allclose(chosen, together[[2, 0]], atol=1e-5)


def test_a_single_critic_is_its_own_least() -> None:
    agent = make(policy_kwargs={"units": 16, "bins": 21, "num_critics": 1})
    critics = agent.policy.critics
    assert critics.values(torch.rand(3, 16), torch.rand(3, 1), critics.two()).shape == (1, 3)


def test_dropout_hits_each_entry_independently_by_its_share() -> None:
    torch.manual_seed(0)
    mask = dropout_mask((300, 1000), 0.1, torch.zeros(()))
    dropped = mask == 0
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.003)
    assert torch.allclose(mask[~dropped], torch.tensor(1 / 0.9))
    of_rows = dropped.sum(1).float()
    assert of_rows.var().item() == pytest.approx(1000 * 0.1 * 0.9, rel=0.25)  # binomial


def test_what_drops_out_does_not_reach_the_values() -> None:
    critics = Critics(4, 7, 12, 9)
    nn.init.normal_(critics.last.weight)
    latents, action, chosen = torch.randn(5, 6), torch.randn(5, 1), torch.tensor([2, 0])
    mask = critics.drops(5, 2)
    assert mask.shape == (2, 5, 12)
    mask[:] = 1.0
    assert torch.equal(critics(latents, action, chosen, mask), critics(latents, action, chosen))
    mask[1, 3] = 0.0  # all of a row's units: its inputs no longer matter
    other = critics(latents + 1, action, chosen, mask)
    is_same = (other == critics(latents, action, chosen, mask)).all(-1)
    assert is_same[1, 3] and is_same.sum() == 1


def test_entropy_and_scale_are_the_closed_forms() -> None:
    policy = make(Still(box(2), box(3, -1, 1))).policy
    latents = torch.rand(6, 16)
    mean, raw = policy.actor(latents).chunk(2, -1)
    normal = Independent(Normal(mean, (-10 + 6 * (raw.tanh() + 1)).exp()), 1)
    action, entropy = policy.act(latents, policy.noise((6,), seeded()))
    assert torch.allclose(entropy, normal.entropy(), atol=1e-4) and action.shape == (6, 3)
    assert torch.allclose(policy.mode(latents), mean.tanh())
    policy.follow(torch.linspace(0, 10, 101), 0.25)
    assert float(policy.scale) == pytest.approx(0.75 + 0.25 * 9)
    policy.follow(torch.zeros(50), 1.0)
    assert float(policy.scale) == 1.0


def test_slow_critics_follow_the_others() -> None:
    policy = make().policy
    nn.init.ones_(policy.critics.last.bias)
    policy.follow_critics(0.1)
    assert torch.allclose(policy.slow_critics.last.bias, torch.tensor(0.1))


def test_the_policy_learns_nothing_where_an_episode_is_over() -> None:
    agent = make(ent_coef=0.1)
    for is_over in (True, False):
        before = parameters(agent)
        agent._update_policy(torch.rand(4, 6, 16), torch.full((4, 6), is_over))
        moved = {
            name.split(".")[0]
            for name, old, new in zip(agent.policy.state_dict(), before, parameters(agent), strict=False)
            if not torch.equal(old, new)
        }
        assert moved - {"scale"} == (set() if is_over else {"actor"})


def test_the_policy_s_objective_is_that_of_the_paper() -> None:
    """sum_t rho^t (Q / scale + beta A H), over the latents that count, by hand from the same random numbers."""
    agent, counts = make(ent_coef=0.3, rho=0.5), torch.ones(4, 6, dtype=torch.bool)
    counts[1:, 2], counts[3, 4] = False, False
    policy, latents = agent.policy, torch.rand(4, 6, 16)
    nn.init.normal_(policy.critics.last.weight, std=3.0)
    torch.manual_seed(7)
    noise, (one, two) = policy.noise((4, 6)), policy.critics.two()
    mask = policy.critics.drops(24, 2)
    mean, raw = policy.actor(latents).chunk(2, -1)
    std = (-10 + 6 * (raw.tanh() + 1)).exp()
    logits = policy.critics(latents, (mean + std * noise).tanh(), torch.stack([one, two]), mask)
    value = policy.critics.two_hot.mean(logits).mean(0)
    entropy = Normal(mean, std).entropy().sum(-1)
    low, high = value[0].detach().quantile(torch.tensor([0.05, 0.95]))
    scale = 0.99 + 0.01 * max(1.0, float(high - low))
    gains = [(value[t] / scale + 0.3 * entropy[t])[counts[t]].mean() * 0.5**t for t in range(4)]
    torch.manual_seed(7)
    log = agent._update_policy(latents, ~counts)
    assert log["actor_objective"].item() == pytest.approx(torch.stack(gains).mean().item(), rel=1e-4)


def test_the_policy_climbs_the_critics_values() -> None:
    """Critics whose value is the action's square distance from 0.5, learned by regression."""
    agent = make(learning_rate=3e-3, ent_coef=0.0)
    critics, latents = agent.policy.critics, torch.rand(4, 32, 16, generator=seeded())
    optimizer = torch.optim.Adam(critics.parameters(), 1e-2)
    for _ in range(150):
        action = 2 * torch.rand(4, 32, 1) - 1
        loss = critics.two_hot.loss(critics(latents, action), -5 * (action[..., 0] - 0.5).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = (agent.policy.mode(latents) - 0.5).abs().mean()
    for _ in range(60):
        agent._update_policy(latents, torch.zeros(4, 32, dtype=torch.bool))
    assert (agent.policy.mode(latents) - 0.5).abs().mean() < before / 2


# -- learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planning", [True, False])
def test_it_learns_what_the_observation_asks_for(planning: bool) -> None:
    """A reward of 1 a step; one that does not look at its observation, or at the wrong one, gets 0."""
    agent = make(
        Context(), {"episodic": False}, planning=planning, learning_rate=3e-3, gamma=0.5, horizon=1, batch_size=32,
        learning_starts=80, updates_per_step=1.0,
    ).learn(200)  # fmt: skip
    env = Monitor(Context())
    env.reset(seed=100)
    assert evaluate_policy(agent, env, 5)[0] > 16 * 0.6


@pytest.mark.slow
def test_the_recipe_learns_the_pendulum_in_a_thousand_steps() -> None:
    recipe = load_recipe("tdmpc2", "Pendulum-v1")
    settings = {name: value for name, value in recipe.dynamics.items() if name != "kind"}
    dynamics = ImplicitModel.for_env("Pendulum-v1", **settings)
    agent = TDMPC2("MlpPolicy", "Pendulum-v1", dynamics=dynamics, seed=0, device="cpu", **recipe.agent).learn(1_000)
    env = Monitor(gym.make("Pendulum-v1"))
    env.reset(seed=100)
    assert evaluate_policy(agent, env, 3)[0] > -400  # at random: -1,200


# -- SB3's API -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["box", "cell", "dict"])
def test_it_learns_in_several_envs_with_callbacks(form: str) -> None:
    env = DummyVecEnv([lambda: Monitor(Walk(form))] * 2)
    agent = make(env)
    before = parameters(agent)
    evaluation = EvalCallback(DummyVecEnv([lambda: Monitor(Walk(form))]), eval_freq=20, n_eval_episodes=1)
    evaluation.verbose = 0
    agent.learn(80, callback=CallbackList([evaluation]), log_interval=1)
    assert agent._n_updates == 40 and not same(before, parameters(agent))
    assert evaluation.last_mean_reward > -np.inf and agent.num_timesteps == 80


def test_it_learns_from_pixels() -> None:
    """SB3 shows its agents images with the channels first."""
    last, first = (spaces.Box(0, 255, shape, np.uint8) for shape in ((16, 17, 3), (3, 16, 17)))
    env = Still(last, box(2, -1, 1))
    agent = TDMPC2("CnnPolicy", env, dynamics=ImplicitModel(first, env.action_space, **MODEL), **AGENT)
    before = parameters(agent)
    agent.learn(44)
    assert agent._n_updates == 22 and not same(before, parameters(agent))
    action, _ = agent.predict(env.observation_space.sample())
    assert env.action_space.contains(action)


def test_updates_for_random_steps_are_made_up_for_at_once() -> None:
    agent = make(updates_per_step=0.25).learn(40)
    assert agent._n_updates == 0
    agent.learn(1, reset_num_timesteps=False)
    assert agent._n_updates == 10
    agent.learn(8, reset_num_timesteps=False)
    assert agent._n_updates == 12


def test_the_encoder_learns_more_slowly_under_any_schedule() -> None:
    agent = make(learning_rate=lambda left: 1e-2 * (1 + left), encoder_scale=0.3).learn(50)
    encoder, others = (group["lr"] for group in agent.model_optimizer.param_groups)
    assert encoder == pytest.approx(0.3 * others) and 1e-2 <= others < 1.3e-2
    own = {id(p) for p in agent.model_optimizer.param_groups[0]["params"]}
    assert own == {id(p) for part in (agent.dynamics.encoder, agent.dynamics.projection) for p in part.parameters()}
    every = [p for group in agent.model_optimizer.param_groups for p in group["params"]]
    assert len(every) == len([*agent.dynamics.parameters(), *agent.policy.critics.parameters()])


@pytest.mark.parametrize("planning", [True, False])
def test_evaluations_do_not_disturb_training(planning: bool) -> None:
    def trained(evaluates: bool) -> list[Tensor]:
        agent = make(planning=planning)
        agent.learn(46)
        if evaluates:
            evaluate_policy(agent, Monitor(Walk()), 1, deterministic=False)
        return parameters(agent.learn(6, reset_num_timesteps=False))

    assert same(trained(True), trained(False))


@pytest.mark.parametrize("planning", [True, False])
def test_predictions_are_repeatable_and_remember_the_plan(planning: bool) -> None:
    agent = make(planning=planning)
    obs = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    first, state = agent.predict(obs, deterministic=True)
    again, _ = agent.predict(obs, deterministic=True)
    assert np.array_equal(first, again) and Walk().action_space.contains(first[0])
    action, single = agent.predict(obs[0])
    assert action.shape == (1,) and single is not None and single[0].shape == (1, 3, 1)
    drawn = agent.predict(obs)[0]
    assert not np.array_equal(drawn, first) and np.array_equal(drawn, agent.predict(obs)[0])
    assert state is not None and state[1].tolist() == [1, 1, 1]
    reset = agent.predict(obs, state, np.array([True, False, False]), deterministic=True)[1]
    kept = agent.predict(obs, state, np.zeros(3, bool), deterministic=True)[1]
    assert reset is not None and kept is not None and np.array_equal(reset[0][1:], kept[0][1:])
    assert np.array_equal(reset[0][0], kept[0][0]) != planning


def test_the_next_search_starts_at_the_plan_one_step_later() -> None:
    agent = make()
    plan = agent.plan(np.zeros((2, 2), np.float32))
    _, state = agent.predict(np.zeros((2, 2), np.float32))
    searched = agent._planner.action_set.from_env(plan.actions)
    assert state is not None
    assert np.allclose(state[0][:, :-1], searched[:, 1:].numpy(), atol=1e-6) and (state[0][:, -1] == 0).all()


def test_actions_while_learning_are_of_elites_with_their_noise() -> None:
    agent = make(planner_kwargs={"population": 64, "num_elites": 4, "iterations": 2, "min_sigma": 0.05})
    plan = agent.plan(np.zeros((1, 2), np.float32))
    taken = torch.cat([agent._choice(plan, seed, deterministic=False) for seed in range(400)])
    searched = agent._planner.action_set.from_env
    elites = searched(plan.candidates[plan.weights > 0][:, 0])
    spread = agent._planner.spread_of(plan)[0, 0]
    assert (plan.weights > 0).sum() == 4 and spread >= 0.05
    nearest = (searched(taken) - elites[None, :, 0]).abs().amin(1)
    assert (nearest < 4 * spread).all() and nearest.max() > 0.001
    assert torch.equal(agent._choice(plan, 0, deterministic=True), plan.action)


def test_normalised_observations_reach_the_model_raw() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(Walk())]))
    agent = make(env, planning=False).learn(50)
    action, _ = agent.predict(env.reset(), deterministic=True)
    latents = agent.dynamics.begin(torch.as_tensor(env.get_original_obs()))
    expected = agent._env_action(agent.policy.mode(latents)).detach()
    assert np.allclose(action, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(("limit", "gamma"), [(200, 0.975), (500, 0.99), (50, 0.95), (5000, 0.995), (None, 0.995)])
def test_the_discount_follows_the_time_limit(limit: int | None, gamma: float) -> None:
    assert discount_for(limit) == pytest.approx(gamma)


def test_defaults_follow_the_env() -> None:
    agent = TDMPC2("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=100)
    assert (agent.gamma, agent.learning_starts) == (0.975, 1000)
    assert agent.dynamics.settings["size"] == "0.6M" and agent.policy.critics.members == 5
    assert (agent._planner.population, agent._planner.num_elites, agent._planner.iterations) == (512, 64, 6)
    small = TDMPC2("MlpPolicy", "Pendulum-v1", size="1M", device="cpu", buffer_size=100, gamma=0.5, learning_starts=7)
    assert (small.gamma, small.learning_starts, small.policy.critics.members) == (0.5, 7, 2)
    assert small.dynamics.settings["units"] == small.policy.critics.first.weight.shape[-1] == 384
    many = make(Still(box(2), box(20, -1, 1)), planner_kwargs={})
    assert many._planner.iterations == 8


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_it_learns_the_same_and_compiles_once(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for compile in (False, True):
        with monkeypatch.context() as patched:
            if backend == "eager":  # traces the functions, but leaves their operations as they are
                patched.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
            agent = make(compile=compile, seed=0)
            agent.learn(agent.learning_starts + 3)
            with torch.compiler.set_stance("fail_on_recompile"):
                agent.learn(5, reset_num_timesteps=False)
        assert agent._is_compiled == compile and len(agent._compiled_parts or {}) == 3 * compile
        found.append(parameters(agent))
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(plain, compiled, atol=1e-4, rtol=1e-3)


def test_on_a_gpu_it_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TDMPC2, "_on_gpu", True)
    with pytest.raises(ValueError, match="compile must be False or 'auto' for this agent, got True: on a GPU nothing"):
        make(compile=True)
    with pytest.raises(ValueError, match="compile must be True, False or 'auto', got 'yes'"):
        make(compile="yes")


# -- saving --------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_run_bit_for_bit(tmp_path: Any) -> None:
    """Walk's episodes are of 9 steps or fewer; its starts depend on a generator that both runs seed."""

    def go_on(agent: TDMPC2) -> list[Tensor]:
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002
        assert agent.env is not None
        agent.env.seed(11)
        agent._last_obs = agent.env.reset()  # type: ignore[assignment]
        agent._plan_state, agent._last_episode_starts = None, np.ones(1, bool)
        return parameters(agent.learn(20, reset_num_timesteps=False))

    agent = make().learn(51)
    save_checkpoint(agent, tmp_path / "run")
    resumed = load_checkpoint(TDMPC2, tmp_path / "run", Walk(), device="cpu")
    assert resumed._n_updates == agent._n_updates > 0 and resumed._owed_updates == agent._owed_updates
    assert same(go_on(agent), go_on(resumed))


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_the_zoo_s_files_hold_all_of_it(with_optimizer: bool, tmp_path: Any) -> None:
    agent = make(gym.make("Pendulum-v1"), {"episodic": False}).learn(44)
    zoo.save(agent, tmp_path / "kept", episodes=0, with_optimizer=with_optimizer)
    again: Any = zoo.load(tmp_path / "kept", env=gym.make("Pendulum-v1"))
    obs = np.stack([agent.observation_space.sample() for _ in range(2)])
    assert np.array_equal(agent.predict(obs)[0], again.predict(obs)[0])
    assert same(parameters(agent), parameters(again)) and again.dynamics.num_starts == agent.dynamics.num_starts > 0
    assert again._owed_updates == agent._owed_updates and again.gamma == agent.gamma
    if with_optimizer:
        assert torch.equal(again._plan_generator.get_state(), agent._plan_generator.get_state())
        states = [one.model_optimizer.state_dict() for one in (agent, again)]
        assert [group["lr"] for group in states[0]["param_groups"]] == [g["lr"] for g in states[1]["param_groups"]]
        moments = [state["state"] for state in states]
        assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])


def test_a_folder_with_wrong_shapes_is_refused(tmp_path: Any) -> None:
    agent = make(gym.make("Pendulum-v1"))
    zoo.save(agent, tmp_path / "kept", episodes=0)
    config = tmp_path / "kept" / "config.json"
    content = json.loads(config.read_text())
    content["arguments"]["policy_kwargs"]["num_critics"] = 3
    config.write_text(json.dumps(content))
    with pytest.raises(ZooError):
        zoo.load(tmp_path / "kept")


def test_an_interrupted_run_of_the_zoo_ends_as_one_that_was_not(tmp_path: Any) -> None:
    params = {f"dynamics.{name}": MODEL[name] for name in ("latent", "units", "encoder_units", "bins")}
    own = {name: AGENT[name] for name in ("learning_starts", "batch_size", "num_proposals", "planner_kwargs")}
    params |= {f"agent.{name}": value for name, value in own.items()} | {"agent.updates_per_step": 0.5}
    params["agent.policy_kwargs"] = {"units": 16, "bins": 21}
    spec = make_job("tdmpc2", WALK, steps=80, params=params, eval_freq=30, eval_episodes=1, save_freq=15)
    whole: Any = run(spec, tmp_path / "whole")[0]

    def stop(row: Any) -> None:
        if row.steps >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "broken", on_evaluation=stop)
    torch.manual_seed(99)
    resumed: Any = run(spec, tmp_path / "broken")[0]
    assert same(parameters(whole), parameters(resumed)) and whole._n_updates == resumed._n_updates > 20


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy_kwargs": {"bins": 1}}, "bins must be a whole number of at least 2, got 1"),
        ({"policy_kwargs": {"num_critics": 0}}, "num_critics must be a whole number of at least 1, got 0"),
        ({"policy_kwargs": {"units": 0}}, "units must be a whole number of at least 1, got 0"),
        ({"size": "2M", "dynamics": None}, r"size must be one of \('0.6M', '1M', '5M'\), got '2M'"),
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"num_proposals": -1}, "num_proposals must be a whole number of at least 0, got -1"),
        ({"num_proposals": 16}, "num_proposals must be below the planner's population 16, got 16"),
        ({"updates_per_step": 0}, r"updates_per_step must be in \(0, 1e\+09\], got 0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"tau": -0.1}, r"tau must be in \[0, 1\], got -0.1"),
        ({"rho": 0}, r"rho must be in \(0, 1\], got 0"),
        ({"buffer_size": 3}, "buffer_size must be at least 4 steps of each env, for the horizon, got 3"),
        ({"planner_kwargs": {"num_elites": 600}}, "num_elites must be at most the population 512, got 600"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_models_spaces_and_ends_that_do_not_fit_are_named() -> None:
    env = Walk()
    with pytest.raises(ValueError, match="dynamics must be an ImplicitModel for TDMPC2, got EnsembleDynamics"):
        make(env, dynamics=EnsembleDynamics(env.observation_space, env.action_space, hidden=(4,)))
    with pytest.raises(ValueError, match=r"dynamics\.observation_space must equal the env's"):
        make(env, dynamics=ImplicitModel(box(3, -1, 1), env.action_space, **MODEL))
    with pytest.raises(ValueError, match="action_space must be a bounded Box, got Discrete"):
        TDMPC2("MlpPolicy", Walk(discrete=True))
    with pytest.raises(ValueError, match=r"action_space must be a bounded Box, got Box\(-inf"):
        make(Still(box(2), box(1)))
    agent = make()
    with pytest.raises(ValueError, match="state must be of 1 environments"):
        agent.predict(np.zeros((1, 2), np.float32), (np.zeros((2, 3)),))
    with pytest.raises(ValueError, match="observation from the environment must be finite"):
        agent.predict(np.full((1, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="episodic must be True for the model of an env whose episodes terminate"):
        make(model={"episodic": False}).learn(200)


def test_a_loaded_agent_that_has_learned_acts_like_the_one_that_was_saved(tmp_path: Any) -> None:
    """Its critics are no longer zero, so dropout would show; and random numbers are the agent's own."""
    agent = make(updates_per_step=1.0).learn(80)
    agent.save(tmp_path / "agent.zip")
    loaded = TDMPC2.load(tmp_path / "agent.zip", env=Walk(), device="cpu")
    obs = np.full((3, 2), 0.3, np.float32)[:, : Walk().observation_space.shape[0]]
    before = torch.get_rng_state()
    actions = [one.predict(obs, deterministic=True)[0] for one in (agent, loaded, loaded)]
    assert np.array_equal(actions[0], actions[1]) and np.array_equal(actions[1], actions[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_sequences_are_looked_at_anew_once_the_whole_buffer_was_overwritten() -> None:
    agent = make(buffer_size=20, learning_starts=1_000).learn(30)
    experience = agent._experience()
    experience.sequences(4, 3)
    assert agent._experience() is experience
    agent.learn(19, reset_num_timesteps=False)
    assert agent._experience() is experience  # one of the steps it has read is still in the buffer
    agent.learn(20, reset_num_timesteps=False)
    renewed = agent._experience()
    assert renewed is not experience
    drawn = renewed.sequences(200, 3)
    goes_on = ~drawn.is_first[:, 1:]
    moved = (drawn.obs[:, 1:] - drawn.obs[:, :-1]).abs().amax(-1)
    assert (moved[goes_on] < 2.0).all()  # a walk makes small steps


@pytest.mark.parametrize(("size", "least", "most"), [("0.6M", 4e5, 7e5), ("1M", 1e6, 1.6e6), ("5M", 4.5e6, 6e6)])
def test_agents_learn_about_as_many_parameters_as_their_size_says(size: str, least: float, most: float) -> None:
    agent = TDMPC2("MlpPolicy", Still(box(3), box(1, -1, 1)), size=size, device="cpu")
    learned = [*agent.dynamics.parameters(), *agent.policy.parameters()]
    assert least < sum(part.numel() for part in learned if part.requires_grad) < most


def test_a_size_must_be_that_of_the_model() -> None:
    with pytest.raises(ValueError, match=r"size must be that of dynamics, '0\.6M', got '5M'"):
        make(size="5M")
