"""I2A (Weber et al. 2017): a model-free agent that looks at what a model imagines, and learns what to make of it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, is_vectorized_observation
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch.nn import functional as F

from mbrl_wrappers.agents.agent_with_model import SavesModel
from mbrl_wrappers.agents.networks.imagination import ImaginationPolicy
from mbrl_wrappers.arguments import check_device, check_number, check_whole_number
from mbrl_wrappers.imagination.replay_experience import ReplayExperience
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models import CopyDynamics, FrameDynamics, WorldModel
from mbrl_wrappers.seeding import stream_seed
from mbrl_wrappers.wrappers.imagined_futures import ImaginationCore
from mbrl_wrappers.wrappers.sb3_imagined_futures import VecImaginedFutures

Learner = Literal["A2C", "PPO"]
_LEARNERS: dict[str, Any] = {"A2C": A2C, "PPO": PPO}


class I2A(SavesModel, OnPolicyAlgorithm):
    """An imagination-augmented agent (Weber et al. 2017, arXiv:1707.06203), trained by SB3's own A2C or PPO.

    While it acts, the agent imagines a rollout for each first action; a rollout encoder reads them, and policy and
    value see its summaries behind those of a model-free path. What was imagined lies in the rollout buffer, so the
    updates are A2C's or PPO's, unchanged, and no gradient comes near the model::

        pi(a | s), V(s) = head(plain(s), encoder(rollout from a_1), ..., encoder(rollout from a_n))

    The rollout policy learns to act as the agent does, by cross-entropy.

    The env shows the agent its own frames, and so do evaluation envs: :meth:`predict` imagines too.

    The model is one of these:

    - One that was never fitted, such as the default: for ``first_fit`` steps the agent learns while it sees copies of
      each frame, as with :class:`~mbrl_wrappers.models.CopyDynamics`; then the model is fitted to the newest
      ``fit_rows`` of these steps, and the agent begins anew with it. So the model's data are those of a partially
      trained agent, as in the paper.
    - One that was fitted before: it serves from the first step on.
    - One that has nothing to learn: :class:`~mbrl_wrappers.models.CopyDynamics`, the paper's baseline, or the rules,
      :class:`~mbrl_wrappers.models.SokobanDynamics`, an upper bound.

    With ``fit_every``, the model is fitted again and again.

    Deviations: frames are imagined as the likeliest ones.
    The rollout policy is fitted to the actions that the agent took, whose cross-entropy is that to its policy on
    average, with an optimiser of its own, whose Adam makes the weight of this loss (the paper's 10) meaningless.
    Sizes are for grids of single pixels on a CPU.

    Args:
        policy: ``"CnnPolicy"``; for ``policy_kwargs`` see
            :class:`~mbrl_wrappers.agents.networks.imagination.ImaginationPolicy`, and for its
            ``features_extractor_kwargs`` :class:`~mbrl_wrappers.agents.networks.imagination.ImaginationExtractor`.
        env: with frames of uint8 and Discrete actions, such as those of :mod:`mbrl_wrappers.tasks.grids`.
        dynamics: the model; default: a :class:`~mbrl_wrappers.models.FrameDynamics`.
        length: steps of each imagined rollout.
        learner: ``"A2C"`` or ``"PPO"``.
        first_fit: steps before the first fit of a model that learns.
        fit_every: steps between further fits; default: there are none.
        fit_rows: newest steps that a fit learns from. ``save`` does not keep them: a loaded agent's next fit comes at
            its time, but not before as many new steps as the fit waits for, or ``fit_rows`` if that is fewer.
        learning_rate, n_steps, gamma, gae_lambda, ent_coef, vf_coef, max_grad_norm, normalize_advantage: as in SB3's
            A2C; PPO's defaults differ.
        batch_size, n_epochs, clip_range: as in PPO; A2C takes one step on all of a rollout.
        policy_kwargs, stats_window_size, tensorboard_log, verbose, seed, device: as in SB3. A2C's optimiser is RMSprop,
            as in SB3, unless ``policy_kwargs`` have an ``optimizer_class``.

    Raises:
        ValueError: for an argument out of its range, other spaces, or a model of other spaces than the env's.

    Example:
        >>> games = SokobanGames(64, size=7, num_boxes=1, max_episode_steps=120)
        >>> agent = I2A("CnnPolicy", GamesVecEnv(games, seed=0), seed=0)
        >>> agent.learn(1_000_000)  # doctest: +SKIP
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CnnPolicy": ImaginationPolicy}

    policy: ImaginationPolicy
    replay_buffer: ReplayBuffer | None
    clip_range: Any
    _core: ImaginationCore
    _futures: VecImaginedFutures | None = None

    def __init__(
        self,
        policy: str | type[ImaginationPolicy],
        env: GymEnv | str | None,
        dynamics: WorldModel | None = None,
        length: int = 3,
        learner: Learner = "A2C",
        first_fit: int = 100_000,
        fit_every: int | None = None,
        fit_rows: int = 50_000,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.01,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        normalize_advantage: bool = False,
        batch_size: int = 256,
        n_epochs: int = 4,
        clip_range: float | Schedule = 0.2,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if learner not in get_args(Learner):
            raise ValueError(f"learner must be one of {get_args(Learner)}, got {learner!r}")
        check_device("device", device)
        for name, value in (("length", length), ("n_steps", n_steps), ("fit_rows", fit_rows), ("n_epochs", n_epochs)):
            check_whole_number(name, value)
        check_whole_number("batch_size", batch_size, 2)
        check_whole_number("first_fit", first_fit)
        if fit_every is not None:
            check_whole_number("fit_every", fit_every)
        for name, number in (("gamma", gamma), ("gae_lambda", gae_lambda)):
            check_number(name, number, 0, 1)
        self.dynamics = dynamics
        self.length, self.learner = length, learner
        self.first_fit, self.fit_every, self.fit_rows = first_fit, fit_every, fit_rows
        self.normalize_advantage = normalize_advantage
        self.batch_size, self.n_epochs, self.clip_range = batch_size, n_epochs, clip_range
        self.clip_range_vf = self.target_kl = None  # PPO's update looks at these
        self.replay_buffer, self._num_fits, self._last_fit = None, 0, 0
        if learner == "A2C" and "optimizer_class" not in (policy_kwargs or {}):
            rms_prop = {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0}
            policy_kwargs = {
                **(policy_kwargs or {}), "optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": rms_prop
            }  # fmt: skip
        try:
            super().__init__(
                policy,
                env,  # type: ignore[arg-type]
                learning_rate,
                n_steps,
                gamma,
                gae_lambda,
                ent_coef,
                vf_coef,
                max_grad_norm,
                use_sde=False,
                sde_sample_freq=-1,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                policy_kwargs=policy_kwargs,
                verbose=verbose,
                seed=seed,
                device=device,
                _init_setup_model=False,
                supported_action_spaces=(spaces.Discrete,),
            )
        except AssertionError as error:  # how SB3 refuses spaces
            raise ValueError(f"action_space must be Discrete, got {self.action_space}") from error
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.dynamics is None:
            self.dynamics = FrameDynamics(self.observation_space, self.action_space, seed=self.seed or 0)
        if not isinstance(self.dynamics, WorldModel):
            raise ValueError(f"dynamics must be a model, such as FrameDynamics.for_env(env), got {self.dynamics!r}")
        self.dynamics.check_spaces(self.observation_space, self.action_space)
        self._core = ImaginationCore(self.dynamics.to(self.device), self.length)
        # Policy and rollout buffer are of what was imagined too; the agent's own observations are the env's.
        own, self.observation_space = self.observation_space, self._core.space
        try:
            super()._setup_model()
        finally:
            self.observation_space = own
        self._core.rollout_policy = self.policy.rollout_policy
        self._copies = CopyDynamics(self.observation_space, self.action_space, device=self.device)
        self.clip_range = FloatSchedule(self.clip_range)
        self.replay_buffer = None
        if self._is_learning_model():
            size = -(-self.fit_rows // self.n_envs) * self.n_envs
            self.replay_buffer = ReplayBuffer(
                size, self.observation_space, self.action_space, "cpu", n_envs=self.n_envs
            )

    # -- the model -------------------------------------------------------------------------------------

    def _is_learning_model(self) -> bool:
        """Tell whether there are fits to come."""
        has_parameters = any(True for _ in self.dynamics.parameters())
        return has_parameters and (self.fit_every is not None or not self.dynamics.num_starts)

    def _imagining_core(self) -> ImaginationCore:
        """Return the imagination core, with copies as long as the model has never been fitted."""
        has_parameters = any(True for _ in self.dynamics.parameters())
        self._core.dynamics = self._copies if has_parameters and not self.dynamics.num_starts else self.dynamics
        return self._core

    def _fit_if_due(self) -> None:
        buffer = self.replay_buffer
        if buffer is None or not self._is_fit_due(buffer):
            return
        experience = ReplayExperience(buffer, AgentView(cast(Any, self), self.dynamics), self.dynamics)
        generator = torch.Generator().manual_seed(stream_seed(self.seed, f"fit {self._num_fits}"))
        is_first = not self.dynamics.num_starts
        report = self.dynamics.fit(experience, generator)
        if is_first:
            self._begin_anew()
        self._num_fits, self._last_fit = self._num_fits + 1, self.num_timesteps
        for name, value in report.items():
            self.logger.record(f"model/{name}", value)
        if not self._is_learning_model():
            self.replay_buffer = None

    def _is_fit_due(self, buffer: ReplayBuffer) -> bool:
        wait = self.fit_every if self.dynamics.num_starts else self.first_fit
        if wait is None:
            return False
        return self.num_timesteps - self._last_fit >= wait and buffer.size() * self.n_envs >= min(wait, self.fit_rows)

    def _begin_anew(self) -> None:
        """Make a new policy, for what is seen now is not what the old one has learned to see."""
        self.policy = self.policy_class(  # type: ignore[assignment]
            cast(Any, self._core.space), self.action_space, self.lr_schedule, use_sde=False, **self.policy_kwargs
        ).to(self.device)
        self._core.rollout_policy = self.policy.rollout_policy

    # -- learning --------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "I2A",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> I2A:
        """Learn; as in SB3."""
        if reset_num_timesteps:
            self._last_fit -= self.num_timesteps
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Act in the env, with imagination; see SB3."""
        self._fit_if_due()
        core = self._imagining_core()
        futures = self._futures
        if futures is None or cast(_Recorder, futures.venv).venv is not env:
            futures = self._futures = VecImaginedFutures(_Recorder(env), core)
        # Imagined anew, since model and rollout policy have learned, and a resumed run has the env's observation alone;
        # from random numbers of its own, so that a run which resumes here imagines the same.
        last: Any = self._last_obs["observation"] if isinstance(self._last_obs, dict) else self._last_obs
        if isinstance(self.dynamics, FrameDynamics) and not self.dynamics.num_starts:  # rather than at the first fit
            self.dynamics.check_frames(self.dynamics.obs_codec.encode(last, self.device, self.dynamics.obs_dtype))
        self._last_obs = futures.begin(last, stream_seed(self.seed, f"futures at {self.num_timesteps}"))
        recorder = cast(_Recorder, futures.venv)
        recorder.obs, recorder.buffer = self._last_obs["observation"], self.replay_buffer
        return super().collect_rollouts(futures, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Let the rollout policy imitate the agent on the newest steps, then update as A2C or PPO does."""
        self._distil()
        _LEARNERS[self.learner].train(self)

    def _distil(self) -> None:
        buffer: Any = self.rollout_buffer
        observations = buffer.observations["observation"].reshape(-1, *(self.observation_space.shape or ()))
        frames = torch.as_tensor(observations, device=self.device).float() / 255
        taken = torch.as_tensor(buffer.actions.reshape(-1), device=self.device).long()
        loss = F.cross_entropy(self.policy.rollout_policy(frames), taken)
        self.policy.rollout_optimizer.zero_grad()
        loss.backward()
        self.policy.rollout_optimizer.step()
        self.policy.rollout_optimizer.zero_grad()  # A2C and PPO clip the norm of all of the policy's gradients
        self.logger.record("train/distillation_loss", loss.item())

    # -- acting ----------------------------------------------------------------------------------------

    def imagine(self, observation: np.ndarray, deterministic: bool = True) -> dict[str, np.ndarray]:
        """Return what the agent imagines after observations.

        Args:
            observation: ``[B, C, H, W]``.
            deterministic: whether the rollouts' actions are the same for the same observation each time; else they are
                drawn from torch's global generator.

        Returns:
            A batch of :attr:`ImaginationCore.space <mbrl_wrappers.wrappers.ImaginationCore>`.
        """
        generator = torch.Generator(self.device).manual_seed(0) if deterministic else None
        return self._imagining_core().imagine(observation, generator, alike=deterministic)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Imagine what follows the env's own observations, and act.

        Args:
            observation: ``[C, H, W]`` or ``[B, C, H, W]``.
            state: not used.
            episode_start: not used.
            deterministic: whether to take the likeliest action; the same for the same observation, in any batch.

        Raises:
            ValueError: for an observation of another shape.
        """
        if isinstance(observation, dict):
            raise ValueError(f"observation must be the env's own, an array, got a dict with {sorted(observation)}")
        frames = maybe_transpose(np.asarray(observation), self.observation_space)
        is_batch = is_vectorized_observation(frames, self.observation_space)
        seen = self.imagine(frames if is_batch else frames[None], deterministic)
        action, _ = self.policy.predict(seen, deterministic=deterministic)
        return (action if is_batch else action[0]), state

    # -- saving ----------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the wrapper around the env, which can't be pickled; the next rollout makes another."""
        return {**self.__dict__, "_futures": None}

    def save_replay_buffer(self, path: Any) -> None:
        """Write the steps that the model is yet to be fitted to, as a pickle."""
        save_to_pkl(path, self.replay_buffer, self.verbose)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = False) -> None:
        """Read what :meth:`save_replay_buffer` wrote; a pickle, so only files of your own."""
        self.replay_buffer = load_from_pkl(path, self.verbose)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_copies", "_core", "_futures", "_last_obs"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "policy.rollout_optimizer"], []


class _Recorder(VecEnvWrapper):
    """Keeps steps for the model's fits.

    Attributes:
        obs: the newest observations.
        buffer: what keeps them, or None.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.obs: Any = None
        self.buffer: ReplayBuffer | None = None
        self._actions = np.zeros(0)

    def reset(self) -> Any:
        """Start all episodes."""
        self.obs = self.venv.reset()
        return self.obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, and start the step."""
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the step, and keep it."""
        obs, rewards, dones, infos = self.venv.step_wait()
        if self.buffer is not None:
            next_obs = np.array(obs)
            for row in np.flatnonzero(dones):
                next_obs[row] = infos[row]["terminal_observation"]
            self.buffer.add(self.obs, next_obs, self._actions, self._unscaled(rewards), dones, infos)
        self.obs = obs
        return obs, rewards, dones, infos

    def _unscaled(self, rewards: np.ndarray) -> np.ndarray:
        """Return the env's own rewards where a VecNormalize has scaled them."""
        layer: Any = self.venv
        while isinstance(layer, VecEnvWrapper):
            if hasattr(layer, "get_original_reward"):
                return layer.get_original_reward()
            layer = layer.venv
        return rewards
