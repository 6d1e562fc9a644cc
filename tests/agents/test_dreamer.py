"""Dreamer: which state, action and reward belong together, that it learns, and SB3's API with a memory."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from stable_baselines3.common.callbacks import CallbackList, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor, nn
from torch.distributions import Independent, Normal, OneHotCategorical

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import Dreamer
from mbrl_wrappers.agents.dreamer import Evaluated
from mbrl_wrappers.agents.networks.dreamer import BoundedNormal, OneOf, SquashedNormal
from mbrl_wrappers.imagination import load_checkpoint, save_checkpoint
from mbrl_wrappers.models import RSSM, EnsembleDynamics
from mbrl_wrappers.zoo.storage.manifest import write_manifest
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.run import run
from testing.agents import same
from testing.envs import Still, Walk

MODEL: dict[str, Any] = {"deter": 16, "units": 16, "layers": 1, "depth": 4, "bins": 41, "latent": [4, 4]}
AGENT: dict[str, Any] = {
    "learning_starts": 40, "batch_size": 4, "sequence_length": 8, "replay_ratio": 8, "horizon": 4,
    "imagination_starts": 16, "buffer_size": 500, "seed": 0, "device": "cpu",
}  # fmt: skip


class Context(gym.Env[np.ndarray, Any]):
    """It shows a random sign, and pays for an action that agrees with it; the next sign is independent."""

    observation_space = spaces.Box(-4, 4, (1,), np.float32)

    def __init__(self, discrete: bool = True) -> None:
        self.action_space: Any = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (1,), np.float32)

    def _shown(self) -> np.ndarray:
        self.sign = float(self.np_random.choice([-1.0, 1.0]))
        return np.array([4 * self.sign], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        chosen = 2.0 * action - 1 if isinstance(self.action_space, spaces.Discrete) else float(action[0])
        self.steps, reward = self.steps + 1, chosen * self.sign
        return self._shown(), reward, False, self.steps >= 16, {}


def make(env: Any = None, model: dict[str, Any] | None = None, **kwargs: Any) -> Dreamer:
    env = Walk() if env is None else env
    arguments = {**AGENT, "policy_kwargs": {"units": 16, "layers": 1, "bins": 41}, **kwargs}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    if "dynamics" not in arguments:
        version = {"version": arguments.get("version", 3)}
        arguments["dynamics"] = RSSM(env.observation_space, env.action_space, **{**MODEL, **version, **(model or {})})
    return Dreamer(policy, env, **arguments)


def parameters(agent: Dreamer) -> list[Tensor]:
    return [part.detach().clone() for module in (agent.policy, agent.dynamics) for part in module.state_dict().values()]


# -- which things belong together ----------------------------------------------------------------------------


class PlantedCritic(nn.Module):
    """The value of a state is its third feature."""

    def forward(self, features: Tensor) -> Tensor:
        return features

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[..., 2]


def planted(**kwargs: Any) -> tuple[Dreamer, Tensor, Tensor]:
    """An agent for which a state's features say reward, chance to go on and value; trajectories, and which are over."""
    agent = make(gamma=0.9, **kwargs)
    agent.dynamics.outcomes = lambda features: (features[..., 0], features[..., 1])
    agent.policy.critic = PlantedCritic()  # type: ignore[assignment]
    features = torch.rand(5, 3, agent.dynamics.num_features, generator=torch.Generator().manual_seed(0))
    return agent, features, torch.tensor([False, True, False])


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_returns_are_of_the_states_that_steps_lead_to(lam: float) -> None:
    """By hand, from n-step returns: rewards and chances of s_{t+1} on, and the value of s_H behind them."""
    agent, features, is_over = planted(gae_lambda=lam)
    found = agent._evaluate(features, is_over)
    reward, goes_on, value = features[..., 0], features[..., 1], features[..., 2]
    for t in range(4):
        of_n = []
        for n in range(1, 5 - t):
            total, factor = torch.zeros(3), torch.ones(3)
            for k in range(t + 1, t + n + 1):
                total, factor = total + factor * reward[k], factor * 0.9 * goes_on[k]
            of_n.append(total + factor * value[t + n])
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, len(of_n))] + [lam ** (len(of_n) - 1)]
        wanted = torch.stack([w * part for w, part in zip(weights, of_n, strict=True)]).sum(0)
        assert torch.allclose(found.returns[t], wanted, atol=1e-5)
        reached = (~is_over).float() * (0.9 * goes_on[1 : t + 1]).prod(0)
        assert torch.allclose(found.weight[t], reached) and torch.equal(found.values[t], value[t])


