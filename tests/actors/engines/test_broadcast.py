"""Weights broadcast to real engines: an engine computes as if it had pulled them, and a worker that was not there catches up."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from actors.placed import EngineLauncher
from actors.pool import RolloutPool
from learner.broadcast import BroadcastTransport
from learner.group import LearnerGroup
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.types import Problem, Sampling, TrainSample
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.transport import StoredVersion
from tests.actors.engine_weights import as_weights
from tests.engine_processes import engines_of
from tests.learner.plain_torch import OPTIMIZER, learner_config, sft_stage

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("compiled_operators")]


def group_of(learner: LearnerGroup) -> Meeting | None:
    transport = learner._publisher.transport
    assert isinstance(transport, BroadcastTransport)
    return transport.meeting


@pytest.fixture(scope="module")
def learner(ray_session: None, tiny_model: Path, pool: RolloutPool) -> Iterator[LearnerGroup]:
    """Two ranks that share every weight."""
    learner = LearnerGroup(learner_config(3, num_ranks=2, weight_transport="broadcast"), ModelConfig(path=str(tiny_model)), seed=0)
    learner.begin(sft_stage(tiny_model, OPTIMIZER, num_updates=8))
    yield learner
    learner.close()
    pool.load_weights(StoredVersion(as_weights(1, load_file(tiny_model / "model.safetensors"))))


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
        seen.append((pool.crew.weight_checksums(), answers(pool, problems), group_of(learner)))
    assert weights.version == 2 and seen[0][:2] != seen[1][:2]
    assert seen[0][2] is seen[1][2] is not None, "both came through one group"
    pulled = weights.for_late_joiner()
    assert pulled is not None
    learner.update(samples[:3])
    later = learner.publish()
    pool.load_weights(later)
    assert pool.crew.weight_checksums() != seen[1][0]
    learner.update(samples[:3])
    assert later.for_late_joiner() is None, "the learner has others by now"
    pool.load_weights(StoredVersion(pulled))
    assert (pool.crew.weight_checksums(), answers(pool, problems)) == seen[1][:2]
    [first, second] = pool.crew.weight_checksums()
    assert first == second


@pytest.mark.long
def test_an_engine_that_dies_in_a_broadcast_is_replaced_and_all_serve_the_version(
    pool: RolloutPool, learner: LearnerGroup, samples: list[TrainSample], problems: list[Problem]
) -> None:
    pool.load_weights(learner.publish())  # all are in one group
    before, workers = pool.crew.weight_checksums(), pool.crew.process_ids()
    [engine] = engines_of(psutil.Process(workers[1]))
    engine.suspend()  # it takes the call, and its part of the group never comes
    killer = threading.Timer(1.0, engine.kill)
    killer.start()
    learner.update(samples[:3])
    pool.load_weights(learner.publish())
    killer.join()
    assert pool.crew.process_ids()[0] == workers[0] and pool.crew.process_ids()[1] != workers[1]
    served, said = pool.crew.weight_checksums(), answers(pool, problems)
    assert served[0] == served[1] != before[0]
    pool.load_weights(learner.publish())
    assert group_of(learner) is not None and pool.crew.weight_checksums() == served, "the next version goes through a group of both"
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
    pool = RolloutPool(config, EngineLauncher(model, str(tiny_model)))
    learner.begin(sft_stage(tiny_model, OPTIMIZER, num_updates=8))
    for _ in range(2):
        learner.update(samples[:3])
        weights = learner.publish()
        pool.load_weights(weights)
    assert group_of(learner) is not None
    sums, by_broadcast = pool.crew.weight_checksums(), answers(pool, problems)
    assert (pulled := weights.for_late_joiner()) is not None
    pool.load_weights(StoredVersion(pulled))
    assert (pool.crew.weight_checksums(), answers(pool, problems)) == (sums, by_broadcast)
    pool.close()
    learner.close()
