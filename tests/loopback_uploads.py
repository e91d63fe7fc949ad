"""What an upload by huggingface_hub asks of a hub: repositories are made, files sent, commits taken.

Large files go by git LFS's batch calls, small ones inside of the commit. Files end up in a folder of the
repository, from where tests/loopback_hub.py serves them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

LARGE = (".safetensors", ".parquet")
Answer = tuple[int, dict[str, Any]]


class Uploads:
    """Repositories that are uploaded to.

    Args:
        folder: Where they are.
        url: Of the server.
        token: That may write.

    Attributes:
        created: What was sent to make each repository.
        sent: SHA-256 of each large file that was sent.
        commits: The operations of each commit.
    """

    def __init__(self, folder: Path, url: str, token: str) -> None:
        self.folder, self.url, self.token = folder, url, token
        self.created: list[dict[str, Any]] = []
        self.sent: list[str] = []
        self.commits: list[list[dict[str, Any]]] = []

    def put(self, oid: str, data: bytes) -> Answer:
        """Take a large file."""
        assert hashlib.sha256(data).hexdigest() == oid
        self._large(oid).write_bytes(data)
        self.sent.append(oid)
        return 200, {}

    def post(self, path: str, authorization: str | None, data: bytes) -> Answer:
        """Answer a call."""
        if authorization != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials"}
        if path == "api/repos/create":
            return self._create(json.loads(data))
        if path == "api/validate-yaml":
            assert json.loads(data)["content"].startswith("---\n")
            return 200, {"errors": [], "warnings": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {
                "transfer": "basic",
                "objects": [self._batch(o) for o in json.loads(data)["objects"]],
            }
        if "/preupload/" in path:
            return 200, {"files": [_mode(file["path"]) for file in json.loads(data)["files"]]}
        assert "/commit/" in path, path
        return self._commit("/".join(path.split("/")[1:4]), [json.loads(line) for line in data.splitlines()])

    def _create(self, wanted: dict[str, Any]) -> Answer:
        kind, name = f"{wanted['type']}s", f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "lab":
            return 403, {"error": "You don't have the rights to create a repository under this namespace"}
        there = (self.folder / kind / name).exists()
        (self.folder / kind / name).mkdir(parents=True, exist_ok=True)
        self.created.append(wanted)
        url = f"{self.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
        return (409 if there else 200), {"url": url, "error": "You already created this repo"}

    def _batch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if self._large(wanted["oid"]).exists():
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.url}/large/{wanted['oid']}"}}}

    def _commit(self, name: str, operations: list[dict[str, Any]]) -> Answer:
        self.commits.append(operations)
        for each in operations:
            kind, value = each["key"], each["value"]
            if kind == "header":
                continue
            path = self.folder / name / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "deletedFile":
                path.unlink()
            elif kind == "lfsFile":
                path.write_bytes(self._large(value["oid"]).read_bytes())
            else:
                path.write_bytes(base64.b64decode(value["content"]))
        return 200, {
            "commitUrl": f"{self.url}/{name.removeprefix('models/')}/commit/{'0' * 40}",
            "commitOid": "0" * 40,
            "pullRequestUrl": None,
        }

    def _large(self, oid: str) -> Path:
        (self.folder / "large").mkdir(exist_ok=True)
        return self.folder / "large" / oid


def _mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(LARGE) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
