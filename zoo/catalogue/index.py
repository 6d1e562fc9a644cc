"""The index of pretrained agents: for each name, the commit of a Hugging Face repository and its files' hashes.

The index is trusted, the server is not: a file whose size or SHA-256 differs from the index is refused.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage import versions
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, parse_json, read_bytes
from mbrl_wrappers.zoo.storage.manifest import MANIFEST, FileRecord, file_records

SMALL = "pretrained"
LARGE = "pretrained_large"  # not in the wheel, which they would make larger than 15 MB
# Names and revisions become folders in the cache, so they must not lead out of it.
_NAME = re.compile(r"[a-z0-9_]+/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class IndexEntry:
    """The place and the hashes of an agent's files.

    Attributes:
        repo: on the Hugging Face Hub, as ``"ORG/NAME"``.
        revision: the commit, as 40 hexadecimal digits; not a branch, which may change.
        files: the record of each file by name, including the manifest.

    Raises:
        ZooError: for an invalid value.
    """

    repo: str
    revision: str
    files: Mapping[str, FileRecord]

    def __post_init__(self) -> None:
        check_repo(self.repo)
        if not isinstance(self.revision, str) or not _COMMIT.fullmatch(self.revision):
            raise ZooError(f"revision must be a commit of 40 hexadecimal digits, got {self.revision!r}")
        file_records({name: asdict(record) for name, record in self.files.items()}, "files")
        if MANIFEST not in self.files:
            raise ZooError(f"files must contain {MANIFEST}, got {sorted(self.files)}")


def check_repo(repo: str) -> None:
    """Refuse an invalid name of a repository.

    Raises:
        ZooError: naming it.
    """
    if not isinstance(repo, str) or not _REPO.fullmatch(repo):
        raise ZooError(f"repo must be 'ORG/NAME', got {repo!r}")


def read_index(path: str | Path | None = None) -> dict[str, IndexEntry]:
    """Read an index.

    Args:
        path: of the JSON file; default: the library's own index.

    Returns:
        The entries by name, such as ``"mbpo/Hopper-v5"``.

    Raises:
        ZooError: naming the file and the entry that is wrong.
    """
    if path is not None:
        return _parse(read_bytes(path, MAX_JSON_BYTES, links=True), path)
    packaged = importlib.resources.files("mbrl_wrappers.zoo") / SMALL / "index.json"
    return _parse(packaged.read_bytes(), str(packaged))


def write_index(path: str | Path, entries: Mapping[str, IndexEntry]) -> None:
    """Write your own index, for :func:`read_index`.

    Raises:
        ZooError: naming an entry that :func:`read_index` would refuse; the file is not changed then.
    """
    agents = {name: index_entry_json(entry) for name, entry in entries.items()}
    data = json.dumps({"format_version": versions.INDEX.version, "agents": agents}, indent=1).encode()
    _parse(data, path)
    write_atomically(path, data)


def index_entry_json(entry: IndexEntry) -> dict[str, Any]:
    """Return an entry as the JSON object that stands under its name in an index."""
    files = {name: asdict(record) for name, record in entry.files.items()}
    return {"repo": entry.repo, "revision": entry.revision, "files": files}


def embedded() -> dict[str, Path]:
    """Return the agents that ship with the package, by name; in a clone, those too that are too large for a wheel."""
    package = Path(str(importlib.resources.files("mbrl_wrappers.zoo")))
    folders = [file.parent for root in (SMALL, LARGE) for file in (package / root).glob(f"*/*/{MANIFEST}")]
    return {f"{folder.parent.name}/{folder.name}": folder for folder in folders}


def cache_folder() -> Path:
    """Return the folder of pulled agents: ``$MBRL_WRAPPERS_HOME/zoo``, or ``mbrl_wrappers/zoo`` in the user's cache."""
    if home := os.environ.get("MBRL_WRAPPERS_HOME"):
        return Path(home).expanduser() / "zoo"
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user_cache).expanduser() / "mbrl_wrappers" / "zoo"


def cache_place(name: str, entry: IndexEntry) -> Path:
    """Return the folder an agent has, or would have, in the cache.

    Raises:
        ZooError: for a name that is not ``"AGENT/ENV"``.
    """
    check_agent_name(name)
    return cache_folder() / name / entry.revision


def cached(name: str, entry: IndexEntry) -> Path | None:
    """Return an agent's folder in the cache, None if it is not there; its files are not checked."""
    folder = cache_place(name, entry)
    return folder if (folder / MANIFEST).is_file() else None


def _parse(data: bytes, source: str | Path) -> dict[str, IndexEntry]:
    """Read an index's bytes."""
    content = parse_json(data, source)
    versions.INDEX.check(content, source)
    agents = content.get("agents")
    if not isinstance(agents, dict):
        raise ZooError(f"{source} must list agents, got {agents!r}")
    return {name: _entry(name, value, source) for name, value in agents.items()}


def _entry(name: str, value: Any, source: str | Path) -> IndexEntry:
    """Read one entry of an index."""
    try:
        check_agent_name(name)
        if not isinstance(value, dict) or value.keys() != {"repo", "revision", "files"}:
            raise ZooError(f"an entry must have a repo, a revision and files, got {value!r}")
        return IndexEntry(value["repo"], value["revision"], file_records(value["files"], "files"))
    except ZooError as error:
        raise ZooError(f"{source}: entry {name!r}: {error}") from None


def check_agent_name(name: str) -> None:
    """Refuse an invalid name of an agent."""
    if not _NAME.fullmatch(name):
        raise ZooError(f"name must be AGENT/ENV of letters, digits, '_', '-' and '.', got {name!r}")