def test_an_action_is_scored_in_the_state_in_which_it_was_chosen() -> None:
    agent = make(Context(), model={"bins": 0}, horizon=3, ent_coef=0.0)
    # Rewards so far apart that the running range of returns is above its least value after one batch.
    torch.nn.init.normal_(agent.dynamics.reward_head.net[-1].weight, std=500.0)
    start = torch.randn(5, agent.dynamics.num_features, generator=torch.Generator().manual_seed(1))
    nobody = torch.zeros(5, dtype=torch.bool)
    torch.manual_seed(3)
    features, actions = agent._imagine(start)
    found = agent._evaluate(features, nobody)
    scale = 0.01 * (found.returns.quantile(0.95) - found.returns.quantile(0.05))
    assert scale > 2
    chances = agent.policy.actor(features[:-1].detach()).softmax(-1) * 0.99 + 0.005
    advantage = (found.returns - found.values) / scale
    objective = (found.weight * (chances * actions).sum(-1).log() * advantage).detach()
    torch.manual_seed(3)
    log = agent._update_behavior(start, nobody)
    assert log["actor_objective"].item() == pytest.approx(float(objective.mean()), rel=1e-4)


def test_climbing_the_gradient_through_the_model_makes_the_dream_better() -> None:
    """The same starts and the same noise, before and after."""

    def worth() -> float:
        torch.manual_seed(5)
        features, _ = agent._imagine(start)
        return agent.dynamics.outcomes(features[1:])[0].mean().item()

    agent = make(model={"bins": 0}, behavior_learning_rate=1e-2, ent_coef=0.0)
    torch.nn.init.normal_(agent.dynamics.reward_head.net[-1].weight)
    start, nobody = torch.randn(64, agent.dynamics.num_features), torch.zeros(64, dtype=torch.bool)
    before = worth()
    for _ in range(30):
        agent._update_behavior(start, nobody)
    assert worth() > before + 0.05


def test_the_range_of_returns_follows_slowly_and_has_a_least_value() -> None:
    agent = make()
    for turn in range(1, 4):
        scale = agent._return_scale(torch.linspace(-1000, 1000, 2001))
        assert float(scale) == pytest.approx(1800 * (1 - 0.99**turn), rel=1e-3)
    assert float(make()._return_scale(torch.linspace(-1, 1, 50))) == 1.0


def test_the_critic_learns_returns_and_what_its_slow_copy_says() -> None:
    agent = make()
    critic, slow = agent.policy.critic, agent.policy.slow_critic
    for net in (critic, slow):
        torch.nn.init.normal_(net.net[-1].weight)
    features = torch.randn(4, 6, agent.dynamics.num_features)
    outputs, returns = critic(features), torch.randn(4, 6)
    found = Evaluated(returns, critic.mean(outputs), outputs, torch.ones(4, 6))
    wanted = critic.loss(outputs, returns) + critic.loss(outputs, critic.mean(slow(features)))
    torch.testing.assert_close(agent._critic_loss(found, features), wanted)
    before = slow.net[-1].weight.clone()
    agent._update_behavior(features[0], torch.zeros(6, dtype=torch.bool))
    torch.testing.assert_close(slow.net[-1].weight, torch.lerp(before, critic.net[-1].weight, 0.02))


@pytest.mark.parametrize("discrete", [False, True])
def test_the_entropy_bonus_makes_actions_more_random(discrete: bool) -> None:
    """A new model foresees no reward at all, so nothing else moves the actor."""
    agent = make(Context(discrete), ent_coef=1.0, behavior_learning_rate=0.02)
    torch.nn.init.normal_(agent.policy.actor[-1].weight)
    start, nobody = torch.randn(64, agent.dynamics.num_features), torch.zeros(64, dtype=torch.bool)
    entropies = [agent._update_behavior(start, nobody)["entropy"].mean().item() for _ in range(40)]
    assert entropies[-1] > entropies[0] + 0.1


def test_version_1_explores_with_noise_and_version_3_without() -> None:
    assert make(version=3).action_noise is None
    noise: Any = make(version=1).action_noise
    draws = np.array([noise() for _ in range(2000)])
    assert draws.shape == (2000, 1) and draws.std() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("version", [1, 3])
