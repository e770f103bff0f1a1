"""Whole values over a socket between a scoring process and its owner: eight bytes of length, then a pickle.

Both ends are processes of the same user on the same machine. Pickle carries any `str`, lone surrogates included.
"""

import pickle
import socket
import struct
import time
from typing import Any

_LENGTH = struct.Struct("!Q")


def send(channel: socket.socket, value: Any, deadline: float | None = None) -> None:
    """Write a value. `deadline` is a `time.monotonic()`. Raises TimeoutError past the deadline, OSError when the other end is gone."""
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    channel.settimeout(_left(deadline))
    channel.sendall(_LENGTH.pack(len(body)) + body)


def receive(channel: socket.socket, deadline: float | None = None) -> Any:
    """Return the next value. Raises EOFError when the other end is gone, TimeoutError past the deadline."""
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))
    return pickle.loads(_read(channel, length, deadline))


def _read(channel: socket.socket, length: int, deadline: float | None) -> bytearray:
    """Return exactly `length` bytes."""
    body = bytearray(length)
    view, num_read = memoryview(body), 0
    while num_read < length:
        channel.settimeout(_left(deadline))
        num_new = channel.recv_into(view[num_read:])
        if num_new == 0:
            raise EOFError("the other end of the channel is closed")
        num_read += num_new
    return body


def _left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, or None for no limit. Raises TimeoutError if the deadline has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("deadline passed")
    return left
