"""The workers that weights are broadcast to, as the pool sees them."""

from collections.abc import Sequence

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.seats import Seat
from ovt_ray.broadcast import Meeting
from ovt_ray.types import Broadcast

SETTLE_S = 10.0
"""How long receivers may take to give up when the sender has: they look for that several times a second."""


class Receivers:
    """A group of workers, which lasts from version to version until one of them is replaced."""

    def __init__(self, num_shards: int, deadline_s: float) -> None:
        """Each worker has `num_shards` processes in the group; nobody waits longer than the deadline for another."""
        self._num_shards = num_shards
        self._deadline_s = deadline_s
        self._meeting: Meeting | None = None
        """Where the group met; None where a new one has to be called."""
        self._members: list[ActorHandle] = []
        """In the order of their ranks."""

    def have_taken(self, weights: Broadcast, seats: Sequence[Seat]) -> bool:
        """Have a version sent to the workers in all seats; return whether all serve it."""
        workers = [seat.worker.actor for seat in seats]
        meeting, self._meeting = self._meeting, None
        if meeting is None or workers != self._members:
            meeting = weights.call_group(1 + len(workers) * self._num_shards, self._deadline_s)
        ranks = range(1, 1 + len(workers) * self._num_shards, self._num_shards)
        receiving = [worker.receive_weights.remote(weights.version, meeting, rank) for worker, rank in zip(workers, ranks, strict=True)]
        failure = weights.send(receiving)
        ray.wait(receiving, num_returns=len(receiving), timeout=SETTLE_S if failure else self._deadline_s)
        failure = failure or next(filter(None, map(_error, receiving)), "")
        for seat in seats:
            seat.is_behind = False
        if failure:
            print(
                f"weights of version {weights.version} come from the object store, as not all workers received them: {failure}", flush=True
            )
            return False
        self._meeting, self._members = meeting, workers
        return True


def _error(call: ray.ObjectRef) -> str:
    """Return what went wrong in a call, or that it has not ended; empty if nothing did."""
    try:
        ray.get(call, timeout=0)
    except RayError as error:
        return str(error).splitlines()[-1] or type(error).__name__
    return ""
