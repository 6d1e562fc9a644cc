"""World Models' V and M: the mixture and the divergence against closed forms, memory, temperature, ends, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from mbrl_wrappers.envs import ImaginedEnv, ImaginedVecEnv, ImaginedVectorEnv, collect_episodes
from mbrl_wrappers.envs.imagined import ImaginedEpisodes
from mbrl_wrappers.experience import Episodes
from mbrl_wrappers.models import MDNRNN, RSSM, EnsembleDynamics
from mbrl_wrappers.models.mdn_rnn import Encoded, MDNRNNState, divergence
from mbrl_wrappers.models.mixture import Mixture
from mbrl_wrappers.types import Transitions
from mbrl_wrappers.wrappers import LatentObservation
from testing.envs import Line, Walk
from testing.models import seeded

OBS, ACTION = spaces.Box(-10, 10, (2,), np.float32), spaces.Box(-2, 2, (1,), np.float32)
TINY: dict[str, Any] = {
    "latent": 3, "memory": 8, "components": 2, "units": 16, "depth": 4, "batch_size": 16, "num_sequences": 8,
    "sequence_length": 6, "vision_steps": 20, "memory_steps": 20, "vision_learning_rate": 3e-3,
    "memory_learning_rate": 1e-2,
}  # fmt: skip


def tiny(space: spaces.Space = OBS, action: spaces.Space = ACTION, **kwargs: Any) -> MDNRNN:
    return MDNRNN(space, action, **{**TINY, **kwargs})


def drawn(rows: int = 3, length: int = 8) -> Encoded:
    """Noise as encoded sequences without an episode's boundary, whose latents are certain."""
    generator = seeded()
    mean = torch.randn(rows, length, 3, generator=generator)
    never = torch.zeros(rows, length, dtype=torch.bool)
    action, reward = torch.randn(rows, length, 1, generator=generator), torch.randn(rows, length, generator=generator)
    return Encoded(torch.stack([mean, torch.full_like(mean, -40.0)], 2), action, reward, never, never.clone())


def mixture(*shape: int, components: int = 4) -> Mixture:
    return Mixture.of(torch.randn(*shape, 3 * 5 * components, generator=seeded(), dtype=torch.float64), components)


# -- closed forms --------------------------------------------------------------------------------------------


def test_the_likelihood_is_that_of_a_mixture_for_each_dimension() -> None:
    of, value = mixture(7), torch.randn(7, 5, generator=seeded(1), dtype=torch.float64)
    wanted = MixtureSameFamily(Categorical(logits=of.logit), Normal(of.mean, of.log_std.exp())).log_prob(value)
    assert of.logit.shape == (7, 5, 4) and torch.allclose(of.log_prob(value), wanted)


def test_every_dimension_has_weights_of_its_own() -> None:
    """One of two dimensions is split in halves, the other is not: weights that are shared can't say so."""
    of = mixture(1)
    assert not torch.allclose(of.logit[0, 0], of.logit[0, 1])
    model = tiny(components=4)
    assert model.foresee(torch.zeros(6, 8), torch.zeros(6, 3)).logit.shape == (6, 3, 4)


def test_one_component_is_a_gaussian() -> None:
    of, value = mixture(7, components=1), torch.randn(7, 5, generator=seeded(1), dtype=torch.float64)
    wanted = Normal(of.mean[..., 0], of.log_std[..., 0].exp()).log_prob(value)
    assert torch.allclose(of.log_prob(value), wanted)


def test_the_divergence_is_the_closed_form() -> None:
    of = torch.randn(7, 2, 5, generator=seeded(), dtype=torch.float64)
    normal = Independent(Normal(of[:, 0], of[:, 1].exp()), 1)
    standard = Independent(Normal(torch.zeros(5).double(), torch.ones(5).double()), 1)
    assert torch.allclose(divergence(of), kl_divergence(normal, standard))


def test_a_divergence_within_the_tolerance_costs_the_same_as_none() -> None:
    obs = torch.randn(9, 2, generator=seeded())
    found = divergence(tiny().encode(obs))
    for tolerance in (0.0, 0.2, 50.0):
        model = tiny(kl_tolerance=tolerance)
        wanted = found.clamp(min=3 * tolerance).mean()
        assert torch.allclose(model.vision_loss(obs, seeded())["divergence"], wanted)


# -- temperature ---------------------------------------------------------------------------------------------


