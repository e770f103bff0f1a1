"""A reward behind HTTP that answers as it should not, from real servers on this machine."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ovt_ray.core.http import MAX_REPLY_BYTES, Redirected, ReplyTooLong
from ovt_ray.core.types import AnswerKind, Problem, Score
from reward.endpoint import Endpoint
from reward.protocol import Answer, Part
from reward.service.worker import ScoringProcess

PROBLEM = Problem(id="p1", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)
SECRET = {"Authorization": "Bearer secret"}
SCORES = b'{"scores": [0.5]}'


@dataclass
class Host:
    """A server, its answers by path, and the Authorization of each request that it received."""

    url: str = ""
    redirects: dict[str, tuple[int, str]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=lambda: {"/score": SCORES})
    keys: list[str | None] = field(default_factory=list)


@pytest.fixture
def host() -> Iterator[Host]:
    yield from served()


@pytest.fixture
def elsewhere() -> Iterator[Host]:
    yield from served()


def served() -> Iterator[Host]:
    state = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.keys.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, target = state.redirects.get(self.path, (200, ""))
            content = state.contents.get(self.path, b"")
            self.send_response(status)
            if target:
                self.send_header("Location", target)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):  # the client did not read all of it
                self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def scores(url: str) -> list[Score]:
    return asyncio.run(Endpoint(url, headers=SECRET).score_batch(PROBLEM, ["a"], [1]))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_key_reaches_no_other_host(status: int, host: Host, elsewhere: Host) -> None:
    host.redirects = {"/score": (status, f"{elsewhere.url}/score")}
    with pytest.raises(Redirected, match=rf"HTTP {status}: it redirects to '{elsewhere.url}/score', .* give the address that answers"):
        scores(f"{host.url}/score")
    assert host.keys == ["Bearer secret"] and elsewhere.keys == []


def test_a_redirect_within_the_host_is_refused_too(host: Host) -> None:
    host.redirects = {"/": (307, "/score")}
    with pytest.raises(Redirected, match="redirects to '/score'"):
        scores(f"{host.url}/")
    assert host.keys == ["Bearer secret"]
    assert [score.value for score in scores(f"{host.url}/score")] == [0.5]


def test_a_reply_of_the_greatest_length_is_read_and_a_longer_one_is_an_error_with_its_name(host: Host) -> None:
    host.contents = {"/full": SCORES.ljust(MAX_REPLY_BYTES), "/long": SCORES.ljust(MAX_REPLY_BYTES + 1)}
    assert [score.value for score in scores(f"{host.url}/full")] == [0.5]
    with pytest.raises(ReplyTooLong, match="the reply is longer than 67,108,864 bytes"):
        scores(f"{host.url}/long")


def test_a_scoring_process_names_the_redirect_in_the_reason_of_each_score(host: Host, elsewhere: Host) -> None:
    host.redirects = {"/score": (302, f"{elsewhere.url}/score")}
    process = ScoringProcess([Part(name=f"{host.url}/score", options={"headers": SECRET})], 4)
    ((score,),) = process.score(PROBLEM, [Answer.of_text(0, "a")], 5.0)
    process.close()
    assert "Redirected: HTTP 302" in score.reason and elsewhere.keys == []
