"""Pretrained agents on the Hugging Face Hub: pulled by name, pinned to a commit and checked against the index.

``huggingface_hub`` is optional and reads its settings (HF_ENDPOINT, HF_HUB_OFFLINE) when it is imported, so it is
imported where it is first used. Files are streamed here and not by its ``hf_hub_download``, which discards a partial
download when a connection breaks, and accepts as many bytes as the server sends.
"""

from __future__ import annotations

import difflib
import queue
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mbrl_wrappers.zoo.catalogue.index import IndexEntry, cache_place, cached, check_repo, read_index
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.limits import MAX_JSON_BYTES, read_bytes
from mbrl_wrappers.zoo.storage.manifest import (
    MANIFEST,
    FileRecord,
    check_files,
    parse_manifest,
    read_file,
    sha256_of,
)

# A download may take a minute, plus its size at this speed; slower ones are given up.
LEAST_SECONDS = 60.0
LEAST_BYTES_PER_SECOND = 10_000


def pull(name: str, *, index: Mapping[str, IndexEntry] | None = None, force: bool = False) -> Path:
    """Return the folder of a pretrained agent, downloaded if it is not in the cache.

    Cached files are checked too, but need no network. An interrupted download is continued. Private repositories are
    read with the token of ``hf auth login`` or HF_TOKEN.

    Args:
        name: such as ``"mbpo/Hopper-v5"``.
        index: the entries by name; default: the library's own index.
        force: download the agent even if it is in the cache.

    Returns:
        The folder, whose files match the hashes of the index.

    Raises:
        ZooError: for an unknown name, a failed download, or a file that does not match its hash in the index.
    """
    entry = _find(name, read_index() if index is None else index)
    if force or cached(name, entry) is None:
        _require_client()
        _download(name, entry, force)
    folder = cache_place(name, entry)
    try:
        check_files(folder, entry.files)
    except ZooError as error:
        raise ZooError(f"{error}; force a new download, or remove the folder") from None
    return folder


def push(
    folder: str | Path, repo: str, *, token: str | None = None, private: bool = False, message: str = "Upload an agent"
) -> IndexEntry:
    """Upload an agent's folder in one commit: the files of its manifest, and no other files.

    Args:
        folder: the agent's folder, with a manifest that matches its files.
        repo: ``"ORG/NAME"``; it is created if it does not exist.
        token: a token with write access; default: the token of ``hf auth login`` or HF_TOKEN.
        private: create the repository as a private one.
        message: of the commit.

    Returns:
        The entry for an index, see :func:`~mbrl_wrappers.zoo.catalogue.index.write_index`.

    Raises:
        ZooError: for a folder or repository that can't be used, or an existing public repository with ``private``.
    """
    check_repo(repo)
    contents = _contents(Path(folder))
    _require_client()
    from huggingface_hub import CommitOperationAdd, HfApi

    with _explained(f"{folder} can't be uploaded to {repo}"):
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ZooError(f"private must be False for {repo}, which exists and is public, got True")
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in contents.items()]
        revision = api.create_commit(repo, operations, commit_message=message).oid
    records = {name: FileRecord(sha256_of(data), len(data)) for name, data in contents.items()}
    return IndexEntry(repo, revision, records)


def _find(name: str, index: Mapping[str, IndexEntry]) -> IndexEntry:
    """Return the entry of a name."""
    if name in index:
        return index[name]
    nearest = difflib.get_close_matches(name, index, n=1, cutoff=0.0)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "the index is empty"
    raise ZooError(f"name must be a pretrained agent's, got {name!r}; {hint}")


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the checked bytes of the files to upload, so that a later change on the disk can't be uploaded."""
    manifest = read_bytes(folder / MANIFEST, MAX_JSON_BYTES)
    records = parse_manifest(manifest, folder / MANIFEST)
    return {**{name: read_file(folder, name, records) for name in records}, MANIFEST: manifest}


