"""Pretrained agents on the Hub: the real client against a server of our own, which can break and cheat."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest

from mbrl_wrappers.zoo.catalogue.hub import pull, push
from mbrl_wrappers.zoo.catalogue.index import (
    IndexEntry,
    cache_folder,
    cache_place,
    cached,
    index_entry_json,
    read_index,
    write_index,
)
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.manifest import FileRecord, sha256_of, write_manifest

NAME = "mbpo/Hopper-v5"
REPO = "somebody/mbpo-Hopper-v5"
CONTENTS = {
    "README.md": b"---\nlibrary_name: mbrl-wrappers\n---\n# MBPO on Hopper-v5\n",
    "agent.zip": np.random.default_rng(0).bytes(300_000),
    "recipe.json": b'{"algo": "SAC"}',
}
SIZE = len(CONTENTS["agent.zip"])
ENDLESS_CHUNKS = 1000

PULL = """\
import sys
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.catalogue.hub import pull
from mbrl_wrappers.zoo.catalogue.index import read_index

for name in sys.argv[2:]:
    try:
        print(pull(name, index=read_index(sys.argv[1])))
    except ZooError as error:
        print("ZooError:", error)
"""


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    summaries: list[str] = field(default_factory=list)


class Hub(ThreadingHTTPServer):
    """The Hub's endpoints that pull and push call, on loopback.

    Attributes:
        repos: by name, with the files of each commit.
        requests: all that came.
        sent: bytes of each file's body.
        altered: bodies that are sent in place of a file's own, under its ETag.
        cut_after: for a file, the number of bytes after which its next download breaks.
        endless: a file whose body goes on and on.
        dripping: whether a file's head or body comes byte by byte.
        knows_ranges: whether a Range header is heeded.
        storage: the address of another server that has the files' bytes.
        refuses_commits: because the token may not write.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.reset()

    def reset(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.sent: Counter[str] = Counter()
        self.altered: dict[str, bytes] = {}
        self.cut_after: dict[str, int] = {}
        self.endless: str | None = None
        self.dripping: str | None = None
        self.knows_ranges = True
        self.storage: str | None = None
        self.refuses_commits = False

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Adds a commit on top of the last one."""
        commits = self.repos[repo].commits
        oid = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[oid] = {**(list(commits.values())[-1] if commits else {}), **files}
        return oid

    def downloads(self) -> list[str]:
        return [request.path.rpartition("/")[2] for request in self.requests if "/resolve/" in request.path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def record(self) -> list[str]:
        """Notes the request and splits its path."""
        wanted, token = self.headers.get("Range"), self.headers.get("Authorization")
        self.server.requests.append(Request(self.command, self.path, wanted, token))
        return urlsplit(self.path).path.strip("/").split("/")

    def answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        match self.record():
            case ["api", "models", owner, name]:
                repo = self.server.repos[f"{owner}/{name}"]
                self.answer(200, {"id": f"{owner}/{name}", "private": repo.private, "tags": [], "downloads": 0})
            case [owner, name, "resolve", revision, file]:
                repos = self.server.repos
                if f"{owner}/{name}" not in repos:
                    self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
                elif revision not in (commits := repos[f"{owner}/{name}"].commits):
                    self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
                elif file not in commits[revision]:
                    self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
                elif self.server.storage is not None:
                    self.answer(302, Location=self.server.storage + self.path)
                else:
                    self.send_file(file, revision, commits[revision][file])
            case _:
                self.answer(404)

    def send_file(self, name: str, revision: str, original: bytes) -> None:
        if name == self.server.endless:
            return self.send_endless()
        if self.server.dripping is not None and name == "agent.zip":
            return self.drip(original)
        body = self.server.altered.get(name, original)
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.knows_ranges else 0
        self.send_response(206 if wanted and self.server.knows_ranges else 200)
        if wanted and self.server.knows_ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", f'"{sha256_of(original)}"')
        self.send_header("X-Repo-Commit", revision)
        self.end_headers()
        stop = self.server.cut_after.pop(name, len(body))
        self.close_connection = stop < len(body)
        self.wfile.write(body[start:stop])
        self.server.sent[name] += stop - start

    def drip(self, body: bytes) -> None:
        self.close_connection = True
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
        try:
            if self.server.dripping == "body":
                self.wfile.write(f"{head}\r\n".encode())
            else:
                self.wfile.write(head.encode())
            for _ in range(200):
                self.wfile.write(b"x")
                time.sleep(0.02)
        except ConnectionError:
            pass

    def send_endless(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(ENDLESS_CHUNKS):
                self.wfile.write(bytes(64 * 1024))
                self.server.sent["endless"] += 1
        except ConnectionError:
            pass  # the client has enough of it

    def do_POST(self) -> None:
        path = self.record()
        lines = [json.loads(line) for line in self.read_body().splitlines()]
        match path:
            case ["api", "repos", "create"]:
                repo = f"{lines[0]['organization']}/{lines[0]['name']}"
                if repo in self.server.repos:
                    return self.answer(409, {"error": "You already created it", "url": f"{self.server.url}/{repo}"})
                # huggingface_hub 1.0 says it with `private`, 2 with `visibility`.
                private = lines[0].get("private", lines[0].get("visibility") == "private")
                self.server.repos[repo] = Repo(private)
                self.answer(200, {"url": f"{self.server.url}/{repo}"})
            case ["api", "validate-yaml"]:
                self.answer(200, {"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", "main"]:
                files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in lines[0]["files"]]
                self.answer(200, {"files": files})
            case ["api", "models", owner, name, "commit", "main"] if not self.server.refuses_commits:
                repo = f"{owner}/{name}"
                assert [line["key"] for line in lines] == ["header"] + ["file"] * (len(lines) - 1)
                self.server.repos[repo].summaries.append(lines[0]["value"]["summary"])
                new = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines[1:]}
                oid = self.server.commit(repo, new)
                self.answer(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid})
            case _:
                self.answer(403, X_Error_Message="your token has no write access")

    def read_body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)


def take_client() -> dict[str, Any]:
    """Unloads huggingface_hub, and returns what was loaded of it."""
    names = [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The server, with a client that knows no other: huggingface_hub is imported anew, and reads HF_ENDPOINT."""
    before = take_client()
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("DISABLE_TELEMETRY", "DISABLE_XET", "DISABLE_PROGRESS_BARS"):
            patch.setenv(f"HF_HUB_{name}", "1")
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        yield hub
        from huggingface_hub import close_session

        close_session()
    take_client()
    sys.modules.update(before)


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server without repositories, and an empty cache."""
    server.reset()
    monkeypatch.setenv("MBRL_WRAPPERS_HOME", str(tmp_path / "home"))
    return server


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """An agent's folder."""
    return make_agent(tmp_path / "agent", CONTENTS)


@pytest.fixture
def entry(hub: Hub, agent: Path) -> IndexEntry:
    """The entry of an agent that the server has; no request has been made."""
    hub.repos[REPO] = Repo(private=False)
    files = files_of(agent)
    return IndexEntry(REPO, hub.commit(REPO, files), records_of(files))


def make_agent(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    write_manifest(folder, contents)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def records_of(files: dict[str, bytes]) -> dict[str, FileRecord]:
    return {name: FileRecord(sha256_of(data), len(data)) for name, data in files.items()}


def assert_pulled(folder: Path, entry: IndexEntry, agent: Path) -> None:
    """The agent is where it belongs, with its own files only, and nothing is left beside it but the lock."""
    assert folder == cache_place(NAME, entry)
    assert files_of(folder) == files_of(agent)
    assert {file.name for file in folder.parent.iterdir()} <= {folder.name, f".{folder.name}.lock"}


# The index


def test_the_librarys_own_index_can_be_read(tmp_path):
    write_index(tmp_path / "copy.json", read_index())
    assert read_index(tmp_path / "copy.json") == read_index()


def test_an_index_comes_back_as_it_was_written(tmp_path):
    entry = IndexEntry(REPO, "ab" * 20, records_of({"manifest.json": b"{}", "agent.zip": b"weights"}))
    write_index(tmp_path / "index.json", {NAME: entry, "dyna/CartPole-v1": replace(entry, revision="0" * 40)})
    index = read_index(tmp_path / "index.json")
    assert list(index) == [NAME, "dyna/CartPole-v1"]
    assert index[NAME] == entry
    assert index["dyna/CartPole-v1"].revision == "0" * 40


RECORD = {"sha256": "0" * 64, "size": 1}
GOOD = {"repo": REPO, "revision": "a" * 40, "files": {"manifest.json": RECORD}}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mbpo/..", {}, r"name must be AGENT/ENV of letters, .*, got 'mbpo/\.\.'"),
        ("../Hopper-v5", {}, r"name must be AGENT/ENV of letters, .*, got '\.\./Hopper-v5'"),
        ("mbpo/a/b", {}, "name must be AGENT/ENV of letters, .*, got 'mbpo/a/b'"),
        (NAME, {"revision": "main"}, "revision must be a commit of 40 hexadecimal digits, got 'main'"),
        (NAME, {"revision": "a" * 39}, "revision must be a commit of 40 hexadecimal digits, got 'a{39}'"),
        (NAME, {"revision": "a" * 41}, "revision must be a commit of 40 hexadecimal digits, got 'a{41}'"),
        (NAME, {"revision": 7}, "revision must be a commit of 40 hexadecimal digits, got 7"),
        (NAME, {"repo": "Hopper"}, "repo must be 'ORG/NAME', got 'Hopper'"),
        (NAME, {"repo": "../Hopper"}, r"repo must be 'ORG/NAME', got '\.\./Hopper'"),
        (NAME, {"files": {"agent.zip": RECORD}}, r"files must contain manifest.json, got \['agent.zip'\]"),
        (NAME, {"files": {"../a": RECORD, "manifest.json": RECORD}}, r"files: a file's name must .*, got '\.\./a'"),
        (
            NAME,
            {"files": {"manifest.json": {"size": 1}}},
            "the record of manifest.json must be a sha256 and",
        ),
        (NAME, {"branch": "main"}, "an entry must have a repo, a revision and files, got "),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, name, change, message):
    file = tmp_path / "index.json"
    file.write_text(json.dumps({"format_version": 1, "agents": {"dyna/Good-v0": GOOD, name: {**GOOD, **change}}}))
    with pytest.raises(ZooError, match=f"index.json: entry '{name}': .*{message}"):
        read_index(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "index.json is not JSON"),
        ('{"format_version": 2, "agents": {}}', "index.json must have the format_version 1, got 2"),
        ('{"format_version": 1, "agents": []}', r"index.json must list agents, got \[\]"),
    ],
)
def test_a_file_that_is_no_index_is_named(tmp_path, text, message):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ZooError, match=message):
        read_index(tmp_path / "index.json")


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(ZooError, match=r"absent\.json must be a file"):
        read_index(tmp_path / "absent.json")


