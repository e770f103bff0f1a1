"""A rank of the learner as a Ray actor: the messages of the group, and the sending end of the weights."""

import socket
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from learner.rank import LearnerRank
from learner.weights import adapter_buckets, base_buckets, checksums, on_the_wire, weight_buckets
from ovt_ray.core.errors import BroadcastError
from ovt_ray.core.spans import Span, recorded
from ovt_ray.core.weights.broadcast import Group
from ovt_ray.core.weights.meeting import Meeting, new_meeting
from ovt_ray.core.weights.version import Adapter, Weights, WeightTensor


class RankActor(LearnerRank):
    """A rank as a Ray actor: others find it by its address, and it puts weights into the object store."""

    def address(self) -> tuple[str, int]:
        """Return this node's address and a port that is free on it."""
        with socket.socket() as free:
            free.bind(("", 0))
            # Free at this moment: if another process takes the port first, `join` fails and the run ends.
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    @recorded
    def publish(self, with_checksums: bool) -> tuple[list[Any], dict[str, str]]:
        """Put the policy's weights into the object store; return references to the buckets, and checksums. Empty above rank 0."""
        return put_buckets(map(on_the_wire, weight_buckets(self.policy, keep=self._rank == 0)), with_checksums)

    @recorded
    def publish_base(self) -> tuple[list[Any], dict[str, str]]:
        """Put the policy without its adapters into the object store, with checksums, as `publish` does."""
        return put_buckets(map(on_the_wire, base_buckets(self.policy, keep=self._rank == 0)), with_checksums=True)

    @recorded
    def publish_adapters(self, with_checksums: bool) -> tuple[list[Any], dict[str, str]]:
        """Put the policy's adapters into the object store, as `publish` does."""
        return put_buckets(adapter_buckets(self.policy, keep=self._rank == 0), with_checksums)

    def stored(self, version: int) -> Weights:
        """Put the policy's weights into the object store as a version, and return it; the answer of rank 0 counts."""
        buckets, sums = self.publish(with_checksums=True)
        return Weights(version=version, buckets=tuple(buckets), checksums=sums)

    def call_group(self, num_members: int, deadline_s: float) -> Meeting:
        """Return where a new group for broadcasts meets, in place of the group before."""
        # First: nobody may be left waiting in the group before.
        if self._group:
            self._group.close()
        self._group = None
        self._meeting, self._store = new_meeting(ray.util.get_node_ip_address(), num_members, deadline_s)
        return self._meeting

    @recorded
    def broadcast(self, receiving: list[Any], with_checksums: bool) -> str:
        """Send the policy's weights to the group; return why that failed, empty if it did not.

        `receiving` are the calls of the receivers. Their failures end the broadcast, because a dead receiver does not report its own.
        """
        self._receiving = receiving
        failure = ""
        # The empty bucket ends the version: without it receivers would wait for another one.
        for bucket in chain(weight_buckets(self.policy, keep=self._rank == 0), [{}]):
            # After a failure too, all ranks gather every bucket: gathering is a collective, and a rank that stopped would block the others.
            if self._rank == 0 and not failure:
                failure = self._send(bucket, with_checksums)
        return failure

    def _send(self, bucket: dict[str, Tensor], with_checksums: bool) -> str:
        try:
            # Not in `call_group`: this waits until all have joined, and receivers are called only after that.
            if self._group is None:
                self._group = Group(self._meeting, self._store, 0, self._device, far_failure=lambda: first_failure(self._receiving))
            self._group.send(bucket, with_checksums=with_checksums)
        except BroadcastError as error:
            return str(error)
        return ""

    def take_spans(self) -> tuple[Span, ...]:
        """Return the spans of this rank since they were last taken."""
        return self.spans.take()

    _group: Group | None = None
    """The group that broadcasts go through, once all members have joined; on rank 0 alone."""


def first_failure(calls: Sequence[Any]) -> str:
    """Return the error of a call that has failed; empty if no call has failed so far."""
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
    """Put buckets into the object store; return references to them, and the tensors' checksums if asked for.

    Empty buckets are left out. On a CPU the store's copy is the only one: it is made from the parameters themselves.
    """
    references, sums = [], {}
    for bucket in buckets:
        if bucket:
            # Put before the next bucket is gathered: the tensors of this one are valid only until then.
            references.append(ray.put(bucket))
            sums.update(checksums(bucket) if with_checksums else {})
    return references, sums
