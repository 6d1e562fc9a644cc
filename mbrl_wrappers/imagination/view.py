"""The one adapter to Stable-Baselines3's off-policy algorithms: an agent as strategies see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.qrdqn.qrdqn import QRDQN
from sb3_contrib.tqc.tqc import TQC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.dqn import DQN
from stable_baselines3.sac.policies import Actor
from stable_baselines3.td3.td3 import TD3
from torch import Tensor

from mbrl_wrappers.imagination.hindsight import Hindsight
from mbrl_wrappers.imagination.rows import ImaginedRows, TargetRows
from mbrl_wrappers.imagination.samples import Samples, join_samples
from mbrl_wrappers.imagination.scales import (
    Normalizer,
    Scales,
    reward_normalizer,
    scales_of,
    standardized,
    unstandardized,
)
from mbrl_wrappers.models.divergence import RealRange
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.seeding import numpy_state_kept
from mbrl_wrappers.types import Transitions


class SoftAgent(Protocol):
    """The part that SAC, TQC and CrossQ have in common: a random actor, and the weight of its entropy."""

    actor: Actor
    log_ent_coef: Tensor | None  # None where the coefficient is fixed
    ent_coef_tensor: Tensor


class CriticPolicy(Protocol):
    """The policy of an agent with critics of actions; CrossQ's has no target networks."""

    critic: ContinuousCritic
    critic_target: ContinuousCritic