def test_at_temperature_0_each_value_is_the_mean_of_its_likeliest_component() -> None:
    of = mixture(50)
    wanted = of.mean.gather(-1, of.logit.argmax(-1, keepdim=True))[..., 0]
    assert torch.equal(of.sample(0.0), wanted)
    assert torch.allclose(of.sample(1e-8, seeded()), wanted, atol=1e-2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_moments_of_their_temperature(temperature: float) -> None:
    one = Mixture(torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.3, 0.6]]).log())
    of = Mixture(*(part.expand(200_000, 1, 2) for part in one))
    weight = torch.tensor([0.2, 0.8]) ** (1 / temperature)
    weight = weight / weight.sum()
    mean = (weight * one.mean[0]).sum()
    variance = (weight * (temperature * (2 * one.log_std[0]).exp() + one.mean[0].square())).sum() - mean**2
    found = of.sample(temperature, seeded())
    assert float(found.mean()) == pytest.approx(float(mean), abs=0.02)
    assert float(found.var()) == pytest.approx(float(variance), rel=0.03)


def test_a_temperature_of_0_is_a_deterministic_dream() -> None:
    model = tiny()
    state, action = model.state_of(torch.randn(5, 19, generator=seeded())), torch.ones(5, 1)
    cold = model.step(state, action, temperature=0.0)[0]
    assert torch.equal(cold.latent, model.step(state, action, deterministic=True)[0].latent)
    warm, hot = (model.step(state, action, seeded(), temperature=t)[0].latent for t in (1.0, 4.0))
    assert not torch.equal(warm, cold.latent) and not torch.equal(warm, hot)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_state_that_is_not_finite_diverges_alone(temperature: float) -> None:
    model = tiny()
    states = torch.randn(5, 19, generator=seeded())
    states[2, -1] = torch.nan
    state, prediction = model.step(model.state_of(states), torch.zeros(5, 1), seeded(), temperature=temperature)
    others = torch.arange(5) != 2
    assert torch.equal(prediction.diverged, ~others) and torch.isfinite(model.features(state)[others]).all()


def test_all_facades_dream_at_a_temperature(fitted: MDNRNN) -> None:
    dreams: list[Any] = [ImaginedEnv(fitted, temperature=0.0, observe="features")]
    dreams += [kind(fitted, 4, temperature=0.0, observe="features") for kind in (ImaginedVecEnv, ImaginedVectorEnv)]
    for env in dreams:
        env.reset(seed=0) if isinstance(env, gym.Env) else env.reset()
        state = env.episodes.state
        env.episodes.step(torch.zeros(len(state.latent), 1))
        wanted = fitted.step(state, torch.zeros(len(state.latent), 1), deterministic=True)[0]
        assert torch.equal(env.episodes.state.latent, wanted.latent)


def test_a_temperature_is_refused_where_it_means_nothing(fitted: MDNRNN) -> None:
    with pytest.raises(ValueError, match=r"temperature must be in \[0, 1e\+06\], got -1"):
        ImaginedEpisodes(fitted, 2, temperature=-1)
    with pytest.raises(ValueError, match=r"temperature must be None for a RSSM, got 1\.5"):
        ImaginedEpisodes(RSSM(OBS, ACTION, deter=4, units=4, latent=2), 2, temperature=1.5)


# -- memory --------------------------------------------------------------------------------------------------


def test_sequences_pass_through_the_states_of_single_steps() -> None:
    model, real = tiny(), drawn()
    real.is_first[1, 4] = True
    latent = real.of[:, :, 0]
    memory, last = model._follow(latent, real.action, real.begins)
    state = MDNRNNState(latent[:, 0], torch.zeros(3, 8), torch.zeros(3, 8))
    for t in range(1, 8):
        h, c = model._remember(state, real.action[:, t])
        goes_on = (~real.is_first[:, t, None]).float()
        valid = goes_on[:, 0].bool()
        assert torch.allclose(memory[valid, t - 1], h[valid], atol=1e-6)
        state = MDNRNNState(latent[:, t], h * goes_on, c * goes_on)
    assert torch.allclose(last.cell, state.cell, atol=1e-6)


