"""An OpenAI-compatible endpoint on loopback that gives a test's answers: rare ones, as services give them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
CUT = "cut"  # a script's word for: close the connection in the middle of the answer


@dataclass
class Served:
    """What the server answers, and what it was asked.

    Args:
        answer: Makes the answer to a request's body: a body, a (status, headers, body), or CUT.
        models: What GET /v1/models lists; None: it has no such path.
        key: The only key that is accepted; None: any.
        asked: Path, headers and body of each POST.
    """

    answer: Callable[[Body], Any] = lambda body: text("hi")
    models: list[Body] | None = field(default_factory=lambda: [{"id": "m", "max_model_len": 512}])
    key: str | None = None
    asked: list[tuple[str, dict[str, str], Body]] = field(default_factory=list)
    url: str = ""


def text(words: str, **more: Any) -> Body:
    """A completion of a server that returns text, as llama.cpp's and SGLang's."""
    choice = {"index": 0, "text": words, "finish_reason": "stop", **more.pop("choice", {})}
    return {"id": "cmpl-1", "object": "text_completion", "choices": [choice], **more}


def message(**more: Any) -> Body:
    """A chat completion."""
    usage, reason = more.pop("usage", None), more.pop("finish_reason", "stop")
    choice = {"index": 0, "message": {"role": "assistant", **more}, "finish_reason": reason}
    return {"id": "gen-1", "object": "chat.completion", "choices": [choice], "usage": usage}


@contextmanager
def serve(served: Served) -> Iterator[Served]:
    """Run the server as long as the context."""

    class Handler(_Handler):
        told = served

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    told: Served

    def do_GET(self) -> None:
        if self._refused():
            return
        listed = self.told.models if self.path == "/v1/models" else None
        self._send(404, {}, "404 page not found") if listed is None else self._send(200, {}, {"data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.told.asked.append((self.path, dict(self.headers), body))
        if self._refused():
            return
        found = self.told.answer(body)
        if found == CUT:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"id": "cmpl-1", "choices"')
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif isinstance(found, tuple):
            self._send(*found)
        else:
            self._send(200, {}, found)

    def _refused(self) -> bool:
        key = self.told.key
        given = self.headers.get("Authorization", "")
        if key is None or given == f"Bearer {key}":
            return False
        # As OpenAI's: it repeats a part of the key, or here all of it.
        self._send(
            401, {}, {"error": {"message": f"Incorrect API key provided: {given}.", "code": "invalid"}}
        )
        return True

    def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(OSError):  # the client has gone
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass
