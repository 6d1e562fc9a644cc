"""World Models (Ha and Schmidhuber 2018): see, remember, and learn a small controller inside the dream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_wrappers.agents.evolution import Evolution, Trials, check_cma
from mbrl_wrappers.agents.networks.world_models import ControllerPolicy
from mbrl_wrappers.agents.remembering import RememberingAgent
from mbrl_wrappers.arguments import check_device, check_number, check_whole_number
from mbrl_wrappers.envs.imagined import ImaginedEpisodes
from mbrl_wrappers.models import MDNRNN
from mbrl_wrappers.seeding import stream_seed

KEPT = 0.75  # a batch of dreams shrinks when at most this share of it goes on

TrainIn = Literal["dream", "reality"]


class _Held(NamedTuple):
    """Random actions ``[B, ...]``, in the env's units and the agent's own, and how often each is still to be taken."""

    action: np.ndarray
    own: np.ndarray
    left: np.ndarray


class WorldModels(RememberingAgent):
    """An agent that learns a model from random play, and a linear controller in the model's dreams.

    After ``learning_starts`` random steps, each real step is followed by one piece of work:

    1. V, an autoencoder, is fitted on the observations, then M, a recurrent network, on the latents of sequences; see
       :class:`~mbrl_wrappers.models.MDNRNN`;
    2. for some ``generations``, CMA-ES improves C, ``a = W [z, h] + b``, which sees latent and memory: each candidate
       dreams ``dreams`` episodes, all in one batch and all from the same starts, and their mean return is its fitness.

    By then C acts in the real env. With ``fit_every``, V and M are fitted again on all that was seen, and C goes on
    in the new dreams: the paper's iterative form. A checkpoint may be made between any two steps, so after each stage
    and each generation.

    With ``train_in="reality"``, candidates are tried in real episodes, which count as env steps: the same controller
    of the same features, learned without dreams.

    Deviations: V and M are fitted for a number of gradient steps, of a size for a CPU; C is the mean of the search, not
    its best candidate; it begins at 0.

    Args:
        policy: ``"MlpPolicy"`` (``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for Dict observations: the encoder
            is the model's, so these are the same).
        env: to learn in, with Box or Discrete actions.
        dynamics: the model; default: an MDNRNN for the env.
        buffer_size: number of steps that are kept.
        learning_starts: env steps with random actions. With dreams, ``learn`` needs ``2 + generations`` more,
            one for each piece of work.
        random_hold: each random action is held for 1 to so many steps, which gets further than new ones would; 10 in
            the authors' code for TakeCover.
        fit_every: env steps after a fit until the next one; default: one fit.
        generations: of the search, after each fit.
        population: candidates of a generation, at least 2.
        dreams: episodes of each candidate, dreamed or real.
        sigma: the standard deviation of the first candidates.
        dream_length: steps of a dream, unless it ends before.
        temperature: of the dreams. Above 1 they are less certain, and harder to cheat.
        train_in: ``"dream"`` or ``"reality"``.
        action_noise: added to C's continuous actions while learning, in units of [-1, 1]; default: none.
        policy_kwargs, stats_window_size, tensorboard_log, verbose, monitor_wrapper, seed, device: as in SB3.

    Raises:
        ValueError: for an argument out of its range, another action space, a model of other spaces than the env's, or
            too few random steps or too small a buffer for the model's sequences; when learning begins, if cma is not
            installed.

    Example:
        >>> agent = WorldModels("MlpPolicy", "Pendulum-v1", learning_starts=5_000, dream_length=200)  # doctest: +SKIP
        >>> evaluate_policy(agent.learn(5_400), env)                                             # doctest: +SKIP
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ControllerPolicy,
        "CnnPolicy": ControllerPolicy,
        "MultiInputPolicy": ControllerPolicy,
    }

    policy: ControllerPolicy
    _stage = "vision"
    _generation = 0
    _steps_at_fit = 0
    _num_fits = 0
    _evolution: Evolution | None = None
    _trials: Trials | None = None
    _held: _Held | None = None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        dynamics: MDNRNN | None = None,
        buffer_size: int = 100_000,
        learning_starts: int = 10_000,
        random_hold: int = 10,
        fit_every: int | None = None,
        generations: int = 200,
        population: int = 64,
        dreams: int = 16,
        sigma: float = 0.1,
        dream_length: int = 1000,
        temperature: float = 1.0,
        train_in: TrainIn = "dream",
        action_noise: ActionNoise | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        monitor_wrapper: bool = True,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        check_device("device", device)
        self.random_hold = random_hold
        self.fit_every, self.generations, self.population, self.dreams = fit_every, generations, population, dreams
        self.sigma, self.dream_length, self.temperature, self.train_in = sigma, dream_length, temperature, train_in
        self._check_arguments()
        try:
            super().__init__(
                policy,
                env,
                learning_rate=0.0,  # the model has its own
                buffer_size=buffer_size,
                learning_starts=learning_starts,
                train_freq=1,
                gradient_steps=1,
                action_noise=action_noise,
                policy_kwargs=policy_kwargs,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                verbose=verbose,
                device=device,
                support_multi_env=True,
                monitor_wrapper=monitor_wrapper,
                seed=seed,
                sde_support=False,
                supported_action_spaces=(spaces.Box, spaces.Discrete),
            )
        except AssertionError as error:  # how SB3 refuses spaces
            raise ValueError(f"action_space must be Discrete or a bounded Box, got {self.action_space}") from error
        self.dynamics = dynamics
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        check_whole_number("population", self.population, 2)
        for name in ("random_hold", "generations", "dreams", "dream_length"):
            check_whole_number(name, getattr(self, name))
        if self.fit_every is not None:
            check_whole_number("fit_every", self.fit_every)
        check_number("sigma", self.sigma, 0, 1e6, low_is_valid=False)
        check_number("temperature", self.temperature, 0, 1e6)
        if self.train_in not in get_args(TrainIn):
            raise ValueError(f"train_in must be one of {get_args(TrainIn)}, got {self.train_in!r}")

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.dynamics is None:
            self.dynamics = MDNRNN(self.observation_space, self.action_space, seed=self.seed or 0)
        if not isinstance(self.dynamics, MDNRNN):
            raise ValueError(f"dynamics must be an MDNRNN for WorldModels, got a {type(self.dynamics).__name__}")
        least = self.dynamics.settings["sequence_length"] * self.n_envs
        for name in ("learning_starts", "buffer_size"):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} must be at least {least}, the model's sequence_length in each env, got "
                    f"{getattr(self, name)}"
                )
        self._adopt(self.dynamics)
        self.policy.build(self.dynamics.num_features, self.dynamics.action_codec.dim)
        self.policy.to(self.device)

    # -- learning -------------------------------------------------------------------------------

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        check_cma()
        result = super()._setup_learn(*args, **kwargs)
        self._steps_at_fit = min(self._steps_at_fit, self.num_timesteps)  # which may count anew
        return result

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Do the next piece of work; SB3 calls this after each step of all envs, once the random ones are done.

        Args:
            gradient_steps: not used.
            batch_size: not used.
        """
        is_due = self.fit_every is not None and self.num_timesteps - self._steps_at_fit >= self.fit_every
        if self._stage == "over" and is_due:
            self._stage = "vision"
        if self._stage == "vision":
            self._fit(self.dynamics.fit_vision, "vision", "memory")
            self._steps_at_fit = self.num_timesteps
        elif self._stage == "memory":
            self._fit(self.dynamics.fit_memory, "memory", "controller")
            self._num_fits += 1
            self._generation, self._evolution, self._trials = 0, None, None
        elif self._stage == "controller":
            self._evolve()

    def _fit(self, fit: Callable[..., dict[str, float]], name: str, next_stage: str) -> None:
        """Fit V or M on all that is in the buffer, with random numbers of the fit's own."""
        seed = stream_seed(self.seed, f"fit {self._num_fits} of the {name}")
        for key, value in fit(self._experience(), torch.Generator().manual_seed(seed)).items():
            self.logger.record(f"{name}/{key}", value)
        self._memory = None  # its latents were the former V's
        self._stage = next_stage

    def _evolve(self) -> None:
        """Finish a generation: in dreams at once, in reality if all candidates have been tried."""
        if self._evolution is None:
            seed = stream_seed(self.seed, f"evolution {self._num_fits}")
            self._evolution = Evolution(self.policy.vector, self.sigma, self.population, seed)
        if self.train_in == "dream":
            candidates = self._evolution.ask()
            returns = self.dream(torch.as_tensor(candidates)).mean(1).double().cpu().numpy()
        elif self._trials is None:
            self._trials = self._new_trials()
            return
        elif not self._trials.are_over:
            return
        else:
            candidates, returns, self._trials = self._trials.candidates, self._trials.returns, None
        self._evolution.tell(candidates, returns)
        self.policy.vector = self._evolution.mean
        self._generation += 1
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("controller/generation", self._generation)
        self.logger.record("controller/mean_return", float(returns.mean()))
        self.logger.record("controller/best_return", float(returns.max()))
        self.logger.record("controller/sigma", self._evolution.sigma)
        if self._generation >= self.generations:
            self._stage = "over"
        elif self.train_in == "reality":
            self._trials = self._new_trials()  # now, so that the episodes that begin next are trials

    def _new_trials(self) -> Trials:
        assert self._evolution is not None
        return Trials(self._evolution.ask(), self.dreams, self.n_envs)

    def dream(self, vectors: Tensor | None = None, dreams: int | None = None, seed: int | None = None) -> Tensor:
        """Let controllers dream, all from the same starts.

        Args:
            vectors: ``[P, N]``, as of :class:`~mbrl_wrappers.agents.networks.world_models.ControllerPolicy`; default:
                C's.
            dreams: of each; default: the agent's.
            seed: of the dreams; default: that of the next generation. Above a temperature of 0, what a dream draws
                depends on the others too.

        Returns:
            The undiscounted returns, ``[P, dreams]``.

        Raises:
            ValueError: if the model was never fitted.
        """
        if vectors is None:
            vectors = torch.as_tensor(self.policy.vector)[None]
        count, num = len(vectors), self.dreams if dreams is None else dreams
        model = self.dynamics
        episodes = ImaginedEpisodes(
            model, count * num, horizon=self.dream_length, temperature=self.temperature, observe="features"
        )
        own = stream_seed(self.seed, f"dreams {self._num_fits} {self._generation}") if seed is None else seed
        episodes.seed(own)
        starts = model.draw_starts(num, episodes.generator)
        episodes.state = tree_map(lambda part: part.repeat(count, 1), starts)
        shown = episodes.shown
        acting = vectors.to(shown)  # one controller for each block of rows; after a shrinking, one for each row
        returns = torch.zeros(count * num, device=self.device)
        places = torch.arange(count * num, device=self.device)  # of the rows among the returns
        goes_on = torch.ones_like(places, dtype=torch.bool)
        while len(places):
            step = episodes.step(self._env_action(self.policy.act_as(acting, shown)))
            shown = step.shown
            returns[places] += torch.where(goes_on, step.reward, 0.0)
            goes_on &= ~(step.terminated | step.truncated)
            if goes_on.sum() <= KEPT * len(places):  # most dreams may be short, and a few long
                acting = acting.repeat_interleave(len(places) // len(acting), 0)[goes_on]
                episodes.keep(goes_on)
                places, shown, goes_on = places[goes_on], shown[goes_on], goes_on[goes_on]
        return returns.unflatten(0, (count, num))

    # -- acting ---------------------------------------------------------------------------------

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hold random actions while learning has not started; then act by C."""
        action, own = super()._sample_action(learning_starts, action_noise, n_envs)
        if self.num_timesteps >= learning_starts:
            self._held = None
            return action, own
        self._trials = None  # random play is no candidate's
        held = self._held
        if held is None or len(held.left) != n_envs:
            held = _Held(action, own, np.zeros(n_envs, int))
        ends = (held.left == 0) | np.asarray(self._last_episode_starts, dtype=bool)
        lengths = self.action_space.np_random.integers(1, self.random_hold + 1, n_envs)
        is_new = ends.reshape(-1, *[1] * (action.ndim - 1))
        action, own = np.where(is_new, action, held.action), np.where(is_new, own, held.own)
        self._held = _Held(action, own, np.where(ends, lengths, held.left) - 1)
        return action, own

    def _act(self, features: Tensor, generator: torch.Generator | None = None, deterministic: bool = False) -> Tensor:
        return self.policy.act(features)

    def _act_while_learning(self, features: Tensor) -> Tensor:
        """Return C's actions, or those of the candidates that are tried in reality."""
        if self._trials is None:
            return self.policy.act(features)
        players = self._trials.players(np.asarray(self._last_episode_starts, dtype=bool))
        vectors = np.where(players[:, None] < 0, self.policy.vector, self._trials.candidates[players])
        return self.policy.act_as(torch.as_tensor(vectors, device=self.device), features)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if self._trials is not None:
            normalizer = self._vec_normalize_env
            self._trials.add(reward if normalizer is None else normalizer.get_original_reward(), dones)

    # -- saving ---------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy"], []