def test_an_index_that_could_not_be_read_is_not_written(tmp_path):
    entry = IndexEntry(REPO, "a" * 40, records_of({"manifest.json": b"{}"}))
    write_index(tmp_path / "index.json", {NAME: entry})
    with pytest.raises(ZooError, match=r"index\.json: entry 'Hopper-v5': name must be AGENT/ENV"):
        write_index(tmp_path / "index.json", {"Hopper-v5": entry})
    assert read_index(tmp_path / "index.json") == {NAME: entry}


def test_an_entry_made_by_hand_is_checked_too():
    with pytest.raises(ZooError, match=r"a file's name must be .*, got '\.\./agent\.zip'"):
        IndexEntry(REPO, "a" * 40, records_of({"manifest.json": b"", "../agent.zip": b""}))
    with pytest.raises(ZooError, match=r"revision must be a commit .*, got 'main'"):
        IndexEntry(REPO, "main", records_of({"manifest.json": b""}))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MBRL_WRAPPERS_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own" / "zoo"
    monkeypatch.delenv("MBRL_WRAPPERS_HOME")
    assert cache_folder() == tmp_path / "xdg" / "mbrl_wrappers" / "zoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mbrl_wrappers" / "zoo"


def test_a_cached_agent_has_a_manifest(monkeypatch, tmp_path):
    monkeypatch.setenv("MBRL_WRAPPERS_HOME", str(tmp_path))
    entry = IndexEntry(REPO, "a" * 40, records_of({"manifest.json": b"{}"}))
    folder = tmp_path / "zoo" / "mbpo" / "Hopper-v5" / ("a" * 40)
    folder.mkdir(parents=True)
    assert cached(NAME, entry) is None
    (folder / "manifest.json").touch()
    assert cached(NAME, entry) == folder
    assert cached(NAME, replace(entry, revision="b" * 40)) is None
    with pytest.raises(ZooError, match=r"name must be AGENT/ENV .*, got 'mbpo/\.\.'"):
        cached("mbpo/..", entry)


