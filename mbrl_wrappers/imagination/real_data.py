"""Real transitions out of a Stable-Baselines3 replay buffer, as a model is fitted on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer

from mbrl_wrappers.imagination.terminations import terminations
from mbrl_wrappers.imagination.view import AgentView
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.types import Transitions


def real_transitions(buffer: ReplayBuffer, view: AgentView, dynamics: WorldModel) -> Transitions:
    """Read all usable transitions of a buffer (plain, n-step, Dict or HER).

    A transition's key is the place where it is stored, so that it stays on its side of the hold-out split as
    long as it is in the buffer. With ``optimize_memory_usage`` the buffer lacks the last observations of
    episodes, and these rows are left out. Even with ``handle_timeout_termination=False``, time limits are not returned
    as terminations if :class:`~mbrl_wrappers.imagination.ModelBased` saw the steps.

    Args:
        buffer: the agent's own buffer, not the decorated one.
        view: converts the buffer's actions to the env's.
        dynamics: has the codecs for flat observations.

    Returns:
        ``[N, ...]`` on the agent's device, observations and rewards raw.

    Raises:
        ValueError: if a stored value is not finite.
    """
    rows = buffer.size()
    places = np.arange(rows * buffer.n_envs).reshape(rows, buffer.n_envs)
    usable = np.ones((rows, buffer.n_envs), dtype=bool)
    if buffer.optimize_memory_usage:
        usable &= buffer.dones[:rows] == 0
        if buffer.full:
            usable[buffer.pos] = False  # its observation was overwritten by the newest next one
    step, env = np.nonzero(usable)

    def take(stored: Any, shift: int = 0) -> Any:
        if isinstance(stored, dict):
            return {key: take(part, shift) for key, part in stored.items()}
        return stored[(step + shift) % buffer.buffer_size, env]

    next_stored, shift = (buffer.observations, 1) if buffer.optimize_memory_usage else (buffer.next_observations, 0)
    codec = dynamics.obs_codec
    return Transitions(
        obs=codec.encode(take(buffer.observations), view.device, codec.exact_dtype),
        action=view.env_action(buffer.actions[step, env]),
        reward=torch.as_tensor(buffer.rewards[step, env], dtype=torch.float32, device=view.device),
        next_obs=codec.encode(take(next_stored, shift), view.device, codec.exact_dtype),
        terminated=torch.as_tensor(terminations(buffer)[step, env], device=view.device),
        key=torch.as_tensor(places[step, env], device=view.device),
    )
