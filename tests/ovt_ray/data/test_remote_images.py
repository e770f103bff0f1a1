"""Images at web addresses, from a real server on this machine: what is fetched, how often, and what is never reached."""

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ovt_ray.cli import main
from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.errors import DataError
from ovt_ray.core.http import MAX_REDIRECTS, Refused, Unreachable, get_content
from ovt_ray.data.formats import Row, format_rows
from ovt_ray.data.remote_images import MAX_FETCHED_BYTES, MAX_LATE, RemoteImages, host_of
from ovt_ray.data.sources import read_problems
from ovt_ray.data.store import MAX_FETCHES, ROWS_AHEAD, keep, problem_set
from ovt_ray.data.table import ProblemSet
from ovt_ray.distil import read_traces
from tests.ovt_ray.data.formats.published import write_json
from tests.ovt_ray.data.row_files import encoded, png_header_of, row, write_rows

MIB = 2**20


@dataclass
class Site:
    """What is at each path, a picture, a place to go to or nothing, and what was asked for."""

    host: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    seconds: float = 0
    """Of each answer."""
    num_sent: int = 0
    """Bytes of `/endless`."""
    is_closing: threading.Event = field(default_factory=threading.Event)

    def at(self, path: str) -> str:
        return f"http://{self.host}{path}"


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site(pictures={"/red.png": encoded("red"), "/blue.png": encoded("blue")})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            time.sleep(state.seconds)
            with suppress(OSError):  # who asked did not wait
                if self.path == "/endless":
                    self._drip(b"\0" * MIB, every_s=0)
                elif self.path == "/drip":
                    self._drip(b"\0", every_s=0.05)
                elif self.path == "/headers":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                    self._pieces(b"x", every_s=0.05)
                elif self.path == "/cut.png":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(state.pictures["/red.png"]) + 1))
                    self.end_headers()
                    self.wfile.write(state.pictures["/red.png"])
                elif self.path in state.redirects:
                    self.send_response(302)
                    self.send_header("Location", state.redirects[self.path])
                    self.end_headers()
                else:
                    self._send(state.pictures.get(self.path))

        def _send(self, content: bytes | None) -> None:
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def _drip(self, piece: bytes, every_s: float) -> None:
            self.send_response(200)
            self.end_headers()
            self._pieces(piece, every_s)

        def _pieces(self, piece: bytes, every_s: float) -> None:
            while not state.is_closing.wait(every_s):
                self.wfile.write(piece)
                state.num_sent += len(piece)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield state
    state.is_closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def read(path: Path, *hosts: str) -> ProblemSet:
    return problem_set("jsonl", path, "train", path.parent / "kept", image_hosts=hosts)


def refusal(folder: Path, site: Site, address: str, *hosts: str) -> str:
    """Why the row of an image makes no problem; the site's own host is allowed."""
    (bad,) = read(write_rows(folder, row(images=["a.png", address])), site.host, *hosts).bad
    return bad.message


def test_an_address_is_fetched_once_however_many_rows_and_starts_ask_for_it(tmp_path: Path, site: Site) -> None:
    rows = [row(id=f"q{number}", images=[site.at("/red.png"), "a.png", site.at("/blue.png")]) for number in range(40)]
    path = write_rows(tmp_path, *rows)
    problems = read(path, site.host)
    assert problems.bad == () and len(problems) == 40
    contents = [[Path(image).read_bytes() for image in problem.images] for problem in problems]
    assert contents == [[encoded("red"), encoded("red"), encoded("blue")]] * 40
    assert problems[0].images[1] == str(tmp_path / "a.png") and problems.column("num_fetched") == [2] * 40
    assert sorted(site.asked) == ["/blue.png", "/red.png"]
    assert list(read(path, site.host)) == list(problems)
    path.write_text(path.read_text() + "\n" + json.dumps(row(id="one more", images=[site.at("/red.png")])))
    assert len(read(path, site.host)) == 41
    assert sorted(site.asked) == ["/blue.png", "/red.png"], "rows that are read anew find what was fetched"


