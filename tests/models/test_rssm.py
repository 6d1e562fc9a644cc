"""The latent world model: its parts against closed forms, and the bugs that a low reconstruction error would hide."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import Tensor
from torch.distributions import Independent, Normal, OneHotCategorical, kl_divergence

from mbrl_wrappers.envs import ImaginedEnv, ImaginedVecEnv, collect_episodes
from mbrl_wrappers.experience import Episodes
from mbrl_wrappers.models import RSSM, EnsembleDynamics
from mbrl_wrappers.models.rssm import CategoricalLatent, GaussianLatent, RSSMState
from mbrl_wrappers.models.rssm.networks import Layers
from mbrl_wrappers.models.rssm.scalars import ScalarHead, symexp, symlog, two_hot_places
from mbrl_wrappers.types import Sequences, Transitions
from mbrl_wrappers.wrappers import LatentObservation

OBS, ACTION = spaces.Box(-10, 10, (2,), np.float32), spaces.Box(-2, 2, (1,), np.float32)
IMAGE = spaces.Box(0, 255, (16, 17, 3), np.uint8)
TINY: dict[str, Any] = {"deter": 16, "units": 16, "layers": 1, "depth": 4, "sequence_length": 8, "learning_rate": 3e-3}
VERSIONS: list[dict[str, Any]] = [{"version": 1, "latent": 4}, {"version": 3, "latent": [3, 4], "bins": 41}]


def tiny(space: spaces.Space = OBS, action: spaces.Space = ACTION, **kwargs: Any) -> RSSM:
    return RSSM(space, action, **{**TINY, **VERSIONS[1], **kwargs})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(rows: int = 3, length: int = 8) -> Sequences:
    """Noise as sequences without an episode's boundary."""
    generator = seeded()
    obs, action = torch.randn(rows, length, 2, generator=generator), torch.randn(rows, length, 1, generator=generator)
    never = torch.zeros(rows, length, dtype=torch.bool)
    return Sequences(obs, action, torch.randn(rows, length, generator=generator), never, never.clone())


def without_noise(model: RSSM) -> RSSM:
    """Make every draw the same, so that states that are computed in different ways can be compared."""
    draw = model.latent.noise
    model.latent.noise = lambda *shape, **given: torch.ones_like(draw(*shape, **given))  # type: ignore[method-assign]
    return model


# -- scalars -------------------------------------------------------------------------------------------------


def test_symexp_is_the_inverse_of_symlog() -> None:
    x = torch.tensor([-1e4, -1.0, 0.0, 0.5, 3.0, 1e6], dtype=torch.float64)
    assert torch.allclose(symexp(symlog(x)), x)
    assert symlog(torch.tensor(math.e - 1)) == pytest.approx(1.0) and symlog(torch.tensor(1 - math.e)) == -1.0


def test_the_mean_of_a_two_hot_code_is_the_value() -> None:
    bins = torch.linspace(-3, 5, 9, dtype=torch.float64)
    value = torch.tensor([-3.0, -2.75, 0.0, 1.3, 4.999, 5.0], dtype=torch.float64)
    below, weight = two_hot_places(value, bins)
    assert torch.allclose((1 - weight) * bins[below] + weight * bins[below + 1], value)
    assert ((weight >= 0) & (weight <= 1)).all()
    below, weight = two_hot_places(torch.tensor([-7.0, 80.0], dtype=torch.float64), bins)
    assert (bins[below] + weight * (bins[below + 1] - bins[below])).tolist() == [-3, 5]


@pytest.mark.parametrize("bins", [None, 9, 41])
def test_a_head_that_minimises_its_loss_predicts_the_target(bins: int | None) -> None:
    head = ScalarHead(2, Layers(8, torch.nn.SiLU, True), 1, bins)
    outputs, target = head(torch.randn(4, 2)).detach(), torch.tensor([-30.0, 0.0, 0.7, 5e3])
    assert head.mean(outputs).abs().max() < 1e-4  # it begins at 0
    if bins is not None:
        assert head.loss(outputs, target).tolist() == pytest.approx([math.log(bins)] * 4)
        places, weight = two_hot_places(symlog(target), head.two_hot.bins)
        best = torch.full_like(outputs, -math.inf)
        best.scatter_(1, places[:, None], (1 - weight).log()[:, None])
        best.scatter_(1, places[:, None] + 1, weight.log()[:, None])
    else:
        best = target[:, None]
    assert head.mean(best).tolist() == pytest.approx(target.tolist(), rel=1e-3, abs=1e-3)
    outputs = best.clamp(min=-30).requires_grad_()
    head.loss(outputs, target).sum().backward()
    assert outputs.grad is not None and outputs.grad.abs().max() < 1e-5


