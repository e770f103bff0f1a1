"""The pixels of an image reach an engine once, and again where the engine lost them."""

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import cast

import pytest
import ray
from safetensors.torch import load_file

from actors.pool import RolloutPool
from actors.worker import RolloutWorker
from ovt_ray.core.types import Problem
from ovt_ray.core.weights.transport import StoredVersion
from ovt_ray.world import world_problems
from tests.actors.engine_weights import (
    as_weights,
)
from tests.actors.engines.draws import by_id, sampling

pytestmark = pytest.mark.heavy

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker of Ray cannot import a test


def knows(worker: RolloutWorker, name: str) -> bool:
    """Whether vLLM's client has processed the image."""
    cache = worker.engine.renderer.mm_processor_cache
    return cache is not None and cache.is_cached_item(name)


def forget(worker: RolloutWorker) -> None:
    """Let the engine, but not its client, forget all pixels."""
    loop = cast("asyncio.Task[None]", worker.engine.output_handler).get_loop()
    asyncio.run_coroutine_threadsafe(worker.engine.engine_core.reset_mm_cache_async(), loop).result(10)


def record_what_is_sent(worker: RolloutWorker) -> None:
    """Count the images that go to the engine, and those whose pixels go along, in `worker.sent`."""
    send, sent = worker.engine.engine_core._send_input, [0, 0]

    def recorded(kind: object, request: object, *others: object) -> object:
        features = getattr(request, "mm_features", None) or []
        sent[0] += len(features)
        sent[1] += sum(feature.data is not None for feature in features)
        return send(kind, request, *others)

    worker.engine.engine_core._send_input = recorded
    worker.sent = sent


def taken(worker: RolloutWorker) -> list[int]:
    """Return what was counted since the last call."""
    counted = list(worker.sent)
    worker.sent[:] = [0, 0]
    return counted


def add_as_vllm_does(worker: RolloutWorker) -> bool:
    """Leave our way of adding completions out, or back in; return whether it was in."""
    client, pixels = worker.engine.engine_core, worker._pixels
    was_in = client.add_request_async == pixels.add
    client.add_request_async = pixels._add if was_in else pixels.add
    return was_in


def test_pixels_outlive_the_weights_and_are_sent_again_to_an_engine_that_lost_them(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    """What the processor makes of an image does not depend on weights; that an engine no longer has it costs a second try, no error."""
    shown = [hashlib.sha256(Path(str(source)).read_bytes()).hexdigest() for problem in problems for source in problem.images]
    actors = [slot.worker.actor for slot in pool.crew.slots.values()]
    before = by_id(pool.generate(problems, sampling()))
    pool.load_weights(StoredVersion(as_weights(45, load_file(tiny_model / "model.safetensors"))))
    known = [
        set(ray.get(actor.__ray_call__.remote(lambda worker, names: [name for name in names if knows(worker, name)], shown)))
        for actor in actors
    ]
    assert shown and set(shown) == set().union(*known)
    ray.get([actor.__ray_call__.remote(forget) for actor in actors])
    assert by_id(pool.generate(problems, sampling())) == before


def test_the_pixels_of_an_image_go_to_an_engine_once_whatever_the_size_of_the_group(pool: RolloutPool, tmp_path: Path) -> None:
    actors = [slot.worker.actor for slot in pool.crew.slots.values()]
    ray.get([actor.__ray_call__.remote(record_what_is_sent) for actor in actors])

    def sent(problems: list[Problem]) -> tuple[int, int]:
        list(pool.generate(problems, sampling(num_completions=5)))
        of_actors = ray.get([actor.__ray_call__.remote(taken) for actor in actors])
        return sum(images for images, _ in of_actors), sum(with_pixels for _, with_pixels in of_actors)

    ours, vllms = world_problems("train", 4, 99, tmp_path / "ours"), world_problems("train", 4, 98, tmp_path / "vllms")
    num_images = sum(len(problem.images) for problem in ours)
    assert num_images and sent(ours) == (5 * num_images, num_images)
    assert all(ray.get([actor.__ray_call__.remote(lambda worker: not worker._pixels._shown) for actor in actors]))
    once = ray.get([actor.__ray_call__.remote(add_as_vllm_does) for actor in actors])
    num_images = sum(len(problem.images) for problem in vllms)
    assert sent(vllms) == (5 * num_images, 5 * num_images), "vLLM sends them once by itself: actors/pixels.py can go"
    ray.get([actor.__ray_call__.remote(add_as_vllm_does) for actor in actors])
    assert once == [True, True]
