"""An engine that is split over two processes."""

import os
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from actors.placed import EngineLauncher
from actors.pool import RolloutPool
from learner.broadcast import BroadcastTransport
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.types import Problem
from ovt_ray.core.weights.transport import StoredVersion
from ovt_ray.core.weights.version import Weights
from tests.actors.engine_weights import (
    Adapted,
    ProcessSender,
    as_weights,
    ended_within,
    jittered,
)
from tests.actors.engines.draws import by_id, sampling
from tests.engine_processes import engines_of

pytestmark = pytest.mark.heavy


SPLIT = RolloutConfig(num_workers=1, cpus_per_worker=2, tensor_parallel=2, max_model_len=256, kv_cache_gib=0.1)


@pytest.mark.long
def test_an_engine_split_over_two_processes_computes_what_a_whole_one_does_and_dies_whole(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    split = RolloutPool(SPLIT, EngineLauncher(ModelConfig(path=str(tiny_model)), str(tiny_model)))
    [pid] = split.crew.process_ids()
    learner = Adapted(tiny_model)
    learner.move(seed=7)
    first, moved = load_file(tiny_model / "model.safetensors"), jittered(load_file(tiny_model / "model.safetensors"), "")
    versions: list[Weights] = [as_weights(60, first), as_weights(61, moved), learner.publish(62)]
    learner.move(seed=8)
    versions += [learner.publish(63), as_weights(64, moved), as_weights(65, first)]
    half_a_layer = "model.layers.1.self_attn.k_proj.weight"
    breaks, goes_through = BroadcastTransport(ProcessSender(moved, stops_after=half_a_layer)), BroadcastTransport(ProcessSender(first))
    broadcasts = {64: breaks.publish(64, is_checked=True), 65: goes_through.publish(65, is_checked=True)}
    seen = []
    for weights in versions:
        pool.load_weights(StoredVersion(weights))
        split.load_weights(broadcasts.get(weights.version, StoredVersion(weights)))
        whole, parts = (by_id(one.generate(problems, sampling(num_completions=1, temperature=0.0))) for one in (pool, split))
        for name, [(tokens, logprobs)] in whole.items():
            assert parts[name][0][0] == tokens
            assert parts[name][0][1] == pytest.approx(logprobs, abs=2e-5)
        seen.append(whole)
    assert seen[0] == seen[-1] and all(before != after for before, after in pairwise(seen))

    assert split.crew.process_ids() == [pid]  # nothing was refused
    assert goes_through.meeting is not None and breaks.meeting is None, "the last version came through a group"
    worker = psutil.Process(pid)
    processes = worker.children(recursive=True)
    assert len(engines_of(worker)) == 3, "the engine's own process, and one for each part"
    shared = {place.path for process in processes for place in process.memory_maps() if place.path.startswith("/dev/shm/")}
    assert shared and not any(os.path.exists(path) for path in shared), "no name that could outlive its processes"
    worker.kill()
    assert ended_within(5, processes)
    split.close()
