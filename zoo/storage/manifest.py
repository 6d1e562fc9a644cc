"""The list of an agent's files with their sizes and SHA-256: it is written last and checked first.

A folder is complete if and only if it has a manifest; nothing else marks the end of a run. Files that are not in the
list are never read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage import versions
from mbrl_wrappers.zoo.storage.limits import (
    MAX_FILES,
    MAX_JSON_BYTES,
    max_bytes,
    parse_json,
    read_bytes,
    sha256_of_file,
)

MANIFEST = "manifest.json"

# No separators: an agent's folder has no folders in it. No leading dot: no hidden files, and no `..`.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """One file of a manifest.

    Attributes:
        sha256: of its bytes, as 64 hexadecimal digits.
        size: in bytes.
    """

    sha256: str
    size: int


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write_manifest(folder: str | Path, names: Iterable[str]) -> None:
    """List the files of a folder in its manifest, after which the folder counts as complete.

    Args:
        folder: where the files are.
        names: of the files that belong to the agent.
    """
    folder = Path(folder)
    records = {}
    for name in sorted(names):
        check_file_name(name, folder)
        records[name] = asdict(FileRecord(*sha256_of_file(folder / name, max_bytes(name))))
    text = json.dumps({"format_version": versions.MANIFEST.version, "files": records}, indent=1)
    write_atomically(folder / MANIFEST, text.encode())


def read_manifest(folder: str | Path) -> dict[str, FileRecord]:
    """Return a folder's manifest; the files themselves are not looked at.

    Raises:
        ZooError: if there is no manifest, or an invalid one.
    """
    folder = Path(folder)
    file = folder / MANIFEST
    if not file.is_file():
        raise ZooError(f"{folder} must be an agent's folder, it has no {MANIFEST}")
    return parse_manifest(read_bytes(file, MAX_JSON_BYTES), file)


def parse_manifest(data: bytes, source: str | Path) -> dict[str, FileRecord]:
    """Read a manifest's bytes.

    Args:
        data: the JSON.
        source: where the manifest comes from, for errors.

    Raises:
        ZooError: if it is no manifest, or lists a file with an invalid name or size.
    """
    content = parse_json(data, source)
    versions.MANIFEST.check(content, source)
    return file_records(content.get("files"), source)


def file_records(value: Any, source: str | Path) -> dict[str, FileRecord]:
    """Read the records of files by name, out of a JSON object.

    Raises:
        ZooError: as :func:`parse_manifest`.
    """
    if not isinstance(value, dict) or not value:
        raise ZooError(f"{source} must list files, got {value!r}")
    if len(value) > MAX_FILES:
        raise ZooError(f"{source} must list at most {MAX_FILES} files, got {len(value)}")
    records = {}
    for name, record in value.items():
        check_file_name(name, source)
        known = isinstance(record, dict) and record.keys() == {"sha256", "size"}
        if not known or not isinstance(record["sha256"], str) or not _SHA256.fullmatch(record["sha256"]):
            raise ZooError(f"{source}: the record of {name} must be a sha256 and a size, got {record!r}")
        if type(record["size"]) is not int or record["size"] < 0:
            raise ZooError(f"{source}: the size of {name} must be a whole number, got {record['size']!r}")
        if record["size"] > max_bytes(name):
            raise ZooError(f"{source}: {name} must have at most {max_bytes(name)} bytes, got {record['size']}")
        records[name] = FileRecord(record["sha256"], record["size"])
    return records


def check_file_name(name: str, source: str | Path) -> None:
    """Refuse a name that leads out of a folder, or is hidden in it.

    Raises:
        ZooError: naming it.
    """
    if not _FILE_NAME.fullmatch(name):
        raise ZooError(f"{source}: a file's name must be letters, digits, '_', '-' and '.', got {name!r}")


def check_files(folder: str | Path, records: Mapping[str, FileRecord] | None = None) -> dict[str, FileRecord]:
    """Compare every file of a folder with its record.

    Args:
        folder: where the files are.
        records: of the files; default: those of the folder's manifest.

    Returns:
        The records.

    Raises:
        ZooError: naming the first file that is missing, a link, or of another size or content.
    """
    records = read_manifest(folder) if records is None else dict(records)
    for name, record in records.items():
        file = Path(folder) / name
        _check_place(file, record)
        found, size = sha256_of_file(file, record.size)
        if (found, size) != (record.sha256, record.size):
            raise ZooError(f"{file} must have the sha256 {record.sha256} of its record, got {found}")
    return records


def read_file(folder: str | Path, name: str, records: Mapping[str, FileRecord]) -> bytes:
    """Return a file's bytes, checked against its record.

    Raises:
        ZooError: as :func:`check_files`.
    """
    if name not in records:
        raise ZooError(f"{Path(folder) / MANIFEST} must list {name}, got {sorted(records)}")
    record, file = records[name], Path(folder) / name
    _check_place(file, record)
    data = read_bytes(file, record.size)
    check_bytes(data, record, file)
    return data


def _check_place(file: Path, record: FileRecord) -> None:
    """Refuse a file that is missing, a link, or of another size, before it is read."""
    if file.is_symlink():
        raise ZooError(f"{file} must be a file, it is a symbolic link")
    if not file.is_file():
        raise ZooError(f"{file} is missing, though {MANIFEST} lists it")
    size = file.stat().st_size
    if size != record.size:
        raise ZooError(f"{file} must have {record.size} bytes, as {MANIFEST} says, got {size}")


def check_bytes(data: bytes, record: FileRecord, source: str | Path) -> None:
    """Compare bytes with their record.

    Raises:
        ZooError: naming ``source``, if they differ.
    """
    if len(data) != record.size or sha256_of(data) != record.sha256:
        raise ZooError(f"{source} must have the sha256 {record.sha256} of its record, got {sha256_of(data)}")
