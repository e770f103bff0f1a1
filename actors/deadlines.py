"""Deadlines of the rollout pool: when a problem, a worker or a collector has taken too long."""

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from actors.requests import RequestQueue
from actors.slots import WorkerSlot
from ovt_ray.core.errors import RolloutError

if TYPE_CHECKING:
    import ray

CHECK_S = 1.0
"""Time between two checks."""


class Deadlines:
    """Checks once in a while whether a request is late; all times are on the clock of `time.monotonic`."""

    def __init__(self, limit_s: float) -> None:
        """`limit_s` is the longest time that a request, or the start or update of a worker, may take."""
        self.limit_s = limit_s
        self._checked_at = -math.inf

    def from_now(self) -> float:
        """Return when a piece of work that begins now is late."""
        return time.monotonic() + self.limit_s

    def are_due(self) -> bool:
        """Return whether it is time for a check, and count it as done."""
        if time.monotonic() < self._checked_at + CHECK_S:
            return False
        self._checked_at = time.monotonic()
        return True

    def late(self, joining: "Mapping[ray.ObjectRef, WorkerSlot]") -> "list[ray.ObjectRef]":
        """Return the calls by which successors are joining that should have ended by now."""
        now = time.monotonic()
        return [joined for joined, slot in joining.items() if slot.joins_by < now]

    def check(self, queue: RequestQueue) -> None:
        """Raise RolloutError if a request is late.

        A driver that was silent for long proves nothing. So a request is late only if an answer that was asked for after its deadline does
        not report its end. A collector that gives no answer at all within the limit is stuck: it always answers, if only with nothing.
        """
        now = time.monotonic()
        for channel, request in queue.in_work():
            if request.due_at < channel.known_until or channel.asked_at + self.limit_s < now:
                raise RolloutError(
                    f"problem {request.problem.id}: only {len(request.ended)} of its completions ended within "
                    f"rollout.deadline_s={self.limit_s:g} s: raise it or shorten answers"
                )