def _require_client() -> None:
    """Raise an error that says what to install if ``huggingface_hub`` is missing."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise ZooError("the Hugging Face Hub needs huggingface_hub: pip install 'mbrl-wrappers[hub]'") from None


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the errors of the client, the connection and the disk into the zoo's, each in one line."""
    # HTTPError is httpx's in huggingface_hub 1 and httpx2's in 2.
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except ZooError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ZooError(f"{what}: {reason or type(error).__name__}") from None


def _download(name: str, entry: IndexEntry, force: bool) -> None:
    """Put an agent into the cache; its folder gets its name only once all files are there and checked."""
    from huggingface_hub.utils import WeakFileLock

    folder = cache_place(name, entry)
    partial = folder.with_name(f".{folder.name}.partial")
    with _explained(f"{name} can't be put into {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder.with_name(f".{folder.name}.lock")):
            if cached(name, entry) is not None and not force:
                return  # another process downloaded it while this one waited for the lock
            partial.mkdir(exist_ok=True)
            for file_name in entry.files:
                _fetch(entry, file_name, partial)
            check_files(partial)
            _put_in_place(partial, folder)


def _fetch(entry: IndexEntry, name: str, folder: Path) -> None:
    """Download one file into a folder unless it is there, continuing an interrupted download."""
    file, size = folder / name, entry.files[name].size
    what = f"{name} of {entry.repo} at {entry.revision}"
    if not file.exists() or file.stat().st_size < size:
        with _explained(f"{what} can't be downloaded"):
            _receive(entry, name, file)
    try:
        read_file(folder, name, entry.files)
    except ZooError as error:
        # Otherwise every later download would continue after the wrong bytes.
        file.unlink(missing_ok=True)
        raise ZooError(f"{what} is not the index's: {error}") from None


def _receive(entry: IndexEntry, name: str, file: Path) -> None:
    """Append the missing bytes to a file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    # Uncompressed: in a compressed response, ranges and lengths would not be those of the file.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if file.exists():
        headers["Range"] = f"bytes={file.stat().st_size}-"
    url, size = hf_hub_url(entry.repo, name, revision=entry.revision), entry.files[name].size
    parts = _in_time(_response(url, headers), LEAST_SECONDS + size / LEAST_BYTES_PER_SECOND)
    with closing(parts):
        status = next(parts)
        # A server without support for ranges sends the file from its start.
        with file.open("ab" if status == 206 else "wb") as output:
            for chunk in parts:
                output.write(chunk)
                if output.tell() > size:
                    break  # an endless file must not fill the disk; the later check of the size reports it


def _response(url: str, headers: Mapping[str, str]) -> Generator[Any]:
    """Request a file; yield the status first, then the bytes as they arrive."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import hf_raise_for_status

    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT  # of each read
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        yield response.status_code
        yield from response.iter_raw()


def _in_time(parts: Generator[Any], seconds: float) -> Generator[Any]:
    """Yield from a generator for a limited time.

    The generator runs in a thread of its own, because no timeout of the client ends a response whose header arrives
    slowly.

    Raises:
        TimeoutError: when the time is over.
    """
    deadline = time.monotonic() + seconds
    came: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=8)
    over = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not over.is_set():
            try:
                return came.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def run() -> None:
        try:
            with closing(parts):
                for part in parts:
                    put("part", part)
                    if over.is_set():
                        return
            put("end", None)
        except Exception as error:
            put("error", error)

    threading.Thread(target=run, daemon=True, name="mbrl-zoo pull").start()
    try:
        while True:
            try:
                kind, value = came.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"it took more than {seconds:.0f} s; the next pull goes on with what came") from None
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        over.set()


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename a complete folder; an old folder of that name is moved out of the way as a whole and removed."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".old.") as attic:
        if folder.exists():
            folder.rename(Path(attic) / folder.name)
        partial.rename(folder)
