"""What a worker asks of its engine for new weights: one update after another, whichever way they come, and what failed is not served."""

import asyncio
from typing import Any, cast

import pytest

from actors.worker import RolloutWorker
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.spans import SpanLog
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.version import Weights

MEETING = Meeting(host="127.0.0.1", port=1, num_members=2, deadline_s=1)
IN_TURN = ["pause", "start", "update", "finish", "resume"]


class Engine:
    """Writes down what it is asked; its first update arrives when the test says so, and may fail."""

    errored = False

    def __init__(self, failure: str = "") -> None:
        self.asked: list[str] = []
        self.arrives = asyncio.Event()
        self.failures = [failure]
        self.engine_core = self
        """Its client."""

    async def init_weight_transfer_engine(self, request: object) -> None:
        self.failures.insert(0, "")  # it joins

    async def pause_scheduler_async(self, *, mode: str, clear_cache: bool) -> None:
        self.asked.append("pause")

    async def reset_prefix_cache(self, *, reset_running_requests: bool) -> None: ...

    async def reset_encoder_cache(self) -> None: ...

    async def start_weight_update(self) -> None:
        self.asked.append("start")

    async def update_weights(self, request: object) -> None:
        self.asked.append("update")
        await self.arrives.wait()

    async def collective_rpc(self, method: str) -> list[str]:
        assert method == "weight_failure"
        return ["", self.failures.pop(0) if self.failures else ""]

    async def finish_weight_update(self, version: str | None) -> None:
        self.asked.append("finish" if version else "finish without a version")

    async def resume_generation(self) -> None:
        self.asked.append("resume")


class Worker(RolloutWorker):
    """A worker of that engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = cast(Any, engine)
        self._update_turn = asyncio.Lock()
        self._joined = None
        self._base_buckets, self._base = (), []
        self._num_calls = 0
        self._spans = SpanLog()


def test_a_load_that_follows_a_broadcast_which_is_given_up_waits_for_its_end_in_the_engine() -> None:
    async def both() -> list[str]:
        engine = Engine()
        worker = Worker(engine)
        receiving = asyncio.create_task(worker.receive_weights(2, MEETING, 1))
        loading = asyncio.create_task(worker.load_weights(Weights(version=2, buckets=(), checksums={})))
        await asyncio.sleep(0.2)
        assert engine.asked == ["pause", "start", "update"]
        engine.arrives.set()
        assert await asyncio.gather(receiving, loading) == [2, 2]
        return engine.asked

    assert asyncio.run(both()) == 2 * IN_TURN


@pytest.mark.parametrize("is_broadcast", [True, False])
def test_an_engine_with_one_process_that_failed_in_an_update_waits_until_it_has_a_version(is_broadcast: bool) -> None:
    async def after_a_failure() -> list[str]:
        engine = Engine("tensor x was not sent")
        engine.arrives.set()
        worker = Worker(engine)
        weights = Weights(version=3, buckets=(), checksums={})
        with pytest.raises(RolloutError, match="tensor x was not sent"):
            await (worker.receive_weights(3, MEETING, 1) if is_broadcast else worker.load_weights(weights))
        assert engine.asked == ["pause", "start", "update", "finish without a version"]
        await worker.load_weights(weights)
        return engine.asked[4:]

    assert asyncio.run(after_a_failure()) == IN_TURN
