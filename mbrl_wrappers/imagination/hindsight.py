"""Goals for imagination, as hindsight experience replay (Andrychowicz et al. 2017) has them for real transitions."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.her import HerReplayBuffer
from torch import Tensor

from mbrl_wrappers.imagination.rows import ImaginedRows
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.divergence import all_finite
from mbrl_wrappers.models.given import GivenFunction, call_given
from mbrl_wrappers.models.members import ParticleStep, ensemble_of, members_of
from mbrl_wrappers.models.uncertainty import Measure
from mbrl_wrappers.seeding import numpy_state_kept
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.types import Outcome, Prediction, Transitions

_ACHIEVED, _DESIRED = "achieved_goal", "desired_goal"


class Hindsight:
    """Goals as a hindsight buffer replaces them, and the rewards that its env pays for them.

    Args:
        buffer: the agent's own buffer, not the decorated one.
        codec: of the observations.
    """

    def __init__(self, buffer: HerReplayBuffer, codec: FlatSpace) -> None:
        assert isinstance(codec.space, spaces.Dict)
        self._buffer = buffer
        self._codec = codec
        self._goal_codec = FlatSpace(codec.space[_DESIRED], f"observation_space[{_DESIRED!r}]")
        self.achieved, self.desired = (_columns(codec.space, key) for key in (_ACHIEVED, _DESIRED))

    @property
    def needs_info(self) -> bool:
        """Whether the buffer keeps infos for ``compute_reward``; imagined steps have no infos."""
        return self._buffer.copy_info_dict

    def with_goals(self, obs: Tensor, goal: Tensor) -> Tensor:
        """Return ``obs [..., D]`` with ``goal [..., G]`` as the desired one."""
        return torch.cat([obs[..., : self.desired.start], goal.to(obs), obs[..., self.desired.stop :]], dim=-1)

    def reachable(self, obs: Tensor) -> Tensor:
        """Return ``obs [N, D]``, followed by a copy in which each has the goal that it achieved: ``[2 N, D]``."""
        return torch.cat([obs, self.with_goals(obs, obs[..., self.achieved])])

    def relabel(self, obs: Tensor, key: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        """Replace the desired goals of a share of the rows, sampling goals and share as the buffer does.

        Args:
            obs: ``[N, D]`` of real transitions; in episodes that have not ended goals stay, since the buffer doesn't
                draw from these episodes.
            key: ``[N]`` of the transitions, the places where they are stored.
            generator: on the device of ``obs``.

        Returns:
            The observations ``[N, D]``, and the share of the ``N`` rows whose new goal is the one that their own
            transition achieved.
        """
        buffer = self._buffer
        seed = int(torch.randint(2**32, (1,), generator=generator, device=obs.device))
        chosen = torch.rand(len(obs), generator=generator, device=obs.device) < buffer.her_ratio
        step, env = np.divmod(key.cpu().numpy(), buffer.n_envs)
        rows = np.flatnonzero((buffer.ep_length[step, env] > 0) & chosen.cpu().numpy())
        if len(rows) == 0:
            return obs, 0.0
        with numpy_state_kept(seed):
            goals = buffer._sample_goals(step[rows], env[rows])
        index = torch.as_tensor(rows, device=obs.device)
        achieved = buffer.next_observations[_ACHIEVED][step[rows], env[rows]]
        relabelled = obs.clone()
        relabelled[index] = self.with_goals(obs[index], self._goal_codec.encode(goals, obs.device, obs.dtype))
        is_own = (goals == achieved).reshape(len(rows), -1).all(-1)
        return relabelled, int(is_own.sum()) / len(obs)

    def relabelled(self, transitions: Transitions, generator: torch.Generator) -> Transitions:
        """Return real transitions relabelled as the buffer does, with new goals and the rewards for these goals."""
        t = transitions
        obs, _ = self.relabel(t.obs, t.key, generator)
        changed = (obs != t.obs).any(-1)
        next_obs, reward = self.with_goals(t.next_obs, obs[:, self.desired]), t.reward.clone()
        step, env = np.divmod(t.key[changed].cpu().numpy(), self._buffer.n_envs)
        infos: Any = copy.deepcopy(self._buffer.infos[step, env]) if self.needs_info else [{} for _ in step]
        reward[changed] = self._compute_reward(next_obs[changed], infos).to(reward)
        return dataclasses.replace(t, obs=obs, next_obs=next_obs, reward=reward)

    def achieve_own(self, rows: ImaginedRows, own: Tensor, termination_fn: GivenFunction | None) -> ImaginedRows:
        """Replace the desired goal of imagined steps by the goal that the step itself achieves.

        Args:
            rows: ``[B]``.
            own: ``[B]`` bool, the rows whose goal is replaced.
            termination_fn: gives the terminations with the new goals; None to keep them, as the buffer does.
        """
        goal = torch.where(own[:, None], rows.next_obs[:, self.achieved], rows.obs[:, self.desired])
        obs, next_obs = self.with_goals(rows.obs, goal), self.with_goals(rows.next_obs, goal)
        reward = rows.reward.clone()
        reward[own] = self.reward(next_obs[own]).to(reward)  # asks the env, often row by row
        terminated = rows.terminated
        if termination_fn is not None:
            terminated = call_given(termination_fn, "termination_fn", obs, rows.action, next_obs)
        return ImaginedRows(obs, rows.action, reward, next_obs, terminated)

    def reward(self, next_obs: Tensor) -> Tensor:
        """Return the env's ``compute_reward`` ``[...]`` at ``next_obs [..., D]``; NaN where that is not finite."""
        flat = next_obs.detach().reshape(-1, next_obs.shape[-1])
        finite = all_finite(flat)
        reward = torch.full((len(flat),), torch.nan, device=flat.device)
        if finite.any():
            reward[finite] = self._compute_reward(flat[finite], [{} for _ in range(int(finite.sum()))]).to(reward)
        return reward.reshape(next_obs.shape[:-1])

    def _compute_reward(self, next_obs: Tensor, infos: Any) -> Tensor:
        """Call the env's ``compute_reward`` as the buffer does, which assumes that all envs are alike."""
        buffer, rows = self._buffer, len(next_obs)
        assert buffer.env is not None
        if rows == 0:
            return torch.zeros(0)
        parts = self._codec.decode_numpy(next_obs)
        achieved, desired = (
            parts[key]
            .reshape(rows, *buffer.next_observations[key].shape[2:])
            .astype(buffer.next_observations[key].dtype)
            for key in (_ACHIEVED, _DESIRED)
        )
        (reward,) = buffer.env.env_method("compute_reward", achieved, desired, infos, indices=[0])
        return torch.as_tensor(np.asarray(reward, dtype=np.float32).reshape(rows))


