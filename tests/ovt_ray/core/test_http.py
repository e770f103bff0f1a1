"""Requests through a proxy, compressed replies and addresses that are none, with real servers on this machine."""

import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ovt_ray.core.http import Refused, Unreachable, get_content, get_json

ROOT = Path(__file__).parents[3]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass
class Talker:
    """A server that answers every request alike, and the requests that it received."""

    address: str = ""
    reply: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n17"
    received: list[str] = field(default_factory=list)


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Talker]:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    listener = socket.create_server(("127.0.0.1", 0))
    state = Talker(f"127.0.0.1:{listener.getsockname()[1]}")

    def serve() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            with caller:
                state.received.append(caller.recv(65536).decode("iso-8859-1"))
                caller.sendall(state.reply)

    thread = threading.Thread(target=serve)
    thread.start()
    yield state
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_proxy_of_the_environment_is_asked(scheme: str, talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", scheme + talker.address)
    assert get_json("http://nowhere.invalid/a?b=1", {}, 5) == 17
    assert talker.received[0].startswith("GET http://nowhere.invalid/a?b=1 HTTP/1.1\r\n")


@pytest.mark.parametrize("excepted", ["127.0.0.1", "{address}", "*"])
def test_hosts_that_the_environment_excepts_are_asked_without_the_proxy(
    excepted: str, talker: Talker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="ConnectionRefusedError"):
        get_json(f"http://{talker.address}/a", {}, 5)
    monkeypatch.setenv("no_proxy", excepted.format(address=talker.address))
    assert get_json(f"http://{talker.address}/a", {}, 5) == 17
    assert talker.received[0].startswith("GET /a HTTP/1.1\r\n")


def test_a_proxy_for_all_protocols_is_none_of_ours(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert get_json(f"http://{talker.address}/a", {}, 5) == 17


def test_a_reply_is_wanted_and_read_uncompressed(talker: Talker) -> None:
    bomb = gzip.compress(bytes(2**20))
    talker.reply = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    assert get_content(f"http://{talker.address}/", lambda _: None, len(bomb), 5) == bomb
    assert "accept-encoding: identity\r\n" in talker.received[0].lower()


def test_a_header_of_the_caller_replaces_ours(talker: Talker) -> None:
    get_json(f"http://{talker.address}/", {"user-agent": "caf\u00e9", "Authorization": "Bearer secret"}, 5)
    agents = [line for line in talker.received[0].splitlines() if line.lower().startswith("user-agent")]
    assert [agent.partition(": ")[2] for agent in agents] == ["caf\u00e9"]
    assert "Authorization: Bearer secret\r\n" in talker.received[0]


@pytest.mark.parametrize("address", ["http://999.1.1.1/", "http://a.org:port/", "http://a.org/" + "x" * 70_000])
def test_an_address_that_cannot_be_read_is_refused_in_a_short_message(address: str) -> None:
    with pytest.raises(Refused, match="is no address") as refused:
        get_json(address, {}, 5)
    assert len(str(refused.value)) < 500


def test_a_user_in_the_address_is_refused_as_it_would_replace_the_key() -> None:
    with pytest.raises(Refused, match="may not hold a user or a password"):
        get_json("http://me:secret@127.0.0.1:1/", {"Authorization": "Bearer key"}, 5)


def test_a_silent_name_server_holds_up_neither_a_deadline_nor_the_end_of_the_process() -> None:
    script = """
import socket, threading, time
socket.getaddrinfo = lambda *a, **k: time.sleep(20)
from ovt_ray.core.http import Unreachable, get_json
began = time.monotonic()
try:
    get_json("http://somewhere.example/", {}, 0.5)
except Unreachable:
    print(time.monotonic() - began < 5)
threading.Thread(target=get_json, args=("http://somewhere.example/", {}, 20), daemon=True).start()
time.sleep(0.5)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "True\n" and time.monotonic() - began < 15
