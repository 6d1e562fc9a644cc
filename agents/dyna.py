"""Dyna (Sutton 1990) and MBPO (Janner et al. 2019): the agent trains on real and imagined transitions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.imagination.buffer import batches_at_once, draws_alike_at_once
from mbrl_wrappers.imagination.rows import ImaginedBuffer, ImaginedRows
from mbrl_wrappers.imagination.samples import split_samples
from mbrl_wrappers.imagination.strategy import Samples, Strategy
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.divergence import has_diverged
from mbrl_wrappers.models.members import ensemble_of
from mbrl_wrappers.models.uncertainty import Measure, resolve_measure
from mbrl_wrappers.types import Prediction, Transitions

Schedule = tuple[int, int, int, int]


class Dyna(Strategy):
    """Branched rollouts from real states under the current policy fill a buffer that batches are drawn from.

    The defaults are MBPO's (Janner et al. 2019, algorithm 2 and appendix C). Each refresh draws start
    states uniformly from the real data and rolls the sampled policy forward ``rollout_length`` steps,
    each step by a random elite of the model; a rollout stops at a termination, and the end of a
    rollout is not one. Classic Dyna is ``rollout_length=1`` with ``real_ratio=0.5``.

    With a ``HerReplayBuffer``, rollouts start with goals that the buffer samples and keep them, and rewards come from
    the env's ``compute_reward``. The buffer relabels a share of the real steps with the goal that they achieve
    themselves; the same share of the imagined steps is relabelled so. Imagined steps have no infos: with
    ``copy_info_dict=True`` the model learns the reward from relabelled transitions instead, and no imagined step is
    relabelled. The model learns terminations from the real goals: if episodes end at success and the real goal is
    always the same, give the model a ``termination_fn``, which knows the other goals.

    The buffer holds ``rollout_length * rollouts_per_step * epoch_length * retained_epochs`` rows on the agent's
    device, of ``4 * (2 D + A + 1) + 1`` bytes each for observations of width ``D`` and actions of width ``A``:
    17 MB per 100,000 rows of HalfCheetah, 308 MB per 100,000 of 376 observations and 17 actions.

    Args:
        real_ratio: share of every batch that is real, in [0, 1]; 1 is the agent without a model.
        rollout_length: ``k``, or a linear schedule ``(from_step, to_step, from_k, to_k)`` over env
            steps; MBPO's Hopper-v5 has ``(25_000, 155_000, 1, 15)``: its epochs count from the end of 5,000
            random steps.
        rollouts_per_step: rollouts per env step since the last refresh.
        retained_epochs: epochs whose imagined data is kept.
        epoch_length: env steps of an epoch.
        exploration: chance of an imagined action to be drawn uniformly from the action space, in [0, 1]; default:
            the agent's own exploration, as in MBPO. With 1, DQN and QR-DQN see as many imagined transitions of
            every action as of the greedy one; ``docs/results/learning.md`` has the effect on CartPole-v1.

    Raises:
        ValueError: for an argument out of its range.
    """

    measure: str | Measure | None = None  # of the uncertainty of steps, for strategies that look at it
    ends_where_not_kept = False  # whether a rollout ends with its first row that does not enter the buffer

    def __init__(
        self,
        real_ratio: float = 0.05,
        rollout_length: int | Schedule = 1,
        rollouts_per_step: int = 400,
        retained_epochs: int = 1,
        epoch_length: int = 1000,
        exploration: float | None = None,
    ) -> None:
        check_number("real_ratio", real_ratio, 0, 1)
        check_whole_number("rollouts_per_step", rollouts_per_step)
        check_whole_number("retained_epochs", retained_epochs)
        check_whole_number("epoch_length", epoch_length)
        if exploration is not None:
            check_number("exploration", exploration, 0, 1)
        self.real_ratio = real_ratio
        self.rollout_length = _check_rollout_length(rollout_length)
        self.rollouts_per_step = rollouts_per_step
        self.retained_epochs = retained_epochs
        self.epoch_length = epoch_length
        self.exploration = exploration
        self._buffer = ImaginedBuffer(self._capacity(0))

    def bind(self, view: AgentView, dynamics: DynamicsModel, generator: torch.Generator) -> None:
        """Take the agent and the model; see :meth:`Strategy.bind`."""
        super().bind(view, dynamics, generator)
        if self.measure is not None:
            ensemble_of(dynamics)  # refuses a model without at least two members

    def rollout_length_at(self, num_timesteps: int) -> int:
        """Return the rollout length ``k`` after ``num_timesteps`` env steps."""
        if isinstance(self.rollout_length, int):
            return self.rollout_length
        from_step, to_step, from_k, to_k = self.rollout_length
        progress = min(max((num_timesteps - from_step) / (to_step - from_step), 0.0), 1.0)
        return int(from_k + progress * (to_k - from_k))

    def _capacity(self, num_timesteps: int) -> int:
        rows = self._rows_per_rollout(self.rollout_length_at(num_timesteps))
        return math.ceil(rows * self.rollouts_per_step * self.epoch_length * self.retained_epochs)

    def _rows_per_rollout(self, length: int) -> float:
        """Return how many rows the buffer gets from a rollout of ``length`` steps, at most."""
        return length

    @torch.no_grad()
    def refresh(self, transitions: Transitions, num_timesteps: int, new_steps: int) -> dict[str, float]:
        """Roll out from real states; see :meth:`Strategy.refresh`."""
        self._buffer.resize(self._capacity(num_timesteps))
        # More rollouts than the buffer keeps would be thrown away at once.
        count = self.rollouts_per_step * min(new_steps, self.epoch_length * self.retained_epochs)
        index = torch.randint(len(transitions), (count,), generator=self._generator, device=self._view.device)
        obs, share = self._view.starts(transitions, index, self._generator)
        length = self.rollout_length_at(num_timesteps)
        rows, diverged, terminated = 0, 0, 0
        believed = self._view.believed(transitions.obs)
        for step in range(length):
            action = self._view.act(obs, self._generator, self.exploration)
            p = self._predict(obs, action)
            finite = ~has_diverged(p.next_obs, p.reward, believed)
            imagined = ImaginedRows(obs, action, p.reward, p.next_obs, p.terminated)
            imagined = self._view.in_hindsight(imagined, share, self._generator)
            imagined, kept = self._judge(imagined, p, step, length)
            self._buffer.add(imagined[finite & kept])
            rows += int((finite & kept).sum())
            diverged += len(obs) - int(finite.sum())
            terminated += int((p.terminated & finite).sum())
            goes_on = finite & ~p.terminated
            obs = p.next_obs[goes_on & kept if self.ends_where_not_kept else goes_on]
            if len(obs) == 0:
                break
        return {
            "rollout_length": float(length),
            "rows": float(rows),
            "buffer_rows": float(len(self._buffer)),
            "terminated": float(terminated),
            "diverged": float(diverged),
        }

    def _predict(self, obs: Tensor, action: Tensor) -> Prediction:
        if self.measure is None:
            return self._dynamics.predict(obs, action, generator=self._generator)
        measure = resolve_measure(self.measure)
        return ensemble_of(self._dynamics).predict_measured(obs, action, measure, generator=self._generator)

    def _judge(self, rows: ImaginedRows, prediction: Prediction, step: int, length: int) -> tuple[ImaginedRows, Tensor]:
        """Return the rows of a step of all rollouts, and a mask ``[B]`` of the rows that enter the buffer.

        Args:
            rows: ``[B]`` imagined steps, some perhaps not finite.
            prediction: the model's prediction of these steps.
            step: index of the step, from 0.
            length: steps of a rollout.
        """
        return rows, torch.ones_like(rows.terminated)

    def sample(self, real_buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None) -> Samples:
        """Draw ``real_ratio`` of the batch from real data and the rest from imagination."""
        return next(self.sample_block(real_buffer, batch_size, 1, env))

    def sample_block(
        self, real_buffer: ReplayBuffer, batch_size: int, count: int, env: VecNormalize | None
    ) -> Iterator[Samples]:
        """Draw batches as :meth:`sample` does, but the imagined and, if possible, the real rows of several at once."""
        num_real = round(self.real_ratio * batch_size) if len(self._buffer) else batch_size
        num_imagined = batch_size - num_real
        at_once = batches_at_once(real_buffer, batch_size)
        for first in range(0, count, at_once):
            batches = min(at_once, count - first)
            rows = self._buffer.sample(num_imagined * batches, self._generator) if num_imagined else None
            if draws_alike_at_once(real_buffer) or not num_real:
                yield from split_samples(self._put_together(real_buffer, num_real, rows, env, batches), batches)
                continue
            for batch in range(batches):  # the real rows of each batch are drawn separately, just before it is used
                own = None if rows is None else rows[batch * num_imagined : (batch + 1) * num_imagined]
                yield self._put_together(real_buffer, num_real, own, env)

    def _put_together(
        self,
        real_buffer: ReplayBuffer,
        num_real: int,
        rows: ImaginedRows | None,
        env: VecNormalize | None,
        batches: int = 1,
    ) -> Samples:
        """Draw ``num_real`` real rows for each batch and put its share of the imagined ones behind them."""
        real = real_buffer.sample(num_real * batches, env=env) if num_real else None
        if rows is None:
            assert real is not None
            return real
        return self._view.samples(rows, env, like=real, batches=batches)

    def has_imagined(self) -> bool:
        """Tell whether the buffer holds rows."""
        return len(self._buffer) > 0

    def imagined_state(self) -> dict[str, Tensor]:
        """Return the imagined rows, oldest first."""
        rows = self._buffer.ordered()
        return {} if rows is None else {f.name: getattr(rows, f.name) for f in dataclasses.fields(rows)}

    def load_imagined_state(self, state: dict[str, Tensor]) -> None:
        """Fill the buffer with saved rows."""
        if not state:
            return
        rows = ImaginedRows(**{name: value.to(self._view.device) for name, value in state.items()})
        self._buffer = ImaginedBuffer(max(self._buffer.capacity, len(rows)))
        self._buffer.add(rows)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the imagined rows too."""
        return {**super().__getstate__(), "_buffer": ImaginedBuffer(self._buffer.capacity)}


def _check_rollout_length(value: int | Schedule) -> int | Schedule:
    if not isinstance(value, tuple):
        check_whole_number("rollout_length", value)
        return value
    if len(value) != 4 or value[0] >= value[1] or min(value[2:]) < 1:
        raise ValueError(
            "rollout_length must be a whole number or (from_step, to_step, from_k, to_k) with from_step < to_step "
            f"and both k at least 1, got {value}"
        )
    from_step, to_step, from_k, to_k = value
    return from_step, to_step, from_k, to_k
