"""A Hugging Face hub on loopback, with repositories made by a test, for the real huggingface_hub.

Speaks what a download needs: api/models/NAME/revision/REV, api/…/tree/COMMIT, NAME/resolve/COMMIT/FILE with
ranges. A repository may be gated, and connections may break in the middle of a file. Uploads are answered by
tests/loopback_uploads.py.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from loopback_uploads import Uploads


@dataclass
class Hub:
    """What the server has, and what it was asked for.

    Args:
        folders: of the repositories, by models/NAME or datasets/NAME.
        gated: names whose files are refused.
        broken: files whose connections break after half of their bytes.
        asked: method and path of each request.
        uploads: repositories that may be written to.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    uploads: Uploads | None = None

    def take_uploads(self, folder: Path, token: str) -> Uploads:
        """Let who has the token make repositories in a folder, and write to them."""
        self.uploads = Uploads(folder, self.url, token)
        return self.uploads

    def folder(self, name: str) -> Path | None:
        """Return where a repository's files are; None if there is no such repository."""
        uploaded = self.uploads.folder / name if self.uploads else None
        return self.folders.get(name, uploaded if uploaded and uploaded.is_dir() else None)

    def add(self, name: str, folder: Path) -> str:
        """Add a repository with the files of a folder, and return its commit."""
        self.folders[name] = folder
        return commit_of(folder)

    def got(self) -> list[str]:
        """The files that were asked for, but for their heads."""
        return [
            each.rpartition("/")[2] for each in self.asked if each.startswith("GET") and "/resolve/" in each
        ]


def commit_of(folder: Path) -> str:
    """A commit that depends on all files."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return hashlib.sha1(b"".join(name.encode() + (folder / name).read_bytes() for name in names)).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the server as long as the context."""
    hub = Hub()

    class Handler(_Handler):
        repositories = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    repositories: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._take("POST")

    def do_PUT(self) -> None:
        self._take("PUT")

    def _take(self, method: str) -> None:
        hub, path = self.repositories, self.path.partition("?")[0].strip("/")
        hub.asked.append(f"{method} {path}")
        data = self._body()
        assert hub.uploads
        if method == "PUT":
            code, answer = hub.uploads.put(path.rpartition("/")[2], data)
        else:
            code, answer = hub.uploads.post(path, self.headers["Authorization"], data)
        self._send(code, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _body(self) -> bytes:
        """Read what was sent, whose length is given or which comes in chunks."""
        if (length := self.headers["Content-Length"]) is not None:
            return self.rfile.read(int(length))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        hub, path = self.repositories, self.path.partition("?")[0].strip("/").replace("%2F", "/")
        hub.asked.append(f"{self.command} {path}")
        parts = path.split("/")
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts if parts[0] == "datasets" else ["models", *parts]
        name, rest = "/".join(parts[:3]), parts[3:]
        folder = hub.folder(name)
        if folder is None:
            self._refuse(404, "RepoNotFound")
        elif is_api:
            self._describe(name, folder, rest)
        elif name in hub.gated:
            self._refuse(403, "GatedRepo")
        elif not (folder / "/".join(rest[2:])).is_file():
            self._refuse(404, "EntryNotFound")
        else:
            self._file(folder, "/".join(rest[2:]))

    def _describe(self, name: str, folder: Path, rest: list[str]) -> None:
        if len(rest) > 1 and rest[1] not in ("main", commit_of(folder)):
            return self._refuse(404, "RevisionNotFound")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [(str(path.relative_to(folder)), path.stat().st_size, _etag(path)) for path in files]
        if rest and rest[0] == "tree":
            under = "".join(f"{part}/" for part in rest[2:])
            entries = [
                {"type": "file", "path": n, "size": size, "oid": oid}
                for n, size, oid in names
                if n.startswith(under)
            ]
            return self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
        siblings = [{"rfilename": n, "size": size, "blobId": oid} for n, size, oid in names]
        identity = name.partition("/")[2]
        about: dict[str, Any] = {
            "id": identity, "modelId": identity, "sha": commit_of(folder), "siblings": siblings,
            "private": False, "tags": [], "downloads": 0, "likes": 0,
        }  # fmt: skip
        return self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _file(self, folder: Path, name: str) -> None:
        data = (folder / name).read_bytes()
        headers = {
            "ETag": f'"{_etag(folder / name)}"',
            "X-Repo-Commit": commit_of(folder),
            "Accept-Ranges": "bytes",
        }
        begin = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        rest = data[begin:]
        cut = name in self.repositories.broken and self.command == "GET"
        self._send(206 if begin else 200, rest, headers, sent=len(rest) // 2 if cut else None)
        self.close_connection = self.close_connection or cut

    def _refuse(self, code: int, error: str) -> None:
        self._send(code, b"", {"X-Error-Code": error, "X-Error-Message": error})

    def _send(self, code: int, data: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
