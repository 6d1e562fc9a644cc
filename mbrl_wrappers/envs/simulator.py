"""Returns of action sequences in the true simulator: a planner's objective without a model."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from mbrl_wrappers.arguments import check_number
from mbrl_wrappers.envs.finite import scalar_reward
from mbrl_wrappers.envs.imagined import row_of
from mbrl_wrappers.envs.snapshots import Snapshots
from mbrl_wrappers.spaces import FlatSpace


class SimulatorReturns:
    """Returns of action sequences from the env's current state, each played in the env itself.

    The env is restored after each call, so that its episode goes on as if the call had not been made. In a random env
    every sequence is played with the random numbers that the env itself draws next, so a planner foresees the noise,
    which no agent could.

    The return ends with the episode: at a termination, and at a truncation too, because a real episode collects no
    reward beyond its time limit (a planner near the limit should not pay now for gains that come after it).

    Args:
        env: an env that :class:`~mbrl_wrappers.envs.snapshots.Snapshots` supports, with any wrappers; it has to be in
            the middle of an episode at each call.
        discount: factor per step, in [0, 1].

    Raises:
        ValueError: for an env that can't be restored exactly, an action space without a flat form, or a discount out
            of its range.
    """

    def __init__(self, env: gym.Env, *, discount: float = 1.0) -> None:
        check_number("discount", discount, 0, 1)
        self.action_codec = FlatSpace(env.action_space, "action_space")
        self.env = env
        self.discount = discount
        self._snapshots = Snapshots(env)

    def __call__(self, actions: Tensor) -> Tensor:
        """Evaluate candidate sequences.

        Args:
            actions: ``[1, P, H, A]`` flat actions in the env's units, one-hot where they are discrete.

        Returns:
            ``[1, P]`` returns in the dtype and on the device of ``actions``; minus infinity where a return is not
            finite.

        Raises:
            ValueError: if ``actions`` has another shape, or a reward is no number.
        """
        expected = (1, "P", "H", self.action_codec.dim)
        if actions.dim() != 4 or (actions.shape[0], actions.shape[3]) != (1, self.action_codec.dim):
            raise ValueError(
                f"actions must have shape {expected}, for the one env there is, got {tuple(actions.shape)}"
            )
        now = self._snapshots.take()
        returns = []
        for sequence in actions[0].cpu():
            try:
                returns.append(self._follow(sequence))
            finally:
                self._snapshots.restore(now)
        result = torch.tensor([returns], dtype=torch.float64)
        return torch.where(result.isfinite(), result, -torch.inf).to(actions)

    def _follow(self, sequence: Tensor) -> float:
        """Return the return of the actions ``[H, A]`` from the current state."""
        batch, total, factor = self.action_codec.decode_numpy(sequence), 0.0, 1.0
        for step in range(len(sequence)):
            _, reward, terminated, truncated, _ = self.env.step(self._action(batch, step))
            total += factor * scalar_reward(reward)
            if terminated or truncated:
                break
            factor *= self.discount
        return total

    def _action(self, batch: Any, step: int) -> Any:
        action = row_of(batch, step)
        return int(action) if isinstance(self.env.action_space, gym.spaces.Discrete) else action
