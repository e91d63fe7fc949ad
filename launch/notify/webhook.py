"""A message in the form that chat services document for their webhooks, and sending it.

Slack and Mattermost show `text`, Discord `content`; each ignores the other's. ntfy shows the request's body.
Names and errors in a message are data: nobody must be mentioned by them.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

LIMIT = 10.0  # seconds that a hook may take
DISCORD = 2000  # characters that Discord accepts
NTFY = 4096  # bytes that ntfy shows as a message; it attaches longer ones as a file
APART = "\u200b"  # invisible; with it, an "@" mentions nobody


class HookError(RuntimeError):
    """The hook rejected a message or failed; the error's text reveals nothing of the hook."""


@dataclass(frozen=True)
class Post:
    """The body of a request and its type."""

    body: bytes
    type: str


def post(url: str, study: str, event: str, text: str) -> Post:
    """Return what is to be posted to a webhook.

    Args:
        event: the kind of news, for programs that receive it.
    """
    host = urlsplit(url).hostname or ""
    if host.split(".")[0] == "ntfy":
        return Post(_cut(text, NTFY), "text/plain; charset=utf-8")
    quiet = text.replace("@", f"@{APART}")
    said = {
        "study": study,
        "event": event,
        "text": html.escape(quiet, quote=False),  # Slack's only special characters
        "content": quiet if len(quiet) <= DISCORD else f"{quiet[: DISCORD - 1]}…",
        "allowed_mentions": {"parse": []},  # Discord's
    }
    return Post(json.dumps(said).encode(), "application/json")


def _cut(text: str, size: int) -> bytes:
    """Return as much of a text as fits into so many bytes."""
    whole = text.encode()
    if len(whole) <= size:
        return whole
    return whole[: size - len("…".encode())].decode(errors="ignore").encode() + "…".encode()


def send(url: str, said: Post) -> None:
    """Send a message to a webhook.

    Raises:
        HookError: the webhook did not accept it.
    """
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    # Some services refuse Python's default user agent.
    headers = {"Content-Type": said.type, "User-Agent": "scale-or-reason"}
    try:
        with urlopen(Request(url, said.body, headers), timeout=LIMIT) as answer:
            answer.read(1)
    except HTTPError as error:
        raise HookError(f"the webhook answered {error.code}") from None
    except URLError as error:
        reason = error.reason
        why = reason.strerror if isinstance(reason, OSError) else None
        raise HookError(f"the webhook cannot be reached: {why or type(reason).__name__}") from None
    except Exception as error:  # its message may contain the URL
        raise HookError(f"the webhook cannot be used: {type(error).__name__}") from None