def test_the_penalty_leads_actions_back_from_their_bounds(version: int) -> None:
    """A new model foresees no reward at all, so nothing else moves the actor."""
    for penalty in (0.0, 0.5):
        agent = make(version=version, ent_coef=0.0, action_penalty=penalty, behavior_learning_rate=0.05)
        torch.nn.init.constant_(agent.policy.actor[-1].bias, 4.0)
        start, nobody = torch.randn(64, agent.dynamics.num_features), torch.zeros(64, dtype=torch.bool)
        before = agent.act_on(start) / 5  # the bound
        for _ in range(50):
            agent._update_behavior(start, nobody)
        after = agent.act_on(start) / 5
        assert before.mean() > 0.95
        assert after.mean() < 0.8 if penalty else after.mean() > 0.95


def test_where_an_episode_is_over_nothing_is_learned() -> None:
    agent = make(ent_coef=0.1)
    for is_over in (True, False):
        before = parameters(agent)
        agent._update_behavior(torch.randn(6, agent.dynamics.num_features), torch.full((6,), is_over))
        moved = [not torch.equal(old, new) for old, new in zip(before, parameters(agent), strict=True)]
        names = {n.split(".")[0] for n, has in zip(agent.policy.state_dict(), moved, strict=False) if has}
        # The slow critic comes nearer to the other one, if only by a rounding error.
        assert names - {"slow_critic", "return_range"} == (set() if is_over else {"actor", "critic"})


def test_memories_follow_the_model() -> None:
    agent = make()
    model, rng = agent.dynamics, np.random.default_rng(0)
    obs = rng.normal(size=(4, 2, 2)).astype(np.float32)
    state: Any = None
    expected: Any = None
    for t in range(4):
        started = np.array([False, t == 2])
        generator = torch.Generator().manual_seed(agent._predict_seed(t))
        seen = torch.as_tensor(obs[t])
        if state is None:
            expected = model.begin(seen, generator)
        else:
            taken = torch.as_tensor(state[1])
            expected = model.observe(expected, taken, seen, torch.as_tensor(started), generator)
        action, state = agent.predict(obs[t], state, started, deterministic=True)
        assert torch.equal(torch.as_tensor(state[0]), model.features(expected).detach())
        assert np.array_equal(state[1], action) and state[2].tolist() == [t + 1] * 2


def test_while_it_learns_memories_follow_the_real_steps_and_are_forgotten_where_episodes_begin() -> None:
    """Not a step early: the last observation of an episode, which the buffer holds, never begins a memory."""
    env = DummyVecEnv([lambda: Monitor(Walk(limit=9)), lambda: Monitor(Walk(limit=5))])
    agent, seen = make(env, learning_starts=2), []
    observe = agent.dynamics.observe

    def noted(state: Any, action: Tensor, obs: Tensor, is_first: Tensor, generator: Any = None) -> Any:
        memory = None if agent._memory is None else agent._memory.action
        seen.append((obs.clone(), is_first.clone(), action.clone(), memory))
        return observe(state, action, obs, is_first, generator)

    agent.dynamics.observe = noted
    agent.learn(60)
    begins = 0
    for obs, is_first, action, last in seen[1:]:
        assert torch.equal(is_first, obs[:, 1] == 0)  # Walk shows the number of steps
        assert last is not None and torch.equal(action, last)
        begins += int(is_first.sum())
    buffer, view = agent.replay_buffer, agent._view
    assert buffer is not None and len(seen) == buffer.pos - 1 and begins > 5
    taken = view.unscale(torch.as_tensor(buffer.actions[: buffer.pos]))
    for place, (obs, _, action, _) in enumerate(seen[1:], start=2):
        assert torch.equal(obs, torch.as_tensor(buffer.observations[place]))
        assert torch.allclose(action, taken[place - 1], atol=1e-5)


# -- distributions of actions --------------------------------------------------------------------------------


def test_densities_and_entropies_are_the_closed_forms() -> None:
    outputs = torch.randn(7, 4, dtype=torch.float64)
    of = BoundedNormal(2).distribution(outputs)
    normal = Independent(Normal(*of.unbind(-2)), 1)
    action = torch.randn(7, 2, dtype=torch.float64)
    assert torch.allclose(BoundedNormal(2).log_prob(of, action), normal.log_prob(action))
    assert torch.allclose(BoundedNormal(2).entropy(of), normal.entropy())
    assert (of[:, 0].abs() < 1).all() and ((of[:, 1] > 0.1) & (of[:, 1] < 1)).all()
    of = OneOf(4).distribution(outputs)
    discrete, action = OneHotCategorical(of.squeeze(-2)), torch.eye(4, dtype=torch.float64)[:, None]
    assert torch.allclose(OneOf(4).log_prob(of, action), discrete.log_prob(action))
    assert torch.allclose(OneOf(4).entropy(of), discrete.entropy())
    of = SquashedNormal(2).distribution(torch.zeros(4))
    assert of[1].tolist() == pytest.approx([5.0, 5.0], abs=1e-3) and SquashedNormal(2).mode(of).tolist() == [0, 0]


