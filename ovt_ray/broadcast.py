"""Weights sent from one process to many at once: the group that both ends join, and what passes through it.

Rank 0 sends a version bucket by bucket. Before each bucket goes a list of what is in it, after the last one an empty list. Everything is
bytes: NCCL carries them between GPUs, CUDA IPC between processes on one GPU, gloo between processes on a CPU. The store in which the
members meet also tells them why the group has ended: a process that has died says nothing, and NCCL would wait for it for ever.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ovt_ray.errors import BroadcastError

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.distributed import TCPStore

Row = tuple[str, str, list[int], str]
"""Of a tensor its name, dtype, shape, and the SHA-256 of its bytes, empty where it is not checked."""
LOOK_S = 0.1
"""Time between two looks for a member that has failed."""
SHARED_BYTES = 2**28
"""Memory through which members on one GPU hand each other a bucket."""
LONGEST_PAUSE_S = 0.002
"""Longest time between two looks whether the bytes are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where the members of a group find each other."""

    host: str
    port: int
    num_members: int
    """The sender and each process of each engine."""
    deadline_s: float
    """Longest wait for the others, and for one bucket."""

    def store(self) -> "TCPStore":
        """Return the store that the sender keeps; raises RuntimeError if it is not there before the deadline."""
        from torch.distributed import TCPStore

        return TCPStore(self.host, self.port, is_master=False, timeout=timedelta(seconds=self.deadline_s))


def called(host: str, num_members: int, deadline_s: float) -> "tuple[Meeting, TCPStore]":
    """Return where a new group meets, and its store, which this process keeps."""
    from torch.distributed import TCPStore

    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=deadline_s))
    return Meeting(host=host, port=store.port, num_members=num_members, deadline_s=deadline_s), store


class Gloo:
    """Carries bytes between processes on a CPU. It hears of a member's death."""

    def __init__(self, store: "TCPStore", rank: int, meeting: Meeting, on: "device") -> None:
        from torch.distributed import PrefixStore, ProcessGroupGloo

        limit = timedelta(seconds=meeting.deadline_s)
        self._group: ProcessGroupGloo | None = ProcessGroupGloo(PrefixStore("gloo", store), rank, meeting.num_members, limit)

    def start(self, contents: "Sequence[Tensor]") -> Callable[[], bool]:
        """Start to send, or to fill, tensors of bytes; return what says whether that is done, and raises RuntimeError if it failed.

        All members start with tensors of the same sizes.
        """
        assert self._group
        works = [self._group.broadcast(content, 0) for content in contents]

        def is_done() -> bool:
            while works and works[-1].is_completed():
                works.pop().wait()  # raises what went wrong
            return not works

        return is_done

    def close(self) -> None:
        """Close the connections, of which the others hear."""
        self._group = None


class Nccl:
    """Carries bytes between GPUs, by vLLM's own communicator. It hears of nothing."""

    def __init__(self, store: "TCPStore", rank: int, meeting: Meeting, on: "device") -> None:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup
        from vllm.utils.nccl import unpinned_nccl_env

        with unpinned_nccl_env():
            self._communicator = PyNcclCommunicator(StatelessProcessGroup(rank, meeting.num_members, store), on)
        if self._communicator.disabled:  # its calls would do nothing
            raise RuntimeError("vLLM cannot load the NCCL library; install it, or set learner.weight_transport=object_store")

    def start(self, contents: "Sequence[Tensor]") -> Callable[[], bool]:
        """Do what `Gloo.start` does, on the device's current stream."""
        import torch

        for content in contents:
            self._communicator.broadcast(content, 0, torch.cuda.current_stream())
        there = torch.cuda.Event()
        there.record()
        return there.query

    def close(self) -> None:
        """Abort: nothing else makes a GPU give up waiting for another."""
        self._communicator.destroy()


