"""World Models' V and M (Ha and Schmidhuber 2018): an autoencoder that sees, and a recurrent network that foresees."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_wrappers.arguments import check_device, check_number, check_whole_number
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.divergence import has_diverged
from mbrl_wrappers.models.latent import LatentModel
from mbrl_wrappers.models.mixture import Mixture
from mbrl_wrappers.models.rssm.networks import Decoder, Encoder, Layers, linear
from mbrl_wrappers.models.rssm.scalars import ScalarHead, symexp, symlog
from mbrl_wrappers.models.world_model import StepPrediction
from mbrl_wrappers.seeding import stream_seed

MAX_GRADIENT = 1.0  # of M, an entry
LAST_LEARNING_RATE = 0.01  # of M at the end of a fit, as a share of its first one
NUM_ENCODED_BATCHES = 64
WARM_UP = 0.25  # the share of a sequence that fills the memory
NUM_DEVIATIONS = 3.0  # of V's samples, by which imagined latents may lie beyond the real means
NEVER = 1.0  # a threshold that no chance exceeds


class MDNRNNState(NamedTuple):
    """The state of ``B`` episodes.

    Attributes:
        latent: what is seen now, ``z``, ``[B, Z]``.
        memory: of what was before, ``h``, ``[B, H]``.
        cell: the inner state of the memory, ``c``, ``[B, H]``.
    """

    latent: Tensor
    memory: Tensor
    cell: Tensor


class Encoded(NamedTuple):
    """Sequences whose observations are encoded, ``[B, T, ...]``; otherwise as :class:`Sequences`.

    Attributes:
        of: means and logarithms of the standard deviations of latents, ``[B, T, 2, Z]``.
        action: scaled, ``[B, T, A]``.
        reward: ``[B, T]``.
        terminated: ``[B, T]`` bool.
        is_first: ``[B, T]`` bool, where an episode begins.
    """

    of: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    is_first: Tensor

    @property
    def begins(self) -> Tensor:
        """Where nothing is remembered, ``[B, T]`` bool: episodes begin there, or the sequence itself."""
        begins = self.is_first.clone()
        begins[:, 0] = True
        return begins

    @property
    def counts(self) -> Tensor:
        """The steps that M is trained on, those that led to all entries but the first, ``[B, T - 1]`` bool.

        Steps between two episodes are none. And a sequence that begins within an episode first has to fill its memory:
        an empty one stands for an episode's beginning, where less may happen than in the midst of one.
        """
        place = torch.arange(self.is_first.shape[1], device=self.is_first.device)
        knows = (self.is_first.cumsum(1) > 0) | (place > WARM_UP * len(place))
        return knows[:, 1:] & ~self.is_first[:, 1:]


class MDNRNN(LatentModel):
    """A variational autoencoder V and a recurrent mixture density network M (Ha and Schmidhuber 2018).

    V encodes each observation on its own; M remembers, and foresees the next latent from memory and action::

        z ~ q(z | observation)     h', c' = LSTM(z, a, h, c)     p(z' | h', z) = prod_d sum_k w_dk N(z_d + m_dk, s_dk)

    An imagined step draws ``z'`` from the mixtures, whose weights are those of each dimension; reward and the chance of
    an end are read off ``z'`` and ``h'``, or off ``h'`` alone. Episodes begin with an empty memory. A policy sees ``z``
    and ``h``, with ``cell_in_features`` ``c`` too. Imagined latents and rewards stay in the range of real ones, beyond
    which M may promise anything.

    A fit trains V, with squared errors and a divergence that costs nothing below ``kl_tolerance`` nats a dimension,
    then M on the latents of sequences, drawn anew for each batch. An imagined episode ends where the chance of an end
    exceeds a threshold, at which imagined episodes with the actions of the sequences end as often as the real ones.

    Deviations: the mixtures are of changes of ``z``, which a small M learns sooner than ``z'`` itself; V is the one
    that the models of Dreamer share, whose convolutions halve images with padding; its pixels are not squashed; heads
    of reward and end have a hidden layer and see ``z'`` too, the latter unless ``done_sees_latent=False``.

    Args:
        observation_space: the environment's; images of uint8 have a CNN each, everything else together an MLP.
        action_space: the environment's.
        latent: ``Z``.
        memory: ``H``.
        components: ``K`` of each mixture.
        learned_reward: whether M predicts rewards; if not, each step pays the mean of the real ones, 1 before a fit:
            survival, as in the paper's dreams.
        depth: channels of a CNN's first layer.
        units: of hidden layers that are neither convolutions nor the memory.
        kl_tolerance: nats for each dimension of ``z``.
        done_weight: how much more a termination counts in the loss than a step after which the episode goes on.
        cell_in_features: whether a policy sees the memory's cell ``c`` too, as the paper's does in Doom.
        done_sees_latent: whether the chance of an end is read off ``z'`` and ``h'``, or off ``h'`` alone, as in the
            paper. Where ends are seen in the observation after them, ``z'`` tells all, and M need not foresee them.
        batch_size: observations in a batch of V.
        num_sequences: sequences in a batch of M.
        sequence_length: entries of each of them.
        vision_learning_rate, memory_learning_rate: of V, and of M at the start of a fit, by Adam.
        vision_steps, memory_steps: gradient steps of a fit, of V and of M.
        seed: of the initial weights.
        device: where the model goes.

    Raises:
        ValueError: for an argument out of its range, or a space that is not supported.

    Example:
        >>> model = MDNRNN.for_env("Pendulum-v1", latent=8, memory=64, units=64)
        >>> model.num_features
        72
    """

    takes_temperature: ClassVar[bool] = True
    reward_head: ScalarHead | None
    done_threshold: Tensor
    _reward_scale: Tensor
    _reward_range: Tensor
    _latent_range: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        latent: int = 32,
        memory: int = 256,
        components: int = 5,
        learned_reward: bool = True,
        depth: int = 32,
        units: int = 256,
        kl_tolerance: float = 0.5,
        done_weight: float = 10.0,
        cell_in_features: bool = False,
        done_sees_latent: bool = True,
        batch_size: int = 100,
        num_sequences: int = 100,
        sequence_length: int = 64,
        vision_learning_rate: float = 1e-4,
        memory_learning_rate: float = 1e-3,
        vision_steps: int = 2000,
        memory_steps: int = 2000,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space)
        check_device("device", device)
        self.settings: dict[str, Any] = {
            "latent": latent, "memory": memory, "components": components, "learned_reward": learned_reward,
            "depth": depth, "units": units, "kl_tolerance": kl_tolerance, "done_weight": done_weight,
            "cell_in_features": cell_in_features, "done_sees_latent": done_sees_latent, "batch_size": batch_size,
            "num_sequences": num_sequences, "sequence_length": sequence_length,
            "vision_learning_rate": vision_learning_rate, "memory_learning_rate": memory_learning_rate,
            "vision_steps": vision_steps, "memory_steps": memory_steps, "seed": seed,
        }  # fmt: skip
        self._check_settings()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "MDNRNN"))
            self._make_networks(Layers(units, nn.ReLU, layer_norm=False))
        self.register_buffer("done_threshold", torch.tensor(NEVER))
        mean = 0.0 if learned_reward else 1.0  # until there are real rewards
        self.register_buffer("_reward_scale", torch.tensor([mean, 1.0]))  # mean and standard deviation
        everything = torch.tensor([-torch.inf, torch.inf])
        self.register_buffer("_reward_range", everything.clone())
        self.register_buffer("_latent_range", everything[:, None].repeat(1, latent))
        self._make_buffers()
        self.to(device)

    def _check_settings(self) -> None:
        for name in ("latent", "memory", "components", "depth", "units", "batch_size", "num_sequences"):
            check_whole_number(name, self.settings[name])
        check_whole_number("sequence_length", self.settings["sequence_length"], 2)
        for name in ("vision_steps", "memory_steps"):
            check_whole_number(name, self.settings[name], 0)
        for name in ("learned_reward", "cell_in_features", "done_sees_latent"):
            if not isinstance(self.settings[name], bool):
                raise ValueError(f"{name} must be True or False, got {self.settings[name]!r}")
        check_number("kl_tolerance", self.settings["kl_tolerance"], 0, 1e6)
        check_number("done_weight", self.settings["done_weight"], 0, 1e6, low_is_valid=False)
        for name in ("vision_learning_rate", "memory_learning_rate"):
            check_number(name, self.settings[name], 0, 1, low_is_valid=False)

    def _make_networks(self, layers: Layers) -> None:
        latent, memory, depth = (self.settings[name] for name in ("latent", "memory", "depth"))
        self.encoder = Encoder(self.obs_codec, layers, 1, depth)
        self.posterior = linear(self.encoder.num_outputs, 2 * latent)
        self.decoder = Decoder(latent, self.obs_codec, layers, 1, depth)
        self.lstm = nn.LSTM(latent + self.action_codec.dim, memory, batch_first=True)
        self.mixture = linear(memory, 3 * latent * self.settings["components"])
        has_reward = self.settings["learned_reward"]
        self.reward_head = ScalarHead(latent + memory, layers, 1, None) if has_reward else None
        self._done_begins = 0 if self.settings["done_sees_latent"] else latent  # of what the head sees of features
        self.done_head = layers.mlp(latent + memory - self._done_begins, 1, 1)

    # -- the verbs of a world model ----------------------------------------------------------------------

    def observe(
        self,
        state: MDNRNNState,
        action: Tensor,
        obs: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> MDNRNNState:
        """Return the state after a real step, its latent a sample of V's; see :meth:`WorldModel.observe`."""
        memory, cell = (
            part.masked_fill(is_first[:, None], 0) for part in self._remember(state, self._scaled(action))
        )  # a product with 0 would keep what is not finite
        return MDNRNNState(self._drawn(self.encode(obs), generator), memory, cell)

    def step(
        self,
        state: MDNRNNState,
        action: Tensor,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        temperature: float = 1.0,
    ) -> tuple[MDNRNNState, StepPrediction]:
        """Imagine a step; see :meth:`WorldModel.step`. The uncertainty is not measured.

        Args:
            state: before the step.
            action: ``[B, A]``.
            generator: of the latents.
            deterministic: whether each latent is the mean of its likeliest component, as at temperature 0.
            temperature: see :meth:`Mixture.sample`; above 1 the dream is less certain of anything than M is, so that
                what works in it by M's mistakes alone works less often.
        """
        state = self._imagine_step(state, self._scaled(action), 0.0 if deterministic else temperature, generator)
        features = self.features(state)
        reward, done = self.outcomes(features)
        diverged = has_diverged(features, reward)
        return state, StepPrediction(reward, done > self.done_threshold, torch.zeros_like(reward), diverged)

    def features(self, state: MDNRNNState) -> Tensor:
        """Return latent and memory side by side, ``[B, Z + H]``, or with the memory's cell ``[B, Z + 2 H]``."""
        return torch.cat(state if self.settings["cell_in_features"] else state[:2], dim=-1)

    @property
    def num_features(self) -> int:
        """The width of :meth:`features`."""
        return sum(self.state_widths[: 3 if self.settings["cell_in_features"] else 2])

    @property
    def state_widths(self) -> list[int]:
        """The widths of latent, memory and its cell."""
        return [self.settings["latent"], *[self.settings["memory"]] * 2]

    def state_of(self, rows: Tensor) -> MDNRNNState:
        """Return the state of rows ``[B, Z + 2 H]``."""
        return MDNRNNState(*rows.split(self.state_widths, dim=-1))

    def decode(self, state: MDNRNNState) -> Tensor:
        """Return the observation that V sees in a latent; see :meth:`WorldModel.decode`."""
        return self._shown(*self.decoder(state.latent))

    # -- parts of steps ----------------------------------------------------------------------------------

    def encode(self, obs: Tensor) -> Tensor:
        """Return means and logarithms of standard deviations of the latents of observations, ``[N, 2, Z]``."""
        return self.posterior(self.encoder(*self._seen(obs))).unflatten(-1, (2, -1))

    def foresee(self, memory: Tensor, latent: Tensor) -> Mixture:
        """Return the mixtures of the next latents, ``[..., Z, K]``.

        Args:
            memory: after the step, ``[..., H]``.
            latent: before the step, ``[..., Z]``.
        """
        change = Mixture.of(self.mixture(memory), self.settings["components"])
        return change._replace(mean=change.mean + latent[..., None])

    def outcomes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return rewards of the steps that led to states of features ``[..., F]``, and the chances of an end there."""
        features = features[..., : sum(self.state_widths[:2])]  # without the cell
        done = self._done_logit(features).sigmoid()
        mean, std = self._reward_scale
        if self.reward_head is None:
            return mean.expand_as(done), done
        return (mean + std * self.reward_head.mean(self.reward_head(features))).clamp(*self._reward_range), done

    def _done_logit(self, features: Tensor) -> Tensor:
        return self.done_head(features[..., self._done_begins :])[..., 0]

    def _imagine_step(
        self, state: MDNRNNState, action: Tensor, temperature: float, generator: torch.Generator | None
    ) -> MDNRNNState:
        """Return the state after a step with scaled actions ``[B, A]``."""
        memory, cell = self._remember(state, action)
        latent = self.foresee(memory, state.latent).sample(temperature, generator)
        return MDNRNNState(latent.clamp(*self._latent_range), memory, cell)

    def _remember(self, state: MDNRNNState, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return memory and cell ``[B, H]`` after a step with scaled actions ``[B, A]``."""
        given = torch.cat([state.latent, action], dim=-1)[:, None]
        _, (memory, cell) = self.lstm(given, (state.memory[None].contiguous(), state.cell[None].contiguous()))
        return memory[0], cell[0]

    def _drawn(self, of: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw latents ``[..., Z]`` of V's distributions ``[..., 2, Z]``."""
        mean, log_std = of.unbind(-2)
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return torch.addcmul(mean, log_std.exp(), noise)

    def _squashed(self, vector: Tensor) -> Tensor:
        return symlog(vector)

    def _stretched(self, vector: Tensor) -> Tensor:
        return symexp(vector)

    # -- V -----------------------------------------------------------------------------------------------

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Train V, then M, from the current weights; see :meth:`WorldModel.fit`.

        Returns:
            The losses of the last batches.
        """
        return {**self.fit_vision(experience, generator), **self.fit_memory(experience, generator)}

    def fit_vision(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Train V on single observations; see :meth:`fit`."""
        own, log = self._own_generator(generator), {}
        networks = (self.encoder, self.posterior, self.decoder)
        parameters = [parameter for network in networks for parameter in network.parameters()]
        optimizer = torch.optim.Adam(parameters, self.settings["vision_learning_rate"])
        for _ in range(self.settings["vision_steps"]):
            drawn = experience.sequences(self.settings["batch_size"], 1, generator)
            drawn.check(self.obs_codec.dim, self.action_codec.dim)
            log = self.vision_loss(drawn.obs[:, 0].to(self.device), own)
            _descend(log["observation"] + log["divergence"], optimizer)
        return _numbers(log)

    def vision_loss(self, obs: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return the losses of V for observations ``[N, D]``: squared errors, and the divergence from N(0, 1)."""
        images, vector = self._seen(obs)
        of = self.posterior(self.encoder(images, vector)).unflatten(-1, (2, -1))
        own_images, own_vector = self.decoder(self._drawn(of, generator))
        pairs = zip([*own_images, own_vector], [*images, vector], strict=True)
        error = torch.stack([F.mse_loss(own, real, reduction="sum") for own, real in pairs]).sum() / len(obs)
        free = self.settings["kl_tolerance"] * self.settings["latent"]
        return {"observation": error, "divergence": divergence(of).clamp(min=free).mean()}

    # -- M -----------------------------------------------------------------------------------------------

    def fit_memory(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Train M on sequences, given V, and keep the states in which their episodes begin; see :meth:`fit`."""
        own, log = self._own_generator(generator), {}
        count, steps = self.settings["num_sequences"], self.settings["memory_steps"]
        pool = self.encoded(experience, min(max(steps, 1), NUM_ENCODED_BATCHES) * count, generator)
        self._note_ranges(pool)
        heads: list[nn.Module] = [self.lstm, self.mixture, self.done_head]
        heads += [] if self.reward_head is None else [self.reward_head]
        parameters = [parameter for head in heads for parameter in head.parameters()]
        rate = self.settings["memory_learning_rate"]
        optimizer = torch.optim.Adam(parameters, rate)
        for step in range(steps):
            rows = torch.randint(len(pool.reward), (count,), generator=own, device=self.device)
            log = self.memory_loss(Encoded(*(part[rows] for part in pool)), own)
            optimizer.param_groups[0]["lr"] = rate * LAST_LEARNING_RATE ** (step / steps)
            _descend(torch.stack(list(log.values())).sum(), optimizer, parameters)
        self._keep_first_states(pool, own)
        self._calibrate(pool, own)
        return {**_numbers(log), "done_threshold": float(self.done_threshold)}

    @torch.no_grad()
    def encoded(self, experience: Experience, count: int, generator: torch.Generator | None = None) -> Encoded:
        """Draw sequences and encode them, a batch at a time.

        Args:
            experience: of the model's spaces.
            count: ``B``, the number of sequences.
            generator: draws the sequences.
        """
        pieces = []
        for start in range(0, count, self.settings["num_sequences"]):
            number = min(self.settings["num_sequences"], count - start)
            drawn = experience.sequences(number, self.settings["sequence_length"], generator)
            drawn.check(self.obs_codec.dim, self.action_codec.dim)
            real = drawn.to(self.device)
            of = self.encode(real.obs.flatten(0, 1)).unflatten(0, real.reward.shape)
            pieces.append(Encoded(of, self._scaled(real.action), real.reward, real.terminated, real.is_first))
        return Encoded(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))

    def memory_loss(self, real: Encoded, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return the losses of M for encoded sequences: latents a dimension, rewards, and ends.

        The steps that count are those of :attr:`Encoded.counts`.
        """
        latent, counts = self._drawn(real.of, generator), real.counts
        memory, _ = self._follow(latent, real.action, real.begins)
        mixture = -self.foresee(memory, latent[:, :-1]).log_prob(latent[:, 1:]).mean(-1)  # [B, T - 1]
        features = torch.cat([latent[:, 1:], memory], dim=-1)
        ended = real.terminated[:, 1:].float()
        done = F.binary_cross_entropy_with_logits(
            self._done_logit(features), ended, 1 + (self.settings["done_weight"] - 1) * ended, reduction="none"
        )
        losses = {"mixture": mixture, "done": done}
        if self.reward_head is not None:
            mean, std = self._reward_scale
            losses["reward"] = self.reward_head.loss(self.reward_head(features), (real.reward[:, 1:] - mean) / std)
        num = counts.sum().clamp(min=1)
        return {name: (loss * counts).sum() / num for name, loss in losses.items()}

    def _follow(self, latent: Tensor, action: Tensor, begins: Tensor) -> tuple[Tensor, MDNRNNState]:
        """Follow sequences from an empty memory, which is emptied again where episodes begin.

        Args:
            latent: ``[B, T, Z]``.
            action: scaled, the one that led to each entry, ``[B, T, A]``.
            begins: ``[B, T]`` bool.

        Returns:
            The memories of all entries but the first, ``[B, T - 1, H]``, those where an episode begins excepted; and
            the last state.
        """
        given = torch.cat([latent[:, :-1], action[:, 1:]], dim=-1)
        length, goes_on = given.shape[1], (~begins).float()[..., None]
        edges = [0, *(t for t in range(1, length) if bool(begins[:, t].any())), length]
        state, memories = self._empty(len(given)), []
        memory, cell = state.memory[None], state.cell[None]
        for start, stop in itertools.pairwise(edges):
            memory, cell = memory * goes_on[:, start], cell * goes_on[:, start]
            out, (memory, cell) = self.lstm(given[:, start:stop], (memory, cell))
            memories.append(out)
        return torch.cat(memories, dim=1), MDNRNNState(latent[:, -1], memory[0], cell[0])

    def _note_ranges(self, real: Encoded) -> None:
        """Note mean and deviation of rewards, by which the head's are scaled, and the ranges of rewards and latents."""
        rewards = real.reward[~real.is_first]
        if len(rewards) > 1:
            mean, std = rewards.mean(), rewards.std()
            self._reward_scale.copy_(torch.stack([mean, std if std > 0 else torch.ones_like(std)]))
            self._reward_range.copy_(torch.stack(rewards.aminmax()))
        mean, log_std = real.of.flatten(0, 1).unbind(1)
        room = NUM_DEVIATIONS * log_std.exp()
        self._latent_range.copy_(torch.stack([(mean - room).amin(0), (mean + room).amax(0)]))

    def _keep_first_states(self, real: Encoded, generator: torch.Generator) -> None:
        """Keep the states in which episodes begin; all, without a memory, where the sequences hold no beginning."""
        chosen = real.of[real.is_first] if real.is_first.any() else real.of.flatten(0, 1)
        latent = self._drawn(chosen, generator)
        self.keep_starts(F.pad(latent, (0, 2 * self.settings["memory"])))

    @torch.no_grad()
    def _calibrate(self, pool: Encoded, generator: torch.Generator) -> None:
        """Put the threshold where imagined steps are ends as often as the real ones, whose actions they take."""
        begin = round(WARM_UP * pool.reward.shape[1])
        is_step = ~pool.is_first[:, begin + 1 :]
        share = float((pool.terminated[:, begin + 1 :] & is_step).sum() / is_step.sum().clamp(min=1))
        if share in (0, 1):
            self.done_threshold.fill_(NEVER if share == 0 else -NEVER)
            return
        pieces = [
            self._chances(Encoded(*parts), begin, generator)
            for parts in zip(*(part.split(self.settings["num_sequences"]) for part in pool), strict=True)
        ]
        highest = torch.cat(pieces).cummax(1).values  # [B, S], of the steps up to each
        values = highest.flatten().unique()

        def imagined_share(threshold: Tensor) -> float:
            ends = (highest[:, -1] > threshold).sum()
            return float(ends / (ends + (highest <= threshold).sum()))  # an episode's last step is one too

        place = bisect.bisect_left(range(len(values)), -share, key=lambda index: -imagined_share(values[index]))
        self.done_threshold.copy_(values[min(place, len(values) - 1)])

    def _chances(self, real: Encoded, begin: int, generator: torch.Generator) -> Tensor:
        """Imagine how sequences go on after entry ``begin``; return the chances of an end, ``[B, T - begin - 1]``."""
        latent = self._drawn(real.of[:, : begin + 1], generator)
        state = self._empty(len(latent))._replace(latent=latent[:, 0])
        if begin:
            _, state = self._follow(latent, real.action[:, : begin + 1], real.begins[:, : begin + 1])
        chances = []
        for action in real.action[:, begin + 1 :].unbind(1):
            state = self._imagine_step(state, action, 1.0, generator)
            chances.append(self.outcomes(self.features(state))[1])
        return torch.stack(chances, 1)

    def _own_generator(self, generator: torch.Generator | None) -> torch.Generator:
        """Return a generator on the model's device, seeded by one on the CPU."""
        own = torch.Generator(self.device)
        own.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        return own


def divergence(of: Tensor) -> Tensor:
    """Return ``KL(N(m, s) || N(0, 1))`` of means and logarithms of standard deviations ``[..., 2, Z]``, ``[...]``."""
    mean, log_std = of.unbind(-2)
    return (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(-1)


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer, clipped: Iterable[Tensor] = ()) -> None:
    """Take a step down a loss; each entry of the gradient of the ``clipped`` parameters is cut off."""
    optimizer.zero_grad()
    loss.backward()
    clipped = list(clipped)
    if clipped:
        nn.utils.clip_grad_value_(clipped, MAX_GRADIENT)
    optimizer.step()


def _numbers(log: dict[str, Tensor]) -> dict[str, float]:
    return {f"{name}_loss": float(value.detach()) for name, value in log.items()}
