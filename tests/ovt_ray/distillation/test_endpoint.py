"""Chains from an OpenAI-compatible server: a real one on this machine, which answers as `vllm serve` does, and as it should not."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from ovt_ray.core.config.stages import DistilConfig
from ovt_ray.core.errors import ConfigError, StageError
from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.distillation.endpoint import answers, check_endpoint, content, read_texts

GOOD = "<think> a </think> <answer> 4 </answer>"
Reply = tuple[int, Any]


def choices(*texts: object, **more: object) -> Reply:
    return 200, {"object": "chat.completion", "choices": [{"index": i, "message": {"content": t, **more}} for i, t in enumerate(texts)]}


@dataclass
class Server:
    """What the server does, and what it was asked."""

    reply: Callable[[int, dict[str, Any]], Reply | bytes | Iterator[bytes]] = lambda number, body: choices(*[GOOD] * body["n"])
    """Status and JSON, or the bytes of a whole HTTP reply, at once or piece by piece, to the request of a number with a body."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)
    url: str = ""
    num_at_once: int = 0
    most_at_once: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    state, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.headers.append(self.headers["Authorization"])
            self._send(200 if self.path == "/v1/models" else 404, {"object": "list", "data": [{"id": "teacher"}, {"id": "other"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.bodies.append(body)
                state.headers.append(self.headers["Authorization"])
                number = len(state.bodies) - 1
                state.num_at_once += 1
                state.most_at_once = max(state.most_at_once, state.num_at_once)
            reply = state.reply(number, body)
            with lock:
                state.num_at_once -= 1
            if isinstance(reply, tuple):
                self._send(*reply)
                return
            with suppress(BrokenPipeError, ConnectionResetError):
                for piece in [reply] if isinstance(reply, bytes) else reply:
                    self.wfile.write(piece)
            self.close_connection = True

        def _send(self, status: int, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(BrokenPipeError):  # who asked did not wait
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Patient(ThreadingHTTPServer):
        request_queue_size = 64

    http = Patient(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def section(server: Server, num_chains: int = 2, **options: Any) -> DistilConfig:
    endpoint = {"url": server.url, "model": "teacher", "deadline_s": 5, "num_attempts": 2, **options}
    return DistilConfig.model_validate({"source": "endpoint", "num_problems": 9, "num_chains": num_chains, "endpoint": endpoint})


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "BMP")
    return file.getvalue()


def problem(name: str, *images: bytes) -> Problem:
    return Problem(id=name, question="Which?", images=images, answer="6", kind=AnswerKind.CHOICE, choices=("4", "6"))


def asked(config: DistilConfig, *names: str) -> dict[str, list[str]]:
    return {one.id: texts for one, texts in answers([problem(name) for name in names], config, max_pixels=28 * 28, seed=7)}


def test_each_problem_gets_its_chains_by_one_request(server: Server) -> None:
    config = section(server, instruction="Answer in tags.", max_tokens=99)
    assert asked(config, "a", "b") == {"a": [GOOD, GOOD], "b": [GOOD, GOOD]}
    first, second = server.bodies
    assert (first["model"], first["n"], first["temperature"], first["max_tokens"]) == ("teacher", 2, 1.0, 99)
    assert first["seed"] != second["seed"] and 0 <= first["seed"] < 2**31
    assert first["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Which?\n(A) 4\n(B) 6\nAnswer in tags."}]}]
    assert server.headers == [None, None]


def test_images_go_as_data_urls_of_at_most_so_many_pixels() -> None:
    image, text = content(problem("p", picture(112, 56)), "", 28 * 28)
    head, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], head, text["type"]) == ("image_url", "data:image/png;base64", "text")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (39, 19) and shown.getpixel((5, 5)) == (255, 0, 0)


