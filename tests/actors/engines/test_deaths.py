"""A worker or engine that dies is replaced at the current weights, and nothing is lost."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from actors.pool import RolloutPool
from ovt_ray.core.types import Problem
from ovt_ray.core.weights.transport import StoredVersion
from tests.actors.engine_weights import (
    Adapted,
    as_weights,
    ended_within,
    jittered,
)
from tests.actors.engines.draws import by_id, sampling
from tests.engine_processes import engines_of

pytestmark = pytest.mark.heavy


@pytest.mark.long
def test_a_killed_engine_is_replaced_with_its_worker(pool: RolloutPool, problems: list[Problem]) -> None:
    undisturbed = by_id(pool.generate(problems, sampling(num_completions=16, seed=8)))
    worker = psutil.Process(pool.crew.process_ids()[1])
    [engine] = engines_of(worker)
    killer = threading.Timer(0.1, engine.kill)
    killer.start()
    disturbed = by_id(pool.generate(problems, sampling(num_completions=16, seed=8)))
    killer.join()
    assert disturbed == undisturbed
    assert worker.pid not in pool.crew.process_ids()


@pytest.mark.long
def test_an_engine_that_fails_in_an_update_is_replaced_and_all_serve_the_version(pool: RolloutPool, tiny_model: Path) -> None:
    workers = pool.crew.process_ids()
    [engine] = engines_of(psutil.Process(workers[0]))
    before = pool.crew.weight_checksums()
    engine.suspend()  # it takes the call and never answers
    killer = threading.Timer(1.0, engine.kill)
    killer.start()
    moved = jittered(load_file(tiny_model / "model.safetensors"), "")
    pool.load_weights(StoredVersion(as_weights(5, moved)))
    killer.join()
    assert workers[0] not in pool.crew.process_ids() and workers[1] in pool.crew.process_ids()
    assert pool.crew.weight_checksums()[0] == pool.crew.weight_checksums()[1] != before[0]
    pool.load_weights(StoredVersion(as_weights(6, load_file(tiny_model / "model.safetensors"))))
    assert pool.crew.weight_checksums() == before


def test_a_killed_worker_is_replaced_at_the_current_weights_and_nothing_is_lost(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    learner = Adapted(tiny_model)
    for version in (51, 52):
        learner.move(seed=version)
        pool.load_weights(StoredVersion(learner.publish(version)))  # the successor needs the base and the adapters
    before = pool.crew.weight_checksums()
    undisturbed = by_id(pool.generate(problems, sampling(num_completions=16, seed=9)))
    victim = pool.crew.process_ids()[0]
    engine = engines_of(psutil.Process(victim))
    assert engine, "the engine runs in a process of its own"
    killer = threading.Timer(0.1, os.kill, (victim, signal.SIGKILL))
    killer.start()
    disturbed = by_id(pool.generate(problems, sampling(num_completions=16, seed=9)))
    killer.join()
    assert disturbed == undisturbed
    assert victim not in pool.crew.process_ids()
    assert pool.crew.weight_checksums() == before
    assert ended_within(5, engine), "the killed worker's engine lives on"
    pool.load_weights(StoredVersion(as_weights(53, load_file(tiny_model / "model.safetensors"))))
