"""The implicit world model of TD-MPC2 as a world model."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_wrappers.arguments import check_device
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.action_scale import ActionScale
from mbrl_wrappers.models.described import DescribedBySettings
from mbrl_wrappers.models.divergence import has_diverged
from mbrl_wrappers.models.implicit.layers import Mish, SimNorm
from mbrl_wrappers.models.implicit.sizes import checked_settings
from mbrl_wrappers.models.rssm.networks import Encoder, Layers
from mbrl_wrappers.models.rssm.scalars import ScalarHead
from mbrl_wrappers.models.world_model import StepPrediction
from mbrl_wrappers.seeding import stream_seed
from mbrl_wrappers.types import Sequences

LARGEST_SYMLOG = 10.0
ENCODER_LAYERS = 2
ENCODER_LEARNING_RATE = 0.3
MAX_GRAD_NORM = 20.0
WEIGHTS = {"consistency": 20.0, "reward": 0.1, "termination": 1.0}
NUM_STARTS = 1024


class Unrolled(NamedTuple):
    """Sequences of ``H + 1`` entries as the model follows them, time first.

    Attributes:
        latents: the first observation's encoding and what the dynamics make of it, ``[H + 1, B, Z]``.
        encoded: encodings of the later observations, without gradients, ``[H, B, Z]``.
        action: in [-1, 1], ``[H, B, A]``.
        reward: ``[H, B]``.
        terminated: ``[H, B]`` bool.
        counts: ``[H, B]`` bool, False from where another episode begins on.
        is_over: ``[H + 1, B]`` bool, latents of states in which no action will be taken, or of another episode.
        weight: of each step's loss, ``[H, B]``: ``rho^t / H`` shared out among the rows that count.
    """

    latents: Tensor
    encoded: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    counts: Tensor
    is_over: Tensor
    weight: Tensor


class ImplicitModel(DescribedBySettings):
    """Latent dynamics without a decoder (Hansen et al. 2024): a state is good if it foretells rewards and values.

    ::

        z = h(s)        z' = d(z, a)        r = R(z, a)        chance of an end = T(z')

    The encoder ``h`` and the dynamics ``d`` end in :class:`~mbrl_wrappers.models.implicit.layers.SimNorm`. A sequence
    is encoded once, at its first observation, and followed by the dynamics; the loss of step ``t`` has the weight
    ``rho^t`` (eq. 3, without the values, which are the agent's)::

        20 |d(z_t, a_t) - sg h(s_{t+1})|^2 + 0.1 CE(R(z_t, a_t), r_t)

    and ends are learned by a cross-entropy. ``sg`` stops the gradient. Steps behind the beginning of another episode
    don't count. Rewards are two-hot distributions of symlog rewards.

    A state is the latent ``[B, Z]``, and its own features; the model has no memory: :meth:`observe` encodes the
    observation alone. :meth:`decode` is refused, so imagined envs have to show features.

    Deviations: images have the RSSM's CNN and no random shifts; with parts of several kinds there is one trunk for each
    image and one for everything else.

    Args:
        observation_space: the environment's; images of uint8 have a CNN each, everything else together an MLP.
        action_space: the environment's.
        size: ``"0.6M"``, ``"1M"`` or ``"5M"``: the default of the next three.
        latent: ``Z``.
        units: of each hidden layer of the dynamics and the heads, which have two.
        encoder_units: of the encoder's hidden layer.
        encoder_layers: layers of the encoder, the last one included.
        simplex: entries of a group of SimNorm.
        bins: of the two-hot rewards, at least 2; fewer are cheaper.
        episodic: whether to learn when episodes terminate; a model that does not predicts no ends.
        depth: channels of a CNN's first layer.
        horizon: ``H``, steps of a sequence in a fit.
        rho: in (0, 1].
        batch_size: sequences in a batch of a fit.
        learning_rate: of a fit, by Adam; the encoder's is 0.3 times that.
        train_steps: gradient steps of a fit.
        seed: of the initial weights.
        device: where the model goes.

    Raises:
        ValueError: for an argument out of its range, or a space that is not supported.

    Example:
        >>> model = ImplicitModel.for_env("Pendulum-v1", latent=64)
        >>> model.num_features
        64
    """

    takes_images: ClassVar[bool] = True
    decodes: ClassVar[bool] = False

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        size: str = "0.6M",
        latent: int | None = None,
        units: int | None = None,
        encoder_units: int | None = None,
        encoder_layers: int = ENCODER_LAYERS,
        simplex: int = 8,
        bins: int = 101,
        episodic: bool = True,
        depth: int = 32,
        horizon: int = 3,
        rho: float = 0.5,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        train_steps: int = 1000,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space)
        check_device("device", device)
        self.settings = checked_settings(
            size, latent=latent, units=units, encoder_units=encoder_units, encoder_layers=encoder_layers,
            simplex=simplex, bins=bins, episodic=episodic, depth=depth, horizon=horizon, rho=rho,
            batch_size=batch_size, learning_rate=learning_rate, train_steps=train_steps, seed=seed,
        )  # fmt: skip
        self._scaled = ActionScale(self.action_codec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "ImplicitModel"))
            self._make_networks()
        self.to(device)

    def _make_networks(self) -> None:
        settings = self.settings
        latent, width, simplex = settings["latent"], self.action_codec.dim, settings["simplex"]
        of_encoder = form_of_layers(settings["encoder_units"])
        self.encoder = Encoder(self.obs_codec, of_encoder, settings["encoder_layers"] - 1, settings["depth"])
        self.projection = nn.Sequential(*simplicial(self.encoder.num_outputs, latent, simplex))
        form = form_of_layers(settings["units"])
        self.dynamics = nn.Sequential(*form.mlp(latent + width, 2), *simplicial(settings["units"], latent, simplex))
        self.reward_head = ScalarHead(latent + width, form, 2, settings["bins"], LARGEST_SYMLOG)
        self.termination_head = form.mlp(latent, 2, 1) if settings["episodic"] else None
        self.apply(init_weights)
        nn.init.zeros_(self.reward_head.net[-1].weight)  # type: ignore[arg-type]

    # -- the verbs of a world model ----------------------------------------------------------------------

    def begin(self, obs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the encoding ``[B, Z]`` of observations; see :meth:`WorldModel.begin`."""
        images = [self.obs_codec.image(obs, index).float() / 255 for index in range(len(self.obs_codec.images))]
        return self.projection(self.encoder(images, self.obs_codec.vector(obs).float()))

    def observe(
        self, state: Tensor, action: Tensor, obs: Tensor, is_first: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the encoding ``[B, Z]`` of the observation after a real step, the only thing that it depends on."""
        return self.begin(obs, generator)

    def step(
        self, state: Tensor, action: Tensor, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> tuple[Tensor, StepPrediction]:
        """Imagine a step; see :meth:`WorldModel.step`. Only ends are random. The uncertainty is not measured."""
        inputs = torch.cat([state, self._scaled(action)], dim=-1)
        state, reward = self.dynamics(inputs), self.reward_head.mean(self.reward_head(inputs))
        nothing = torch.zeros_like(reward)
        terminated = nothing > 0
        if self.termination_head is not None:
            chance = self.termination_head(state)[..., 0].sigmoid()
            threshold = 0.5 if deterministic else torch.rand(len(chance), generator=generator, device=chance.device)
            terminated = chance > threshold
        diverged = has_diverged(state.detach(), reward)
        return state, StepPrediction(reward, terminated, nothing, diverged)

    def features(self, state: Tensor) -> Tensor:
        """Return the latents themselves, ``[B, Z]``."""
        return state

    @property
    def num_features(self) -> int:
        """``Z``, the width of a latent."""
        return self.settings["latent"]

    def decode(self, state: Any) -> NoReturn:
        """Refuse: what a latent looks like is not learned.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "ImplicitModel has no decoder: show its features (observe='features' of imagined envs), or use an RSSM"
        )

    # -- fitting -----------------------------------------------------------------------------------------

    def unroll(self, sequences: Sequences, rho: float) -> Unrolled:
        """Encode sequences ``[B, H + 1, ...]`` at their first entries, and follow them by the dynamics.

        Args:
            sequences: real experience, on the model's device.
            rho: the weight of a step compared with the one before it.

        Raises:
            ValueError: if the widths are not the model's.
        """
        sequences.check(self.obs_codec.dim, self.action_codec.dim, least_length=2)
        obs, action = sequences.obs, self._scaled(sequences.action[:, 1:].transpose(0, 1))
        reward, terminated = sequences.reward[:, 1:].T, sequences.terminated[:, 1:].T
        counts = (~sequences.is_first[:, 1:].T).cumprod(0).bool()
        with torch.no_grad():
            encoded = self.begin(obs[:, 1:].transpose(0, 1).flatten(0, 1)).unflatten(0, action.shape[:2])
        latents = [self.begin(obs[:, 0])]
        for own in action:
            latents.append(self.dynamics(torch.cat([latents[-1], own], dim=-1)))
        over = torch.cat([sequences.terminated[:, :1].T, terminated | ~counts])
        decay = rho ** torch.arange(len(action), device=action.device, dtype=action.dtype)[:, None]
        weight = decay / len(action) * counts / counts.sum(1, keepdim=True).clamp(min=1)
        return Unrolled(torch.stack(latents), encoded, action, reward, terminated, counts, over, weight)

    def losses(self, unrolled: Unrolled) -> dict[str, Tensor]:
        """Return the weighted losses, each a scalar: consistency, rewards and, if the model is episodic, ends."""
        latents, weight = unrolled.latents, unrolled.weight
        apart = (latents[1:] - unrolled.encoded).square().mean(-1)  # [H, B]
        outputs = self.reward_head(torch.cat([latents[:-1], unrolled.action], dim=-1))
        found = {
            "consistency": (weight * apart).sum(),
            "reward": (weight * self.reward_head.loss(outputs, unrolled.reward)).sum(),
        }
        if self.termination_head is not None:
            chance, counts = self.termination_head(latents[1:])[..., 0], unrolled.counts
            ends = F.binary_cross_entropy_with_logits(chance, unrolled.terminated.float(), reduction="none")
            found["termination"] = (ends * counts).sum() / counts.sum().clamp(min=1)
        return {name: WEIGHTS[name] * loss for name, loss in found.items()}

    def parameter_groups(self, learning_rate: float, encoder_scale: float = ENCODER_LEARNING_RATE) -> list[Any]:
        """Return the parameters for an optimizer: the encoder's, with a learning rate of their own, and the others."""
        encoder = [*self.encoder.parameters(), *self.projection.parameters()]
        own = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in own]
        return [{"params": encoder, "lr": encoder_scale * learning_rate}, {"params": rest, "lr": learning_rate}]

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Train on sequences from the current weights, without values; see :meth:`WorldModel.fit`.

        Returns:
            The losses of the last batch, and ``grad_steps``.
        """
        settings = self.settings
        optimizer = torch.optim.Adam(self.parameter_groups(settings["learning_rate"]))
        for _ in range(settings["train_steps"]):
            drawn = experience.sequences(settings["batch_size"], settings["horizon"] + 1, generator)
            drawn = drawn.to(self.device)
            losses = self.losses(self.unroll(drawn, settings["rho"]))
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            nn.utils.clip_grad_norm_(self.parameters(), MAX_GRAD_NORM)
            optimizer.step()
        self.keep_starts(drawn)
        report = {f"{name}_loss": loss.item() for name, loss in losses.items()}
        return {**report, "grad_steps": float(settings["train_steps"])}

    def keep_starts(self, sequences: Sequences) -> None:
        """Keep observations in which an episode goes on, for imagined episodes to begin from."""
        goes_on = sequences.obs[:, :-1].flatten(0, 1)[~sequences.terminated[:, :-1].flatten()]
        self.start_obs = goes_on[:NUM_STARTS].detach().clone().to(self.start_obs)


def form_of_layers(units: int) -> Layers:
    """Return the form of a hidden layer of TD-MPC2: normalised, then Mish."""
    return Layers(units, Mish, True, eps=1e-5)


def simplicial(inputs: int, outputs: int, simplex: int) -> list[nn.Module]:
    """Return the last layer of the encoder and of the dynamics."""
    return [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), SimNorm(simplex)]


def init_weights(module: nn.Module) -> None:
    """Give a linear layer its initial weights."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