# -- learning ------------------------------------------------------------------------------------------------

LEARNERS = [
    pytest.param(True, {"version": 3}, id="discrete"),
    pytest.param(False, {"version": 3}, id="continuous, through the model"),
    pytest.param(
        False, {"version": 3, "actor_gradient": "reinforce"}, id="continuous, REINFORCE", marks=pytest.mark.slow
    ),
    pytest.param(False, {"version": 1, "behavior_learning_rate": 3e-3}, id="version 1"),
]


@pytest.mark.parametrize(("discrete", "options"), LEARNERS)
def test_it_learns_what_the_observation_asks_for(discrete: bool, options: dict[str, Any]) -> None:
    """A reward of 1 a step; one that does not look at its observation, or at the wrong one, gets 0."""
    of_version = {"latent": 4, "bins": 0} if options["version"] == 1 else {}
    model = {"free_nats": 0, "kl_scales": [0.3, 0.02], "units": 32, "deter": 32, **of_version}
    arguments: dict[str, Any] = {
        "learning_rate": 1e-2, "behavior_learning_rate": 1e-2, "replay_ratio": 40, "batch_size": 16,
        "imagination_starts": 64, "horizon": 2, "gamma": 0.5, "learning_starts": 80,
        "policy_kwargs": {"units": 16, "layers": 1, "bins": model.get("bins", 41)},
    }  # fmt: skip
    agent = make(Context(discrete), model, **{**arguments, **options}).learn(560)
    env = Monitor(Context(discrete))
    env.reset(seed=100)
    assert evaluate_policy(agent, env, 10)[0] > 16 * 0.6


# -- SB3's API -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["box", "cell", "dict"])
@pytest.mark.parametrize("discrete", [False, True])
def test_it_learns_in_several_envs_with_callbacks(form: str, discrete: bool) -> None:
    env = DummyVecEnv([lambda: Monitor(Walk(form, discrete))] * 2)
    agent = make(env)
    before = parameters(agent)
    evaluation = EvalCallback(DummyVecEnv([lambda: Monitor(Walk(form, discrete))]), eval_freq=20, n_eval_episodes=1)
    evaluation.verbose = 0
    agent.learn(80, callback=CallbackList([evaluation]), log_interval=1)
    assert agent._n_updates == (80 - 40) * 8 // 32 and not same(before, parameters(agent))
    assert evaluation.last_mean_reward > -np.inf and agent.num_timesteps == 80


def test_it_learns_from_pixels() -> None:
    """SB3 shows its agents images with the channels first."""
    last, first = (spaces.Box(0, 255, shape, np.uint8) for shape in ((16, 17, 3), (3, 16, 17)))
    env = Still(last, spaces.Discrete(3))
    agent = Dreamer("CnnPolicy", env, dynamics=RSSM(first, env.action_space, **MODEL), **AGENT)
    before = parameters(agent)
    agent.learn(50)
    assert agent._n_updates == 2 and not same(before, parameters(agent))
    action, _ = agent.predict(env.observation_space.sample())
    assert env.action_space.contains(action)
    with pytest.raises(ValueError, match="SB3 shows its agents images with the channels first"):
        Dreamer("CnnPolicy", env, dynamics=RSSM(last, env.action_space, **MODEL), **AGENT)


def test_replay_ratio_is_the_number_of_trained_entries_for_each_step() -> None:
    for ratio, updates in ((8, 5), (3, 1), (64, 40)):
        agent = make(replay_ratio=ratio).learn(60)  # learning starts after 40 steps
        assert agent._n_updates in (updates, updates + 1)


def test_evaluations_do_not_disturb_training() -> None:
    def trained(evaluates: bool) -> list[Tensor]:
        agent = make()
        agent.learn(50)
        if evaluates:
            evaluate_policy(agent, Monitor(Walk()), 2, deterministic=False)
        return parameters(agent.learn(20, reset_num_timesteps=False))

    assert same(trained(True), trained(False))