# Pushing


def test_what_is_pushed_is_pulled(hub, agent):
    (agent / "notes.txt").write_text("mine")
    entry = push(agent, REPO, message="Hopper, 125,000 steps")
    folder = pull(NAME, index={NAME: entry})
    (agent / "notes.txt").unlink()
    assert hub.repos[REPO].commits == {entry.revision: files_of(agent)}
    assert hub.repos[REPO].summaries == ["Hopper, 125,000 steps"]
    assert_pulled(folder, entry, agent)


def test_a_pushed_entry_can_be_put_into_an_index(hub, agent, tmp_path):
    entry = push(agent, REPO)
    write_index(tmp_path / "mine.json", {NAME: entry})
    assert json.loads((tmp_path / "mine.json").read_text())["agents"] == {NAME: index_entry_json(entry)}
    assert_pulled(pull(NAME, index=read_index(tmp_path / "mine.json")), entry, agent)


def test_an_older_commit_is_still_pulled_when_the_repository_has_moved_on(hub, agent, tmp_path):
    old = push(agent, REPO)
    newer = make_agent(tmp_path / "newer", {**CONTENTS, "agent.zip": b"other weights"})
    new = push(newer, REPO)
    assert list(hub.repos[REPO].commits) == [old.revision, new.revision]
    assert_pulled(pull(NAME, index={NAME: old}), old, agent)
    assert files_of(pull(NAME, index={NAME: new})) == files_of(newer)