@pytest.mark.heavy
def test_several_images_are_fetched_at_once_and_what_takes_long_is_seen(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site.seconds = 0.6
    site.pictures = {f"/{number}.png": encoded("red", (10 + number, 10)) for number in range(40)}
    path = write_rows(tmp_path, *[row(id=name, images=[site.at(name)]) for name in site.pictures])
    began = time.monotonic()
    problems = read(path, site.host)
    assert time.monotonic() - began < 40 * 0.6 / 2
    assert problems.column("image_widths") == [[10 + number] for number in range(40)]
    assert re.search(r"checking .*rows.jsonl: \d+ rows, \d+ a second, 0 bad, \d+ images fetched", caplog.text)


def test_who_stops_does_not_wait_for_what_was_still_to_be_fetched(tmp_path: Path, site: Site) -> None:
    site.seconds = 0.5
    path = write_rows(tmp_path, *[row(id=str(number), images=[site.at(f"/{number}.png")]) for number in range(MAX_FETCHES * ROWS_AHEAD)])

    def torn() -> Iterator[Row]:
        yield from format_rows("jsonl", path, "train")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(torn(), "torn", tmp_path / "kept" / "key", [site.host])
    assert len(site.asked) <= MAX_FETCHES * ROWS_AHEAD / 2


def test_the_same_picture_at_two_addresses_is_kept_once(tmp_path: Path, site: Site) -> None:
    site.pictures["/red again.png"] = site.pictures["/red%20again.png"] = encoded("red")
    (problem,) = read(write_rows(tmp_path, row(images=[site.at("/red.png"), site.at("/red again.png")])), site.host)
    assert problem.images[0] == problem.images[1] and Path(problem.images[0]).parent == tmp_path / "kept" / "images"
    assert "/red%20again.png" in site.asked


def test_nothing_is_fetched_unless_the_host_is_listed_and_the_message_says_how(tmp_path: Path, site: Site) -> None:
    path = write_rows(tmp_path, row(images=["a.png", site.at("/red.png")]))
    with pytest.raises(DataError) as refused:
        read_problems(DataConfig(format="jsonl", path=path), tmp_path / "kept")
    assert f"{path} row 1 (id 'q1'): images[1]: '{site.at('/red.png')}': on the host '{site.host}'" in str(refused.value)
    assert f"data.image_hosts=[{site.host}]" in str(refused.value)
    assert read(path, "127.0.0.1", "localhost").bad, "another port is another server"
    assert site.asked == []
    assert read(path, site.host).bad == () and site.asked == ["/red.png"]
    assert read(path).bad, "what was fetched for another run is not taken where its host is not listed"


def test_a_redirect_is_followed_to_listed_hosts_alone(tmp_path: Path, site: Site) -> None:
    port = site.host.rpartition(":")[2]
    elsewhere = f"http://localhost:{port}/red.png"
    site.redirects = {"/far": elsewhere, "/near": "/red.png", "/round": "/round", "/file": "file:///etc/hostname"}
    message = refusal(tmp_path, site, site.at("/far"))
    assert f"row 1 (id 'q1'): images[1]: '{site.at('/far')}': leads to '{elsewhere}': on the host 'localhost:{port}'" in message
    assert site.asked == ["/far"]
    assert "leads to 'file:///etc/hostname': must be http://HOST/PATH" in refusal(tmp_path, site, site.at("/file"))
    site.asked.clear()
    assert "cannot be fetched (more than 5 redirects)" in refusal(tmp_path, site, site.at("/round"))
    assert site.asked == ["/round"] * (MAX_REDIRECTS + 1)
    (problem,) = read(write_rows(tmp_path, row(images=[site.at("/near")])), site.host)
    assert Path(problem.images[0]).read_bytes() == encoded("red")
    (problem,) = read(write_rows(tmp_path, row(images=[site.at("/far")])), site.host, f"localhost:{port}")
    assert Path(problem.images[0]).read_bytes() == encoded("red")


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path, site: Site) -> None:
    assert "cannot be fetched (the reply is longer than 33,554,432 bytes)" in refusal(tmp_path, site, site.at("/endless"))
    assert MAX_FETCHED_BYTES == 33_554_432 < site.num_sent < 2 * MAX_FETCHED_BYTES  # what sockets hold is on its way


def test_a_reply_that_breaks_off_is_no_image_though_what_came_of_it_is_one(tmp_path: Path, site: Site) -> None:
    assert "cannot be fetched (no answer: RemoteProtocolError('peer closed connection without sending complete" in refusal(
        tmp_path, site, site.at("/cut.png")
    )


@pytest.mark.parametrize("path", ["/drip", "/headers"])
def test_a_server_that_drips_ends_at_the_deadline(path: str, site: Site) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match="no answer: TimeoutError"):
        get_content(site.at(path), host_of, MIB, deadline_s=0.5)
    assert 0.4 < time.monotonic() - began < 3


