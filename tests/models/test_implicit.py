"""TD-MPC2's world model: its parts against closed forms, which steps count, and the contract of world models."""

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
from torch.nn import functional as F

from mbrl_wrappers.envs import ImaginedVecEnv, collect_episodes
from mbrl_wrappers.models import RSSM, ImplicitModel
from mbrl_wrappers.models.implicit import SIZES
from mbrl_wrappers.models.implicit.layers import Mish, SimNorm
from mbrl_wrappers.models.rssm.scalars import TwoHot, symlog
from mbrl_wrappers.types import Sequences
from mbrl_wrappers.wrappers import LatentObservation
from testing.envs import Walk
from testing.models import box, seeded

OBS, ACTION = box(2, -10, 10), box(1, -2, 2)
IMAGE = spaces.Box(0, 255, (16, 17, 3), np.uint8)
TINY: dict[str, Any] = {"latent": 16, "units": 16, "encoder_units": 16, "bins": 21, "depth": 4, "learning_rate": 3e-3}


def tiny(space: spaces.Space = OBS, action: spaces.Space = ACTION, **kwargs: Any) -> ImplicitModel:
    return ImplicitModel(space, action, **{**TINY, **kwargs})


def drawn(rows: int = 3, length: int = 4) -> Sequences:
    """Noise as sequences without an episode's boundary."""
    generator = seeded()
    obs, action = torch.randn(rows, length, 2, generator=generator), torch.randn(rows, length, 1, generator=generator)
    never = torch.zeros(rows, length, dtype=torch.bool)
    return Sequences(obs, action, torch.randn(rows, length, generator=generator), never, never.clone())


