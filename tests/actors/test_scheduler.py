"""What leaves a real engine, step by step: a completion when it has ended, a part of one if it is long or the engine stands still."""

import sys
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import ray
from ray.actor import ActorHandle

from actors.placed import engine_environment
from actors.worker import engine_arguments
from ovt_ray.core.config.run import RolloutConfig

pytestmark = pytest.mark.heavy

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker of Ray cannot import a test

LENGTHS = {"long": 12, "short": 3, "watched": 5, "left": 12}
"""Tokens of each request; `watched` might be ended by a text, `left` is given up after two steps."""
GATHERING = ("Gathering", "GatheringAsync")


@dataclass(frozen=True)
class Said:
    """What the engine sent of one request after one step."""

    request: str
    token_ids: list[int]
    logprobs: list[float]
    version: str
    has_ended: bool


class SteppedEngine:
    """A real engine in its own process that takes a step when asked."""

    def __init__(self, model_path: str) -> None:
        from vllm import LLM

        arguments = dict(vars(engine_arguments(model_path, RolloutConfig(max_model_len=512, kv_cache_gib=0.1))))
        del arguments["enable_log_requests"]  # of asynchronous engines only
        self._llm = LLM(**arguments).llm_engine
        self._core = self._llm.engine_core.engine_core
        self._kv_cache = self._core.scheduler.kv_cache_config

    def said(self, kind: str, lengths: dict[str, int], *, num_blocks: int = 0, pauses: bool = False) -> tuple[list[list[Said]], int]:
        """Return what was said after each step, and how often a request had to give up its place in a KV cache of so many blocks.

        `left` is given up after two steps. A pause comes after four, and with it other weights.
        """
        from vllm import SamplingParams

        scheduler = self._core.scheduler = self._scheduler(kind, num_blocks)
        is_async = kind == "GatheringAsync"
        self._core.batch_queue_size, self._core.batch_queue = (2, deque(maxlen=2)) if is_async else (1, None)
        self._step_core = self._core.step_with_batch_queue if is_async else self._core.step
        for number, (name, length) in enumerate(lengths.items()):
            stop = ["no such text"] if name == "watched" else None
            params = SamplingParams(max_tokens=length, ignore_eos=True, seed=number, logprobs=0, stop=stop)
            self._llm.add_request(name, {"prompt_token_ids": [5, 6, 7]}, params)
        requests = list(scheduler.requests.values())
        self._core.set_weight_version("1")
        steps = []
        while scheduler.has_requests() or self._core.batch_queue:
            steps.append(self._step())
            if len(steps) == 2:
                self._core.abort_requests([request.request_id for request in requests if request.request_id.startswith("left")])
            if len(steps) == 4 and pauses:
                self._core.pause_scheduler("keep", clear_cache=False)
                while scheduler.has_requests() or self._core.batch_queue:
                    steps.append(self._step())
                self._core.set_weight_version("2")
                self._core.resume_scheduler()
        assert not getattr(scheduler, "_waiting", None)
        return steps, sum(request.num_preemptions for request in requests)

    def _scheduler(self, kind: str, num_blocks: int) -> object:
        from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
        from vllm.v1.core.sched.scheduler import Scheduler

        import actors.scheduler

        config = self._core.vllm_config
        kv_cache = replace(self._kv_cache, num_blocks=num_blocks or self._kv_cache.num_blocks)
        block_size, hash_block_size = resolve_kv_cache_block_sizes(kv_cache, config)
        return getattr(actors.scheduler, kind, Scheduler)(
            vllm_config=config,
            kv_cache_config=kv_cache,
            structured_output_manager=self._core.structured_output_manager,
            log_stats=False,
            block_size=block_size,
            hash_block_size=hash_block_size,
        )

    def _step(self) -> list[Said]:
        updates, _ = self._step_core()
        return [
            Said(
                request=output.request_id.partition("-")[0],
                token_ids=output.new_token_ids,
                logprobs=output.new_logprobs.logprobs[:, 0].tolist() if output.new_logprobs else [],
                version=update.weight_version,
                has_ended=output.finished,
            )
            for update in (updates or {}).values()
            for output in update.outputs
        ]


@pytest.fixture(scope="module")
def engine(ray_session: None, tiny_model: Path) -> ActorHandle:
    return ray.remote(runtime_env={"env_vars": engine_environment(1)})(SteppedEngine).remote(str(tiny_model))


def wholes(steps: list[list[Said]]) -> dict[str, tuple[list[int], list[float]]]:
    """Return each request's tokens with their log-probabilities, which nothing follows once it has ended."""
    joined: dict[str, tuple[list[int], list[float]]] = {}
    ended: set[str] = set()
    for said in (said for step in steps for said in step):
        assert said.request not in ended
        token_ids, logprobs = joined.setdefault(said.request, ([], []))
        token_ids += said.token_ids
        logprobs += said.logprobs
        ended |= {said.request} if said.has_ended else set()
    return joined


@pytest.mark.parametrize("kind", GATHERING)
def test_a_completion_leaves_the_engine_once_unless_a_text_may_end_it(engine: ActorHandle, kind: str) -> None:
    steps, _ = ray.get(engine.said.remote(kind, LENGTHS))
    one_by_one, _ = ray.get(engine.said.remote("vLLM's", LENGTHS))
    spoken = [
        (number, said.request, len(said.token_ids)) for number, step in enumerate(steps) for said in step if said.request != "watched"
    ]
    num_ahead = int(kind == "GatheringAsync")  # steps that have begun before the first is over
    assert spoken == [(2 + num_ahead, "short", 3), (11 + num_ahead, "long", 12)]
    assert [len(said.token_ids) for step in steps for said in step if said.request == "watched"] == [1] * 5
    expected = wholes(one_by_one)
    assert len(expected.pop("left")[0]) == 2  # of which nobody is told when outputs are gathered
    assert wholes(steps) == expected and all(len(tokens) == len(logprobs) == LENGTHS[name] for name, (tokens, logprobs) in expected.items())


@pytest.mark.parametrize("kind", GATHERING)
def test_a_pause_sends_what_waits_with_the_weights_that_it_was_drawn_from(engine: ActorHandle, kind: str) -> None:
    steps, _ = ray.get(engine.said.remote(kind, LENGTHS, pauses=True))
    spoken = [
        (said.request, len(said.token_ids), said.version, said.has_ended) for step in steps for said in step if said.request == "long"
    ]
    assert spoken == [("long", 4, "1", False), ("long", 8, "2", True)]
    assert wholes(steps) == wholes(ray.get(engine.said.remote(kind, LENGTHS))[0])


@pytest.mark.parametrize("kind", GATHERING)
def test_a_long_completion_comes_in_parts_also_where_it_has_to_give_up_its_place_in_the_cache(engine: ActorHandle, kind: str) -> None:
    lengths = {"first": 300, "second": 300}
    steps, num_preemptions = ray.get(engine.said.remote(kind, lengths, num_blocks=5))
    parts = [len(said.token_ids) for step in steps for said in step if said.request == "second"]
    assert parts == [128, 128, 44] and num_preemptions
    expected, got = wholes(ray.get(engine.said.remote("vLLM's", lengths, num_blocks=5))[0]), wholes(steps)
    assert got == expected and {name: len(tokens) for name, (tokens, _) in got.items()} == lengths
    assert all(one != other for one, other in pairwise(tuple(tokens) for tokens, _ in got.values()))