def test_an_image_that_does_not_come_in_time_is_named_and_not_asked_for_again(tmp_path: Path, site: Site) -> None:
    remote = RemoteImages([site.host], tmp_path, deadline_s=0.3)
    for _ in range(2):
        with pytest.raises(DataError, match=r"images\[0\]: 'http://.*/drip': cannot be fetched .no answer: TimeoutError"):
            remote.local([site.at("/drip")])
    assert site.asked == ["/drip"]


def test_a_host_that_lets_many_deadlines_pass_in_a_row_is_not_asked_again(site: Site, tmp_path: Path) -> None:
    remote = RemoteImages([site.host], tmp_path, deadline_s=0.05)

    def fault(number: int) -> str:
        with pytest.raises(DataError) as refused:
            remote.local([site.at(f"/red.png?{number}")])
        return str(refused.value)

    site.seconds = 0.2
    assert all("cannot be fetched" in fault(number) for number in range(MAX_LATE))
    assert "not asked for: 16 images" in fault(MAX_LATE) and "/red.png?16" not in site.asked


def test_a_server_that_is_slow_to_redirect_has_one_deadline_for_all_of_it(site: Site) -> None:
    site.redirects = {"/round": "/round"}
    with pytest.raises(Refused, match="more than 5 redirects"):
        get_content(site.at("/round"), lambda address: time.sleep(0.01), MIB, deadline_s=30)
    with pytest.raises(Unreachable, match="no answer: .*(the deadline passed|timed out)"):
        get_content(site.at("/round"), lambda address: time.sleep(0.2), MIB, deadline_s=0.5)
    assert len(site.asked) < 2 * (MAX_REDIRECTS + 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<html>no picture</html>", "an image of 23 bytes: not a readable PNG, JPEG"),
        (png_header_of(9_000, 9_000), "9000 x 9000 pixels, more than 67,108,864"),
        (png_header_of(60_000, 60_000), "not a readable PNG, JPEG"),
        (encoded("red")[:-30], "not a readable PNG, JPEG"),
        (None, "cannot be fetched (HTTP 404); store the image and give its path"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_its_row(content: bytes | None, expected: str, tmp_path: Path, site: Site) -> None:
    site.pictures |= {} if content is None else {"/bad": content}
    message = refusal(tmp_path, site, site.at("/bad"))
    assert message.startswith(f"{tmp_path / 'rows.jsonl'} row 1 (id 'q1'): images[1]: '{site.at('/bad')}': ") and expected in message
    assert list((tmp_path / "kept" / "images").iterdir()) == []


def test_an_address_that_fails_is_asked_once_a_start_and_again_only_where_bad_rows_are_refused(tmp_path: Path, site: Site) -> None:
    rows = [row(id=f"late {number}", images=[site.at("/late.png")]) for number in range(20)]
    path = write_rows(tmp_path, row(), *rows)
    assert len(read(path, site.host).bad) == 20 and site.asked == ["/late.png"]
    site.pictures["/late.png"] = encoded("green")
    assert len(read(path, site.host)) == 1, "a run that dropped them finds the problems that it had"
    assert site.asked == ["/late.png"]
    read_problems(DataConfig(format="jsonl", path=path, image_hosts=(site.host,), num_eval=1), tmp_path / "kept")  # refuses bad rows
    assert site.asked == ["/late.png"] * 2
    assert len(read(path, site.host)) == 21


def test_a_kept_image_that_was_damaged_or_deleted_is_fetched_again(tmp_path: Path, site: Site) -> None:
    path = write_rows(tmp_path, row(images=[site.at("/red.png")]))
    for spoil in (lambda kept: kept.write_bytes(b"torn"), lambda kept: kept.unlink()):
        (problem,) = read(path, site.host)
        spoil(Path(problem.images[0]))
        (problem,) = read(path, site.host)
        assert Path(problem.images[0]).read_bytes() == encoded("red")
    assert site.asked == ["/red.png"] * 3


@pytest.mark.parametrize("name", ["/\0.png", "/\ud800.png", "/" + "long" * 10_000])
def test_an_address_that_can_be_no_path_makes_one_bad_row_and_a_short_message(name: str, tmp_path: Path, site: Site) -> None:
    path = write_rows(tmp_path, row(), row(id="odd", images=[site.at(name)]))
    for hosts in ([], [site.host]):
        for _ in range(2):  # read, and taken from what is kept
            problems = read(path, *hosts)
            (bad,) = problems.bad
            assert len(problems) == 1 and "row 2 (id 'odd'): images[0]: 'http://" in bad.message and len(bad.message) < 1000


@pytest.mark.parametrize(
    "address",
    [
        "http://a.org@b.org/1.png",
        "http://a.org\\@b.org/1.png",
        "http://a.org:80@b.org/1.png",
        "http://a.org\r\nHost: b.org/1.png",
        "http://a.org\t/1.png",
        "http://[::1]/1.png",
        "http:///1.png",
        "http://a.org:/1.png",
        "http://ä.org/1.png",
        "http://a.org\ud800/1.png",
        "http://\u212aelvin.org/1.png",
        "ftp://a.org/1.png",
    ],
)
def test_an_address_that_could_be_read_as_two_hosts_has_none(address: str) -> None:
    with pytest.raises(DataError, match="must be http://HOST/PATH"):
        host_of(address)


def test_hosts_are_compared_without_their_usual_ports() -> None:
    addresses = ["http://A.org", "https://a.org:443/x", "http://a.org:443/x", "https://a.org?@b.org/", "http://a.org#@b.org/"]
    assert [host_of(address) for address in addresses] == ["a.org", "a.org", "a.org:443", "a.org", "a.org"]


def test_tables_of_other_trainers_and_structs_hold_addresses_too(tmp_path: Path, site: Site) -> None:
    tables = {
        "easyr1": {"problem": "<image>How many?", "answer": 4, "images": [site.at("/red.png")]},
        "verl": {
            "prompt": [{"role": "user", "content": "How many?"}],
            "reward_model": {"ground_truth": 4},
            "images": [{"bytes": None, "path": site.at("/red.png")}],
        },
        "llama_factory": {"instruction": "?", "output": "<think> . </think> <answer> 4 </answer>", "images": [site.at("/red.png")]},
    }
    for name, values in tables.items():
        file = write_json(tmp_path / f"{name}.json", [values])
        (problem,) = problem_set(name, file, "train", tmp_path / "kept", image_hosts=[site.host])
        assert Path(problem.images[0]).read_bytes() == encoded("red")
    assert site.asked == ["/red.png"]


def test_the_images_of_a_trace_are_never_fetched(tmp_path: Path, site: Site) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_text(json.dumps(row(images=[site.at("/red.png")], response="4")) + "\n")
    with pytest.raises(DataError, match="line 1: images: .* must be on this machine"):
        read_traces(traces)
    assert site.asked == []


def test_several_threads_that_ask_for_one_address_wait_for_one_request(tmp_path: Path, site: Site) -> None:
    remote, paths = RemoteImages([site.host], tmp_path), []
    remote.images.mkdir()
    threads = [threading.Thread(target=lambda: paths.extend(remote.local([site.at("/red.png")]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8 and len(set(paths)) == 1 and site.asked == ["/red.png"]


def test_the_survey_says_for_how_many_rows_images_are_remote_and_which_hosts_they_are_on(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [site.at("/blue.png"), site.at("/absent.png"), "https://other.example/1.png", "https://other.example/2.png"]
    path = write_rows(tmp_path, row(), *[row(id=f"r{number}", images=[address]) for number, address in enumerate(addresses)])
    monkeypatch.chdir(tmp_path)
    assert main(["data", str(path), "data.num_eval=1", "--format", "jsonl"]) == 0
    text = capsys.readouterr().out
    assert "images at web addresses: 4 rows, 0 of them with every image fetched" in text
    assert f"  2 on {site.host}, which data.image_hosts does not list\n  2 on other.example, which" in text
    assert site.asked == []
    assert main(["data", str(path), "data.num_eval=1", f"data.image_hosts=[{site.host}]", "--format", "jsonl"]) == 0
    text = capsys.readouterr().out
    assert "images at web addresses: 4 rows, 1 of them with every image fetched" in text
    assert "2 on other.example" in text and f"on {site.host}, which" not in text and "  1 could not be fetched: tried again" in text
    assert f"allow it with data.image_hosts=[{site.host},other.example]," in text, "a word of the shell"
    assert "'https://other.example/1.png'" in text and "cannot be fetched (HTTP 404)" in text


@pytest.mark.parametrize("host", ["http://a.org", "a.org/x", "A.org", "user@a.org", "*", "*.a.org", "a.org:x", ""])
def test_a_host_is_a_name_and_no_pattern(host: str) -> None:
    with pytest.raises(ValueError, match="image_hosts"):
        DataConfig(format="jsonl", path=Path("x"), image_hosts=(host,))
    with pytest.raises(ValueError, match="image_hosts has no effect"):
        DataConfig(format="embedded", image_hosts=("a.org",))