class CudaMemory:
    """Memory of a GPU that other processes on the same one open (CUDA IPC, as `torch.multiprocessing` does it)."""

    def shared(self, num_bytes: int, on: "device", num_readers: int) -> "tuple[Tensor, list[dict[str, Any]]]":
        """Return new memory, (num_bytes,) uint8, and for each reader where it finds that; torch frees it when all have let go of it."""
        import torch
        from torch.multiprocessing.reductions import reduce_tensor

        memory = torch.empty(num_bytes, dtype=torch.uint8, device=on)
        places = []
        for _ in range(num_readers):  # each has a counter of its own, which ends at 0
            _, (*_, handle, size, offset, _, counter_handle, counter_offset, event_handle, _) = reduce_tensor(memory)
            handles = {"handle": handle, "counter_handle": counter_handle, "event_handle": event_handle}
            numbers = {"size": size, "offset": offset, "counter_offset": counter_offset}
            places.append({name: base64.b64encode(value).decode() for name, value in handles.items()} | numbers)
        return memory, places

    def opened(self, place: dict[str, Any], num_bytes: int, on: "device") -> "Tensor":
        """Return the memory that another process shares."""
        import torch
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        handle, counter_handle, event_handle = (base64.b64decode(place[name]) for name in ("handle", "counter_handle", "event_handle"))
        return rebuild_cuda_tensor(
            tensor_cls=torch.Tensor,
            tensor_size=(num_bytes,),
            tensor_stride=(1,),
            tensor_offset=0,
            storage_cls=torch.storage.TypedStorage,
            dtype=torch.uint8,
            storage_device=on.index,
            storage_handle=handle,
            storage_size_bytes=place["size"],
            storage_offset_bytes=place["offset"],
            requires_grad=False,
            ref_counter_handle=counter_handle,
            ref_counter_offset=place["counter_offset"],
            event_handle=event_handle,
            event_sync_required=False,  # the sender waits for the GPU before it says that bytes are there
        )

    def wait(self, on: "device") -> None:
        """Return when all that this process has asked of the GPU is done."""
        import torch

        torch.cuda.current_stream(on).synchronize()


class SameGpu:
    """Carries bytes between processes on one GPU, where NCCL takes only one, through memory of the sender's. It hears of nothing.

    The sender's parameters themselves are not shared: memory that a reader has died with is never freed.
    """

    def __init__(
        self, store: "TCPStore", rank: int, meeting: Meeting, on: "device", memory: CudaMemory | None = None, num_bytes: int = SHARED_BYTES
    ) -> None:
        from torch.distributed import PrefixStore

        self._store, self._device = PrefixStore("same_gpu", store), on
        self._rank, self._num_readers = rank, meeting.num_members - 1
        self._memory, self._num_bytes = memory or CudaMemory(), num_bytes
        self._shared: Tensor | None = None
        self._num_filled = 0
        """Times that the shared memory was full of bytes to read."""

    def start(self, contents: "Sequence[Tensor]") -> Callable[[], bool]:
        """Do what `Gloo.start` does."""
        steps = self._send(contents) if self._rank == 0 else self._receive(contents)
        return lambda: next(steps, True)

    def _send(self, contents: "Sequence[Tensor]") -> Iterator[bool]:
        """Yield False while readers are waited for."""
        if self._shared is None:
            self._shared, places = self._memory.shared(self._num_bytes, self._device, self._num_readers)
            for reader, place in enumerate(places, 1):
                self._store.set(f"place/{reader}", json.dumps(place))
        for filling in fillings(contents, self._num_bytes):
            for start, piece in filling:
                self._shared[start : start + len(piece)].copy_(piece)
            self._memory.wait(self._device)
            self._num_filled += 1
            is_there, num_read = f"{self._num_filled}/is_there", f"{self._num_filled}/num_read"
            self._store.set(is_there, "")
            while self._store.add(num_read, 0) < self._num_readers:
                yield False
            self._store.delete_key(is_there)
            self._store.delete_key(num_read)

    def _receive(self, contents: "Sequence[Tensor]") -> Iterator[bool]:
        for filling in fillings(contents, self._num_bytes):
            self._num_filled += 1
            while not self._store.check([f"{self._num_filled}/is_there"]):
                yield False
            if self._shared is None:
                place = json.loads(self._store.get(f"place/{self._rank}"))
                self._shared = self._memory.opened(place, self._num_bytes, self._device)
            for start, piece in filling:
                piece.copy_(self._shared[start : start + len(piece)])
            self._memory.wait(self._device)
            self._store.add(f"{self._num_filled}/num_read", 1)

    def close(self) -> None:
        """Let go of the shared memory."""
        self._shared = None


