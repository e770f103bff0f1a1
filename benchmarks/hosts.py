"""Makes two hosts on one machine: network namespaces with a Ray node in each, joined by a pair of virtual interfaces."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HOSTS = {"ovt-one": "10.201.7.1", "ovt-two": "10.201.7.2"}
"""Names of the namespaces and their addresses."""
RAY_PORT = 6379
LINK_PORT = 5001
LINK_BYTES = 2**30
BLOCK = 2**20
START_DEADLINE_S = 180.0


def why_not() -> str:
    """Return the reason why hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    return "" if shutil.which("ip") else "the command ip (iproute2) is not installed"


def inside(host: str, command: list[str]) -> list[str]:
    """Return the command line that runs a command on a host."""
    return ["ip", "netns", "exec", host, *command]


@contextmanager
def network() -> Iterator[None]:
    """Make and join the two hosts, and remove them after the context."""
    one, two = HOSTS
    with ExitStack() as made:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], stderr=subprocess.DEVNULL, check=False)  # left by a killed run
            _ip("netns", "add", host)
            made.callback(_ip, "netns", "delete", host)
        _ip("link", "add", "ovt-a", "netns", one, "type", "veth", "peer", "name", "ovt-b", "netns", two)
        for host, interface in zip(HOSTS, ("ovt-a", "ovt-b"), strict=True):
            _ip("-n", host, "address", "add", f"{HOSTS[host]}/24", "dev", interface)
            _ip("-n", host, "link", "set", interface, "up")
            _ip("-n", host, "link", "set", "lo", "up")
        yield


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def ray_nodes(num_cpus: dict[str, int], store_bytes: int, folder: Path) -> Iterator[str]:
    """Start a Ray node on each host, with the head on the first host, and yield the cluster's address."""
    head, _ = HOSTS
    address = f"{HOSTS[head]}:{RAY_PORT}"
    ray = str(Path(sys.executable).with_name("ray"))
    with ExitStack() as started:
        for host in HOSTS:
            role = ["--head", "--port", str(RAY_PORT), "--include-dashboard=false", "--temp-dir", str(folder)]
            role = role if host == head else ["--address", address]
            command = [ray, "start", "--block", "--node-ip-address", HOSTS[host], "--num-cpus", str(num_cpus[host])]
            command += ["--object-store-memory", str(store_bytes), *role]
            log = started.enter_context(open(folder / f"{host}.log", "w"))
            process = subprocess.Popen(inside(host, command), stdout=log, stderr=log, env={**os.environ, "VLLM_HOST_IP": "127.0.0.1"})
            started.callback(_end, process)
            _wait_for_port(head, HOSTS[head], RAY_PORT)
        yield address


def _wait_for_port(host: str, address: str, port: int) -> None:
    probe = f"import socket; socket.create_connection(({address!r}, {port}), 1).close()"
    due_at = time.monotonic() + START_DEADLINE_S
    while subprocess.run(inside(host, [sys.executable, "-c", probe]), stderr=subprocess.DEVNULL).returncode:
        if time.monotonic() > due_at:
            raise TimeoutError(f"{host}: nothing listens at {address}:{port} after {START_DEADLINE_S:g} s")
        time.sleep(0.5)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    process.kill()
    process.wait()


def link_bytes_per_s() -> float:
    """Return the speed of a connection that carries a gigabyte from the first host, on which this runs, to the second."""
    _, two = HOSTS
    sink = subprocess.Popen(inside(two, [sys.executable, "-m", "benchmarks.hosts"]))
    try:
        due_at = time.monotonic() + START_DEADLINE_S
        while True:
            with suppress(ConnectionRefusedError):
                connection = socket.create_connection((HOSTS[two], LINK_PORT))
                break
            if time.monotonic() > due_at or sink.poll() is not None:
                raise TimeoutError(f"{two}: the receiving end of the link's measurement did not start")
            time.sleep(0.1)
        with connection:
            block = bytes(BLOCK)
            began = time.monotonic()
            for _ in range(LINK_BYTES // BLOCK):
                connection.sendall(block)
            connection.recv(1)  # wait until every byte has arrived
            return LINK_BYTES / (time.monotonic() - began)
    finally:
        sink.kill()
        sink.wait()


def _sink() -> None:
    """Receive a gigabyte from a connection, then answer."""
    with socket.create_server(("", LINK_PORT)) as server:
        connection, _ = server.accept()
        with connection:
            block = bytearray(BLOCK)
            num_left = LINK_BYTES
            while num_left:
                num_left -= connection.recv_into(block)
            connection.sendall(b".")
            connection.recv(1)


if __name__ == "__main__":
    _sink()
