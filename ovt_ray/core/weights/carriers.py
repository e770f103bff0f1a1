"""The carriers of bytes from one process of a group to all others: gloo between CPUs, NCCL between GPUs, CUDA IPC on one GPU."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from ovt_ray.core.weights.meeting import Meeting

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.distributed import TCPStore

SHARED_BYTES = 2**28
"""Size of the memory through which members on one GPU receive a bucket."""


class Carrier(Protocol):
    """One member's end of the way that bytes take from rank 0 to all other members."""

    def start(self, contents: "Sequence[Tensor]") -> Callable[[], bool]:
        """Start to send, or to fill, tensors of bytes; all members start with tensors of the same sizes.

        Return a function that says whether the transfer is done; it raises RuntimeError if the transfer failed.
        """

    def close(self) -> None:
        """Leave the group, even in the middle of a transfer."""


class Gloo:
    """Carries bytes between processes on a CPU. It notices a member's death."""

    def __init__(self, store: "TCPStore", rank: int, meeting: Meeting, on: "device") -> None:
        from torch.distributed import PrefixStore, ProcessGroupGloo

        limit = timedelta(seconds=meeting.deadline_s)
        # Keys of its own: the store also has the names of the GPUs and the reason of a failure.
        self._group: ProcessGroupGloo | None = ProcessGroupGloo(PrefixStore("gloo", store), rank, meeting.num_members, limit)

    def start(self, contents: "Sequence[Tensor]") -> Callable[[], bool]:
        """Start a transfer, as `Carrier.start` says."""
        assert self._group
        works = [self._group.broadcast(content, 0) for content in contents]

        def is_done() -> bool:
            while works and works[-1].is_completed():
                works.pop().wait()  # raises the error of the transfer
            return not works

        return is_done

    def close(self) -> None:
        """Close the connections; the other members notice."""
        self._group = None


class Nccl:
    """Carries bytes between GPUs, by vLLM's own communicator. It does not notice a member's death."""

    def __init__(self, store: "TCPStore", rank: int, meeting: Meeting, on: "device") -> None:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup
        from vllm.utils.nccl import unpinned_nccl_env

        with unpinned_nccl_env():
            self._communicator = PyNcclCommunicator(StatelessProcessGroup(rank, meeting.num_members, store), on)
        if self._communicator.disabled:  # its calls would do nothing
            raise RuntimeError("vLLM cannot load the NCCL library; install it, or set learner.weight_transport=object_store")

    def start(self, contents: "Sequence[Tensor]") -> Callable[[], bool]:
        """Start a transfer on the device's current stream."""
        import torch

        for content in contents:
            self._communicator.broadcast(content, 0, torch.cuda.current_stream())
        # An event and no `synchronize`: that would never return if the sender has died.
        there = torch.cuda.Event()
        there.record()
        return there.query

    def close(self) -> None:
        """Abort: nothing else makes a GPU give up waiting for another."""
        self._communicator.destroy()


class CudaMemory:
    """Memory of a GPU that other processes on the same one open (CUDA IPC, as `torch.multiprocessing` does it)."""

    def shared(self, num_bytes: int, on: "device", num_readers: int) -> "tuple[Tensor, list[dict[str, Any]]]":
        """Return new memory, (num_bytes,) uint8, and its place for each reader; torch frees it when all readers have let go of it."""
        import torch
        from torch.multiprocessing.reductions import reduce_tensor

        memory = torch.empty(num_bytes, dtype=torch.uint8, device=on)
        places = []
        for _ in range(num_readers):  # each reader has a counter of its own, which ends at 0
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
        """Return when the GPU has done all work of this process."""
        import torch

        torch.cuda.current_stream(on).synchronize()


class SameGpu:
    """Carries bytes between processes on one GPU, through memory of the sender; NCCL takes only one process per GPU.

    It does not notice a member's death. The sender's parameters themselves are not shared: memory is never freed if a reader dies with it.
    """

    def __init__(
        self,
        store: "TCPStore",
        rank: int,
        meeting: Meeting,
        on: "device",
        *,
        memory: CudaMemory | None = None,
        num_bytes: int = SHARED_BYTES,
    ) -> None:
        from torch.distributed import PrefixStore

        self._store, self._device = PrefixStore("same_gpu", store), on
        self._rank, self._num_readers = rank, meeting.num_members - 1
        self._memory, self._num_bytes = memory or CudaMemory(), num_bytes
        self._shared: Tensor | None = None
        self._num_filled = 0
        """Count of the fillings of the shared memory."""

    def start(self, contents: "Sequence[Tensor]") -> Callable[[], bool]:
        """Start a transfer, as `Carrier.start` says."""
        steps = self._send(contents) if self._rank == 0 else self._receive(contents)
        return lambda: next(steps, True)

    def _send(self, contents: "Sequence[Tensor]") -> Iterator[bool]:
        """Yield False while a reader has not read."""
        if self._shared is None:
            self._shared, places = self._memory.shared(self._num_bytes, self._device, self._num_readers)
            for reader, place in enumerate(places, 1):
                self._store.set(f"place/{reader}", json.dumps(place))
        for filling in fillings(contents, self._num_bytes):
            for start, piece in filling:
                self._shared[start : start + len(piece)].copy_(piece)
            # Before the flag: a reader in another process does not see what this GPU stream has yet to do.
            self._memory.wait(self._device)
            self._num_filled += 1
            is_there, num_read = f"{self._num_filled}/is_there", f"{self._num_filled}/num_read"
            self._store.set(is_there, "")
            # Before the next filling, which overwrites the memory.
            while self._store.add(num_read, 0) < self._num_readers:
                yield False
            # All have read, so nobody looks at them; kept, they would fill the store.
            self._store.delete_key(is_there)
            self._store.delete_key(num_read)

    def _receive(self, contents: "Sequence[Tensor]") -> Iterator[bool]:
        for filling in fillings(contents, self._num_bytes):
            self._num_filled += 1
            while not self._store.check([f"{self._num_filled}/is_there"]):
                yield False
            if self._shared is None:
                # Not earlier: the sender sets the place before its first filling, so `get` does not wait here.
                place = json.loads(self._store.get(f"place/{self._rank}"))
                self._shared = self._memory.opened(place, self._num_bytes, self._device)
            for start, piece in filling:
                piece.copy_(self._shared[start : start + len(piece)])
            # Before it counts as read: the sender then overwrites the memory.
            self._memory.wait(self._device)
            self._store.add(f"{self._num_filled}/num_read", 1)

    def close(self) -> None:
        """Let go of the shared memory."""
        self._shared = None


def fillings(contents: "Sequence[Tensor]", num_bytes: int) -> "Iterator[list[tuple[int, Tensor]]]":
    """Yield the fillings of a memory of `num_bytes` that carry tensors of bytes: pieces of tensors, each with its place in the memory."""
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
    """Return the unique name of a GPU; empty for a CPU."""
    import torch

    return str(torch.cuda.get_device_properties(on).uuid) if on.type == "cuda" else ""


def carrier_between(gpus: Sequence[str]) -> "Callable[[TCPStore, int, Meeting, device], Carrier]":
    """Return the carrier between members on these GPUs; raises RuntimeError where no carrier can do it."""
    if not any(gpus):
        return Gloo
    if len(set(gpus)) == 1:
        return SameGpu
    if len(set(gpus)) == len(gpus):
        return Nccl
    raise RuntimeError("some members share a GPU and others do not; ask for whole GPUs, or set learner.weight_transport=object_store")
