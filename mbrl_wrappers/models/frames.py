"""I2A's environment model: the next frame as a category for each pixel."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.arguments import check_device, check_number, check_whole_number
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.described import DescribedBySettings
from mbrl_wrappers.models.fit import MAX_HOLDOUT_ROWS, holdout_mask, spread_rows
from mbrl_wrappers.models.frame_network import FrameNetwork, FrameOutputs
from mbrl_wrappers.types import Prediction, Transitions

MOST_KINDS = 255
"""Kinds of pixels that a model can tell apart: one byte, one value of which is for all others."""
_MOST_CHANNELS = 7  # bytes that an int64 holds without its sign
_PIECE = 1024  # rows that are evaluated at once
_LEAST_GAIN = 0.02
_REWARD_DIGITS = 4


class _FrameRows(NamedTuple):
    """Steps as the network is fitted on them.

    Attributes:
        frame: uint8 ``[N, H, W]``, the kind of each pixel before the step.
        action: ``[N, A]``.
        next_frame: uint8 ``[N, H, W]``, after the step.
        reward: ``[N]`` int64, an index into the different rewards.
        end: ``[N]`` bool.
    """

    frame: Tensor
    action: Tensor
    next_frame: Tensor
    reward: Tensor
    end: Tensor

    def at(self, index: Tensor) -> _FrameRows:
        return _FrameRows(*(part[index] for part in self))


class FrameDynamics(DescribedBySettings, DynamicsModel):
    """The environment model of I2A (Weber et al. 2017, arXiv:1707.06203), for frames of few kinds of pixels.

    The next frame is a category for each pixel, the reward a category among those that were seen, the end a
    probability; see :class:`~mbrl_wrappers.models.frame_network.FrameNetwork` for what deviates from the paper's
    network. A kind of pixel is a combination of channels, such as a box on a target; a fit finds the kinds and the
    rewards in the data. A deterministic prediction takes the likeliest of each, for each pixel apart: what may go to
    one of two places, as a ghost does whose direction a frame does not show, is likely in neither, and vanishes. Its
    uncertainty is the mean, over the pixels, of the probability that another kind is there.

    Args:
        observation_space: a frame of uint8 with up to 7 channels, such as those of :mod:`mbrl_wrappers.tasks.grids`.
        action_space: Discrete.
        channels: of the convolutions.
        blocks: of two convolutions each.
        pooling: whether blocks pool and inject, as the paper's do; not needed for rules that only look at the cells
            around a pixel, as Sokoban's.
        most_kinds: most kinds of pixels that a fit may find.
        most_rewards: most different rewards that a fit may find.
        learning_rate: Adam's.
        batch_size: rows of a gradient step.
        rare_share: share of a batch that is drawn from rows with another reward than the commonest, for games in which
            rewards and ends are rare; their chances are then overestimated.
        holdout_ratio: share of the rows that is never trained on.
        patience: a fit stops when the hold-out loss has not fallen by 2% for so many epochs.
        min_epoch_steps: least gradient steps of an epoch.
        max_steps: most gradient steps of one fit; None for no limit.
        seed: of the initial weights.
        device: of the model's tensors.

    Raises:
        ValueError: for an argument out of its range or other spaces.
    """

    takes_images: ClassVar[bool] = True

    codes: Tensor
    num_kinds: Tensor
    rewards: Tensor
    num_rewards: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        channels: int = 32,
        blocks: int = 2,
        pooling: bool = True,
        most_kinds: int = 32,
        most_rewards: int = 32,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        rare_share: float = 0.0,
        holdout_ratio: float = 0.1,
        patience: int = 3,
        min_epoch_steps: int = 100,
        max_steps: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space)
        check_device("device", device)
        self.settings: dict[str, Any] = {
            "channels": channels,
            "blocks": blocks,
            "pooling": pooling,
            "most_kinds": most_kinds,
            "most_rewards": most_rewards,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "rare_share": rare_share,
            "holdout_ratio": holdout_ratio,
            "patience": patience,
            "min_epoch_steps": min_epoch_steps,
            "max_steps": max_steps,
            "seed": seed,
        }
        _check_settings(self.settings)
        if self.obs_dtype != torch.uint8 or len(self.obs_codec.images) != 1:
            raise ValueError(f"observation_space must be one frame of uint8, got {observation_space}")
        (self._image,) = self.obs_codec.images
        if self._image.channels > _MOST_CHANNELS:
            raise ValueError(f"observation_space must have up to {_MOST_CHANNELS} channels, got {observation_space}")
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"action_space must be Discrete, got {action_space}")
        self.network = FrameNetwork(most_kinds, self.action_codec.dim, most_rewards, channels, blocks, pooling, seed)
        # A kind's code is its channels as the bytes of a number.
        self.register_buffer("codes", torch.full((most_kinds,), -1, dtype=torch.int64))
        self.register_buffer("num_kinds", torch.zeros((), dtype=torch.int64))
        self.register_buffer("rewards", torch.zeros(most_rewards))
        self.register_buffer("num_rewards", torch.zeros((), dtype=torch.int64))
        self.to(device)

    # -- one step --------------------------------------------------------------------------------------------

    def outputs(self, obs: Tensor, action: Tensor) -> FrameOutputs:
        """Return the logits of a step: of the kinds that were seen, and of rewards, minus infinity for unseen ones.

        Args:
            obs: ``[B, D]``, frames of uint8.
            action: ``[B, A]``.
        """
        return self._masked(self.network(self._one_hot(self._kinds(obs)), action.to(self.dtype)))

    @torch.no_grad()
    def predict(
        self,
        obs: Tensor,
        action: Tensor,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Prediction:
        """Predict one step; see :meth:`DynamicsModel.predict`. No gradient passes through frames.

        Raises:
            ValueError: for another width, or if the model was never fitted.
        """
        if not self.num_kinds:
            raise ValueError("the model must be fitted before it predicts; call fit")
        batch = obs.shape[:-1]
        found = self.outputs(self._flatten(obs, "obs").to(torch.uint8), self._flatten(action, "action"))
        chances = found.pixels.softmax(1)
        most, kinds = chances.max(1)
        if not deterministic:
            kinds = _choose(chances.movedim(1, -1), generator, deterministic)
        reward = self.rewards[_choose(found.reward.softmax(-1), generator, deterministic)]
        end = found.end.sigmoid()
        drawn = 0.5 if deterministic else torch.rand(end.shape, generator=generator, device=end.device)
        return Prediction(
            self._frames(kinds).reshape(obs.shape),
            reward.reshape(batch),
            (end > drawn).reshape(batch),
            (1 - most).mean((-2, -1)).reshape(batch),
        )

    def _masked(self, found: FrameOutputs) -> FrameOutputs:
        no_reward = torch.arange(len(self.rewards), device=self.device) >= self.num_rewards
        return found._replace(reward=found.reward.masked_fill(no_reward, -torch.inf))

    # -- frames and kinds ------------------------------------------------------------------------------------

    def _pixel_codes(self, obs: Tensor) -> Tensor:
        """Return the codes of the pixels ``[B, H, W]`` of frames ``[B, D]``."""
        shifts = 8 * torch.arange(self._image.channels, device=obs.device)
        return (self._image.take(obs).long() << shifts[:, None, None]).sum(-3)

    def _kinds(self, obs: Tensor) -> Tensor:
        """Return the kinds of the pixels, uint8 ``[B, H, W]``; 255 for one that was never seen."""
        is_kind = self._pixel_codes(obs)[..., None] == self.codes[: int(self.num_kinds)]
        return torch.where(is_kind.any(-1), is_kind.byte().argmax(-1), 255).byte()

    def _one_hot(self, kinds: Tensor) -> Tensor:
        """Return ``[B, K, H, W]`` of kinds ``[B, H, W]``, ``K`` of which were seen; zeros for one that never was."""
        places = torch.arange(int(self.num_kinds), device=kinds.device, dtype=torch.uint8)
        return (kinds[..., None] == places).to(self.dtype).movedim(-1, 1)  # the channels are last in memory

    def _frames(self, kinds: Tensor) -> Tensor:
        """Return the frames ``[B, D]`` of kinds ``[B, H, W]``."""
        shifts = 8 * torch.arange(self._image.channels, device=kinds.device)
        pixels = (self.codes[kinds][:, None] >> shifts[:, None, None]) & 255
        return self._image.lay(pixels.byte())

    # -- fitting ---------------------------------------------------------------------------------------------

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Train on all rows, from the current weights, until the hold-out loss no longer falls; keep the best weights.

        The loss is the negative log-likelihood of a step: summed over the pixels, plus the reward's and the end's.

        Returns:
            ``holdout_error``, that loss on the hold-out; ``pixel_accuracy`` and ``reward_accuracy`` of the likeliest
            step there; ``grad_steps``, ``rows`` and ``pixel_kinds``.

        Raises:
            ValueError: as :meth:`WorldModel.fit`, and for more kinds of pixels or rewards than the model has room for.
        """
        transitions = experience.rows().to(self.device)
        self._check_transitions(transitions)
        self._find_kinds(transitions)
        self._find_rewards(transitions.reward)
        held = holdout_mask(transitions.key, self.settings["holdout_ratio"])
        if held.all() or not held.any():  # too few rows to spare one
            train, holdout = transitions, transitions
        else:
            train, holdout = transitions[~held], transitions[spread_rows(held, MAX_HOLDOUT_ROWS)]
        steps = self._descend(self._laid_out(train), self._laid_out(holdout), generator)
        self._keep_start_states(train.obs, generator)
        return {**self._score(self._laid_out(holdout)), "grad_steps": float(steps), "rows": float(len(transitions)),
                "pixel_kinds": float(self.num_kinds)}  # fmt: skip

    def check_frames(self, obs: Tensor) -> None:
        """Refuse frames ``[N, D]`` that have too many kinds of pixels.

        Raises:
            ValueError: naming ``most_kinds``, or saying that no such model suits them.
        """
        self._new_kinds(obs)

    def _find_kinds(self, transitions: Transitions) -> None:
        """Take note of kinds of pixels that were not known."""
        known, new = int(self.num_kinds), self._new_kinds(transitions.obs, transitions.next_obs)
        self.codes[known : known + len(new)] = new
        self.num_kinds += len(new)

    def _new_kinds(self, *frames: Tensor) -> Tensor:
        """Return the codes of kinds of pixels in frames ``[N, D]`` that are not known, if there is room for them."""
        pieces = [piece for part in frames for piece in part.split(_PIECE)]
        found = torch.cat([self._pixel_codes(piece).unique() for piece in pieces]).unique()
        known = int(self.num_kinds)
        new = found[~torch.isin(found, self.codes[:known])]
        if known + len(new) > MOST_KINDS:
            raise ValueError(
                f"frames must have at most {MOST_KINDS} kinds of pixels, as drawings of a few colours do, got "
                f"{known + len(new)}; take an RSSM or an MDNRNN for others"
            )
        if known + len(new) > len(self.codes):
            raise ValueError(f"most_kinds must be at least {known + len(new)} for these frames, got {len(self.codes)}")
        return new

    def _find_rewards(self, reward: Tensor) -> None:
        """Take note of rewards that were not known."""
        found = reward.to(self.rewards).round(decimals=_REWARD_DIGITS).unique()
        known = int(self.num_rewards)
        new = found[~torch.isin(found, self.rewards[:known])]
        if known + len(new) > len(self.rewards):
            raise ValueError(
                f"most_rewards must be at least {known + len(new)} for these steps, got {len(self.rewards)}"
            )
        self.rewards[known : known + len(new)] = new
        self.num_rewards += len(new)

    def _laid_out(self, transitions: Transitions) -> _FrameRows:
        def kinds(frames: Tensor) -> Tensor:
            return torch.cat([self._kinds(piece) for piece in frames.split(_PIECE)])

        known = self.rewards[: self.num_rewards]
        reward = (transitions.reward.to(known)[:, None] - known).abs().argmin(-1)
        t = transitions
        return _FrameRows(kinds(t.obs), t.action.to(self.dtype), kinds(t.next_obs), reward, t.terminated)

    def _run(self, rows: _FrameRows) -> FrameOutputs:
        return self._masked(self.network(self._one_hot(rows.frame), rows.action))

    def _descend(self, train: _FrameRows, holdout: _FrameRows, generator: torch.Generator | None) -> int:
        """Take gradient steps; return their number."""
        settings, rows, batch_size = self.settings, len(train.end), self.settings["batch_size"]
        (rare,) = (train.reward.cpu() != train.reward.cpu().mode().values).nonzero(as_tuple=True)
        num_rare = round(settings["rare_share"] * batch_size) if len(rare) else 0
        optimizer = torch.optim.Adam(self.network.parameters(), lr=settings["learning_rate"], fused=True)
        epoch = max(-(-rows // batch_size), settings["min_epoch_steps"])
        best, state, stale, steps = self._score(holdout)["holdout_error"], self._weights(), 0, 0
        while stale < settings["patience"] and (settings["max_steps"] is None or steps < settings["max_steps"]):
            index = torch.randint(rows, (batch_size,), generator=generator)
            if num_rare:
                index[:num_rare] = rare[torch.randint(len(rare), (num_rare,), generator=generator)]
            optimizer.zero_grad(set_to_none=True)
            batch = train.at(index.to(self.device))
            _loss(self._run(batch), batch).backward()
            optimizer.step()
            steps += 1
            if steps % epoch and steps != settings["max_steps"]:
                continue
            error = self._score(holdout)["holdout_error"]
            if self.verbose:
                print(f"fitting frames on {rows:,} rows: {steps:,} gradient steps, hold-out error {error:.4g}")
            stale = 0 if error < best * (1 - _LEAST_GAIN) else stale + 1
            if error < best:
                best, state = error, self._weights()
        self.network.load_state_dict(state)
        return steps

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    @torch.no_grad()
    def _score(self, rows: _FrameRows) -> dict[str, float]:
        """Return the loss and the shares of pixels and rewards that the likeliest step gets right."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        for index in torch.arange(len(rows.end), device=self.device).split(_PIECE):
            part = rows.at(index)
            found = self._run(part)
            right = (found.pixels.argmax(1) == part.next_frame).double().mean((-2, -1)).sum()
            paid = (found.reward.argmax(-1) == part.reward).double().sum()
            totals += torch.stack([_loss(found, part).double() * len(index), right, paid])
        loss, right, paid = (totals / len(rows.end)).tolist()
        return {"holdout_error": loss, "pixel_accuracy": right, "reward_accuracy": paid}


def _loss(found: FrameOutputs, rows: _FrameRows) -> Tensor:
    """Return the mean negative log-likelihood of the steps."""
    pixels = F.cross_entropy(found.pixels, rows.next_frame.long(), reduction="sum") / len(rows.end)
    end = F.binary_cross_entropy_with_logits(found.end, rows.end.to(found.end))
    return pixels + F.cross_entropy(found.reward, rows.reward) + end


def _choose(chances: Tensor, generator: torch.Generator | None, deterministic: bool) -> Tensor:
    """Return the likeliest of ``[..., N]`` categories or a drawn one, ``[...]``."""
    if deterministic:
        return chances.argmax(-1)
    return torch.multinomial(chances.flatten(0, -2), 1, generator=generator).reshape(chances.shape[:-1])


def _check_settings(settings: dict[str, Any]) -> None:
    for name in ("channels", "blocks", "most_kinds", "most_rewards", "batch_size", "patience", "min_epoch_steps"):
        check_whole_number(name, settings[name])
    check_whole_number("seed", settings["seed"], 0)
    if settings["most_kinds"] > MOST_KINDS:
        raise ValueError(f"most_kinds must be at most {MOST_KINDS}, got {settings['most_kinds']}")
    if settings["max_steps"] is not None:
        check_whole_number("max_steps", settings["max_steps"])
    check_number("learning_rate", settings["learning_rate"], 0, 1, low_is_valid=False)
    check_number("rare_share", settings["rare_share"], 0, 1)
    check_number("holdout_ratio", settings["holdout_ratio"], 0, 0.9)
