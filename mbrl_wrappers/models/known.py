"""Exact dynamics in the place of learned ones: the oracle that a learned model is measured against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.given import GivenFunction, call_given, resolve
from mbrl_wrappers.models.members import InferredStep
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.tasks.registry import TASKS
from mbrl_wrappers.tasks.task import StepFunction, uniform_rows
from mbrl_wrappers.types import Prediction, Transitions


class KnownDynamics(DynamicsModel):
    """A system whose equations are known, behind the contract of a learned model.

    A planner or an agent does as well with it as it could with a perfectly learned model, which separates the errors
    of a learned model from those of the planner or agent.

    Args:
        observation_space: the environment's.
        action_space: the environment's.
        step_fn: ``(obs [N, D], action [N, A]) -> next_obs [N, D]``, flat and in the env's units
            (one-hot where discrete); rows must not depend on each other, and gradients need a differentiable function.
        reward_fn: ``(obs [N, D], action [N, A], next_obs [N, D]) -> [N]``, or the id of an
            environment whose reward function is known.
        termination_fn: the same, but returning bool; default: a step never terminates.
        noise_std: standard deviation of the Gaussian noise that a sampled step adds to every column
            of ``next_obs``, in the env's units. It is part of the system, not ignorance about it, so
            the uncertainty of a prediction is still 0.
        start_obs: ``[S, D]`` where imagined episodes start until the first fit; default: none. If both this tensor and
            the space are float64, so are imagined observations.

    Raises:
        ValueError: for an argument out of its range, an unsupported space, or an unknown id.

    Example:
        >>> env = ImaginedVecEnv(KnownDynamics.for_env("Pendulum-v1"), num_envs=256)  # doctest: +SKIP
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        step_fn: StepFunction,
        reward_fn: GivenFunction | str,
        termination_fn: GivenFunction | str | None = None,
        *,
        noise_std: float = 0.0,
        start_obs: Tensor | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        if not 0 <= noise_std < math.inf:
            raise ValueError(f"noise_std must be at least 0 and finite, got {noise_std}")
        self.step_fn = step_fn
        reward, _ = resolve(reward_fn, "reward_fn")
        if reward is None:
            raise ValueError(f"reward_fn must be a callable or an environment's id, got {reward_fn!r}")
        self.reward_fn = reward
        self.termination_fn, _ = resolve(termination_fn, "termination_fn")
        self.noise_std = noise_std
        if start_obs is not None:
            if start_obs.shape[1:] != (self.obs_codec.dim,) or not torch.isfinite(start_obs).all():
                raise ValueError(
                    f"start_obs must be finite and of shape [S, {self.obs_codec.dim}], "
                    f"got shape {tuple(start_obs.shape)}: {start_obs}"
                )
            is_exact = start_obs.dtype == self.obs_codec.exact_dtype == torch.float64
            self.start_obs = start_obs.detach().clone().to(start_obs.dtype if is_exact else self.start_obs.dtype)
            self._like_obs = self.start_obs.new_zeros(())

    @classmethod
    def for_env(cls, env_id: str) -> KnownDynamics:
        """Build the exact model of an environment whose equations are known.

        Args:
            env_id: such as ``"Pendulum-v1"``.

        Raises:
            ValueError: if its equations are not known.
        """
        known = sorted(name for name, task in TASKS.items() if task.physics is not None)
        if env_id not in known:
            raise ValueError(f"env_id must be one of {known}, got {env_id!r}")
        physics = TASKS[env_id].physics
        assert physics is not None
        return cls(*physics.make_spaces(), physics.step_fn, env_id, env_id, start_obs=physics.make_starts())

    @classmethod
    def linear_quadratic(
        cls,
        A: Any,
        B: Any,
        Q: Any,
        R: Any,
        *,
        noise_std: float = 0.0,
        action_bound: float = 1.0,
        start_bound: float = 1.0,
    ) -> KnownDynamics:
        """Build a linear system with a quadratic cost, whose best policy has a closed form.

        ``x' = A x + B u + noise`` and reward ``-(x^T Q x + u^T R u)``; episodes never terminate, and
        states are unbounded.

        Args:
            A: ``[D, D]``, anything that NumPy can turn into a matrix.
            B: ``[D, A]``.
            Q: ``[D, D]`` cost of the state before the action.
            R: ``[A, A]`` cost of the action.
            noise_std: standard deviation of the noise on each state.
            action_bound: the action space is ``[-action_bound, action_bound]^A``, but the system itself does not clip
                actions to it.
            start_bound: episodes start uniformly in ``[-start_bound, start_bound]^D``.

        Raises:
            ValueError: for a matrix of the wrong shape or with values that are not finite, or a bound
                that is not positive and finite.
        """
        state_dim, action_dim = _matrix(B, "B", (None, None)).shape
        for name, bound in (("action_bound", action_bound), ("start_bound", start_bound)):
            if not 0 < bound < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {bound}")
        return cls(
            spaces.Box(-np.inf, np.inf, (state_dim,), np.float32),
            spaces.Box(-action_bound, action_bound, (action_dim,), np.float32),
            _LinearStep(_matrix(A, "A", (state_dim, state_dim)), _matrix(B, "B", (state_dim, action_dim))),
            _QuadraticReward(_matrix(Q, "Q", (state_dim, state_dim)), _matrix(R, "R", (action_dim, action_dim))),
            noise_std=noise_std,
            start_obs=uniform_rows(*[start_bound] * state_dim),
        )

    def predict(
        self,
        obs: Tensor,
        action: Tensor,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Prediction:
        """Take the true step; see :meth:`DynamicsModel.predict`. Its uncertainty is 0."""
        batch = obs.shape[:-1]
        flat_obs, flat_action = self._flatten(obs, "obs"), self._flatten(action, "action")
        next_obs = _call_step(self.step_fn, flat_obs, flat_action)
        if self.noise_std and not deterministic:
            noise = torch.randn(next_obs.shape, generator=generator, dtype=next_obs.dtype, device=next_obs.device)
            next_obs = next_obs + self.noise_std * noise
        assert self.reward_fn is not None  # checked by the constructor
        reward = call_given(self.reward_fn, "reward_fn", flat_obs, flat_action, next_obs)
        if self.termination_fn is None:
            terminated = torch.zeros(len(flat_obs), dtype=torch.bool, device=obs.device)
        else:
            terminated = call_given(self.termination_fn, "termination_fn", flat_obs, flat_action, next_obs)
        return Prediction(
            next_obs.reshape(obs.shape), reward.reshape(batch), terminated.reshape(batch), obs.new_zeros(batch)
        )

    def inferred_step(self, members: Sequence[int]) -> InferredStep:
        """Return a step function whose noise is the difference between the real step and the equations.

        See :meth:`InfersNoise.inferred_step <mbrl_wrappers.models.members.InfersNoise.inferred_step>`.
        """

        def step(obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
            flat_obs, flat_action = self._flatten(obs, "obs"), self._flatten(action, "action")
            said = _call_step(self.step_fn, flat_obs, flat_action).reshape(obs.shape)
            again = said + (next_obs - said).detach()
            assert self.reward_fn is not None  # checked by the constructor
            paid = call_given(self.reward_fn, "reward_fn", flat_obs, flat_action, again.flatten(0, -2))
            paid = paid.reshape(reward.shape)
            return again, paid + (reward - paid).detach()

        return step

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Learn nothing: measure the error on the rows of the experience and keep start states from them.

        Returns:
            ``rows`` and ``holdout_error``, the mean squared error of ``[next_obs - obs, reward]``, each column divided
            by its standard deviation, as for :meth:`EnsembleDynamics.fit <mbrl_wrappers.models.EnsembleDynamics.fit>`.
        """
        transitions = experience.rows().to(self.device)
        self._check_transitions(transitions)
        self._observe(transitions)
        error = self._error(transitions)
        self._keep_start_states(transitions.obs, generator)
        return {"holdout_error": error, "rows": float(len(transitions))}

    @torch.no_grad()
    def _error(self, real: Transitions) -> float:
        said = self.predict(real.obs, real.action, deterministic=True)
        target = torch.cat([real.next_obs - real.obs, real.reward[:, None]], dim=-1)
        predicted = torch.cat([said.next_obs - real.obs, said.reward[:, None]], dim=-1)
        normalizer = Normalizer(target.shape[-1]).to(target)
        normalizer.fit(target)
        return float((normalizer.normalize(predicted) - normalizer.normalize(target)).square().mean())


class _LinearStep(nn.Module):
    """``x' = A x + B u``; the matrices move with the model to its device."""

    A: Tensor
    B: Tensor

    def __init__(self, A: Tensor, B: Tensor) -> None:
        super().__init__()
        self.register_buffer("A", A)
        self.register_buffer("B", B)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return obs @ self.A.T.to(obs.dtype) + action @ self.B.T.to(obs.dtype)


class _QuadraticReward(nn.Module):
    """``-(x^T Q x + u^T R u)``."""

    Q: Tensor
    R: Tensor

    def __init__(self, Q: Tensor, R: Tensor) -> None:
        super().__init__()
        self.register_buffer("Q", Q)
        self.register_buffer("R", R)

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        state_cost = (obs @ self.Q.to(obs.dtype) * obs).sum(-1)
        return -(state_cost + (action @ self.R.to(obs.dtype) * action).sum(-1))


def _matrix(value: Any, name: str, shape: tuple[int | None, int | None]) -> Tensor:
    """Return a finite matrix of the given shape; None stands for any positive size."""
    array = np.asarray(value, dtype=np.float64)
    fits = array.ndim == 2 and array.size and all(n in (None, size) for n, size in zip(shape, array.shape, strict=True))
    if not fits or not np.isfinite(array).all():
        wanted = "a matrix" if shape == (None, None) else f"of shape {shape}"
        raise ValueError(f"{name} must be finite and {wanted}, got shape {array.shape}: {array.tolist()}")
    return torch.as_tensor(array, dtype=torch.get_default_dtype())


def _call_step(step_fn: StepFunction, obs: Tensor, action: Tensor) -> Tensor:
    """Call a user's step function on ``[N, D]`` and ``[N, A]`` and check its result."""
    next_obs = step_fn(obs, action)
    expected = f"step_fn must return a tensor of shape {tuple(obs.shape)} and floating dtype"
    if not isinstance(next_obs, Tensor):
        raise ValueError(f"{expected}, got {type(next_obs).__name__}: {next_obs!r}")
    if next_obs.shape != obs.shape or not next_obs.is_floating_point():
        raise ValueError(f"{expected}, got shape {tuple(next_obs.shape)} and dtype {next_obs.dtype}")
    return next_obs
