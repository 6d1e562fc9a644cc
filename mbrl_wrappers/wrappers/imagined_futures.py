"""I2A's imagination core: rollouts of a model from each observation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.models.world_model import WorldModel, select

RolloutPolicy = Callable[[Tensor], Tensor]


class ImaginationCore:
    """One imagined rollout for each first action, from each observation (Weber et al. 2017, arXiv:1707.06203).

    The actions behind the first are drawn from a rollout policy. Each step is the model's likeliest one. A rollout that
    has come to a predicted end stays where it is and earns nothing.

    Args:
        dynamics: a model of frames ``[C, H, W]`` of uint8, with Discrete actions.
        length: ``T``, steps of each rollout.
        rollout_policy: frames ``[N, C, H, W]``, floats in [0, 1], to logits of actions ``[N, A]``; default: all actions
            are equally likely. It is called without gradients.

    Attributes:
        space: of what :meth:`imagine` returns, a Dict:

            - ``"observation"``: the observation;
            - ``"frames"``: uint8 ``[A, T, C, H, W]``, imagined;
            - ``"rewards"``: float32 ``[A, T]``, imagined.

    Raises:
        ValueError: for other spaces, or an argument out of its range.
    """

    def __init__(self, dynamics: WorldModel, length: int = 3, rollout_policy: RolloutPolicy | None = None) -> None:
        check_whole_number("length", length)
        self.dynamics, self.length, self.rollout_policy = dynamics, length, rollout_policy
        self.space = imagined_space(dynamics.observation_space, dynamics.action_space, length)
        self._shape = dynamics.observation_space.shape or ()
        self._num_actions = dynamics.action_codec.dim

    @torch.no_grad()
    def imagine(
        self, obs: np.ndarray, generator: torch.Generator | None = None, *, alike: bool = False
    ) -> dict[str, np.ndarray]:
        """Imagine what follows observations.

        Args:
            obs: ``[B, C, H, W]``.
            generator: draws the actions, on the model's device; default: torch's global one.
            alike: whether the same random numbers serve every row, so that a row does not depend on its place.

        Returns:
            A batch of :attr:`space`.
        """
        model, actions = self.dynamics, self._num_actions
        state = model.begin(model.obs_codec.encode(obs, model.device, model.obs_dtype), generator)
        state = tree_map(lambda part: part.repeat_interleave(actions, 0), state)
        count = len(obs) * actions
        action = torch.eye(actions, device=model.device).repeat(len(obs), 1)
        drawn = torch.rand(
            (1 if alike else len(obs), actions, self.length), generator=generator, device=model.device
        ).expand(len(obs), -1, -1)
        over = torch.zeros(count, dtype=torch.bool, device=model.device)
        frames: list[Tensor] = []
        rewards: list[Tensor] = []
        for step in range(self.length):
            if step > 0:
                action = self._followed(frames[-1], drawn[..., step].reshape(count))
            after, said = model.step(state, action, generator, deterministic=True)
            stays = over | said.diverged
            state = select(stays, state, after)
            rewards.append(torch.where(stays, 0.0, said.reward))
            frames.append(model.decode(state))
            over = stays | said.terminated
        shape = (len(obs), actions, self.length)
        return {
            "observation": obs,
            "frames": torch.stack(frames, 1).reshape(*shape, *self._shape).cpu().numpy(),
            "rewards": torch.stack(rewards, 1).reshape(shape).float().cpu().numpy(),
        }

    def _followed(self, frames: Tensor, drawn: Tensor) -> Tensor:
        """Return the rollout policy's one-hot actions ``[N, A]`` in frames ``[N, D]``, by uniform numbers ``[N]``."""
        if self.rollout_policy is None:
            chances = frames.new_full((len(frames), self._num_actions), 1 / self._num_actions, dtype=torch.float32)
        else:
            chances = self.rollout_policy(frames.reshape(-1, *self._shape).float() / 255).softmax(-1)
        # The number of categories whose cumulative chance the uniform number exceeds; the last one takes what rounding
        # leaves.
        index = (drawn[:, None] > chances.cumsum(-1)[:, :-1]).sum(-1)
        return torch.nn.functional.one_hot(index, self._num_actions).float()


def imagined_space(observation_space: spaces.Space, action_space: spaces.Space, length: int) -> spaces.Dict:
    """Return the space of observations with their imagined futures; see :class:`ImaginationCore`.

    Raises:
        ValueError: if observations are not frames ``[C, H, W]`` of uint8, or actions not Discrete.
    """
    is_frame = isinstance(observation_space, spaces.Box) and observation_space.dtype == np.uint8
    shape = observation_space.shape or ()
    if not is_frame or len(shape) != 3 or shape[0] > min(shape[1:]):
        raise ValueError(f"observation_space must be a frame of uint8, channels first, got {observation_space}")
    if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
        raise ValueError(f"action_space must be Discrete and start at 0, got {action_space}")
    rollouts = (int(action_space.n), length)
    return spaces.Dict(
        {
            "observation": observation_space,
            "frames": spaces.Box(0, 255, (*rollouts, *shape), np.uint8),
            "rewards": spaces.Box(-np.inf, np.inf, rollouts, np.float32),
        }
    )
