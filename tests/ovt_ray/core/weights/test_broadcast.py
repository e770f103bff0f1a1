"""A group of processes to which tensors are broadcast: every tensor arrives, and a member that fails holds nobody up."""

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import TCPStore

from ovt_ray.core.errors import BroadcastError
from ovt_ray.core.weights.broadcast import Group, content_of
from ovt_ray.core.weights.carriers import CudaMemory, Gloo, Nccl, SameGpu, carrier_between
from ovt_ray.core.weights.meeting import new_meeting

CPU = torch.device("cpu")
VERSION = {
    "matrix": torch.arange(6, dtype=torch.float32).view(2, 3).t(),
    "scalar": torch.tensor(3.5, dtype=torch.bfloat16),
    "none": torch.empty(0, 4),
    "flags": torch.tensor([True, False]),
    "large": torch.arange(3_000_000),
}

Receive = Callable[[Group], object]


class FileMemory(CudaMemory):
    """Stands for a GPU's memory that other processes can open: a file that each maps."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "memory"

    def shared(self, num_bytes: int, on: torch.device, num_readers: int) -> tuple[Tensor, list[dict[str, Any]]]:
        self._path.write_bytes(bytes(num_bytes))
        return self.opened({"path": str(self._path)}, num_bytes, on), [{"path": str(self._path)}] * num_readers

    def opened(self, place: dict[str, Any], num_bytes: int, on: torch.device) -> Tensor:
        return torch.from_file(place["path"], shared=True, size=num_bytes, dtype=torch.uint8)

    def wait(self, on: torch.device) -> None:
        pass


def members(
    *receive: Receive, deadline_s: float = 20, num_absent: int = 0, one_gpu: Path | None = None
) -> tuple[Callable[..., Group], list[Future]]:
    """Begin to receive, each in a thread with connections of its own; return what joins as the sender, and what will be received.

    Bytes go by gloo, or as between members on one GPU whose memory is in a folder.
    """
    meeting, store = new_meeting("127.0.0.1", 1 + len(receive) + num_absent, deadline_s)
    threads = ThreadPoolExecutor(len(receive))

    def joined(rank: int, store: TCPStore, far_failure: Callable[[], str] = str) -> Group:
        group = Group(meeting, store, rank, CPU, far_failure=far_failure)
        if one_gpu:
            group._carrier = SameGpu(store, rank, meeting, CPU, memory=FileMemory(one_gpu), num_bytes=2**20)
        return group

    receiving = [threads.submit(lambda rank, then: then(joined(rank, meeting.store())), *one) for one in enumerate(receive, start=1)]
    return lambda far_failure=str: joined(0, store, far_failure), receiving


def all_of(group: Group) -> list[dict[str, Tensor]]:
    """Return two versions."""
    return [dict(group.received()) for _ in range(2)]


@pytest.mark.parametrize("is_one_gpu", [False, True])
def test_every_member_has_every_tensor_of_one_version_after_another(is_one_gpu: bool, tmp_path: Path) -> None:
    join, receiving = members(all_of, all_of, all_of, one_gpu=tmp_path if is_one_gpu else None)
    sender = join()
    second = {"matrix": VERSION["matrix"] + 1}
    for buckets, with_checksums in (([VERSION, {"one more": torch.ones(2)}], True), ([second], False)):
        for bucket in (*buckets, {}):
            sender.send(bucket, with_checksums=with_checksums)
    for found in receiving:
        for tensors, expected in zip(found.result(20), (VERSION | {"one more": torch.ones(2)}, second), strict=True):
            assert list(tensors) == list(expected)
            assert all(tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_a_tensor_that_is_not_what_was_announced_ends_the_group_for_all() -> None:
    join, receiving = members(all_of, all_of)
    sender = join()
    listed = json.dumps([["weight", "float32", [2], "0" * 64]]).encode()
    sender._carry([sender._tensor(len(listed).to_bytes(8, "little"))])
    sender._carry([sender._tensor(listed), content_of(torch.ones(2))])
    for found in receiving:
        with pytest.raises(BroadcastError, match="tensor weight is not what the learner sent|peer"):
            found.result(20)


def test_a_member_that_goes_in_the_middle_ends_the_group_for_all() -> None:
    def go(group: Group) -> None:
        next(group.received())
        group.close()

    join, receiving = members(all_of, go, all_of)
    sender = join()
    began = time.monotonic()
    with pytest.raises(BroadcastError, match="peer"):
        for _ in range(100):
            sender.send(VERSION, with_checksums=False)
    for found in receiving[::2]:
        with pytest.raises(BroadcastError, match="could not be broadcast"):
            found.result(20)
    assert time.monotonic() - began < 10, "half the deadline"


def test_a_member_that_does_not_come_is_waited_for_until_the_deadline() -> None:
    join, receiving = members(all_of, deadline_s=0.5, num_absent=1)
    with pytest.raises(BroadcastError, match=r"not all members of the group are there within rollout.deadline_s=0.5 s"):
        join()
    with pytest.raises(BroadcastError, match="not all members"):
        receiving[0].result(20)


def test_every_member_ends_after_a_death_that_only_the_sender_can_see() -> None:
    join, receiving = members(all_of, num_absent=1)
    began = time.monotonic()
    with pytest.raises(BroadcastError, match="worker 7 died"):
        join(far_failure=lambda: "worker 7 died" if time.monotonic() > began + 0.3 else "")
    with pytest.raises(BroadcastError, match="worker 7 died"):
        receiving[0].result(20)
    assert time.monotonic() - began < 5


def finish(is_done: Callable[[], bool], limit_s: float = 20) -> bool:
    """Return whether it is done in time."""
    due_at = time.monotonic() + limit_s
    while not (done := is_done()) and time.monotonic() < due_at:
        time.sleep(1e-3)
    return done


def test_members_on_one_gpu_have_all_bytes_through_memory_that_is_smaller_than_they_are(tmp_path: Path) -> None:
    sent = [torch.randint(256, (size,), dtype=torch.uint8) for size in (8, 0, 1000, 64, 1, 127, 5000)]
    meeting, store = new_meeting("127.0.0.1", 3, 20)

    def read(rank: int) -> list[Tensor]:
        carrier = SameGpu(meeting.store(), rank, meeting, CPU, memory=FileMemory(tmp_path), num_bytes=64)
        got = [torch.zeros_like(content) for content in sent]
        for content in got[:2]:
            assert finish(carrier.start([content]))
        assert finish(carrier.start(got[2:]))
        return got

    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(read, rank) for rank in (1, 2)]
        sender = SameGpu(store, 0, meeting, CPU, memory=FileMemory(tmp_path), num_bytes=64)
        assert finish(sender.start(sent[:1])) and finish(sender.start(sent[1:]))
        for got in reading:
            assert all(map(torch.equal, got.result(20), sent))
    assert store.num_keys() == 2, "where each of the two finds the memory"


def test_a_sender_on_one_gpu_waits_for_every_reader(tmp_path: Path) -> None:
    meeting, store = new_meeting("127.0.0.1", 3, 20)
    sender = SameGpu(store, 0, meeting, CPU, memory=FileMemory(tmp_path))
    is_sent = sender.start([torch.ones(8, dtype=torch.uint8)])
    for rank in (1, 2):
        assert not finish(is_sent, 0.2)
        assert finish(SameGpu(meeting.store(), rank, meeting, CPU, memory=FileMemory(tmp_path)).start([torch.zeros(8, dtype=torch.uint8)]))
    assert finish(is_sent)


def test_members_on_one_gpu_end_after_a_death_that_only_the_sender_can_see(tmp_path: Path) -> None:
    join, receiving = members(all_of, lambda group: next(group.received()), one_gpu=tmp_path)
    sender = join(far_failure=lambda: "worker 7 died" if receiving[1].done() else "")
    with pytest.raises(BroadcastError, match="worker 7 died"):
        for _ in range(3):
            sender.send(VERSION, with_checksums=False)
    with pytest.raises(BroadcastError, match="worker 7 died"):
        receiving[0].result(20)


def test_where_the_members_are_says_what_carries_the_bytes() -> None:
    assert carrier_between(["", "", ""]) is Gloo
    assert carrier_between(["GPU-0", "GPU-0"]) is SameGpu
    assert carrier_between(["GPU-0", "GPU-1"]) is Nccl
    with pytest.raises(RuntimeError, match="some members share a GPU and others do not; ask for whole GPUs"):
        carrier_between(["GPU-0", "GPU-0", "GPU-1"])
    meeting, store = new_meeting("127.0.0.1", 3, 5)
    for rank in (1, 2):  # of members that share a GPU, to which this one does not belong
        store.set(f"gpu/{rank}", "GPU-0")
        store.add("joined", 1)
    with pytest.raises(BroadcastError, match="some members share a GPU and others do not"):
        Group(meeting, store, 0, CPU)
