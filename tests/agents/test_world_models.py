"""World Models' agent: many controllers at once, dreams, evolution, trials in reality, and SB3's API with a memory."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import WorldModels
from mbrl_wrappers.agents.evolution import Evolution, Trials
from mbrl_wrappers.agents.networks.world_models import ControllerPolicy
from mbrl_wrappers.imagination import load_checkpoint, save_checkpoint
from mbrl_wrappers.models import MDNRNN, EnsembleDynamics
from testing.agents import same
from testing.envs import Line, Still, Walk
from testing.models import seeded

MODEL: dict[str, Any] = {
    "latent": 3, "memory": 8, "components": 2, "units": 16, "batch_size": 16, "num_sequences": 8, "sequence_length": 6,
    "vision_steps": 10, "memory_steps": 10, "vision_learning_rate": 3e-3, "memory_learning_rate": 1e-2,
}  # fmt: skip
AGENT: dict[str, Any] = {
    "learning_starts": 40, "generations": 3, "population": 4, "dreams": 2, "dream_length": 5, "buffer_size": 500,
    "seed": 0, "device": "cpu",
}  # fmt: skip


def make(env: Any = None, model: dict[str, Any] | None = None, **kwargs: Any) -> WorldModels:
    env = Walk() if env is None else env
    kwargs.setdefault("dynamics", MDNRNN.for_env(env, **{**MODEL, **(model or {})}))
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return WorldModels(policy, env, **{**AGENT, **kwargs})


def parameters(agent: WorldModels) -> list[Tensor]:
    return [*agent.policy.parameters(), *agent.dynamics.state_dict().values()]


# -- many controllers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_space", [spaces.Box(-2, 2, (3,), np.float32), spaces.Discrete(3)])
def test_many_controllers_act_as_each_of_them(action_space: Any) -> None:
    policy = ControllerPolicy(spaces.Box(-1, 1, (2,)), action_space, None)
    policy.build(5, 3)
    vectors = torch.randn(4, 18, generator=seeded())
    features = torch.randn(8, 5, generator=seeded(1))
    found = policy.act_as(vectors, features)
    for index, vector in enumerate(vectors):
        policy.vector = vector.numpy()
        rows = slice(2 * index, 2 * index + 2)
        assert np.allclose(policy.vector, vector) and torch.allclose(policy.act(features[rows]), found[rows], atol=1e-6)
    assert found.abs().max() <= 1 and (isinstance(action_space, spaces.Box) or (found.sum(-1) == 1).all())


def test_a_batch_of_dreams_is_each_dream_alone() -> None:
    agent = make(temperature=0.0).learn(60)
    vectors = torch.randn(4, len(agent.policy.vector), generator=seeded())
    together = agent.dream(vectors, seed=3)
    alone = torch.cat([agent.dream(vector[None], seed=3) for vector in vectors])
    assert torch.allclose(together, alone, atol=1e-5) and together.shape == (4, 2)
    assert len(together.unique()) > 4  # controllers and starts differ


def test_a_dream_that_is_over_leaves_the_others_as_they_are() -> None:
    """Lengths differ by controller and by start; dreams of a single controller and start are the measure."""
    agent = make(model={"learned_reward": False}, temperature=0.0, dream_length=30).learn(60)
    agent.dynamics._reward_scale.fill_(1.0)
    states = agent.dynamics.state_of(torch.randn(500, 19, generator=seeded(1)))
    agent.dynamics.done_threshold.copy_(agent.dynamics.outcomes(agent.dynamics.features(states))[1].quantile(0.6))
    vectors = 3 * torch.randn(12, len(agent.policy.vector), generator=seeded())
    together = agent.dream(vectors, dreams=4, seed=3)
    assert (together < 30).float().mean() > 0.5 and len(together.mean(0).unique()) > 1 < len(together.mean(1).unique())
    for row, vector in enumerate(vectors):
        assert torch.equal(agent.dream(vector[None], dreams=4, seed=3)[0], together[row])


def test_nothing_counts_after_a_dream_s_end() -> None:
    agent = make(model={"learned_reward": False}, dream_length=9).learn(60)
    agent.dynamics._reward_scale.fill_(1.0)  # survival pays 1 for each step
    agent.dynamics.done_threshold.fill_(2.0)  # nothing is an end
    assert (agent.dream(dreams=5) == 9).all()
    agent.dynamics.done_threshold.fill_(-1.0)  # everything is an end
    assert (agent.dream(dreams=5) == 1).all()


# -- evolution -----------------------------------------------------------------------------------------------


def test_evolution_finds_the_top_of_a_hill() -> None:
    top, evolution = np.array([0.5, -1.0, 2.0]), Evolution(np.zeros(3), 0.5, 12, seed=0)
    before = np.random.get_state()  # noqa: NPY002 - what cma seeds unless it is told not to
    for _ in range(60):
        candidates = evolution.ask()
        evolution.tell(candidates, -np.square(candidates - top).sum(1))
    assert np.allclose(evolution.mean, top, atol=0.02) and evolution.sigma < 0.1
    after = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(before[1], after[1]) and before[2] == after[2]


def test_trials_give_each_candidate_its_episodes() -> None:
    """Candidate ``c`` is paid ``c`` a step; env ``b`` has episodes of ``b + 1`` steps, so returns are multiples."""
    trials, starts, lengths = Trials(np.zeros((3, 2)), 2, 4), np.ones(4, bool), np.zeros(4, int)
    counts: list[int] = []
    while not trials.are_over:
        players = trials.players(starts)
        counts += players[starts & (players >= 0)].tolist()
        lengths += 1
        starts = lengths > np.arange(4)
        trials.add(players.astype(float), starts)
        lengths[starts] = 0
    assert sorted(counts) == [0, 0, 1, 1, 2, 2]
    assert trials.returns[0] == 0 and trials.returns[1] >= 1 and trials.returns[2] >= 2


def test_a_trial_whose_episode_was_broken_off_begins_again() -> None:
    trials, all_envs = Trials(np.zeros((2, 1)), 1, 1), np.ones(1, bool)
    trials.players(all_envs)
    trials.add(np.array([100.0]), ~all_envs)
    assert trials.players(all_envs)[0] == 0
    trials.add(np.array([7.0]), all_envs)
    assert trials.players(all_envs)[0] == 1
    trials.add(np.array([8.0]), all_envs)
    assert trials.returns.tolist() == [7.0, 8.0] and trials.players(all_envs)[0] == -1


# -- learning ------------------------------------------------------------------------------------------------


def test_random_actions_are_held_within_their_episode() -> None:
    vec_env = DummyVecEnv([lambda: Line(limit=40) for _ in range(3)])
    agent = make(vec_env, learning_starts=300, random_hold=5).learn(240)
    buffer: Any = agent.replay_buffer
    lengths = []
    for env in range(3):
        action, done = buffer.actions[:80, env, 0], buffer.dones[:80, env].astype(bool)
        changes = np.flatnonzero(np.diff(action) != 0) + 1
        assert set(np.flatnonzero(done)[:-1] + 1) <= set(changes)
        lengths += np.diff(changes).tolist()
    assert set(lengths) == {1, 2, 3, 4, 5}


def test_each_real_step_is_followed_by_a_piece_of_work() -> None:
    agent, stages = make(), []

    class Watch:
        def __call__(self, local: Any, _: Any) -> bool:
            stages.append((agent.num_timesteps, agent._stage, agent._generation))
            return True

    agent.learn(47, callback=Watch())
    assert stages[40:] == [
        (41, "vision", 0), (42, "memory", 0), (43, "controller", 0), (44, "controller", 1), (45, "controller", 2),
        (46, "over", 3), (47, "over", 3),
    ]  # fmt: skip
    assert agent._num_fits == 1 and agent._n_updates == 3 and (agent.policy.vector != 0).any()


def test_the_iterative_form_fits_again_on_the_controller_s_own_play() -> None:
    agent = make(fit_every=10).learn(52)
    assert agent._num_fits == 2 and agent._steps_at_fit == 51
    before = [part.clone() for part in agent.dynamics.parameters()]
    agent.learn(12, reset_num_timesteps=False)
    assert not same(before, agent.dynamics.parameters())


@pytest.mark.parametrize("num_envs", [1, 3])
def test_candidates_are_tried_in_reality(num_envs: int) -> None:
    vec_env = DummyVecEnv([Walk for _ in range(num_envs)])
    agent = make(vec_env, train_in="reality", generations=2).learn(260)
    assert agent._generation == 2 and agent._stage == "over" and agent._trials is None


def test_every_real_episode_tries_a_candidate() -> None:
    """3 generations of 4 candidates, 2 episodes each, once the episode is over in which V and M were fitted."""
    agent = make(train_in="reality").learn(43)
    assert agent._trials is not None
    before = agent._episode_num
    while agent._stage != "over":
        agent.learn(1, reset_num_timesteps=False)
    assert agent._episode_num - before == 1 + 3 * 4 * 2


@pytest.mark.parametrize("env", [Walk(), Walk(discrete=True), Walk("dict")])
def test_it_learns_and_acts_in_any_space(env: Walk) -> None:
    agent = make(env).learn(60)
    mean, _ = evaluate_policy(agent, Monitor(env), n_eval_episodes=2)
    assert np.isfinite(mean)


@pytest.mark.slow
def test_it_learns_in_the_dream_what_pays_in_reality() -> None:
    """A point that should be at 0, moved by pushes: a perfect controller pushes it there at once."""
    env = Line(limit=8)
    sizes = {"memory": 16, "vision_steps": 600, "memory_steps": 800, "kl_tolerance": 5.0}
    search = {"generations": 40, "population": 16, "dreams": 8, "dream_length": 8, "sigma": 0.5}
    agent = make(env, sizes, learning_starts=1000, random_hold=2, **search)
    before, _ = evaluate_policy(agent, Monitor(env), n_eval_episodes=20)
    agent.learn(1060)
    after, _ = evaluate_policy(agent, Monitor(env), n_eval_episodes=20)
    assert after > 0.5 * before  # both are negative


# -- acting --------------------------------------------------------------------------------------------------


def test_acting_remembers_and_an_episode_s_start_forgets() -> None:
    agent = make().learn(60)
    agent.policy.vector = np.ones_like(agent.policy.vector)
    obs = np.array([[0.3, 0.1], [0.2, 0.4]], np.float32)
    _, state = agent.predict(obs)
    action, after = agent.predict(obs, state)
    assert after is not None and after[0].shape == (2, 3 + 2 * 8) and (after[2] == 2).all()
    _, forgot = agent.predict(obs, state, np.array([True, False]))
    assert forgot is not None and (forgot[0][0, 3:] == 0).all() and np.array_equal(forgot[0][1], after[0][1])
    again, _ = agent.predict(obs, state)
    assert np.array_equal(action, again)  # its random numbers are those of the seed and the number of calls


# -- saving and resuming -------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path: Any) -> None:
    agent = make().learn(60)
    agent.save(tmp_path / "agent.zip")
    again = WorldModels.load(tmp_path / "agent.zip", env=Walk())
    assert same(parameters(agent), parameters(again))
    obs = np.array([[0.3, 0.1]], np.float32)
    assert np.array_equal(agent.predict(obs)[0], again.predict(obs)[0])
    again.learn(45)


@pytest.mark.parametrize(
    ("steps", "train_in"), [(30, "dream"), (41, "dream"), (42, "dream"), (44, "dream"), (90, "reality")]
)
def test_a_run_resumed_at_any_stage_is_the_run_bit_for_bit(steps: int, train_in: str, tmp_path: Any) -> None:
    def go_on(agent: WorldModels) -> list[Tensor]:
        np.random.seed(7)  # noqa: NPY002
        torch.manual_seed(7)
        assert agent.env is not None
        agent.env.seed(11)
        agent.action_space.seed(5)
        agent._last_obs = agent.env.reset()  # type: ignore[assignment]
        agent._memory, agent._last_episode_starts = None, np.ones(1, bool)
        agent.learn(60, reset_num_timesteps=False)
        return parameters(agent)

    agent = make(train_in=train_in).learn(steps)
    save_checkpoint(agent, tmp_path / "run")
    resumed = load_checkpoint(WorldModels, tmp_path / "run", Walk(), device="cpu")
    assert (resumed._stage, resumed._generation) == (agent._stage, agent._generation)
    assert same(go_on(agent), go_on(resumed)) and resumed._generation == agent._generation > 0


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_the_zoo_s_files_hold_all_networks(env: str, tmp_path: Any) -> None:
    agent = make(gym.make(env)).learn(60)
    zoo.save(agent, tmp_path / "kept", episodes=0)
    again: Any = zoo.load(tmp_path / "kept", env=gym.make(env))
    assert same(parameters(agent), parameters(again)) and again.dynamics.num_starts == agent.dynamics.num_starts
    assert (again._stage, again._generation, again._num_fits) == ("over", 3, 1)
    obs = np.stack([agent.observation_space.sample() for _ in range(2)])
    assert np.array_equal(agent.predict(obs)[0], again.predict(obs)[0])
    again.learn(45)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population": 1}, "population must be a whole number of at least 2, got 1"),
        ({"generations": 0}, "generations must be a whole number of at least 1, got 0"),
        ({"random_hold": 0}, "random_hold must be a whole number of at least 1, got 0"),
        ({"dreams": 0}, "dreams must be a whole number of at least 1, got 0"),
        ({"dream_length": 1.5}, r"dream_length must be a whole number of at least 1, got 1\.5"),
        ({"fit_every": 0}, "fit_every must be a whole number of at least 1, got 0"),
        ({"sigma": 0}, r"sigma must be in \(0, 1e\+06\], got 0"),
        ({"temperature": -0.1}, r"temperature must be in \[0, 1e\+06\], got -0\.1"),
        ({"train_in": "sleep"}, r"train_in must be one of \('dream', 'reality'\), got 'sleep'"),
        ({"learning_starts": 5}, "learning_starts must be at least 6, the model's sequence_length in each env, got 5"),
        ({"buffer_size": 5}, "buffer_size must be at least 6, the model's sequence_length in each env, got 5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_models_that_do_not_fit_are_named() -> None:
    env = Walk()
    with pytest.raises(ValueError, match="dynamics must be an MDNRNN for WorldModels, got a EnsembleDynamics"):
        make(env, dynamics=EnsembleDynamics(env.observation_space, env.action_space, hidden=(4,)))
    with pytest.raises(ValueError, match=r"dynamics\.observation_space must equal the env's"):
        make(env, dynamics=MDNRNN(spaces.Box(-1, 1, (3,), np.float32), env.action_space, **MODEL))


def test_a_missing_cma_is_named_when_learning_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make()
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ValueError, match=r"WorldModels learns by the package cma: pip install .*\[world-models\]"):
        agent.learn(10)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.Box(-np.inf, np.inf, (1,))])
def test_other_action_spaces_are_named(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match=r"action_space must be Discrete or a bounded Box, got (MultiDisc|Box\(-inf)"):
        WorldModels("MlpPolicy", Still(spaces.Box(-1, 1, (2,)), space), device="cpu")