def test_the_token_is_the_one_that_is_given(hub, agent):
    push(agent, REPO, token="hf_mine")
    assert {request.authorization for request in hub.requests} == {"Bearer hf_mine"}


def test_private_means_private(hub, agent):
    push(agent, REPO, private=True)
    push(agent, "somebody/public")
    assert (hub.repos[REPO].private, hub.repos["somebody/public"].private) == (True, False)
    with pytest.raises(ZooError, match="private must be False for somebody/public, which exists and is public"):
        push(make_agent(agent / "other", {"secret.json": b"{}"}), "somebody/public", private=True)
    assert len(hub.repos["somebody/public"].commits) == 1


@pytest.mark.parametrize("damage", ["changed", "missing", "link", "no manifest"])
def test_a_damaged_folder_is_not_pushed(hub, agent, damage):
    file = agent / ("manifest.json" if damage == "no manifest" else "agent.zip")
    data = file.read_bytes()
    file.unlink()
    if damage == "changed":
        file.write_bytes(bytes(len(data)))
    elif damage == "link":
        (agent / "elsewhere").write_bytes(data)
        file.symlink_to(agent / "elsewhere")
    with pytest.raises(ZooError, match=file.name):
        push(agent, REPO)
    assert hub.requests == []


def test_a_repository_that_refuses_is_named(hub, agent):
    hub.refuses_commits = True
    with pytest.raises(ZooError, match=f"agent can't be uploaded to {REPO}: .*your token has no write access") as info:
        push(agent, REPO)
    assert "\n" not in str(info.value)
    with pytest.raises(ZooError, match="repo must be 'ORG/NAME', got 'Hopper'"):
        push(agent, "Hopper")


# Pulling


def test_an_agent_is_pulled_once(hub, entry, agent):
    folder = pull(NAME, index={NAME: entry})
    assert_pulled(folder, entry, agent)
    assert sorted(hub.downloads()) == sorted(entry.files)
    hub.requests.clear()
    assert pull(NAME, index={NAME: entry}) == folder
    assert hub.requests == []


def test_pulled_at_the_same_time_it_is_downloaded_once(hub, entry, agent):
    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(lambda _: pull(NAME, index={NAME: entry}), range(8)))
    assert len(folders) == 1
    assert_pulled(folders.pop(), entry, agent)
    assert sorted(hub.downloads()) == sorted(entry.files)


@pytest.mark.parametrize(
    "body",
    [
        bytes(SIZE),
        CONTENTS["agent.zip"][:-1],
        CONTENTS["agent.zip"] + b"!",
        b"",
    ],
    ids=["other bytes", "too short", "too long", "empty"],
)
def test_bytes_that_are_not_the_indexs_are_refused(hub, entry, agent, body):
    hub.altered["agent.zip"] = body
    for _ in range(2):
        with pytest.raises(ZooError, match=f"agent.zip of {REPO} at {entry.revision} is not the index's: .*agent.zip"):
            pull(NAME, index={NAME: entry})
        assert cached(NAME, entry) is None
        assert not cache_place(NAME, entry).exists()
    hub.altered.clear()
    assert_pulled(pull(NAME, index={NAME: entry}), entry, agent)