def test_a_boundary_inside_a_sequence_empties_the_memory() -> None:
    model, real = tiny(), drawn()
    other = real._replace(of=real.of.clone(), action=real.action.clone())
    other.of[:, :4, 0] += 3.0
    other.action[:, :5] = 7.0
    follow = [model._follow(part.of[:, :, 0], part.action, part.begins)[0] for part in (real, other)]
    assert not torch.allclose(follow[0][:, 4:], follow[1][:, 4:], atol=1e-3)  # the past counts
    for part in (real, other):
        part.is_first[:, 4] = True
    follow = [model._follow(part.of[:, :, 0], part.action, part.begins)[0] for part in (real, other)]
    assert torch.equal(follow[0][:, 4:], follow[1][:, 4:])
    alone = Encoded(*(part[:, 4:] for part in real))
    after = model._follow(alone.of[:, :, 0], alone.action, alone.begins)[0]
    assert torch.allclose(follow[0][:, 4:], after, atol=1e-6)


def test_the_step_across_a_boundary_is_no_step_of_the_loss() -> None:
    model, real = tiny(), drawn()
    real.is_first[:, 4] = True
    before = model.memory_loss(real, seeded())
    real.reward[:, 4], real.action[:, 4] = 100.0, 50.0
    assert all(torch.equal(before[name], value) for name, value in model.memory_loss(real, seeded()).items())


