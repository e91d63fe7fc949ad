"""Messages in the forms that chat services document, sent to a server that holds them to these."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from launch.notify.webhook import APART, HookError, post, send

NASTY = '<!channel> @everyone & <@U1|bob>: error: "a < b" in toy_m-r0 for me@example.org'


def slack(body: bytes, type: str) -> str:
    """Text with its three special characters escaped; other keys are ignored."""
    text = json.loads(body)["text"]
    assert type == "application/json"
    assert not re.search(r"[<>]|&(?!(amp|lt|gt);)", text)
    return html.unescape(text)


def mattermost(body: bytes, type: str) -> str:
    """As Slack, since Markdown knows HTML's entities; it would mention @all."""
    text = slack(body, type)
    assert 0 < len(text) <= 16383
    assert not re.search(r"@\w", text)
    return text


def discord(body: bytes, type: str) -> str:
    said = json.loads(body)
    assert type == "application/json"
    assert 0 < len(said["content"]) <= 2000
    assert said["allowed_mentions"] == {"parse": []}
    return str(said["content"])


def ntfy(body: bytes, type: str) -> str:
    """The body is the message; one that is longer becomes an attachment."""
    assert type.startswith("text/plain")
    assert 0 < len(body) <= 4096
    return body.decode()


@pytest.fixture
def received() -> Iterator[tuple[str, list[tuple[bytes, str]]]]:
    """A server's address, and what was posted to it."""
    found = list[tuple[bytes, str]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.append((body, self.headers["Content-Type"]))
            self.send_response(204 if self.path == "/hook" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", found
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("text", ["all 25 units are done", NASTY, "é" * 5000])
@pytest.mark.parametrize(
    ("service", "url"),
    [
        (slack, "https://hooks.slack.com/services/T0/B0/x"),
        (mattermost, "https://chat.example.org/hooks/x"),
        (discord, "https://discord.com/api/webhooks/1/x"),
        (ntfy, "https://ntfy.sh/topic"),
        (ntfy, "https://ntfy.example.org/topic"),
    ],
)
def test_a_service_shows_the_text(
    received: tuple[str, list[tuple[bytes, str]]], service: Callable[[bytes, str], str], url: str, text: str
) -> None:
    address, found = received
    send(f"{address}/hook", post(url, "mine", "done", text))
    shown = service(*found[0]).replace(APART, "")
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]) and len(shown) > 1500)


def test_programs_read_the_study_and_the_event() -> None:
    said = json.loads(post("https://example.org/hook", "mine", "failed", "1 failed").body)
    assert (said["study"], said["event"], said["text"]) == ("mine", "failed", "1 failed")


def test_a_refusal_says_so_without_the_address(received: tuple[str, list[tuple[bytes, str]]]) -> None:
    address, _ = received
    with pytest.raises(HookError, match="the webhook answered 404") as refused:
        send(f"{address}/other", post(address, "mine", "done", "x"))
    assert address not in str(refused.value)
