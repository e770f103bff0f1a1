"""The workers that weights are broadcast to, as the pool sees them."""

from collections.abc import Sequence

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from actors.slots import WorkerSlot
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.weights.broadcast import Meeting
from ovt_ray.core.weights.version import Broadcast

MAX_IN_VAIN = 2
"""Versions in a row that no broadcast brings to workers who can pull them: each may cost the deadline."""
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
        self._num_in_vain = 0
        """Versions in a row that were not taken, though no worker was lost."""

    def have_taken(self, weights: Broadcast, slots: Sequence[WorkerSlot]) -> bool:
        """Have a version sent to the workers in all slots; return whether all serve it."""
        workers = [slot.worker.actor for slot in slots]
        meeting, self._meeting = self._meeting, None
        if meeting is None or workers != self._members:
            meeting = weights.call_group(1 + len(workers) * self._num_shards, self._deadline_s)
        ranks = range(1, 1 + len(workers) * self._num_shards, self._num_shards)
        receiving = [worker.receive_weights.remote(weights.version, meeting, rank) for worker, rank in zip(workers, ranks, strict=True)]
        failure = weights.send(receiving)
        ray.wait(receiving, num_returns=len(receiving), timeout=SETTLE_S if failure else self._deadline_s)
        failure = failure or next(filter(None, map(_error, receiving)), "")
        for slot in slots:
            slot.is_behind = False
        if failure:
            self._failure = f"weights of version {weights.version} come from the object store, as not all workers received them: {failure}"
            print(self._failure, flush=True)
            return False
        self._meeting, self._members, self._num_in_vain = meeting, workers, 0
        return True

    def have_pulled(self, *, is_any_lost: bool) -> None:
        """Take note that the workers have the version from the object store; raises RolloutError if no broadcast seems to work here."""
        self._num_in_vain = 0 if is_any_lost else self._num_in_vain + 1
        if self._num_in_vain == MAX_IN_VAIN:
            raise RolloutError(
                f"{MAX_IN_VAIN} versions of the weights in a row could not be broadcast, though every worker lives ({self._failure}): set "
                "learner.weight_transport=object_store and run the same command again"
            )

    _failure = ""
    """What was said of the last version that was not taken."""


def _error(call: ray.ObjectRef) -> str:
    """Return what went wrong in a call, or that it has not ended; empty if nothing did."""
    try:
        ray.get(call, timeout=0)
    except RayTaskError as error:
        return str(error.cause) or repr(error.cause)
    except RayError as error:
        return str(error) or type(error).__name__
    return ""
