"""Checks of actions, for the tasks that this library brings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def only_number(action: Any) -> float:
    """Return the number in an action of shape ``(1,)``, refusing anything else."""
    array = np.asarray(action)
    if array.shape != (1,) or not math.isfinite(array[0]):
        raise ValueError(f"action must be one finite number of shape (1,), got shape {array.shape}: {action}")
    return float(array[0])
