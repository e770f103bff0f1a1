"""Weights sent to all engines at once: every tensor arrives, a member that fails holds nobody up, and who was not there catches up."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from actors.pool import RolloutPool
from learner.group import LearnerGroup
from ovt_ray import broadcast
from ovt_ray.broadcast import Group, called, content_of
from ovt_ray.config import ModelConfig, RolloutConfig
from ovt_ray.errors import BroadcastError
from ovt_ray.types import Problem, Sampling, TrainSample
from ovt_ray.world import world_problems
from tests.plain import OPTIMIZER, learner_config, sft_stage
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


def members(*receive: Receive, deadline_s: float = 20, num_absent: int = 0) -> tuple[Callable[..., Group], list[Future]]:
    """Begin to receive, each in a thread with connections of its own; return what joins as the sender, and what will be received."""
    meeting, store = called("127.0.0.1", 1 + len(receive) + num_absent, deadline_s)
    threads = ThreadPoolExecutor(len(receive))

    def join(rank: int, then: Receive) -> object:
        return then(Group(meeting, meeting.store(), rank, CPU))

    receiving = [threads.submit(join, rank, then) for rank, then in enumerate(receive, start=1)]
    return lambda far_failure=str: Group(meeting, store, 0, CPU, far_failure), receiving


def all_of(group: Group) -> list[dict[str, Tensor]]:
    """Return two versions."""
    return [dict(group.received()) for _ in range(2)]


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All members say that they are on one GPU; its memory, where the others read a member's bytes, is a folder."""

    def place_of(content: Tensor) -> dict[str, str]:
        path = tmp_path / str(time.monotonic_ns())
        path.write_bytes(content.numpy().tobytes())
        return {"path": str(path)}

    def copy_from(place: dict[str, str], content: Tensor) -> None:
        if content.numel():
            content.copy_(torch.frombuffer(bytearray(Path(place["path"]).read_bytes()), dtype=torch.uint8))

    monkeypatch.setattr(broadcast, "gpu_of", lambda on: "GPU-0")
    monkeypatch.setattr(broadcast, "place_of", place_of)
    monkeypatch.setattr(broadcast, "copy_from", copy_from)


@pytest.mark.parametrize("way", ["gloo", "one_gpu"])
def test_every_member_has_every_tensor_of_one_version_after_another(way: str, request: pytest.FixtureRequest) -> None:
    if way == "one_gpu":
        request.getfixturevalue(way)
    join, receiving = members(all_of, all_of, all_of)
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


@pytest.mark.usefixtures("one_gpu")
def test_members_on_one_gpu_wait_for_a_reader_until_its_death_is_seen_and_leave_nothing_in_the_store() -> None:
    join, receiving = members(all_of, lambda group: next(group.received()))
    began = time.monotonic()
    sender = join(far_failure=lambda: "worker 7 died" if time.monotonic() > began + 1 else "")
    sender.send(VERSION, with_checksums=False)
    receiving[1].result(20)
    num_keys = sender._store.num_keys()
    with pytest.raises(BroadcastError, match="worker 7 died"):
        sender.send(VERSION, with_checksums=False)
    with pytest.raises(BroadcastError, match="worker 7 died"):
        receiving[0].result(20)
    assert num_keys == 3 + 1, "a GPU of each member, and how many have joined"


def test_members_of_which_some_share_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = iter(["GPU-0", "GPU-0", "GPU-1"])
    monkeypatch.setattr(broadcast, "gpu_of", lambda on: next(gpus))
    join, receiving = members(all_of, all_of)
    for refused in (join, receiving[0].result, receiving[1].result):
        with pytest.raises(BroadcastError, match="some members share a GPU and others do not; ask for whole GPUs"):
            refused()


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


def test_an_engine_computes_the_same_after_a_broadcast_as_after_pulling_the_version_from_the_object_store(
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
