"""A dynamics model as a Gymnasium environment, over one torch core that every facade shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.envs.rendering import check_renderable, frames_of, set_state_from_obs
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.members import ensemble_of
from mbrl_wrappers.models.trust import Trust
from mbrl_wrappers.models.uncertainty import resolve_measure
from mbrl_wrappers.models.world_model import StepPrediction, WorldModel, put, select
from mbrl_wrappers.seeding import stream_seed

Observe = Literal["observation", "features"]
StartFunction = Callable[[int, torch.Generator], Tensor]
StartStates = Tensor | np.ndarray | dict[str, Any] | tuple[Any, ...] | StartFunction


@dataclass(frozen=True)
class ImaginedStep:
    """The result of a step of ``B`` imagined episodes.

    Attributes:
        shown: the agent's observation after the step, ``[B, D]`` or ``[B, F]``; see :attr:`ImaginedEpisodes.shown`.
        reward: ``[B]``, with the penalty already subtracted.
        terminated: ``[B]`` bool, termination as the model predicts it or as its given rule decides.
        truncated: ``[B]`` bool, the horizon is reached, the model diverged, or the trust truncates masked steps.
        uncertainty: ``[B]``, see :class:`~mbrl_wrappers.types.Prediction`.
        diverged: ``[B]`` bool, the prediction was not finite: the observation is the last finite one,
            the reward 0, and the episode is truncated.
        masked: ``[B]`` bool, the model is not trusted with this step; see :class:`~mbrl_wrappers.models.trust.Trust`.
        penalty: ``[B]``, subtracted from the reward for the step's uncertainty.
    """

    shown: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    uncertainty: Tensor
    diverged: Tensor
    masked: Tensor
    penalty: Tensor


class ImaginedEpisodes:
    """``B`` episodes running side by side inside a model: the core under every imagined env.

    Args:
        dynamics: the model, with a memory or without.
        num_envs: ``B``.
        start_obs: where episodes start: a batch of observations (flat ``[S, D]`` tensor, or any batch
            of the observation space), or a function ``(count, generator) -> [count, D]``. Default: the
            real states that the model's latest fit kept, with their memory if the model keeps it; a later refit
            changes them.
        horizon: steps after which an episode is truncated.
        deterministic: whether the model predicts its mean instead of a sample.
        observe: the agent's observations: ``"observation"`` for the environment's, decoded from the model's state, or
            ``"features"`` for the model's features, which :class:`~mbrl_wrappers.wrappers.LatentObservation` shows in
            the real environment.
        temperature: of the model's samples, for a model that takes one; default: the model's own, 1.

    Attributes:
        state: the model's state in all episodes, ``[B, ...]``.
        trust: how far the model is trusted; see :meth:`set_trust`.

    Raises:
        ValueError: if ``num_envs`` or ``horizon`` is below 1, ``observe`` is unknown, there is no start state, or a
            start state is not finite or has another shape; for a temperature below 0, or a model that takes none.
    """

    def __init__(
        self,
        dynamics: WorldModel,
        num_envs: int,
        *,
        start_obs: StartStates | None = None,
        horizon: int = 100,
        deterministic: bool = False,
        observe: Observe = "observation",
        temperature: float | None = None,
    ) -> None:
        if observe not in get_args(Observe):
            raise ValueError(f"observe must be one of {get_args(Observe)}, got {observe!r}")
        check_whole_number("num_envs", num_envs)
        check_whole_number("horizon", horizon)
        if temperature is not None:
            check_number("temperature", temperature, 0, 1e6)
            if not dynamics.takes_temperature:
                raise ValueError(f"temperature must be None for a {type(dynamics).__name__}, got {temperature}")
        self.dynamics = dynamics
        self.horizon = horizon
        self.deterministic = deterministic
        self.observe = observe
        self._step_arguments: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
        self.trust: Trust | None = None
        # None: the model draws a start state when an episode starts.
        self._starts: Tensor | StartFunction | None = start_obs if callable(start_obs) else None
        if start_obs is not None and not callable(start_obs):
            self._starts = self._start_states(start_obs)
        if start_obs is None and dynamics.num_starts == 0:
            raise ValueError("start_obs must be given for a model that was never fitted, got None")
        self.generator = torch.Generator(dynamics.device)
        nowhere = torch.zeros(num_envs, dynamics.obs_codec.dim, dtype=dynamics.obs_dtype, device=dynamics.device)
        self.state = dynamics.begin(nowhere, self.generator)
        self.steps = torch.zeros(num_envs, dtype=torch.long, device=dynamics.device)

    @property
    @torch.no_grad()
    def obs(self) -> Tensor:
        """The observations of all episodes, ``[B, D]``; setting them moves the episodes there and keeps step counts."""
        return self.dynamics.decode(self.state)

    @obs.setter
    def obs(self, obs: Tensor) -> None:
        self.state = self.dynamics.begin(obs, self.generator)

    @property
    @torch.no_grad()
    def shown(self) -> Tensor:
        """The agent's observations: those of the environment ``[B, D]``, or the model's features ``[B, F]``."""
        return self.obs if self.observe == "observation" else self.dynamics.features(self.state)

    @property
    def observation_space(self) -> spaces.Space:
        """The observation space of an agent in an episode."""
        return self.dynamics.observation_space if self.observe == "observation" else feature_space(self.dynamics)

    def decode_numpy(self, shown: Tensor) -> Any:
        """Return rows of :attr:`shown` as a batch of the observation space."""
        if self.observe == "observation":
            return self.dynamics.obs_codec.decode_numpy(shown)
        return shown.detach().cpu().numpy()

    def _begun(self, count: int) -> Any:
        """Return the states ``[count, ...]`` in which episodes start."""
        model, starts = self.dynamics, self._starts
        if starts is None:
            return model.draw_starts(count, self.generator)
        if callable(starts):
            obs = starts(count, self.generator)
        else:
            obs = starts[torch.randint(len(starts), (count,), generator=self.generator, device=starts.device)]
        if obs.shape != (count, model.obs_codec.dim) or not torch.isfinite(obs).all():
            raise ValueError(
                f"start_obs must return finite observations of shape {(count, model.obs_codec.dim)}, "
                f"got shape {tuple(obs.shape)}: {obs}"
            )
        obs = obs.detach().to(model.device)
        if model.obs_dtype.is_floating_point:  # for uint8, `project` rounds and clips first
            obs = obs.to(model.obs_dtype)
        return model.begin(model.obs_codec.project(obs).to(model.obs_dtype), self.generator)

    def _start_states(self, start_obs: StartStates) -> Tensor:
        """Return the given observations as a copy ``[S, D]`` on the model's device."""
        if isinstance(start_obs, Tensor) and start_obs.shape[1:] == (self.dynamics.obs_codec.dim,):
            states = start_obs.detach().to(self.dynamics.device, copy=True)
        else:
            states = self.dynamics.obs_codec.encode(start_obs, self.dynamics.device, self.dynamics.obs_dtype).clone()
        if len(states) == 0:
            raise ValueError("start_obs must hold at least one observation, got 0")
        if not torch.isfinite(states).all():
            bad = int((~torch.isfinite(states)).any(1).nonzero()[0])
            raise ValueError(f"start_obs must be finite, got {states[bad].tolist()} in row {bad}")
        return states

    def set_trust(self, trust: Trust | None) -> None:
        """Say how far the model is trusted from here on; None: fully.

        Raises:
            ValueError: if the model has a memory or too few members to measure its uncertainty, if the episodes are
                deterministic, or if the trust keeps a share of each batch and there is only one episode.
        """
        self.check_trust(trust)
        self.trust = trust

    def check_trust(self, trust: Trust | None) -> None:
        """Refuse a trust that does not fit the model; see :meth:`set_trust`."""
        if trust is not None:
            if not isinstance(self.dynamics, DynamicsModel):
                raise ValueError(f"trust must be None for a {type(self.dynamics).__name__}, which measures no step")
            ensemble_of(self.dynamics)
            if self.deterministic:
                raise ValueError("deterministic must be False where steps are masked, got True")
            if trust.threshold is None and len(self.steps) == 1:
                raise ValueError(
                    "threshold must be given for a single episode, of which no share is the most certain, got None"
                )

    @contextmanager
    def trusting(self, trust: Trust) -> Iterator[None]:
        """Use another trust while the context lasts."""
        before, self.trust = self.trust, trust
        try:
            yield
        finally:
            self.trust = before

    def seed(self, seed: int | None) -> None:
        """Make everything that follows a function of ``seed``; at random if it is None."""
        self.generator.manual_seed(stream_seed(seed, "imagined episodes"))

    def reset(self, rows: Tensor | None = None) -> Tensor:
        """Start episodes anew (bool mask ``[B]``; default: all) and return :attr:`shown`."""
        rows = torch.ones_like(self.steps, dtype=torch.bool) if rows is None else rows
        count = int(rows.sum())
        if count:
            self.state = put(self.state, rows, self._begun(count))
        self.steps = torch.where(rows, 0, self.steps)
        return self.shown

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the episodes only, those where a mask ``[B]`` is True."""
        self.state = tree_map(lambda part: part[rows], self.state)
        self.steps = self.steps[rows]

    @torch.no_grad()
    def step(self, action: Tensor, counts: Tensor | None = None) -> ImaginedStep:
        """Take one step in every episode; none is reset here.

        Args:
            action: ``[B, A]`` flat actions in the env's units.
            counts: ``[B]`` bool, the episodes that are running, among which the trusted share is chosen; default: all.
                The others are over and wait for their reset.

        Raises:
            ValueError: if there is not one action for each episode.
        """
        expected = (len(self.steps), self.dynamics.action_codec.dim)
        if action.shape != expected:
            raise ValueError(f"action must have shape {expected}, one for each episode, got {tuple(action.shape)}")
        state, prediction = self._imagine(action.to(self.dynamics.device))
        diverged = prediction.diverged
        masked, penalty = self._distrust(prediction.uncertainty, diverged, counts)
        ends = masked if self.trust is not None and self.trust.on_mask == "truncate" else diverged
        self.state = select(diverged, self.state, state)
        self.steps = self.steps + 1
        return ImaginedStep(
            shown=self.shown,
            reward=torch.where(diverged, torch.zeros_like(prediction.reward), prediction.reward - penalty),
            terminated=prediction.terminated & ~ends,
            truncated=ends | (self.steps >= self.horizon),
            uncertainty=prediction.uncertainty,
            diverged=diverged,
            masked=masked,
            penalty=penalty,
        )

    def _imagine(self, action: Tensor) -> tuple[Any, StepPrediction]:
        if self.trust is None:
            return self.dynamics.step(self.state, action, self.generator, self.deterministic, **self._step_arguments)
        assert isinstance(self.dynamics, DynamicsModel)  # as set_trust has checked
        return self.dynamics.step(self.state, action, self.generator, measure=resolve_measure(self.trust.measure))

    def _distrust(self, uncertainty: Tensor, diverged: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the masked steps, including those that diverged, and the penalties, ``[B]`` each."""
        if self.trust is None:
            return torch.zeros_like(diverged), torch.zeros_like(uncertainty)
        counts = torch.ones_like(diverged) if counts is None else counts
        trusted = torch.zeros_like(diverged)
        trusted[counts] = self.trust.trusts(uncertainty[counts], self.steps[counts], self.horizon)
        masked = diverged | ~trusted
        is_charged = masked if self.trust.on_mask == "penalize" else torch.ones_like(masked)
        penalty = torch.where(is_charged & ~diverged, self.trust.penalty * uncertainty, 0.0)
        return masked, penalty