# -- latents -------------------------------------------------------------------------------------------------


def test_the_divergence_of_gaussians_is_the_closed_form() -> None:
    latent = GaussianLatent(5)
    of, other = (latent.distribution(torch.randn(7, 10, generator=seeded(i), dtype=torch.float64)) for i in range(2))
    wanted = kl_divergence(*(Independent(Normal(*part.unbind(-2)), 1) for part in (of, other)))
    assert torch.allclose(latent.divergence(of, other), wanted) and (of[:, 1] > 0.1).all()


def test_the_divergence_of_categories_is_the_closed_form_and_finite() -> None:
    latent = CategoricalLatent(3, 4)
    of, other = (latent.distribution(40 * torch.randn(7, 12, generator=seeded(i))).double() for i in range(2))
    wanted = kl_divergence(*(Independent(OneHotCategorical(part), 1) for part in (of, other)))
    assert torch.allclose(latent.divergence(of, other), wanted) and torch.isfinite(wanted).all()
    assert torch.allclose(of.sum(-1), torch.ones(7, 3, dtype=torch.float64)) and of.min() >= 0.01 / 4 - 1e-6


def test_samples_of_categories_have_their_frequencies_and_gradients() -> None:
    latent = CategoricalLatent(2, 3)
    outputs = torch.randn(6, generator=seeded()).requires_grad_()
    of = latent.distribution(outputs).expand(20_000, 2, 3)
    drawn = latent.sample(of, latent.noise(20_000, like=of, generator=seeded(1)))
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and (drawn.unflatten(-1, (2, 3)).sum(-1) == 1).all()
    assert torch.allclose(drawn.mean(0).reshape(2, 3), of[0], atol=0.015)
    factors = torch.randn(6, generator=seeded(2))
    (found,) = torch.autograd.grad((drawn[0] * factors).sum(), outputs, retain_graph=True)
    (wanted,) = torch.autograd.grad((of[0].flatten() * factors).sum(), outputs)
    assert torch.allclose(found, wanted)


# -- the time loop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", VERSIONS)
def test_sequences_pass_through_the_states_of_single_steps(settings: dict[str, Any]) -> None:
    model, real = without_noise(tiny(**settings)), drawn()
    real.is_first[1, 4] = True
    features = model.loss(real).features
    state = model.begin(real.obs[:, 0])
    for t in range(8):
        if t:
            state = model.observe(state, real.action[:, t], real.obs[:, t], real.is_first[:, t])
        assert torch.allclose(model.features(state), features[:, t], atol=1e-5)


@pytest.mark.parametrize("settings", VERSIONS)
def test_a_boundary_inside_a_sequence_resets_state_and_action(settings: dict[str, Any]) -> None:
    model, real = without_noise(tiny(**settings)), drawn()
    before = model.loss(real).features
    other = real._replace(obs=real.obs.clone(), action=real.action.clone())
    other.obs[:, :4] += 3.0
    other.action[:, :5] = 7.0
    assert not torch.allclose(model.loss(other).features[:, 4:], before[:, 4:], atol=1e-3)  # the past counts
    for part in (real, other):
        part.is_first[:, 4] = True
    alone = Sequences(*(part[:, 4:] for part in real))
    for part in (real, other):
        assert torch.allclose(model.loss(part).features[:, 4:], model.loss(alone).features, atol=1e-5)


