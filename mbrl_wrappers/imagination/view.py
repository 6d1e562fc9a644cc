"""What a strategy may know of an agent: the one adapter to Stable-Baselines3's off-policy algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_wrappers.imagination.rows import ImaginedRows
from mbrl_wrappers.models.base import DynamicsModel


class AgentView:
    """An agent seen from imagination: flat raw observations in, flat env actions out.

    Works for SAC, TD3, DDPG, DQN, TQC, CrossQ and QR-DQN. Nothing here changes the agent: its random
    number generators, its training mode and its action noise are as before after every call.

    Args:
        agent: the algorithm.
        dynamics: knows the flat layout of the agent's spaces.
    """

    def __init__(self, agent: OffPolicyAlgorithm, dynamics: DynamicsModel) -> None:
        self._agent = agent
        self._obs_codec = dynamics.obs_codec
        self._action_codec = dynamics.action_codec
        self.device = agent.device
        self.gamma = agent.gamma
        space = agent.action_space
        self._discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Box):
            self._low = torch.as_tensor(space.low.astype(np.float32), device=self.device).flatten()
            self._high = torch.as_tensor(space.high.astype(np.float32), device=self.device).flatten()

    # -- acting ---------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, generator: torch.Generator, exploration: float | None = None) -> Tensor:
        """Sample the current policy, exploration included.

        SAC, TQC and CrossQ sample their actor; TD3 and DDPG add their Gaussian action noise, where
        they have one (a correlated noise has no meaning across a batch and is left out); DQN and
        QR-DQN are greedy but for their current exploration rate.

        Args:
            obs: ``[B, D]`` raw flat observations.
            generator: on the agent's device.
            exploration: chance of each row's action to be uniform over the action space instead, in [0, 1];
                default: DQN's and QR-DQN's exploration rate, 0 for the others.

        Returns:
            ``[B, A]`` flat actions in the env's units, one-hot where discrete.
        """
        policy = self._agent.policy
        policy_obs = self._normalize_obs(self._obs_codec.decode(obs), self._agent._vec_normalize_env)
        seed = int(torch.randint(2**62, (1,), generator=generator, device=self.device))
        was_training = policy.training
        policy.set_training_mode(False)
        try:
            with _private_rng(self.device, seed):
                action = policy._predict(policy_obs, deterministic=False)
        finally:
            policy.set_training_mode(was_training)
        if self._discrete:
            index = action.reshape(len(obs)).long()
            action = torch.nn.functional.one_hot(index, self._action_codec.dim).float()
            rate = getattr(self._agent, "exploration_rate", 0.0) if exploration is None else exploration
        else:
            action = self._unscale(self._add_noise(action.reshape(len(obs), -1), generator))
            rate = exploration or 0.0
        return self._explore(action, rate, generator) if rate else action

    def _explore(self, action: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        """Put uniformly drawn actions in the place of the share ``rate`` of the rows."""
        rows, width = action.shape
        if self._discrete:
            random = torch.randint(width, (rows,), generator=generator, device=self.device)
            other = torch.nn.functional.one_hot(random, width).float()
        else:
            other = self._unscale(2.0 * torch.rand(action.shape, generator=generator, device=self.device) - 1.0)
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

    def _unscale(self, action: Tensor) -> Tensor:
        return self._low + 0.5 * (action + 1.0) * (self._high - self._low)

    def env_action(self, buffer_action: np.ndarray) -> Tensor:
        """Turn actions as SB3's buffer stores them, ``[N, *]``, into flat env actions ``[N, A]``."""
        if not isinstance(self._agent.action_space, spaces.Box):
            return self._action_codec.encode(buffer_action, self.device)
        return self._unscale(torch.as_tensor(buffer_action, dtype=torch.float32, device=self.device))

    def _buffer_action(self, action: Tensor) -> Tensor:
        if self._discrete:
            return action.argmax(-1, keepdim=True)
        return 2.0 * (action - self._low) / (self._high - self._low) - 1.0

    # -- batches --------------------------------------------------------------------------------

    def samples(
        self, rows: ImaginedRows, env: VecNormalize | None, like: ReplayBufferSamples | DictReplayBufferSamples | None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """Turn imagined rows into what SB3's ``train`` takes.

        Args:
            rows: ``[B, ...]``.
            env: normalises, or None.
            like: real samples, whose dtypes are taken and which are put in front; None for imagined
                rows alone. Where the real ones carry n-step discounts, imagined rows get one step's.
        """
        fields: dict[str, Any] = {
            "observations": self._policy_obs(rows.obs, env),
            "actions": self._buffer_action(rows.action),
            "next_observations": self._policy_obs(rows.next_obs, env),
            "dones": rows.terminated.float()[:, None],
            "rewards": self._normalize_reward(rows.reward[:, None], env),
            "discounts": None,
        }
        if like is not None:
            if like.discounts is not None:
                fields["discounts"] = torch.full_like(fields["rewards"], self.gamma)
            fields = {name: _join(getattr(like, name), value) for name, value in fields.items()}
        kind = DictReplayBufferSamples if isinstance(fields["observations"], dict) else ReplayBufferSamples
        return kind(**fields)

    def _policy_obs(self, flat: Tensor, env: VecNormalize | None) -> Any:
        obs = self._obs_codec.decode(flat)
        shape = get_obs_shape(self._agent.observation_space)
        if isinstance(obs, dict):
            assert isinstance(shape, dict)
            obs = {key: part.reshape(len(flat), *shape[key]) for key, part in obs.items()}
        else:
            obs = obs.reshape(len(flat), *shape)
        return self._normalize_obs(obs, env)

    def _normalize_obs(self, obs: Any, env: VecNormalize | None) -> Any:
        """Apply VecNormalize's current statistics to tensors; the same numbers as its ``normalize_obs``."""
        if env is None or not env.norm_obs:
            return obs
        if not isinstance(obs, dict):
            return self._standardize(obs, env.obs_rms, env)
        keys = env.norm_obs_keys or []
        return {k: self._standardize(v, env.obs_rms[k], env) if k in keys else v for k, v in obs.items()}

    @staticmethod
    def _standardize(obs: Tensor, rms: Any, env: VecNormalize) -> Tensor:
        mean = torch.as_tensor(rms.mean, device=obs.device)
        spread = torch.as_tensor(np.sqrt(rms.var + env.epsilon), device=obs.device)
        return ((obs - mean) / spread).clamp(-env.clip_obs, env.clip_obs).float()

    @staticmethod
    def _normalize_reward(reward: Tensor, env: VecNormalize | None) -> Tensor:
        if env is None or not env.norm_reward:
            return reward
        scale = float(np.sqrt(env.ret_rms.var + env.epsilon))
        return (reward / scale).clamp(-env.clip_reward, env.clip_reward)


def _join(real: Any, imagined: Any) -> Any:
    """Put imagined rows behind real ones, in the real ones' dtype."""
    if real is None:
        return imagined
    if isinstance(real, dict):
        return {key: _join(real[key], imagined[key]) for key in real}
    return torch.cat([real, imagined.to(real.dtype)])


@contextmanager
def _private_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Run with torch's global generators seeded, and put them back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