def test_a_sequence_within_an_episode_fills_its_memory_before_it_counts() -> None:
    real = drawn(2, 8)
    real.is_first[1, 0] = True
    assert real.counts.int().tolist() == [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
    real.is_first[0, 1] = True
    assert real.counts[0].int().tolist() == [0, 1, 1, 1, 1, 1, 1]
    model, before = tiny(), None
    for value in (0.0, 100.0):
        other = real._replace(is_first=torch.zeros(2, 8, dtype=torch.bool), reward=real.reward.clone())
        other.reward[:, :3] = value
        loss = model.memory_loss(other, seeded())["reward"]
        assert before is None or torch.equal(loss, before)
        before = loss


def test_a_first_observation_forgets_and_a_next_one_remembers() -> None:
    model, obs = tiny(), torch.randn(4, 2, generator=seeded())
    state = model.state_of(torch.randn(4, 19, generator=seeded(1)))
    is_first = torch.tensor([True, True, False, False])
    after = model.observe(state, torch.ones(4, 1), obs, is_first, seeded(2))
    assert torch.equal(after.latent, model.begin(obs, seeded(2)).latent)
    assert (after.memory[:2] == 0).all() and (after.cell[:2] == 0).all() and (after.memory[2:] != 0).any()
    assert torch.equal(model.rows_of(model.state_of(model.rows_of(after))), model.rows_of(after))


# -- fitting -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> MDNRNN:
    env = Line(limit=8)
    model = MDNRNN.for_env(env, **{**TINY, "vision_steps": 200, "memory_steps": 300, "kl_tolerance": 1.5})
    model.fit(collect_episodes(env, model, 600, seed=0), seeded())
    return model


@torch.no_grad()
def test_a_fit_learns_places_and_rewards(fitted: MDNRNN) -> None:
    """The reward is the distance of the place that a step leads to."""
    obs, action = torch.linspace(-2, 2, 9)[:, None], torch.linspace(1, -1, 9)[:, None]
    state = fitted.begin(obs, seeded())
    assert float((fitted.decode(state) - obs).abs().mean()) < 0.3
    state, prediction = fitted.step(state, action, deterministic=True)
    assert float((prediction.reward + (obs + action)[:, 0].abs()).abs().mean()) < 0.4
    assert not prediction.terminated.any() and fitted.done_threshold == 1.0  # nothing ever ended


@torch.no_grad()
def test_dreams_stay_within_what_was_seen(fitted: MDNRNN) -> None:
    """Line is paid at most 0; a memory that is far off would promise more."""
    state = fitted.state_of(20 * torch.randn(500, 19, generator=seeded()))
    state, prediction = fitted.step(state, torch.ones(500, 1), seeded(1), temperature=5.0)
    data = collect_episodes(Line(limit=8), fitted, 600, seed=0)  # that of the fit
    (seen, log_std), real = fitted.encode(data.rows().obs).unbind(1), data.rows().reward
    room = 0.2 * (seen.amax(0) - seen.amin(0)) + 3 * log_std.exp().amax(0)
    assert (state.latent >= seen.amin(0) - room).all() and (state.latent <= seen.amax(0) + room).all()
    assert prediction.reward.max() <= 0 and prediction.reward.min() >= real.min() - 1e-5


@torch.no_grad()
def test_episodes_begin_where_real_ones_do(fitted: MDNRNN) -> None:
    state = fitted.draw_starts(200, seeded())
    assert (state.memory == 0).all() and (state.cell == 0).all()
    assert float(fitted.decode(state).abs().mean()) < 0.8  # Line starts within 1 of 0, and gets much further


@pytest.mark.parametrize("sees", [True, False])
def test_imagined_episodes_end_as_often_as_real_ones(sees: bool) -> None:
    """With the same actions, which are random; the agent's dreams begin where episodes do."""
    env = Walk(noise=0.3)
    model = MDNRNN.for_env(env, **{**TINY, "memory_steps": 100, "done_sees_latent": sees})
    data = collect_episodes(env, model, 2000, seed=0)
    model.fit(data, seeded())
    real = data.rows()
    state, generator = model.draw_starts(2000, seeded(3)), seeded(4)
    goes_on, steps, ends = torch.ones(2000, dtype=torch.bool), 0, 0
    for _ in range(9):
        action = 2 * torch.rand(2000, 1, generator=generator) - 1
        state, prediction = model.step(state, action, generator)
        steps, ends = steps + int(goes_on.sum()), ends + int((goes_on & prediction.terminated).sum())
        goes_on &= ~prediction.terminated
    assert real.terminated.sum() > 100
    assert 0.6 < (ends / steps) / float(real.terminated.float().mean()) < 1.6


@torch.no_grad()
@pytest.mark.parametrize(("ended", "threshold"), [(False, 1.0), (True, -1.0)])
def test_where_no_step_is_an_end_or_every_step_is_so_it_is_imagined(ended: bool, threshold: float) -> None:
    model = tiny()
    real = drawn()
    model._calibrate(real._replace(terminated=torch.full_like(real.terminated, ended)), seeded())
    assert model.done_threshold == threshold


@pytest.mark.parametrize("sees", [True, False])
def test_an_end_is_read_off_the_memory_and_off_the_next_latent_if_it_is_seen(sees: bool) -> None:
    model = tiny(done_sees_latent=sees)
    latent, memory = torch.randn(2, 5, 3, generator=seeded()), torch.randn(2, 5, 8, generator=seeded(1))

    def chance(z: int, h: int) -> torch.Tensor:
        return model.outcomes(torch.cat([latent[z], memory[h]], dim=-1))[1]

    assert not torch.equal(chance(0, 0), chance(0, 1))
    assert torch.equal(chance(0, 0), chance(1, 0)) != sees


def test_a_policy_that_sees_the_cell_is_told_the_same_of_rewards_and_ends() -> None:
    model, other = tiny(), tiny(cell_in_features=True)
    state = model.state_of(torch.randn(5, 19, generator=seeded()))
    assert other.num_features == 19 and torch.equal(other.features(state), torch.cat(state, dim=-1))
    for own, theirs in zip(model.outcomes(model.features(state)), other.outcomes(other.features(state)), strict=True):
        assert torch.equal(own, theirs)


def test_survival_pays_1_for_each_step() -> None:
    model = tiny(learned_reward=False)
    state, action = model.state_of(torch.randn(5, 19, generator=seeded())), torch.ones(5, 1)
    assert (model.step(state, action, seeded())[1].reward == 1).all()
    assert "reward" not in model.memory_loss(drawn())


def test_rewards_that_are_not_learned_are_the_mean_of_the_real_ones() -> None:
    env = Line(limit=8)
    model = MDNRNN.for_env(env, **{**TINY, "learned_reward": False})
    data = collect_episodes(env, model, 300, seed=0)
    model.fit(data, seeded())
    rewards = model.outcomes(torch.randn(4, model.num_features, generator=seeded()))[0]
    assert len(rewards.unique()) == 1 and torch.isclose(rewards[0], data.rows().reward.mean(), atol=0.1)


@pytest.mark.parametrize("size", [32, 64])
def test_images_are_seen_and_shown(size: int) -> None:
    space = spaces.Box(0, 255, (size, size, 3), np.uint8)
    model = tiny(space)
    obs = torch.randint(256, (2, model.obs_codec.dim), dtype=torch.uint8, generator=seeded())
    shown = model.decode(model.begin(obs, seeded()))
    assert shown.shape == obs.shape and shown.dtype == torch.uint8
    loss = model.vision_loss(obs, seeded())["observation"]
    loss.backward()
    assert all(part.grad is not None for part in (*model.encoder.parameters(), *model.decoder.parameters()))


def test_a_fit_depends_on_its_generator_alone() -> None:
    env = Line(limit=8)
    models = [MDNRNN.for_env(env, **TINY) for _ in range(2)]
    data, before = collect_episodes(env, models[0], 100, seed=0), torch.get_rng_state()
    for model in models:
        model.fit(data, seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


# -- SB3's agents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_an_agent_of_sb3_learns_in_the_dream_and_acts_in_reality(kind: Any, fitted: MDNRNN) -> None:
    own = {"n_steps": 16} if kind is PPO else {"learning_starts": 20, "buffer_size": 100}
    dream = ImaginedVecEnv(fitted, 4, horizon=8, observe="features", temperature=1.2, seed=0)
    agent = kind("MlpPolicy", dream, batch_size=16, policy_kwargs={"net_arch": [8]}, device="cpu", seed=0, **own)
    before = [part.detach().clone() for part in agent.policy.parameters()]
    agent.learn(64)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))
    env = LatentObservation(Line(limit=8), fitted)
    obs, _ = env.reset(seed=0)
    over = False
    while not over:
        assert env.observation_space.contains(obs) and obs.shape == (fitted.num_features,)
        obs, _, terminated, truncated, _ = env.step(agent.predict(obs, deterministic=True)[0])
        over = terminated or truncated


