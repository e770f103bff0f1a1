"""Places of bytes in memory that another process of this node can map. A worker hands weights to its engine's process this way."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil


@dataclass(frozen=True, slots=True)
class Place:
    """The place where another process finds an array's bytes."""

    path: str
    """Path that every process of this user on this node can open."""
    offset: int
    """Offset of the first byte in that file."""


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A file that this process maps into its memory."""

    start: int
    end: int
    """Address of the first byte behind the mapping."""
    offset: int
    """Offset of `start` in the file."""
    device: int
    inode: int


@contextmanager
def in_shared_memory(arrays: Sequence[np.ndarray]) -> Iterator[list[Place]]:
    """Give the place of each array's bytes, good until the context ends.

    Arrays from Ray's object store stay where they are. The store is a file without a name, which the raylet keeps open; the raylet is
    the parent of every worker. If the file cannot be reached this way, the bytes are copied into a nameless file of this process.
    """
    if (places := _in_parents_file(arrays)) is not None:
        yield places
        return
    file = os.memfd_create("weights")
    try:
        ends = [0]
        for array in arrays:
            ends.append(ends[-1] + _append(file, array))
        path = f"/proc/{os.getpid()}/fd/{file}"
        # The engine opens the path through this process: the file stays open until the update is over.
        yield [Place(path, end) for end in ends[:-1]]
    finally:
        os.close(file)


def _append(file: int, array: np.ndarray) -> int:
    """Write the array's bytes, padded to a multiple of 64 so that every type is aligned; return the count of the bytes."""
    content = array.data.cast("B")
    num_bytes = len(content) + -len(content) % 64
    while content:
        # One write takes at most 2 GiB on Linux, and may take less.
        content = content[os.write(file, content) :]
    os.write(file, bytes(num_bytes - array.nbytes))
    return num_bytes


def _in_parents_file(arrays: Sequence[np.ndarray]) -> list[Place] | None:
    """Return the arrays' places in files that the parent process has open; None if an array lies elsewhere."""
    mappings = _shared_mappings()
    paths = _open_files(os.getppid())
    places = []
    for array in arrays:
        address = array.ctypes.data
        mapping = next((one for one in mappings if one.start <= address and address + array.nbytes <= one.end), None)
        # By device and inode: the store's file has no name to compare.
        path = paths.get((mapping.device, mapping.inode)) if mapping else None
        if mapping is None or path is None:
            return None
        places.append(Place(path, address - mapping.start + mapping.offset))
    return places


def _shared_mappings() -> list[_Mapping]:
    mappings = []
    with open("/proc/self/maps") as lines:
        for line in lines:
            addresses, permissions, offset, device, inode, *_ = line.split(maxsplit=5)
            # Private mappings may differ from their file: writes to them never reach it.
            if permissions.endswith("s") and inode != "0":
                start, end = (int(address, 16) for address in addresses.split("-"))
                major, minor = (int(part, 16) for part in device.split(":"))
                mappings.append(_Mapping(start, end, int(offset, 16), os.makedev(major, minor), int(inode)))
    return mappings


def _open_files(pid: int) -> dict[tuple[int, int], str]:
    """Return the path of each file that a process has open, by device and inode; empty if this process may not see them."""
    paths = {}
    with suppress(PermissionError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed a moment ago
                status = path.stat()
                paths[status.st_dev, status.st_ino] = str(path)
    return paths


def named_memory(pid: int) -> set[Path]:
    """Return the named files in shared memory that a process's descendants map. The parts of a split engine communicate through them.

    The object store is not among them, as its file has no name.
    """
    paths = set()
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(FileNotFoundError):  # ended a moment ago
            lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
            paths |= {Path(line.split(maxsplit=5)[-1]) for line in lines if " /dev/shm/" in line and not line.endswith("(deleted)")}
    return paths
