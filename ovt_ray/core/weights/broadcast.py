"""Weights sent from one process to many at once: the group that both ends join, and its messages.

Rank 0 sends a version bucket by bucket. A list of the tensors goes before each bucket, an empty list after the last bucket. Everything is
bytes: NCCL carries them between GPUs, CUDA IPC between processes on one GPU, gloo between processes on a CPU.

The reason why a group has ended is in the store of its meeting. A process that has died reports nothing, and NCCL would never stop waiting
for it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ovt_ray.core.errors import BroadcastError
from ovt_ray.core.weights.carriers import Carrier, carrier_between, gpu_of
from ovt_ray.core.weights.meeting import Meeting

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.distributed import TCPStore

Row = tuple[str, str, list[int], str]
"""Name, dtype and shape of a tensor, and the SHA-256 of its bytes, empty where it is not checked."""
LOOK_S = 0.1
"""Time between two checks for a member that has failed."""
LONGEST_PAUSE_S = 0.002
"""Longest time between two checks whether the bytes have arrived."""


class Group:
    """One end of a group. After any failure no member can use the group again."""

    def __init__(self, meeting: Meeting, store: "TCPStore", rank: int, on: "device", *, far_failure: Callable[[], str] = str) -> None:
        """Return when all members have joined; `far_failure` reports a member's failure that is known by another way, or nothing.

        Raises BroadcastError if a member fails, or does not join before the deadline, as all methods do.
        """
        self._store, self._deadline_s, self._device = store, meeting.deadline_s, on
        self._far_failure = far_failure
        self._carrier: Carrier | None = None
        store.set(f"gpu/{rank}", gpu_of(on))
        store.add("joined", 1)  # after the GPU's name: all names are there when all members have joined
        self._wait(lambda: store.add("joined", 0) == meeting.num_members, "not all members of the group are there")
        try:
            gpus = [store.get(f"gpu/{member}").decode() for member in range(meeting.num_members)]
            self._carrier = carrier_between(gpus)(store, rank, meeting, on)
        except RuntimeError as error:
            raise self.ended(str(error)) from error

    def send(self, bucket: "Mapping[str, Tensor]", *, with_checksums: bool) -> None:
        """Send tensors by their names; an empty bucket ends the version."""
        contents = {name: content_of(tensor.detach().to(self._device)) for name, tensor in bucket.items()}
        rows = [
            (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), checksum(contents[name]) if with_checksums else "")
            for name, tensor in bucket.items()
        ]
        listed = json.dumps(rows).encode()
        # Length, list, bytes: a receiver can make room for each only when it knows the one before.
        self._carry([self._tensor(len(listed).to_bytes(8, "little"))])
        self._carry([self._tensor(listed)])
        self._carry(list(contents.values()))

    def received(self) -> "Iterator[tuple[str, Tensor]]":
        """Yield the tensors of a version with their names, on this member's device; raises BroadcastError if one is damaged."""
        while rows := self._received_list():
            yield from self._received_bucket(rows)  # a call of its own: it lets go of its tensors before the next bucket needs the memory

    def _received_bucket(self, rows: "list[Row]") -> "Iterator[tuple[str, Tensor]]":
        import torch

        tensors = [torch.empty(shape, dtype=getattr(torch, dtype), device=self._device) for _, dtype, shape, _ in rows]
        contents = [content_of(tensor) for tensor in tensors]
        self._carry(contents)
        for (name, _, _, expected), tensor, content in zip(rows, tensors, contents, strict=True):
            if expected and checksum(content) != expected:
                raise self.ended(f"tensor {name} is not what the learner sent")
            yield name, tensor

    def _received_list(self) -> "list[Row]":
        length = self._tensor(bytes(8))
        self._carry([length])
        listed = self._tensor(bytes(int.from_bytes(length.cpu().numpy().tobytes(), "little")))
        self._carry([listed])
        return json.loads(listed.cpu().numpy().tobytes())

    def ended(self, reason: str) -> BroadcastError:
        """Close this end, leave the reason for all other members, and return the error to raise."""
        # Before the close: a member that notices the closed connection finds the reason. Only the first reason is kept.
        with suppress(RuntimeError):  # the store has ended with the sender, and the group with it
            self._store.compare_set("failure", "", reason)
        self.close()
        return BroadcastError(f"weights could not be broadcast: {reason}")

    def close(self) -> None:
        """Leave the group, which ends it for all members."""
        if self._carrier:
            self._carrier.close()
            self._carrier = None

    def _tensor(self, content: bytes) -> "Tensor":
        import torch

        return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self._device)

    def _carry(self, contents: "Sequence[Tensor]") -> None:
        if self._carrier is None:
            raise self.ended("the group has ended")
        try:
            self._wait(self._carrier.start(contents), "a bucket is not there")
        except BroadcastError:
            raise
        except RuntimeError as error:  # of gloo and NCCL
            raise self.ended(str(error)) from error

    def _wait(self, is_done: Callable[[], bool], lack: str) -> None:
        now = time.monotonic()
        due_at, looks_at, pause_s = now + self._deadline_s, now + LOOK_S, 1e-5
        while not is_done():
            if (now := time.monotonic()) > looks_at:
                looks_at = now + LOOK_S
                # Before the deadline: a known reason says more than a limit.
                if reason := self._known_failure():
                    raise self.ended(reason)
                if now > due_at:
                    raise self.ended(f"{lack} within rollout.deadline_s={self._deadline_s:g} s")
            time.sleep(pause_s)
            # Short at first: a small bucket is there within microseconds. Then longer: a wait should not take a core.
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _known_failure(self) -> str:
        try:
            return self._far_failure() or (self._store.get("failure").decode() if self._store.check(["failure"]) else "")
        except RuntimeError as error:
            return f"the learner has gone: {error}"


def content_of(tensor: "Tensor") -> "Tensor":
    """Return the tensor's bytes in row-major order, (num_bytes,) uint8; not copied where they already lie in this order."""
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8)


def checksum(content: "Tensor") -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(content.cpu().numpy()).hexdigest()
