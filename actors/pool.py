"""The rollout service: one Ray actor per vLLM engine, and the pool that feeds and heals them.

Problems wait in a queue of requests (`requests.py`) and go to the crew's workers (`crew.py`) in calls. Collectors (`collector.py`) call the
workers and gather the events of these calls; the driver receives them in batches over channels (`channel.py`).
"""

import math
import time
from collections.abc import Iterator, Sequence

import ray
from ray.exceptions import RayError

from actors.channel import Channel
from actors.crew import Crew
from actors.deadlines import Deadlines
from actors.events import GroupFinished, PoolEvent
from actors.placed import Launcher
from actors.requests import RequestQueue
from actors.weight_loading import WeightLoading
from ovt_ray.core.config.run import RolloutConfig
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.spans import Span
from ovt_ray.core.types import Problem, RolloutGroup, Sampling
from ovt_ray.core.weights.transport import PublishedVersion


class RolloutPool:
    """Generates completions on every worker at once, and keeps them at the current weights."""

    def __init__(self, config: RolloutConfig, launcher: Launcher) -> None:
        """Start the workers; returns at once. `wait_until_ready` or the first call waits for them."""
        self.deadlines = Deadlines(config.deadline_s)
        self._queue = RequestQueue(config.max_num_seqs)
        self.crew = Crew(config, launcher, self._queue, self.deadlines)
        self._weights = WeightLoading(self.crew, self.deadlines, config.num_shards)
        self.crew.add(config.num_workers)

    def wait_until_ready(self) -> None:
        """Return when every engine answers; raises RolloutError with the reason when one cannot start."""
        self.crew.wait_until_ready()

    def generate(self, problems: Sequence[Problem], sampling: Sampling) -> Iterator[RolloutGroup]:
        """Yield each problem's group as it finishes, in any order, each exactly once.

        For a caller who has the pool alone. Errors are those of `poll`.
        """
        try:
            self.submit(problems, sampling)
            while not self.is_idle:
                yield from (event.group for event in self.poll() if isinstance(event, GroupFinished))
        finally:
            self.abandon()

    def submit(self, problems: Sequence[Problem], sampling: Sampling, *, are_awaited: bool = False) -> list[int]:
        """Take in problems, whose ids must differ, before all others if they are awaited; return the number of each problem's request.

        They are handed to workers as there is room; `poll` returns what happened to them. A worker that dies is replaced. Its unfinished
        problems are generated again, all G completions, and these are reported again.
        """
        requests = self._queue.add(problems, sampling, are_awaited=are_awaited)
        # Now, not in the next poll: idle workers would wait while the caller does something else first.
        self._queue.dispatch(self.deadlines.from_now())
        return requests

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being generated or waits to be."""
        return self._queue.is_idle

    def poll(self, timeout_s: float = math.inf) -> list[PoolEvent]:
        """Wait for events, at most so long, and return them, the completions of a group before the group. A pool has one caller.

        Returns at once if nothing was submitted, and may return no event. Raises RolloutError when an engine refuses a problem, a group
        takes longer than the deadline, or workers keep dying of a problem. After an error the caller has to abandon all requests.
        """
        if self.is_idle:
            return []
        # Successors wake the poll too: one that is ready would otherwise idle until another event, for up to a second.
        awaited = [*(channel.answer for channel in self.crew.channels), *self.crew.joining]
        first, others = ray.wait(awaited, num_returns=1, timeout=None if timeout_s == math.inf else timeout_s, fetch_local=False)
        # Other answers that are there by now are taken in too: a poll and a dispatch for all cost hardly more than for one.
        ready = {*first, *(ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0] if first and others else ())}
        events: list[PoolEvent] = []
        try:
            # Before the dispatch, so that a successor that has just loaded gets requests in this round.
            self.crew.admit(ready & self.crew.joining.keys())
            for channel in self.crew.channels:
                if channel.answer in ready:
                    events += self._receive(channel)
            # After the events: a completion that has arrived is not late, however long the driver was elsewhere.
            if self.deadlines.are_due():
                self.crew.admit(self.deadlines.late(self.crew.joining))
                self.deadlines.check(self._queue)
            # After all events: the room that they made is given away once, to the least loaded workers.
            self._queue.dispatch(self.deadlines.from_now())
        finally:
            # Even after an error: a channel that does not listen would give its last answer to the next poll again.
            # After the dispatch: the call that asks for events carries its messages to the workers.
            for channel in self.crew.channels:
                channel.listen()
        return events

    def abandon(self) -> None:
        """Give up all that was submitted and is not finished."""
        # The number first: collectors drop every earlier call, even if its message is still on the way.
        first_call = self._queue.abandon()
        for channel in self.crew.channels:
            channel.collector.abandon.remote(first_call)

    def load_weights(self, published: PublishedVersion) -> None:
        """Return when every engine serves the version; a worker that dies or fails meanwhile is replaced."""
        # First: a successor that still loads the version before could finish it last, and then serve the older one.
        self.crew.admit(self.crew.joining)
        began = time.monotonic()
        self._weights.load(published)
        self._queue.postpone(time.monotonic() - began)  # generation stood still

    def take_spans(self, limit_s: float) -> list[tuple[Span, ...]]:
        """Return each worker's spans since the last call, worker by worker; none of one that does not answer in time."""
        return self.crew.take_spans(limit_s)

    def close(self) -> None:
        """End every worker and its engine."""
        self.crew.close()

    def _receive(self, channel: Channel) -> list[PoolEvent]:
        """Take in a collector's events. A collector that died is replaced, and its workers' unfinished requests are generated again."""
        try:
            received = channel.receive()
        except RayError as error:
            self.crew.reopen(channel, error)
            return []
        events: list[PoolEvent] = []
        for event in received:
            if (slot := self._queue.slot_of(event)) is None:
                continue  # an earlier event of this batch replaced the worker, and others generate its requests again
            if event.refusal:
                raise RolloutError(event.refusal)
            if event.death:
                self.crew.replace(slot, RolloutError(event.death))
            else:
                events += self._queue.receive(event)
        return events