def test_rewards_and_ends_count_where_a_step_led_and_nowhere_else() -> None:
    """The last entry of an episode counts; the first entry of an episode, or of a sequence, has no step."""
    model, real = without_noise(tiny()), drawn()
    torch.nn.init.normal_(model.reward_head.net[-1].weight)
    real.is_first[:, 5] = True

    def losses(entry: int) -> tuple[float, float]:
        other = real._replace(reward=real.reward.clone(), terminated=real.terminated.clone())
        other.reward[:, entry] += 100.0
        other.terminated[:, entry] = True
        terms = model.loss(other).terms
        return float(terms["reward_loss"]), float(terms["continue_loss"])

    as_it_is = tuple(float(model.loss(real).terms[name]) for name in ("reward_loss", "continue_loss"))
    assert losses(0) == losses(5) == as_it_is
    assert all(a != b for entry in (1, 4, 7) for a, b in zip(losses(entry), as_it_is, strict=True))


def test_the_divergence_trains_prior_and_posterior_by_their_scales() -> None:
    def gradients(scales: list[float], free_nats: float = 0.0) -> tuple[float, float]:
        model = tiny(kl_scales=scales, free_nats=free_nats)
        model.loss(drawn(), seeded()).total.backward()
        of_prior = model.prior.of_deter.weight.grad
        others = tiny(kl_scales=[0, 0])
        others.loss(drawn(), seeded()).total.backward()
        of_posterior = model.posterior.of_deter.weight.grad - others.posterior.of_deter.weight.grad
        return float(of_prior.abs().sum()), float(of_posterior.abs().sum())

    prior, posterior = gradients([1.0, 0.0])
    assert prior > 0 and posterior > 0  # the memory, which leads to later posteriors, learns with the prior
    assert gradients([0.0, 1.0])[0] == 0
    assert gradients([2.0, 0.0])[0] == pytest.approx(2 * prior, rel=1e-3)
    assert gradients([1.0, 1.0], free_nats=1e3) == (0.0, pytest.approx(0.0, abs=1e-4))


@pytest.mark.parametrize("settings", VERSIONS)
def test_imagined_trajectories_are_those_of_single_steps(settings: dict[str, Any]) -> None:
    model = tiny(**settings)
    start = model.begin(torch.randn(5, 2), seeded())
    policy = torch.nn.Linear(model.num_features, 1)
    found = model.imagine(start, lambda features: (2 * policy(features).tanh(),) * 2, 4, seeded(1))
    rewards, goes_on = model.outcomes(found.features[1:])
    state, generator = start, seeded(1)
    for t in range(4):
        assert torch.equal(model.features(state), found.features[t])
        action = 2 * policy(model.features(state)).tanh()
        assert torch.equal(action, found.actions[t])
        seed = generator.get_state()
        after, said = model.step(state, action, generator)
        assert torch.allclose(said.reward, rewards[t]) and not said.diverged.any()
        generator.set_state(seed)
        state = model._imagine_step(state, action, generator)
        assert torch.equal(model.features(state), model.features(after))
    assert torch.equal(model.features(state), found.features[-1]) and ((goes_on > 0) & (goes_on < 1)).all()


def test_rows_do_not_influence_one_another() -> None:
    model, real = without_noise(tiny()), drawn()
    alone = Sequences(*(part[1:2] for part in real))
    assert torch.allclose(model.loss(real).features[1:2], model.loss(alone).features, atol=1e-5)


def test_actions_beyond_the_bounds_are_cut_off_but_have_a_gradient() -> None:
    model = tiny()
    action = torch.tensor([[1.0], [2.0], [5.0], [-9.0]], requires_grad=True)
    scaled = model._scaled(action)
    assert scaled[:, 0].tolist() == pytest.approx([0.5, 1.0, 1.0, -1.0])
    (gradient,) = torch.autograd.grad(scaled.sum(), action)
    assert (gradient > 0).all()
    assert tiny(action=spaces.Discrete(3))._scaled(torch.eye(3)).tolist() == torch.eye(3).tolist()


def test_a_step_that_is_not_finite_has_diverged() -> None:
    model = tiny()
    state = model.begin(torch.zeros(3, 2))
    broken = RSSMState(state.deter.clone(), state.stoch)
    broken.deter[1] = math.nan
    _, said = model.step(broken, torch.zeros(3, 1))
    assert said.diverged.tolist() == [False, True, False]


# -- what is learned -----------------------------------------------------------------------------------------