def test_an_episode_can_be_repeated_and_rows_keep_apart() -> None:
    agent = make()
    obs = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    first, state = agent.predict(obs)
    again, _ = agent.predict(obs)
    assert np.array_equal(first, again) and Walk().action_space.contains(first[0])
    action, single = agent.predict(obs[0])
    assert action.shape == (1,) and single is not None and len(single[0]) == 1
    reset = agent.predict(obs, state, np.array([True, False, False]), deterministic=True)[1]
    kept = agent.predict(obs, state, np.zeros(3, bool), deterministic=True)[1]
    assert reset is not None and kept is not None
    assert not np.array_equal(reset[0][0], kept[0][0]) and np.array_equal(reset[0][1:], kept[0][1:])


def test_normalised_observations_reach_the_model_raw() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(Walk())]))
    agent = make(env).learn(60)
    obs = env.reset()
    (_, state) = agent.predict(obs)
    generator = torch.Generator().manual_seed(agent._predict_seed(0))
    expected = agent.dynamics.begin(torch.as_tensor(env.get_original_obs()), generator)
    assert state is not None
    assert torch.allclose(torch.as_tensor(state[0]), agent.dynamics.features(expected).detach(), atol=1e-4)


# -- saving --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 3])
def test_a_resumed_run_is_the_run_bit_for_bit(version: int, tmp_path: Any) -> None:
    """Walk's episodes are of 9 steps or fewer; its starts depend on a generator that both runs seed."""

    def go_on(agent: Dreamer) -> list[Tensor]:
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002
        assert agent.env is not None
        agent.env.seed(11)
        agent._last_obs = agent.env.reset()  # type: ignore[assignment]
        agent._memory, agent._last_episode_starts = None, np.ones(1, bool)
        agent.learn(30, reset_num_timesteps=False)
        loss = agent.dynamics.loss(
            agent._experience().sequences(4, 8, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
        )
        return [loss.total.detach(), *parameters(agent)]

    agent = make(version=version, model={"latent": 4} if version == 1 else None).learn(70)
    save_checkpoint(agent, tmp_path / "run")
    resumed = load_checkpoint(Dreamer, tmp_path / "run", Walk(), device="cpu")
    assert resumed._n_updates == agent._n_updates > 0 and resumed._owed_updates == agent._owed_updates
    assert same(go_on(agent), go_on(resumed))


@pytest.mark.parametrize(
    ("env", "version", "with_optimizer"),
    [("Pendulum-v1", 1, True), ("Pendulum-v1", 3, True), ("CartPole-v1", 3, False)],
)
def test_the_zoo_s_files_hold_all_of_it(env: str, version: int, with_optimizer: bool, tmp_path: Any) -> None:
    agent = make(gym.make(env), version=version).learn(60)
    zoo.save(agent, tmp_path / "kept", episodes=0, with_optimizer=with_optimizer)
    again: Any = zoo.load(tmp_path / "kept", env=gym.make(env))
    obs = np.stack([agent.observation_space.sample() for _ in range(2)])
    for one, two in zip(agent.predict(obs)[1] or (), again.predict(obs)[1], strict=True):
        assert np.array_equal(one, two)
    assert same(parameters(agent), parameters(again)) and again.dynamics.num_starts == agent.dynamics.num_starts
    assert again._owed_updates == agent._owed_updates
    if with_optimizer:
        moments = [one.model_optimizer.state_dict()["state"] for one in (agent, again)]
        assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])


class EyeAndEar(Still):
    """An env whose observations are an image and a vector."""

    def __init__(self) -> None:
        seen = spaces.Dict(eye=spaces.Box(0, 255, (3, 16, 17), np.uint8), ear=Walk().observation_space)
        super().__init__(seen, Walk().action_space)


gym.register("mbrl_wrappers_tests/EyeAndEar-v0", entry_point=EyeAndEar, max_episode_steps=9)


def test_files_whose_parts_do_not_fit_are_refused(tmp_path: Any) -> None:
    """Encoder, memory, latents, decoder and heads of the model, and all three networks of the agent."""
    env = gym.make("mbrl_wrappers_tests/EyeAndEar-v0")
    agent = make(env).learn(60)
    zoo.save(agent, tmp_path / "kept", episodes=0)
    file = tmp_path / "kept" / "model.safetensors"
    tensors = load_file(file)
    parts = {"cell", "continue_head", "decoder", "encoder", "posterior", "prior", "reward_head"}
    names = {name.split(".")[1]: name for name in tensors if name.startswith("dynamics.") and tensors[name].dim() > 1}
    assert parts < names.keys()
    of_agent = {name.split(".")[1]: name for name in tensors if name.startswith("policy.") and tensors[name].dim() > 1}
    assert of_agent.keys() == {"actor", "critic", "slow_critic"}
    without_it = {key: value for key, value in tensors.items() if key != names["encoder"]}
    forged = [(without_it, "lacks the tensor")]
    for name in (*(names[part] for part in (*parts, "start_states")), *of_agent.values()):
        forged.append(({**tensors, name: tensors[name].reshape(-1)}, "must have shape"))
    for changed, message in forged:
        save_file(changed, file)
        write_manifest(file.parent, [path.name for path in file.parent.iterdir() if path.name != "manifest.json"])
        with pytest.raises(zoo.ZooError, match=message):
            zoo.load(file.parent, env=env, device="cpu")