def test_an_endless_file_is_broken_off(hub, entry, agent):
    hub.endless = "agent.zip"
    with pytest.raises(ZooError, match=f"agent.zip of {REPO} at {entry.revision} is not the index's: .* bytes"):
        pull(NAME, index={NAME: entry})
    assert 0 < hub.sent["endless"] < ENDLESS_CHUNKS
    assert sum(file.stat().st_size for file in cache_folder().rglob("*") if file.is_file()) < 64 * 1024
    hub.endless = None
    assert_pulled(pull(NAME, index={NAME: entry}), entry, agent)


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_file_that_comes_byte_by_byte_is_given_up(hub, entry, agent, part, monkeypatch):
    monkeypatch.setattr("mbrl_wrappers.zoo.catalogue.hub.LEAST_SECONDS", 0.3)
    monkeypatch.setattr("mbrl_wrappers.zoo.catalogue.hub.LEAST_BYTES_PER_SECOND", 10**9)
    hub.dripping = part
    with pytest.raises(ZooError, match=r"agent.zip .* can't be downloaded: it took more than 0 s; the next pull goes"):
        pull(NAME, index={NAME: entry})
    assert cached(NAME, entry) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"repo": "somebody/nothing"}, "Repository Not Found"),
        ({"revision": "0" * 40}, "Revision Not Found"),
        ({"files": records_of({"absent.json": b"", "manifest.json": b""})}, "Entry Not Found"),
    ],
)
def test_what_the_server_does_not_have_is_named(hub, entry, change, reason):
    wrong = replace(entry, **change)
    file = next(iter(wrong.files))
    message = f"{file} of {wrong.repo} at {wrong.revision} can't be downloaded: .*{reason}"
    with pytest.raises(ZooError, match=message) as info:
        pull(NAME, index={NAME: wrong})
    assert "\n" not in str(info.value)
    assert cached(NAME, wrong) is None


def test_a_server_that_is_not_there_is_named(hub, entry):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        hub.storage = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ZooError, match=f" of {REPO} at {entry.revision} can't be downloaded: .*refused"):
        pull(NAME, index={NAME: entry})


