"""HTTP with a deadline for the whole of a request and a bound on the reply.

A redirect could take a key elsewhere, or lead to a host that nobody allowed: where one is followed, each address is checked first.
"""

import http.client
import io
import json
import socket
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin

MAX_REPLY_BYTES = 64 * 2**20
"""Of JSON."""
CHUNK_BYTES = 2**16
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NOT_NOW = frozenset({401, 403, 404, 408, 425, 429, 502, 503, 504})
"""Statuses that speak of the server, the address or the key, not of what was asked: every request would get them now."""


class Unreachable(Exception):
    """No answer came, or one that says nothing about the request."""


class Refused(Exception):
    """The server will not do what it was asked, now or later."""


class _Reply(NamedTuple):
    status: int
    content: bytes
    """Of an error the beginning."""
    location: str | None
    """Where a redirect leads."""


def get_json(address: str, headers: Mapping[str, str], deadline_s: float) -> Any:
    """Return the JSON at an address. Raises Unreachable, Refused, or ValueError for an answer that cannot be used."""
    return _exchange(urllib.request.Request(address, headers=dict(headers)), deadline_s)


def post_json(address: str, body: object, headers: Mapping[str, str], deadline_s: float) -> Any:
    """Return the JSON that an address answers. Raises Unreachable, Refused, or ValueError for an answer that cannot be used."""
    content = json.dumps(body).encode()
    request = urllib.request.Request(address, data=content, headers={"Content-Type": "application/json", **headers}, method="POST")
    return _exchange(request, deadline_s)


def get_content(address: str, check: Callable[[str], object], max_bytes: int, deadline_s: float) -> bytes:
    """Return the bytes at an address, or at the one that it redirects to; each is handed to `check` before it is asked.

    Raises what `check` raises, Unreachable, Refused, or ValueError for a reply of more than `max_bytes`.
    """
    end = time.monotonic() + deadline_s
    for _ in range(MAX_REDIRECTS + 1):
        check(address)
        reply = _open(urllib.request.Request(address, headers={"User-Agent": "ovt-ray"}), end, max_bytes)
        if reply.status == 200:
            return reply.content
        if reply.status not in REDIRECTS or not reply.location:
            raise Refused(f"HTTP {reply.status}")
        address = urljoin(address, quote(reply.location, encoding="iso-8859-1", safe=string.punctuation))
    raise Refused(f"more than {MAX_REDIRECTS} redirects")


def _exchange(request: urllib.request.Request, deadline_s: float) -> Any:
    status, content, _ = _open(request, time.monotonic() + deadline_s, MAX_REPLY_BYTES)
    if status != 200:
        why = f"HTTP {status}: {content[:300].decode(errors='replace').strip()}"
        if status in NOT_NOW:
            raise Unreachable(why)
        raise ValueError(why) if status >= 500 else Refused(why)
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("the reply is nested too deeply") from error


def _open(request: urllib.request.Request, end: float, max_bytes: int) -> _Reply:
    """Return the reply of a server, whatever its status."""
    try:
        with _OPENER.open(request, timeout=_left(end)) as reply:
            return _Reply(reply.status, _read(reply, max_bytes), None)
    except urllib.error.HTTPError as error:
        with error:
            return _Reply(error.code, _beginning(error), error.headers["Location"])
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer: {error!r}") from error


def _beginning(error: urllib.error.HTTPError) -> bytes:
    """Return the first bytes of what a server says of an error; none where it does not say it in time: the status is known."""
    try:
        return error.read(300)
    except (OSError, http.client.HTTPException):
        return b""


def _read(reply: http.client.HTTPResponse, max_bytes: int) -> bytes:
    content = bytearray()
    while chunk := reply.read1(CHUNK_BYTES):
        content += chunk
        if len(content) > max_bytes:
            raise ValueError(f"the reply is longer than {max_bytes:,} bytes")
    if reply.length:
        raise http.client.IncompleteRead(bytes(content), reply.length)
    return bytes(content)


def _left(end: float) -> float:
    """Return the seconds until the end of a request."""
    if (left := end - time.monotonic()) <= 0:
        raise TimeoutError("the deadline passed")
    return left


class _Ending(io.RawIOBase):
    """What a socket receives until the end of its request: a timeout of the socket alone begins anew with each byte that drips in."""

    def __init__(self, received: io.RawIOBase, sock: socket.socket, end: float) -> None:
        self._received, self._sock, self._end = received, sock, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._end))
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


def _reply(end: float, sock: socket.socket, *positional: Any, **named: Any) -> http.client.HTTPResponse:
    reply = http.client.HTTPResponse(sock, *positional, **named)
    reply.fp = io.BufferedReader(_Ending(reply.fp.detach(), sock, end))
    return reply


def _connection(kind: type[http.client.HTTPConnection], host: str, *, timeout: float, **options: Any) -> http.client.HTTPConnection:
    """Return a connection whose replies, headers and all, are there within the timeout or not at all."""
    connection = kind(host, timeout=timeout, **options)
    connection.response_class = partial(_reply, time.monotonic() + timeout)  # type: ignore[assignment]
    return connection


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, http.client.HTTPConnection), request)


class _Secure(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, http.client.HTTPSConnection), request)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects, _Plain, _Secure)
