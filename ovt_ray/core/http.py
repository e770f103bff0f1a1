"""HTTP with a deadline for the whole of a request and a bound on the reply.

A redirect could take a key to another host, or lead to a host that nobody allowed. JSON requests refuse redirects. `get_content` follows
them, and checks each address first.
"""

import asyncio
import json
import ssl
import string
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from threading import Thread
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

MAX_REPLY_BYTES = 64 * 2**20
"""Longest reply of JSON."""
MAX_ERROR_BYTES = 300
"""Length of the part of an error's text that a message quotes."""
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NOT_NOW = frozenset({401, 403, 404, 408, 425, 429, 502, 503, 504})
"""Statuses that speak of the server, the address or the key, not of the question: every request would get them now."""
HEADERS = {"User-Agent": "ovt-ray", "Accept-Encoding": "identity", "Connection": "close"}
"""Headers of every request. A reply that is sent compressed could be far longer than its bytes."""

T = TypeVar("T")


class Unreachable(Exception):
    """No answer came, or one that says nothing about the request."""


class Refused(Exception):
    """The server will not do what it was asked, now or later."""


class Redirected(Refused):
    """The server names another address, and the request may not follow it."""


class ReplyTooLong(ValueError):
    """The reply has more bytes than allowed; the rest of it was not read."""


class _Reply(NamedTuple):
    status: int
    content: bytes
    """Content of the reply; of an error only its beginning."""
    location: str | None
    """Address that a redirect leads to."""


def get_json(address: str, headers: Mapping[str, str], deadline_s: float) -> Any:
    """Return the JSON at an address. Raises Unreachable, Refused, or ValueError for an answer that cannot be used."""
    return _run(_json(httpx.Request("GET", _url(address), headers=_headers(headers)), deadline_s))


def post_json(address: str, body: object, headers: Mapping[str, str], deadline_s: float) -> Any:
    """Return the JSON that an address answers. Raises Unreachable, Refused, or ValueError for an answer that cannot be used."""
    return _run(post_json_async(address, body, headers, deadline_s=deadline_s))


async def post_json_async(address: str, body: object, headers: Mapping[str, str], *, deadline_s: float) -> Any:
    """Return the JSON that an address answers, as `post_json` does; to be awaited, and cancelled at any time."""
    content = json.dumps(body).encode()
    fields = _headers({"Content-Type": "application/json", **headers})
    return await _json(httpx.Request("POST", _url(address), content=content, headers=fields), deadline_s)


def get_content(address: str, check: Callable[[str], object], max_bytes: int, deadline_s: float) -> bytes:
    """Return the bytes at an address, or at the one that it redirects to; `check` receives each before it is asked.

    Raises what `check` raises, Unreachable, Refused, or ReplyTooLong for a reply of more than `max_bytes`.
    """
    end = time.monotonic() + deadline_s
    for _ in range(MAX_REDIRECTS + 1):
        check(address)
        reply = _run(_open(httpx.Request("GET", _url(address), headers=_headers({})), end, max_bytes))
        if reply.status == 200:
            return reply.content
        if reply.status not in REDIRECTS or not reply.location:
            raise Refused(f"HTTP {reply.status}")
        address = urljoin(address, quote(reply.location, encoding="iso-8859-1", safe=string.punctuation))
    raise Refused(f"more than {MAX_REDIRECTS} redirects")


def _run(request: Coroutine[Any, Any, T]) -> T:
    """Return the result of a request, made by the calling thread."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_DaemonThreads())
        return runner.run(request)


class _DaemonThreads(ThreadPoolExecutor):
    """Resolves names in threads that nobody waits for: a silent name server holds up neither a deadline nor the end of the process."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Call a function in a thread of its own."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # handed to whoever awaits the future
                future.set_exception(error)

        Thread(target=work, daemon=True).start()
        return future


def _url(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise Refused(f"{address[:300]!r} is no address: {error}") from error
    if url.userinfo:  # httpx would send it in place of an `Authorization` header
        raise Refused("an address may not hold a user or a password; give them in a header")
    return url


def _headers(fields: Mapping[str, str]) -> httpx.Headers:
    headers = httpx.Headers(HEADERS)
    headers.update(httpx.Headers(dict(fields), encoding="iso-8859-1"))
    return headers


async def _json(request: httpx.Request, deadline_s: float) -> Any:
    status, content, location = await _open(request, time.monotonic() + deadline_s, MAX_REPLY_BYTES)
    if status in REDIRECTS:
        raise Redirected(
            f"HTTP {status}: it redirects to {location!r:.300}, and a redirect is not followed because the headers may hold a key; "
            "give the address that answers"
        )
    if not 200 <= status < 300:
        why = f"HTTP {status}: {content.decode(errors='replace').strip()}"
        if status in NOT_NOW:
            raise Unreachable(why)
        raise ValueError(why) if status >= 500 else Refused(why)
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("the reply is nested too deeply") from error


async def _open(request: httpx.Request, end: float, max_bytes: int) -> _Reply:
    """Return the reply of a server, whatever its status."""
    try:
        async with _client(request.url) as client:
            reply = await _until(end, client.send(request, stream=True))
            try:
                if reply.is_success:
                    return _Reply(reply.status_code, await _until(end, _content(reply, max_bytes)), None)
                reply.headers.encoding = "iso-8859-1"
                return _Reply(reply.status_code, await _beginning(reply, end), reply.headers.get("Location"))
            finally:
                await reply.aclose()
    except (OSError, httpx.HTTPError) as error:
        raise Unreachable(f"no answer: {_first_cause(error)!r}") from error


def _client(url: httpx.URL) -> httpx.AsyncClient:
    """Return a client for one request.

    The proxy is the one that the environment names for Python's own programs, and the certificates are the machine's.
    `_until` bounds the time: a timeout of httpx starts again with each byte that drips in.
    """
    address = None if proxy_bypass(urlsplit(str(url)).netloc) else getproxies().get(url.scheme)
    proxy = f"http://{address}" if address and "://" not in address else address
    return httpx.AsyncClient(timeout=None, trust_env=False, proxy=proxy, verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _until(end: float, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine. Raises TimeoutError, and cancels it, at the end of its request."""
    try:
        async with asyncio.timeout(end - time.monotonic()):
            return await work
    except TimeoutError:
        raise TimeoutError("the deadline passed") from None


async def _content(reply: httpx.Response, max_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in reply.aiter_raw():
        content += chunk
        if len(content) > max_bytes:
            raise ReplyTooLong(f"the reply is longer than {max_bytes:,} bytes")
    return bytes(content)


async def _beginning(reply: httpx.Response, end: float) -> bytes:
    """Return the first bytes of an error's text; none where the server does not send it in time, since the status is known."""
    content = bytearray()

    async def read() -> None:
        async for chunk in reply.aiter_raw():
            content.extend(chunk)
            if len(content) >= MAX_ERROR_BYTES:
                return

    with suppress(OSError, httpx.HTTPError):
        await _until(end, read())
    return bytes(content[:MAX_ERROR_BYTES])


def _first_cause(error: BaseException) -> BaseException:
    """Return the error below the errors that httpx and httpcore raised for it, as a cause or an argument: it says why nothing came."""
    while inner := error.__cause__ or next((part for part in error.args if isinstance(part, BaseException)), None):
        error = inner
    return error