def test_no_more_problems_are_asked_at_once_than_allowed(server: Server) -> None:
    def slow(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return choices(GOOD, GOOD)

    server.reply = slow
    assert len(asked(section(server, concurrency=3), *"abcdefghi")) == 9
    assert server.most_at_once == 3


def test_a_server_without_n_is_asked_until_all_chains_are_there(server: Server) -> None:
    server.reply = lambda number, body: choices(f"{GOOD} {number}")
    assert asked(section(server, num_chains=3), "a") == {"a": [f"{GOOD} 0", f"{GOOD} 1", f"{GOOD} 2"]}
    assert [body["n"] for body in server.bodies] == [3, 2, 1] and len({body["seed"] for body in server.bodies}) == 3


def test_what_is_too_much_is_left_out(server: Server) -> None:
    server.reply = lambda number, body: choices(*"abcdef")
    assert asked(section(server), "a") == {"a": ["a", "b"]}


BAD_REPLIES: list[Reply | bytes] = [
    (500, {"error": "out of memory"}),
    (503, {"error": "starting"}),
    (429, {"error": "slow down"}),
    (200, ["no object"]),
    (200, {"choices": "none"}),
    choices(),
    choices(None),
    choices(17, {"a": 1}),
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[",
    b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000,
    b"complete nonsense\r\n\r\n",
    b"",
]


def test_one_bad_reply_is_followed_by_another_attempt(server: Server) -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply | bytes:
        place = int(body["messages"][0]["content"][0]["text"].split()[0])
        return choices(GOOD, GOOD) if place in seen else seen.add(place) or BAD_REPLIES[place]

    seen: set[int] = set()
    server.reply = reply
    problems = [replace(problem(str(place)), question=f"{place} ?") for place in range(len(BAD_REPLIES))]
    given = {one.id: texts for one, texts in answers(problems, section(server, concurrency=16), max_pixels=28 * 28, seed=7)}
    assert given == {one.id: [GOOD, GOOD] for one in problems}
    assert len(server.bodies) == 2 * len(BAD_REPLIES)


def test_a_refused_problem_stays_unanswered_without_another_attempt(server: Server) -> None:
    server.reply = lambda number, body: (400, {"error": "too long"}) if number == 0 else choices(GOOD, GOOD)
    assert asked(section(server, concurrency=1), "a", "b") == {"a": [], "b": [GOOD, GOOD]}
    assert len(server.bodies) == 2


def test_a_server_that_answers_no_problem_ends_the_stage_with_its_reason(server: Server) -> None:
    server.reply = lambda number, body: (400, {"error": "no images, please"})
    with pytest.raises(StageError, match="16 problems in a row stay unanswered, the last because HTTP 400.*no images, please"):
        asked(section(server), *map(str, range(40)))


def test_a_server_that_is_gone_ends_the_stage(server: Server) -> None:
    server.reply = lambda number, body: (503, {"error": "gone"})
    with pytest.raises(StageError, match="HTTP 503.*the same command goes on with what is left to ask"):
        asked(section(server, num_attempts=1), "a")


def test_a_server_that_says_nothing_is_not_waited_for(server: Server) -> None:
    def silent(number: int, body: dict[str, Any]) -> Reply | bytes:
        time.sleep(1.0)
        return b""

    server.reply = silent
    assert seconds_until_given_up(server) < 0.9


def test_a_reply_that_drips_is_not_waited_for_beyond_the_deadline(server: Server) -> None:
    def drip() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        for _ in range(15):
            time.sleep(0.1)
            yield b"["

    server.reply = lambda number, body: drip()
    assert seconds_until_given_up(server) < 0.9


def seconds_until_given_up(server: Server) -> float:
    began = time.monotonic()
    with pytest.raises(StageError, match="no answer: TimeoutError"):
        asked(section(server, deadline_s=0.3, num_attempts=1), "a")
    return time.monotonic() - began


def test_a_redirect_is_not_followed_with_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret")
    server.reply = lambda number, body: f"HTTP/1.1 302 Found\r\nLocation: {server.url}/models\r\nContent-Length: 0\r\n\r\n".encode()
    assert asked(section(server, api_key_env="TEACHER_KEY"), "a") == {"a": []}
    assert server.headers == ["Bearer secret"]


def test_thinking_that_the_server_took_apart_is_put_back() -> None:
    def text(**message: object) -> str:
        (only,) = read_texts({"choices": [{"message": message}]})
        return only

    final = "<answer> 4 </answer>"
    assert text(reasoning="\na\n", content=final) == GOOD
    assert text(reasoning_content="a", content=final) == GOOD
    assert text(reasoning="a", content=None) == "<think> a </think> "
    assert text(content=f"a </think> {final}") == GOOD
    assert text(content=final, reasoning=None) == final
    assert text(content=GOOD, reasoning={"a": 1}) == GOOD


def test_a_server_that_answers_and_has_the_model_is_accepted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", " secret\n")
    for url in (server.url, f"{server.url}/"):
        endpoint = section(server, url=url, api_key_env="TEACHER_KEY").endpoint
        assert endpoint is not None
        check_endpoint(endpoint, "distil.endpoint")
    assert server.headers == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "http://127.0.0.1:9/v1"}, "distil.endpoint.url: 'http://127.0.0.1:9/v1' does not answer"),
        ({"model": "student"}, "distil.endpoint.model: .* has no model 'student'; it lists teacher, other"),
        ({"api_key_env": "NO_SUCH_KEY"}, "distil.endpoint.api_key_env: the driver's environment has no key under 'NO_SUCH_KEY'"),
        ({"api_key_env": "BROKEN_KEY"}, "no key under 'BROKEN_KEY'"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused_before_the_start(
    server: Server, change: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN_KEY", "two\nlines")
    endpoint = section(server, **change).endpoint
    assert endpoint is not None
    with pytest.raises(ConfigError, match=message):
        check_endpoint(endpoint, "distil.endpoint")
    with pytest.raises(ConfigError, match="does not answer .HTTP 404"):
        check_endpoint(endpoint.model_copy(update={"url": f"{server.url}/x", "api_key_env": None}), "distil.endpoint")