class ImaginedEnv(gym.Env[Any, Any]):
    """A dynamics model as a single Gymnasium environment.

    ``info`` holds ``"uncertainty"`` (float) and ``"diverged"`` (bool) of each step; with a ``trust``, ``"masked"``
    (bool) and ``"penalty"`` (float) too.

    Args:
        dynamics: the model; the env takes its action space, and its observation space unless ``observe`` changes that.
        start_obs, horizon, deterministic, observe, temperature: see :class:`ImaginedEpisodes`.
        trust: which steps are masked, and how; default: none. See :class:`~mbrl_wrappers.models.trust.Trust`.
        render_mode: None or ``"rgb_array"``.
        render_env: the real env, made with ``render_mode="rgb_array"``, whose renderer shows the
            imagined state; needed for rendering, except that of a model of images, whose dream is shown.

    Raises:
        ValueError: for a render mode without an env that can show it.

    Example:
        >>> env = ImaginedEnv(dynamics, horizon=200)                    # doctest: +SKIP
        >>> obs, info = env.reset(seed=0)                               # doctest: +SKIP
        >>> obs, reward, terminated, truncated, info = env.step(env.action_space.sample())  # doctest: +SKIP
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        dynamics: WorldModel,
        *,
        start_obs: StartStates | None = None,
        horizon: int = 100,
        deterministic: bool = False,
        observe: Observe = "observation",
        temperature: float | None = None,
        trust: Trust | None = None,
        render_mode: str | None = None,
        render_env: gym.Env | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        if render_mode is not None and (render_env is not None or not dynamics.obs_codec.images):
            check_renderable(render_env)
        self.dynamics = dynamics
        self.action_space = dynamics.action_space
        self.render_mode = render_mode
        self._render_env = render_env
        self.episodes = ImaginedEpisodes(
            dynamics, 1, start_obs=start_obs, horizon=horizon, deterministic=deterministic, observe=observe,
            temperature=temperature,
        )  # fmt: skip
        self.observation_space = self.episodes.observation_space
        self.episodes.set_trust(trust)
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode from a drawn start state.

        Args:
            seed: of start states and predictions from here on.
            options: ``{"obs": observation}`` starts from this observation instead.

        Raises:
            ValueError: if that observation has another shape than the space's or is not finite.
        """
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.episodes.seed(int(self.np_random.integers(2**62)))
            self._seeded = True
        self.episodes.reset()
        if options and "obs" in options:
            obs = encode_one(self.dynamics, options["obs"])
            if not torch.isfinite(obs).all():
                raise ValueError(f"options['obs'] must be finite, got {options['obs']}")
            self.episodes.obs = self.dynamics.obs_codec.project(obs.clone())
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one imagined step; see :class:`gymnasium.Env`."""
        batch = self.dynamics.action_codec.encode(add_batch_axis(action), self.dynamics.device)
        result = self.episodes.step(batch)
        info = {"uncertainty": float(result.uncertainty[0]), "diverged": bool(result.diverged[0])}
        if self.episodes.trust is not None:
            info |= {"masked": bool(result.masked[0]), "penalty": float(result.penalty[0])}
        return (
            self._observation(),
            float(result.reward[0]),
            bool(result.terminated[0]),
            bool(result.truncated[0]),
            info,
        )

    def _observation(self) -> Any:
        return row_of(self.episodes.decode_numpy(self.episodes.shown), 0)

    def render(self) -> Any:
        """Return a frame ``[H, W, 3]`` of the imagined state, or None without a mode."""
        if self.render_mode is None:
            return None
        if self._render_env is None:
            return frames_of(self.dynamics.obs_codec, self.episodes.obs)[0]
        obs = self.episodes.obs[0].cpu().numpy().astype(np.float64)
        if self.dynamics.obs_codec.images:
            obs = obs.reshape(self.dynamics.observation_space.shape)
        set_state_from_obs(self._render_env, obs)
        return self._render_env.render()

    def close(self) -> None:
        """Close the env that renders."""
        if self._render_env is not None:
            self._render_env.close()


def feature_space(dynamics: WorldModel) -> spaces.Box:
    """Return the space of a model's features."""
    return spaces.Box(-np.inf, np.inf, (dynamics.num_features,), np.float32)


def encode_one(dynamics: WorldModel, obs: Any) -> Tensor:
    """Return one observation of the space as ``[1, D]`` on the model's device."""
    return dynamics.obs_codec.encode(add_batch_axis(obs), dynamics.device, dynamics.obs_dtype)


def add_batch_axis(value: Any) -> Any:
    """Turn one element of a space into a batch of one."""
    if isinstance(value, dict):
        return {key: add_batch_axis(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(add_batch_axis(part) for part in value)
    return np.asarray(value)[None]


def row_of(batch: Any, index: int) -> Any:
    """Return one element of a batched element of a space."""
    if isinstance(batch, dict):
        return {key: row_of(part, index) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(row_of(part, index) for part in batch)
    return batch[index]
