"""True terminations, for replay buffers that take time limits for them.

With ``handle_timeout_termination=False`` an SB3 buffer stores time limits as terminations, and the agent learns from
them, as its user wants. A model must not: it would end imagined episodes at observations where nothing ends. So the
env's true terminations are kept in an attribute of the buffer, to be saved, loaded and copied with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer

_UNKNOWN, _WENT_ON, _TERMINATED = 0, 1, 2


def note_terminations(buffer: ReplayBuffer, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
    """Note of a step that is about to be stored which envs terminated, where the buffer doesn't keep it.

    Args:
        buffer: the agent's own buffer, not the decorated one.
        dones: ``[num_envs]``, whether each env's episode ended.
        infos: of the envs, as SB3's VecEnvs give them.
    """
    if not mixes_time_limits(buffer):
        return
    limited = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
    own: Any = buffer  # its class does not declare these attributes
    own.true_terminations = _notes_of(buffer)
    own.true_terminations[buffer.pos] = np.where(np.asarray(dones, dtype=bool) & ~limited, _TERMINATED, _WENT_ON)
    own.true_terminations_until = buffer.pos


def terminations(buffer: ReplayBuffer) -> np.ndarray:
    """Return which rows of a buffer terminated, bool ``[size, n_envs]``: as noted, or as stored if not noted."""
    rows = buffer.size()
    stored = buffer.dones[:rows] * (1 - buffer.timeouts[:rows]) > 0.5
    if not mixes_time_limits(buffer):
        return stored
    notes = _notes_of(buffer)[:rows]
    return np.where(notes == _UNKNOWN, stored, notes == _TERMINATED)


def count_unknown_ends(buffer: ReplayBuffer) -> int:
    """Return the number of rows that may be time limits although the buffer says that they terminated."""
    if not mixes_time_limits(buffer):
        return 0
    rows = buffer.size()
    return int(((_notes_of(buffer)[:rows] == _UNKNOWN) & (buffer.dones[:rows] > 0)).sum())


def mixes_time_limits(buffer: ReplayBuffer) -> bool:
    """Tell whether a buffer stores time limits as terminations where a model would be fitted on them.

    With ``optimize_memory_usage`` the buffer lacks the last observation of an episode, and no model sees these rows.
    """
    return not buffer.handle_timeout_termination and not buffer.optimize_memory_usage


def _notes_of(buffer: ReplayBuffer) -> np.ndarray:
    """Return the note of each row; nothing is known if rows were stored in the meantime without being noted."""
    notes = getattr(buffer, "true_terminations", None)
    if notes is not None:
        last = buffer.true_terminations_until  # type: ignore[attr-defined]
        if buffer.pos in (last, (last + 1) % buffer.buffer_size):  # the last noted step may not be stored yet
            return notes
    return np.full(buffer.dones.shape, _UNKNOWN, np.int8)
