"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import socket
import uuid
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.(?P<pid>[0-9]+)-(?P<host>[0-9a-f]{8})-[0-9a-f]{32}")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path``, then rename: the old file stays until then."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # the umask takes permissions away
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_beside(path: Path) -> Path:
    """Return a new path beside ``path`` whose name holds the id of this process."""
    return path.with_name(f".{path.name}.{os.getpid()}-{_host()}-{uuid.uuid4().hex}")


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders in a folder that processes of this host left behind when killed."""
    for path in folder.glob(".*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or found["host"] != _host() or _is_alive(int(found["pid"])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _host() -> str:
    """Return a name for this host: process ids mean nothing to other hosts that share the disk."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, socket.gethostname()).hex[:8]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process, or a number too large to be a process id
        return True
    return True