def awake(model: ImplicitModel) -> ImplicitModel:
    """Give the heads' last layers, which begin at 0, weights."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=seeded(parameter.numel()))
    return model


# -- layers --------------------------------------------------------------------------------------------------


def test_simnorm_is_a_softmax_within_each_group() -> None:
    x = torch.randn(5, 3, 24, dtype=torch.float64)
    y = SimNorm(4)(x)
    for group in range(6):
        members = slice(group, None, 6)
        own = x[..., members].exp()
        assert torch.allclose(y[..., members], own / own.sum(-1, keepdim=True))
    assert torch.allclose(y.sum(-1), torch.full((5, 3), 6.0, dtype=torch.float64))


def test_mish_is_torch_s_own_with_its_gradient() -> None:
    x = torch.linspace(-90, 90, 2001).requires_grad_()
    other = x.detach().clone().requires_grad_()
    Mish()(x).sum().backward()
    F.mish(other).sum().backward()
    for own in (Mish()(x), Mish()(x.detach())):
        assert torch.allclose(own, F.mish(other), rtol=1e-5, atol=1e-5)
    assert x.grad is not None and other.grad is not None and torch.allclose(x.grad, other.grad, rtol=1e-4, atol=1e-5)
    small = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Mish(), (small,))


def test_two_hot_losses_broadcast_over_members_and_are_cross_entropies() -> None:
    head, target = TwoHot(21, 10.0), torch.tensor([-3.0, 0.0, 0.4, 2e4])
    outputs = torch.randn(5, 4, 21, generator=seeded())
    code = torch.zeros(4, 21)
    for row, place in enumerate((symlog(target) + 10) / 1.0):  # bins are 1 apart
        below = min(int(place), 19)
        weight = float(place) - below
        code[row, below], code[row, below + 1] = 1 - weight, weight
    assert torch.allclose(head.loss(outputs, target), -(code * outputs.log_softmax(-1)).sum(-1), atol=1e-4)
    assert torch.allclose(head.mean(code.clamp(min=1e-12).log()), target, rtol=1e-3, atol=1e-4)


# -- sequences -----------------------------------------------------------------------------------------------


def test_a_sequence_is_encoded_once_and_followed_by_its_actions() -> None:
    model, sequences = awake(tiny()), drawn()
    found = model.unroll(sequences, 0.5)
    z = model.begin(sequences.obs[:, 0])
    assert torch.equal(found.latents[0], z)
    for t in range(1, 4):
        z, _ = model.step(z, sequences.action[:, t], deterministic=True)
        assert torch.allclose(found.latents[t], z, atol=1e-6)
        assert torch.allclose(found.encoded[t - 1], model.begin(sequences.obs[:, t]), atol=1e-6)
        assert torch.equal(found.reward[t - 1], sequences.reward[:, t])
    assert not found.encoded.requires_grad and found.latents.requires_grad


def test_the_losses_are_those_of_the_paper() -> None:
    """By hand, step by step: ``rho^t``, means over rows, and over the entries of a latent."""
    model, sequences = awake(tiny()), drawn()
    model.settings["simplex"] = 8
    rho = 0.7
    found = model.losses(model.unroll(sequences, rho))
    z, consistency, reward = model.begin(sequences.obs[:, 0]), torch.zeros(()), torch.zeros(())
    ends = []
    for t in range(3):
        action = (sequences.action[:, t + 1] / 2).clamp(-1, 1)
        outputs = model.reward_head(torch.cat([z, action], dim=-1))
        reward = reward + rho**t * model.reward_head.loss(outputs, sequences.reward[:, t + 1]).mean() / 3
        z, _ = model.step(z, sequences.action[:, t + 1])
        consistency = consistency + rho**t * F.mse_loss(z, model.begin(sequences.obs[:, t + 1])) / 3
        assert model.termination_head is not None
        ends.append(F.softplus(model.termination_head(z)).mean())  # -log(1 - chance), nothing has ended
    assert found["consistency"].item() == pytest.approx(20 * consistency.item(), rel=1e-4)
    assert found["reward"].item() == pytest.approx(0.1 * reward.item(), rel=1e-4)
    assert found["termination"].item() == pytest.approx(torch.stack(ends).mean().item(), rel=1e-4)


def test_nothing_counts_from_where_another_episode_begins() -> None:
    model, sequences = awake(tiny()), drawn(rows=2)
    sequences.terminated[0, 1] = sequences.is_first[0, 2] = True
    found = model.unroll(sequences, 0.5)
    assert found.counts.T.tolist() == [[True, False, False], [True] * 3]
    assert found.is_over.T.tolist() == [[False, True, True, True], [False] * 4]
    assert found.weight.T.tolist() == [pytest.approx([1 / 6, 0, 0]), pytest.approx([1 / 6, 1 / 6, 1 / 12])]

    def gradients(changed: Sequences) -> list[Tensor]:
        model.zero_grad()
        torch.stack(list(model.losses(model.unroll(changed, 0.5)).values())).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    other = Sequences(*(part.clone() for part in sequences))
    other.obs[0, 2:], other.reward[0, 2:], other.action[0, 2:] = 7.0, 5.0, -1.0
    for one, two in zip(gradients(sequences), gradients(other), strict=True):
        assert torch.allclose(one, two, atol=1e-7)


def test_a_sequence_that_begins_where_an_episode_ended_has_no_step_that_counts() -> None:
    sequences = drawn(rows=1)
    sequences.terminated[0, 0] = sequences.is_first[0, 1] = True
    found = tiny().unroll(sequences, 0.5)
    assert not found.counts.any() and found.is_over.all() and not found.weight.any()


def test_a_fit_pairs_actions_with_what_followed_them() -> None:
    """Walk pays for the place that an action led to, and ends beyond 1; both hang on the action of that very step."""
    env = Walk()
    episodes = collect_episodes(env, tiny(env.observation_space, env.action_space), 600, seed=0)
    model = tiny(
        env.observation_space, env.action_space, seed=1, train_steps=300, batch_size=64, horizon=2, learning_rate=5e-3
    )
    report = model.fit(episodes, seeded())
    assert report["grad_steps"] == 300 and report["consistency_loss"] < 0.2
    rows = episodes.rows()
    _, said = model.step(model.begin(rows.obs), rows.action, deterministic=True)
    with torch.no_grad():
        error = (said.reward - rows.reward).std() / rows.reward.std()
        assert error < 0.5
        assert (said.terminated == rows.terminated).float().mean() > 0.9
    assert rows.terminated.any()


# -- the contract --------------------------------------------------------------------------------------------


def test_states_are_encodings_without_a_memory() -> None:
    model = awake(tiny())
    obs, action = torch.randn(4, 2), torch.randn(4, 1)
    state = model.begin(obs)
    later = model.observe(torch.rand(4, 16), action, obs, torch.tensor([True, False, True, False]))
    assert torch.equal(state, later) and torch.equal(model.features(state), state) and model.num_features == 16
    with pytest.raises(NotImplementedError, match="ImplicitModel has no decoder: show its features"):
        model.decode(state)


def test_ends_are_drawn_by_their_chance_and_likeliest_if_deterministic() -> None:
    model = tiny()
    assert model.termination_head is not None
    torch.nn.init.constant_(model.termination_head[-1].bias, math.log(0.3 / 0.7))
    torch.nn.init.zeros_(model.termination_head[-1].weight)
    state, action = model.begin(torch.zeros(4000, 2)), torch.zeros(4000, 1)
    assert model.step(state, action, seeded())[1].terminated.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert not model.step(state, action, seeded(), deterministic=True)[1].terminated.any()
    never = tiny(episodic=False)
    assert not never.step(state, action)[1].terminated.any() and never.termination_head is None


def test_rows_do_not_influence_one_another_and_bad_ones_diverge() -> None:
    model = awake(tiny())
    obs, action = torch.randn(4, 2), torch.randn(4, 1)
    obs[2] = math.nan
    state, said = model.step(model.begin(obs), action, deterministic=True)
    assert said.diverged.tolist() == [False, False, True, False]
    alone, _ = model.step(model.begin(obs[:2]), action[:2], deterministic=True)
    assert torch.allclose(state[:2], alone, atol=1e-6)


def test_an_agent_trained_in_imagination_acts_in_the_real_env() -> None:
    env = Walk()
    model = tiny(env.observation_space, env.action_space, train_steps=2, batch_size=8)
    model.fit(collect_episodes(env, model, 60, seed=0), seeded())
    imagined = ImaginedVecEnv(model, 4, horizon=5, observe="features", seed=0)
    agent = PPO("MlpPolicy", imagined, n_steps=8, batch_size=16, n_epochs=1, device="cpu").learn(64)
    obs, _ = LatentObservation(env, model).reset(seed=0)
    assert obs.shape == (16,) and env.action_space.contains(agent.predict(obs)[0])
    with pytest.raises(NotImplementedError, match="no decoder"):
        ImaginedVecEnv(model, 4, horizon=5, seed=0).reset()


@pytest.mark.parametrize("space", [IMAGE, spaces.Dict({"eye": IMAGE, "self": OBS, "mood": spaces.Discrete(3)})])
def test_images_and_observations_of_many_parts_are_encoded(space: spaces.Space) -> None:
    model = tiny(space)
    space.seed(0)
    samples = [space.sample() for _ in range(3)]
    one = (
        {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
        if isinstance(space, spaces.Dict)
        else np.stack(samples)
    )
    state = model.begin(model.obs_codec.encode(one, dtype=model.obs_dtype))
    assert state.shape == (3, 16) and not torch.allclose(state[0], state[1])
    state.square().sum().backward()
    assert all(p.grad is not None for p in model.parameter_groups(1.0)[0]["params"])


# -- files ---------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path: Path) -> None:
    env = Walk()
    model = tiny(env.observation_space, env.action_space, train_steps=2, batch_size=8)
    model.fit(collect_episodes(env, model, 40, seed=0), seeded())
    model.save(tmp_path / "model.safetensors")
    again = ImplicitModel.load(tmp_path / "model.safetensors")
    assert again.settings == model.settings and again.num_starts == model.num_starts > 0
    assert torch.equal(again.draw_starts(5, seeded()), model.draw_starts(5, seeded()))
    with pytest.raises(ValueError, match="RSSM"):
        RSSM.load(tmp_path / "model.safetensors")


def test_the_seed_decides_the_weights_and_no_generator_is_touched() -> None:
    before = torch.get_rng_state()
    one, two, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    pairs = [zip(one.parameters(), model.parameters(), strict=True) for model in (two, other)]
    assert [all(torch.equal(a, b) for a, b in pair) for pair in pairs] == [True, False]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_what_their_names_say(size: str) -> None:
    form, model = SIZES[size], ImplicitModel.for_env("Pendulum-v1", size=size)
    assert model.settings["latent"] == form.latent and model.settings["units"] == form.units
    assert ImplicitModel.for_env("Pendulum-v1", size=size, latent=24).num_features == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "2M"}, r"size must be one of \('0.6M', '1M', '5M'\), got '2M'"),
        ({"latent": 20}, "latent must be a multiple of simplex 8, got 20"),
        ({"units": 0}, "units must be a whole number of at least 1, got 0"),
        ({"encoder_layers": 1}, "encoder_layers must be a whole number of at least 2, got 1"),
        ({"bins": 1}, "bins must be a whole number of at least 2, got 1"),
        ({"rho": 0}, r"rho must be in \(0, 1\], got 0"),
        ({"episodic": "no"}, "episodic must be True or False, got 'no'"),
        ({"device": "abacus"}, "device must be one that this machine has"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_sequences_of_other_widths_are_named() -> None:
    sequences = drawn()
    with pytest.raises(ValueError, match=r"sequences.action must have shape \[B, T, 1\] with T from 2 on, got"):
        tiny().unroll(sequences._replace(action=torch.zeros(3, 4, 2)), 0.5)
    with pytest.raises(ValueError, match=r"sequences.obs must have shape \[B, T, 2\] with T from 2 on"):
        tiny().unroll(Sequences(*(part[:, :1] for part in sequences)), 0.5)
    with pytest.raises(ValueError, match="env must be a Gymnasium id"):
        ImplicitModel.for_env(gym.spaces.Discrete(2))
