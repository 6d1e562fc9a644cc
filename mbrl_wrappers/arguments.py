"""Checks of a user's arguments that several rooms need."""

from __future__ import annotations

import numbers
from typing import Any


def check_whole_number(name: str, value: Any, least: int = 1) -> None:
    """Refuse anything but an integer (NumPy's too, but no bool) from ``least`` on.

    Raises:
        ValueError: naming the argument and the value.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_device(name: str, device: Any) -> None:
    """Refuse a device that this machine does not have, for which SB3 takes the CPU without a word.

    Args:
        name: the argument's name, for the error.
        device: as torch and SB3 take it; ``"auto"`` always passes.

    Raises:
        ValueError: naming the argument and the device.
    """
    import torch

    if isinstance(device, str) and device == "auto":
        return
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:
        problem = str(error).partition("\n")[0]
        raise ValueError(f"{name} must be one that this machine has, or 'auto', got {device!r}: {problem}") from error


def check_number(name: str, value: Any, low: float, high: float, *, low_is_valid: bool = True) -> None:
    """Refuse anything but a real number in ``[low, high]``, or in ``(low, high]``.

    Raises:
        ValueError: naming the argument and the value.
    """
    is_number = not isinstance(value, bool) and isinstance(value, numbers.Real)
    if not is_number or not (low < value <= high or (low_is_valid and value == low)):
        raise ValueError(f"{name} must be in {'[' if low_is_valid else '('}{low:g}, {high:g}], got {value!r}")
