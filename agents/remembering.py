"""The base of agents that act on the features of a latent model, whose state they remember."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from torch import Tensor

from mbrl_wrappers.agents.agent_with_model import AgentWithModel, check_state, started_episodes


class Memory(NamedTuple):
    """What an agent remembers of ``B`` environments.

    Attributes:
        rows: of the model's states, ``[B, W]``.
        action: the last one, ``[B, A]``, flat and in the env's units.
    """

    rows: Tensor
    action: Tensor


class RememberingAgent(AgentWithModel):
    """An agent with a latent model, which acts on the features of all that was observed so far.

    The agent remembers: pass the state that :meth:`predict` returns to its next call, and ``episode_start``, as
    ``evaluate_policy`` does. The random numbers of ``predict`` depend only on the agent's seed and the number of calls,
    which the state counts; so evaluations don't disturb training.
    """

    _memory: Memory | None = None

    @abstractmethod
    def _act(self, features: Tensor, generator: torch.Generator | None = None, deterministic: bool = False) -> Tensor:
        """Return actions ``[B, A]`` for features ``[B, F]``: one-hot, or from -1 to 1 where continuous."""

    def _act_while_learning(self, features: Tensor) -> Tensor:
        """Return the actions of all envs, in their order, by which the agent learns; see :meth:`_act`."""
        return self._act(features)

    @torch.no_grad()
    def act_on(self, features: Tensor, deterministic: bool = True) -> Tensor:
        """Return the actions ``[B, A]``, flat and in the env's units, for features ``[B, F]`` of the model's states."""
        return self._env_action(self._act(features, None, deterministic))

    # -- acting ---------------------------------------------------------------------------------

    def _env_action(self, action: Tensor) -> Tensor:
        """Turn actions ``[B, A]`` into the env's units; they may lie beyond the bounds."""
        return action if isinstance(self.action_space, spaces.Discrete) else self._view.unscale(action)

    def _remembering(
        self, memory: Memory | None, obs: Tensor, started: Any, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the rows ``[B, W]`` of the model's states after new observations ``[B, D]``.

        Args:
            memory: None for episodes that begin.
            obs: flat and raw.
            started: ``[B]`` bool, environments that have just started an episode.
            generator: of the posterior's sample.
        """
        model = self.dynamics
        if memory is None:
            return model.rows_of(model.begin(obs, generator))
        is_first = torch.as_tensor(np.asarray(started, dtype=bool), device=self.device)
        before = model.state_of(memory.rows)
        return model.rows_of(model.observe(before, memory.action, obs, is_first, generator))

    def _features(self, rows: Tensor) -> Tensor:
        return self.dynamics.features(self.dynamics.state_of(rows))

    @torch.no_grad()
    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Act at random while learning has not started, then by the actor; returns env actions and the buffer's."""
        if self.num_timesteps < learning_starts:
            self._memory = None
            return super()._sample_action(learning_starts, action_noise, n_envs)
        if self._memory is not None and len(self._memory.action) != n_envs:
            self._memory = None
        rows = self._remembering(self._memory, self._last_flat_obs(), self._last_episode_starts)
        own = self._act_while_learning(self._features(rows))
        if action_noise is not None and isinstance(self.action_space, spaces.Box):
            noise = torch.as_tensor(action_noise(), dtype=own.dtype, device=self.device)
            own = own + noise.reshape(-1, own.shape[-1])
        action = self.dynamics.action_codec.decode_numpy(self._env_action(own))
        self._memory = Memory(rows, self.dynamics.action_codec.encode(action, self.device))
        return action, self.policy.scale_action(action) if isinstance(self.action_space, spaces.Box) else action

    @torch.no_grad()
    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions for one observation or a batch.

        Args:
            observation: as SB3's agents take it.
            state: what the last call returned; None where episodes begin.
            episode_start: ``[B]`` bool, environments whose memories are forgotten; default: none.
            deterministic: whether the actor's likeliest action is taken; the model's state is a sample all the same.

        Returns:
            The actions, and the state for the next call.

        Raises:
            ValueError: if the observation is not finite, or the state or ``episode_start`` is for another number of
                environments.
        """
        obs, is_batch = self.flat_observation(observation)
        memory, calls = self._unpack(state, len(obs))
        started = started_episodes(episode_start, len(obs))
        generator = torch.Generator(self.device).manual_seed(self._predict_seed(calls))
        rows = self._remembering(memory, obs, started, generator)
        own = self._act(self._features(rows), generator, deterministic)
        codec = self.dynamics.action_codec
        action = codec.decode_numpy(self._env_action(own))
        taken = codec.encode(action, "cpu").numpy()
        state = (rows.cpu().numpy(), taken, np.full(len(obs), calls + 1))
        return action if is_batch else action[0], state

    def _unpack(self, state: tuple[np.ndarray, ...] | None, batch: int) -> tuple[Memory | None, int]:
        """Return memories and the number of earlier calls."""
        if state is None:
            return None, 0
        shapes = [(batch, sum(self.dynamics.state_widths)), (batch, self.dynamics.action_codec.dim), (batch,)]
        check_state(state, shapes)
        rows, action = (torch.as_tensor(part, device=self.device) for part in state[:2])
        return Memory(rows, action), int(state[2][0])

    # -- saving ---------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_memory"]