class Echo(gym.Env[np.ndarray, np.ndarray]):
    """It shows the last action, and the one before; it pays for the last one, and ends after an action above 1.5."""

    observation_space, action_space = OBS, ACTION

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.last, self.steps = np.zeros(2, np.float32), 0
        return self.last.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.last, self.steps = np.array([action[0], self.last[0]], np.float32), self.steps + 1
        return self.last.copy(), 3.0 * float(action[0]), bool(action[0] > 1.5), self.steps >= 20, {}


def agreement(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.detach(), other]))[0, 1])


@pytest.mark.parametrize("settings", VERSIONS)
def test_a_fit_pairs_actions_with_what_followed_them(settings: dict[str, Any]) -> None:
    """Off by one in either direction, an action says nothing about what is shown, paid or ended by it.

    An episode's last entry counts too: ends are seen nowhere else.
    """
    model = tiny(**settings, free_nats=0.1, train_steps=120, learning_rate=1e-2)
    report = model.fit(collect_episodes(Echo(), model, 600, seed=0), seeded())
    assert report["grad_steps"] == 120
    generator = seeded(1)
    state = model.begin(torch.zeros(256, 2), generator)
    before = torch.zeros(256)
    for step in range(3):
        action = 4 * torch.rand(256, 1, generator=generator) - 2
        state, said = model.step(state, action, generator, deterministic=True)
        shown, own = model.decode(state), action[:, 0]
        assert agreement(shown[:, 0], own) > 0.9 and agreement(said.reward, own) > 0.9
        assert step == 0 or agreement(shown[:, 1], before) > 0.9
        is_clear = (own < 1.3) | (own > 1.7)
        assert (said.terminated == (own > 1.5))[is_clear].float().mean() > 0.9
        assert said.terminated[own > 1.7].float().mean() > 0.7
        before = own


@pytest.mark.parametrize("settings", VERSIONS)
def test_large_observations_are_squashed_for_the_networks_alone(settings: dict[str, Any]) -> None:
    """With the encoder's inputs as the decoder's outputs, the observation comes back."""
    wide = spaces.Box(-1000, 1000, (2,), np.float32)
    model, obs, seen = tiny(wide, **settings), torch.tensor([[50.0, -20.0], [0.5, 900.0]]), []

    class Watched(torch.nn.Module):
        def forward(self, images: list[Tensor], vector: Tensor) -> Tensor:
            seen.append(vector)
            return torch.zeros(len(vector), 16)

    class Honest(torch.nn.Module):
        def forward(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
            return [], seen[0]

    model.encoder, model.decoder = Watched(), Honest()  # type: ignore[assignment]
    state = model.begin(obs)
    assert torch.allclose(seen[0], symlog(obs) if settings["version"] == 3 else obs)
    torch.testing.assert_close(model.decode(state), obs)


# -- images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
def test_images_and_vectors_are_encoded_and_decoded_together(first: bool) -> None:
    image = spaces.Box(0, 255, (3, 16, 17), np.uint8) if first else IMAGE
    space = spaces.Dict(camera=image, speed=spaces.Box(-1, 1, (2,), np.float32), flag=spaces.Discrete(2))
    model = tiny(space)
    obs = model.obs_codec.encode({key: np.stack([part.sample()] * 2) for key, part in space.spaces.items()})
    shown = model.decode(model.begin(obs))
    assert shown.shape == obs.shape and torch.isfinite(shown).all()
    seen = {key: part[0] for key, part in model.obs_codec.decode_numpy(shown).items()}
    assert space.contains({**seen, "flag": np.int64(seen["flag"])})
    other = obs.clone()
    other[:, model.obs_codec.is_pixel] = 0
    embedded = (model._embed(obs), model._embed(other))
    assert not torch.allclose(*embedded) and torch.equal(embedded[0][:, -16:], embedded[1][:, -16:])


def test_bernoulli_pixels_cost_the_surprise_at_what_is_decoded() -> None:
    space = spaces.Dict(camera=IMAGE, speed=spaces.Box(-1, 1, (2,), np.float32))
    model = tiny(space, pixels="bernoulli").double()
    features = torch.randn(5, model.num_features, generator=seeded()).double()
    real = torch.randint(2, (5, 3, 16, 17), generator=seeded()).double()
    _, vector = model.decoder(features)
    shown = model.obs_codec.image(model.decode(model.state_of(features))).double() / 255
    surprise = -(real * shown.log() + (1 - real) * (1 - shown).log()).sum() / 5  # the vector is foreseen exactly
    found = model._observation_loss(features, [real], vector)
    assert found.item() == pytest.approx(surprise.item(), rel=0.01)


@pytest.mark.parametrize("pixels", ["gaussian", "bernoulli"])
def test_a_model_of_images_alone_stays_in_bytes_and_learns_them(pixels: str) -> None:
    torch.manual_seed(0)
    learning = {"train_steps": 40, "sequence_length": 2, "batch_size": 8, "free_nats": 0.0, "learning_rate": 1e-2}
    model = tiny(IMAGE, pixels=pixels, **learning)
    bright = torch.randint(2, (400,), generator=seeded()).bool()
    obs = torch.where(bright[:, None], 220, 20).to(torch.uint8).expand(400, model.obs_codec.dim).contiguous()
    first = torch.zeros(400, dtype=torch.bool)
    first[::10] = True
    episodes = Episodes(obs, torch.zeros(400, 1), torch.zeros(400), torch.zeros(400, dtype=torch.bool), first)
    model.fit(episodes, seeded())
    shown = model.decode(model.begin(obs[:50]))
    assert shown.dtype == torch.uint8 and (shown.float() - obs[:50].float()).abs().mean() < 30


# -- imagined envs over it -----------------------------------------------------------------------------------


def fitted(**kwargs: Any) -> RSSM:
    model = tiny(train_steps=5, **kwargs)
    model.fit(collect_episodes(Echo(), model, 300, seed=0), seeded())
    return model


def test_imagined_episodes_begin_at_stored_posteriors() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="start_obs must be given for a model that was never fitted"):
        ImaginedEnv(model)
    model = fitted()
    env = ImaginedVecEnv(model, 50, observe="features", seed=0)
    shown = torch.as_tensor(env.reset())
    kept = model.start_states[: model.num_starts]
    assert 64 < model.num_starts <= 16 * 8 and shown.shape == (50, model.num_features)  # without those at an end
    assert (shown[:, None] - kept).norm(dim=-1).amin(1).max() < 1e-5 and len(shown.unique(dim=0)) > 10
    assert ImaginedVecEnv(model, 2, seed=0).reset().shape == (2, 2)