class GoalDynamics:
    """A model of an env with goals, in all else that model: goals stay, and rewards are the env's own for them.

    Hindsight replay assumes that a step's next state does not depend on the desired goal. So the model predicts with
    goals clamped to the range that it was fitted on (a single goal if all real episodes have the same one). A given
    termination function sees the actual goals, a learned termination the clamped ones.

    Args:
        inner: the model.
        hindsight: replaces goals and computes rewards.
    """

    def __init__(self, inner: DynamicsModel, hindsight: Hindsight) -> None:
        self.inner = inner
        self._hindsight = hindsight

    def __getattr__(self, name: str) -> Any:
        # The inner model's own versions ignore goals.
        if name in ("inner", "step", "inferred_step", "cross_step"):
            raise AttributeError(f"GoalDynamics has no {name}")
        return getattr(self.inner, name)

    @property
    def start_obs(self) -> Tensor:
        """Real observations, as they are and with the goals that they achieved."""
        return self._hindsight.reachable(self.inner.start_obs)

    def predict(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
        """Predict one step; see :meth:`DynamicsModel.predict`."""
        return self._with_goals(self.inner.predict(self._familiar(obs), action, **kwargs), obs, action)

    @property
    def particle_members(self) -> list[int]:
        """The members of the model."""
        return members_of(self.inner).particle_members

    def predict_mixture(self, obs: Tensor, action: Tensor, **kwargs: Any) -> Prediction:
        """Predict one step; see :meth:`Members.predict_mixture`."""
        mixture = members_of(self.inner).predict_mixture(self._familiar(obs), action, **kwargs)
        return self._with_goals(mixture, obs, action)

    def predict_measured(self, obs: Tensor, action: Tensor, measure: Measure, **kwargs: Any) -> Prediction:
        """Predict one step; see :meth:`Ensemble.predict_measured`."""
        prediction = ensemble_of(self.inner).predict_measured(self._familiar(obs), action, measure, **kwargs)
        return self._with_goals(prediction, obs, action)

    def particle_step(self, members: Any, **kwargs: Any) -> ParticleStep:
        """Return a function that takes steps with some members; see :meth:`Members.particle_step`."""
        inner = members_of(self.inner).particle_step(members, **kwargs)
        return lambda obs, action, generator: self._settle(inner(self._familiar(obs), action, generator), obs, action)

    def _familiar(self, obs: Tensor) -> Tensor:
        seen = self.inner.seen_range
        if not len(seen):
            return obs
        low, high = seen[:, self._hindsight.desired].to(obs)
        return self._hindsight.with_goals(obs, obs[..., self._hindsight.desired].clamp(low, high))

    def _with_goals(self, prediction: Prediction, obs: Tensor, action: Tensor) -> Prediction:
        settled = self._settle(prediction.outcome, obs, action)
        return dataclasses.replace(prediction, **settled._asdict())

    def _settle(self, outcome: Outcome, obs: Tensor, action: Tensor) -> Outcome:
        next_obs = self._hindsight.with_goals(outcome.next_obs, obs[..., self._hindsight.desired])
        terminated, ends = outcome.terminated, self.inner.termination_fn
        if ends is not None:
            terminated = call_given(ends, "termination_fn", obs, action, next_obs)
        return Outcome(next_obs, self._hindsight.reward(next_obs).to(outcome.reward), terminated)


def _columns(space: spaces.Dict, key: str) -> slice:
    """Return which columns of the flat form of a space hold a part of it."""
    start = 0
    for name, part in space.spaces.items():
        width = FlatSpace(part, name).dim
        if name == key:
            return slice(start, start + width)
        start += width
    raise KeyError(key)
