"""A rank of the learner as a Ray actor: the messages of the group, and the sending end of the weights."""

import socket
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from learner.rank import LearnerRank
from learner.weights import checksums, on_the_wire
from ovt_ray.core.errors import BroadcastError
from ovt_ray.core.spans import Span, recorded
from ovt_ray.core.weights.broadcast import Group
from ovt_ray.core.weights.meeting import Meeting, called
from ovt_ray.core.weights.version import Adapter, Weights, WeightTensor


class RankActor(LearnerRank):
    """A rank as a Ray actor: it is found by its address and keeps published weights in the object store."""

    def address(self) -> tuple[str, int]:
        """Return this node's address and a port that is free on it."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    @recorded
    def publish(self, with_checksums: bool) -> tuple[list[Any], dict[str, str]]:
        """Return what `put_buckets` does of the policy's weights; nothing above rank 0."""
        return put_buckets(map(on_the_wire, self.weights()), with_checksums)

    @recorded
    def publish_base(self) -> tuple[list[Any], dict[str, str]]:
        """Return what `publish` does of the policy without its adapters."""
        return put_buckets(map(on_the_wire, self.base_weights()), with_checksums=True)

    @recorded
    def publish_adapters(self, with_checksums: bool) -> tuple[list[Any], dict[str, str]]:
        """Return what `publish` does of the policy's adapters."""
        return put_buckets(self.adapters(), with_checksums)

    def stored(self, version: int) -> Weights:
        """Return the policy's weights, put into the object store under a version; on rank 0."""
        buckets, sums = self.publish(with_checksums=True)
        return Weights(version=version, buckets=tuple(buckets), checksums=sums)

    def call_group(self, num_members: int, deadline_s: float) -> Meeting:
        """Return where a new group for broadcasts meets, in place of the one before."""
        if self._group:
            self._group.close()
        self._group = None
        self._meeting, self._store = called(ray.util.get_node_ip_address(), num_members, deadline_s)
        return self._meeting

    @recorded
    def broadcast(self, receiving: list[Any], with_checksums: bool) -> str:
        """Send the policy's weights to the group; return why it failed, empty if it did not. `receiving` are the calls of the receivers.

        Whatever becomes of a bucket, all ranks take part in gathering the next.
        """
        self._receiving = receiving
        failure = ""
        for bucket in chain(self.weights(), [{}]):
            if self._rank == 0 and not failure:
                failure = self._send(bucket, with_checksums)
        return failure

    def _send(self, bucket: dict[str, Tensor], with_checksums: bool) -> str:
        try:
            if self._group is None:
                self._group = Group(self._meeting, self._store, 0, self._device, lambda: first_failure(self._receiving))
            self._group.send(bucket, with_checksums=with_checksums)
        except BroadcastError as error:
            return str(error)
        return ""

    def take_spans(self) -> tuple[Span, ...]:
        """Return what this rank did since it was last asked."""
        return self.spans.take()

    _group: Group | None = None
    """What broadcasts go through, once all are there; on rank 0."""


def first_failure(calls: Sequence[Any]) -> str:
    """Return why one of the calls failed that have ended; empty if none did."""
    ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0, fetch_local=False)
    for call in ended:
        try:
            ray.get(call)
        except RayTaskError as error:
            return str(error.cause) or repr(error.cause)
        except RayError as error:
            return str(error) or type(error).__name__
    return ""


def put_buckets(buckets: Iterable[Sequence[WeightTensor | Adapter]], with_checksums: bool) -> tuple[list[Any], dict[str, str]]:
    """Return a reference to each bucket in the object store, and the tensors' checksums if asked for; empty buckets are left out.

    On a CPU the store's copy is the only one: it is made from the parameters themselves.
    """
    references, sums = [], {}
    for bucket in buckets:
        if bucket:
            references.append(ray.put(bucket))
            sums.update(checksums(bucket) if with_checksums else {})
    return references, sums
