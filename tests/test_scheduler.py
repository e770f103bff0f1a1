"""What leaves a real engine, step by step: a completion when it has ended, and the half of one only when the engine stands still."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray.actor import ActorHandle

from actors.placed import engine_environment
from actors.worker import engine_arguments
from ovt_ray.config import RolloutConfig

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker of Ray cannot import a test

LENGTHS = {"long": 12, "short": 3, "watched": 5, "left": 12}
"""Tokens of each request; `watched` might be ended by a text, `left` is given up after two steps."""


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

        arguments = dict(vars(engine_arguments(model_path, RolloutConfig(max_model_len=64, kv_cache_gib=0.1))))
        del arguments["enable_log_requests"]  # of asynchronous engines only
        self._llm = LLM(**arguments).llm_engine
        self._core = self._llm.engine_core.engine_core

    def said(self, *, gathers: bool, pauses: bool) -> list[list[Said]]:
        """Return what was said after each step; a pause comes after four, and with it other weights."""
        from vllm import SamplingParams
        from vllm.v1.core.sched.scheduler import Scheduler

        scheduler = self._core.scheduler
        for number, (name, length) in enumerate(LENGTHS.items()):
            stop = ["no such text"] if name == "watched" else None
            params = SamplingParams(max_tokens=length, ignore_eos=True, seed=number, logprobs=0, stop=stop)
            self._llm.add_request(name, {"prompt_token_ids": [5, 6, 7]}, params)
        if not gathers:
            scheduler.update_from_output = lambda *outputs: Scheduler.update_from_output(scheduler, *outputs)
        self._core.set_weight_version("1")
        steps = []
        while scheduler.has_requests():
            steps.append(self._step())
            if len(steps) == 2:
                self._core.abort_requests([name for name in scheduler.requests if name.startswith("left")])
            if len(steps) == 4 and pauses:
                self._core.pause_scheduler("keep", clear_cache=False)
                while scheduler.has_requests():
                    steps.append(self._step())
                self._core.set_weight_version("2")
                self._core.resume_scheduler()
        vars(scheduler).pop("update_from_output", None)
        assert not scheduler._waiting
        return steps

    def _step(self) -> list[Said]:
        updates, _ = self._core.step_fn()
        return [
            Said(
                request=output.request_id.partition("-")[0],
                token_ids=output.new_token_ids,
                logprobs=output.new_logprobs.logprobs[:, 0].tolist() if output.new_logprobs else [],
                version=update.weight_version,
                has_ended=output.finished,
            )
            for update in updates.values()
            for output in update.outputs
        ]


@pytest.fixture(scope="module")
def engine(ray_session: None, tiny_model: Path) -> ActorHandle:
    return ray.remote(runtime_env={"env_vars": engine_environment(1)})(SteppedEngine).remote(str(tiny_model))


def wholes(steps: list[list[Said]]) -> dict[str, tuple[list[int], list[float]]]:
    """Return each request's tokens with their log-probabilities."""
    joined: dict[str, tuple[list[int], list[float]]] = {}
    for said in (said for step in steps for said in step):
        token_ids, logprobs = joined.setdefault(said.request, ([], []))
        token_ids += said.token_ids
        logprobs += said.logprobs
    return joined


def test_a_completion_leaves_the_engine_once_unless_a_text_may_end_it(engine: ActorHandle) -> None:
    steps = ray.get(engine.said.remote(gathers=True, pauses=False))
    one_by_one = ray.get(engine.said.remote(gathers=False, pauses=False))
    spoken = [
        (number, said.request, len(said.token_ids)) for number, step in enumerate(steps) for said in step if said.request != "watched"
    ]
    assert spoken == [(2, "short", 3), (11, "long", 12)]
    assert [len(said.token_ids) for step in steps for said in step if said.request == "watched"] == [1] * 5
    expected = wholes(one_by_one)
    assert len(expected.pop("left")[0]) == 2  # of which nobody is told when outputs are gathered
    assert wholes(steps) == expected and all(len(tokens) == len(logprobs) == LENGTHS[name] for name, (tokens, logprobs) in expected.items())


def test_a_pause_sends_what_waits_with_the_weights_that_it_was_drawn_from(engine: ActorHandle) -> None:
    steps = ray.get(engine.said.remote(gathers=True, pauses=True))
    spoken = [
        (said.request, len(said.token_ids), said.version, said.has_ended) for step in steps for said in step if said.request == "long"
    ]
    assert spoken == [("long", 4, "1", False), ("long", 8, "2", True)]
    assert wholes(steps) == wholes(ray.get(engine.said.remote(gathers=True, pauses=False)))