def fillings(contents: "Sequence[Tensor]", num_bytes: int) -> "Iterator[list[tuple[int, Tensor]]]":
    """Yield the pieces of tensors of bytes that fill memory of so many bytes, each with its place there, one filling after the other."""
    filling: list[tuple[int, Tensor]] = []
    start = 0
    for content in contents:
        left = content
        while len(left):
            piece, left = left[: num_bytes - start], left[num_bytes - start :]
            filling.append((start, piece))
            start += len(piece)
            if start == num_bytes:
                yield filling
                filling, start = [], 0
    if filling:
        yield filling


def gpu_of(on: "device") -> str:
    """Return the name that no other GPU has; empty for a CPU."""
    import torch

    return str(torch.cuda.get_device_properties(on).uuid) if on.type == "cuda" else ""


def carrier_between(gpus: Sequence[str]) -> "type[Gloo | Nccl | SameGpu]":
    """Return what carries bytes between members on these GPUs; raises RuntimeError where nothing does."""
    if not any(gpus):
        return Gloo
    if len(set(gpus)) == 1:
        return SameGpu
    if len(set(gpus)) == len(gpus):
        return Nccl
    raise RuntimeError("some members share a GPU and others do not; ask for whole GPUs, or set learner.weight_transport=object_store")


class Group:
    """One end of a group. Once anything has failed the group is of no use to any member."""

    def __init__(self, meeting: Meeting, store: "TCPStore", rank: int, on: "device", far_failure: Callable[[], str] = str) -> None:
        """Return when all members are there; `far_failure` says what else is known of a member's failure, empty where nothing is.

        Raises BroadcastError if one fails, or is not there before the deadline, as all methods do.
        """
        self._store, self._deadline_s, self._device = store, meeting.deadline_s, on
        self._far_failure = far_failure
        self._carrier: Gloo | Nccl | SameGpu | None = None
        store.set(f"gpu/{rank}", gpu_of(on))
        store.add("joined", 1)
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
        self._carry([self._tensor(len(listed).to_bytes(8, "little"))])
        self._carry([self._tensor(listed)])
        self._carry(list(contents.values()))

    def received(self) -> "Iterator[tuple[str, Tensor]]":
        """Yield the tensors of a version with their names, on this member's device; raises BroadcastError if one is damaged."""
        while rows := self._received_list():
            yield from self._received_bucket(rows)  # which holds none of it when the next begins

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
        """Close this end, tell the others why, and return the error to raise."""
        with suppress(RuntimeError):  # the store has ended with the sender: nobody is there to be told
            self._store.compare_set("failure", "", reason)
        self.close()
        return BroadcastError(f"weights could not be broadcast: {reason}")

    def close(self) -> None:
        """Leave the group, which ends it for all."""
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
        except RuntimeError as error:  # gloo's and NCCL's own
            raise self.ended(str(error)) from error

    def _wait(self, is_done: Callable[[], bool], lack: str) -> None:
        now = time.monotonic()
        due_at, looks_at, pause_s = now + self._deadline_s, now + LOOK_S, 1e-5
        while not is_done():
            if (now := time.monotonic()) > looks_at:
                looks_at = now + LOOK_S
                if reason := self._known_failure():
                    raise self.ended(reason)
                if now > due_at:
                    raise self.ended(f"{lack} within rollout.deadline_s={self._deadline_s:g} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _known_failure(self) -> str:
        try:
            return self._far_failure() or (self._store.get("failure").decode() if self._store.check(["failure"]) else "")
        except RuntimeError as error:
            return f"the learner has gone: {error}"


def content_of(tensor: "Tensor") -> "Tensor":
    """Return the tensor's bytes in row-major order, (num_bytes,) uint8; not copied where they lie so."""
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8)


def checksum(content: "Tensor") -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(content.cpu().numpy()).hexdigest()
