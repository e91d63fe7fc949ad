"""The config.json of a model: from a folder, or from the Hugging Face hub.

The hub is asked once, when a file is written from the answer; planning a study never needs it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from jobs.core.secrets import secret

CONFIG = "config.json"
HUB = "https://huggingface.co"
LIMIT = 20.0  # seconds that an answer may take


@dataclass(frozen=True)
class Described:
    """A model as its config.json describes it.

    Args:
        model: as a preset names it: the folder's absolute path, or the hub's name.
        revision: the commit; None for a folder.
    """

    model: str
    revision: str | None
    config: dict[str, Any]


def describe(name: str, revision: str | None = None) -> Described:
    """Find a model's config.json.

    Args:
        name: a folder in Hugging Face format, or ORG/NAME on the hub.
        revision: a commit, branch or tag of the hub's model; None: its main branch.

    Raises:
        ValueError: there is no such model, or the hub cannot be asked; the message says what to do.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "~", "/")) or name.count("/") != 1:
        path = folder / CONFIG
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; give a folder in Hugging Face format, or ORG/NAME of the hub"
            )
        if revision:
            raise ValueError(f"{folder}: a folder has no revision: leave out @{revision}")
        return Described(str(folder.absolute()), None, _parsed(path.read_bytes(), str(path)))
    hub, quoted = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/"), quote(name)
    if not hub.startswith(("http://", "https://")):
        raise ValueError(f"HF_ENDPOINT is {hub!r}, which is no address: unset it, or begin it with https://")
    answer = _get(f"{hub}/api/models/{quoted}/revision/{quote(revision or 'main', '')}", name)
    commit = str(_parsed(answer, f"{hub}, {name}").get("sha") or "")
    if not commit:
        raise ValueError(f"{hub} names no commit of {name}")
    config = _get(f"{hub}/{quoted}/resolve/{quote(commit, '')}/{CONFIG}", name)
    return Described(name, commit, _parsed(config, f"{name}, {CONFIG}"))


def _get(url: str, name: str) -> bytes:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class SameHost(HTTPRedirectHandler):
        """Follows redirects, and shows the token to no other host."""

        def redirect_request(self, request: Request, *answer: Any) -> Request | None:
            made = super().redirect_request(request, *answer)
            if made and urlsplit(made.full_url)[:2] != urlsplit(request.full_url)[:2]:
                made.remove_header("Authorization")
            return made

    urlopen = build_opener(SameHost).open
    token = secret("HF_TOKEN")
    headers = {"User-Agent": "scale-or-reason"} | ({"Authorization": f"Bearer {token}"} if token else {})
    instead = "download it where there is a network, and give its folder"
    try:
        with urlopen(Request(url, headers=headers), timeout=LIMIT) as answer:
            return bytes(answer.read())
    except HTTPError as error:
        if error.code in (401, 403, 404):
            access = "has HF_TOKEN access to it?" if token else "set HF_TOKEN if it is private or gated"
            missing = f"no folder here is called {name}, and the hub does not show it ({error.code})"
            raise ValueError(f"{missing}: {access}") from None
        words = f"the hub answered {error.code} about {name}: try again later, or {instead}"
        raise ValueError(words) from None
    except (OSError, HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise ValueError(f"the hub cannot be reached ({why}): {instead}") from None


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        raise ValueError(f"{where}: not JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: not a mapping of keys")
    return found
