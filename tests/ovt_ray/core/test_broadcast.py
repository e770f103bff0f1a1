"""Weights sent to all engines at once: every tensor arrives, a member that fails holds nobody up, and who was not there catches up."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor
from torch.distributed import TCPStore

from actors.pool import RolloutPool
from learner.group import LearnerGroup
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.errors import BroadcastError
from ovt_ray.core.types import Problem, Sampling, TrainSample
from ovt_ray.core.weights.broadcast import Group, called, content_of
from ovt_ray.core.weights.carriers import CudaMemory, Gloo, Nccl, SameGpu, carrier_between
from ovt_ray.world import world_problems
from tests.learner.plain import OPTIMIZER, learner_config, sft_stage
from tests.processes import engines_of

pytestmark = pytest.mark.usefixtures("compiled_operators")

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
    meeting, store = called("127.0.0.1", 1 + len(receive) + num_absent, deadline_s)
    threads = ThreadPoolExecutor(len(receive))

    def joined(rank: int, store: TCPStore, far_failure: Callable[[], str] = str) -> Group:
        group = Group(meeting, store, rank, CPU, far_failure)
        if one_gpu:
            group._carrier = SameGpu(store, rank, meeting, CPU, FileMemory(one_gpu), num_bytes=2**20)
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


def test_all_hear_of_a_death_that_only_the_sender_can_see() -> None:
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
    meeting, store = called("127.0.0.1", 3, 20)

    def read(rank: int) -> list[Tensor]:
        carrier = SameGpu(meeting.store(), rank, meeting, CPU, FileMemory(tmp_path), num_bytes=64)
        got = [torch.zeros_like(content) for content in sent]
        for content in got[:2]:
            assert finish(carrier.start([content]))
        assert finish(carrier.start(got[2:]))
        return got

    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(read, rank) for rank in (1, 2)]
        sender = SameGpu(store, 0, meeting, CPU, FileMemory(tmp_path), num_bytes=64)
        assert finish(sender.start(sent[:1])) and finish(sender.start(sent[1:]))
        for got in reading:
            assert all(map(torch.equal, got.result(20), sent))
    assert store.num_keys() == 2, "where each of the two finds the memory"


def test_a_sender_on_one_gpu_waits_for_every_reader(tmp_path: Path) -> None:
    meeting, store = called("127.0.0.1", 3, 20)
    sender = SameGpu(store, 0, meeting, CPU, FileMemory(tmp_path))
    is_sent = sender.start([torch.ones(8, dtype=torch.uint8)])
    for rank in (1, 2):
        assert not finish(is_sent, 0.2)
        assert finish(SameGpu(meeting.store(), rank, meeting, CPU, FileMemory(tmp_path)).start([torch.zeros(8, dtype=torch.uint8)]))
    assert finish(is_sent)


def test_members_on_one_gpu_hear_of_a_death_that_only_the_sender_can_see(tmp_path: Path) -> None:
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
    meeting, store = called("127.0.0.1", 3, 5)
    for rank in (1, 2):  # of members that share a GPU, to which this one does not belong
        store.set(f"gpu/{rank}", "GPU-0")
        store.add("joined", 1)
    with pytest.raises(BroadcastError, match="some members share a GPU and others do not"):
        Group(meeting, store, 0, CPU)


@pytest.fixture(scope="module")
def pool(ray_session: None, tiny_model: Path) -> Iterator[RolloutPool]:
    config = RolloutConfig(num_workers=2, max_model_len=256, kv_cache_gib=0.1)
    pool = RolloutPool(config, ModelConfig(path=str(tiny_model)), str(tiny_model))
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def learner(ray_session: None, tiny_model: Path, pool: RolloutPool) -> Iterator[LearnerGroup]:
    """Two ranks that share every weight."""
    learner = LearnerGroup(learner_config(3, num_ranks=2, weight_transport="broadcast"), ModelConfig(path=str(tiny_model)), seed=0)
    learner.begin(sft_stage(tiny_model, OPTIMIZER, num_updates=8))
    yield learner
    learner.close()


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    return world_problems("train", 6, 0, tmp_path_factory.mktemp("images"))


def answers(pool: RolloutPool, problems: list[Problem]) -> dict[str, tuple[tuple[int, ...], tuple[float, ...]]]:
    greedy = Sampling(num_completions=1, temperature=0.0, max_tokens=24, seed=0)
    groups = pool.generate(problems, greedy)
    return {group.problem.id: (group.completions[0].token_ids, group.completions[0].rollout_logprobs) for group in groups}


def test_an_engine_computes_the_same_after_a_broadcast_as_after_pulling_the_version(
    pool: RolloutPool, learner: LearnerGroup, samples: list[TrainSample], problems: list[Problem]
) -> None:
    seen = []
    for _ in range(2):
        learner.update(samples[:3])
        weights = learner.publish()
        pool.load_weights(weights)
        seen.append((pool.weight_checksums(), answers(pool, problems), pool._receivers._meeting))
    assert weights.version == 2 and seen[0][:2] != seen[1][:2]
    assert seen[0][2] is seen[1][2] is not None, "both came through one group"
    pulled = weights.stored()
    assert pulled is not None
    learner.update(samples[:3])
    later = learner.publish()
    pool.load_weights(later)
    assert pool.weight_checksums() != seen[1][0]
    learner.update(samples[:3])
    assert later.stored() is None, "the learner has others by now"
    pool.load_weights(pulled)
    assert (pool.weight_checksums(), answers(pool, problems)) == seen[1][:2]
    [first, second] = pool.weight_checksums()
    assert first == second


def test_an_engine_that_dies_in_a_broadcast_is_replaced_and_all_serve_the_version(
    pool: RolloutPool, learner: LearnerGroup, samples: list[TrainSample], problems: list[Problem]
) -> None:
    pool.load_weights(learner.publish())  # all are in one group
    before, workers = pool.weight_checksums(), pool.process_ids()
    [engine] = engines_of(psutil.Process(workers[1]))
    engine.suspend()  # it takes the call, and its part of the group never comes
    killer = threading.Timer(1.0, engine.kill)
    killer.start()
    learner.update(samples[:3])
    pool.load_weights(learner.publish())
    killer.join()
    assert pool.process_ids()[0] == workers[0] and pool.process_ids()[1] != workers[1]
    served, said = pool.weight_checksums(), answers(pool, problems)
    assert served[0] == served[1] != before[0]
    pool.load_weights(learner.publish())
    assert pool._receivers._meeting is not None and pool.weight_checksums() == served, "the next version goes through a group of both"
    assert answers(pool, problems) == said, "what an engine computes with is not in its checksums"


def num_gpus() -> int:
    return torch.cuda.device_count() if shutil.which("nvidia-smi") else 0


@pytest.mark.gpu
@pytest.mark.parametrize(("of_rank", "of_worker", "num_needed"), [(1, 1, 2), (0.6, 0.4, 1)], ids=["NCCL", "CUDA IPC"])
def test_an_engine_on_a_gpu_computes_the_same_after_a_broadcast_as_after_pulling(
    ray_session: None,
    tiny_model: Path,
    samples: list[TrainSample],
    problems: list[Problem],
    of_rank: float,
    of_worker: float,
    num_needed: int,
) -> None:
    if num_gpus() < num_needed:
        pytest.skip(f"{num_needed} GPUs are needed, {num_gpus()} are here")
    model = ModelConfig(path=str(tiny_model))
    learner = LearnerGroup(learner_config(0, gpus_per_rank=of_rank, weight_transport="broadcast"), model, seed=0)
    config = RolloutConfig(gpus_per_worker=of_worker, max_model_len=256, gpu_memory_utilization=0.3)
    pool = RolloutPool(config, model, str(tiny_model))
    learner.begin(sft_stage(tiny_model, OPTIMIZER, num_updates=8))
    for _ in range(2):
        learner.update(samples[:3])
        weights = learner.publish()
        pool.load_weights(weights)
    assert pool._receivers._meeting is not None
    sums, by_broadcast = pool.weight_checksums(), answers(pool, problems)
    assert (pulled := weights.stored()) is not None
    pool.load_weights(pulled)
    assert (pool.weight_checksums(), answers(pool, problems)) == (sums, by_broadcast)
    pool.close()
    learner.close()
