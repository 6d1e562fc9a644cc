"""The members of a zip of Stable-Baselines3, read within bounds and without unpickling objects."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.limits import MAX_FILE_BYTES, MAX_JSON_BYTES, open_file, parse_json, read_at_most
from mbrl_wrappers.zoo.storage.tensors import TensorRecord, Tensors, check_finite_tensors

# The members that are read; optimisers are not. SB3 before 1.0 used the second name of VARIABLES.
DATA, POLICY, VARIABLES = "data", "policy.pth", ("pytorch_variables.pth", "tensors.pth")
# A zip can claim any size. Real weights don't compress a hundredfold; a member that does is a zip bomb.
MAX_RATIO = 100
SPARE_BYTES = 10_000_000
MAX_DIRECTORY_BYTES = 2_000_000


class _SmallReads:
    """A file with limited reads, since ``zipfile`` would read a directory of any claimed size at once.

    Args:
        file: the zip.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read a number of bytes, or the rest."""
        most = MAX_DIRECTORY_BYTES + 1
        data = self._file.read(most if size < 0 else min(size, most))
        if len(data) == most:
            raise ZooError(f"a directory must have at most {MAX_DIRECTORY_BYTES} bytes")
        return data


def read_archive(file: Path) -> tuple[dict[str, Any], Tensors, dict[str, Tensor | None]]:
    """Read a zip.

    Returns:
        The JSON, the policy's tensors, and the trained tensors outside the policy, some of which may be None.

    Raises:
        ZooError: for a zip that is not SB3's or too large, or that holds other objects in place of tensors.
    """
    try:
        with open_file(file, MAX_FILE_BYTES, links=True) as opened:
            members = _members(opened, (DATA, POLICY, *VARIABLES))
    except ZooError as error:
        raise ZooError(f"file must be a zip of Stable-Baselines3, got {file}: {error}") from error
    for name in (DATA, POLICY):
        if name not in members:
            raise ZooError(f"file must be a zip of Stable-Baselines3, got {file}, which has no {name}")
    data = parse_json(members[DATA], f"{file}: {DATA}", finite=False)
    found = _tensors(members[POLICY], f"{file}: {POLICY}")
    policy = {name: value for name, value in found.items() if value is not None}
    variables = next((_tensors(members[name], f"{file}: {name}") for name in VARIABLES if name in members), {})
    return data, policy, variables


def _members(opened: BinaryIO, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the contents of the named members that a zip has."""
    try:
        with zipfile.ZipFile(_SmallReads(opened)) as archive:
            present = set(archive.namelist())
            return {name: _member(archive, archive.getinfo(name)) for name in names if name in present}
    except (EOFError, OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, ZooError):
            raise
        raise ZooError(str(error)) from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_member(info, MAX_JSON_BYTES if info.filename == DATA else MAX_FILE_BYTES)
    with archive.open(info) as member:
        return read_at_most(member, info.file_size, info.filename)


def _check_member(info: zipfile.ZipInfo, limit: int) -> None:
    if info.file_size > min(limit, MAX_RATIO * info.compress_size + SPARE_BYTES):
        raise ZooError(f"{info.filename} must have at most {limit} bytes, not packed a hundredfold")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ZooError(f"{info.filename} must be stored or deflated, got the compression {info.compress_type}")


def _tensors(content: bytes, source: str) -> dict[str, Tensor | None]:
    """Read a file of torch's with ``weights_only``."""
    try:
        _check_packed(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (EOFError, LookupError, OverflowError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise ZooError(f"{source} holds more than tensors: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ZooError(f"{source} must hold tensors by name, got {type(found).__name__}")
    for name, value in found.items():
        if value is not None and not _is_plain(value):
            raise ZooError(f"{source}: {name} must be a tensor with a number of its own for each entry")
    tensors = {name: None if value is None else value.detach() for name, value in found.items()}
    check_finite_tensors({name: value for name, value in tensors.items() if value is not None}, source)
    return tensors


def _check_packed(content: bytes) -> None:
    """Refuse a file of torch's, itself a zip since torch 1.6, that unpacks to many times its size."""
    if not content.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(_SmallReads(io.BytesIO(content))) as archive:
            infos = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ZooError(str(error)) from error
    for info in infos:
        _check_member(info, MAX_FILE_BYTES)
    if sum(info.file_size for info in infos) > MAX_RATIO * len(content) + SPARE_BYTES:
        raise ZooError("it must not unpack to a hundred times its size")


def _is_plain(value: Any) -> bool:
    """Tell whether a tensor is dense, and has memory for all its entries: strides of 0 can claim any number."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def records_of(tensors: Mapping[str, Tensor]) -> list[TensorRecord]:
    """Return the records of tensors, as a header would hold them."""
    return [TensorRecord(tensor.dtype, tuple(tensor.shape)) for tensor in tensors.values()]
