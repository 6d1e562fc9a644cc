"""Model-based value expansion (Feinberg et al. 2018): targets that look H imagined steps ahead."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_wrappers.agents.policy_rollouts import step_in_turn
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.imagination.rows import TargetRows
from mbrl_wrappers.imagination.samples import join_samples, pick_samples
from mbrl_wrappers.imagination.strategy import Samples, Strategy
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.divergence import RealRange, has_diverged
from mbrl_wrappers.returns import PendingReturn
from mbrl_wrappers.types import Transitions

# A further draw has at least so many rows, since a few rows too many cost less than yet another draw, and since HER
# relabels a fixed share of the rows of a draw.
_LEAST_STARTS = 8


class MVE(Strategy):
    """Values are regressed on the rewards of ``H`` imagined steps plus the agent's own bootstrap after these.

    From the real transition ``(s_-1, a_-1, r_-1, s_0)`` of a batch the model is rolled out under the policy that the
    agent's target bootstraps with (the H-step expansion of the paper)::

        y_t = sum_{k=t}^{H-1} gamma^(k-t) r_k + gamma^(H-t) V(s_H)        for t = -1, ..., H-1

    With ``td_k`` (the paper's TD-k trick), the value at each state ``s_t`` of the rollout is regressed on its ``y_t``,
    so that a batch of ``B`` rows starts from ``B / (H + 1)`` real ones; without it, only the value at the real state,
    on ``y_-1``. A batch holds the sum of rewards and the discount ``gamma^(H-t)``; the agent's ``train`` adds
    ``V(s_H)`` as for any batch: clipped double critics, TQC's quantiles, SAC's entropy. For SAC, the entropy bonus of
    the imagined actions is added to the rewards.

    Real n-step rows are continued where they end. A termination, real or imagined, ends the sum without a bootstrap;
    a prediction that is not finite ends the rollout at the state before it.

    Deviations: each rollout follows the mean of one member of an ensemble, while the paper has one network; with
    ``td_k`` the agent's batch keeps its size, so it holds fewer real transitions; the policy is improved at the batch's
    imagined states too; rows that are missing after a termination are replaced by rows from further starts.

    Args:
        horizon: imagined steps ``H``, at least 0; 0 is the agent without a model. The paper has 3 to 30, by task.
        td_k: whether to regress the values at imagined states too.

    Raises:
        ValueError: for an argument out of its range, or, when training starts, an agent without a critic.

    Example:
        >>> agent.learn(5_000, callback=ModelBased(MVE(horizon=3)))  # doctest: +SKIP
    """

    rewards_are_targets = True

    def __init__(self, horizon: int = 3, td_k: bool = True) -> None:
        check_whole_number("horizon", horizon, 0)
        self.horizon = horizon
        self.td_k = td_k
        self._rows, self._diverged = 0, 0

    def bind(self, view: AgentView, dynamics: DynamicsModel, generator: torch.Generator) -> None:
        """Take the agent; see :meth:`Strategy.bind`."""
        view.check_critic()
        super().bind(view, dynamics, generator)

    def refresh(self, transitions: Transitions, num_timesteps: int, new_steps: int) -> dict[str, float]:
        """Report on the batches since the last refresh; nothing is imagined in advance."""
        report = {"rows": float(self._rows), "diverged": float(self._diverged)}
        self._rows, self._diverged = 0, 0
        return report

    def sample(self, real_buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None) -> Samples:
        """Draw real rows and roll out from them."""
        if self.horizon == 0:
            return real_buffer.sample(batch_size, env=env)
        per_start = self.horizon + 1 if self.td_k else 1
        batch = self._expand(real_buffer, math.ceil(batch_size / per_start), env)
        while (missing := batch_size - len(batch.rewards)) > 0:  # some rollouts ended early
            more = max(math.ceil(missing / per_start), _LEAST_STARTS)
            batch = join_samples(batch, self._expand(real_buffer, more, env))
        if len(batch.rewards) == batch_size:
            return batch
        order = torch.randperm(len(batch.rewards), generator=self._generator, device=self._view.device)
        return pick_samples(batch, order[:batch_size])

    @torch.no_grad()
    def _expand(self, real_buffer: ReplayBuffer, starts: int, env: VecNormalize | None) -> Samples:
        """Draw at least ``starts`` real rows; returns them and, with ``td_k``, the imagined ones behind them."""
        view = self._view
        real, obs, discount = view.draw_real(real_buffer, starts, env)
        is_last = real.dones.reshape(-1) > 0
        with view.evaluating():
            steps, obs = self._roll_out(obs, ~is_last, env)
        ahead = PendingReturn.at(obs)
        imagined: list[TargetRows] = []
        for step in reversed(steps):
            behind = ahead.after(step.reward, step.terminated, view.gamma)  # y_t = r_t + gamma y_{t+1}
            imagined.append(TargetRows(step.obs, step.action, *behind))
            ahead = PendingReturn(
                torch.where(step.is_finite, step.bonus + behind.reward, 0.0),
                torch.where(step.is_finite[:, None], behind.obs, step.obs),
                step.is_finite & behind.terminated,
                torch.where(step.is_finite, behind.discount, 1.0),
            )
        behind = ahead.after(real.rewards.reshape(-1), is_last, discount)
        real = real._replace(
            rewards=behind.reward[:, None].to(real.rewards),
            dones=behind.terminated[:, None].to(real.dones),
            next_observations=view.policy_obs(behind.obs, env),
            discounts=behind.discount[:, None].to(real.rewards),
        )
        self._rows += starts
        if not self.td_k:
            return real
        taken = torch.cat([step.is_taken for step in reversed(steps)]).nonzero()[:, 0]  # in the order of imagined
        self._rows += len(taken)
        return view.target_samples(TargetRows.join(imagined)[taken], env, like=real)

    def _roll_out(self, obs: Tensor, alive: Tensor, env: VecNormalize | None) -> tuple[list[_Step], Tensor]:
        """Take ``horizon`` steps from ``obs [B, D]``; returns them and the observations after the last one."""
        step = step_in_turn(self._dynamics, self._generator, deterministic=True, sample_discrete=True)
        believed = RealRange.around(self._dynamics.start_obs)
        steps = []
        for _ in range(self.horizon):
            action, bonus = self._view.target_policy(obs, self._generator)
            next_obs, reward, terminated = step(obs, action)
            is_finite = ~has_diverged(next_obs, reward, believed)
            reward = self._view.normalize_reward(torch.where(is_finite, reward, 0.0), env)
            terminated = terminated & is_finite
            steps.append(_Step(obs, action, bonus, reward, terminated, is_finite, alive & is_finite))
            self._diverged += int((alive & ~is_finite).sum())
            alive = alive & is_finite & ~terminated
            obs = torch.where(is_finite[:, None], next_obs, obs)
        return steps, obs


class _Step(NamedTuple):
    """An imagined step of ``B`` rollouts; ``is_taken`` where the rollout had not ended before and the step is finite.

    ``bonus`` is the action's entropy bonus; it is part of the state's value V, not of the action's value Q.
    """

    obs: Tensor
    action: Tensor
    bonus: Tensor
    reward: Tensor
    terminated: Tensor
    is_finite: Tensor
    is_taken: Tensor