def test_starts_are_spread_over_all_states_that_were_seen() -> None:
    model = tiny()
    seen = torch.arange(2000.0)[:, None].expand(-1, model.num_features)
    model.keep_starts(seen)
    kept = model.start_states[: model.num_starts, 0]
    assert model.num_starts == 512 and kept[0] == 0 and kept[-1] == 1999
    assert ((kept.diff() > 2) & (kept.diff() < 6)).all()
    model.keep_starts(seen[:7])
    assert model.start_states[: model.num_starts, 0].tolist() == list(range(7))


def test_an_agent_trained_in_the_dream_acts_in_the_real_env() -> None:
    model = fitted()
    agent = PPO(
        "MlpPolicy", ImaginedVecEnv(model, 4, horizon=8, observe="features", seed=0), n_steps=8, batch_size=32, seed=0
    )
    agent.learn(64)
    env = LatentObservation(Echo(), model)
    obs, _ = env.reset(seed=0)
    for _ in range(5):
        action, _ = agent.predict(obs, deterministic=True)
        obs, *_ = env.step(action)
        assert env.observation_space.contains(obs)


# -- files and errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", VERSIONS)
def test_a_described_model_with_the_same_weights_is_the_same(settings: dict[str, Any]) -> None:
    model = fitted(**settings)
    again = RSSM.from_description(model.description())
    again.load_state_dict(model.state_dict())
    assert again.num_starts == model.num_starts and again.settings == model.settings
    real = drawn()
    assert torch.equal(again.loss(real, seeded()).total, model.loss(real, seeded()).total)


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = fitted()
    model.save(tmp_path / "model.safetensors")
    again = RSSM.load(tmp_path / "model.safetensors")
    real = drawn()
    assert torch.equal(again.loss(real, seeded()).total, model.loss(real, seeded()).total)
    with pytest.raises(ValueError, match="must hold a model of kind 'EnsembleDynamics', got 'RSSM'"):
        EnsembleDynamics.load(tmp_path / "model.safetensors")
    for name in ("reward_fn", "termination_fn"):
        with pytest.raises(ValueError, match=f"{name} must be None for RSSM, which learns it"):
            RSSM.from_description(model.description(), **{name: lambda *_: 0})


