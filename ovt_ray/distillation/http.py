"""JSON over HTTP with a deadline for the whole of a request, a bound on the reply, and no redirects, which would take the key elsewhere."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

MAX_REPLY_BYTES = 64 * 2**20
CHUNK_BYTES = 2**16
NOT_NOW = frozenset({401, 403, 404, 408, 425, 429, 502, 503, 504})
"""Statuses that speak of the server, the address or the key, not of what was asked: every request would get them now."""


class Unreachable(Exception):
    """No answer came, or one that says nothing about the request."""


class Refused(Exception):
    """The server will not do what it was asked, now or later."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def get_json(address: str, headers: Mapping[str, str], deadline_s: float) -> Any:
    """Return the JSON at an address. Raises Unreachable, Refused, or ValueError for an answer that cannot be used."""
    return _exchange(urllib.request.Request(address, headers=dict(headers)), deadline_s)


def post_json(address: str, body: object, headers: Mapping[str, str], deadline_s: float) -> Any:
    """Return the JSON that an address answers. Raises Unreachable, Refused, or ValueError for an answer that cannot be used."""
    content = json.dumps(body).encode()
    request = urllib.request.Request(address, data=content, headers={"Content-Type": "application/json", **headers}, method="POST")
    return _exchange(request, deadline_s)


def _exchange(request: urllib.request.Request, deadline_s: float) -> Any:
    try:
        status, content = _open(request, deadline_s)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer: {error!r}") from error
    if status != 200:
        why = f"HTTP {status}: {content[:300].decode(errors='replace').strip()}"
        if status in NOT_NOW:
            raise Unreachable(why)
        raise ValueError(why) if status >= 500 else Refused(why)
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("the reply is nested too deeply") from error


def _open(request: urllib.request.Request, deadline_s: float) -> tuple[int, bytes]:
    """Return status and body."""
    end = time.monotonic() + deadline_s
    try:
        with _OPENER.open(request, timeout=deadline_s) as reply:
            return reply.status, _read(reply, end)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(300)


def _read(reply: http.client.HTTPResponse, end: float) -> bytes:
    """Return the body, which a server must not drip for longer than the deadline."""
    content = bytearray()
    while chunk := reply.read1(CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise ValueError(f"the reply is longer than {MAX_REPLY_BYTES:,} bytes")
        if time.monotonic() > end:
            raise TimeoutError("the deadline passed while the reply was coming")
    return bytes(content)