@pytest.mark.slow
def test_an_interrupted_run_of_the_zoo_ends_as_one_that_was_not(tmp_path: Any) -> None:
    sizes = {name: MODEL[name] for name in ("deter", "units", "layers", "latent")}
    params = {f"dynamics.{name}": value for name, value in sizes.items()}
    own = {name: AGENT[name] for name in ("batch_size", "sequence_length", "replay_ratio", "horizon")}
    params |= {f"agent.{name}": value for name, value in own.items()} | {"agent.learning_starts": 100}
    params["agent.policy_kwargs"] = {"units": 16, "layers": 1}
    spec = make_job("dreamer", "Pendulum-v1", steps=450, params=params, eval_freq=200, eval_episodes=1, save_freq=100)
    whole: Any = run(spec, tmp_path / "whole")[0]

    def stop(row: Any) -> None:
        if row.steps >= 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "broken", on_evaluation=stop)
    torch.manual_seed(99)
    resumed: Any = run(spec, tmp_path / "broken")[0]
    assert same(parameters(whole), parameters(resumed)) and whole._n_updates == resumed._n_updates > 50


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": 2, "dynamics": None}, r"version must be one of \(1, 3\), got 2"),
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"imagination_starts": 0}, "imagination_starts must be a whole number of at least 1, got 0"),
        ({"sequence_length": 1}, "sequence_length must be a whole number of at least 2, got 1"),
        ({"replay_ratio": 0}, r"replay_ratio must be in \(0, 1e\+09\], got 0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"actor_gradient": "both"}, "actor_gradient must be 'dynamics' or 'reinforce', got 'both'"),
        ({"buffer_size": 7}, "buffer_size must be at least 8 steps of each env, the sequence_length, got 7"),
        ({"action_penalty": -1.0}, r"action_penalty must be in \[0, 1e\+09\], got -1.0"),
        ({"policy_kwargs": {"bins": 1}}, "bins must be a whole number of at least 2, got 1"),
        ({"policy_kwargs": {"bins": -3}}, "bins must be a whole number of at least 2, got -3"),
        ({"policy_kwargs": {"units": 0}}, "units must be a whole number of at least 1, got 0"),
        ({"version": 1, "ent_coef": 0.1}, "ent_coef must be 0 and actor_gradient 'dynamics' for continuous actions"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_models_and_spaces_that_do_not_fit_are_named() -> None:
    env = Walk()
    with pytest.raises(ValueError, match="dynamics must have the agent's version, 1, got one of version 3"):
        make(env, dynamics=make(env).dynamics, version=1)
    with pytest.raises(ValueError, match=r"episode_start must have shape \(3,\), got \(2,\)"):
        make(env).predict(np.zeros((3, 2), np.float32), episode_start=np.zeros(2, bool))
    with pytest.raises(ValueError, match="dynamics must be an RSSM for Dreamer, got a EnsembleDynamics"):
        make(env, dynamics=EnsembleDynamics(env.observation_space, env.action_space, hidden=(4,)))
    with pytest.raises(ValueError, match=r"dynamics\.observation_space must equal the env's"):
        make(env, dynamics=RSSM(spaces.Box(-1, 1, (3,), np.float32), env.action_space, **MODEL))
    with pytest.raises(ValueError, match="action_space must be Discrete or a bounded Box, got MultiBinary"):
        Dreamer("MlpPolicy", gym.wrappers.TransformAction(Walk(), lambda a: a, spaces.MultiBinary(2)))
    agent = make()
    with pytest.raises(ValueError, match="state must be of 1 environments"):
        agent.predict(np.zeros((1, 2), np.float32), (np.zeros((2, 3)),))
    with pytest.raises(ValueError, match="observation from the environment must be finite"):
        agent.predict(np.full((1, 2), np.nan, np.float32))
