"""HTTP requests to an OpenAI-compatible endpoint: paced, and repeated after failures that pass.

What passes is waited for: a full queue (429, with Retry-After where the endpoint gives it), server errors,
timeouts and cut connections, with growing pauses. What does not (a wrong key, an unknown model, a refused
request) ends at once. The key is in no message: it is sent in a header, and hidden in the endpoint's words.

Services disagree on errors. A body may say `{"error": {"code": 502, …}}` with status 200 (OpenRouter, once a
model has started to answer), `{"error": "text"}`, `{"detail": …}` or `{"object": "error", "message": …}`.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from jobs.core.secrets import FILE, hide, name_secrets, secret

TRIES = 12  # of one request: about six minutes of failures
LONGEST = 60.0  # seconds of a pause between two tries
PATIENCE = 900.0  # seconds; what an endpoint asks to wait beyond that is not waited for
CONNECT = 30.0  # seconds until a connection stands
READ = 3600.0  # seconds without a byte of an answer, which comes only once it is complete
PASSING = {408, 409, 425, 429}  # and all from 500 on
WORDS = 300  # characters of an endpoint's answer in a message


class EndpointRefused(ValueError):
    """The endpoint refuses the key, the model or the request: it would do so again.

    Args:
        status: Of its answer; None if there was none.
    """

    def __init__(self, words: str, status: int | None = None) -> None:
        super().__init__(words)
        self.status = status


class EndpointFailed(RuntimeError):
    """The endpoint did not answer a request in all its tries."""


class _Passing(Exception):
    """A failure after which the request is repeated; `wait` is what the endpoint asks to wait, in seconds."""

    def __init__(self, words: str, wait: float = 0.0) -> None:
        super().__init__(words)
        self.wait = wait


class Endpoint:
    """A session with an endpoint. All methods belong to one event loop.

    Args:
        url: Base of its paths, such as https://host/v1.
        key: Name of the secret that holds the key; None for an endpoint without one.
        requests: Connections, at most.
        per_minute: Requests that may start in a minute; None for no limit.

    Raises:
        ValueError: The secret has no value.
    """

    def __init__(self, url: str, key: str | None, requests: int, per_minute: float | None) -> None:
        self.url, self._key, self._requests = url.rstrip("/"), key, requests
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0  # monotonic time at which the next request may start
        self._session: Any = None
        name_secrets([key] if key else [])
        self._secret = secret(key) if key else None
        if key and not self._secret:
            raise ValueError(f"no value for {key}, the key of {url}: export it, or add it to {FILE}")

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()

    async def get(self, path: str) -> dict[str, Any]:
        """Return the answer to GET; errors as for `post`."""
        return await self._repeated("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to POST.

        Raises:
            EndpointRefused: It would fail again.
            EndpointFailed: It failed in all its tries.
        """
        return await self._repeated("POST", path, body)

    async def _repeated(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        pause = 1.0
        for tries in range(1, TRIES + 1):
            await self._turn()
            try:
                return await self._once(method, path, body)
            except _Passing as error:
                if tries == TRIES or error.wait > PATIENCE:
                    tail = (
                        f"it asks to wait {error.wait:.0f} s" if error.wait > PATIENCE else f"{tries} tries"
                    )
                    raise EndpointFailed(f"{method} {self.url}{path}: {error} ({tail})") from None
                if error.wait:
                    self._next = max(
                        self._next, time.monotonic() + error.wait
                    )  # of all: the limit is the key's
                else:
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(2 * pause, LONGEST)
        raise AssertionError("the last try returns or raises")

    async def _turn(self) -> None:
        """Wait until another request may start."""
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + self._gap
        await asyncio.sleep(at - now)

    async def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        import aiohttp

        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        try:
            async with self._opened().request(
                method, self.url + path, json=body, headers=headers, allow_redirects=False
            ) as answer:
                text = await answer.text(errors="replace")
                status, after = answer.status, answer.headers.get("Retry-After")
                where = answer.headers.get("Location")
        except (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError) as error:
            raise EndpointRefused(f"{method} {self.url}{path}: {hide(str(error))}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Passing(f"{type(error).__name__}: {hide(str(error))}".rstrip(": ")) from None
        return self._judged(f"{method} {self.url}{path}", status, text, seconds(after), where)

    def _judged(self, asked: str, status: int, text: str, wait: float, where: str | None) -> dict[str, Any]:
        """Return the body of a good answer."""
        found = _parsed(text)
        status, words = _error(status, found, text)
        if status < 300:
            if isinstance(found, dict):
                return found
            raise _Passing(f"status {status}, and no JSON: {words!r}")
        words = f"status {status}: {hide(words)}"
        if status in PASSING or status >= 500:
            raise _Passing(words, wait)
        if status < 400:
            raise EndpointRefused(
                f"{asked}: {words}; it redirects to {where}: set serving.url to where it is"
            )
        if status in (401, 403):
            owner = f"the key {self._key}" if self._key else "a request without a key (serving.key)"
            words = f"the endpoint refuses {owner}, {words}"
        raise EndpointRefused(f"{asked}: {words}", status)

    def _opened(self) -> Any:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._requests, socket_factory=_kept_alive),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ),
                trust_env=True,  # the proxy's variables of a compute node
            )
        return self._session


def _kept_alive(address: Any) -> socket.socket:
    """Return a socket that notices a dead peer: nothing else is sent while a long answer is made."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 6}.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def seconds(after: str | None) -> float:
    """Return the seconds that a Retry-After header asks to wait: a number, or a date; 0 without one."""
    if not after:
        return 0.0
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return 0.0


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _error(status: int, found: Any, text: str) -> tuple[int, str]:
    """Return the status that a body stands for, and its words."""
    body = found if isinstance(found, dict) else {}
    error = body.get("error") or next(
        (c["error"] for c in body.get("choices") or () if isinstance(c, dict) and c.get("error")), None
    )
    if status < 300 and error:
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and code >= 400 else 500
    words = error or body.get("message") or body.get("detail") or text
    if isinstance(words, dict):
        words = words.get("message") or words
    words = " ".join((words if isinstance(words, str) else json.dumps(words)).split())
    return status, words if len(words) <= WORDS else f"{words[:WORDS]}…"