# -- files and errors ----------------------------------------------------------------------------------------


def test_saved_and_loaded(fitted: MDNRNN, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.safetensors")
    again = MDNRNN.load(tmp_path / "model.safetensors")
    first, second = fitted.state_dict(), again.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first) and again.settings == fitted.settings
    starts = [model.draw_starts(7, seeded()) for model in (fitted, again)]
    for state, other in zip(*starts, strict=True):
        assert torch.equal(state, other)
    with pytest.raises(ValueError, match="must hold a model of kind 'EnsembleDynamics', got 'MDNRNN'"):
        EnsembleDynamics.load(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the description is not that of MDNRNN"):
        MDNRNN.from_description({**fitted.description(), "settings": {"latent": [3]}})


def test_bad_experience_is_named() -> None:
    model, nothing = tiny(vision_steps=0), torch.zeros(5)
    first = nothing.bool()
    first[0] = True
    short = Episodes(torch.zeros(5, 2), torch.zeros(5, 1), nothing, nothing.bool(), first)
    with pytest.raises(ValueError, match="length must be at most 5, the entries of the longest stream, got 6"):
        model.fit(short)
    rows = Transitions(
        torch.zeros(5, 2), torch.zeros(5, 1), nothing, torch.zeros(5, 2), nothing.bool(), torch.arange(5)
    )
    with pytest.raises(ValueError, match="experience must have an order to draw sequences, got Transitions"):
        model.fit(rows)
    wide = Episodes(torch.zeros(5, 3), torch.zeros(5, 1), nothing, nothing.bool(), first)
    with pytest.raises(ValueError, match=r"sequences.obs must have shape \[B, T, 2\], got \(16, 1, 3\)"):
        tiny().fit(wide)
    with pytest.raises(ValueError, match="start_obs must be given for a model that was never fitted"):
        ImaginedEpisodes(tiny(), 2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("latent", 0, "latent must be a whole number of at least 1, got 0"),
        ("components", 1.5, "components must be a whole number of at least 1, got 1.5"),
        ("sequence_length", 1, "sequence_length must be a whole number of at least 2, got 1"),
        ("memory_steps", -1, "memory_steps must be a whole number of at least 0, got -1"),
        ("learned_reward", 1, "learned_reward must be True or False, got 1"),
        ("cell_in_features", "yes", "cell_in_features must be True or False, got 'yes'"),
        ("done_sees_latent", None, "done_sees_latent must be True or False, got None"),
        ("kl_tolerance", -1, r"kl_tolerance must be in \[0, 1e\+06\], got -1"),
        ("done_weight", 0, r"done_weight must be in \(0, 1e\+06\], got 0"),
        ("memory_learning_rate", math.nan, r"memory_learning_rate must be in \(0, 1\], got nan"),
    ],
)
def test_bad_arguments_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**{name: value})