def test_the_seed_decides_the_weights_and_no_generator_is_touched() -> None:
    before = torch.get_rng_state()
    first, second, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    assert torch.equal(torch.get_rng_state(), before)

    def same(a: RSSM, b: RSSM) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

    assert same(first, second) and not same(first, other)


def bare(length: int, width: int = 2) -> Episodes:
    first = torch.zeros(length, dtype=torch.bool)
    first[0] = True
    nothing = torch.zeros(length)
    return Episodes(torch.zeros(length, width), torch.zeros(length, 1), nothing, nothing.bool(), first)


def test_bad_experience_is_named() -> None:
    model = tiny(train_steps=1)
    with pytest.raises(ValueError, match="length must be at most 5, the entries of the longest stream, got 8"):
        model.fit(bare(5))
    with pytest.raises(ValueError, match=r"sequences.obs must have shape \[B, T, 2\], got \(16, 8, 3\)"):
        model.fit(bare(20, 3))
    obs, action, nothing = torch.zeros(9, 2), torch.zeros(9, 1), torch.zeros(9)
    rows = Transitions(obs, action, nothing, obs, nothing.bool(), torch.arange(9))
    with pytest.raises(ValueError, match="experience must have an order to draw sequences, got Transitions"):
        model.fit(rows)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("version", 2, r"version must be one of \(1, 3\), got 2"),
        ("latent", [3], r"latent must be a width or \[groups, classes\], got \[3\]"),
        ("latent", 0, "latent must be a whole number of at least 1, got 0"),
        ("latent", [3, 1], "latent's classes must be a whole number of at least 2, got 1"),
        ("bins", 1, "bins must be a whole number of at least 2, got 1"),
        ("deter", 1.5, "deter must be a whole number of at least 1, got 1.5"),
        ("kl_scales", [1.0], r"kl_scales must be two numbers, got \[1.0\]"),
        ("free_nats", -1, r"free_nats must be in \[0, 1e\+06\], got -1"),
        ("pixels", "mse", r"pixels must be one of \('gaussian', 'bernoulli'\), got 'mse'"),
        ("sequence_length", 1, "sequence_length must be a whole number of at least 2, got 1"),
    ],
)
def test_bad_arguments_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**{name: value})


def test_the_description_of_another_model_is_refused() -> None:
    described = tiny().description()
    with pytest.raises(ValueError, match="the description is not that of RSSM"):
        RSSM.from_description({**described, "settings": {"hidden": [3]}})


@pytest.mark.parametrize("settings", VERSIONS)
def test_imagined_episodes_begin_where_real_ones_go_on(settings: dict[str, Any]) -> None:
    """Episodes of four steps, whose last observation, 9, is terminal."""
    sequences = Sequences(
        torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [9.0, 9.0]]).repeat(8, 1, 1),
        torch.zeros(8, 5, 1),
        torch.zeros(8, 5),
        torch.tensor([False] * 4 + [True]).repeat(8, 1),
        torch.tensor([True] + [False] * 4).repeat(8, 1),
    )

    class Same:
        def sequences(self, *_: Any) -> Sequences:
            return sequences

    model = tiny(**settings, train_steps=200)
    model.fit(Same(), seeded())
    shown = model.decode(model.draw_starts(400, seeded()))
    assert model.num_starts == 32 and (shown[:, 1] < 4.5).all()


@pytest.mark.parametrize("settings", VERSIONS)
def test_a_beginning_forgets_what_is_not_finite(settings: dict[str, Any]) -> None:
    model = without_noise(tiny(**settings))
    obs, lost = torch.ones(2, 2), torch.full((2, 1), torch.nan)
    gone = RSSMState(*(torch.full_like(part, torch.nan) for part in model.begin(obs)))
    after = model.observe(gone, lost, obs, torch.tensor([True, True]))
    for part, fresh in zip(after, model.begin(obs), strict=True):
        assert torch.equal(part, fresh)