def test_the_storage_behind_the_hub_gets_no_token(hub, entry, agent, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with Hub() as storage:
        storage.repos = hub.repos
        hub.storage = storage.url
        assert_pulled(pull(NAME, index={NAME: entry}), entry, agent)
    assert {request.authorization for request in hub.requests} == {"Bearer hf_mine"}
    assert {request.authorization for request in storage.requests} == {None}
    assert sorted(storage.downloads()) == sorted(hub.downloads()) == sorted(entry.files)


@pytest.mark.parametrize(("part", "knows_ranges"), [(123_457, True), (123_457, False), (SIZE - 1, True), (0, True)])
def test_a_broken_download_is_gone_on_with(hub, entry, agent, part, knows_ranges):
    hub.cut_after["agent.zip"] = part
    with pytest.raises(ZooError, match=f"agent.zip of {REPO} at {entry.revision} can't be downloaded: "):
        pull(NAME, index={NAME: entry})
    assert cached(NAME, entry) is None
    assert hub.sent.pop("agent.zip") == part
    before = list(hub.sent)
    hub.requests.clear()
    hub.knows_ranges = knows_ranges
    assert_pulled(pull(NAME, index={NAME: entry}), entry, agent)
    assert sorted([*before, *hub.downloads()]) == sorted(entry.files)
    (request,) = (request for request in hub.requests if request.path.endswith("agent.zip"))
    assert request.range == f"bytes={part}-"
    assert hub.sent["agent.zip"] == (SIZE - part if knows_ranges else SIZE)


def test_a_download_does_not_go_on_from_wrong_bytes_for_ever(hub, entry, agent):
    hub.altered["agent.zip"] = bytes(SIZE)
    hub.cut_after["agent.zip"] = 1000
    with pytest.raises(ZooError, match=r"agent\.zip .* can't be downloaded"):
        pull(NAME, index={NAME: entry})
    hub.altered.clear()
    with pytest.raises(ZooError, match=r"agent\.zip .* is not the index's: .* must have the sha256"):
        pull(NAME, index={NAME: entry})
    assert_pulled(pull(NAME, index={NAME: entry}), entry, agent)


def test_a_manifest_that_lists_more_than_the_index_is_refused(hub, entry):
    files = {name: record for name, record in entry.files.items() if name != "recipe.json"}
    with pytest.raises(ZooError, match=r"recipe\.json is missing, though manifest\.json lists it"):
        pull(NAME, index={NAME: replace(entry, files=files)})
    assert cached(NAME, entry) is None


@pytest.mark.parametrize("damage", ["changed", "missing", "link"])
def test_a_cached_file_that_was_changed_is_named(hub, entry, agent, damage):
    folder = pull(NAME, index={NAME: entry})
    file = folder / "agent.zip"
    file.unlink()
    if damage == "changed":
        file.write_bytes(bytes(SIZE))
    elif damage == "link":
        file.symlink_to(agent / "agent.zip")
    hub.requests.clear()
    with pytest.raises(ZooError, match=f"{file} .*; force a new download, or remove the folder"):
        pull(NAME, index={NAME: entry})
    assert hub.requests == []
    assert_pulled(pull(NAME, index={NAME: entry}, force=True), entry, agent)


def test_a_forced_pull_that_fails_leaves_what_was_there(hub, entry, agent):
    folder = pull(NAME, index={NAME: entry})
    hub.altered["agent.zip"] = b"other bytes"
    with pytest.raises(ZooError, match=r"agent\.zip .* is not the index's"):
        pull(NAME, index={NAME: entry}, force=True)
    assert files_of(folder) == files_of(agent)
    assert pull(NAME, index={NAME: entry}) == folder


def test_a_folder_without_manifest_is_replaced(hub, entry, agent):
    folder = pull(NAME, index={NAME: entry})
    (folder / "manifest.json").unlink()
    (folder / "stray.txt").touch()
    assert_pulled(pull(NAME, index={NAME: entry}), entry, agent)


def test_a_cache_that_cannot_be_written_is_named(hub, entry, tmp_path):
    (tmp_path / "home").write_text("a file where the cache should be")
    with pytest.raises(ZooError, match=f"{NAME} can't be put into {cache_place(NAME, entry)}: .*Not a directory"):
        pull(NAME, index={NAME: entry})


def test_an_unknown_name_is_refused(hub, entry):
    with pytest.raises(ZooError, match="got 'mbpo/Hoper-v5'; did you mean 'mbpo/Hopper-v5'"):
        pull("mbpo/Hoper-v5", index={"dyna/CartPole-v1": entry, NAME: entry})
    with pytest.raises(ZooError, match=f"got '{NAME}'; the index is empty"):
        pull(NAME, index={})


def test_a_name_that_leads_out_of_the_cache_is_refused(hub, entry):
    with pytest.raises(ZooError, match=r"name must be AGENT/ENV .*, got '\.\./\.\.'"):
        pull("../..", index={"../..": entry})
    assert hub.requests == []


def test_a_missing_client_is_named_where_it_is_needed(hub, entry, agent, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: pull(NAME, index={NAME: entry}), lambda: push(agent, REPO)):
        with pytest.raises(ZooError, match=r"needs huggingface_hub: pip install 'mbrl-wrappers\[hub\]'"):
            call()
    shutil.copytree(agent, cache_place(NAME, entry))
    assert_pulled(pull(NAME, index={NAME: entry}), entry, agent)


# In a process of its own


def pull_in_process(index: Path, *names: str, **environment: str) -> list[str]:
    """Pulls names with a client that is imported there, and returns what each gave."""
    arguments = [sys.executable, "-W", "error", "-c", PULL, str(index), *names]
    done = subprocess.run(arguments, env={**os.environ, **environment}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_environment_says_where_the_hub_is(hub, entry, agent, tmp_path):
    write_index(tmp_path / "index.json", {NAME: entry})
    with Hub() as other:
        other.repos = hub.repos
        (folder,) = pull_in_process(tmp_path / "index.json", NAME, HF_ENDPOINT=other.url)
    assert_pulled(Path(folder), entry, agent)
    assert sorted(other.downloads()) == sorted(entry.files)
    assert hub.requests == []


def test_offline_there_is_what_the_cache_has(hub, entry, agent, tmp_path):
    write_index(tmp_path / "index.json", {NAME: entry, "mbpo/Ant-v5": entry})
    shutil.copytree(agent, cache_place(NAME, entry))
    there, missing = pull_in_process(tmp_path / "index.json", NAME, "mbpo/Ant-v5", HF_HUB_OFFLINE="1")
    assert_pulled(Path(there), entry, agent)
    assert missing.startswith("ZooError: ")
    assert f" of {REPO} at {entry.revision} can't be downloaded: " in missing
    assert "offline mode is enabled" in missing
    assert hub.requests == []