class AgentView:
    """An agent seen from imagination: flat raw observations in, flat env actions out.

    Works for SAC, TD3, DDPG, DQN, TQC, CrossQ and QR-DQN. Nothing here changes the agent: its random
    number generators, its training mode and its action noise are as before after every call.

    Args:
        agent: the algorithm.
        dynamics: has the codecs between the agent's spaces and flat tensors.
        hindsight: the goals of an agent with a HER buffer; None for others.

    Raises:
        ValueError: for a Box of actions that the agent can't scale to [-1, 1] and back, and for a part of Dict
            observations without dimensions.
    """

    def __init__(self, agent: OffPolicyAlgorithm, dynamics: WorldModel, hindsight: Hindsight | None = None) -> None:
        self._agent = agent
        self._dynamics = dynamics
        self._hindsight = hindsight
        self._obs_codec = dynamics.obs_codec
        self._action_codec = dynamics.action_codec
        self.device = agent.device
        self.gamma = agent.gamma
        space = agent.action_space
        self._discrete = isinstance(space, spaces.Discrete)
        self._is_scaled = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if isinstance(space, spaces.Box):
            self._low, self._high = (bound.to(self.device, torch.float32) for bound in self._action_codec.bounds)
            self._check_scaling(space)
        self._check_parts(agent.observation_space)

    @staticmethod
    def _check_parts(space: spaces.Space) -> None:
        """Refuse parts of observations that SB3's extractor of Dict observations can't flatten."""
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else ()
        for key, part in parts:
            if isinstance(part, spaces.Box) and part.shape == ():
                raise ValueError(
                    f"observation_space[{key!r}] must have at least one dimension for SB3's policies, got {part}: "
                    "gymnasium.wrappers.FlattenObservation makes one vector of all parts"
                )

    def _check_scaling(self, space: spaces.Box) -> None:
        """Refuse action spaces whose actions the agent's policy can't scale for its buffer.

        SB3 divides by the range, and its buffer stores actions in the space's dtype: if this is an integer, scaled
        actions are truncated to -1, 0 or 1.
        """
        name = type(self._agent).__name__
        bounds = np.stack([space.low, space.high])
        try:
            with np.errstate(all="ignore"):
                scaled = self._agent.policy.scale_action(bounds)
        except TypeError:  # NumPy can't subtract bools
            scaled = np.empty(0)
        if not self._is_scaled and not np.array_equal(scaled, bounds):
            raise ValueError(
                f"action_space must be a Box of floats for {name}, got {space}: round them in a "
                "gymnasium.wrappers.TransformAction (PETS, RS and POPLIN search whole numbers)"
            )
        ranges = (self._high - self._low).cpu().numpy().reshape(space.shape)
        wrong = ~np.isfinite(scaled).all(0) | ~np.isfinite(ranges)
        if wrong.any():
            raise ValueError(
                f"action_space must have low < high and a range that float32 holds for {name}, got {space.low[wrong]} "
                f"to {space.high[wrong]} in entries {np.argwhere(wrong).tolist()}: gymnasium.wrappers.TransformAction "
                "can fill in what has one value"
            )

    @property
    def normalizer(self) -> VecNormalize | None:
        """The agent's VecNormalize, None without."""
        return self._agent._vec_normalize_env

    def scales(self) -> Scales | None:
        """Return the current statistics of the agent's VecNormalize, None without one."""
        return scales_of(self.normalizer, self.device)

    # -- where rollouts start -------------------------------------------------------------------

    def starts(self, transitions: Transitions, index: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        """Return the observations of real transitions, with hindsight a share of them with other goals.

        Returns:
            ``[B, D]``, and the share of these rows whose new goal is the one that their transition achieved, 0 without
            hindsight; see :meth:`in_hindsight`.
        """
        obs = transitions.obs[index].to(self._dynamics.obs_dtype)
        if self._hindsight is None:
            return obs, 0.0
        return self._hindsight.relabel(obs, transitions.key[index], generator)

    def in_hindsight(self, rows: ImaginedRows, share: float, generator: torch.Generator) -> ImaginedRows:
        """Return imagined rows, with hindsight a random share of them with the goals that they achieve themselves."""
        if self._hindsight is None or self._hindsight.needs_info:
            return rows
        own = torch.rand(len(rows), generator=generator, device=self.device) < share
        return self._hindsight.achieve_own(rows, own, self._dynamics.termination_fn)

    def believed(self, obs: Tensor) -> RealRange:
        """Return the range in which imagined observations are believed, of all real ones ``[N, D]``."""
        return RealRange.around(obs if self._hindsight is None else self._hindsight.reachable(obs))

    # -- acting ---------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, generator: torch.Generator, exploration: float | None = None) -> Tensor:
        """Sample the current policy, exploration included.

        SAC, TQC and CrossQ sample their actor. TD3 and DDPG add their action noise if it is Gaussian (noise
        that is correlated over time has no meaning across a batch and is left out). DQN and QR-DQN are
        epsilon-greedy with their current exploration rate.

        Args:
            obs: ``[B, D]`` raw flat observations.
            generator: on the agent's device.
            exploration: chance of each row's action to be uniform over the action space instead, in [0, 1];
                default: DQN's and QR-DQN's exploration rate, 0 for the others.

        Returns:
            ``[B, A]`` flat actions in the env's units, one-hot where discrete.
        """
        policy_obs = standardized(self._obs_codec.decode(obs), self.normalizer, self.device)
        seed = self._seed_from(generator)
        with self.evaluating(), _private_rng(self.device, seed):
            action = self._agent.policy._predict(policy_obs, deterministic=False)
        if self._discrete:
            action = self._one_hot(action.reshape(len(obs)))
            rate = getattr(self._agent, "exploration_rate", 0.0) if exploration is None else exploration
        else:
            action = self.unscale(self._add_noise(action.reshape(len(obs), -1), generator))
            rate = exploration or 0.0
        return self._explore(action, rate, generator) if rate else action

    # -- the agent's own targets ----------------------------------------------------------------

    def check_critic(self, *, several: bool = False) -> None:
        """Refuse an agent without a critic.

        Args:
            several: also refuse an agent without at least two critics of one output each.

        Raises:
            ValueError: naming the agent.
        """
        name = type(self._agent).__name__
        if not isinstance(self._agent, DQN | QRDQN) and not hasattr(self._agent, "critic"):
            raise ValueError(f"the agent must have a critic, got {name}")
        if not several:
            return
        if isinstance(self._agent, TQC | QRDQN):
            raise ValueError(f"the agent's critics must be scalar, got {name}, whose critics are quantiles")
        critics = 1 if isinstance(self._agent, DQN) else self._agent.critic.n_critics
        if critics < 2:
            hint = "has one network" if isinstance(self._agent, DQN) else "takes policy_kwargs={'n_critics': 2}"
            raise ValueError(f"the agent's n_critics must be at least 2, got {critics}; {name} {hint}")

    @torch.no_grad()
    def target_policy(self, obs: Tensor, generator: torch.Generator, copies: int = 1) -> tuple[Tensor, Tensor]:
        """Choose the actions with which the agent bootstraps its own targets.

        SAC, TQC and CrossQ sample their actor; TD3 and DDPG use their target actor, with TD3's smoothing noise;
        DQN and QR-DQN are greedy with respect to their target network.

        Args:
            obs: ``[B, D]`` raw flat observations.
            generator: on the agent's device.
            copies: number of equal, consecutive blocks of rows that get the same noise.

        Returns:
            ``[B, A]`` flat actions in the env's units, and ``[B]`` their entropy bonus ``-alpha log pi``, which is part
            of the values of SAC, TQC and CrossQ; 0 for the other agents.
        """
        agent = self._agent
        policy_obs = self.policy_obs(obs, self.normalizer)
        bonus = obs.new_zeros(len(obs))
        if isinstance(agent, DQN):
            return self._one_hot(agent.q_net_target(policy_obs).argmax(-1)), bonus
        if isinstance(agent, QRDQN):
            return self._one_hot(agent.quantile_net_target(policy_obs).mean(1).argmax(-1)), bonus
        if isinstance(agent, TD3):
            action = agent.actor_target(policy_obs)
            limit = agent.target_noise_clip
            noise = (agent.target_policy_noise * _noise_like(action, generator, copies)).clamp(-limit, limit)
            return self.unscale((action + noise).clamp(-1, 1)), bonus
        actor = cast(SoftAgent, agent).actor
        mean, log_std, sde = actor.get_action_dist_params(policy_obs)
        if sde:  # gSDE's noise is a function of the state until the agent draws new noise
            action, log_prob = actor.action_dist.log_prob_from_params(mean, log_std, **sde)
        else:
            before_tanh = mean + log_std.exp() * _noise_like(mean, generator, copies)
            action = before_tanh.tanh()
            gaussian = cast(SquashedDiagGaussianDistribution, actor.action_dist)
            log_prob = gaussian.proba_distribution(mean, log_std).log_prob(action, before_tanh)
        return self.unscale(action), -self.alpha() * log_prob.reshape(-1)

    @torch.no_grad()
    def target_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the values of each of the agent's target critics; see :meth:`check_critic`.

        CrossQ has no target networks: its critics are used, with the running statistics of their batch normalisation.

        Args:
            obs: ``[B, D]`` raw flat observations.
            action: ``[B, A]`` flat actions in the env's units.

        Returns:
            ``[C, B]``, without the bonus of :meth:`target_policy`.
        """
        policy = cast(CriticPolicy, self._agent.policy)
        critic = policy.critic_target if hasattr(policy, "critic_target") else policy.critic
        values = critic(self.policy_obs(obs, self.normalizer), self._buffer_action(action))
        return torch.cat(values, dim=1).T

    def alpha(self) -> Tensor:
        """Return the entropy coefficient of an agent that has one, such as SAC."""
        agent = cast(SoftAgent, self._agent)
        return agent.ent_coef_tensor if agent.log_ent_coef is None else agent.log_ent_coef.detach().exp()

    def _one_hot(self, index: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(index.long(), self._action_codec.dim).float()

    def _seed_from(self, generator: torch.Generator) -> int:
        return int(torch.randint(2**62, (1,), generator=generator, device=self.device))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run with the policy in evaluation mode, then restore the mode of each of its modules.

        Call :meth:`target_policy` and :meth:`target_values` inside, as often as a batch needs them.
        """
        training = [module for module in self._agent.policy.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def _explore(self, action: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        """Replace each row's action by a uniformly drawn one, with probability ``rate``."""
        rows, width = action.shape
        if self._discrete:
            random = torch.randint(width, (rows,), generator=generator, device=self.device)
            other = torch.nn.functional.one_hot(random, width).float()
        else:
            other = self.unscale(2.0 * torch.rand(action.shape, generator=generator, device=self.device) - 1.0)
        explore = torch.rand(rows, generator=generator, device=self.device) < rate
        return torch.where(explore[:, None], other, action)

    def _add_noise(self, action: Tensor, generator: torch.Generator) -> Tensor:
        noise = self._agent.action_noise
        if isinstance(noise, VectorizedActionNoise):
            noise = noise.base_noise
        if not isinstance(noise, NormalActionNoise):
            return action
        mean = torch.as_tensor(noise._mu, dtype=action.dtype, device=self.device).flatten()
        sigma = torch.as_tensor(noise._sigma, dtype=action.dtype, device=self.device).flatten()
        draw = torch.randn(action.shape, generator=generator, device=self.device)
        return (action + mean + sigma * draw).clamp(-1, 1)

    # -- actions: the buffer holds them scaled to [-1, 1], the env and the model take them as they are ----

    def unscale(self, action: Tensor) -> Tensor:
        """Scale actions of a Box, ``[B, A]``, from [-1, 1] to the env's bounds."""
        return self._low + 0.5 * (action + 1.0) * (self._high - self._low)

    def env_action(self, buffer_action: np.ndarray) -> Tensor:
        """Turn actions as SB3's buffer stores them, ``[N, *]``, into flat env actions ``[N, A]``."""
        if not self._is_scaled:
            return self._action_codec.encode(buffer_action, self.device)
        return self.unscale(torch.as_tensor(buffer_action, dtype=torch.float32, device=self.device))

    def _buffer_action(self, action: Tensor) -> Tensor:
        if self._discrete:
            return action.argmax(-1, keepdim=True)
        spread = torch.where(self._high > self._low, self._high - self._low, 1.0)  # float32 may not see a narrow range
        return 2.0 * (action - self._low) / spread - 1.0

    # -- batches --------------------------------------------------------------------------------

    def samples(self, rows: ImaginedRows, env: VecNormalize | None, like: Samples | None, batches: int = 1) -> Samples:
        """Turn imagined rows into samples for SB3's ``train``.

        Args:
            rows: ``[B, ...]``.
            env: normalises, or None.
            like: real samples to put in front, in whose dtypes imagined rows are returned; None for imagined
                rows alone. If the real ones have n-step discounts, imagined rows get the discount of one step.
            batches: number of equal batches that ``rows`` and ``like`` consist of; real rows come first in each batch.
        """
        scales = scales_of(env, self.device)
        rewards = self.normalize_reward(rows.reward[:, None], scales)
        discounts = None if like is None or like.discounts is None else torch.full_like(rewards, self.gamma)
        return self._assemble(rows, rewards, discounts, scales, like, batches)

    def target_samples(self, rows: TargetRows, env: VecNormalize | None, like: Samples) -> Samples:
        """Turn rows that bootstrap several steps ahead into samples for SB3's ``train``, appended to real ones.

        Args:
            rows: ``[B, ...]``.
            env: normalises observations, or None; rewards are normalised already.
            like: real samples with discounts.
        """
        scales = scales_of(env, self.device)
        return self._assemble(rows, rows.reward[:, None], rows.discount[:, None], scales, like)

    def _assemble(
        self,
        rows: ImaginedRows | TargetRows,
        rewards: Tensor,
        discounts: Tensor | None,
        scales: Scales | None,
        like: Samples | None,
        batches: int = 1,
    ) -> Samples:
        fields: dict[str, Any] = {
            "observations": self.policy_obs(rows.obs, scales),
            "actions": self._buffer_action(rows.action),
            "next_observations": self.policy_obs(rows.next_obs, scales),
            "dones": rows.terminated.float()[:, None],
            "rewards": rewards,
            "discounts": discounts,
        }
        kind = DictReplayBufferSamples if isinstance(fields["observations"], dict) else ReplayBufferSamples
        samples = kind(**fields)
        return samples if like is None else join_samples(like, samples, batches)

    def draw_real(self, buffer: ReplayBuffer, count: int, env: VecNormalize | None) -> tuple[Samples, Tensor, Tensor]:
        """Draw a real batch for the agent.

        Returns:
            The batch, its raw flat next observations ``[count, D]``, and the discount of the value at these,
            ``[count]``: of one step or, from an n-step buffer, of several.
        """
        if env is None:
            samples = raw = buffer.sample(count)
        else:  # the same rows twice, as buffers draw from NumPy's global generator
            with numpy_state_kept():
                raw = buffer.sample(count)
            samples = buffer.sample(count, env=env)
        discounts = torch.full_like(samples.rewards, self.gamma) if samples.discounts is None else samples.discounts
        dtype = self._dynamics.obs_dtype
        return samples, self._obs_codec.encode(raw.next_observations, self.device, dtype), discounts.reshape(-1)

    def policy_obs(self, flat: Tensor, env: Normalizer) -> Any:
        """Turn raw flat observations ``[B, D]`` into those that the agent's networks take."""
        obs = self._obs_codec.decode(flat)
        shape = get_obs_shape(self._agent.observation_space)
        if isinstance(obs, dict):
            assert isinstance(shape, dict)
            obs = {key: part.reshape(len(flat), *shape[key]) for key, part in obs.items()}
        else:
            obs = obs.reshape(len(flat), *shape)
        return standardized(obs, env, self.device)

    def flat_obs(self, obs: Any, env: Normalizer) -> Tensor:
        """Turn observations that the agent's networks take into raw flat ones ``[B, D]``.

        Values that VecNormalize has clipped stay clipped; see
        :func:`~mbrl_wrappers.imagination.scales.without_clipping`.
        """
        raw = unstandardized(obs, env, self.device)
        return self._obs_codec.encode(raw, self.device, self._dynamics.obs_dtype)

    @staticmethod
    def normalize_reward(reward: Tensor, env: Normalizer) -> Tensor:
        """Apply VecNormalize's current scale to raw rewards of any shape."""
        return reward_normalizer(env, reward.device)(reward)


def _noise_like(mean: Tensor, generator: torch.Generator, copies: int) -> Tensor:
    """Draw standard normal noise ``[B, A]``, the same for each of ``copies`` equal blocks of rows."""
    rows, width = mean.shape
    assert rows % copies == 0
    noise = torch.randn(rows // copies, width, generator=generator, dtype=mean.dtype, device=mean.device)
    return noise if copies == 1 else noise.repeat(copies, 1)


@contextmanager
def _private_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Run with torch's global generators seeded, then restore their states."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
