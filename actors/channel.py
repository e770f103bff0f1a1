"""The driver's end of the connection to a collector."""

import math
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.collector import CallEvent, CallMessage, Collector
from ovt_ray.core.spans import Span
from ovt_ray.core.weights.version import Weights


class Channel:
    """A collector, and the call that brings its events."""

    def __init__(self, gather_s: float) -> None:
        """Events wait `gather_s` for others, so that they arrive together."""
        self.gather_s = gather_s
        self.known_until = -math.inf
        """Time at which the last answer was asked for: the driver knows all that happened before it."""
        self.open()

    def open(self) -> None:
        """Start a collector, in place of one that died."""
        # In the driver's own node, and on no CPU of its own.
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.collector = ray.remote(num_cpus=0, scheduling_strategy=node)(Collector).remote()
        self._assigned: list[ray.ObjectRef[None]] = []
        # Messages to a dead collector are dropped: `Crew.reopen` has their requests generated again.
        self._messages: list[CallMessage] = []
        self._is_listening = False
        self.listen()

    def assign(self, workers: dict[int, Any]) -> None:
        """Give the collector workers to call, by slot."""
        self._assigned.append(self.collector.assign.remote(workers))

    def call(self, messages: Sequence[CallMessage]) -> None:
        """Have assigned workers called: at once, or with the next `listen` if no answer is awaited."""
        self._wait_until_assigned()
        # A call for events may last a second more; these messages must not wait for the next one.
        if self._is_listening:
            self.collector.call.remote(messages)
        else:
            self._messages.extend(messages)

    def load_weights(self, weights: Weights, limit_s: float) -> "ray.ObjectRef[dict[int, str]]":
        """Have all workers load weights; the answer says which did not, and why."""
        self._wait_until_assigned()
        return self.collector.load_weights.remote(weights, limit_s)

    def take_spans(self, limit_s: float) -> "ray.ObjectRef[dict[int, tuple[Span, ...]]]":
        """Ask all workers for their spans since the last call."""
        return self.collector.take_spans.remote(limit_s)

    def listen(self) -> None:
        """Ask for events, unless that is done. The call carries waiting messages too, which spares the driver a second one."""
        if not self._is_listening:
            self._is_listening = True
            self.asked_at = time.monotonic()
            self.answer: ray.ObjectRef[list[CallEvent]] = self.collector.events.remote(self._messages, self.gather_s)
            self._messages = []

    def receive(self) -> list[CallEvent]:
        """Return the events of the answer; `listen` has to be called again. Raises RayError if the collector died."""
        events = ray.get(self.answer)
        # Known until the question, not the answer: later events may have missed it. `inf`: nobody asked, so nobody is late.
        self.known_until, self.asked_at = self.asked_at, math.inf
        self._is_listening = False
        return events

    def _wait_until_assigned(self) -> None:
        if self._assigned:  # Ray does not promise that messages arrive in order
            ray.wait(self._assigned, num_returns=len(self._assigned))
            self._assigned.clear()
