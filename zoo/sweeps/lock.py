"""The right to write to a folder, which one process at a time has."""

from __future__ import annotations

import fcntl
import os
from multiprocessing import reduction
from pathlib import Path
from typing import Any

LOCK = ".lock"


class FolderLock:
    """The right to write to a folder, which one process at a time has.

    The kernel frees the lock when the last process that has it ends, even by ``kill -9``. To share the lock with a
    process, pass it as an argument when spawning the process.

    Args:
        descriptor: an open and locked file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> FolderLock:
        """Lock a folder, which is made if it is missing, once no other process has its lock."""
        return cls._lock(folder, fcntl.LOCK_EX)

    @classmethod
    def take_if_free(cls, folder: Path) -> FolderLock | None:
        """Lock a folder, which is made if it is missing; return None if another process has its lock."""
        try:
            return cls._lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None

    @classmethod
    def _lock(cls, folder: Path, operation: int) -> FolderLock:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, operation)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def close(self) -> None:
        """Give up the lock; the folder stays locked while another process shares it."""
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited_lock, (reduction.DupFd(self._descriptor),)


def _inherited_lock(descriptor: Any) -> FolderLock:
    return FolderLock(descriptor.detach())
