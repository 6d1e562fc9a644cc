"""The recurrent state-space model as a world model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_wrappers.arguments import check_device
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.divergence import has_diverged
from mbrl_wrappers.models.latent import LatentModel
from mbrl_wrappers.models.rssm.cell import Cell, LatentNetwork
from mbrl_wrappers.models.rssm.latents import make_latent
from mbrl_wrappers.models.rssm.networks import Decoder, Encoder, Layers
from mbrl_wrappers.models.rssm.presets import PRESETS, Version, checked_settings
from mbrl_wrappers.models.rssm.scalars import LARGEST_SYMLOG, ScalarHead, symexp, symlog
from mbrl_wrappers.models.world_model import StepPrediction
from mbrl_wrappers.seeding import stream_seed
from mbrl_wrappers.types import Sequences

MAX_GRAD_NORM = 100.0


class RSSMState(NamedTuple):
    """The state of ``B`` episodes.

    Attributes:
        deter: the memory ``h``, ``[B, H]``.
        stoch: the latent ``z``, ``[B, Z]``.
    """

    deter: Tensor
    stoch: Tensor


class RSSMLoss(NamedTuple):
    """The loss of a batch of sequences, and what it was computed from.

    Attributes:
        total: a scalar.
        features: of the posterior states, ``[B, T, F]``.
        terms: numbers to log, without gradients.
    """

    total: Tensor
    features: Tensor
    terms: dict[str, Tensor]


class Imagined(NamedTuple):
    """Imagined trajectories of ``N`` rows and ``L`` steps.

    Attributes:
        features: before each step and after the last one, ``[L + 1, N, F]``.
        actions: as the function that chose them returned them, ``[L, N, ...]``.
    """

    features: Tensor
    actions: Tensor


class RSSM(LatentModel):
    """A recurrent state-space model (Hafner et al. 2019), in the forms of Dreamer V1 and V3.

    A state has a memory ``h``, which a recurrent cell moves on, and a random latent ``z``::

        h' = GRU(h, z, a)       prior p(z' | h')       posterior q(z' | h', observation)

    Real steps draw ``z'`` from the posterior, imagined ones from the prior. Observation, reward and the chance to go on
    are decoded from the features ``(h, z)`` of the state that a step leads to. With the balanced divergence of Hafner
    et al. 2023, the loss of an entry is::

        -log p(obs) - log p(reward) - log p(goes on) + s1 max(free, KL(sg q || p)) + s2 max(free, KL(q || sg p))

    where ``sg`` stops the gradient. Sequences and episodes begin with an empty memory and no action before.

    Version 1 (Hafner et al. 2020) has Gaussian latents, ELU, and Gaussians of unit variance for observations and
    rewards; version 3 (Hafner et al. 2023) one-hot latents, SiLU with layer normalisation, symlog and two-hot rewards.
    Deviations: an episode begins with a memory of zeros instead of a learned one; both versions have V2's recurrent
    cell, and Glorot's uniform initial weights; free nats count per entry; squared errors of observations are not halved
    in version 1 either, and rewards and ends are not learned where a sequence begins, since nothing led there.

    Args:
        observation_space: the environment's; images of uint8 have a CNN each, everything else together an MLP.
        action_space: the environment's.
        version: 1 or 3.
        deter: ``H``, the width of the memory.
        units: of each hidden layer.
        layers: hidden layers of the encoder, the decoder and the heads.
        latent: the width of a Gaussian latent, or ``[groups, classes]`` of a categorical one; default: the version's,
            30 or [32, 32].
        bins: of the two-hot rewards, at least 2 (fewer are cheaper), or 0 for a Gaussian; default: the version's, 0 or
            255.
        kl_scales: ``s1`` and ``s2``; default: the version's, [1, 1] or [0.5, 0.1].
        free_nats: default: the version's, 3 or 1.
        depth: channels of a CNN's first layer.
        pixels: what a decoded pixel is: the mean of a ``"gaussian"`` of unit variance, as in the papers, or the chance
            of a ``"bernoulli"`` to be white, for images of black and white planes such as those of
            :mod:`mbrl_wrappers.tasks.grids`. There a single pixel, such as a ball, is worth its full surprise.
        batch_size: sequences in a batch of a fit.
        sequence_length: entries of each sequence.
        learning_rate: of a fit, by Adam.
        train_steps: gradient steps of a fit.
        seed: of the initial weights.
        device: where the model goes.

    Raises:
        ValueError: for an argument out of its range, or a space that is not supported.

    Example:
        >>> model = RSSM.for_env("Pendulum-v1", deter=64, units=64, latent=[8, 8])
        >>> model.num_features
        128
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        version: Version = 3,
        deter: int = 200,
        units: int = 200,
        layers: int = 2,
        latent: int | Sequence[int] | None = None,
        bins: int | None = None,
        kl_scales: Sequence[float] | None = None,
        free_nats: float | None = None,
        depth: int = 32,
        pixels: Literal["gaussian", "bernoulli"] = "gaussian",
        batch_size: int = 16,
        sequence_length: int = 64,
        learning_rate: float = 3e-4,
        train_steps: int = 1000,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space)
        check_device("device", device)
        if version not in PRESETS:
            raise ValueError(f"version must be one of {tuple(PRESETS)}, got {version!r}")
        preset = PRESETS[version]
        self.settings = checked_settings(
            preset, version=version, deter=deter, units=units, layers=layers, latent=latent, bins=bins,
            kl_scales=kl_scales, free_nats=free_nats, depth=depth, pixels=pixels, batch_size=batch_size,
            sequence_length=sequence_length, learning_rate=learning_rate, train_steps=train_steps, seed=seed,
        )  # fmt: skip
        self._symlog = preset.symlog
        self.latent = make_latent(self.settings["latent"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "RSSM"))
            self._make_networks(Layers(units, preset.activation, preset.layer_norm))
        self._make_buffers()
        self.to(device)

    def _make_networks(self, layers: Layers) -> None:
        deter, num_layers, depth = (self.settings[name] for name in ("deter", "layers", "depth"))
        outputs = self.latent.num_outputs
        self.encoder = Encoder(self.obs_codec, layers, num_layers, depth)
        self.cell = Cell(deter, self.latent.dim, self.action_codec.dim, layers)
        self.prior = LatentNetwork(deter, 0, outputs, layers)
        self.posterior = LatentNetwork(deter, self.encoder.num_outputs, outputs, layers)
        self.decoder = Decoder(self.num_features, self.obs_codec, layers, num_layers, depth)
        self.reward_head = ScalarHead(self.num_features, layers, num_layers, self.settings["bins"] or None)
        self.continue_head = layers.mlp(self.num_features, num_layers, 1)

    # -- the verbs of a world model ----------------------------------------------------------------------

    def observe(
        self,
        state: RSSMState,
        action: Tensor,
        obs: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> RSSMState:
        """Return a sample of the posterior state after a real step; see :meth:`WorldModel.observe`."""
        # A product with 0 would keep what is not finite.
        deter, stoch, action = (part.masked_fill(is_first[:, None], 0) for part in (*state, self._scaled(action)))
        deter = self.cell(deter, stoch, self.cell.project(action))
        of = self.latent.distribution(self.posterior(deter, self.posterior.project(self._embed(obs))))
        return RSSMState(deter, self.latent.sample(of, self.latent.noise(len(of), like=of, generator=generator)))

    def step(
        self, state: RSSMState, action: Tensor, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> tuple[RSSMState, StepPrediction]:
        """Imagine a step; see :meth:`WorldModel.step`. The uncertainty is not measured."""
        state = self._imagine_step(state, action, generator, deterministic)
        features = self.features(state)
        reward, goes_on = self.outcomes(features)
        threshold = 0.5 if deterministic else torch.rand(len(reward), generator=generator, device=reward.device)
        diverged = has_diverged(features, reward)
        return state, StepPrediction(reward, goes_on < threshold, torch.zeros_like(reward), diverged)

    def features(self, state: RSSMState) -> Tensor:
        """Return memory and latent side by side, ``[B, H + Z]``."""
        return torch.cat(state, dim=-1)

    @property
    def state_widths(self) -> list[int]:
        """The widths of memory and latent; a state's row is its :meth:`features`."""
        return [self.settings["deter"], self.latent.dim]

    def state_of(self, rows: Tensor) -> RSSMState:
        """Return the state whose :meth:`features` these are."""
        return RSSMState(*rows.split(self.state_widths, dim=-1))

    @property
    def num_features(self) -> int:
        """The width of memory and latent together."""
        return self.settings["deter"] + self.latent.dim

    def decode(self, state: RSSMState) -> Tensor:
        """Return the mean observation of a state; see :meth:`WorldModel.decode`."""
        images, vector = self.decoder(self.features(state))
        if self.settings["pixels"] == "bernoulli":
            images = [(image - 0.5).sigmoid() for image in images]  # outputs are around 0.5, their logits around 0
        return self._shown(images, vector)

    def divergence(self, imagined: RSSMState, observed: RSSMState, obs: Tensor) -> Tensor:
        """Return how much of an observation an imagined state did not know, in nats ``[B]``.

        It is the divergence of the posterior, which has seen the observation, from the imagined state's prior; after
        one imagined step, that of the loss.

        Args:
            imagined: the state that was imagined for this time.
            observed: the state that :meth:`observe` returned for it.
            obs: ``[B, D]``, the real observation.
        """
        seen = self.posterior.project(self._embed(obs))
        posterior = self.latent.distribution(self.posterior(observed.deter, seen))
        return self.latent.divergence(posterior, self.latent.distribution(self.prior(imagined.deter)))

    # -- parts of steps ----------------------------------------------------------------------------------

    def imagine(
        self,
        start: RSSMState,
        act: Callable[[Tensor], tuple[Tensor, Tensor]],
        length: int,
        generator: torch.Generator | None = None,
    ) -> Imagined:
        """Follow a policy through the prior; the heads of all steps can be computed afterwards at once.

        Args:
            start: ``[N, ...]``.
            act: ``features [N, F] -> (action [N, A] in the env's units, the policy's own form of it)``.
            length: ``L``.
            generator: of the latents.
        """
        states, actions = [start], []
        features = [self.features(start)]
        for _ in range(length):
            action, own = act(features[-1])
            states.append(self._imagine_step(states[-1], action, generator))
            features.append(self.features(states[-1]))
            actions.append(own)
        return Imagined(torch.stack(features), torch.stack(actions))

    def outcomes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rewards of the steps that led to states of features ``[..., F]``, and the chances to go on."""
        reward = self.reward_head.mean(self.reward_head(features))
        return reward, self.continue_head(features)[..., 0].sigmoid()

    def _imagine_step(
        self, state: RSSMState, action: Tensor, generator: torch.Generator | None, deterministic: bool = False
    ) -> RSSMState:
        deter = self.cell(state.deter, state.stoch, self.cell.project(self._scaled(action)))
        of = self.latent.distribution(self.prior(deter))
        if deterministic:
            return RSSMState(deter, self.latent.mode(of))
        return RSSMState(deter, self.latent.sample(of, self.latent.noise(len(of), like=of, generator=generator)))

    def _squashed(self, vector: Tensor) -> Tensor:
        return symlog(vector) if self._symlog else vector

    def _stretched(self, vector: Tensor) -> Tensor:
        return symexp(vector.clamp(-LARGEST_SYMLOG, LARGEST_SYMLOG)) if self._symlog else vector

    def _embed(self, obs: Tensor) -> Tensor:
        return self.encoder(*self._seen(obs))

    # -- fitting -----------------------------------------------------------------------------------------

    def loss(self, sequences: Sequences, generator: torch.Generator | None = None) -> RSSMLoss:
        """Return the loss of sequences ``[B, T, ...]``.

        Args:
            sequences: real experience, on the model's device.
            generator: of the latents.

        Raises:
            ValueError: if the widths are not the model's.
        """
        sequences.check(self.obs_codec.dim, self.action_codec.dim)
        seen = self._seen(sequences.obs.flatten(0, 1))  # [B T, ...]
        begins = sequences.is_first.clone()
        begins[:, 0] = True
        deter, stoch, of = self._follow(self.encoder(*seen), sequences.action, begins, generator)
        features = torch.cat([deter, stoch], dim=-1)  # [B, T, F]
        terms = {
            "observation": self._observation_loss(features.flatten(0, 1), *seen),
            **self._outcome_losses(features, sequences, ~begins),
            **self._divergences(of, self.latent.distribution(self.prior(deter))),
        }
        total = torch.stack([terms[name] for name in terms if name != "divergence"]).sum()
        return RSSMLoss(total, features.detach(), {f"{name}_loss": term.detach() for name, term in terms.items()})

    def _follow(
        self, embedding: Tensor, action: Tensor, begins: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Follow sequences; what needs no memory is computed before the loop, what it does not need, after it.

        Args:
            embedding: of the observations, ``[B T, E]``.
            action: ``[B, T, A]``.
            begins: where memory and action are forgotten, ``[B, T]`` bool.
            generator: of the latents.

        Returns:
            Memories ``[B, T, H]``, latents ``[B, T, Z]`` and their posteriors ``[B, T, ...]``.
        """
        rows, length = begins.shape
        goes_on = (~begins).float()[..., None]
        embedded = self.posterior.project(embedding).unflatten(0, (rows, length)).unbind(1)
        moved = self.cell.project(self._scaled(action) * goes_on).unbind(1)
        noise = self.latent.noise(length, rows, like=moved[0], generator=generator)
        is_reset = begins.any(0).tolist()
        deter, stoch = self._empty(rows)
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(length):
            if is_reset[t]:
                deter, stoch = deter * goes_on[:, t], stoch * goes_on[:, t]
            deter = self.cell(deter, stoch, moved[t])
            of = self.latent.distribution(self.posterior(deter, embedded[t]))
            stoch = self.latent.sample(of, noise[t])
            steps.append((deter, stoch, of))
        deters, stochs, posteriors = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        return deters, stochs, posteriors

    def _observation_loss(self, features: Tensor, images: list[Tensor], vector: Tensor) -> Tensor:
        """Return the squared errors, or the surprise at Bernoulli pixels, summed over the entries of an observation.

        Args:
            features: ``[B T, F]``.
            images: ``[B T, C, H, W]`` each.
            vector: ``[B T, V]``.
        """
        own_images, own_vector = self.decoder(features)
        losses = [F.mse_loss(own_vector, vector, reduction="sum")]
        for own, real in zip(own_images, images, strict=True):
            if self.settings["pixels"] == "bernoulli":
                losses.append(F.binary_cross_entropy_with_logits(own - 0.5, real, reduction="sum"))
            else:
                losses.append(F.mse_loss(own, real, reduction="sum"))
        return torch.stack(losses).sum() / len(features)

    def _outcome_losses(self, features: Tensor, sequences: Sequences, counts: Tensor) -> dict[str, Tensor]:
        """Return the losses of rewards and ends, over the entries ``[B, T]`` that a step of the sequence led to."""
        reward = self.reward_head.loss(self.reward_head(features), sequences.reward)
        goes_on = F.binary_cross_entropy_with_logits(
            self.continue_head(features)[..., 0], (~sequences.terminated).float(), reduction="none"
        )
        num = counts.sum().clamp(min=1)
        return {"reward": (reward * counts).sum() / num, "continue": (goes_on * counts).sum() / num}

    def _divergences(self, posterior: Tensor, prior: Tensor) -> dict[str, Tensor]:
        """Return the balanced divergence as two losses, and as a number, all ``[]``."""
        of_prior = self.latent.divergence(posterior.detach(), prior)  # [B, T]
        of_posterior = self.latent.divergence(posterior, prior.detach())
        free, (scale, other_scale) = self.settings["free_nats"], self.settings["kl_scales"]
        return {
            "prior": scale * of_prior.clamp(min=free).mean(),
            "posterior": other_scale * of_posterior.clamp(min=free).mean(),
            "divergence": of_prior.mean(),
        }

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Train on sequences from the current weights; see :meth:`WorldModel.fit`.

        Returns:
            The losses of the last batch, and ``grad_steps``.
        """
        optimizer = torch.optim.Adam(self.parameters(), self.settings["learning_rate"])
        own = torch.Generator(self.device)
        own.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        for _ in range(self.settings["train_steps"]):
            drawn = experience.sequences(self.settings["batch_size"], self.settings["sequence_length"], generator)
            loss = self.loss(drawn.to(self.device), own)
            optimizer.zero_grad()
            loss.total.backward()
            nn.utils.clip_grad_norm_(self.parameters(), MAX_GRAD_NORM)
            optimizer.step()
        self.keep_starts(loss.features.flatten(0, 1)[~drawn.terminated.flatten().to(self.device)])
        terms = {name: float(term) for name, term in loss.terms.items()}
        return {**terms, "grad_steps": float(self.settings["train_steps"])}
